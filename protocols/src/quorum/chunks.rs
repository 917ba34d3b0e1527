//! The chunks of a snapshot: how a sub-state writes its rows, and how they are read back.

use std::collections::BTreeMap;

use serde::Serialize;

use super::limits::SNAPSHOT_CHUNK_BYTES;
use crate::shared_map::SharedMap;
use crate::wire::{self, DecodeError};

/// The version byte of every chunk: see [`super::snapshot`].
pub(super) const CHUNK_VERSION: u8 = 3;

/// One key in this many ends a chunk.
const KEYS_PER_CHUNK: u8 = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("chunk {chunk} cannot be read")]
    Decode {
        chunk: usize,
        #[source]
        source: DecodeError,
    },
    #[error("chunk {chunk} is {bytes} bytes long, more than the {limit} allowed")]
    TooLarge { chunk: usize, bytes: usize, limit: usize },
    #[error("the snapshot has {found} {what} and announced {expected}")]
    Count { what: &'static str, expected: u64, found: u64 },
    #[error("the snapshot does not begin with its head, or has two")]
    Head,
    #[error("records are out of order in chunk {chunk}")]
    Order { chunk: usize },
    #[error("the snapshot contradicts itself: {what}")]
    Invariant { what: String },
}

impl SnapshotError {
    pub(super) fn invariant(what: &str) -> Self {
        Self::Invariant { what: what.to_owned() }
    }
}

/// The positions of the sections in `Chunk`, for the writer, which never builds one.
#[derive(Clone, Copy)]
pub(super) enum Section {
    Jobs = 1,
    Objects = 2,
    Manifests = 3,
    Tasks = 4,
    Blobs = 5,
    Workers = 6,
    Stopping = 7,
    Emitters = 8,
    Links = 9,
}

/// Refuses a number of rows other than the head announced.
pub(super) fn check_count(what: &'static str, expected: u64, found: usize) -> Result<(), SnapshotError> {
    if expected != found as u64 {
        return Err(SnapshotError::Count { what, expected, found: found as u64 });
    }
    Ok(())
}

/// Keys that are not random by themselves, so that chunks end where their hashes say.
pub(super) fn scatter<K: Serialize>(key: &K) -> [u8; 32] {
    *blake3::hash(&wire::encode(key)).as_bytes()
}

pub(super) fn append<K: Ord, V>(map: &mut BTreeMap<K, V>, rows: impl IntoIterator<Item = (K, V)>) -> Option<()> {
    for (key, value) in rows {
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return None;
        }
        map.insert(key, value);
    }
    Some(())
}

pub(super) fn append_shared<K: Ord + Clone, V: Clone>(
    map: &mut SharedMap<K, V>,
    rows: impl IntoIterator<Item = (K, V)>,
) -> Option<()> {
    for (key, value) in rows {
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return None;
        }
        map.insert(key, value);
    }
    Some(())
}

/// The chunks of a snapshot that is being written.
pub(super) struct Chunks(pub(super) Vec<Vec<u8>>);

impl Chunks {
    /// Writes a section: each row encoded, with the key that says where a chunk ends.
    pub(super) fn write<'a>(&mut self, section: Section, rows: impl Iterator<Item = (&'a [u8], Vec<u8>)>) {
        // Version, section and count take at most this much.
        const HEADER_BYTES: usize = 16;
        let mut body = Vec::new();
        let mut count = 0u64;
        let mut flush = |body: &mut Vec<u8>, count: &mut u64| {
            if *count > 0 {
                let mut chunk = vec![CHUNK_VERSION];
                chunk.extend_from_slice(&wire::encode(&(section as u32, *count)));
                chunk.append(body);
                self.0.push(chunk);
                *count = 0;
            }
        };
        for (key, row) in rows {
            if HEADER_BYTES + body.len() + row.len() > SNAPSHOT_CHUNK_BYTES {
                flush(&mut body, &mut count);
            }
            body.extend_from_slice(&row);
            count += 1;
            // The last byte of a random id or a hash is as good as a hash of it.
            if key.last().is_some_and(|byte| byte % KEYS_PER_CHUNK == 0) {
                flush(&mut body, &mut count);
            }
        }
        flush(&mut body, &mut count);
    }
}
