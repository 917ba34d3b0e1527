//! The scenarios by name.

mod commands;
mod founding;
mod front_door;
mod ghosts;
mod hoarding;
mod orders;
mod owners;
mod pieces;
mod providers;
mod raft_door;
mod storm;

use std::path::Path;

use futures::future::BoxFuture;

use crate::arena::{Arena, Fault, Outcome};

/// One attack, with what must hold of it.
pub struct Scenario {
    pub name: &'static str,
    /// Who does what, and what must come of it.
    pub what: &'static str,
    attack: for<'a> fn(&'a mut Arena) -> BoxFuture<'a, Result<(), Fault>>,
}

macro_rules! scenario {
    ($name:literal, $attack:path, $what:literal) => {
        Scenario { name: $name, what: $what, attack: |arena| Box::pin($attack(arena)) }
    };
}

/// Every scenario, in order of name.
pub const SCENARIOS: &[Scenario] = &[
    scenario!(
        "all-at-once",
        storm::everything,
        "twenty identities send frames but for a byte, pre-votes, empty commands and garbage; the primary is cut off"
    ),
    scenario!(
        "api-connections",
        front_door::hold_connections,
        "two thousand connections without a token say nothing, or half of something"
    ),
    scenario!(
        "compile-bombs",
        owners::compile_bombs,
        "two modules of some kilobytes that take a compiler gigabytes, beside an honest one"
    ),
    scenario!(
        "fenced-primary",
        orders::fence_off_primary,
        "a stranger has workers stop at the highest term, and changes their leases"
    ),
    scenario!(
        "hoarded-room",
        hoarding::take_everything,
        "one asker, then ten, take what they get of each node and go silent"
    ),
    scenario!(
        "invented-quorums",
        ghosts::invent_quorums,
        "fifty quorums that do not exist are announced, and one that does, at the highest term"
    ),
    scenario!(
        "one-owner",
        owners::fill_quorum,
        "one owner submits 262,144 tasks that nobody can run and sixty triggers of 100 ms"
    ),
    scenario!(
        "orders-in-a-name",
        orders::run_in_a_name,
        "a stranger gives a command to workers in a listed submitter's name"
    ),
    scenario!(
        "other-peoples-columns",
        pieces::destroy_object,
        "a stranger replaces, seals, rebuilds, confirms and releases the columns of an object"
    ),
    scenario!(
        "provider-flood",
        providers::flood,
        "ten identities announce 20,000 provider records and 2,000 peers that are not there"
    ),
    scenario!(
        "raft-door",
        raft_door::seize_lead,
        "a founder that is no member sends appends, votes and snapshots at higher terms"
    ),
    scenario!(
        "small-leases",
        pieces::fill_small_leases,
        "pieces of 64 MiB are stored under leases of one byte and of one MiB, by their uploader and by another"
    ),
    scenario!(
        "useless-commands",
        commands::useless,
        "a stranger proposes 128 MiB of checkpoints for tasks that nobody has"
    ),
    scenario!(
        "wrong-digests",
        raft_door::wrong_digests,
        "a founder that is no member sends digests that differ from the members' own"
    ),
];

/// The scenario of this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

/// Runs one scenario on a testnet of its own.
pub async fn run(scenario: &Scenario, binary: &Path, seed: u64) -> Result<Outcome, Fault> {
    let mut arena = Arena::up(binary, seed, |_| ()).await?;
    arena.start_load()?;
    (scenario.attack)(&mut arena).await?;
    Ok(arena.judge().await)
}
