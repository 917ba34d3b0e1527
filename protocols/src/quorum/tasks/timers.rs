//! Timers: when the state itself asks to be looked at again. Here are those of tasks; a kind has those of its runs.
//!
//! A timer is not stored; it follows from the records ([`PoolView::job_due`]), and the index knows every run's
//! earliest. The primary is told of the earliest of all (`Duty::Wake`), waits for it on its monotonic clock, and
//! proposes `QuorumCommand::Elapsed` with the instant it waited for. Record time becomes that instant. Timers are
//! record time ([`super::clock`]): clocks that are set move none, and nothing in the state ever looks at a clock.

use super::{PoolCx, PoolView};
use crate::ids::{JobId, Millis};
use crate::job::record::{JobRecord, RunState};
use crate::task::error_class::ErrorClass;
use crate::task::limits::STOP_WAIT;
use crate::task::record::{TaskAttempt, TaskId, TaskState};
use crate::task::spec::Stragglers;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A delayed task may be tried again.
    Retry,
    /// A peer that refused may be asked again.
    Refusal,
    /// An attempt has outlived its time.
    Attempt,
    /// A task takes much longer than others did.
    Straggler,
}

impl PoolCx<'_> {
    /// Attempts of the run that were not seen to end in time count as ended.
    pub(in crate::quorum) fn end_overdue_stops(&mut self, job: JobId) {
        let now = self.time;
        let over = self.tasks.stopping_of(job).filter(|(_, stopping)| stopping.since.plus(STOP_WAIT) <= now);
        let stopped: Vec<_> = over.map(|(task, _)| *task).collect();
        stopped.into_iter().for_each(|task| self.stop_ended(task));
    }

    /// Serves every timer of the run's tasks that has run out.
    pub(in crate::quorum) fn serve_timers(&mut self, job: JobId) {
        let now = self.time;
        let timers = self.jobs.get(&job).map(|record| self.view().task_timers(record)).unwrap_or_default();
        for (timer, _) in timers.into_iter().filter(|(_, due)| *due <= now) {
            self.serve(job, timer);
        }
    }

    fn serve(&mut self, job: JobId, timer: Timer) {
        let now = self.time;
        let Some(record) = self.jobs.get(&job).filter(|record| !record.state.is_final()) else { return };
        let Some(step) = record.tasks().map(|run| run.step) else { return };
        let index = self.tasks.tables.get(&job).and_then(|table| table.of(step));
        match timer {
            Timer::Retry => {
                let ready: Vec<_> = index
                    .into_iter()
                    .flat_map(|index| &index.delayed)
                    .take_while(|(at, _)| *at <= now)
                    .map(|(_, task)| *task)
                    .collect();
                for task in ready {
                    self.change_task(TaskId { job, step, task }, |task| task.state = TaskState::Ready);
                }
            }
            Timer::Refusal => {
                self.with_tasks(job, |run| {
                    for refusal in run.avoided.values_mut().filter(|refusal| refusal.until.is_some_and(|at| at <= now))
                    {
                        refusal.until = None;
                    }
                });
            }
            Timer::Attempt => {
                let Some(timeout) = record.terms(step).map(|terms| terms.timeout) else { return };
                let late: Vec<_> = index
                    .into_iter()
                    .flat_map(|index| &index.due)
                    .take_while(|(at, ..)| *at <= now)
                    .map(|(_, task, attempt)| (*task, *attempt))
                    .collect();
                for (task, attempt) in late {
                    self.give_up(TaskAttempt { id: TaskId { job, step, task }, attempt }, timeout);
                }
            }
            Timer::Straggler => {
                if let Some((_, id)) = self.view().straggler(record).filter(|(at, _)| *at <= now) {
                    self.change_task(id, |task| task.state = TaskState::Ready);
                }
            }
        }
    }

    /// An attempt that its worker should have ended long ago: another may try, and the worker is told to stop.
    fn give_up(&mut self, task: TaskAttempt, timeout: std::time::Duration) {
        let table = self.tasks.tables.get(&task.id.job);
        let live = table.and_then(|table| table.get(task.id.step, task.id.task)?.attempt(task.attempt).cloned());
        let Some(live) = live else { return };
        let reason = format!("nothing was heard of it past its timeout of {timeout:?}");
        self.attempt_failed(task, ErrorClass::Timeout, &reason);
        self.stop_attempt(task, live);
    }
}

impl PoolView<'_> {
    /// When the job asks to be looked at again: for itself, for its tasks, or for attempts that are being stopped.
    pub(in crate::quorum) fn job_due(&self, job: JobId) -> Option<Millis> {
        let record = self.jobs.get(&job);
        let stops = self.tasks.stopping_of(job).map(|(_, stopping)| stopping.since.plus(STOP_WAIT)).min();
        let own = record.and_then(JobRecord::timer);
        let tasks = record.map(|record| self.task_timers(record)).unwrap_or_default();
        tasks.into_iter().map(|(_, due)| due).chain(stops).chain(own).min()
    }

    fn task_timers(&self, record: &JobRecord) -> Vec<(Timer, Millis)> {
        let Some(run) = record.tasks().filter(|_| !record.state.is_final()) else { return Vec::new() };
        let mut timers = Vec::new();
        let Some(index) = self.tasks.tables.get(&record.job).and_then(|table| table.of(run.step)) else {
            return timers;
        };
        if matches!(record.state, RunState::Pending | RunState::Running | RunState::Reverting) {
            timers.extend(index.delayed.first().map(|(at, _)| (Timer::Retry, *at)));
            timers.extend(run.refusal_over_at().map(|at| (Timer::Refusal, at)));
            timers.extend(self.straggler(record).map(|(at, _)| (Timer::Straggler, at)));
        }
        timers.extend(index.due.first().map(|(at, ..)| (Timer::Attempt, *at)));
        timers
    }

    /// The task that has run the longest alone, when the step asks for second copies, and when it gets one.
    fn straggler(&self, record: &JobRecord) -> Option<(Millis, TaskId)> {
        let run = record.tasks()?;
        let Stragglers { slower_percent, done_percent } = record.terms(run.step)?.stragglers?;
        let table = self.tasks.tables.get(&record.job)?;
        let index = table.of(run.step)?;
        let enough = index.tally.done as u64 * 100 >= index.tally.total as u64 * done_percent as u64;
        if !enough || index.tally.done == 0 || !index.ready.is_empty() || record.state == RunState::Reverting {
            return None;
        }
        let patience = median(&run.durations)? * slower_percent as u64 / 100;
        let alone = index.due.iter().find_map(|(_, task, attempt)| {
            let record = table.get(run.step, *task).filter(|record| record.live.len() == 1)?;
            Some((*task, record.attempt(*attempt)?.since))
        });
        let (task, since) = alone?;
        let at = Millis(since.0.saturating_add(patience));
        Some((at, TaskId { job: record.job, step: run.step, task }))
    }
}

/// The median of a histogram over powers of two of milliseconds: the upper end of its bucket.
fn median(durations: &[u32]) -> Option<u64> {
    let total: u64 = durations.iter().map(|count| u64::from(*count)).sum();
    let mut seen = 0;
    let bucket = durations.iter().position(|count| {
        seen += u64::from(*count);
        seen * 2 >= total && total > 0
    })?;
    Some(1u64 << bucket.min(40))
}
