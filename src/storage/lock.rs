//! One process per data folder: a lock that lives as long as either half of the disk does.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocols::ids::PieceHash;

use super::io_error;
use crate::seams::{DiskError, Files, Kv, KvBatch};

/// Holds the folder's lock for as long as it lives.
#[derive(Debug)]
pub(super) struct FolderLock(#[expect(dead_code, reason = "the lock ends with the descriptor")] File);

impl FolderLock {
    /// Keeps every other process, and every other store of this one, out of the folder.
    pub(super) fn take(folder: &Path) -> Result<Self, DiskError> {
        fs::create_dir_all(folder).map_err(|error| io_error("creating", folder, &error))?;
        let path = folder.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| io_error("opening", &path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(fs::TryLockError::WouldBlock) => Err(DiskError::Io {
                what: "locking the data folder",
                place: folder.display().to_string(),
                reason: "another node is running on this folder; stop it, or give this one a folder of its own".into(),
            }),
            Err(fs::TryLockError::Error(error)) => Err(io_error("locking", &path, &error)),
        }
    }
}

/// A half of the disk that keeps the folder locked.
pub(super) struct Locked<T> {
    below: T,
    _lock: Arc<FolderLock>,
}

impl<T> Locked<T> {
    pub(super) fn new(below: T, lock: Arc<FolderLock>) -> Self {
        Self { below, _lock: lock }
    }
}

impl<T: Kv> Kv for Locked<T> {
    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.below.get(tree, key)
    }
    fn range(
        &self,
        tree: &str,
        from: &[u8],
        to: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, DiskError> {
        self.below.range(tree, from, to, limit, bytes_max)
    }
    fn last(&self, tree: &str) -> Result<Option<(Vec<u8>, Vec<u8>)>, DiskError> {
        self.below.last(tree)
    }
    fn trees(&self) -> Result<Vec<String>, DiskError> {
        self.below.trees()
    }
    fn apply(&self, batch: KvBatch) -> Result<(), DiskError> {
        self.below.apply(batch)
    }
    fn sync(&self) -> Result<(), DiskError> {
        self.below.sync()
    }
}

impl<T: Files> Files for Locked<T> {
    fn write_piece(&self, hash: PieceHash, bytes: &[u8]) -> Result<(), DiskError> {
        self.below.write_piece(hash, bytes)
    }
    fn read_piece(&self, hash: PieceHash) -> Result<Option<Bytes>, DiskError> {
        self.below.read_piece(hash)
    }
    fn remove_piece(&self, hash: PieceHash) -> Result<(), DiskError> {
        self.below.remove_piece(hash)
    }
    fn list_pieces(&self, after: Option<PieceHash>, limit: usize) -> Result<Vec<PieceHash>, DiskError> {
        self.below.list_pieces(after, limit)
    }
    fn write_small(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.below.write_small(name, bytes)
    }
    fn read_small(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        self.below.read_small(name)
    }
    fn free_space(&self) -> Result<(u64, u64), DiskError> {
        self.below.free_space()
    }
}
