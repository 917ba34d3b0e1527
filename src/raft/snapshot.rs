//! A group's snapshots: lists of content-addressed chunks in the record store.
//!
//! How a state becomes chunks is decided in `quorate_protocols::quorum::snapshot`: a change in one record leaves most
//! chunks as they were. So a chunk is kept once, a member that has an older snapshot fetches only what changed, and a
//! transfer that broke goes on where it stopped.
//!
//! Trees of a group: `raft.<quorum>.meta` (the current snapshot's record) and `raft.<quorum>.chunks` (digest → chunk).
//!
//! A chunk from a peer is checked against its name before it is kept, and again when it is read. Chunks that the
//! current snapshot does not name are deleted when it becomes current, and when another one is about to be fetched.

use std::collections::BTreeSet;
use std::sync::Arc;

use quorate_protocols::ids::{Digest, LogIndex, QuorumId};
use quorate_protocols::quorum::limits::SNAPSHOT_CHUNK_BYTES;
use quorate_protocols::quorum::{QuorumState, SnapshotView};
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::types::{LogId, SnapshotList, SnapshotMeta};
use crate::seams::{DiskError, KvBatch};
use crate::storage::Storage;

const SNAPSHOT: &[u8] = b"snapshot";

/// What the current snapshot is.
#[derive(Serialize, Deserialize)]
struct CurrentSnapshot((SnapshotMeta, SnapshotList));

impl Record for CurrentSnapshot {
    /// 1: first.
    const VERSION: u8 = 1;
}

/// Names of the trees of one group.
#[derive(Clone, Debug)]
pub struct Trees {
    meta: Arc<str>,
    pub chunks: Arc<str>,
}

impl Trees {
    pub fn of(quorum: QuorumId) -> Self {
        Self { meta: format!("raft.{quorum}.meta").into(), chunks: format!("raft.{quorum}.chunks").into() }
    }
    pub fn drop_all(&self) -> KvBatch {
        let mut batch = KvBatch::new();
        batch.drop_tree(&self.chunks).drop_tree(&self.meta);
        batch
    }
}

pub fn name_of(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
}

/// A group's snapshots in the record store. At most one is current; its chunks may be shared with the one before.
#[derive(Clone)]
pub struct SnapshotStore {
    storage: Storage,
    trees: Trees,
    /// Where the newest snapshot ends that is known to be synced: one is the current one before it is.
    synced: Arc<parking_lot::Mutex<Option<LogId>>>,
    /// Held while a snapshot is built here.
    pub building: Arc<Mutex<()>>,
}

impl SnapshotStore {
    pub fn new(storage: Storage, group: QuorumId) -> Self {
        Self { storage, trees: Trees::of(group), synced: Arc::default(), building: Arc::default() }
    }

    pub fn current(&self) -> Result<Option<(SnapshotMeta, SnapshotList)>, DiskError> {
        let Some(bytes) = self.storage.kv().get(&self.trees.meta, SNAPSHOT)? else { return Ok(None) };
        let current = wire::decode_record::<CurrentSnapshot>(&bytes);
        current
            .map(|current| Some(current.0))
            .map_err(|error| DiskError::Damaged { place: self.trees.meta.to_string(), reason: error.to_string() })
    }

    /// Up to where the log may go.
    pub fn synced(&self) -> Option<LogId> {
        *self.synced.lock()
    }

    /// A snapshot that ends here is synced: it was just now, or a start found it.
    pub fn set_synced(&self, last: Option<LogId>) {
        let mut synced = self.synced.lock();
        *synced = (*synced).max(last);
    }

    pub fn chunk(&self, name: Digest) -> Result<Option<Vec<u8>>, DiskError> {
        self.storage.kv().get(&self.trees.chunks, name.as_bytes())
    }

    /// Names in `list` that are not here, each once, in order of first appearance; and the bytes of the others.
    pub fn missing(&self, list: &SnapshotList) -> Result<(Vec<Digest>, usize), DiskError> {
        let mut seen = BTreeSet::new();
        let (mut missing, mut present) = (Vec::new(), 0);
        for &name in &list.chunks {
            if !seen.insert(name) {
                continue;
            }
            match self.chunk(name)? {
                Some(bytes) => present += bytes.len(),
                None => missing.push(name),
            }
        }
        Ok((missing, present))
    }

    /// Deletes the chunks that neither the current snapshot nor `list` names: those of a snapshot whose sender gave up.
    /// Does nothing while a snapshot is built here, whose chunks are named by none yet; and says so.
    pub fn delete_others(&self, list: &SnapshotList) -> Result<bool, DiskError> {
        let Ok(_not_building) = self.building.try_lock() else { return Ok(false) };
        let current = self.current()?;
        let current = current.iter().flat_map(|(_, current)| &current.chunks);
        self.delete_unnamed(&current.chain(&list.chunks).collect())?;
        Ok(true)
    }

    /// Keeps a chunk that was checked against its name. Durable with the next sync; losing it costs fetching it again.
    pub fn keep_chunk(&self, name: Digest, bytes: &[u8]) -> Result<(), DiskError> {
        let mut batch = KvBatch::new();
        batch.put(&self.trees.chunks, name.0, bytes);
        self.storage.kv().apply(batch)
    }

    /// Writes the chunks that are new; returns the list that names all of them.
    pub fn keep_state(&self, view: &SnapshotView, digest: (LogIndex, Digest)) -> Result<SnapshotList, DiskError> {
        let mut chunks = Vec::new();
        for (name, bytes) in view.encode() {
            if self.chunk(name)?.is_none() {
                self.keep_chunk(name, &bytes)?;
            }
            chunks.push(name);
        }
        Ok(SnapshotList { chunks, digest })
    }

    /// Puts a state together from its chunks.
    pub fn load(&self, list: &SnapshotList) -> Result<QuorumState, DiskError> {
        let damaged = |reason: String| DiskError::Damaged { place: self.trees.chunks.to_string(), reason };
        let read = |&name: &Digest| {
            let bytes = self.chunk(name)?.ok_or_else(|| damaged(format!("chunk {name} is missing")))?;
            if name_of(&bytes) == name { Ok(bytes) } else { Err(damaged(format!("chunk {name} has other bytes"))) }
        };
        let chunks: Vec<Vec<u8>> = list.chunks.iter().map(read).collect::<Result<_, DiskError>>()?;
        QuorumState::decode_snapshot(chunks).map_err(|error| damaged(error.to_string()))
    }

    /// Makes this the current snapshot, synced, and deletes chunks that it does not name. Changes nothing when the
    /// current one is newer: a build may outlive the group that began it, and the log before the newer one is gone.
    pub async fn make_current(&self, meta: &SnapshotMeta, list: &SnapshotList) -> Result<(), DiskError> {
        if self.current()?.is_some_and(|(current, _)| current.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        let mut batch = KvBatch::new();
        let current = CurrentSnapshot((meta.clone(), list.clone()));
        batch.put(&self.trees.meta, SNAPSHOT, wire::encode_record(&current));
        self.storage.write(batch).await?;
        self.set_synced(meta.last_log_id);
        self.delete_unnamed(&list.chunks.iter().collect())
    }

    fn delete_unnamed(&self, named: &BTreeSet<&Digest>) -> Result<(), DiskError> {
        let mut unnamed = KvBatch::new();
        let mut from = vec![];
        loop {
            // One key at a time beyond the first: values are large, and only the keys are wanted.
            let rows = self.storage.kv().range(&self.trees.chunks, &from, &[0xff; 33], 64, SNAPSHOT_CHUNK_BYTES)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            for (key, _) in rows {
                let known = <[u8; 32]>::try_from(key.as_slice()).is_ok_and(|name| named.contains(&Digest(name)));
                if !known {
                    unnamed.delete(&self.trees.chunks, key);
                }
            }
        }
        if unnamed.is_empty() { Ok(()) } else { self.storage.kv().apply(unnamed) }
    }
}
