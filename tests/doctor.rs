//! `quorate doctor`: it says what is wrong in a live network, and nothing when nothing is.

mod support;

use serde_json::Value;
use support::{Net, Ran, command, wait};

fn doctor(net: &Net, arguments: &[&str]) -> Ran {
    let mut doctor = command();
    doctor.env("QUORATE_TESTNET_DIR", net.testnet.dir()).arg("doctor").args(arguments);
    doctor.output().expect("the binary runs").into()
}

fn kinds(ran: &Ran) -> Vec<String> {
    let diagnosis: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}{}", ran.stdout, ran.stderr));
    assert_eq!(ran.code == 0, diagnosis["healthy"] == true, "{diagnosis:#}");
    let findings = diagnosis["findings"].as_array().expect("findings");
    findings.iter().map(|finding| finding["kind"].as_str().expect("a kind").to_owned()).collect()
}

fn healthy(net: &Net) {
    wait("the network to be healthy", || (doctor(net, &[]).code == 0).then_some(()));
}

/// Goal: each trouble that a person can make is found, with what to do, and is gone when it is over.
#[test]
fn the_doctor_finds_what_was_broken_and_nothing_else() {
    let net = Net::with(5, |options| options.testing = true);
    let put = net.put(1, &net.file("file", 300_000, 1));
    let primary = net.primary(1, put["quorum"].as_str().expect("a quorum"));
    healthy(&net);
    let ran = doctor(&net, &["--deep"]).ok();
    assert!(ran.stdout.contains("healthy") && ran.stdout.contains("1 object read"), "{}", ran.stdout);
    let one = doctor(&net, &["--node", "2"]).ok();
    assert!(one.stdout.contains("1 node,") && one.stdout.contains("3 members"), "{}", one.stdout);

    net.testnet(&["clock", "2", "-1h"]).ok();
    // One that no quorum needs: a member whose disk is full may have to stop.
    let members = net.at(1, &["quorum", "show", put["quorum"].as_str().expect("a quorum"), "--json"]).json();
    let is_member = |node: &usize| {
        let peer = net.testnet.peer_id(*node).expect("a node").to_string();
        members["members"].as_array().expect("members").iter().any(|member| member == peer.as_str())
    };
    let spare = (1..=5).find(|node| !is_member(node)).expect("three of five are members");
    net.testnet(&["fill", &spare.to_string()]).ok();
    let found = kinds(&doctor(&net, &["--json"]));
    for kind in ["clock", "disk-full", "faults"] {
        assert!(found.iter().any(|found| found == kind), "{kind} is not among {found:?}");
    }
    net.testnet(&["heal"]).ok();
    healthy(&net);

    net.testnet(&["kill", &primary.to_string()]).ok();
    let found = wait("a quorum that is short of a member", || {
        let ran = doctor(&net, &["--json"]);
        let found = kinds(&ran);
        found.iter().any(|kind| kind == "quorum-short").then_some(found)
    });
    assert!(found.iter().any(|kind| kind == "node-down"), "{found:?}");
    let text = doctor(&net, &[]);
    assert_eq!(text.code, 1);
    assert!(text.stdout.contains(&format!("quorate testnet restart {primary}")), "{}", text.stdout);
    // One node alone sees the same from where it is.
    let other = 1 + primary % 5;
    let alone = doctor(&net, &["--node", &other.to_string(), "--json"]);
    wait("the other node to see it", || {
        let found = kinds(&doctor(&net, &["--node", &other.to_string(), "--json"]));
        found.iter().any(|kind| kind == "peer-unreachable").then_some(())
    });
    assert_eq!(alone.code, 1);
    net.testnet(&["restart", &primary.to_string()]).ok();
    healthy(&net);
}

#[test]
fn the_doctor_says_when_there_is_nobody_to_ask() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut doctor = command();
    doctor.env("QUORATE_TESTNET_DIR", folder.path()).env("XDG_DATA_HOME", folder.path()).arg("doctor");
    Ran::from(doctor.output().expect("the binary runs")).fails(3, &["no node answers"]);
}
