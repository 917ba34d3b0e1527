//! One job as its quorum remembers it.

use serde::{Deserialize, Serialize};

use super::spec::JobSpec;
use super::store::StoreRun;
use crate::ids::{JobId, Millis, PeerId};

/// Where a run stands. The legal moves are data: [`crate::job::transition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    Pending,
    Running,
    Pausing,
    Paused,
    Resuming,
    Modifying,
    Cancelling,
    Reverting,
    Succeeded,
    Failed,
    Reverted,
    Cancelled,
    AwaitingResolution,
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Modifying => "modifying",
            Self::Cancelling => "cancelling",
            Self::Reverting => "reverting",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Reverted => "reverted",
            Self::Cancelled => "cancelled",
            Self::AwaitingResolution => "awaiting-resolution",
        })
    }
}

impl RunState {
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Reverted | Self::Cancelled)
    }
}

/// What happened to a job, for people: one line each, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HistoryEntry {
    /// Quorum time, milliseconds since the Unix epoch.
    pub at: Millis,
    pub state: RunState,
    pub what: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    pub job: JobId,
    pub spec: JobSpec,
    /// The peer through which the job was submitted: it may cancel, pause, update and remove.
    pub owner: PeerId,
    pub state: RunState,
    /// The state before a pause, to return to.
    pub before_pause: Option<RunState>,
    /// Why the run is where it is: the last failure, refusal or wait.
    pub reason: Option<String>,
    pub created_at: Millis,
    pub changed_at: Millis,
    pub finished_at: Option<Millis>,
    pub run: StoreRun,
    pub history: Vec<HistoryEntry>,
}
