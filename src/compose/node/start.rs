//! The start of a node, in the order of need: what it is ([`Base`]), how it reaches any quorum ([`Reach`]), what works
//! with quorums ([`Work`]), and last what serves them and is served ([`serve`]).

use quorate_protocols::task::limits::LOG_WAITS_PER_PEER_MAX;
use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{broadcast, mpsc};

use super::{
    Base, EVENTS_MAX, Inner, NET_EVENTS_QUEUE, Node, NodeEvent, NodeExecutors, NodeParts, NodeSettings, StartError,
    Work,
};
use crate::approver::{Approver, ApproverParts};
use crate::certificates::Certificates;
use crate::compose::adapters::{NetworkEvents, NodePlacement};
use crate::compose::event_bridge;
use crate::compose::membership_leases::NodeMembershipLeases;
use crate::directory::{Directory, DirectoryParts};
use crate::events::{Events, EventsParts};
use crate::identity::Identity;
use crate::objects::{Objects, ObjectsContext};
use crate::presence::ObservedNet;
use crate::primary::{self, DriverEnv, DriverParts, PrimaryServices};
use crate::quorums::approvals::ApprovalsParts;
use crate::quorums::authority::Authority;
use crate::quorums::client::ClientParts;
use crate::quorums::logs::LogReader;
use crate::quorums::placement::PlacementParts;
use crate::quorums::ports::{Knowledge, LocalQuorums, LocalTasks, PrimaryPort};
use crate::quorums::request::RequestServer;
use crate::quorums::server::JobService;
use crate::quorums::slots::PeerSlots;
use crate::quorums::task_server::TaskService;
use crate::quorums::{Approvals, Placement, QuorumClient, Submits};
use crate::raft::{HostEvent, QuorumContext, QuorumHost, QuorumInbound};
use crate::resources::Resources;
use crate::seams::{GossipMessage, Inbound, InboundRequest, Net, NetEvent, Seams};
use crate::sources::NodeSources;
use crate::storage::Storage;
use crate::workers::{WorkerParts, Workers};

/// Starts every actor in the caller's task group.
pub(super) async fn start_actors(parts: NodeParts) -> Result<Node, StartError> {
    let NodeParts { seams, identity, mut settings, resources, net, inbound, work } = parts;
    // What nothing here runs is not offered.
    settings.roles.retain(|role| role.engine().is_none_or(|engine| work.executors.contains_key(&engine)));
    let Inbound { approval, raft, liveness, job, piece, task, gossip, events } = inbound;
    let arrivals = Arrivals { approval, raft, liveness, gossip, events };
    let (base, followers) = Base::start(&seams, &identity, &settings, resources, net, arrivals).await?;
    let reach = Reach::start(&base, &settings);
    let work = Work::start(&base, &reach, &settings, work, piece, followers.own, followers.bus).await?;
    let requests = Requests { job, task };
    let (jobs_handling, tasks_handling) = serve(&base, &reach, &work, &settings, followers.driver, requests);

    let Reach { client, approvals, placement, submits, services, .. } = reach;
    let inner = Inner {
        base,
        client,
        approvals,
        placement,
        submits,
        watches: services.watches().clone(),
        driver_metrics: services.metrics,
        work,
        jobs_handling,
        tasks_handling,
    };
    Ok(Node { inner: Arc::new(inner) })
}

/// What arrives from the network for the base.
struct Arrivals {
    approval: mpsc::Receiver<InboundRequest>,
    raft: mpsc::Receiver<InboundRequest>,
    liveness: mpsc::Receiver<InboundRequest>,
    gossip: mpsc::Receiver<GossipMessage>,
    events: mpsc::Receiver<NetEvent>,
}

/// What arrives for those who serve quorums.
struct Requests {
    job: mpsc::Receiver<InboundRequest>,
    task: mpsc::Receiver<InboundRequest>,
}

/// Subscriptions made before anything can be led, so that no lead goes unnoticed.
struct Followers {
    driver: broadcast::Receiver<HostEvent>,
    own: broadcast::Receiver<HostEvent>,
    bus: broadcast::Receiver<NodeEvent>,
}

impl Base {
    async fn start(
        seams: &Seams,
        identity: &Identity,
        settings: &NodeSettings,
        resources: Resources,
        net: Arc<dyn Net>,
        arrivals: Arrivals,
    ) -> Result<(Self, Followers), StartError> {
        let Arrivals { approval, raft, liveness, gossip, events: net_events } = arrivals;
        let observed = ObservedNet::new(net, seams.clock.clone(), seams.tasks.clone());
        let net: Arc<dyn Net> = Arc::new(observed.clone());
        let storage = Storage::start(seams.disk.clone());
        let certificates = Certificates::new(net.clone(), seams.clock.clone());
        let directory = Directory::start(DirectoryParts {
            standings: Arc::new(certificates.clone()),
            seams: seams.clone(),
            identity: identity.clone(),
            net: net.clone(),
            resources: resources.clone(),
            gossip,
            roles: settings.roles.iter().copied().collect(),
            name: settings.name.clone(),
            labels: settings.labels.clone(),
            trust: settings.trust.clone(),
            admission: settings.admission.clone(),
        });
        directory.set_draining(settings.draining);

        let (host_events, events) = mpsc::channel(NET_EVENTS_QUEUE);
        let context = QuorumContext {
            seams: seams.clone(),
            identity: identity.clone(),
            net: net.clone(),
            storage: storage.clone(),
            replace_grace: settings.replace_grace,
        };
        let quorums = QuorumHost::start(context, QuorumInbound { raft, liveness, events }).await?;
        observed.follow_suspicions(quorums.downgrade());
        certificates.set_own(Arc::new(quorums.downgrade()));
        let (driver, bridge_events, own) = (quorums.events(), quorums.events(), quorums.events());
        let (bus, bus_events) = broadcast::channel(EVENTS_MAX);
        event_bridge::start(event_bridge::BridgeParts {
            seams: seams.clone(),
            observed,
            directory: directory.clone(),
            resources: resources.clone(),
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
            standings: Arc::new(certificates.clone()),
            labels: settings.labels.clone(),
            roles: settings.roles.clone(),
            disk_bytes_max: settings.disk_bytes_max,
            requests: approval,
        })
        .await?;
        let (seams, identity) = (seams.clone(), identity.clone());
        let base = Self { seams, identity, net, resources, storage, certificates, directory, approver, quorums, bus };
        Ok((base, Followers { driver, own, bus: bus_events }))
    }
}

/// How this node reaches quorums, its own and any other.
struct Reach {
    local: Arc<dyn LocalQuorums>,
    knowledge: Arc<dyn Knowledge>,
    requests: RequestServer,
    services: PrimaryServices,
    led: Arc<dyn PrimaryPort>,
    client: QuorumClient,
    approvals: Approvals,
    placement: Placement,
    submits: Submits,
}

impl Reach {
    fn start(base: &Base, settings: &NodeSettings) -> Self {
        let Base { seams, identity, net, storage, certificates, directory, approver, quorums, .. } = base;
        let authority = Authority::new(settings.operators.clone())
            .with_hosts(settings.hosts.clone())
            .with_signatures(identity.signatures.clone())
            .with_measuring(settings.is_measured);
        let local: Arc<dyn LocalQuorums> = Arc::new(quorums.clone());
        let knowledge: Arc<dyn Knowledge> = Arc::new(directory.clone());
        let services = PrimaryServices::new(local.clone(), knowledge.clone());
        services.start_watches(&seams.tasks, quorums.events());
        let led: Arc<dyn PrimaryPort> = Arc::new(services.clone());
        let requests = RequestServer { this_node: net.local_peer(), authority, primary: led.clone() };
        let client = QuorumClient::new(ClientParts {
            net: net.clone(),
            quorums: local.clone(),
            knowledge: knowledge.clone(),
            standings: Arc::new(certificates.clone()),
            entropy: seams.entropy.clone(),
            requests: requests.clone(),
            tasks: seams.tasks.clone(),
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
        let submits = Submits::new(seams, identity.clone(), storage.clone(), placement.clone(), client.clone());
        Self { local, knowledge, requests, services, led, client, approvals, placement, submits }
    }
}

impl Work {
    async fn start(
        base: &Base,
        reach: &Reach,
        settings: &NodeSettings,
        work: NodeExecutors,
        pieces: mpsc::Receiver<InboundRequest>,
        applied: broadcast::Receiver<HostEvent>,
        nodes: broadcast::Receiver<NodeEvent>,
    ) -> Result<Self, StartError> {
        let Base { seams, identity, net, storage, certificates, directory, approver, .. } = base;
        let Reach { local, client, placement, .. } = reach;
        let objects = Objects::start(
            ObjectsContext {
                seams: seams.clone(),
                identity: identity.clone(),
                net: net.clone(),
                storage: storage.clone(),
                quorums: Arc::new(client.clone()),
                placement: Arc::new(NodePlacement {
                    placement: placement.clone(),
                    directory: directory.clone(),
                    net: net.clone(),
                }),
                leases: Arc::new(approver.clone()),
                standings: Arc::new(certificates.clone()),
            },
            pieces,
        );
        let workers = Workers::start(WorkerParts {
            seams: seams.clone(),
            identity: identity.clone(),
            storage: storage.clone(),
            quorum_port: Arc::new(client.clone()),
            leases: Arc::new(approver.clone()),
            objects: Arc::new(objects.clone()),
            executors: work.executors,
            operators: settings.operators.clone(),
            folder: work.folder,
            faults: work.faults,
        })
        .await?;
        let emitter = Events::start(EventsParts {
            seams: seams.clone(),
            net: net.clone(),
            storage: storage.clone(),
            quorum_port: Arc::new(client.clone()),
        })
        .await?;
        NetworkEvents {
            seams: seams.clone(),
            net: net.clone(),
            directory: directory.clone(),
            quorums: local.clone(),
            events: emitter.clone(),
            applied,
            nodes,
        }
        .start();
        let logs = LogReader {
            net: net.clone(),
            worker: Arc::new(workers.clone()),
            client: client.clone(),
            waits: PeerSlots::new(LOG_WAITS_PER_PEER_MAX, usize::MAX),
        };
        let sources = NodeSources::new(settings.hosts.clone(), client.clone(), Arc::new(objects.clone()));
        Ok(Self { objects, workers, emitter, logs, sources })
    }
}

/// Starts the driver of led quorums, and the servers of the job and the task protocol. Returns how many requests each
/// of them is answering.
fn serve(
    base: &Base,
    reach: &Reach,
    work: &Work,
    settings: &NodeSettings,
    events: broadcast::Receiver<HostEvent>,
    requests: Requests,
) -> (Gauge, Gauge) {
    let (Base { seams, net, certificates, .. }, Reach { local, led, services, .. }) = (base, reach);
    let worker: Arc<dyn LocalTasks> = Arc::new(work.workers.clone());
    primary::start(DriverParts {
        quorums: local.clone(),
        events,
        env: DriverEnv {
            seams: seams.clone(),
            net: net.clone(),
            knowledge: reach.knowledge.clone(),
            approvals: reach.approvals.clone(),
            pieces: Arc::new(work.objects.service().clone()),
            worker: Some(worker.clone()),
            wait_reasons: services.wait_reasons.clone(),
            audit_hints: services.audit_hints.clone(),
            sources: Arc::new(work.sources.clone()),
            metrics: services.metrics.clone(),
            settings: settings.driver.clone(),
        },
    });
    let tasks = TaskService {
        net: net.clone(),
        primary: led.clone(),
        standings: Arc::new(certificates.clone()),
        worker: Some(worker),
    };
    let tasks_handling = tasks.start(&seams.tasks, requests.task);
    let jobs = JobService {
        net: net.clone(),
        quorums: local.clone(),
        requests: reach.requests.clone(),
        sources: Arc::new(work.sources.clone()),
    };
    (jobs.start(&seams.tasks, requests.job), tasks_handling)
}
