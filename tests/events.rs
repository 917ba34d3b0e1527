//! Events, through the front door: emitted at one node, heard by a job that another quorum owns.

mod support;

use std::time::Duration;

use futures::StreamExt;
use quorate_api::{EmitInfo, EmitRequest};
use serde_json::{Value, json};
use support::{Net, wait};

/// The module of `examples/doorbell.toml` gives what it was fired by as its output.
const DOORBELL: &str = include_str!("../examples/doorbell.toml");

/// How long a node says nothing of peers that join (`src/events/network.rs`), and a little more.
const QUIET_AT_START: Duration = Duration::from_secs(16);

/// Submits the doorbell at a node with another trigger; the job's id.
fn submit(net: &Net, node: usize, trigger: &str) -> String {
    let (head, rest) = DOORBELL.split_once("[trigger]\n").expect("the example has a trigger");
    let (_, module) = rest.split_once("[module]\n").expect("and a module");
    let path = net.dir.path().join("doorbell.toml");
    std::fs::write(&path, format!("{head}[trigger]\n{trigger}\n[module]\n{module}")).expect("a file can be written");
    net.at(node, &["job", "submit", path.to_str().unwrap(), "--detach"]).ok().stdout.trim().to_owned()
}

fn emit(net: &Net, node: usize, name: &str, data: &str, more: &[&str]) -> Value {
    let arguments: Vec<&str> = ["event", "emit", name, "--data", data, "--json"].iter().chain(more).copied().collect();
    net.at(node, &arguments).json()
}

fn fires(net: &Net, node: usize, job: &str) -> Vec<Value> {
    let rows = net.at(node, &["job", "fires", job, "--json"]);
    serde_json::from_str(&rows.stdout).unwrap_or_default()
}

/// How many events the rows stand for: runs, and what was skipped.
fn events(rows: &[Value]) -> u64 {
    rows.iter().map(|row| row["skipped"].as_u64().unwrap().max(1)).sum()
}

/// Goal: an event finds the job that listens wherever both are; what came before the submit, does not match or is said
/// again under its id fires nothing.
#[test]
fn an_event_fires_a_job_that_another_node_submitted_once() {
    let net = Net::up(5);
    emit(&net, 4, "door", "{\"open\": true}", &[]);
    let job = submit(&net, 1, "event = { name = \"door\", where = \"data.open == true\" }");
    let open = "{\"open\": true}";
    let first = emit(&net, 4, "door", open, &["--id", "a"]);
    assert_eq!(first["existed"], false);
    let again = emit(&net, 4, "door", open, &["--id", "a"]);
    assert_eq!((&again["existed"], &again["sequence"]), (&Value::Bool(true), &first["sequence"]));
    emit(&net, 5, "door", open, &["--id", "a"]);
    emit(&net, 5, "door", "{\"open\": false}", &[]);
    emit(&net, 5, "bell", open, &[]);
    let done = |count: usize| {
        wait("the fires", || {
            let rows = fires(&net, 3, &job);
            let ended = rows.iter().filter(|row| row["outcome"] == "succeeded").count();
            (ended >= count).then_some(rows)
        })
    };
    let rows = done(1);
    let run = rows[0]["run"].as_str().unwrap();
    let input: Value = serde_json::from_str(&net.at(2, &["job", "output", run]).ok().stdout).unwrap();
    assert_eq!((&input["event"]["id"], &input["event"]["data"]["open"]), (&json!("a"), &json!(true)), "{input}");
    // Everything that was emitted before this one at either node has been heard when this one has.
    emit(&net, 4, "door", open, &["--id", "b"]);
    emit(&net, 5, "door", open, &["--id", "c"]);
    let rows = done(3);
    assert_eq!(rows.len(), 3, "{rows:#?}");
    let bad = net.at(1, &["event", "emit", "quorate.peer.joined"]);
    bad.fails(1, &["name", "quorate.", "choose another"]);
    net.at(1, &["event", "emit", "a door"]).fails(1, &["name", "letters"]);
    net.at(1, &["event", "emit", "door", "--id", ""]).fails(1, &["id", "1 to 128"]);
    net.at(1, &["event", "emit", "door", "--data", "{open}"]).fails(2, &["data", "not JSON"]);
    let long = format!("\"{}\"", "x".repeat(20_000));
    net.at(1, &["event", "emit", "door", "--data", &long]).fails(2, &["data", "16384"]);
}

/// Goal: ten thousand events at once are taken at the pace of the quorum, also while its primary is killed and the
/// emitter restarts; each that was acknowledged is a fire or a recorded skip.
#[test]
fn thousands_of_events_are_all_in_the_record_though_primary_and_emitter_are_killed() {
    const EVENTS: u32 = 10_000;
    let net = Net::up(5);
    let job = submit(&net, 1, "event = { name = \"storm\" }\noverlap = \"forbid\"");
    let quorum = net.at(1, &["job", "show", &job, "--json"]).json()["quorum"].as_str().unwrap().to_owned();
    let primary = net.primary(1, &quorum);
    let emitter = (1..=5).find(|node| *node != primary).unwrap();
    let client = net.client(emitter);
    let emitting = {
        let one = |n: u32| {
            let (client, net) = (&client, &net);
            async move {
                if n == EVENTS / 5 {
                    net.testnet.kill(primary).expect("the primary is killed");
                }
                let request = EmitRequest { name: "storm".to_owned(), id: None, data: json!({ "n": n }) };
                client.post::<_, EmitInfo>("/v1/events", &request).await.is_ok()
            }
        };
        futures::stream::iter(0..EVENTS)
            .map(one)
            .buffer_unordered(64)
            .filter(|taken| std::future::ready(*taken))
            .count()
    };
    let taken = net.runtime.block_on(emitting);
    assert_eq!(taken, EVENTS as usize, "the emitter took them all");
    net.testnet.kill(emitter).expect("the emitter is killed");
    net.restart(emitter);
    net.restart(primary);
    let rows = wait("every event in the record", || {
        let rows = fires(&net, emitter, &job);
        (events(&rows) >= u64::from(EVENTS)).then_some(rows)
    });
    assert_eq!(events(&rows), u64::from(EVENTS));
    assert!(rows.iter().all(|row| row["reason"].is_null() || row["reason"] == "overlap"), "{rows:#?}");
}

/// Goal: what happens to the network is an event too, and one however many nodes tell of it.
#[test]
fn what_happens_to_the_network_fires_jobs_that_listen_for_it() {
    let net = Net::up(4);
    let listen = |event: &str, filter: &str| {
        let trigger = format!("event = {{ name = \"quorate.{event}\"{filter}, dedupe_window = \"1h\" }}");
        submit(&net, 1, &trigger)
    };
    let stored = listen("object.stored", "");
    // Runs of triggers end as well.
    let ended = listen("job.ended", ", where = \"data.trigger == null && data.state == 'succeeded'\"");
    let lost = listen("peer.lost", "");
    let joined = listen("peer.joined", "");
    let told = |job: &str| {
        let rows = wait("the fire", || Some(fires(&net, 1, job)).filter(|rows| !rows.is_empty()));
        let run = rows[0]["run"].as_str().unwrap();
        net.at(1, &["job", "wait", run]).ok();
        let input: Value = serde_json::from_str(&net.at(3, &["job", "output", run]).ok().stdout).unwrap();
        input["event"]["data"].clone()
    };
    let marks = submit(&net, 1, "event = { name = \"mark\" }\noverlap = \"allow\"");
    let gone = net.testnet.peer_id(4).expect("there is a node 4");
    net.testnet.kill(4).expect("node 4 is killed");
    assert_eq!(told(&lost)["peer"], json!(gone));
    // A node that has just started knows nobody, and says nothing of those who join.
    let is_past =
        |node| Duration::from_millis(net.get(node, "/v1/node")["uptime_ms"].as_u64().unwrap()) > QUIET_AT_START;
    wait("nodes that tell who joins", || (1..=3).all(is_past).then_some(()));
    net.restart(4);
    assert_eq!(told(&joined)["peer"], json!(gone));
    let object = net.put(2, &net.file("a", 100_000, 1));
    assert_eq!(told(&stored)["object"], object["object"]);
    // The put was a job that ended, too.
    assert_eq!(told(&ended)["job"], object["job"]);
    // What every node had to tell before this has been heard when this has.
    (1..=4).for_each(|node| drop(emit(&net, node, "mark", "{}", &[])));
    wait("the marks", || (fires(&net, 1, &marks).len() == 4).then_some(()));
    for job in [&stored, &ended, &lost, &joined] {
        let rows = fires(&net, 1, job);
        assert_eq!(rows.len(), 1, "each witness of the news tells it under one id: {rows:#?}");
    }
}
