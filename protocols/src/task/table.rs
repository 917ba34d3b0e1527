//! The tasks of one run: records by step, small outputs, and an index of what wants attention.
//!
//! Only the steps that are still needed are here: the present one, and the one whose outputs it is given. Every change
//! goes through [`TaskTable::change`], which keeps the index in step with the records; it is rebuilt from them when a
//! snapshot is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::limits::PAGE_TASKS;
use super::record::{Tally, TaskRecord, TaskState};
use crate::ids::{Attempt, Millis, StepIndex, TaskIndex};
use crate::shared_map::SharedMap;

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
    rows: Arc<TableRows>,
    index: BTreeMap<StepIndex, TableIndex>,
    blob_bytes: usize,
}

/// What a snapshot keeps of a table. A copy shares pages and bytes with the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableRows {
    pub(crate) steps: BTreeMap<StepIndex, Tasks>,
    pub(crate) blobs: SharedMap<BlobKey, Bytes>,
}

/// The tasks of a step, in pages that copies share: a change after a copy copies one page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    /// All of `PAGE_TASKS` tasks, but for the last.
    pages: Vec<Arc<Vec<TaskRecord>>>,
    len: usize,
}

static NO_TASKS: Tasks = Tasks { pages: Vec::new(), len: 0 };

impl Tasks {
    /// Tasks that are all ready. Full pages are one, until one of their tasks changes.
    fn ready(tasks: u32) -> Self {
        let (len, page) = (tasks as usize, |tasks| Arc::new(vec![TaskRecord::ready(); tasks]));
        let mut pages = vec![page(PAGE_TASKS.min(len)); len / PAGE_TASKS];
        if !len.is_multiple_of(PAGE_TASKS) {
            pages.push(page(len % PAGE_TASKS));
        }
        Self { pages, len }
    }

    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    pub fn get(&self, task: usize) -> Option<&TaskRecord> {
        self.pages.get(task / PAGE_TASKS)?.get(task % PAGE_TASKS)
    }
    fn get_mut(&mut self, task: usize) -> Option<&mut TaskRecord> {
        Arc::make_mut(self.pages.get_mut(task / PAGE_TASKS)?).get_mut(task % PAGE_TASKS)
    }
    pub fn iter(&self) -> impl Iterator<Item = &TaskRecord> {
        self.pages.iter().flat_map(|page| page.iter())
    }
    /// Tasks from this one on, with their numbers.
    pub fn iter_from(&self, from: TaskIndex) -> impl Iterator<Item = (TaskIndex, &TaskRecord)> {
        let (page, at) = (from.0 as usize / PAGE_TASKS, from.0 as usize % PAGE_TASKS);
        let rest = self.pages.iter().skip(page).flat_map(|page| page.iter()).skip(at);
        rest.enumerate().map(move |(after, record)| (TaskIndex(from.0 + after as u32), record))
    }
    /// With the number of each page's first task.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (u32, &[TaskRecord])> {
        self.pages.iter().enumerate().map(|(page, tasks)| ((page * PAGE_TASKS) as u32, tasks.as_slice()))
    }
}

impl From<Vec<TaskRecord>> for Tasks {
    fn from(records: Vec<TaskRecord>) -> Self {
        let len = records.len();
        Self { pages: records.chunks(PAGE_TASKS).map(|page| Arc::new(page.to_vec())).collect(), len }
    }
}

impl std::ops::Index<usize> for Tasks {
    type Output = TaskRecord;
    fn index(&self, task: usize) -> &TaskRecord {
        &self.pages[task / PAGE_TASKS][task % PAGE_TASKS]
    }
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
            TaskState::DeadLetter => &mut self.tally.dead_letters,
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
        self.adopt(step, Tasks::ready(tasks));
    }

    /// Adds a step as it was recorded.
    pub(crate) fn adopt(&mut self, step: StepIndex, records: Tasks) {
        let mut index = TableIndex::default();
        index.tally.total = records.len() as u32;
        for (task, record) in records.iter().enumerate() {
            index.add(TaskIndex(task as u32), record);
        }
        self.index.insert(step, index);
        self.rows_mut().steps.insert(step, records);
    }

    /// For a snapshot: shared, not copied.
    pub(crate) fn rows(&self) -> Arc<TableRows> {
        self.rows.clone()
    }

    fn rows_mut(&mut self) -> &mut TableRows {
        Arc::make_mut(&mut self.rows)
    }

    /// The first bytes that belong to no task.
    pub(crate) fn orphan(&self) -> Option<BlobKey> {
        self.rows.blobs.keys().find(|(step, task, _)| self.get(*step, *task).is_none()).copied()
    }

    /// Forgets a step with its outputs.
    pub(crate) fn forget(&mut self, step: StepIndex) {
        self.rows_mut().steps.remove(&step);
        self.index.remove(&step);
        let first = first_blob(step);
        let blobs = self.rows.blobs.range_from(Bound::Included(&first));
        let keys: Vec<_> = blobs.map(|(key, _)| *key).take_while(|key| key.0 == step).collect();
        keys.into_iter().for_each(|key| self.drop_blob(key));
    }

    /// Keeps of all bytes the outputs alone: of a run that goes no further.
    pub(crate) fn drop_unfinished(&mut self) {
        let unfinished = self.rows.blobs.keys().filter(|(_, _, blob)| *blob != Blob::Output);
        unfinished.copied().collect::<Vec<_>>().into_iter().for_each(|key| self.drop_blob(key));
    }

    pub fn get(&self, step: StepIndex, task: TaskIndex) -> Option<&TaskRecord> {
        self.rows.steps.get(&step)?.get(task.0 as usize)
    }

    pub fn tasks(&self, step: StepIndex) -> &Tasks {
        self.rows.steps.get(&step).unwrap_or(&NO_TASKS)
    }

    /// Steps that are still here.
    pub fn steps(&self) -> impl Iterator<Item = StepIndex> + '_ {
        self.rows.steps.keys().copied()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (StepIndex, TaskIndex, &TaskRecord)> + '_ {
        self.rows.steps.iter().flat_map(|(step, records)| {
            records.iter().enumerate().map(|(task, record)| (*step, TaskIndex(task as u32), record))
        })
    }

    pub fn blob(&self, key: BlobKey) -> Option<&Bytes> {
        self.rows.blobs.get(&key)
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
        let record = Arc::make_mut(&mut self.rows).steps.get_mut(&step)?.get_mut(task.0 as usize)?;
        let index = self.index.get_mut(&step)?;
        index.remove(task, record);
        let result = change(record);
        index.add(task, record);
        Some(result)
    }

    pub(crate) fn keep_blob(&mut self, key: BlobKey, bytes: Bytes) {
        self.blob_bytes += bytes.len();
        if let Some(old) = self.rows_mut().blobs.insert(key, bytes) {
            self.blob_bytes -= old.len();
        }
    }

    pub(crate) fn drop_blob(&mut self, key: BlobKey) {
        // Asked of most tasks that have none: rows that a snapshot shares are not copied for that.
        if self.rows.blobs.contains_key(&key)
            && let Some(old) = self.rows_mut().blobs.remove(&key)
        {
            self.blob_bytes -= old.len();
        }
    }

    pub(crate) fn rename_blob(&mut self, key: BlobKey, blob: Blob) {
        if let Some(bytes) = self.rows_mut().blobs.remove(&key) {
            self.blob_bytes -= bytes.len();
            self.keep_blob((key.0, key.1, blob), bytes);
        }
    }

    pub(crate) fn blob_bytes(&self) -> usize {
        self.blob_bytes
    }

    pub(crate) fn task_count(&self) -> usize {
        self.rows.steps.values().map(Tasks::len).sum()
    }
}

const fn first_blob(step: StepIndex) -> BlobKey {
    (step, TaskIndex(0), Blob::Output)
}
