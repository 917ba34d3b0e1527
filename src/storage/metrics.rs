//! What the storage actor counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_protocols::liveness::DelayEstimate;
use quorate_protocols::liveness::limits::DELAY_MAX;
use tokio::time::Instant;

/// Counters of one [`super::Storage`], since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageMetrics {
    /// Batches applied through `write` and `write_then`.
    pub writes: u64,
    /// Syncs that succeeded. `writes` over `syncs` is what group commit saves.
    pub syncs: u64,
    /// Most writes that one sync served.
    pub writes_per_sync_max: u64,
    /// Time spent in successful syncs, altogether and in the slowest.
    pub sync_time: Duration,
    pub sync_time_max: Duration,
    /// Writes that wait for a sync now.
    pub waiting: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    writes: AtomicU64,
    syncs: AtomicU64,
    writes_per_sync_max: AtomicU64,
    sync_micros: AtomicU64,
    sync_micros_max: AtomicU64,
    waiting: AtomicU64,
    latency: Mutex<SyncLatency>,
}

/// How long syncs take, and since when one is under way.
#[derive(Default)]
struct SyncLatency {
    estimate: DelayEstimate,
    since: Option<Instant>,
}

impl Counters {
    pub(super) fn sync_began(&self) {
        self.latency().since = Some(Instant::now());
    }
    /// What nearly every sync stays below. One that takes longer than it should tells so before it ends: as much again
    /// may be to come.
    pub(super) fn sync_latency(&self) -> Duration {
        let latency = self.latency();
        let usual = latency.estimate.bound().unwrap_or_default();
        let under_way = latency.since.map_or(Duration::ZERO, |since| since.elapsed());
        if under_way > usual * 5 / 4 { (2 * under_way).min(DELAY_MAX) } else { usual }
    }
    fn latency(&self) -> MutexGuard<'_, SyncLatency> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn wrote(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }
    /// A sync ended, well or not, and `writes` no longer wait for it.
    pub(super) fn synced(&self, writes: u64, took: Duration, is_ok: bool) {
        self.waiting.fetch_sub(writes, Ordering::Relaxed);
        {
            let mut latency = self.latency();
            latency.since = None;
            latency.estimate.record(took);
        }
        if !is_ok {
            return;
        }
        let micros = took.as_micros() as u64;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.writes_per_sync_max.fetch_max(writes, Ordering::Relaxed);
        self.sync_micros.fetch_add(micros, Ordering::Relaxed);
        self.sync_micros_max.fetch_max(micros, Ordering::Relaxed);
    }
    pub(super) fn snapshot(&self) -> StorageMetrics {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StorageMetrics {
            writes: load(&self.writes),
            syncs: load(&self.syncs),
            writes_per_sync_max: load(&self.writes_per_sync_max),
            sync_time: Duration::from_micros(load(&self.sync_micros)),
            sync_time_max: Duration::from_micros(load(&self.sync_micros_max)),
            waiting: load(&self.waiting),
        }
    }
}
