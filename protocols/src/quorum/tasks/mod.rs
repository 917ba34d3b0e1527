//! The task pool: the tasks of runs that have any, the workers that have a lease to run them, and who runs what.
//!
//! [`TaskPool`] has a table of tasks per run, the workers, and the attempts that must end where they run, with an index
//! of what wants a worker, what is busy, what times out and what all of it weighs. What a task runs, and under
//! which terms, is the kind's of its run. `report` is what workers say, `attempts` how attempts end, `schedule` who
//! gets what, `prefetch` how much of it in advance, `assignment` what a worker is told, `timers` when the state asks to
//! be looked at again.

mod assignment;
mod attempts;
mod index;
mod invariants;
mod prefetch;
mod report;
mod schedule;
pub(super) mod snapshot;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::command::TaskCommand;
use super::duty::Duty;
use super::event::Event;
use super::jobs::JobBook;
use super::reply::{CommandReply, Rejection};
use crate::ids::{Attempt, JobId, Millis, PeerId, StepIndex, TaskIndex};
use crate::shared_map::SharedMap;
use crate::task::limits::{ENDED_BYTES_MAX, ENDED_TASKS_MAX, SLOTS_SOUGHT_MAX};
use crate::task::record::{Stopping, TaskAttempt, TaskId, WorkerRecord};
use crate::task::table::TaskTable;
use index::SchedulerIndex;
use prefetch::PrefetchWindows;

pub use assignment::WorkerInstructions;

/// The tasks and workers of a quorum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskPool {
    /// Tasks of runs, and outputs that are small.
    tables: BTreeMap<JobId, TaskTable>,
    /// Peers with a standing lease to run tasks.
    workers: BTreeMap<PeerId, WorkerRecord>,
    /// Attempts that must end where they run.
    stopping: SharedMap<TaskAttempt, Stopping>,
    /// How far the jobs' turns have come: see `schedule`.
    pass: u64,
    /// How quick programs are: see `prefetch`.
    prefetch_windows: PrefetchWindows,
    index: SchedulerIndex,
}

// ---- reading, for everybody ----

impl TaskPool {
    /// The tasks of a run.
    pub fn table(&self, job: &JobId) -> Option<&TaskTable> {
        self.tables.get(job)
    }
    /// Peers with a standing lease to run tasks.
    pub fn workers(&self) -> &BTreeMap<PeerId, WorkerRecord> {
        &self.workers
    }
    /// Attempts that must end where they run.
    pub fn stopping(&self) -> impl Iterator<Item = (&TaskAttempt, &Stopping)> {
        self.stopping.iter()
    }
}

// ---- for the other sub-states ----

impl TaskPool {
    /// As a snapshot keeps it: without an index.
    pub(super) fn from_parts(
        tables: BTreeMap<JobId, TaskTable>,
        workers: BTreeMap<PeerId, WorkerRecord>,
        stopping: SharedMap<TaskAttempt, Stopping>,
        pass: u64,
        prefetch_windows: PrefetchWindows,
    ) -> Self {
        Self { tables, workers, stopping, pass, prefetch_windows, index: SchedulerIndex::default() }
    }

    /// Whether the run has tasks that want a worker now.
    pub(super) fn is_queued(&self, job: JobId) -> bool {
        self.index.is_queued(job)
    }

    /// Bytes of a job's specification.
    pub(super) fn specification_bytes(&self, job: JobId) -> usize {
        self.index.specification(job)
    }

    /// Sorts of tasks that want workers.
    pub(super) fn sorts_wanted(&self) -> usize {
        self.index.queue.len()
    }

    /// The run with the earliest timer of all, and when it runs out.
    pub(super) fn first_due(&self) -> Option<(Millis, JobId)> {
        self.index.due.first().copied()
    }

    /// The earliest timer of all.
    pub(super) fn next_timer(&self) -> Option<Millis> {
        self.index.due.first().map(|(due, _)| *due)
    }

    /// Whether ended jobs take more room than they may.
    pub(super) fn has_too_much_ended(&self) -> bool {
        self.index.ended.bytes > ENDED_BYTES_MAX || self.index.ended.tasks > ENDED_TASKS_MAX
    }

    /// The tasks of a run, to change.
    pub(super) fn table_mut(&mut self, job: JobId) -> &mut TaskTable {
        self.tables.entry(job).or_default()
    }

    /// Workers that have attempts of the run have something to stop.
    pub(super) fn halt_workers_of(&mut self, job: JobId) {
        let of_job = |used: &index::Used| used.tasks.iter().any(|task| task.id.job == job);
        let workers = self.index.used.iter().filter(|(_, used)| of_job(used)).map(|(peer, _)| *peer);
        self.index.halted.extend(workers.collect::<Vec<_>>());
    }

    pub(super) fn forget_table(&mut self, job: JobId) {
        self.tables.remove(&job);
    }

    /// Of the entry that is being applied: workers that got something to stop.
    pub(super) fn report_halted(&mut self, events: &mut Vec<Event>) {
        let halted = std::mem::take(&mut self.index.halted);
        events.extend(halted.into_iter().map(|worker| Event::StopWanted { worker }));
    }

    /// Attempts of a job that must end and have not been seen to.
    pub(super) fn stopping_of(&self, job: JobId) -> impl Iterator<Item = (&TaskAttempt, &Stopping)> {
        let first = TaskId { job, step: StepIndex(0), task: TaskIndex(0) };
        let first = TaskAttempt { id: first, attempt: Attempt(0) };
        let rest = self.stopping.range_from(Bound::Included(&first));
        rest.take_while(move |(task, _)| task.id.job == job).collect::<Vec<_>>().into_iter()
    }

    /// Everything that a worker is busy with.
    fn attempts_at(&self, worker: PeerId) -> Vec<TaskAttempt> {
        let used = self.index.used.get(&worker);
        used.into_iter().flat_map(|used| used.tasks.iter().copied()).collect()
    }

    /// What workers are busy with, built from the records alone.
    pub(super) fn rebuild_index(&mut self) {
        self.index = SchedulerIndex::default();
        for (job, table) in &self.tables {
            for (step, task, record) in table.all() {
                let id = TaskId { job: *job, step, task };
                for live in &record.live {
                    let task = TaskAttempt { id, attempt: live.attempt };
                    self.index.occupy(live.worker, task, live.taken());
                }
            }
        }
        for (task, stopping) in self.stopping.iter() {
            self.index.occupy(stopping.worker, *task, Some(&stopping.resources));
        }
    }
}

/// A command that was applied, and what is left to the frame.
type Handled = Result<(CommandReply, FollowUp), Rejection>;

/// What the frame does for jobs once a command on tasks was applied.
#[derive(Default)]
pub(super) struct FollowUp {
    /// Runs whose tasks have changed: their kinds make the moves that follow.
    pub(super) settle: BTreeSet<JobId>,
    /// Jobs of which only the index is to be brought up to date.
    pub(super) reindex: BTreeSet<JobId>,
    /// Events tell how far the runs have come.
    pub(super) tells_progress: bool,
    /// A worker that was lost. Its refusals are forgiven once the runs are settled.
    pub(super) forgive: Option<PeerId>,
}

/// The pool beside the records of the runs that have its tasks, to read.
#[derive(Clone, Copy)]
pub(super) struct PoolView<'s> {
    tasks: &'s TaskPool,
    jobs: &'s JobBook,
    /// Record time.
    time: Millis,
}

/// The same, to change. It reaches no other part of the state: what follows for a run is the frame's to do.
pub(super) struct PoolCx<'s> {
    tasks: &'s mut TaskPool,
    jobs: &'s mut JobBook,
    time: Millis,
}

impl<'s> PoolCx<'s> {
    pub(super) fn new(tasks: &'s mut TaskPool, jobs: &'s mut JobBook, time: Millis) -> Self {
        Self { tasks, jobs, time }
    }

    fn view(&self) -> PoolView<'_> {
        PoolView { tasks: self.tasks, jobs: self.jobs, time: self.time }
    }

    pub(super) fn apply(&mut self, by: PeerId, command: &TaskCommand, events: &mut Vec<Event>) -> Handled {
        match command {
            TaskCommand::SetWorker { worker } => self.set_worker(worker, events),
            TaskCommand::LoseWorker { peer, lease, reason } => self.lose_worker(*peer, *lease, reason, events),
            TaskCommand::ReleaseWorker { peer, lease } => self.release_worker(*peer, *lease),
            TaskCommand::Start { tasks } => self.start(by, tasks),
            TaskCommand::Report { reports } => self.report(by, reports, events),
            TaskCommand::SaveCheckpoint { task, checkpoint, bytes } => {
                self.save_checkpoint(by, *task, checkpoint, bytes.as_ref())
            }
        }
    }
}

impl<'s> PoolView<'s> {
    pub(super) fn new(tasks: &'s TaskPool, jobs: &'s JobBook, time: Millis) -> Self {
        Self { tasks, jobs, time }
    }

    /// Of jobs with tasks. As many as there are workers and sorts of tasks, however many jobs there are.
    pub(super) fn duties(&self, duties: &mut Vec<Duty>) {
        let work = &self.tasks.index;
        for (demand, turns) in &work.queue {
            let Some((_, job)) = turns.first() else { continue };
            let wanted = turns.iter().take(SLOTS_SOUGHT_MAX as usize).map(|(_, job)| self.slots_wanted(*job));
            let slots = wanted.fold(0u32, u32::saturating_add).min(SLOTS_SOUGHT_MAX);
            let (engine, resources) = (demand.engine, demand.resources.clone());
            duties.push(Duty::FindWorkers { job: *job, engine, resources, slots });
        }
        for (peer, worker) in &self.tasks.workers {
            let lease = worker.grant.lease;
            let wanted = || work.queue.keys().any(|demand| worker.unmet(demand.engine, &demand.resources).is_none());
            if work.used.contains_key(peer) {
                duties.push(Duty::HoldSession { worker: *peer, lease });
            } else if !wanted() {
                duties.push(Duty::ReleaseWorker { worker: *peer, lease });
            }
        }
        if let Some(due) = self.tasks.next_timer() {
            duties.push(Duty::Wake { due, after: due.since(self.time) });
        }
    }
}
