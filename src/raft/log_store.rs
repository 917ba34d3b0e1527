//! One group's log, vote and commit pointer in the log of the node.
//!
//! A group has its entries there by their index, and under small keys its vote, what is committed, what was purged and
//! whether a configuration has named this member. Its snapshots are in the record store ([`super::snapshot`]).
//!
//! Promises: an entry is readable when `append` returns and synced before it counts towards a commit ([`OwnSync`] says
//! how, for those of a primary); a vote is synced, and marked outside the log, before it is used (that it won is
//! written without a sync); what a truncation removed does not come back; whatever comes back after a crash, what was
//! written before it is there as well. The commit pointer is written without a sync: it saves work after a restart and
//! promises nothing. What a snapshot has is purged only once the snapshot is synced, whatever order openraft asks in: a
//! log that begins behind a snapshot that is not there is one that lost its disk.

use std::fmt::{Debug, Display};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LeaderId, LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use quorate_protocols::ids::{LogIndex, MemberId, QuorumId, Term};
use quorate_protocols::quorum::limits::{LOG_BYTES_MAX, LOG_READ_BYTES_MAX};
use quorate_protocols::wire::{self, Record};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::log_sizes::LogSizes;
use super::own_sync::OwnSync;
use super::records;
use super::rollback_guard::RollbackGuard;
use super::snapshot::SnapshotStore;
use super::types::{Entry, LogId, StorageError, StorageIoError, TypeConfig, Vote};
use crate::seams::{DiskError, Failpoint, LogBatch, failpoint};
use crate::storage::Storage;

/// One entry as kept on disk.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
struct LogRecord(Entry);

/// Entries that a member reads of its log.
pub struct LogRead {
    /// Before it wrote any since it started.
    pub is_at_start: bool,
    pub entries: Vec<Entry>,
}

impl Record for LogRecord {
    const VERSION: u8 = 1;
}

/// Anything small kept under a key. Version 1 of each: first.
#[derive(Serialize, Deserialize)]
struct Value<T>(T);

impl<T: Serialize + DeserializeOwned> Record for Value<T> {
    const VERSION: u8 = 1;
}

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";
const NAMED: &[u8] = b"named";

/// The last disk error that a group's stores met. openraft keeps only the text of an error, and what to do about it
/// depends on its kind. Clones share it.
#[derive(Clone, Default)]
pub struct LastFault(Arc<Mutex<Option<DiskError>>>);

impl LastFault {
    pub fn get(&self) -> Option<DiskError> {
        self.0.lock().clone()
    }
    /// Passes a result on, and remembers its error.
    pub fn record_fault<T>(&self, result: Result<T, DiskError>) -> Result<T, DiskError> {
        result.inspect_err(|error| *self.0.lock() = Some(error.clone()))
    }
}

/// The vote that openraft last saved or read, as soon as it does: its metrics tell only later. Clones share it.
#[derive(Clone, Default)]
pub struct KnownVote(Arc<Mutex<Vote>>);

impl KnownVote {
    pub fn get(&self) -> Vote {
        *self.0.lock()
    }
    pub fn term(&self) -> Term {
        Term(self.get().leader_id.term)
    }
    fn set(&self, vote: Vote) {
        *self.0.lock() = vote;
    }
}

/// The store of one group's log. Clones share the log; openraft serializes writes.
#[derive(Clone)]
pub struct LogStore {
    storage: Storage,
    group: QuorumId,
    mark: RollbackGuard,
    fault: LastFault,
    /// What the log begins behind.
    pub snapshots: SnapshotStore,
    /// The end of the synced log, for the mark; the notice wakes whoever marks it.
    pub synced: Arc<(AtomicU64, Notify)>,
    /// How often the log was cut. Held while the end of the synced log changes: a sync of what was cut off since says
    /// nothing of it.
    cuts: Arc<Mutex<u64>>,
    /// What the entries weigh; the notice wakes whoever takes snapshots when they weigh too much.
    pub sizes: Arc<(Mutex<LogSizes>, Notify)>,
    /// What openraft last said is committed, since the start of the process.
    pub committed: Arc<AtomicU64>,
    pub known_vote: KnownVote,
    pub own_sync: OwnSync,
}

impl LogStore {
    pub fn new(storage: Storage, group: QuorumId, mark: RollbackGuard, own_sync: OwnSync, fault: LastFault) -> Self {
        let synced = Arc::new((AtomicU64::new(0), Notify::new()));
        let (sizes, committed, known_vote) = (Arc::default(), Arc::default(), KnownVote::default());
        let snapshots = SnapshotStore::new(storage.clone(), group);
        let cuts = Arc::default();
        Self { storage, group, mark, fault, snapshots, synced, cuts, sizes, committed, known_vote, own_sync }
    }

    /// Marks the end of the log until the group stops, at most once per `rollback_guard::INDEX_INTERVAL`. Once this has
    /// returned nothing of the group writes its mark any more.
    pub async fn keep_marked(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.synced.1.notified() => (),
            }
            let last = LogIndex(self.synced.0.load(Ordering::Acquire));
            let marked = async {
                // The record store first: one that is older than the mark is one that came back older.
                records::write_marked(&self.storage, self.group, last).await?;
                self.mark.synced(|| last.min(LogIndex(self.synced.0.load(Ordering::Acquire)))).await
            };
            if let Err(error) = marked.await {
                // The mark only serves to notice a lost disk later; the log itself is synced.
                tracing::warn!(%error, "the end of a log could not be marked: a disk that is lost later may not be noticed");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(super::rollback_guard::INDEX_INTERVAL) => (),
            }
        }
    }

    fn place(&self, what: &dyn Display) -> String {
        format!("{what} of quorum {}", self.group)
    }

    fn value<T: Serialize + DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, DiskError> {
        let Some(bytes) = self.storage.log().get(self.group, key)? else { return Ok(None) };
        wire::decode_record::<Value<T>>(&bytes).map(|value| Some(value.0)).map_err(|error| DiskError::Damaged {
            place: self.place(&String::from_utf8_lossy(key)),
            reason: error.to_string(),
        })
    }

    /// A batch that changes one value.
    fn value_batch<T: Serialize + DeserializeOwned>(&self, key: &[u8], value: T) -> LogBatch {
        let mut batch = LogBatch::of(self.group);
        batch.put(key, wire::encode_record(&Value(value)));
        batch
    }

    /// Shows that the log takes writes, and makes durable whatever was written to it without a sync.
    pub async fn check_writable(&self) -> Result<(), DiskError> {
        self.storage.append(self.value_batch(NAMED, self.is_named()?)).await
    }

    pub fn vote(&self) -> Result<Option<Vote>, DiskError> {
        self.value(VOTE)
    }

    /// Ends the lead that `me` had when it stopped: the next time it leads, it was elected again, in a later term.
    ///
    /// openraft would let a restarted leader lead on in its term, which is right for a disk that forgot nothing. One
    /// that lost synced entries too young for the mark to tell would then serve reads without them and give their
    /// indices, in the same term, to others. An election asks who has the longest log instead.
    pub async fn end_own_lead(&mut self, me: MemberId) -> Result<(), StorageError> {
        let own = |vote: &Vote| vote.committed && vote.leader_id.voted_for == Some(me);
        let read = self.vote().map_err(|error| StorageIoError::read_vote(&error))?;
        let Some(vote) = read.filter(own) else { return Ok(()) };
        let next = vote.leader_id.term.checked_add(1);
        let term =
            next.ok_or_else(|| StorageIoError::read_vote(&io::Error::other("no term is left after this one")))?;
        let leader_id = LeaderId { term, voted_for: None };
        self.save_vote(&Vote { leader_id, committed: false }).await
    }

    /// Takes the vote that this member gave before it left the group and was taken in again, unless it has given a
    /// later one since.
    pub async fn keep_promised_vote(&mut self, promised: Vote) -> Result<(), StorageError> {
        let kept = self.vote().map_err(|error| StorageIoError::read_vote(&error))?;
        match kept.is_none_or(|kept| kept < promised) {
            true => self.save_vote(&promised).await,
            false => Ok(()),
        }
    }

    /// Whether a configuration has named this member since it was invited.
    pub fn is_named(&self) -> Result<bool, DiskError> {
        Ok(self.value(NAMED)?.unwrap_or(false))
    }

    /// Written without a sync: a log that was synced says so again.
    pub fn set_named(&self) -> Result<(), DiskError> {
        self.storage.append_unsynced(self.value_batch(NAMED, true))
    }

    pub fn purged(&self) -> Result<Option<LogId>, DiskError> {
        self.value(PURGED)
    }

    fn purge_batch(&self, upto: LogId) -> LogBatch {
        let mut batch = self.value_batch(PURGED, upto);
        batch.purge(upto.index);
        batch
    }

    /// Begins the log behind a snapshot of another member, once that snapshot is synced; synced as well.
    pub async fn purge_installed(&self, snapshot: LogId) -> Result<(), DiskError> {
        self.storage.append(self.purge_batch(snapshot)).await
    }

    /// Drops a log that does not lead up to the snapshot, before openraft reads either: power was lost after the
    /// snapshot of another member was synced, and before the log was made to begin behind it. openraft does so itself
    /// only for a log whose end is older than the snapshot; entries of a later term that were never committed may end
    /// it as well.
    pub async fn begin_behind_snapshot(&self) -> Result<(), DiskError> {
        let current = self.snapshots.current()?.and_then(|(meta, _)| meta.last_log_id);
        self.snapshots.set_synced(current);
        let Some(snapshot) = current else { return Ok(()) };
        if self.purged()? >= Some(snapshot) {
            return Ok(());
        }
        let entries = self.storage.log().entries(self.group, snapshot.index, snapshot.index + 1, usize::MAX)?;
        if let Some((index, bytes)) = entries.first()
            && self.decode(*index, bytes)?.log_id == snapshot
        {
            return Ok(());
        }
        self.mark.truncating(LogIndex(snapshot.index)).await?;
        let mut batch = LogBatch::of(self.group);
        batch.truncate(0).put(PURGED, wire::encode_record(&Value(snapshot)));
        self.storage.append(batch).await
    }

    pub fn last(&self) -> Result<Option<LogId>, DiskError> {
        match self.storage.log().last(self.group)? {
            Some((index, bytes)) => Ok(Some(self.decode(index, &bytes)?.log_id)),
            None => self.purged(),
        }
    }

    fn damaged(&self, index: u64, reason: impl ToString) -> DiskError {
        DiskError::Damaged { place: self.place(&format_args!("entry {index}")), reason: reason.to_string() }
    }

    fn decode(&self, index: u64, bytes: &[u8]) -> Result<Entry, DiskError> {
        let entry = wire::decode_record::<LogRecord>(bytes).map_err(|error| self.damaged(index, error))?.0;
        match entry.log_id.index == index {
            true => Ok(entry),
            false => Err(self.damaged(index, format_args!("it says that it is entry {}", entry.log_id.index))),
        }
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, DiskError> {
        let rows = self.storage.log().entries(self.group, start, end, bytes_max)?;
        if let Some(pair) = rows.windows(2).find(|pair| pair[1].0 != pair[0].0 + 1) {
            return Err(self.damaged(pair[0].0 + 1, "it is missing"));
        }
        let entries: Vec<Entry> =
            rows.iter().map(|(index, bytes)| self.decode(*index, bytes)).collect::<Result<_, _>>()?;
        // The log that a restart found is read once, to be applied again.
        if self.synced.0.load(Ordering::Acquire) == 0 {
            let mut sizes = self.sizes.0.lock();
            entries
                .iter()
                .zip(&rows)
                .for_each(|(entry, (_, bytes))| sizes.record_older(entry.log_id.index, bytes.len()));
        }
        let mut read = LogRead { is_at_start: self.synced.0.load(Ordering::Acquire) == 0, entries };
        failpoint(Failpoint::LogRead, &mut read);
        Ok(read.entries)
    }
}

fn read_error(error: DiskError) -> StorageError {
    StorageIoError::read_logs(&error).into()
}

fn write_error(error: DiskError) -> StorageError {
    StorageIoError::write_logs(&error).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        // openraft needs the whole range here: it is what it applies.
        self.fault.record_fault(self.read(start, end, usize::MAX)).map_err(read_error)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.fault.record_fault(self.read(start, end, LOG_READ_BYTES_MAX)).map_err(read_error)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let last_purged_log_id = self.purged().map_err(read_error)?;
        let last_log_id = self.last().map_err(read_error)?;
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.known_vote.set(*vote);
        let batch = self.value_batch(VOTE, *vote);
        // That the candidate of a vote has won is news, not a promise: the vote itself was synced when it was given,
        // and whoever forgets the news in a crash hears it again. The next synced entry makes it durable.
        let kept = self.vote().map_err(|error| StorageIoError::read_vote(&error))?;
        if vote.committed && kept.is_some_and(|kept| kept.leader_id == vote.leader_id) {
            let applied = self.fault.record_fault(self.storage.append_unsynced(batch));
            return applied.map_err(|error| StorageIoError::write_vote(&error).into());
        }
        let began = tokio::time::Instant::now();
        let saved = async {
            self.storage.append(batch).await?;
            let synced = began.elapsed();
            self.mark.voted(Term(vote.leader_id.term), vote.leader_id.voted_for).await?;
            tracing::debug!(%vote, ?synced, marked = ?began.elapsed(), "a vote was saved");
            Ok(())
        };
        self.fault.record_fault(saved.await).map_err(|error: DiskError| StorageIoError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let mut vote = self.vote().map_err(|error| StorageIoError::read_vote(&error))?;
        failpoint(Failpoint::VoteRead, &mut vote);
        self.known_vote.set(vote.unwrap_or_default());
        Ok(vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let batch = self.value_batch(COMMITTED, committed);
        self.fault.record_fault(self.storage.append_unsynced(batch)).map_err(write_error)?;
        self.committed.fetch_max(committed.map_or(0, |committed| committed.index), Ordering::AcqRel);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed: Option<Option<LogId>> = self.value(COMMITTED).map_err(read_error)?;
        // The log that it points into may have been cut behind it.
        let last = self.last().map_err(read_error)?;
        Ok(committed.flatten().min(last))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let is_early = self.own_sync.begin(&self.known_vote.get(), &entries);
        // They follow each other: openraft's contract.
        let index = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.log_id.index);
        let (first, last) = (index(entries.first()), index(entries.last()));
        let records: Vec<Vec<u8>> = entries.into_iter().map(|entry| wire::encode_record(&LogRecord(entry))).collect();
        let written: Vec<usize> = records.iter().map(Vec::len).collect();
        let mut batch = LogBatch::of(self.group);
        batch.append(first, records);
        let (synced, own_sync, fault) = (self.synced.clone(), self.own_sync.clone(), self.fault.clone());
        let (cuts, cuts_before) = (self.cuts.clone(), *self.cuts.lock());
        let (now, later) = if is_early { (Some(callback), None) } else { (None, Some(callback)) };
        let done = move |result: Result<(), DiskError>| {
            if result.is_ok() {
                let cuts = cuts.lock();
                if *cuts == cuts_before {
                    synced.0.store(last, Ordering::Release);
                    synced.1.notify_one();
                }
                drop(cuts);
                own_sync.synced(last);
            }
            let result = fault.record_fault(result);
            // Without it openraft does not hear of a failed sync: the node stops for it, and nothing counts meanwhile.
            if let Some(callback) = later {
                callback.log_io_completed(result.map_err(io::Error::other));
            }
        };
        self.fault.record_fault(self.storage.append_then(batch, done)).map_err(write_error)?;
        if let Some(callback) = now {
            callback.log_io_completed(Ok(()));
        }
        let mut sizes = self.sizes.0.lock();
        (first..).zip(written).for_each(|(index, bytes)| sizes.record_entry(index, bytes));
        if sizes.bytes() >= LOG_BYTES_MAX {
            self.sizes.1.notify_one();
        }
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let mut batch = LogBatch::of(self.group);
        batch.truncate(log_id.index);
        let kept = log_id.index.saturating_sub(1);
        {
            let mut cuts = self.cuts.lock();
            *cuts += 1;
            self.synced.0.fetch_min(kept, Ordering::AcqRel);
        }
        self.sizes.0.lock().truncate(log_id.index);
        self.own_sync.truncate(log_id.index);
        let truncated = async {
            self.mark.truncating(LogIndex(kept)).await?;
            self.storage.append(batch).await
        };
        self.fault.record_fault(truncated.await).map_err(write_error)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.sizes.0.lock().purge(log_id.index);
        if log_id.index > self.synced.0.load(Ordering::Acquire) {
            self.own_sync.replace();
        }
        // openraft asks for this while a snapshot is still being installed; whoever installs it purges then.
        if self.snapshots.synced() < Some(log_id) {
            return Ok(());
        }
        // Not synced: after a crash the entries may be there again, which is harmless.
        self.fault.record_fault(self.storage.append_unsynced(self.purge_batch(log_id))).map_err(write_error)
    }
}
