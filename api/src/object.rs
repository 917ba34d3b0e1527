//! Objects, and the course of a put.

use quorate_protocols::ids::{Attempt, JobId, Millis, ObjectId, PeerId, PieceIndex, QuorumId};
use quorate_protocols::object::Profile;
use quorate_protocols::quorum;
use serde::{Deserialize, Serialize};

use super::error::ErrorBody;
use super::{ColumnState, ObjectState, SpeakerInfo, as_text, schema};

/// The result of a put.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PutInfo {
    #[schema(value_type = schema::ObjectId)]
    pub object: ObjectId,
    pub bytes: u64,
    #[schema(value_type = schema::JobId)]
    pub job: JobId,
    #[schema(value_type = schema::QuorumId)]
    pub quorum: QuorumId,
    #[serde(with = "as_text")]
    #[schema(value_type = String, pattern = r"^[0-9]+\+[0-9]+$")]
    pub profile: Profile,
    /// Stored with fewer columns than the profile has; a repair is owed.
    pub degraded: bool,
    pub columns: Vec<ColumnHolder>,
    pub pieces_sent: u64,
    /// Pieces that an earlier attempt had already stored.
    pub pieces_skipped: u64,
    /// Columns that went to a backup because their holder failed.
    pub columns_replaced: u32,
    pub took_ms: u64,
    /// Claims on the object that were there before: the same bytes had been stored already.
    #[serde(default)]
    pub existed: Vec<Claim>,
    /// The member on whose word it is committed.
    pub acknowledged_by: SpeakerInfo,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ColumnHolder {
    #[schema(value_type = schema::PieceIndex)]
    pub column: PieceIndex,
    #[schema(value_type = schema::PeerId)]
    pub holder: PeerId,
}

/// One line of a put's progress (`application/x-ndjson`). The last line is `done` or `error`; a stream that ends
/// without either was cut off, and whether the put succeeded is unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PutUpdate {
    Progress(PutProgressInfo),
    Done(PutInfo),
    Error(ErrorBody),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PutProgressInfo {
    pub phase: PutPhaseInfo,
    /// Known once the job has a quorum.
    #[schema(value_type = Option<schema::JobId>)]
    pub job: Option<JobId>,
    pub bytes_read: u64,
    /// Bytes of the object whose pieces are all stored.
    pub bytes_stored: u64,
    pub pieces_sent: u64,
    pub pieces_skipped: u64,
    pub columns_replaced: u32,
    /// What the put waits for, while it waits for peers with room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PutPhaseInfo {
    #[default]
    Placing,
    Approval,
    Sending,
    Receipts,
    Commit,
    Done,
}

impl std::fmt::Display for PutPhaseInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Placing => "finding a quorum",
            Self::Approval => "asking holders",
            Self::Sending => "sending pieces",
            Self::Receipts => "collecting receipts",
            Self::Commit => "committing",
            Self::Done => "stored",
        })
    }
}

/// An object as its steward knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ObjectInfo {
    #[schema(value_type = schema::ObjectId)]
    pub object: ObjectId,
    pub bytes: u64,
    /// The oldest of its names.
    pub name: Option<String>,
    #[serde(with = "as_text")]
    #[schema(value_type = String, pattern = r"^[0-9]+\+[0-9]+$")]
    pub profile: Profile,
    pub state: ObjectState,
    #[schema(value_type = schema::JobId)]
    pub job: JobId,
    #[schema(value_type = schema::QuorumId)]
    pub quorum: QuorumId,
    /// The oldest of its owners.
    #[schema(value_type = schema::PeerId)]
    pub owner: PeerId,
    /// Who keeps it and under which names, oldest first. It is removed with the last of them.
    #[serde(default)]
    pub claims: Vec<Claim>,
    #[schema(value_type = schema::Millis)]
    pub created_at: Millis,
    /// Fewer good columns than the profile has: a repair is owed.
    pub degraded: bool,
    pub columns: Vec<ObjectColumn>,
    /// Columns owed a repair, with the reason.
    pub owed: Vec<OwedRepair>,
}

/// One owner's word that an object is to be kept, under one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Claim {
    #[schema(value_type = schema::PeerId)]
    pub owner: PeerId,
    /// For people. One claim of each owner may have none.
    pub name: Option<String>,
    /// The run that stored the bytes under this name first.
    #[schema(value_type = schema::JobId)]
    pub job: JobId,
    #[schema(value_type = schema::Millis)]
    pub claimed_at: Millis,
}

impl From<quorum::Claim> for Claim {
    fn from(claim: quorum::Claim) -> Self {
        let quorum::Claim { owner, name, job, at, since: _ } = claim;
        Self { owner, name, job, claimed_at: at }
    }
}

/// What became of a removal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RemovalInfo {
    #[schema(value_type = schema::ObjectId)]
    pub object: ObjectId,
    /// Claims that were given up.
    pub removed: Vec<Claim>,
    /// Claims that keep the object: it is as readable as before.
    pub kept: Vec<Claim>,
    /// Nothing keeps it any more: nobody can read it, and its pieces are deleted.
    pub gone: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ObjectColumn {
    #[schema(value_type = schema::PieceIndex)]
    pub column: PieceIndex,
    #[schema(value_type = Option<schema::PeerId>)]
    pub holder: Option<PeerId>,
    #[schema(value_type = schema::Attempt)]
    pub attempt: Attempt,
    pub state: ColumnState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OwedRepair {
    #[schema(value_type = schema::PieceIndex)]
    pub column: PieceIndex,
    pub reason: String,
}
