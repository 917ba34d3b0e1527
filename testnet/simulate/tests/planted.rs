//! The harness proves itself: nodes with a deliberate bug, and the seeds within which a checker must name what it
//! broke.

use std::time::Duration;

use quorate::seams::Planted;
use quorate_simulate::campaign::run_seeds;
use quorate_simulate::faults::FaultSet;
use quorate_simulate::links::Links;
use quorate_simulate::run::Plan;
use quorate_testnet::checkers::Guarantee;

/// Goal: the bug is found within `seeds` seeds. Method: whole runs with the faults that could bring it out, until one
/// breaks a guarantee; the same runs keep every guarantee without the bug (tests/seeds.rs).
fn finds(bug: Planted, faults: &str, seconds: u64, seeds: u64) -> Guarantee {
    let plan = Plan {
        seed: 1,
        nodes: 5,
        duration: Duration::from_secs(seconds),
        faults: faults.parse().expect("the faults are known"),
        links: Links::LAN,
        without: FaultSet::none(),
        is_detailed: false,
        planted: Some(bug),
    };
    // One at a time: the number of seeds is what is stated.
    let sum = run_seeds(&plan, seeds, 1, |report| report.violations.is_empty()).expect("a runtime starts");
    let Some((seed, violation)) = sum.failed.first() else {
        panic!("{seeds} seeds of {seconds} s with faults {faults} did not show {}", bug.name());
    };
    println!("{}: seed {seed}: {violation}", bug.name());
    violation.guarantee
}

#[test]
fn a_hash_that_is_not_checked_is_found() {
    assert_eq!(finds(Planted::SkipHashCheck, "rot", 240, 5), Guarantee::G6);
}

#[test]
fn a_holder_that_deletes_without_asking_is_found() {
    finds(Planted::DeleteWithoutAsking, "none", 90, 2);
}

#[test]
fn a_forgotten_vote_is_found() {
    finds(Planted::ForgetVote, "crash", 30, 5);
}

#[test]
fn a_dropped_confirmation_is_found() {
    assert_eq!(finds(Planted::DropConfirm, "none", 10, 2), Guarantee::G6);
}

#[test]
fn an_acknowledgement_before_the_flush_is_found() {
    assert_eq!(finds(Planted::AcknowledgeBeforeFlush, "power", 60, 12), Guarantee::G1);
}

#[test]
fn a_member_that_is_counted_unheard_is_found() {
    finds(Planted::CountSilentMember, "partition,crash,power,loss", 300, 24);
}

#[test]
fn a_stale_answer_is_found() {
    // G1 to clients; G6 when a holder lets go of a column on the word of a member that knew nothing of it.
    finds(Planted::ServeStaleReads, "partition,one-way,pause", 300, 8);
}

#[test]
fn a_piece_taken_for_a_replaced_attempt_is_found() {
    assert_eq!(finds(Planted::SkipAttemptCheck, "duplicate", 120, 4), Guarantee::G6);
}

#[test]
fn a_forgotten_tombstone_is_found() {
    // G8 where a run waits for every lease to end; G6 when a late piece brings the column back.
    finds(Planted::ForgetTombstone, "duplicate", 300, 16);
}

#[test]
fn a_dropped_change_of_members_is_found() {
    assert_eq!(finds(Planted::DropMembershipChange, "crash,wipe", 300, 4), Guarantee::G5);
}
