//! The specification of tasks (program, inputs, patience of the quorum): the parts of every specification of work
//! that has tasks.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error_class::ErrorClass;
use crate::engine::Engine;
use crate::ids::{Digest, ObjectId, StepIndex, TaskIndex};
use crate::wire;

/// A program and what it is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub program: Program,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Files that the program finds by these names.
    pub inputs: BTreeMap<String, Content>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// A WASI preview 1 command module.
    Wasm {
        module: Content,
        /// Units of wasmtime's fuel after which the task ends, with that as its outcome. `None`: no such limit.
        fuel: Option<u64>,
        /// Fixed clock and randomness, canonical NaNs: equal inputs give equal outputs, byte for byte. Needs `fuel`.
        deterministic: bool,
    },
    /// An entry of the worker's own list of allowed programs. Its operator decides what runs under that name.
    Command { name: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    Inline(Bytes),
    Object { object: ObjectId, size: u64 },
}

/// Where one range of an object ends and the next begins, for programs that read records. With *lines* and *words* a
/// task gets every record that starts in its range: it skips through the first separator (unless the range is the
/// first) and reads past its end through the next one. So every record is read once, by one task; one that starts at
/// the very border belongs to the earlier range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Split {
    Exact,
    /// Records end with a line feed.
    Lines,
    /// Records end with ASCII white space.
    Words,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputPlace {
    /// In the quorum's record; a larger output is an error of the task.
    Inline,
    /// In the record when small, as an object otherwise.
    Object,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Tries of one task in all, the first included.
    pub attempts: u16,
    /// Wait before the second try; each further wait is twice the one before.
    pub base: Duration,
    /// Longest wait.
    pub cap: Duration,
    /// A wait is shortened by up to this share of it, so that tasks that failed together do not return together.
    pub jitter_percent: u8,
    /// No try begins later than this after the task's first.
    pub deadline: Option<Duration>,
    /// Errors after which another try makes sense. A lost worker always counts as one.
    pub on: Vec<ErrorClass>,
}

/// Run every task on `copies` peers and believe what `agree` of them say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    pub copies: u8,
    pub agree: u8,
}

/// Run a second copy of a task that takes much longer than others did; the first result wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stragglers {
    /// How much longer than the median, in percent of it.
    pub slower_percent: u32,
    /// Share of the step's tasks that must be done before anything is called slow.
    pub done_percent: u8,
}

/// What one task is given beside its call's own inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskInput {
    None,
    Item(Content),
    /// Bytes `offset..offset + length` of an object of `total` bytes, cut as `split` says.
    Range {
        object: ObjectId,
        total: u64,
        offset: u64,
        length: u64,
        split: Split,
    },
    /// Outputs of tasks `from..to` of an earlier step, in order.
    Outputs {
        step: StepIndex,
        from: TaskIndex,
        to: TaskIndex,
    },
}

impl Call {
    pub fn new(program: Program) -> Self {
        Self { program, args: Vec::new(), env: BTreeMap::new(), inputs: BTreeMap::new() }
    }
}

impl Program {
    /// The same for the same program, whatever it is given.
    pub fn digest(&self) -> Digest {
        Digest(*blake3::hash(&wire::encode(self)).as_bytes())
    }
    pub const fn engine(&self) -> Engine {
        match self {
            Self::Wasm { .. } => Engine::Wasm,
            Self::Command { .. } => Engine::Command,
        }
    }
}

impl Content {
    pub(crate) fn empty(&mut self) {
        if let Self::Inline(bytes) = self {
            *bytes = Bytes::new();
        }
    }
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Object { size, .. } => *size,
        }
    }
}

impl RetryPolicy {
    /// What an engine's tasks try again when its spec does not say. A module that traps or runs out of fuel does so
    /// again; a command's exit code may have had a passing cause.
    pub fn for_engine(engine: Engine) -> Self {
        use ErrorClass::{Exit, Host, Input, Timeout};
        let on = match engine {
            Engine::Command => vec![Exit, Timeout, Input, Host],
            Engine::Wasm => vec![Timeout, Input, Host],
        };
        Self {
            attempts: 4,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(60),
            jitter_percent: 25,
            deadline: None,
            on,
        }
    }
}
