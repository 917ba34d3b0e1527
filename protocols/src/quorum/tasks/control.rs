//! Control of runs that compute: pause, resume, cancel, retry, resolve, update.

use crate::ids::{JobId, Millis, PeerId};
use crate::job::compute::{OnFailure, Resources};
use crate::job::record::RunState;
use crate::job::transition::RunCommand;
use crate::quorum::apply::{Applied, invalid};
use crate::quorum::command::CommandReply;
use crate::quorum::command::Resolution;
use crate::quorum::state::{Event, QuorumState};
use crate::task::limits::{PRIORITY_MAX, PRIORITY_MIN, TASKS_PER_STEP_MAX};
use crate::task::record::{Ending, TaskState};

impl QuorumState {
    /// Stops the work of a run. Tasks that must not begin twice and have begun are waited for.
    pub(in crate::quorum) fn pause(&mut self, by: PeerId, job: JobId, events: &mut Vec<Event>) -> Applied {
        let state = self.jobs.run_for(job, RunCommand::Pause)?.state;
        if matches!(state, RunState::Pausing | RunState::Paused) {
            return Ok(CommandReply::Done);
        }
        let now = self.time;
        let idle = self.live_tasks(job).is_empty();
        if let Some(record) = self.jobs.get_mut(&job) {
            record.before_pause = Some(state);
        }
        self.with_run(job, |run| run.stopped_at = Some(now));
        let to = if idle { RunState::Paused } else { RunState::Pausing };
        self.enter(job, RunCommand::Pause, to, &format!("paused by {by}"), events);
        if !idle {
            let workers = self.workers_of(job);
            events.extend(workers.into_iter().map(|worker| Event::StopWanted { worker }));
        }
        self.reindex_job(job);
        Ok(CommandReply::Done)
    }

    pub(in crate::quorum) fn resume(&mut self, by: PeerId, job: JobId, events: &mut Vec<Event>) -> Applied {
        let record = self.jobs.run_for(job, RunCommand::Resume)?;
        let (state, before) = (record.state, record.before_pause.take().unwrap_or(RunState::Running));
        // A run that had begun to wait for workers when it was paused may have got one before it stopped.
        let to = if state == RunState::Pausing && before == RunState::Pending { RunState::Running } else { before };
        let now = self.time;
        self.with_run(job, |run| {
            // The step's time stood still meanwhile.
            if let Some(since) = run.stopped_at.take() {
                run.step_at = run.step_at.plus(now.since(since));
            }
        });
        self.enter(job, RunCommand::Resume, to, &format!("resumed by {by}"), events);
        self.settle(job, RunCommand::Assigned, events);
        Ok(CommandReply::Done)
    }

    /// Cancel of a run that computes. What was begun is undone when the specification says that a failure reverts; a
    /// second cancel gives that up too.
    pub(in crate::quorum) fn cancel_compute(&mut self, by: PeerId, job: JobId, events: &mut Vec<Event>) -> Applied {
        let record = self.jobs.run_for(job, RunCommand::Cancel)?;
        let state = record.state;
        let reverts = record.compute().is_some_and(|(spec, run)| {
            let begun = state != RunState::Pending && record.before_pause != Some(RunState::Pending);
            spec.on_failure == OnFailure::Revert && run.ending.is_none() && begun
        });
        if matches!(state, RunState::Cancelled | RunState::Cancelling) {
            return Ok(CommandReply::Done);
        }
        let what = format!("cancelled by {by}");
        if reverts {
            self.revert(job, RunCommand::Cancel, Ending::Cancelled, events);
            // Nothing may have been begun.
            self.settle(job, RunCommand::Reported, events);
        } else {
            self.stop_all(job);
            if self.tasks.stopping_of(job).next().is_none() {
                self.end_compute(job, RunCommand::Cancel, RunState::Cancelled, Some(format!("by {by}")), &what, events);
            } else {
                if let Some(record) = self.jobs.get_mut(&job) {
                    record.reason = Some(format!("by {by}"));
                    record.before_pause = None;
                }
                self.with_run(job, |run| run.ending = Some(Ending::Cancelled));
                self.enter(job, RunCommand::Cancel, RunState::Cancelling, &what, events);
            }
            self.reindex_job(job);
        }
        Ok(CommandReply::Done)
    }

    /// Begins anew what was given up or parked. The tries that the policy allows are counted from nothing.
    pub(in crate::quorum) fn retry(&mut self, by: PeerId, job: JobId, events: &mut Vec<Event>) -> Applied {
        self.jobs.run_for(job, RunCommand::Retry)?;
        let again = self.tasks_in(job, |state| matches!(state, TaskState::Dead | TaskState::Parked));
        let count = again.len();
        for id in again {
            self.change_task(id, |task| {
                task.state = TaskState::Ready;
                (task.failures, task.losses) = (0, 0);
                task.first_at = Millis(0);
                if let Some(extras) = &mut task.extras {
                    extras.rounds = 0;
                }
            });
        }
        self.back_to_work(job, RunCommand::Retry, &format!("{by} has {count} tasks tried again"), events);
        Ok(CommandReply::Done)
    }

    pub(in crate::quorum) fn resolve(
        &mut self,
        by: PeerId,
        job: JobId,
        resolution: Resolution,
        events: &mut Vec<Event>,
    ) -> Applied {
        let record = self.jobs.run_for(job, RunCommand::Resolve)?;
        let undoing = record.compute().is_some_and(|(_, run)| run.ending.is_some());
        let can_revert = record.compute().is_some_and(|(spec, _)| spec.compensate.is_some()) && !undoing;
        match resolution {
            Resolution::Fail => {
                let reason = record.reason.clone().unwrap_or_default();
                let what = format!("given up by {by}");
                self.end_compute(job, RunCommand::Resolve, RunState::Failed, Some(reason), &what, events);
                self.reindex_job(job);
            }
            Resolution::Revert if !can_revert => {
                return Err(invalid(format!("job {job} does not say how to undo it, or is being undone")));
            }
            Resolution::Revert => {
                let reason = format!("undone by {by}");
                self.revert(job, RunCommand::Resolve, Ending::Reverted { reason }, events);
                self.settle(job, RunCommand::Reported, events);
            }
            Resolution::Skip => {
                let skipped = self.tasks_in(job, |state| matches!(state, TaskState::Dead | TaskState::Parked));
                let count = skipped.len();
                for id in skipped {
                    self.change_task(id, |task| task.state = TaskState::Done);
                }
                self.back_to_work(job, RunCommand::Resolve, &format!("{by} has {count} tasks skipped"), events);
            }
        }
        Ok(CommandReply::Done)
    }

    /// From waiting for a person back to what the run was doing.
    fn back_to_work(&mut self, job: JobId, by: RunCommand, what: &str, events: &mut Vec<Event>) {
        let now = self.time;
        let mut undoing = false;
        self.with_run(job, |run| {
            undoing = run.ending.is_some();
            // The time spent waiting for a person is not the run's.
            (run.clock_at, run.step_at) = (now, now);
            run.dead.clear();
            run.avoided.clear();
        });
        if let Some(record) = self.jobs.get_mut(&job) {
            record.reason = None;
        }
        let to = if undoing { RunState::Reverting } else { RunState::Running };
        self.enter(job, by, to, what, events);
        self.settle(job, RunCommand::Reported, events);
    }

    pub(in crate::quorum) fn update(
        &mut self,
        job: JobId,
        priority: Option<u8>,
        parallelism: Option<u32>,
        resources: Option<&Resources>,
    ) -> Applied {
        self.jobs.run_for(job, RunCommand::Update)?;
        if let Some(priority) = priority.filter(|priority| !(PRIORITY_MIN..=PRIORITY_MAX).contains(priority)) {
            return Err(invalid(format!("priority: {priority} is not between {PRIORITY_MIN} and {PRIORITY_MAX}")));
        }
        if let Some(parallelism) = parallelism.filter(|parallelism| *parallelism > TASKS_PER_STEP_MAX) {
            return Err(invalid(format!("parallelism: {parallelism} is more than {TASKS_PER_STEP_MAX}")));
        }
        if let Some(resources) = resources {
            resources.check().map_err(|fault| invalid(fault.to_string()))?;
        }
        let now = self.wall();
        self.with_run(job, |run| {
            let settings = &mut run.settings;
            settings.priority = priority.unwrap_or(settings.priority);
            settings.parallelism = parallelism.unwrap_or(settings.parallelism);
            if let Some(resources) = resources {
                settings.resources.clone_from(resources);
            }
        });
        if let Some(record) = self.jobs.get_mut(&job) {
            record.move_to(now, record.state, "priority, parallelism or resources were changed".to_owned());
        }
        self.reindex_job(job);
        Ok(CommandReply::Done)
    }

    fn workers_of(&self, job: JobId) -> std::collections::BTreeSet<PeerId> {
        let of_job = |worker: &PeerId| self.attempts_of(*worker).any(|(task, _)| task.id.job == job);
        self.tasks.workers.keys().copied().filter(|worker| of_job(worker)).collect()
    }
}
