//! The life of a run that computes: its steps, and every way to its end.
//!
//! Whatever changes a run calls [`QuorumState::settle`] afterwards, which looks at where its tasks stand and makes the
//! moves that follow. So each rule (when a step is done, when failure is final, when a pause is complete) stands once.

use super::schedule::price_of_turn;
use crate::ids::{Attempt, JobId};
use crate::ids::{StepIndex, TaskIndex};
use crate::job::compute::{ComputeSpec, OnFailure};
use crate::job::plan::Plan;
use crate::job::record::Run;
use crate::job::record::{JobRecord, RunState};
use crate::job::transition::{RunCommand, targets};
use crate::quorum::apply::short;
use crate::quorum::command::Rejection;
use crate::quorum::state::{Event, QuorumState};
use crate::task::limits::{DEAD_NAMED_MAX, RECORD_BYTES_MAX, TASKS_MAX, UNDONE_TASKS_MAX};
use crate::task::record::{AttemptRecord, ComputeRun, Ending, Stopping, TaskAttempt, TaskId, TaskRecord, TaskState};
use crate::task::table::{Blob, TaskTable};

/// What follows for a run from where its tasks stand.
enum Move {
    Begin,
    Paused,
    Cancelled,
    /// A task was given up.
    GivenUp(String),
    StepDone,
    Park(String),
}

impl QuorumState {
    /// Room for one more job that computes.
    pub(in crate::quorum) fn check_room(&self, spec: &ComputeSpec, encoded_bytes: usize) -> Result<(), Rejection> {
        let tasks = Plan::of(spec).steps.iter().map(|step| step.tasks as usize).max().unwrap_or(0);
        if self.tasks.index.live.tasks + tasks > TASKS_MAX {
            return Err(Rejection::Full { what: "tasks of live jobs".to_owned(), limit: TASKS_MAX });
        }
        self.check_bytes(encoded_bytes)
    }

    pub(in crate::quorum) fn check_bytes(&self, more: usize) -> Result<(), Rejection> {
        if self.tasks.index.live.bytes + more > RECORD_BYTES_MAX {
            let what = "bytes of specifications and outputs".to_owned();
            return Err(Rejection::Full { what, limit: RECORD_BYTES_MAX });
        }
        Ok(())
    }

    pub(in crate::quorum) fn new_compute_run(&self, spec: &ComputeSpec) -> Run {
        let run = ComputeRun::new(spec, self.time);
        // It pays for its first task before it comes to its turn. At the pass that the others are served at, whoever
        // came earlier could be overtaken by all who come later.
        let pass = self.tasks.pass.saturating_add(price_of_turn(&run.settings));
        Run::Compute(Box::new(ComputeRun { pass, ..run }))
    }

    pub(in crate::quorum) fn begin_compute(&mut self, job: JobId) {
        let mut table = TaskTable::default();
        if let Some((spec, _)) = self.jobs.get(&job).and_then(JobRecord::compute) {
            table.begin(StepIndex(0), Plan::of(spec).step(StepIndex(0)).map_or(0, |step| step.tasks));
        }
        self.tasks.tables.insert(job, table);
    }

    /// Makes every move that follows from where the run's tasks stand, and brings the index up to date.
    pub(in crate::quorum) fn settle(&mut self, job: JobId, by: RunCommand, events: &mut Vec<Event>) {
        while let Some(next) = self.next_move(job) {
            match next {
                Move::Begin => self.enter(job, by, RunState::Running, "its first task has a worker", events),
                Move::Paused => {
                    let now = self.time;
                    self.with_run(job, |run| run.stopped_at = Some(now));
                    self.enter(job, by, RunState::Paused, "all its work has stopped", events);
                }
                Move::Cancelled => {
                    let by_whom = self.jobs.get(&job).and_then(|record| record.reason.clone());
                    self.end_compute(job, by, RunState::Cancelled, by_whom, "all its work has stopped", events);
                }
                Move::GivenUp(reason) => self.fail_compute(job, by, reason, events),
                Move::StepDone => self.step_done(job, by, events),
                Move::Park(reason) => self.park(job, by, &reason, events),
            }
        }
        self.reindex_job(job);
    }

    fn next_move(&self, job: JobId) -> Option<Move> {
        let record = self.jobs.get(&job)?;
        let (spec, run) = record.compute()?;
        if record.state == RunState::Cancelling {
            return self.tasks.stopping_of(job).next().is_none().then_some(Move::Cancelled);
        }
        if !matches!(record.state, RunState::Pending | RunState::Running | RunState::Pausing | RunState::Reverting) {
            return None;
        }
        let index = self.tasks.tables.get(&job)?.of(run.step)?;
        let tally = index.tally;
        let why = || run.dead.last().map_or_else(|| "a task was given up".to_owned(), |(_, _, why)| why.clone());
        // What undoes is worth a person's look when it cannot be done.
        if tally.dead > 0 && run.ending.is_none() && spec.on_failure != OnFailure::Park {
            return Some(Move::GivenUp(why()));
        }
        if tally.done == tally.total {
            return Some(Move::StepDone);
        }
        if tally.ready + tally.delayed + tally.running == 0 {
            let why = if tally.dead > 0 { why() } else { "a task may have begun and must not begin twice".to_owned() };
            let what = match tally.dead + tally.parked {
                1 => "a task waits".to_owned(),
                count => format!("{count} tasks wait"),
            };
            return Some(Move::Park(format!("{what} for a decision: {why}")));
        }
        match record.state {
            RunState::Pausing if index.live.is_empty() => Some(Move::Paused),
            RunState::Pending if !index.live.is_empty() => Some(Move::Begin),
            _ => None,
        }
    }

    /// Enters a state; the table says which are reached by what.
    pub(in crate::quorum) fn enter(
        &mut self,
        job: JobId,
        by: RunCommand,
        to: RunState,
        what: &str,
        events: &mut Vec<Event>,
    ) {
        let now = self.wall();
        let Some(record) = self.jobs.get_mut(&job) else { return };
        debug_assert!(
            targets(record.state, by).is_some_and(|targets| targets.contains(&to)),
            "{} leads from {} to {to}",
            by.name(),
            record.state
        );
        record.move_to(now, to, what.to_owned());
        events.push(Event::JobChanged { job, state: to });
    }

    pub(in crate::quorum) fn with_run<R>(
        &mut self,
        job: JobId,
        change: impl FnOnce(&mut ComputeRun) -> R,
    ) -> Option<R> {
        self.jobs.get_mut(&job)?.compute_mut().map(|(_, run)| change(run))
    }

    fn step_done(&mut self, job: JobId, by: RunCommand, events: &mut Vec<Event>) {
        let (now, stamp) = (self.time, self.wall());
        let Some((spec, run)) = self.jobs.get(&job).and_then(JobRecord::compute) else { return };
        let plan = Plan::of(spec);
        let (done, next) = (run.step, plan.next(run.step));
        match (&run.ending, next) {
            (Some(Ending::Cancelled), _) => {
                self.end_compute(job, by, RunState::Cancelled, None, "what it did is undone", events);
            }
            (Some(Ending::Reverted { reason }), _) => {
                let reason = Some(reason.clone());
                self.end_compute(job, by, RunState::Reverted, reason, "what it did is undone", events);
            }
            (None, None) => self.end_compute(job, by, RunState::Succeeded, None, "every task is done", events),
            (None, Some(next)) => {
                let tasks = plan.step(next).map_or(0, |step| step.tasks);
                let program = plan.call(spec, next).map(|call| call.program.digest());
                self.with_run(job, |run| {
                    (run.step, run.step_at) = (next, now);
                    run.program = program.unwrap_or(run.program);
                    run.durations.clear();
                });
                if let Some(table) = self.tasks.tables.get_mut(&job) {
                    // The new step is given outputs of the one before it alone.
                    if done.0 > 0 {
                        table.forget(StepIndex(done.0 - 1));
                    }
                    table.begin(next, tasks);
                }
                if let Some(record) = self.jobs.get_mut(&job) {
                    record.move_to(stamp, record.state, format!("step {done} is done; step {next} has {tasks} tasks"));
                }
            }
        }
    }

    /// The run cannot succeed any more: it reverts, if its specification says how, or fails.
    pub(in crate::quorum) fn fail_compute(
        &mut self,
        job: JobId,
        by: RunCommand,
        reason: String,
        events: &mut Vec<Event>,
    ) {
        let reverts = |record: &JobRecord| {
            record.compute().is_some_and(|(spec, run)| {
                // A run that never had a worker has nothing to undo.
                spec.on_failure == OnFailure::Revert && run.ending.is_none() && record.state != RunState::Pending
            })
        };
        if self.jobs.get(&job).is_some_and(reverts) {
            self.revert(job, by, Ending::Reverted { reason }, events);
        } else {
            let what = format!("failed: {reason}");
            self.end_compute(job, by, RunState::Failed, Some(reason), &what, events);
        }
    }

    /// Stops the work and begins to undo it. Tasks that no worker ever had need no undoing.
    pub(in crate::quorum) fn revert(&mut self, job: JobId, by: RunCommand, ending: Ending, events: &mut Vec<Event>) {
        let now = self.time;
        self.stop_all(job);
        let undoing = || {
            let (spec, _) = self.jobs.get(&job)?.compute()?;
            let (plan, program) = (Plan::of(spec), spec.compensate.as_ref()?.program.digest());
            Some((plan.compensation()?, plan, program))
        };
        let Some((step, plan, program)) = undoing() else { return };
        if let Some(table) = self.tasks.tables.get_mut(&job) {
            // Once a later step has begun, every task of the first had.
            let begun: Vec<bool> = table.tasks(StepIndex(0)).iter().map(|task| task.newest > Attempt(0)).collect();
            table.steps().collect::<Vec<_>>().into_iter().for_each(|step| table.forget(step));
            let tasks = plan.step(step).map_or(0, |step| step.tasks);
            let undo = |task: u32| {
                let needed = begun.get(task as usize).copied().unwrap_or(true);
                let state = if needed { TaskState::Ready } else { TaskState::Done };
                TaskRecord { state, ..TaskRecord::ready() }
            };
            table.adopt(step, (0..tasks).map(undo).collect::<Vec<_>>().into());
        }
        let what = match &ending {
            Ending::Cancelled => "cancelled: what was begun is undone".to_owned(),
            Ending::Reverted { reason } => format!("what was begun is undone: {reason}"),
        };
        self.with_run(job, |run| {
            (run.step, run.step_at, run.clock_at) = (step, now, now);
            run.program = program;
            run.ending = Some(ending);
            run.stopped_at = None;
            run.durations.clear();
        });
        if let Some(record) = self.jobs.get_mut(&job) {
            record.before_pause = None;
        }
        self.enter(job, by, RunState::Reverting, &what, events);
    }

    pub(in crate::quorum) fn park(&mut self, job: JobId, by: RunCommand, reason: &str, events: &mut Vec<Event>) {
        let now = self.time;
        self.with_run(job, |run| {
            run.clock_at = now;
            run.stopped_at = None;
        });
        if let Some(record) = self.jobs.get_mut(&job) {
            record.reason = Some(short(reason));
            record.before_pause = None;
        }
        self.enter(job, by, RunState::AwaitingResolution, reason, events);
    }

    /// Ends a run. Attempts that still run are stopped; the tasks and outputs of the step that it came to stay, unless
    /// they are too many for a run that did not succeed.
    pub(in crate::quorum) fn end_compute(
        &mut self,
        job: JobId,
        by: RunCommand,
        to: RunState,
        reason: Option<String>,
        what: &str,
        events: &mut Vec<Event>,
    ) {
        self.stop_all(job);
        let now = self.wall();
        let last = self.jobs.get(&job).and_then(JobRecord::compute).map(|(_, run)| run.step);
        if let (Some(table), Some(last)) = (self.tasks.tables.get_mut(&job), last) {
            let others: Vec<_> = table.steps().filter(|step| *step != last).collect();
            others.into_iter().for_each(|step| table.forget(step));
            table.drop_unfinished();
            if to != RunState::Succeeded && table.task_count() > UNDONE_TASKS_MAX {
                self.tasks.tables.remove(&job);
            }
        }
        self.with_run(job, |run| {
            run.durations.clear();
            run.avoided.clear();
            run.stopped_at = None;
        });
        if let Some(record) = self.jobs.get_mut(&job) {
            record.reason = reason.map(|reason| short(&reason));
            record.before_pause = None;
            record.finished_at = Some(now);
        }
        self.enter(job, by, to, what, events);
        self.job_finished(job);
    }

    /// Has every attempt of the run's present step ended. What they report from here on is stale.
    pub(in crate::quorum) fn stop_all(&mut self, job: JobId) {
        let Some(step) = self.jobs.get(&job).and_then(JobRecord::compute).map(|(_, run)| run.step) else { return };
        for task in self.live_tasks(job) {
            self.stop_task(TaskId { job, step, task });
        }
    }

    /// Has every attempt of the task ended.
    pub(in crate::quorum) fn stop_task(&mut self, id: TaskId) {
        let stopped = self.change_task(id, |task| {
            if !task.is_settled() {
                task.state = TaskState::Ready;
            }
            if let Some(extras) = &mut task.extras {
                extras.revealing = false;
            }
            std::mem::take(&mut task.live)
        });
        for live in stopped.unwrap_or_default() {
            self.drop_copy(TaskAttempt { id, attempt: live.attempt });
            self.stop_attempt(TaskAttempt { id, attempt: live.attempt }, live);
        }
    }

    /// Remembers that an attempt, which its task has forgotten, must end where it runs.
    pub(in crate::quorum) fn stop_attempt(&mut self, task: TaskAttempt, live: AttemptRecord) {
        // A worker that is gone needs no telling.
        if self.tasks.workers.contains_key(&live.worker) {
            self.tasks.index.occupy(live.worker, task, Some(&live.resources));
            let stopping = Stopping { worker: live.worker, since: self.time, resources: live.resources };
            self.tasks.stopping.insert(task, stopping);
            self.tasks.index.halted.insert(live.worker);
        }
    }

    pub(in crate::quorum) fn stop_ended(&mut self, task: TaskAttempt) {
        if let Some(stopping) = self.tasks.stopping.remove(&task) {
            self.tasks.index.leave(stopping.worker, task, Some(&stopping.resources));
        }
    }

    /// Forgets what a copy of a verified task showed.
    pub(in crate::quorum) fn drop_copy(&mut self, task: TaskAttempt) {
        if let Some(table) = self.tasks.tables.get_mut(&task.id.job) {
            table.drop_blob((task.id.step, task.id.task, Blob::Copy(task.attempt)));
        }
    }

    /// Gives a task up: the dead letter.
    pub(in crate::quorum) fn dead_letter(&mut self, id: TaskId, reason: &str) {
        self.stop_task(id);
        self.change_task(id, |task| task.state = TaskState::Dead);
        self.with_run(id.job, |run| {
            if run.dead.len() >= DEAD_NAMED_MAX {
                run.dead.remove(0);
            }
            run.dead.push((id.step, id.task, short(&format!("task {}: {reason}", id.task))));
        });
    }

    /// Tasks of the present step in that state.
    pub(in crate::quorum) fn tasks_in(&self, job: JobId, state: impl Fn(TaskState) -> bool) -> Vec<TaskId> {
        let Some((_, run)) = self.jobs.get(&job).and_then(JobRecord::compute) else { return Vec::new() };
        let tasks =
            self.tasks.tables.get(&job).into_iter().flat_map(|table| table.tasks(run.step).iter_from(TaskIndex(0)));
        let found = tasks.filter(|(_, task)| state(task.state));
        found.map(|(task, _)| TaskId { job, step: run.step, task }).collect()
    }
}
