//! Jobs at the edge: reaching the owning quorum from any node, placing a job, gathering approvals, and the driver
//! that performs a primary's duties.

use std::time::Duration;

use quorate_protocols::approval::{Approval, Refusal, Requirement, Subject};
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_protocols::job::message::{Query, QueryAnswer};
use quorate_protocols::quorum::{Command, CommandReply, Rejection};

#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error("quorum {quorum} is unknown: no member of it can be found")]
    QuorumUnknown { quorum: QuorumId },
    #[error("quorum {quorum} is paused: {reason}")]
    Paused { quorum: QuorumId, reason: String },
    #[error("quorum {quorum} is busy; try again")]
    Busy { quorum: QuorumId },
    #[error("quorum {quorum} gave no answer within {after:?}; whether it acted is unknown")]
    Unknown { quorum: QuorumId, after: Duration },
    #[error("not allowed: {reason}")]
    Forbidden { reason: String },
    #[error("this node and a member of quorum {quorum} do not understand each other: {reason}")]
    Protocol { quorum: QuorumId, reason: String },
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum RoundError {
    #[error("{granted} of the {needed} peers needed approved; {} refused: {}", refusals.len(), summary(refusals))]
    TooFew { needed: usize, granted: usize, refusals: Vec<(PeerId, Refusal)>, silent: Vec<PeerId> },
}

fn summary(refusals: &[(PeerId, Refusal)]) -> String {
    refusals.iter().take(8).map(|(peer, refusal)| format!("{peer}: {refusal}")).collect::<Vec<_>>().join("; ")
}

/// Reaches any quorum from this node: in process when it is a member, over the job protocol otherwise.
#[derive(Clone)]
pub struct QuorumClient(());

impl QuorumClient {
    /// Commits a command as this node. Retries across failovers until the deadline; commands are idempotent.
    pub async fn propose(
        &self,
        _quorum: QuorumId,
        _command: Command,
        _deadline: Duration,
    ) -> Result<CommandReply, ClientError> {
        unimplemented!()
    }
    pub async fn query(
        &self,
        _quorum: QuorumId,
        _query: Query,
        _stale: bool,
        _deadline: Duration,
    ) -> Result<QueryAnswer, ClientError> {
        unimplemented!()
    }
}

/// Gathers approvals: asks more peers than needed at once, stops early, releases what it does not use.
#[derive(Clone)]
pub struct Approvals(());

impl Approvals {
    /// At least `needed` and at most `wanted` approvals from distinct peers other than `exclude`, each genuine, each
    /// trusted for its remaining time. Volunteers are asked for when the directory offers too few.
    pub async fn gather(
        &self,
        _subject: Subject,
        _requirement: Requirement,
        _needed: usize,
        _wanted: usize,
        _exclude: Vec<PeerId>,
        _duration: Duration,
    ) -> Result<Vec<Approval>, RoundError> {
        unimplemented!()
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum PlacementError {
    #[error("a quorum of {needed} needs as many willing peers: {source}")]
    Form {
        needed: usize,
        #[source]
        source: RoundError,
    },
    #[error(transparent)]
    Found(#[from] crate::quorum::FoundError),
}

/// Picks an eligible quorum with room, or forms one.
#[derive(Clone)]
pub struct Placement(());

impl Placement {
    pub async fn quorum_for_job(&self) -> Result<QuorumId, PlacementError> {
        unimplemented!()
    }
    /// Forms a new quorum whatever the directory holds.
    pub async fn form(&self, _voters: usize) -> Result<QuorumId, PlacementError> {
        unimplemented!()
    }
}
