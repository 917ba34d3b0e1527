//! The specification of a job, of any kind.

use serde::{Deserialize, Serialize};

use super::batch::BatchSpec;
use super::kind::{Kind, WorkSpec};
use crate::fault::SpecFault;
use crate::ids::PeerId;
use crate::object::layout::Profile;
use crate::trigger::spec::TriggerSpec;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobSpec {
    /// Work that is done once.
    Once(WorkSpec),
    /// Work that is done each time a trigger fires.
    Triggered(Box<TriggeredSpec>),
}

impl JobSpec {
    pub fn store(spec: StoreSpec) -> Self {
        Self::Once(spec.into())
    }

    pub fn batch(spec: BatchSpec) -> Self {
        Self::Once(spec.into())
    }

    /// What is done, whenever it is.
    pub fn work(&self) -> &WorkSpec {
        match self {
            Self::Once(work) => work,
            Self::Triggered(spec) => &spec.work,
        }
    }

    pub fn kind(&self) -> Kind {
        self.work().kind()
    }

    /// Whether the owner names the peer as one that may read what the job is given and comes to.
    pub fn names_reader(&self, peer: PeerId) -> bool {
        self.as_batch().is_some_and(|spec| spec.readers.contains(&peer))
    }

    /// What its tasks are made of, if the work is a batch.
    pub fn as_batch(&self) -> Option<&BatchSpec> {
        match self.work() {
            WorkSpec::Batch(spec) => Some(spec),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreSpec {
    /// The file's name as its user knows it; for people only.
    pub name: Option<String>,
    /// Bytes, when known before the stream ends. Leases are sized by it.
    pub size: Option<u64>,
    pub profile: Profile,
}

/// A job that runs each time its trigger fires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggeredSpec {
    pub trigger: TriggerSpec,
    /// What each fire runs.
    pub work: WorkSpec,
}

impl TriggeredSpec {
    pub fn new(trigger: TriggerSpec, work: impl Into<WorkSpec>) -> Self {
        Self { trigger, work: work.into() }
    }
}

impl TriggeredSpec {
    /// The first thing that is wrong in size or shape, whatever the build.
    pub fn check(&self) -> Result<(), SpecFault> {
        self.trigger.check()?;
        match &self.work {
            WorkSpec::Batch(batch) => {
                batch.check_triggered()?;
                batch.check()
            }
            _ => Ok(()),
        }
    }

    /// As `check`, and whether this build can tell what lines of cron, zones and expressions mean. Asked by whoever
    /// takes the job in, before it is proposed.
    pub fn check_meaning(&self) -> Result<(), SpecFault> {
        self.check()?;
        self.trigger.check_meaning()
    }
}
