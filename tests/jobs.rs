//! Jobs that compute, through the front door: submitted at one node, looked at from others, broken on the way.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Net, command, quorate, wait};

const HELLO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hello.toml");
const WORDCOUNT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/wordcount/wordcount.toml");

/// A specification of one module that does `body`, with more settings.
fn spec(net: &Net, name: &str, body: &str, more: &str) -> PathBuf {
    let module = format!(
        "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func $write (param i32 i32 i32 i32) (result i32)))\n\
         (memory (export \"memory\") 1) (data (i32.const 64) \"hello\\\\n\")\n\
         (func $say (param i32) (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 6))\n\
         (drop (call $write (local.get 0) (i32.const 0) (i32.const 1) (i32.const 8))))\n\
         (func (export \"_start\") {body}))"
    );
    let text = format!("engine = \"wasm\"\nmodule = {{ inline = \"\"\"{module}\"\"\" }}\n{more}\n");
    let path = net.dir.path().join(format!("{name}.toml"));
    std::fs::write(&path, text).expect("a file can be written");
    path
}

const SPIN: &str = "(loop $l (br $l))";
/// A way to fail that is not tried again.
const TRAP: &str = "(call $say (i32.const 2)) (unreachable)";
const SMALL: &str = "resources.memory = \"4 MiB\"\noutput = \"inline\"";

fn submit(net: &Net, node: usize, spec: &std::path::Path, more: &[&str]) -> support::Ran {
    let mut arguments = vec!["job", "submit", spec.to_str().unwrap()];
    arguments.extend(more);
    net.at(node, &arguments)
}

/// Submits and leaves; the job's id.
fn detached(net: &Net, node: usize, spec: &std::path::Path, more: &[&str]) -> String {
    let more: Vec<&str> = more.iter().copied().chain(["--detach"]).collect();
    submit(net, node, spec, &more).ok().stdout.trim().to_owned()
}

fn shown(net: &Net, node: usize, job: &str) -> Value {
    net.at(node, &["job", "show", job, "--json"]).json()
}

fn reaches(net: &Net, node: usize, job: &str, state: &str) -> Value {
    wait(state, || Some(shown(net, node, job)).filter(|info| info["state"] == state))
}

/// Goal: what a newcomer does first works from any node, and every way of looking at it says the same.
#[test]
fn a_job_is_submitted_at_one_node_and_looked_at_from_others() {
    let net = Net::up(5);
    let done = submit(&net, 1, HELLO.as_ref(), &["--wait", "--json"]).json();
    assert_eq!(done["state"], "succeeded");
    assert_eq!(done["batch"]["outcome"]["outputs"][0]["text"], "Hello, world!\n", "{done}");
    let job = done["job"].as_str().unwrap();
    for node in [2, 5] {
        assert_eq!(shown(&net, node, job)["batch"]["outcome"], done["batch"]["outcome"]);
    }
    let text = net.at(4, &["job", "show", job]).ok().stdout;
    assert!(text.contains("succeeded") && text.ends_with("Hello, world!\n"), "{text}");
    assert_eq!(net.at(3, &["job", "output", job]).ok().stdout, "Hello, world!\n");
    assert_eq!(net.at(3, &["job", "wait", job, "--json"]).json()["job"], done["job"]);
    assert_eq!(net.at(2, &["job", "tasks", job, "--json"]).json()[0]["state"], "done");
    assert!(net.at(2, &["job", "why", job]).ok().stdout.contains("done"));
    let history = net.at(5, &["job", "history", job]).ok().stdout;
    assert!(history.contains("submitted") && history.contains("succeeded"), "{history}");

    // Another one, which its submitter leaves to itself, and filters that tell them apart.
    let other = detached(&net, 2, HELLO.as_ref(), &["--set", "who=moon"]);
    assert!(net.at(1, &["job", "wait", &other]).ok().stdout.ends_with("Hello, moon!\n"));
    let listed = |filters: &[&str]| -> Vec<String> {
        let mut arguments = vec!["job", "ls", "--json"];
        arguments.extend(filters);
        let rows = net.at(2, &arguments).json();
        rows.as_array().unwrap().iter().map(|row| row["job"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(&["--owner", "me"]), std::slice::from_ref(&other));
    assert_eq!(listed(&["--state", "ended", "--kind", "batch", "--name", "hell"]).len(), 2);
    assert!(listed(&["--state", "live"]).is_empty() && listed(&["--kind", "store"]).is_empty());

    // What it would do, without doing it.
    let plan = net.at(3, &["job", "plan", HELLO, "--json"]).json();
    let would = plan["peers"].as_array().unwrap().iter().filter(|peer| peer["refusal"].is_null()).count();
    assert_eq!(would, 5, "{plan}");
    let dry = submit(&net, 3, HELLO.as_ref(), &["--dry-run"]).ok().stdout;
    assert!(dry.contains("5 of 5 known would run it"), "{dry}");
    assert_eq!(listed(&[]).len(), 2);
}

/// Goal: one request submits a job and has what it came to, through whichever node. Method: every node of five, two of
/// which are no members of the job's quorum.
#[test]
fn one_request_submits_a_job_and_has_its_result() {
    let net = Net::up(5);
    let post = |node: usize, path: &str, body: &Value| -> Value {
        net.runtime.block_on(net.client(node).post(path, body)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let hello = std::fs::read_to_string(HELLO).unwrap();
    for node in 1..=5 {
        let who = format!("node {node}");
        let body = json!({ "spec": hello, "set": { "who": who }, "key": who });
        let done = post(node, "/v1/jobs?wait=60s", &body);
        assert_eq!((&done["state"], &done["existed"]), (&json!("succeeded"), &json!(false)), "{done}");
        assert_eq!(done["batch"]["outcome"]["outputs"][0]["text"], format!("Hello, {who}!\n"), "{done}");
        let again = post(node, "/v1/jobs?wait=60s", &body);
        assert_eq!((&again["job"], &again["existed"]), (&done["job"], &json!(true)));
        assert_eq!(again["batch"]["outcome"], done["batch"]["outcome"]);
    }
    // One that does not end is answered when the time is up.
    let long = std::fs::read_to_string(spec(&net, "long", SPIN, SMALL)).unwrap();
    let began = Instant::now();
    let living = post(5, "/v1/jobs?wait=300ms", &json!({ "spec": long }));
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    let state = living["state"].as_str().unwrap();
    assert!(["pending", "running"].contains(&state), "{living}");
    net.at(5, &["job", "cancel", living["job"].as_str().unwrap()]).ok();
}

/// Goal: many jobs are one command, each of them as if it had been submitted alone.
#[test]
fn many_jobs_are_submitted_by_one_command() {
    let net = Net::up(5);
    let trap = spec(&net, "trap", TRAP, SMALL);
    let ran = net.at(4, &["job", "submit", HELLO, trap.to_str().unwrap(), HELLO, "--set", "who=moon"]);
    // The second has no such parameter, and nothing is submitted.
    ran.fails(1, &["--set who", "trap.toml", "nothing was submitted"]);
    assert_eq!(net.at(4, &["job", "ls", "--json"]).json(), json!([]));
    let printed = net.at(4, &["job", "submit", HELLO, trap.to_str().unwrap(), HELLO]).ok().stdout;
    let jobs: Vec<&str> = printed.lines().collect();
    assert_eq!(jobs.len(), 3, "{printed}");
    for (job, state) in jobs.iter().zip(["succeeded", "failed", "succeeded"]) {
        reaches(&net, 2, job, state);
    }
    assert_ne!(jobs[0], jobs[2]);

    // Lines that say what to run with what, which is found from where they are.
    std::fs::copy(HELLO, net.dir.path().join("hello.toml")).unwrap();
    let lines = net.dir.path().join("lines.ndjson");
    let submit = |text: &str| {
        std::fs::write(&lines, text).unwrap();
        net.at(5, &["job", "submit", "--batch", lines.to_str().unwrap()])
    };
    submit("{\"file\": \"hello.toml\"}\n{\"file\": \"gone.toml\"}\n").fails(1, &["gone.toml"]);
    submit("{\"file\": \"hello.toml\"}\n\n{\"files\": \"hello.toml\"}\n").fails(1, &["lines.ndjson:3", "files"]);
    let whole: String =
        (0..40).map(|n| format!("{{\"file\":\"hello.toml\",\"set\":{{\"who\":\"{n}\"}},\"key\":\"{n}\"}}\n")).collect();
    let first = submit(&whole).ok();
    let jobs: Vec<&str> = first.stdout.lines().collect();
    assert_eq!(jobs.len(), 40, "{}", first.stdout);
    for (n, job) in jobs.iter().enumerate() {
        let ended = reaches(&net, 5, job, "succeeded");
        assert_eq!(ended["batch"]["outcome"]["outputs"][0]["text"], format!("Hello, {n}!\n"));
    }
    let again = submit(&whole).ok();
    assert_eq!(again.stdout, first.stdout, "keys stand for the same jobs");
    assert!(again.stderr.contains("was submitted before and is succeeded"), "{}", again.stderr);
    // What is wrong with one is told, and the others are submitted.
    let other = whole.replace("\"who\":\"7\"", "\"who\":\"somebody else\"");
    let mixed = submit(&other);
    assert_eq!(mixed.stdout.lines().count(), 39);
    mixed.fails(1, &["lines.ndjson:8", "1 of 40 jobs"]);
    net.at(5, &["job", "submit", HELLO, HELLO, "--wait"]).fails(2, &["--wait"]);
    net.at(5, &["job", "submit"]).fails(2, &["<spec>"]);
}

/// Goal: whatever is wrong with a specification, its writer is told where and what is accepted, and nothing runs.
#[test]
fn mistakes_in_a_specification_get_answers_that_help() {
    let net = Net::up(3);
    let write = |text: &str| {
        let path = net.dir.path().join("wrong.toml");
        std::fs::write(&path, text).unwrap();
        path
    };
    let good = "engine = \"wasm\"\nmodule = { inline = \"(module)\" }\n";
    let cases: [(String, &[&str]); 9] = [
        (format!("{good}pririty = 3\n"), &["wrong.toml:3", "pririty", "priority"]),
        (format!("{good}timeouts.task = \"5 parsecs\"\n"), &["wrong.toml:3", "timeouts.task", "parsecs"]),
        (format!("{good}resources.memory = \"1e99 GiB\"\n"), &["wrong.toml:3", "resources.memory"]),
        (format!("{good}priority = 99999999999999999999\n"), &["wrong.toml:3"]),
        (
            format!("{good}name = \"${{a}}\"\n[parameters]\na = \"${{b}}\"\nb = \"${{a}}\"\n"),
            &["circle", "a -> b -> a"],
        ),
        (format!("{good}name = \"${{absent}}\"\n"), &["--set absent=VALUE"]),
        ("engine = \"wasm\"\nmodule = \"no-such-file.wasm\"\n".to_owned(), &["no-such-file.wasm", "No such file"]),
        ("kind = \"magic\"\n".to_owned(), &["wrong.toml:1", "magic", "wasm", "command"]),
        ("kind = \n".to_owned(), &["wrong.toml:1"]),
    ];
    for (text, words) in cases {
        let path = write(&text);
        for verb in ["validate", "plan", "submit"] {
            net.at(1, &["job", verb, path.to_str().unwrap()]).fails(1, words);
        }
    }
    // Modules that no worker takes: inline, as a small file, and as one so large that it would be stored.
    let folder = net.dir.path();
    let start = "(memory (export \"memory\") 1) (func (export \"_start\"))";
    let data = format!("(data (i32.const 0) \"{}\"))", "x".repeat(60_000));
    let large = format!("(module (import \"env\" \"f\" (func)) {start} {}{data}", " ".repeat(9_000));
    std::fs::write(folder.join("reactor.wat"), "(module (func (export \"_initialize\")))").unwrap();
    std::fs::write(folder.join("component.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
    std::fs::write(folder.join("cut.wasm"), b"\0asm\x01\0\0\0\x01\x60").unwrap();
    std::fs::write(folder.join("large.wat"), large).unwrap();
    let file = |name: &str| format!("engine = \"wasm\"\nmodule = \"{name}\"\n");
    let cases: [(String, &[&str]); 6] = [
        (good.to_owned(), &["wrong.toml:2", "_start", "library"]),
        (file("reactor.wat"), &["wrong.toml:2", "reactor.wat", "_start", "reactor"]),
        (file("component.wasm"), &["wrong.toml:2", "component.wasm", "wasip1"]),
        (file("cut.wasm"), &["wrong.toml:2", "cut.wasm", "cut off"]),
        (file("large.wat"), &["wrong.toml:2", "large.wat", "`env.f`", "wasi_snapshot_preview1"]),
        (
            "engine = \"wasm\"\nmodule = { inline = '(module (memory 900) (func (export \"_start\")))' }\n\
             resources.memory = \"32 MiB\"\n"
                .to_owned(),
            &["wrong.toml:3", "resources.memory", "56.3 MiB", "32 MiB"],
        ),
    ];
    for (text, words) in cases {
        let path = write(&text);
        for verb in ["validate", "plan", "submit"] {
            net.at(1, &["job", verb, path.to_str().unwrap()]).fails(1, words);
        }
    }
    assert_eq!(net.at(1, &["object", "ls", "--json"]).json(), Value::Array(vec![]), "nothing was stored for them");
    // As an object its bytes are in the network: found when a node is asked.
    let stored = net.at(2, &["object", "put", folder.join("reactor.wat").to_str().unwrap(), "--json"]).json();
    let path =
        write(&format!("engine = \"wasm\"\nmodule = {{ object = \"{}\" }}\n", stored["object"].as_str().unwrap()));
    for verb in ["plan", "submit", "plan"] {
        net.at(3, &["job", verb, path.to_str().unwrap()]).fails(1, &["wrong.toml:2", "object", "reactor"]);
    }
    let missing = format!("{}.{}", "ab".repeat(16), "cd".repeat(32));
    let path = write(&format!("engine = \"wasm\"\nmodule = {{ object = \"{missing}\" }}\n"));
    quorate(&["job", "validate", path.to_str().unwrap()]).ok();
    net.at(1, &["job", "plan", path.to_str().unwrap()]).fails(1, &["wrong.toml:2", "module", "quorum"]);
    net.at(1, &["job", "submit", "/no/such/spec.toml"]).fails(1, &["/no/such/spec.toml"]);
    net.at(1, &["job", "submit", HELLO, "--set", "whom=x"]).fails(1, &["--set whom", "who"]);
    net.at(1, &["job", "submit", HELLO, "--set", "nonsense"]).fails(2, &["NAME=VALUE"]);
    net.at(1, &["job", "submit", HELLO, "--wait", "--detach"]).fails(2, &["--detach"]);
    net.at(1, &["job", "ls", "--state", "happy"]).fails(1, &["happy", "running"]);
    // The run that stored the object is the only one.
    let jobs = net.at(1, &["job", "ls", "--json"]).json();
    let kinds: Vec<_> = jobs.as_array().unwrap().iter().map(|job| job["kind"].as_str().unwrap()).collect();
    assert!(kinds.iter().all(|kind| *kind == "store"), "{kinds:?}");
}

/// Goal: each way in which a program fails is told as what it is, in the exit code too.
#[test]
fn a_program_that_fails_is_told_as_what_it_is() {
    let net = Net::up(4);
    let writes = "(loop $l (call $say (i32.const 1)) (br $l))";
    let allocates = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
    let cases = [
        ("trap", TRAP, "", "unreachable"),
        ("fuel", SPIN, "fuel = 1_000_000", "fuel"),
        ("timeout", SPIN, "timeouts.task = \"200ms\"\nretry.attempts = 1", "timeout"),
        ("output", writes, "", "output"),
        ("memory", allocates, "", "memory"),
    ];
    for (name, body, more, word) in cases {
        let path = spec(&net, name, body, &format!("{SMALL}\n{more}"));
        let ran = submit(&net, 1, &path, &["--wait", "--json"]);
        let info: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(info["state"], "failed", "{info}");
        ran.fails(1, &["failed", word]);
        let why = info["why"].as_str().unwrap();
        assert!(why.contains(word), "{name}: {why}");
    }
    // What a task wrote before it failed can be read where it was submitted.
    let path = spec(&net, "logs", TRAP, SMALL);
    let job = detached(&net, 3, &path, &[]);
    net.at(3, &["job", "wait", &job]).fails(1, &["failed"]);
    let log = net.at(3, &["job", "logs", &job]).ok().stdout;
    assert_eq!(log, "hello\n");
}

/// Goal: a module that fails on the way goes on from its checkpoint in the next attempt. Method: one that makes a
/// checkpoint and fails unless it finds one, on real nodes.
#[test]
fn a_module_that_failed_goes_on_from_its_checkpoint() {
    let net = Net::up(3);
    let module = include_str!("fixtures/modules/checkpoint.wat");
    let path = net.dir.path().join("checkpoint.toml");
    let retry = "retry.on = [\"exit\"]\nretry.attempts = 2\nretry.base = \"100ms\"";
    let text = format!("engine = \"wasm\"\nmodule = {{ inline = '''{module}''' }}\n{SMALL}\n{retry}\n");
    std::fs::write(&path, text).expect("a file can be written");
    let job = submit(&net, 1, &path, &["--detach"]).ok().stdout.trim().to_owned();
    net.at(1, &["job", "wait", &job]).ok();
    assert_eq!(net.at(2, &["job", "output", &job]).ok().stdout, "half way");
}

/// Goal: a program that nobody allows is not run, and the job says who refused and why.
#[test]
fn a_program_that_no_operator_lists_waits_and_says_so() {
    let net = Net::up(3);
    let path = net.dir.path().join("program.toml");
    std::fs::write(&path, "engine = \"command\"\nprogram = \"rm\"\n").unwrap();
    let plan = net.at(1, &["job", "plan", path.to_str().unwrap()]).ok().stdout;
    assert!(plan.contains("0 of 3 known would run it") && plan.contains("command"), "{plan}");
    let job = detached(&net, 1, &path, &[]);
    let why =
        wait("a reason", || Some(net.at(2, &["job", "why", &job]).ok().stdout).filter(|why| why.contains("waiting")));
    assert!(why.contains("worker"), "{why}");
    net.at(1, &["job", "cancel", &job]).ok();
    assert_eq!(reaches(&net, 3, &job, "cancelled")["state"], "cancelled");
}

/// Processes with this word among their arguments.
fn processes(word: &str) -> usize {
    let has = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(has).count()
}

/// Goal: a listed program runs for those who may have it run, and whatever it started is gone once its job is said to
/// be cancelled. Method: every node lists an echo, and a shell that starts two sleeps; node 1 may submit them.
#[test]
fn a_listed_program_runs_and_all_of_its_processes_end_with_its_job() {
    let net = Net::up(3);
    let owner = net.testnet.status()[0].peer.unwrap();
    // A length of sleep that nobody else asks for.
    let length = format!("4321.{}", std::process::id());
    for node in 1..=3 {
        net.testnet(&["kill", &node.to_string()]).ok();
        let file = net.testnet.node_dir(node).join("quorate.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let listed = format!(
            "\n[commands]\necho = {{ path = \"/bin/echo\", args = [\"-n\"], submitters = [\"{owner}\"] }}\n\
             nap = {{ path = \"/bin/sh\", args = [\"-c\", \"sleep {length} & sleep {length}; true\"], submitters = \
             [\"{owner}\"] }}\n"
        );
        assert!(text.contains("\n[commands]\n"), "{text}");
        std::fs::write(&file, text.replacen("\n[commands]\n", &listed, 1)).unwrap();
        net.testnet(&["restart", &node.to_string()]).ok();
    }
    let write = |name: &str, more: &str| {
        let path = net.dir.path().join(format!("{name}.toml"));
        std::fs::write(&path, format!("engine = \"command\"\nprogram = \"{name}\"\n{more}\n")).unwrap();
        path
    };
    let echo = write("echo", "args = [\"to whom it may concern\"]\noutput = \"inline\"");
    let plan = wait("the nodes to offer it", || {
        let plan = net.at(1, &["job", "plan", echo.to_str().unwrap()]).stdout;
        plan.contains("3 of 3 known would run it").then_some(plan)
    });
    println!("{plan}");
    let done = submit(&net, 1, &echo, &["--wait", "--json"]).json();
    assert_eq!(done["batch"]["outcome"]["outputs"][0]["text"], "to whom it may concern", "{done}");

    // Node 2 is not on the list.
    let job = detached(&net, 2, &echo, &[]);
    let why = wait("a reason", || {
        Some(net.at(2, &["job", "why", &job]).ok().stdout).filter(|why| why.contains("submitters"))
    });
    println!("{why}");
    net.at(2, &["job", "cancel", &job]).ok();

    let job = detached(&net, 1, &write("nap", ""), &[]);
    wait("both sleeps", || (processes(&length) >= 2).then_some(()));
    net.at(1, &["job", "cancel", &job]).ok();
    reaches(&net, 3, &job, "cancelled");
    assert_eq!(processes(&length), 0, "said to be cancelled, and still there");
}

/// Goal: work that runs is stopped, goes on, is changed and is ended when a person says so; others may not.
#[test]
fn a_person_pauses_resumes_updates_and_cancels_work_that_runs() {
    let net = Net::up(4);
    let path = spec(&net, "spin", SPIN, SMALL);
    let job = detached(&net, 1, &path, &[]);
    reaches(&net, 2, &job, "running");
    // Every node of a testnet is an operator, so it need not be the submitter.
    net.at(2, &["job", "pause", &job]).ok();
    reaches(&net, 2, &job, "paused");
    let updated = net.at(1, &["job", "update", &job, "--priority", "90", "--memory", "8MiB", "--json"]).json();
    assert_eq!(
        (&updated["batch"]["priority"], &updated["batch"]["resources"]["memory_bytes"]),
        (&90.into(), &(8 << 20).into())
    );
    net.at(1, &["job", "update", &job]).fails(2, &["--priority"]);
    net.at(1, &["job", "resume", &job]).ok();
    reaches(&net, 3, &job, "running");
    net.at(1, &["job", "retry", &job]).fails(1, &["running", "retry"]);
    let began = std::time::Instant::now();
    net.at(1, &["job", "cancel", &job]).ok();
    reaches(&net, 4, &job, "cancelled");
    println!("cancelled after {:?}", began.elapsed());
    net.at(1, &["job", "wait", &job]).fails(1, &["cancelled"]);
}

/// Goal: a run that parks waits for a person, says so, and does what the person decides.
#[test]
fn a_job_that_waits_for_a_person_does_what_the_person_decides() {
    let net = Net::up(3);
    let path = spec(&net, "park", TRAP, &format!("{SMALL}\non_failure = \"park\""));
    let parked = |node| {
        let job = detached(&net, node, &path, &[]);
        net.at(node, &["job", "wait", &job]).fails(1, &["waits for a decision", "job retry", "--skip"]);
        job
    };
    let job = parked(1);
    net.at(1, &["job", "resolve", &job]).fails(2, &["--skip"]);
    net.at(1, &["job", "resolve", &job, "--revert"]).fails(1, &["undo"]);
    net.at(1, &["job", "retry", &job]).ok();
    reaches(&net, 2, &job, "awaiting-resolution");
    net.at(1, &["job", "resolve", &job, "--skip"]).ok();
    reaches(&net, 2, &job, "succeeded");
    let job = parked(2);
    net.at(2, &["job", "resolve", &job, "--fail"]).ok();
    reaches(&net, 1, &job, "failed");
}

/// Goal: one key is one job. Method: two submits at once through one peer, and two through two peers that name the
/// quorum; then another specification.
#[test]
fn submits_that_race_with_one_key_are_one_job() {
    let net = Net::up(4);
    let first = submit(&net, 1, HELLO.as_ref(), &["--wait", "--json"]).json();
    let quorum = first["quorum"].as_str().unwrap();
    let race = |nodes: [usize; 2], more: &[&str]| -> Vec<String> {
        let running: Vec<_> = nodes
            .iter()
            .map(|node| {
                let mut command = command();
                command.env("QUORATE_TESTNET_DIR", net.testnet.dir());
                command.args(["job", "submit", HELLO, "--wait", "--json", "--node", &node.to_string()]).args(more);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let ended = running.into_iter().map(|child| support::Ran::from(child.wait_with_output().unwrap()).json());
        ended.map(|info| info["job"].as_str().unwrap().to_owned()).collect()
    };
    let through_one = race([2, 2], &["--key", "monday"]);
    assert_eq!(through_one[0], through_one[1]);
    let through_two = race([2, 3], &["--key", "tuesday", "--quorum", quorum]);
    assert_eq!(through_two[0], through_two[1]);
    assert_ne!(through_one[0], through_two[0]);
    // The same again, much later: still the same job.
    assert_eq!(detached(&net, 2, HELLO.as_ref(), &["--key", "monday"]), through_one[0]);
    let other = ["--key", "monday", "--set", "who=moon"];
    submit(&net, 2, HELLO.as_ref(), &other).fails(1, &["another specification", "job show", &through_one[0]]);
    submit(&net, 2, HELLO.as_ref(), &["--key", "monday", "--quorum", &"ab".repeat(16)])
        .fails(1, &["monday", "--quorum"]);
    let rows = net.at(1, &["job", "ls", "--name", "hello", "--json"]).json();
    assert_eq!(rows.as_array().unwrap().len(), 3, "{rows}");
}

/// Words as the example says what a word is.
fn counted(text: &[u8]) -> String {
    let in_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'\'' || *byte >= 128;
    let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for word in text.split(|byte| !in_word(byte)).filter(|word| !word.is_empty()) {
        *counts.entry(word.to_ascii_lowercase()).or_default() += 1;
    }
    let line = |(word, count): (&Vec<u8>, &u64)| format!("{} {count}\n", String::from_utf8_lossy(word));
    counts.iter().map(line).collect()
}

/// Goal: a map over the segments of an object and its reduce come to what one process counts, though a worker and then
/// the primary are killed while it runs. Method: a text of many small segments; kills as soon as the job runs.
#[test]
fn a_word_count_survives_a_killed_worker_and_a_killed_primary() {
    let net = Net::up(6);
    let book = include_str!("../examples/wordcount/moby-dick.txt");
    let text = book.repeat(40);
    let file = net.dir.path().join("text");
    std::fs::write(&file, &text).unwrap();
    let stored = net.put(1, &file);
    let set = format!("text={}", stored["object"].as_str().unwrap());
    let job = detached(&net, 1, WORDCOUNT.as_ref(), &["--set", &set, "--set", "bytes=64KiB"]);
    let quorum = reaches(&net, 2, &job, "running")["quorum"].as_str().unwrap().to_owned();
    let primary = net.primary(2, &quorum);
    let worker = (2..=6).find(|node| *node != primary).unwrap();
    net.testnet(&["kill", &worker.to_string()]).ok();
    let alive = (2..=6).find(|node| ![worker, primary].contains(node)).unwrap();
    let steps = shown(&net, alive, &job)["batch"]["steps"].clone();
    assert_eq!(
        (&steps[0]["tasks"], &steps[1]["tasks"]),
        (&(text.len().div_ceil(64 * 1024)).into(), &1.into()),
        "{steps}"
    );
    if primary != 1 {
        net.testnet(&["kill", &primary.to_string()]).ok();
    }
    let ended = wait("the end", || {
        let ran = net.at(alive, &["job", "show", &job, "--json"]);
        let info: Value = serde_json::from_str(&ran.stdout).ok()?;
        ["succeeded", "failed"].contains(&info["state"].as_str()?).then_some(info)
    });
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let out = net.dir.path().join("counts");
    net.at(alive, &["job", "output", &job, "-o", out.to_str().unwrap()]).ok();
    assert!(std::fs::read_to_string(&out).unwrap() == counted(text.as_bytes()), "the counts differ");
}

/// Goal: copies that agree leave receipts which prove it to anyone with nothing but the file, and to nobody once a
/// digit of them is changed.
#[test]
fn receipts_of_a_verified_job_are_checked_offline() {
    let net = Net::with(5, |options| options.testing = true);
    let path =
        spec(&net, "verified", "(call $say (i32.const 1))", &format!("{SMALL}\nfuel = 1_000_000\nverify.copies = 3"));
    let done = submit(&net, 1, &path, &["--wait", "--json"]).json();
    let job = done["job"].as_str().unwrap();
    let shown = net.at(4, &["job", "show", job, "--receipts", "--json"]).ok().stdout;
    let info: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(info["receipts"]["tasks"][0]["receipts"].as_array().unwrap().len(), 3, "{info}");
    let file = |text: &str| {
        let path = net.dir.path().join("receipts.json");
        std::fs::write(&path, text).unwrap();
        path
    };
    let verify = |text: &str, more: &[&str]| {
        let path = file(text);
        let mut arguments = vec!["receipt", "verify", path.to_str().unwrap()];
        arguments.extend(more);
        quorate(&arguments)
    };
    let told = verify(&shown, &[]).ok().stdout;
    assert!(told.contains("3 of 3 workers agree"), "{told}");
    let output = net.dir.path().join("output");
    net.at(2, &["job", "output", job, "-o", output.to_str().unwrap()]).ok();
    verify(&shown, &["--output", output.to_str().unwrap()]).ok();
    verify(&shown, &["--output", HELLO]).fails(1, &["not what was agreed on"]);
    let digest = info["receipts"]["tasks"][0]["receipts"][0]["statement"]["verdict"]["output"].as_str().unwrap();
    let other = shown.replace(digest, &"00".repeat(32));
    verify(&other, &[]).fails(1, &["not signed"]);
    verify("{}", &[]).fails(1, &["--receipts --json"]);

    // Five copies on five nodes, one of which lies: it is outvoted and named.
    net.testnet(&["lie", "3"]).ok();
    let more = format!(
        "{SMALL}
fuel = 1_000_000
verify = {{ copies = 5, agree = 3 }}"
    );
    let path = spec(&net, "outvoted", "(call $say (i32.const 1))", &more);
    let done = submit(&net, 1, &path, &["--wait", "--json"]).json();
    assert_eq!(
        done["batch"]["outcome"]["outputs"][0]["text"],
        "hello
"
    );
    let job = done["job"].as_str().unwrap();
    let liar = net.testnet.status()[2].peer.unwrap().to_string();
    let shown = net.at(2, &["job", "show", job, "--receipts", "--json"]).ok().stdout;
    let info: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(info["receipts"]["tasks"][0]["dissenting"], serde_json::json!([liar]), "{info}");
    let told = verify(&shown, &[]).ok().stdout;
    assert!(told.contains("4 of 5 workers agree") && told.contains(&format!("{liar} DISSENTS")), "{told}");
    net.at(
        1,
        &[
            "job",
            "show",
            submit(&net, 1, HELLO.as_ref(), &["--wait", "--json"]).json()["job"].as_str().unwrap(),
            "--receipts",
        ],
    )
    .fails(1, &["not verified"]);
}
