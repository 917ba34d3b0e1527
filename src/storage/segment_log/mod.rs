//! The log of a node on its disk: segment files, each written from its beginning to its end and then never again.
//!
//! **Writing.** A batch is one record with a checksum ([`record`]), written at the end of the newest segment and
//! visible at once through an index in memory ([`index`]). A sync is one `fdatasync` of that segment, whoever appended
//! to it. The file is filled with zeros ahead of its end, in steps: most syncs then write data alone, and no metadata
//! of the file. A full segment is sealed, synced, and only then followed by another, under a name that it gets when
//! its header is on the disk.
//!
//! **Opening** reads every segment ([`recover`]). All but the newest must be whole, up to their seals; the newest ends
//! where its records do. A torn batch is not there, nor is anything behind it; both are cut off, and what is left is
//! written again before it is synced. That the end of a log was lost although it had been synced is seen by the
//! quorums' marks, which are kept outside.
//!
//! **Giving room back.** The oldest segment goes once nothing in it is in use, with a sync before that: what deleted
//! its entries must not be undone without it. When more than half of the log is of no use, what the oldest segment has
//! left is written anew at the end ([`SegmentLog::compact`]). So a group that writes nothing for years holds up no
//! other, a log is at most about twice as large as what is in use and [`SLACK_BYTES`], and opening reads no more than
//! that.
//!
//! A write or sync that fails in another way than for want of room is the last thing that a log does: what is on the
//! disk is not known any more.

mod index;
mod record;
mod recover;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use quorate_protocols::ids::QuorumId;

use self::index::{Index, Location};
use self::record::{Encoded, HEADER_BYTES, Record};
use super::{io_error, require_space, sync_folder};
use crate::seams::log_engine::LogEntry;
use crate::seams::{DiskError, LogBatch, LogEngine, LogOp};

/// A segment that has this many bytes is followed by another. Opening reads one at a time into memory.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// How far a segment is filled with zeros ahead of its end, in bytes: one sync in some hundred writes metadata.
const FILL_BYTES: u64 = 256 * 1024;

/// It is filled in writes of a page each, in bytes: pages that were written together may be one unit of the kernel's
/// cache, all of which it then takes for written anew at each sync.
const FILL_STEP_BYTES: u64 = 4096;

/// What a log may have of no use, beside as much as is in use, before any of it is written anew: a few segments.
const SLACK_BYTES: u64 = 4 * SEGMENT_BYTES;

/// What one step of a compaction writes anew, in bytes, about: writers wait meanwhile.
const STEP_BYTES: u64 = 512 * 1024;

/// Segments that one step of a compaction removes, each with a sync of the folder: writers wait meanwhile.
const REMOVED_PER_STEP_MAX: usize = 4;

/// Room that must be left on the disk for a batch that does not make some, in bytes: what deletes some must still fit.
const FREE_BYTES_MIN: u64 = 2 * SEGMENT_BYTES;

/// How the names of segments end, behind their number in hexadecimal.
const SUFFIX: &str = ".segment";

/// The segment that is being made, before it has its name.
const UNFINISHED: &str = "unfinished";

/// The log of a node in a folder.
pub struct SegmentLog {
    folder: PathBuf,
    state: Mutex<State>,
    /// Held during a sync. The kernel tells of pages that it could not write once: of two syncs of a file at a time,
    /// only one may hear of it.
    syncing: Mutex<()>,
    /// Set by a failed write or sync: what is on the disk is not known any more.
    broken: AtomicBool,
}

/// A segment that is complete.
struct Sealed {
    file: Arc<File>,
    bytes: u64,
}

/// The segment that is written to.
struct Newest {
    sequence: u64,
    file: Arc<File>,
    /// Where the next record begins, and what it is linked to.
    end: u64,
    link: u32,
    /// Up to where the file has bytes.
    filled: u64,
}

struct State {
    index: Index,
    sealed: BTreeMap<u64, Sealed>,
    newest: Newest,
}

impl SegmentLog {
    /// Opens or creates the log in `folder`. The caller keeps other processes out of it ([`super::open`]).
    pub fn open(folder: &Path) -> Result<Self, DiskError> {
        fs::create_dir_all(folder).map_err(|error| io_error("creating the folder", folder, &error))?;
        if let Some(parent) = folder.parent() {
            sync_folder(parent)?;
        }
        let state = recover::recover(folder)?;
        let (state, syncing, broken) = (Mutex::new(state), Mutex::new(()), AtomicBool::new(false));
        Ok(Self { folder: folder.to_owned(), state, syncing, broken })
    }

    fn require_whole(&self) -> Result<(), DiskError> {
        match self.broken.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(DiskError::Damaged {
                place: self.folder.display().to_string(),
                reason: "an earlier write to the log failed; restart the node".into(),
            }),
        }
    }

    /// Passes an error of a write or a sync on. Only for want of room the log goes on: nothing was changed then.
    fn written<T>(&self, what: &'static str, result: io::Result<T>) -> Result<T, DiskError> {
        result.map_err(|error| {
            let error = io_error(what, &self.folder, &error);
            if !matches!(error, DiskError::Full { .. }) {
                self.broken.store(true, Ordering::Release);
            }
            error
        })
    }

    /// Syncs one file, unless a write or a sync failed before. What is left of a sync that failed is unknown, whatever
    /// the reason.
    fn sync_with(&self, sync: impl FnOnce() -> io::Result<()>) -> Result<(), DiskError> {
        let _one_at_a_time = self.syncing.lock();
        self.require_whole()?;
        sync().map_err(|error| {
            self.broken.store(true, Ordering::Release);
            io_error("syncing", &self.folder, &error)
        })
    }

    fn append(&self, state: &mut State, batch: &LogBatch) -> Result<(), DiskError> {
        let encode = |link| {
            record::encode(batch, link).map_err(|error| DiskError::Io {
                what: "writing",
                place: self.folder.display().to_string(),
                reason: error.to_string(),
            })
        };
        let mut encoded = encode(state.newest.link)?;
        if state.newest.end > HEADER_BYTES as u64 && state.newest.end + encoded.bytes.len() as u64 > SEGMENT_BYTES {
            self.rotate(state)?;
            encoded = encode(state.newest.link)?;
        }
        self.write(&mut state.newest, &encoded)?;
        let (sequence, offset) = (state.newest.sequence, state.newest.end);
        let placed = record::placed(&encoded, offset).map_err(|error| recover::damaged(&self.folder, &error))?;
        state.newest.end += encoded.bytes.len() as u64;
        state.newest.link = encoded.link;
        match placed {
            Record::Batch(group, changes) => state.index.apply(sequence, group, changes),
            Record::Seal => (),
        }
        Ok(())
    }

    /// Writes at the end of the segment, and does not move the end: a write that had no room is written over.
    fn write(&self, newest: &mut Newest, encoded: &Encoded) -> Result<(), DiskError> {
        let end = newest.end + encoded.bytes.len() as u64;
        if end > newest.filled {
            let filled = (end + FILL_BYTES).next_multiple_of(FILL_STEP_BYTES);
            while newest.filled < filled {
                let step = FILL_STEP_BYTES - newest.filled % FILL_STEP_BYTES;
                let zeros = &[0; FILL_STEP_BYTES as usize][..step as usize];
                match self.written("writing", newest.file.write_all_at(zeros, newest.filled)) {
                    // There is room for the record, if not for what is to follow it.
                    Err(DiskError::Full { .. }) if newest.filled >= end => break,
                    filled => filled?,
                }
                newest.filled += step;
            }
        }
        self.written("writing", newest.file.write_all_at(&encoded.bytes, newest.end))
    }

    /// Seals the newest segment and begins another. Between the two, everything in the first is synced.
    fn rotate(&self, state: &mut State) -> Result<(), DiskError> {
        let seal = record::encode_seal(state.newest.link);
        self.write(&mut state.newest, &seal)?;
        self.sync_with(|| state.newest.file.sync_data())?;
        let next = self.written("creating a segment", begin(&self.folder, state.newest.sequence + 1, seal.link))?;
        // From here on the next start may find the new segment: nothing may be written over the seal any more.
        finish(&self.folder, next.sequence).inspect_err(|_| {
            self.broken.store(true, Ordering::Release);
            // It need not be there, and if it stays it is empty and follows the seal.
            let _ = fs::remove_file(path_of(&self.folder, next.sequence));
        })?;
        let bytes = state.newest.end + seal.bytes.len() as u64;
        let full = std::mem::replace(&mut state.newest, next);
        state.sealed.insert(full.sequence, Sealed { file: full.file, bytes });
        Ok(())
    }

    /// Reads the entries that `choose` names. What is read of files that are removed meanwhile is still there.
    fn read(&self, choose: impl FnOnce(&Index) -> Vec<(u64, Location)>) -> Result<Vec<LogEntry>, DiskError> {
        self.require_whole()?;
        let places = {
            let state = self.state.lock();
            let chosen = choose(&state.index);
            chosen
                .into_iter()
                .map(|(index, location)| Some((index, location, state.file(location.segment)?)))
                .collect::<Option<Vec<_>>>()
        };
        let places = places.ok_or_else(|| recover::damaged(&self.folder, &"an entry is in no segment"))?;
        let read = |(index, location, file): (u64, Location, Arc<File>)| {
            Ok((index, read_stored(&self.folder, &file, location)?))
        };
        places.into_iter().map(read).collect()
    }

    /// Writes anew what is left of one group in the oldest segment, if enough of the log is of no use.
    fn write_anew(&self) -> Result<bool, DiskError> {
        let mut state = self.state.lock();
        let Some(oldest) = state.sealed.first_key_value().map(|(segment, _)| *segment) else { return Ok(false) };
        if !state.is_sparse() {
            return Ok(false);
        }
        let Some((group, left)) = state.index.leftovers(oldest, STEP_BYTES) else { return Ok(false) };
        let file = state.file(oldest).ok_or_else(|| recover::damaged(&self.folder, &"a segment is missing"))?;
        let mut batch = LogBatch::of(group);
        for (key, value) in left.values {
            batch.put(key, value);
        }
        for (index, location) in left.entries {
            let entry = read_stored(&self.folder, &file, location)?;
            match batch.ops.last_mut() {
                Some(LogOp::Append { first, entries }) if *first + entries.len() as u64 == index => entries.push(entry),
                _ => {
                    batch.append(index, vec![entry]);
                }
            }
        }
        self.append(&mut state, &batch)?;
        Ok(true)
    }

    /// Removes some of the oldest segments in which nothing is in use.
    fn remove_unused(&self) -> Result<bool, DiskError> {
        let unused: Vec<u64> = self.state.lock().unused().take(REMOVED_PER_STEP_MAX).collect();
        if unused.is_empty() {
            return Ok(false);
        }
        // What deleted their entries, or wrote them anew, is on the disk from here on.
        self.sync()?;
        for segment in unused {
            let path = path_of(&self.folder, segment);
            self.written("removing", fs::remove_file(&path))?;
            // One after the other: a log without a segment in its middle is damaged.
            sync_folder(&self.folder)?;
            let mut state = self.state.lock();
            state.sealed.remove(&segment);
            state.index.forget(segment);
        }
        Ok(true)
    }
}

impl LogEngine for SegmentLog {
    fn entries(&self, group: QuorumId, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, DiskError> {
        self.read(|index| index.range(group, from, to, bytes_max))
    }

    fn last(&self, group: QuorumId) -> Result<Option<LogEntry>, DiskError> {
        Ok(self.read(|index| index.last(group).into_iter().collect())?.pop())
    }

    fn get(&self, group: QuorumId, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.require_whole()?;
        Ok(self.state.lock().index.value(group, key))
    }

    fn groups(&self) -> Result<Vec<QuorumId>, DiskError> {
        self.require_whole()?;
        Ok(self.state.lock().index.groups())
    }

    fn apply(&self, batch: LogBatch) -> Result<(), DiskError> {
        if batch.needs_room() {
            require_space(&self.folder, batch.bytes_added() as u64, FREE_BYTES_MIN)?;
        }
        let mut state = self.state.lock();
        self.require_whole()?;
        self.append(&mut state, &batch)
    }

    fn sync(&self) -> Result<(), DiskError> {
        // A segment that is sealed meanwhile is synced by whoever seals it.
        let file = self.state.lock().newest.file.clone();
        self.sync_with(|| file.sync_data())?;
        self.require_whole()
    }

    fn wants_compaction(&self) -> bool {
        let state = self.state.lock();
        state.is_sparse() || state.unused().next().is_some()
    }

    fn compact(&self) -> Result<bool, DiskError> {
        self.require_whole()?;
        Ok(self.write_anew()? || self.remove_unused()?)
    }
}

impl State {
    fn file(&self, segment: u64) -> Option<Arc<File>> {
        match segment == self.newest.sequence {
            true => Some(self.newest.file.clone()),
            false => self.sealed.get(&segment).map(|sealed| sealed.file.clone()),
        }
    }

    fn bytes(&self) -> u64 {
        self.newest.end + self.sealed.values().map(|sealed| sealed.bytes).sum::<u64>()
    }

    /// Whether more of the log is of no use than it may have.
    fn is_sparse(&self) -> bool {
        self.bytes() > 2 * self.index.bytes() + SLACK_BYTES
    }

    /// Segments that nothing is in use of, before the first of which something is.
    fn unused(&self) -> impl Iterator<Item = u64> {
        self.sealed.keys().copied().take_while(|segment| !self.index.is_in_use(*segment))
    }
}

fn path_of(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("{sequence:016x}{SUFFIX}"))
}

/// Makes an empty segment, which is there whole or not at all.
fn create(folder: &Path, sequence: u64, link: u32) -> Result<Newest, DiskError> {
    let begun = begin(folder, sequence, link);
    let created = begun.map_err(|error| io_error("creating a segment", &path_of(folder, sequence), &error))?;
    finish(folder, sequence)?;
    Ok(created)
}

/// Writes the header of an empty segment, which is not in the log yet.
fn begin(folder: &Path, sequence: u64, link: u32) -> io::Result<Newest> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).open(folder.join(UNFINISHED))?;
    let (header, link) = record::header(sequence, link);
    file.write_all_at(&header, 0)?;
    file.sync_all()?;
    let end = HEADER_BYTES as u64;
    Ok(Newest { sequence, file: Arc::new(file), end, link, filled: end })
}

/// Gives the segment that was begun its name.
fn finish(folder: &Path, sequence: u64) -> Result<(), DiskError> {
    let path = path_of(folder, sequence);
    fs::rename(folder.join(UNFINISHED), &path).map_err(|error| io_error("creating a segment", &path, &error))?;
    sync_folder(folder)
}

fn read_stored(folder: &Path, file: &File, location: Location) -> Result<Vec<u8>, DiskError> {
    let mut bytes = vec![0; location.stored.length as usize];
    match file.read_exact_at(&mut bytes, location.stored.offset) {
        Ok(()) if crc32fast::hash(&bytes) == location.stored.checksum => Ok(bytes),
        Ok(()) => {
            Err(recover::damaged(&path_of(folder, location.segment), &"an entry has other bytes than were written"))
        }
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Err(recover::damaged(&path_of(folder, location.segment), &"an entry is cut off"))
        }
        Err(error) => Err(io_error("reading", &path_of(folder, location.segment), &error)),
    }
}
