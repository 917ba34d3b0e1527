//! Triggers and what they fired.

use quorate_protocols::ids::{JobId, Millis, Nonce};
use serde::{Deserialize, Serialize};

use super::{SkipReason, schema};

/// Instants that `/v1/jobs/{job}/next` shows: if the request does not say how many, and at most.
pub const NEXT_DEFAULT: usize = 5;
pub const NEXT_MAX: usize = 1_000;

/// A job that has a trigger, beside what all jobs have. Its runs are jobs of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TriggerInfo {
    /// `at`, `every`, `cron`, `event`, `condition` or `after`.
    pub form: String,
    /// When it fires, as its specification says it.
    pub when: String,
    /// `allow`, `forbid`, `replace` or `queue(N)`.
    pub overlap: String,
    /// `skip`, `once` or `catch_up(N)`.
    pub missed: String,
    pub deadline_ms: Option<u64>,
    /// What falls due or arrives meanwhile is skipped.
    pub suspended: bool,
    /// Of one that a clock fires: from when its instants count; `null` before its primary first looked.
    #[schema(value_type = Option<schema::Millis>)]
    pub started_at: Option<Millis>,
    /// The first instant that is not recorded yet; `null` when there is none, or none that a clock tells.
    #[schema(value_type = Option<schema::Millis>)]
    pub next_at: Option<Millis>,
    /// Instants recorded, skipped ones included.
    pub instants: u64,
    /// Rows of its table of fires so far; the oldest are forgotten in time.
    pub rows: u64,
    /// Runs that have not ended.
    #[schema(value_type = Vec<schema::JobId>)]
    pub live: Vec<JobId>,
    /// Instants that are open again, from one to another, because clocks that ran ahead were put right. `next_at` is in
    /// the first of them.
    #[serde(default)]
    #[schema(value_type = Vec<[schema::Millis; 2]>)]
    pub open_at: Vec<[Millis; 2]>,
    /// The first instant after all that are recorded, while others before it are open; else as `next_at`.
    #[serde(default)]
    #[schema(value_type = Option<schema::Millis>)]
    pub head_at: Option<Millis>,
}

/// What a run was made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FiredByInfo {
    /// The job that has the trigger.
    #[schema(value_type = schema::JobId)]
    pub job: JobId,
    /// The row of its table of fires.
    pub number: u64,
}

/// One row of a trigger's table of fires: what fired, or did not and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FireInfo {
    /// The instant; of what no clock fired, when it was recorded. Of several that were skipped in a row, the first.
    #[schema(value_type = schema::Millis)]
    pub instant_at: Millis,
    /// `null` of one that was skipped or still waits.
    #[schema(value_type = Option<schema::JobId>)]
    pub run: Option<JobId>,
    pub outcome: FireOutcome,
    /// How many the row stands for that did not run: 0 of one that ran or will.
    pub skipped: u64,
    pub reason: Option<SkipReason>,
    /// Of several that were skipped in a row, the last.
    #[schema(value_type = Option<schema::Millis>)]
    pub last_at: Option<Millis>,
    pub number: u64,
    pub cause: FireCause,
    /// Quorum time of the record: how much later than the instant it was committed. Of a row that stands for several,
    /// when the last of them was.
    #[schema(value_type = schema::Millis)]
    pub recorded_at: Millis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FireCause {
    Instant,
    Event,
    Manual,
    Condition,
    After,
    /// A cause that this build does not know.
    #[serde(other)]
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FireOutcome {
    /// Its turn comes when an earlier run has ended.
    Waiting,
    /// The run has not ended.
    Running,
    Skipped,
    /// Skipped by clocks that ran ahead and were put right: the instants are open again, and have rows of their own.
    Withdrawn,
    Succeeded,
    Failed,
    Reverted,
    Cancelled,
    /// An outcome that this build does not know.
    #[serde(other)]
    Other,
}

/// Asks for a fire now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FireRequest {
    /// Whether the overlap policy counts; else it runs beside whatever runs.
    #[serde(default)]
    pub respect_overlap: bool,
    /// 32 hexadecimal digits. The same again within an hour is the same fire: for one whose answer was lost.
    #[serde(default)]
    #[schema(value_type = Option<schema::Nonce>)]
    pub nonce: Option<Nonce>,
}

/// What comes next of a trigger that a clock fires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NextInfo {
    /// When it fires, as its specification says it.
    pub when: String,
    pub suspended: bool,
    /// The clock that this was worked out by: the node's that was asked, or of a file this machine's.
    #[schema(value_type = schema::Millis)]
    pub asked_at: Millis,
    pub next: Vec<InstantInfo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InstantInfo {
    #[schema(value_type = schema::Millis)]
    pub instant_at: Millis,
    /// Later than the instant by its jitter.
    #[schema(value_type = schema::Millis)]
    pub due_at: Millis,
    /// The instant on the clocks of its time zone.
    pub text: String,
}
