//! Words: what JSON calls each value of the core's enums. A contract with scripts, which the core does not know: it may
//! rename a state, and the word stays. Each table names every variant on both sides, so that one without a word does
//! not compile.

use quorate_protocols::{engine, job, quorum, task, trigger};
use serde::{Deserialize, Serialize};

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident of $core:ty { $($(#[$variant_doc:meta])* $variant:ident = $word:tt,)* })*) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
        )]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word in JSON, which people read too.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl From<$core> for $name {
            fn from(value: $core) -> Self {
                match value {
                    $(<$core>::$variant => Self::$variant,)*
                }
            }
        }

        impl From<$name> for $core {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$variant => Self::$variant,)*
                }
            }
        }
    )*};
}

words! {
    /// What a quorum runs: how a job is planned, what it may be told, and what it comes to.
    Kind of job::Kind {
        Store = "store",
        Batch = "batch",
    }

    /// Where a job stands. Only `succeeded`, `failed`, `reverted` and `cancelled` are final.
    RunState of job::RunState {
        Pending = "pending",
        Running = "running",
        Pausing = "pausing",
        Paused = "paused",
        Cancelling = "cancelling",
        Reverting = "reverting",
        Succeeded = "succeeded",
        Failed = "failed",
        Reverted = "reverted",
        Cancelled = "cancelled",
        AwaitingResolution = "awaiting-resolution",
    }

    /// What runs one attempt of a task.
    Engine of engine::Engine {
        /// Runs a WebAssembly module.
        Wasm = "wasm",
        /// Runs a program that the worker's operator allows.
        Command = "command",
    }

    /// What a node announces that it takes on for others.
    NodeRole of engine::NodeRole {
        /// Keeps columns of objects, and is a member of quorums.
        Store = "store",
        /// Runs tasks of WebAssembly modules.
        Wasm = "wasm",
        /// Runs tasks of programs that its operator allows.
        Command = "command",
    }

    /// How far one column of an object is.
    ColumnState of job::ColumnState {
        /// No holder: backups ran out, the primary asks for more.
        Open = "open",
        /// Assigned; pieces are on their way.
        Filling = "filling",
        /// The receipt was committed with the manifest, or by a repair.
        Sealed = "sealed",
        /// The holder acknowledged that the column is permanent.
        Confirmed = "confirmed",
    }

    ObjectState of quorum::ObjectState {
        Live = "live",
        /// Removed: its columns are being released.
        Removing = "removing",
    }

    /// Why an attempt failed. The first five are the task's own doing and, of a deterministic program, would happen
    /// again; the others say nothing about what its result would be.
    ErrorClass of task::error_class::ErrorClass {
        /// It ended with an exit code other than 0.
        Exit = "exit",
        /// The module trapped, or a signal ended the program.
        Trap = "trap",
        /// The module used up its fuel.
        Fuel = "fuel",
        /// It wrote more than it may.
        Output = "output",
        /// What it was told to run is not a program: the module does not compile or asks for what is not there.
        Program = "program",
        /// It asked for more memory than it may have.
        Memory = "memory",
        Timeout = "timeout",
        /// An input could not be had.
        Input = "input",
        /// The worker's own trouble: a full disk, a failure to start.
        Host = "host",
        /// This worker will not or cannot run the job: its operator does not list the program, or there is no room.
        Refused = "refused",
        /// The worker is gone, or forgot the attempt.
        Lost = "lost",
    }

    /// Why nothing ran.
    SkipReason of trigger::SkipReason {
        /// Nobody could commit it in time, and the policy does not make up for it.
        Missed = "missed",
        /// Later than the policy's deadline.
        Deadline = "deadline",
        /// An earlier run was not over.
        Overlap = "overlap",
        QueueFull = "queue-full",
        /// A newer one took its place in the queue.
        Replaced = "replaced",
        Suspended = "suspended",
        /// A newer event came within the debounce.
        Debounced = "debounced",
        /// The quorum had no room for another run.
        Full = "full",
        /// The expression could not be evaluated.
        Fault = "fault",
        /// The job that it waited for ended otherwise.
        Outcome = "outcome",
        /// Its emitter could not keep it until it was taken.
        Lost = "lost",
        /// The trigger was cancelled while it waited.
        Cancelled = "cancelled",
    }
}

impl RunState {
    pub fn is_final(self) -> bool {
        job::RunState::from(self).is_final()
    }
}

impl SkipReason {
    /// For people.
    pub fn explain(self) -> &'static str {
        trigger::SkipReason::from(self).explain()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every value of the core has its word, no two the same, in JSON and in sentences. Method: the words of one
    /// table with what JSON makes of its values, and with the names that the core has for people.
    macro_rules! check {
        ($name:ident, $core:ty, $words:expr) => {
            let names: Vec<&str> = $name::ALL.iter().map(|value| value.name()).collect();
            assert_eq!(names, $words, stringify!($name));
            for value in $name::ALL.iter().copied() {
                assert_eq!(serde_json::to_value(value).unwrap(), value.name());
                assert_eq!(serde_json::from_value::<$name>(value.name().into()).unwrap(), value);
                assert_eq!($name::from(<$core>::from(value)), value);
            }
        };
    }

    #[test]
    fn each_value_of_the_core_has_its_word() {
        check!(Kind, job::Kind, ["store", "batch"]);
        check!(
            RunState,
            job::RunState,
            [
                "pending",
                "running",
                "pausing",
                "paused",
                "cancelling",
                "reverting",
                "succeeded",
                "failed",
                "reverted",
                "cancelled",
                "awaiting-resolution"
            ]
        );
        check!(Engine, engine::Engine, ["wasm", "command"]);
        check!(NodeRole, engine::NodeRole, ["store", "wasm", "command"]);
        check!(ColumnState, job::ColumnState, ["open", "filling", "sealed", "confirmed"]);
        check!(ObjectState, quorum::ObjectState, ["live", "removing"]);
        check!(
            ErrorClass,
            task::error_class::ErrorClass,
            ["exit", "trap", "fuel", "output", "program", "memory", "timeout", "input", "host", "refused", "lost"]
        );
        check!(
            SkipReason,
            trigger::SkipReason,
            [
                "missed",
                "deadline",
                "overlap",
                "queue-full",
                "replaced",
                "suspended",
                "debounced",
                "full",
                "fault",
                "outcome",
                "lost",
                "cancelled"
            ]
        );
    }

    /// Goal: a sentence of the core, such as a reason, calls a thing by the word that JSON has for it.
    #[test]
    fn the_core_says_the_same_words_to_people() {
        for kind in job::Kind::ALL {
            assert_eq!(Kind::from(*kind).name(), kind.name());
        }
        for state in job::RunState::ALL {
            assert_eq!(RunState::from(state).name(), state.name());
        }
        for engine in engine::Engine::ALL {
            assert_eq!(Engine::from(engine).name(), engine.name());
        }
        for role in engine::NodeRole::ALL {
            assert_eq!(NodeRole::from(role).name(), role.name());
        }
        for class in task::error_class::ErrorClass::ALL {
            assert_eq!(ErrorClass::from(class).name(), class.name());
        }
    }
}
