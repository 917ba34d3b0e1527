//! The disk in memory. What was not synced is lost in a crash, or kept up to some batch; batches stay whole, because
//! the record store and the log of a node keep them whole and their own tests show it. The two are synced apart, so a
//! crash may keep more of either.
//!
//! A [`MemoryDisk`] is the platter: it outlives the node. [`MemoryDisk::disk`] gives the present life of the node its
//! parts; after [`MemoryDisk::crash`] they refuse everything, so that nothing left over from the old life can
//! write.

use parking_lot::Mutex;
use parking_lot::MutexGuard;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::ids::{PieceHash, QuorumId};
use quorate_seams::disk::KvOp;
use quorate_seams::disk::check_small_name;
use quorate_seams::log_engine::LogEntry;
use quorate_seams::{Disk, DiskError, Files, Kv, KvBatch, LogBatch, LogEngine};
use quorate_testnet::rng::Rng;

use crate::logs::Logs;

/// Size of every disk that is given none, in bytes.
const DISK_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// The trees of a record store.
pub type Trees = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// What a backup of a node keeps: its records and its log, as they were synced.
#[derive(Clone, Default)]
pub struct Backup {
    pub trees: Trees,
    pub logs: Logs,
}

/// Cloneable; all clones are one disk.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    platter: Arc<Mutex<Platter>>,
}

#[derive(Default)]
struct Platter {
    /// Survives a crash.
    durable: Trees,
    /// What readers see: `durable` with `unsynced` applied.
    visible: Trees,
    unsynced: Vec<KvBatch>,
    /// The same of the log.
    log_durable: Logs,
    log_visible: Logs,
    log_unsynced: Vec<LogBatch>,
    pieces: BTreeMap<PieceHash, Bytes>,
    small: BTreeMap<String, Vec<u8>>,
    bytes_used: u64,
    /// Free bytes and size, when a test has set them.
    space: Option<(u64, u64)>,
    is_full: bool,
    /// Syncs of records and of the log fail: a crash would come between a file and its record.
    sync_fails: bool,
    /// What a sync takes on this disk, and what a fault adds.
    sync_usual: Duration,
    sync_delay: Duration,
    /// A crash left part of what was not synced, and no node has been started on it yet.
    is_torn: bool,
    /// Pieces that do not read back as they were written.
    rotten: BTreeMap<PieceHash, Rot>,
    /// Which mount may use the disk.
    life: u64,
    counts: DiskCounts,
}

/// What became of a piece. Piece files and small files are whole or absent after a crash, because the real ones are
/// written beside, synced and renamed; a file that is there and torn is thus a bad disk, as a flipped bit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    Flipped,
    /// Only the first half is left.
    Torn,
}

/// What happened to one disk since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    pub syncs: u64,
    pub batches: u64,
    /// Crashes that lost at least one batch, and batches so lost.
    pub crashes_with_loss: u64,
    pub batches_lost: u64,
    /// Nodes started on a disk that had kept some of the batches not synced and lost the others.
    pub torn_recovered: u64,
    pub rotten_reads: u64,
    pub refused_full: u64,
    /// Most appends to the log of one group that ever waited for one sync.
    pub appends_unsynced_most: u64,
}

impl MemoryDisk {
    /// The disk for a node that starts now. Earlier mounts stop working.
    pub fn mount(&self) -> Disk {
        {
            let mut platter = self.lock();
            platter.life += 1;
            platter.counts.torn_recovered += u64::from(std::mem::take(&mut platter.is_torn));
        }
        self.disk()
    }

    /// The disk for the present life of the node: what was given before works as well.
    pub fn disk(&self) -> Disk {
        let mount = Arc::new(Mount { disk: self.clone(), life: self.lock().life });
        Disk { kv: mount.clone(), log: mount.clone(), files: mount }
    }

    /// The machine lost power: of the batches not yet synced, a prefix may have reached the disk, and another of those
    /// of the log. The rest is gone.
    pub fn crash(&self, rng: &mut Rng) {
        self.lose_power(|unsynced| rng.below(unsynced + 1));
    }

    /// The machine lost power, and nothing that was not synced had reached the disk.
    pub fn lose_unsynced(&self) {
        self.lose_power(|_| 0);
    }

    /// `kept` says how many of the batches not yet synced are there nevertheless.
    fn lose_power(&self, mut kept: impl FnMut(u64) -> u64) {
        let mut platter = self.lock();
        platter.life += 1;
        platter.sync_fails = false;
        let unsynced = std::mem::take(&mut platter.unsynced);
        let log_unsynced = std::mem::take(&mut platter.log_unsynced);
        let (all, log_all) = (unsynced.len() as u64, log_unsynced.len() as u64);
        let (kept, log_kept) = (kept(all), kept(log_all));
        let lost = all - kept + log_all - log_kept;
        platter.counts.batches_lost += lost;
        platter.counts.crashes_with_loss += u64::from(lost > 0);
        platter.is_torn |= lost > 0 && kept + log_kept > 0;
        for batch in unsynced.into_iter().take(kept as usize) {
            apply(&mut platter.durable, batch);
        }
        for batch in log_unsynced.into_iter().take(log_kept as usize) {
            platter.log_durable.apply(batch);
        }
        platter.visible = platter.durable.clone();
        platter.log_visible = platter.log_durable.clone();
    }

    /// The disk was replaced by an empty one.
    pub fn wipe(&self) {
        let mut platter = self.lock();
        let sync_usual = platter.sync_usual;
        *platter = Platter { life: platter.life + 1, counts: platter.counts, sync_usual, ..Platter::default() };
    }

    /// The record store and the log come back empty; the files beside them are still there.
    pub fn wipe_records(&self) {
        self.restore(Backup::default());
    }

    /// A backup of the records and the log, as they are synced.
    pub fn back_up(&self) -> Backup {
        let platter = self.lock();
        Backup { trees: platter.durable.clone(), logs: platter.log_durable.clone() }
    }

    /// The record store and the log come back as they once were.
    pub fn restore(&self, backup: Backup) {
        let mut platter = self.lock();
        platter.unsynced.clear();
        platter.log_unsynced.clear();
        (platter.durable, platter.visible) = (backup.trees.clone(), backup.trees);
        (platter.log_durable, platter.log_visible) = (backup.logs.clone(), backup.logs);
    }

    /// Free bytes of the disk, and its size. A disk of size zero leaves no margin, for round numbers.
    pub fn set_space(&self, free: u64, size: u64) {
        self.lock().space = Some((free, size));
    }
    /// From now on, and until the next life, syncs of records and of the log fail.
    pub fn set_sync_fails(&self) {
        self.lock().sync_fails = true;
    }
    pub fn set_full(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }
    /// How long every sync takes, without a fault.
    pub fn set_sync_usual(&self, usual: Duration) {
        self.lock().sync_usual = usual;
    }
    pub fn set_sync_delay(&self, delay: Duration) {
        self.lock().sync_delay = delay;
    }
    /// From now on one of the pieces kept here, if there is any, reads back wrong.
    pub fn rot_one(&self, rng: &mut Rng) -> Option<(PieceHash, Rot)> {
        let mut platter = self.lock();
        let at = rng.below(platter.pieces.len() as u64) as usize;
        let hash = *platter.pieces.keys().nth(at)?;
        let rot = if rng.chance(300) { Rot::Torn } else { Rot::Flipped };
        platter.rotten.insert(hash, rot);
        Some((hash, rot))
    }
    /// From now on this piece reads back wrong.
    pub fn rot(&self, hash: PieceHash, rot: Rot) {
        self.lock().rotten.insert(hash, rot);
    }
    /// Hashes of the pieces kept here, in order.
    pub fn pieces(&self) -> Vec<PieceHash> {
        self.lock().pieces.keys().copied().collect()
    }
    /// The files of all pieces are gone.
    pub fn lose_pieces(&self) {
        let mut platter = self.lock();
        platter.pieces.clear();
        platter.bytes_used = 0;
    }
    pub fn counts(&self) -> DiskCounts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock()
    }
}

fn apply(trees: &mut Trees, batch: KvBatch) {
    for op in batch.ops {
        match op {
            KvOp::Put { tree, key, value } => {
                trees.entry(tree).or_default().insert(key, value);
            }
            KvOp::Delete { tree, key } => {
                if let Some(records) = trees.get_mut(&tree) {
                    records.remove(&key);
                }
            }
            KvOp::DeleteRange { tree, from, to } => {
                if let Some(records) = trees.get_mut(&tree) {
                    records.retain(|key, _| *key < from || *key >= to);
                }
            }
            KvOp::DropTree { tree } => {
                trees.remove(&tree);
            }
        }
    }
    // As in the real store, a tree is its records.
    trees.retain(|_, records| !records.is_empty());
}

/// One life of a node on its disk.
struct Mount {
    disk: MemoryDisk,
    life: u64,
}

impl Mount {
    fn platter(&self) -> Result<MutexGuard<'_, Platter>, DiskError> {
        let platter = self.disk.lock();
        match platter.life == self.life {
            true => Ok(platter),
            false => Err(DiskError::Io {
                what: "using the disk",
                place: "a disk in memory".into(),
                reason: "the node that opened it has crashed".into(),
            }),
        }
    }
}

impl Platter {
    fn begin_sync(&mut self) -> Result<(), DiskError> {
        if self.sync_fails {
            let (what, place) = ("sync", "a disk in memory".into());
            return Err(DiskError::Io { what, place, reason: "told to fail".into() });
        }
        self.counts.syncs += 1;
        Ok(())
    }

    fn delay(&self) -> Duration {
        self.sync_usual + self.sync_delay
    }

    fn require_room(&mut self, needed: usize) -> Result<(), DiskError> {
        if !self.is_full && self.bytes_used + needed as u64 <= DISK_BYTES {
            return Ok(());
        }
        self.counts.refused_full += 1;
        Err(DiskError::Full { place: "a disk in memory".into(), needed: needed as u64 })
    }
}

impl Kv for Mount {
    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.platter()?.visible.get(tree).and_then(|records| records.get(key)).cloned())
    }

    fn range(
        &self,
        tree: &str,
        from: &[u8],
        to: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, DiskError> {
        let platter = self.platter()?;
        let Some(records) = platter.visible.get(tree).filter(|_| from < to) else { return Ok(Vec::new()) };
        let mut rows = Vec::new();
        let mut bytes = 0;
        for (key, value) in records.range(from.to_vec()..to.to_vec()).take(limit) {
            bytes += value.len();
            if bytes > bytes_max && !rows.is_empty() {
                break;
            }
            rows.push((key.clone(), value.clone()));
        }
        Ok(rows)
    }

    fn last(&self, tree: &str) -> Result<Option<(Vec<u8>, Vec<u8>)>, DiskError> {
        let platter = self.platter()?;
        let last = platter.visible.get(tree).and_then(|records| records.last_key_value());
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn trees(&self) -> Result<Vec<String>, DiskError> {
        Ok(self.platter()?.visible.keys().cloned().collect())
    }

    fn apply(&self, batch: KvBatch) -> Result<(), DiskError> {
        let mut platter = self.platter()?;
        if batch.bytes_added() > 0 {
            platter.require_room(batch.bytes_added())?;
        }
        platter.counts.batches += 1;
        platter.unsynced.push(batch.clone());
        apply(&mut platter.visible, batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut platter = self.platter()?;
        platter.begin_sync()?;
        for batch in std::mem::take(&mut platter.unsynced) {
            apply(&mut platter.durable, batch);
        }
        Ok(())
    }

    fn sync_delay(&self) -> Duration {
        self.disk.lock().delay()
    }
}

impl LogEngine for Mount {
    fn entries(&self, group: QuorumId, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, DiskError> {
        Ok(self.platter()?.log_visible.entries(group, from, to, bytes_max))
    }

    fn last(&self, group: QuorumId) -> Result<Option<LogEntry>, DiskError> {
        let platter = self.platter()?;
        let last = platter.log_visible.0.get(&group).and_then(|group| group.entries.last_key_value());
        Ok(last.map(|(index, entry)| (*index, entry.clone())))
    }

    fn get(&self, group: QuorumId, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.platter()?.log_visible.0.get(&group).and_then(|group| group.values.get(key)).cloned())
    }

    fn groups(&self) -> Result<Vec<QuorumId>, DiskError> {
        Ok(self.platter()?.log_visible.0.keys().copied().collect())
    }

    fn apply(&self, batch: LogBatch) -> Result<(), DiskError> {
        let mut platter = self.platter()?;
        if batch.needs_room() {
            platter.require_room(batch.bytes_added())?;
        }
        platter.counts.batches += 1;
        let group = batch.group;
        platter.log_unsynced.push(batch.clone());
        platter.log_visible.apply(batch);
        let appends = platter.log_unsynced.iter().filter(|other| other.group == group && other.has_entries()).count();
        platter.counts.appends_unsynced_most = platter.counts.appends_unsynced_most.max(appends as u64);
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut platter = self.platter()?;
        platter.begin_sync()?;
        for batch in std::mem::take(&mut platter.log_unsynced) {
            platter.log_durable.apply(batch);
        }
        Ok(())
    }

    fn wants_compaction(&self) -> bool {
        false
    }

    fn compact(&self) -> Result<bool, DiskError> {
        self.platter().map(|_| false)
    }

    fn sync_delay(&self) -> Duration {
        self.disk.lock().delay()
    }
}

impl Files for Mount {
    fn write_piece(&self, hash: PieceHash, bytes: &[u8]) -> Result<(), DiskError> {
        let mut platter = self.platter()?;
        if platter.pieces.contains_key(&hash) {
            return Ok(());
        }
        platter.require_room(bytes.len())?;
        platter.bytes_used += bytes.len() as u64;
        platter.pieces.insert(hash, Bytes::copy_from_slice(bytes));
        Ok(())
    }

    fn read_piece(&self, hash: PieceHash) -> Result<Option<Bytes>, DiskError> {
        let mut platter = self.platter()?;
        let Some(bytes) = platter.pieces.get(&hash).cloned() else { return Ok(None) };
        let Some(rot) = platter.rotten.get(&hash).copied().filter(|_| !bytes.is_empty()) else {
            return Ok(Some(bytes));
        };
        platter.counts.rotten_reads += 1;
        if rot == Rot::Torn {
            return Ok(Some(bytes.slice(..bytes.len() / 2)));
        }
        let mut bytes = bytes.to_vec();
        let at = usize::from(hash.0[0]) % bytes.len();
        bytes[at] ^= 1;
        Ok(Some(Bytes::from(bytes)))
    }

    fn remove_piece(&self, hash: PieceHash) -> Result<(), DiskError> {
        let mut platter = self.platter()?;
        platter.rotten.remove(&hash);
        if let Some(bytes) = platter.pieces.remove(&hash) {
            platter.bytes_used -= bytes.len() as u64;
        }
        Ok(())
    }

    fn list_pieces(&self, after: Option<PieceHash>, limit: usize) -> Result<Vec<PieceHash>, DiskError> {
        let platter = self.platter()?;
        let hashes = platter.pieces.keys().copied().filter(|hash| after.is_none_or(|after| *hash > after));
        Ok(hashes.take(limit).collect())
    }

    fn write_small(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        check_small_name(name)?;
        let mut platter = self.platter()?;
        platter.require_room(bytes.len())?;
        platter.small.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn read_small(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        check_small_name(name)?;
        Ok(self.platter()?.small.get(name).cloned())
    }

    fn free_space(&self) -> Result<(u64, u64), DiskError> {
        let platter = self.platter()?;
        let (free, size) = platter.space.unwrap_or((DISK_BYTES - platter.bytes_used, DISK_BYTES));
        Ok((if platter.is_full { 0 } else { free }, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: u8) -> KvBatch {
        let mut batch = KvBatch::new();
        batch.put("t", [key], [key]);
        batch
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest() {
        let mut lost_some = false;
        for seed in 0..50 {
            let disk = MemoryDisk::default();
            let first = disk.mount();
            first.kv.apply(put(0)).expect("applied");
            first.kv.sync().expect("synced");
            for key in 1..6 {
                first.kv.apply(put(key)).expect("applied");
            }
            disk.crash(&mut Rng::new(seed, "crash"));
            assert!(first.kv.apply(put(9)).is_err(), "a crashed node wrote");
            let second = disk.mount();
            let rows = second.kv.range("t", &[0], &[255], 99, 99).expect("read");
            let keys: Vec<u8> = rows.iter().map(|(key, _)| key[0]).collect();
            assert!(!keys.is_empty(), "a synced batch was lost");
            assert_eq!(keys, (0..keys.len() as u8).collect::<Vec<_>>(), "not a prefix");
            lost_some |= keys.len() < 6;
        }
        assert!(lost_some, "no crash of fifty lost anything");
    }

    /// Goal: a full disk takes what makes room, also when that says what it did.
    #[test]
    fn a_full_disk_takes_a_purge_and_no_entry() {
        let disk = MemoryDisk::default();
        let log = disk.mount().log;
        let batch = || LogBatch::of(QuorumId([1; 16]));
        log.apply(batch().append(1, vec![b"entry".to_vec()]).clone()).expect("applied");
        disk.set_full(true);
        log.apply(batch().put("purged", "1").purge(1).clone()).expect("makes room");
        for refused in [batch().put("vote", "1").clone(), batch().append(2, vec![vec![2]]).purge(1).clone()] {
            assert!(matches!(log.apply(refused), Err(DiskError::Full { .. })));
        }
        assert_eq!(log.last(QuorumId([1; 16])).expect("readable"), None);
    }

    #[test]
    fn a_rotten_piece_stays_rotten_until_it_is_removed() {
        let disk = MemoryDisk::default();
        let files = disk.mount().files;
        let hash = PieceHash([3; 32]);
        files.write_piece(hash, b"piece").expect("written");
        disk.rot_one(&mut Rng::new(1, "rot")).expect("there is a piece");
        let first = files.read_piece(hash).expect("read");
        assert_ne!(first.as_deref(), Some(&b"piece"[..]));
        assert_eq!(files.read_piece(hash).expect("read"), first);
        files.remove_piece(hash).expect("removed");
        files.write_piece(hash, b"piece").expect("written");
        assert_eq!(files.read_piece(hash).expect("read").as_deref(), Some(&b"piece"[..]));
    }
}
