//! The node's disk: sled and piece files behind the disk seam, and the actor that makes one sync serve many writers.
//!
//! [`Storage`] is what the node's actors hold. A write is applied at once, in the caller's order, and visible to
//! readers; a ticket for it joins the queue of one actor, which takes every ticket that waits, syncs the record store
//! once, and completes them all. While a sync runs the next tickets gather, so the busier the node, the more writes
//! share a sync: this is what lets hundreds of quorums share one disk. **An acknowledgement follows a sync, never the
//! apply.**
//!
//! At most [`TICKETS_MAX`] tickets wait. That is more than the node's callers have at once, since `write` holds its
//! caller until it is done and `write_then` is for a caller that has at most one write under way (a quorum's log
//! appends one entry at a time). Should they be more, `write` waits for room and `write_then` refuses; neither has
//! applied anything then. A ticket is some hundred bytes and holds no data; the data is in the record store already.
//!
//! A sync that fails is the end of this node's promises: after a failed fsync nobody knows what is on the disk. Every
//! waiting write and every later one gets the error, nothing is tried again, and [`Storage::fatal`] tells whoever runs
//! the node to stop it. A disk without room, in contrast, refuses a batch before it is applied, and the node goes on.

mod actor;
mod dir_files;
pub mod faults;
mod lock;
mod metrics;
mod sled_kv;
#[cfg(test)]
pub(crate) mod test_machine;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc::Permit;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use crate::seams::{Disk, DiskError, Failpoint, Files, Kv, KvBatch, TaskGroup, failpoint};
use actor::{Actor, Ticket};
use lock::{FolderLock, Locked};
use metrics::Counters;

pub use dir_files::DirFiles;
pub use metrics::StorageMetrics;
pub use sled_kv::SledKv;

/// Writes that may wait for a sync: four for each quorum that a node can be a member of, which has one under way.
pub const TICKETS_MAX: usize = 16 * 1024;

/// Opens the disk of a node in its data folder, and keeps other processes out of it for as long as the disk is used.
/// Blocks, for as long as sled takes to read its log.
pub fn open(folder: &Path) -> Result<Disk, DiskError> {
    let lock = Arc::new(FolderLock::acquire(folder)?);
    let kv = Locked::new(SledKv::open(&folder.join("records"))?, lock.clone());
    let files = Locked::new(DirFiles::open(folder)?, lock);
    Ok(Disk { kv: Arc::new(kv), files: Arc::new(files) })
}

/// What is called with the outcome of a write.
pub type Done = Box<dyn FnOnce(Result<(), DiskError>) + Send>;

/// Group commit over the record store. Cloneable; all clones share one sync.
#[derive(Clone)]
pub struct Storage {
    disk: Disk,
    tickets: mpsc::Sender<Ticket>,
    fatal: watch::Receiver<Option<DiskError>>,
    counters: Arc<Counters>,
}

impl Storage {
    /// Starts the syncing actor in the caller's task group.
    pub fn start(disk: Disk) -> Self {
        let tasks = TaskGroup::current();
        let (tickets, receiver) = mpsc::channel(TICKETS_MAX);
        let (fatal_sender, fatal) = watch::channel(None);
        let counters = Arc::new(Counters::default());
        let actor = Actor {
            kv: disk.kv.clone(),
            tickets: receiver,
            fatal: fatal_sender,
            counters: counters.clone(),
            shutdown: tasks.shutdown_token(),
        };
        drop(tasks.spawn(actor.run()));
        Self { disk, tickets, fatal, counters }
    }

    pub fn kv(&self) -> &dyn Kv {
        &*self.disk.kv
    }

    pub fn files(&self) -> Arc<dyn Files> {
        self.disk.files.clone()
    }

    /// Applies the batch and returns when it would survive a power loss.
    pub async fn write(&self, batch: KvBatch) -> Result<(), DiskError> {
        let (send, receive) = tokio::sync::oneshot::channel();
        let permit = match self.tickets.try_reserve() {
            Ok(permit) => Some(permit),
            Err(TrySendError::Full(())) => self.tickets.reserve().await.ok(),
            Err(TrySendError::Closed(())) => None,
        };
        self.apply(batch, permit, Box::new(move |result| drop(send.send(result))))?;
        receive.await.unwrap_or_else(|_| {
            Err(DiskError::Io { what: "sync", place: "store".into(), reason: "the storage actor stopped".into() })
        })
    }

    /// Applies the batch, visible to readers when this returns, and calls `done` when it would survive a power loss
    /// or never will. On `Err` nothing was applied and `done` is not called. For callers with at most one write under
    /// way.
    pub fn write_then(
        &self,
        batch: KvBatch,
        done: impl FnOnce(Result<(), DiskError>) + Send + 'static,
    ) -> Result<(), DiskError> {
        let permit = match self.tickets.try_reserve() {
            Ok(permit) => Some(permit),
            Err(TrySendError::Full(())) => {
                let reason = format!("{TICKETS_MAX} writes wait for a sync already");
                return Err(DiskError::Io { what: "queueing a write", place: "store".into(), reason });
            }
            Err(TrySendError::Closed(())) => None,
        };
        self.apply(batch, permit, Box::new(done))
    }

    /// Applies the batch and queues its ticket. Without a place in the queue the actor has closed with the node: those
    /// who close after it sync for themselves.
    fn apply(&self, batch: KvBatch, permit: Option<Permit<'_, Ticket>>, mut done: Done) -> Result<(), DiskError> {
        if let Some(error) = &*self.fatal.borrow() {
            return Err(error.clone());
        }
        self.disk.kv.apply(batch)?;
        self.counters.wrote();
        failpoint(Failpoint::WriteApplied, &mut done);
        match permit {
            Some(permit) => permit.send(Ticket { done }),
            None => {
                let began = tokio::time::Instant::now();
                let result = self.disk.kv.sync();
                self.counters.synced(1, began.elapsed(), result.is_ok());
                done(result);
            }
        }
        Ok(())
    }

    /// Becomes `Some` when the record store could not be synced: the node must stop.
    pub fn fatal(&self) -> watch::Receiver<Option<DiskError>> {
        self.fatal.clone()
    }

    /// Until a write is durable: a bound that nearly every sync keeps, as of now. Zero before the first sync.
    pub fn sync_latency(&self) -> std::time::Duration {
        self.counters.sync_latency()
    }

    /// What it counts, to be registered once.
    pub fn metrics(&self) -> &StorageMetrics {
        &self.counters.metrics
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
