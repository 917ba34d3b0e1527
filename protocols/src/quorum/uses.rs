//! Uses of objects: the live jobs that need them.
//!
//! A job needs what its specification names (modules, inputs, what it maps over, the source of its condition) and what
//! its tasks have put out so far, for a later step may fold it. A quorum knows this of its own jobs. The object may be
//! of another quorum: whoever is about to remove one asks the other quorums too. Ended jobs need nothing: the outputs
//! that they name are their users' to keep or to remove.

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, ObjectId};
use crate::job::spec::JobSpec;
use crate::quorum::limits::USES_NAMED_MAX;
use crate::trigger::spec::{Source, When};

/// What an object is to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Module,
    Input,
    /// What its condition looks at.
    Source,
    /// What one of its tasks has put out.
    Output,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Module => "module",
            Self::Input => "input",
            Self::Source => "source",
            Self::Output => "output",
        })
    }
}

/// A live job that needs an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectUse {
    pub job: JobId,
    pub name: Option<String>,
    /// It runs again and again.
    pub trigger: bool,
    pub part: Part,
}

/// Live jobs that need an object: how many, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uses {
    pub total: u32,
    pub first: Vec<ObjectUse>,
}

impl Uses {
    pub(super) fn add(&mut self, one: impl FnOnce() -> ObjectUse) {
        self.total = self.total.saturating_add(1);
        if self.first.len() < USES_NAMED_MAX {
            self.first.push(one());
        }
    }
    /// Takes those of another quorum in.
    pub fn extend(&mut self, others: Self) {
        self.total = self.total.saturating_add(others.total);
        self.first.extend(others.first);
        self.first.truncate(USES_NAMED_MAX);
    }
}

impl std::fmt::Display for Uses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, used) in self.first.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let what = if used.trigger { "trigger" } else { "job" };
            write!(f, "{comma}{} of {what} {}", used.part, used.job)?;
            if let Some(name) = &used.name {
                write!(f, " ({name:?})")?;
            }
        }
        match (self.total as usize).saturating_sub(self.first.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl JobSpec {
    /// What the object is to the job; `None` when its specification does not name it.
    pub fn part_of(&self, object: ObjectId) -> Option<Part> {
        let source = match self {
            Self::Once(_) => false,
            Self::Triggered(spec) => match &spec.trigger.when {
                When::Condition(condition) => condition.source == Source::Object(object),
                _ => false,
            },
        };
        if source { Some(Part::Source) } else { self.work().part_of(object) }
    }
}
