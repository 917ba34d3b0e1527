//! The harness proves itself: nodes with a deliberate bug, and the seeds within which a checker must name what it
//! broke.

use std::time::Duration;

use quorate_simulate::campaign::run_seeds;
use quorate_simulate::faults::FaultSet;
use quorate_simulate::links::Links;
use quorate_simulate::planted::Planted;
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
fn a_holder_that_ignores_the_steward_is_found() {
    finds(Planted::IgnoreSteward, "none", 90, 2);
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
    // G1 where a client or the mark of the log misses what was lost; G5 where a member had applied it.
    let found = finds(Planted::AcknowledgeBeforeFlush, "power", 60, 12);
    assert!(matches!(found, Guarantee::G1 | Guarantee::G5), "{found:?}");
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

/// Goal: docs/testing.md names the bugs that there are.
#[test]
fn the_table_of_bugs_is_that_of_the_simulator() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/testing.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let rows = page.split("| bug |").nth(1).expect("the table is there").lines().skip(2);
    let rows = rows.take_while(|line| line.starts_with("| `"));
    let named: Vec<&str> = rows.map(|line| line.split('`').nth(1).expect("a name")).collect();
    let there: std::collections::BTreeSet<&str> = Planted::ALL.map(Planted::name).into();
    assert_eq!(named.len(), there.len());
    assert_eq!(named.into_iter().collect::<std::collections::BTreeSet<_>>(), there);
}

/// Goal: the product holds no deliberate bug and no name of one. Method: the sources of the node are read.
#[test]
fn the_sources_of_the_node_hold_no_planted_bug() {
    fn walk(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("readable").path();
            match path.is_dir() {
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let mut files = Vec::new();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    walk(&root.join("src"), &mut files);
    walk(&root.join("protocols/src"), &mut files);
    assert!(files.len() > 300, "the sources were found");
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        for bug in Planted::ALL {
            let named = [format!("{bug:?}"), bug.name().to_owned()];
            assert!(!named.iter().any(|name| text.contains(name)), "{} names {}", file.display(), bug.name());
        }
    }
}
