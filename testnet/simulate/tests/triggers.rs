//! Triggers on whole simulated nodes: a few minutes of what `quorate-simulate --triggers --hours 100` does for long.

use std::time::Duration;

use quorate_simulate::links::Links;
use quorate_simulate::planted::Planted;
use quorate_simulate::triggers::{Plan, Report, run};
use quorate_testnet::checkers::Guarantee;

fn report(seed: u64, minutes: u64, planted: Option<Planted>) -> Report {
    let plan =
        Plan { seed, duration: Duration::from_secs(60 * minutes), links: Links::LAN, planted, is_detailed: false };
    let (report, _) = run(plan).expect("a runtime");
    println!("seed {seed}: {report}");
    report
}

#[test]
fn every_instant_has_one_row_whatever_crashes_meanwhile() {
    let report = report(1, 12, None);
    assert!(report.violations.is_empty(), "{:?}", report.violations);
    assert!(report.instants >= 200 && report.runs >= 50 && report.crashes >= 2, "this proves little: {report}");
}

/// Goal: the harness would notice. Method: primaries that go on from their clocks, not from the record: what fell due
/// while nobody led vanishes. (That one instant fires twice takes members that apply what they should not; that bug is
/// planted in the model of `protocols/src/quorum/fires/model_tests.rs`.)
#[test]
fn a_primary_that_goes_on_from_its_clock_is_found() {
    let found = (1..=3).find_map(|seed| report(seed, 12, Some(Planted::FireFromClock)).violations.into_iter().next());
    assert_eq!(found.expect("it is found within three seeds").guarantee, Guarantee::G3);
}
