//! Modules that behave and modules that do not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_node::executors::{Class, Ending, Executor, Program, Source, Stdout};
use tokio_util::sync::CancellationToken;

use crate::kit::{TestHost, bytes, content, deterministic, in_node, modules, modules_with, run, stdout, wasm};

/// A module with the imports and helpers that these tests share, around the body of `_start`.
fn module(body: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 2)
            (data (i32.const 64) "hello\n")
            (func $write (param $fd i32) (param $at i32) (param $len i32)
              (i32.store (i32.const 0) (local.get $at))
              (i32.store (i32.const 4) (local.get $len))
              (if (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable))))
            (func (export "_start") (local $n i32) {body}))"#
    )
}

const HELLO: &str = "(call $write (i32.const 1) (i32.const 64) (i32.const 6))";
const BEGIN: &str = "(call $write (i32.const 2) (i32.const 64) (i32.const 6))";
const LOOP: &str = "(loop $l (br $l))";

#[test]
fn a_module_writes_and_exits_with_its_code() {
    in_node(async {
        let modules = modules();
        let finished = run(&modules, wasm(module(HELLO))).await;
        assert_eq!(finished.ending, Ending::Succeeded);
        assert_eq!(stdout(&finished), "hello\n");
        for (code, ending) in [(0, Ending::Succeeded), (3, Ending::Exited { code: 3 })] {
            let finished = run(&modules, wasm(module(&format!("{HELLO} (call $exit (i32.const {code}))")))).await;
            assert_eq!(finished.ending, ending);
            assert_eq!(finished.stdout.is_some(), code == 0, "a failed attempt leaves no output");
        }
        let mut quiet = wasm(module(&format!("{HELLO} {BEGIN}")));
        quiet.stdout = Stdout::Log;
        let finished = run(&modules, quiet).await;
        assert_eq!((finished.stdout, finished.logs.stdout.text().as_str()), (None, "hello\n"));
        assert_eq!(finished.logs.stderr.text(), "hello\n");
    });
}

/// Copies standard input to standard output.
fn echo() -> String {
    module(
        "(loop $l
           (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4096))
           (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)) (then (unreachable)))
           (local.set $n (i32.load (i32.const 16)))
           (if (local.get $n)
             (then (call $write (i32.const 1) (i32.const 1024) (local.get $n)) (br $l))))",
    )
}

#[test]
fn input_comes_from_memory_from_a_file_and_from_a_stream() {
    in_node(async {
        let modules = modules();
        let text: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let (sender, stream) = tokio::sync::mpsc::channel(2);
        let chunks: Vec<Bytes> = text.chunks(777).map(Bytes::copy_from_slice).collect();
        let feed = async move {
            for chunk in chunks {
                sender.send(Ok(chunk)).await.unwrap();
            }
        };
        let sources = [Source::Bytes(text.clone().into()), Source::File(file.path().into()), Source::Stream(stream)];
        let runs = sources.map(|source| {
            let mut task = wasm(echo());
            task.stdin = Some(source);
            run(&modules, task)
        });
        let (finished, ()) = tokio::join!(futures::future::join_all(runs), feed);
        for finished in finished {
            assert_eq!(finished.stdout.as_ref().map(content), Some(text.clone()), "{:?}", finished.ending);
        }
        let (sender, stream) = tokio::sync::mpsc::channel(2);
        sender.send(Err(std::io::Error::other("lost"))).await.unwrap();
        let mut task = wasm(echo());
        task.stdin = Some(Source::Stream(stream));
        assert_eq!(run(&modules, task).await.ending, Ending::InputBroken { reason: "lost".to_owned() });
    });
}

#[test]
fn each_way_of_misbehaving_has_its_own_ending() {
    in_node(async {
        let modules = modules();
        let writes = format!("(loop $l {HELLO} (br $l))");
        let allocates = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
        let cases = [
            (writes.as_str(), Class::Output),
            (allocates, Class::Memory),
            ("(unreachable)", Class::Trap),
            ("(drop (i32.div_u (i32.const 1) (local.get $n)))", Class::Trap),
            ("(drop (i32.load (i32.const -4)))", Class::Trap),
        ];
        for (body, class) in cases {
            let mut task = wasm(module(body));
            task.limits.output_bytes = 1 << 16;
            task.limits.memory_bytes = 16 << 20;
            let finished = run(&modules, task).await;
            assert_eq!(finished.ending.class(), class, "{body}: {}", finished.ending);
            assert!(finished.used.memory_peak_bytes <= 16 << 20);
        }
        let mut hungry = wasm(module(LOOP));
        hungry.limits.fuel = Some(1_000_000);
        let finished = run(&modules, hungry).await;
        assert_eq!(finished.ending, Ending::OutOfFuel { what: "fuel" });
        assert!(finished.used.fuel.is_some_and(|used| used >= 999_000));
        let mut slow = wasm(module(LOOP));
        slow.limits.time = Duration::from_millis(300);
        assert_eq!(run(&modules, slow).await.ending.class(), Class::Timeout);
        let recursion =
            "(module (memory (export \"memory\") 1) (func $f (call $f)) (func (export \"_start\") (call $f)))";
        assert_eq!(run(&modules, wasm(recursion)).await.ending.class(), Class::Trap);
    });
}

#[test]
fn what_can_never_run_says_why() {
    in_node(async {
        let modules = modules();
        let foreign =
            r#"(module (import "env" "launch" (func)) (memory (export "memory") 1) (func (export "_start")))"#;
        let misshapen = r#"(module (import "wasi_snapshot_preview1" "fd_close" (func)) (func (export "_start")))"#;
        let threads = "(module (memory (export \"memory\") 1 1 shared) (func (export \"_start\")))";
        let cases = [
            (foreign.to_owned(), "`env.launch`"),
            (misshapen.to_owned(), "fd_close"),
            (threads.to_owned(), "threads"),
            ("(module)".to_owned(), "_start"),
            ("(module (func (export \"_start\") (param i32)))".to_owned(), "_start"),
            ("neither wasm nor text".to_owned(), "no WebAssembly"),
        ];
        for (text, expected) in cases {
            match run(&modules, wasm(text.clone())).await.ending {
                Ending::Invalid { reason } => assert!(reason.contains(expected), "{text}: {reason}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let mut no_fuel = deterministic(module(HELLO), 1);
        no_fuel.limits.fuel = None;
        assert_eq!(run(&modules, no_fuel).await.ending.class(), Class::Invalid);
        let name = run(&modules, crate::kit::task(Program::Command { name: "cat".to_owned() })).await;
        assert_eq!(name.ending.class(), Class::Refused);
    });
}

/// Goal: one seed is one outcome, and another seed another. Method: a module that prints chance, two clocks, what a NaN
/// is made of and what a sleep did to the clock, many times at once.
#[test]
fn one_seed_gives_the_same_bytes() {
    let body = "
        (if (call $random_get (i32.const 1024) (i32.const 64)) (then (unreachable)))
        (if (call $clock (i32.const 0) (i64.const 1) (i32.const 1088)) (then (unreachable)))
        ;; A second of sleep.
        (i64.store (i32.const 2064) (i64.const 0)) (i64.store (i32.const 2072) (i64.const 1000000000))
        (if (call $poll (i32.const 2048) (i32.const 3072) (i32.const 1) (i32.const 16)) (then (unreachable)))
        (if (call $clock (i32.const 1) (i64.const 1) (i32.const 1096)) (then (unreachable)))
        (f32.store (i32.const 1104) (f32.div (f32.const 0) (f32.neg (f32.convert_i32_u (local.get $n)))))
        (call $write (i32.const 1) (i32.const 1024) (i32.const 88))";
    in_node(async {
        let modules = modules();
        let outcomes =
            futures::future::join_all((0..8).map(|n| run(&modules, deterministic(module(body), n / 4)))).await;
        let (mut texts, mut fuel) = (Vec::new(), Vec::new());
        for finished in outcomes {
            assert_eq!(finished.ending, Ending::Succeeded);
            texts.push(finished.stdout.as_ref().map(content).unwrap());
            fuel.push(finished.used.fuel);
        }
        assert!(texts[..4].iter().all(|text| *text == texts[0]) && texts[4..].iter().all(|text| *text == texts[4]));
        assert_ne!(texts[0], texts[4]);
        assert!(fuel.iter().all(|used| *used == fuel[0]));
        let number = |at: usize| u64::from_le_bytes(texts[0][at..at + 8].try_into().unwrap());
        assert_eq!(number(64), 1_700_000_000_001_000_000, "the wall clock starts where it was told");
        assert_eq!(number(72), 1_002_000_000, "the sleep passed without waiting");
        assert_eq!(texts[0][80..84], 0x7fc0_0000u32.to_le_bytes(), "a NaN has one form");
    });
}

/// Goal: cancelling ends a module in whatever it is doing, and nothing of it goes on. Method: a tight loop, a sleep of
/// a year and a read that never comes, each cancelled once it has begun.
#[test]
fn a_cancelled_module_stops_in_loops_sleeps_and_reads() {
    let sleep = format!(
        "{BEGIN} (i64.store (i32.const 2072) (i64.const 31536000000000000))
         (drop (call $poll (i32.const 2048) (i32.const 3072) (i32.const 1) (i32.const 16)))"
    );
    let read = format!("{BEGIN} (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))");
    let read = read.replace(BEGIN, &format!("{BEGIN} (i32.store (i32.const 4) (i32.const 10))"));
    let memory = format!("{BEGIN} (loop $l (memory.fill (i32.const 0) (i32.const 7) (i32.const 131072)) (br $l))");
    in_node(async {
        let modules = modules();
        for body in [format!("{BEGIN} {LOOP}"), sleep, read, memory] {
            let (_never, stream) = tokio::sync::mpsc::channel(1);
            let (host, stop) = (Arc::new(TestHost::default()), CancellationToken::new());
            let mut task = wasm(module(&body));
            task.stdin = Some(Source::Stream(stream));
            let running = modules.run(task, host.clone(), stop.clone());
            let ((), finished) = tokio::join!(
                async {
                    host.begun.cancelled().await;
                    stop.cancel();
                },
                running
            );
            assert_eq!(finished.ending, Ending::Cancelled, "{body}");
        }
    });
}

/// Goal: a task whose future is dropped stops too. Method: with one place, the next task can only run when the dropped
/// one has left it; and a neighbour that runs meanwhile is not disturbed by the epoch that moved.
#[test]
fn a_dropped_task_leaves_its_place_and_disturbs_no_neighbour() {
    in_node(async {
        let modules = modules_with(|config| config.running_max = 2);
        let (neighbour, stop) = (Arc::new(TestHost::default()), CancellationToken::new());
        let looping = module(&format!("{BEGIN} {LOOP}"));
        let neighbour_runs = tokio::spawn(modules.run(wasm(looping.clone()), neighbour.clone(), stop.clone()));
        neighbour.begun.cancelled().await;
        for _ in 0..3 {
            let host = Arc::new(TestHost::default());
            tokio::select! {
                _ = modules.run(wasm(looping.clone()), host.clone(), CancellationToken::new()) => panic!("it loops"),
                () = host.begun.cancelled() => (),
            }
            assert_eq!(run(&modules, wasm(module(HELLO))).await.ending, Ending::Succeeded);
        }
        assert!(!neighbour_runs.is_finished());
        stop.cancel();
        assert_eq!(neighbour_runs.await.unwrap().ending, Ending::Cancelled);
    });
}

#[test]
fn many_tasks_of_one_module_share_one_compilation_and_none_is_mixed_up() {
    in_node(async {
        let modules = modules();
        let runs = (0..100).map(|n| {
            let mut task = wasm(echo());
            task.stdin = bytes(format!("task {n}"));
            run(&modules, task)
        });
        for (n, finished) in futures::future::join_all(runs).await.into_iter().enumerate() {
            assert_eq!(stdout(&finished), format!("task {n}"));
        }
    });
}

#[test]
fn pointers_that_do_not_fit_are_answered_and_harm_nothing() {
    let body = "
        (local.set $n (call $fd_read (i32.const 0) (i32.const -8) (i32.const 1) (i32.const 16)))
        (if (i32.ne (local.get $n) (i32.const 21)) (then (unreachable)))
        (i32.store (i32.const 0) (i32.const 131000)) (i32.store (i32.const 4) (i32.const -1))
        (local.set $n (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
        (if (i32.ne (local.get $n) (i32.const 21)) (then (unreachable)))
        (local.set $n (call $fd_write (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 16)))
        (if (i32.ne (local.get $n) (i32.const 28)) (then (unreachable)))
        (local.set $n (call $random_get (i32.const 1) (i32.const -1)))
        (if (i32.ne (local.get $n) (i32.const 21)) (then (unreachable)))
        (local.set $n (call $poll (i32.const 131071) (i32.const 0) (i32.const 1) (i32.const 16)))
        (if (i32.ne (local.get $n) (i32.const 21)) (then (unreachable)))";
    in_node(async {
        assert_eq!(run(&modules(), wasm(module(body))).await.ending, Ending::Succeeded);
    });
}

/// Goal: where a module says that it can go on from, the next attempt begins; and a report full of lines is nothing but
/// read. Method: a module that goes on from a checkpoint if it finds one, and otherwise makes one and fails.
#[test]
fn a_module_saves_a_checkpoint_and_the_next_attempt_goes_on_from_it() {
    let text = include_str!("../fixtures/modules/checkpoint.wat");
    in_node(async {
        let (modules, host) = (modules(), Arc::new(TestHost::default()));
        let finished = modules.run(wasm(text), host.clone(), CancellationToken::new()).await;
        assert_eq!(finished.ending, Ending::Exited { code: 7 }, "{}", finished.logs.stderr.text());
        assert_eq!(*host.checkpoints.lock().unwrap(), ["half way"]);
        let mut next = wasm(text);
        next.checkpoint = Some("half way".into());
        let finished = modules.run(next, host.clone(), CancellationToken::new()).await;
        assert_eq!(stdout(&finished), "half way");

        // Four million lines in one write, none of which says anything.
        let lines = text.replace(";; before everything else", LINES).replace("\"memory\") 1)", "\"memory\") 80)");
        let finished = run(&modules, wasm(lines)).await;
        assert_eq!(finished.ending, Ending::Exited { code: 7 }, "{}", finished.logs.stderr.text());
        assert_eq!(finished.logs.stderr.text().lines().count(), 16);
    });
}

/// Fills four megabytes with ends of lines and reports them.
const LINES: &str = "(memory.fill (i32.const 65536) (i32.const 10) (i32.const 4194304))
    (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 96) (i32.const 11) (i32.const 0) (i64.const 64)
      (i64.const 0) (i32.const 0) (i32.const 16)))
    (call $put (i32.load (i32.const 16)) (i32.const 65536) (i32.const 4194304))";

/// Goal: several outputs are one archive in the node's memory, and that is the module's to pay for. Method: a module
/// that leaves 3,000 empty files, whose archive takes more than their names.
#[test]
fn an_archive_of_outputs_keeps_to_the_tasks_memory() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "path_open"
          (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 64) "out/FOLDER/0000")
        (func (export "_start") (local $n i32)
          (if (call $mkdir (i32.const 3) (i32.const 64) (i32.const 124)) (then (unreachable)))
          (loop $next
            (i32.store8 (i32.const 189) (i32.add (i32.const 48) (i32.and (local.get $n) (i32.const 63))))
            (i32.store8 (i32.const 190)
              (i32.add (i32.const 48) (i32.and (i32.shr_u (local.get $n) (i32.const 6)) (i32.const 63))))
            (if (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 129) (i32.const 1) (i64.const 64)
                  (i64.const 0) (i32.const 0) (i32.const 0)) (then (unreachable)))
            (if (call $close (i32.load (i32.const 0))) (then (unreachable)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $n) (i32.const 3000))))))"#;
    in_node(async {
        let modules = modules();
        for (limit, outputs) in [(8 << 20, 3_000), (2 << 20, 0)] {
            let mut task = wasm(text.replace("FOLDER", &"d".repeat(120)));
            task.limits.memory_bytes = limit;
            let finished = run(&modules, task).await;
            let expected = if outputs > 0 { Ending::Succeeded } else { Ending::OutOfMemory { limit } };
            assert_eq!((finished.ending, finished.outputs.len()), (expected, outputs));
            assert!(finished.used.memory_peak_bytes < 2 << 20, "the files themselves fit into either");
        }
    });
}

/// Goal: a hard link makes an output of its own, and what a task may write bounds them together.
#[test]
fn a_file_with_two_names_is_two_outputs_within_one_limit() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "path_open"
          (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 64) "out/aout/b")
        (data (i32.const 16) "\00\04\00\00\58\02\00\00") ;; 600 bytes at 1024
        (func (export "_start")
          ;; Created, for writing.
          (if (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 1) (i64.const 64)
                (i64.const 0) (i32.const 0) (i32.const 0)) (then (unreachable)))
          (if (call $write (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 8)) (then (unreachable)))
          (if (call $link (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 3) (i32.const 69)
                (i32.const 5)) (then (unreachable)))))"#;
    in_node(async {
        let modules = modules();
        for (limit, outputs) in [(1200, 2), (1199, 0)] {
            let mut task = wasm(text);
            task.limits.output_bytes = limit;
            let finished = run(&modules, task).await;
            assert_eq!(finished.outputs.len(), outputs, "{}", finished.ending);
            assert!(finished.outputs.values().all(|output| output.len() == 600));
            let expected = if outputs == 2 { Ending::Succeeded } else { Ending::OutputTooLarge { limit } };
            assert_eq!(finished.ending, expected);
        }
    });
}
