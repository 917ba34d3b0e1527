//! The disk as a node needs it: small keyed records with an honest sync, piece files, and the log of its raft groups.
//!
//! The binary uses sled and ordinary files (the node's `storage`); the simulator uses models that lose or tear what was
//! not synced. An acknowledgement may follow only a `sync` that returned `Ok`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::ids::PieceHash;
use quorate_protocols::units::ByteSize;

use super::LogEngine;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    #[error("the disk is full: {} is needed in {place}", ByteSize(*needed).rounded_up())]
    Full { place: String, needed: u64 },
    #[error("{what} failed on {place}: {reason}")]
    Io { what: &'static str, place: String, reason: String },
    #[error("the record at {place} is damaged: {reason}")]
    Damaged { place: String, reason: String },
}

/// Changes that become visible together, in this order. A batch is atomic across a crash once synced.
#[derive(Clone, Debug, Default)]
pub struct KvBatch {
    pub ops: Vec<KvOp>,
}

#[derive(Clone, Debug)]
pub enum KvOp {
    Put {
        tree: String,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        tree: String,
        key: Vec<u8>,
    },
    /// Deletes every key in `from..to` (end excluded).
    DeleteRange {
        tree: String,
        from: Vec<u8>,
        to: Vec<u8>,
    },
    DropTree {
        tree: String,
    },
}

impl KvBatch {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn put(&mut self, tree: &str, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.ops.push(KvOp::Put { tree: tree.to_owned(), key: key.into(), value: value.into() });
        self
    }
    pub fn delete(&mut self, tree: &str, key: impl Into<Vec<u8>>) -> &mut Self {
        self.ops.push(KvOp::Delete { tree: tree.to_owned(), key: key.into() });
        self
    }
    pub fn delete_range(&mut self, tree: &str, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) -> &mut Self {
        self.ops.push(KvOp::DeleteRange { tree: tree.to_owned(), from: from.into(), to: to.into() });
        self
    }
    pub fn drop_tree(&mut self, tree: &str) -> &mut Self {
        self.ops.push(KvOp::DropTree { tree: tree.to_owned() });
        self
    }
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
    /// Bytes of keys and values that it would add; a batch that adds none can make room on a full disk.
    pub fn bytes_added(&self) -> usize {
        let added = |op: &KvOp| match op {
            KvOp::Put { key, value, .. } => key.len() + value.len(),
            KvOp::Delete { .. } | KvOp::DeleteRange { .. } | KvOp::DropTree { .. } => 0,
        };
        self.ops.iter().map(added).sum()
    }
}

/// A key and its value.
pub type KvPair = (Vec<u8>, Vec<u8>);

/// An ordered store of small records in named trees. Calls block and are made from the storage actor, or inline for
/// reads. `apply` makes changes visible at once; only `sync` makes them durable.
pub trait Kv: Send + Sync + 'static {
    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;
    /// Records with keys in `from..to` (end excluded), in order, at most `limit` and no more than have `bytes_max`
    /// bytes of values together; one is returned whatever its size. None when `from` is not before `to`.
    fn range(
        &self,
        tree: &str,
        from: &[u8],
        to: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<KvPair>, DiskError>;
    fn last(&self, tree: &str) -> Result<Option<KvPair>, DiskError>;
    /// Names of the trees, in order. A tree is its records: there is none without any.
    fn trees(&self) -> Result<Vec<String>, DiskError>;
    fn apply(&self, batch: KvBatch) -> Result<(), DiskError>;
    /// Returns when everything applied before this call would survive a power loss.
    fn sync(&self) -> Result<(), DiskError>;
    /// How much longer a sync should be made to take. Only disks that pretend to be slow, for tests and simulations,
    /// say more than zero; the storage actor waits for it on the runtime's clock, which may be virtual.
    fn sync_delay(&self) -> Duration {
        Duration::ZERO
    }
}

/// Piece files by hash, and a few small synced files beside the record store. Calls block.
pub trait Files: Send + Sync + 'static {
    /// Writes, syncs and renames into place; on `Ok` the piece survives a power loss. Writing a piece that is already
    /// there is cheap and succeeds.
    fn write_piece(&self, hash: PieceHash, bytes: &[u8]) -> Result<(), DiskError>;
    /// The bytes as the disk gives them: the caller checks the hash. `None` when no such piece is kept.
    fn read_piece(&self, hash: PieceHash) -> Result<Option<Bytes>, DiskError>;
    fn remove_piece(&self, hash: PieceHash) -> Result<(), DiskError>;
    /// Hashes of all pieces after `after` in order, at most `limit`: a scrubber's and a collector's view of the store.
    fn list_pieces(&self, after: Option<PieceHash>, limit: usize) -> Result<Vec<PieceHash>, DiskError>;
    /// Replaces a small file atomically and syncs it (marks, address book).
    fn write_small(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError>;
    fn read_small(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError>;
    /// Bytes left on the disk that holds the pieces, and its size.
    fn free_space(&self) -> Result<(u64, u64), DiskError>;
}

/// Longest name of a small file, in bytes.
const NAME_BYTES_MAX: usize = 200;

/// Refuses the name of a small file that would lead out of its folder, or hide in it.
pub fn check_small_name(name: &str) -> Result<(), DiskError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('.') && name.bytes().all(is_plain) {
        return Ok(());
    }
    Err(DiskError::Io {
        what: "naming a file",
        place: name.chars().take(NAME_BYTES_MAX).collect(),
        reason: "only letters, digits, dots, hyphens and underscores are allowed".into(),
    })
}

#[derive(Clone)]
pub struct Disk {
    pub kv: Arc<dyn Kv>,
    pub log: Arc<dyn LogEngine>,
    pub files: Arc<dyn Files>,
}
