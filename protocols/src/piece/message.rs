//! Wire types of the piece protocol, and the signed receipt.

use serde::{Deserialize, Serialize};

use crate::approval::message::Signature;
use crate::ids::{Attempt, Digest, JobId, LeaseId, ManifestHash, PeerId, PieceHash, PieceIndex, SegmentIndex};
use crate::object::layout::Profile;

/// Where a piece belongs during a put: the run, the column, and which assignment of that column. A holder refuses an
/// attempt older than the newest it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot {
    pub job: JobId,
    pub column: PieceIndex,
    pub attempt: Attempt,
}

/// What a holder keeps of a column, told to a resuming put, an auditor or a repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPiece {
    pub segment: SegmentIndex,
    pub hash: PieceHash,
}

/// One segment that a holder should rebuild for itself, and where the other pieces of it are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildPart {
    pub segment: SegmentIndex,
    /// Hash of the wanted piece.
    pub hash: PieceHash,
    /// Bytes of every piece of the segment.
    pub piece_bytes: u32,
    /// Other columns' pieces of the segment: index, hash, holder. At least `profile.data` of them.
    pub sources: Vec<(PieceIndex, PieceHash, PeerId)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PieceMessage {
    /// Keep this piece (payload) under the lease. For the peer that the lease names as the column's writer, or that
    /// uploads into the run now. Answered `Stored` when it is synced.
    Put { slot: Slot, lease: LeaseId, segment: SegmentIndex, hash: PieceHash },
    /// Give the piece, or the part of it from `offset`, at most `length` bytes. Parts cannot be checked by hash; only
    /// whole pieces may be used for repair.
    Get { hash: PieceHash, offset: u32, length: u32 },
    /// Which segments of this column are held, from `from` on? Answered `Pieces` with at most 4,096.
    ListPieces { slot: Slot, from: SegmentIndex },
    /// The column is complete: check it and sign for it. For the column's writer; of a repair, for a voter of the
    /// quorum.
    Seal { slot: Slot, lease: LeaseId, pieces: Vec<PieceHash> },
    /// Fetch, decode and store these segments of the column. For the column's writer; a voter's, under a lease that
    /// no peer writes under, is a repair.
    Rebuild { slot: Slot, lease: LeaseId, profile: Profile, parts: Vec<RebuildPart> },
    /// The object is committed: the lease becomes a lasting hold of these pieces. Sent by the steward's primary,
    /// repeated until answered.
    Confirm { slot: Slot, lease: LeaseId, manifest: ManifestHash },
    /// The steward no longer wants this column here. Sent by its primary, repeated until answered.
    Release { slot: Slot },
    /// Read every piece of this column back from disk and compare hashes; answered `Audited`.
    Audit { slot: Slot, from: SegmentIndex },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PieceAnswer {
    Stored,
    /// The bytes are the payload. `total` is the piece's whole length.
    Piece {
        total: u32,
    },
    Pieces(Vec<HeldPiece>),
    Sealed(Receipt),
    /// Segments rebuilt and synced.
    Rebuilt(Vec<SegmentIndex>),
    Acknowledged,
    /// Segments from `from` up to (not including) `next` were read; `damaged` are missing or do not hash. `next` is
    /// `None` at the end of the column.
    Audited {
        next: Option<SegmentIndex>,
        damaged: Vec<SegmentIndex>,
    },
    Refused(PieceRefusal),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum PieceRefusal {
    #[error("no lease of that name here: it ended, or was given to another")]
    UnknownLease,
    #[error("attempt {given} of this column was replaced by attempt {newest}")]
    StaleAttempt { given: Attempt, newest: Attempt },
    #[error("the piece is not held here")]
    NotHeld,
    #[error("the bytes do not hash to {expected}")]
    WrongHash { expected: PieceHash },
    #[error("the column is incomplete: {missing} pieces are missing, the first of segment {first}")]
    Incomplete { missing: u32, first: SegmentIndex },
    #[error("the disk is full")]
    DiskFull,
    #[error("the asker may not ask this")]
    NotAllowed,
    #[error("too few good pieces could be fetched: {reason}")]
    Sources { reason: String },
    #[error("busy")]
    Busy,
    #[error("{reason}")]
    Failed { reason: String },
    #[error("the column is sealed: only a repair that its quorum orders changes it")]
    Settled,
    #[error("the lease has no room for the piece")]
    OverLease,
}

/// What a holder signs: this column of this run, in this assignment, is whole and synced here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptStatement {
    pub slot: Slot,
    pub holder: PeerId,
    pub lease: LeaseId,
    /// `object::manifest::column_digest` of the column.
    pub column: Digest,
    pub segments: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub statement: ReceiptStatement,
    pub signature: Signature,
}

const RECEIPT_DOMAIN: &[u8] = b"quorate piece receipt 1\0";

impl Receipt {
    pub fn sign(key: &ed25519_dalek::SigningKey, statement: ReceiptStatement) -> Self {
        Self { statement, signature: Signature::sign(key, RECEIPT_DOMAIN, &statement) }
    }
    pub fn is_genuine(&self) -> bool {
        self.signature.verifies(self.statement.holder, RECEIPT_DOMAIN, &self.statement)
    }
}
