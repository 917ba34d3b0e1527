//! The context of a run: what a kind may see and do of the frame around it.
//!
//! The fields are private to this file, so a kind reaches the rest of the state through these functions alone: time,
//! its own record, its tasks, the objects that it stores, the state that it enters, and events.

use crate::ids::{JobId, ManifestHash, Millis, PeerId, StepIndex, TaskIndex};
use crate::job::kind::Run;
use crate::job::record::{JobRecord, RunState};
use crate::job::transition::RunCommand;
use crate::quorum::event::Event;
use crate::quorum::objects::commit::{Commit, Committed};
use crate::quorum::reply::Rejection;
use crate::quorum::state::QuorumState;
use crate::task::record::{Settings, TaskId, TaskRecord, TaskState};
use crate::task::table::{TaskTable, Tasks};

/// The state around a run, to read.
#[derive(Clone, Copy)]
pub(in crate::quorum) struct RunView<'s> {
    state: &'s QuorumState,
    job: JobId,
}

impl<'s> RunView<'s> {
    pub(super) fn new(state: &'s QuorumState, job: JobId) -> Self {
        Self { state, job }
    }

    /// Quorum time.
    pub(in crate::quorum) fn time(&self) -> Millis {
        self.state.time
    }

    /// What the clocks say.
    pub(in crate::quorum) fn wall(&self) -> Millis {
        self.state.wall()
    }

    /// The run's tasks; `None` when it has none, or none any more.
    pub(in crate::quorum) fn table(&self) -> Option<&'s TaskTable> {
        self.state.tasks.table(&self.job)
    }

    /// Whether it has tasks that want a worker now.
    pub(in crate::quorum) fn is_queued(&self) -> bool {
        self.state.tasks.is_queued(self.job)
    }

    /// Whether attempts of it must end and have not been seen to.
    pub(in crate::quorum) fn is_stopping(&self) -> bool {
        self.state.tasks.stopping_of(self.job).next().is_some()
    }

    /// Whether anything but a person will move the run on.
    pub(in crate::quorum) fn has_timer(&self) -> bool {
        self.state.pool().job_due(self.job).is_some()
    }

    /// Where a new run stands in the turns for workers: it pays for its first task before it comes to its turn.
    pub(in crate::quorum) fn first_pass(&self, owner: PeerId, settings: &Settings) -> u64 {
        self.state.tasks.first_pass(owner, settings)
    }
}

/// A run on loan to its kind.
pub(in crate::quorum) struct RunCx<'s> {
    state: &'s mut QuorumState,
    job: JobId,
    events: &'s mut Vec<Event>,
}

impl<'s> RunCx<'s> {
    pub(super) fn new(state: &'s mut QuorumState, job: JobId, events: &'s mut Vec<Event>) -> Self {
        Self { state, job, events }
    }

    pub(in crate::quorum) fn view(&self) -> RunView<'_> {
        RunView::new(self.state, self.job)
    }

    pub(in crate::quorum) fn job(&self) -> JobId {
        self.job
    }

    /// Quorum time.
    pub(in crate::quorum) fn time(&self) -> Millis {
        self.state.time
    }

    /// What the clocks say.
    pub(in crate::quorum) fn wall(&self) -> Millis {
        self.state.wall()
    }

    pub(in crate::quorum) fn record(&self) -> Result<&JobRecord, Rejection> {
        self.state.jobs.get(&self.job).ok_or(Rejection::UnknownJob { job: self.job })
    }

    /// The run, to change.
    pub(in crate::quorum) fn run_mut(&mut self) -> Result<&mut Run, Rejection> {
        let job = self.job;
        self.state.jobs.run_mut(&job).ok_or(Rejection::UnknownJob { job })
    }

    /// The last failure, refusal or wait, for people.
    pub(in crate::quorum) fn set_reason(&mut self, reason: Option<&str>) {
        self.state.jobs.set_reason(&self.job, reason);
    }

    /// The state to return to after a pause.
    pub(in crate::quorum) fn set_before_pause(&mut self, state: Option<RunState>) {
        self.state.jobs.set_before_pause(&self.job, state);
    }

    /// Stays in its state, with a line of history.
    pub(in crate::quorum) fn write_history(&mut self, what: String) {
        let Some(state) = self.state.jobs.get(&self.job).map(|record| record.state) else { return };
        let now = self.wall();
        self.state.jobs.enter(&self.job, now, state, what);
    }

    /// The run has changed, and nothing worth a line of history happened.
    pub(in crate::quorum) fn touch(&mut self) {
        let now = self.wall();
        self.state.jobs.touch(&self.job, now);
    }

    /// Enters a state; the kind's table says which are reached by what.
    pub(in crate::quorum) fn enter(&mut self, by: RunCommand, to: RunState, what: &str) {
        let now = self.wall();
        let Some(record) = self.state.jobs.get(&self.job) else { return };
        debug_assert!(
            record.targets(by).is_some_and(|targets| targets.contains(&to)),
            "{} leads from {} to {to}",
            by.name(),
            record.state
        );
        self.state.jobs.enter(&self.job, now, to, what.to_owned());
        self.events.push(Event::JobChanged { job: self.job, state: to });
    }

    /// Ends the run: nothing but its duties is left of it. Triggers that wait for its end are told.
    pub(in crate::quorum) fn end(&mut self, by: RunCommand, to: RunState, reason: Option<String>, what: &str) {
        let now = self.wall();
        self.state.jobs.end(&self.job, now, reason.as_deref());
        self.enter(by, to, what);
        let fired = self.state.jobs.get(&self.job).is_some_and(|record| record.fired_by.is_some());
        self.state.triggers.job_finished(self.job, fired);
    }

    pub(in crate::quorum) fn emit(&mut self, event: Event) {
        self.events.push(event);
    }

    pub(in crate::quorum) fn tasks(&mut self) -> RunTasksCx<'_> {
        RunTasksCx { state: self.state, job: self.job }
    }

    pub(in crate::quorum) fn objects(&mut self) -> RunObjectsCx<'_> {
        RunObjectsCx { state: self.state, events: self.events, job: self.job }
    }
}

/// The tasks of a run. The pool has them: it gives them to workers and takes their reports.
pub(in crate::quorum) struct RunTasksCx<'s> {
    state: &'s mut QuorumState,
    job: JobId,
}

impl RunTasksCx<'_> {
    /// Opens a step of so many tasks, each of them ready.
    pub(in crate::quorum) fn open_step(&mut self, step: StepIndex, tasks: u32) {
        self.state.tasks.table_mut(self.job).begin(step, tasks);
    }

    /// Opens a step of these tasks.
    pub(in crate::quorum) fn adopt_step(&mut self, step: StepIndex, tasks: Vec<TaskRecord>) {
        self.state.tasks.table_mut(self.job).adopt(step, tasks.into());
    }

    /// Forgets the tasks and outputs of a step.
    pub(in crate::quorum) fn forget_step(&mut self, step: StepIndex) {
        self.state.tasks.table_mut(self.job).forget(step);
    }

    pub(in crate::quorum) fn steps(&self) -> Vec<StepIndex> {
        self.state.tasks.table(&self.job).into_iter().flat_map(|table| table.steps()).collect()
    }

    pub(in crate::quorum) fn of_step(&self, step: StepIndex) -> Option<&Tasks> {
        self.state.tasks.table(&self.job).map(|table| table.tasks(step))
    }

    /// Tasks of the present step in that state.
    pub(in crate::quorum) fn in_state(&self, state: impl Fn(TaskState) -> bool) -> Vec<TaskIndex> {
        self.state.pool().tasks_in(self.job, state)
    }

    /// Tasks of the present step that some worker has.
    pub(in crate::quorum) fn live(&self) -> Vec<TaskIndex> {
        self.state.pool().live_tasks(self.job)
    }

    pub(in crate::quorum) fn change(&mut self, step: StepIndex, task: TaskIndex, change: impl FnOnce(&mut TaskRecord)) {
        self.state.pool_mut().change_task(TaskId { job: self.job, step, task }, change);
    }

    /// Has every attempt of the present step ended. What they report from here on is stale.
    pub(in crate::quorum) fn stop_all(&mut self) {
        self.state.pool_mut().stop_all(self.job);
    }

    /// Workers that have attempts of the run are told to look at what must end.
    pub(in crate::quorum) fn tell_workers(&mut self) {
        self.state.tasks.halt_workers_of(self.job);
    }

    /// The run has ended: only the tasks of this step stay, and of them those that are done. With more of them than
    /// `tasks_max`, none does.
    pub(in crate::quorum) fn close(&mut self, step: StepIndex, tasks_max: usize) {
        let table = self.state.tasks.table_mut(self.job);
        let others: Vec<_> = table.steps().filter(|other| *other != step).collect();
        others.into_iter().for_each(|other| table.forget(other));
        table.drop_unfinished();
        if table.task_count() > tasks_max {
            self.state.tasks.forget_table(self.job);
        }
    }
}

/// The objects that a run makes.
pub(in crate::quorum) struct RunObjectsCx<'s> {
    state: &'s mut QuorumState,
    events: &'s mut Vec<Event>,
    job: JobId,
}

impl RunObjectsCx<'_> {
    /// Refuses so many bytes more of piece hashes than the run has already, in the quorum or for the owner of the run.
    pub(in crate::quorum) fn check_hash_room(&self, more: usize) -> Result<(), Rejection> {
        let owner = self.state.jobs.get(&self.job).map(|record| record.owner).unwrap_or_default();
        self.state.check_hash_room(owner, more)
    }

    /// Makes an object of sealed columns, or adds a claim to the one that is there already.
    pub(in crate::quorum) fn commit(&mut self, commit: Commit<'_>) -> Result<Committed, Rejection> {
        let committed = self.state.catalog_mut().commit_object(self.job, commit, self.events)?;
        if let Some(before) = committed.before {
            self.state.reindex_job(before);
        }
        Ok(committed)
    }

    /// The last holder of the run has let go: a removed object of it is gone.
    pub(in crate::quorum) fn forget_removed(&mut self, manifest: ManifestHash) {
        self.state.catalog_mut().forget_removed(self.job, manifest);
    }
}
