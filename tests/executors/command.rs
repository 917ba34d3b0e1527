//! Programs of this machine, under the built binary's supervisor. No shell: each does one small thing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_node::config::commands::AllowedCommand;
use quorate_node::executors::command::{CommandConfig, CommandExecutor};
use quorate_node::executors::{Class, Ending, Executor, Finished, Program, Source, Stdout, Task};
use quorate_node::seams::TaskGroup;
use quorate_node::seams::entropy::OsEntropy;
use tokio_util::sync::CancellationToken;

use crate::kit::{PATIENCE, SUBMITTER, TestHost, bytes, content, in_node, run, stdout, task};

struct Bench {
    commands: CommandExecutor,
    root: tempfile::TempDir,
}

impl Bench {
    fn new(programs: &[(&str, &str, &[&str])]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let allowed = programs.iter().map(|(name, path, args)| {
            let command = AllowedCommand {
                path: PathBuf::from(path),
                args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                submitters: SUBMITTER.into(),
                env: BTreeSet::from(["GREETING".to_owned()]),
            };
            ((*name).to_owned(), command)
        });
        let config = CommandConfig {
            allowed: allowed.collect(),
            folder: root.path().join("work"),
            supervisor: env!("CARGO_BIN_EXE_quorate").into(),
            grace: Duration::from_millis(200),
        };
        Self { commands: CommandExecutor::new(config, Arc::new(OsEntropy)), root }
    }
    fn left_over(&self) -> usize {
        std::fs::read_dir(self.root.path().join("work")).map_or(0, Iterator::count)
    }
    async fn run(&self, task: Task) -> Finished {
        run(&self.commands, task).await
    }
}

fn command(name: &str, args: &[&str]) -> Task {
    let mut task = task(Program::Command { name: name.to_owned() });
    task.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    task
}

/// Processes whose working folder is inside `root`: what a task left running.
fn working_in(root: &Path) -> usize {
    let root = root.canonicalize().unwrap();
    let inside = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&root))
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(inside).count()
}

#[test]
fn a_program_gets_its_input_and_nothing_else() {
    in_node(async {
        let bench = Bench::new(&[("cat", "/bin/cat", &[]), ("env", "/usr/bin/env", &[]), ("ls", "/bin/ls", &["-1"])]);
        let mut cat = command("cat", &["-", "in/second"]);
        cat.stdin = bytes("first ");
        cat.inputs = BTreeMap::from([("second".to_owned(), Source::Bytes("second".into()))]);
        let finished = bench.run(cat).await;
        assert_eq!(stdout(&finished), "first second");
        assert_eq!(bench.left_over(), 1, "the outputs' folder is kept while they are");
        drop(finished);
        assert_eq!(bench.left_over(), 0);

        let mut env = command("env", &[]);
        env.env = BTreeMap::from([("GREETING".to_owned(), "hei".to_owned())]);
        let finished = bench.run(env).await;
        let text = stdout(&finished);
        let names: Vec<&str> = text.lines().map(|line| line.split('=').next().unwrap()).collect();
        assert_eq!(
            names,
            ["GREETING", "HOME", "LANG", "PATH", "QUORATE_TASK", "QUORATE_TASK_COUNT", "QUORATE_TASK_INDEX", "TMPDIR"]
        );
        assert!(text.contains("GREETING=hei\n") && text.contains("QUORATE_TASK=token\n"));
        assert!(text.contains("QUORATE_TASK_INDEX=2\n") && text.contains("QUORATE_TASK_COUNT=7\n"));

        let finished = bench.run(command("ls", &[])).await;
        assert_eq!(stdout(&finished), "in\nout\nstdout\ntask\ntmp\n");
        let finished = bench.run(command("ls", &["/proc/self/fd"])).await;
        // Nothing of the node's: what whoever started us left open is all that any child finds beside its own.
        let plain = std::process::Command::new("/bin/ls").args(["-1", "/proc/self/fd"]).output().unwrap();
        assert_eq!(stdout(&finished), String::from_utf8(plain.stdout).unwrap());
    });
}

#[test]
fn what_is_not_allowed_is_refused_with_the_reason() {
    in_node(async {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "text").unwrap();
        let garbage = folder.path().join("garbage");
        std::fs::write(&garbage, [0u8; 64]).unwrap();
        std::fs::set_permissions(&garbage, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let bench = Bench::new(&[
            ("cat", "/bin/cat", &[]),
            ("script", script.to_str().unwrap(), &[]),
            ("gone", "/nowhere/gone", &[]),
            ("plain", plain.to_str().unwrap(), &[]),
            ("garbage", garbage.to_str().unwrap(), &[]),
            ("folder", "/usr/bin", &[]),
        ]);
        let mut stranger = command("cat", &[]);
        stranger.submitter = quorate_protocols::ids::PeerId([8; 32]);
        let mut variable = command("cat", &[]);
        variable.env = BTreeMap::from([("LD_PRELOAD".to_owned(), "/x".to_owned())]);
        let cases = [
            (command("rm", &[]), "[commands]"),
            (stranger, "commands.cat.submitters"),
            (variable, "commands.cat.env"),
            (command("gone", &[]), "is missing"),
            (command("plain", &[]), "not executable"),
            (command("folder", &[]), "not a file"),
            (command("garbage", &[]), "garbage: "),
            (command("script", &[]), "interpreter"),
        ];
        for (task, expected) in cases {
            match bench.run(task).await.ending {
                Ending::Refused { reason } => assert!(reason.contains(expected), "{reason}"),
                other => panic!("{expected}: {other:?}"),
            }
        }
        assert_eq!(bench.left_over(), 0);
    });
}

#[test]
fn endings_of_programs_are_told_apart() {
    in_node(async {
        let bench = Bench::new(&[
            ("false", "/bin/false", &[]),
            ("yes", "/usr/bin/yes", &[]),
            ("sleep", "/bin/sleep", &[]),
            ("dd", "/bin/dd", &["if=/dev/zero", "bs=65536"]),
            ("sort", "/usr/bin/sort", &["-S", "2G", "/dev/zero"]),
            ("md5sum", "/usr/bin/md5sum", &["/dev/zero"]),
        ]);
        let bounded = |mut task: Task| {
            task.limits.output_bytes = 1 << 20;
            task.limits.memory_bytes = 300 << 20;
            task
        };
        assert_eq!(bench.run(command("false", &[])).await.ending, Ending::Exited { code: 1 });
        assert_eq!(bench.run(bounded(command("yes", &[]))).await.ending.class(), Class::Output);
        // One file that grows without end: the kernel's limit on a file.
        let finished = bench.run(bounded(command("dd", &["of=out/large"]))).await;
        assert_eq!(finished.ending.class(), Class::Output, "{:?}", finished.ending);
        let mut slow = command("sleep", &["1000"]);
        slow.limits.time = Duration::from_millis(300);
        assert_eq!(bench.run(slow).await.ending.class(), Class::Timeout);
        let finished = bench.run(bounded(command("sort", &[]))).await;
        assert_eq!(finished.ending.class(), Class::Exit, "no memory: {:?}", finished.ending);
        let mut busy = command("md5sum", &[]);
        busy.limits.cpu = Some(Duration::from_secs(1));
        assert_eq!(bench.run(busy).await.ending, Ending::OutOfFuel { what: "processor time" });
        let mut noisy = bounded(command("yes", &[]));
        (noisy.stdout, noisy.limits.log_bytes, noisy.limits.time) = (Stdout::Log, 1000, Duration::from_millis(300));
        let finished = bench.run(noisy).await;
        assert_eq!(finished.ending.class(), Class::Timeout);
        assert!(finished.logs.stdout.dropped > 0 && finished.logs.stdout.head.len() == 500);
        assert_eq!(bench.left_over(), 0);
    });
}

/// Goal: when a task is cancelled, or its future dropped, or it ends by itself, nothing that it started is left: not in
/// its group, not in a session of its own, not after its parent died. Method: `setsid --fork` leaves a sleeper behind
/// that nobody but a subreaper can find; the task's folder is the working folder of everything in it.
#[test]
fn nothing_of_a_task_survives_it() {
    let tree: &[&str] = &["--fork", "/usr/bin/setsid", "--fork", "/bin/sleep", "1000"];
    in_node(async {
        let bench = Bench::new(&[("setsid", "/usr/bin/setsid", tree), ("env", "/usr/bin/env", &[])]);
        // Ends by itself, with a sleeper left behind.
        assert_eq!(bench.run(command("setsid", &[])).await.ending, Ending::Succeeded);
        assert_eq!(working_in(bench.root.path()), 0);
        // Told to end, and deaf to it.
        let deaf = ["--ignore-signal=TERM", "/bin/sleep", "1000"];
        for cancelled in [true, false] {
            let stop = CancellationToken::new();
            let running = bench.commands.run(command("env", &deaf), Arc::new(TestHost::default()), stop.clone());
            let begun = async {
                while working_in(bench.root.path()) == 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            match cancelled {
                true => {
                    let ((), finished) = tokio::join!(
                        async {
                            begun.await;
                            stop.cancel();
                        },
                        running
                    );
                    assert_eq!(finished.ending, Ending::Cancelled);
                    assert_eq!(working_in(bench.root.path()), 0, "the answer comes when nothing is left");
                }
                false => {
                    tokio::select! {
                        _ = running => panic!("it sleeps"),
                        () = begun => (),
                    }
                    // The node's side is gone, as after a kill of the node: the supervisor ends what it started.
                    while working_in(bench.root.path()) > 0 {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        }
    });
}

/// A shell, for programs that misbehave.
const SHELL: (&str, &str, &[&str]) = ("sh", "/bin/sh", &["-c"]);

/// Processes that have this among their arguments and are no shell that speaks of it.
fn with_argument(word: &str) -> usize {
    let has = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(has).count()
}

/// Goal: a program that kills its supervisor gains nothing: its attempt fails and says why, and what it left behind is
/// ended all the same, in a session of its own and without its parent. Where there are control groups, this holds even
/// for what works elsewhere and kept nothing of its environment.
#[test]
fn a_program_that_kills_its_supervisor_is_ended_with_all_it_started() {
    let groups = has_control_groups();
    in_node(async {
        let bench = Bench::new(&[SHELL]);
        let forgets = ["", "cd /; unset HOME; exec env -i "];
        for (number, forgets) in forgets.into_iter().enumerate().filter(|(number, _)| *number == 0 || groups) {
            let seconds = format!("98765{number}");
            let script = format!(
                "(setsid --fork /bin/sh -c '{forgets}/bin/sleep {seconds}'); \
                 while ! grep -qsxz '98765[{number}]' /proc/[0-9]*/cmdline; do :; done; kill -KILL $PPID; sleep 1000"
            );
            match bench.run(command("sh", &[&script])).await.ending {
                Ending::HostFailed { reason } => assert!(reason.contains("watches over"), "{reason}"),
                other => panic!("{other:?}"),
            }
            assert_eq!((with_argument(&seconds), working_in(bench.root.path())), (0, 0), "{forgets}");
        }
        assert_eq!(bench.left_over(), 0);
    });
}

/// Whether this user may make a control group that can be killed, below the one that the tests are in.
fn has_control_groups() -> bool {
    let (groups, mounts) = ("/proc/self/cgroup", "/proc/self/mountinfo");
    let (groups, mounts) = (std::fs::read_to_string(groups).unwrap(), std::fs::read_to_string(mounts).unwrap());
    let Some(own) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else { return false };
    let place = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let Some(place) = place else { return false };
    let group = Path::new(place).join(own).join(format!("quorate-test-{}", std::process::id()));
    let made = std::fs::create_dir(&group).is_ok();
    let has = made && group.join("cgroup.kill").exists();
    if made {
        std::fs::remove_dir(&group).unwrap();
    }
    has
}

/// Goal: wherever in its folder a program writes, and however it hides that, it ends when it has written too much, and
/// is told why. Method: programs that write and then sleep, so that nothing but the count ends them.
#[test]
fn what_a_program_writes_is_counted_wherever_it_is() {
    let mib = "head -c 1048576 /dev/zero";
    let cases = [
        ("in its home", format!("{mib} > one; {mib} > two"), "1536 KiB"),
        ("among its inputs", format!("{mib} > in/one; {mib} > task/two"), "1536 KiB"),
        ("removed and open", format!("exec 3>tmp/x 4>out/y; rm tmp/x out/y; {mib} >&3; {mib} >&4"), "1536 KiB"),
        (
            "behind a link",
            format!("mkdir tmp/d; rm -r out; ln -s tmp/d out; {mib} > out/one; {mib} > out/two"),
            "1536 KiB",
        ),
        ("deep folders", "mkdir -p out/$(seq -s / 99)".to_owned(), "64 deep"),
    ];
    in_node(async {
        let bench = Bench::new(&[SHELL]);
        for (what, script, expected) in cases {
            let mut task = command("sh", &[&format!("{script}; exec sleep 1000")]);
            task.limits.output_bytes = 1536 << 10;
            let ending = bench.run(task).await.ending;
            assert!(ending.class() == Class::Output && ending.to_string().contains(expected), "{what}: {ending}");
        }
        // What it was given is not its own.
        let mut task = command("sh", &["sleep 2"]);
        task.limits.output_bytes = 1000;
        task.inputs = BTreeMap::from([("a".to_owned(), Source::Bytes(vec![0; 100_000].into()))]);
        assert_eq!(bench.run(task).await.ending, Ending::Succeeded);
        assert_eq!(bench.left_over(), 0);
    });
}

/// Goal: a program that puts a pipe or a link where the node will read holds up nobody and shows nothing. Method: more
/// such programs than the node has threads for blocking work; then work that needs one.
#[test]
fn pipes_and_links_in_place_of_outputs_cost_no_thread_and_show_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let scripts = [
        ("rm stdout; mkfifo stdout", "`stdout`"),
        ("ln -sf /etc/passwd stdout", "`stdout`"),
        ("rm stdout", "`stdout`"),
        ("cp stdout other; mv other stdout", "`stdout`"),
        ("rm -r out; ln -s /etc out", "no folder"),
        ("rm -r out; mkfifo out", "no folder"),
    ];
    let tasks = async {
        let bench = Bench::new(&[SHELL]);
        for (script, expected) in scripts {
            match bench.run(command("sh", &[script])).await.ending {
                Ending::Invalid { reason } => assert!(reason.contains(expected), "{script}: {reason}"),
                other => panic!("{script}: {other:?}"),
            }
        }
        for checkpoint in ["mkfifo task/checkpoint", "ln -s /etc/passwd task/checkpoint", "mkdir task/checkpoint"] {
            let host = Arc::new(TestHost::default());
            let task = command("sh", &[&format!("{checkpoint}; echo checkpoint > task/report")]);
            let finished = bench.commands.run(task, host.clone(), CancellationToken::new()).await;
            assert_eq!(finished.ending, Ending::Succeeded);
            assert!(host.checkpoints.lock().unwrap().is_empty(), "{checkpoint}");
            assert!(finished.logs.stderr.text().contains("was not saved"), "{}", finished.logs.stderr.text());
        }
        // A pipe in `out` is no output.
        let finished = bench.run(command("sh", &["mkfifo out/pipe; echo text"])).await;
        assert_eq!((stdout(&finished).as_str(), finished.outputs.len()), ("text\n", 0));
    };
    let bounded = async { tokio::time::timeout(PATIENCE, TaskGroup::threaded().scope(tasks)).await };
    runtime.block_on(bounded).expect("no thread is lost");
}

#[test]
fn outputs_are_regular_files_and_reports_reach_the_node() {
    in_node(async {
        let bench = Bench::new(&[
            ("cp", "/bin/cp", &[]),
            ("ln", "/bin/ln", &["-s"]),
            ("tee", "/usr/bin/tee", &["task/checkpoint", "task/report", "out/told"]),
        ]);
        let mut copy = command("cp", &["-r", "in", "out/folder"]);
        copy.inputs = BTreeMap::from([("a".to_owned(), Source::Bytes("given".into()))]);
        let finished = bench.run(copy).await;
        assert_eq!(finished.outputs.keys().collect::<Vec<_>>(), ["folder/a"]);
        assert_eq!(content(&finished.outputs["folder/a"]), b"given");
        let finished = bench.run(command("ln", &["/etc/passwd", "out/secret"])).await;
        assert!(finished.ending == Ending::Succeeded && finished.outputs.is_empty());

        let host = Arc::new(TestHost::default());
        let mut tee = command("tee", &[]);
        tee.stdin = bytes("progress 250 a quarter\ncheckpoint\n");
        let finished = bench.commands.run(tee, host.clone(), CancellationToken::new()).await;
        assert_eq!(finished.ending, Ending::Succeeded);
        assert_eq!(*host.progress.lock().unwrap(), [(250, "a quarter".to_owned())]);
        assert_eq!(*host.checkpoints.lock().unwrap(), ["progress 250 a quarter\ncheckpoint\n"]);
    });
}

#[test]
fn a_sweep_removes_what_an_earlier_run_left() {
    in_node(async {
        let bench = Bench::new(&[]);
        let left = bench.root.path().join("work/0123/tmp");
        std::fs::create_dir_all(&left).unwrap();
        let mut sleeper = std::process::Command::new("/bin/sleep").arg("1000").current_dir(&left).spawn().unwrap();
        let swept = bench.commands.sweep().unwrap();
        assert_eq!((swept.folders, swept.processes), (1, 1));
        assert!(!sleeper.wait().unwrap().success());
        assert_eq!(bench.left_over(), 0);
    });
}
