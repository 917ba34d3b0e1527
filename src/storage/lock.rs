//! One process per data folder: a lock that lives as long as any part of the disk does. The kernel releases it when
//! the process ends, however it ends, so a kill leaves nothing to clean up. The file names the process that holds it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocols::ids::{PieceHash, QuorumId};

use super::io_error;
use crate::seams::log_engine::LogEntry;
use crate::seams::{DiskError, Files, Kv, KvBatch, LogBatch, LogEngine};

/// Most that is read of the process id in another's lock file.
const PID_BYTES_MAX: u64 = 32;

/// Holds the folder's lock for as long as it lives.
#[derive(Debug)]
pub(super) struct FolderLock(#[expect(dead_code, reason = "the lock ends with the descriptor")] File);

impl FolderLock {
    /// Keeps every other process, and every other store of this one, out of the folder.
    pub(super) fn acquire(folder: &Path) -> Result<Self, DiskError> {
        fs::create_dir_all(folder).map_err(|error| io_error("creating", folder, &error))?;
        let path = folder.join("lock");
        let fault = |what, error: &io::Error| io_error(what, &path, error);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| fault("opening", &error))?;
        match file.try_lock() {
            Ok(()) => (),
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who holds it is a courtesy to the reader; the lock is what counts.
                let _ = (&mut file).take(PID_BYTES_MAX).read_to_string(&mut holder);
                let holder = holder.trim().parse::<u32>().map_or(String::new(), |pid| format!(" (process {pid})"));
                return Err(DiskError::Io {
                    what: "locking the data folder",
                    place: folder.display().to_string(),
                    reason: format!(
                        "another node{holder} is running on this folder; stop it, or give this one a folder of its own"
                    ),
                });
            }
            Err(fs::TryLockError::Error(error)) => return Err(fault("locking", &error)),
        }
        file.set_len(0).map_err(|error| fault("writing", &error))?;
        writeln!(file, "{}", std::process::id()).map_err(|error| fault("writing", &error))?;
        Ok(Self(file))
    }
}

/// A part of the disk that keeps the folder locked.
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

impl<T: LogEngine> LogEngine for Locked<T> {
    fn entries(&self, group: QuorumId, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, DiskError> {
        self.below.entries(group, from, to, bytes_max)
    }
    fn last(&self, group: QuorumId) -> Result<Option<LogEntry>, DiskError> {
        self.below.last(group)
    }
    fn get(&self, group: QuorumId, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.below.get(group, key)
    }
    fn groups(&self) -> Result<Vec<QuorumId>, DiskError> {
        self.below.groups()
    }
    fn apply(&self, batch: LogBatch) -> Result<(), DiskError> {
        self.below.apply(batch)
    }
    fn sync(&self) -> Result<(), DiskError> {
        self.below.sync()
    }
    fn wants_compaction(&self) -> bool {
        self.below.wants_compaction()
    }
    fn compact(&self) -> Result<bool, DiskError> {
        self.below.compact()
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
