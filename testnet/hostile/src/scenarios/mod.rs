//! The scenarios by name, and which of them hold.

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
    pub standing: Standing,
    attack: for<'a> fn(&'a mut Arena) -> BoxFuture<'a, Result<(), Fault>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The defence is there: the scenario is a test.
    Held,
    /// Something is missing, so that the scenario fails; the text says what.
    Open(&'static str),
}

macro_rules! scenario {
    ($name:literal, $standing:expr, $attack:path, $what:literal) => {
        Scenario { name: $name, what: $what, standing: $standing, attack: |arena| Box::pin($attack(arena)) }
    };
}

/// Every scenario, in order of name.
pub const SCENARIOS: &[Scenario] = &[
    scenario!(
        "all-at-once",
        Standing::Open("frames are reserved before their bytes come, and a primary answers each pre-vote"),
        storm::everything,
        "twenty identities send half frames, pre-votes, empty commands and garbage while the primary is cut off"
    ),
    scenario!(
        "api-connections",
        Standing::Open("an idle connection keeps its place at the API"),
        front_door::hold_connections,
        "two thousand connections without a token say nothing, or half of something"
    ),
    scenario!(
        "compile-bombs",
        Standing::Open("not run on this tree yet"),
        owners::compile_bombs,
        "two modules of some kilobytes that take a compiler gigabytes, beside an honest one"
    ),
    scenario!(
        "fenced-primary",
        Standing::Open("a worker believes announcements about who is a member"),
        orders::fence_off_primary,
        "a stranger has workers stop at the highest term, and changes their leases"
    ),
    scenario!(
        "hoarded-room",
        Standing::Open("an asker chooses the size of what it reserves"),
        hoarding::take_everything,
        "one asker, then ten, take what they get of each node and go silent"
    ),
    scenario!(
        "invented-quorums",
        Standing::Open("a quorum's id is bound to nobody"),
        ghosts::invent_quorums,
        "fifty quorums that do not exist are announced, and one that does, at the highest term"
    ),
    scenario!(
        "one-owner",
        Standing::Open("an owner has no share of a quorum and its workers"),
        owners::fill_quorum,
        "one owner submits 262,144 tasks that nobody can run and sixty triggers of 100 ms"
    ),
    scenario!(
        "orders-in-a-name",
        Standing::Open("not run on this tree since orders carry their owner's signature"),
        orders::run_in_a_name,
        "a stranger gives a command to workers in a listed submitter's name"
    ),
    scenario!(
        "other-peoples-columns",
        Standing::Open("not run on this tree yet"),
        pieces::destroy_object,
        "a stranger replaces, seals, rebuilds, confirms and releases the columns of an object"
    ),
    scenario!(
        "provider-flood",
        Standing::Held,
        providers::flood,
        "ten identities announce 20,000 provider records and 2,000 peers that are not there"
    ),
    scenario!(
        "raft-door",
        Standing::Open("a founder that is no member may still speak raft"),
        raft_door::seize_lead,
        "a founder that is no member sends appends, votes and snapshots at higher terms"
    ),
    scenario!(
        "small-leases",
        Standing::Open("not run on this tree yet"),
        pieces::fill_small_leases,
        "pieces of 64 MiB are stored under leases of one byte and of one MiB, by their uploader and by another"
    ),
    scenario!(
        "useless-commands",
        Standing::Open("a command that must be refused is logged first"),
        commands::useless,
        "a stranger proposes 128 MiB of checkpoints for tasks that nobody has"
    ),
    scenario!(
        "wrong-digests",
        Standing::Open("a digest is compared before its sender's authority"),
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
