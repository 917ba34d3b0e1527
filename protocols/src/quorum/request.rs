//! Requests to a quorum: the wire types of the job protocol.
//!
//! Wire: `/quorate/job/1`, one [`JobMessage`] in, one [`JobAnswer`] out. Any node sends it to the members of the owning
//! quorum; only the primary acts, the others say who it is.

use crate::quorum::watch::WatchAnswer;
use crate::quorum::watch::WatchRequest;
use serde::{Deserialize, Serialize};

use crate::approval::message::Signature;
use crate::certificate::CertificatePart;
use crate::ids::{
    Digest, JobId, LogIndex, ManifestHash, MemberId, Millis, ObjectId, PeerId, PieceIndex, QuorumId, StepIndex,
    TaskIndex, Term,
};
use crate::job::record::{HistoryEntry, JobRecord};
use crate::quorum::clock::ClockStep;
use crate::quorum::entry::Command;
use crate::quorum::object::ObjectRecord;
use crate::quorum::reply::{CommandReply, Rejection};
use crate::quorum::uses::Uses;
use crate::task::message::OutputRef;
use crate::task::record::{TaskRecord, WorkerRecord};
use crate::trigger::event::{DeliveryAck, Dispatch};
use crate::trigger::record::FireRow;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobMessage {
    /// Who are the members? Answered by any member, signed.
    Membership { quorum: QuorumId },
    /// Prove who the voters are, behind configuration `since` if that is given. Answered by any member with
    /// `Certificate`.
    Certificate { quorum: QuorumId, since: Option<u64> },
    /// Commit this command. The asker's transport identity is recorded as its author.
    Propose { quorum: QuorumId, command: Command },
    /// Answered by the primary after a linearizable read, or by any member at once when `stale` will do.
    Query { quorum: QuorumId, query: Query, stale: bool },
    /// A reader got no good piece of this column: the primary may want to look. Answered with `Acknowledged`.
    Suspect { quorum: QuorumId, manifest: ManifestHash, column: PieceIndex },
    /// Events that the asker has emitted, for the quorum's triggers. Answered with `DeliveryAck`, or a rejection as a
    /// reply.
    Dispatch { quorum: QuorumId, dispatch: Dispatch },
    /// A primary asks a member to probe the source of a job's condition. Answered with `ConditionProbed`.
    ProbeCondition { quorum: QuorumId, job: JobId },
    /// Changes the asker's session of watches, and is answered by the primary with `Watched`: when one of them holds,
    /// or after its wait, or when the next request of the session comes. The state that it answers from is at least as
    /// new as one that a linearizable read finds when the entry arrives.
    Watch(WatchRequest),
}

impl JobMessage {
    /// Whom it is for.
    pub fn quorum(&self) -> QuorumId {
        match self {
            Self::Membership { quorum }
            | Self::Certificate { quorum, .. }
            | Self::Propose { quorum, .. }
            | Self::Query { quorum, .. }
            | Self::Suspect { quorum, .. }
            | Self::Dispatch { quorum, .. }
            | Self::ProbeCondition { quorum, .. } => *quorum,
            Self::Watch(request) => request.quorum,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    Quorum,
    Job {
        job: JobId,
    },
    /// Jobs, the newest first and of one instant the greater id, behind the one that `after` names by both; at most
    /// `limit` (capped by `limits::PAGE_MAX`). A page is the last when it is empty.
    Jobs {
        after: Option<(Millis, JobId)>,
        limit: u32,
    },
    Object {
        manifest: ManifestHash,
    },
    /// Objects, likewise.
    Objects {
        after: Option<(Millis, ManifestHash)>,
        limit: u32,
    },
    History {
        job: JobId,
    },
    /// Why the job is where it is.
    Why {
        job: JobId,
    },
    /// Tasks of a step that is still remembered, from `from` on, at most `limit`.
    Tasks {
        job: JobId,
        step: StepIndex,
        from: TaskIndex,
        limit: u32,
    },
    /// Outputs of tasks of a step, from `from` on, with the bytes of those that are in the record.
    Outputs {
        job: JobId,
        step: StepIndex,
        from: TaskIndex,
        limit: u32,
    },
    Workers,
    /// Rows of a trigger's fires that are still remembered, from number `from` on, at most `limit`.
    Fires {
        job: JobId,
        from: u64,
        limit: u32,
    },
    /// Which events the quorum wants to hear of, and how far it has come with this emitter.
    Subscription {
        emitter: PeerId,
    },
    /// Which live jobs need this object, of whatever quorum it is.
    Uses {
        object: ObjectId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueryAnswer {
    Quorum(QuorumView),
    Job(Box<JobRecord>),
    Jobs(Vec<JobRecord>),
    Object(Box<ObjectView>),
    Objects(Vec<ObjectView>),
    History(Vec<HistoryEntry>),
    /// The quorum knows no such thing.
    Unknown,
    Why(String),
    Tasks(Vec<(TaskIndex, TaskRecord)>),
    Outputs(Vec<OutputRef>),
    Workers(Vec<WorkerRecord>),
    Fires(Vec<FireRow>),
    Subscription {
        known: Option<u64>,
        names: Vec<String>,
    },
    Uses(Uses),
}

/// One quorum as a member sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumView {
    pub quorum: QuorumId,
    pub term: Term,
    pub primary: Option<MemberId>,
    pub voters: Vec<MemberId>,
    pub learners: Vec<MemberId>,
    pub standbys: Vec<MemberId>,
    pub committed: LogIndex,
    pub applied: LogIndex,
    /// Rolling digest of applied state at the last multiple of `quorum::limits::DIGEST_INTERVAL`.
    pub digest: (LogIndex, Digest),
    pub jobs_live: u32,
    pub jobs_ended: u32,
    pub objects: u32,
    /// How many more jobs it takes: the least that any of its limits leaves.
    pub room: u32,
    pub level: u16,
    /// By the clocks of a majority, at the newest entry.
    pub time: Millis,
    /// How far the answering member's own clock is ahead of a majority's, in milliseconds (negative: behind); none
    /// while it does not know.
    pub clock_apart_ms: Option<i64>,
    /// The last time that the clocks of a majority were set.
    pub clock_step: Option<ClockStep>,
    /// Set while the answering member knows that the quorum cannot commit, and why.
    pub paused: Option<String>,
}

/// An object as its steward knows it. `manifest` is the encoded manifest, empty in listings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectView {
    pub hash: ManifestHash,
    pub manifest: Vec<u8>,
    pub record: ObjectRecord,
}

impl ObjectView {
    /// What the next page of a list goes on behind.
    pub fn age(&self) -> (Millis, ManifestHash) {
        (self.record.created_at, self.hash)
    }
}

/// A member's word on who the members are: good for routing, never for voting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedMembership {
    pub statement: MembershipStatement,
    pub signature: Signature,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipStatement {
    pub quorum: QuorumId,
    pub by: MemberId,
    pub term: Term,
    pub voters: Vec<MemberId>,
    pub primary: Option<MemberId>,
}

const MEMBERSHIP_DOMAIN: &[u8] = b"quorate membership 1\0";

impl SignedMembership {
    pub fn sign(key: &ed25519_dalek::SigningKey, statement: MembershipStatement) -> Self {
        let signature = Signature::sign(key, MEMBERSHIP_DOMAIN, &statement);
        Self { statement, signature }
    }
    pub fn is_genuine(&self) -> bool {
        self.signature.verifies(self.statement.by.peer, MEMBERSHIP_DOMAIN, &self.statement)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobAnswer {
    Membership(SignedMembership),
    Certificate(CertificatePart),
    /// Committed and applied; `Err` is the state machine's own refusal and is as final as a reply.
    Reply(Result<CommandReply, Rejection>),
    Answer(QueryAnswer),
    /// Ask the primary, if one is known.
    NotPrimary {
        primary: Option<MemberId>,
        voters: Vec<MemberId>,
    },
    /// This node left the quorum; these took its place.
    Moved {
        voters: Vec<MemberId>,
    },
    NotMember,
    /// No majority answers: the quorum is paused. Nothing was committed *by this call*.
    Paused {
        reason: String,
    },
    /// The queue is full; try again later. Nothing was proposed.
    Busy,
    /// Whether it was or will be committed is unknown: the deadline passed, or what the reason says.
    Unknown {
        reason: Option<String>,
    },
    /// The asker may not do this.
    Forbidden {
        reason: String,
    },
    /// The message could not be read.
    Malformed {
        reason: String,
    },
    /// Heard; nothing is promised.
    Acknowledged,
    /// To `Dispatch`: taken up to there, after the commit.
    DeliveryAck(DeliveryAck),
    /// To `ProbeCondition`: JSON, or why there is none.
    ConditionProbed(Result<String, String>),
    /// To `Watch`.
    Watched(WatchAnswer),
}
