//! The directory of the network: peers and their capacity, quorums and their members.
//!
//! Feeds on gossip and on what answers prove; announces this node and the quorums it leads, finds volunteers for jobs
//! that lack peers, and volunteers itself. The core is `quorate_protocols::directory`; [`announcer`] decides what is
//! announced when, [`search`] who is told of volunteers, and the actor in [`actor`] drives both. Reads are answered
//! from behind a mutex that is never held across an await.
//!
//! Nothing in here is certain: a stale directory costs a wasted question, never a wrong answer.

mod actor;
mod announcer;
mod metrics;
mod pace;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::registry::Registry;
use quorate_protocols::admission::{Admission, Distrust, Trust};
use quorate_protocols::approval::Subject;
use quorate_protocols::capacity::Requirement;
use quorate_protocols::directory::{DirectoryState, PeerAdvert, QuorumAdvert};
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{MemberId, Millis, PeerId, QuorumId};
use tokio::sync::{Notify, mpsc};

use crate::certificates::Standings;
use crate::gauges;
use crate::identity::Identity;
use crate::resources::Resources;
use crate::seams::{GossipMessage, Net, Seams};
use announcer::Announcer;
use pace::Pace;
use search::Searches;

pub use metrics::DirectoryMetrics;

/// One peer as announced.
#[derive(Clone, Debug)]
pub struct KnownPeer {
    pub peer: PeerId,
    pub advert: PeerAdvert,
    /// Wall-clock time of the last announcement.
    pub heard_at: Millis,
}

/// What the directory is built from.
pub struct DirectoryParts {
    /// Announcements of quorums are those of their voters.
    pub standings: Arc<dyn Standings>,
    pub seams: Seams,
    pub identity: Identity,
    pub net: Arc<dyn Net>,
    pub resources: Resources,
    pub gossip: mpsc::Receiver<GossipMessage>,
    /// What this node says of itself and does not change while it runs.
    pub roles: Vec<NodeRole>,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Whom this node relies on, and what it shows to be relied on itself.
    pub trust: Trust,
    pub admission: Option<Admission>,
}

/// Handle to the directory.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

struct Shared {
    standings: Arc<dyn Standings>,
    seams: Seams,
    identity: Identity,
    net: Arc<dyn Net>,
    resources: Resources,
    roles: Vec<NodeRole>,
    name: String,
    labels: BTreeMap<String, String>,
    admission: Option<Admission>,
    draining: AtomicBool,
    /// Quorums that this node is a voter of.
    memberships: AtomicU32,
    core: Mutex<Core>,
    metrics: DirectoryMetrics,
    /// Something may be due earlier than the actor thinks.
    wake: Notify,
}

struct Core {
    state: DirectoryState,
    announcer: Announcer,
    searches: Searches,
    pace: Pace,
}

impl Directory {
    /// Starts the directory's actor in the caller's task group.
    pub fn start(parts: DirectoryParts) -> Self {
        let DirectoryParts {
            standings,
            seams,
            identity,
            net,
            resources,
            gossip,
            roles,
            name,
            labels,
            trust,
            admission,
        } = parts;
        let core = Core {
            state: DirectoryState::new(trust),
            announcer: Announcer::new(seams.clock.monotonic()),
            searches: Searches::default(),
            pace: Pace::default(),
        };
        let shared = Arc::new(Shared {
            standings,
            seams: seams.clone(),
            identity,
            net,
            resources,
            roles,
            name,
            labels,
            admission,
            draining: AtomicBool::new(false),
            memberships: AtomicU32::new(0),
            core: Mutex::new(core),
            metrics: DirectoryMetrics::default(),
            wake: Notify::new(),
        });
        let directory = Self { shared };
        directory.shared.refresh_own(&mut directory.lock());
        seams.tasks.spawn(actor::run(directory.shared.clone(), gossip));
        directory
    }

    /// Announced peers, this node included, in order of id.
    pub fn peers(&self) -> Vec<KnownPeer> {
        let mut core = self.lock();
        self.shared.refresh_own(&mut core);
        let row = |(peer, entry): (PeerId, &quorate_protocols::directory::PeerEntry)| KnownPeer {
            peer,
            advert: entry.advert.clone(),
            heard_at: entry.heard_at,
        };
        core.state.peers().map(row).collect()
    }
    pub fn peer(&self, peer: PeerId) -> Option<KnownPeer> {
        let core = self.lock();
        let entry = core.state.peer(peer)?;
        Some(KnownPeer { peer, advert: entry.advert.clone(), heard_at: entry.heard_at })
    }
    /// Announced quorums and those this node is a member of, in order of id.
    pub fn quorums(&self) -> Vec<QuorumAdvert> {
        self.lock().state.quorums().into_iter().cloned().collect()
    }
    pub fn quorum(&self, quorum: QuorumId) -> Option<QuorumAdvert> {
        self.lock().state.quorum(quorum).cloned()
    }
    /// Notes what an answer said about a quorum's members, until an advert says otherwise.
    pub fn learn_members(&self, quorum: QuorumId, primary: Option<MemberId>, voters: Vec<MemberId>) {
        let now = self.shared.seams.clock.monotonic();
        self.lock().state.learn_members(now, quorum, primary, voters);
    }
    /// Peers worth asking for this, best first, from adverts: room, labels, role, load; this node included.
    pub fn candidates(&self, role: NodeRole, requirement: &Requirement) -> Vec<PeerId> {
        let mut core = self.lock();
        self.shared.refresh_own(&mut core);
        let wall = self.shared.seams.clock.wall();
        core.state.candidates(wall, role, requirement, || self.shared.seams.entropy.u64())
    }
    /// A known quorum with room for one more job, the less loaded of two drawn at random. `eligible` can refuse any.
    pub fn pick_quorum(&self, eligible: impl Fn(&QuorumAdvert) -> bool) -> Option<QuorumId> {
        self.lock().state.pick_quorum(|| self.shared.seams.entropy.u64(), eligible)
    }
    /// Announces a job that looks for peers, and returns the volunteers that answer from now on. The search ends when
    /// the receiver is dropped; it closes by itself when too many newer searches are under way.
    pub fn ask_for_volunteers(
        &self,
        subject: Subject,
        role: NodeRole,
        requirement: Requirement,
    ) -> mpsc::Receiver<PeerId> {
        let now = self.shared.seams.clock.monotonic();
        let volunteers = self.lock().searches.start(now, subject, role, requirement);
        self.shared.wake.notify_one();
        volunteers
    }
    /// Whether this node relies on the peer as a member, holder or worker. It relies on itself.
    pub fn check_trust(&self, peer: PeerId) -> Result<(), Distrust> {
        match peer == self.shared.identity.peer() {
            true => Ok(()),
            false => self.lock().state.check_trust(self.shared.seams.clock.wall(), peer),
        }
    }
    /// Announced peers that this node does not rely on, and why.
    pub fn distrusted(&self) -> Vec<(PeerId, Distrust)> {
        let core = self.lock();
        let wall = self.shared.seams.clock.wall();
        let distrusted = |(peer, _): (PeerId, _)| Some((peer, core.state.check_trust(wall, peer).err()?));
        core.state.peers().filter_map(distrusted).collect()
    }
    /// A peer offered itself (an `Offer` on the approval protocol).
    pub fn offered(&self, peer: PeerId, subject: Subject) {
        self.shared.metrics.offers_received.inc();
        if self.check_trust(peer).is_ok() {
            self.lock().searches.offered(peer, subject);
        }
    }

    /// This node leads the quorum, and this is how it stands: announced when it changed, and now and then.
    pub fn update_quorum(&self, advert: QuorumAdvert) {
        let now = self.shared.seams.clock.monotonic();
        let mut core = self.lock();
        core.state.set_own_quorum(advert.clone());
        core.announcer.lead(now, advert);
        drop(core);
        self.shared.wake.notify_one();
    }
    /// This node is a member of the quorum but does not lead it: known here, announced by its primary.
    pub fn follow_quorum(&self, advert: QuorumAdvert) {
        let mut core = self.lock();
        core.announcer.stop_leading(advert.quorum);
        core.state.set_own_quorum(advert);
    }
    /// This node is no longer a member.
    pub fn leave_quorum(&self, quorum: QuorumId) {
        let mut core = self.lock();
        core.announcer.stop_leading(quorum);
        core.state.remove_own_quorum(quorum);
    }
    /// How many quorums this node is a voter of.
    pub fn set_memberships(&self, quorums: u32) {
        self.shared.memberships.store(quorums, Ordering::Relaxed);
        self.shared.wake.notify_one();
    }
    /// A draining node takes on nothing new and says so.
    pub fn set_draining(&self, draining: bool) {
        self.shared.draining.store(draining, Ordering::Relaxed);
        self.shared.wake.notify_one();
    }
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }
    /// A connection to a new peer exists: it is told soon what this node announces, and what it announces counts.
    pub fn connected(&self, peer: PeerId) {
        let now = self.shared.seams.clock.monotonic();
        let mut core = self.lock();
        core.state.note_reached(now, peer, true);
        core.announcer.connected(now);
        drop(core);
        self.shared.wake.notify_one();
    }
    /// The last connection to the peer is gone.
    pub fn disconnected(&self, peer: PeerId) {
        let now = self.shared.seams.clock.monotonic();
        self.lock().state.note_reached(now, peer, false);
    }
    pub fn metrics(&self) -> &DirectoryMetrics {
        &self.shared.metrics
    }
    /// Registers what it counts, and how many adverts it knows.
    pub fn register_metrics(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("quorate_directory");
        self.metrics().register(registry);
        let directory = self.clone();
        gauges::register_by(
            registry,
            "adverts_known",
            "Adverts known now, this node's own included",
            "of",
            move || {
                let core = directory.lock();
                vec![("peers", core.state.peers().count() as u64), ("quorums", core.state.quorums().len() as u64)]
            },
        );
    }
    /// What this node is called.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.shared.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    /// What this node would announce now, under the sequence it announced last.
    fn own_advert(&self, sequence: u64) -> PeerAdvert {
        PeerAdvert {
            incarnation: self.identity.incarnation,
            boot: self.identity.boot,
            boot_number: self.identity.boot_number,
            sequence,
            roles: self.roles.clone(),
            name: self.name.clone(),
            labels: self.labels.clone(),
            free: self.resources.free(),
            load_permille: self.resources.load_permille(),
            quorums: self.memberships.load(Ordering::Relaxed),
            draining: self.draining.load(Ordering::Relaxed),
            level: quorate_protocols::quorum::limits::LEVEL,
            admission: self.admission.clone(),
        }
    }

    fn refresh_own(&self, core: &mut Core) {
        let advert = self.own_advert(core.announcer.sequence());
        let (now, wall) = (self.seams.clock.monotonic(), self.seams.clock.wall());
        core.state.set_own_peer(now, wall, self.identity.peer(), advert);
    }
}
