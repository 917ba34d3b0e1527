//! Jobs.

use std::collections::BTreeMap;

use quorate_protocols::ids::{
    Attempt, Digest, JobId, Millis, ObjectId, PeerId, PieceIndex, QuorumId, StepIndex, TaskIndex,
};
use quorate_protocols::object::Profile;
use quorate_protocols::{job, task};
use serde::{Deserialize, Serialize};

use super::{
    ColumnState, Engine, ErrorBody, ErrorClass, FiredByInfo, Kind, RunState, SpeakerInfo, TriggerInfo, as_text, schema,
};

/// A job as its quorum knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JobInfo {
    #[schema(value_type = schema::JobId)]
    pub job: JobId,
    pub kind: Kind,
    pub state: RunState,
    #[schema(value_type = schema::QuorumId)]
    pub quorum: QuorumId,
    /// `null` while none is known.
    #[schema(value_type = Option<schema::PeerId>)]
    pub primary: Option<PeerId>,
    #[schema(value_type = schema::Millis)]
    pub created_at: Millis,
    #[schema(value_type = schema::Millis)]
    pub changed_at: Millis,
    /// Grows with every change of the job or its tasks: `/wait?since=` waits for the next.
    pub revision: u64,
    #[schema(value_type = Option<schema::Millis>)]
    pub finished_at: Option<Millis>,
    /// Why it is where it is: the last failure, refusal or wait.
    pub why: Option<String>,
    /// The peer through which it was submitted.
    #[schema(value_type = schema::PeerId)]
    pub owner: PeerId,
    pub name: Option<String>,
    /// What only a job that stores has.
    #[serde(default)]
    pub store: Option<StoreInfo>,
    /// What only a job that computes has.
    #[serde(default)]
    pub batch: Option<BatchInfo>,
    /// Of a job that has a trigger: when it fires, and how far it is.
    #[serde(default)]
    pub trigger: Option<TriggerInfo>,
    /// Of a run that a trigger made: which.
    #[serde(default)]
    pub fired_by: Option<FiredByInfo>,
}

/// A job that stores a file, beside what all jobs have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StoreInfo {
    /// The node that sends the file.
    #[schema(value_type = schema::PeerId)]
    pub uploader: PeerId,
    /// How often an uploader took the run on; more than one means that it was resumed.
    #[schema(value_type = schema::Attempt)]
    pub attempts: Attempt,
    /// Of the file, when known.
    pub bytes: Option<u64>,
    #[serde(with = "as_text")]
    #[schema(value_type = String, pattern = r"^[0-9]+\+[0-9]+$")]
    pub profile: Profile,
    /// What it stored, once committed.
    #[schema(value_type = Option<schema::ObjectId>)]
    pub object: Option<ObjectId>,
    /// Stored with fewer columns than the profile has.
    pub degraded: bool,
    /// Segments cut so far.
    pub segments: u32,
    pub columns: Vec<ColumnProgress>,
    /// Holders that failed during the run.
    pub failed: Vec<PeerReason>,
}

/// A job that computes, beside what all jobs have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BatchInfo {
    /// What runs its tasks.
    pub engine: Engine,
    /// The present step, or the last.
    pub step: StepInfo,
    pub steps: Vec<PlannedStep>,
    /// What may be changed while it runs, as it is now.
    pub priority: u8,
    /// Tasks that may run at once; 0 is no limit.
    pub parallelism: u32,
    /// What one task needs.
    pub resources: TaskResources,
    /// Tasks that were given up. The first of them by name.
    pub dead_letters: Vec<DeadLetter>,
    /// Peers that will not run it, with the reason of each.
    pub refused: Vec<PeerReason>,
    /// Reports that came from attempts which had been replaced. None of them changed anything.
    pub stale_reports: u64,
    /// Of a verified job: copies of each task, and how many of them must agree.
    pub verify: Option<VerifyInfo>,
    /// What it came to: once it has succeeded, when it is asked for by itself. Listings have none.
    #[serde(default)]
    pub outcome: Option<OutcomeInfo>,
    /// Why the outcome is not shown through this node, and who may see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome_hidden: Option<String>,
}

/// One step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PlannedStep {
    #[schema(value_type = schema::StepIndex)]
    pub step: StepIndex,
    pub role: StepRole,
    pub tasks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepRole {
    Map,
    Reduce,
    /// Undoes the first step. Entered only when the run reverts.
    Compensate,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskResources {
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub slots: u32,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeadLetter {
    #[schema(value_type = schema::StepIndex)]
    pub step: StepIndex,
    #[schema(value_type = schema::TaskIndex)]
    pub task: TaskIndex,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PeerReason {
    #[schema(value_type = schema::PeerId)]
    pub peer: PeerId,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerifyInfo {
    pub copies: u8,
    pub agree: u8,
}

/// The outputs of a run: those of the tasks of its last step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OutcomeInfo {
    /// The first of them; `GET /v1/jobs/{job}/outputs` has all.
    pub outputs: Vec<OutputInfo>,
    /// Tasks of the last step. Not all may have an output: one that a person had skipped has none.
    pub tasks: u32,
}

/// What one task left. Exactly one of `text`, `base64` and `object` is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OutputInfo {
    #[schema(value_type = schema::TaskIndex)]
    pub task: TaskIndex,
    pub bytes: u64,
    /// BLAKE3 of the bytes.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
    /// Bytes in the quorum's record, when they are UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Other bytes in the quorum's record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Where larger bytes are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::ObjectId>)]
    pub object: Option<ObjectId>,
}

/// One task, with the attempts that may still report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskInfo {
    #[schema(value_type = schema::StepIndex)]
    pub step: StepIndex,
    #[schema(value_type = schema::TaskIndex)]
    pub task: TaskIndex,
    pub state: TaskStateInfo,
    /// Attempts handed out so far.
    #[schema(value_type = schema::Attempt)]
    pub attempts: Attempt,
    /// Failures that count against the retry policy, and workers lost.
    pub failures: u16,
    pub losses: u16,
    pub running: Vec<AttemptInfo>,
    /// Of a task that waits for its next try: when, in quorum time.
    #[schema(value_type = Option<schema::Millis>)]
    pub retry_at: Option<Millis>,
    /// Whose result was taken.
    #[schema(value_type = Option<schema::PeerId>)]
    pub worker: Option<PeerId>,
    /// Bytes and digest of its output.
    pub output_bytes: Option<u64>,
    #[schema(value_type = Option<schema::Digest>)]
    pub output_digest: Option<Digest>,
    /// The last failure of an attempt.
    pub failure: Option<FailureInfo>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskStateInfo {
    Ready,
    Delayed,
    Running,
    Done,
    /// Given up.
    DeadLetter,
    /// It may have begun on a worker that is lost, and must not begin twice.
    Parked,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AttemptInfo {
    #[schema(value_type = schema::Attempt)]
    pub attempt: Attempt,
    #[schema(value_type = schema::PeerId)]
    pub worker: PeerId,
    pub phase: AttemptPhase,
    /// When it was assigned, in record time.
    #[schema(value_type = schema::Millis)]
    pub assigned_at: Millis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AttemptPhase {
    Assigned,
    Started,
    /// It has committed to a result that it has not shown.
    Committed,
    Revealed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FailureInfo {
    #[schema(value_type = schema::PeerId)]
    pub worker: PeerId,
    pub class: ErrorClass,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogStreamInfo {
    Stdout,
    Stderr,
}

/// Part of what an attempt wrote for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogInfo {
    #[schema(value_type = schema::StepIndex)]
    pub step: StepIndex,
    #[schema(value_type = schema::TaskIndex)]
    pub task: TaskIndex,
    #[schema(value_type = schema::Attempt)]
    pub attempt: Attempt,
    /// Who has it, and is to be asked for what follows.
    #[schema(value_type = schema::PeerId)]
    pub worker: PeerId,
    pub stream: LogStreamInfo,
    /// Byte of the stream at which `text` begins: later than asked for when what lay between was not kept.
    pub offset: u64,
    /// Where to go on.
    pub next_offset: u64,
    /// It ends between two characters. What is not UTF-8 in it is replaced.
    pub text: String,
    /// Nothing follows.
    pub ended: bool,
}

/// A job's submit. The job is the same when it is repeated under the same id or key, and another specification under
/// it is a conflict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SubmitRequest {
    /// The specification, as TOML.
    pub spec: String,
    /// Its name, for error messages.
    #[serde(default)]
    pub file: Option<String>,
    /// What the files hold that the specification names, by the names that it uses.
    #[serde(default)]
    pub files: BTreeMap<String, FileContent>,
    /// Values of its parameters.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// An id from `POST /v1/jobs/ids`: for a submit that can be repeated whatever becomes of its answer.
    #[serde(default)]
    #[schema(value_type = Option<schema::JobId>)]
    pub job: Option<JobId>,
    #[serde(default)]
    pub key: Option<String>,
    /// The quorum that shall own it.
    #[serde(default)]
    #[schema(value_type = Option<schema::QuorumId>)]
    pub quorum: Option<QuorumId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileContent {
    Text(String),
    Base64(String),
    #[schema(value_type = schema::ObjectId)]
    Object(ObjectId),
    /// A file that is not sent. Enough for a plan, and refused in a submit.
    Unsent {
        bytes: u64,
        /// What a worker sets aside to compile it, if it is a module.
        #[serde(default)]
        compile_memory_bytes: u64,
    },
}

/// Asks for an id to submit under.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JobIdRequest {
    /// The same key gives the same id: through this node always, through others when `quorum` is given too.
    #[serde(default)]
    pub key: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<schema::QuorumId>)]
    pub quorum: Option<QuorumId>,
    /// Form a quorum for it.
    #[serde(default)]
    pub dedicated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JobIdInfo {
    #[schema(value_type = schema::JobId)]
    pub job: JobId,
}

/// A submit that is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SubmitInfo {
    #[schema(value_type = schema::JobId)]
    pub job: JobId,
    pub state: RunState,
    /// It had been submitted before, with the same specification.
    pub existed: bool,
    /// The member on whose word it is committed.
    pub acknowledged_by: SpeakerInfo,
}

/// The answer to a submit that said to wait for the end: the job as it is when it has ended or the time is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WaitedInfo {
    #[serde(flatten)]
    pub info: JobInfo,
    /// It had been submitted before, with the same specification.
    pub existed: bool,
    /// The member on whose word it is committed.
    pub acknowledged_by: SpeakerInfo,
}

/// The answer to a submit. One with the job as it is has all that the other has, and more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum SubmitAnswer {
    Waited(Box<WaitedInfo>),
    Submitted(SubmitInfo),
}

/// Jobs that one request submits at most, and bytes of its body.
pub const SUBMIT_MANY_JOBS_MAX: usize = 1_000;
pub const SUBMIT_MANY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The answers to many submits, in the order of the submits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SubmitManyInfo {
    pub jobs: Vec<SubmitOutcome>,
}

/// The answer to one of many submits, as it would be by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum SubmitOutcome {
    Submitted(SubmitInfo),
    Refused(ErrorBody),
}

/// What a submit would do: its steps, and who could run its tasks as far as this node knows. The last word has each
/// peer when it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PlanInfo {
    pub kind: Kind,
    /// What runs its tasks.
    pub engine: Engine,
    pub name: Option<String>,
    /// When it would fire, of a job that has a trigger.
    #[serde(default)]
    pub trigger: Option<String>,
    pub steps: Vec<PlannedStep>,
    /// What one task needs.
    pub resources: TaskResources,
    /// Memory that a worker sets aside while it compiles the largest module, once; 0 where nothing is compiled.
    pub compile_memory_bytes: u64,
    pub peers: Vec<PlanPeer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PlanPeer {
    #[schema(value_type = schema::PeerId)]
    pub peer: PeerId,
    /// Tasks that it has room for at once.
    pub tasks: u32,
    /// Why it would run none.
    pub refusal: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WhyInfo {
    #[schema(value_type = schema::JobId)]
    pub job: JobId,
    pub why: String,
}

/// What to change of a job that lives; what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UpdateRequest {
    #[serde(default)]
    pub priority: Option<u8>,
    #[serde(default)]
    pub parallelism: Option<u32>,
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    #[serde(default)]
    pub slots: Option<u32>,
    /// All labels that a worker must carry from now on.
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
}

/// How a person decides about a run that waits for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResolveRequest {
    pub resolution: ResolutionInfo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResolutionInfo {
    /// Take the tasks that were given up as done, without outputs.
    Skip,
    Fail,
    /// Undo what was begun.
    Revert,
}

/// A step of a job that computes, and how its tasks stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StepInfo {
    #[schema(value_type = schema::StepIndex)]
    pub step: StepIndex,
    pub tasks: Tally,
}

/// Tasks of one step by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Tally {
    pub total: u32,
    pub ready: u32,
    pub delayed: u32,
    pub running: u32,
    pub done: u32,
    pub dead_letters: u32,
    pub parked: u32,
}

impl From<task::record::Tally> for Tally {
    fn from(tally: task::record::Tally) -> Self {
        let task::record::Tally { total, ready, delayed, running, done, dead_letters, parked } = tally;
        Self { total, ready, delayed, running, done, dead_letters, parked }
    }
}

/// What happened to a job, for people: one line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HistoryEntry {
    /// In record time.
    #[schema(value_type = schema::Millis)]
    pub recorded_at: Millis,
    pub state: RunState,
    pub what: String,
}

impl From<job::record::HistoryEntry> for HistoryEntry {
    fn from(entry: job::record::HistoryEntry) -> Self {
        let job::record::HistoryEntry { at, state, what } = entry;
        Self { recorded_at: at, state: state.into(), what }
    }
}

/// How far one column is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ColumnProgress {
    #[schema(value_type = schema::PieceIndex)]
    pub column: PieceIndex,
    /// `null` while no peer is assigned.
    #[schema(value_type = Option<schema::PeerId>)]
    pub holder: Option<PeerId>,
    #[schema(value_type = schema::Attempt)]
    pub attempt: Attempt,
    pub state: ColumnState,
    /// Segments whose piece the holder has synced.
    pub stored: u32,
}
