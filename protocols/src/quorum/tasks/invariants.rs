//! Invariants of the pool of tasks.

use std::collections::BTreeSet;

use super::{PoolView, TaskPool};
use crate::ids::{Attempt, JobId};
use crate::job::record::JobRecord;
use crate::quorum::check::{Checked, ensure};
use crate::task::limits::{AVOIDED_MAX, COPIES_MAX, DEAD_LETTERS_MAX, WORKERS_MAX};
use crate::task::record::{TaskRecord, TaskState};

impl TaskPool {
    pub(in crate::quorum) fn check_index(&self, rebuilt: &Self) -> Checked {
        let (index, right) = (&self.index, &rebuilt.index);
        ensure(index == right, || format!("index {index:?} should be {right:?}"))
    }

    fn check_workers(&self) -> Checked {
        ensure(self.workers.len() <= WORKERS_MAX, || format!("{} workers", self.workers.len()))?;
        self.prefetch_windows.check(|peer| self.workers.contains_key(peer))?;
        for (peer, worker) in &self.workers {
            ensure(worker.grant.holder.peer == *peer, || format!("{peer} is kept under another name"))?;
        }
        for (task, stopping) in self.stopping.iter() {
            ensure(self.workers.contains_key(&stopping.worker), || format!("{task:?} stops at a peer that is gone"))?;
            let table = self.tables.get(&task.id.job);
            let record = table.and_then(|table| table.get(task.id.step, task.id.task));
            let both = record.is_some_and(|record| record.attempt(task.attempt).is_some());
            ensure(!both, || format!("{task:?} is stopped and runs"))?;
        }
        Ok(())
    }
}

impl PoolView<'_> {
    pub(in crate::quorum) fn check(&self) -> Checked {
        self.tasks.check_workers()?;
        let has_tasks = |job: &JobId| self.jobs.get(job).is_some_and(|record| record.tasks().is_some());
        let orphan = self.tasks.tables.keys().find(|job| !has_tasks(job));
        ensure(orphan.is_none(), || format!("tasks of {orphan:?} belong to no job"))
    }

    /// Of a run with tasks, whatever its kind.
    pub(in crate::quorum) fn check_run_tasks(&self, record: &JobRecord) -> Checked {
        let Some(run) = record.tasks() else { return Ok(()) };
        let state = record.state;
        ensure(run.avoided.len() <= AVOIDED_MAX && run.dead_letters.len() <= DEAD_LETTERS_MAX, || {
            "too many notes".to_owned()
        })?;
        ensure(run.durations.len() <= 64, || "too many durations".to_owned())?;
        let Some(table) = self.tasks.tables.get(&record.job) else { return Ok(()) };
        for step in table.steps() {
            let tasks = record.step_len(step).ok_or("a step that its kind does not know")? as usize;
            ensure(table.tasks(step).len() == tasks, || format!("step {step} has not {tasks} tasks"))?;
        }
        for (step, task, record) in table.all() {
            check_task(record).map_err(|what| format!("step {step} task {task}: {what}"))?;
            let present = step == run.step && !state.is_final();
            ensure(present || record.live.is_empty(), || format!("step {step} is over and task {task} runs"))?;
            let known = record.live.iter().all(|live| self.tasks.workers.contains_key(&live.worker));
            ensure(known, || format!("task {task} runs at a peer that is no worker"))?;
        }
        let orphan = table.orphan();
        ensure(orphan.is_none(), || format!("bytes of {orphan:?} belong to no task"))?;
        match table.of(run.step).filter(|_| !state.is_final()) {
            Some(index) => ensure(index.tally == run.tally, || format!("{:?} should be {:?}", run.tally, index.tally)),
            None => Ok(()),
        }
    }
}

fn check_task(task: &TaskRecord) -> Checked {
    let mut workers = BTreeSet::new();
    for live in &task.live {
        ensure(live.attempt > Attempt(0) && live.attempt <= task.newest, || format!("{live:?} was never given"))?;
        ensure(workers.insert(live.worker), || format!("{} has two attempts", live.worker))?;
    }
    let numbers: BTreeSet<_> = task.live.iter().map(|live| live.attempt).collect();
    ensure(numbers.len() == task.live.len(), || "an attempt is there twice".to_owned())?;
    ensure(task.live.len() <= COPIES_MAX as usize, || "too many copies".to_owned())?;
    let given = task.won.as_ref().is_none_or(|won| won.attempt > Attempt(0) && won.attempt <= task.newest);
    ensure(given, || "won by an attempt that was never given".to_owned())?;
    match task.state {
        TaskState::Running => ensure(!task.live.is_empty(), || "runs nowhere".to_owned()),
        TaskState::Ready => ensure(!task.is_revealing(), || "shows results and wants copies".to_owned()),
        _ => ensure(task.live.is_empty(), || format!("{:?} and runs", task.state)),
    }
}
