//! Keys and rows of the piece index. Keys sort by column, then by segment; references sort by piece.

use quorate_protocols::ids::{JobId, PieceHash, PieceIndex, QuorumId, SegmentIndex};
use quorate_protocols::wire::{self, DecodeError, Record};

use super::{COLUMNS, HELD, REFS, StoreError};
use crate::seams::DiskError;
use crate::storage::Storage;

pub(super) const COLUMN_KEY: usize = QuorumId::LEN + 16 + 1;
pub(super) const HELD_KEY: usize = COLUMN_KEY + 4;
pub(super) const REF_KEY: usize = PieceHash::LEN + HELD_KEY;

pub(super) fn column_key(job: JobId, column: PieceIndex) -> Vec<u8> {
    let mut key = Vec::with_capacity(REF_KEY);
    key.extend_from_slice(job.quorum.as_bytes());
    key.extend_from_slice(&job.local);
    key.push(column.0);
    key
}

pub(super) fn held_key(job: JobId, column: PieceIndex, segment: SegmentIndex) -> Vec<u8> {
    let mut key = column_key(job, column);
    key.extend_from_slice(&segment.0.to_be_bytes());
    key
}

pub(super) fn ref_key(hash: PieceHash, held: &[u8]) -> Vec<u8> {
    [hash.as_bytes(), held].concat()
}

/// The smallest key after this one.
pub(super) fn successor(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

pub(super) fn damaged_key(tree: &str, key: &[u8], reason: impl ToString) -> StoreError {
    StoreError::Disk(DiskError::Damaged { place: format!("{tree}/{}", hex::encode(key)), reason: reason.to_string() })
}

pub(super) fn parse_column_key(key: &[u8]) -> Result<(JobId, PieceIndex), StoreError> {
    let short = || damaged_key(COLUMNS, key, "key of another length");
    let (quorum, rest) = key.split_first_chunk::<16>().ok_or_else(short)?;
    let (local, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
    let [column] = rest else { return Err(short()) };
    Ok((JobId { quorum: QuorumId(*quorum), local: *local }, PieceIndex(*column)))
}

pub(super) fn parse_segment(key: &[u8]) -> Result<SegmentIndex, StoreError> {
    let bytes = key.last_chunk::<4>().ok_or_else(|| damaged_key(HELD, key, "key of another length"))?;
    Ok(SegmentIndex(u32::from_be_bytes(*bytes)))
}

pub(super) fn parse_hash(key: &[u8]) -> Result<PieceHash, StoreError> {
    let bytes = key.first_chunk::<32>().ok_or_else(|| damaged_key(REFS, key, "key of another length"))?;
    Ok(PieceHash(*bytes))
}

pub(super) fn decode_row<T: Record>(tree: &str, key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    wire::decode_record(value).map_err(|error: DecodeError| damaged_key(tree, key, error))
}

pub(super) fn read_record<T: Record>(storage: &Storage, tree: &str, key: &[u8]) -> Result<Option<T>, StoreError> {
    storage.kv().get(tree, key)?.map(|value| decode_row(tree, key, &value)).transpose()
}
