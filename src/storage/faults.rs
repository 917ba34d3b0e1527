//! A disk that can be told to misbehave, for nodes started with `--testing`.
//!
//! [`DiskFaults::wrap`] puts itself between a node and its disk; the handle then makes the disk full, makes syncs slow
//! or flips a bit in every piece that is read. With nothing set the disk behaves as the one below. A node that was
//! not started for testing has no such layer at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::ids::{PieceHash, QuorumId};

use crate::seams::log_engine::LogEntry;
use crate::seams::{Disk, DiskError, Files, Kv, KvBatch, LogBatch, LogEngine};

/// What the tester has switched on. Cloneable; all clones are one set of switches.
#[derive(Clone, Default)]
pub struct DiskFaults {
    switches: Arc<Switches>,
}

#[derive(Default)]
struct Switches {
    is_full: AtomicBool,
    flips_bits: AtomicBool,
    sync_delay_ms: AtomicU64,
}

impl DiskFaults {
    /// The disk below, with the switches of a new handle in front of it.
    pub fn wrap(disk: Disk) -> (Disk, Self) {
        let faults = Self::default();
        let kv = Arc::new(FaultyKv { below: disk.kv, faults: faults.clone() });
        let log = Arc::new(FaultyLog { below: disk.log, faults: faults.clone() });
        let files = Arc::new(FaultyFiles { below: disk.files, faults: faults.clone() });
        (Disk { kv, log, files }, faults)
    }

    /// Refuses everything that adds bytes, as a disk without room does. Reading and deleting go on.
    pub fn set_full(&self, is_full: bool) {
        self.switches.is_full.store(is_full, Ordering::Relaxed);
    }

    /// Makes every sync of records and of the log take this much longer.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.switches.sync_delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Flips one bit in every piece that is read; what is on the disk stays as it is.
    pub fn set_flip_bits(&self, flips: bool) {
        self.switches.flips_bits.store(flips, Ordering::Relaxed);
    }

    fn sync_delay(&self) -> Duration {
        Duration::from_millis(self.switches.sync_delay_ms.load(Ordering::Relaxed))
    }

    fn require_room(&self, place: &str, needed: usize) -> Result<(), DiskError> {
        match self.switches.is_full.load(Ordering::Relaxed) {
            true => Err(DiskError::Full { place: place.into(), needed: needed as u64 }),
            false => Ok(()),
        }
    }
}

struct FaultyKv {
    below: Arc<dyn Kv>,
    faults: DiskFaults,
}

impl Kv for FaultyKv {
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
        let added = batch.bytes_added();
        if added > 0 {
            self.faults.require_room("the record store", added)?;
        }
        self.below.apply(batch)
    }
    fn sync(&self) -> Result<(), DiskError> {
        self.below.sync()
    }
    fn sync_delay(&self) -> Duration {
        self.faults.sync_delay()
    }
}

struct FaultyLog {
    below: Arc<dyn LogEngine>,
    faults: DiskFaults,
}

impl LogEngine for FaultyLog {
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
        if batch.needs_room() {
            self.faults.require_room("the log", batch.bytes_added())?;
        }
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
    fn sync_delay(&self) -> Duration {
        self.faults.sync_delay()
    }
}

struct FaultyFiles {
    below: Arc<dyn Files>,
    faults: DiskFaults,
}

impl Files for FaultyFiles {
    fn write_piece(&self, hash: PieceHash, bytes: &[u8]) -> Result<(), DiskError> {
        self.faults.require_room("the piece store", bytes.len())?;
        self.below.write_piece(hash, bytes)
    }
    fn read_piece(&self, hash: PieceHash) -> Result<Option<Bytes>, DiskError> {
        let read = self.below.read_piece(hash)?;
        if !self.faults.switches.flips_bits.load(Ordering::Relaxed) {
            return Ok(read);
        }
        Ok(read.map(|bytes| {
            let mut bytes = bytes.to_vec();
            // A different byte for every piece, the same at every read of it: rot does not move.
            if !bytes.is_empty() {
                let at = usize::from(hash.0[0]) % bytes.len();
                bytes[at] ^= 1;
            }
            Bytes::from(bytes)
        }))
    }
    fn remove_piece(&self, hash: PieceHash) -> Result<(), DiskError> {
        self.below.remove_piece(hash)
    }
    fn list_pieces(&self, after: Option<PieceHash>, limit: usize) -> Result<Vec<PieceHash>, DiskError> {
        self.below.list_pieces(after, limit)
    }
    fn write_small(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.faults.require_room(name, bytes.len())?;
        self.below.write_small(name, bytes)
    }
    fn read_small(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        self.below.read_small(name)
    }
    fn free_space(&self) -> Result<(u64, u64), DiskError> {
        let (free, size) = self.below.free_space()?;
        Ok((if self.faults.switches.is_full.load(Ordering::Relaxed) { 0 } else { free }, size))
    }
}
