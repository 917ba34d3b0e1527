//! Outputs of tasks, through the front door: those of any size by modules and programs, and the remains of
//! those that fail. Programs are run by nodes that list them for every peer of the network.

mod support;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{BINARY, Net, wait};

/// Three nodes that each list a shell and `later`, a program in a folder that is still empty.
fn net() -> (Net, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let net = Net::with(3, |options| {
        let listed = |path: &Path, args: &[&str]| -> toml::Value {
            let text = format!("path = {path:?}\nargs = {args:?}\nsubmitters = [\"network\"]");
            toml::Value::Table(text.parse().unwrap())
        };
        options.settings.push(("commands.sh".to_owned(), listed("/bin/sh".as_ref(), &["-c"])));
        options.settings.push(("commands.later".to_owned(), listed(&folder.path().join("later"), &[])));
    });
    (net, folder)
}

fn spec(net: &Net, name: &str, text: &str) -> String {
    let path = net.dir.path().join(format!("{name}.toml"));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Submits and waits; the job's id and how it ended.
fn ended(net: &Net, node: usize, spec: &str) -> (String, String) {
    let ran = net.at(node, &["job", "submit", spec, "--wait", "--json"]);
    let info: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stderr));
    println!("{}", info["why"]);
    (info["job"].as_str().unwrap().to_owned(), info["state"].as_str().unwrap().to_owned())
}

fn output(net: &Net, node: usize, job: &str, task: usize) -> Vec<u8> {
    let out = net.dir.path().join("output");
    let task = task.to_string();
    net.at(node, &["job", "output", job, "--task", &task, "-o", out.to_str().unwrap()]).ok();
    std::fs::read(out).unwrap()
}

/// A module that reads a number and writes as many zeros.
const ZEROS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 4)
    (func (export "_start") (local $n i32) (local $at i32) (local $len i32)
      (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 64))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (loop $digits
        (if (i32.lt_u (local.get $at) (i32.load (i32.const 8))) (then
          (local.set $n (i32.add (i32.mul (local.get $n) (i32.const 10))
            (i32.sub (i32.load8_u (i32.add (i32.const 64) (local.get $at))) (i32.const 48))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br $digits))))
      (i32.store (i32.const 0) (i32.const 65536))
      (loop $more
        (if (local.get $n) (then
          (local.set $len (select (local.get $n) (i32.const 131072) (i32.lt_u (local.get $n) (i32.const 131072))))
          (i32.store (i32.const 4) (local.get $len))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          (local.set $n (i32.sub (local.get $n) (i32.load (i32.const 8))))
          (br $more))))))"#;

/// What `yes` says, so many bytes of it.
fn yes(bytes: usize) -> Vec<u8> {
    b"0123456789abcde\n".iter().cycle().take(bytes).copied().collect()
}

/// Goal: outputs beyond what the record takes arrive whole: standard output, a file, and an archive of both, of
/// programs and of modules. Method: sizes one more than what the record takes, than what is read at once, and than a
/// segment.
#[test]
fn outputs_arrive_whole_whatever_their_size() {
    let (net, _folder) = net();
    const SIZES: [usize; 3] = [(64 << 10) + 1, (1 << 20) + 1, (16 << 20) + 1];
    let manners = ["stdout", "file", "both"];
    let asked: Vec<(&str, usize)> = manners.iter().flat_map(|manner| SIZES.map(|size| (*manner, size))).collect();
    let items: Vec<String> = asked.iter().map(|(manner, size)| format!("{{ inline = \"{manner} {size}\" }}")).collect();
    let script = "read manner size; some() { yes 0123456789abcde | head -c $size; }; \
        case $manner in stdout) some;; file) some > out/file;; both) echo both; some > out/file;; esac";
    let text = format!(
        "engine = \"command\"\nprogram = \"sh\"\nargs = [{script:?}]\noutput = \"object\"\nretry.attempts = 1\n\
         [map]\nitems = [{}]\n",
        items.join(", ")
    );
    let (job, state) = ended(&net, 2, &spec(&net, "program", &text));
    assert_eq!(state, "succeeded");
    for (task, (manner, size)) in asked.iter().enumerate() {
        let found = output(&net, 3, &job, task);
        if *manner != "both" {
            assert!(found == yes(*size), "{manner} of {size} bytes");
            continue;
        }
        let mut archive = tar::Archive::new(found.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let (mut entry, mut bytes) = (entry.unwrap(), Vec::new());
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), bytes)
        });
        let entries: Vec<_> = entries.collect();
        assert_eq!(entries[0], ("stdout".to_owned(), b"both\n".to_vec()));
        assert!(entries[1] == ("out/file".to_owned(), yes(*size)) && entries.len() == 2, "{manner} of {size} bytes");
    }
    let sizes: Vec<String> = SIZES.iter().map(|size| format!("{{ inline = \"{size}\" }}")).collect();
    let text = format!(
        "engine = \"wasm\"\nmodule = {{ inline = '''{ZEROS}''' }}\noutput = \"object\"\nretry.attempts = 1\n\
         [map]\nitems = [{}]\n",
        sizes.join(", ")
    );
    let (job, state) = ended(&net, 1, &spec(&net, "module", &text));
    assert_eq!(state, "succeeded");
    for (task, size) in SIZES.iter().enumerate() {
        assert!(output(&net, 2, &job, task) == vec![0; *size], "{size} bytes of a module");
    }
}

/// Goal: whoever looks for why a task failed finds what it printed, on either stream, wherever he looks.
#[test]
fn what_a_failed_task_printed_is_shown_beside_its_standard_error() {
    let (net, _folder) = net();
    let says = |node: usize, arguments: &[&str]| net.at(node, arguments).ok().stdout;
    let program = "engine = \"command\"\nprogram = \"sh\"\nretry.attempts = 1\n\
        args = [\"echo one; echo the reason is here; echo alas >&2; exit 7\"]\n"
        .to_owned();
    let module = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 64) "one\nthe reason is here\nalas\n")
        (func $say (param $fd i32) (param $at i32) (param $len i32)
          (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $len))
          (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
        (func (export "_start")
          (call $say (i32.const 1) (i32.const 64) (i32.const 23)) (call $say (i32.const 2) (i32.const 87) (i32.const 5))
          unreachable))"#;
    let module = format!("engine = \"wasm\"\nmodule = {{ inline = '''{module}''' }}\nretry.attempts = 1\n");
    for (name, text) in [("program", program), ("module", module)] {
        let (job, state) = ended(&net, 1, &spec(&net, name, &text));
        assert_eq!(state, "failed");
        let last = "alas; its standard output ends with: the reason is here";
        for verb in ["show", "why", "tasks"] {
            let text = says(1, &["job", verb, &job]);
            assert!(text.contains(last), "{name}, job {verb}: {text}");
        }
        let log = says(1, &["job", "logs", &job]);
        assert_eq!(log, "alas\n--- standard output of task 0.0 ---\none\nthe reason is here\n", "{name}");
        assert_eq!(says(1, &["job", "logs", &job, "--follow"]), log, "{name}");
        assert_eq!(says(1, &["job", "logs", &job, "--stdout"]), "one\nthe reason is here\n", "{name}");
        let hint = format!("quorate job logs {job} --stdout");
        net.at(1, &["job", "output", &job]).fails(1, &["no outputs", &hint]);
    }
    let text = "engine = \"command\"\nprogram = \"sh\"\nargs = [\"echo whole; echo alas >&2\"]\noutput = \"inline\"\n";
    let (job, state) = ended(&net, 1, &spec(&net, "good", text));
    assert_eq!((state.as_str(), says(1, &["job", "logs", &job]).as_str()), ("succeeded", "alas\n"));
    assert_eq!(says(1, &["job", "logs", &job, "--stdout"]), "", "it is the output");

    // Much of it, in characters of three bytes: two ends, and a word about what is missing, in the text as well.
    let text = "engine = \"command\"\nprogram = \"sh\"\nargs = [\"yes €€€ | head -c 400000 >&2; exit 1\"]\nretry.attempts = 1\n";
    let (job, _) = ended(&net, 1, &spec(&net, "much", text));
    let ran = net.at(1, &["job", "logs", &job]).ok();
    assert!(!ran.stdout.contains(char::REPLACEMENT_CHARACTER) && ran.stderr.contains("were not kept"));
    let note: Vec<&str> = ran.stdout.lines().filter(|line| line.ends_with("bytes were not kept]")).collect();
    assert_eq!(note.len(), 1, "{note:?}");
    let missing: usize = note[0].trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    assert!((400_000 - 262_144..400_000 - 262_130).contains(&missing), "{missing}");
}

/// Goal: a task that every worker refused runs once the reason is gone, without a word of its owner.
#[test]
fn a_task_that_was_refused_everywhere_runs_once_its_program_is_there() {
    let (net, folder) = net();
    let path = spec(&net, "later", "engine = \"command\"\nprogram = \"later\"\noutput = \"inline\"\n");
    let job = net.at(2, &["job", "submit", &path, "--detach"]).ok().stdout.trim().to_owned();
    let why = wait("three refusals", || {
        let why = net.at(1, &["job", "why", &job]).ok().stdout;
        why.contains("3 peers refused").then_some(why)
    });
    assert!(why.contains("is missing on this node") && why.contains("asked again"), "{why}");
    // Whole and executable at once, for it may be asked for at any moment.
    let draft = folder.path().join("draft");
    std::fs::write(&draft, "#!/bin/sh\necho at last\n").unwrap();
    std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::rename(draft, folder.path().join("later")).unwrap();
    net.at(1, &["job", "wait", &job]).ok();
    assert_eq!(output(&net, 3, &job, 0), b"at last\n");
}

/// A node that the testnet does not know of. It ends with the test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Goal: a folder that is named relative to where the node was started is as good as an absolute one. Method: the last
/// node runs with such a folder, and alone has the label that the job asks for.
#[test]
fn a_node_with_a_relative_folder_runs_programs() {
    let (net, _folder) = net();
    net.testnet(&["kill", "3"]).ok();
    let folder = net.testnet.node_dir(3);
    let file = folder.join("quorate.toml");
    let mut settings: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    settings["node"]["labels"] = toml::Value::Table("folder = \"relative\"".parse().unwrap());
    std::fs::write(&file, settings.to_string()).unwrap();
    let started = Command::new(BINARY)
        .args([Path::new("node"), Path::new("--dir"), Path::new(folder.file_name().unwrap())])
        .current_dir(folder.parent().unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _node = Node(started.unwrap());
    let text = "engine = \"command\"\nprogram = \"sh\"\nargs = [\"cat in/given; cat; pwd\"]\noutput = \"inline\"\n\
        inputs.given = { inline = \"given, \" }\nresources.labels = { folder = \"relative\" }\n\
        map.items = [{ inline = \"and read in \" }]\n";
    let path = spec(&net, "where", text);
    wait("the node", || net.at(1, &["job", "plan", &path]).stdout.contains("1 of 3 known would run it").then_some(()));
    let (job, state) = ended(&net, 1, &path);
    assert_eq!(state, "succeeded");
    let said = String::from_utf8(output(&net, 1, &job, 0)).unwrap();
    let place = folder.join("work/commands").canonicalize().unwrap();
    assert!(said.starts_with(&format!("given, and read in {}/", place.display())), "{said}");
}
