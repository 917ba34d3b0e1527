//! The workload of clients in a run: files, and commands to jobs and objects.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_node::quorums::ClientError;
use quorate_protocols::ids::{JobId, LogIndex, ObjectId, QuorumId};
use quorate_protocols::job::record::RunState;
use quorate_protocols::job::spec::{JobSpec, StoreSpec};
use quorate_protocols::object::Profile;
use quorate_protocols::quorum::object::ObjectState;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::watch::Until;
use quorate_protocols::quorum::{CommandReply, Control, Rejection};
use quorate_testnet::checkers::commands::{JobAnswer, JobOperation, JobState, ObjectAnswer, ObjectOperation};

use super::Session;
use crate::world::content;

/// Largest object of a schedule, in bytes. Small: what is tested is not the coding.
const OBJECT_BYTES_MAX: u64 = 64 * 1024;

/// Files being stored or read at once; a client does not start more while the network is paused.
const OPEN_MAX: usize = 8;

/// Commands and questions open at once, over all jobs and objects.
const CALLS_OPEN_MAX: usize = 24;

/// Calls to one thing that are made together, from several nodes.
const BURST_MAX: u64 = 5;

/// How long a client waits for a job. Past one failover; a job that nobody cancels does not end.
const WATCH_PATIENCE: Duration = Duration::from_secs(5);

/// Jobs whose clients are still interested.
const JOBS_WATCHED_MAX: usize = 4;

/// A job of the schedule: nobody feeds it; it is submitted, looked at and cancelled.
#[derive(Clone, Copy)]
pub(super) struct WatchedJob {
    job: JobId,
    owner: usize,
}

fn spec() -> JobSpec {
    JobSpec::store(StoreSpec { name: None, size: Some(1000), profile: Profile { data: 2, parity: 1 } })
}

fn state_of(state: RunState) -> JobState {
    match state {
        RunState::Cancelled => JobState::Cancelled,
        state if state.is_final() => JobState::Ended,
        _ => JobState::Live,
    }
}

/// What an answer to a command says of the job; `None` when it leaves open whether the command was carried out.
fn job_answer(result: Result<CommandReply, ClientError>) -> Option<JobAnswer> {
    match result {
        Ok(CommandReply::Submitted { existed, state }) => {
            Some(JobAnswer::Submitted { existed, state: state_of(state) })
        }
        Ok(CommandReply::Done) => Some(JobAnswer::Cancelled),
        Err(ClientError::Rejected(Rejection::UnknownJob { .. })) => Some(JobAnswer::Missing),
        Err(ClientError::Rejected(Rejection::IllegalState { .. })) => Some(JobAnswer::TooLate),
        _ => None,
    }
}

impl Session {
    /// One operation of a client, one fault, or the end of one.
    pub(super) async fn step(&mut self) {
        match self.rng.below(32) {
            0..=5 if self.oracle.open() < OPEN_MAX => self.put(),
            6..=11 if self.oracle.open() < OPEN_MAX => self.get(),
            12..=15 => self.call_job(),
            16..=18 => self.call_object(),
            19..=20 => self.recover().await,
            21 => self.compact().await,
            22..=23 => self.compute().await,
            _ => self.fault().await,
        }
    }

    pub(super) fn put(&mut self) {
        if self.rng.chance(400)
            && let Some(name) = self.oracle.take_unknown()
        {
            return self.put_again(name);
        }
        let Some(index) = self.rng.pick(&self.world.up()).copied() else { return };
        self.puts += 1;
        let name = format!("object-{}", self.puts);
        let bytes = content(self.plan.seed, &name, 1 + self.rng.below(OBJECT_BYTES_MAX) as usize);
        self.tried.insert(name.clone(), (index, bytes.len()));
        let put = self.world.put(index, name.clone(), bytes.clone());
        self.oracle.putting(name, index, self.clock.next(), &bytes, put);
    }

    /// A client whose put ended unknown comes back with the same file, to the same node.
    fn put_again(&mut self, name: String) {
        let Some(&(index, bytes)) = self.tried.get(&name) else { return };
        let bytes = content(self.plan.seed, &name, bytes);
        let put = self.world.put(index, name.clone(), bytes.clone());
        self.oracle.putting(name, index, self.clock.next(), &bytes, put);
    }

    /// A primary shortens its log, so that members which are far behind need its snapshot.
    async fn compact(&mut self) {
        let leads = self.world.leads().into_iter().filter(|lead| !self.world.is_paused(lead.node)).collect::<Vec<_>>();
        let Some(lead) = self.rng.pick(&leads).copied() else { return };
        let Some(quorum) = self.world.node(lead.node).and_then(|node| node.quorums().quorum(lead.quorum)) else {
            return;
        };
        let told = quorum.compact().await.is_ok();
        self.world.transcript.line(lead.node, format_args!("compacts {:?}: {told}", lead.quorum));
    }

    fn get(&mut self) {
        let Some(index) = self.rng.pick(&self.world.up()).copied() else { return };
        let Some(object) = self.rng.pick(&self.oracle.objects()).copied() else { return };
        let get = self.world.get(index, object);
        self.oracle.getting(object, get);
    }

    /// One of those that keep objects.
    pub(super) fn quorum(&mut self) -> Option<QuorumId> {
        let known: BTreeSet<QuorumId> = self.oracle.objects().iter().map(|object| object.quorum).collect();
        self.rng.pick(&known.into_iter().collect::<Vec<_>>()).copied()
    }

    /// Several clients at once, at several nodes, with one job.
    pub(super) fn call_job(&mut self) {
        self.watched.retain(|watched| self.job_history.has_room(watched.job));
        let is_new = self.watched.is_empty() || self.rng.chance(300);
        if is_new {
            let (Some(quorum), Some(owner)) = (self.quorum(), self.rng.pick(&self.world.up()).copied()) else { return };
            let mut local = [0; 16];
            self.rng.fill(&mut local);
            self.watched.push(WatchedJob { job: JobId { quorum, local }, owner });
            if self.watched.len() > JOBS_WATCHED_MAX {
                self.watched.remove(0);
            }
        }
        let latest = self.watched.last().copied().filter(|_| is_new);
        let Some(WatchedJob { job, owner }) = latest.or_else(|| self.rng.pick(&self.watched).copied()) else { return };
        for _ in 0..1 + self.rng.below(BURST_MAX) {
            let Some(index) = self.rng.pick(&self.world.up()).copied() else { return };
            if self.job_history.open() >= CALLS_OPEN_MAX || !self.job_history.has_room(job) {
                return;
            }
            match self.rng.below(10) {
                0..=1 => self.submit_job(owner, job),
                2 => self.cancel_job(owner, job),
                3 => self.watch_job(index, job, Until::Ended),
                4..=5 => self.watch_job(index, job, Until::Changed { since: LogIndex(0) }),
                _ => {
                    let (clock, called) = (self.clock.clone(), self.clock.next());
                    let handle = self.world.spawn_query(index, job.quorum, Query::Job { job }, move |result| {
                        let seen = match result {
                            Ok(QueryAnswer::Job(record)) => Some(JobAnswer::Seen(state_of(record.state))),
                            Ok(QueryAnswer::Unknown) => Some(JobAnswer::Seen(JobState::Absent)),
                            _ => None,
                        };
                        (clock.next(), seen)
                    });
                    self.job_history.call(job, called, JobOperation::Read, handle);
                }
            }
        }
    }

    /// A client waits for the job, as `GET /v1/jobs/{job}/wait` does. What it is told is as new as what a look finds.
    fn watch_job(&mut self, index: usize, job: JobId, until: Until) {
        let (clock, called) = (self.clock.clone(), self.clock.next());
        let handle = self.world.watch(index, job, until, WATCH_PATIENCE, move |result| {
            let seen = match result {
                Ok(Some(record)) => Some(JobAnswer::Seen(state_of(record.state))),
                Err(ClientError::Rejected(Rejection::UnknownJob { .. })) => Some(JobAnswer::Seen(JobState::Absent)),
                _ => None,
            };
            (clock.next(), seen)
        });
        self.job_history.call(job, called, JobOperation::Read, handle);
    }

    fn submit_job(&mut self, owner: usize, job: JobId) {
        let (clock, called) = (self.clock.clone(), self.clock.next());
        let judge = move |result| (clock.next(), job_answer(result));
        let submit = self.world.submit(owner, job, spec());
        let handle = self.world.command(owner, job.quorum, submit, judge);
        self.job_history.call(job, called, JobOperation::Submit, handle);
    }

    fn cancel_job(&mut self, owner: usize, job: JobId) {
        let (clock, called) = (self.clock.clone(), self.clock.next());
        let judge = move |result| (clock.next(), job_answer(result));
        let handle = self.world.control(owner, job, Control::Cancel, judge);
        self.job_history.call(job, called, JobOperation::Cancel, handle);
    }

    /// Several clients at once, at several nodes, with one object.
    fn call_object(&mut self) {
        let Some(object) = self.rng.pick(&self.oracle.objects()).copied() else { return };
        for _ in 0..1 + self.rng.below(BURST_MAX) {
            let Some(index) = self.rng.pick(&self.world.up()).copied() else { return };
            if self.object_history.open() >= CALLS_OPEN_MAX || !self.object_history.has_room(object) {
                return;
            }
            // A put that ended unknown may store the object again at any time, so it is never removed.
            match self.rng.chance(80) && self.oracle.was_stored_once(object) {
                true => self.remove_object(object),
                false => self.check_object(index, object),
            }
        }
    }

    fn check_object(&mut self, index: usize, object: ObjectId) {
        let (clock, called) = (self.clock.clone(), self.clock.next());
        let query = Query::Object { manifest: object.manifest };
        let handle = self.world.spawn_query(index, object.quorum, query, move |result| {
            let seen = match result {
                Ok(QueryAnswer::Object(view)) => Some(ObjectAnswer::Seen(view.record.state == ObjectState::Live)),
                Ok(QueryAnswer::Unknown) => Some(ObjectAnswer::Seen(false)),
                _ => None,
            };
            (clock.next(), seen)
        });
        self.object_history.call(object, called, ObjectOperation::Read, handle);
    }

    pub(super) fn remove_object(&mut self, object: ObjectId) {
        let Some(owner) = self.oracle.owner(object) else { return };
        self.oracle.removing(object);
        let (clock, called) = (self.clock.clone(), self.clock.next());
        let handle = self.world.remove(owner, object, move |result| {
            let answer = match result {
                Ok(CommandReply::Removed { .. }) => Some(ObjectAnswer::Done),
                Err(ClientError::Rejected(Rejection::UnknownObject { .. })) => Some(ObjectAnswer::Missing),
                _ => None,
            };
            (clock.next(), answer)
        });
        self.object_history.call(object, called, ObjectOperation::Remove, handle);
    }
}
