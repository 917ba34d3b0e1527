//! The state machine of a quorum.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::command::{Batch, BatchReply};
use super::object::ObjectRecord;
use crate::ids::{Attempt, Digest, JobId, LogIndex, ManifestHash, MemberId, Millis, PieceIndex, QuorumId};
use crate::job::record::{JobRecord, RunState};
use crate::job::store::Grant;

/// Everything a quorum has agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumState {
    pub quorum: QuorumId,
    pub time: Millis,
    pub level: u16,
    pub jobs: BTreeMap<JobId, JobRecord>,
    pub objects: BTreeMap<ManifestHash, ObjectRecord>,
    /// Encoded manifests of the live objects.
    pub manifests: BTreeMap<ManifestHash, Bytes>,
    pub standbys: Vec<MemberId>,
    /// Digest over every applied entry: members that differ have diverged.
    pub rolling: Digest,
}

/// What changed, for those who follow: the event stream, waiting clients, the primary's driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    JobChanged { job: JobId, state: RunState },
    JobProgressed { job: JobId, segments: u32 },
    ObjectStored { manifest: ManifestHash, job: JobId, degraded: bool },
    ObjectRemoved { manifest: ManifestHash },
    ColumnReassigned { job: JobId, column: PieceIndex, from: Option<Grant>, to: Option<Grant> },
    ColumnOwed { manifest: ManifestHash, column: PieceIndex, reason: String },
    ColumnRepaired { manifest: ManifestHash, column: PieceIndex },
}

/// Something the primary must bring about. Duties are derived from state, never stored: a new primary derives the
/// same ones, and performing one twice does no harm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Duty {
    /// Win holders for the run: `open` columns have none, and `spares` more are wanted as backups.
    FindHolders {
        job: JobId,
        open: usize,
        spares: usize,
    },
    Confirm {
        manifest: ManifestHash,
        job: JobId,
        column: PieceIndex,
        grant: Grant,
        attempt: Attempt,
    },
    /// Tell the holder to let go. Attempt 0: it never got a column, only the lease is given back.
    Release {
        job: JobId,
        column: PieceIndex,
        grant: Grant,
        attempt: Attempt,
    },
    /// The column has no good holder: find one and start a repair.
    Repair {
        manifest: ManifestHash,
        column: PieceIndex,
    },
    /// A repair was started: have `grant` rebuild the column.
    Rebuild {
        manifest: ManifestHash,
        column: PieceIndex,
        grant: Grant,
        attempt: Attempt,
    },
    /// Nobody has fed the run since `since` (quorum time, for people). When `fed` has stood still for `STORE_IDLE_MAX`
    /// by the primary's monotonic clock, it abandons the run.
    WatchIdle {
        job: JobId,
        fed: u64,
        since: Millis,
    },
}

impl QuorumState {
    pub fn new(quorum: QuorumId) -> Self {
        Self { quorum, level: 1, ..Self::default() }
    }
    /// Applies one entry. Deterministic: the same entries give the same state, replies and events on every member.
    pub fn apply(&mut self, _index: LogIndex, _batch: &Batch) -> (BatchReply, Vec<Event>) {
        unimplemented!()
    }
    /// What the primary has to bring about now, in order.
    pub fn duties(&self) -> Vec<Duty> {
        unimplemented!()
    }
}
