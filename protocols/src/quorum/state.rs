//! The state of a quorum: its frame.
//!
//! The state is four sub-states that keep their fields to themselves: jobs, objects, tasks and triggers, each in a
//! folder with its commands, duties, invariants and part of a snapshot. The frame has what they share: time, level,
//! standbys and the rolling digest. A sub-state that needs another one is lent it: `pool_mut` and `catalog_mut` say
//! what each may reach. What only the whole can do stands above: kinds move runs, `fires` makes runs of triggers, and
//! `apply` is the only way in.
//!
//! Beside its records each sub-state has an index, derived from them and rebuilt when a snapshot is read: it makes
//! duties, limits and retention cost what there is to do, not what there is.

use std::collections::BTreeSet;
use std::time::Duration;

use super::clock::{CLOCK_STEP_MIN, ClockStep, STEP_SLACK, millis_between};
use super::jobs::{JobBook, check_room};
use super::limits::{HASH_BYTES_MAX, LEVEL, LEVEL_FIRST, OBJECTS_MAX, OWNER_HASH_BYTES_MAX};
use super::objects::{Catalog, CatalogCx, Now};
use super::reply::Rejection;
use super::tasks::{PoolCx, PoolView, TaskPool, WorkerInstructions};
use super::triggers::{HeardEmitters, Triggers};
use super::uses::{ObjectUse, Part, Uses};
use crate::approval::Approval;
use crate::certificate::Chain;
use crate::ids::{Digest, JobId, LogIndex, Millis, ObjectId, PeerId, PieceHash, QuorumId, StepIndex};
use crate::job::limits::JOBS_LIVE_MAX;
use crate::job::record::JobRecord;
use crate::job::spec::TriggeredSpec;
use crate::task::message::{Assignment, StepContext};
use crate::task::record::{AttemptRecord, Place, TaskAttempt};
use crate::trigger::planner::{Listener, TriggerBook};
use crate::trigger::record::TriggerRun;
use crate::trigger::spec::{TriggerSpec, When};

/// Bytes of a specification of usual size, for which there must be room. A guess.
const ROOM_SPEC_BYTES: usize = 1024;

/// Everything a quorum has agreed on. On disk and on the wire it travels as a snapshot's chunks only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumState {
    pub(super) quorum: QuorumId,
    /// The newest entry.
    pub(super) applied: LogIndex,
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
    /// Who the voters are, as others can check.
    pub(super) chain: Chain,
    /// Digest over every applied entry: members that differ have diverged.
    pub(super) rolling: Digest,
    pub(super) jobs: JobBook,
    pub(super) objects: Catalog,
    pub(super) tasks: TaskPool,
    pub(super) triggers: Triggers,
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
    /// Who the voters are, as others can check.
    pub fn chain(&self) -> &Chain {
        &self.chain
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

    /// Live jobs, ended jobs that are still remembered, objects.
    pub fn counts(&self) -> (u32, u32, u32) {
        let live = self.jobs.live_len() + self.triggers.live_len();
        (live as u32, (self.jobs.len() - live) as u32, self.objects.len() as u32)
    }

    /// How many more jobs the quorum takes: the least that any of its limits leaves, whoever submits them. A job takes
    /// a task, and its specification some bytes.
    pub fn room(&self) -> u32 {
        let (tasks, bytes) = self.tasks.room();
        let jobs = JOBS_LIVE_MAX.saturating_sub(self.jobs.live_len());
        let least = jobs.min(tasks).min(bytes / ROOM_SPEC_BYTES).min(OBJECTS_MAX.saturating_sub(self.objects.len()));
        let hashes = HASH_BYTES_MAX.saturating_sub(self.jobs.hash_bytes() + self.objects.manifest_bytes());
        least.min(hashes / PieceHash::LEN) as u32
    }

    /// Refuses so many bytes more of piece hashes for this owner: of its live runs, and of the objects that it keeps.
    pub(super) fn check_hash_room(&self, owner: PeerId, more: usize) -> Result<(), Rejection> {
        if more == 0 {
            // Manifests take a little more than the hashes in them, so a full share may be a little over.
            return Ok(());
        }
        let all = self.jobs.hash_bytes() + self.objects.manifest_bytes();
        check_room("bytes of piece hashes", all + more, HASH_BYTES_MAX)?;
        let own = self.jobs.hash_bytes_of_owner(owner) + self.objects.manifest_bytes_of_owner(owner);
        check_room("bytes of piece hashes of one owner", own + more, OWNER_HASH_BYTES_MAX)
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
        self.jobs.reset_index();
        for job in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.reindex_job(job);
        }
    }

    /// Called after every change to a job.
    pub(super) fn reindex_job(&mut self, job: JobId) {
        let record = self.jobs.get(&job);
        let stored = record.and_then(JobRecord::store).and_then(|(_, run)| run.manifest);
        let holds_object = stored.and_then(|hash| self.objects.get(&hash)).is_some_and(|object| object.job == job);
        let defined = record.is_none_or(|record| record.trigger().is_some());
        self.jobs.reindex(job, holds_object);
        if defined {
            self.triggers.reindex(job, self.jobs.get(&job));
        }
        self.pool_mut().reindex(job);
    }

    // ---- sub-states on loan, each with what it may reach beside itself ----

    pub(super) fn pool(&self) -> PoolView<'_> {
        PoolView::new(&self.tasks, &self.jobs, self.time)
    }

    pub(super) fn pool_mut(&mut self) -> PoolCx<'_> {
        let Self { tasks, jobs, time, .. } = self;
        PoolCx::new(tasks, jobs, *time)
    }

    pub(super) fn catalog_mut(&mut self) -> CatalogCx<'_> {
        let now = Now { entry: self.applied, time: self.time, wall: self.wall() };
        let Self { objects, jobs, .. } = self;
        CatalogCx::new(objects, jobs, now)
    }
}

// ---- time ----

impl QuorumState {
    /// What the clocks said at the newest entry, as far as the record knows.
    pub fn wall(&self) -> Millis {
        self.wall_at(self.time)
    }

    /// Record time as the clocks say it.
    pub fn wall_at(&self, time: Millis) -> Millis {
        Millis(time.0.saturating_add_signed(self.clock_offset_ms))
    }

    /// Whether the clocks of a majority, reading `clocks` while record time has gone on to `time`, were stepped since
    /// the newest entry: then an entry is due for that alone, or a record that waits for a time that was never true
    /// waits on.
    pub fn is_stepped(&self, clocks: Millis, time: Millis) -> bool {
        // More than an entry needs to see it so too.
        let apart = millis_between(self.wall_at(time), clocks).unsigned_abs();
        Duration::from_millis(apart) >= CLOCK_STEP_MIN + STEP_SLACK
    }
}

// ---- workers, for the primary ----

impl QuorumState {
    /// The earliest timer of all.
    pub fn next_timer(&self) -> Option<Millis> {
        self.tasks.next_timer()
    }

    /// Live attempts of the worker that it is to run, or to report about. Sent by the primary, again after every
    /// takeover; a worker that has them already says so.
    pub fn attempts_of(&self, worker: PeerId) -> impl Iterator<Item = (TaskAttempt, &AttemptRecord)> {
        self.pool().attempts_of(worker)
    }

    /// Everything that the worker is to know, in one look at each of its attempts.
    pub fn instructions_of(&self, worker: PeerId) -> WorkerInstructions {
        self.pool().instructions_of(worker)
    }

    /// Attempts of the worker that must end. The second says that the task goes on later, from its checkpoint.
    pub fn stops_of(&self, worker: PeerId) -> Vec<(TaskAttempt, bool)> {
        self.instructions_of(worker).stop
    }

    /// Attempts of the worker that are asked to show their verdict.
    pub fn reveals_of(&self, worker: PeerId) -> Vec<TaskAttempt> {
        self.instructions_of(worker).reveal
    }

    /// Whether the run has tasks that want a worker now.
    pub fn waits_for_workers(&self, job: JobId) -> bool {
        self.tasks.is_queued(job)
    }

    /// What the tasks of a step have in common, for the workers. `None` when the run is not there or not at work.
    pub fn step_context(&self, job: JobId, step: StepIndex) -> Option<StepContext> {
        self.pool().step_context(job, step)
    }

    /// One attempt as it is sent to its worker. `None` when it is not live any more.
    pub fn assignment(&self, task: TaskAttempt) -> Option<Assignment> {
        self.pool().assignment(task)
    }

    /// As many of the attempts as fit into a message of `bytes_max`, with what their steps have in common; at least
    /// one, if any is live. `bytes_max` leaves room for the largest single one.
    pub fn assignments(
        &self,
        tasks: impl IntoIterator<Item = TaskAttempt>,
        bytes_max: usize,
    ) -> (Vec<StepContext>, Vec<Assignment>) {
        self.pool().assignments(tasks, bytes_max)
    }

    /// Peers that no run with tasks like the job's may offer anything at present: each of them was refused there.
    pub fn avoided_for(&self, job: JobId) -> BTreeSet<PeerId> {
        self.pool().avoided_for(job)
    }
}

// ---- triggers, for the primary ----

impl QuorumState {
    /// The trigger of a job that has one, and where it stands.
    pub fn trigger(&self, job: JobId) -> Option<(&TriggeredSpec, &TriggerRun)> {
        self.jobs.get(&job)?.trigger()
    }

    /// When the next timed trigger is due: on wall clocks, and by quorum time as it passes.
    pub fn next_trigger_due(&self) -> (Option<Millis>, Option<Millis>) {
        self.triggers.next_due()
    }

    /// Triggers that listen to events of this name.
    pub fn listeners(&self, name: &str) -> Vec<Listener> {
        let listener = |job: &JobId| {
            let record = self.jobs.get(job)?;
            let When::Event(event) = &record.trigger()?.0.trigger.when else { return None };
            let since = record.created_at;
            let stepped = self.stepped.map(|step| step.at).filter(|at| since <= *at);
            Some(Listener { job: *job, since, stepped, filter: event.filter.clone() })
        };
        self.triggers.listening_to(name).filter_map(listener).collect()
    }

    /// How many triggers listen to events, whatever their names.
    pub fn listening_len(&self) -> usize {
        self.triggers.listening().count()
    }

    /// Emitters whose places are kept for them.
    pub fn heard_emitters(&self) -> HeardEmitters {
        self.triggers.heard_emitters(self.time)
    }

    /// Names of the events that this quorum wants to hear of.
    pub fn event_names(&self) -> impl Iterator<Item = &str> {
        self.triggers.event_names()
    }
}

impl TriggerBook for QuorumState {
    fn trigger(&self, job: JobId) -> Option<(&TriggerSpec, &TriggerRun)> {
        self.trigger(job).map(|(spec, run)| (&spec.trigger, run))
    }

    fn due_triggers(&self, wall: Millis, steady: Millis, limit: usize) -> Vec<JobId> {
        self.triggers.due(wall, steady, limit)
    }
}

// ---- uses of objects ----

impl QuorumState {
    /// Live jobs of this quorum that need the object, which may be of any quorum. Walks over all of them: removals are
    /// rare, and an index would cost every submit.
    pub fn uses_of(&self, object: ObjectId) -> Uses {
        let mut uses = Uses::default();
        let live = self.jobs.live().chain(self.triggers.live());
        for (job, record) in live.filter_map(|job| Some((*job, self.jobs.get(job)?))) {
            let part = record.spec.part_of(object).or_else(|| self.has_put_out(job, object).then_some(Part::Output));
            if let Some(part) = part {
                let (name, trigger) = (record.spec.name().map(str::to_owned), record.trigger().is_some());
                uses.add(|| ObjectUse { job, name, trigger, part });
            }
        }
        uses
    }

    fn has_put_out(&self, job: JobId, object: ObjectId) -> bool {
        let place = Place::Object { quorum: object.quorum, manifest: object.manifest };
        let mut tasks = self.tasks.table(&job).into_iter().flat_map(|table| table.all());
        tasks.any(|(_, _, task)| task.output().is_some_and(|output| output.place == place))
    }
}
