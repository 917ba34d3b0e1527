//! What a user asks for.

use serde::{Deserialize, Serialize};

use super::batch::BatchSpec;
use super::kind::{Kind, WorkSpec};
use crate::object::layout::Profile;
use crate::trigger::spec::TriggeredSpec;

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
