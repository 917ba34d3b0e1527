//! Jobs at the edge: reaching the owning quorum from any node, placing a job, gathering approvals, and the driver
//! that performs a primary's duties.
//!
//! - [`client`] commits and asks as this node, wherever the quorum is; [`service`] is the other end of that.
//! - [`placement`] chooses or forms the quorum of a new job, with promises that [`approvals`] gathers.
//! - [`driver`] runs on the primary: whatever the state says is owed (holders, confirmations, releases, repairs), it
//!   brings about, and it looks for damage that the state does not know of yet.
//! - [`authority`] says who may propose what; [`ports`] is how this layer sees its neighbours.
//!
//! Nothing here decides what a job's state is: that is `quorate_protocols::quorum`, on every member alike.

pub mod approvals;
pub mod authority;
pub mod client;
pub mod driver;
pub mod placement;
pub mod ports;
pub mod service;
#[cfg(test)]
mod testing;

use std::time::Duration;

use quorate_protocols::approval::Refusal;
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_protocols::quorum::Rejection;

pub use approvals::Approvals;
pub use client::QuorumClient;
pub use placement::Placement;

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
