//! Replies to commands, and rejections: why one changed nothing.

use serde::{Deserialize, Serialize};

use super::claims::Claim;
use super::uses::Uses;
use crate::approval::Grant;
use crate::ids::{Attempt, JobId, ManifestHash, PeerId, PieceHash, PieceIndex, SegmentIndex};
use crate::job::kind::Kind;
use crate::job::record::RunState;
use crate::job::spec::JobSpec;
use crate::job::store::{ColumnRecord, Releasing};
use crate::task::message::ReportRefusal;
use crate::text::{REASON_BYTES_MAX, truncate};
use crate::trigger::record::FireRow;
use crate::units::ByteSize;

pub(super) type Applied = Result<CommandReply, Rejection>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandReply {
    Done,
    /// To `Submit`: the job's state; `existed` when this was a repeat.
    Submitted {
        existed: bool,
        state: RunState,
    },
    /// To `Attach`: what is there already.
    Attached(Box<Attached>),
    /// To `Progress`, `ColumnFailed` and `AddHolders`: who holds what now, so that the worker acts on changes at once.
    /// `stored` is left empty: the worker knows what it sent, and a long file would make every reply long.
    Columns(Vec<ColumnRecord>),
    /// To `DecideVoters`: the number of the configuration.
    Decided {
        number: u64,
    },
    /// To `CommitObject`.
    Committed {
        manifest: ManifestHash,
    },
    /// To `Start` and `Report`, one answer each in their order; to `SaveCheckpoint`, one.
    Recorded(Vec<Result<(), ReportRefusal>>),
    /// To `Fire`: what became of it.
    Fired(Box<FireRow>),
    /// To `Deliver`: how far the quorum has come with the emitter, who need not keep what is before.
    Delivered {
        reaches: u64,
    },
    /// To `RemoveObject`: the claims that are given up by it, and those that keep the object. It is removed when there
    /// are none of the latter.
    Removed {
        removed: Vec<Claim>,
        kept: Vec<Claim>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub upload_attempt: Attempt,
    pub spec: JobSpec,
    pub columns: Vec<ColumnRecord>,
    pub segments: Vec<Vec<PieceHash>>,
}

/// Why a committed command changed nothing. Final: sending it again gives the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    #[error("the quorum knows no job {job}")]
    UnknownJob { job: JobId },
    #[error("the quorum knows no object {manifest}")]
    UnknownObject { manifest: ManifestHash },
    #[error("job {job} is {state}, which does not allow {command}")]
    IllegalState { job: JobId, state: RunState, command: String },
    /// `controlled`: another control was applied since, so that a try of this one that was not answered may have been
    /// applied before it.
    #[error("job {job} has changed since it was looked at: look again, and repeat the command if it is still wanted")]
    Superseded { job: JobId, controlled: bool },
    #[error("job {job} exists with another specification")]
    Conflict { job: JobId },
    #[error("attempt {given} was replaced by attempt {current}")]
    StaleAttempt { given: Attempt, current: Attempt },
    #[error("{by} is not the uploader of job {job}")]
    NotUploader { job: JobId, by: PeerId },
    #[error("the quorum already has {limit} {what}, the most allowed")]
    Full { what: String, limit: usize },
    #[error("segment {segment} differs from the one already stored under this job: this is another file")]
    DifferentContent { segment: SegmentIndex },
    #[error(
        "{what} takes {}, and at most {} is allowed",
        ByteSize(*bytes as u64).rounded_up(),
        ByteSize(*limit as u64).rounded_down()
    )]
    TooLarge { what: String, bytes: usize, limit: usize },
    #[error("{reason}")]
    Invalid { reason: String },
    #[error(
        "this needs state level {needed}, and the quorum is at {level} until all its members run a build that knows it"
    )]
    Level { needed: u16, level: u16 },
    #[error("{command} is not for jobs of kind {kind}")]
    WrongKind { kind: Kind, command: String },
    #[error("{peer} has no such lease from the quorum")]
    UnknownWorker { peer: PeerId },
    #[error("job {job} has no trigger, and {command} is for jobs that have one")]
    NoTrigger { job: JobId, command: String },
    #[error("job {job} has a trigger, and {command} is for its runs: `job fires {job}` lists them")]
    HasTrigger { job: JobId, command: String },
    #[error("the delivery follows event {follows}, and the quorum has come to {known}: send from there")]
    EventGap { known: u64, follows: u64 },
    #[error("object {manifest} is in use: {uses}")]
    InUse { manifest: ManifestHash, uses: Uses },
    #[error("job {job} is not signed by {by}, in whose name it is submitted")]
    NotSigned { job: JobId, by: PeerId },
}

pub(super) fn releasing(column: usize, grant: Grant, attempt: Attempt) -> Releasing {
    Releasing { column: PieceIndex(column as u8), grant, attempt }
}

pub(super) fn invalid(reason: impl Into<String>) -> Rejection {
    Rejection::Invalid { reason: reason.into() }
}

pub(super) fn unknown(manifest: ManifestHash) -> Rejection {
    Rejection::UnknownObject { manifest }
}

/// Cuts a text that came from elsewhere to what a record may keep.
pub(super) fn short(text: &str) -> String {
    truncate(text, REASON_BYTES_MAX).to_owned()
}
