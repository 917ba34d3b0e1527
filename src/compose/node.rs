//! One node: its actors, started in order and closed together.
//!
//! A [`Node`] is given its seams, its identity, its resources, a network and what arrives from it; it opens no socket
//! and no file itself. The binary starts libp2p and the HTTP API around it, the simulator starts it with simulated
//! seams: both run exactly this code.
//!
//! The order of the start is the order of need: storage, directory and quorums (what this node is a member of), the
//! approver (what it has promised, and who may use it), then everything that makes use of them: the client of any
//! quorum, placement, objects, the worker, the driver of led quorums, the job and task roles. Requests that arrive
//! earlier wait in their bounded channels. All actors share one task group and end on its shutdown token;
//! [`Node::close`] waits for them.

mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use quorate_protocols::admission::{Admission, Trust};
use quorate_protocols::approval::limits::REPLACE_GRACE;
use quorate_protocols::engine::{Engine, NodeRole};
use quorate_protocols::ids::PeerId;
use quorate_protocols::quorum::limits::VOTERS_DEFAULT;
use serde::Serialize;
use tokio::sync::broadcast;

use crate::approver::Approver;
use crate::certificates::Certificates;
use crate::config::Config;
use crate::directory::Directory;
use crate::events::Events;
use crate::executors::Executor;
use crate::gauges;
use crate::hosts::AllowedHosts;
use crate::identity::Identity;
use crate::objects::Objects;
use crate::primary::{DriverMetrics, DriverSettings, Watches};
use crate::quorums::logs::LogReader;
use crate::quorums::{Approvals, Placement, QuorumClient, Submits};
use crate::raft::QuorumHost;
use crate::resources::Resources;
use crate::seams::{DiskError, Inbound, Net, Protocol, Seams};
use crate::sources::NodeSources;
use crate::storage::Storage;
use crate::workers::Workers;
use crate::workers::faults::WorkerFaults;

/// Events kept for a follower that lags; the oldest are lost first.
pub const EVENTS_MAX: usize = 1024;

/// Network events on their way to the quorum host. It takes them at once; when it is that far behind, the oldest wait.
const NET_EVENTS_QUEUE: usize = 1024;

/// What a node is built from.
pub struct NodeParts {
    pub seams: Seams,
    pub identity: Identity,
    pub settings: NodeSettings,
    /// The same resources that the network asks before it reads a frame.
    pub resources: Resources,
    pub net: Arc<dyn Net>,
    pub inbound: Inbound,
    pub work: NodeExecutors,
}

/// What a node can run tasks with.
#[derive(Clone, Default)]
pub struct NodeExecutors {
    /// By the kind of work that they do. A kind that is not here is not offered to anyone.
    pub executors: BTreeMap<Engine, Arc<dyn Executor>>,
    /// Where logs of tasks and large inputs are kept; without it they are in memory.
    pub folder: Option<PathBuf>,
    pub faults: WorkerFaults,
}

/// What a node's operator chose, as far as it concerns the node's actors.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Peers that may cancel and remove what is not theirs.
    pub operators: BTreeSet<PeerId>,
    /// Whom this node relies on, and what it shows to be relied on itself.
    pub trust: Trust,
    pub admission: Option<Admission>,
    pub roles: BTreeSet<NodeRole>,
    /// What the node is called; empty without a name.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Take nothing new on.
    pub draining: bool,
    /// Size of the quorums that this node forms.
    pub voters: usize,
    /// How long a member must be away, or not be trusted, before another takes its place.
    pub replace_grace: Duration,
    /// Disk that may be promised; `None`: what the machine has.
    pub disk_bytes_max: Option<u64>,
    pub driver: DriverSettings,
    /// Hosts that this node asks for triggers with a condition.
    pub hosts: AllowedHosts,
    /// Whether any peer may measure commits here: of a node started with `--testing`.
    pub is_measured: bool,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            operators: BTreeSet::new(),
            trust: Trust::default(),
            admission: None,
            roles: BTreeSet::from([NodeRole::Store]),
            name: String::new(),
            labels: BTreeMap::new(),
            draining: false,
            voters: VOTERS_DEFAULT,
            replace_grace: REPLACE_GRACE,
            disk_bytes_max: None,
            driver: DriverSettings::default(),
            hosts: AllowedHosts::default(),
            is_measured: false,
        }
    }
}

/// A lost holder costs more to replace than a lost member, so it is waited for this many times longer.
const REPAIR_GRACE_PER_REPLACE_GRACE: u32 = 5;

impl From<&Config> for NodeSettings {
    fn from(config: &Config) -> Self {
        let mut roles = config.node.roles.clone();
        // Nothing could run: whoever was asked would only refuse.
        if config.commands.is_empty() {
            roles.remove(&NodeRole::Command);
        }
        Self {
            operators: config.node.operators.clone(),
            trust: config.network.trust(),
            admission: None,
            roles,
            name: config.node.name(),
            labels: config.node.labels.clone(),
            draining: config.node.drain,
            voters: config.quorum.voters,
            replace_grace: config.quorum.replace_grace,
            disk_bytes_max: config.resources.disk_max.map(|size| size.0),
            driver: DriverSettings {
                repair_grace: config.quorum.replace_grace * REPAIR_GRACE_PER_REPLACE_GRACE,
                trust_grace: config.quorum.replace_grace,
                round_interval: config.objects.repair_interval,
                audit_interval: config.objects.audit_interval,
                ..DriverSettings::default()
            },
            hosts: AllowedHosts::new(config.conditions.hosts.iter().cloned()),
            is_measured: false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("reading the node's own state")]
    Disk(#[from] DiskError),
}

/// What happens on this node, for those who follow it. What happens in its quorums is told by [`QuorumHost::events`].
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum NodeEvent {
    PeerConnected { peer: PeerId },
    PeerDisconnected { peer: PeerId },
}

/// Handle to a running node. Cloneable; the node runs until [`Node::close`].
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    base: Base,
    client: QuorumClient,
    approvals: Approvals,
    placement: Placement,
    submits: Submits,
    driver_metrics: DriverMetrics,
    watches: Watches,
    work: Work,
    /// Requests of the job and the task protocol that are being answered.
    jobs_handling: Gauge,
    tasks_handling: Gauge,
}

/// What this node is: its disk, whom it knows, what it is a member of, what it has promised.
struct Base {
    seams: Seams,
    identity: Identity,
    net: Arc<dyn Net>,
    resources: Resources,
    storage: Storage,
    certificates: Certificates,
    directory: Directory,
    approver: Approver,
    quorums: QuorumHost,
    bus: broadcast::Sender<NodeEvent>,
}

/// What works with quorums on this node's behalf: objects, the worker, the emitter of events, and what conditions read.
struct Work {
    objects: Objects,
    workers: Workers,
    emitter: Events,
    logs: LogReader,
    sources: NodeSources,
}

impl Node {
    /// Starts every actor in the task group of the seams. Returns when this node's own state is loaded; its quorums
    /// find their primaries afterwards.
    ///
    /// Boxed: what a future awaits is compiled where the future is polled, and crates that start a node would compile
    /// its actors anew.
    pub fn start(parts: NodeParts) -> BoxFuture<'static, Result<Self, StartError>> {
        // Actors that spawn on their own do so in the group of whoever starts them.
        let tasks = parts.seams.tasks.clone();
        async move { tasks.scope(start::start_actors(parts)).await }.boxed()
    }

    pub fn seams(&self) -> &Seams {
        &self.inner.base.seams
    }
    pub fn identity(&self) -> &Identity {
        &self.inner.base.identity
    }
    pub fn net(&self) -> &Arc<dyn Net> {
        &self.inner.base.net
    }
    pub fn resources(&self) -> &Resources {
        &self.inner.base.resources
    }
    /// Registers what every part of the node counts, and how full its queues are. Once.
    pub fn register_metrics(&self, registry: &mut Registry) {
        let inner = &self.inner;
        inner.base.resources.register_metrics(registry);
        inner.base.storage.metrics().register(registry);
        inner.base.directory.register_metrics(registry);
        inner.base.approver.register_metrics(registry);
        inner.base.quorums.register_metrics(registry);
        inner.driver_metrics.register(registry);
        inner.work.objects.register_metrics(registry);
        inner.work.workers.register_metrics(registry);
        inner.work.emitter.register_metrics(registry);
        let handling = [
            (Protocol::Job, inner.jobs_handling.clone()),
            (Protocol::Task, inner.tasks_handling.clone()),
            (Protocol::Piece, inner.work.objects.metrics().requests_handling.clone()),
        ];
        let registry = registry.sub_registry_with_prefix("quorate");
        let help = "Requests of peers that are being answered";
        gauges::register_by(registry, "requests_handling", help, "protocol", move || {
            handling.iter().map(|(protocol, gauge)| (protocol.name(), gauge.get() as u64)).collect()
        });
        let read = |count: fn((usize, usize)) -> usize| {
            let (client, held) = (inner.client.clone(), inner.watches.clone());
            move || vec![("asking", count(client.watches_open()) as u64), ("answering", count(held.held()) as u64)]
        };
        let help = "Sessions of watches on jobs, one for each quorum and node that waits";
        gauges::register_by(registry, "watch_sessions", help, "side", read(|(sessions, _)| sessions));
        let help = "Callers that wait here, and watches held for whoever waits";
        gauges::register_by(registry, "watches", help, "side", read(|(_, watches)| watches));
    }
    /// The node's record store. Watch [`Storage::fatal`]: after a failed sync the node must stop.
    pub fn storage(&self) -> &Storage {
        &self.inner.base.storage
    }
    pub fn directory(&self) -> &Directory {
        &self.inner.base.directory
    }
    pub fn approver(&self) -> &Approver {
        &self.inner.base.approver
    }
    /// The quorums of which this node is a member.
    pub fn quorums(&self) -> &QuorumHost {
        &self.inner.base.quorums
    }
    /// Any quorum of the network.
    pub fn jobs(&self) -> &QuorumClient {
        &self.inner.client
    }
    pub fn approvals(&self) -> &Approvals {
        &self.inner.approvals
    }
    pub fn placement(&self) -> &Placement {
        &self.inner.placement
    }
    /// Jobs that compute, on their way in.
    pub fn submits(&self) -> &Submits {
        &self.inner.submits
    }
    /// What tasks of any quorum wrote for people.
    pub fn logs(&self) -> &LogReader {
        &self.inner.work.logs
    }
    pub fn objects(&self) -> &Objects {
        &self.inner.work.objects
    }
    /// Counters of the driver of led quorums, to be registered once.
    pub fn driver_metrics(&self) -> &DriverMetrics {
        &self.inner.driver_metrics
    }
    /// This node as a worker of quorums.
    pub fn workers(&self) -> &Workers {
        &self.inner.work.workers
    }
    /// The events that users emit here.
    pub fn emitter(&self) -> &Events {
        &self.inner.work.emitter
    }
    /// Where this node finds the values of conditions.
    pub fn sources(&self) -> &NodeSources {
        &self.inner.work.sources
    }
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.inner.base.bus.subscribe()
    }
    /// Asks every actor to finish what it owes and waits until all have ended.
    pub async fn close(&self) {
        self.inner.base.seams.tasks.close().await;
    }
}

#[cfg(test)]
mod tests;
