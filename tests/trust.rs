//! Trust in a network that has an authority: who is not admitted becomes no member, and may use the network; and what
//! becomes of what a peer has when its admission ends.

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Net, Ran, content, quorate, wait, wait_within};

const HELLO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hello.toml");

/// A network whose nodes rely on those that an authority admits, of whom there are none yet.
struct Office {
    net: Net,
    /// Where the authority's key is.
    dir: String,
    authority: String,
    /// For others that join.
    join: String,
    _folder: tempfile::TempDir,
}

impl Office {
    fn open(nodes: usize, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("office").to_str().unwrap().to_owned();
        let made = quorate(&["init", "--authority", "--dir", &dir, "--json"]).json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (authority, join) = (text(&made["authorities"][0]), text(&made["join"]));
        let net = Net::with(nodes, |options| {
            let authorities = toml::Value::Array(vec![toml::Value::String(authority.clone())]);
            options.settings.push(("network.authorities".to_owned(), authorities));
            options.settings.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())));
        });
        Self { net, dir, authority, join, _folder: folder }
    }

    fn peer(&self, node: usize) -> String {
        self.net.testnet.peer_id(node).unwrap().to_string()
    }

    /// The admission of a node for this long, as a line.
    fn line(&self, node: usize, lasts: &str) -> String {
        let admitted = quorate(&["admit", &self.peer(node), "--for", lasts, "--dir", &self.dir, "--json"]).json();
        admitted["admission"].as_str().unwrap().to_owned()
    }

    fn install(&self, line: &str, node: usize) -> Ran {
        let dir = self.net.testnet.node_dir(node);
        quorate(&["admit", "--install", line, "--dir", dir.to_str().unwrap()])
    }

    /// Admits the node, from its next start, which is now.
    fn admit(&self, node: usize, lasts: &str) {
        self.install(&self.line(node, lasts), node).ok();
        self.net.restart(node);
    }
}

/// Goal: the join line alone gets a peer into no quorum; an admission does, from the next start. Method: real nodes
/// that name an authority, first none of them admitted, then all but one.
#[test]
fn only_admitted_peers_become_members() {
    let office = Office::open(5, &[]);
    let Office { net, dir, authority, join, .. } = &office;
    let peer = |node: usize| office.peer(node);

    net.at(1, &["job", "submit", HELLO, "--detach"]).fails(1, &["trusted peers", "admission"]);
    let log = std::fs::read_to_string(net.testnet.log_file(1)).unwrap();
    assert!(log.contains("quorate admit"), "{log}");

    office.install(&office.line(2, "30d"), 1).fails(1, &["another peer", &format!("quorate admit {}", peer(1))]);
    for node in 1..=4 {
        office.admit(node, "30d");
    }
    wait("a quorum of those that are admitted", || {
        let ran = net.at(1, &["job", "submit", HELLO, "--detach"]);
        (ran.code == 0).then_some(())
    });
    // The one that is not admitted uses the network all the same.
    let job = net.at(5, &["job", "submit", HELLO, "--detach"]).ok().stdout.trim().to_owned();
    net.at(5, &["job", "wait", &job]).ok();
    let members = || -> Vec<String> {
        let quorums = net.get(1, "/v1/quorums");
        let quorums = quorums["items"].as_array().cloned().unwrap_or_default();
        let members = |quorum: &Value| quorum["members"].as_array().cloned().unwrap_or_default();
        quorums.iter().flat_map(members).map(|member| member.to_string()).collect()
    };
    assert!(members().iter().any(|member| (1..=4).any(|node| member.contains(&peer(node)))), "{:?}", members());
    // A member that dies is replaced by the fourth of them, never by the fifth.
    net.testnet(&["kill", "2"]).ok();
    for _ in 0..3 {
        net.at(5, &["job", "submit", HELLO]).ok();
        assert!(!members().iter().any(|member| member.contains(&peer(5))), "{:?}", members());
    }

    quorate(&["admit", &peer(1), "--dir", net.testnet.node_dir(1).to_str().unwrap()]).fails(1, &["authority.key"]);
    quorate(&["admit", &peer(1), "--for", "1s", "--dir", dir]).fails(2, &["a minute to ten years"]);
    quorate(&["admit", "--dir", dir]).fails(2, &["--install"]);
    // The line for others carries the authority, and says what they need.
    let third = tempfile::tempdir().unwrap();
    let third = third.path().join("third");
    let joined = quorate(&["init", "--join", join, "--dir", third.to_str().unwrap()]).ok();
    assert!(joined.stdout.contains("quorate admit --install"), "{}", joined.stdout);
    assert!(std::fs::read_to_string(third.join("quorate.toml")).unwrap().contains(authority));
}

/// Goal: what a peer has when its admission ends goes to others, while it is there: its column is made anew elsewhere,
/// its membership is another's, and the object is whole without it. Method: real nodes, all admitted; one that holds a
/// column and is a member is admitted anew, for a minute.
#[test]
fn what_a_peer_has_moves_when_its_admission_ends() {
    let office = Office::open(5, &[("quorum.replace_grace", "10s"), ("objects.repair_interval", "1s")]);
    let net = &office.net;
    (1..=5).for_each(|node| office.admit(node, "30d"));
    let get = |path: &str| net.runtime.block_on(net.client(1).get::<Value>(path)).ok();
    let members = |quorum: &str| -> Option<Vec<String>> {
        let quorum = get(&format!("/v1/quorums/{quorum}"))?;
        quorum["members"].as_array()?.iter().map(|member| member.as_str().map(str::to_owned)).collect()
    };
    // Each column's holder, once all of them are confirmed.
    let holders = |object: &str| -> Option<Vec<String>> {
        let shown = net.at(1, &["object", "show", object, "--json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).ok()?;
        let columns = shown["columns"].as_array()?.iter();
        let holder = |column: &Value| column["holder"].as_str().map(str::to_owned);
        columns.map(|column| holder(column).filter(|_| column["state"] == "confirmed")).collect()
    };
    let bytes = 300 * 1024;
    let (object, quorum, seed, gone) = (1..20)
        .find_map(|seed| {
            let file = net.file(&format!("file-{seed}"), bytes, seed);
            let put = wait("a put", || {
                let put = net.at(1, &["object", "put", file.to_str().unwrap(), "--profile", "2+1", "--json"]);
                serde_json::from_str::<Value>(&put.stdout).ok().filter(|_| put.code == 0)
            });
            let text = |key: &str| put[key].as_str().unwrap().to_owned();
            let (object, quorum) = (text("object"), text("quorum"));
            let holders = wait("the columns to be confirmed", || holders(&object));
            let members = wait("the members", || members(&quorum));
            let both = |node: &usize| [&holders, &members].iter().all(|peers| peers.contains(&office.peer(*node)));
            Some((object, quorum, seed, (2..=5).find(both)?))
        })
        .expect("a node that holds a column of an object and is a member of its quorum");
    let peer = office.peer(gone);

    let admitted = Instant::now();
    office.admit(gone, "1m");
    let patience = Duration::from_secs(240);
    wait_within(patience, "its column to be elsewhere", || {
        holders(&object).filter(|holders| holders.len() == 3 && !holders.contains(&peer))
    });
    wait_within(patience, "another member in its place", || {
        members(&quorum).filter(|members| members.len() == 3 && !members.contains(&peer))
    });
    assert!(admitted.elapsed() >= Duration::from_secs(60), "its time was not over");
    // It finds that out, and uses the network as before.
    wait_within(patience, "it to be a member of nothing", || {
        let node = net.runtime.block_on(net.client(gone).get::<Value>("/v1/node")).ok()?;
        (node["quorums"] == 0).then_some(())
    });
    assert!(net.read(gone, &object) == content(bytes, seed));
    net.testnet(&["kill", &gone.to_string()]).ok();
    assert!(net.read(1, &object) == content(bytes, seed), "nothing of it is needed any more");
    net.at(1, &["job", "submit", HELLO]).ok();
}
