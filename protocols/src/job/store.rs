//! A store run: its uploader, the holders of its columns, and how far each column is.
//!
//! Steps: *approve* (the primary gathers holders), *replicate* (the uploader, the node with the file, sends pieces and
//! records progress), *commit* (manifest and receipts), *confirm* (the primary tells the holders to keep).

use crate::approval::Grant;
use crate::ids::SegmentIndex;
use serde::{Deserialize, Serialize};

use crate::ids::{Attempt, ManifestHash, Millis, PeerId, PieceHash, PieceIndex};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Per segment, whether the current holder has synced its piece. As long as `StoreRun::segments` while the run is
    /// live, empty afterwards.
    pub stored: Vec<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRun {
    /// The node that has the file and sends it. Changes when another node resumes.
    pub uploader: PeerId,
    /// Grows with every (re)attachment of an uploader; an older uploader's commands are refused.
    pub upload_attempt: Attempt,
    pub columns: Vec<ColumnRecord>,
    /// Approved backups, in the order in which they will be used.
    pub spares: Vec<Grant>,
    /// Holders that failed during this run, with the reason: not assigned again, released by the primary.
    pub failed: Vec<(Grant, String)>,
    /// Piece hashes of every segment sent so far, in order of the columns; empty for a segment not reported yet.
    /// Forgotten when the run ends: the manifest has them.
    pub segments: Vec<Vec<PieceHash>>,
    /// Whoever may come was asked, as of the last search for holders: a column without a holder is not waited for.
    pub exhausted: bool,
    /// Set by the commit.
    pub manifest: Option<ManifestHash>,
    pub degraded: bool,
    /// Holders to be told to let go (after failure, cancel, abandonment), until each has answered.
    pub releasing: Vec<Releasing>,
    /// Counts the uploader's signs of life (submit, attach, progress, failures reported): a run whose count stands
    /// still is idle. A count, because quorum time may stand still while a clock that ran ahead is waited for.
    pub upload_seq: u64,
    pub upload_seen_at: Millis,
}

/// A segment that was cut, and how far it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentProgress {
    pub segment: SegmentIndex,
    /// All columns' piece hashes of the segment, in order.
    pub pieces: Vec<PieceHash>,
    /// Columns whose holder has synced its piece, with the attempt it was sent under.
    pub stored: Vec<(PieceIndex, Attempt)>,
}

/// A holder to be told to let go. Attempt 0 is a grant that never got a column: only its lease is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Releasing {
    pub column: PieceIndex,
    pub grant: Grant,
    pub attempt: Attempt,
}

impl ColumnRecord {
    /// A column that nobody was given yet.
    pub fn open() -> Self {
        Self { grant: None, attempt: Attempt(0), state: ColumnState::Open, stored: Vec::new() }
    }
}

impl StoreRun {
    /// A run that has just been submitted through `uploader`.
    pub fn new(uploader: PeerId, columns: usize, now: Millis) -> Self {
        Self {
            uploader,
            upload_attempt: Attempt(1),
            columns: vec![ColumnRecord::open(); columns],
            spares: Vec::new(),
            failed: Vec::new(),
            segments: Vec::new(),
            exhausted: false,
            manifest: None,
            degraded: false,
            releasing: Vec::new(),
            upload_seq: 0,
            upload_seen_at: now,
        }
    }
    /// A sign of life from the uploader.
    pub(crate) fn record_upload(&mut self, now: Millis) {
        self.upload_seq = self.upload_seq.saturating_add(1);
        self.upload_seen_at = now;
    }
    /// Columns without a holder.
    pub fn open_columns(&self) -> usize {
        self.columns.iter().filter(|column| column.grant.is_none()).count()
    }
    /// Peers that must not be asked for this run: those that hold, wait as spares, or failed.
    pub fn known_holders(&self) -> impl Iterator<Item = PeerId> + '_ {
        let current = self.columns.iter().filter_map(|column| column.grant).chain(self.spares.iter().copied());
        current.chain(self.failed.iter().map(|(grant, _)| *grant)).map(|grant| grant.holder.peer)
    }
    /// Pieces that the current holders have synced, and pieces of the segments known so far.
    pub fn pieces_stored(&self) -> (usize, usize) {
        let stored = self.columns.iter().flat_map(|column| &column.stored).filter(|stored| **stored).count();
        (stored, self.segments.len() * self.columns.len())
    }
}
