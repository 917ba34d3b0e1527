//! The pieces that this node keeps, and the index that says for whom.
//!
//! A piece is a file named by its hash; everything else is records:
//!
//! ```text
//! pieces.columns   job column              → ColumnRow: attempt, lease, writer, state, bytes
//! pieces.held      job column segment      → HeldRow: hash, length
//! pieces.refs      hash job column segment → nothing: who refers to a piece; a count is a scan over the prefix
//! pieces.damaged   hash                    → nothing: the file is missing or rotten, do not offer it
//! ```
//!
//! Promises: a piece is acknowledged after its file and then its records are synced, so a crash leaves at worst a file
//! without records (an orphan, collected by [`PieceStore::sweep`] after a quarantine) and never a record of a file that
//! was not written. A record whose file is gone all the same is *damaged*, and not offered. A piece is deleted only
//! when no record refers to it. Whether a column may be changed is judged before and after the file is written
//! ([`Admission`]): by its attempt, its lease, whether it is sealed, and the room that the lease has left.
//!
//! It does not check who asks or what hashes mean: that is the holder service's work.

mod admission;
mod keys;
mod sweep;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quorate_protocols::approval::Writer;
use quorate_protocols::ids::{Attempt, JobId, LeaseId, ManifestHash, Millis, PieceHash, PieceIndex, SegmentIndex};
use quorate_protocols::object::CheckedPiece;
use quorate_protocols::piece::Slot;
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};

use crate::seams::{Clock, DiskError, Failpoint, KvBatch, failpoint, run_blocking};
use crate::storage::Storage;
use admission::Admitted;
use keys::{
    COLUMN_KEY, HELD_KEY, REF_KEY, column_key, decode_row, held_key, parse_column_key, parse_hash, parse_segment,
    read_record, ref_key, successor,
};

pub use admission::{Admission, Permit};
pub use sweep::Swept;

/// The tree of the rows of columns.
pub const COLUMNS: &str = "pieces.columns";
const HELD: &str = "pieces.held";
const REFS: &str = "pieces.refs";
const DAMAGED: &str = "pieces.damaged";

/// Records read at once while scanning the index.
const PAGE: usize = 512;
const PAGE_BYTES: usize = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("attempt {given} of this column was replaced by attempt {newest}")]
    StaleAttempt { given: Attempt, newest: Attempt },
    #[error("the column was released")]
    Released,
    #[error("the lease is for another column or attempt")]
    LeaseUsed,
    #[error("the column is sealed, and no repair changes it")]
    Settled,
    #[error("the lease has no room for the piece")]
    OverLease,
    #[error("nothing of this column is held")]
    NotHeld,
    #[error("{missing} pieces of the column are missing, the first of segment {first}")]
    Incomplete { missing: u32, first: SegmentIndex },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// How far the promise for a column has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldState {
    Filling,
    /// A receipt was signed.
    Sealed,
    /// The steward said that the object is committed.
    Confirmed {
        manifest: ManifestHash,
    },
    /// Let go. The row stays for a while so that a late piece of the same attempt is refused.
    Released {
        at: Millis,
    },
}

/// One column of one run, in the newest assignment that this holder has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnRow {
    pub attempt: Attempt,
    pub lease: LeaseId,
    /// Who filled it last: an uploader, or the quorum by a repair.
    pub writer: Writer,
    pub state: HoldState,
    /// Bytes of all its pieces here.
    pub bytes: u64,
}

impl ColumnRow {
    /// An assignment that begins here.
    fn filling(slot: Slot, permit: Permit) -> Self {
        let Permit { lease, writer } = permit;
        Self { attempt: slot.attempt, lease, writer, state: HoldState::Filling, bytes: 0 }
    }
}

impl Record for ColumnRow {
    /// 1: first. 2: the writer and the bytes.
    const VERSION: u8 = 2;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRow {
    pub hash: PieceHash,
    pub bytes: u32,
}

impl Record for HeldRow {
    /// 1: first.
    const VERSION: u8 = 1;
}

/// A piece read from disk. Its bytes are what the disk gave: only their length was compared with the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadPiece {
    Bytes(Bytes),
    /// No record refers to it.
    NotHeld,
    /// It should be here and is not, or not whole. It has been marked.
    Damaged {
        reason: String,
    },
}

#[derive(Clone)]
pub struct PieceStore {
    inner: Arc<Inner>,
}

struct Inner {
    storage: Storage,
    clock: Arc<dyn Clock>,
    /// Held for the read-decide-apply of an index change, never across an await.
    index: Mutex<()>,
    /// Writers of pieces share it; the sweep takes it alone, so that no file is deleted between the moment a writer
    /// found it in place and the moment its record appears.
    files: tokio::sync::RwLock<()>,
    /// When each unreferenced piece was first seen so, on the monotonic clock: a restart starts the quarantine anew.
    quarantine: Mutex<BTreeMap<PieceHash, Millis>>,
}

impl PieceStore {
    pub fn new(storage: Storage, clock: Arc<dyn Clock>) -> Self {
        Self {
            inner: Arc::new(Inner {
                storage,
                clock,
                index: Mutex::new(()),
                files: tokio::sync::RwLock::new(()),
                quarantine: Mutex::new(BTreeMap::new()),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.inner.index.lock()
    }

    /// Stores one piece of a column and returns once it and its records would survive a power loss: with the lease of
    /// the assignment that it took the column over from, if it did. `has_room` says whether the lease reserves, or can,
    /// so many bytes for the column.
    pub async fn put(
        &self,
        slot: Slot,
        permit: Permit,
        segment: SegmentIndex,
        piece: CheckedPiece,
        has_room: impl Fn(u64) -> bool + Send + Sync,
    ) -> Result<Option<LeaseId>, StoreError> {
        let (hash, length) = (piece.hash(), piece.bytes().len() as u32);
        {
            let _index = self.lock();
            self.admit(slot, permit, Some((segment, hash, length)), &has_room)?;
        }
        let writing = self.inner.files.read().await;
        let damaged = self.is_damaged(piece.hash())?;
        let files = self.inner.storage.files();
        run_blocking(move || {
            if damaged {
                // `write_piece` trusts a file that is there; this one is known to be bad.
                files.remove_piece(hash)?;
            }
            files.write_piece(hash, piece.bytes())
        })
        .await?;
        let (synced, replaced) = {
            let _index = self.lock();
            // Again: while the file was written, the column may have gone to a newer attempt.
            let (mut row, mut batch, replaced) = self.admit(slot, permit, Some((segment, hash, length)), &has_room)?;
            let key = held_key(slot.job, slot.column, segment);
            let old = self.held_row(&key)?;
            row.bytes = bytes_with(row.bytes, old, length);
            if let Some(old) = old.filter(|old| old.hash != hash) {
                batch.delete(REFS, ref_key(old.hash, &key));
            }
            batch.put(COLUMNS, column_key(slot.job, slot.column), wire::encode_record(&row));
            batch.put(REFS, ref_key(hash, &key), []);
            batch.put(HELD, key, wire::encode_record(&HeldRow { hash, bytes: length }));
            if damaged {
                batch.delete(DAMAGED, hash.0);
            }
            (self.apply(batch)?, replaced)
        };
        drop(writing);
        synced.await.map(|()| replaced)
    }

    /// Begins an assignment of the column, so that what was held before counts for it or not, and returns as
    /// [`Self::put`] does. One that goes on is left as it is.
    pub async fn begin(&self, slot: Slot, permit: Permit) -> Result<Option<LeaseId>, StoreError> {
        let (synced, replaced) = {
            let _index = self.lock();
            let (row, mut batch, replaced) = self.admit(slot, permit, None, &|_| true)?;
            if self.column(slot.job, slot.column)? == Some(row) {
                return Ok(None);
            }
            batch.put(COLUMNS, column_key(slot.job, slot.column), wire::encode_record(&row));
            (self.apply(batch)?, replaced)
        };
        synced.await.map(|()| replaced)
    }

    /// The row with which a change of this slot may be made, what must be deleted with it, and the lease of the row
    /// that it takes the place of.
    fn admit(
        &self,
        slot: Slot,
        permit: Permit,
        piece: Option<(SegmentIndex, PieceHash, u32)>,
        has_room: &(dyn Fn(u64) -> bool + Send + Sync),
    ) -> Result<(ColumnRow, KvBatch, Option<LeaseId>), StoreError> {
        let row = self.column(slot.job, slot.column)?;
        let bytes = row.map_or(0, |row| row.bytes);
        let (is_unchanged, bytes_after) = match piece {
            Some((segment, hash, length)) => {
                let old = self.held_row(&held_key(slot.job, slot.column, segment))?;
                (old.is_some_and(|old| old.hash == hash), bytes_with(bytes, old, length))
            }
            None => (true, bytes),
        };
        let mut admission = Admission {
            slot,
            permit,
            row,
            is_lease_used: row.is_none_or(|row| row.lease != permit.lease) && self.is_lease_used(slot, permit.lease)?,
            is_unchanged,
            needs_room: bytes_after > bytes,
        };
        failpoint(Failpoint::PieceAdmitted, &mut admission);
        let admitted = admission.judge()?;
        // Last, for a stream's lease grows by it.
        if admission.needs_room && !has_room(bytes_after) {
            return Err(StoreError::OverLease);
        }
        let mut batch = KvBatch::new();
        let begun = match admitted {
            Admitted::Present(row) => return Ok((ColumnRow { writer: permit.writer, ..row }, batch, None)),
            Admitted::Following => ColumnRow { bytes, ..ColumnRow::filling(slot, permit) },
            Admitted::Anew => {
                for (segment, held) in self.held(slot.job, slot.column, SegmentIndex(0), usize::MAX)? {
                    delete_held(&mut batch, &held_key(slot.job, slot.column, segment), held);
                }
                ColumnRow::filling(slot, permit)
            }
        };
        Ok((begun, batch, row.map(|row| row.lease).filter(|lease| *lease != permit.lease)))
    }

    /// Whether the lease fills another column of the run than the slot's.
    fn is_lease_used(&self, slot: Slot, lease: LeaseId) -> Result<bool, StoreError> {
        let (start, end) = (column_key(slot.job, PieceIndex(0)), successor(column_key(slot.job, PieceIndex(u8::MAX))));
        for (key, value) in self.inner.storage.kv().range(COLUMNS, &start, &end, PAGE, PAGE_BYTES)? {
            let row: ColumnRow = decode_row(COLUMNS, &key, &value)?;
            if row.lease == lease && parse_column_key(&key)?.1 != slot.column {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes a batch visible now; the future ends when it is durable.
    fn apply(&self, batch: KvBatch) -> Result<impl Future<Output = Result<(), StoreError>> + Send + use<>, StoreError> {
        let (send, receive) = tokio::sync::oneshot::channel();
        self.inner.storage.write_then(batch, move |result| drop(send.send(result)))?;
        Ok(async move {
            match receive.await {
                Ok(result) => result.map_err(StoreError::from),
                Err(_) => Err(StoreError::Disk(DiskError::Io {
                    what: "sync",
                    place: "the piece index".into(),
                    reason: "the storage actor stopped".into(),
                })),
            }
        })
    }

    /// The column's row, released ones included.
    pub fn column(&self, job: JobId, column: PieceIndex) -> Result<Option<ColumnRow>, StoreError> {
        read_record(&self.inner.storage, COLUMNS, &column_key(job, column))
    }

    fn held_row(&self, key: &[u8]) -> Result<Option<HeldRow>, StoreError> {
        read_record(&self.inner.storage, HELD, key)
    }

    pub fn is_damaged(&self, hash: PieceHash) -> Result<bool, StoreError> {
        Ok(self.inner.storage.kv().get(DAMAGED, &hash.0)?.is_some())
    }

    /// Columns after `after` in order, at most `limit`.
    pub fn columns(
        &self,
        after: Option<(JobId, PieceIndex)>,
        limit: usize,
    ) -> Result<Vec<(JobId, PieceIndex, ColumnRow)>, StoreError> {
        let from = after.map_or(Vec::new(), |(job, column)| successor(column_key(job, column)));
        let rows = self.inner.storage.kv().range(COLUMNS, &from, &[0xff; COLUMN_KEY + 1], limit, PAGE_BYTES)?;
        rows.into_iter()
            .map(|(key, value)| {
                let (job, column) = parse_column_key(&key)?;
                Ok((job, column, decode_row(COLUMNS, &key, &value)?))
            })
            .collect()
    }

    /// Pieces of the column from `from` on, damaged ones included, at most `limit`, in order of the segments.
    pub fn held(
        &self,
        job: JobId,
        column: PieceIndex,
        from: SegmentIndex,
        limit: usize,
    ) -> Result<Vec<(SegmentIndex, HeldRow)>, StoreError> {
        let (mut start, end) = (held_key(job, column, from), successor(held_key(job, column, SegmentIndex(u32::MAX))));
        let mut found = Vec::new();
        while found.len() < limit {
            let page = (limit - found.len()).min(PAGE);
            let rows = self.inner.storage.kv().range(HELD, &start, &end, page, PAGE_BYTES)?;
            let Some((last, _)) = rows.last() else { break };
            start = successor(last.clone());
            for (key, value) in &rows {
                found.push((parse_segment(key)?, decode_row(HELD, key, value)?));
            }
        }
        Ok(found)
    }

    /// Whether exactly this piece is held for the slot and not known to be damaged.
    pub fn holds(&self, slot: Slot, segment: SegmentIndex, hash: PieceHash) -> Result<bool, StoreError> {
        let row = self.held_row(&held_key(slot.job, slot.column, segment))?;
        Ok(row.is_some_and(|row| row.hash == hash) && !self.is_damaged(hash)?)
    }

    /// Marks the column sealed, if every one of `pieces` is there. Durable on return; returns as [`Self::put`] does. A
    /// column that is sealed has these pieces and no others, or the seal is refused.
    pub async fn seal(&self, slot: Slot, permit: Permit, pieces: &[PieceHash]) -> Result<Option<LeaseId>, StoreError> {
        let (synced, replaced) = {
            let _index = self.lock();
            let (mut row, mut batch, replaced) = self.admit(slot, permit, None, &|_| true)?;
            // Of a column that begins anew nothing counts.
            let counted = if batch.ops.is_empty() { usize::MAX } else { 0 };
            let held: BTreeMap<SegmentIndex, HeldRow> =
                self.held(slot.job, slot.column, SegmentIndex(0), counted)?.into_iter().collect();
            let mut missing = (0, SegmentIndex(0));
            for (segment, hash) in (0..).map(SegmentIndex).zip(pieces) {
                let there = held.get(&segment).is_some_and(|row| row.hash == *hash) && !self.is_damaged(*hash)?;
                if !there {
                    missing = (missing.0 + 1, if missing.0 == 0 { segment } else { missing.1 });
                }
            }
            if missing.0 > 0 {
                return Err(StoreError::Incomplete { missing: missing.0, first: missing.1 });
            }
            let excess = held.range(SegmentIndex(pieces.len() as u32)..);
            if row.state != HoldState::Filling && excess.clone().next().is_some() {
                return Err(StoreError::Settled);
            }
            // Left over from a longer file under the same run: cannot be, but would be kept for ever.
            for (segment, left) in excess {
                delete_held(&mut batch, &held_key(slot.job, slot.column, *segment), *left);
                row.bytes = row.bytes.saturating_sub(u64::from(left.bytes));
            }
            if row.state == HoldState::Filling {
                row.state = HoldState::Sealed;
            }
            batch.put(COLUMNS, column_key(slot.job, slot.column), wire::encode_record(&row));
            (self.apply(batch)?, replaced)
        };
        synced.await.map(|()| replaced)
    }

    /// The object is committed: keep the column for good. Repeating it changes nothing. A column that nobody signed
    /// for, or of another lease, is not the object's.
    pub async fn confirm(&self, slot: Slot, lease: LeaseId, manifest: ManifestHash) -> Result<ColumnRow, StoreError> {
        let (row, synced) = {
            let _index = self.lock();
            let mut row = self.column(slot.job, slot.column)?.ok_or(StoreError::NotHeld)?;
            if row.attempt > slot.attempt {
                return Err(StoreError::StaleAttempt { given: slot.attempt, newest: row.attempt });
            }
            let is_signed_for = matches!(row.state, HoldState::Sealed | HoldState::Confirmed { .. });
            if row.attempt < slot.attempt || row.lease != lease || !is_signed_for {
                return Err(StoreError::NotHeld);
            }
            row.state = HoldState::Confirmed { manifest };
            let mut batch = KvBatch::new();
            batch.put(COLUMNS, column_key(slot.job, slot.column), wire::encode_record(&row));
            failpoint(Failpoint::ColumnConfirmed, &mut batch);
            (row, self.apply(batch)?)
        };
        synced.await?;
        Ok(row)
    }

    /// Lets go of the column unless a newer attempt of it is here. Its pieces become unreferenced and leave through the
    /// quarantine. Returns the row of what was let go.
    pub async fn release(&self, slot: Slot) -> Result<Option<ColumnRow>, StoreError> {
        let (row, synced) = {
            let _index = self.lock();
            let Some(row) = self.column(slot.job, slot.column)? else { return Ok(None) };
            if row.attempt > slot.attempt || matches!(row.state, HoldState::Released { .. }) {
                return Ok(None);
            }
            let held = self.held(slot.job, slot.column, SegmentIndex(0), usize::MAX)?;
            let mut batch = KvBatch::new();
            let state = HoldState::Released { at: self.inner.clock.wall() };
            let released = ColumnRow { attempt: slot.attempt, state, bytes: 0, ..row };
            batch.put(COLUMNS, column_key(slot.job, slot.column), wire::encode_record(&released));
            for (segment, row) in &held {
                delete_held(&mut batch, &held_key(slot.job, slot.column, *segment), *row);
            }
            failpoint(Failpoint::ColumnReleased, &mut batch);
            (row, self.apply(batch)?)
        };
        synced.await?;
        Ok(Some(row))
    }

    /// Forgets a released column: its lease has long ended, so a late piece is refused for that.
    pub async fn forget(&self, job: JobId, column: PieceIndex) -> Result<(), StoreError> {
        let synced = {
            let _index = self.lock();
            match self.column(job, column)?.map(|row| row.state) {
                Some(HoldState::Released { .. }) => {
                    let mut batch = KvBatch::new();
                    batch.delete(COLUMNS, column_key(job, column));
                    self.apply(batch)?
                }
                _ => return Ok(()),
            }
        };
        synced.await
    }

    /// Reads a piece that some record refers to. A piece that is gone or of another length is marked damaged.
    pub async fn read(&self, hash: PieceHash) -> Result<ReadPiece, StoreError> {
        let Some(length) = self.referred_length(hash)? else { return Ok(ReadPiece::NotHeld) };
        if self.is_damaged(hash)? {
            return Ok(ReadPiece::Damaged { reason: "known to be damaged".into() });
        }
        let files = self.inner.storage.files();
        let reason = match run_blocking(move || files.read_piece(hash)).await? {
            Some(bytes) if bytes.len() == length as usize => return Ok(ReadPiece::Bytes(bytes)),
            Some(bytes) => format!("{} bytes long, expected {length}", bytes.len()),
            None => "the file is gone".into(),
        };
        self.mark_damaged(hash).await?;
        Ok(ReadPiece::Damaged { reason })
    }

    /// Reads a piece and hashes it; marks it damaged when it is not what it should be.
    pub async fn verify(&self, hash: PieceHash) -> Result<ReadPiece, StoreError> {
        let bytes = match self.read(hash).await? {
            ReadPiece::Bytes(bytes) => bytes,
            other => return Ok(other),
        };
        match run_blocking(move || CheckedPiece::check(hash, bytes)).await {
            Ok(piece) => Ok(ReadPiece::Bytes(piece.into_bytes())),
            Err(fault) => {
                self.mark_damaged(hash).await?;
                Ok(ReadPiece::Damaged { reason: fault.to_string() })
            }
        }
    }

    pub async fn mark_damaged(&self, hash: PieceHash) -> Result<(), StoreError> {
        let synced = {
            let _index = self.lock();
            let mut batch = KvBatch::new();
            batch.put(DAMAGED, hash.0, []);
            self.apply(batch)?
        };
        synced.await
    }

    /// Damaged pieces after `after` in order, at most `limit`.
    pub fn damaged(&self, after: Option<PieceHash>, limit: usize) -> Result<Vec<PieceHash>, StoreError> {
        let from = after.map_or(Vec::new(), |hash| successor(hash.0.to_vec()));
        let rows = self.inner.storage.kv().range(DAMAGED, &from, &[0xff; PieceHash::LEN + 1], limit, PAGE_BYTES)?;
        rows.iter().map(|(key, _)| parse_hash(key)).collect()
    }

    /// Columns that a piece belongs to, at most `limit`.
    pub fn columns_with(&self, hash: PieceHash, limit: usize) -> Result<Vec<(JobId, PieceIndex)>, StoreError> {
        let mut end = hash.0.to_vec();
        end.extend_from_slice(&[0xff; HELD_KEY + 1]);
        let rows = self.inner.storage.kv().range(REFS, &hash.0, &end, limit, PAGE_BYTES)?;
        let column = |key: &[u8]| key.get(PieceHash::LEN..PieceHash::LEN + COLUMN_KEY).map(parse_column_key);
        rows.iter().filter_map(|(key, _)| column(key)).collect()
    }

    /// Takes the mark off a damaged piece that nobody refers to any more and that has no file. One that has a file
    /// keeps its mark until the file is deleted: a writer would believe the file.
    pub async fn forget_damaged(&self, hash: PieceHash) -> Result<(), StoreError> {
        let _alone = self.inner.files.write().await;
        let files = self.inner.storage.files();
        if self.first_ref(hash)?.is_none() && run_blocking(move || files.read_piece(hash)).await?.is_none() {
            let mut batch = KvBatch::new();
            batch.delete(DAMAGED, hash.0);
            // Not waited for: a mark without a piece says nothing.
            drop(self.apply(batch)?);
        }
        Ok(())
    }

    /// The length that the index gives for a piece, if any record refers to it.
    fn referred_length(&self, hash: PieceHash) -> Result<Option<u32>, StoreError> {
        let Some(key) = self.first_ref(hash)? else { return Ok(None) };
        Ok(self.held_row(&key[PieceHash::LEN..])?.map(|row| row.bytes))
    }

    fn first_ref(&self, hash: PieceHash) -> Result<Option<Vec<u8>>, StoreError> {
        let mut end = hash.0.to_vec();
        end.extend_from_slice(&[0xff; HELD_KEY + 1]);
        Ok(self.inner.storage.kv().range(REFS, &hash.0, &end, 1, PAGE_BYTES)?.into_iter().next().map(|(key, _)| key))
    }

    /// The next piece after `after` that some record refers to: the scrubber's walk.
    pub fn next_referred(&self, after: Option<PieceHash>) -> Result<Option<PieceHash>, StoreError> {
        let mut from = after.map_or(Vec::new(), |hash| hash.0.to_vec());
        if after.is_some() {
            from.extend_from_slice(&[0xff; HELD_KEY + 1]);
        }
        let end = [0xff; REF_KEY + 1];
        let row = self.inner.storage.kv().range(REFS, &from, &end, 1, PAGE_BYTES)?.into_iter().next();
        row.map(|(key, _)| parse_hash(&key)).transpose()
    }
}

/// What a column takes up when a piece of this length comes to a place that has `old`.
fn bytes_with(bytes: u64, old: Option<HeldRow>, length: u32) -> u64 {
    bytes.saturating_sub(old.map_or(0, |old| u64::from(old.bytes))).saturating_add(u64::from(length))
}

/// Takes a piece out of a column.
fn delete_held(batch: &mut KvBatch, key: &[u8], row: HeldRow) {
    batch.delete(REFS, ref_key(row.hash, key));
    batch.delete(HELD, key.to_vec());
}

/// Whether any column was ever stored here and is not forgotten.
pub fn has_columns(storage: &Storage) -> Result<bool, DiskError> {
    Ok(!storage.kv().range(COLUMNS, &[], &[0xff; COLUMN_KEY + 1], 1, PAGE_BYTES)?.is_empty())
}
