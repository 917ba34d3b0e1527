//! What an operator sees of this node's quorums.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use quorate_protocols::ids::{QuorumId, Term};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuorumLabel {
    quorum: String,
}

/// Counters of all quorums of one node. Clones count together.
#[derive(Clone)]
pub struct QuorumMetrics {
    /// One series per quorum that this node is a member of: at most `QUORUMS_PER_NODE_MAX`.
    terms: Family<QuorumLabel, Gauge>,
    pub elections: Counter,
    pub leads: Counter,
    pub entries: Counter,
    pub commands: Counter,
    pub refused_busy: Counter,
    pub diverged: Counter,
    batch_commands: Histogram,
    commit_seconds: Histogram,
}

impl Default for QuorumMetrics {
    fn default() -> Self {
        Self {
            terms: Family::default(),
            elections: Counter::default(),
            leads: Counter::default(),
            entries: Counter::default(),
            commands: Counter::default(),
            refused_busy: Counter::default(),
            diverged: Counter::default(),
            batch_commands: Histogram::new([1., 2., 4., 8., 16., 32., 64., 128., 256., 512.]),
            commit_seconds: Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1., 2., 5.]),
        }
    }
}

impl QuorumMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("quorate_quorum");
        registry.register("term", "Raft term, by quorum", self.terms.clone());
        registry.register("elections", "Elections that this node started", self.elections.clone());
        registry.register("leads", "Times this node became primary", self.leads.clone());
        registry.register("entries", "Log entries that this node committed as primary", self.entries.clone());
        registry.register("commands", "Commands that this node committed as primary", self.commands.clone());
        registry.register("refused_busy", "Commands refused because the queue was full", self.refused_busy.clone());
        registry.register("diverged", "Groups stopped because their state differed", self.diverged.clone());
        registry.register("batch_commands", "Commands per log entry", self.batch_commands.clone());
        registry.register("commit_seconds", "Time from proposing an entry to its reply", self.commit_seconds.clone());
    }
    pub fn set_term(&self, quorum: QuorumId, term: Term) {
        self.terms.get_or_create(&QuorumLabel { quorum: quorum.to_string() }).set(term.0 as i64);
    }
    pub fn forget(&self, quorum: QuorumId) {
        self.terms.remove(&QuorumLabel { quorum: quorum.to_string() });
    }
    pub fn committed(&self, commands: usize, took: Duration) {
        self.entries.inc();
        self.commands.inc_by(commands as u64);
        self.batch_commands.observe(commands as f64);
        self.commit_seconds.observe(took.as_secs_f64());
    }
}
