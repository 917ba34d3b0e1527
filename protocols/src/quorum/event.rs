//! Events: what an entry changed, for those who follow a quorum.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::approval::Grant;
use crate::ids::{JobId, ManifestHash, PeerId, PieceIndex, StepIndex};
use crate::job::record::RunState;
use crate::task::record::TaskAttempt;
use crate::trigger::record::FireRow;

/// What changed, for those who follow: the event stream, waiting clients, the primary's driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    JobChanged {
        job: JobId,
        state: RunState,
    },
    JobProgressed {
        job: JobId,
        segments: u32,
    },
    ObjectStored {
        manifest: ManifestHash,
        job: JobId,
        degraded: bool,
    },
    ObjectRemoved {
        manifest: ManifestHash,
    },
    ColumnReassigned {
        job: JobId,
        column: PieceIndex,
        from: Option<Grant>,
        to: Option<Grant>,
    },
    /// The primary expects no more holders for the run than it has.
    HoldersExhausted {
        job: JobId,
    },
    ColumnOwed {
        manifest: ManifestHash,
        column: PieceIndex,
        reason: String,
    },
    ColumnRepaired {
        manifest: ManifestHash,
        column: PieceIndex,
    },
    /// Tasks of the run's step that are done.
    JobAdvanced {
        job: JobId,
        step: StepIndex,
        done: u32,
        total: u32,
    },
    /// For the primary: these attempts were given to the worker.
    Assigned {
        worker: PeerId,
        tasks: Vec<TaskAttempt>,
    },
    /// A worker was given up with attempts on it. Their tasks go to others, or wait for a person.
    WorkerLost {
        worker: PeerId,
        attempts: u32,
    },
    /// For the primary: the worker has attempts that must end, or that are to be shown.
    StopWanted {
        worker: PeerId,
    },
    RevealWanted {
        worker: PeerId,
    },
    /// For the primary, of an entry that has nothing else to tell: a timer was set or has gone, or tasks want workers
    /// that did not. A task that failed and waits for its next try is such a case.
    DutiesChanged,
    /// A trigger fired or skipped, or what became of it changed. Rows with the same number are one.
    Fired {
        job: JobId,
        row: FireRow,
    },
}

impl Event {
    /// The jobs of whose records or tasks it tells a change. None for what objects, workers and duties are told of.
    pub fn jobs(&self) -> BTreeSet<JobId> {
        match self {
            Self::JobChanged { job, .. }
            | Self::JobProgressed { job, .. }
            | Self::ObjectStored { job, .. }
            | Self::ColumnReassigned { job, .. }
            | Self::HoldersExhausted { job }
            | Self::JobAdvanced { job, .. }
            | Self::Fired { job, .. } => [*job].into(),
            Self::Assigned { tasks, .. } => tasks.iter().map(|task| task.id.job).collect(),
            Self::ObjectRemoved { .. }
            | Self::ColumnOwed { .. }
            | Self::ColumnRepaired { .. }
            | Self::WorkerLost { .. }
            | Self::StopWanted { .. }
            | Self::RevealWanted { .. }
            | Self::DutiesChanged => BTreeSet::new(),
        }
    }
}
