//! Commands, by the part of a quorum that owns the change.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::claims::ClaimSelector;
use super::limits::{LEVEL_FIRST, LEVEL_TRIGGERS};
use crate::approval::{Approval, Grant, Signature};
use crate::capacity::Requirement;
use crate::certificate::Founding;
use crate::ids::{Attempt, JobId, LeaseId, LogIndex, MemberId, Millis, Nonce, PeerId, PieceIndex};
use crate::job::spec::JobSpec;
use crate::job::store::SegmentProgress;
use crate::job::transition::RunCommand;
use crate::piece::message::Receipt;
use crate::task::message::Report;
use crate::task::record::{Output, TaskAttempt, WorkerRecord};
use crate::trigger::condition::Observation;
use crate::trigger::event::Delivery;
use crate::trigger::record::Span;

/// On the quorum as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuorumCommand {
    /// Changes nothing: measures a commit.
    Noop,
    /// Primary: it has waited, by its monotonic clock, for the earliest timer of the state (`Duty::Wake`). Quorum time
    /// becomes `until`, if that still is the earliest timer.
    Elapsed { until: Millis },
    /// Primary: these peers promised to replace a member when needed. Whole promises, so that every later primary can
    /// use, prolong and return them.
    SetStandbys { standbys: Vec<Approval> },
    /// Primary: every member can apply this level; from here on it may be proposed.
    RaiseLevel { level: u16 },
    /// Primary: the record that the quorum's id is the digest of.
    RecordFounding { founding: Founding },
    /// Primary: these are to be the voters. From then on members sign that they are; replies with its number.
    DecideVoters { voters: Vec<MemberId> },
    /// Primary: a majority of the voters of configuration `base` signed the configuration that was decided. Their
    /// signatures were checked.
    CertifyVoters { number: u64, base: u64, signatures: Vec<(PeerId, Signature)> },
}

/// On a job of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobCommand {
    /// Create the job. The sender becomes its owner and, of a job that stores, its first uploader. Repeating it is the
    /// same job; another spec under the same id is a conflict.
    Submit {
        spec: JobSpec,
        /// The sender's, on the job's id and the specification: [`JobSpec::sign`].
        signature: Signature,
    },
    /// Have the job do something else. `seen` is [`JobRecord::seen`](crate::job::JobRecord::seen) as the sender read
    /// it: the control acts on what its sender has seen, and is refused when more has happened since. So a copy of it
    /// that comes late changes nothing.
    Control { seen: LogIndex, control: Control },
}

/// What its owner may have a job do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    Cancel,
    Pause,
    Resume,
    /// Tasks that were given up or parked begin anew.
    Retry,
    Resolve {
        resolution: Resolution,
    },
    /// Changes what may be changed while the job lives; `None` leaves it. Attempts that run keep what they have.
    Update {
        priority: Option<u8>,
        parallelism: Option<u32>,
        resources: Option<Requirement>,
    },
    /// Of a trigger: skip what falls due from now on. Runs go on.
    Suspend,
    Unsuspend,
}

/// On a run that stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreCommand {
    /// Primary: holders were won. They fill open columns in order; the rest become spares. `exhausted`: fewer than
    /// wanted, and whoever may come was asked, so that the uploader does not wait for more.
    AddHolders { grants: Vec<Grant>, exhausted: bool },
    /// A (new) node uploads to the run. Replies with the run, so that only what is missing is sent.
    Attach,
    /// Uploader: these segments were cut, with these piece hashes, and these columns' pieces of them are synced.
    Progress { upload_attempt: Attempt, segments: Vec<SegmentProgress> },
    /// Uploader: the column's holder refuses, stalls or died. A spare takes its place under a new attempt.
    ColumnFailed { upload_attempt: Attempt, column: PieceIndex, attempt: Attempt, reason: String },
    /// Uploader: everything is stored. `manifest` is the encoded manifest. Columns without a receipt are owed a repair,
    /// and then `degraded` must be set.
    Commit { upload_attempt: Attempt, manifest: Bytes, receipts: Vec<Receipt>, degraded: bool },
    /// Uploader or primary: the run cannot go on.
    Fail { upload_attempt: Option<Attempt>, reason: String },
    /// Primary: there was no upload progress for `STORE_IDLE_MAX`, by its own monotonic clock. `upload_seq` is the
    /// duty's count: a run that was fed since then lives on.
    Abandon { upload_seq: u64 },
    /// Primary: the holder has let go (or can never answer again). Names the duty it answers, field by field.
    Released { column: PieceIndex, grant: Grant, attempt: Attempt },
}

/// On workers, and on the tasks that they run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskCommand {
    /// Primary: this peer promised to run tasks, or promised anew. Attempts that it has go on, unless it lost its disk.
    SetWorker { worker: WorkerRecord },
    /// Primary: the lease has ended or is given back. Attempts under it are lost, and given to others.
    LoseWorker { peer: PeerId, lease: LeaseId, reason: String },
    /// Primary: the worker has had nothing to do for a while, and its lease goes back. Refused when it has something
    /// now.
    ReleaseWorker { peer: PeerId, lease: LeaseId },
    /// Worker: about to begin tasks that must not begin twice. Each has its own answer.
    Start { tasks: Vec<TaskAttempt> },
    /// Worker: what became of attempts. Each has its own answer.
    Report { reports: Vec<Report> },
    /// Worker: the attempt's task can go on from here. `bytes` when the checkpoint's place is the record.
    SaveCheckpoint { task: TaskAttempt, checkpoint: Output, bytes: Option<Bytes> },
}

/// On an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectCommand {
    /// Primary: the holder has confirmed the column of a committed object.
    Confirmed { column: PieceIndex, attempt: Attempt },
    /// Give up claims on the object: the sender's own, or, for operators, those of others. With the last claim the
    /// object is removed: its pieces are released and later deleted. Claims that are not there are given up already.
    Remove {
        claims: ClaimSelector,
        /// [`Claims::seen`](super::claims::Claims::seen) as the sender read it. Claims that were made or renewed since
        /// stay.
        seen: LogIndex,
        /// Remove it even though live jobs of this quorum name it.
        force: bool,
    },
    /// Primary: the column is damaged, or its holder is gone. It is owed a repair from now on, whoever leads.
    OweRepair {
        column: PieceIndex,
        /// Of the holder that failed; a column that was rebuilt since is left alone.
        attempt: Attempt,
        reason: String,
    },
    /// Primary: `grant` rebuilds the column. `attempt` is the newest attempt of the column as the primary saw it
    /// (`ObjectRecord::newest`); the rebuild gets the next one. The old holder stays readable until `FinishRepair`.
    StartRepair { column: PieceIndex, attempt: Attempt, grant: Grant, reason: String },
    /// Primary: the column was rebuilt; the receipt is the new holder's.
    FinishRepair { column: PieceIndex, receipt: Receipt },
    /// Primary: the rebuild under `attempt` failed; the column is owed again.
    FailRepair { column: PieceIndex, attempt: Attempt, reason: String },
}

/// On triggers, and on events that fire them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TriggerCommand {
    /// Primary: triggers are due by its clock. Each span moves one trigger on, or changes nothing if the record has
    /// moved since it was made.
    Due { spans: Vec<Span> },
    /// Have a trigger fire now. The same nonce is the same fire.
    Fire {
        job: JobId,
        /// As of [`JobCommand::Control`].
        seen: LogIndex,
        nonce: Nonce,
        /// Whether the overlap policy counts; else it runs beside whatever runs.
        respect_overlap: bool,
    },
    /// Primary: events that `emitter` has sent, the ones after number `follows`. All of its events up to `reaches` that
    /// are for this quorum are among them, but for `lost` that it could not keep.
    Deliver { emitter: PeerId, follows: u64, reaches: u64, lost: u64, deliveries: Vec<Delivery> },
    /// Primary: it probed the source of a condition.
    Observe { job: JobId, observation: Observation },
}

impl QuorumCommand {
    pub const fn level(&self) -> u16 {
        match self {
            Self::Noop
            | Self::Elapsed { .. }
            | Self::SetStandbys { .. }
            | Self::RaiseLevel { .. }
            | Self::RecordFounding { .. }
            | Self::DecideVoters { .. }
            | Self::CertifyVoters { .. } => LEVEL_FIRST,
        }
    }
}

impl JobCommand {
    /// The submit of a job by the peer whose key it is.
    pub fn submit(key: &SigningKey, job: JobId, spec: JobSpec) -> Self {
        let signature = spec.sign(key, job);
        Self::Submit { spec, signature }
    }

    pub const fn level(&self) -> u16 {
        match self {
            Self::Submit { spec, .. } => match spec {
                JobSpec::Once(work) => work.kind().level(),
                JobSpec::Triggered(spec) => {
                    let kind = spec.work.kind().level();
                    if kind > LEVEL_TRIGGERS { kind } else { LEVEL_TRIGGERS }
                }
            },
            Self::Control { control, .. } => control.level(),
        }
    }

    /// What it is to the run; `None` for the submit, which makes it.
    pub const fn run_command(&self) -> Option<RunCommand> {
        match self {
            Self::Submit { .. } => None,
            Self::Control { control, .. } => Some(control.run_command()),
        }
    }
}

impl Control {
    pub const fn level(&self) -> u16 {
        match self {
            Self::Cancel | Self::Pause | Self::Resume | Self::Retry | Self::Resolve { .. } | Self::Update { .. } => {
                LEVEL_FIRST
            }
            Self::Suspend | Self::Unsuspend => LEVEL_TRIGGERS,
        }
    }

    /// What it is to the run, or to the trigger.
    pub const fn run_command(&self) -> RunCommand {
        match self {
            Self::Cancel => RunCommand::Cancel,
            Self::Pause => RunCommand::Pause,
            Self::Resume => RunCommand::Resume,
            Self::Retry => RunCommand::Retry,
            Self::Resolve { .. } => RunCommand::Resolve,
            Self::Update { .. } => RunCommand::Update,
            Self::Suspend => RunCommand::Suspend,
            Self::Unsuspend => RunCommand::Unsuspend,
        }
    }
}

impl TaskCommand {
    pub const fn level(&self) -> u16 {
        match self {
            Self::SetWorker { .. }
            | Self::LoseWorker { .. }
            | Self::ReleaseWorker { .. }
            | Self::Start { .. }
            | Self::Report { .. }
            | Self::SaveCheckpoint { .. } => LEVEL_FIRST,
        }
    }
}

impl ObjectCommand {
    pub const fn level(&self) -> u16 {
        match self {
            Self::Confirmed { .. }
            | Self::Remove { .. }
            | Self::OweRepair { .. }
            | Self::StartRepair { .. }
            | Self::FinishRepair { .. }
            | Self::FailRepair { .. } => LEVEL_FIRST,
        }
    }
}

impl TriggerCommand {
    pub const fn level(&self) -> u16 {
        match self {
            Self::Due { .. } | Self::Fire { .. } | Self::Deliver { .. } | Self::Observe { .. } => LEVEL_TRIGGERS,
        }
    }
}

/// How a person decides about a run that waits for one. To try again, see [`Control::Retry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolution {
    /// Take the tasks that were given up as done, with empty outputs.
    Skip,
    Fail,
    /// Undo what was begun, by the specification's `compensate`.
    Revert,
}
