//! What a person asks for when a job computes: a program, what its tasks are made of, and how patient to be.
//!
//! A [`BatchSpec`] is plain data that anyone may have written. [`BatchSpec::check`] (in `check`) is the one place
//! that says whether it may run; readers of files call it to tell a person what is wrong, and the quorum's core calls
//! it again before it records anything. Everything here is settled before the submit: files have become inline bytes
//! or objects, and sizes of objects are known (workers check them against the manifest).

pub(crate) mod check;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::capacity::Capacity;
use crate::engine::Engine;
use crate::ids::{Digest, ObjectId};
use crate::task::record::ErrorClass;
use crate::wire;

pub use check::SpecFault;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchSpec {
    /// For people only.
    pub name: Option<String>,
    /// What every task of the first step runs.
    pub call: Call,
    /// What the first step's tasks are made of.
    pub map: Map,
    /// Folds the outputs of the first step into one.
    pub reduce: Option<Box<Reduce>>,
    /// Undoes one task of the first step; run for each that was begun when the run reverts.
    pub compensate: Option<Box<Call>>,
    pub on_failure: OnFailure,
    pub output: OutputPlace,
    /// What one task needs.
    pub resources: Resources,
    /// From 1 to 100: how large a share of the workers the job gets beside others. Not an order: no job starves.
    pub priority: u8,
    /// Tasks that may run at once; 0 is no limit of the job's own.
    pub parallelism: u32,
    pub retry: RetryPolicy,
    pub timeouts: Timeouts,
    pub verify: Option<Verify>,
    pub stragglers: Option<Stragglers>,
    /// Whether a task that may have begun may be begun again. A task that is not idempotent is parked for a person
    /// when its worker is lost in the middle of it.
    pub idempotent: bool,
}

impl BatchSpec {
    /// Names of the programs that its tasks run, of a job of commands.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        let calls = std::iter::once(&self.call)
            .chain(self.reduce.as_deref().map(|reduce| &reduce.call))
            .chain(self.compensate.as_deref());
        calls.filter_map(|call| match &call.program {
            Program::Command { name } => Some(name.as_str()),
            Program::Wasm { .. } => None,
        })
    }
}

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

/// What the tasks of the first step are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Map {
    /// One task without an item.
    Single,
    /// This many tasks, told apart by their number.
    Count(u32),
    /// One task per item.
    Items(Vec<Content>),
    /// One task per `bytes` of an object.
    Segments { object: ObjectId, size: u64, bytes: u64, split: Split },
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reduce {
    pub call: Call,
    /// Outputs that one task folds; more are folded level by level. The program must not care how they are grouped.
    pub fan_in: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// The run fails; its other tasks are stopped.
    Fail,
    /// The other tasks are stopped, and what was begun is undone by `compensate`.
    Revert,
    /// The other tasks go on; then the run waits for a person.
    Park,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputPlace {
    /// In the quorum's record; a larger output is an error of the task.
    Inline,
    /// In the record when small, as an object otherwise.
    Object,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resources {
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub slots: u32,
    /// Labels that the worker must carry.
    pub labels: BTreeMap<String, String>,
}

impl Resources {
    pub fn capacity(&self) -> Capacity {
        Capacity { disk_bytes: self.disk_bytes, memory_bytes: self.memory_bytes, slots: self.slots }
    }
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// Of one attempt.
    pub task: Duration,
    /// Of one step, pauses included. `None`: only the run's.
    pub step: Option<Duration>,
    /// Of the whole run, waiting, pauses and parking included.
    pub run: Duration,
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

impl BatchSpec {
    /// A single task with every default.
    pub fn new(call: Call) -> Self {
        let retry = RetryPolicy::for_engine(call.program.engine());
        Self {
            name: None,
            call,
            map: Map::Single,
            reduce: None,
            compensate: None,
            on_failure: OnFailure::Fail,
            output: OutputPlace::Object,
            resources: Resources { memory_bytes: 128 << 20, disk_bytes: 0, slots: 1, labels: BTreeMap::new() },
            priority: 50,
            parallelism: 0,
            retry,
            timeouts: Timeouts { task: Duration::from_secs(600), step: None, run: Duration::from_secs(24 * 3600) },
            verify: None,
            stragglers: None,
            idempotent: true,
        }
    }

    /// What runs its tasks: the same in every step.
    pub fn engine(&self) -> Engine {
        self.call.program.engine()
    }

    /// The same without inline bytes, as a listing shows it.
    pub(crate) fn outline(&self) -> Self {
        let mut outline = Self { map: Map::Single, ..self.clone() };
        let reduced = outline.reduce.as_mut().map(|reduce| &mut reduce.call);
        for call in [Some(&mut outline.call), reduced, outline.compensate.as_deref_mut()].into_iter().flatten() {
            if let Program::Wasm { module, .. } = &mut call.program {
                module.empty();
            }
            call.inputs.values_mut().for_each(Content::empty);
        }
        outline.map = match &self.map {
            Map::Items(items) => Map::Count(items.len() as u32),
            map => map.clone(),
        };
        outline
    }

    /// Has every program of the job find this content under that name.
    pub(crate) fn give(&mut self, name: &str, content: &Content) {
        let reduced = self.reduce.as_mut().map(|reduce| &mut reduce.call);
        for call in [Some(&mut self.call), reduced, self.compensate.as_deref_mut()].into_iter().flatten() {
            call.inputs.insert(name.to_owned(), content.clone());
        }
    }

    /// Every program that a worker of this job must be able to run.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        std::iter::once(&self.call)
            .chain(self.reduce.as_ref().map(|reduce| &reduce.call))
            .chain(self.compensate.as_deref())
    }
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
    fn empty(&mut self) {
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
