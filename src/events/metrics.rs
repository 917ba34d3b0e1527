//! Counters of the emitter.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Cloneable; clones count together.
#[derive(Clone, Default)]
pub struct EventsMetrics {
    pub taken: Counter,
    /// For want of room, or of a sound event.
    pub refused: Counter,
    /// Events that were in a dispatch which a quorum has taken.
    pub told: Counter,
    /// Events that are on disk, and the bytes of their data.
    pub kept: Gauge,
    pub kept_bytes: Gauge,
}

impl EventsMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("quorate_events");
        registry.register("taken", "Events taken here and made durable", self.taken.clone());
        registry.register("refused", "Events that were not taken", self.refused.clone());
        registry.register("told", "Events that quorums took, counted for each quorum", self.told.clone());
        registry.register("kept", "Events that this node keeps", self.kept.clone());
        registry.register("kept_bytes", "Bytes of the data of events that this node keeps", self.kept_bytes.clone());
    }
}
