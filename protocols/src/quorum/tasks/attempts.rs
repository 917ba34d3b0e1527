//! Attempts that end: stops, dead letters, and what is forgotten with them. Whatever the kind of their run.

use super::{PoolCx, PoolView, TaskPool};
use crate::ids::{JobId, PeerId, TaskIndex};
use crate::job::record::JobRecord;
use crate::quorum::jobs::check_room;
use crate::quorum::reply::Rejection;
use crate::quorum::reply::short;
use crate::task::limits::{DEAD_LETTERS_MAX, OWNER_RECORD_BYTES_MAX, OWNER_TASKS_MAX, RECORD_BYTES_MAX, TASKS_MAX};
use crate::task::record::{AttemptRecord, RunTasks, Stopping, TaskAttempt, TaskId, TaskState};
use crate::task::table::Blob;

impl TaskPool {
    /// Refuses what there is no room for beside the specifications and outputs of live jobs.
    pub(in crate::quorum) fn check_bytes(&self, owner: PeerId, more: usize) -> Result<(), Rejection> {
        self.check_all_bytes(more)?;
        let (_, bytes) = self.index.weight_of(&owner);
        check_room("bytes of specifications and outputs of one owner", bytes + more, OWNER_RECORD_BYTES_MAX)
    }

    /// The same, whoever they belong to.
    pub(in crate::quorum) fn check_all_bytes(&self, more: usize) -> Result<(), Rejection> {
        check_room("bytes of specifications and outputs", self.index.live.bytes + more, RECORD_BYTES_MAX)
    }

    /// Refuses tasks that there is no room for beside those of live jobs.
    pub(in crate::quorum) fn check_tasks(&self, owner: PeerId, more: usize) -> Result<(), Rejection> {
        let (tasks, _) = self.index.weight_of(&owner);
        check_room("tasks of live jobs", self.index.live.tasks + more, TASKS_MAX)?;
        check_room("tasks of live jobs of one owner", tasks + more, OWNER_TASKS_MAX)
    }

    /// Tasks, and bytes of specifications and outputs, that there is room for.
    pub(in crate::quorum) fn room(&self) -> (usize, usize) {
        let live = self.index.live;
        (TASKS_MAX.saturating_sub(live.tasks), RECORD_BYTES_MAX.saturating_sub(live.bytes))
    }
}

impl PoolCx<'_> {
    /// Changes what the pool keeps of a run, if it has tasks.
    pub(in crate::quorum) fn with_tasks<R>(
        &mut self,
        job: JobId,
        change: impl FnOnce(&mut RunTasks) -> R,
    ) -> Option<R> {
        self.jobs.tasks_mut(&job).map(change)
    }

    /// Has every attempt of the run's present step ended. What they report from here on is stale.
    pub(in crate::quorum) fn stop_all(&mut self, job: JobId) {
        let Some(step) = self.jobs.get(&job).and_then(JobRecord::tasks).map(|run| run.step) else { return };
        for task in self.view().live_tasks(job) {
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

    /// Gives a task up: it becomes a dead letter.
    pub(in crate::quorum) fn move_to_dead_letters(&mut self, id: TaskId, reason: &str) {
        self.stop_task(id);
        self.change_task(id, |task| task.state = TaskState::DeadLetter);
        self.with_tasks(id.job, |run| {
            if run.dead_letters.len() >= DEAD_LETTERS_MAX {
                run.dead_letters.remove(0);
            }
            run.dead_letters.push((id.step, id.task, short(&format!("task {}: {reason}", id.task))));
        });
    }
}

impl PoolView<'_> {
    /// Tasks of the present step in that state.
    pub(in crate::quorum) fn tasks_in(&self, job: JobId, state: impl Fn(TaskState) -> bool) -> Vec<TaskIndex> {
        let Some(run) = self.jobs.get(&job).and_then(JobRecord::tasks) else { return Vec::new() };
        let tasks =
            self.tasks.tables.get(&job).into_iter().flat_map(|table| table.tasks(run.step).iter_from(TaskIndex(0)));
        let found = tasks.filter(|(_, task)| state(task.state));
        found.map(|(task, _)| task).collect()
    }
}
