//! `quorate bench` with tiny counts: each measurement that a client from outside makes gives its rows.

mod support;

use serde_json::Value;
use support::{Net, Ran, command};

fn bench(net: &Net, arguments: &[&str]) -> Ran {
    let mut bench = command();
    bench.env("QUORATE_TESTNET_DIR", net.testnet.dir()).arg("bench").args(arguments);
    bench.output().expect("the binary runs").into()
}

/// What a measurement printed, one row a line. The machine's own limits come first, and are looked at here.
fn rows(net: &Net, arguments: &[&str]) -> Vec<Value> {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let ran = bench(net, &arguments).ok();
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    let mut rows: Vec<Value> = ran.stdout.lines().map(parse).collect();
    let limits = rows.remove(0);
    assert_eq!(limits["bench"], "limits", "{limits}");
    for field in ["fdatasync_per_s", "loopback_trips_per_s", "blake3_mib_per_s"] {
        assert!(limits[field]["median"].as_f64().expect("a figure") > 0.0, "{field}: {limits}");
    }
    rows
}

/// A figure of each run, in order, with its ends around it; and a process that did the work.
fn measured(row: &Value, runs: u64) {
    for field in ["per_s", "p50_ms", "p99_ms", "max_ms"] {
        let of = |end: &str| row[field][end].as_f64().unwrap_or_else(|| panic!("{field}.{end} is missing: {row}"));
        assert!(0.0 < of("min") && of("min") <= of("median") && of("median") <= of("max"), "{field}: {row}");
    }
    assert_eq!(row["runs"], runs, "{row}");
    assert!(row["done"].as_u64().expect("a count") >= runs, "{row}");
    for process in ["client", "all", "node-1"] {
        assert!(row["cpu_ms"][process]["median"].is_f64(), "{process} used no time: {row}");
    }
}

/// Goal: every measurement ends by itself and says what it measured. Method: one testnet, runs of a few operations.
#[test]
fn every_measurement_of_an_outside_client_gives_its_rows() {
    let net = Net::with(7, |options| options.testing = true);
    let brief = ["--time", "300ms", "--runs", "2"];

    let jobs = rows(&net, &[&["jobs", "--outstanding", "1,8"][..], &brief].concat());
    assert_eq!(jobs.len(), 2, "{jobs:?}");
    for (row, outstanding) in jobs.iter().zip([1usize, 8]) {
        measured(row, 2);
        assert!(row["bench"] == "jobs" && row["through"] == "all" && row["in_process"] == false, "{row}");
        assert!(
            row["outstanding"] == outstanding && row["nodes"].as_array().unwrap().len() == outstanding.min(7),
            "{row}"
        );
        assert!(row["submit_p50_ms"]["median"].as_f64() <= row["p50_ms"]["max"].as_f64(), "{row}");
    }
    let quorum = jobs[0]["quorum"].as_str().expect("a quorum").to_owned();
    let members = net.get(1, &format!("/v1/quorums/{quorum}"))["members"].clone();
    let members: Vec<usize> = members
        .as_array()
        .expect("members")
        .iter()
        .map(|member| net.testnet.index_of(member.as_str().unwrap().parse().unwrap()).expect("a node of this testnet"))
        .collect();
    let outside =
        &rows(&net, &[&["jobs", "--outstanding", "2", "--through", "outsider", "--one-trip"][..], &brief].concat())[0];
    measured(outside, 2);
    assert!(outside["one_trip"] == true && outside["submit_p50_ms"].is_null(), "{outside}");
    let asked: Vec<usize> = outside["nodes"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    assert!(asked.len() == 2 && asked.iter().all(|node| !members.contains(node)), "{asked:?} of {members:?}");

    let commits = rows(&net, &[&["commit", "--outstanding", "1,512"][..], &brief].concat());
    let kinds: Vec<(bool, u64)> =
        commits.iter().map(|row| (row["in_process"] == true, row["outstanding"].as_u64().unwrap())).collect();
    // A node has no room for 512 clients.
    assert_eq!(kinds, [(true, 1), (true, 512), (false, 1)]);
    commits.iter().for_each(|row| measured(row, 2));

    let objects = rows(&net, &[&["objects", "--size", "1KiB,16MiB", "--outstanding", "2"][..], &brief].concat());
    let kinds: Vec<(&str, u64)> =
        objects.iter().map(|row| (row["operation"].as_str().unwrap(), row["bytes"].as_u64().unwrap())).collect();
    assert_eq!(kinds, [("put", 1 << 10), ("get", 1 << 10), ("put", 16 << 20), ("get", 16 << 20)]);
    for row in &objects {
        measured(row, 2);
        let is_large = row["bytes"] == 16 << 20;
        assert_eq!(row["bound"]["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), is_large, "{row}");
    }
    let left = net.get(1, "/v1/objects");
    assert!(
        left["items"].as_array().unwrap().iter().all(|row| row["state"] != "live"),
        "what was put is removed: {left}"
    );

    let map = &rows(&net, &["map", "--tasks", "50", "--runs", "1"])[0];
    assert!(map["tasks_per_s"]["median"].as_f64().unwrap() > 0.0 && map["tasks"] == 50, "{map}");
    let triggers = rows(&net, &["triggers", "--count", "5", "--fires", "3"]);
    assert!(triggers.len() == 2 && triggers.iter().all(|row| row["in_process"] == true), "{triggers:?}");

    for (planned, arguments) in
        [(false, &["failover", "--kills", "1"][..]), (true, &["failover", "--kills", "1", "--planned"][..])]
    {
        let failover = &rows(&net, arguments)[0];
        assert!(failover["p99_ms"].as_f64().unwrap() > 0.0 && failover["planned"] == planned, "{failover}");
        assert_eq!(failover["samples_ms"].as_array().unwrap().len(), 1, "{failover}");
    }
}

/// Goal: what cannot be measured is told with what to do, and people read a table.
#[test]
fn what_cannot_be_measured_is_told() {
    let net = Net::up(3);
    bench(&net, &["jobs", "--through", "outsider", "--time", "100ms"]).fails(1, &["outsider", "more of them"]);
    bench(&net, &["jobs", "--through", "all", "--node", "1"]).fails(2, &["--through", "--node"]);
    bench(&net, &["jobs", "--outstanding", "257", "--node", "1"]).fails(2, &["--outstanding", "256"]);
    bench(&net, &["commit"]).fails(1, &["--testing", "--plain"]);
    let mut without = command();
    without.env("QUORATE_TESTNET_DIR", net.testnet.dir()).env("PATH", net.dir.path()).args(["bench", "etcd"]);
    Ran::from(without.output().expect("the binary runs")).fails(1, &["no etcd", "apt-get"]);
    let table = bench(&net, &["jobs", "--outstanding", "2", "--time", "200ms", "--runs", "1"]).ok().stdout;
    assert!(table.contains("synced appends/s") && table.contains("SUBMIT P50"), "{table}");
}
