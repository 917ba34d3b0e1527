//! Jobs.

use serde::{Deserialize, Serialize};

use super::as_text;
use crate::ids::{Attempt, JobId, Millis, ObjectId, PeerId, PieceIndex, QuorumId};
use crate::job::{ColumnState, Kind, RunState};
use crate::object::Profile;

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
    pub worker: PeerId,
    pub name: Option<String>,
    /// Bytes of the file, when known.
    pub size: Option<u64>,
    #[serde(with = "as_text")]
    #[schema(value_type = String)]
    pub profile: Profile,
    /// What it stored, once committed.
    pub object: Option<ObjectId>,
    pub degraded: bool,
    /// Segments cut so far.
    pub segments: u32,
    pub columns: Vec<ColumnProgress>,
    /// Holders that failed during the run, with the reason.
    pub failed: Vec<String>,
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
