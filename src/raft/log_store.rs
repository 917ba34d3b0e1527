//! One group's log, vote and commit pointer in the record store.
//!
//! Trees of a group: `raft.<quorum>.log` (big-endian index → entry), `raft.<quorum>.meta` (vote, committed, purged,
//! whether a configuration has named this member, the snapshot's record) and `raft.<quorum>.chunks` (digest → snapshot
//! chunk).
//!
//! Promises: an entry is readable when `append` returns and synced before it counts towards a commit ([`OwnSync`] says
//! how, for those of a primary); a vote is synced, and marked outside the store, before it is used (that it won is
//! written without a sync); what a truncation removed does not come back. The commit pointer is written without a sync:
//! it saves work after a restart and promises nothing.

use std::fmt::Debug;
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
use super::rollback_guard::RollbackGuard;
use super::types::{Entry, LogId, StorageError, StorageIoError, TypeConfig, Vote};
use crate::seams::{DiskError, Failpoint, KvBatch, failpoint};
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

/// Anything small kept in the group's `meta` tree. Version 1 of each: first.
#[derive(Serialize, Deserialize)]
struct Meta<T>(T);

impl<T: Serialize + DeserializeOwned> Record for Meta<T> {
    const VERSION: u8 = 1;
}

/// Names of the trees of one group.
#[derive(Clone, Debug)]
pub struct Trees {
    pub log: Arc<str>,
    pub meta: Arc<str>,
    pub chunks: Arc<str>,
}

impl Trees {
    pub fn of(quorum: QuorumId) -> Self {
        Self {
            log: format!("raft.{quorum}.log").into(),
            meta: format!("raft.{quorum}.meta").into(),
            chunks: format!("raft.{quorum}.chunks").into(),
        }
    }
    pub fn drop_all(&self) -> KvBatch {
        let mut batch = KvBatch::new();
        batch.drop_tree(&self.log).drop_tree(&self.chunks).drop_tree(&self.meta);
        batch
    }
}

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";
const NAMED: &[u8] = b"named";

pub fn read_meta<T: Serialize + DeserializeOwned>(
    storage: &Storage,
    trees: &Trees,
    key: &[u8],
) -> Result<Option<T>, DiskError> {
    let Some(bytes) = storage.kv().get(&trees.meta, key)? else { return Ok(None) };
    wire::decode_record::<Meta<T>>(&bytes).map(|meta| Some(meta.0)).map_err(|error| DiskError::Damaged {
        place: format!("{}/{}", trees.meta, String::from_utf8_lossy(key)),
        reason: error.to_string(),
    })
}

pub fn put_meta<T: Serialize + DeserializeOwned>(batch: &mut KvBatch, trees: &Trees, key: &[u8], value: T) {
    batch.put(&trees.meta, key, wire::encode_record(&Meta(value)));
}

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
    trees: Trees,
    mark: RollbackGuard,
    fault: LastFault,
    /// The end of the synced log, for the mark; the notice wakes whoever marks it.
    pub synced: Arc<(AtomicU64, Notify)>,
    /// What the entries weigh; the notice wakes whoever takes snapshots when they weigh too much.
    pub sizes: Arc<(Mutex<LogSizes>, Notify)>,
    /// What openraft last said is committed, since the start of the process.
    pub committed: Arc<AtomicU64>,
    pub known_vote: KnownVote,
    pub own_sync: OwnSync,
}

impl LogStore {
    pub fn new(storage: Storage, trees: Trees, mark: RollbackGuard, own_sync: OwnSync, fault: LastFault) -> Self {
        let synced = Arc::new((AtomicU64::new(0), Notify::new()));
        let (sizes, committed, known_vote) = (Arc::default(), Arc::default(), KnownVote::default());
        Self { storage, trees, mark, fault, synced, sizes, committed, known_vote, own_sync }
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
            if let Err(error) = self.mark.synced(last).await {
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

    pub fn vote(&self) -> Result<Option<Vote>, DiskError> {
        read_meta(&self.storage, &self.trees, VOTE)
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

    /// Whether a configuration has named this member since it was invited.
    pub fn is_named(&self) -> Result<bool, DiskError> {
        Ok(read_meta(&self.storage, &self.trees, NAMED)?.unwrap_or(false))
    }

    /// Written without a sync: a log that was synced says so again.
    pub fn set_named(&self) -> Result<(), DiskError> {
        let mut batch = KvBatch::new();
        put_meta(&mut batch, &self.trees, NAMED, true);
        self.storage.kv().apply(batch)
    }

    pub fn purged(&self) -> Result<Option<LogId>, DiskError> {
        read_meta(&self.storage, &self.trees, PURGED)
    }

    pub fn last(&self) -> Result<Option<LogId>, DiskError> {
        match self.storage.kv().last(&self.trees.log)? {
            Some((key, value)) => Ok(Some(self.decode(&key, &value)?.log_id)),
            None => self.purged(),
        }
    }

    fn decode(&self, key: &[u8], value: &[u8]) -> Result<Entry, DiskError> {
        wire::decode_record::<LogRecord>(value).map(|record| record.0).map_err(|error| DiskError::Damaged {
            place: format!("{}/{}", self.trees.log, hex::encode(key)),
            reason: error.to_string(),
        })
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, DiskError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let limit = usize::try_from(end - start).unwrap_or(usize::MAX);
        let rows =
            self.storage.kv().range(&self.trees.log, &start.to_be_bytes(), &end.to_be_bytes(), limit, bytes_max)?;
        let entries: Vec<Entry> = rows.iter().map(|(key, value)| self.decode(key, value)).collect::<Result<_, _>>()?;
        // The log that a restart found is read once, to be applied again.
        if self.synced.0.load(Ordering::Acquire) == 0 {
            let mut sizes = self.sizes.0.lock();
            entries
                .iter()
                .zip(&rows)
                .for_each(|(entry, (_, value))| sizes.record_older(entry.log_id.index, value.len()));
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
        let mut batch = KvBatch::new();
        put_meta(&mut batch, &self.trees, VOTE, *vote);
        // That the candidate of a vote has won is news, not a promise: the vote itself was synced when it was given,
        // and whoever forgets the news in a crash hears it again. The next synced entry makes it durable.
        let kept = self.vote().map_err(|error| StorageIoError::read_vote(&error))?;
        if vote.committed && kept.is_some_and(|kept| kept.leader_id == vote.leader_id) {
            let applied = self.fault.record_fault(self.storage.kv().apply(batch));
            return applied.map_err(|error| StorageIoError::write_vote(&error).into());
        }
        let began = tokio::time::Instant::now();
        let saved = async {
            self.storage.write(batch).await?;
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
        let mut batch = KvBatch::new();
        put_meta(&mut batch, &self.trees, COMMITTED, committed);
        self.fault.record_fault(self.storage.kv().apply(batch)).map_err(write_error)?;
        self.committed.fetch_max(committed.map_or(0, |committed| committed.index), Ordering::AcqRel);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed: Option<Option<LogId>> = read_meta(&self.storage, &self.trees, COMMITTED).map_err(read_error)?;
        // Written without a sync, so after a power loss it may be newer than the log that it points into.
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
        let mut batch = KvBatch::new();
        let mut last = 0;
        let mut written = Vec::with_capacity(entries.len());
        for entry in entries {
            last = entry.log_id.index;
            let record = wire::encode_record(&LogRecord(entry));
            written.push((last, record.len()));
            batch.put(&self.trees.log, last.to_be_bytes(), record);
        }
        let (synced, own_sync, fault) = (self.synced.clone(), self.own_sync.clone(), self.fault.clone());
        let (now, later) = if is_early { (Some(callback), None) } else { (None, Some(callback)) };
        let done = move |result: Result<(), DiskError>| {
            if result.is_ok() {
                synced.0.store(last, Ordering::Release);
                synced.1.notify_one();
                own_sync.synced(last);
            }
            let result = fault.record_fault(result);
            // Without it openraft does not hear of a failed sync: the node stops for it, and nothing counts meanwhile.
            if let Some(callback) = later {
                callback.log_io_completed(result.map_err(io::Error::other));
            }
        };
        self.fault.record_fault(self.storage.write_then(batch, done)).map_err(write_error)?;
        if let Some(callback) = now {
            callback.log_io_completed(Ok(()));
        }
        let mut sizes = self.sizes.0.lock();
        written.into_iter().for_each(|(index, bytes)| sizes.record_entry(index, bytes));
        if sizes.bytes() >= LOG_BYTES_MAX {
            self.sizes.1.notify_one();
        }
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let mut batch = KvBatch::new();
        batch.delete_range(&self.trees.log, log_id.index.to_be_bytes(), u64::MAX.to_be_bytes());
        let kept = log_id.index.saturating_sub(1);
        self.synced.0.fetch_min(kept, Ordering::AcqRel);
        self.sizes.0.lock().truncate(log_id.index);
        self.own_sync.truncate(log_id.index);
        let truncated = async {
            self.mark.truncating(LogIndex(kept)).await?;
            self.storage.write(batch).await
        };
        self.fault.record_fault(truncated.await).map_err(write_error)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let mut batch = KvBatch::new();
        put_meta(&mut batch, &self.trees, PURGED, log_id);
        batch.delete_range(&self.trees.log, 0u64.to_be_bytes(), (log_id.index + 1).to_be_bytes());
        self.sizes.0.lock().purge(log_id.index);
        if log_id.index > self.synced.0.load(Ordering::Acquire) {
            self.own_sync.replace();
        }
        // Not synced: after a crash the entries may be there again, which is harmless.
        self.fault.record_fault(self.storage.kv().apply(batch)).map_err(write_error)
    }
}
