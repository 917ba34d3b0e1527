//! The log of a node: what all its raft groups append, in one file after the other.
//!
//! The binary uses segment files (the node's `storage`); the simulator a model that loses what was not synced. A log
//! has an order, and a crash keeps a prefix of it: whatever is there again, everything before it is there too. So a
//! group's vote is kept with its entries, and neither comes back without what was written before it.

use std::time::Duration;

use quorate_protocols::ids::QuorumId;

use super::DiskError;

/// Changes of one group that become visible together, in this order. A batch is there whole or not at all.
#[derive(Clone, Debug)]
pub struct LogBatch {
    pub group: QuorumId,
    pub ops: Vec<LogOp>,
}

#[derive(Clone, Debug)]
pub enum LogOp {
    /// Puts entries at this index and those that follow it, in place of what is there.
    Append { first: u64, entries: Vec<Vec<u8>> },
    /// Keeps a small value under a key of at most [`LOG_KEY_BYTES_MAX`] bytes.
    Put { key: Vec<u8>, value: Vec<u8> },
    /// Deletes the entries from this index on.
    Truncate { from: u64 },
    /// Deletes the entries up to this index, and the one at it.
    Purge { upto: u64 },
    /// Deletes all that there is of the group.
    Drop,
}

/// Longest key of a group's small values, in bytes.
pub const LOG_KEY_BYTES_MAX: usize = 255;

impl LogBatch {
    pub fn of(group: QuorumId) -> Self {
        Self { group, ops: Vec::new() }
    }
    pub fn append(&mut self, first: u64, entries: Vec<Vec<u8>>) -> &mut Self {
        self.ops.push(LogOp::Append { first, entries });
        self
    }
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.ops.push(LogOp::Put { key: key.into(), value: value.into() });
        self
    }
    pub fn truncate(&mut self, from: u64) -> &mut Self {
        self.ops.push(LogOp::Truncate { from });
        self
    }
    pub fn purge(&mut self, upto: u64) -> &mut Self {
        self.ops.push(LogOp::Purge { upto });
        self
    }
    pub fn drop_group(&mut self) -> &mut Self {
        self.ops.push(LogOp::Drop);
        self
    }
    pub fn has_entries(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, LogOp::Append { .. }))
    }
    /// Whether a disk without room refuses it: it adds something, and is not there to make room. What a purge notes
    /// about itself takes less than it gives back.
    pub fn needs_room(&self) -> bool {
        let deletes = |op: &LogOp| matches!(op, LogOp::Truncate { .. } | LogOp::Purge { .. } | LogOp::Drop);
        self.has_entries() || (self.bytes_added() > 0 && !self.ops.iter().any(deletes))
    }
    /// Bytes of entries, keys and values that it would add.
    pub fn bytes_added(&self) -> usize {
        let added = |op: &LogOp| match op {
            LogOp::Append { entries, .. } => entries.iter().map(Vec::len).sum(),
            LogOp::Put { key, value } => key.len() + value.len(),
            LogOp::Truncate { .. } | LogOp::Purge { .. } | LogOp::Drop => 0,
        };
        self.ops.iter().map(added).sum()
    }
}

/// The index of an entry, and its bytes.
pub type LogEntry = (u64, Vec<u8>);

/// One append-only log for the groups of a node. Calls block and are made from the storage actor, or inline for reads.
/// `apply` makes changes visible at once; only `sync` makes them durable.
pub trait LogEngine: Send + Sync + 'static {
    /// The entries that a group has in `from..to` (end excluded), in order, no more than have `bytes_max` bytes
    /// together; one is returned whatever its size. None when `from` is not before `to`.
    fn entries(&self, group: QuorumId, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, DiskError>;
    /// The entry with the highest index.
    fn last(&self, group: QuorumId) -> Result<Option<LogEntry>, DiskError>;
    fn get(&self, group: QuorumId, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;
    /// The groups of which there is anything, in order.
    fn groups(&self) -> Result<Vec<QuorumId>, DiskError>;
    fn apply(&self, batch: LogBatch) -> Result<(), DiskError>;
    /// Returns when everything applied before this call would survive a power loss.
    fn sync(&self) -> Result<(), DiskError>;
    /// Whether room can be given back that deleted entries took. Asked after every sync, so it is quick.
    fn wants_compaction(&self) -> bool;
    /// Gives some of it back: one bounded step. False when there was nothing to be done.
    fn compact(&self) -> Result<bool, DiskError>;
    /// How much longer a sync should be made to take: see [`super::disk::Kv::sync_delay`].
    fn sync_delay(&self) -> Duration {
        Duration::ZERO
    }
}
