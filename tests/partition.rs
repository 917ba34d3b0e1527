//! Faults injected into running nodes through the command line: who goes on, who says that it cannot, and who agrees
//! again afterwards.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Net, content, wait};

fn net(nodes: usize) -> Net {
    Net::with(nodes, |options| options.testing = true)
}

/// The row of a quorum as a node lists it.
fn quorum(net: &Net, node: usize, quorum: &str) -> Value {
    net.at(node, &["quorum", "show", quorum, "--json"]).json()
}

fn members(net: &Net, detail: &Value) -> Vec<usize> {
    let index = |peer: &Value| net.testnet.index_of(peer.as_str()?.parse().ok()?);
    detail["members"].as_array().expect("members").iter().filter_map(index).collect()
}

fn faults(net: &Net, node: usize) -> Value {
    net.testnet(&["status", "--json"]).json()["nodes"][node - 1]["faults"].clone()
}

fn commit(net: &Net, node: usize, quorum: &str) -> Result<Value, String> {
    let client = net.client(node);
    let request = json!({ "quorum": quorum, "count": 1, "outstanding": 1 });
    net.runtime.block_on(client.post("/v1/bench/noop", &request)).map_err(|error| error.to_string())
}

/// What a member has applied, and the digest of it.
fn own(net: &Net, node: usize, quorum: &str) -> Option<(u64, String)> {
    let detail = net.at(node, &["quorum", "show", quorum, "--json"]);
    let detail: Value = serde_json::from_str(&detail.stdout).ok()?;
    Some((detail["own"]["applied"].as_u64()?, detail["own"]["digest"].as_str()?.to_owned()))
}

/// Goal: a primary that is cut off with a minority says that it is paused and accepts nothing, the majority goes on
/// with another, and after `heal` all members have applied the same. A restart does not leak through the partition.
#[test]
fn the_majority_goes_on_the_minority_pauses_and_all_agree_after_healing() {
    let net = net(5);
    let put = net.put(1, &net.file("before", 200_000, 1));
    let id = put["quorum"].as_str().expect("a quorum").to_owned();
    let primary = net.primary(1, &id);
    let members = members(&net, &quorum(&net, 1, &id));
    let backup = *members.iter().find(|member| **member != primary).expect("a backup");
    let said = net.testnet(&["partition", &primary.to_string()]).ok().stdout;
    assert!(said.contains(&format!("nothing passes between {primary} | ")), "{said}");

    let elected = wait("another primary", || {
        let detail = quorum(&net, backup, &id);
        let new = net.testnet.index_of(detail["primary"].as_str()?.parse().ok()?)?;
        (new != primary && detail["paused"].is_null()).then_some(new)
    });
    commit(&net, elected, &id).expect("the majority commits");
    // The profile is named: chosen by the peers that are known, it would count the one that is cut off.
    let file = net.file("during", 300_000, 2);
    let file = file.to_str().expect("a name");
    let during = net.at(elected, &["object", "put", file, "--profile", "2+1", "--json"]).json();
    wait("the minority to say that it is paused", || {
        quorum(&net, primary, &id)["paused"].as_str().map(|reason| assert!(!reason.is_empty()))
    });
    commit(&net, primary, &id).expect_err("a minority commits nothing");
    let status = net.testnet(&["status"]).ok().stdout;
    assert!(status.contains("cut off from"), "{status}");

    // A node that starts again is still cut off.
    net.testnet(&["restart", &primary.to_string()]).ok();
    let active = net.get(primary, "/v1/testing/faults");
    assert_eq!(active["links"].as_array().expect("links").len(), 4, "{active}");
    assert!(active["links"].as_array().unwrap().iter().all(|link| link["cut_to"] == true && link["cut_from"] == true));
    commit(&net, primary, &id).expect_err("a minority commits nothing");

    net.testnet(&["heal"]).ok();
    assert_eq!(faults(&net, primary)["links"], json!([]));
    wait("all members to agree", || {
        let all: Option<Vec<_>> = members.iter().map(|member| own(&net, *member, &id)).collect();
        all.filter(|all| all.iter().all(|own| *own == all[0]) && all[0].0 > 0)
    });
    commit(&net, primary, &id).expect("it is part of the quorum again");
    for (put, bytes, seed) in [(&put, 200_000, 1), (&during, 300_000, 2)] {
        let object = put["object"].as_str().expect("a reference");
        assert!(net.read(primary, object) == content(bytes, seed), "{object} differs");
    }
}

/// Goal: each fault does what it says, `status` shows it, `heal` ends it, and each mistake has its exit code.
#[test]
fn every_fault_is_shown_felt_and_healed() {
    let net = net(3);
    let put = net.put(1, &net.file("file", 100_000, 3));
    let (object, id) = (put["object"].as_str().expect("a reference"), put["quorum"].as_str().expect("a quorum"));

    net.testnet(&["clock", "2", "+1h"]).ok();
    let (ahead, right) =
        (net.get(2, "/v1/node")["answered_at"].as_u64(), net.get(1, "/v1/node")["answered_at"].as_u64());
    assert!(ahead > right.map(|right| right + 3_500_000), "{ahead:?} against {right:?}");
    net.testnet(&["slow", "3", "40ms"]).ok();
    net.testnet(&["corrupt", "1"]).ok();
    // What node 1 has is rotten for it; the others still give it whole.
    assert!(net.read(1, object) == content(100_000, 3));
    net.testnet(&["cut", "1", "2"]).ok();
    net.testnet(&["fill", "3"]).ok();
    assert_eq!(net.get(3, "/v1/resources")["disk_free_bytes"], 0);
    let status = net.testnet(&["status"]).ok().stdout;
    for words in
        ["cannot reach 2", "cannot hear 1", "slow by 40 ms to 1,2", "reads flipped bits", "disk full", "1h ahead"]
    {
        assert!(status.contains(words), "{words:?} is not in:\n{status}");
    }

    // A paused node is healed when it goes on.
    net.testnet(&["pause", "2"]).ok();
    net.testnet(&["heal"]).ok();
    net.testnet(&["resume", "2"]).ok();
    for node in 1..=3 {
        assert_eq!(
            faults(&net, node),
            json!({ "clock_offset_ms": 0, "disk": { "full": false, "flip_bits": false, "sync_delay_ms": 0 }, "lie": false, "links": [] })
        );
        let active = net.get(node, "/v1/testing/faults");
        assert_eq!((&active["clock_offset_ms"], &active["links"]), (&json!(0), &json!([])), "node {node}: {active}");
    }
    wait("a commit through every node", || (1..=3).all(|node| commit(&net, node, id).is_ok()).then_some(()));

    net.testnet(&["partition", "1,2", "2,3"]).fails(2, &["node 2", "two groups"]);
    net.testnet(&["partition", "1,2,3"]).fails(2, &["two sides"]);
    net.testnet(&["partition", "1,x"]).fails(2, &["1,2"]);
    net.testnet(&["cut", "1", "1"]).fails(2, &["two nodes"]);
    net.testnet(&["cut", "1", "9"]).fails(1, &["no node 9", "1 to 3"]);
    net.testnet(&["clock", "1", "1h"]).fails(2, &["+1h"]);
    net.testnet(&["slow", "1", "quick"]).fails(2, &["quick"]);
}

/// Goal: nodes that were not started for testing take no fault, and say what to do.
#[test]
fn plain_nodes_take_no_faults() {
    let net = Net::up(1);
    net.testnet(&["fill", "1"]).fails(1, &["--testing", "--plain"]);
    net.testnet(&["heal"]).fails(1, &["--testing"]);
    assert!(!net.testnet.node_dir(1).join("faults.json").exists());
}

/// Goal: a listing of a node that is cut off says so, soon, and so does one right after the cut is healed: old rows are
/// never shown without a word. Method: a member of the quorum and a node that is none, each cut off while something is
/// stored.
#[test]
fn listings_of_a_node_that_is_cut_off_say_so() {
    let net = net(5);
    let put = net.put(1, &net.file("before", 1_000, 1));
    let id = put["quorum"].as_str().expect("a quorum").to_owned();
    let members = members(&net, &quorum(&net, 1, &id));
    let outsider = (1..=5).find(|node| !members.contains(node)).expect("five nodes, three members");
    let listed = |node: usize, arguments: &[&str]| {
        let began = Instant::now();
        let ran = net.at(node, arguments);
        assert!(began.elapsed() < Duration::from_secs(8), "{arguments:?} took {:?}", began.elapsed());
        ran
    };
    wait("every node to know the object", || {
        let knows = |node| {
            listed(node, &["object", "ls", "--complete", "--full-ids"]).stdout.contains(put["object"].as_str().unwrap())
        };
        (1..=5).all(knows).then_some(())
    });
    for (seed, cut_off) in [(2, net.primary(1, &id)), (3, outsider)] {
        net.testnet(&["partition", &cut_off.to_string()]).ok();
        let other = *members.iter().find(|member| **member != cut_off).expect("another member");
        wait("the others to go on", || commit(&net, other, &id).ok());
        let file = net.file(&format!("during-{seed}"), 1_000, seed);
        let during = net.at(other, &["object", "put", file.to_str().unwrap(), "--quorum", &id, "--json"]).json();
        let object = during["object"].as_str().expect("a reference").to_owned();
        for arguments in [&["object", "ls"][..], &["job", "ls"]] {
            let ran = listed(cut_off, arguments).ok();
            assert!(
                ran.stderr.contains(&id) && ran.stderr.contains("could not be asked"),
                "{arguments:?}: {}",
                ran.stderr
            );
            let complete: Vec<&str> = arguments.iter().copied().chain(["--complete"]).collect();
            listed(cut_off, &complete).fails(1, &["could not be asked", "not complete"]);
        }
        let listing = net.get(cut_off, "/v1/objects");
        let unreachable = &listing["unreachable"][0];
        assert_eq!(unreachable["quorum"], id, "{listing}");
        if members.contains(&cut_off) {
            assert!(unreachable["stale"] == true && unreachable["age_ms"].is_u64(), "{listing}");
            assert!(!listing["items"].as_array().unwrap().is_empty(), "what it has is shown: {listing}");
            for arguments in [&["quorum", "ls", "--complete"][..], &["peers", "--complete"]] {
                let ran = wait("the word", || Some(listed(cut_off, arguments)).filter(|ran| ran.code == 1));
                ran.fails(1, &["warning", "not complete"]);
            }
        }
        net.testnet(&["heal"]).ok();
        // As long as the new object is not in the list, the list says that it may be old.
        wait("the whole list", || {
            (1..=5)
                .all(|node| {
                    let ran = listed(node, &["object", "ls", "--full-ids"]);
                    let whole = ran.stdout.contains(&object);
                    assert!(whole || ran.stderr.contains("could not be asked"), "node {node}: {}", ran.stdout);
                    whole && ran.stderr.is_empty()
                })
                .then_some(())
        });
    }
}
