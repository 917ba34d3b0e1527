//! The task pool in a snapshot: tasks by pages, outputs, workers, and attempts that must end.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::TaskPool;
use super::prefetch::PrefetchWindows;
use crate::ids::{JobId, PeerId, StepIndex};
use crate::quorum::chunks::{Chunks, Section, SnapshotError, append, append_shared, check_count, scatter};
use crate::shared_map::SharedMap;
use crate::task::limits::{COPIES_MAX, PAGE_TASKS};
use crate::task::record::{Stopping, TaskAttempt, TaskRecord, WorkerRecord};
use crate::task::table::{BlobKey, TableRows, TaskTable};
use crate::wire;

/// Names a page of tasks by its first.
pub(in crate::quorum) type PageKey = (JobId, StepIndex, u32);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::quorum) struct Head {
    pass: u64,
    pages: u64,
    blobs: u64,
    workers: u64,
    stopping: u64,
    prefetch_windows: PrefetchWindows,
}

/// Shared with the pool, not copied.
#[derive(Clone, Debug, Default)]
pub(in crate::quorum) struct View {
    tables: Vec<(JobId, Arc<TableRows>)>,
    workers: BTreeMap<PeerId, WorkerRecord>,
    stopping: SharedMap<TaskAttempt, Stopping>,
    pass: u64,
    prefetch_windows: PrefetchWindows,
}

/// What has been read.
#[derive(Default)]
pub(in crate::quorum) struct Rows {
    pages: BTreeMap<PageKey, Vec<TaskRecord>>,
    blobs: BTreeMap<(JobId, BlobKey), Bytes>,
    workers: BTreeMap<PeerId, WorkerRecord>,
    stopping: SharedMap<TaskAttempt, Stopping>,
}

impl TaskPool {
    pub(in crate::quorum) fn view(&self) -> View {
        View {
            tables: self.tables.iter().map(|(job, table)| (*job, table.rows())).collect(),
            workers: self.workers.clone(),
            stopping: self.stopping.clone(),
            pass: self.pass,
            prefetch_windows: self.prefetch_windows.clone(),
        }
    }
}

impl View {
    pub(in crate::quorum) fn head(&self) -> Head {
        Head {
            pass: self.pass,
            pages: self.pages().count() as u64,
            blobs: self.tables.iter().map(|(_, rows)| rows.blobs.len() as u64).sum(),
            workers: self.workers.len() as u64,
            stopping: self.stopping.len() as u64,
            prefetch_windows: self.prefetch_windows.clone(),
        }
    }

    pub(in crate::quorum) fn write(&self, chunks: &mut Chunks) {
        let pages: Vec<_> = self.pages().map(|row| (scatter(&row.0), wire::encode(&row))).collect();
        chunks.write(Section::Tasks, pages.iter().map(|(key, row)| (&key[..], row.clone())));
        let tables = self.tables.iter();
        let blobs = tables.flat_map(|(job, rows)| rows.blobs.iter().map(|(key, bytes)| ((*job, *key), bytes)));
        let blobs: Vec<_> = blobs.map(|row| (scatter(&row.0), wire::encode(&row))).collect();
        chunks.write(Section::Blobs, blobs.iter().map(|(key, row)| (&key[..], row.clone())));
        let workers = self.workers.iter().map(|(peer, worker)| (&peer.0[..], wire::encode(worker)));
        chunks.write(Section::Workers, workers);
        let stopping = self.stopping.iter().map(|row| (&row.0.id.job.local[..], wire::encode(&row)));
        chunks.write(Section::Stopping, stopping);
    }

    fn pages(&self) -> impl Iterator<Item = (PageKey, &[TaskRecord])> + '_ {
        self.tables.iter().flat_map(|(job, rows)| {
            rows.steps.iter().flat_map(|(step, tasks)| tasks.pages().map(|(first, page)| ((*job, *step, first), page)))
        })
    }
}

impl Rows {
    /// `None` when the rows are out of order.
    pub(in crate::quorum) fn append_pages(&mut self, rows: Vec<(PageKey, Vec<TaskRecord>)>) -> Option<()> {
        append(&mut self.pages, rows)
    }

    pub(in crate::quorum) fn append_blobs(&mut self, rows: Vec<((JobId, BlobKey), Bytes)>) -> Option<()> {
        append(&mut self.blobs, rows)
    }

    pub(in crate::quorum) fn append_workers(&mut self, rows: Vec<WorkerRecord>) -> Option<()> {
        append(&mut self.workers, rows.into_iter().map(|row| (row.grant.holder.peer, row)))
    }

    pub(in crate::quorum) fn append_stopping(&mut self, rows: Vec<(TaskAttempt, Stopping)>) -> Option<()> {
        append_shared(&mut self.stopping, rows)
    }

    /// The pool, without its index.
    pub(in crate::quorum) fn read(self, head: Head) -> Result<TaskPool, SnapshotError> {
        check_count("pages of tasks", head.pages, self.pages.len())?;
        check_count("outputs", head.blobs, self.blobs.len())?;
        check_count("workers", head.workers, self.workers.len())?;
        check_count("stopping attempts", head.stopping, self.stopping.len())?;
        if self.stopping.values().any(|stopping| stopping.resources.check().is_err()) {
            return Err(SnapshotError::invariant("a stopped attempt takes an impossible share"));
        }
        let tables = read_tables(self.pages, self.blobs)?;
        Ok(TaskPool::from_parts(tables, self.workers, self.stopping, head.pass, head.prefetch_windows))
    }
}

/// Puts the tasks of each step together again.
fn read_tables(
    pages: BTreeMap<PageKey, Vec<TaskRecord>>,
    blobs: BTreeMap<(JobId, BlobKey), Bytes>,
) -> Result<BTreeMap<JobId, TaskTable>, SnapshotError> {
    let fault = SnapshotError::invariant;
    let mut steps = BTreeMap::<(JobId, StepIndex), Vec<TaskRecord>>::new();
    for ((job, step, first), tasks) in pages {
        // Sums over attempts are made before the invariants are looked at.
        if tasks.iter().flat_map(|task| &task.live).any(|live| live.resources.check().is_err()) {
            return Err(fault("an attempt takes an impossible share"));
        }
        if tasks.iter().any(|task| task.live.len() > COPIES_MAX as usize) {
            return Err(fault("a task has too many attempts"));
        }
        let records = steps.entry((job, step)).or_default();
        if records.len() != first as usize || tasks.is_empty() || tasks.len() > PAGE_TASKS {
            return Err(fault("a page of tasks is missing or too long"));
        }
        records.extend(tasks);
    }
    let mut tables = BTreeMap::<JobId, TaskTable>::new();
    for ((job, step), records) in steps {
        tables.entry(job).or_default().adopt(step, records.into());
    }
    for ((job, key), bytes) in blobs {
        tables.get_mut(&job).ok_or_else(|| fault("an output belongs to no job"))?.keep_blob(key, bytes);
    }
    Ok(tables)
}
