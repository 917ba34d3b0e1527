//! Heartbeats of workers: the last one of each, which says that it is alive and how far its tasks are.
//!
//! Heartbeats change nothing that is agreed on, so they stay in the memory of the primary that heard them; a new
//! primary hears the next ones within seconds. Only peers that the quorum has a lease of are noted, so there are at
//! most `task::limits::WORKERS_MAX` per led quorum, each with one heartbeat.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use quorate_protocols::ids::{JobId, PeerId, QuorumId};
use quorate_protocols::task::limits::BATCH_MAX;
use quorate_protocols::task::message::Progress;
use quorate_protocols::text::REASON_BYTES_MAX;
use quorate_protocols::text::truncate;
use tokio::time::Instant;

struct LastHeartbeat {
    heard_at: Instant,
    running: Vec<Progress>,
}

/// Cloneable; clones share what was heard.
#[derive(Clone, Default)]
pub struct WorkerHeartbeats(Arc<Mutex<BTreeMap<(QuorumId, PeerId), LastHeartbeat>>>);

impl WorkerHeartbeats {
    /// The worker was heard, whatever it said.
    pub fn record_contact(&self, quorum: QuorumId, worker: PeerId) {
        let heard_at = Instant::now();
        let mut heartbeats = self.lock();
        let last =
            heartbeats.entry((quorum, worker)).or_insert_with(|| LastHeartbeat { heard_at, running: Vec::new() });
        last.heard_at = heard_at;
    }
    /// The worker said what it runs.
    pub fn record_heartbeat(&self, quorum: QuorumId, worker: PeerId, mut running: Vec<Progress>) {
        running.truncate(BATCH_MAX);
        for progress in &mut running {
            progress.permille = progress.permille.min(1000);
            progress.note = truncate(&progress.note, REASON_BYTES_MAX).to_owned();
        }
        self.lock().insert((quorum, worker), LastHeartbeat { heard_at: Instant::now(), running });
    }
    pub fn heard_at(&self, quorum: QuorumId, worker: PeerId) -> Option<Instant> {
        self.lock().get(&(quorum, worker)).map(|last| last.heard_at)
    }
    /// How far the job's tasks are that some worker spoke of, each with its worker.
    pub fn of_job(&self, job: JobId) -> Vec<(PeerId, Progress)> {
        let heartbeats = self.lock();
        let of_quorum = heartbeats.iter().filter(|((quorum, _), _)| *quorum == job.quorum);
        let running = of_quorum.flat_map(|((_, worker), last)| last.running.iter().map(|run| (*worker, run)));
        running.filter(|(_, run)| run.task.id.job == job).map(|(worker, run)| (worker, run.clone())).collect()
    }
    /// Forgets a worker that has no lease any more.
    pub fn forget(&self, quorum: QuorumId, worker: PeerId) {
        self.lock().remove(&(quorum, worker));
    }
    /// Forgets what was heard as the primary of a quorum.
    pub fn clear_quorum(&self, quorum: QuorumId) {
        self.lock().retain(|(of, _), _| *of != quorum);
    }
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(QuorumId, PeerId), LastHeartbeat>> {
        self.0.lock()
    }
}
