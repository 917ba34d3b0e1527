//! Short runs with every fault. Longer ones are the command line's: `cargo run --release -p quorate-simulate`, and
//! `scripts/soak`.

use std::time::Duration;

use quorate_simulate::campaign::run_seeds;
use quorate_simulate::faults::FaultSet;
use quorate_simulate::links::Links;
use quorate_simulate::run::{Plan, Report, run};

/// A build that is not optimised takes some twenty times longer.
const SEEDS: u64 = if cfg!(debug_assertions) { 6 } else { 300 };

/// Seeds whose runs once broke a guarantee, with what they need to come to the place: nodes, seconds under faults,
/// faults, and what was wrong.
const ONCE_BROKEN: &[(u64, usize, u64, &str, &str)] = &[
    (67, 7, 260, "all", "a node that fell while it left a quorum took that for a disk that forgot"),
    (
        72,
        7,
        600,
        "all",
        "a voter that had missed a primary's term waited for it for ever, as its node was alive on a new disk",
    ),
    (80, 7, 600, "all", "a member that gave its founding up too early was missing from its quorum for good"),
    (109, 7, 600, "all", "a put waited for ever for pieces that a sealed column had lost with its disk"),
    (152, 5, 30, "all", "a member whose disk had been full stayed out of its quorum until it was restarted"),
    (213, 5, 30, "all", "a voter asked for votes in the name of a lost primary whose node was back without its disk"),
];

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        nodes: 5,
        duration: Duration::from_secs(30),
        faults: "all".parse().expect("all faults are known"),
        links: Links::LAN,
        without: FaultSet::none(),
        is_detailed: false,
        planted: None,
    }
}

fn assert_keeps_all(report: &Report) {
    assert_eq!(
        report.violations,
        [],
        "replay: cargo run --release -p quorate-simulate -- --seed {} --nodes {} --seconds {} --faults {}\n{}",
        report.plan.seed,
        report.plan.nodes,
        report.plan.duration.as_secs(),
        report.plan.faults,
        report.transcript.tail(60).join("\n")
    );
}

/// Goal: no guarantee breaks under faults, all is served after them, and the runs were worth something.
#[test]
fn seeds_with_every_fault_keep_every_guarantee() {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut first_failure = None;
    let sum = run_seeds(&plan(1), SEEDS, jobs, |report| {
        let is_good = report.violations.is_empty();
        first_failure = first_failure.take().or_else(|| (!is_good).then(|| report.plan.clone()));
        is_good
    });
    let sum = sum.expect("a runtime starts");
    println!("{sum}");
    if let Some(plan) = first_failure {
        assert_keeps_all(&run(plan).expect("a runtime starts"));
        panic!("a failing seed did not fail again: a seed is not one history");
    }
    assert!(sum.coverage.faults >= SEEDS, "hardly any fault");
    assert!(sum.operations.puts_acknowledged >= SEEDS, "hardly anything was promised");
    assert!(sum.operations.reads_checked >= SEEDS, "hardly anything was read");
    assert!(sum.operations.calls_answered >= SEEDS, "hardly anything was commanded");
    assert_eq!(sum.operations.histories_undecided, 0, "histories too long to judge");
}

#[test]
fn seeds_that_once_broke_a_guarantee_keep_it() {
    for (seed, nodes, seconds, faults, wrong) in ONCE_BROKEN {
        let faults = faults.parse().expect("the faults are known");
        let plan = Plan { nodes: *nodes, duration: Duration::from_secs(*seconds), faults, ..plan(*seed) };
        println!("seed {seed}: {wrong}");
        assert_keeps_all(&run(plan).expect("a runtime starts"));
    }
}

#[test]
fn a_seed_with_faults_is_one_history() {
    let text = || run(plan(1)).expect("a runtime starts").transcript.text();
    let (first, second) = (text(), std::thread::spawn(text).join().expect("no panic"));
    if let Some((line, (a, b))) = first.lines().zip(second.lines()).enumerate().find(|(_, (a, b))| a != b) {
        panic!("the histories part at line {line}\nfirst:  {a}\nsecond: {b}");
    }
    assert_eq!(first, second);
}
