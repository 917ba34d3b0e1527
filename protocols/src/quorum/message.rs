//! Raft's messages between members, and the founding of a quorum.
//!
//! openraft's own requests are opaque here (`body`, encoded by the node with `wire`); what this protocol adds is the
//! quorum and the member they are meant for, so that a member of an earlier incarnation never answers for itself.

use serde::{Deserialize, Serialize};

use crate::approval::{Approval, Signature};
use crate::certificate::Founding;
use crate::ids::{Digest, LogIndex, MemberId, QuorumId};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaftMessage {
    Append {
        quorum: QuorumId,
        to: MemberId,
        body: Vec<u8>,
    },
    Vote {
        quorum: QuorumId,
        to: MemberId,
        body: Vec<u8>,
    },
    /// Vote and snapshot metadata with the list of chunks; the receiver fetches those it lacks.
    Snapshot {
        quorum: QuorumId,
        to: MemberId,
        body: Vec<u8>,
    },
    /// Give this snapshot chunk (answered with the payload).
    Chunk {
        quorum: QuorumId,
        hash: Digest,
    },
    /// Create this quorum here, whose id is the digest of `founding`: the approvals of all members and standbys prove
    /// that each has agreed. One member is asked to `initialize`, which elects it. A primary asks the same of a peer
    /// that is to take the place of a member.
    Found {
        founding: Founding,
        members: Vec<Approval>,
        standbys: Vec<Approval>,
        initialize: bool,
    },
    /// Sign that configuration `number`, which this member has seen decided, has the voters that were decided, under
    /// configuration `base`.
    SignLink {
        quorum: QuorumId,
        to: MemberId,
        base: u64,
        number: u64,
    },
    /// Say who the voters are, and the digest of your state at this log index.
    Attest {
        quorum: QuorumId,
        index: LogIndex,
    },
    /// Give a snapshot of your state that is not older than this log index (answered with `Ok`: its metadata and the
    /// list of its chunks).
    Copy {
        quorum: QuorumId,
        least: LogIndex,
    },
}

/// What a member says of its quorum to another member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// How far it has applied the log: its configuration is at least as new.
    pub applied: LogIndex,
    /// The voters of its configuration, of both while a change is under way.
    pub voters: Vec<MemberId>,
    /// The digest at the index that was asked for, if it still knows it, or already.
    pub digest: Option<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaftAnswer {
    Ok {
        body: Vec<u8>,
    },
    /// The payload is the chunk.
    Chunk,
    Founded,
    /// Not a member of this quorum, in this incarnation.
    NotMember {
        incarnation: crate::ids::Incarnation,
    },
    /// Raft refused, or this member has stopped: `reason` for the log.
    Failed {
        reason: String,
    },
    /// To `SignLink`.
    Signed(Signature),
    /// To `Attest`.
    Attested(Attestation),
}
