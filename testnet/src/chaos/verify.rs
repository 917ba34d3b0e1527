//! After the faults: everything moves, is there, is identical, agrees, and is let go.

use std::time::{Duration, Instant};

use futures::StreamExt;
use quorate_api::{BenchCommit, CommitBench, Listing, ObjectInfo, QuorumDetail, ResourcesInfo};
use quorate_protocols::ids::{JobId, ObjectId};

use super::oracle::content_of;
use super::watch::audit;
use super::world::World;
use super::{ChaosError, RECOVERY_MAX};
use crate::checkers::g5_agreement::Digests;
use crate::checkers::{Guarantee, Violation, g4_progress, g7_bounded, g8_reservations};
use crate::client::{Client, ClientError};
use crate::reservations;
use crate::rng::Rng;

const POLL: Duration = Duration::from_millis(100);

/// Objects asked for at once.
const READS: usize = 4;

/// Objects of a look in the middle of a run.
const SAMPLE: u64 = 40;

/// Looks at some of what was promised while the clients go on.
pub async fn sample(world: &World) -> Result<(), ChaosError> {
    world.log_step("reading some of what was stored");
    let mut rng = Rng::new(world.options.seed, &format!("sample {:?}", world.elapsed()));
    let (live, gone) = {
        let state = world.state();
        (state.oracle.live(), state.oracle.gone())
    };
    let some =
        |from: &[ObjectId], rng: &mut Rng| (0..SAMPLE).filter_map(|_| rng.pick(from).copied()).collect::<Vec<_>>();
    let (live, gone) = (some(&live, &mut rng), some(&gone, &mut rng));
    objects(world, live, gone).await
}

/// All of it, with nothing in flight.
pub async fn all(world: &World, beat: Option<JobId>) -> Result<(), ChaosError> {
    world.log_step("waiting until everything is whole");
    world.testnet.heal().await?;
    moves(world).await?;
    if let Some(job) = beat {
        world.log_step("waiting for a trigger to fire by the right clocks");
        super::beat::check(world, job).await;
    }
    world.log_step("listing what there is");
    settle(world).await?;
    let (live, gone) = {
        let state = world.state();
        (state.oracle.live(), state.oracle.gone())
    };
    world.log_step(format!("reading {} objects back", live.len()));
    objects(world, live, gone).await?;
    world.log_step("looking at jobs again");
    super::jobs::check_again(world).await;
    world.log_step("comparing members");
    agree(world).await;
    world.log_step("waiting until reservations are let go");
    released(world).await;
    logs(world);
    Ok(())
}

/// G4: every quorum commits through every node, within the bound.
async fn moves(world: &World) -> Result<(), ChaosError> {
    let began = Instant::now();
    let mut waits = Vec::new();
    for quorum in world.quorums() {
        for index in world.testnet.indices() {
            let client = world.client(index)?;
            let request = BenchCommit { quorum, count: 1, outstanding: 1 };
            let mut took = None;
            while took.is_none() && began.elapsed() < RECOVERY_MAX {
                match client.post::<_, CommitBench>("/v1/bench/noop", &request).await {
                    Ok(_) => took = Some(began.elapsed()),
                    Err(_) => tokio::time::sleep(POLL).await,
                }
            }
            waits.push((format!("a command in quorum {quorum} through node {index}"), took));
        }
    }
    world.count(Guarantee::G4, waits.len() as u64);
    for violation in g4_progress::check(&waits, RECOVERY_MAX) {
        world.find(violation, "quorate quorum ls; quorate doctor");
    }
    Ok(())
}

/// What unknown operations came to; nothing twice and nothing that nobody asked for.
async fn settle(world: &World) -> Result<(), ChaosError> {
    let began = Instant::now();
    let listing = loop {
        let listing: Result<Listing<ObjectInfo>, _> = world.client(1)?.list("/v1/objects").await;
        match listing {
            Ok(listing) if listing.unreachable.is_empty() => break listing,
            Ok(listing) if began.elapsed() > RECOVERY_MAX => break listing,
            Err(error) if began.elapsed() > RECOVERY_MAX => return Err(error.into()),
            _ => tokio::time::sleep(POLL).await,
        }
    };
    let own = format!("chaos-{}-", world.options.seed);
    let named = listing.items.into_iter().filter_map(|row| Some((row.name?, row.object)));
    // Another run may have left objects in the same testnet.
    let listed: Vec<_> = named.filter(|(name, _)| name.starts_with(&own)).collect();
    let mut state = world.state();
    let (happened, found) = state.oracle.settle(&listed);
    state.unknown_happened = happened;
    drop(state);
    world.count(Guarantee::G1, listed.len() as u64);
    for violation in found {
        world.find(violation, "quorate object ls; quorate job ls");
    }
    Ok(())
}

/// What a node says of an object, asked until it says something.
enum Answer {
    Content(Vec<u8>),
    NotThere,
    Error(String),
}

async fn ask(client: &Client, object: ObjectId) -> Answer {
    let began = Instant::now();
    loop {
        let error = match super::workload::read(client, object).await {
            Ok(bytes) => return Answer::Content(bytes),
            // A node that cannot reach the steward says so in other words.
            Err(ClientError::Refused { status: 404, .. }) => return Answer::NotThere,
            Err(error) => error,
        };
        if began.elapsed() > RECOVERY_MAX {
            return Answer::Error(error.to_string());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// G1 and G6: what was acknowledged is there and identical; what was removed is not.
async fn objects(world: &World, live: Vec<ObjectId>, gone: Vec<ObjectId>) -> Result<(), ChaosError> {
    let indices = world.testnet.indices();
    let asked = live.iter().map(|object| (object, true)).chain(gone.iter().map(|object| (object, false)));
    let asked = asked.enumerate().map(|(position, (object, is_live))| {
        let index = indices[position % indices.len()];
        async move { Ok::<_, ChaosError>((*object, is_live, index, ask(&world.client(index)?, *object).await)) }
    });
    let mut answers = futures::stream::iter(asked).buffer_unordered(READS);
    while let Some(answer) = answers.next().await {
        let (object, is_live, index, said) = answer?;
        let look = format!("quorate object show {object} --node {index}");
        world.count(Guarantee::G1, 1);
        match (said, is_live) {
            (Answer::Content(bytes), true) => {
                world.count(Guarantee::G6, 1);
                let wrong = world.state().oracle.check_read(object, content_of(&bytes));
                wrong.into_iter().for_each(|violation| world.find(violation, &look));
            }
            (Answer::Content(_), false) => {
                let wrong = world.state().oracle.check_present(object);
                wrong.into_iter().for_each(|violation| world.find(violation, &look));
            }
            (Answer::NotThere, true) => {
                // Its removal may have been asked for since the question was planned.
                let lost = world.state().oracle.check_missing(object);
                lost.into_iter().for_each(|violation| world.find(violation, &look));
            }
            (Answer::NotThere, false) => (),
            (Answer::Error(error), true) if !world.state().oracle.may_be_gone(object) => {
                let what = format!("{object} was not read within {RECOVERY_MAX:?} through node {index}: {error}");
                world.find(Violation::new(Guarantee::G6, what), look);
            }
            (Answer::Error(_), _) => (),
        }
    }
    Ok(())
}

/// G5: with nothing under way, all members of a quorum come to the same index and the same digest.
async fn agree(world: &World) {
    for quorum in world.quorums() {
        let members = world.members(quorum);
        let began = Instant::now();
        let mut digests;
        let mut found;
        loop {
            digests = Digests::default();
            found = Vec::new();
            let mut indices = Vec::new();
            for member in &members {
                let Ok(client) = world.client(*member) else { continue };
                let detail: Result<QuorumDetail, _> = client.get(&format!("/v1/quorums/{quorum}")).await;
                if let Some(own) = detail.ok().and_then(|detail| detail.own) {
                    found.extend(digests.check(quorum, own.applied.0, *member, own.digest.0));
                    indices.push(own.applied);
                }
            }
            let same = indices.len() == members.len() && indices.windows(2).all(|pair| pair[0] == pair[1]);
            if same || !found.is_empty() {
                break;
            }
            if began.elapsed() > RECOVERY_MAX {
                let what = format!("the members of {quorum} stand at {indices:?} with nothing under way");
                world.find(Violation::new(Guarantee::G4, what), format!("quorate quorum show {quorum}"));
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        world.count(Guarantee::G5, digests.compared());
        for violation in found {
            world.find(violation, format!("quorate quorum show {quorum}; quorate doctor"));
        }
    }
}

/// G8: leases are what is reserved for them, and transfers have given back their memory.
async fn released(world: &World) {
    for index in world.testnet.indices() {
        let began = Instant::now();
        loop {
            let Ok(client) = world.client(index) else { break };
            let resources: Result<ResourcesInfo, _> = client.get("/v1/resources").await;
            let Ok(resources) = resources else { break };
            let (mut accounts, mut stays) = reservations::leased(&resources);
            accounts.extend(reservations::passing(&resources));
            stays.resize(accounts.len(), 0);
            let found = g8_reservations::check_at_rest(&accounts, &stays);
            if found.is_empty() || began.elapsed() > RECOVERY_MAX {
                world.count(Guarantee::G8, accounts.len() as u64);
                for Violation { guarantee, what } in found {
                    let violation = Violation::new(guarantee, format!("on node {index}, {what}"));
                    world.find(violation, format!("quorate doctor --node {index}"));
                }
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    }
    for node in world.testnet.status() {
        audit(world, node.index, node.pid).await;
    }
}

/// G7: no task of any node panicked.
fn logs(world: &World) {
    for index in world.testnet.indices() {
        let text = std::fs::read(world.testnet.log_file(index)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let panics: Vec<String> = text.lines().filter(|line| line.contains("panicked at")).map(str::to_owned).collect();
        world.count(Guarantee::G7, 1);
        for violation in g7_bounded::check::<String>(&[], &panics) {
            world.find(violation, format!("the log of node {index}, around these words"));
        }
    }
}
