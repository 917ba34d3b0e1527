//! Quorums of the network as a node reaches them, and as it serves those that it is a member of.
//!
//! - [`client`] commits and asks as this node, wherever the quorum is; [`request`] answers, in process and, through
//!   [`server`], for peers; [`task_server`] is the end of the task protocol, for the primaries on this node and for its
//!   own worker.
//! - [`control`] has jobs do something else, each command by what its sender has seen of the job.
//! - [`port`] is what the rest of the node sees of the client: propose, query, watch, report, members.
//! - [`watches`] has one session with each quorum, for all who wait for its jobs here.
//! - [`placement`] chooses or forms the quorum of a new job, with promises that [`approvals`] gathers.
//! - [`authority`] says who may propose what; [`ports`] is how this layer sees its neighbours.
//! - [`slots`] bounds what is held for each peer; [`serve`] what is answered at once.
//! - [`submit`] gives a job an id and submits it; [`logs`] fetches what tasks wrote for people.
//!
//! Nothing here decides what a job's state is: that is `quorate_protocols::quorum`, on every member alike. What a
//! primary has to bring about is done in [`crate::primary`].

pub mod approvals;
pub mod authority;
pub mod client;
mod control;
pub mod logs;
pub mod placement;
pub mod port;
pub mod ports;
pub mod request;
pub(crate) mod serve;
pub mod server;
pub mod slots;
pub mod submit;
pub mod task_server;
mod watches;

use std::time::Duration;

use quorate_protocols::approval::Refusal;
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_protocols::quorum::Rejection;
use quorate_protocols::text::counted;

use crate::raft::because;

pub use approvals::Approvals;
pub use client::QuorumClient;
pub use placement::Placement;
pub use port::{QuorumPort, Report, ReportAnswer, Speaker};
pub use submit::Submits;

#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Whoever could be asked knows no member of it.
    #[error("quorum {quorum} is unknown: no member of it can be found")]
    QuorumUnknown { quorum: QuorumId },
    /// Members of it are known and none of them answers, or this node hears nobody who could name one.
    #[error("quorum {quorum} is out of reach: none of its members answers this node")]
    Unreachable { quorum: QuorumId },
    #[error("quorum {quorum} is paused: {reason}")]
    Paused { quorum: QuorumId, reason: String },
    /// Its members answer, and have no primary at the moment.
    #[error("quorum {quorum} is electing a primary: its members named none within {after:?}")]
    NoPrimary { quorum: QuorumId, after: Duration },
    #[error("quorum {quorum} is busy; try again")]
    Busy { quorum: QuorumId },
    #[error("quorum {quorum} gave no answer within {after:?}; whether it acted is unknown{}", because(reason))]
    Unknown { quorum: QuorumId, after: Duration, reason: Option<String> },
    #[error("not allowed: {reason}")]
    Forbidden { reason: String },
    #[error("this node and a member of quorum {quorum} do not understand each other: {reason}")]
    Protocol { quorum: QuorumId, reason: String },
}

impl ClientError {
    /// Whether nobody of the quorum could be asked: no member is known, or none answers this node.
    pub const fn is_out_of_reach(&self) -> bool {
        matches!(self, Self::QuorumUnknown { .. } | Self::Unreachable { .. })
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum RoundError {
    /// `exhausted`: whoever may come has answered; only who is absent now, or full, could make a difference.
    #[error("{granted} of the {} needed approved{}", counted(*needed, "peer"), reasons(refusals, silent))]
    TooFew { needed: usize, granted: usize, refusals: Vec<(PeerId, Refusal)>, silent: Vec<PeerId>, exhausted: bool },
}

impl RoundError {
    /// Who refused, why, and who did not answer; empty when nobody was asked, and else to be appended to a sentence.
    pub fn reasons(&self) -> String {
        let Self::TooFew { refusals, silent, .. } = self;
        reasons(refusals, silent)
    }
}

/// Peers that one message names, of each sort; a person acts on the first few, and a reason has a limit in bytes.
const NAMED_MAX: usize = 8;

/// Why the others did not: each sort only when there is one.
fn reasons(refusals: &[(PeerId, Refusal)], silent: &[PeerId]) -> String {
    let list = |names: &mut dyn Iterator<Item = String>, count: usize, between: &str| {
        let mut named: Vec<String> = names.take(NAMED_MAX).collect();
        if count > NAMED_MAX {
            named.push(format!("and {} more", count - NAMED_MAX));
        }
        named.join(between)
    };
    let mut text = String::new();
    if !refusals.is_empty() {
        let named =
            list(&mut refusals.iter().map(|(peer, refusal)| format!("{peer}: {refusal}")), refusals.len(), ", ");
        text.push_str(&format!("; {} refused ({named})", refusals.len()));
    }
    if !silent.is_empty() {
        let named = list(&mut silent.iter().map(PeerId::to_string), silent.len(), ", ");
        text.push_str(&format!("; {} gave no usable answer ({named})", silent.len()));
    }
    text
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum PlacementError {
    #[error("a quorum of {needed} could not be formed")]
    Form {
        needed: usize,
        #[source]
        source: RoundError,
    },
    #[error(transparent)]
    Found(#[from] crate::raft::FoundError),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a person reads says each thing once, ends without a stop, and leaves no list empty.
    #[test]
    fn errors_of_a_round_and_a_placement_name_who_did_not_answer_and_repeat_nothing() {
        let (one, other) = (PeerId([1; 32]), PeerId([2; 32]));
        let round = |refusals, silent| {
            let exhausted = false;
            RoundError::TooFew { needed: 3, granted: 2, refusals, silent, exhausted }
        };
        let full = Refusal::Draining;
        let examples = [
            round(vec![], vec![]),
            round(vec![(one, full.clone())], vec![]),
            round(vec![], vec![other]),
            round(vec![(one, full.clone())], vec![other]),
            round(vec![(one, full.clone()); 20], vec![other; 20]),
        ];
        for source in examples {
            let RoundError::TooFew { refusals, silent, .. } = &source;
            let text = source.to_string();
            assert_eq!(text.contains(&one.to_string()), !refusals.is_empty(), "{text}");
            assert_eq!(text.contains(&other.to_string()), !silent.is_empty(), "{text}");
            assert_eq!(text.contains("and 12 more"), refusals.len() == 20, "{text}");
            let refusals_told = refusals.len();
            let placed = PlacementError::Form { needed: 3, source };
            let chain = quorate_protocols::text::chain(&placed);
            assert_eq!(chain.matches("of the 3 peers needed").count(), 1, "{chain}");
            // The long lists repeat themselves, being made of one peer.
            if refusals_told <= 1 {
                crate::error::assert_reads_well(&chain);
            }
        }
    }
}
