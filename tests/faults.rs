//! Faults that are injected into running nodes while files go in: a full disk, a clock that is wrong.

mod support;

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use support::{Net, content, wait};

const MIB: usize = 1024 * 1024;

/// Seven nodes whose faults can be switched.
fn faulty_net() -> Net {
    Net::with(7, |options| options.testing = true)
}

/// Sets a fault on a node.
fn inject(net: &Net, node: usize, fault: &str, value: &Value) {
    let client = net.client(node);
    let request = client.request(Method::PUT, "/v1/testing/faults").json(&match fault {
        "clock" => json!({ "clock_offset_ms": value["offset_ms"] }),
        _ => json!({ fault: value }),
    });
    net.runtime.block_on(client.send(request)).expect("the node takes the fault");
}

fn holders(net: &Net, put: &Value) -> Vec<usize> {
    let columns = put["columns"].as_array().expect("columns");
    columns.iter().map(|column| index_of(net, &column["holder"])).collect()
}

fn index_of(net: &Net, peer: &Value) -> usize {
    net.testnet.index_of(peer.as_str().expect("a peer id").parse().expect("a peer id")).expect("a node of the testnet")
}

fn reads_back(net: &Net, node: usize, put: &Value, expected: &[u8]) {
    let object = put["object"].as_str().expect("a reference");
    assert!(net.read(node, object) == expected, "{object} read by node {node} differs");
}

/// Puts while `node`'s disk is full; what came of it.
fn put_with_full_disk(net: &Net, entry: usize, file: &Path, node: usize) -> support::Ran {
    inject(net, node, "disk", &json!({ "full": true }));
    let ran = net.at(entry, &["object", "put", file.to_str().expect("a name"), "--json"]);
    inject(net, node, "disk", &json!({}));
    ran
}

/// Goal: a holder whose disk is full costs its own column and no more. Method: fill the disk of a node that held a
/// column of the last put, put again through another.
#[test]
fn a_holder_whose_disk_is_full_is_left_out_and_nothing_is_lost() {
    let net = faulty_net();
    let before = net.put(1, &net.file("before", MIB, 1));
    let primary = net.primary(1, before["quorum"].as_str().expect("a quorum"));
    let full = holders(&net, &before).into_iter().find(|node| *node != 1 && *node != primary).expect("a holder");
    let size = 20 * MIB;
    let during = put_with_full_disk(&net, 1, &net.file("during", size, 2), full).json();
    assert_eq!(during["bytes"], size);
    assert!(!holders(&net, &during).contains(&full), "node {full} has no room and holds a column all the same");
    reads_back(&net, full, &during, &content(size, 2));
    reads_back(&net, full, &before, &content(MIB, 1));
    // With room again it takes part like any other.
    let after = net.put(full, &net.file("after", MIB, 3));
    reads_back(&net, 1, &after, &content(MIB, 3));
}

/// Waits until every quorum that this node is a member of has a primary as it sees it, and none is paused.
fn takes_part(net: &Net, node: usize) {
    wait("the node takes part again", || {
        let listed = net.at(node, &["quorum", "ls", "--json"]).json();
        let whole = |quorum: &Value| quorum["paused"].is_null() && !quorum["primary"].is_null();
        listed.as_array().expect("quorums").iter().all(whole).then_some(())
    });
}

/// Goal: an entry node whose disk is full stores the file on others or says that its disk is full; with room again it
/// goes on without a restart, and nothing is lost.
#[test]
fn an_entry_node_whose_disk_is_full_goes_on_and_loses_nothing() {
    let net = faulty_net();
    let before = net.put(2, &net.file("before", MIB, 11));
    let size = 18 * MIB;
    let file = net.file("during", size, 12);
    let during = put_with_full_disk(&net, 2, &file, 2);
    if during.code == 0 {
        reads_back(&net, 2, &during.json(), &content(size, 12));
    } else {
        during.fails(1, &["full"]);
    }
    takes_part(&net, 2);
    reads_back(&net, 2, &before, &content(MIB, 11));
    let again = net.put(2, &file);
    reads_back(&net, 5, &again, &content(size, 12));
}

/// Goal: a member whose wall clock is an hour ahead, or behind, neither loses nor refuses anything: leases run on
/// clocks that never step, and the quorum's time never goes back.
#[test]
fn a_clock_that_is_an_hour_wrong_changes_nothing() {
    let net = faulty_net();
    let before = net.put(1, &net.file("before", MIB, 21));
    let quorum = before["quorum"].as_str().expect("a quorum").to_owned();
    let detail = net.at(1, &["quorum", "show", &quorum, "--json"]).json();
    let member = index_of(&net, &detail["members"][0]);
    let primary = net.primary(1, &quorum);
    for (round, (node, offset)) in [(member, 3_600_000), (primary, 3_600_000), (primary, -3_600_000)].iter().enumerate()
    {
        inject(&net, *node, "clock", &json!({ "offset_ms": offset }));
        let seed = 30 + round as u64;
        let put = net.put(*node, &net.file("during", 17 * MIB, seed));
        assert_eq!(put["degraded"], false, "{put}");
        let reader = 1 + node % 7;
        reads_back(&net, reader, &put, &content(17 * MIB, seed));
        reads_back(&net, reader, &before, &content(MIB, 21));
    }
    inject(&net, primary, "clock", &json!({ "offset_ms": 0 }));
    inject(&net, member, "clock", &json!({ "offset_ms": 0 }));
    // Nobody was thought dead for it.
    assert_eq!(net.primary(1, &quorum), primary);
    let time =
        || net.at(1, &["quorum", "show", &quorum, "--json"]).json()["last_entry_at"].as_u64().expect("milliseconds");
    let then = time();
    net.put(3, &net.file("after", MIB, 40));
    wait("the quorum's time", || (time() >= then).then_some(()));
}
