//! The node's disk: sled, the log of its raft groups and piece files behind the disk seam, and the actors that make one
//! sync serve many writers.
//!
//! [`Storage`] is what the node's actors hold. A write is applied at once, in the caller's order, and visible to
//! readers; a ticket for it joins the queue of its store's actor, which takes every ticket that waits, syncs the store
//! once, and completes them all. The record store and the log have an actor each: a log entry waits for no record, and
//! nothing follows from the order of two writes to different stores unless the first was waited for. While a sync runs
//! the next tickets gather, so the busier the node, the more writes share a sync: this is what lets hundreds of quorums
//! share one disk. **An acknowledgement follows a sync, never the apply.**
//!
//! At most [`TICKETS_MAX`] tickets wait for each. That is more than the node's callers have at once, since `write`
//! holds its caller until it is done and `write_then` is for a caller that has at most one write under way (a quorum's
//! log appends one entry at a time). Should they be more, `write` waits for room and `write_then` refuses; neither has
//! applied anything then. A ticket is some hundred bytes and holds no data; the data is in the record store already.
//!
//! A sync that fails is the end of this node's promises: after a failed fsync nobody knows what is on the disk. Every
//! waiting write and every later one gets the error, nothing is tried again, and [`Storage::fatal`] tells whoever runs
//! the node to stop it. After a write that failed the store is synced, which tells whether it has come to that. A disk
//! without room, in contrast, refuses a batch before it is applied, and the node goes on.

mod actor;
mod dir_files;
pub mod faults;
mod lock;
mod metrics;
mod segment_log;
mod sled_kv;
#[cfg(test)]
pub(crate) mod test_machine;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::seams::{Disk, DiskError, Files, Kv, KvBatch, LogBatch, LogEngine};
use actor::{GroupCommit, Store};
use lock::{FolderLock, Locked};

pub use dir_files::DirFiles;
pub use segment_log::SegmentLog;
pub use sled_kv::SledKv;

/// Writes that may wait for a sync: four for each quorum that a node can be a member of, which has one under way.
pub const TICKETS_MAX: usize = 16 * 1024;

/// Opens the disk of a node in its data folder, and keeps other processes out of it for as long as the disk is used.
/// Blocks, for as long as it takes to read the log, and sled its own.
pub fn open(folder: &Path) -> Result<Disk, DiskError> {
    let lock = Arc::new(FolderLock::acquire(folder)?);
    let kv = Locked::new(SledKv::open(&folder.join("records"))?, lock.clone());
    let log = Locked::new(SegmentLog::open(&folder.join("log"))?, lock.clone());
    let files = Locked::new(DirFiles::open(folder)?, lock);
    Ok(Disk { kv: Arc::new(kv), log: Arc::new(log), files: Arc::new(files) })
}

/// What is called with the outcome of a write.
pub type Done = Box<dyn FnOnce(Result<(), DiskError>) + Send>;

/// Group commit over the record store and the log. Cloneable; all clones share one sync of each.
#[derive(Clone)]
pub struct Storage {
    disk: Disk,
    records: GroupCommit,
    log: GroupCommit,
    fatal: watch::Receiver<Option<DiskError>>,
}

impl Storage {
    /// Starts the syncing actors in the caller's task group.
    pub fn start(disk: Disk) -> Self {
        let (failed, fatal) = watch::channel(None);
        let records = GroupCommit::start(Store::Records(disk.kv.clone()), failed.clone());
        let log = GroupCommit::start(Store::Log(disk.log.clone()), failed);
        Self { disk, records, log, fatal }
    }

    pub fn kv(&self) -> &dyn Kv {
        &*self.disk.kv
    }

    pub fn log(&self) -> &dyn LogEngine {
        &*self.disk.log
    }

    pub fn files(&self) -> Arc<dyn Files> {
        self.disk.files.clone()
    }

    /// Applies the batch and returns when it would survive a power loss.
    pub async fn write(&self, batch: KvBatch) -> Result<(), DiskError> {
        self.records.write(|| self.disk.kv.apply(batch)).await
    }

    /// Applies the batch, visible to readers when this returns, and calls `done` when it would survive a power loss
    /// or never will. On `Err` nothing was applied and `done` is not called. For callers with at most one write under
    /// way.
    pub fn write_then(
        &self,
        batch: KvBatch,
        done: impl FnOnce(Result<(), DiskError>) + Send + 'static,
    ) -> Result<(), DiskError> {
        self.records.write_then(|| self.disk.kv.apply(batch), Box::new(done))
    }

    /// As [`Self::write`], to the log.
    pub async fn append(&self, batch: LogBatch) -> Result<(), DiskError> {
        self.log.write(|| self.disk.log.apply(batch)).await
    }

    /// As [`Self::write_then`], to the log.
    pub fn append_then(
        &self,
        batch: LogBatch,
        done: impl FnOnce(Result<(), DiskError>) + Send + 'static,
    ) -> Result<(), DiskError> {
        self.log.write_then(|| self.disk.log.apply(batch), Box::new(done))
    }

    /// Applies the batch to the log, visible to readers when this returns. It is durable with whatever is appended
    /// after it.
    pub fn append_unsynced(&self, batch: LogBatch) -> Result<(), DiskError> {
        self.log.write_unsynced(|| self.disk.log.apply(batch))
    }

    /// Becomes `Some` when a store could not be synced: the node must stop.
    pub fn fatal(&self) -> watch::Receiver<Option<DiskError>> {
        self.fatal.clone()
    }

    /// Until an entry of a log is durable: a bound that nearly every sync keeps, as of now. Zero before the first sync.
    pub fn sync_latency(&self) -> std::time::Duration {
        self.log.counters.sync_latency()
    }

    /// Registers what it counts of each store. Once.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.records.counters.metrics.register(registry, "quorate_storage", "the record store");
        self.log.counters.metrics.register(registry, "quorate_log", "the log of all quorums");
    }
}

/// Bytes that this process may still write on the disk of `folder`, and its size.
fn space(folder: &Path) -> Result<(u64, u64), DiskError> {
    let found = rustix::fs::statvfs(folder)
        .map_err(|error| io_error("asking for the free space", folder, &io::Error::from(error)))?;
    Ok((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
}

/// Refuses what would leave less than `reserve` bytes on the disk.
fn require_space(folder: &Path, needed: u64, reserve: u64) -> Result<(), DiskError> {
    match space(folder)?.0 >= needed.saturating_add(reserve) {
        true => Ok(()),
        false => Err(DiskError::Full { place: folder.display().to_string(), needed }),
    }
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> Result<(), DiskError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io_error("syncing", folder, &error))
}

fn io_error(what: &'static str, place: &Path, error: &io::Error) -> DiskError {
    let place = place.display().to_string();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskError::Full { place, needed: 0 },
        _ => DiskError::Io { what, place, reason: error.to_string() },
    }
}
