//! `testnet chaos` through the built binary: a short run in which every kind of fault happens and nothing promised
//! breaks.

mod support;

use serde_json::Value;
use support::{Net, command, wait};

/// Kills of the short run; the other kinds of fault come once each at the least.
const KILLS: u64 = 20;

/// Goal: under kills and every other fault nothing that was promised is broken, and the report can be relied on: it
/// counts what happened, and the network is healthy afterwards. Method: chaos on a testnet that is up, then the doctor.
#[test]
fn twenty_kills_and_every_other_fault_break_no_promise() {
    let net = Net::with(7, |options| {
        options.testing = true;
        // What was rotten or missed is rebuilt at once, so that the end is reached without waiting.
        options.settings.push(("objects.repair_interval".into(), "1s".into()));
    });
    let file = net.dir.path().join("report.json");
    let kills = KILLS.to_string();
    let chaos = ["chaos", "--kills", &kills, "--every", "200ms", "--seed", "4", "--json"];
    let report = net.testnet(&[&chaos[..], &["--report", file.to_str().expect("a name")]].concat());
    println!("{}", report.stderr);
    let report = report.json();
    assert_eq!(report["violations"], Value::Array(vec![]), "{report:#}");
    let count = |part: &Value, name: &str| part[name].as_u64().unwrap_or(0);
    assert!(count(&report["faults"], "kill") >= KILLS, "{report:#}");
    for fault in ["pause", "partition", "cut", "slow", "clock", "corrupt", "fill", "majority"] {
        assert!(count(&report["faults"], fault) >= 1, "no {fault}: {report:#}");
    }
    for operation in ["put", "get", "command", "job"] {
        assert!(count(&report["operations"][operation], "ok") >= 10, "too little work to prove anything: {report:#}");
    }
    let guarantees = report["guarantees"].as_array().expect("guarantees");
    for guarantee in ["G1", "G2", "G4", "G5", "G6", "G7", "G8"] {
        let checks = guarantees.iter().find(|row| row["guarantee"] == guarantee).map(|row| count(row, "checks"));
        assert!(checks.is_some_and(|checks| checks > 0), "{guarantee} was not checked: {report:#}");
    }
    let written: Value = serde_json::from_slice(&std::fs::read(&file).expect("a report")).expect("JSON");
    assert_eq!(written, report);
    let said = report.to_string();
    assert!(!said.contains(net.dir.path().to_str().expect("a name")), "a report names no folder: {said}");

    let doctor = || {
        let mut doctor = command();
        doctor.env("QUORATE_TESTNET_DIR", net.testnet.dir()).args(["doctor", "--deep"]);
        support::Ran::from(doctor.output().expect("the binary runs"))
    };
    // Repairs of what was rotten may still be under way.
    let last = std::cell::RefCell::new(String::new());
    let healthy = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait("the network to be healthy", || {
            let ran = doctor();
            *last.borrow_mut() = ran.stdout;
            (ran.code == 0).then_some(())
        })
    }));
    assert!(healthy.is_ok(), "{}", last.borrow());
}

/// Goal: fifty jobs a second all succeed, each recorded once, while a node is killed every three seconds. Method: a
/// minute of it; the ten minutes are a report in testnet/reports/.
#[test]
fn a_minute_of_steady_jobs_loses_none_to_kills() {
    let net = Net::with(7, |options| options.testing = true);
    let chaos =
        ["chaos", "--for", "1m", "--faults", "kill", "--every", "3s", "--workload", "job", "--jobs-per-second", "50"];
    let report = net.testnet(&[&chaos[..], &["--json"]].concat());
    println!("{}", report.stderr);
    let report = report.json();
    assert_eq!(report["violations"], Value::Array(vec![]), "{report:#}");
    let jobs = &report["operations"]["job"];
    // A slow machine submits later, not less than this.
    assert!(jobs["ok"].as_u64().expect("a count") >= 500, "{report:#}");
    assert_eq!((&jobs["failed"], &jobs["unknown"]), (&0.into(), &0.into()), "{report:#}");
    let (kills, caught) = (report["faults"]["kill"].as_u64(), report["jobs_at_kills"]["kills"].as_u64());
    assert!(kills >= Some(5) && caught >= Some(5), "{report:#}");
}

#[test]
fn chaos_says_what_it_cannot_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let chaos = |arguments: &[&str]| {
        let mut chaos = command();
        chaos.env("QUORATE_TESTNET_DIR", folder.path().join("none")).args(["testnet", "chaos"]).args(arguments);
        support::Ran::from(chaos.output().expect("the binary runs"))
    };
    chaos(&["--faults", "flood"]).fails(2, &["flood", "partition"]);
    chaos(&["--workload", "dig"]).fails(2, &["dig", "command"]);
    chaos(&["--report", "/nowhere/report.md"]).fails(1, &["/nowhere/report.md"]);
    chaos(&["--kills", "1", "--faults", "pause", "--nodes", "4"]).fails(2, &["kill"]);
    chaos(&["--nodes", "2"]).fails(2, &["at least 4"]);
}
