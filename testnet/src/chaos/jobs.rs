//! Jobs at a steady rate, whatever is broken: each is followed to its end, and its record must say what it came to,
//! once.
//!
//! Unlike the other operations these do not wait for each other: what comes in does not slow down because a node is
//! away. A job has an id before it is submitted, so a submit without an answer is repeated under it through another
//! node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_api::{HistoryEntry, JobIdInfo, JobIdRequest, JobInfo, Listing, RunState, SubmitInfo, SubmitRequest};
use quorate_protocols::ids::JobId;
use tokio::sync::Semaphore;

use super::RECOVERY_MAX;
use super::workload::{End, end_of, entry};
use super::world::World;
use crate::checkers::{Guarantee, Violation};
use crate::client::{Client, ClientError};
use crate::rng::Rng;

/// The example that greets whom it is told to.
const SPEC: &str = include_str!("../../../examples/hello.toml");

/// Jobs between their submit and their end. When they are so many none is submitted until one has ended.
const JOBS_MAX: usize = 2000;

/// How long one question waits for the end of a job.
const WAIT_MS: u64 = 5000;

/// Before the same is asked again, elsewhere.
const PAUSE: Duration = Duration::from_millis(100);

/// Ended jobs that are looked at again when all is over.
pub const KEPT: usize = 400;

/// A job that ended, with what it had to come to.
#[derive(Clone, Debug)]
pub struct Ended {
    pub job: JobId,
    pub whom: String,
}

/// Submits at the rate of the options until the run says stop, and returns when every job has ended or was given up.
pub async fn submit_steadily(world: Arc<World>) {
    let places = Arc::new(Semaphore::new(JOBS_MAX));
    let mut under_way = tokio::task::JoinSet::new();
    let mut turns = tokio::time::interval(Duration::from_secs(1) / world.options.jobs_per_s.max(1));
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut number = 0;
    while world.is_working() {
        turns.tick().await;
        let Ok(place) = places.clone().acquire_owned().await else { break };
        while under_way.try_join_next().is_some() {}
        number += 1;
        let world = world.clone();
        under_way.spawn(async move {
            let end = one(&world, number).await;
            let mut state = world.state();
            let counts = state.operations.entry(super::Operation::Job.name()).or_default();
            match end {
                End::Ok => counts.ok += 1,
                End::Failed => counts.failed += 1,
                End::Unknown => counts.unknown += 1,
            }
            drop(place);
        });
    }
    while let Some(joined) = under_way.join_next().await {
        joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
}

/// From the submit to the end. A job that was never acknowledged may have run or not.
async fn one(world: &World, number: u64) -> End {
    let mut rng = Rng::new(world.options.seed, &format!("job {number}"));
    let whom = format!("{}-{number}", world.options.seed);
    let Some(job) = submit(world, &mut rng, &whom).await else { return End::Unknown };
    world.state().jobs_in_flight += 1;
    let ended = until_end(world, &mut rng, job).await;
    world.state().jobs_in_flight -= 1;
    world.count(Guarantee::G1, 1);
    let found = match &ended {
        None => Some(format!("job {job} was acknowledged and had no end {RECOVERY_MAX:?} after the faults")),
        Some((info, history)) => wrong(&whom, info, history),
    };
    match found {
        None => {
            let mut state = world.state();
            if state.ended_jobs.len() == KEPT {
                state.ended_jobs.pop_front();
            }
            state.ended_jobs.push_back(Ended { job, whom });
            End::Ok
        }
        Some(what) => {
            world.find(Violation::new(Guarantee::G1, what), format!("quorate job history {job}"));
            End::Failed
        }
    }
}

/// Until a node says that the job is committed, or for as long as a client tries.
async fn submit(world: &World, rng: &mut Rng, whom: &str) -> Option<JobId> {
    let began = Instant::now();
    let quorum = rng.pick(&world.quorums()).copied();
    let mut job = None;
    while began.elapsed() < RECOVERY_MAX {
        let at = entry(world, rng);
        let attempt = async {
            let client = world.client(at)?;
            if job.is_none() {
                let request = JobIdRequest { quorum, ..JobIdRequest::default() };
                job = Some(client.post::<_, JobIdInfo>("/v1/jobs/ids", &request).await?.job);
            }
            let request = SubmitRequest {
                spec: SPEC.to_owned(),
                set: [("who".to_owned(), whom.to_owned())].into(),
                job,
                ..SubmitRequest::default()
            };
            client.post::<_, SubmitInfo>("/v1/jobs", &request).await
        };
        *world.state().entries.entry(at).or_default() += 1;
        let answer = attempt.await;
        if let Some(count) = world.state().entries.get_mut(&at) {
            *count -= 1;
        }
        match answer {
            Ok(info) => return Some(info.job),
            Err(error) if is_final(&error) => {
                world.find(Violation::new(Guarantee::G1, format!("a submit was refused: {error}")), "quorate job ls");
                return None;
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    None
}

/// Whether asking again elsewhere cannot help.
fn is_final(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { status: 400..=499, error, .. } if error != "busy" && error != "not-found")
        && end_of(error) == End::Failed
}

/// The job as it ended, and its history. `None` when it has no end long after the faults, or is not there.
async fn until_end(world: &World, rng: &mut Rng, job: JobId) -> Option<(JobInfo, Vec<HistoryEntry>)> {
    let mut stopped = None;
    loop {
        let at = entry(world, rng);
        let look = async {
            let client = world.client(at)?;
            let info: JobInfo = client.get(&format!("/v1/jobs/{job}/wait?timeout_ms={WAIT_MS}")).await?;
            match info.state.is_final() {
                true => Ok(Some((info, history(&client, job).await?))),
                false => Ok(None),
            }
        };
        let seen: Result<_, ClientError> = look.await;
        match seen {
            Ok(Some(ended)) => return Some(ended),
            Ok(None) => {}
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
        if !world.is_working() && stopped.get_or_insert_with(Instant::now).elapsed() > RECOVERY_MAX {
            return None;
        }
    }
}

async fn history(client: &Client, job: JobId) -> Result<Vec<HistoryEntry>, ClientError> {
    let listing: Listing<HistoryEntry> = client.get(&format!("/v1/jobs/{job}/history")).await?;
    Ok(listing.items)
}

/// What is wrong with the record of a job that ended.
fn wrong(whom: &str, info: &JobInfo, history: &[HistoryEntry]) -> Option<String> {
    let job = info.job;
    if info.state != RunState::Succeeded {
        return Some(format!("job {job} ended as {}: {}", info.state, info.why.as_deref().unwrap_or("no reason")));
    }
    let ends = history.iter().filter(|entry| entry.state.is_final()).count();
    if ends != 1 {
        return Some(format!("job {job} was ended {ends} times: {history:?}"));
    }
    let said = info
        .batch
        .as_ref()
        .and_then(|batch| batch.outcome.as_ref())
        .and_then(|outcome| outcome.outputs.first())
        .and_then(|output| output.text.as_deref());
    let right = format!("Hello, {whom}!\n");
    (said != Some(right.as_str())).then(|| format!("job {job} came to {said:?} and not to {right:?}"))
}

/// The last ones to end, looked at again with nothing broken: an end is for good.
pub async fn check_again(world: &World) {
    let ended: Vec<Ended> = world.state().ended_jobs.iter().cloned().collect();
    let indices = world.testnet.indices();
    for (position, Ended { job, whom }) in ended.into_iter().enumerate() {
        let index = indices[position % indices.len()];
        let began = Instant::now();
        let found = loop {
            let look = async {
                let client = world.client(index)?;
                let info: JobInfo = client.get(&format!("/v1/jobs/{job}")).await?;
                Ok::<_, ClientError>((info, history(&client, job).await?))
            };
            match look.await {
                Ok((info, history)) => break wrong(&whom, &info, &history),
                Err(error) if began.elapsed() > RECOVERY_MAX => {
                    break Some(format!("job {job} had ended and cannot be looked at: {error}"));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        world.count(Guarantee::G1, 1);
        if let Some(what) = found {
            world.find(Violation::new(Guarantee::G1, what), format!("quorate job history {job} --node {index}"));
        }
    }
}
