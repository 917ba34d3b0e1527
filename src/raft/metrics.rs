//! Counters of this node's quorums; gauges of each quorum are made from its view when asked.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Counters of all quorums of one node. Clones count together.
#[derive(Clone)]
pub struct QuorumMetrics {
    pub elections: Counter,
    pub leads: Counter,
    pub entries: Counter,
    pub commands: Counter,
    pub refused_busy: Counter,
    pub refused_fast: Counter,
    pub foretold: Counter,
    pub diverged: Counter,
    pub healed: Counter,
    pub reopened: Counter,
    batch_commands: Histogram,
    commit_seconds: Histogram,
}

impl Default for QuorumMetrics {
    fn default() -> Self {
        Self {
            elections: Counter::default(),
            leads: Counter::default(),
            entries: Counter::default(),
            commands: Counter::default(),
            refused_busy: Counter::default(),
            refused_fast: Counter::default(),
            foretold: Counter::default(),
            diverged: Counter::default(),
            healed: Counter::default(),
            reopened: Counter::default(),
            batch_commands: Histogram::new([1., 2., 4., 8., 16., 32., 64., 128., 256., 512.]),
            commit_seconds: Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1., 2., 5.]),
        }
    }
}

impl QuorumMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("quorate_quorum");
        registry.register("elections", "Elections that this node started", self.elections.clone());
        registry.register("leads", "Times this node became primary", self.leads.clone());
        registry.register("entries", "Log entries that this node committed as primary", self.entries.clone());
        registry.register("commands", "Commands that this node committed as primary", self.commands.clone());
        registry.register("refused_busy", "Commands refused because the queue was full", self.refused_busy.clone());
        registry.register(
            "refused_fast",
            "Commands refused because one peer sent more than its share",
            self.refused_fast.clone(),
        );
        registry.register(
            "foretold",
            "Commands answered without a log entry, because they change nothing",
            self.foretold.clone(),
        );
        registry.register("diverged", "Groups stopped because a majority had another state", self.diverged.clone());
        registry.register("healed", "Groups that took the state of another member since", self.healed.clone());
        registry.register(
            "reopened",
            "Groups opened again after their store or their state had stopped them",
            self.reopened.clone(),
        );
        registry.register("batch_commands", "Commands per log entry", self.batch_commands.clone());
        registry.register("commit_seconds", "Time from proposing an entry to its reply", self.commit_seconds.clone());
    }
    pub fn committed(&self, commands: usize, took: Duration) {
        self.entries.inc();
        self.commands.inc_by(commands as u64);
        self.batch_commands.observe(commands as f64);
        self.commit_seconds.observe(took.as_secs_f64());
    }
}
