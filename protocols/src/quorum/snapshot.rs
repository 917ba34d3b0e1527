//! The state as a list of content-addressed chunks, and back.
//!
//! Each chunk holds one section's records of one range of keys and is at most [`SNAPSHOT_CHUNK_BYTES`] long. Where one
//! chunk ends and the next begins depends on the keys (which are random or hashes), not on how many records came
//! before: a record that comes, goes or grows changes its own chunk and rarely a neighbour. So a member that follows
//! from snapshot to snapshot fetches what changed, plus the head, which always changes.
//!
//! Each sub-state has its sections in its own folder: what it shares with a view, how it writes its rows, and how it is
//! read back. Here is the frame: the order of the sections, the head, and where a chunk ends.
//!
//! A chunk is a record of [`crate::wire`]: a version byte, then the section and its rows. Version 1: first. Version 2:
//! runs that compute, with tasks, outputs, workers and stopped attempts, and triggers with emitters of events. Version
//! 3: the certificate. Earlier ones are refused by their number.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::chunks::{CHUNK_VERSION, Chunks, Section, SnapshotError, append_shared, check_count};
use super::clock::ClockStep;
use super::limits::SNAPSHOT_CHUNK_BYTES;
use super::object::ObjectRecord;
use super::state::QuorumState;
use super::tasks::snapshot::PageKey;
use super::{jobs, objects, tasks, triggers};
use crate::approval::Approval;
use crate::certificate::{Chain, Founding, Link, Pending};
use crate::ids::{Digest, JobId, LogIndex, ManifestHash, Millis, PeerId, QuorumId};
use crate::job::record::JobRecord;
use crate::shared_map::SharedMap;
use crate::task::record::{Stopping, TaskAttempt, TaskRecord, WorkerRecord};
use crate::task::table::BlobKey;
use crate::trigger::event::Emitter;
use crate::wire::{self, Record};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    quorum: QuorumId,
    applied: LogIndex,
    time: Millis,
    clock_offset_ms: i64,
    stepped: Option<ClockStep>,
    led_time: Millis,
    level: u16,
    standbys: Vec<Approval>,
    founding: Option<Founding>,
    links: u64,
    pending: Option<Pending>,
    numbered: u64,
    rolling: Digest,
    jobs: jobs::snapshot::Head,
    objects: objects::snapshot::Head,
    tasks: tasks::snapshot::Head,
    triggers: triggers::snapshot::Head,
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
    Links(Vec<Link>),
}

impl Record for Chunk {
    const VERSION: u8 = CHUNK_VERSION;
}

/// A state as it was at one entry, ready to be encoded. It shares its rows with the state, which goes on: taking one
/// costs a few references, encoding it takes its time elsewhere.
#[derive(Clone, Debug)]
pub struct SnapshotView {
    /// Without the parts of the sub-states, which are counted where it does not hold up the state.
    frame: Head,
    links: SharedMap<u64, Link>,
    jobs: jobs::snapshot::View,
    objects: objects::snapshot::View,
    tasks: tasks::snapshot::View,
    triggers: triggers::snapshot::View,
}

impl SnapshotView {
    /// The digest over every entry that was applied.
    pub fn rolling(&self) -> Digest {
        self.frame.rolling
    }

    /// The head first, then jobs, objects, manifests, tasks, outputs, workers, stopped attempts, emitters and links in
    /// order of their keys. Equal states have equal chunks.
    pub fn encode(&self) -> Vec<(Digest, Bytes)> {
        let head = Head {
            jobs: self.jobs.head(),
            objects: self.objects.head(),
            tasks: self.tasks.head(),
            triggers: self.triggers.head(),
            ..self.frame.clone()
        };
        let mut chunks = Chunks(vec![wire::encode_record(&Chunk::Head(head))]);
        self.jobs.write(&mut chunks);
        self.objects.write(&mut chunks);
        self.tasks.write(&mut chunks);
        self.triggers.write(&mut chunks);
        chunks.write(Section::Links, self.links.values().map(|link| (&[][..], wire::encode(link))));
        chunks.0.into_iter().map(|chunk| (Digest(*blake3::hash(&chunk).as_bytes()), Bytes::from(chunk))).collect()
    }
}

impl QuorumState {
    /// The state as it is now, for a snapshot.
    pub fn snapshot_view(&self) -> SnapshotView {
        let frame = Head {
            quorum: self.quorum,
            applied: self.applied,
            time: self.time,
            clock_offset_ms: self.clock_offset_ms,
            stepped: self.stepped,
            led_time: self.led_time,
            level: self.level,
            standbys: self.standbys.clone(),
            founding: self.chain.founding().cloned(),
            links: self.chain.links().len() as u64,
            pending: self.chain.pending().cloned(),
            numbered: self.chain.numbered(),
            rolling: self.rolling,
            ..Head::default()
        };
        SnapshotView {
            frame,
            links: self.chain.links().clone(),
            jobs: self.jobs.view(),
            objects: self.objects.view(),
            tasks: self.tasks.view(),
            triggers: self.triggers.view(),
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
        check_count("links", head.links, rows.links.len())?;
        let chain = Chain::from_parts(head.founding, rows.links, head.pending, head.numbered)
            .ok_or_else(|| SnapshotError::invariant("the certificate does not hang together"))?;
        let mut state = Self {
            quorum: head.quorum,
            applied: head.applied,
            time: head.time,
            clock_offset_ms: head.clock_offset_ms,
            stepped: head.stepped,
            led_time: head.led_time,
            level: head.level,
            standbys: head.standbys,
            chain,
            rolling: head.rolling,
            jobs: rows.jobs.read(&head.jobs)?,
            objects: rows.objects.read(&head.objects)?,
            tasks: rows.tasks.read(head.tasks)?,
            triggers: rows.triggers.read(&head.triggers)?,
        };
        state.rebuild_index();
        state.check_invariants().map_err(|what| SnapshotError::Invariant { what })?;
        Ok(state)
    }
}

/// What has been read of a snapshot.
#[derive(Default)]
struct Rows {
    jobs: jobs::snapshot::Rows,
    objects: objects::snapshot::Rows,
    tasks: tasks::snapshot::Rows,
    triggers: triggers::snapshot::Rows,
    links: SharedMap<u64, Link>,
}

impl Rows {
    /// `None` when the rows are out of order.
    fn append(&mut self, chunk: Chunk) -> Option<()> {
        match chunk {
            Chunk::Head(_) => None,
            Chunk::Jobs(rows) => self.jobs.append(rows),
            Chunk::Objects(rows) => self.objects.append_objects(rows),
            Chunk::Manifests(rows) => self.objects.append_manifests(rows),
            Chunk::Tasks(rows) => self.tasks.append_pages(rows),
            Chunk::Blobs(rows) => self.tasks.append_blobs(rows),
            Chunk::Workers(rows) => self.tasks.append_workers(rows),
            Chunk::Stopping(rows) => self.tasks.append_stopping(rows),
            Chunk::Emitters(rows) => self.triggers.append(rows),
            Chunk::Links(rows) => append_shared(&mut self.links, rows.into_iter().map(|link| (link.number, link))),
        }
    }
}
