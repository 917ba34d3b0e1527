//! Counters of the directory.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Cloneable; clones count together.
#[derive(Clone, Debug, Default)]
pub struct DirectoryMetrics {
    pub adverts_sent: Counter,
    pub adverts_received: Counter,
    /// Malformed, too large, or breaking a limit.
    pub adverts_refused: Counter,
    /// Of a version that this build does not know.
    pub adverts_unknown: Counter,
    pub offers_sent: Counter,
    pub offers_received: Counter,
}

impl DirectoryMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            (
                "adverts_sent",
                "Announcements sent: of this node, its quorums and jobs that look for peers",
                &self.adverts_sent,
            ),
            ("adverts_received", "Announcements taken in", &self.adverts_received),
            ("adverts_refused", "Announcements malformed, too large or beyond a limit", &self.adverts_refused),
            ("adverts_unknown", "Announcements of another version, which are passed over", &self.adverts_unknown),
            ("offers_sent", "Offers made to jobs that look for peers", &self.offers_sent),
            ("offers_received", "Offers of other peers", &self.offers_received),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
