//! The record store over sled 0.34.7, with the parts that sled leaves open closed here.
//!
//! **Durability.** sled's `flush` hands its log to the kernel and calls `sync_file_range`, which waits for the data
//! but neither commits the file's metadata nor empties the drive's cache: a power loss can undo it. [`SledKv`]'s
//! `sync` therefore runs sled's flush and then, on descriptors of its own, `fsync`s blob files that are new since the
//! last sync (sled puts a page that outgrows a segment into a file of its own and never syncs it), their folder, and
//! `fdatasync`s the log. Blobs go first: a log that names a blob that is not there ends, for sled, at that point.
//! sled's timed flush is off: nothing may become "durable" except through `sync`.
//!
//! **Atomicity.** All trees live in one sled tree, under keys prefixed with the name of the tree. A batch that spans
//! trees is then one sled batch, which sled's log brings back whole or not at all. sled's own trees would need its
//! transactions, which lock, retry and cost several times as much. A batch is also one step for readers.
//!
//! **Damage.** sled checks every record with a CRC, and panics on some kinds of damage. Panics are caught at this
//! edge and become [`DiskError::Damaged`]; afterwards the store refuses everything, since its memory may be half
//! changed. A log that was cut off at its end opens with what is before the cut: that some synced history is gone is
//! seen by the quorums' marks, which are kept outside this store.
//!
//! **What it does not promise.** Between two syncs sled may reuse a segment of its log whose live records it has
//! copied elsewhere with nothing but `sync_file_range`. A drive that loses its cache in exactly that window can lose
//! older records too; that member's disk is then behind its mark or fails its checks, and the quorum has the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::seams::disk::KvOp;
use crate::seams::{DiskError, Kv, KvBatch};
use parking_lot::Mutex;

/// Memory for sled's page cache, in bytes. A node's records are small and mostly written; measured cost of a smaller
/// cache than sled's 1 GiB is nothing at this size of data.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Room that must be left on the disk for a batch that adds records, in bytes: one of sled's segments for the log, and
/// the segments that it moves while it frees others.
const FREE_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// Longest name of a tree, in bytes: its length is one byte of every key.
const TREE_NAME_BYTES_MAX: usize = 255;

/// How often, and how long apart, opening is tried again while sled's helper threads of a store that this process has
/// just closed still hold its file. Another process is told apart by our own lock, at once.
const REOPEN_ATTEMPTS: u32 = 100;
const REOPEN_PAUSE: Duration = Duration::from_millis(20);

/// sled's files inside its folder.
const LOG_FILE: &str = "db";
const BLOB_FOLDER: &str = "blobs";

/// Named trees of records in one sled database.
pub struct SledKv {
    db: sled::Db,
    folder: PathBuf,
    log: File,
    blobs: File,
    /// Blob files that an earlier sync made durable.
    blobs_synced: Mutex<BTreeSet<std::ffi::OsString>>,
    /// One writer at a time: a range is expanded to its keys before the batch is handed to sled.
    writer: Mutex<()>,
    /// Set by a panic inside sled or a failed sync; whatever is in memory is not to be trusted any more.
    broken: AtomicBool,
}

impl SledKv {
    /// Opens or creates the store in `folder`. The caller keeps other processes out of it ([`super::open`]).
    pub fn open(folder: &Path) -> Result<Self, DiskError> {
        fs::create_dir_all(folder).map_err(|error| io_error("creating the folder", folder, &error))?;
        let db = open_sled(folder)?;
        let open = |name: &str| {
            let path = folder.join(name);
            File::open(&path).map_err(|error| io_error("opening", &path, &error))
        };
        let kv = Self {
            db,
            folder: folder.to_owned(),
            log: open(LOG_FILE)?,
            blobs: open(BLOB_FOLDER)?,
            blobs_synced: Mutex::default(),
            writer: Mutex::default(),
            broken: AtomicBool::new(false),
        };
        // What sled created, renamed or cut off while opening must not be undone under later records.
        for entry in fs::read_dir(folder).map_err(|error| io_error("listing", folder, &error))? {
            let path = entry.map_err(|error| io_error("listing", folder, &error))?.path();
            File::open(&path).and_then(|file| file.sync_all()).map_err(|error| io_error("syncing", &path, &error))?;
        }
        super::sync_folder(folder)?;
        if let Some(parent) = folder.parent() {
            super::sync_folder(parent)?;
        }
        kv.sync()?;
        Ok(kv)
    }

    /// Runs sled's code; a panic in it is damage, and the last thing that this store did.
    fn guarded<T>(&self, what: &'static str, work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, DiskError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(DiskError::Damaged {
                place: self.folder.display().to_string(),
                reason: "an earlier operation on the record store failed; restart the node".into(),
            });
        }
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(sled_error(what, &self.folder, &error)),
            Err(panic) => {
                self.broken.store(true, Ordering::Release);
                Err(panic_error(&self.folder, &*panic))
            }
        }
    }

    /// The batch as the last word on each key it touches.
    fn flatten(&self, batch: KvBatch) -> Result<BTreeMap<Vec<u8>, Option<Vec<u8>>>, DiskError> {
        let mut changes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        for op in batch.ops {
            match op {
                KvOp::Put { tree, key, value } => {
                    changes.insert(join(&tree, &key)?, Some(value));
                }
                KvOp::Delete { tree, key } => {
                    changes.insert(join(&tree, &key)?, None);
                }
                KvOp::DeleteRange { tree, from, to } if from < to => {
                    self.delete_between(&mut changes, join(&tree, &from)?, join(&tree, &to)?)?;
                }
                // An empty range holds no keys.
                KvOp::DeleteRange { .. } => {}
                KvOp::DropTree { tree } => {
                    let from = join(&tree, &[])?;
                    let to = after_prefix(&from);
                    self.delete_between(&mut changes, from, to)?;
                }
            }
        }
        Ok(changes)
    }

    fn delete_between(
        &self,
        changes: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>,
        from: Vec<u8>,
        to: Vec<u8>,
    ) -> Result<(), DiskError> {
        for (_, change) in changes.range_mut(from.clone()..to.clone()) {
            *change = None;
        }
        let keys = self.guarded("reading", || self.db.range(from..to).keys().collect::<Result<Vec<_>, _>>())?;
        changes.extend(keys.into_iter().map(|key| (key.to_vec(), None)));
        Ok(())
    }

    /// Makes blob files durable that were written since the last sync.
    fn sync_blobs(&self) -> io::Result<()> {
        let mut synced = self.blobs_synced.lock();
        let mut present = BTreeSet::new();
        let mut is_new = false;
        for entry in fs::read_dir(self.folder.join(BLOB_FOLDER))? {
            let entry = entry?;
            let name = entry.file_name();
            if !synced.contains(&name) {
                match File::open(entry.path()) {
                    Ok(file) => file.sync_data()?,
                    // sled removes a blob once its page has been written anew.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
                is_new = true;
            }
            present.insert(name);
        }
        if is_new {
            self.blobs.sync_all()?;
        }
        *synced = present;
        Ok(())
    }
}

impl Kv for SledKv {
    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        let key = join(tree, key)?;
        Ok(self.guarded("reading", || self.db.get(&key))?.map(|value| value.to_vec()))
    }

    fn range(
        &self,
        tree: &str,
        from: &[u8],
        to: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, DiskError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let prefix = join(tree, &[])?.len();
        let (from, to) = (join(tree, from)?, join(tree, to)?);
        self.guarded("reading", || {
            let mut rows = Vec::new();
            let mut bytes = 0usize;
            for row in self.db.range(from..to).take(limit) {
                let (key, value) = row?;
                bytes = bytes.saturating_add(value.len());
                if bytes > bytes_max && !rows.is_empty() {
                    break;
                }
                rows.push((key[prefix..].to_vec(), value.to_vec()));
            }
            Ok(rows)
        })
    }

    fn last(&self, tree: &str) -> Result<Option<(Vec<u8>, Vec<u8>)>, DiskError> {
        let from = join(tree, &[])?;
        let (prefix, to) = (from.len(), after_prefix(&from));
        let row = self.guarded("reading", || self.db.range(from..to).next_back().transpose())?;
        Ok(row.map(|(key, value)| (key[prefix..].to_vec(), value.to_vec())))
    }

    fn trees(&self) -> Result<Vec<String>, DiskError> {
        let mut names = self.guarded("reading", || {
            let mut names = Vec::new();
            let mut from = Vec::new();
            // One step per tree, not per record: from the first key of a tree past the last one it could have.
            while let Some(row) = self.db.range(from..).next() {
                let (key, _) = row?;
                let length = usize::from(key[0]);
                let Some(name) = key.get(1..1 + length) else { break };
                names.push(String::from_utf8_lossy(name).into_owned());
                from = after_prefix(&key[..1 + length]);
            }
            Ok(names)
        })?;
        names.sort();
        Ok(names)
    }

    fn apply(&self, batch: KvBatch) -> Result<(), DiskError> {
        // A panic while holding the lock has already marked the store as broken.
        let _writer = self.writer.lock();
        let changes = self.flatten(batch)?;
        let added: usize = changes.iter().filter_map(|(key, value)| Some(key.len() + value.as_ref()?.len())).sum();
        if added > 0 {
            super::require_space(&self.folder, added as u64, FREE_BYTES_MIN)?;
        }
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.guarded("writing", || self.db.apply_batch(batch))
    }

    fn sync(&self) -> Result<(), DiskError> {
        let synced = self.guarded("flushing", || self.db.flush().map(drop)).and_then(|()| {
            self.sync_blobs()
                .and_then(|()| self.log.sync_data())
                .map_err(|error| io_error("syncing", &self.folder, &error))
        });
        if synced.is_err() {
            // After a failed fsync the kernel may have dropped the dirty pages: a second try could succeed and lie.
            self.broken.store(true, Ordering::Release);
        }
        synced
    }
}

fn open_sled(folder: &Path) -> Result<sled::Db, DiskError> {
    let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    for attempt in 1.. {
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(error))) if is_lock(&error) && attempt < REOPEN_ATTEMPTS => {
                std::thread::sleep(REOPEN_PAUSE);
            }
            Ok(Err(error)) => return Err(sled_error("opening", folder, &error)),
            Err(panic) => return Err(panic_error(folder, &*panic)),
        }
    }
    unreachable!("the last attempt returns")
}

/// sled wraps the refusal of its lock in text.
fn is_lock(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other && error.to_string().contains("could not acquire lock")
}

/// The key in sled: length of the tree's name, its name, the key.
fn join(tree: &str, key: &[u8]) -> Result<Vec<u8>, DiskError> {
    let length = u8::try_from(tree.len()).map_err(|_| DiskError::Io {
        what: "naming a tree",
        place: tree.chars().take(32).collect(),
        reason: format!("its name is {} bytes long, {TREE_NAME_BYTES_MAX} are allowed", tree.len()),
    })?;
    let mut joined = Vec::with_capacity(1 + tree.len() + key.len());
    joined.push(length);
    joined.extend_from_slice(tree.as_bytes());
    joined.extend_from_slice(key);
    Ok(joined)
}

/// The first key after all keys that begin with `prefix`. A prefix of ours begins with a length and holds UTF-8, so
/// some byte of it can be counted up: no byte of UTF-8 is 0xff, and with an empty name the length is 0.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

fn io_error(what: &'static str, place: &Path, error: &io::Error) -> DiskError {
    super::io_error(what, place, error)
}

fn sled_error(what: &'static str, folder: &Path, error: &sled::Error) -> DiskError {
    let place = folder.display().to_string();
    match error {
        sled::Error::Io(error) => io_error(what, folder, error),
        sled::Error::Corruption { .. } => DiskError::Damaged { place, reason: error.to_string() },
        error => DiskError::Io { what, place, reason: error.to_string() },
    }
}

fn panic_error(folder: &Path, panic: &(dyn std::any::Any + Send)) -> DiskError {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    DiskError::Damaged {
        place: folder.display().to_string(),
        reason: format!("the record store stopped: {}", said.unwrap_or("no reason given")),
    }
}
