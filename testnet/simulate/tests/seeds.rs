//! A few seeds with every fault. Longer runs are the command line's: `cargo run --release -p quorate-simulate`.

use std::time::Duration;

use quorate_simulate::run::{Plan, Report, run};

fn play(seed: u64) -> Report {
    let plan = Plan {
        seed,
        nodes: 5,
        duration: Duration::from_secs(30),
        faults: "all".parse().expect("all faults are known"),
        is_detailed: false,
        planted: None,
    };
    let report = run(plan).expect("a runtime starts");
    assert_eq!(
        report.violations,
        [],
        "seed {seed}; replay: cargo run -p quorate-simulate -- --seed {seed}\n{}",
        report.transcript.tail(60).join("\n")
    );
    report
}

/// Goal: no guarantee breaks under faults, all is served after them, and the runs were worth something.
#[test]
fn seeds_with_every_fault_keep_every_guarantee() {
    let reports: Vec<_> = (1..=3).map(play).collect();
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    assert!(sum(|report| report.moments.faults) >= 5, "hardly any fault");
    assert!(sum(|report| report.operations.puts_acknowledged) >= 3, "hardly anything was promised");
    assert!(sum(|report| report.operations.reads_checked) >= 3, "hardly anything was read");
}

#[test]
fn a_seed_with_faults_is_one_history() {
    let (first, second) = (play(1).transcript.text(), play(1).transcript.text());
    if let Some((line, (a, b))) = first.lines().zip(second.lines()).enumerate().find(|(_, (a, b))| a != b) {
        panic!("the histories part at line {line}\nfirst:  {a}\nsecond: {b}");
    }
    assert_eq!(first, second);
}
