//! One job as its quorum remembers it.

use crate::ids::LogIndex;
use serde::{Deserialize, Serialize};

pub use super::kind::Run;
use super::kind::WorkSpec;
use super::signed::OwnerSignature;
use super::spec::{JobSpec, StoreSpec};
use super::store::StoreRun;
use crate::ids::{Digest, JobId, Millis, PeerId};
use crate::job::spec::TriggeredSpec;
pub use crate::run_state::RunState;
use crate::trigger::record::{FiredBy, TriggerRun};

/// What happened to a job, for people: one line each, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Quorum time, milliseconds since the Unix epoch.
    pub at: Millis,
    pub state: RunState,
    pub what: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    pub job: JobId,
    pub spec: JobSpec,
    /// The peer through which the job was submitted: it may cancel, pause, update and remove.
    pub owner: PeerId,
    /// By which it is the owner's.
    pub signed: OwnerSignature,
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
    /// Since which entry controls meet the job as it stands: that of its submit, of its last control or of its last
    /// change of state.
    pub since: LogIndex,
    /// The last control, if there was one.
    pub controlled: Option<Box<Controlled>>,
    pub run: Run,
    /// The trigger that made the run.
    pub fired_by: Option<FiredBy>,
    pub history: Vec<HistoryEntry>,
}

/// A control that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controlled {
    /// The entry that applied it.
    pub at: LogIndex,
    /// Over sender, what the sender had seen and the control: a copy that comes later is known by it.
    pub digest: Digest,
}

impl JobRecord {
    /// What one has seen who reads the record now.
    pub fn seen(&self) -> LogIndex {
        self.revision.max(self.since)
    }
    /// The run of a job that stores, taken out of the record with its specification.
    pub fn into_store(self) -> Option<(StoreSpec, StoreRun)> {
        match (self.spec, self.run) {
            (JobSpec::Once(WorkSpec::Store(spec)), Run::Store(run)) => Some((*spec, *run)),
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
}
