//! The registry of kinds: one line per kind of work that a quorum runs.
//!
//! A line names the kind, the types of its specification and its run, and the module of the quorum's `kinds` that
//! implements it. Every enum over kinds and every dispatch to one comes from these lines. The order is wire and disk
//! format: a new kind goes last.

use serde::{Deserialize, Serialize};

use super::record::JobRecord;
use super::spec::JobSpec;
use crate::trigger::record::TriggerRun;

/// Hands the registry to a macro: `Kind, accessor and module, "name", specification, run`.
macro_rules! for_each_kind {
    ($then:ident) => {
        $then! {
            Store, store, "store", $crate::job::StoreSpec, $crate::job::StoreRun;
            Batch, batch, "batch", $crate::job::BatchSpec, $crate::job::batch::BatchRun;
            #[cfg(test)] Counter, counter, "counter", $crate::job::counter::CounterSpec, $crate::job::counter::CounterRun;
        }
    };
}
pub(crate) use for_each_kind;

macro_rules! kinds_of_work {
    ($($(#[$meta:meta])* $kind:ident, $get:ident, $name:literal, $spec:ty, $run:ty;)*) => {
        /// What a quorum runs: how a job is planned, what it may be told, and what it comes to.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(rename_all = "lowercase")]
        pub enum Kind {
            $($(#[$meta])* $kind,)*
        }

        impl Kind {
            pub const ALL: &[Self] = &[$($(#[$meta])* Self::$kind,)*];

            /// As people read it; the same word as in JSON.
            pub const fn name(self) -> &'static str {
                match self {
                    $($(#[$meta])* Self::$kind => $name,)*
                }
            }
        }

        /// What a user asks for, of any kind.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum WorkSpec {
            $($(#[$meta])* $kind(Box<$spec>),)*
        }

        impl WorkSpec {
            pub const fn kind(&self) -> Kind {
                match self {
                    $($(#[$meta])* Self::$kind(_) => Kind::$kind,)*
                }
            }
        }

        $($(#[$meta])* impl From<$spec> for WorkSpec {
            fn from(spec: $spec) -> Self {
                Self::$kind(Box::new(spec))
            }
        })*

        /// Where a job stands, by what it is: a trigger, or a run of one kind. In boxes, for a quorum has thousands of
        /// records, and many of one kind.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Run {
            Trigger(Box<TriggerRun>),
            $($(#[$meta])* $kind(Box<$run>),)*
        }

        impl JobRecord {
            $(
                /// The run of a job of this kind, with its specification.
                $(#[$meta])*
                pub fn $get(&self) -> Option<(&$spec, &$run)> {
                    match (&self.spec, &self.run) {
                        (JobSpec::Once(WorkSpec::$kind(spec)), Run::$kind(run)) => Some((spec, run)),
                        _ => None,
                    }
                }
            )*
        }
    };
}

for_each_kind!(kinds_of_work);

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
