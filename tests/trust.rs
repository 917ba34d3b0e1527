//! Trust in a network that has an authority: who is not admitted becomes no member, and may use the network.

mod support;

use serde_json::Value;
use support::{Net, quorate, wait};

const HELLO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hello.toml");

/// Goal: the join line alone gets a peer into no quorum; an admission does, from the next start. Method: real nodes
/// that name an authority, first none of them admitted, then all but one.
#[test]
fn only_admitted_peers_become_members() {
    let office = tempfile::tempdir().unwrap();
    let office = office.path().join("office");
    let office = office.to_str().unwrap();
    let made = quorate(&["init", "--authority", "--dir", office, "--json"]).json();
    let authority = made["authorities"][0].as_str().unwrap().to_owned();
    let authorities = toml::Value::Array(vec![toml::Value::String(authority.clone())]);
    let net = Net::with(5, |options| options.settings.push(("network.authorities".to_owned(), authorities)));
    let peer = |node: usize| net.testnet.peer_id(node).unwrap().to_string();

    net.at(1, &["job", "submit", HELLO, "--detach"]).fails(1, &["trusted peers", "admission"]);
    let log = std::fs::read_to_string(net.testnet.log_file(1)).unwrap();
    assert!(log.contains("quorate admit"), "{log}");

    let line = |node: usize| {
        let admitted = quorate(&["admit", &peer(node), "--for", "30d", "--dir", office, "--json"]).json();
        admitted["admission"].as_str().unwrap().to_owned()
    };
    let install = |line: &str, node: usize| {
        let dir = net.testnet.node_dir(node);
        quorate(&["admit", "--install", line, "--dir", dir.to_str().unwrap()])
    };
    install(&line(2), 1).fails(1, &["another peer", &format!("quorate admit {}", peer(1))]);
    for node in 1..=4 {
        install(&line(node), node).ok();
        net.restart(node);
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
    quorate(&["admit", &peer(1), "--for", "1s", "--dir", office]).fails(2, &["a minute to ten years"]);
    quorate(&["admit", "--dir", office]).fails(2, &["--install"]);
    // The line for others carries the authority, and says what they need.
    let third = tempfile::tempdir().unwrap();
    let third = third.path().join("third");
    let joined = quorate(&["init", "--join", made["join"].as_str().unwrap(), "--dir", third.to_str().unwrap()]).ok();
    assert!(joined.stdout.contains("quorate admit --install"), "{}", joined.stdout);
    assert!(std::fs::read_to_string(third.join("quorate.toml")).unwrap().contains(&authority));
}
