//! Duties: what the primary must bring about. They follow from the state (`QuorumState::duties`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::approval::Grant;
use crate::capacity::Requirement;
use crate::engine::Engine;
use crate::ids::{Attempt, JobId, LeaseId, ManifestHash, Millis, PeerId, PieceIndex};

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
    /// Nobody has fed the run since `since` (quorum time, for people). When `upload_seq` has stood still for
    /// `STORE_IDLE_MAX` by the primary's monotonic clock, it abandons the run; after `STORE_EMPTY_MAX` if the run is
    /// `empty`, with nothing stored that could be gone on with.
    WatchIdle {
        job: JobId,
        upload_seq: u64,
        since: Millis,
        empty: bool,
    },
    /// Tasks wait and no worker has room: win approvals of peers for this many slots and `SetWorker` each. One per sort
    /// of task, with the job whose turn is next.
    FindWorkers {
        job: JobId,
        engine: Engine,
        /// What one task needs.
        resources: Requirement,
        slots: u32,
    },
    /// The worker has attempts: see that it knows of them (`instructions_of`, `assignments`), of those that must end
    /// and of those to be shown. Hear its beats; renew its lease, or say that it is lost.
    HoldSession {
        worker: PeerId,
        lease: LeaseId,
    },
    /// The worker has nothing to do and no job waits: its lease can be given back (`ReleaseWorker`), at once or later.
    ReleaseWorker {
        worker: PeerId,
        lease: LeaseId,
    },
    /// The earliest timer: wait `after` on the monotonic clock from when this was first seen, and propose
    /// `Elapsed { until: due }`.
    Wake {
        due: Millis,
        after: Duration,
    },
    /// The earliest trigger on wall clocks: when the primary's says `due`, have `trigger::Planner` make the spans and
    /// propose them as `Due`.
    FireAt {
        due: Millis,
    },
    /// The earliest trigger that is due as time passes: the same, when the wall clock says `due` or when `after` has
    /// passed on the monotonic clock from when this was first seen.
    FireAfter {
        due: Millis,
        after: Duration,
    },
    /// Look at the condition's source each `every` and propose `Observe` with what is news.
    Poll {
        job: JobId,
        every: Duration,
    },
}

impl Duty {
    /// The place of a duty among the others: the least is first.
    pub(super) const fn urgency(&self) -> u8 {
        match self {
            // It makes a stored object safe.
            Self::Confirm { .. } => 0,
            Self::FindHolders { .. } => 1,
            Self::Rebuild { .. } => 2,
            Self::Repair { .. } => 3,
            Self::Release { .. } => 4,
            Self::WatchIdle { .. } => 5,
            Self::FindWorkers { .. } | Self::HoldSession { .. } | Self::ReleaseWorker { .. } => 6,
            Self::Wake { .. } | Self::FireAt { .. } | Self::FireAfter { .. } | Self::Poll { .. } => 7,
        }
    }
}
