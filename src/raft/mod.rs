//! The quorums that this node is a member of: openraft groups over the network and storage seams.
//!
//! A [`QuorumHost`] runs one [`group::Group`] per quorum, on one network, one store and one liveness layer:
//!
//! - `log_store`, `log_sizes`, `rollback_guard`, `snapshot`, `state_machine`: what a member remembers, how it notices
//!   that it forgot, and when its log is cut; `own_sync`: a primary syncs while its entries travel;
//! - `network`, `server`, `host`: raft's messages out and in, and the founding of quorums;
//! - `door`: which of those messages are taken, and from whom;
//! - `agreement`, `copies`: members that differ, and how the one that is wrong gets the state of the others;
//! - `proposer`: many commands become one log entry;
//! - `liveness`: when to elect, and whether a majority is heard (openraft's own timers are off);
//! - `latencies`: how long members take to answer and to sync, which every wait follows;
//! - `certify`: who the voters are, proven to others;
//! - `membership`: replacing members that are lost or not trusted; `standbys`: who is ready to take their place;
//! - `reopen`: a group whose store failed, a full disk for one, comes back without a restart;
//! - `types`, `runtime`: what openraft is told about us.
//!
//! What callers are promised: a reply to [`Quorum::propose`] is committed on a majority's disks and applied here; an
//! error other than [`QuorumError::Unknown`] means that the command will not be committed by that call; a read that is
//! not stale sees every command acknowledged before it began. A node that is not sure of its lead says so instead of
//! answering. What is not promised: that a quorum without a majority answers anything but `Paused`, or that two nodes
//! never both *believe* to lead; raft's terms decide which of them can commit.
//!
//! What faults cost: a peer's malformed bytes are penalised and dropped; a message from a peer that is no member is
//! refused, and so is a claim to lead of one that is no voter; a state that differs from that of a majority is dropped
//! for theirs; a disk error stops the member until its store takes writes again; a disk that forgot promises keeps the
//! member out until it comes back in another incarnation.

mod agreement;
mod certify;
mod clocks;
mod copies;
mod door;
mod group;
mod host;
mod latencies;
mod liveness;
mod log_sizes;
mod log_store;
mod membership;
mod metrics;
mod network;
mod own_sync;
mod proposer;
mod read_index;
mod records;
mod reopen;
mod resend;
mod rollback_guard;
mod runtime;
mod server;
mod shared_reads;
mod snapshot;
mod standbys;
mod state_machine;
#[cfg(test)]
mod tests;
mod types;

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::LogIdOptionExt;
use openraft::error::Fatal;
use prometheus_client::registry::Registry;
use quorate_protocols::admission::Distrust;
use quorate_protocols::approval::Approval;
use quorate_protocols::approval::standby::Renewed;
use quorate_protocols::certificate::{CertificatePart, Founding};
use quorate_protocols::ids::{Digest, LeaseId, LogIndex, MemberId, Nonce, PeerId, QuorumId, Term};
use quorate_protocols::liveness::{Judgement, Latency};
use quorate_protocols::membership::Voters;
use quorate_protocols::quorum::limits::COMMAND_BYTES_MAX;
use quorate_protocols::quorum::request::{Query, QueryAnswer, QuorumView, SignedMembership};
use quorate_protocols::quorum::{Command, CommandReply, Duty, Event, QuorumState, Rejection};
use quorate_protocols::wire;
use tokio::sync::{broadcast, oneshot};

pub use host::{has_members, lost_quorums};
pub use log_store::LogRead;
pub use metrics::QuorumMetrics;
pub use network::Appended;
pub use types::{Entry, Vote};

use crate::gauges;
use crate::identity::Identity;
use crate::seams::{Failpoint, InboundRequest, Net, NetEvent, Seams, failpoint};
use crate::storage::Storage;

/// What the quorum host is built from.
pub struct QuorumContext {
    pub seams: Seams,
    pub identity: Identity,
    pub net: Arc<dyn Net>,
    pub storage: Storage,
    /// How long a member must be away, or not be trusted, before another takes its place.
    pub replace_grace: Duration,
}

/// The requests and events that belong to the quorum host.
pub struct QuorumInbound {
    pub raft: tokio::sync::mpsc::Receiver<InboundRequest>,
    pub liveness: tokio::sync::mpsc::Receiver<InboundRequest>,
    pub events: tokio::sync::mpsc::Receiver<NetEvent>,
}

/// What happens in this node's quorums. A receiver that lags loses the oldest and must look at the state instead.
#[derive(Clone, Debug)]
pub enum HostEvent {
    /// This node became primary (or restarted as primary): derive duties anew.
    Leading {
        quorum: QuorumId,
        term: Term,
    },
    /// This node is no longer primary, or has not heard a majority: start nothing.
    NotLeading {
        quorum: QuorumId,
    },
    /// A primary was elected somewhere, as this member sees it.
    Primary {
        quorum: QuorumId,
        term: Term,
        primary: MemberId,
    },
    /// Entries were applied, and something happened by them.
    Applied {
        quorum: QuorumId,
        /// The last of them, and its term.
        last: LogIndex,
        term: Term,
        events: Arc<Vec<Event>>,
    },
    /// A quorum was founded here, or this node joined one.
    Joined {
        quorum: QuorumId,
    },
    Left {
        quorum: QuorumId,
    },
    /// The quorum has no majority, or has it again.
    Paused {
        quorum: QuorumId,
        reason: String,
    },
    Unpaused {
        quorum: QuorumId,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuorumError {
    #[error("this node is not the primary of quorum {quorum}")]
    NotPrimary { quorum: QuorumId, primary: Option<MemberId>, voters: Vec<MemberId> },
    #[error("quorum {quorum} is paused: {reason}")]
    Paused { quorum: QuorumId, reason: String },
    #[error("quorum {quorum} has too many commands waiting")]
    Busy { quorum: QuorumId },
    #[error("{by} has sent more commands than its share of this primary; the next is taken in {wait:?}")]
    TooFast { by: PeerId, wait: Duration },
    /// With a reason, the answer came as soon as there was one.
    #[error("no answer within {after:?}; whether the command was committed is unknown{}", because(reason))]
    Unknown { after: Duration, reason: Option<String> },
    #[error("command of {bytes} bytes is larger than the {limit} allowed")]
    TooLarge { bytes: usize, limit: usize },
    #[error("this node is not a member of quorum {quorum}")]
    NotMember { quorum: QuorumId },
    #[error("this member of quorum {quorum} has stopped: {reason}")]
    Stopped { quorum: QuorumId, reason: String },
    #[error("this member of quorum {quorum} has stopped: the disk of its node is full")]
    DiskFull { quorum: QuorumId },
}

/// A reason, if there is one, at the end of a sentence.
pub(crate) fn because(reason: &Option<String>) -> String {
    reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum FoundError {
    #[error("only {founded} of {needed} members created quorum {quorum}: {reason}")]
    TooFew { quorum: QuorumId, founded: usize, needed: usize, reason: String },
    #[error("quorum {quorum} was created but elected no primary within {after:?}")]
    NoPrimary { quorum: QuorumId, after: Duration },
}

/// Who may be a member, and promises of membership, which a quorum host needs and its node deals in.
pub trait MembershipLeases: Send + Sync + 'static {
    /// Whether this node relies on the peer as a member. It relies on itself.
    fn check_trust(&self, peer: PeerId) -> Result<(), Distrust>;
    /// Whether this node's own promise to be a member of the quorum still stands.
    fn stands(&self, lease: LeaseId, quorum: QuorumId) -> bool;
    /// Makes the promise of a founding that stands one for the quorum that was founded, durable no later than what is
    /// written next. False when there is no such promise any more.
    fn bind(&self, lease: LeaseId, nonce: Nonce, quorum: QuorumId) -> bool;
    /// Asks peers other than `exclude`, and not below the state level `level`, to become a member, as this node. `Err`:
    /// why nobody was won.
    fn win_member(
        &self,
        quorum: QuorumId,
        exclude: Vec<PeerId>,
        level: u16,
    ) -> BoxFuture<'static, Result<Approval, String>>;
    /// Asks a standby to prolong its promise.
    fn renew_standby(&self, peer: PeerId, lease: LeaseId) -> BoxFuture<'static, Renewed>;
    /// Tells a peer that its promise is not needed. Best effort: a promise ends by itself.
    fn give_back(&self, peer: PeerId, lease: LeaseId) -> BoxFuture<'static, ()>;
}

/// Handle to all quorums of this node.
#[derive(Clone)]
pub struct QuorumHost(Arc<host::Inner>);

/// The same, without keeping them: for whoever the host keeps in turn.
#[derive(Clone)]
pub struct WeakQuorumHost(Weak<host::Inner>);

impl WeakQuorumHost {
    /// `None` once the node is gone.
    pub fn upgrade(&self) -> Option<QuorumHost> {
        self.0.upgrade().map(QuorumHost)
    }
}

impl QuorumHost {
    pub fn downgrade(&self) -> WeakQuorumHost {
        WeakQuorumHost(Arc::downgrade(&self.0))
    }

    /// Loads the quorums on disk, starts their groups and the liveness layer in the caller's task group.
    ///
    /// Call [`lost_quorums`] before, and give the node a new incarnation when it names any: a member whose disk forgot
    /// its promises is otherwise kept out of its quorum.
    pub async fn start(context: QuorumContext, inbound: QuorumInbound) -> Result<Self, crate::seams::DiskError> {
        let tasks = context.seams.tasks.clone();
        let host = tasks.scope(host::Inner::load(context)).await?;
        let QuorumInbound { raft, liveness, events } = inbound;
        tasks.spawn(host.clone().serve(raft));
        tasks.spawn(liveness::Liveness::run(host.clone(), liveness, events));
        tasks.spawn(membership::Driver::run(host.clone()));
        let closing = host.clone();
        let shutdown = tasks.shutdown_token();
        tasks.spawn(async move {
            shutdown.cancelled().await;
            closing.close().await;
        });
        Ok(Self(host))
    }
    /// Tells where promises come from; the first call counts. Until then promises are taken on their signature alone,
    /// everybody is trusted, no standbys are kept, and lost members are replaced by those of the founding only.
    pub fn set_membership_leases(&self, membership_leases: Arc<dyn MembershipLeases>) {
        // A second call is a mistake that changes nothing.
        let _ = self.0.membership_leases.set(membership_leases);
    }
    /// Also finds quorums that this node left within the last 30 days: their view names those who took its place.
    pub fn quorum(&self, quorum: QuorumId) -> Option<Quorum> {
        let member = match self.0.group(quorum) {
            Some(group) => Member::Active(group),
            None => Member::Departed(Arc::new(self.0.departed(quorum)?)),
        };
        Some(Quorum { host: self.0.clone(), id: quorum, member })
    }
    /// In order of id.
    pub fn quorums(&self) -> Vec<Quorum> {
        let groups = self.0.groups().into_iter();
        groups.map(|group| Quorum { host: self.0.clone(), id: group.id, member: Member::Active(group) }).collect()
    }
    pub fn events(&self) -> broadcast::Receiver<HostEvent> {
        self.0.events.subscribe()
    }
    /// As the node that forms a quorum (member or not): has every approved member create it, and waits for a primary.
    pub async fn found(
        &self,
        founding: Founding,
        members: Vec<Approval>,
        standbys: Vec<Approval>,
    ) -> Result<MemberId, FoundError> {
        self.0.seams.tasks.scope(self.0.found(founding, members, standbys)).await
    }
    /// Whether liveness currently suspects this peer. Only peers that share a quorum are watched.
    pub fn suspects(&self, peer: PeerId) -> bool {
        self.0.suspects(peer)
    }
    /// Counters of all quorums here.
    pub fn metrics(&self) -> &QuorumMetrics {
        &self.0.metrics
    }
    /// Registers what the quorums here count, and how many commands wait to be proposed.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics().register(registry);
        let host = self.clone();
        let registry = registry.sub_registry_with_prefix("quorate_quorum");
        gauges::register(
            registry,
            "proposals_queued",
            "Commands that wait to be proposed, of all quorums",
            move || host.0.groups().iter().map(|group| gauges::waiting(&group.proposals)).sum(),
        );
    }
}

/// How far one member of a quorum has come. Members that have applied as much have the same digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The end of the log, committed or not.
    pub last_log: LogIndex,
    pub applied: LogIndex,
    /// The rolling digest over everything applied.
    pub digest: Digest,
    /// A hash over the applied membership and the index of the entry that set it.
    pub membership: Digest,
    /// Since the start of the process.
    pub snapshots_installed: u64,
}

/// That a member hears no majority of its quorum, so that what it has applied may be old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unheard {
    pub reason: String,
    /// For how long; `None` when it is not known.
    pub since: Option<Duration>,
}

/// Handle to one quorum that this node is, or lately was, a member of.
#[derive(Clone)]
pub struct Quorum {
    host: Arc<host::Inner>,
    id: QuorumId,
    member: Member,
}

#[derive(Clone)]
enum Member {
    Active(Arc<group::Group>),
    Departed(Arc<host::Departed>),
}

impl Quorum {
    pub fn id(&self) -> QuorumId {
        self.id
    }
    /// False when this node has left the quorum and can only say where it went.
    pub fn is_member(&self) -> bool {
        matches!(self.member, Member::Active(_))
    }
    fn group(&self) -> Result<&Arc<group::Group>, QuorumError> {
        match &self.member {
            Member::Active(group) => Ok(group),
            Member::Departed(_) => Err(QuorumError::NotMember { quorum: self.id }),
        }
    }
    /// As this member sees it, without asking anyone.
    pub fn view(&self) -> QuorumView {
        match &self.member {
            Member::Active(group) => group.view(),
            Member::Departed(note) => departed_view(&note.membership),
        }
    }
    /// Why what this member has applied may be old. `None` while it hears a majority, and when it has left.
    pub fn unheard(&self) -> Option<Unheard> {
        self.group().ok()?.unheard(self.host.seams.clock.monotonic())
    }
    /// The newest term that this member knows.
    pub fn term(&self) -> Term {
        match &self.member {
            Member::Active(group) => group.term(),
            Member::Departed(note) => note.membership.statement.term,
        }
    }
    pub fn membership(&self) -> SignedMembership {
        match &self.member {
            Member::Active(group) => self.host.sign_membership(group),
            Member::Departed(note) => note.membership.clone(),
        }
    }
    /// Who votes here. Nobody does when this node has left.
    pub fn voters(&self) -> Vec<PeerId> {
        self.group().map(|group| group.voters()).unwrap_or_default()
    }
    /// Who votes or learns here, this node among them. Nobody does when this node has left.
    pub fn members(&self) -> BTreeSet<PeerId> {
        let Ok(group) = self.group() else { return BTreeSet::new() };
        group.members().into_iter().map(|member| member.peer).chain(group.voters()).collect()
    }
    /// What this node can prove of the voters, behind configuration `since` if the reader knows that one. `None` when
    /// it has left.
    pub fn certificate(&self, since: Option<u64>) -> Option<CertificatePart> {
        self.group().ok().map(|group| group.certificate(since))
    }
    /// The term in which this node is primary and hears a majority.
    pub fn leading(&self) -> Option<Term> {
        self.group().ok()?.leading()
    }
    /// What elections and commits take, as this member measured it. Nothing when it has left.
    pub fn latency(&self) -> Latency {
        let Ok(group) = self.group() else { return Latency::default() };
        let configurations = group.configurations();
        let voters = configurations.iter().flat_map(Voters::iter);
        let suspected = voters.filter(|voter| *voter != group.me && self.host.suspects(voter.peer)).collect();
        self.host.links.latencies.of_majority(&configurations, group.me, &suspected)
    }
    /// Commits a command on behalf of `by`; the inner result is the state machine's answer.
    pub async fn propose(
        &self,
        by: PeerId,
        command: Command,
        deadline: Duration,
    ) -> Result<Result<CommandReply, Rejection>, QuorumError> {
        let group = self.group()?;
        group.check_leading()?;
        let bytes = wire::encode(&command).len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(QuorumError::TooLarge { bytes, limit: COMMAND_BYTES_MAX });
        }
        self.charge(by, bytes)?;
        if let Some(reply) = self.foretell_reply(by, &command).await? {
            return Ok(reply);
        }
        let (answer, answered) = oneshot::channel();
        group.proposals.try_send(proposer::Proposal { by, command, bytes, answer }).map_err(
            |refused| match refused {
                tokio::sync::mpsc::error::TrySendError::Full(_) => {
                    self.host.metrics.refused_busy.inc();
                    QuorumError::Busy { quorum: self.id }
                }
                tokio::sync::mpsc::error::TrySendError::Closed(_) => group.closed(),
            },
        )?;
        match tokio::time::timeout(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            // The proposer ended with the command in flight, or time did: both leave it open.
            Ok(Err(_)) | Err(_) => Err(QuorumError::Unknown { after: deadline, reason: None }),
        }
    }
    /// Takes a command from the budget of its author, or of whom it is proposed for. What this node proposes itself has
    /// none: it is its duty.
    pub fn charge(&self, by: PeerId, bytes: usize) -> Result<(), QuorumError> {
        if by == self.host.identity.peer() {
            return Ok(());
        }
        let taken = self.host.budgets.lock().charge(self.host.seams.clock.monotonic(), by, bytes);
        taken.map_err(|wait| {
            self.host.metrics.refused_fast.inc();
            QuorumError::TooFast { by, wait }
        })
    }
    /// The reply to a command that changes nothing, without an entry of the log. It is read like any answer to a
    /// question: with the lead confirmed, for another primary may have committed what this one does not know.
    async fn foretell_reply(
        &self,
        by: PeerId,
        command: &Command,
    ) -> Result<Option<Result<CommandReply, Rejection>>, QuorumError> {
        let group = self.group()?;
        let foretell = || group.machine.read(|applied| applied.state.foretell_reply(by, command));
        if foretell().is_none() {
            return Ok(None);
        }
        self.confirm_lead().await?;
        Ok(foretell().inspect(|_| {
            self.host.metrics.foretold.inc();
        }))
    }
    /// Reads after a majority confirmed this node's lead, or at once when `stale` will do.
    pub async fn query(&self, query: Query, stale: bool) -> Result<QueryAnswer, QuorumError> {
        let group = self.group()?;
        if !stale {
            self.confirm_lead().await?;
        }
        // `None` is the question about the quorum itself, which the state alone cannot answer.
        let answer = group.machine.read(|applied| applied.state.answer(&query));
        Ok(answer.unwrap_or_else(|| QueryAnswer::Quorum(group.view())))
    }
    /// Waits until this member has applied all that was committed before this call, and a majority confirmed its lead.
    pub async fn confirm_lead(&self) -> Result<(), QuorumError> {
        let mut stale = false;
        failpoint(Failpoint::ReadAsked, &mut stale);
        match stale {
            true => Ok(()),
            false => self.group()?.confirm_lead().await,
        }
    }
    /// The time by the clocks of a majority; `None` while this member knows too few of them, or has left.
    pub fn clock(&self) -> Option<Judgement> {
        self.group().ok()?.judge_clock()
    }
    /// Looks at what this member has applied, however old that is; not at all when it has left. Applying waits
    /// meanwhile, so `look` copies what it needs and nothing more.
    pub fn with_state(&self, read: impl FnOnce(&QuorumState)) {
        if let Ok(group) = self.group() {
            group.machine.read(|applied| read(&applied.state));
        }
    }
    /// How far this member has come. `None` when it has left.
    pub fn progress(&self) -> Option<Progress> {
        let group = self.group().ok()?;
        let (applied, digest, membership) = group.machine.read(|applied| {
            let membership = Digest(*blake3::hash(&wire::encode(&applied.membership)).as_bytes());
            (applied.last, applied.state.rolling(), membership)
        });
        Some(Progress {
            last_log: group.last_log().index,
            applied: LogIndex(applied.index().unwrap_or(0)),
            digest,
            membership,
            snapshots_installed: group.machine.snapshots_installed.load(std::sync::atomic::Ordering::Relaxed),
        })
    }
    /// A hash over the whole applied state, with the index that it belongs to. Encodes all of it while applying waits.
    pub fn state_hash(&self) -> Option<(LogIndex, Digest)> {
        let group = self.group().ok()?;
        Some(group.machine.read(|applied| {
            let mut hasher = blake3::Hasher::new();
            for (name, _) in applied.state.encode_snapshot() {
                hasher.update(name.as_bytes());
            }
            (LogIndex(applied.last.index().unwrap_or(0)), Digest(*hasher.finalize().as_bytes()))
        }))
    }
    /// Takes a snapshot of what is applied now and lets go of the log before it, without waiting for the usual number
    /// of entries. Returns once openraft was told; it does so beside its other work.
    pub async fn compact(&self) -> Result<(), QuorumError> {
        let group = self.group()?;
        let upto = group.machine.read(|applied| applied.last.index().unwrap_or(0));
        let told = async {
            group.raft.trigger().snapshot().await?;
            group.raft.trigger().purge_log(upto).await
        };
        told.await.map_err(|_: Fatal<MemberId>| group.closed())
    }
    /// Waits until this member leads, or knows a primary that it does not suspect. At once when that is so.
    pub async fn primary_settled(&self) {
        // Subscribed before looking, so that no news falls in between.
        let mut events = self.host.events.subscribe();
        while self.misses_primary() {
            // A suspicion that turns out wrong is no event: whoever waits here has a limit of its own.
            if matches!(events.recv().await, Err(broadcast::error::RecvError::Closed)) {
                return;
            }
        }
    }
    fn misses_primary(&self) -> bool {
        let Ok(group) = self.group() else { return false };
        match group.primary() {
            _ if group.is_stopped() || group.is_paused() => false,
            None => true,
            Some(primary) if primary == group.me => group.leading().is_none(),
            Some(primary) => self.host.suspects(primary.peer),
        }
    }
    /// What this primary has to bring about. Empty when this node does not lead.
    pub fn duties(&self) -> Vec<Duty> {
        match self.group() {
            Ok(group) if group.leading().is_some() => group.machine.read(|applied| applied.state.duties()),
            _ => Vec::new(),
        }
    }
    /// Primary: swap a voter for a standby or any approved peer, learner first.
    pub async fn replace(&self, lost: MemberId, with: Approval) -> Result<(), QuorumError> {
        let group = self.group()?;
        let newcomer = with.member();
        let _turn = group.changing.lock().await;
        self.host.seams.tasks.scope(membership::swap(&self.host, group, lost, newcomer, with)).await
    }
}

/// What a member that left can still say.
fn departed_view(membership: &SignedMembership) -> QuorumView {
    let statement = &membership.statement;
    QuorumView {
        quorum: statement.quorum,
        term: statement.term,
        primary: statement.primary,
        voters: statement.voters.clone(),
        learners: Vec::new(),
        standbys: Vec::new(),
        committed: Default::default(),
        applied: Default::default(),
        digest: Default::default(),
        jobs_live: 0,
        jobs_ended: 0,
        objects: 0,
        room: 0,
        level: 0,
        time: Default::default(),
        clock_apart_ms: None,
        clock_step: None,
        paused: Some("this node is no longer a member".to_owned()),
    }
}
