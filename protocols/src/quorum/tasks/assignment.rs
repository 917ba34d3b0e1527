//! Assignments: instructions of a worker, its attempts as they are sent to it, and the context of a step.

use bytes::Bytes;

use super::PoolView;
use crate::ids::{Digest, JobId, PeerId, StepIndex, TaskIndex};
use crate::job::record::RunState;
use crate::task::inputs::{call_digest, idempotency_token, inputs_digest, inputs_digest_under};
use crate::task::limits::INLINE_OUTPUTS_BYTES_MAX;
use crate::task::message::{Assignment, OutputRef, StepContext};
use crate::task::record::{AttemptRecord, Phase, TaskAttempt, TaskId, TaskRecord};
use crate::task::spec::Content;
use crate::task::spec::TaskInput;
use crate::task::table::{Blob, BlobKey, TaskTable};
use crate::wire;

/// What a worker is to know of its attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerInstructions {
    /// Attempts that it is to run, if it does not already.
    pub run: Vec<TaskAttempt>,
    /// Attempts that must end. The second says that the task goes on later, from its checkpoint.
    pub stop: Vec<(TaskAttempt, bool)>,
    /// Attempts that are asked to show their verdict.
    pub reveal: Vec<TaskAttempt>,
}

impl<'s> PoolView<'s> {
    /// Live attempts of the worker that it is to run, or to report about. Sent by the primary, again after every
    /// takeover; a worker that has them already says so.
    pub(in crate::quorum) fn attempts_of(
        self,
        worker: PeerId,
    ) -> impl Iterator<Item = (TaskAttempt, &'s AttemptRecord)> {
        let tasks = self.tasks.index.used.get(&worker).into_iter().flat_map(|used| &used.tasks);
        tasks.filter_map(move |task| {
            let record = self.tasks.tables.get(&task.id.job)?.get(task.id.step, task.id.task)?;
            Some((*task, record.attempt(task.attempt)?))
        })
    }

    /// Everything that the worker is to know, in one look at each of its attempts.
    pub(in crate::quorum) fn instructions_of(&self, worker: PeerId) -> WorkerInstructions {
        let mut instructions = WorkerInstructions::default();
        let Some(used) = self.tasks.index.used.get(&worker) else { return instructions };
        for task in &used.tasks {
            if self.tasks.stopping.contains_key(task) {
                instructions.stop.push((*task, false));
                continue;
            }
            let record = self.tasks.tables.get(&task.id.job).and_then(|table| table.get(task.id.step, task.id.task));
            let Some(record) = record else { continue };
            let Some(live) = record.attempt(task.attempt) else { continue };
            let pausing = self.is_pausing(*task, &live.phase);
            if pausing {
                instructions.stop.push((*task, true));
            }
            match live.phase {
                Phase::Assigned | Phase::Started if !pausing => instructions.run.push(*task),
                Phase::Committed(_) if record.is_revealing() => instructions.reveal.push(*task),
                _ => (),
            }
        }
        instructions
    }

    /// Whether the attempt is to end because its run is being paused. One that must not begin twice is waited for.
    fn is_pausing(&self, task: TaskAttempt, phase: &Phase) -> bool {
        let record = self.jobs.get(&task.id.job).filter(|record| record.state == RunState::Pausing);
        let terms = record.and_then(|record| record.terms(task.id.step));
        terms.is_some_and(|terms| terms.idempotent || *phase != Phase::Started)
    }

    /// What the tasks of a step have in common, for the workers. `None` when the run is not there or not at work.
    pub(in crate::quorum) fn step_context(&self, job: JobId, step: StepIndex) -> Option<StepContext> {
        let record = self.jobs.get(&job)?;
        let terms = record.terms(step)?;
        Some(StepContext {
            job,
            step,
            owner: record.owner,
            readers: record.spec.as_batch().map(|spec| spec.readers.clone()).unwrap_or_default(),
            submitted_at: record.created_at,
            call: record.call(step)?.clone(),
            resources: record.tasks()?.settings.resources.clone(),
            timeout: terms.timeout,
            output: terms.output,
            idempotent: terms.idempotent,
            verified: terms.verify.is_some(),
            proof: record.owner_proof(),
        })
    }

    /// One attempt as it is sent to its worker. `None` when it is not live any more.
    pub(in crate::quorum) fn assignment(&self, task: TaskAttempt) -> Option<Assignment> {
        self.assignment_under(task, call_digest(self.jobs.get(&task.id.job)?.call(task.id.step)?))
    }

    /// As many of the attempts as fit into a message of `bytes_max`, with what their steps have in common; at least
    /// one, if any is live. `bytes_max` leaves room for the largest single one.
    pub(in crate::quorum) fn assignments(
        &self,
        tasks: impl IntoIterator<Item = TaskAttempt>,
        bytes_max: usize,
    ) -> (Vec<StepContext>, Vec<Assignment>) {
        let (mut steps, mut assignments, mut bytes) = (Vec::<StepContext>::new(), Vec::new(), 0);
        // Attempts come in the order of their jobs and steps.
        let (mut call, mut new) = (None, None);
        for task in tasks {
            let step = (task.id.job, task.id.step);
            if call.is_none_or(|(of, _)| of != step) {
                let Some(context) = self.step_context(task.id.job, task.id.step) else { continue };
                bytes += wire::encode(&context).len();
                call = Some((step, call_digest(&context.call)));
                new = Some(context);
            }
            let Some(assignment) = call.and_then(|(_, digest)| self.assignment_under(task, digest)) else { continue };
            bytes += assignment.bytes_about();
            if bytes > bytes_max && !assignments.is_empty() {
                break;
            }
            steps.extend(new.take());
            assignments.push(assignment);
        }
        (steps, assignments)
    }

    fn assignment_under(&self, task: TaskAttempt, call: Digest) -> Option<Assignment> {
        let TaskId { job, step, task: index } = task.id;
        let of_job = self.jobs.get(&job)?;
        let table = self.tasks.tables.get(&job)?;
        let record = table.get(step, index)?;
        record.attempt(task.attempt)?;
        let (input, terms) = (of_job.input(step, index)?, of_job.terms(step)?);
        let mut room = INLINE_OUTPUTS_BYTES_MAX;
        let outputs = match input {
            TaskInput::Outputs { step: before, from, to } => {
                (from.0..to.0).filter_map(|task| output_ref(table, before, TaskIndex(task), &mut room)).collect()
            }
            _ => Vec::new(),
        };
        let mut room = INLINE_OUTPUTS_BYTES_MAX;
        let checkpoint = record.extras.as_ref().and_then(|extras| extras.checkpoint).map(|output| OutputRef {
            task: index,
            output,
            bytes: fitting(table, (step, index, Blob::Checkpoint), &mut room),
        });
        // A verified copy starts from nothing, or it would lean on what another made.
        let checkpoint = checkpoint.filter(|_| terms.verify.is_none());
        Some(Assignment {
            task,
            of: of_job.step_len(step)?,
            inputs: inputs_digest_under(call, &input, &self.folded(job, &input)?),
            input,
            outputs,
            token: idempotency_token(task.id),
            checkpoint,
        })
    }

    /// What the receipts of a task must say that it was given.
    pub(super) fn inputs_digest(&self, id: TaskId) -> Option<Digest> {
        let record = self.jobs.get(&id.job)?;
        let input = record.input(id.step, id.task)?;
        Some(inputs_digest(record.call(id.step)?, &input, &self.folded(id.job, &input)?))
    }

    /// Digests of the outputs that a task folds.
    fn folded(&self, job: JobId, input: &TaskInput) -> Option<Vec<Digest>> {
        let TaskInput::Outputs { step, from, to } = input else { return Some(Vec::new()) };
        let tasks = self.tasks.tables.get(&job)?.tasks(*step);
        let folded = tasks.iter_from(*from).take_while(|(task, _)| task < to);
        Some(folded.filter_map(|(_, task)| Some(task.output()?.digest)).collect())
    }
}

impl Assignment {
    /// Roughly its encoded size, and not less.
    pub(super) fn bytes_about(&self) -> usize {
        /// Ids, digests, numbers; and those of one output.
        const FIXED: usize = 512;
        const OUTPUT: usize = 128;
        let given = self.outputs.iter().chain(&self.checkpoint);
        let given: usize = given.map(|given| OUTPUT + given.bytes.as_ref().map_or(0, Bytes::len)).sum();
        let item = match &self.input {
            TaskInput::Item(Content::Inline(bytes)) => bytes.len(),
            _ => 0,
        };
        FIXED + given + item
    }
}

fn output_ref(table: &TaskTable, step: StepIndex, task: TaskIndex, room: &mut usize) -> Option<OutputRef> {
    let record: &TaskRecord = table.get(step, task)?;
    let output = *record.output()?;
    Some(OutputRef { task, output, bytes: fitting(table, (step, task, Blob::Output), room) })
}

fn fitting(table: &TaskTable, key: BlobKey, room: &mut usize) -> Option<Bytes> {
    let bytes = table.blob(key).filter(|bytes| bytes.len() <= *room)?;
    *room -= bytes.len();
    Some(bytes.clone())
}
