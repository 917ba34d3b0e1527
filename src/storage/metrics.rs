//! Counters of the storage actors.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use quorate_protocols::liveness::DelayEstimate;
use quorate_protocols::liveness::limits::DELAY_MAX;
use tokio::time::Instant;

/// Seconds of a sync: a fast disk's to a stuck one's.
const SYNC_SECONDS: [f64; 14] = [0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1., 5.];

/// What one [`super::Storage`] counts of one of its stores. Clones count together.
#[derive(Clone)]
pub(super) struct StorageMetrics {
    /// Batches applied through [`super::Storage`].
    pub(super) writes: Counter,
    /// Writes that wait for a sync now.
    pub(super) waiting: Gauge,
    pub(super) syncs_failed: Counter,
    /// Of syncs that succeeded.
    sync_seconds: Histogram,
    /// What group commit saves.
    writes_per_sync: Histogram,
}

impl Default for StorageMetrics {
    fn default() -> Self {
        Self {
            writes: Counter::default(),
            waiting: Gauge::default(),
            syncs_failed: Counter::default(),
            sync_seconds: Histogram::new(SYNC_SECONDS),
            writes_per_sync: Histogram::new([1., 2., 4., 8., 16., 32., 64., 128., 256., 512.]),
        }
    }
}

impl StorageMetrics {
    pub(super) fn register(&self, registry: &mut Registry, prefix: &str, store: &str) {
        let registry = registry.sub_registry_with_prefix(prefix);
        registry.register("writes", format!("Batches written to {store}"), self.writes.clone());
        registry.register("writes_waiting", format!("Writes that wait for a sync of {store}"), self.waiting.clone());
        registry.register(
            "syncs_failed",
            format!("Syncs of {store} that failed: the node stops after the first"),
            self.syncs_failed.clone(),
        );
        registry.register("sync_seconds", format!("Time of a sync of {store}"), self.sync_seconds.clone());
        registry.register(
            "writes_per_sync",
            format!("Writes that one sync of {store} made durable"),
            self.writes_per_sync.clone(),
        );
    }
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) metrics: StorageMetrics,
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
        self.latency.lock()
    }
    pub(super) fn wrote(&self) {
        self.metrics.writes.inc();
        self.metrics.waiting.inc();
    }
    /// A sync ended, well or not, and `writes` no longer wait for it.
    pub(super) fn synced(&self, writes: u64, took: Duration, is_ok: bool) {
        self.metrics.waiting.dec_by(writes as i64);
        {
            let mut latency = self.latency();
            latency.since = None;
            latency.estimate.record(took);
        }
        if !is_ok {
            self.metrics.syncs_failed.inc();
            return;
        }
        self.metrics.sync_seconds.observe(took.as_secs_f64());
        self.metrics.writes_per_sync.observe(writes as f64);
    }
}
