//! Counters of a worker.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Cloneable; clones count together.
#[derive(Clone, Default)]
pub struct WorkerMetrics {
    pub accepted: Counter,
    pub begun: Counter,
    pub ended: Counter,
    /// Reports that a quorum recorded, commitments included.
    pub recorded: Counter,
    /// Reports that came under an attempt that was replaced or stopped.
    pub stale: Counter,
    /// Orders and results that were written to disk; the others never needed to be.
    pub orders_saved: Counter,
    pub results_saved: Counter,
    /// Attempts from their order to the last word about them.
    pub held: Gauge,
    pub running: Gauge,
}

impl WorkerMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("quorate_worker");
        let counters = [
            ("attempts_accepted", "Attempts accepted from quorums", &self.accepted),
            ("attempts_begun", "Attempts begun", &self.begun),
            ("attempts_ended", "Attempts that came to an end here", &self.ended),
            ("reports_recorded", "Reports that a quorum recorded", &self.recorded),
            ("reports_stale", "Reports of attempts that were replaced or stopped", &self.stale),
            ("orders_saved", "Orders written to the inbox on disk", &self.orders_saved),
            ("results_saved", "Results written to the outbox on disk", &self.results_saved),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("attempts_held", "Attempts that this worker has", self.held.clone());
        registry.register("attempts_running", "Attempts that run", self.running.clone());
    }
}
