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
        match run(&modules, wasm(NOTHING)).await.ending {
            Ending::Refused { reason } => assert!(reason.contains("24 MiB") && reason.contains("20"), "{reason}"),
            other => panic!("{other:?}"),
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
