//! Jobs that compute, in a run: submitted through any node, never looked after, and judged when faults are over.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_node::quorums::ClientError;
use quorate_protocols::ids::{JobId, LogIndex, StepIndex, TaskIndex};
use quorate_protocols::job::batch::{BatchSpec, Map};
use quorate_protocols::job::record::RunState;
use quorate_protocols::job::spec::JobSpec;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::watch::Until;
use quorate_protocols::quorum::{CommandReply, Rejection};
use quorate_protocols::task::inputs::idempotency_token;
use quorate_protocols::task::limits::LOSSES_MAX;
use quorate_protocols::task::record::{TaskId, TaskState};
use quorate_protocols::task::spec::{Call, Content, Program, Verify};
use quorate_testnet::checkers::{Guarantee, Violation};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{LIVENESS_BOUND, Session};
use quorate_testnet::rng::Rng;

/// Submits whose answer is awaited, and jobs that one run submits at the most: all are looked at in the end.
const OPEN_MAX: usize = 6;
const JOBS_MAX: usize = 60;

/// Tasks of one job.
const TASKS_MAX: u64 = 8;

/// Of a thousand jobs, those of which copies must agree, and of the others those that must not begin twice.
const VERIFIED: u32 = 200;
const ONCE: u32 = 250;

/// How long attempts take, in milliseconds: quick ones are given ahead, long ones are caught by faults.
const MILLIS: [u64; 4] = [0, 50, 1_000, 10_000];

/// A worker that stands still or has a full disk is no reason to give a job up: the faults end before this many tries.
const ATTEMPTS: u16 = 100;
const TASK_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Between two waits for a job that has not ended.
const CHECK_PAUSE: Duration = Duration::from_millis(500);

/// How long one wait for a job holds.
const WATCH_PATIENCE: Duration = Duration::from_secs(2);

/// A job whose submit was answered, or may have been taken.
pub(super) struct Computing {
    job: JobId,
    tasks: u32,
    is_idempotent: bool,
    submitting: Option<JoinHandle<Option<bool>>>,
    is_acknowledged: bool,
}

/// A specification of some shape, and how many tasks it has.
fn draw(rng: &mut Rng) -> (BatchSpec, u32) {
    let is_verified = rng.chance(VERIFIED);
    let module = Content::Inline(Bytes::from_static(b"simulated"));
    let program = Program::Wasm { module, fuel: is_verified.then_some(1), deterministic: is_verified };
    let mut call = Call::new(program);
    call.args = vec![MILLIS[rng.below(MILLIS.len() as u64) as usize].to_string()];
    let tasks = 1 + rng.below(TASKS_MAX) as u32;
    let mut spec = BatchSpec { map: Map::Count(tasks), ..BatchSpec::new(call) };
    spec.resources.capacity.memory_bytes = 1 << 20;
    spec.timeouts.task = TASK_TIMEOUT;
    spec.retry.attempts = ATTEMPTS;
    spec.retry.base = Duration::from_millis(200);
    match is_verified {
        true => spec.verify = Some(Verify { copies: 3, agree: 2 }),
        false => spec.idempotent = !rng.chance(ONCE),
    }
    (spec, tasks)
}

fn token(job: JobId, task: u32) -> String {
    let token = idempotency_token(TaskId { job, step: StepIndex(0), task: TaskIndex(task) });
    token.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Session {
    /// A client submits a job that computes, to a quorum that exists.
    pub(super) async fn compute(&mut self) {
        self.hear_submits().await;
        let open = self.computing.iter().filter(|job| job.submitting.is_some()).count();
        if open >= OPEN_MAX || self.computing.len() >= JOBS_MAX {
            return;
        }
        let (Some(quorum), Some(index)) = (self.quorum(), self.rng.pick(&self.world.up()).copied()) else { return };
        let (spec, tasks) = draw(&mut self.rng);
        let mut local = [0; 16];
        self.rng.fill(&mut local);
        let (job, is_idempotent) = (JobId { quorum, local }, spec.idempotent);
        let submit = self.world.submit(index, job, JobSpec::batch(spec));
        let is_taken = |result: Result<_, ClientError>| matches!(result, Ok(CommandReply::Submitted { .. }));
        let submitting = Some(self.world.command(index, quorum, submit, is_taken));
        self.computing.push(Computing { job, tasks, is_idempotent, submitting, is_acknowledged: false });
    }

    /// Notes which submits were acknowledged. One without an answer promises nothing.
    async fn hear_submits(&mut self) {
        for computing in &mut self.computing {
            if let Some(submitting) = computing.submitting.take_if(|submitting| submitting.is_finished()) {
                computing.is_acknowledged = matches!(submitting.await, Ok(Some(true)));
                self.coverage.jobs_acknowledged += u64::from(computing.is_acknowledged);
            }
        }
    }

    /// After the faults: every job that was acknowledged comes to its end with the results of its own tasks, and what
    /// must not begin twice did not.
    pub(super) async fn judge_computing(&mut self, began: Instant, end: Instant) -> Vec<(String, Option<Duration>)> {
        let mut waits = Vec::new();
        while self.computing.iter().any(|job| job.submitting.is_some()) && Instant::now() < end {
            tokio::time::sleep(CHECK_PAUSE).await;
            self.hear_submits().await;
        }
        let jobs: Vec<_> = self.computing.iter().filter(|job| job.is_acknowledged).collect();
        let mut found = Vec::new();
        for computing in &jobs {
            let mut seen = LogIndex(0);
            let (took, why) = loop {
                match self.check_computing(computing, &mut seen).await {
                    Ok(wrong) => {
                        found.extend(wrong.map(|what| Violation::new(Guarantee::G1, what)));
                        break (Some(began.elapsed()), String::new());
                    }
                    Err(why) if Instant::now() >= end => break (None, why),
                    Err(_) => tokio::time::sleep(CHECK_PAUSE).await,
                }
            };
            waits.push((format!("job {} {why}", computing.job), took));
        }
        let begun: BTreeMap<String, u64> = self.executor.begun().clone();
        for computing in jobs.iter().filter(|job| !job.is_idempotent) {
            for task in 0..computing.tasks {
                let times = begun.get(&token(computing.job, task)).copied().unwrap_or_default();
                if times > 1 {
                    let what = format!("task {task} of {} must not begin twice and began {times} times", computing.job);
                    found.push(Violation::new(Guarantee::G2, what));
                }
            }
        }
        let tasks: u64 = jobs.iter().map(|job| u64::from(job.tasks)).sum();
        self.coverage.tasks_begun += begun.values().sum::<u64>();
        self.coverage.tasks_begun_again += begun.values().filter(|times| **times > 1).count() as u64;
        self.world.transcript.line(0, format_args!("{} jobs with {tasks} tasks were judged", jobs.len()));
        self.violations.extend(found);
        waits
    }

    /// `Err`: it has not ended, or nobody says. `Ok`: it has, with what is wrong about it.
    async fn check_computing(&self, computing: &Computing, seen: &mut LogIndex) -> Result<Option<String>, String> {
        let job = computing.job;
        let until = match computing.is_idempotent {
            true => Until::Ended,
            // It may come to wait for a person.
            false => Until::Changed { since: *seen },
        };
        let record = match self.wait_for_job(job, until).await {
            Some(QueryAnswer::Job(record)) => record,
            Some(QueryAnswer::Unknown) => return Ok(Some(format!("{job} was acknowledged and is not known"))),
            _ => return Err("is not to be asked about".to_owned()),
        };
        *seen = record.revision;
        match record.state {
            RunState::Succeeded => (),
            // A worker was lost in the middle of it: a person decides.
            RunState::AwaitingResolution if !computing.is_idempotent => return Ok(None),
            RunState::Failed if self.lost_too_many(job).await? => return Ok(None),
            state if state.is_final() => return Ok(Some(format!("{job} is {state}: {:?}", record.reason))),
            state => return Err(format!("is {state}: {:?}", record.reason)),
        }
        let query = Query::Outputs { job, step: StepIndex(0), from: TaskIndex(0), limit: computing.tasks };
        let Some(QueryAnswer::Outputs(outputs)) = self.ask(job, query).await else {
            return Err("has outputs that nobody gives".to_owned());
        };
        let found: Vec<_> = outputs.into_iter().map(|given| given.bytes.unwrap_or_default()).collect();
        let expected: Vec<Bytes> = (0..computing.tasks).map(|task| token(job, task).into()).collect();
        Ok((found != expected).then(|| format!("{job} has outputs that are not its own: {found:?}")))
    }

    /// Whether one of its tasks lost so many workers that it was given up, as any task is that might be what kills
    /// them.
    async fn lost_too_many(&self, job: JobId) -> Result<bool, String> {
        let query = Query::Tasks { job, step: StepIndex(0), from: TaskIndex(0), limit: TASKS_MAX as u32 };
        let Some(QueryAnswer::Tasks(tasks)) = self.ask(job, query).await else {
            return Err("has tasks that nobody shows".to_owned());
        };
        Ok(tasks.iter().any(|(_, task)| task.state == TaskState::DeadLetter && task.losses > LOSSES_MAX))
    }

    /// The job as soon as the condition holds, or as it is after a while, as the API answers those who wait for it.
    async fn wait_for_job(&self, job: JobId, until: Until) -> Option<QueryAnswer> {
        let index = self.world.up().first().copied()?;
        let watched = self.world.watch(index, job, until, WATCH_PATIENCE, |result| match result {
            Ok(Some(record)) => Some(Some(QueryAnswer::Job(record.clone()))),
            Ok(None) => Some(None),
            Err(ClientError::Rejected(Rejection::UnknownJob { .. })) => Some(Some(QueryAnswer::Unknown)),
            Err(_) => None,
        });
        match tokio::time::timeout(LIVENESS_BOUND, watched).await.ok()?.ok()??? {
            Some(answer) => Some(answer),
            None => self.ask(job, Query::Job { job }).await,
        }
    }

    async fn ask(&self, job: JobId, query: Query) -> Option<QueryAnswer> {
        let index = self.world.up().first().copied()?;
        let asked = self.world.spawn_query(index, job.quorum, query, |result| result.as_ref().ok().cloned());
        tokio::time::timeout(LIVENESS_BOUND, asked).await.ok()?.ok().flatten().flatten()
    }
}
