//! Why a run waits, as the primary sees it right now.
//!
//! A run that lacks holders has nothing to commit about it, and a reason in the log every few seconds would be noise.
//! So the driver keeps the reason in memory, and whoever answers for a job here adds it to the record. A new primary
//! finds its own reasons within a retry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use quorate_protocols::ids::{JobId, QuorumId};
use quorate_protocols::job::JobRecord;
use quorate_protocols::job::message::QueryAnswer;

/// Reasons kept; beyond that new ones are dropped, and `why` says only what the record says.
const NOTES_MAX: usize = 10_000;

#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Reasons>>);

#[derive(Default)]
struct Reasons {
    jobs: BTreeMap<JobId, String>,
    /// Why a led quorum finds no further workers. As many as there are led quorums.
    workers: BTreeMap<QuorumId, String>,
}

impl Notes {
    pub fn set(&self, job: JobId, reason: String) {
        let jobs = &mut self.lock().jobs;
        if jobs.len() < NOTES_MAX || jobs.contains_key(&job) {
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
    }
    pub fn get(&self, job: JobId) -> Option<String> {
        self.lock().jobs.get(&job).cloned()
    }
    /// The answer, with the reasons known here in the records of live runs.
    pub fn add_to(&self, mut answer: QueryAnswer) -> QueryAnswer {
        let add = |record: &mut JobRecord| {
            if !record.state.is_final()
                && let Some(reason) = self.get(record.job)
            {
                record.reason = Some(reason);
            }
        };
        match &mut answer {
            QueryAnswer::Job(record) => add(record),
            QueryAnswer::Jobs(records) => records.iter_mut().for_each(add),
            _ => (),
        }
        answer
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, Reasons> {
        self.0.lock().expect("no panic while holding the notes")
    }
}
