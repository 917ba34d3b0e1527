//! The worker's inbox and outbox on disk.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `worker.assignments` | attempt | the assignment, and its lease |
//! | `worker.steps` | job and step | what its tasks have in common |
//! | `worker.results` | attempt | the assignment, its lease, and what it came to; its first row is gone then |
//!
//! A row that cannot be read is dropped and told: its attempt is lost, which the quorum finds out by its timeout.

use std::collections::BTreeMap;

use quorate_protocols::ids::{JobId, LeaseId, StepIndex};
use quorate_protocols::task::message::{Assignment, StepContext};
use quorate_protocols::task::record::TaskAttempt;
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};

use super::pending_result::PendingResult;
use crate::seams::{DiskError, Kv, KvBatch};

const ASSIGNMENTS: &str = "worker.assignments";
const STEPS: &str = "worker.steps";
const RESULTS: &str = "worker.results";

/// Rows read at once when the node starts.
const PAGE_ROWS: usize = 256;
const PAGE_BYTES: usize = 4 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct AssignmentRow {
    lease: LeaseId,
    assignment: Assignment,
}

#[derive(Serialize, Deserialize)]
struct StepRow {
    context: StepContext,
}

#[derive(Serialize, Deserialize)]
struct ResultRow {
    lease: LeaseId,
    assignment: Assignment,
    held: PendingResult,
}

impl Record for AssignmentRow {
    /// 1: first.
    const VERSION: u8 = 1;
}

impl Record for StepRow {
    /// 1: first.
    const VERSION: u8 = 1;
}

impl Record for ResultRow {
    /// 1: first.
    const VERSION: u8 = 1;
}

/// In the order of [`TaskAttempt`].
fn key(task: TaskAttempt) -> Vec<u8> {
    let mut key = step_key(task.id.job, task.id.step);
    key.extend_from_slice(&task.id.task.0.to_be_bytes());
    key.extend_from_slice(&task.attempt.0.to_be_bytes());
    key
}

fn step_key(job: JobId, step: StepIndex) -> Vec<u8> {
    let mut key = Vec::with_capacity(42);
    key.extend_from_slice(job.quorum.as_bytes());
    key.extend_from_slice(&job.local);
    key.extend_from_slice(&step.0.to_be_bytes());
    key
}

pub(super) fn put_assignment(batch: &mut KvBatch, lease: LeaseId, assignment: &Assignment) {
    let row = AssignmentRow { lease, assignment: assignment.clone() };
    batch.put(ASSIGNMENTS, key(assignment.task), wire::encode_record(&row));
}

pub(super) fn put_step(batch: &mut KvBatch, context: &StepContext) {
    let row = StepRow { context: context.clone() };
    batch.put(STEPS, step_key(context.job, context.step), wire::encode_record(&row));
}

/// In the place of the assignment.
pub(super) fn put_result(batch: &mut KvBatch, lease: LeaseId, assignment: &Assignment, held: &PendingResult) {
    // What it was given is not needed any more.
    let assignment = Assignment { outputs: Vec::new(), checkpoint: None, ..assignment.clone() };
    let row = ResultRow { lease, assignment, held: held.clone() };
    batch.put(RESULTS, key(row.assignment.task), wire::encode_record(&row));
    batch.delete(ASSIGNMENTS, key(row.assignment.task));
}

pub(super) fn erase(batch: &mut KvBatch, task: TaskAttempt) {
    batch.delete(ASSIGNMENTS, key(task)).delete(RESULTS, key(task));
}

pub(super) fn erase_work(batch: &mut KvBatch, job: JobId, step: StepIndex) {
    batch.delete(STEPS, step_key(job, step));
}

/// One attempt as the disk has it.
pub(super) struct Found {
    pub lease: LeaseId,
    pub assignment: Assignment,
    pub held: Option<PendingResult>,
}

pub(super) struct Loaded {
    pub steps: BTreeMap<(JobId, StepIndex), StepContext>,
    pub found: Vec<Found>,
}

pub(super) fn load(kv: &dyn Kv) -> Result<Loaded, DiskError> {
    let mut steps = BTreeMap::new();
    each(kv, STEPS, |row: StepRow| drop(steps.insert((row.context.job, row.context.step), row.context)))?;
    let mut found = BTreeMap::new();
    each(kv, ASSIGNMENTS, |row: AssignmentRow| {
        found.insert(row.assignment.task, Found { lease: row.lease, assignment: row.assignment, held: None });
    })?;
    each(kv, RESULTS, |row: ResultRow| {
        found.insert(row.assignment.task, Found { lease: row.lease, assignment: row.assignment, held: Some(row.held) });
    })?;
    Ok(Loaded { steps, found: found.into_values().collect() })
}

fn each<T: Record>(kv: &dyn Kv, tree: &str, mut take: impl FnMut(T)) -> Result<(), DiskError> {
    let mut from = Vec::new();
    loop {
        let rows = kv.range(tree, &from, &[0xff; 64], PAGE_ROWS, PAGE_BYTES)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        from = last.clone();
        from.push(0);
        for (_, value) in rows {
            match wire::decode_record(&value) {
                Ok(row) => take(row),
                Err(error) => tracing::warn!(tree, %error, "a record of the worker cannot be read and is skipped"),
            }
        }
    }
}
