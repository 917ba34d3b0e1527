//! Wire types between the primary of a quorum and its workers.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error_class::ErrorClass;
use super::record::{Output, TaskAttempt};
use super::vote::ResultReceipt;
use crate::approval::Signature;
use crate::capacity::Requirement;
use crate::ids::{Digest, JobId, LeaseId, MemberId, Millis, Nonce, PeerId, QuorumId, StepIndex, TaskIndex, Term};
use crate::task::spec::TaskInput;
use crate::task::spec::{Call, OutputPlace};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskMessage {
    /// Primary: run these under the lease. Answered `Accepted` once they are in the worker's durable inbox; an attempt
    /// that is there already, or whose result is, is accepted as well. `steps` has each assignment's (job, step) once.
    Assign { quorum: QuorumId, term: Term, lease: LeaseId, steps: Vec<StepContext>, assignments: Vec<Assignment> },
    /// Primary: end these and report `Stopped`, whether or not they are known. `keep_checkpoint` says that a last
    /// checkpoint is welcome: the task will go on, here or elsewhere. The lease, here as in `Assign`, shows that the
    /// sender knows the quorum's record.
    Stop { quorum: QuorumId, term: Term, lease: LeaseId, tasks: Vec<TaskAttempt>, keep_checkpoint: bool },
    /// Primary: every copy has committed; report the verdict with its nonce and receipt.
    Reveal { quorum: QuorumId, term: Term, lease: LeaseId, tasks: Vec<TaskAttempt> },
    /// Worker: about to begin tasks that must not begin twice. Only those answered `Recorded` may.
    Start { quorum: QuorumId, tasks: Vec<TaskAttempt> },
    /// Worker: what runs, how far it is, and that the worker is alive. Not recorded.
    Heartbeat { quorum: QuorumId, lease: LeaseId, running: Vec<Progress> },
    /// Worker: results from its outbox. Repeated until each is answered.
    Report { quorum: QuorumId, reports: Vec<Report> },
    /// Worker: where the attempt could go on from.
    Checkpoint { quorum: QuorumId, task: TaskAttempt, checkpoint: Output, bytes: Option<Bytes> },
    /// The job's owner, a peer that it names, an operator or a member of its quorum: what an attempt wrote for people,
    /// from byte `from` of the stream on. Answered with `Logs`, `NoLogs` or `Forbidden`; while there is nothing to
    /// tell, after this wait, capped by `limits::LOG_WAIT_MAX`.
    Logs { task: TaskAttempt, stream: LogStream, from: u64, wait_ms: u32 },
}

/// What a task writes for people. Standard output is here only when it is not the task's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LogStream {
    Stdout,
    Stderr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskAnswer {
    /// To `Assign`: attempts in the inbox. The others were refused, each with its reason, and are proposed by the
    /// primary as reports of class *refused*.
    Accepted {
        accepted: Vec<TaskAttempt>,
        refused: Vec<(TaskAttempt, String)>,
    },
    /// To `Stop`, `Reveal` and `Heartbeat`.
    Acknowledged,
    /// To `Start`, `Report` and `Checkpoint`: committed, one answer each in their order.
    Recorded(Vec<Result<(), ReportRefusal>>),
    /// The term is older than one seen of this quorum: the sender has been replaced.
    StaleTerm {
        seen: Term,
    },
    /// The lease has ended or is another's: nothing can be taken under it.
    UnknownLease,
    /// This node does not lead the quorum; ask this one, if it is known.
    NotPrimary {
        primary: Option<MemberId>,
        voters: Vec<MemberId>,
    },
    /// Not recorded; say it again.
    Busy,
    /// Whether it was recorded is not known; say it again.
    Unknown,
    Malformed {
        reason: String,
    },
    /// To `Logs`: bytes that begin at `at`, which is later than asked for when what lay between was not kept. `ended`:
    /// nothing comes after them.
    Logs {
        at: u64,
        bytes: Bytes,
        ended: bool,
    },
    /// This worker never had the attempt, or has thrown its logs away.
    NoLogs,
    /// The asker is neither the job's owner, nor named by it, nor an operator, nor a member of its quorum.
    Forbidden,
}

/// What the tasks of one step have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepContext {
    pub job: JobId,
    pub step: StepIndex,
    /// Whose job it is: a worker's operator may list who may run what.
    pub owner: PeerId,
    /// Whom the owner names: the worker shows them the logs.
    pub readers: BTreeSet<PeerId>,
    /// Quorum time of the submit: where the clock of deterministic tasks starts.
    pub submitted_at: Millis,
    pub call: Call,
    pub resources: Requirement,
    /// Of one attempt, from its begin.
    pub timeout: Duration,
    pub output: OutputPlace,
    pub idempotent: bool,
    /// Commit first, reveal when asked.
    pub verified: bool,
    /// Of a step that runs a command: what shows that the owner asked for it. See `job::signed`.
    pub proof: Option<OwnerProof>,
}

/// What shows a worker that an order is its owner's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerProof {
    pub signature: Signature,
    /// The digest of the trigger that was signed with the work.
    pub trigger: Option<Digest>,
    /// The encoded work, as it was signed.
    pub work: Bytes,
    /// Of a run that the trigger made.
    pub fire: Option<FireProof>,
}

/// Which fire of a trigger a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FireProof {
    /// The job that has the trigger: its id was signed.
    pub trigger: JobId,
    pub number: u64,
    /// What fired it, as the program finds it. Nobody signed that.
    pub input: Bytes,
}

/// One attempt to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub task: TaskAttempt,
    /// Tasks in the step: the program is told its number and this.
    pub of: u32,
    pub input: TaskInput,
    /// The outputs that `input` names, with their bytes where they fit (`limits::INLINE_OUTPUTS_BYTES_MAX` per
    /// assignment).
    pub outputs: Vec<OutputRef>,
    /// `job::plan::inputs_digest`, for the receipt.
    pub inputs: Digest,
    /// The same for every attempt of the task.
    pub token: Digest,
    pub checkpoint: Option<OutputRef>,
}

/// Something that an earlier task or attempt left. Without its bytes it is fetched: from the object, or from the
/// quorum (`Query::Outputs`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRef {
    pub task: TaskIndex,
    pub output: Output,
    pub bytes: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub task: TaskAttempt,
    pub permille: u16,
    /// One line for people, cut to `job::limits::REASON_BYTES_MAX`.
    pub note: String,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub task: TaskAttempt,
    pub result: TaskResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskResult {
    /// `bytes` when the output's place is the record.
    Done {
        output: Output,
        bytes: Option<Bytes>,
    },
    Failed {
        class: ErrorClass,
        reason: String,
    },
    /// It was stopped, nothing of it is left running, and what it wrote is removed.
    Stopped,
    /// Verified tasks: a digest that binds the worker to its verdict.
    Commitment(Digest),
    /// Verified tasks: the verdict. `output` is there exactly when the receipt's verdict is one.
    Reveal {
        nonce: Nonce,
        output: Option<Output>,
        bytes: Option<Bytes>,
        receipt: ResultReceipt,
    },
}

/// Why a report was not taken. All but `RecordFull` are final: the outbox may forget it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ReportRefusal {
    #[error("the attempt was replaced or stopped; attempt {newest} is the newest")]
    Stale { newest: crate::ids::Attempt },
    #[error("the quorum knows no such run or task: it has ended, or never was")]
    Unknown,
    #[error("the attempt is assigned to another peer")]
    NotAssigned,
    #[error("the quorum's record is full: store the output as an object and report again")]
    RecordFull,
    #[error("{reason}")]
    Invalid { reason: String },
}
