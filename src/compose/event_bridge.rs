//! The bridge of events between actors: who connected, to the quorums, the directory and those who follow the node; and
//! what this node's quorums are, to the directory that announces them and to the resources that have room for members.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_protocols::directory::QuorumAdvert;
use quorate_protocols::ids::QuorumId;
use quorate_protocols::quorum::request::QuorumView;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until};

use super::node::NodeEvent;
use crate::directory::Directory;
use crate::presence::ObservedNet;
use crate::raft::{HostEvent, Quorum, QuorumHost};
use crate::resources::Resources;
use crate::seams::{NetEvent, Seams};

/// Between two looks at what the led quorums should be announced as.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);

pub(super) struct BridgeParts {
    pub seams: Seams,
    pub observed: ObservedNet,
    pub directory: Directory,
    pub resources: Resources,
    pub quorums: QuorumHost,
    pub events: broadcast::Receiver<HostEvent>,
    pub net_events: mpsc::Receiver<NetEvent>,
    pub host_events: mpsc::Sender<NetEvent>,
    pub bus: broadcast::Sender<NodeEvent>,
}

pub(super) fn start(parts: BridgeParts) {
    let BridgeParts { seams, observed, directory, resources, quorums, events, net_events, host_events, bus } = parts;
    let network = NetworkBridge { observed, directory: directory.clone(), net_events, host_events, bus };
    let shutdown = seams.tasks.shutdown_token();
    seams.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => (),
            () = network.run() => (),
        }
    });
    let shutdown = seams.tasks.shutdown_token();
    let quorums = QuorumBridge { directory, resources, quorums, events, told: BTreeSet::new() };
    seams.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => (),
            () = quorums.run() => (),
        }
    });
}

struct NetworkBridge {
    observed: ObservedNet,
    directory: Directory,
    net_events: mpsc::Receiver<NetEvent>,
    host_events: mpsc::Sender<NetEvent>,
    bus: broadcast::Sender<NodeEvent>,
}

impl NetworkBridge {
    async fn run(mut self) {
        while let Some(event) = self.net_events.recv().await {
            self.observed.observe_event(&event);
            // Nobody following is fine.
            match &event {
                NetEvent::Connected { peer } => {
                    self.directory.connected(*peer);
                    let _ = self.bus.send(NodeEvent::PeerConnected { peer: *peer });
                }
                NetEvent::Disconnected { peer } => {
                    self.directory.disconnected(*peer);
                    let _ = self.bus.send(NodeEvent::PeerDisconnected { peer: *peer });
                }
                NetEvent::Refused { .. } => (),
            }
            // In order, and none left out: a lost `Disconnected` would cost a failover its speed.
            if self.host_events.send(event).await.is_err() {
                return;
            }
        }
    }
}

struct QuorumBridge {
    directory: Directory,
    resources: Resources,
    quorums: QuorumHost,
    events: broadcast::Receiver<HostEvent>,
    /// Quorums that the directory was told of.
    told: BTreeSet<QuorumId>,
}

impl QuorumBridge {
    async fn run(mut self) {
        self.announce_all();
        let mut next = Instant::now() + ANNOUNCE_INTERVAL;
        loop {
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                () = sleep_until(next) => {
                    // Loads change with every command; they are told at this pace.
                    self.announce_all();
                    next = Instant::now() + ANNOUNCE_INTERVAL;
                    continue;
                }
            };
            match event {
                Ok(
                    HostEvent::Leading { quorum, .. }
                    | HostEvent::NotLeading { quorum }
                    | HostEvent::Primary { quorum, .. }
                    | HostEvent::Joined { quorum }
                    | HostEvent::Left { quorum },
                ) => {
                    let here = self.quorums.quorums().iter().any(|member| member.id() == quorum);
                    self.announce_quorum(quorum, here);
                    self.announce_memberships();
                }
                Ok(HostEvent::Applied { .. } | HostEvent::Paused { .. } | HostEvent::Unpaused { .. }) => (),
                Err(RecvError::Lagged(_)) => self.announce_all(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn announce_all(&mut self) {
        let here: BTreeSet<QuorumId> = self.quorums.quorums().iter().map(|quorum| quorum.id()).collect();
        for quorum in self.told.union(&here).copied().collect::<Vec<_>>() {
            self.announce_quorum(quorum, here.contains(&quorum));
        }
        self.announce_memberships();
    }

    /// `here`: this node is a member. The host also answers for quorums that it left, which are not for it to announce.
    fn announce_quorum(&mut self, id: QuorumId, here: bool) {
        let Some(quorum) = self.quorums.quorum(id).filter(|_| here) else {
            if self.told.remove(&id) {
                self.directory.leave_quorum(id);
            }
            return;
        };
        let leading = quorum.leading().is_some();
        let advert = advert(&quorum.view());
        self.told.insert(id);
        if leading {
            self.directory.update_quorum(advert);
        } else {
            self.directory.follow_quorum(advert);
        }
    }

    /// In how many quorums this node is, and with whom.
    fn announce_memberships(&self) {
        let quorums = self.quorums.quorums();
        self.directory.set_memberships(quorums.len() as u32);
        self.resources.set_members(quorums.iter().flat_map(Quorum::members).collect());
    }
}

fn advert(view: &QuorumView) -> QuorumAdvert {
    // A quorum that cannot commit has no room, whatever it holds.
    let room = if view.paused.is_some() { 0 } else { view.room };
    QuorumAdvert {
        quorum: view.quorum,
        term: view.term,
        members: view.voters.clone(),
        standbys: view.standbys.len().min(usize::from(u8::MAX)) as u8,
        jobs: view.jobs_live,
        objects: view.objects,
        room,
    }
}
