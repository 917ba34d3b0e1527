//! Counters of the approver.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Cloneable; clones count together.
#[derive(Clone, Debug, Default)]
pub struct ApproverMetrics {
    pub granted: Counter,
    pub repeated: Counter,
    pub refused: Counter,
    pub expired: Counter,
    pub released: Counter,
    pub malformed: Counter,
}

impl ApproverMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("granted", "Leases granted", &self.granted),
            ("repeated", "Questions that got the lease of an earlier one", &self.repeated),
            ("refused", "Questions, renewals and releases refused", &self.refused),
            ("expired", "Leases that ran out", &self.expired),
            ("released", "Leases that their askers gave back", &self.released),
            ("malformed", "Messages that could not be read", &self.malformed),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
