//! The index of work: which runs want workers, what workers are busy with, what times out next, what all of it weighs.
//!
//! Derived from the records and rebuilt with them, like the rest of the index. It makes an entry cost what it changes:
//! nobody looks at all jobs, nor at all tasks of one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::state::QuorumState;
use crate::ids::{Attempt, Digest, JobId, Millis, PeerId, StepIndex, TaskIndex};
use crate::job::Kind;
use crate::job::compute::{ComputeSpec, Content, Resources};
use crate::job::plan::{Plan, Role, TaskInput, call_digest, idempotency_token, inputs_digest, inputs_digest_under};
use crate::job::record::{JobRecord, Run, RunState};
use crate::task::limits::{GIVEN_BYTES_MAX, STOP_WAIT};
use crate::task::message::{Given, Order, Work};
use crate::task::record::{AttemptRecord, Phase, TaskAttempt, TaskId, TaskRecord, WorkerRecord};
use crate::task::table::{Blob, BlobKey, TaskTable};
use crate::wire;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WorkIndex {
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
    /// Workers that got something to stop from the entry that is being applied.
    pub(super) halted: BTreeSet<PeerId>,
}

/// What a task needs of a worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Demand {
    pub(super) kind: Kind,
    pub(super) resources: Resources,
}

/// What a worker is to know of its attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errands {
    /// Attempts that it is to run, if it does not already.
    pub run: Vec<TaskAttempt>,
    /// Attempts that must end. The second says that the task goes on later, from its checkpoint.
    pub stop: Vec<(TaskAttempt, bool)>,
    /// Attempts that are asked to show their verdict.
    pub reveal: Vec<TaskAttempt>,
}

/// What attempts take at a worker, those that are being stopped included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) slots: u64,
    memory_bytes: u64,
    disk_bytes: u64,
    pub(super) tasks: BTreeSet<TaskAttempt>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Specification, outputs and checkpoints.
    pub(super) bytes: usize,
    pub(super) tasks: usize,
    specification: usize,
    ended: bool,
}

impl WorkIndex {
    /// `None`: the worker has something to tell of the attempt, and runs it no more.
    pub(super) fn occupy(&mut self, worker: PeerId, task: TaskAttempt, resources: Option<&Resources>) {
        let used = self.used.entry(worker).or_default();
        if used.tasks.insert(task)
            && let Some(resources) = resources
        {
            used.slots += resources.slots as u64;
            used.memory_bytes += resources.memory_bytes;
            used.disk_bytes += resources.disk_bytes;
        }
    }

    pub(super) fn leave(&mut self, worker: PeerId, task: TaskAttempt, resources: Option<&Resources>) {
        let Some(used) = self.used.get_mut(&worker) else { return };
        if used.tasks.remove(&task)
            && let Some(resources) = resources
        {
            used.slots -= resources.slots as u64;
            used.memory_bytes -= resources.memory_bytes;
            used.disk_bytes -= resources.disk_bytes;
        }
        if used.tasks.is_empty() {
            self.used.remove(&worker);
        }
    }

    fn enqueue(&mut self, job: JobId, wanted: Option<(Demand, u64)>) {
        if self.queued.get(&job) == wanted.as_ref() {
            return;
        }
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
        if let Some(size) = size {
            sides[side(size.ended)].bytes += size.bytes;
            sides[side(size.ended)].tasks += size.tasks;
            self.sizes.insert(job, size);
        }
        [self.live, self.ended] = sides;
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
        let (spec, run) = record.compute()?;
        Some(Self { kind: spec.kind(), resources: run.settings.resources.clone() })
    }
}

impl WorkerRecord {
    /// Whether the worker could run such a task when it had nothing else to do; else why not, for people.
    pub(super) fn suits(&self, demand: &Demand) -> Result<(), String> {
        let Demand { kind, resources } = demand;
        if !self.kinds.contains(kind) {
            return Err(format!("does not take {kind} work"));
        }
        for (name, wanted) in &resources.labels {
            if self.labels.get(name) != Some(wanted) {
                return Err(format!("label {name} is not {wanted:?}"));
            }
        }
        for (what, has, needs) in [
            ("slots", self.slots as u64, resources.slots as u64),
            ("bytes of memory", self.memory_bytes, resources.memory_bytes),
            ("bytes of disk", self.disk_bytes, resources.disk_bytes),
        ] {
            if has < needs {
                return Err(format!("its lease has {has} {what} and {needs} are needed"));
            }
        }
        Ok(())
    }

    /// Slots that would be left if it took such a task now, less than none when the task would wait there: up to
    /// `ahead` may. `None` when there is no room.
    pub(super) fn room(&self, used: Option<&Used>, demand: &Demand, ahead: u32) -> Option<i128> {
        let nothing = Used::default();
        let used = used.unwrap_or(&nothing);
        let left = |has: u64, used: u64, needs: u64| i128::from(has) - i128::from(used) - i128::from(needs);
        let Resources { memory_bytes, disk_bytes, slots, .. } = &demand.resources;
        let slots_left = left(self.slots as u64, used.slots, *slots as u64);
        let least = slots_left.min(left(self.memory_bytes, used.memory_bytes, *memory_bytes)).min(left(
            self.disk_bytes,
            used.disk_bytes,
            *disk_bytes,
        ));
        if least >= 0 {
            return Some(slots_left);
        }
        let fit = self.slots / (*slots).max(1);
        ((used.tasks.len() as u64) < u64::from(fit.saturating_add(ahead)) && ahead > 0).then_some(slots_left.min(-1))
    }
}

impl QuorumState {
    /// Attempts of a job that must end and have not been seen to.
    pub(super) fn stopping_of(&self, job: JobId) -> impl Iterator<Item = TaskAttempt> + '_ {
        let first = TaskId { job, step: StepIndex(0), task: TaskIndex(0) };
        let first = TaskAttempt { id: first, attempt: Attempt(0) };
        self.stopping.range(first..).map(|(task, _)| *task).take_while(move |task| task.id.job == job)
    }

    /// Called after every change to a run that computes, or to its tasks.
    pub(super) fn reindex_work(&mut self, job: JobId) {
        let due = self.job_due(job);
        self.index.work.wake_at(job, due);
        let record = self.jobs.get_mut(&job);
        let table = self.tables.get(&job);
        let run = match record.map(|record| &mut record.run) {
            Some(Run::Compute(run)) => run,
            other => {
                let waiting = match other {
                    Some(Run::Trigger(run)) => Some(run.input_bytes()),
                    _ => None,
                };
                self.index.work.enqueue(job, None);
                return self.weigh_waiting(job, waiting);
            }
        };
        if let Some(index) = table.and_then(|table| table.of(run.step)) {
            run.tally = index.tally;
        }
        let wanted = self.wants_workers(job);
        self.index.work.enqueue(job, wanted);
        let Some(record) = self.jobs.get(&job) else { return };
        let known = self.index.work.sizes.get(&job).map(|size| size.specification);
        let specification = known.unwrap_or_else(|| wire::encode(&record.spec).len());
        let table = self.tables.get(&job);
        let size = Size {
            bytes: specification + table.map_or(0, TaskTable::blob_bytes),
            tasks: table.map_or(0, TaskTable::task_count),
            specification,
            ended: record.state.is_final(),
        };
        self.index.work.weigh(job, Some(size));
    }

    /// Of a trigger: its specification and what waits to be given to runs.
    fn weigh_waiting(&mut self, job: JobId, waiting: Option<usize>) {
        let Some((record, waiting)) = self.jobs.get(&job).zip(waiting) else { return self.index.work.weigh(job, None) };
        let known = self.index.work.sizes.get(&job).map(|size| size.specification);
        let specification = known.unwrap_or_else(|| wire::encode(&record.spec).len());
        let ended = record.state.is_final();
        self.index.work.weigh(job, Some(Size { bytes: specification + waiting, tasks: 0, specification, ended }));
    }

    fn wants_workers(&self, job: JobId) -> Option<(Demand, u64)> {
        let record = self.jobs.get(&job)?;
        let (_, run) = record.compute()?;
        let index = self.tables.get(&job)?.of(run.step)?;
        let may = match record.state {
            RunState::Pending | RunState::Running => true,
            // What is undone must not still be going on.
            RunState::Reverting => self.stopping_of(job).next().is_none(),
            _ => false,
        };
        let fresh = index.ready.len() > index.partial.len() && index.room(run.settings.parallelism) > 0;
        (may && (fresh || !index.partial.is_empty())).then(|| Some((Demand::of(record)?, run.pass)))?
    }

    /// When the run's earliest timer runs out.
    fn job_due(&self, job: JobId) -> Option<Millis> {
        let stops = self.stopping_of(job).filter_map(|task| self.stopping.get(&task));
        let stops = stops.map(|stopping| stopping.since.plus(STOP_WAIT)).min();
        let timers = self.jobs.get(&job).map(|record| self.timers(record)).unwrap_or_default();
        let debounced = self.trigger(job).and_then(|(_, run)| Some(run.debounced.as_ref()?.until));
        timers.into_iter().map(|(_, due)| due).chain(stops).chain(debounced).min()
    }

    /// Live attempts of the worker that it is to run, or to report about. Sent by the primary, again after every
    /// takeover; a worker that has them already says so.
    pub fn attempts_of(&self, worker: PeerId) -> impl Iterator<Item = (TaskAttempt, &AttemptRecord)> + '_ {
        let tasks = self.index.work.used.get(&worker).into_iter().flat_map(|used| &used.tasks);
        tasks.filter_map(|task| {
            let record = self.tables.get(&task.id.job)?.get(task.id.step, task.id.task)?;
            Some((*task, record.attempt(task.attempt)?))
        })
    }

    /// Everything that the worker is to know, in one look at each of its attempts.
    pub fn errands_of(&self, worker: PeerId) -> Errands {
        let mut errands = Errands::default();
        let Some(used) = self.index.work.used.get(&worker) else { return errands };
        for task in &used.tasks {
            if self.stopping.contains_key(task) {
                errands.stop.push((*task, false));
                continue;
            }
            let record = self.tables.get(&task.id.job).and_then(|table| table.get(task.id.step, task.id.task));
            let Some(record) = record else { continue };
            let Some(live) = record.attempt(task.attempt) else { continue };
            let pausing = self.is_pausing(*task, &live.phase);
            if pausing {
                errands.stop.push((*task, true));
            }
            match live.phase {
                Phase::Given | Phase::Started if !pausing => errands.run.push(*task),
                Phase::Committed(_) if record.is_revealing() => errands.reveal.push(*task),
                _ => (),
            }
        }
        errands
    }

    /// Whether the attempt is to end because its run is being paused. One that must not begin twice is waited for.
    fn is_pausing(&self, task: TaskAttempt, phase: &Phase) -> bool {
        let record = self.jobs.get(&task.id.job).filter(|record| record.state == RunState::Pausing);
        let spec = record.and_then(|record| record.compute()).map(|(spec, _)| spec);
        spec.is_some_and(|spec| spec.idempotent || *phase != Phase::Started)
    }

    /// Attempts of the worker that must end. The second says that the task goes on later, from its checkpoint.
    pub fn stops_of(&self, worker: PeerId) -> Vec<(TaskAttempt, bool)> {
        self.errands_of(worker).stop
    }

    /// Attempts of the worker that are asked to show their verdict.
    pub fn reveals_of(&self, worker: PeerId) -> Vec<TaskAttempt> {
        self.errands_of(worker).reveal
    }

    /// Whether the run has tasks that want a worker now.
    pub fn waits_for_workers(&self, job: JobId) -> bool {
        self.index.work.is_queued(job)
    }

    /// What the tasks of a step have in common, for the workers. `None` when the run is not there or not at work.
    pub fn work(&self, job: JobId, step: StepIndex) -> Option<Work> {
        let record = self.jobs.get(&job)?;
        let (spec, run) = record.compute()?;
        Some(Work {
            job,
            step,
            owner: record.owner,
            submitted_at: record.created_at,
            call: Plan::of(spec).call(spec, step)?.clone(),
            resources: run.settings.resources.clone(),
            timeout: spec.timeouts.task,
            output: spec.output,
            idempotent: spec.idempotent,
            verified: is_verified(spec, &Plan::of(spec), step),
        })
    }

    /// One attempt as it is sent to its worker. `None` when it is not live any more.
    pub fn order(&self, task: TaskAttempt) -> Option<Order> {
        let (spec, _) = self.jobs.get(&task.id.job)?.compute()?;
        self.order_under(task, call_digest(Plan::of(spec).call(spec, task.id.step)?))
    }

    /// As many of the attempts as fit into a message of `bytes_max`, with what their steps have in common; at least
    /// one, if any is live. `bytes_max` leaves room for the largest single one.
    pub fn assignment(
        &self,
        tasks: impl IntoIterator<Item = TaskAttempt>,
        bytes_max: usize,
    ) -> (Vec<Work>, Vec<Order>) {
        let (mut works, mut orders, mut bytes) = (Vec::<Work>::new(), Vec::new(), 0);
        // Attempts come in the order of their jobs and steps.
        let (mut call, mut new) = (None, None);
        for task in tasks {
            let step = (task.id.job, task.id.step);
            if call.is_none_or(|(of, _)| of != step) {
                let Some(work) = self.work(task.id.job, task.id.step) else { continue };
                bytes += wire::encode(&work).len();
                call = Some((step, call_digest(&work.call)));
                new = Some(work);
            }
            let Some(order) = call.and_then(|(_, digest)| self.order_under(task, digest)) else { continue };
            bytes += order.bytes_about();
            if bytes > bytes_max && !orders.is_empty() {
                break;
            }
            works.extend(new.take());
            orders.push(order);
        }
        (works, orders)
    }

    fn order_under(&self, task: TaskAttempt, call: Digest) -> Option<Order> {
        let TaskId { job, step, task: index } = task.id;
        let (spec, _) = self.jobs.get(&job)?.compute()?;
        let table = self.tables.get(&job)?;
        let record = table.get(step, index)?;
        record.attempt(task.attempt)?;
        let plan = Plan::of(spec);
        let input = plan.input(spec, step, index)?;
        let mut room = GIVEN_BYTES_MAX;
        let given = match input {
            TaskInput::Outputs { step: before, from, to } => {
                (from.0..to.0).filter_map(|task| given(table, before, TaskIndex(task), &mut room)).collect()
            }
            _ => Vec::new(),
        };
        let mut room = GIVEN_BYTES_MAX;
        let checkpoint = record.notes.as_ref().and_then(|notes| notes.checkpoint).map(|output| Given {
            task: index,
            output,
            bytes: fitting(table, (step, index, Blob::Checkpoint), &mut room),
        });
        // A verified copy starts from nothing, or it would lean on what another made.
        let checkpoint = checkpoint.filter(|_| !is_verified(spec, &plan, step));
        Some(Order {
            task,
            of: plan.step(step)?.tasks,
            inputs: inputs_digest_under(call, &input, &self.folded(job, &input)?),
            input,
            given,
            token: idempotency_token(task.id),
            checkpoint,
        })
    }

    /// What the receipts of a task must say that it was given.
    pub(super) fn inputs_digest(&self, id: TaskId) -> Option<Digest> {
        let (spec, _) = self.jobs.get(&id.job)?.compute()?;
        let plan = Plan::of(spec);
        let input = plan.input(spec, id.step, id.task)?;
        Some(inputs_digest(plan.call(spec, id.step)?, &input, &self.folded(id.job, &input)?))
    }

    /// Digests of the outputs that a task folds.
    fn folded(&self, job: JobId, input: &TaskInput) -> Option<Vec<Digest>> {
        let TaskInput::Outputs { step, from, to } = input else { return Some(Vec::new()) };
        let tasks = self.tables.get(&job)?.tasks(*step).get(from.0 as usize..to.0 as usize)?;
        Some(tasks.iter().filter_map(|task| Some(task.output()?.digest)).collect())
    }
}

impl Order {
    /// Roughly its encoded size, and not less.
    pub(super) fn bytes_about(&self) -> usize {
        /// Ids, digests, numbers; and those of one output.
        const FIXED: usize = 512;
        const OUTPUT: usize = 128;
        let given = self.given.iter().chain(&self.checkpoint);
        let given: usize = given.map(|given| OUTPUT + given.bytes.as_ref().map_or(0, Bytes::len)).sum();
        let item = match &self.input {
            TaskInput::Item(Content::Inline(bytes)) => bytes.len(),
            _ => 0,
        };
        FIXED + given + item
    }
}

/// Whether tasks of the step run in copies. What undoes must not be done several times.
pub(super) fn is_verified(spec: &ComputeSpec, plan: &Plan, step: StepIndex) -> bool {
    spec.verify.is_some() && plan.step(step).is_some_and(|plan| plan.role != Role::Compensate)
}

fn given(table: &TaskTable, step: StepIndex, task: TaskIndex, room: &mut usize) -> Option<Given> {
    let record: &TaskRecord = table.get(step, task)?;
    let output = *record.output()?;
    Some(Given { task, output, bytes: fitting(table, (step, task, Blob::Output), room) })
}

fn fitting(table: &TaskTable, key: BlobKey, room: &mut usize) -> Option<Bytes> {
    let bytes = table.blob(key).filter(|bytes| bytes.len() <= *room)?;
    *room -= bytes.len();
    Some(bytes.clone())
}
