//! The harness proves itself: nodes with a deliberate bug, and the seeds within which a checker must name what it broke.

use std::time::Duration;

use quorate::seams::Planted;
use quorate_simulate::run::{Plan, run};
use quorate_testnet::checkers::Guarantee;

fn plan(bug: Planted, faults: &str, seconds: u64, seed: u64) -> Plan {
    Plan {
        seed,
        nodes: 5,
        duration: Duration::from_secs(seconds),
        faults: faults.parse().expect("the faults are known"),
        is_detailed: false,
        planted: Some(bug),
    }
}

/// Goal: the bug is found within `seeds` seeds. Method: whole runs with the faults that could bring it out, until one
/// breaks a guarantee; the same runs keep every guarantee without the bug (tests/seeds.rs).
fn finds(bug: Planted, faults: &str, seconds: u64, seeds: u64) -> Guarantee {
    for seed in 1..=seeds {
        let report = run(plan(bug, faults, seconds, seed)).expect("a runtime starts");
        if let Some(violation) = report.violations.first() {
            println!("{}: seed {seed}: {violation}", bug.name());
            return violation.guarantee;
        }
    }
    panic!("{seeds} seeds of {seconds} s with faults {faults} did not show {}", bug.name());
}

#[test]
fn a_hash_that_is_not_checked_is_found() {
    assert_eq!(finds(Planted::SkipHashCheck, "rot", 60, 3), Guarantee::G6);
}

#[test]
fn a_holder_that_deletes_without_asking_is_found() {
    finds(Planted::DeleteWithoutAsking, "none", 90, 1);
}

#[test]
fn a_forgotten_vote_is_found() {
    assert_eq!(finds(Planted::ForgetVote, "crash", 30, 2), Guarantee::G2);
}

/// Not found, because nothing breaks: every member refuses to found a quorum on two promises of one peer, and applying
/// gives a peer one column. Should one of these checks go, this test says so.
#[test]
fn an_approver_that_counts_twice_is_stopped_by_later_checks() {
    let plan = plan(Planted::CountApproverTwice, "none", 5, 1);
    assert_eq!(run(plan).expect("a runtime starts").violations, []);
}

#[test]
fn a_dropped_confirmation_is_found() {
    assert_eq!(finds(Planted::DropConfirm, "none", 10, 1), Guarantee::G6);
}
