//! What a person asks for.

use serde::{Deserialize, Serialize};

use super::compute::ComputeSpec;
use crate::object::layout::Profile;
use crate::trigger::spec::TriggeredSpec;

/// What sort of work a job is. Each kind has a planner in this crate and an executor in the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Keep a file as erasure-coded pieces on many peers.
    Store,
    /// Run a WebAssembly module.
    Wasm,
    /// Run a program that the worker's operator allows.
    Command,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Store => "store",
            Self::Wasm => "wasm",
            Self::Command => "command",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobSpec {
    Store(StoreSpec),
    Compute(Box<ComputeSpec>),
    /// A job that runs each time its trigger fires. The kind is that of its runs.
    Triggered(Box<TriggeredSpec>),
}

impl JobSpec {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Store(_) => Kind::Store,
            Self::Compute(spec) => spec.kind(),
            Self::Triggered(spec) => spec.job.kind(),
        }
    }

    /// What its tasks compute, whenever they do.
    pub fn computes(&self) -> Option<&ComputeSpec> {
        match self {
            Self::Store(_) => None,
            Self::Compute(spec) => Some(spec),
            Self::Triggered(spec) => Some(&spec.job),
        }
    }

    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Store(spec) => spec.name.as_deref(),
            Self::Compute(_) | Self::Triggered(_) => self.computes()?.name.as_deref(),
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
