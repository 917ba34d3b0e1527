//! The state as a list of content-addressed chunks, and back.
//!
//! Each chunk holds one section's records of one range of keys and is at most [`SNAPSHOT_CHUNK_BYTES`] long. Where one
//! chunk ends and the next begins depends on the keys (which are random or hashes), not on how many records came
//! before: a record that comes, goes or grows changes its own chunk and rarely a neighbour. So a member that follows
//! from snapshot to snapshot fetches what changed, plus the head, which always changes.
//!
//! A chunk is a record of [`crate::wire`]: a version byte, then the section and its rows. Version 1: first. Version 2:
//! runs that compute, with tasks, outputs, workers and stopped attempts, and triggers with emitters of events; version
//! 1 is refused by its number.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::clock::ClockStep;
use super::jobs::JobBook;
use super::limits::SNAPSHOT_CHUNK_BYTES;
use super::objects::Catalog;
use super::objects::record::ObjectRecord;
use super::state::QuorumState;
use super::tasks::{PrefetchWindows, TaskPool, TaskRows};
use super::triggers::Triggers;
use crate::approval::Approval;
use crate::ids::{Digest, JobId, ManifestHash, Millis, PeerId, QuorumId, StepIndex};
use crate::job::record::JobRecord;
use crate::shared_map::SharedMap;
use crate::task::limits::{COPIES_MAX, PAGE_TASKS};
use crate::task::record::{Stopping, TaskAttempt, TaskRecord, WorkerRecord};
use crate::task::table::{BlobKey, TaskTable};
use crate::trigger::event::Emitter;
use crate::wire::{self, DecodeError, Record};

/// One key in this many ends a chunk.
const KEYS_PER_CHUNK: u8 = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("chunk {chunk} cannot be read")]
    Decode {
        chunk: usize,
        #[source]
        source: DecodeError,
    },
    #[error("chunk {chunk} is {bytes} bytes long, more than the {limit} allowed")]
    TooLarge { chunk: usize, bytes: usize, limit: usize },
    #[error("the snapshot has {found} {what} and announced {expected}")]
    Count { what: &'static str, expected: u64, found: u64 },
    #[error("the snapshot does not begin with its head, or has two")]
    Head,
    #[error("records are out of order in chunk {chunk}")]
    Order { chunk: usize },
    #[error("the snapshot contradicts itself: {what}")]
    Invariant { what: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    quorum: QuorumId,
    time: Millis,
    clock_offset_ms: i64,
    stepped: Option<ClockStep>,
    led_time: Millis,
    level: u16,
    standbys: Vec<Approval>,
    rolling: Digest,
    jobs: u64,
    objects: u64,
    manifests: u64,
    pass: u64,
    task_pages: u64,
    blobs: u64,
    workers: u64,
    stopping: u64,
    prefetch_windows: PrefetchWindows,
    emitters: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Chunk {
    Head(Head),
    Jobs(Vec<JobRecord>),
    Objects(Vec<(ManifestHash, ObjectRecord)>),
    Manifests(Vec<(ManifestHash, Bytes)>),
    /// Tasks of one step of a run, from that one on.
    Tasks(Vec<(PageKey, Vec<TaskRecord>)>),
    Blobs(Vec<((JobId, BlobKey), Bytes)>),
    Workers(Vec<WorkerRecord>),
    Stopping(Vec<(TaskAttempt, Stopping)>),
    Emitters(Vec<(PeerId, Emitter)>),
}

type PageKey = (JobId, StepIndex, u32);

// The positions of the sections in `Chunk`, for the writer, which never builds one.
const JOBS: u32 = 1;
const OBJECTS: u32 = 2;
const MANIFESTS: u32 = 3;
const TASKS: u32 = 4;
const BLOBS: u32 = 5;
const WORKERS: u32 = 6;
const STOPPING: u32 = 7;
const EMITTERS: u32 = 8;

impl Record for Chunk {
    const VERSION: u8 = 2;
}

/// A state as it was at one entry, ready to be encoded. It shares its rows with the state, which goes on: taking one
/// costs a few references, encoding it takes its time elsewhere.
#[derive(Clone, Debug)]
pub struct SnapshotView {
    head: Head,
    jobs: SharedMap<JobId, JobRecord>,
    objects: SharedMap<ManifestHash, ObjectRecord>,
    manifests: SharedMap<ManifestHash, Bytes>,
    tasks: TaskRows,
    emitters: BTreeMap<PeerId, Emitter>,
}

impl SnapshotView {
    /// The digest over every entry that was applied.
    pub fn rolling(&self) -> Digest {
        self.head.rolling
    }

    /// The head first, then jobs, objects, manifests, tasks, outputs, workers, stopped attempts and emitters in order
    /// of their keys. Equal states have equal chunks.
    pub fn encode(&self) -> Vec<(Digest, Bytes)> {
        let TaskRows { tables, workers, stopping, pass, prefetch_windows } = &self.tasks;
        let head = Head {
            task_pages: self.task_pages().count() as u64,
            blobs: tables.iter().map(|(_, rows)| rows.blobs.len() as u64).sum(),
            pass: *pass,
            prefetch_windows: prefetch_windows.clone(),
            ..self.head.clone()
        };
        let mut chunks = vec![wire::encode_record(&Chunk::Head(head))];
        write_section(&mut chunks, JOBS, self.jobs.iter().map(|(job, record)| (&job.local[..], wire::encode(record))));
        let objects = self.objects.iter().map(|(hash, record)| (&hash.0[..], wire::encode(&(hash, record))));
        write_section(&mut chunks, OBJECTS, objects);
        let manifests = self.manifests.iter().map(|(hash, bytes)| (&hash.0[..], wire::encode(&(hash, bytes))));
        write_section(&mut chunks, MANIFESTS, manifests);
        let pages: Vec<_> = self.task_pages().map(|row| (scatter(&row.0), wire::encode(&row))).collect();
        write_section(&mut chunks, TASKS, pages.iter().map(|(key, row)| (&key[..], row.clone())));
        let blobs = tables.iter().flat_map(|(job, rows)| rows.blobs.iter().map(|(key, bytes)| ((*job, *key), bytes)));
        let blobs: Vec<_> = blobs.map(|row| (scatter(&row.0), wire::encode(&row))).collect();
        write_section(&mut chunks, BLOBS, blobs.iter().map(|(key, row)| (&key[..], row.clone())));
        let workers = workers.iter().map(|(peer, worker)| (&peer.0[..], wire::encode(worker)));
        write_section(&mut chunks, WORKERS, workers);
        let stopping = stopping.iter().map(|row| (&row.0.id.job.local[..], wire::encode(&row)));
        write_section(&mut chunks, STOPPING, stopping);
        let emitters = self.emitters.iter().map(|row| (&row.0.0[..], wire::encode(&row)));
        write_section(&mut chunks, EMITTERS, emitters);
        chunks.into_iter().map(|chunk| (Digest(*blake3::hash(&chunk).as_bytes()), Bytes::from(chunk))).collect()
    }

    fn task_pages(&self) -> impl Iterator<Item = (PageKey, &[TaskRecord])> + '_ {
        self.tasks.tables.iter().flat_map(|(job, rows)| {
            rows.steps.iter().flat_map(|(step, tasks)| tasks.pages().map(|(first, page)| ((*job, *step, first), page)))
        })
    }
}

impl QuorumState {
    /// The state as it is now, for a snapshot.
    pub fn snapshot_view(&self) -> SnapshotView {
        let tasks = self.tasks.rows();
        let head = Head {
            quorum: self.quorum,
            time: self.time,
            clock_offset_ms: self.clock_offset_ms,
            stepped: self.stepped,
            led_time: self.led_time,
            level: self.level,
            standbys: self.standbys.clone(),
            rolling: self.rolling,
            jobs: self.jobs.len() as u64,
            objects: self.objects.len() as u64,
            manifests: self.objects.manifests().len() as u64,
            workers: tasks.workers.len() as u64,
            stopping: tasks.stopping.len() as u64,
            emitters: self.triggers.emitters().len() as u64,
            // Counted where it does not hold up the state.
            ..Head::default()
        };
        SnapshotView {
            head,
            jobs: self.jobs.records().clone(),
            objects: self.objects.records().clone(),
            manifests: self.objects.manifests().clone(),
            tasks,
            emitters: self.triggers.emitters().clone(),
        }
    }

    pub fn encode_snapshot(&self) -> Vec<(Digest, Bytes)> {
        self.snapshot_view().encode()
    }

    /// Reads what `encode_snapshot` wrote, chunk by chunk in its order. The bytes may come from a damaged disk or a
    /// faulty member: whatever they are, the answer is a state that keeps every invariant, or an error.
    pub fn decode_snapshot<B: AsRef<[u8]>>(chunks: impl IntoIterator<Item = B>) -> Result<Self, SnapshotError> {
        let mut head = None;
        let mut rows = Rows::default();
        for (chunk, bytes) in chunks.into_iter().enumerate() {
            let bytes = bytes.as_ref();
            if bytes.len() > SNAPSHOT_CHUNK_BYTES {
                return Err(SnapshotError::TooLarge { chunk, bytes: bytes.len(), limit: SNAPSHOT_CHUNK_BYTES });
            }
            let decoded = wire::decode_record(bytes).map_err(|source| SnapshotError::Decode { chunk, source })?;
            if matches!(decoded, Chunk::Head(_)) != (chunk == 0) {
                return Err(SnapshotError::Head);
            }
            match decoded {
                Chunk::Head(found) => head = Some(found),
                decoded => rows.append(decoded).ok_or(SnapshotError::Order { chunk })?,
            }
        }
        let head = head.ok_or(SnapshotError::Head)?;
        rows.check_counts(&head)?;
        let odd = rows.stopping.values().find(|stopping| stopping.resources.check().is_err());
        if odd.is_some() {
            return Err(SnapshotError::Invariant { what: "a stopped attempt takes an impossible share".to_owned() });
        }
        let tables = read_tables(rows.pages, rows.blobs)?;
        let mut state = Self {
            quorum: head.quorum,
            time: head.time,
            clock_offset_ms: head.clock_offset_ms,
            stepped: head.stepped,
            led_time: head.led_time,
            level: head.level,
            standbys: head.standbys,
            rolling: head.rolling,
            jobs: JobBook::from_records(rows.jobs),
            objects: Catalog::from_rows(rows.objects, rows.manifests),
            tasks: TaskPool::from_parts(tables, rows.workers, rows.stopping, head.pass, head.prefetch_windows),
            triggers: Triggers::from_emitters(rows.emitters),
        };
        state.rebuild_index();
        state.check_invariants().map_err(|what| SnapshotError::Invariant { what })?;
        for (hash, bytes) in state.objects.manifests().iter() {
            if hash.0 != *blake3::hash(bytes).as_bytes() {
                return Err(SnapshotError::Invariant { what: format!("manifest {hash} has other bytes") });
            }
        }
        Ok(state)
    }
}

/// What has been read of a snapshot.
#[derive(Default)]
struct Rows {
    jobs: SharedMap<JobId, JobRecord>,
    objects: SharedMap<ManifestHash, ObjectRecord>,
    manifests: SharedMap<ManifestHash, Bytes>,
    pages: BTreeMap<PageKey, Vec<TaskRecord>>,
    blobs: BTreeMap<(JobId, BlobKey), Bytes>,
    workers: BTreeMap<PeerId, WorkerRecord>,
    stopping: SharedMap<TaskAttempt, Stopping>,
    emitters: BTreeMap<PeerId, Emitter>,
}

impl Rows {
    /// `None` when the rows are out of order.
    fn append(&mut self, chunk: Chunk) -> Option<()> {
        match chunk {
            Chunk::Head(_) => None,
            Chunk::Jobs(rows) => append_shared(&mut self.jobs, rows.into_iter().map(|row| (row.job, row))),
            Chunk::Objects(rows) => append_shared(&mut self.objects, rows),
            Chunk::Manifests(rows) => append_shared(&mut self.manifests, rows),
            Chunk::Tasks(rows) => append(&mut self.pages, rows),
            Chunk::Blobs(rows) => append(&mut self.blobs, rows),
            Chunk::Workers(rows) => append(&mut self.workers, rows.into_iter().map(|row| (row.grant.holder.peer, row))),
            Chunk::Stopping(rows) => append_shared(&mut self.stopping, rows),
            Chunk::Emitters(rows) => append(&mut self.emitters, rows),
        }
    }

    fn check_counts(&self, head: &Head) -> Result<(), SnapshotError> {
        for (what, expected, found) in [
            ("jobs", head.jobs, self.jobs.len()),
            ("objects", head.objects, self.objects.len()),
            ("manifests", head.manifests, self.manifests.len()),
            ("pages of tasks", head.task_pages, self.pages.len()),
            ("outputs", head.blobs, self.blobs.len()),
            ("workers", head.workers, self.workers.len()),
            ("stopping attempts", head.stopping, self.stopping.len()),
            ("emitters", head.emitters, self.emitters.len()),
        ] {
            if expected != found as u64 {
                return Err(SnapshotError::Count { what, expected, found: found as u64 });
            }
        }
        Ok(())
    }
}

/// Puts the tasks of each step together again.
fn read_tables(
    pages: BTreeMap<PageKey, Vec<TaskRecord>>,
    blobs: BTreeMap<(JobId, BlobKey), Bytes>,
) -> Result<BTreeMap<JobId, TaskTable>, SnapshotError> {
    let fault = |what: &str| SnapshotError::Invariant { what: what.to_owned() };
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

/// Keys that are not random by themselves, so that chunks end where their hashes say.
fn scatter<K: Serialize>(key: &K) -> [u8; 32] {
    *blake3::hash(&wire::encode(key)).as_bytes()
}

fn append<K: Ord, V>(map: &mut BTreeMap<K, V>, rows: impl IntoIterator<Item = (K, V)>) -> Option<()> {
    for (key, value) in rows {
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return None;
        }
        map.insert(key, value);
    }
    Some(())
}

fn append_shared<K: Ord + Clone, V: Clone>(
    map: &mut SharedMap<K, V>,
    rows: impl IntoIterator<Item = (K, V)>,
) -> Option<()> {
    for (key, value) in rows {
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return None;
        }
        map.insert(key, value);
    }
    Some(())
}

fn write_section<'a>(chunks: &mut Vec<Vec<u8>>, section: u32, rows: impl Iterator<Item = (&'a [u8], Vec<u8>)>) {
    // Version, section and count take at most this much.
    const HEADER_BYTES: usize = 16;
    let mut body = Vec::new();
    let mut count = 0u64;
    let mut flush = |body: &mut Vec<u8>, count: &mut u64| {
        if *count > 0 {
            let mut chunk = vec![Chunk::VERSION];
            chunk.extend_from_slice(&wire::encode(&(section, *count)));
            chunk.append(body);
            chunks.push(chunk);
            *count = 0;
        }
    };
    for (key, row) in rows {
        if HEADER_BYTES + body.len() + row.len() > SNAPSHOT_CHUNK_BYTES {
            flush(&mut body, &mut count);
        }
        body.extend_from_slice(&row);
        count += 1;
        // The last byte of a random id or a hash is as good as a hash of it.
        if key.last().is_some_and(|byte| byte % KEYS_PER_CHUNK == 0) {
            flush(&mut body, &mut count);
        }
    }
    flush(&mut body, &mut count);
}
