//! The state as a list of content-addressed chunks, and back.
//!
//! Each chunk holds one section's records of one range of keys and is at most [`SNAPSHOT_CHUNK_BYTES`] long. Where one
//! chunk ends and the next begins depends on the keys (which are random or hashes), not on how many records came
//! before: a record that comes, goes or grows changes its own chunk and rarely a neighbour. So a member that follows
//! from snapshot to snapshot fetches what changed, plus the head, which always changes.
//!
//! A chunk is a record of [`crate::wire`]: a version byte, then the section and its rows. Version 1: first.
//! Version 2: runs that compute, with tasks, outputs, workers and stopped attempts, and triggers with emitters of
//! events; version 1 is refused by its number.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::clock::ClockStep;
use super::limits::SNAPSHOT_CHUNK_BYTES;
use super::object::ObjectRecord;
use super::pace::Paces;
use super::state::QuorumState;
use crate::approval::Approval;
use crate::ids::{Digest, JobId, ManifestHash, Millis, PeerId, QuorumId, StepIndex};
use crate::job::record::JobRecord;
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    quorum: QuorumId,
    time: Millis,
    clock_offset_ms: i64,
    stepped: Option<ClockStep>,
    led: Millis,
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
    paces: Paces,
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

impl QuorumState {
    /// The head first, then jobs, objects, manifests, tasks, outputs, workers, stopped attempts and emitters in order
    /// of their keys. Equal states have equal chunks.
    pub fn encode_snapshot(&self) -> Vec<(Digest, Bytes)> {
        let head = Head {
            quorum: self.quorum,
            time: self.time,
            clock_offset_ms: self.clock_offset_ms,
            stepped: self.stepped,
            led: self.led,
            level: self.level,
            standbys: self.standbys.clone(),
            rolling: self.rolling,
            jobs: self.jobs.len() as u64,
            objects: self.objects.len() as u64,
            manifests: self.manifests.len() as u64,
            pass: self.pass,
            task_pages: self.task_pages().count() as u64,
            blobs: self.tables.values().map(|table| table.blobs.len() as u64).sum(),
            workers: self.workers.len() as u64,
            stopping: self.stopping.len() as u64,
            paces: self.paces.clone(),
            emitters: self.emitters.len() as u64,
        };
        let mut chunks = vec![wire::encode_record(&Chunk::Head(head))];
        write_section(&mut chunks, JOBS, self.jobs.iter().map(|(job, record)| (&job.local[..], wire::encode(record))));
        let objects = self.objects.iter().map(|(hash, record)| (&hash.0[..], wire::encode(&(hash, record))));
        write_section(&mut chunks, OBJECTS, objects);
        let manifests = self.manifests.iter().map(|(hash, bytes)| (&hash.0[..], wire::encode(&(hash, bytes))));
        write_section(&mut chunks, MANIFESTS, manifests);
        let pages: Vec<_> = self.task_pages().map(|row| (scatter(&row.0), wire::encode(&row))).collect();
        write_section(&mut chunks, TASKS, pages.iter().map(|(key, row)| (&key[..], row.clone())));
        let blobs =
            self.tables.iter().flat_map(|(job, table)| table.blobs.iter().map(|(key, bytes)| ((*job, *key), bytes)));
        let blobs: Vec<_> = blobs.map(|row| (scatter(&row.0), wire::encode(&row))).collect();
        write_section(&mut chunks, BLOBS, blobs.iter().map(|(key, row)| (&key[..], row.clone())));
        let workers = self.workers.iter().map(|(peer, worker)| (&peer.0[..], wire::encode(worker)));
        write_section(&mut chunks, WORKERS, workers);
        let stopping = self.stopping.iter().map(|row| (&row.0.id.job.local[..], wire::encode(&row)));
        write_section(&mut chunks, STOPPING, stopping);
        let emitters = self.emitters.iter().map(|row| (&row.0.0[..], wire::encode(&row)));
        write_section(&mut chunks, EMITTERS, emitters);
        chunks.into_iter().map(|chunk| (Digest(*blake3::hash(&chunk).as_bytes()), Bytes::from(chunk))).collect()
    }

    fn task_pages(&self) -> impl Iterator<Item = (PageKey, &[TaskRecord])> + '_ {
        self.tables.iter().flat_map(|(job, table)| {
            table.steps().flat_map(move |step| {
                let pages = table.tasks(step).chunks(PAGE_TASKS).enumerate();
                pages.map(move |(page, tasks)| ((*job, step, (page * PAGE_TASKS) as u32), tasks))
            })
        })
    }

    /// Reads what `encode_snapshot` wrote, chunk by chunk in its order. The bytes may come from a damaged disk or a
    /// faulty member: whatever they are, the answer is a state that keeps every invariant, or an error.
    pub fn decode_snapshot<B: AsRef<[u8]>>(chunks: impl IntoIterator<Item = B>) -> Result<Self, SnapshotError> {
        let mut state = Self::default();
        let mut head = None;
        let (mut pages, mut blobs) = (BTreeMap::new(), BTreeMap::new());
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
                Chunk::Jobs(rows) => append(&mut state.jobs, rows.into_iter().map(|row| (row.job, row)), chunk)?,
                Chunk::Objects(rows) => append(&mut state.objects, rows.into_iter(), chunk)?,
                Chunk::Manifests(rows) => append(&mut state.manifests, rows.into_iter(), chunk)?,
                Chunk::Tasks(rows) => append(&mut pages, rows.into_iter(), chunk)?,
                Chunk::Blobs(rows) => append(&mut blobs, rows.into_iter(), chunk)?,
                Chunk::Workers(rows) => {
                    append(&mut state.workers, rows.into_iter().map(|row| (row.grant.holder.peer, row)), chunk)?;
                }
                Chunk::Stopping(rows) => append(&mut state.stopping, rows.into_iter(), chunk)?,
                Chunk::Emitters(rows) => append(&mut state.emitters, rows.into_iter(), chunk)?,
            }
        }
        let head = head.ok_or(SnapshotError::Head)?;
        for (what, expected, found) in [
            ("jobs", head.jobs, state.jobs.len()),
            ("objects", head.objects, state.objects.len()),
            ("manifests", head.manifests, state.manifests.len()),
            ("pages of tasks", head.task_pages, pages.len()),
            ("outputs", head.blobs, blobs.len()),
            ("workers", head.workers, state.workers.len()),
            ("stopping attempts", head.stopping, state.stopping.len()),
            ("emitters", head.emitters, state.emitters.len()),
        ] {
            if expected != found as u64 {
                return Err(SnapshotError::Count { what, expected, found: found as u64 });
            }
        }
        (state.quorum, state.time, state.led, state.level) = (head.quorum, head.time, head.led, head.level);
        (state.clock_offset_ms, state.stepped) = (head.clock_offset_ms, head.stepped);
        (state.standbys, state.rolling, state.pass) = (head.standbys, head.rolling, head.pass);
        state.paces = head.paces;
        state.tables = read_tables(pages, blobs)?;
        let odd = state.stopping.values().find(|stopping| stopping.resources.check().is_err());
        if odd.is_some() {
            return Err(SnapshotError::Invariant { what: "a stopped attempt takes an impossible share".to_owned() });
        }
        state.rebuild_index();
        state.check_invariants().map_err(|what| SnapshotError::Invariant { what })?;
        for (hash, bytes) in &state.manifests {
            if hash.0 != *blake3::hash(bytes).as_bytes() {
                return Err(SnapshotError::Invariant { what: format!("manifest {hash} has other bytes") });
            }
        }
        Ok(state)
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
        tables.entry(job).or_default().adopt(step, records);
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

fn append<K: Ord, V>(
    map: &mut BTreeMap<K, V>,
    rows: impl Iterator<Item = (K, V)>,
    chunk: usize,
) -> Result<(), SnapshotError> {
    for (key, value) in rows {
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(SnapshotError::Order { chunk });
        }
        map.insert(key, value);
    }
    Ok(())
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
