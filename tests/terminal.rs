//! Output to a terminal, a pipe and a script: text of others is shown and does not act, whatever follows or waits
//! ends with its reader, a full device is a failure, and a command that waits says why.

mod support;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use support::{Net, PATIENCE, Ran, command, quorate, wait};

/// Colours, a title, a bell, a made-up row, a turn of the writing direction, no width.
const HOSTILE: &str = "evil\u{1b}[31m\u{1b}]0;title\u{7}\u{9b}2J\r\n00000000-0000 made-up row\u{202e}\u{200b}";

/// The same as a string of TOML.
const HOSTILE_TOML: &str = r#""evil\u001b[31m\u001b]0;title\u0007\u009b2J\r\n00000000-0000 made-up row\u202e\u200b""#;

/// The same as data of a module, of the length below: what a task writes on standard error before it fails.
const HOSTILE_WAT: &str = r#""evil\1b[31m\1b]0;title\07\c2\9b2J\0d\0a00000000-0000 made-up row\e2\80\ae\e2\80\8b""#;

/// Characters that only act, but for the line break that ends a line.
fn acts(text: &str) -> bool {
    let acts = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{200b}');
    text.chars().any(acts)
}

fn write(net: &Net, name: &str, text: &str) -> PathBuf {
    let path = net.dir.path().join(name);
    std::fs::write(&path, text).expect("a file can be written");
    path
}

/// A job that writes the hostile text on standard error and fails for good.
fn failing(net: &Net) -> PathBuf {
    let module = format!(
        "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func $write (param i32 i32 i32 i32) (result i32)))\n\
         (memory (export \"memory\") 1) (data (i32.const 64) {HOSTILE_WAT})\n\
         (func (export \"_start\") (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const {}))\n\
         (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8))) (unreachable)))",
        HOSTILE.len()
    );
    let settings = "engine = \"wasm\"\noutput = \"inline\"\nresources.memory = \"4 MiB\"";
    let module = module.replace('\\', "\\\\");
    write(
        net,
        "failing.toml",
        &format!("name = {HOSTILE_TOML}\n{settings}\nmodule = {{ inline = \"\"\"{module}\"\"\" }}\n"),
    )
}

/// Goal: whatever name, event or last word somebody chose, no command lets it act on the terminal or make up a row, and
/// JSON still says it exactly. Method: hostile text in everything that a user can choose; every command that shows it.
#[test]
fn text_of_others_is_shown_and_does_not_act() {
    let net = Net::up(3);
    let spec = failing(&net);
    let spec = spec.to_str().unwrap();
    let submitted = net.at(1, &["job", "submit", spec, "--follow"]).fails(1, &["failed", "made-up row"]);
    assert!(!acts(&submitted.stdout) && !acts(&submitted.stderr), "{}\n{}", submitted.stdout, submitted.stderr);
    let rows = net.at(2, &["job", "ls", "--json"]).json();
    let job = rows[0]["job"].as_str().unwrap().to_owned();
    assert_eq!(rows[0]["name"], HOSTILE);

    let armed = format!(
        "name = {HOSTILE_TOML}\nengine = \"command\"\nprogram = \"x\"\n[trigger]\nevent = {{ name = \"bell\" }}\n"
    );
    let armed = write(&net, "armed.toml", &armed);
    let trigger = net.at(1, &["job", "submit", armed.to_str().unwrap(), "--detach"]).ok().stdout.trim().to_owned();
    let data = serde_json::json!({ "said": HOSTILE }).to_string();
    net.at(2, &["event", "emit", "bell", "--data", &data, "--id", HOSTILE]).ok();
    let run = wait("the run of the event", || {
        let fires = net.at(3, &["job", "fires", &trigger, "--json"]).json();
        Some(fires[0]["run"].as_str()?.to_owned())
    });

    let file = write(&net, "file", "content");
    let put = net.at(1, &["object", "put", file.to_str().unwrap(), "--name", HOSTILE, "--json"]).json();
    let (object, quorum) = (put["object"].as_str().unwrap(), put["quorum"].as_str().unwrap());

    let commands: Vec<Vec<&str>> = [
        "peers",
        "quorum ls",
        "quorum show QUORUM",
        "object ls",
        "object show OBJECT",
        "job ls",
        "job show JOB",
        "job why JOB",
        "job wait JOB",
        "job history JOB",
        "job tasks JOB",
        "job plan SPEC",
        "job validate SPEC",
        "job submit SPEC",
        "job show TRIGGER",
        "job fires TRIGGER",
        "job next TRIGGER",
        "job suspend TRIGGER",
        "job show RUN",
        "job why RUN",
        "job history RUN",
        "job cancel RUN",
        "job output JOB",
        "doctor",
    ]
    .into_iter()
    .map(|line| {
        let word = |word| match word {
            "QUORUM" => quorum,
            "OBJECT" => object,
            "JOB" => job.as_str(),
            "TRIGGER" => trigger.as_str(),
            "RUN" => run.as_str(),
            "SPEC" => spec,
            word => word,
        };
        line.split(' ').map(word).collect()
    })
    .collect();
    let mut shown = 0;
    for arguments in commands {
        let ran = net.at(2, &arguments);
        for text in [&ran.stdout, &ran.stderr] {
            assert!(!acts(text), "{arguments:?}: {text:?}");
            assert!(!text.lines().any(|line| line.starts_with("00000000-0000")), "{arguments:?}: {text}");
            shown += text.matches("\\u{1b}[31m").count();
        }
        let json: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let ran = net.at(2, &json);
        assert!(!acts(&ran.stdout), "{json:?}: {:?}", ran.stdout);
        if !ran.stdout.is_empty() {
            serde_json::from_str::<Value>(&ran.stdout).unwrap_or_else(|error| panic!("{json:?}: {error}"));
        }
    }
    assert!(shown >= 8, "the hostile text was shown only {shown} times");
    // Also what is only quoted: an argument that is no node, a name of which nothing begins.
    for arguments in
        [&["object", "get", HOSTILE, "-o", "-"][..], &["quorum", "show", HOSTILE], &["job", "next", HOSTILE]]
    {
        assert!(!acts(&net.at(1, arguments).stderr.replace('\r', "")), "{arguments:?}");
    }
    // In a pipe a log is what the task wrote.
    assert_eq!(net.at(1, &["job", "logs", &job]).ok().stdout.trim_end(), HOSTILE.trim_end());
}

/// Ends the process when the test is over before it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(net: &Net, arguments: &[&str]) -> Self {
        let mut command = command();
        command.env("QUORATE_TESTNET_DIR", net.testnet.dir()).args(arguments);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs"))
    }
    /// Its exit code and what it said on stderr, once it has ended by itself.
    fn ended(mut self) -> Ran {
        let status = wait("the command to end", || self.0.try_wait().expect("it is a child"));
        let mut stderr = String::new();
        let read = self.0.stderr.take().map(|mut pipe| std::io::Read::read_to_string(&mut pipe, &mut stderr));
        read.transpose().expect("stderr can be read");
        Ran { code: status.code().unwrap_or(-1), stdout: String::new(), stderr }
    }
    fn stderr_has(&mut self, word: &str) -> String {
        read_until(self.0.stderr.as_mut().expect("stderr is piped"), word)
    }
    fn stdout_has(&mut self, word: &str) -> String {
        read_until(self.0.stdout.as_mut().expect("stdout is piped"), word)
    }
}

/// Reads a pipe until `word` was in it. A command that says nothing for too long is a failure, not a test that hangs.
fn read_until(pipe: &mut (impl std::io::Read + AsFd), word: &str) -> String {
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !String::from_utf8_lossy(&text).contains(word) {
        let ready = poll(&mut [PollFd::new(&*pipe, PollFlags::IN)], Some(&patience)).expect("a pipe can be polled");
        assert!(ready > 0, "{word:?} is not in it after {PATIENCE:?}: {}", String::from_utf8_lossy(&text));
        assert_eq!(pipe.read(&mut byte).expect("it can be read"), 1, "{}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A job that waits for a program which nobody lists.
fn waiting(net: &Net) -> PathBuf {
    write(net, "waiting.toml", "engine = \"command\"\nprogram = \"nobody\"\n")
}

/// Goal: whatever follows or waits ends soon after its reader has gone, though it has nothing to print; and one that
/// cannot know how it ended does not say that all is well. Method: each with a pipe whose other end is closed.
#[test]
fn what_follows_or_waits_ends_when_its_reader_has_gone() {
    let net = Net::up(3);
    let spec = waiting(&net);
    let spec = spec.to_str().unwrap();
    let job = net.at(1, &["job", "submit", spec, "--detach"]).ok().stdout.trim().to_owned();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["events"], 0, ""),
        (&["job", "logs", "--follow", &job], 0, ""),
        (&["job", "wait", &job], 1, "goes on"),
        (&["job", "submit", spec, "--wait"], 1, "goes on"),
        (&["job", "submit", spec, "--follow"], 1, "goes on"),
        (&["bench", "idle", "--seconds", "3600"], 0, ""),
    ];
    for (arguments, code, word) in cases {
        let mut running = Running::start(&net, arguments);
        drop(running.0.stdout.take());
        let ran = running.ended();
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(word), "{arguments:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{arguments:?}: {}", ran.stderr);
    }
    // With a reader they go on: what happens after the first line is printed too, and they run still.
    let mut running = Running::start(&net, &["events"]);
    running.stdout_has("listening");
    for name in ["first", "second"] {
        let stored = net.at(1, &["object", "put", spec, "--name", name, "--json"]).json();
        running.stdout_has(stored["job"].as_str().unwrap());
    }
    assert!(running.0.try_wait().unwrap().is_none(), "events ended though they are read");
    // A command with an effect has it, read or not.
    let mut running = Running::start(&net, &["job", "cancel", &job]);
    drop(running.0.stdout.take());
    assert_eq!(running.ended().code, 0);
    assert_eq!(net.at(2, &["job", "show", &job, "--json"]).json()["state"], "cancelled");
}

/// Goal: what could not be written was not done. Method: the device that is always full.
#[test]
fn a_full_device_is_a_failure() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hello.toml");
    for arguments in [&["--help"][..], &["--version"], &["job", "submit", "--help"], &["job", "validate", example]] {
        let output = command().args(arguments).stdout(full()).output().expect("the binary runs");
        let ran = Ran::from(output).fails(1, &["standard output"]);
        assert!(ran.stderr.starts_with("error: "), "{arguments:?}: {}", ran.stderr);
    }
    // Whoever cannot be told of a failure still gets its code, and no panic.
    let status = command().args(["peers", "--node", "http://127.0.0.1:1"]).stderr(full()).status();
    assert_eq!(status.expect("the binary runs").code(), Some(3));
    quorate(&["--help"]).ok();
}

/// Goal: a job that waits is no riddle: `job why` names the program and who would have to list it, a command that waits
/// says the same after some seconds, and Ctrl-C leaves the job as it is and says how to come back.
#[test]
fn whoever_waits_for_a_program_that_nobody_lists_is_told() {
    let net = Net::up(3);
    let spec = waiting(&net);
    let mut running = Running::start(&net, &["job", "submit", spec.to_str().unwrap(), "--wait", "--node", "1"]);
    let said = running.stderr_has("as a submitter");
    for word in ["`nobody`", "[commands]", "node-1 ("] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    let job = net.at(2, &["job", "ls", "--json"]).json()[0]["job"].as_str().unwrap().to_owned();
    assert!(net.at(3, &["job", "why", &job]).ok().stdout.contains("no peer is known to list `nobody`"));
    let pid = rustix_pid(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let ran = running.ended().fails(1, &["interrupted", "goes on", "job wait", "--node 1"]);
    println!("{}", ran.stderr);
    assert_eq!(net.at(2, &["job", "show", &job, "--json"]).json()["finished_at"], Value::Null);
}

fn rustix_pid(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(child.id() as i32).expect("a process has an id")
}

/// Goal: a key that stands for a job which failed or was cancelled does not look like a job that runs.
#[test]
fn a_submit_under_the_key_of_a_job_that_ended_says_how_it_ended() {
    let net = Net::up(3);
    let (failing, waiting) = (failing(&net), waiting(&net));
    let submit = |spec: &Path, more: &[&str]| {
        let spec = spec.to_str().unwrap().to_owned();
        let arguments: Vec<&str> = ["job", "submit", &spec].into_iter().chain(more.iter().copied()).collect();
        net.at(1, &arguments)
    };
    let job = submit(&failing, &["--key", "a", "--detach"]).ok().stdout;
    net.at(1, &["job", "wait", job.trim()]).fails(1, &["failed"]);
    for (more, words) in
        [(&["--detach"][..], &["is failed", "not run anew", "another --key"][..]), (&["--wait"], &["another --key"])]
    {
        let again = submit(&failing, &[&["--key", "a"], more].concat());
        assert!(again.stdout.contains(job.trim()), "{}", again.stdout);
        again.fails(1, words).fails(1, &["before"]);
    }
    let json = submit(&failing, &["--key", "a", "--detach", "--json"]);
    assert_eq!(json.code, 1);
    let info: Value = serde_json::from_str(&json.stdout).expect("JSON and nothing else");
    assert_eq!((&info["existed"], &info["state"]), (&Value::Bool(true), &Value::from("failed")));
    let by = &info["acknowledged_by"];
    let voters = by["voters"].as_array().unwrap();
    assert!(voters.len() == 3 && voters.contains(&by["peer"]), "{info}");

    // One that lives is the same job, and all is well; a cancelled one is said to be so.
    let job = submit(&waiting, &["--key", "b", "--detach"]).ok().stdout;
    let again = submit(&waiting, &["--key", "b", "--detach"]).ok();
    assert_eq!(again.stdout, job);
    assert!(again.stderr.contains("submitted before"), "{}", again.stderr);
    net.at(1, &["job", "cancel", job.trim()]).ok();
    submit(&waiting, &["--key", "b", "--detach"]).fails(1, &["is cancelled", "another --key"]);
    assert_ne!(submit(&waiting, &["--key", "c", "--detach"]).ok().stdout, job);
}

/// Goal: the advice of a command works as it is pasted, also for a testnet that is found by `--dir` alone. Method: the
/// last line of `testnet up`, and what errors and a trigger's facts name, run as printed.
#[test]
fn advice_works_as_it_is_pasted() {
    let dir = tempfile::tempdir().unwrap();
    let net = dir.path().join("my net");
    let net = net.to_str().unwrap();
    let up = quorate(&["testnet", "up", "--nodes", "3", "--dir", net]);
    let down = Down(net.to_owned());
    let up = up.ok().stdout;
    let advised = |text: &str| -> Vec<String> {
        let commands = text.split('`').skip(1).step_by(2).filter(|part| part.starts_with("quorate "));
        commands.map(str::to_owned).collect()
    };
    let (_, line) = up.split_once("Try: ").expect("it says what to try");
    assert_eq!(pasted(line).ok().stderr, "");
    let nothing = format!("{}.{}", "ab".repeat(16), "cd".repeat(32));
    let missing = quorate(&["object", "show", &nothing, "--node", "1", "--dir", net]);
    let tries = advised(&missing.stderr);
    assert!(!tries.is_empty(), "{}", missing.stderr);
    for line in tries.iter().filter(|line| !line.contains("show")) {
        pasted(line).ok();
    }
    let spec = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/heartbeat.toml");
    let job = quorate(&["job", "submit", spec, "--detach", "--node", "1", "--dir", net]).ok().stdout;
    let shown = quorate(&["job", "show", job.trim(), "--node", "1", "--dir", net]).ok().stdout;
    let tries = advised(&shown);
    assert!(tries.iter().any(|line| line.contains("job fires")), "{shown}");
    for line in tries {
        pasted(&line).ok();
    }
    // A node of a testnet that is down is started with the testnet's own command.
    quorate(&["testnet", "kill", "1", "--dir", net]).ok();
    let gone = quorate(&["peers", "--node", "1", "--dir", net]).fails(3, &["no node answers"]);
    let tries = advised(&gone.stderr);
    assert!(tries.iter().any(|line| line.contains("testnet restart 1")), "{}", gone.stderr);
    for line in tries {
        pasted(&line).ok();
    }
    quorate(&["peers", "--node", "1", "--dir", net]).ok();
    drop(down);
}

struct Down(String);

impl Drop for Down {
    fn drop(&mut self) {
        quorate(&["testnet", "down", "--dir", &self.0]);
    }
}

/// Runs a line as a shell does, with the binary under test as `quorate`.
fn pasted(line: &str) -> Ran {
    let folder = Path::new(support::BINARY).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = std::process::Command::new("sh");
    shell.env_remove("QUORATE_TESTNET_DIR").env_remove("QUORATE_NODE").env("PATH", path);
    let output = shell.args(["-c", line]).output().expect("there is a shell");
    println!("{line}, within {PATIENCE:?}");
    output.into()
}
