//! The state machine of a quorum: what is in it, and how one entry is applied.
//!
//! [`QuorumState::apply`] is the only way in. It dispatches each command to `apply/` (one file per group of commands),
//! takes time from the entry, and folds entry and replies into a rolling digest. [`QuorumState::duties`] (in
//! `duties`) derives what the primary must bring about; [`QuorumState::answer`] (in `queries`) reads; `snapshot` turns
//! the whole into chunks and back; `invariants` says what is always true.
//!
//! Beside the state proper there is an index, derived from it and rebuilt when a snapshot is read: it makes duties,
//! limits and retention cost what there is to do, not what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::clock::ClockStep;
use super::command::{Batch, BatchReply};
use super::limits::LEVEL;
use super::object::{ObjectRecord, ObjectState};
use super::pace::Paces;
use super::triggers::TriggerIndex;
use super::work::WorkIndex;
use crate::approval::Approval;
use crate::ids::{
    Attempt, Digest, JobId, LeaseId, LogIndex, ManifestHash, Millis, PeerId, PieceHash, PieceIndex, QuorumId, StepIndex,
};
use crate::job::compute::Resources;
use crate::job::limits::{JOBS_ENDED_MAX, JOBS_ENDED_RETENTION};
use crate::job::record::{JobRecord, RunState};
use crate::job::spec::Kind;
use crate::job::store::{ColumnState, Grant};
use crate::task::limits::{ENDED_BYTES_MAX, ENDED_TASKS_MAX};
use crate::task::record::{Stopping, TaskAttempt, TaskId, WorkerRecord};
use crate::task::table::TaskTable;
use crate::trigger::event::Emitter;
use crate::trigger::record::FireRow;
use crate::wire;

/// Everything a quorum has agreed on. On disk and on the wire it travels as a snapshot's chunks only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumState {
    pub quorum: QuorumId,
    /// Record time: see [`super::clock`].
    pub time: Millis,
    /// What the clocks say, less record time.
    pub clock_offset_ms: i64,
    pub stepped: Option<ClockStep>,
    /// How long the quorum was led by a primary with a majority, by their monotonic clocks: what no wall clock that is set
    /// makes pass, and no outage.
    pub led: Millis,
    pub level: u16,
    pub jobs: BTreeMap<JobId, JobRecord>,
    pub objects: BTreeMap<ManifestHash, ObjectRecord>,
    /// Encoded manifests of the live objects.
    pub manifests: BTreeMap<ManifestHash, Bytes>,
    /// Tasks of runs that compute, and outputs that are small.
    pub tables: BTreeMap<JobId, TaskTable>,
    /// Peers with a standing lease to run tasks.
    pub workers: BTreeMap<PeerId, WorkerRecord>,
    /// Attempts that must end where they run.
    pub stopping: BTreeMap<TaskAttempt, Stopping>,
    /// How far the jobs' turns have come: see `schedule`.
    pub(super) pass: u64,
    /// How quick programs are: see `pace`.
    pub(super) paces: Paces,
    /// Peers that send events, and how far the quorum has come with each.
    pub emitters: BTreeMap<PeerId, Emitter>,
    /// Promises of peers that are ready to replace a member.
    pub standbys: Vec<Approval>,
    /// Digest over every applied entry: members that differ have diverged.
    pub rolling: Digest,
    pub(super) index: Index,
}

/// What follows from the records, kept so that nobody has to look at all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// Jobs that run. Those that only wait to fire are in `triggers`.
    pub(super) live: BTreeSet<JobId>,
    /// Those of them that store: the primary has duties for each.
    pub(super) storing: BTreeSet<JobId>,
    /// Jobs, live or ended, with holders to be told to let go.
    pub(super) releasing: BTreeSet<JobId>,
    /// Ended jobs that nothing depends on any more, by their end: the first to be forgotten.
    pub(super) ended: BTreeSet<(Millis, JobId)>,
    /// Live objects with a column to confirm, to repair or under repair.
    pub(super) tended: BTreeSet<ManifestHash>,
    /// Bytes of piece hashes in live runs and manifests.
    pub(super) hash_bytes: usize,
    pub(super) work: WorkIndex,
    pub(super) triggers: TriggerIndex,
}

/// What changed, for those who follow: the event stream, waiting clients, the primary's driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    JobChanged {
        job: JobId,
        state: RunState,
    },
    JobProgressed {
        job: JobId,
        segments: u32,
    },
    ObjectStored {
        manifest: ManifestHash,
        job: JobId,
        degraded: bool,
    },
    ObjectRemoved {
        manifest: ManifestHash,
    },
    ColumnReassigned {
        job: JobId,
        column: PieceIndex,
        from: Option<Grant>,
        to: Option<Grant>,
    },
    ColumnOwed {
        manifest: ManifestHash,
        column: PieceIndex,
        reason: String,
    },
    ColumnRepaired {
        manifest: ManifestHash,
        column: PieceIndex,
    },
    /// Tasks of the run's step that are done.
    JobAdvanced {
        job: JobId,
        step: StepIndex,
        done: u32,
        total: u32,
    },
    /// For the primary: these attempts were given to the worker.
    Assigned {
        worker: PeerId,
        tasks: Vec<TaskAttempt>,
    },
    /// A worker was given up with attempts on it. Their tasks go to others, or wait for a person.
    WorkerLost {
        worker: PeerId,
        attempts: u32,
    },
    /// For the primary: the worker has attempts that must end, or that are to be shown.
    StopWanted {
        worker: PeerId,
    },
    RevealWanted {
        worker: PeerId,
    },
    /// For the primary, of an entry that has nothing else to tell: a timer was set or has gone, or tasks want workers
    /// that did not. A task that failed and waits for its next try is such a case.
    DutiesChanged,
    /// A trigger fired or skipped, or what became of it changed. Rows with the same number are one.
    Fired {
        job: JobId,
        row: FireRow,
    },
}

/// Something the primary must bring about. Duties are derived from state, never stored: a new primary derives the
/// same ones, and performing one twice does no harm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Duty {
    /// Win holders for the run: `open` columns have none, and `spares` more are wanted as backups.
    FindHolders {
        job: JobId,
        open: usize,
        spares: usize,
    },
    Confirm {
        manifest: ManifestHash,
        job: JobId,
        column: PieceIndex,
        grant: Grant,
        attempt: Attempt,
    },
    /// Tell the holder to let go. Attempt 0: it never got a column, only the lease is given back.
    Release {
        job: JobId,
        column: PieceIndex,
        grant: Grant,
        attempt: Attempt,
    },
    /// The column has no good holder: find one and start a repair.
    Repair {
        manifest: ManifestHash,
        column: PieceIndex,
    },
    /// A repair was started: have `grant` rebuild the column.
    Rebuild {
        manifest: ManifestHash,
        column: PieceIndex,
        grant: Grant,
        attempt: Attempt,
    },
    /// Nobody has fed the run since `since` (quorum time, for people). When `fed` has stood still for `STORE_IDLE_MAX`
    /// by the primary's monotonic clock, it abandons the run; after `STORE_EMPTY_MAX` if the run is `empty`, with
    /// nothing stored that could be gone on with.
    WatchIdle {
        job: JobId,
        fed: u64,
        since: Millis,
        empty: bool,
    },
    /// Tasks wait and no worker has room: win approvals of peers for this many slots and `SetWorker` each. One per sort
    /// of task, with the job whose turn is next.
    FindWorkers {
        job: JobId,
        kind: Kind,
        /// What one task needs.
        resources: Resources,
        slots: u32,
    },
    /// The worker has attempts: see that it knows of them (`errands_of`, `assignment`), of those that must end and
    /// of those to be shown. Hear its beats; renew its lease, or say that it is lost.
    Tend {
        worker: PeerId,
        lease: LeaseId,
    },
    /// The worker has nothing to do and no job waits: its lease can be given back (`ReleaseWorker`), at once or later.
    ReleaseWorker {
        worker: PeerId,
        lease: LeaseId,
    },
    /// The earliest timer: wait `after` on the monotonic clock from when this was first seen, and propose
    /// `Elapsed { until: due }`.
    Wake {
        due: Millis,
        after: Duration,
    },
    /// The earliest trigger on wall clocks: when the primary's says `due`, have `trigger::Planner` make the spans and
    /// propose them as `Due`.
    FireAt {
        due: Millis,
    },
    /// The earliest trigger that is due as time passes: the same, when the wall clock says `due` or when `after` has
    /// passed on the monotonic clock from when this was first seen.
    FireAfter {
        due: Millis,
        after: Duration,
    },
    /// Look at the condition's source each `every` and propose `Observe` with what is news.
    Poll {
        job: JobId,
        every: Duration,
    },
}

impl QuorumState {
    pub fn new(quorum: QuorumId) -> Self {
        Self { quorum, level: 1, ..Self::default() }
    }

    /// Applies one entry. Deterministic: the same entries give the same state, replies and events on every member.
    pub fn apply(&mut self, index: LogIndex, batch: &Batch) -> (BatchReply, Vec<Event>) {
        let mut events = Vec::new();
        self.advance(batch, &mut events);
        let before = self.quiet_duties();
        let replies: Vec<_> =
            batch.commands.iter().map(|(by, command)| self.apply_command(*by, command, &mut events)).collect();
        self.serve_finished(&mut events);
        self.schedule(&mut events);
        let halted = std::mem::take(&mut self.index.work.halted);
        events.extend(halted.into_iter().map(|worker| Event::StopWanted { worker }));
        self.forget_ended();
        if events.is_empty() && self.quiet_duties() != before {
            events.push(Event::DutiesChanged);
        }
        let reply = BatchReply { replies };
        self.rolling = self.next_digest(index, &wire::encode(batch), &reply);
        (reply, events)
    }

    fn next_digest(&self, index: LogIndex, encoded: &[u8], reply: &BatchReply) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.rolling.as_bytes());
        hasher.update(&index.0.to_le_bytes());
        hasher.update(&(encoded.len() as u64).to_le_bytes());
        hasher.update(encoded);
        hasher.update(&wire::encode(reply));
        Digest(*hasher.finalize().as_bytes())
    }

    /// Live jobs, ended jobs that are still remembered, objects.
    pub fn counts(&self) -> (u32, u32, u32) {
        let live = self.index.live.len() + self.index.triggers.live.len();
        (live as u32, (self.jobs.len() - live) as u32, self.objects.len() as u32)
    }

    /// Whether this build knows everything that may be proposed at the state's level.
    pub fn is_understood(&self) -> bool {
        self.level <= LEVEL
    }

    // ---- the index ----

    /// Called after every change to a job.
    pub(super) fn reindex_job(&mut self, job: JobId) {
        let Some(record) = self.jobs.get(&job) else {
            self.index.live.remove(&job);
            self.index.storing.remove(&job);
            self.index.releasing.remove(&job);
            self.reindex_trigger(job);
            self.reindex_work(job);
            return;
        };
        let live = !record.state.is_final();
        let defined = record.trigger().is_some();
        let store = record.store().map(|(_, run)| run);
        let releasing = store.is_some_and(|run| !run.releasing.is_empty());
        let holds_object =
            store.and_then(|run| run.manifest).and_then(|hash| self.objects.get(&hash)).is_some_and(|o| o.job == job);
        let ended = record.finished_at.unwrap_or_default();
        keep(&mut self.index.live, job, live && !defined);
        keep(&mut self.index.storing, job, live && store.is_some());
        keep(&mut self.index.releasing, job, releasing);
        keep(&mut self.index.ended, (ended, job), !live && !releasing && !holds_object);
        if defined {
            self.reindex_trigger(job);
        }
        self.reindex_work(job);
    }

    /// Called after every change to an object.
    pub(super) fn reindex_object(&mut self, manifest: ManifestHash) {
        let tended = self.objects.get(&manifest).is_some_and(|object| {
            let unconfirmed = object.columns.iter().any(|column| column.state != ColumnState::Confirmed);
            object.state == ObjectState::Live && (unconfirmed || !object.owed.is_empty() || !object.repairs.is_empty())
        });
        keep(&mut self.index.tended, manifest, tended);
    }

    /// Builds the index from the records alone.
    pub(super) fn rebuild_index(&mut self) {
        self.index = Index::default();
        for (job, table) in &self.tables {
            for (step, task, record) in table.all() {
                let id = TaskId { job: *job, step, task };
                for live in &record.live {
                    let task = TaskAttempt { id, attempt: live.attempt };
                    self.index.work.occupy(live.worker, task, live.taken());
                }
            }
        }
        for (task, stopping) in &self.stopping {
            self.index.work.occupy(stopping.worker, *task, Some(&stopping.resources));
        }
        for job in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.reindex_job(job);
        }
        for manifest in self.objects.keys().copied().collect::<Vec<_>>() {
            self.reindex_object(manifest);
        }
        let triggers = self.jobs.iter().filter_map(|(job, record)| Some((*job, record.trigger()?.1)));
        self.index.triggers.seen =
            triggers.flat_map(|(job, run)| run.seen.iter().map(move |(id, until)| (*until, job, *id))).collect();
        let runs = self.jobs.values().filter_map(JobRecord::store).map(|(_, run)| hash_bytes(&run.segments));
        self.index.hash_bytes = runs.chain(self.manifests.values().map(Bytes::len)).sum();
    }

    /// Forgets ended jobs past their number or their time. A job stays while its object lives, because slots of the
    /// object's columns carry its id, and while it has holders to release.
    fn forget_ended(&mut self) {
        while let Some(&(ended, job)) = self.index.ended.first() {
            let ended_work = self.index.work.ended;
            let too_many = self.index.ended.len() > JOBS_ENDED_MAX
                || ended_work.bytes > ENDED_BYTES_MAX
                || ended_work.tasks > ENDED_TASKS_MAX;
            if !too_many && self.wall().since(ended) < JOBS_ENDED_RETENTION {
                break;
            }
            self.index.ended.pop_first();
            self.jobs.remove(&job);
            self.tables.remove(&job);
            self.reindex_work(job);
        }
    }
}

pub(super) fn hash_bytes(segments: &[Vec<PieceHash>]) -> usize {
    segments.iter().map(|pieces| pieces.len() * PieceHash::LEN).sum()
}

pub(super) fn keep<T: Ord>(set: &mut BTreeSet<T>, item: T, member: bool) {
    if member {
        set.insert(item);
    } else {
        set.remove(&item);
    }
}
