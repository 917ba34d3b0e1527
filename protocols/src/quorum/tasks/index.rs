//! The scheduler's index: runs that want workers, what workers are busy with, the next timers, and the weight of it
//! all.
//!
//! Derived from the records and rebuilt with them, like every index. It makes an entry cost what it changes:
//! nobody looks at all jobs, nor at all tasks of one.

use std::collections::{BTreeMap, BTreeSet};

use super::{PoolCx, PoolView};
use crate::capacity::{Capacity, Requirement};
use crate::engine::Engine;
use crate::ids::{JobId, Millis, PeerId};
use crate::job::record::{JobRecord, Run, RunState};
use crate::quorum::shares::Shares;
use crate::task::record::{TaskAttempt, WorkerRecord};
use crate::task::table::TaskTable;
use crate::wire;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SchedulerIndex {
    /// Runs with tasks to give away, by what such a task needs, in the order of their turns.
    pub(super) queue: BTreeMap<Demand, BTreeSet<(u64, JobId)>>,
    queued: BTreeMap<JobId, (Demand, u64)>,
    pub(super) used: BTreeMap<PeerId, Used>,
    /// Runs by their earliest timer.
    pub(super) due: BTreeSet<(Millis, JobId)>,
    due_of: BTreeMap<JobId, Millis>,
    sizes: BTreeMap<JobId, Size>,
    pub(super) live: Size,
    pub(super) ended: Size,
    /// What live jobs weigh, by their owners.
    tasks_of: Shares<JobId>,
    bytes_of: Shares<JobId>,
    /// Queued runs by their owners.
    queued_of: Shares<JobId>,
    /// Workers that got something to stop from the entry that is being applied.
    pub(super) halted: BTreeSet<PeerId>,
}

/// What a task needs of a worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Demand {
    pub(super) engine: Engine,
    pub(super) resources: Requirement,
}

/// What attempts take at a worker, those that are being stopped included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) taken: Capacity,
    pub(super) tasks: BTreeSet<TaskAttempt>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Specification, outputs and checkpoints.
    pub(super) bytes: usize,
    pub(super) tasks: usize,
    specification: usize,
    ended: bool,
    owner: PeerId,
}

impl SchedulerIndex {
    /// `None`: the worker has something to tell of the attempt, and runs it no more.
    pub(super) fn occupy(&mut self, worker: PeerId, task: TaskAttempt, resources: Option<&Requirement>) {
        let used = self.used.entry(worker).or_default();
        if used.tasks.insert(task)
            && let Some(resources) = resources
        {
            used.taken = used.taken.plus(&resources.capacity);
        }
    }

    pub(super) fn leave(&mut self, worker: PeerId, task: TaskAttempt, resources: Option<&Requirement>) {
        let Some(used) = self.used.get_mut(&worker) else { return };
        if used.tasks.remove(&task)
            && let Some(resources) = resources
        {
            used.taken = used.taken.minus(&resources.capacity);
        }
        if used.tasks.is_empty() {
            self.used.remove(&worker);
        }
    }

    fn enqueue(&mut self, job: JobId, owner: PeerId, wanted: Option<(Demand, u64)>) {
        if self.queued.get(&job) == wanted.as_ref() {
            return;
        }
        self.queued_of.set(job, wanted.is_some().then_some((owner, 1)));
        if let Some((demand, pass)) = self.queued.remove(&job)
            && let Some(turns) = self.queue.get_mut(&demand)
        {
            turns.remove(&(pass, job));
            if turns.is_empty() {
                self.queue.remove(&demand);
            }
        }
        if let Some((demand, pass)) = wanted {
            self.queue.entry(demand.clone()).or_default().insert((pass, job));
            self.queued.insert(job, (demand, pass));
        }
    }

    fn wake_at(&mut self, job: JobId, due: Option<Millis>) {
        if let Some(before) = self.due_of.remove(&job) {
            self.due.remove(&(before, job));
        }
        if let Some(due) = due {
            self.due.insert((due, job));
            self.due_of.insert(job, due);
        }
    }

    fn weigh(&mut self, job: JobId, size: Option<Size>) {
        let side = |ended: bool| if ended { 1 } else { 0 };
        let mut sides = [self.live, self.ended];
        if let Some(before) = self.sizes.remove(&job) {
            sides[side(before.ended)].bytes -= before.bytes;
            sides[side(before.ended)].tasks -= before.tasks;
        }
        let live = size.filter(|size| !size.ended);
        self.tasks_of.set(job, live.map(|size| (size.owner, size.tasks as u64)));
        self.bytes_of.set(job, live.map(|size| (size.owner, size.bytes as u64)));
        if let Some(size) = size {
            sides[side(size.ended)].bytes += size.bytes;
            sides[side(size.ended)].tasks += size.tasks;
            self.sizes.insert(job, size);
        }
        [self.live, self.ended] = sides;
    }

    /// Tasks and bytes of live jobs of the owner.
    pub(super) fn weight_of(&self, owner: &PeerId) -> (usize, usize) {
        (self.tasks_of.of(owner) as usize, self.bytes_of.of(owner) as usize)
    }

    /// Runs of the owner that want workers.
    pub(super) fn queued_of(&self, owner: &PeerId) -> u64 {
        self.queued_of.of(owner)
    }

    /// Bytes of a job's specification.
    pub(super) fn specification(&self, job: JobId) -> usize {
        self.sizes.get(&job).map_or(0, |size| size.specification)
    }

    pub(super) fn is_queued(&self, job: JobId) -> bool {
        self.queued.contains_key(&job)
    }
}

impl Demand {
    pub(super) fn of(record: &JobRecord) -> Option<Self> {
        let run = record.tasks()?;
        Some(Self { engine: record.terms(run.step)?.engine, resources: run.settings.resources.clone() })
    }
}

impl WorkerRecord {
    /// Slots that would be left if it took such a task now, less than none when the task would wait there: up to
    /// `ahead` may. `None` when there is no room.
    pub(super) fn room(&self, used: Option<&Used>, demand: &Demand, ahead: u32) -> Option<i64> {
        let nothing = Used::default();
        let used = used.unwrap_or(&nothing);
        let (has, needs) = (&self.capacity, &demand.resources.capacity);
        let slots_left = i64::from(has.slots) - i64::from(used.taken.slots) - i64::from(needs.slots);
        if has.shortage(&used.taken.plus(needs)).is_none() {
            return Some(slots_left);
        }
        let fit = has.slots / needs.slots.max(1);
        ((used.tasks.len() as u64) < u64::from(fit.saturating_add(ahead)) && ahead > 0).then_some(slots_left.min(-1))
    }
}

impl PoolCx<'_> {
    /// Called after every change to a run that computes, or to its tasks.
    pub(in crate::quorum) fn reindex(&mut self, job: JobId) {
        let due = self.view().job_due(job);
        self.tasks.index.wake_at(job, due);
        let waiting = match self.jobs.get(&job).map(|record| &record.run) {
            Some(Run::Trigger(run)) => Some(run.input_bytes()),
            _ => None,
        };
        let owner = self.jobs.get(&job).map(|record| record.owner).unwrap_or_default();
        let Some(run) = self.jobs.tasks_mut(&job) else {
            self.tasks.index.enqueue(job, owner, None);
            return self.weigh_waiting(job, waiting);
        };
        if let Some(index) = self.tasks.tables.get(&job).and_then(|table| table.of(run.step)) {
            run.tally = index.tally;
        }
        let wanted = self.view().wants_workers(job);
        self.tasks.index.enqueue(job, owner, wanted);
        let Some(record) = self.jobs.get(&job) else { return };
        let known = self.tasks.index.sizes.get(&job).map(|size| size.specification);
        let specification = known.unwrap_or_else(|| wire::encode(&record.spec).len());
        let table = self.tasks.tables.get(&job);
        let size = Size {
            bytes: specification + table.map_or(0, TaskTable::blob_bytes),
            tasks: table.map_or(0, TaskTable::task_count),
            specification,
            ended: record.state.is_final(),
            owner,
        };
        self.tasks.index.weigh(job, Some(size));
    }

    /// Of a trigger: its specification and what waits to be given to runs.
    fn weigh_waiting(&mut self, job: JobId, waiting: Option<usize>) {
        let Some((record, waiting)) = self.jobs.get(&job).zip(waiting) else {
            return self.tasks.index.weigh(job, None);
        };
        let known = self.tasks.index.sizes.get(&job).map(|size| size.specification);
        let specification = known.unwrap_or_else(|| wire::encode(&record.spec).len());
        let (ended, owner) = (record.state.is_final(), record.owner);
        let size = Size { bytes: specification + waiting, tasks: 0, specification, ended, owner };
        self.tasks.index.weigh(job, Some(size));
    }
}

impl PoolView<'_> {
    fn wants_workers(&self, job: JobId) -> Option<(Demand, u64)> {
        let record = self.jobs.get(&job)?;
        let run = record.tasks()?;
        let index = self.tasks.tables.get(&job)?.of(run.step)?;
        let may = match record.state {
            RunState::Pending | RunState::Running => true,
            // What is undone must not still be going on.
            RunState::Reverting => self.tasks.stopping_of(job).next().is_none(),
            _ => false,
        };
        let fresh = index.ready.len() > index.partial.len() && index.room(run.settings.parallelism) > 0;
        (may && (fresh || !index.partial.is_empty())).then(|| Some((Demand::of(record)?, run.pass)))?
    }
}
