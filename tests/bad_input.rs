//! Bad input around a node: wrong secrets, damaged folders, too few peers. A clear error, nothing lost.

mod support;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use support::{Net, PATIENCE, Ran, command, content, quorate, wait};

const MIB: usize = 1024 * 1024;

/// A node started by hand, ended with the test.
struct Hand {
    child: Child,
    log: std::path::PathBuf,
}

impl Hand {
    fn start(dir: &std::path::Path) -> Self {
        let log = dir.with_extension("log");
        let out = std::fs::File::create(&log).unwrap();
        let errors = out.try_clone().unwrap();
        let child =
            command().args(["node", "--dir"]).arg(dir).stdin(Stdio::null()).stdout(out).stderr(errors).spawn().unwrap();
        Self { child, log }
    }
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
    fn waits_for_log(&self, words: &str) {
        wait(words, || self.log().to_lowercase().contains(&words.to_lowercase()).then_some(()));
    }
    /// Ends by itself; its exit code and log.
    fn ends(&mut self) -> (i32, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code().unwrap_or(-1), self.log());
            }
            assert!(Instant::now() < deadline, "the node goes on:\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn init(dir: &std::path::Path, more: &[&str]) -> Ran {
    let mut arguments = vec!["init", "--dir", dir.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    arguments.extend(more);
    quorate(&arguments)
}

/// Sets keys in a node's configuration.
fn configure(dir: &std::path::Path, change: impl FnOnce(&mut toml::Table)) {
    let path = dir.join("quorate.toml");
    let mut table: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    change(&mut table);
    std::fs::write(path, table.to_string()).unwrap();
}

fn set(table: &mut toml::Table, section: &str, key: &str, value: impl Into<toml::Value>) {
    let entry = table.entry(section).or_insert_with(|| toml::Table::new().into());
    entry.as_table_mut().unwrap().insert(key.into(), value.into());
}

fn loopback(dir: &std::path::Path, bootstrap: &[&str]) {
    configure(dir, |table| {
        set(table, "network", "mdns", false);
        set(table, "api", "listen", "127.0.0.1:0");
        let bootstrap: Vec<toml::Value> = bootstrap.iter().map(|address| (*address).into()).collect();
        set(table, "network", "bootstrap", bootstrap);
    });
}

#[test]
fn a_folder_is_set_up_once_and_a_bad_join_line_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let first = init(&dir.path().join("a"), &[]).ok();
    assert!(first.stdout.contains("quorate1-join:"), "{}", first.stdout);
    init(&dir.path().join("a"), &[]).fails(1, &["already"]);
    init(&dir.path().join("b"), &["--join", "quorate1-join:zz@nowhere"]).fails(2, &["join"]);
    quorate(&["node", "--dir", dir.path().join("none").to_str().unwrap()]).fails(1, &["quorate init"]);
}

#[test]
fn a_bad_configuration_names_file_key_and_range() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("a");
    init(&node, &[]).ok();
    let good = std::fs::read_to_string(node.join("quorate.toml")).unwrap();
    let run = |text: &str| {
        std::fs::write(node.join("quorate.toml"), text).unwrap();
        quorate(&["node", "--dir", node.to_str().unwrap()])
    };
    configure(&node, |table| set(table, "quorum", "voters", 4711));
    let text = std::fs::read_to_string(node.join("quorate.toml")).unwrap();
    run(&text).fails(1, &["quorate.toml", "voters", "7"]);
    run(&format!("colour = \"blue\"\n{good}")).fails(1, &["quorate.toml", "colour"]);
    run("[network\nlisten").fails(1, &["quorate.toml"]);
    run(&String::from_utf8_lossy(&content(4096, 3))).fails(1, &["quorate.toml"]);
}

/// Goal: strangers are told why they stay out, and a network is not disturbed by them.
#[test]
fn a_wrong_secret_a_garbage_bootstrap_and_a_second_node_on_one_folder_are_explained() {
    let net = Net::up(3);
    let listen = net.testnet.layout().node(1).unwrap().listen.clone();

    let stranger = net.dir.path().join("stranger");
    init(&stranger, &[]).ok();
    loopback(&stranger, &[&listen]);
    let hand = Hand::start(&stranger);
    hand.waits_for_log("secret");
    drop(hand);

    let lost = net.dir.path().join("lost");
    init(&lost, &[]).ok();
    loopback(&lost, &["127.0.0.1:1"]);
    let hand = Hand::start(&lost);
    hand.waits_for_log("127.0.0.1:1");
    drop(hand);

    let garbled = net.dir.path().join("garbled");
    init(&garbled, &[]).ok();
    loopback(&garbled, &["not an address"]);
    let (code, log) = Hand::start(&garbled).ends();
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("bootstrap") && log.contains("not an address"), "{log}");

    let (code, log) = Hand::start(&net.testnet.node_dir(2)).ends();
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("node-2"), "{log}");
    assert_eq!(
        net.get(2, "/v1/peers")["items"].as_array().unwrap().iter().filter(|peer| peer["connected"] == true).count(),
        2
    );
}

#[test]
fn too_few_peers_for_a_profile_says_how_many_there_are_and_what_would_fit() {
    let net = Net::up(4);
    let file = net.file("data", MIB, 1);
    let file = file.to_str().unwrap();
    net.at(1, &["object", "put", file, "--profile", "4+2"]).fails(1, &["4 ", "6", "2+2"]);
    net.at(1, &["object", "put", file, "--profile", "4711"]).fails(2, &["4+2"]);
    // Without a demand the profile steps down to what fits.
    assert_eq!(net.at(1, &["object", "put", file, "--json"]).json()["profile"], "2+2");
    for node in [2, 3, 4] {
        net.testnet(&["kill", &node.to_string()]).ok();
    }
    net.at(1, &["object", "put", file]).fails(1, &["peer"]);
}

/// Goal: rot on disk and a lost disk cost nothing that k columns can replace, and are named.
#[test]
fn a_flipped_byte_and_a_wiped_disk_lose_nothing() {
    let net = Net::up(7);
    let size = 20 * MIB;
    let file = net.file("data", size, 9);
    let put = net.put(1, &file);
    let object = put["object"].as_str().unwrap().to_owned();

    // Flip a byte in every piece of one holder's column; the disk lost below may be a second. The profile misses two.
    let holders: Vec<usize> = put["columns"].as_array().unwrap()[..1]
        .iter()
        .map(|column| net.testnet.index_of(column["holder"].as_str().unwrap().parse().unwrap()).unwrap())
        .collect();
    let mut flipped = 0;
    for holder in &holders {
        for path in pieces(&net.testnet.node_dir(*holder)) {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            flipped += 1;
        }
    }
    assert!(flipped >= 2, "the test found only {flipped} pieces to damage");
    let reader = (1..=7).find(|node| !holders.contains(node)).unwrap();
    assert!(net.read(reader, &object) == content(size, 9), "the object read over damaged pieces differs");
    let log = std::fs::read_to_string(net.testnet.log_file(reader)).unwrap();
    let named = net.testnet.peer_id(holders[0]).unwrap().to_string();
    assert!(log.contains(&named), "the reader's log names no damaged holder:\n{log}");

    // The reader told the steward, which looked for itself and had the column rebuilt elsewhere.
    wait("the damaged column to be whole again", || {
        let shown = net.at(reader, &["object", "show", &object, "--json"]).json();
        let column = &shown["columns"][0];
        let whole = column["state"] == "confirmed" && shown["owed"].as_array().unwrap().is_empty();
        (column["holder"] != named.as_str() && whole).then_some(())
    });

    // A member of the quorum loses its disk but keeps its identity: it must not vote as the one it was.
    let quorum = put["quorum"].as_str().unwrap();
    let primary = net.primary(reader, quorum);
    let backup = (1..=7)
        .find(|node| {
            let peer = net.testnet.peer_id(*node).unwrap().to_string();
            *node != primary
                && *node != reader
                && net.at(reader, &["quorum", "show", quorum, "--json"]).json()["members"].to_string().contains(&peer)
        })
        .unwrap();
    net.testnet.kill(backup).unwrap();
    for entry in std::fs::read_dir(net.testnet.node_dir(backup)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    net.restart(backup);
    assert!(net.read(reader, &object) == content(size, 9), "the object read after a lost disk differs");
    let file = net.file("more", MIB, 10);
    let more = net.put(reader, &file);
    assert!(net.read(backup, more["object"].as_str().unwrap()) == content(MIB, 10));
}

/// All piece files below a node's folder: the large files outside the record store.
fn pieces(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.join("pieces")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found
}

/// Goal: a record store cut short is refused with a clear error, and the network goes on without the node.
#[test]
fn a_truncated_record_store_is_refused_and_nothing_acknowledged_is_lost() {
    let net = Net::up(5);
    let file = net.file("data", MIB, 4);
    let put = net.put(1, &file);
    let object = put["object"].as_str().unwrap();
    let primary = net.primary(1, put["quorum"].as_str().unwrap());
    net.testnet.kill(primary).unwrap();
    let mut cut = 0;
    let mut folders = vec![net.testnet.node_dir(primary)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "db") {
                let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                file.set_len(file.metadata().unwrap().len() / 3).unwrap();
                cut += 1;
            }
        }
    }
    assert_eq!(cut, 1, "one record store was cut");
    // The node may refuse to start, or start having noticed that its memory is gone: either is safe, silence is not.
    let outcome = net.runtime.block_on(async { net.testnet.restart(primary).await });
    let log = std::fs::read_to_string(net.testnet.log_file(primary)).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    if outcome.is_err() {
        assert!(log.to_lowercase().contains("damaged") || log.to_lowercase().contains("lost"), "{log}");
    }
    let reader = if primary == 1 { 2 } else { 1 };
    assert!(net.read(reader, object) == content(MIB, 4));
}
