//! Jobs.

use serde::{Deserialize, Serialize};

use super::as_text_or_null;
use crate::ids::{Attempt, JobId, Millis, ObjectId, PeerId, PieceIndex, QuorumId, StepIndex};
use crate::job::{ColumnState, Kind, RunState};
use crate::object::Profile;
use crate::task::record::Tally;

/// A job as its quorum knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JobInfo {
    pub job: JobId,
    pub kind: Kind,
    pub state: RunState,
    pub quorum: QuorumId,
    /// `null` while none is known.
    pub primary: Option<PeerId>,
    /// How often a worker took the run on; more than one means that it was resumed.
    pub attempts: Attempt,
    pub created_at: Millis,
    pub changed_at: Millis,
    pub finished_at: Option<Millis>,
    /// Why it is where it is: the last failure, refusal or wait.
    pub why: Option<String>,
    /// The peer through which it was submitted.
    pub owner: PeerId,
    /// Of a job that stores: the node that sends the file.
    pub worker: Option<PeerId>,
    pub name: Option<String>,
    /// Bytes of the file, when known.
    pub size: Option<u64>,
    #[serde(with = "as_text_or_null")]
    #[schema(value_type = Option<String>)]
    pub profile: Option<Profile>,
    /// What it stored, once committed.
    pub object: Option<ObjectId>,
    pub degraded: bool,
    /// Segments cut so far.
    pub segments: u32,
    pub columns: Vec<ColumnProgress>,
    /// Holders that failed during the run, with the reason.
    pub failed: Vec<String>,
    /// Of a job that computes: the present step, or the last.
    pub step: Option<StepInfo>,
}

/// A step of a job that computes, and how its tasks stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StepInfo {
    pub step: StepIndex,
    pub tasks: Tally,
}

/// How far one column is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ColumnProgress {
    pub column: PieceIndex,
    /// `null` while no peer is assigned.
    pub holder: Option<PeerId>,
    pub attempt: Attempt,
    pub state: ColumnState,
    /// Segments whose piece the holder has synced.
    pub stored: u32,
}
