//! The quorums that this node is a member of: openraft groups over the network and storage seams.

use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::approval::Approval;
use quorate_protocols::ids::{MemberId, PeerId, QuorumId, Term};
use quorate_protocols::job::message::{Query, QueryAnswer, QuorumView, SignedMembership};
use quorate_protocols::quorum::{Command, CommandReply, Duty, Event, Rejection};
use tokio::sync::broadcast;

use crate::identity::Identity;
use crate::seams::{InboundRequest, Net, NetEvent, Seams};
use crate::storage::Storage;

/// What the quorum host is built from.
pub struct QuorumContext {
    pub seams: Seams,
    pub identity: Identity,
    pub net: Arc<dyn Net>,
    pub storage: Storage,
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
    /// Entries were applied.
    Applied {
        quorum: QuorumId,
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
    #[error("no answer within {after:?}; whether the command was committed is unknown")]
    Unknown { after: Duration },
    #[error("command of {bytes} bytes is larger than the {limit} allowed")]
    TooLarge { bytes: usize, limit: usize },
    #[error("this node is not a member of quorum {quorum}")]
    NotMember { quorum: QuorumId },
    #[error("this member of quorum {quorum} has stopped: {reason}")]
    Stopped { quorum: QuorumId, reason: String },
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum FoundError {
    #[error("only {founded} of {needed} members created quorum {quorum}: {reason}")]
    TooFew { quorum: QuorumId, founded: usize, needed: usize, reason: String },
    #[error("quorum {quorum} was created but elected no primary within {after:?}")]
    NoPrimary { quorum: QuorumId, after: Duration },
}

/// Handle to all quorums of this node.
#[derive(Clone)]
pub struct QuorumHost(());

impl QuorumHost {
    /// Loads the quorums on disk, starts their groups and the liveness layer in the caller's task group.
    pub async fn start(_context: QuorumContext, _inbound: QuorumInbound) -> Result<Self, crate::seams::DiskError> {
        unimplemented!()
    }
    pub fn quorum(&self, _quorum: QuorumId) -> Option<Quorum> {
        unimplemented!()
    }
    /// In order of id.
    pub fn quorums(&self) -> Vec<Quorum> {
        unimplemented!()
    }
    pub fn events(&self) -> broadcast::Receiver<HostEvent> {
        unimplemented!()
    }
    /// As the node that forms a quorum (member or not): has every approved member create it, and waits for a primary.
    pub async fn found(
        &self,
        _quorum: QuorumId,
        _members: Vec<Approval>,
        _standbys: Vec<Approval>,
    ) -> Result<MemberId, FoundError> {
        unimplemented!()
    }
    /// Whether liveness currently suspects this peer. Only peers that share a quorum are watched.
    pub fn suspects(&self, _peer: PeerId) -> bool {
        unimplemented!()
    }
}

/// Handle to one quorum that this node is a member of.
#[derive(Clone)]
pub struct Quorum(());

impl Quorum {
    pub fn id(&self) -> QuorumId {
        unimplemented!()
    }
    /// As this member sees it, without asking anyone.
    pub fn view(&self) -> QuorumView {
        unimplemented!()
    }
    pub fn membership(&self) -> SignedMembership {
        unimplemented!()
    }
    /// The term in which this node is primary and hears a majority.
    pub fn leading(&self) -> Option<Term> {
        unimplemented!()
    }
    /// Commits a command on behalf of `by`; the inner result is the state machine's answer.
    pub async fn propose(
        &self,
        _by: PeerId,
        _command: Command,
        _deadline: Duration,
    ) -> Result<Result<CommandReply, Rejection>, QuorumError> {
        unimplemented!()
    }
    /// Reads after a majority confirmed this node's lead, or at once when `stale` will do.
    pub async fn query(&self, _query: Query, _stale: bool) -> Result<QueryAnswer, QuorumError> {
        unimplemented!()
    }
    /// What this primary has to bring about. Empty when this node does not lead.
    pub fn duties(&self) -> Vec<Duty> {
        unimplemented!()
    }
    /// Primary: swap a voter for a standby or any approved peer, learner first.
    pub async fn replace(&self, _lost: MemberId, _with: Approval) -> Result<(), QuorumError> {
        unimplemented!()
    }
}
