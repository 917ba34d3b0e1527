//! Specification of a batch job: a program, the inputs of its tasks, and the limits on retries and time.
//!
//! A [`BatchSpec`] is plain data that any peer may have written. [`BatchSpec::check`] (in `check`) alone decides
//! whether it may run: readers of files call it to show the user what is wrong, and the quorum's core calls it again
//! before it records anything. Everything here is settled before the submit: files have become inline bytes or objects,
//! and sizes of objects are known (workers check them against the manifest).

pub(crate) mod check;

use crate::capacity::{Capacity, Requirement};
use crate::ids::Millis;
use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::ids::{ObjectId, PeerId};
use crate::task::record::{RunTasks, Settings};
use crate::task::spec::{Call, Content, OutputPlace, Program, RetryPolicy, Split, Stragglers, Verify};

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
    pub resources: Requirement,
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
    /// Peers, beside the owner, that may read the whole specification, results and logs. The quorum's members may
    /// anyway.
    pub readers: BTreeSet<PeerId>,
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
pub struct Timeouts {
    /// Of one attempt.
    pub task: Duration,
    /// Of one step, pauses included. `None`: only the run's.
    pub step: Option<Duration>,
    /// Of the whole run, waiting, pauses and parking included.
    pub run: Duration,
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
            resources: Capacity { memory_bytes: 128 << 20, disk_bytes: 0, slots: 1 }.into(),
            priority: 50,
            parallelism: 0,
            retry,
            timeouts: Timeouts { task: Duration::from_secs(600), step: None, run: Duration::from_secs(24 * 3600) },
            verify: None,
            stragglers: None,
            idempotent: true,
            readers: BTreeSet::new(),
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

    /// The outline, without arguments and the values of the environment.
    pub(crate) fn redacted(&self) -> Self {
        let mut redacted = self.outline();
        let reduced = redacted.reduce.as_mut().map(|reduce| &mut reduce.call);
        for call in [Some(&mut redacted.call), reduced, redacted.compensate.as_deref_mut()].into_iter().flatten() {
            call.args.clear();
            call.env.values_mut().for_each(String::clear);
        }
        redacted
    }

    /// Has every program of the job find this content under that name.
    pub(crate) fn give(&mut self, name: &str, content: &Content) {
        let reduced = self.reduce.as_mut().map(|reduce| &mut reduce.call);
        for call in [Some(&mut self.call), reduced, self.compensate.as_deref_mut()].into_iter().flatten() {
            call.inputs.insert(name.to_owned(), content.clone());
        }
    }

    /// Takes back what [`Self::give`] gave under the name; `None` when there is nothing.
    pub(crate) fn withdraw(&mut self, name: &str) -> Option<Bytes> {
        let reduced = self.reduce.as_mut().map(|reduce| &mut reduce.call);
        let mut given = None;
        for call in [Some(&mut self.call), reduced, self.compensate.as_deref_mut()].into_iter().flatten() {
            given = call.inputs.remove(name);
        }
        match given {
            Some(Content::Inline(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Every program that a worker of this job must be able to run.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        std::iter::once(&self.call)
            .chain(self.reduce.as_ref().map(|reduce| &reduce.call))
            .chain(self.compensate.as_deref())
    }
}

/// Where a batch run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRun {
    pub tasks: RunTasks,
    /// Quorum time at which the step began; for its timeout.
    pub step_at: Millis,
    /// Where the run goes once its work has been stopped or undone.
    pub ending: Option<Ending>,
    /// While pausing: since when the work is to stop. While paused: since when it is.
    pub stopped_at: Option<Millis>,
    /// From where the run's timeout counts: its submit, or the begin of undoing or parking.
    pub clock_at: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    Cancelled,
    Reverted { reason: String },
}

impl BatchRun {
    pub fn new(spec: &BatchSpec, now: Millis) -> Self {
        let BatchSpec { priority, parallelism, resources, .. } = spec;
        let settings = Settings { priority: *priority, parallelism: *parallelism, resources: resources.clone() };
        let tasks = RunTasks::new(spec.call.program.digest(), settings);
        Self { tasks, step_at: now, ending: None, stopped_at: None, clock_at: now }
    }
}
