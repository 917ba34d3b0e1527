//! The tasks of one run: records by step, small outputs, and an index of what wants attention.
//!
//! Only the steps that are still needed are here: the present one, and the one whose outputs it is given. Every change
//! goes through [`TaskTable::change`], which keeps the index in step with the records; it is rebuilt from them when a
//! snapshot is read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::record::{Tally, TaskRecord, TaskState};
use crate::ids::{Attempt, Millis, StepIndex, TaskIndex};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Blob {
    Output,
    Checkpoint,
    /// What one copy of a verified task showed, until the vote is over.
    Copy(Attempt),
}

pub type BlobKey = (StepIndex, TaskIndex, Blob);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskTable {
    pub(crate) steps: BTreeMap<StepIndex, Vec<TaskRecord>>,
    pub(crate) blobs: BTreeMap<BlobKey, Bytes>,
    pub(crate) index: BTreeMap<StepIndex, TableIndex>,
    blob_bytes: usize,
}

/// What follows from the records of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableIndex {
    pub(crate) tally: Tally,
    pub(crate) ready: BTreeSet<TaskIndex>,
    /// Those of them that have an attempt already and want further ones.
    pub(crate) partial: BTreeSet<TaskIndex>,
    pub(crate) delayed: BTreeSet<(Millis, TaskIndex)>,
    /// Attempts by when they are given up.
    pub(crate) due: BTreeSet<(Millis, TaskIndex, Attempt)>,
    /// Tasks with an attempt that may still report.
    pub(crate) live: BTreeSet<TaskIndex>,
}

impl TableIndex {
    /// How many more tasks may run at once; 0 as a limit is none.
    pub(crate) fn room(&self, parallelism: u32) -> usize {
        if parallelism == 0 { usize::MAX } else { (parallelism as usize).saturating_sub(self.live.len()) }
    }

    fn count(&mut self, record: &TaskRecord) -> &mut u32 {
        match record.state {
            TaskState::Ready => &mut self.tally.ready,
            TaskState::Delayed { .. } => &mut self.tally.delayed,
            TaskState::Running => &mut self.tally.running,
            TaskState::Done => &mut self.tally.done,
            TaskState::Dead => &mut self.tally.dead,
            TaskState::Parked => &mut self.tally.parked,
        }
    }

    fn add(&mut self, task: TaskIndex, record: &TaskRecord) {
        *self.count(record) += 1;
        match record.state {
            TaskState::Ready => drop(self.ready.insert(task)),
            TaskState::Delayed { until } => drop(self.delayed.insert((until, task))),
            _ => (),
        }
        self.due.extend(record.live.iter().filter_map(|live| Some((live.until?, task, live.attempt))));
        if !record.live.is_empty() {
            self.live.insert(task);
            if record.state == TaskState::Ready {
                self.partial.insert(task);
            }
        }
    }

    fn remove(&mut self, task: TaskIndex, record: &TaskRecord) {
        *self.count(record) -= 1;
        match record.state {
            TaskState::Ready => drop(self.ready.remove(&task)),
            TaskState::Delayed { until } => drop(self.delayed.remove(&(until, task))),
            _ => (),
        }
        for live in &record.live {
            if let Some(until) = live.until {
                self.due.remove(&(until, task, live.attempt));
            }
        }
        self.live.remove(&task);
        self.partial.remove(&task);
    }
}

impl TaskTable {
    /// Adds a step whose tasks are all ready.
    pub(crate) fn begin(&mut self, step: StepIndex, tasks: u32) {
        self.adopt(step, vec![TaskRecord::ready(); tasks as usize]);
    }

    /// Adds a step as it was recorded.
    pub(crate) fn adopt(&mut self, step: StepIndex, records: Vec<TaskRecord>) {
        let mut index = TableIndex::default();
        index.tally.total = records.len() as u32;
        for (task, record) in records.iter().enumerate() {
            index.add(TaskIndex(task as u32), record);
        }
        self.index.insert(step, index);
        self.steps.insert(step, records);
    }

    /// Forgets a step with its outputs.
    pub(crate) fn forget(&mut self, step: StepIndex) {
        self.steps.remove(&step);
        self.index.remove(&step);
        let keys: Vec<_> = self.blobs.range(first_blob(step)..).map(|(key, _)| *key).collect();
        keys.into_iter().take_while(|key| key.0 == step).for_each(|key| self.drop_blob(key));
    }

    /// Keeps of all bytes the outputs alone: of a run that goes no further.
    pub(crate) fn drop_unfinished(&mut self) {
        let unfinished = self.blobs.keys().filter(|(_, _, blob)| *blob != Blob::Output);
        unfinished.copied().collect::<Vec<_>>().into_iter().for_each(|key| self.drop_blob(key));
    }

    pub fn get(&self, step: StepIndex, task: TaskIndex) -> Option<&TaskRecord> {
        self.steps.get(&step)?.get(task.0 as usize)
    }

    pub fn tasks(&self, step: StepIndex) -> &[TaskRecord] {
        self.steps.get(&step).map(Vec::as_slice).unwrap_or_default()
    }

    /// Steps that are still here.
    pub fn steps(&self) -> impl Iterator<Item = StepIndex> + '_ {
        self.steps.keys().copied()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (StepIndex, TaskIndex, &TaskRecord)> + '_ {
        self.steps.iter().flat_map(|(step, records)| {
            records.iter().enumerate().map(|(task, record)| (*step, TaskIndex(task as u32), record))
        })
    }

    pub fn blob(&self, key: BlobKey) -> Option<&Bytes> {
        self.blobs.get(&key)
    }

    pub(crate) fn of(&self, step: StepIndex) -> Option<&TableIndex> {
        self.index.get(&step)
    }

    /// The only way to change a task.
    pub(crate) fn change<R>(
        &mut self,
        step: StepIndex,
        task: TaskIndex,
        change: impl FnOnce(&mut TaskRecord) -> R,
    ) -> Option<R> {
        let record = self.steps.get_mut(&step)?.get_mut(task.0 as usize)?;
        let index = self.index.get_mut(&step)?;
        index.remove(task, record);
        let result = change(record);
        index.add(task, record);
        Some(result)
    }

    pub(crate) fn keep_blob(&mut self, key: BlobKey, bytes: Bytes) {
        self.blob_bytes += bytes.len();
        if let Some(old) = self.blobs.insert(key, bytes) {
            self.blob_bytes -= old.len();
        }
    }

    pub(crate) fn drop_blob(&mut self, key: BlobKey) {
        if let Some(old) = self.blobs.remove(&key) {
            self.blob_bytes -= old.len();
        }
    }

    pub(crate) fn rename_blob(&mut self, key: BlobKey, blob: Blob) {
        if let Some(bytes) = self.blobs.remove(&key) {
            self.blob_bytes -= bytes.len();
            self.keep_blob((key.0, key.1, blob), bytes);
        }
    }

    pub(crate) fn blob_bytes(&self) -> usize {
        self.blob_bytes
    }

    pub(crate) fn task_count(&self) -> usize {
        self.steps.values().map(Vec::len).sum()
    }
}

const fn first_blob(step: StepIndex) -> BlobKey {
    (step, TaskIndex(0), Blob::Output)
}
