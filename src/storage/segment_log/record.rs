//! The bytes of a segment: a header, then records, each a batch of one group or the seal that ends the segment.
//!
//! ```text
//! header  "quorlog" | version: u8 | sequence: u64 | link: u32 | checksum of all before: u32
//! record  length of the body: u32 | checksum of the link, the length and the body: u32 | body
//! body    0 | group: 16 bytes | operations          a batch
//!         1                                         the seal
//! op      1 | first: u64 | count: u32 | length of each entry: u32 ... | the entries      append
//!         2 | length of the key: u8 | length of the value: u32 | key | value             put
//!         3 | from: u64                                                                  truncate
//!         4 | upto: u64                                                                  purge
//!         5                                                                              drop
//! ```
//!
//! Numbers are little-endian, and checksums CRC-32. The *link* of a record is the checksum of the one before it, of the
//! first record that of the header, of a header that of the seal before it. So a record is read only behind the very
//! record that it was written behind: what a torn write left on the disk is never taken for one that came later.

use quorate_protocols::ids::QuorumId;

use crate::seams::log_engine::LOG_KEY_BYTES_MAX;
use crate::seams::{LogBatch, LogOp};

const MAGIC: &[u8; 7] = b"quorlog";

/// Version 1: first.
const VERSION: u8 = 1;

pub(super) const HEADER_BYTES: usize = 24;

/// Length and checksum of a record.
const HEAD_BYTES: usize = 8;

const BATCH: u8 = 0;
const SEAL: u8 = 1;

const APPEND: u8 = 1;
const PUT: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;
const DROP: u8 = 5;

/// A batch that does not fit the format.
#[derive(Debug, thiserror::Error)]
#[error("{what} of {bytes} bytes is too large for a log")]
pub(super) struct TooLarge {
    what: &'static str,
    bytes: usize,
}

/// A record that passed its checksum and means nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it is none of a log")]
    NoHeader,
    #[error("it has version {0}, which this build does not read")]
    Version(u8),
    #[error("a record ends in the middle of an operation")]
    Short,
    #[error("an unknown operation {0}")]
    Operation(u8),
    #[error("an unknown record {0}")]
    Record(u8),
}

pub(super) fn header(sequence: u64, link: u32) -> ([u8; HEADER_BYTES], u32) {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..7].copy_from_slice(MAGIC);
    bytes[7] = VERSION;
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes[16..20].copy_from_slice(&link.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..20]);
    bytes[20..].copy_from_slice(&sum.to_le_bytes());
    (bytes, sum)
}

/// The sequence number in a header, the link to the segment before, and the link of the first record.
pub(super) fn read_header(bytes: &[u8]) -> Result<(u64, u32, u32), Malformed> {
    let mut input = Input(bytes);
    let head = input.take_bytes(20).ok_or(Malformed::NoHeader)?;
    let sum = input.u32().ok_or(Malformed::NoHeader)?;
    if !head.starts_with(MAGIC) {
        return Err(Malformed::NoHeader);
    }
    if head[7] != VERSION {
        return Err(Malformed::Version(head[7]));
    }
    if crc32fast::hash(head) != sum {
        return Err(Malformed::NoHeader);
    }
    let mut rest = Input(&head[8..]);
    let (sequence, link) = (rest.u64().ok_or(Malformed::NoHeader)?, rest.u32().ok_or(Malformed::NoHeader)?);
    Ok((sequence, link, sum))
}

/// A record as it is written, with its place in the chain.
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    /// What the next record is linked to.
    pub(super) link: u32,
}

pub(super) fn encode_seal(link: u32) -> Encoded {
    let mut bytes = vec![0; HEAD_BYTES];
    bytes.push(SEAL);
    finish(bytes, 1, link)
}

pub(super) fn encode(batch: &LogBatch, link: u32) -> Result<Encoded, TooLarge> {
    let mut bytes = Vec::with_capacity(64 + batch.bytes_added());
    bytes.extend([0; HEAD_BYTES]);
    bytes.push(BATCH);
    bytes.extend(batch.group.0);
    for op in &batch.ops {
        match op {
            LogOp::Append { first, entries } => {
                bytes.push(APPEND);
                bytes.extend(first.to_le_bytes());
                bytes.extend(length("a batch", entries.len())?.to_le_bytes());
                for entry in entries {
                    bytes.extend(length("an entry", entry.len())?.to_le_bytes());
                }
                entries.iter().for_each(|entry| bytes.extend_from_slice(entry));
            }
            LogOp::Put { key, value } => {
                let key_length = u8::try_from(key.len());
                bytes.push(PUT);
                bytes.push(key_length.map_err(|_| TooLarge { what: "a key", bytes: key.len() })?);
                bytes.extend(length("a value", value.len())?.to_le_bytes());
                bytes.extend_from_slice(key);
                bytes.extend_from_slice(value);
            }
            LogOp::Truncate { from } => {
                bytes.push(TRUNCATE);
                bytes.extend(from.to_le_bytes());
            }
            LogOp::Purge { upto } => {
                bytes.push(PURGE);
                bytes.extend(upto.to_le_bytes());
            }
            LogOp::Drop => bytes.push(DROP),
        }
    }
    let body = length("a batch", bytes.len() - HEAD_BYTES)?;
    Ok(finish(bytes, body, link))
}

const _: () = assert!(LOG_KEY_BYTES_MAX == u8::MAX as usize);

fn length(what: &'static str, bytes: usize) -> Result<u32, TooLarge> {
    u32::try_from(bytes).map_err(|_| TooLarge { what, bytes })
}

fn finish(mut bytes: Vec<u8>, body: u32, link: u32) -> Encoded {
    bytes[..4].copy_from_slice(&body.to_le_bytes());
    let sum = checksum(link, &bytes[..4], &bytes[HEAD_BYTES..]);
    bytes[4..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
    Encoded { bytes, link: sum }
}

fn checksum(link: u32, length: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&link.to_le_bytes());
    hasher.update(length);
    hasher.update(body);
    hasher.finalize()
}

/// One change of a group, with its entries where they lie in the segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Append { first: u64, entries: Vec<Stored> },
    Put { key: Vec<u8>, value: Vec<u8> },
    Truncate { from: u64 },
    Purge { upto: u64 },
    Drop,
}

/// Bytes of a segment, and their own checksum: they are read without the record around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) checksum: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Batch(QuorumId, Vec<Change>),
    Seal,
}

/// A record that was read, where the next one begins, and its link.
pub(super) struct Read {
    pub(super) record: Record,
    pub(super) end: usize,
    pub(super) link: u32,
}

/// Reads the record at `start` of a segment; `None` when none was written there behind the one that `link` names.
pub(super) fn read(segment: &[u8], start: usize, link: u32) -> Result<Option<Read>, Malformed> {
    let mut input = Input(segment.get(start..).unwrap_or_default());
    let Some(head) = input.take_bytes(HEAD_BYTES) else { return Ok(None) };
    let mut numbers = Input(head);
    let (Some(length), Some(sum)) = (numbers.u32(), numbers.u32()) else { return Ok(None) };
    let Some(body) = input.take_bytes(length as usize).filter(|body| !body.is_empty()) else { return Ok(None) };
    if checksum(link, &head[..4], body) != sum {
        return Ok(None);
    }
    let begin = start + HEAD_BYTES;
    Ok(Some(Read { record: changes(body, begin as u64)?, end: begin + body.len(), link: sum }))
}

/// The changes of a record as it was encoded at `offset` of a segment.
pub(super) fn placed(encoded: &Encoded, offset: u64) -> Result<Record, Malformed> {
    changes(&encoded.bytes[HEAD_BYTES..], offset + HEAD_BYTES as u64)
}

fn changes(body: &[u8], offset: u64) -> Result<Record, Malformed> {
    let mut input = Input(body);
    match input.u8() {
        Some(SEAL) => return Ok(Record::Seal),
        Some(BATCH) => (),
        kind => return Err(Malformed::Record(kind.unwrap_or_default())),
    }
    let group = input.take_bytes(16).and_then(|id| id.try_into().ok()).map(QuorumId).ok_or(Malformed::Short)?;
    let mut changes = Vec::new();
    while let Some(op) = input.u8() {
        let at = |input: &Input<'_>| offset + (body.len() - input.0.len()) as u64;
        changes.push(match op {
            APPEND => {
                let first = input.u64().ok_or(Malformed::Short)?;
                let count = input.u32().ok_or(Malformed::Short)?;
                let table = usize::try_from(count).ok().and_then(|count| input.take_bytes(count.checked_mul(4)?));
                let mut lengths = Input(table.ok_or(Malformed::Short)?);
                let mut entries = Vec::new();
                while let Some(length) = lengths.u32() {
                    let offset = at(&input);
                    let bytes = input.take_bytes(length as usize).ok_or(Malformed::Short)?;
                    entries.push(Stored { offset, length, checksum: crc32fast::hash(bytes) });
                }
                Change::Append { first, entries }
            }
            PUT => {
                let key = input.u8().ok_or(Malformed::Short)?;
                let value = input.u32().ok_or(Malformed::Short)?;
                let key = input.take_bytes(key.into()).ok_or(Malformed::Short)?.to_vec();
                let value = input.take_bytes(value as usize).ok_or(Malformed::Short)?.to_vec();
                Change::Put { key, value }
            }
            TRUNCATE => Change::Truncate { from: input.u64().ok_or(Malformed::Short)? },
            PURGE => Change::Purge { upto: input.u64().ok_or(Malformed::Short)? },
            DROP => Change::Drop,
            other => return Err(Malformed::Operation(other)),
        });
    }
    Ok(Record::Batch(group, changes))
}

/// What is left to be read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take_bytes(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take_bytes(1).map(|bytes| bytes[0])
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take_bytes(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take_bytes(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> LogBatch {
        let mut batch = LogBatch::of(QuorumId([7; 16]));
        batch.append(3, vec![b"three".to_vec(), Vec::new(), b"five".to_vec()]);
        batch.put(b"vote", b"yes").truncate(9).purge(1).drop_group();
        batch
    }

    #[test]
    fn a_record_reads_back_behind_the_one_that_it_was_written_behind() {
        let (header, link) = header(4, 77);
        assert_eq!(read_header(&header), Ok((4, 77, link)));
        let encoded = encode(&batch(), link).expect("it fits");
        let segment = [&header[..], &encoded.bytes, &encode_seal(encoded.link).bytes].concat();
        let first = read(&segment, HEADER_BYTES, link).expect("well formed").expect("there");
        let Record::Batch(group, changes) = &first.record else { panic!("a batch") };
        assert_eq!((*group, changes.len()), (QuorumId([7; 16]), 5));
        let Change::Append { first: 3, entries } = &changes[0] else { panic!("{changes:?}") };
        let bytes = |stored: &Stored| &segment[stored.offset as usize..][..stored.length as usize];
        assert_eq!(entries.iter().map(bytes).collect::<Vec<_>>(), [&b"three"[..], b"", b"five"]);
        assert_eq!(placed(&encoded, HEADER_BYTES as u64).expect("well formed"), first.record);
        let seal = read(&segment, first.end, first.link).expect("well formed").expect("there");
        assert_eq!((seal.record, seal.end), (Record::Seal, segment.len()));
        assert!(read(&segment, HEADER_BYTES, link + 1).expect("no record").is_none(), "behind another one");
        assert!(read(&segment, first.end, link).expect("no record").is_none(), "without the one between");
    }

    #[test]
    fn no_byte_of_a_record_may_differ() {
        let encoded = encode(&batch(), 5).expect("it fits");
        for at in 0..encoded.bytes.len() {
            let mut bytes = encoded.bytes.clone();
            bytes[at] ^= 1;
            assert!(!matches!(read(&bytes, 0, 5), Ok(Some(_))), "byte {at}");
            assert!(!matches!(read(&encoded.bytes[..at], 0, 5), Ok(Some(_))), "{at} bytes of it");
        }
        assert!(read(&[0; 100], 0, 5).expect("no record").is_none(), "zeros are no record");
    }

    #[test]
    fn a_header_of_another_kind_or_version_is_told_apart() {
        let (mut bytes, _) = header(1, 0);
        assert_eq!(read_header(&bytes[..23]), Err(Malformed::NoHeader));
        bytes[7] = 9;
        assert_eq!(read_header(&bytes), Err(Malformed::Version(9)));
        bytes[0] = 0;
        assert_eq!(read_header(&bytes), Err(Malformed::NoHeader));
    }
}
