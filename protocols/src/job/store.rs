//! A store run: which peer feeds it, who holds which column, and how far each column is.
//!
//! Steps: *approve* (the primary gathers holders), *replicate* (the worker, the node with the file, sends pieces and
//! records progress), *commit* (manifest and receipts), *confirm* (the primary tells the holders to keep).

use serde::{Deserialize, Serialize};

use crate::ids::{Attempt, LeaseId, ManifestHash, MemberId, PeerId, PieceHash};

/// A holder's promise for one column, as the quorum records it. The primary checked the approval's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    pub holder: MemberId,
    pub lease: LeaseId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ColumnState {
    /// No holder: backups ran out, the primary asks for more.
    Open,
    /// Assigned; pieces are on their way.
    Filling,
    /// The receipt was committed with the manifest, or by a repair.
    Sealed,
    /// The holder acknowledged that the column is permanent.
    Confirmed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnRecord {
    /// `None` while no peer is assigned.
    pub grant: Option<Grant>,
    /// Grows by one with every assignment; older ones are fenced.
    pub attempt: Attempt,
    pub state: ColumnState,
    /// Per segment, whether the current holder has synced its piece. As long as `StoreRun::segments`.
    pub stored: Vec<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRun {
    /// The node that has the file and sends it. Changes when another node resumes.
    pub worker: PeerId,
    /// Grows with every (re)attachment of a worker; an older worker's commands are refused.
    pub worker_attempt: Attempt,
    pub columns: Vec<ColumnRecord>,
    /// Approved backups, in the order in which they will be used.
    pub spares: Vec<Grant>,
    /// Holders that failed during this run, with the reason: not assigned again, released by the primary.
    pub failed: Vec<(Grant, String)>,
    /// Piece hashes of every segment sent so far, in order of the columns.
    pub segments: Vec<Vec<PieceHash>>,
    /// Set by the commit.
    pub manifest: Option<ManifestHash>,
    pub degraded: bool,
    /// Holders to be told to let go (after failure, cancel, abandonment), until each has answered.
    pub releasing: Vec<(u8, Grant, Attempt)>,
}
