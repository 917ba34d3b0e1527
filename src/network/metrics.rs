//! Counters of the network.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use quorate_protocols::directory::Excess;
use tokio::sync::mpsc::Sender;

use super::actor::Outlets;
use super::handle::Command;
use crate::gauges;
use crate::seams::{NetError, Protocol};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Exchange {
    protocol: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dropped {
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ignored {
    /// Whose budget it was beyond.
    reason: &'static str,
}

#[derive(Clone, Default)]
pub(super) struct Metrics {
    questions: Family<Exchange, Counter>,
    dropped: Family<Dropped, Counter>,
    announcements_ignored: Family<Ignored, Counter>,
    penalties: Counter,
    pub peers_connected: Gauge,
    pub provider_records: Gauge,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let network = registry.sub_registry_with_prefix("quorate_network");
        network.register("questions", "Questions asked of peers, by outcome", metrics.questions.clone());
        network.register("dropped", "Arrivals dropped because their queue was full", metrics.dropped.clone());
        let ignored = metrics.announcements_ignored.clone();
        // Both are there from the start: a rate begins at nothing.
        for reason in ["author", "sender"] {
            drop(ignored.get_or_create(&Ignored { reason }));
        }
        network.register(
            "announcements_ignored",
            "Announcements neither read nor passed on, by whose budget they were beyond",
            ignored,
        );
        network.register("penalties", "Misdeeds of peers noted", metrics.penalties.clone());
        network.register("peers_connected", "Peers connected now", metrics.peers_connected.clone());
        let records = metrics.provider_records.clone();
        network.register("provider_records", "Records of other peers that say they can answer for a quorum", records);
        metrics
    }

    pub fn asked<T>(&self, protocol: Protocol, result: &Result<T, NetError>) {
        let outcome = match result {
            Ok(_) => "answered",
            Err(NetError::Timeout { .. }) => "timeout",
            Err(NetError::Unreachable { .. }) => "unreachable",
            Err(NetError::Broken { .. }) => "broken",
            Err(NetError::Unsupported { .. }) => "unsupported",
            Err(NetError::Busy { .. }) => "busy",
            Err(NetError::TooLarge { .. }) => "too_large",
            Err(NetError::Closed) => "closed",
        };
        self.questions.get_or_create(&Exchange { protocol: protocol.name(), outcome }).inc();
    }
    pub fn dropped(&self, queue: &'static str) {
        self.dropped.get_or_create(&Dropped { queue }).inc();
    }
    pub fn announcement_ignored(&self, excess: Excess) {
        let reason = match excess {
            Excess::Author => "author",
            Excess::Sender => "sender",
        };
        self.announcements_ignored.get_or_create(&Ignored { reason }).inc();
    }
    pub fn penalised(&self) {
        self.penalties.inc();
    }
}

/// Registers how full the queues between the network and the node are, by the names under which drops are counted.
pub(super) fn register_queues(registry: &mut Registry, outlets: &Outlets, commands: &Sender<Command>) {
    let Outlets { approval, raft, liveness, job, piece, task, gossip, events } = outlets;
    let protocols = [
        (Protocol::Approval.name(), approval.downgrade()),
        (Protocol::Raft.name(), raft.downgrade()),
        (Protocol::Liveness.name(), liveness.downgrade()),
        (Protocol::Job.name(), job.downgrade()),
        (Protocol::Piece.name(), piece.downgrade()),
        (Protocol::Task.name(), task.downgrade()),
    ];
    let (gossip, events, commands) = (gossip.downgrade(), events.downgrade(), commands.downgrade());
    let registry = registry.sub_registry_with_prefix("quorate_network");
    gauges::register_by(
        registry,
        "queued",
        "Messages that wait between the network and the node",
        "queue",
        move || {
            let mut rows: Vec<_> = protocols.iter().map(|(name, queue)| (*name, gauges::depth(queue))).collect();
            rows.push(("gossip", gauges::depth(&gossip)));
            rows.push(("events", gauges::depth(&events)));
            rows.push(("commands", gauges::depth(&commands)));
            rows
        },
    );
}
