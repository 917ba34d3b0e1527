//! The state machine of a quorum: its frame, and how one entry is applied.
//!
//! The state is four sub-states that keep their fields to themselves: jobs, objects, tasks and triggers, each in a
//! folder with its commands, duties, invariants and part of a snapshot. The frame has what they share: time, level,
//! standbys and the rolling digest. [`QuorumState::apply`] is the only way in: it takes time from the entry (`clock`),
//! hands each command to the sub-state that owns it (`apply`), and folds entry and replies into the digest.
//! [`QuorumState::duties`] derives what the primary must bring about, [`QuorumState::answer`] reads, `snapshot` turns
//! the whole into chunks and back, `invariants` and `steps` say what is always true.
//!
//! Beside its records each sub-state has an index, derived from them and rebuilt when a snapshot is read: it makes
//! duties, limits and retention cost what there is to do, not what there is.

use std::time::Duration;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::clock::ClockStep;
use super::command::{Batch, BatchReply};
use super::jobs::JobBook;
use super::limits::{LEVEL, LEVEL_FIRST};
use super::objects::Catalog;
use super::tasks::TaskPool;
use super::triggers::Triggers;
use crate::approval::Approval;
use crate::approval::Grant;
use crate::engine::Engine;
use crate::ids::{
    Attempt, Digest, JobId, LeaseId, LogIndex, ManifestHash, Millis, PeerId, PieceIndex, QuorumId, StepIndex,
};
use crate::job::record::RunState;
use crate::task::record::TaskAttempt;
use crate::task::spec::Resources;
use crate::trigger::record::FireRow;
use crate::wire;

/// Everything a quorum has agreed on. On disk and on the wire it travels as a snapshot's chunks only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumState {
    pub(super) quorum: QuorumId,
    /// Record time: see [`super::clock`].
    pub(super) time: Millis,
    /// What the clocks say, less record time.
    pub(super) clock_offset_ms: i64,
    pub(super) stepped: Option<ClockStep>,
    /// Total time this quorum has had a primary with a majority, on the primaries' monotonic clocks. Clock changes and
    /// outages do not advance it.
    pub(super) led_time: Millis,
    pub(super) level: u16,
    /// Promises of peers that are ready to replace a member.
    pub(super) standbys: Vec<Approval>,
    /// Digest over every applied entry: members that differ have diverged.
    pub(super) rolling: Digest,
    pub(super) jobs: JobBook,
    pub(super) objects: Catalog,
    pub(super) tasks: TaskPool,
    pub(super) triggers: Triggers,
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
    /// The primary expects no more holders for the run than it has.
    HoldersExhausted {
        job: JobId,
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

impl Event {
    /// The jobs of whose records or tasks it tells a change. None for what objects, workers and duties are told of.
    pub fn jobs(&self) -> BTreeSet<JobId> {
        match self {
            Self::JobChanged { job, .. }
            | Self::JobProgressed { job, .. }
            | Self::ObjectStored { job, .. }
            | Self::ColumnReassigned { job, .. }
            | Self::HoldersExhausted { job }
            | Self::JobAdvanced { job, .. }
            | Self::Fired { job, .. } => [*job].into(),
            Self::Assigned { tasks, .. } => tasks.iter().map(|task| task.id.job).collect(),
            Self::ObjectRemoved { .. }
            | Self::ColumnOwed { .. }
            | Self::ColumnRepaired { .. }
            | Self::WorkerLost { .. }
            | Self::StopWanted { .. }
            | Self::RevealWanted { .. }
            | Self::DutiesChanged => BTreeSet::new(),
        }
    }
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
    /// Nobody has fed the run since `since` (quorum time, for people). When `upload_seq` has stood still for
    /// `STORE_IDLE_MAX` by the primary's monotonic clock, it abandons the run; after `STORE_EMPTY_MAX` if the run is
    /// `empty`, with nothing stored that could be gone on with.
    WatchIdle {
        job: JobId,
        upload_seq: u64,
        since: Millis,
        empty: bool,
    },
    /// Tasks wait and no worker has room: win approvals of peers for this many slots and `SetWorker` each. One per sort
    /// of task, with the job whose turn is next.
    FindWorkers {
        job: JobId,
        engine: Engine,
        /// What one task needs.
        resources: Resources,
        slots: u32,
    },
    /// The worker has attempts: see that it knows of them (`instructions_of`, `assignment`), of those that must end and
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
        Self::at_level(quorum, LEVEL_FIRST)
    }

    /// A new state that takes commands of this level from its first entry on.
    pub fn at_level(quorum: QuorumId, level: u16) -> Self {
        Self { quorum, level, ..Self::default() }
    }

    // ---- reading, for everybody ----

    pub fn quorum(&self) -> QuorumId {
        self.quorum
    }
    /// Record time: see [`super::clock`].
    pub fn time(&self) -> Millis {
        self.time
    }
    /// The last time that the clocks of a majority were set.
    pub fn clock_step(&self) -> Option<ClockStep> {
        self.stepped
    }
    /// Total time this quorum has had a primary with a majority.
    pub fn led_time(&self) -> Millis {
        self.led_time
    }
    pub fn level(&self) -> u16 {
        self.level
    }
    /// Promises of peers that are ready to replace a member.
    pub fn standbys(&self) -> &[Approval] {
        &self.standbys
    }
    /// Digest over every applied entry.
    pub fn rolling(&self) -> Digest {
        self.rolling
    }
    pub fn jobs(&self) -> &JobBook {
        &self.jobs
    }
    pub fn objects(&self) -> &Catalog {
        &self.objects
    }
    pub fn tasks(&self) -> &TaskPool {
        &self.tasks
    }
    pub fn triggers(&self) -> &Triggers {
        &self.triggers
    }

    // ---- applying ----

    /// Applies one entry. Deterministic: the same entries give the same state, replies and events on every member.
    pub fn apply(&mut self, index: LogIndex, batch: &Batch) -> (BatchReply, Vec<Event>) {
        let mut events = Vec::new();
        self.advance(batch, &mut events);
        let before = self.quiet_duties();
        let replies: Vec<_> =
            batch.commands.iter().map(|(by, command)| self.apply_command(*by, command, &mut events)).collect();
        self.serve_finished(&mut events);
        self.schedule(&mut events);
        self.tasks.report_halted(&mut events);
        self.forget_ended();
        if events.is_empty() && self.quiet_duties() != before {
            events.push(Event::DutiesChanged);
        }
        self.stamp_revisions(index, &events);
        let reply = BatchReply { replies };
        self.rolling = self.next_digest(index, &wire::encode(batch), &reply);
        (reply, events)
    }

    fn stamp_revisions(&mut self, index: LogIndex, events: &[Event]) {
        for job in events.iter().flat_map(Event::jobs) {
            if let Some(record) = self.jobs.get_mut(&job) {
                record.revision = index;
            }
        }
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
        let live = self.jobs.live_len() + self.triggers.live_len();
        (live as u32, (self.jobs.len() - live) as u32, self.objects.len() as u32)
    }

    /// Whether this build knows everything that may be proposed at the state's level.
    pub fn is_understood(&self) -> bool {
        self.level <= LEVEL
    }

    /// Builds every index from the records alone.
    pub(super) fn rebuild_index(&mut self) {
        self.objects.rebuild_index();
        self.tasks.rebuild_index();
        self.triggers.rebuild_index(self.jobs.iter());
        self.rebuild_job_index();
    }
}
