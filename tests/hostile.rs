//! Hostile peers against real nodes: every scenario whose defence is there, with the bounds that hold whatever the
//! attack.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quorate_hostile::arena::{Fault, Outcome};
use quorate_hostile::mutate;
use quorate_hostile::scenarios::{self, SCENARIOS, Standing};

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
fn announcements_by_the_ten_thousand_take_no_room_of_others() {
    hold("provider-flood");
}

/// Goal: whatever arrives in the form of a message, nothing panics, grows or stops. The program does the same for as
/// long as asked.
#[test]
fn changed_samples_of_every_message_break_nothing() {
    judge(mutate::run(BINARY.as_ref(), SEED, Duration::from_secs(15)));
}

/// Goal: a defence that has landed stays. Method: what is held has its test above.
#[test]
fn every_scenario_that_is_held_is_a_test() {
    let tests = include_str!("hostile.rs");
    for scenario in SCENARIOS {
        let is_test = tests.contains(&format!("    hold(\"{}\");\n", scenario.name));
        assert_eq!(is_test, scenario.standing == Standing::Held, "{}", scenario.name);
    }
}

/// Goal: nobody believes that something is defended which is not. Method: the table of the page, row by row.
#[test]
fn the_page_says_of_every_scenario_how_it_stands() {
    let page = include_str!("../docs/testing.md");
    let section = page.split("\n## ").find(|section| section.starts_with("Hostile peers\n")).expect("a section");
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = SCENARIOS
        .iter()
        .map(|scenario| {
            let standing = match scenario.standing {
                Standing::Held => "held".to_owned(),
                Standing::Open(why) => format!("open: {why}"),
            };
            format!("| `{}` | {} | {standing} |", scenario.name, scenario.what)
        })
        .collect();
    assert_eq!(rows, expected);
}
