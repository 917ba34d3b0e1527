//! One node: its actors, started in order and closed together.
//!
//! A [`Node`] is given its seams, its identity, its resources, a network and what arrives from it; it opens no socket
//! and no file itself. The binary starts libp2p and the HTTP API around it, the simulator starts it with simulated
//! seams: both run exactly this code.
//!
//! The order of the start is the order of need: storage, directory and quorums (what this node is a member of), the
//! approver (what it has promised, and who may use it), then everything that makes use of them: the client of any
//! quorum, placement, objects, the worker, the driver of led quorums, the job and task services. Requests that arrive
//! earlier wait in their bounded channels. All actors share one task group and end on its shutdown token;
//! [`Node::close`] waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use quorate_protocols::ids::PeerId;
use quorate_protocols::job::Kind;
use quorate_protocols::quorum::limits::VOTERS_DEFAULT;
use serde::Serialize;
use tokio::sync::{broadcast, mpsc};

use super::adapters::{NetworkEvents, NodeEventDelivery, NodeQuorumPort, NodeQuorums};
use super::event_bridge;
use super::membership_leases::NodeMembershipLeases;
use crate::approver::{Approver, ApproverParts};
use crate::config::Config;
use crate::directory::{Directory, DirectoryParts};
use crate::events::{Events, EventsParts};
use crate::executors::Executor;
use crate::hosts::AllowedHosts;
use crate::identity::Identity;
use crate::objects::{Objects, ObjectsContext};
use crate::presence::ObservedNet;
use crate::primary::{self, DriverMetrics, DriverParts, DriverSettings, PrimaryServices};
use crate::quorums::approvals::ApprovalsParts;
use crate::quorums::authority::Authority;
use crate::quorums::client::ClientParts;
use crate::quorums::logs::LogReader;
use crate::quorums::placement::PlacementParts;
use crate::quorums::ports::{Knowledge, LocalQuorums, LocalTasks, PrimaryPort};
use crate::quorums::server::JobService;
use crate::quorums::task_server::TaskService;
use crate::quorums::{Approvals, Placement, QuorumClient, Submits};
use crate::raft::{QuorumContext, QuorumHost, QuorumInbound};
use crate::resources::Resources;
use crate::seams::{DiskError, Inbound, Net, Seams};
use crate::sources::NodeSources;
use crate::storage::Storage;
use crate::workers::faults::WorkerFaults;
use crate::workers::{WorkerParts, Workers};

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
    pub work: NodeWork,
}

/// What a node can run tasks with.
#[derive(Clone, Default)]
pub struct NodeWork {
    /// By the kind of work that they do. A kind that is not here is not offered to anyone.
    pub executors: BTreeMap<Kind, Arc<dyn Executor>>,
    /// Where logs of tasks and large inputs are kept; without it they are in memory.
    pub folder: Option<PathBuf>,
    pub faults: WorkerFaults,
}

/// What a node's operator chose, as far as it concerns the node's actors.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Peers that may cancel and remove what is not theirs.
    pub operators: BTreeSet<PeerId>,
    pub kinds: BTreeSet<Kind>,
    /// What the node is called; empty without a name.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Take nothing new on.
    pub draining: bool,
    /// Size of the quorums that this node forms.
    pub voters: usize,
    /// Disk that may be promised; `None`: what the machine has.
    pub disk_bytes_max: Option<u64>,
    pub driver: DriverSettings,
    /// Hosts that this node asks for triggers with a condition.
    pub hosts: AllowedHosts,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            operators: BTreeSet::new(),
            kinds: BTreeSet::from([Kind::Store]),
            name: String::new(),
            labels: BTreeMap::new(),
            draining: false,
            voters: VOTERS_DEFAULT,
            disk_bytes_max: None,
            driver: DriverSettings::default(),
            hosts: AllowedHosts::default(),
        }
    }
}

/// A lost holder costs more to replace than a lost member, so it is waited for this many times longer.
const REPAIR_GRACE_PER_REPLACE_GRACE: u32 = 5;

impl From<&Config> for NodeSettings {
    fn from(config: &Config) -> Self {
        let mut kinds = config.node.kinds.clone();
        // Nothing could run: whoever was asked would only refuse.
        if config.commands.is_empty() {
            kinds.remove(&Kind::Command);
        }
        Self {
            operators: config.node.operators.clone(),
            kinds,
            name: config.node.name(),
            labels: config.node.labels.clone(),
            draining: config.node.drain,
            voters: config.quorum.voters,
            disk_bytes_max: config.resources.disk_max.map(|size| size.0),
            driver: DriverSettings {
                repair_grace: config.quorum.replace_grace * REPAIR_GRACE_PER_REPLACE_GRACE,
                round_interval: config.objects.repair_interval,
                audit_interval: config.objects.audit_interval,
                ..DriverSettings::default()
            },
            hosts: AllowedHosts::new(config.conditions.hosts.iter().cloned()),
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
    seams: Seams,
    identity: Identity,
    net: Arc<dyn Net>,
    resources: Resources,
    storage: Storage,
    directory: Directory,
    approver: Approver,
    quorums: QuorumHost,
    client: QuorumClient,
    approvals: Approvals,
    placement: Placement,
    submits: Submits,
    logs: LogReader,
    objects: Objects,
    driver_metrics: DriverMetrics,
    workers: Workers,
    emitter: Events,
    sources: NodeSources,
    events: broadcast::Sender<NodeEvent>,
}

impl Node {
    /// Starts every actor in the task group of the seams. Returns when this node's own state is loaded; its quorums
    /// find their primaries afterwards.
    pub async fn start(parts: NodeParts) -> Result<Self, StartError> {
        // Actors that spawn on their own do so in the group of whoever starts them.
        let tasks = parts.seams.tasks.clone();
        tasks.scope(Self::start_actors(parts)).await
    }

    async fn start_actors(parts: NodeParts) -> Result<Self, StartError> {
        let NodeParts { seams, identity, mut settings, resources, net, inbound, work } = parts;
        let observed = ObservedNet::new(net, seams.clock.clone(), seams.tasks.clone());
        let net: Arc<dyn Net> = Arc::new(observed.clone());
        // What nothing here runs is not offered.
        settings.kinds.retain(|kind| *kind == Kind::Store || work.executors.contains_key(kind));
        let Inbound { approval, raft, liveness, job, piece, task, gossip, events: net_events } = inbound;
        let storage = Storage::start(seams.disk.clone());
        let directory = Directory::start(DirectoryParts {
            seams: seams.clone(),
            identity: identity.clone(),
            net: net.clone(),
            resources: resources.clone(),
            gossip,
            kinds: settings.kinds.iter().copied().collect(),
            name: settings.name,
            labels: settings.labels.clone(),
        });
        directory.set_draining(settings.draining);

        let (host_events, events) = mpsc::channel(NET_EVENTS_QUEUE);
        let quorums = QuorumHost::start(
            QuorumContext {
                seams: seams.clone(),
                identity: identity.clone(),
                net: net.clone(),
                storage: storage.clone(),
            },
            QuorumInbound { raft, liveness, events },
        )
        .await?;
        observed.follow_suspicions(quorums.downgrade());
        // Subscribed before anything can be led, so that no lead goes unnoticed.
        let (driver_events, bridge_events, own_events) = (quorums.events(), quorums.events(), quorums.events());
        let (bus, bus_events) = broadcast::channel(EVENTS_MAX);
        event_bridge::start(event_bridge::BridgeParts {
            seams: seams.clone(),
            observed,
            directory: directory.clone(),
            quorums: quorums.clone(),
            events: bridge_events,
            net_events,
            host_events,
            bus: bus.clone(),
        });

        let approver = Approver::start(ApproverParts {
            seams: seams.clone(),
            identity: identity.clone(),
            net: net.clone(),
            storage: storage.clone(),
            resources: resources.clone(),
            directory: directory.clone(),
            memberships: Arc::new(quorums.downgrade()),
            labels: settings.labels,
            kinds: settings.kinds,
            disk_bytes_max: settings.disk_bytes_max,
            requests: approval,
        })
        .await?;

        let authority = Authority::new(settings.operators.clone()).with_hosts(settings.hosts.clone());
        let (local, knowledge): (Arc<dyn LocalQuorums>, Arc<dyn Knowledge>) =
            (Arc::new(quorums.clone()), Arc::new(directory.clone()));
        let services = PrimaryServices::new(local.clone());
        let (led, driver_metrics): (Arc<dyn PrimaryPort>, _) = (Arc::new(services.clone()), services.metrics.clone());
        let client = QuorumClient::new(ClientParts {
            net: net.clone(),
            quorums: local.clone(),
            knowledge: knowledge.clone(),
            entropy: seams.entropy.clone(),
            authority: authority.clone(),
            primary: led.clone(),
        });
        let approvals = Approvals::new(ApprovalsParts {
            seams: seams.clone(),
            net: net.clone(),
            knowledge: knowledge.clone(),
            local: Arc::new(approver.clone()),
        });
        let membership_leases = NodeMembershipLeases {
            approver: approver.clone(),
            approvals: approvals.clone(),
            directory: directory.clone(),
        };
        quorums.set_membership_leases(Arc::new(membership_leases));
        let placement = Placement::new(PlacementParts {
            net: net.clone(),
            tasks: seams.tasks.clone(),
            entropy: seams.entropy.clone(),
            knowledge: knowledge.clone(),
            client: client.clone(),
            approvals: approvals.clone(),
            host: quorums.clone(),
            voters: settings.voters,
        });
        let submits = Submits::new(&seams, storage.clone(), placement.clone(), client.clone());
        let objects = Objects::start(
            ObjectsContext {
                seams: seams.clone(),
                identity: identity.clone(),
                net: net.clone(),
                storage: storage.clone(),
                quorums: Arc::new(NodeQuorums {
                    client: client.clone(),
                    placement: placement.clone(),
                    directory: directory.clone(),
                    net: net.clone(),
                }),
                leases: Arc::new(approver.clone()),
            },
            piece,
        );
        let workers = Workers::start(WorkerParts {
            seams: seams.clone(),
            identity: identity.clone(),
            storage: storage.clone(),
            quorum_port: Arc::new(NodeQuorumPort {
                client: client.clone(),
                quorums: local.clone(),
                knowledge: knowledge.clone(),
            }),
            leases: Arc::new(approver.clone()),
            objects: Arc::new(objects.clone()),
            executors: work.executors,
            operators: settings.operators,
            folder: work.folder,
            faults: work.faults,
        })
        .await?;
        let delivery = NodeEventDelivery {
            this: net.local_peer(),
            client: client.clone(),
            quorums: local.clone(),
            knowledge: knowledge.clone(),
        };
        let emitter = Events::start(EventsParts {
            seams: seams.clone(),
            net: net.clone(),
            storage: storage.clone(),
            delivery: Arc::new(delivery),
        })
        .await?;
        NetworkEvents {
            seams: seams.clone(),
            net: net.clone(),
            directory: directory.clone(),
            quorums: local.clone(),
            events: emitter.clone(),
            applied: own_events,
            nodes: bus_events,
        }
        .start();
        let worker: Arc<dyn LocalTasks> = Arc::new(workers.clone());
        let logs = LogReader { net: net.clone(), worker: worker.clone(), client: client.clone() };
        let sources = NodeSources::new(settings.hosts, client.clone(), Arc::new(objects.clone()));
        primary::start(DriverParts {
            seams: seams.clone(),
            net: net.clone(),
            quorums: local.clone(),
            events: driver_events,
            knowledge,
            approvals: approvals.clone(),
            pieces: Arc::new(objects.service().clone()),
            worker: Some(worker.clone()),
            wait_reasons: services.wait_reasons,
            audit_hints: services.audit_hints,
            sources: Arc::new(sources.clone()),
            metrics: services.metrics,
            settings: settings.driver,
        });
        TaskService { net: net.clone(), primary: led.clone(), worker: Some(worker) }.start(&seams.tasks, task);
        JobService { net: net.clone(), quorums: local, authority, primary: led, sources: Arc::new(sources.clone()) }
            .start(&seams.tasks, job);

        let inner = Inner {
            seams,
            identity,
            net,
            resources,
            storage,
            directory,
            approver,
            quorums,
            client,
            approvals,
            placement,
            submits,
            logs,
            objects,
            driver_metrics,
            workers,
            emitter,
            sources,
            events: bus,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn seams(&self) -> &Seams {
        &self.inner.seams
    }
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }
    pub fn net(&self) -> &Arc<dyn Net> {
        &self.inner.net
    }
    pub fn resources(&self) -> &Resources {
        &self.inner.resources
    }
    /// The node's record store. Watch [`Storage::fatal`]: after a failed sync the node must stop.
    pub fn storage(&self) -> &Storage {
        &self.inner.storage
    }
    pub fn directory(&self) -> &Directory {
        &self.inner.directory
    }
    pub fn approver(&self) -> &Approver {
        &self.inner.approver
    }
    /// The quorums of which this node is a member.
    pub fn quorums(&self) -> &QuorumHost {
        &self.inner.quorums
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
        &self.inner.logs
    }
    pub fn objects(&self) -> &Objects {
        &self.inner.objects
    }
    /// Counters of the driver of led quorums, to be registered once.
    pub fn driver_metrics(&self) -> &DriverMetrics {
        &self.inner.driver_metrics
    }
    /// This node as a worker of quorums.
    pub fn workers(&self) -> &Workers {
        &self.inner.workers
    }
    /// The events that users emit here.
    pub fn emitter(&self) -> &Events {
        &self.inner.emitter
    }
    /// Where this node finds the values of conditions.
    pub fn sources(&self) -> &NodeSources {
        &self.inner.sources
    }
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.inner.events.subscribe()
    }
    /// Asks every actor to finish what it owes and waits until all have ended.
    pub async fn close(&self) {
        self.inner.seams.tasks.close().await;
    }
}

#[cfg(test)]
mod tests;
