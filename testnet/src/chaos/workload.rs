//! Clients: each does one thing after the other through nodes of its choice, and says honestly what it was told.

use std::sync::Arc;
use std::time::Duration;

use quorate_api::{ObjectInfo, PutInfo};
use quorate_protocols::ids::ObjectId;
use reqwest::Method;

use super::Operation;
use super::content::content;
use super::oracle::content_of;
use super::world::World;
use crate::checkers::Guarantee;
use crate::checkers::commands::{ObjectAnswer, ObjectOperation};
use crate::client::{Client, ClientError};
use crate::rng::Rng;

/// What a client waits for an answer: a failover, a placement and a slow machine. Then the outcome is unknown.
pub const OPERATION_MAX: Duration = Duration::from_secs(25);

/// Between two operations of a client, on average: real work on seven nodes that share two cores with their clients.
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// Objects that a run keeps: enough that every node holds many, few enough to read them all in the end.
const LIVE_MAX: usize = 400;

/// Calls made to one object at once.
const BURST_MAX: u64 = 5;

/// Of a hundred of these calls, removals.
const REMOVALS_PER_MILLE: u32 = 80;

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Ok,
    Failed,
    Unknown,
}

/// What an error means to whoever asked for a change.
pub fn end_of(error: &ClientError) -> End {
    match error {
        // The connection was refused: nothing was sent.
        ClientError::NoAnswer { .. } | ClientError::File { .. } => End::Failed,
        ClientError::Refused { error, .. } => match error.as_str() {
            // A node that stops in the middle of a request answers so; it may have acted.
            "unknown" | "internal" => End::Unknown,
            _ => End::Failed,
        },
        ClientError::Answer { .. } | ClientError::Transfer { .. } => End::Unknown,
    }
}

async fn within<T>(work: impl Future<Output = Result<T, ClientError>>) -> Result<T, End> {
    match tokio::time::timeout(OPERATION_MAX, work).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(end_of(&error)),
        Err(_) => Err(End::Unknown),
    }
}

/// A put whose end is unknown, to be tried again.
struct Again {
    entry: usize,
    number: u64,
    bytes: usize,
}

/// Works until the run says stop.
pub async fn client(world: Arc<World>, number: u64) {
    let mut rng = Rng::new(world.options.seed, &format!("client {number}"));
    let mut next = number << 32;
    let mut again: Option<Again> = None;
    let weights: Vec<(Operation, u64)> = world
        .options
        .workload
        .iter()
        .filter_map(|operation| match operation {
            Operation::Put => Some((Operation::Put, 4)),
            Operation::Get => Some((Operation::Get, 3)),
            Operation::Command => Some((Operation::Command, 3)),
            Operation::Rm => Some((Operation::Rm, 1)),
            // At a rate of their own.
            Operation::Job => None,
        })
        .collect();
    while world.is_working() {
        tokio::time::sleep(rng.duration(Duration::ZERO, PAUSE_MAX)).await;
        let Some(mut operation) = rng.weighted(&weights).copied() else { return };
        let live = world.state().oracle.live();
        match operation {
            Operation::Put if live.len() >= LIVE_MAX => operation = Operation::Rm,
            Operation::Get | Operation::Rm if live.is_empty() => continue,
            _ => (),
        }
        let entry = entry(&world, &mut rng);
        let end = match operation {
            Operation::Put => {
                let put = match again.take() {
                    Some(put) if rng.chance(700) => put,
                    _ => {
                        next += 1;
                        Again { entry, number: next, bytes: size(&mut rng) }
                    }
                };
                let entry = put.entry;
                let end = at(&world, entry, put_once(&world, &put)).await;
                if end == End::Unknown {
                    again = Some(put);
                }
                end
            }
            Operation::Get => match rng.pick(&live).copied() {
                Some(object) => at(&world, entry, get_once(&world, entry, object)).await,
                None => continue,
            },
            Operation::Rm => match rng.pick(&live).copied() {
                Some(object) => at(&world, entry, remove_once(&world, entry, object)).await,
                None => continue,
            },
            Operation::Command => {
                let followed = world.state().histories.followed();
                match rng.pick(&followed).copied() {
                    Some(object) => burst(&world, &mut rng, object).await,
                    None => continue,
                }
            }
            Operation::Job => continue,
        };
        let mut state = world.state();
        let counts = state.operations.entry(operation.name()).or_default();
        match end {
            End::Ok => counts.ok += 1,
            End::Failed => counts.failed += 1,
            End::Unknown => counts.unknown += 1,
        }
    }
}

/// Mostly a node that works; sometimes whoever it may be.
pub fn entry(world: &World, rng: &mut Rng) -> usize {
    let all = world.testnet.indices();
    let unbroken = world.unbroken();
    let among = if rng.chance(900) { &unbroken } else { &all };
    rng.pick(among).copied().unwrap_or(all[0])
}

/// Small ones that are copied, ordinary ones that are coded, and now and then one of several segments.
fn size(rng: &mut Rng) -> usize {
    let most = rng.weighted(&[(4 << 10, 50), (256 << 10, 40), (2 << 20, 9), (17 << 20, 1)]).copied().unwrap_or(1 << 10);
    1 + rng.below(most) as usize
}

/// Counts the node as one with an operation in flight.
async fn at(world: &World, entry: usize, work: impl Future<Output = End>) -> End {
    *world.state().entries.entry(entry).or_default() += 1;
    let end = work.await;
    if let Some(count) = world.state().entries.get_mut(&entry) {
        *count -= 1;
    }
    end
}

pub fn name_of(seed: u64, number: u64) -> String {
    format!("chaos-{seed}-{number}")
}

async fn put_once(world: &World, put: &Again) -> End {
    let name = name_of(world.options.seed, put.number);
    let data = content(world.options.seed, put.number, put.bytes);
    let stored = content_of(&data);
    let called = {
        let mut state = world.state();
        state.oracle.putting(&name, stored);
        state.histories.now()
    };
    let work = async {
        let client = world.client(put.entry)?;
        let path = format!("/v1/objects?name={name}&bytes={}&fingerprint={name}", put.bytes);
        let response = client.send(client.request(Method::POST, &path).body(data)).await?;
        response.json::<PutInfo>().await.map_err(|error| ClientError::Transfer { reason: error.to_string() })
    };
    match within(work).await {
        Ok(info) => {
            let holders = info.columns.iter().filter_map(|column| world.testnet.index_of(column.holder)).collect();
            let mut state = world.state();
            state.oracle.stored(info.object, stored);
            if state.oracle.was_tried_once(&name) {
                state.histories.stored(info.object, called);
            }
            state.holders = holders;
            End::Ok
        }
        Err(end) => end,
    }
}

/// The whole object as a node reads it.
pub async fn read(client: &Client, object: ObjectId) -> Result<Vec<u8>, ClientError> {
    let response = client.send(client.request(Method::GET, &format!("/v1/objects/{object}/content"))).await?;
    let bytes = response.bytes().await.map_err(|error| ClientError::Transfer { reason: error.to_string() })?;
    Ok(bytes.to_vec())
}

async fn get_once(world: &World, entry: usize, object: ObjectId) -> End {
    let work = async { read(&world.client(entry)?, object).await };
    let ended = tokio::time::timeout(OPERATION_MAX, work).await;
    match ended {
        Ok(Ok(bytes)) => {
            world.count(Guarantee::G6, 1);
            let wrong = world.state().oracle.check_read(object, content_of(&bytes));
            if let Some(violation) = wrong {
                world.find(violation, format!("quorate object show {object} --node {entry}"));
            }
            End::Ok
        }
        Ok(Err(ClientError::Refused { status: 404, .. })) => {
            // Only a steward that a majority confirms says so, faults or not; a member that lags says something else.
            world.count(Guarantee::G1, 1);
            let lost = world.state().oracle.check_missing(object);
            for violation in lost {
                world.find(violation, format!("quorate object show {object} --node {entry}"));
            }
            End::Failed
        }
        // A read changes nothing, so that nothing is unknown.
        Ok(Err(_)) | Err(_) => End::Failed,
    }
}

async fn remove_once(world: &World, entry: usize, object: ObjectId) -> End {
    let called = {
        let mut state = world.state();
        // From here on both answers are right, whatever is said below.
        state.oracle.removing(object);
        state.histories.call(object, ObjectOperation::Remove)
    };
    let work = async {
        let client = world.client(entry)?;
        // Through whichever node, and whoever put it: every node is an operator of a testnet.
        let path = format!("/v1/objects/{object}?everyone=true&force=true");
        client.send(client.request(Method::DELETE, &path)).await.map(drop)
    };
    let end = within(work).await;
    let mut state = world.state();
    state.histories.answer(object, called, end.is_ok().then_some(ObjectAnswer::Done));
    match end {
        Ok(()) => {
            state.oracle.removed(object);
            End::Ok
        }
        Err(end) => end,
    }
}

/// Asks for an object, without its content.
async fn check_once(world: &World, entry: usize, object: ObjectId) -> End {
    let called = world.state().histories.call(object, ObjectOperation::Read);
    let work = async { world.client(entry)?.get::<ObjectInfo>(&format!("/v1/objects/{object}")).await };
    let (end, answer) = match tokio::time::timeout(OPERATION_MAX, work).await {
        Ok(Ok(_)) => (End::Ok, Some(ObjectAnswer::Seen(true))),
        Ok(Err(ClientError::Refused { status: 404, .. })) => (End::Ok, Some(ObjectAnswer::Seen(false))),
        // A question changes nothing, so that nothing is unknown.
        Ok(Err(_)) | Err(_) => (End::Failed, None),
    };
    world.state().histories.answer(object, called, answer);
    end
}

/// Several calls to one object at once; then everything that was ever seen of it is judged.
async fn burst(world: &World, rng: &mut Rng, object: ObjectId) -> End {
    let calls = (0..2 + rng.below(BURST_MAX - 1)).map(|_| {
        let (entry, removes) = (entry(world, rng), rng.chance(REMOVALS_PER_MILLE));
        at(world, entry, async move {
            match removes {
                true => remove_once(world, entry, object).await,
                false => check_once(world, entry, object).await,
            }
        })
    });
    let calls: Vec<_> = calls.collect();
    let ends = futures::future::join_all(calls).await;
    world.count(Guarantee::G1, 1);
    let wrong = world.state().histories.judge(object);
    if let Some(violation) = wrong {
        world.find(violation, format!("quorate object show {object}; quorate job ls"));
    }
    // The worst of them.
    ends.into_iter().max().unwrap_or(End::Ok)
}
