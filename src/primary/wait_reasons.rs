//! Wait reasons: why a run waits, as the primary sees it right now.
//!
//! A run that lacks holders has nothing to commit about it, and a reason in the log every few seconds would be noise.
//! So the driver keeps the reason in memory, and whoever answers for a job here adds it to the record. A new primary
//! finds its own reasons within a retry.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use quorate_protocols::ids::{JobId, QuorumId};
use quorate_protocols::job::JobRecord;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::task::message::Progress;
use quorate_protocols::text::counted;

use super::heartbeats::WorkerHeartbeats;
use crate::quorums::ports::LocalQuorum;

/// Reasons kept; beyond that new ones are dropped, and `why` says only what the record says.
const REASONS_MAX: usize = 10_000;

/// Tasks whose progress one answer tells of; a person reads no more.
const TASKS_TOLD: usize = 8;

#[derive(Clone, Default)]
pub struct WaitReasons {
    reasons: Arc<Mutex<Reasons>>,
    heartbeats: WorkerHeartbeats,
}

#[derive(Default)]
struct Reasons {
    jobs: BTreeMap<JobId, String>,
    /// Why a led quorum finds no further workers. As many as there are led quorums.
    workers: BTreeMap<QuorumId, String>,
}

impl WaitReasons {
    /// What the workers of led quorums say of their tasks.
    pub fn heartbeats(&self) -> &WorkerHeartbeats {
        &self.heartbeats
    }
    pub fn set(&self, job: JobId, reason: String) {
        let jobs = &mut self.lock().jobs;
        if jobs.len() < REASONS_MAX || jobs.contains_key(&job) {
            jobs.insert(job, reason);
        }
    }
    pub fn clear(&self, job: JobId) {
        self.lock().jobs.remove(&job);
    }
    pub fn set_workers(&self, quorum: QuorumId, reason: String) {
        self.lock().workers.insert(quorum, reason);
    }
    pub fn clear_workers(&self, quorum: QuorumId) {
        self.lock().workers.remove(&quorum);
    }
    /// Forgets what this node knew as the primary of a quorum.
    pub fn clear_quorum(&self, quorum: QuorumId) {
        let mut reasons = self.lock();
        reasons.jobs.retain(|job, _| job.quorum != quorum);
        reasons.workers.remove(&quorum);
        drop(reasons);
        self.heartbeats.clear_quorum(quorum);
    }
    /// Why the quorum finds no further workers, if it looks for some in vain.
    pub fn workers(&self, quorum: QuorumId) -> Option<String> {
        self.lock().workers.get(&quorum).cloned()
    }
    pub fn get(&self, job: JobId) -> Option<String> {
        self.lock().jobs.get(&job).cloned()
    }
    /// The answer, with the reasons known here in the records of live runs, and how far their tasks are.
    pub fn add_to(&self, local: &dyn LocalQuorum, query: &Query, mut answer: QueryAnswer) -> QueryAnswer {
        let add = |record: &mut JobRecord| {
            if record.state.is_final() {
                return;
            }
            if let Some(reason) = self.get(record.job).or_else(|| self.told_of(record.job)) {
                record.reason = Some(reason);
            }
        };
        match &mut answer {
            QueryAnswer::Job(record) => add(record),
            QueryAnswer::Jobs(records) => records.iter_mut().for_each(add),
            QueryAnswer::Why(text) => {
                if let Query::Why { job } = query {
                    self.explain(local, *job, text);
                }
            }
            _ => (),
        }
        answer
    }
    /// What some worker says of a task of the job, if one says anything.
    fn told_of(&self, job: JobId) -> Option<String> {
        let running = self.heartbeats.of_job(job);
        let (worker, progress) = running.iter().find(|(_, progress)| !progress.note.is_empty())?;
        Some(format!("task {} at {worker}: {}", progress.task.id.task, progress.note))
    }
    fn explain(&self, local: &dyn LocalQuorum, job: JobId, text: &mut String) {
        let (mut is_live, mut waits) = (false, false);
        local.with_state(&mut |state| {
            is_live = state.jobs().get(&job).is_some_and(|record| !record.state.is_final());
            waits = state.waits_for_workers(job);
        });
        if !is_live {
            return;
        }
        if let Some(reason) = self.workers(job.quorum).filter(|_| waits) {
            text.push_str(&format!("; {reason}"));
        }
        let running = self.heartbeats.of_job(job);
        for (worker, Progress { task, permille, note }) in running.iter().take(TASKS_TOLD) {
            let percent = f64::from(*permille) / 10.0;
            text.push_str(&format!("; task {} at {worker} is {percent} % done", task.id.task));
            if !note.is_empty() {
                text.push_str(&format!(" ({note})"));
            }
        }
        if let Some(more) = running.len().checked_sub(TASKS_TOLD).filter(|more| *more > 0) {
            text.push_str(&format!("; and {}", counted(more, "more task")));
        }
    }
    fn lock(&self) -> MutexGuard<'_, Reasons> {
        self.reasons.lock()
    }
}
