//! Hostile peers against real nodes: every scenario, with the bounds that hold whatever the attack.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quorate_hostile::arena::{Fault, Outcome};
use quorate_hostile::mutate;
use quorate_hostile::scenarios::{self, SCENARIOS};

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_quorate");

/// One testnet at a time: five nodes and their attackers are enough for two cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const SEED: u64 = 1;

fn judge(run: impl Future<Output = Result<Outcome, Fault>>) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let outcome = runtime.block_on(run).expect("the scenario can be carried out");
    println!("{}\ntook {:?}", outcome.notes.join("\n"), outcome.took);
    assert!(outcome.broken.is_empty(), "{}", outcome.broken.join("\n"));
}

fn hold(name: &str) {
    let scenario = scenarios::find(name).expect("a scenario");
    println!("{}", scenario.what);
    judge(scenarios::run(scenario, BINARY.as_ref(), SEED));
}

#[test]
fn everything_at_once_holds_up_nobody() {
    hold("all-at-once");
}

#[test]
fn connections_without_a_token_keep_nobody_from_the_api() {
    hold("api-connections");
}

#[test]
fn modules_that_take_a_compiler_gigabytes_end_as_their_owners_fault() {
    hold("compile-bombs");
}

#[test]
fn a_stranger_fences_off_no_primary() {
    hold("fenced-primary");
}

#[test]
fn askers_hoard_no_more_than_their_share() {
    hold("hoarded-room");
}

#[test]
fn quorums_that_do_not_exist_acknowledge_nothing() {
    hold("invented-quorums");
}

#[test]
fn one_owner_leaves_room_for_another() {
    hold("one-owner");
}

#[test]
fn no_command_runs_in_the_name_of_another() {
    hold("orders-in-a-name");
}

#[test]
fn a_stranger_changes_no_column() {
    hold("other-peoples-columns");
}

#[test]
fn announcements_by_the_ten_thousand_take_no_room_of_others() {
    hold("provider-flood");
}

#[test]
fn whoever_has_no_vote_leads_nobody() {
    hold("raft-door");
}

#[test]
fn no_lease_takes_more_than_it_reserved() {
    hold("small-leases");
}

#[test]
fn commands_that_must_be_refused_fill_no_log() {
    hold("useless-commands");
}

#[test]
fn false_digests_stop_no_member() {
    hold("wrong-digests");
}

/// Goal: whatever arrives in the form of a message, nothing panics, grows or stops. The program does the same for as
/// long as asked.
#[test]
fn changed_samples_of_every_message_break_nothing() {
    judge(mutate::run(BINARY.as_ref(), SEED, Duration::from_secs(15)));
}

/// Goal: every attack is tried by each run of the tests.
#[test]
fn every_scenario_is_a_test() {
    let tests = include_str!("hostile.rs");
    for scenario in SCENARIOS {
        assert!(tests.contains(&format!("    hold(\"{}\");\n", scenario.name)), "{}", scenario.name);
    }
}

/// Goal: the page names the attacks that there are. Method: its table, row by row.
#[test]
fn the_page_names_every_scenario() {
    let page = include_str!("../docs/testing.md");
    let section = page.split("\n## ").find(|section| section.starts_with("Hostile peers\n")).expect("a section");
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> =
        SCENARIOS.iter().map(|scenario| format!("| `{}` | {} |", scenario.name, scenario.what)).collect();
    assert_eq!(rows, expected);
}
