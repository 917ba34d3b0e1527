//! One job as its quorum remembers it.

use serde::{Deserialize, Serialize};

use super::compute::ComputeSpec;
use super::spec::{JobSpec, StoreSpec};
use super::store::StoreRun;
use crate::ids::{JobId, LogIndex, Millis, PeerId};
use crate::object::layout::Profile;
use crate::task::record::ComputeRun;
use crate::trigger::record::TriggerRun;
use crate::trigger::spec::TriggeredSpec;

/// Where a run stands. The legal moves are data: [`crate::job::transition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    Pending,
    Running,
    Pausing,
    Paused,
    Cancelling,
    Reverting,
    Succeeded,
    Failed,
    Reverted,
    Cancelled,
    AwaitingResolution,
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl RunState {
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Reverted | Self::Cancelled)
    }
}

/// What happened to a job, for people: one line each, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HistoryEntry {
    /// Quorum time, milliseconds since the Unix epoch.
    #[serde(rename = "recorded_at")]
    pub at: Millis,
    pub state: RunState,
    pub what: String,
}

/// What a run is doing, by kind of work. The tasks of one that computes are in a table of their own. In boxes, for a
/// quorum has thousands of records, and many of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Run {
    Store(Box<StoreRun>),
    Compute(Box<ComputeRun>),
    Trigger(Box<TriggerRun>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    pub job: JobId,
    pub spec: JobSpec,
    /// The peer through which the job was submitted: it may cancel, pause, update and remove.
    pub owner: PeerId,
    pub state: RunState,
    /// The state before a pause, to return to.
    pub before_pause: Option<RunState>,
    /// Why the run is where it is: the last failure, refusal or wait.
    pub reason: Option<String>,
    pub created_at: Millis,
    pub changed_at: Millis,
    pub finished_at: Option<Millis>,
    /// The last entry of the log that changed what is told of the job: see [`crate::quorum::Event::jobs`].
    pub revision: LogIndex,
    pub run: Run,
    pub history: Vec<HistoryEntry>,
}

impl JobRecord {
    /// The run of a job that stores, with its specification.
    pub fn store(&self) -> Option<(&StoreSpec, &StoreRun)> {
        match (&self.spec, &self.run) {
            (JobSpec::Store(spec), Run::Store(run)) => Some((spec, run)),
            _ => None,
        }
    }
    /// The same, taken out of the record.
    pub fn into_store(self) -> Option<(StoreSpec, StoreRun)> {
        match (self.spec, self.run) {
            (JobSpec::Store(spec), Run::Store(run)) => Some((spec, *run)),
            _ => None,
        }
    }
    /// The run of a job that computes, with its specification.
    pub fn compute(&self) -> Option<(&ComputeSpec, &ComputeRun)> {
        match (&self.spec, &self.run) {
            (JobSpec::Compute(spec), Run::Compute(run)) => Some((spec, run)),
            _ => None,
        }
    }
    /// The state of a trigger, with its specification.
    pub fn trigger(&self) -> Option<(&TriggeredSpec, &TriggerRun)> {
        match (&self.spec, &self.run) {
            (JobSpec::Triggered(spec), Run::Trigger(run)) => Some((spec, run)),
            _ => None,
        }
    }
    pub(crate) fn trigger_mut(&mut self) -> Option<(&TriggeredSpec, &mut TriggerRun)> {
        match (&self.spec, &mut self.run) {
            (JobSpec::Triggered(spec), Run::Trigger(run)) => Some((spec, run)),
            _ => None,
        }
    }
    pub(crate) fn profile(&self) -> Option<Profile> {
        self.store().map(|(spec, _)| spec.profile)
    }
    pub(crate) fn store_mut(&mut self) -> Option<(&StoreSpec, &mut StoreRun)> {
        match (&self.spec, &mut self.run) {
            (JobSpec::Store(spec), Run::Store(run)) => Some((spec, run)),
            _ => None,
        }
    }
    pub(crate) fn compute_mut(&mut self) -> Option<(&ComputeSpec, &mut ComputeRun)> {
        match (&self.spec, &mut self.run) {
            (JobSpec::Compute(spec), Run::Compute(run)) => Some((spec, run)),
            _ => None,
        }
    }
}
