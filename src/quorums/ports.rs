//! Ports of the job layer to its neighbours.
//!
//! The quorum host, the directory, the approver and the piece service are actors of their own. The job layer sees
//! them through these narrow views, so that a test can put a scripted neighbour in their place and so that asking
//! *this* node costs no connection. Nothing here decides anything.

use quorate_protocols::capacity::Requirement;
use quorate_protocols::certificate::CertificatePart;
use quorate_protocols::quorum::watch::WatchAnswer;
use quorate_protocols::quorum::watch::WatchRequest;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_protocols::admission::Distrust;
use quorate_protocols::approval::{ApprovalAnswer, ApprovalMessage, Subject};
use quorate_protocols::directory::QuorumAdvert;
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{ManifestHash, MemberId, PeerId, PieceIndex, QuorumId, Term};
use quorate_protocols::liveness::{Judgement, Latency};
use quorate_protocols::piece::{PieceAnswer, PieceMessage};
use quorate_protocols::quorum::request::{Query, QueryAnswer, QuorumView, SignedMembership};
use quorate_protocols::quorum::{Command, CommandReply, Duty, QuorumState, Rejection};
use quorate_protocols::task::message::{TaskAnswer, TaskMessage};
use quorate_protocols::trigger::event::{DeliveryAck, Dispatch};
use quorate_protocols::trigger::spec::Source;
use tokio::sync::mpsc;

use crate::directory::{Directory, KnownPeer};
use crate::raft::{Quorum, QuorumError, QuorumHost};

/// The quorums that this node is a member of.
pub trait LocalQuorums: Send + Sync + 'static {
    fn quorum(&self, quorum: QuorumId) -> Option<Arc<dyn LocalQuorum>>;
    /// In order of id.
    fn all(&self) -> Vec<Arc<dyn LocalQuorum>>;
}

/// One of them. The meaning of every method is that of the method of the same name on [`Quorum`].
pub trait LocalQuorum: Send + Sync + 'static {
    fn id(&self) -> QuorumId;
    fn view(&self) -> QuorumView;
    fn membership(&self) -> SignedMembership;
    fn certificate(&self, since: Option<u64>) -> Option<CertificatePart>;
    fn leading(&self) -> Option<Term>;
    fn primary_settled(&self) -> BoxFuture<'static, ()>;
    fn latency(&self) -> Latency;
    fn duties(&self) -> Vec<Duty>;
    fn propose(
        &self,
        by: PeerId,
        command: Command,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Result<CommandReply, Rejection>, QuorumError>>;
    /// Takes what is to be proposed for a peer by this node itself from that peer's budget.
    fn charge(&self, _for_peer: PeerId, _bytes: usize) -> Result<(), QuorumError> {
        Ok(())
    }
    fn query(&self, query: Query, stale: bool) -> BoxFuture<'static, Result<QueryAnswer, QuorumError>>;
    fn confirm_lead(&self) -> BoxFuture<'static, Result<(), QuorumError>>;
    fn clock(&self) -> Option<Judgement>;
    /// Looks at what this member has applied, which may lag. Applying waits meanwhile: copy what is needed and no more.
    fn with_state(&self, read: &mut dyn FnMut(&QuorumState));
}

impl LocalQuorums for QuorumHost {
    fn quorum(&self, quorum: QuorumId) -> Option<Arc<dyn LocalQuorum>> {
        Self::quorum(self, quorum).map(|quorum| Arc::new(quorum) as Arc<dyn LocalQuorum>)
    }
    fn all(&self) -> Vec<Arc<dyn LocalQuorum>> {
        self.quorums().into_iter().map(|quorum| Arc::new(quorum) as Arc<dyn LocalQuorum>).collect()
    }
}

impl LocalQuorum for Quorum {
    fn id(&self) -> QuorumId {
        Self::id(self)
    }
    fn view(&self) -> QuorumView {
        Self::view(self)
    }
    fn membership(&self) -> SignedMembership {
        Self::membership(self)
    }
    fn certificate(&self, since: Option<u64>) -> Option<CertificatePart> {
        Self::certificate(self, since)
    }
    fn leading(&self) -> Option<Term> {
        Self::leading(self)
    }
    fn primary_settled(&self) -> BoxFuture<'static, ()> {
        let quorum = self.clone();
        Box::pin(async move { Self::primary_settled(&quorum).await })
    }
    fn latency(&self) -> Latency {
        Self::latency(self)
    }
    fn duties(&self) -> Vec<Duty> {
        Self::duties(self)
    }
    fn propose(
        &self,
        by: PeerId,
        command: Command,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Result<CommandReply, Rejection>, QuorumError>> {
        let quorum = self.clone();
        Box::pin(async move { Self::propose(&quorum, by, command, deadline).await })
    }
    fn charge(&self, for_peer: PeerId, bytes: usize) -> Result<(), QuorumError> {
        Self::charge(self, for_peer, bytes)
    }
    fn query(&self, query: Query, stale: bool) -> BoxFuture<'static, Result<QueryAnswer, QuorumError>> {
        let quorum = self.clone();
        Box::pin(async move { Self::query(&quorum, query, stale).await })
    }
    fn confirm_lead(&self) -> BoxFuture<'static, Result<(), QuorumError>> {
        let quorum = self.clone();
        Box::pin(async move { Self::confirm_lead(&quorum).await })
    }
    fn clock(&self) -> Option<Judgement> {
        Self::clock(self)
    }
    fn with_state(&self, read: &mut dyn FnMut(&QuorumState)) {
        Self::with_state(self, read);
    }
}

/// What the primaries on this node do for whoever asks, in process ([`super::client`]) and over the network
/// ([`super::server`], [`super::task_server`]) alike.
pub trait PrimaryPort: Send + Sync + 'static {
    /// The answer to a query, with what this node knows beside the record: why runs wait, and how far their tasks are.
    fn add_reasons(&self, local: &dyn LocalQuorum, query: &Query, answer: QueryAnswer) -> QueryAnswer;
    /// Remembers that a reader got no good piece of a column.
    fn suspect_column(&self, quorum: QuorumId, manifest: ManifestHash, column: PieceIndex);
    /// Takes a dispatch of `from`, which the transport vouches for and [`Dispatch::check`] has passed, for a quorum
    /// that `this_node` leads.
    fn deliver_events<'a>(
        &'a self,
        local: &'a dyn LocalQuorum,
        this_node: PeerId,
        from: PeerId,
        dispatch: Dispatch,
    ) -> BoxFuture<'a, Result<Result<DeliveryAck, Rejection>, QuorumError>>;
    /// Serves a session of watches of `by`, for a quorum that this node leads: answers when an entry holds, after the
    /// request's wait, or when the next request of the session comes. Counts against bounds, those of peers apart from
    /// those of `this_node`.
    fn watch<'a>(
        &'a self,
        local: &'a dyn LocalQuorum,
        this_node: PeerId,
        by: PeerId,
        request: WatchRequest,
    ) -> BoxFuture<'a, Result<WatchAnswer, QuorumError>>;
    /// Answers a worker of a quorum that this node leads.
    fn answer_worker(&self, from: PeerId, message: TaskMessage) -> BoxFuture<'static, TaskAnswer>;
}

/// What the network is known to hold: the part of [`Directory`] that placing and routing look at.
pub trait Knowledge: Send + Sync + 'static {
    fn peers(&self) -> Vec<KnownPeer>;
    fn quorums(&self) -> Vec<QuorumAdvert>;
    fn quorum(&self, quorum: QuorumId) -> Option<QuorumAdvert>;
    fn learn_members(&self, quorum: QuorumId, primary: Option<MemberId>, voters: Vec<MemberId>);
    fn candidates(&self, role: NodeRole, requirement: &Requirement) -> Vec<PeerId>;
    /// Whether this node relies on the peer as a holder or a worker. It relies on itself.
    fn check_trust(&self, peer: PeerId) -> Result<(), Distrust>;
    /// Known peers that this node does not rely on, so that they are no candidates.
    fn distrusted(&self) -> Vec<(PeerId, Distrust)>;
    fn ask_for_volunteers(&self, subject: Subject, role: NodeRole, requirement: Requirement) -> mpsc::Receiver<PeerId>;
}

impl Knowledge for Directory {
    fn peers(&self) -> Vec<KnownPeer> {
        Self::peers(self)
    }
    fn quorums(&self) -> Vec<QuorumAdvert> {
        Self::quorums(self)
    }
    fn quorum(&self, quorum: QuorumId) -> Option<QuorumAdvert> {
        Self::quorum(self, quorum)
    }
    fn learn_members(&self, quorum: QuorumId, primary: Option<MemberId>, voters: Vec<MemberId>) {
        Self::learn_members(self, quorum, primary, voters);
    }
    fn candidates(&self, role: NodeRole, requirement: &Requirement) -> Vec<PeerId> {
        Self::candidates(self, role, requirement)
    }
    fn check_trust(&self, peer: PeerId) -> Result<(), Distrust> {
        Self::check_trust(self, peer)
    }
    fn distrusted(&self) -> Vec<(PeerId, Distrust)> {
        Self::distrusted(self)
    }
    fn ask_for_volunteers(&self, subject: Subject, role: NodeRole, requirement: Requirement) -> mpsc::Receiver<PeerId> {
        Self::ask_for_volunteers(self, subject, role, requirement)
    }
}

/// This node's own approver: what a peer would reach over the approval protocol.
pub trait LocalApprover: Send + Sync + 'static {
    fn answer(&self, from: PeerId, message: ApprovalMessage) -> BoxFuture<'static, ApprovalAnswer>;
}

/// This node's own worker: what a primary would reach over the task protocol. Answers assignments, stops, reveals and
/// questions for logs; the rest is for a quorum's primary.
pub trait LocalTasks: Send + Sync + 'static {
    fn answer(&self, from: PeerId, message: TaskMessage) -> BoxFuture<'static, TaskAnswer>;
}

/// Where this node finds the values of conditions.
pub trait Sources: Send + Sync + 'static {
    /// JSON, or why there is none. Bounded in size and time.
    fn fetch(&self, source: Source) -> BoxFuture<'static, Result<String, String>>;
}

/// This node's own piece service: what a peer would reach over the piece protocol.
pub trait LocalPieces: Send + Sync + 'static {
    fn answer(&self, from: PeerId, message: PieceMessage, payload: Bytes) -> BoxFuture<'static, (PieceAnswer, Bytes)>;
}
