//! Wire types of the liveness layer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{BootId, LogIndex, MemberId, Millis, QuorumId, Term};

/// "I am here, in this boot, and lead these": the led quorums as a digest, spelled out only when asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub boot: BootId,
    pub sequence: u64,
    /// The sender's wall clock.
    pub wall: Millis,
    /// First eight bytes of BLAKE3 over the ids, in order, of the quorums that the sender leads and the receiver is a
    /// member of, with their terms. A receiver that believes otherwise for long asks with `Leading`.
    pub leading: u64,
    /// Until a write is durable on the sender's disk, in microseconds: a bound that nearly every sync keeps, as of now.
    pub sync_us: u32,
}

impl Heartbeat {
    pub fn sync(&self) -> Duration {
        Duration::from_micros(self.sync_us.into())
    }
}

/// The end of a log: compared term first, as Raft does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPosition {
    pub term: Term,
    pub index: LogIndex,
}

/// "Do you miss the primary of this quorum too, and would my log do?"
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreVote {
    pub quorum: QuorumId,
    /// The candidate's own term.
    pub term: Term,
    pub candidate: MemberId,
    /// The primary it misses; `None` when it knows of none, or when the primary's own node says that it does not lead.
    pub missing: Option<MemberId>,
    pub last_log: LogPosition,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LivenessMessage {
    Heartbeat(Heartbeat),
    PreVote(PreVote),
    /// Which of the quorums we share do you lead?
    Leading,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LivenessAnswer {
    Heartbeat(Heartbeat),
    /// `granted`: I miss it too and my log is not longer. `my_log` lets the loser step aside for a longer log.
    PreVote {
        granted: bool,
        my_log: LogPosition,
        primary: Option<MemberId>,
    },
    Leading(Vec<(QuorumId, Term)>),
    /// Not a member of that quorum.
    NotMember,
}
