//! A node under other users of its machine: connections that say nothing useful, and folders that anybody may read.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_testnet::ClientError;
use support::{Net, wait};

/// Connections of each kind.
const FLOOD: usize = 2_000;

/// The end of a head, and the beginning of the body that it promises.
const PART_OF_A_BODY: &str = "content-type: application/json\r\ncontent-length: 1000\r\n\r\n{";

/// What a caller with the token waits at most while others flood the node.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What may stay of all floods' memory: the allocator keeps what their connections took once.
const LEFT_BYTES_MAX: u64 = 24 << 20;

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the node runs").count()
}

fn rss_bytes(pid: u32) -> u64 {
    quorate_testnet::process::rss_bytes(pid).expect("the node runs")
}

/// Goal: whatever connections do, with or without the token, the command line and a scrape are answered, and what was
/// taken comes back. Method: a real node with its own deadlines, a flood of each kind, and an asker beside it.
#[test]
fn floods_of_connections_keep_nobody_from_a_node_and_leave_nothing() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("a process may raise it so far");
    let net = Net::up(3);
    let client = net.client(1);
    let pid = net.get(1, "/v1/node")["pid"].as_u64().expect("a process id") as u32;
    let address = client.base().strip_prefix("http://").expect("plain HTTP").to_owned();
    let token = std::fs::read_to_string(net.testnet.node_dir(1).join("api.token")).expect("it has a token");
    let head = |request: &str, token: &str| {
        format!("{request} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n")
    };
    let token = token.trim();
    let kinds = [
        ("idle", String::new()),
        ("half a head", "GET /v1/node HT".to_owned()),
        ("part of a body, no token", head("POST /v1/events", "wrong") + PART_OF_A_BODY),
        ("no body, no token", head("POST /v1/objects", "wrong") + "content-length: 999000000000\r\n\r\n"),
        ("idle after an answer", head("GET /v1/node", token) + "\r\n"),
        ("part of a body", head("POST /v1/events", token) + PART_OF_A_BODY),
        ("events", head("GET /v1/events", token) + "\r\n"),
    ];
    // On a machine that is busy with more than the flood a request may come too late behind its connection. It is told
    // so, and asks again at once.
    let answer = |path: &str, began: Instant| loop {
        match net.runtime.block_on(net.client(1).text(path)) {
            Ok(text) => return text,
            Err(ClientError::Refused { status: 429, .. }) if began.elapsed() < ANSWER_MAX => (),
            Err(error) => panic!("{path}: {error}"),
        }
    };
    let ask = || {
        let began = Instant::now();
        answer("/v1/peers", began);
        let metrics = answer("/metrics", began);
        assert!(
            metrics.contains("quorate_api_connections_closed_total") || metrics.contains("quorate_api_connections")
        );
        began.elapsed() / 2
    };
    ask();
    let (descriptors_before, rss_before) = (descriptors(pid), rss_bytes(pid));
    for (kind, bytes) in kinds {
        let is_open = AtomicBool::new(false);
        let (open, slowest) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let open: Vec<TcpStream> = (0..FLOOD)
                    .map(|_| {
                        let mut stream = TcpStream::connect(&address).expect("the node listens");
                        // It may have been closed already.
                        let _ = stream.write_all(bytes.as_bytes());
                        stream
                    })
                    .collect();
                is_open.store(true, Ordering::Relaxed);
                open
            });
            let mut slowest = ask();
            while !is_open.load(Ordering::Relaxed) {
                slowest = slowest.max(ask());
            }
            (flood.join().expect("the flood ends"), slowest)
        });
        net.at(1, &["peers"]).ok();
        println!("{kind}: slowest answer {slowest:?}, {} descriptors, {} MiB", descriptors(pid), rss_bytes(pid) >> 20);
        assert!(slowest < ANSWER_MAX, "{kind}: an answer took {slowest:?}");
        drop(open);
        wait("descriptors and memory to come back", || {
            let (descriptors, rss) = (descriptors(pid), rss_bytes(pid));
            (descriptors <= descriptors_before + 16 && rss <= rss_before + LEFT_BYTES_MAX).then_some(())
        });
    }
}

/// Goal: a client that sends half a head is told why it was cut off, by the deadline of a real node.
#[test]
fn half_a_head_is_answered() {
    let net = Net::up(3);
    let client = net.client(1);
    let mut stream = TcpStream::connect(client.base().strip_prefix("http://").unwrap()).unwrap();
    stream.write_all(b"GET /v1/node HTTP/1.1\r\n").unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("too-slow"), "{told}");
}

/// All that is in a folder and below, with its permissions.
fn modes(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        found.push((folder.clone(), std::fs::metadata(&folder).expect("it is there").permissions().mode() & 0o777));
        for entry in std::fs::read_dir(&folder).expect("it can be read") {
            let entry = entry.expect("it can be read");
            // A node that runs removes files.
            let Ok(metadata) = entry.metadata() else { continue };
            match metadata.is_dir() {
                true => folders.push(entry.path()),
                false => found.push((entry.path(), metadata.permissions().mode() & 0o777)),
            }
        }
    }
    found
}

/// Goal: no file of a node can be read by others, whoever made its folder. Method: everything below the folders of
/// nodes that store and run, and a folder that was opened while its node was down.
#[test]
fn nobody_but_its_owner_reads_a_data_folder() {
    let net = Net::up(3);
    let file = net.file("data", 1 << 20, 5);
    net.put(1, &file);
    let spec = net.dir.path().join("job.toml");
    std::fs::write(&spec, "engine = \"command\"\nprogram = \"nobody\"\n").unwrap();
    net.at(2, &["job", "submit", spec.to_str().unwrap(), "--detach"]).ok();
    for node in 1..=3 {
        let mut found = modes(&net.testnet.node_dir(node));
        // The testnet's own, with a process id.
        found.retain(|(path, _)| !path.ends_with("process.json"));
        for part in ["records", "pieces", "node.log", "api.token"] {
            assert!(found.iter().any(|(path, _)| path.iter().any(|name| name == part)), "{part} of node {node}");
        }
        for (path, mode) in found {
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:03o}", path.display());
        }
    }
    net.testnet(&["kill", "1"]).ok();
    let dir = net.testnet.node_dir(1);
    let opened = [dir.clone(), dir.join("records"), dir.join("pieces"), dir.join("node.log")];
    for path in &opened {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    net.restart(1);
    for path in &opened {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:03o}", path.display());
    }
    let log = std::fs::read_to_string(dir.join("node.log")).unwrap();
    assert!(log.contains("others could read this"), "{log}");
    // One that is somebody else's is not closed but refused.
    let shared = net.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("diary"), "dear").unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o755)).unwrap();
    support::quorate(&["init", "--dir", shared.to_str().unwrap()]).fails(1, &["holds other files", "chmod"]);
}
