//! A user's tour, through the built binary: start a testnet, look around, store, read, break, read again.

mod support;

use serde_json::Value;
use support::{Net, content, quorate, wait};

const MIB: usize = 1024 * 1024;

/// Without the machine's list of authorities, which it may not have.
fn plain_client() -> reqwest::Client {
    reqwest::Client::builder().tls_certs_only([]).build().expect("a plain client")
}

/// Goal: the whole of the README's tour works. Method: one seven-node testnet, every command of the tour, in order.
#[test]
fn a_file_put_on_one_node_reads_back_from_another_after_its_primary_was_killed() {
    let net = Net::up(7);

    // Everyone sees everyone, by either form of the command, and says the same of each.
    for node in 1..=7 {
        let peers = net.at(node, &["peers", "--json"]).json();
        let peers = peers.as_array().unwrap();
        assert!(peers.iter().filter(|peer| peer["connected"] == true).count() >= 6, "{peers:?}");
        for field in ["peer", "name", "addresses", "connected", "rtt_ms", "roles", "free", "quorums", "last_seen_at"] {
            assert!(peers[0].get(field).is_some(), "peers --json has no {field}");
        }
    }
    // A person reads names and short ids.
    let whole = net.testnet.peer_id(1).unwrap().to_string();
    let told = net.at(3, &["peers"]).ok().stdout;
    assert!(told.contains("node-1") && told.contains(&whole[8..16]) && !told.contains(&whole), "{told}");
    let flag = net.at(3, &["--peers", "--full-ids"]).ok().stdout;
    assert!(flag.contains(&net.testnet.peer_id(1).unwrap().to_string()), "{flag}");

    let file = net.file("data", 40 * MIB + 12_345, 1);
    let put = net.put(1, &file);
    assert_eq!(put["bytes"], 40 * MIB + 12_345);
    assert_eq!(put["profile"], "4+2");
    assert_eq!(put["degraded"], false);
    let holders: std::collections::BTreeSet<&str> =
        put["columns"].as_array().unwrap().iter().map(|column| column["holder"].as_str().unwrap()).collect();
    assert_eq!(holders.len(), 6, "every column has a holder of its own: {put}");
    let (object, job, quorum) =
        (put["object"].as_str().unwrap(), put["job"].as_str().unwrap(), put["quorum"].as_str().unwrap());

    assert!(net.read(6, object) == content(40 * MIB + 12_345, 1), "the object read at node 6 differs");
    let listed = net.at(5, &["object", "ls", "--json"]).json();
    assert!(listed.to_string().contains(object), "{listed}");
    let shown = net.at(4, &["object", "show", object, "--json"]).json();
    assert_eq!(shown["bytes"], 40 * MIB + 12_345);

    // A range, across a segment's border.
    let out = net.dir.path().join("range");
    let range = format!("{}-{}", 16 * MIB - 10, 16 * MIB + 9);
    net.at(2, &["object", "get", object, "--range", &range, "-o", out.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(&out).unwrap(), content(40 * MIB, 1)[16 * MIB - 10..16 * MIB + 10]);

    // The run behind it.
    let shown = net.at(2, &["job", "show", job, "--json"]).json();
    assert_eq!(shown["state"], "succeeded");
    assert_eq!(shown["kind"], "store");
    for field in ["job", "quorum", "primary", "created_at", "finished_at", "why"] {
        assert!(shown.get(field).is_some(), "job show --json has no {field}");
    }
    assert!(net.at(7, &["job", "ls", "--json"]).json().to_string().contains(job));
    assert_eq!(net.at(7, &["job", "wait", job, "--json"]).json()["state"], "succeeded");
    assert!(!net.at(7, &["job", "history", job, "--json"]).json().as_array().unwrap().is_empty());
    let rows = net.at(3, &["quorum", "ls", "--json"]).json();
    let row = rows.as_array().unwrap().iter().find(|row| row["quorum"] == quorum).unwrap().clone();
    assert_eq!(row["members"].as_array().unwrap().len(), 3, "{row}");
    // On whose word it rests that the object is kept: that of one voter, by its name, and the voters answer for it.
    let by = &put["acknowledged_by"];
    let set = |of: &Value| -> std::collections::BTreeSet<String> {
        of.as_array().unwrap().iter().map(|peer| peer.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(set(&by["voters"]), set(&row["members"]), "{put}");
    assert!(set(&by["voters"]).contains(by["peer"].as_str().unwrap()), "{put}");
    assert!(by["name"].as_str().unwrap().starts_with("node-"), "{put}");
    assert!(net.at(3, &["--quorums"]).ok().stdout.contains(&quorum[..8]));
    // Short ids are taken back, as tables show them and shorter.
    let told = net.at(4, &["object", "ls"]).ok().stdout;
    assert!(told.contains(&object[33..41]) && !told.contains(object), "{told}");
    net.at(4, &["object", "show", &object[33..41]]).ok();
    net.at(3, &["quorum", "show", &quorum[..4]]).ok();
    let told = net.at(6, &["job", "show", &job[33..37]]).ok().stdout;
    assert!(told.contains(&format!("node-1 {}", &whole[8..16])), "{told}");
    assert_eq!(net.at(6, &["job", "ls", "--owner", &whole[8..16], "--json"]).json()[0]["job"], job);

    // The primary dies; another takes over in a later term, and everything is still there.
    let primary = net.primary(3, quorum);
    net.testnet(&["kill", &primary.to_string()]).ok();
    let watcher = if primary == 3 { 4 } else { 3 };
    let next = wait("another primary", || Some(net.primary(watcher, quorum)).filter(|next| *next != primary));
    let term = |node: usize| -> u64 {
        let rows = net.at(node, &["quorum", "ls", "--json"]).json();
        rows.as_array().unwrap().iter().find(|row| row["quorum"] == quorum).unwrap()["term"].as_u64().unwrap()
    };
    assert!(term(next) > row["term"].as_u64().unwrap());
    assert!(net.read(watcher, object) == content(40 * MIB + 12_345, 1), "the object read after the kill differs");
    let status: Value = net.testnet(&["status", "--json"]).json();
    let states: Vec<&str> =
        status["nodes"].as_array().unwrap().iter().map(|node| node["state"].as_str().unwrap()).collect();
    assert_eq!(states.iter().filter(|state| **state == "running").count(), 6, "{status}");
    net.testnet(&["restart", &primary.to_string()]).ok();

    // Removed is gone, everywhere; only the owner or an operator may.
    net.at(1, &["object", "rm", object]).ok();
    let out = net.dir.path().join("gone");
    net.at(5, &["object", "get", object, "-o", out.to_str().unwrap()]).fails(1, &["object"]);
    assert!(!out.exists(), "a failed get leaves no file");
}

/// Goal: objects of every awkward size read back. Method: sizes around the borders of pieces and segments.
#[test]
fn objects_of_every_size_read_back() {
    let net = Net::up(6);
    let segment = 16 * MIB;
    for (position, size) in
        [0, 1, 63, 64 * 1024, 64 * 1024 + 1, MIB, segment - 1, segment, segment + 1].into_iter().enumerate()
    {
        let seed = 100 + position as u64;
        let file = net.file(&format!("size-{size}"), size, seed);
        let put = net.put(1 + position % 6, &file);
        let object = put["object"].as_str().unwrap();
        assert!(net.read(1 + (position + 3) % 6, object) == content(size, seed), "an object of {size} bytes differs");
    }
    // The same file again is the same object, or an equal one: it reads back either way.
    let file = net.file("again", MIB, 7);
    for node in [1, 2] {
        let put = net.put(node, &file);
        assert!(net.read(5, put["object"].as_str().unwrap()) == content(MIB, 7));
    }
}

/// Goal: what a person gets wrong gets an answer that helps, and the right exit code.
#[test]
fn mistakes_get_clear_answers() {
    let net = Net::up(4);
    let missing = format!("{}.{}", "ab".repeat(16), "cd".repeat(32));
    net.at(1, &["object", "get", &missing, "-o", "/dev/null"]).fails(1, &["quorum"]);
    net.at(1, &["object", "get", "nonsense", "-o", "/dev/null"]).fails(2, &["nonsense"]);
    net.at(1, &["job", "show", &format!("{}.{}", "ab".repeat(16), "cd".repeat(16))]).fails(1, &["quorum"]);
    net.at(1, &["object", "put", "/no/such/file"]).fails(1, &["/no/such/file"]);
    net.at(9, &["peers"]).fails(2, &["node 9", "1 to 4"]);
    quorate(&["peers", "--node", "http://127.0.0.1:1"]).fails(3, &["no node answers"]);
    quorate(&["object"]).fails(2, &["usage"]);
    quorate(&["frobnicate"]).fails(2, &["frobnicate"]);
    net.testnet(&["kill", "9"]).fails(1, &["no node 9"]);
    net.testnet(&["resume", "1"]).fails(1, &["running"]);
    net.testnet(&["up", "--nodes", "3"]).fails(1, &["testnet down"]);

    // Someone without the token, with a wrong one, from a web page, or by another name.
    let base = net.client(1).base().to_owned();
    let token = std::fs::read_to_string(net.testnet.node_dir(1).join("api.token")).unwrap();
    let ask = |change: &dyn Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder| {
        let request = change(plain_client().get(format!("{base}/v1/peers")));
        net.runtime.block_on(request.send()).unwrap().status().as_u16()
    };
    assert_eq!(ask(&|request| request), 401);
    assert_eq!(ask(&|request| request.bearer_auth("wrong")), 401);
    assert_eq!(ask(&|request| request.bearer_auth(token.trim())), 200);
    assert_eq!(ask(&|request| request.bearer_auth(token.trim()).header("origin", "http://evil.example")), 403);
    assert_eq!(ask(&|request| request.bearer_auth(token.trim()).header("host", "evil.example")), 403);

    // Routes: unknown, malformed, oversized.
    let post = |path: &str, body: Vec<u8>| {
        let request = plain_client().post(format!("{base}{path}")).bearer_auth(token.trim()).body(body);
        net.runtime.block_on(request.send()).unwrap().status().as_u16()
    };
    assert_eq!(post("/v1/nothing", Vec::new()), 404);
    assert!((400..500).contains(&post("/v1/jobs/zz/cancel", b"{".to_vec())));

    // Bytes that are no handshake, at the peer port: the node goes on.
    let listen: std::net::SocketAddr = net.testnet.layout().node(1).unwrap().listen.parse().unwrap();
    for garbage in [vec![0u8; 70_000], b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 3]] {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(listen).unwrap();
        // The node may hang up in the middle of it.
        let _ = stream.write_all(&garbage);
    }
    net.at(1, &["peers"]).ok();
}

/// Goal: a pipe that closes early, a file that is tiny and a command that was forgotten all end as a user expects, and
/// a testnet is driven from the command line alone.
#[test]
fn what_a_user_does_by_hand_ends_quietly() {
    use std::io::Read;
    use std::process::Stdio;
    let forgotten = quorate::<&str>(&[]).fails(2, &["usage", "testnet"]);
    assert!(!forgotten.stderr.contains("error"), "{}", forgotten.stderr);

    let net = Net::up(3);
    let tiny = net.file("tiny", 6, 21);
    let told = net.at(1, &["object", "put", tiny.to_str().unwrap()]).ok().stdout;
    assert!(!told.contains("MB/s"), "{told}");

    let file = net.file("data", 20 * MIB, 22);
    let put = net.put(2, &file);
    let object = put["object"].as_str().unwrap();
    let mut command = support::command();
    command.env("QUORATE_TESTNET_DIR", net.testnet.dir()).args(["object", "get", object, "--node", "1"]);
    let mut reading = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    reading.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = reading.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    assert_eq!(first[0], content(20 * MIB, 22)[0]);

    net.testnet(&["pause", "3"]).ok();
    let status = net.testnet(&["status", "--json"]).json();
    assert_eq!(status["nodes"][2]["state"], "paused", "{status}");
    net.testnet(&["resume", "3"]).ok();
    net.testnet(&["kill", "3"]).ok();
    net.testnet(&["restart", "3"]).ok();
    assert!(net.read(3, object) == content(20 * MIB, 22));

    net.at(2, &["object", "rm", object]).ok();
    net.at(3, &["object", "get", object, "-o", "/dev/null"]).fails(1, &["no object"]);
}
