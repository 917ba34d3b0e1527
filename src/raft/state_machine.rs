//! The applied state of one group, in memory, and how openraft drives it.
//!
//! [`Machine`] is what the rest of the node reads; [`StateMachine`] is openraft's side of it. State lives in memory
//! and is rebuilt at a start from the last snapshot and the log behind it: applying touches no disk. Whoever follows
//! the group hears of every applied entry as [`HostEvent::Applied`], after the state has changed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use quorate_protocols::ids::{Digest, LogIndex, QuorumId, Term};
use quorate_protocols::quorum::limits::{DIGEST_INTERVAL, DIGESTS_KEPT};
use quorate_protocols::quorum::{BatchReply, GenuineSubmits, QuorumState, SnapshotView};
use tokio::sync::broadcast;

use super::HostEvent;
use super::log_store::{LastFault, LogStore};
use super::snapshot::SnapshotStore;
use super::types::{
    Entry, LogId, Snapshot, SnapshotList, SnapshotMeta, StorageError, StorageIoError, StoredMembership, TypeConfig,
};
use crate::seams::{DiskError, run_blocking};
use crate::signatures::SubmitSignatures;

/// What a group has applied.
pub struct Applied {
    pub state: QuorumState,
    pub last: Option<LogId>,
    pub membership: StoredMembership,
    /// The rolling digests at the last multiples of `DIGEST_INTERVAL`, the newest last: what members compare. Never
    /// empty.
    digests: VecDeque<(LogIndex, Digest)>,
}

impl Applied {
    pub fn digest(&self) -> (LogIndex, Digest) {
        self.digests.back().copied().unwrap_or_default()
    }
    /// The digest at an index; `None` when it is forgotten, or not known yet.
    pub fn digest_at(&self, index: LogIndex) -> Option<Digest> {
        self.digests.iter().find(|(at, _)| *at == index && index != LogIndex(0)).map(|(_, digest)| *digest)
    }
    fn push_digest(&mut self, index: LogIndex) {
        if self.digests.len() >= DIGESTS_KEPT {
            self.digests.pop_front();
        }
        self.digests.push_back((index, self.state.rolling()));
    }
}

pub struct Machine {
    applied: Mutex<Applied>,
    /// Snapshots of another member that took the place of the state, since the start of the process.
    pub snapshots_installed: AtomicU64,
}

impl Machine {
    pub fn new(quorum: QuorumId) -> Self {
        let applied = Applied {
            state: QuorumState::new(quorum),
            last: None,
            membership: StoredMembership::default(),
            digests: [Default::default()].into(),
        };
        Self { applied: Mutex::new(applied), snapshots_installed: AtomicU64::new(0) }
    }
    /// Looks at the state. Applying waits meanwhile, so `look` copies what it needs and nothing more.
    pub fn read<T>(&self, read: impl FnOnce(&Applied) -> T) -> T {
        read(&self.applied.lock())
    }
    /// Makes this member differ from the others, as a bug or a bad memory would.
    #[cfg(test)]
    pub fn corrupt(&self) {
        self.change(|applied| {
            // An entry that nobody else has.
            let batch = quorate_protocols::quorum::Batch::at(applied.state.wall(), Vec::new());
            applied.state.apply(LogIndex(0), &batch);
        });
    }
    fn change<T>(&self, change: impl FnOnce(&mut Applied) -> T) -> T {
        change(&mut self.applied.lock())
    }
}

#[derive(Clone)]
pub struct StateMachine {
    quorum: QuorumId,
    machine: Arc<Machine>,
    snapshots: SnapshotStore,
    /// What an installed snapshot cuts.
    log: LogStore,
    events: broadcast::Sender<HostEvent>,
    /// Entries up to here were told as events before, when the group was open earlier in this process.
    told: LogIndex,
    signatures: SubmitSignatures,
    fault: LastFault,
}

impl StateMachine {
    /// Loads the current snapshot, if there is one.
    pub fn open(
        quorum: QuorumId,
        log: LogStore,
        events: broadcast::Sender<HostEvent>,
        (told, signatures): (LogIndex, SubmitSignatures),
        fault: LastFault,
    ) -> Result<(Self, Arc<Machine>), DiskError> {
        let machine = Arc::new(Machine::new(quorum));
        let snapshots = log.snapshots.clone();
        let this = Self { quorum, machine: machine.clone(), snapshots, log, events, told, signatures, fault };
        if let Some((meta, list)) = this.snapshots.current()? {
            this.replace(&meta, &list)?;
        }
        Ok((this, machine))
    }

    fn replace(&self, meta: &SnapshotMeta, list: &SnapshotList) -> Result<(), DiskError> {
        self.present(self.snapshots.load(list)?, meta, list);
        Ok(())
    }

    fn present(&self, state: QuorumState, meta: &SnapshotMeta, list: &SnapshotList) {
        let (last, membership) = (meta.last_log_id, meta.last_membership.clone());
        let applied = Applied { state, last, membership, digests: [list.digest].into() };
        // What was there before is dropped when the lock is free again: it may be large.
        let before = self.machine.change(|present| std::mem::replace(present, applied));
        drop(before);
    }
}

fn snapshot_error(error: DiskError) -> StorageError {
    StorageIoError::write_snapshot(None, &error).into()
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok(self.machine.read(|applied| (applied.last, applied.membership.clone())))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<BatchReply>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // Before the state is locked: it takes longer than all the rest.
        let (mut verified, mut last, mut term) = (Vec::new(), 0, Term(0));
        for entry in entries.into_iter().collect::<Vec<_>>() {
            let genuine = match &entry.payload {
                EntryPayload::Normal(batch) => self.signatures.verify(batch).await,
                EntryPayload::Blank | EntryPayload::Membership(_) => GenuineSubmits::default(),
            };
            (last, term) = (entry.log_id.index, Term(entry.log_id.leader_id.term));
            verified.push((entry, genuine));
        }
        let mut happened = Vec::new();
        let (replies, understood) = self.machine.change(|applied| {
            let mut replies = Vec::new();
            for (entry, genuine) in verified {
                let index = LogIndex(entry.log_id.index);
                applied.last = Some(entry.log_id);
                let reply = match entry.payload {
                    EntryPayload::Blank => BatchReply::default(),
                    EntryPayload::Normal(batch) => {
                        let (reply, events) = applied.state.apply_verified(index, &batch, &genuine);
                        if index > self.told {
                            happened.extend(events);
                        }
                        reply
                    }
                    EntryPayload::Membership(membership) => {
                        applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                        BatchReply::default()
                    }
                };
                if index.0.is_multiple_of(DIGEST_INTERVAL) {
                    applied.push_digest(index);
                }
                replies.push(reply);
            }
            (replies, applied.state.is_understood())
        });
        if !understood {
            // A newer build raised the level: applying on would make this member differ from the others.
            let error = std::io::Error::other("the quorum uses a state level that this build does not know");
            return Err(StorageIoError::write_state_machine(&error).into());
        }
        if !happened.is_empty() {
            // Fails only when nobody listens.
            let (quorum, events) = (self.quorum, Arc::new(happened));
            let _ = self.events.send(HostEvent::Applied { quorum, last: LogIndex(last), term, events });
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let applied = Arc::new(self.machine.read(|applied| Viewed {
            state: applied.state.snapshot_view(),
            last: applied.last,
            membership: applied.membership.clone(),
            digest: applied.digest(),
        }));
        Builder { applied, snapshots: self.snapshots.clone(), fault: self.fault.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotList>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, list: Box<SnapshotList>) -> Result<(), StorageError> {
        // Read first: chunks that make no state must not take the place of a snapshot that does, or no start would find
        // one again.
        let (snapshots, names) = (self.snapshots.clone(), list.clone());
        let read = run_blocking(move || snapshots.load(&names)).await;
        let state = self.fault.record_fault(read).map_err(snapshot_error)?;
        // Then on disk: a state in memory that the next start does not find would be a state that went back.
        self.fault.record_fault(self.snapshots.make_current(meta, &list).await).map_err(snapshot_error)?;
        // Only now: without the snapshot a log that begins behind it would be one that lost its disk. openraft appends
        // nothing before this has returned.
        if let Some(last) = meta.last_log_id {
            self.fault.record_fault(self.log.purge_installed(last).await).map_err(snapshot_error)?;
        }
        self.present(state, meta, &list);
        self.machine.snapshots_installed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let current = self.fault.record_fault(self.snapshots.current()).map_err(snapshot_error)?;
        Ok(current.map(|(meta, list)| Snapshot { meta, snapshot: Box::new(list) }))
    }
}

/// What a group had applied when a snapshot was begun. The state shares its rows with the one that goes on, so that
/// applying waits for a few references to be taken and not for a copy.
struct Viewed {
    state: SnapshotView,
    last: Option<LogId>,
    membership: StoredMembership,
    digest: (LogIndex, Digest),
}

/// Builds one snapshot, beside the applying of later entries.
pub struct Builder {
    applied: Arc<Viewed>,
    snapshots: SnapshotStore,
    fault: LastFault,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        // Until this one is current, nothing tells its chunks from those of a snapshot that was given up.
        let _building = self.snapshots.building.lock().await;
        let (applied, snapshots) = (self.applied.clone(), self.snapshots.clone());
        let kept = run_blocking(move || snapshots.keep_state(&applied.state, applied.digest)).await;
        let list = self.fault.record_fault(kept).map_err(snapshot_error)?;
        let Viewed { state, last, membership, .. } = &*self.applied;
        let index = last.map_or(0, |last| last.index);
        let meta = SnapshotMeta {
            last_log_id: *last,
            last_membership: membership.clone(),
            snapshot_id: format!("{index}-{}", &state.rolling().to_string()[..16]),
        };
        self.fault.record_fault(self.snapshots.make_current(&meta, &list).await).map_err(snapshot_error)?;
        Ok(Snapshot { meta, snapshot: Box::new(list) })
    }
}
