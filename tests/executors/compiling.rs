//! Compiling: once per node, within limits, beside everything else, and not again after a restart.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_node::executors::wasm::{ArtifactConfig, WasmExecutor};
use quorate_node::executors::{Class, Ending, Executor};
use quorate_node::resources::Resources;
use quorate_protocols::resources::{Amounts, Limits, Scope, Service};
use tokio_util::sync::CancellationToken;

use crate::kit::{TestHost, in_node, modules_with, run, wasm};

const NOTHING: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\")))";

/// As a binary a few kilobytes, which take a compiler hundreds of megabytes: every local may change in every loop.
fn bomb() -> String {
    let (locals, loops) = (2_000, 300);
    format!(
        "(module (memory (export \"memory\") 1) (func (export \"_start\") (local{}) {} {} {}))",
        " i32".repeat(locals),
        "loop ".repeat(loops),
        (0..locals).map(|n| format!("local.get {n} i32.const 1 i32.add local.set {n} ")).collect::<String>(),
        "local.get 0 br_if 0 end ".repeat(loops),
    )
}

/// A compiler that counts how often it was started, and waits while there is a gate. Nothing is written that is run
/// afterwards: another thread of this process that forks in between would keep it open.
fn scripted(folder: &Path) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/compiler");
    symlink(script, folder.join("compiler")).unwrap();
    symlink(env!("CARGO_BIN_EXE_quorate"), folder.join("quorate")).unwrap();
    folder.join("compiler")
}

fn count(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("count")).unwrap_or_default().lines().count()
}

fn keeping(folder: &Path, compiler: &Path, bytes_max: u64) -> WasmExecutor {
    modules_with(|config| {
        config.compiler = compiler.to_owned();
        config.artifacts = Some(ArtifactConfig { folder: folder.join("modules"), key: [7; 32], bytes_max });
    })
}

#[test]
fn attempts_at_the_same_time_compile_a_module_once() {
    let folder = tempfile::tempdir().unwrap();
    let compiler = scripted(folder.path());
    in_node(async {
        let modules = modules_with(|config| config.compiler = compiler);
        let runs = (0..16).map(|_| run(&modules, wasm(NOTHING)));
        for finished in futures::future::join_all(runs).await {
            assert_eq!(finished.ending, Ending::Succeeded);
        }
        assert_eq!(count(folder.path()), 1);
    });
}

/// Goal: a restart compiles nothing again, unless nothing is kept; and a file that is not this node's own is not run.
/// Method: executors one after the other on one folder, with a compiler that counts.
#[test]
fn a_restart_compiles_nothing_again_unless_nothing_may_be_kept() {
    let folder = tempfile::tempdir().unwrap();
    let compiler = scripted(folder.path());
    in_node(async {
        for (bytes_max, compiled) in [(1 << 30, 1), (1 << 30, 1), (0, 2), (0, 3), (1 << 30, 4)] {
            let modules = keeping(folder.path(), &compiler, bytes_max);
            assert_eq!(run(&modules, wasm(NOTHING)).await.ending, Ending::Succeeded);
            assert_eq!(count(folder.path()), compiled);
        }
        for entry in std::fs::read_dir(folder.path().join("modules")).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        let modules = keeping(folder.path(), &compiler, 1 << 30);
        assert_eq!(run(&modules, wasm(NOTHING)).await.ending, Ending::Succeeded);
        assert_eq!(count(folder.path()), 5, "a file that changed is compiled anew");
    });
}

/// Goal: a module made to cost a compiler everything ends as the program's own error, keeps no other module waiting,
/// and leaves nothing reserved.
#[test]
fn a_compile_bomb_is_the_programs_error_and_holds_nobody_up() {
    let resources = Resources::unlimited();
    in_node(async {
        let modules = modules_with(|config| config.resources = resources.clone());
        let host = Arc::new(TestHost::default());
        let exploding = tokio::spawn(modules.run(wasm(bomb()), host, CancellationToken::new()));
        assert_eq!(run(&modules, wasm(NOTHING)).await.ending, Ending::Succeeded);
        match exploding.await.unwrap().ending {
            Ending::Invalid { reason } => assert!(reason.contains("compiling it took more than"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(resources.used(Scope::System).memory_bytes, 0);
    });
}

/// A small module that a compiler takes half a minute for, and that looks cheap: every local may come from everywhere.
fn slow_bomb(more: usize) -> String {
    let (locals, blocks, jumps) = (250 + more, 1_000, 40);
    let raise = |n: usize| format!("local.get {n} i32.const 1 i32.add local.set {n} ");
    let targets: String = (1..=blocks).map(|n| format!("{n} ")).collect();
    let jump = format!("block local.get 0 br_table {targets} 0 end ");
    format!(
        "(module (memory (export \"memory\") 1) (func (export \"_start\") (local{}) {} {} {} {}))",
        " i32".repeat(locals),
        "block ".repeat(blocks),
        (0..jumps).map(|n| raise(n) + &jump).collect::<String>(),
        (0..blocks).map(|n| raise(n % locals) + "end ").collect::<String>(),
        (0..locals).map(raise).collect::<String>(),
    )
}

/// A module of so many functions of this text, as text.
fn functions(count: usize, body: &str) -> String {
    let functions = format!("(func (local i32) {body})").repeat(count);
    format!("(module (memory (export \"memory\") 1) (func (export \"_start\")) {functions})")
}

/// One function of so many bytes, as a binary.
fn one_function(bytes: usize) -> Vec<u8> {
    let number = |mut n: usize| {
        let mut coded = Vec::new();
        while n >= 128 {
            coded.push((n % 128) as u8 | 128);
            n /= 128;
        }
        coded.push(n as u8);
        coded
    };
    let section = |id: u8, content: Vec<u8>| [vec![id], number(content.len()), content].concat();
    // One local; it is raised by one, again and again.
    let body = [&[1, 1, 0x7f][..], &[0x20, 0, 0x41, 1, 0x6a, 0x21, 0].repeat(bytes / 7), &[0x0b]].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, vec![1, 0x60, 0, 0]),
        section(3, vec![1, 0]),
        section(5, vec![1, 0, 1]),
        section(7, [&[2, 6][..], b"memory", &[2, 0, 6], b"_start", &[0, 0]].concat()),
        section(10, [vec![1], number(body.len()), body].concat()),
    ]
    .concat()
}

/// The most memory that any compiler of this process had, in bytes, as the kernel tells others.
fn watch_compilers(until: CancellationToken) -> std::thread::JoinHandle<u64> {
    let parent = format!("PPid:\t{}", std::process::id());
    let peak_of = move |process: PathBuf| {
        let line = std::fs::read(process.join("cmdline")).ok()?;
        let status = std::fs::read_to_string(process.join("status")).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?.parse();
        let is_one = line.ends_with(b"compile-module\0") && status.lines().any(|line| line == parent);
        peak.ok().filter(|_: &u64| is_one)
    };
    std::thread::spawn(move || {
        let mut most = 0;
        while !until.is_cancelled() {
            let found = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| peak_of(entry.path()));
            most = most.max(found.max().unwrap_or(0));
            std::thread::sleep(Duration::from_millis(5));
        }
        most << 10
    })
}

/// Goal: modules made to cost a compiler everything end as their own errors, whatever they look like; no compiler has
/// more memory than was set aside for it; and honest modules that come after them, small or large, wait for none of
/// them. Method: two bombs of each kind at once, three honest modules among them, and a look from outside.
#[test]
fn compile_bombs_keep_to_their_memory_and_hold_up_no_honest_module() {
    let resources = Resources::unlimited();
    let done = CancellationToken::new();
    let peak = watch_compilers(done.clone());
    // Set aside for the dearest of these, and what a process has besides.
    let most = 350 << 20;
    in_node(async {
        let modules = modules_with(|config| config.resources = resources.clone());
        let nested = format!("(local{}) {} {}", " i32".repeat(5_000), "loop ".repeat(1_000), "end ".repeat(1_000));
        let nested = NOTHING.replace("(func (export", &format!("(func {nested}) (func (export"));
        for (task, word) in [(wasm(one_function(30_000_000)), "split the function"), (wasm(nested), "locals")] {
            let ending = run(&modules, task).await.ending;
            assert!(ending.class() == Class::Invalid && ending.to_string().contains(word), "{ending}");
        }
        let stop = CancellationToken::new();
        let explode =
            |bomb: String| tokio::spawn(modules.run(wasm(bomb), Arc::new(TestHost::default()), stop.child_token()));
        let slow = [slow_bomb(0), slow_bomb(1)].map(explode);
        // They are where honest ones want to be.
        while resources.used(Scope::System).memory_bytes < 500 << 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let exploding = [bomb(), bomb() + " "].map(explode);
        let large = NOTHING.replace("1) (func", &format!("32) (data (i32.const 0) \"{}\") (func", "x".repeat(1 << 20)));
        for honest in [functions(2, "nop"), functions(3_000, "nop"), functions(1, "nop"), large] {
            assert_eq!(run(&modules, wasm(honest)).await.ending, Ending::Succeeded);
        }
        assert!(slow.iter().all(|task| !task.is_finished()), "the honest ones were done first");
        let many = functions(100_000, "nop");
        let ending = run(&modules, wasm(many)).await.ending;
        assert!(
            matches!(&ending, Ending::Invalid { reason } if reason.contains("too many for their size")),
            "{ending}"
        );
        for bomb in exploding {
            match bomb.await.unwrap().ending {
                Ending::Invalid { reason } => assert!(reason.contains("compiling it took more than"), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
        // They would use up their time, of which it has little to spare: see `a_module_that_is_slow_begins_anew`.
        stop.cancel();
        for bomb in slow {
            assert_eq!(bomb.await.unwrap().ending, Ending::Cancelled);
        }
    });
    done.cancel();
    let peak = peak.join().unwrap();
    assert!((24 << 20..most).contains(&peak), "{} MiB", peak >> 20);
}

/// Goal: a module that was to be quick and is not begins anew where it may take its time, once; one that uses that up
/// as well is at fault itself, and nobody tries again. Method: a compiler whose first starts run out of processor time.
#[test]
fn a_module_that_is_slow_begins_anew_and_is_at_fault_when_it_stays_slow() {
    for (slow_starts, starts) in [(1, 2), (9, 2)] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("slow"), slow_starts.to_string()).unwrap();
        in_node(async {
            let modules = modules_with(|config| config.compiler = scripted(folder.path()));
            for _ in 0..2 {
                let runs = (0..3).map(|_| run(&modules, wasm(NOTHING)));
                for finished in futures::future::join_all(runs).await {
                    match finished.ending {
                        Ending::Invalid { reason } => assert!(reason.contains("30 s of processor time"), "{reason}"),
                        other => assert_eq!((other, slow_starts), (Ending::Succeeded, 1)),
                    }
                }
            }
            assert_eq!(count(folder.path()), starts);
        });
    }
}

/// Goal: that a compiler broke off says nothing of the module.
#[test]
fn a_compiler_that_is_killed_is_the_nodes_fault() {
    let folder = tempfile::tempdir().unwrap();
    in_node(async {
        let modules = modules_with(|config| config.compiler = gated(folder.path()));
        let host = Arc::new(TestHost::default());
        let running = tokio::spawn(modules.run(wasm(NOTHING), host, CancellationToken::new()));
        while count(folder.path()) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The script's own process: it is the compiler as far as the node can see.
        let children = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let path = folder.path().join("compiler");
            let is_it = line.windows(path.as_os_str().len()).any(|part| part == path.as_os_str().as_encoded_bytes());
            is_it.then(|| entry.file_name().to_str().unwrap().parse().unwrap())
        });
        for pid in children.filter_map(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        assert_eq!(running.await.unwrap().ending.class(), Class::Host);
    });
}

fn gated(folder: &Path) -> PathBuf {
    std::fs::write(folder.join("gate"), "").unwrap();
    scripted(folder)
}

#[test]
fn a_task_says_that_its_module_is_compiled_and_the_memory_for_it_is_reserved_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let resources = Resources::unlimited();
    in_node(async {
        let modules = modules_with(|config| {
            config.compiler = gated(folder.path());
            config.resources = resources.clone();
        });
        let host = Arc::new(TestHost::default());
        let running = tokio::spawn(modules.run(wasm(NOTHING), host.clone(), CancellationToken::new()));
        while !host.waits.lock().unwrap().iter().any(|note| note.contains("compiling the module")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(resources.used(Scope::Service(Service::Jobs)).memory_bytes >= 24 << 20);
        std::fs::remove_file(folder.path().join("gate")).unwrap();
        assert_eq!(running.await.unwrap().ending, Ending::Succeeded);
        assert_eq!(host.waits.lock().unwrap().last(), Some(&String::new()), "it waits no more");
        assert_eq!(resources.used(Scope::System).memory_bytes, 0);
    });
}

#[test]
fn a_task_whose_time_is_over_before_its_module_is_compiled_says_so() {
    let folder = tempfile::tempdir().unwrap();
    in_node(async {
        let modules = modules_with(|config| config.compiler = gated(folder.path()));
        let mut task = wasm(NOTHING);
        task.limits.time = Duration::from_millis(300);
        let ending = run(&modules, task).await.ending;
        assert!(ending.to_string().contains("still being compiled"), "{ending}");
        assert_eq!(ending.class(), Class::Timeout);
        // The compilation went on, and the next attempt has it.
        std::fs::remove_file(folder.path().join("gate")).unwrap();
        assert_eq!(run(&modules, wasm(NOTHING)).await.ending, Ending::Succeeded);
    });
}

#[test]
fn a_node_with_too_little_memory_to_compile_refuses_and_says_how_much_it_takes() {
    in_node(async {
        let system = Amounts { memory_bytes: 20 << 20, ..Amounts::UNLIMITED };
        let resources = Resources::new(Limits { system, ..Limits::unlimited() });
        let modules = modules_with(|config| config.resources = resources);
        let long = format!("{NOTHING} ;; {}", "x".repeat(1 << 20));
        for (text, needed) in [(NOTHING, "24 MiB"), (long.as_str(), "50 MiB")] {
            match run(&modules, wasm(text.to_owned())).await.ending {
                Ending::Refused { reason } => assert!(reason.contains(needed) && reason.contains("20"), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_compiler_that_does_not_start_is_the_nodes_fault_and_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    in_node(async {
        let compiler = folder.path().join("compiler");
        let modules = modules_with(|config| config.compiler = compiler.clone());
        assert_eq!(run(&modules, wasm(NOTHING)).await.ending.class(), Class::Host);
        symlink(env!("CARGO_BIN_EXE_quorate"), &compiler).unwrap();
        assert_eq!(run(&modules, wasm(NOTHING)).await.ending, Ending::Succeeded);
    });
}
