//! Tasks, attempts and workers as their quorum remembers them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error_class::ErrorClass;
use super::retry::refusal_wait;
use crate::approval::Grant;
use crate::capacity::{Capacity, Requirement, Supply, Unmet};
use crate::engine::{Engine, NodeRole};
use crate::ids::{Attempt, Digest, JobId, ManifestHash, Millis, PeerId, QuorumId, StepIndex, TaskIndex};
use crate::task::vote::Vote;

/// One task, whatever the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    pub job: JobId,
    pub step: StepIndex,
    pub task: TaskIndex,
}

/// One try of a task: what fences every effect and every report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskAttempt {
    pub id: TaskId,
    pub attempt: Attempt,
}

/// Bytes that a task left: in the quorum's record, or as an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Output {
    /// BLAKE3 of the bytes, wherever they are.
    pub digest: Digest,
    pub bytes: u64,
    pub place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    Record,
    Object { quorum: QuorumId, manifest: ManifestHash },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskState {
    /// Wants a worker, or (under verification) further copies.
    Ready,
    /// Waits for its next try.
    Delayed {
        until: Millis,
    },
    /// Has all the attempts that it wants.
    Running,
    Done,
    /// Given up; the reason is in `TaskExtras`.
    DeadLetter,
    /// It may have begun on a worker that is lost, and must not begin twice: a person decides.
    Parked,
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Handed out. A task that must not begin twice has not begun.
    Assigned,
    /// Begun. Recorded only for tasks that must not begin twice; others may have begun when they are *given*.
    Started,
    /// Verified tasks: the worker has committed to a result that it has not shown.
    Committed(Digest),
    /// Verified tasks: the result that it had committed to.
    Revealed(Vote),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    pub attempt: Attempt,
    pub worker: PeerId,
    pub phase: Phase,
    /// Quorum time when it was given.
    pub since: Millis,
    /// When the quorum gives it up; `None` while it waits for the other copies of its task.
    pub until: Option<Millis>,
    /// What it takes at its worker.
    pub resources: Requirement,
}

/// One task. Kept small: a job may have tens of thousands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    pub state: TaskState,
    /// Newest attempt handed out; 0 when none was.
    pub newest: Attempt,
    /// Quorum time of the first attempt; for the retry deadline.
    pub first_at: Millis,
    /// Failures that count against the retry policy, and workers lost.
    pub failures: u16,
    pub losses: u16,
    /// Attempts that may still report.
    pub live: Vec<AttemptRecord>,
    /// The result that was taken.
    pub won: Option<Box<Won>>,
    pub extras: Option<Box<TaskExtras>>,
}

/// The attempt whose result a task has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Won {
    pub attempt: Attempt,
    pub worker: PeerId,
    pub output: Output,
}

/// What only some tasks have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskExtras {
    /// The last failure, and who had it: another worker is preferred for the next try.
    pub last: Option<Failure>,
    pub checkpoint: Option<Output>,
    /// Rounds of copies that ended without agreement.
    pub rounds: u16,
    /// Set once enough copies have committed: from then on they show their results, and no copy is added.
    pub revealing: bool,
    /// Verified tasks: who said what, once the task is settled; the dissenters among them.
    pub votes: Vec<Vote>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub attempt: Attempt,
    pub worker: PeerId,
    pub class: ErrorClass,
    pub reason: String,
}

/// What the task pool keeps of a run that has tasks, whatever its kind. The tasks are in a table of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunTasks {
    /// The step at work.
    pub step: StepIndex,
    /// Tasks of that step, and how they stand.
    pub tally: Tally,
    /// Names the program of that step.
    pub program: Digest,
    /// What may be changed while the job runs.
    pub settings: Settings,
    /// Stride scheduling: the job with the least has the next turn.
    pub pass: u64,
    /// Peers that refused this job when they were last asked.
    pub avoided: BTreeMap<PeerId, WorkerRefusal>,
    /// Tasks that were given up, by name up to a number.
    pub dead_letters: Vec<(StepIndex, TaskIndex, String)>,
    /// Reports that came under an attempt that was replaced.
    pub stale_reports: u64,
    /// How long tasks of the step took, by powers of two of milliseconds.
    pub durations: Vec<u32>,
}

/// A peer's refusal to run a job. What it is for may pass (a program is installed, a list is changed), so the peer is
/// asked again, after ever longer waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRefusal {
    pub reason: String,
    /// How often it refused, with a wait before each time but the first.
    pub times: u16,
    /// Nothing is offered to it until then; `None`: the wait is over.
    pub until: Option<Millis>,
}

/// Tasks of one step by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub total: u32,
    pub ready: u32,
    pub delayed: u32,
    pub running: u32,
    pub done: u32,
    pub dead_letters: u32,
    pub parked: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub priority: u8,
    pub parallelism: u32,
    pub resources: Requirement,
}

/// A peer that promised to run tasks of this quorum for a time. The primary renews the lease, and says when it is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    pub grant: Grant,
    /// What the lease reserves, for all tasks together.
    pub capacity: Capacity,
    /// What it runs tasks with.
    pub engines: Vec<Engine>,
    pub labels: BTreeMap<String, String>,
}

impl WorkerRecord {
    /// What keeps the worker from running such a task even when it has nothing else to do; `None` when it could.
    pub fn unmet(&self, engine: Engine, requirement: &Requirement) -> Option<Unmet> {
        let roles = self.engines.iter().map(|engine| NodeRole::from(*engine));
        requirement.unmet(engine.into(), Supply { roles, labels: &self.labels, free: self.capacity })
    }
}

/// An attempt that must end: the worker has been told, or will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    pub worker: PeerId,
    pub since: Millis,
    /// What it still uses there.
    pub resources: Requirement,
}

impl RunTasks {
    /// Whether nothing of the run is offered to the peer at present.
    pub fn avoids(&self, peer: &PeerId) -> bool {
        self.avoided.get(peer).is_some_and(|refusal| refusal.until.is_some())
    }
    /// Several refusals that answer one offer count once. The caller sees to the number of peers.
    pub fn record_refusal(&mut self, peer: PeerId, reason: String, now: Millis) {
        let first = || WorkerRefusal { reason: String::new(), times: 0, until: None };
        let refusal = self.avoided.entry(peer).or_insert_with(first);
        refusal.reason = reason;
        if refusal.until.is_none() {
            refusal.times = refusal.times.saturating_add(1);
            refusal.until = Some(now.plus(refusal_wait(refusal.times)));
        }
    }
    /// When the first peer may be asked again.
    pub fn refusal_over_at(&self) -> Option<Millis> {
        self.avoided.values().filter_map(|refusal| refusal.until).min()
    }
    /// Of a run whose first step runs this program.
    pub fn new(program: Digest, settings: Settings) -> Self {
        Self {
            step: StepIndex(0),
            tally: Tally::default(),
            program,
            settings,
            pass: 0,
            avoided: BTreeMap::new(),
            dead_letters: Vec::new(),
            stale_reports: 0,
            durations: Vec::new(),
        }
    }
}

impl AttemptRecord {
    /// What it takes at its worker: nothing, once it has committed to a result. Tasks that wait for their last copies
    /// would otherwise keep each other from them.
    pub fn taken(&self) -> Option<&Requirement> {
        matches!(self.phase, Phase::Assigned | Phase::Started).then_some(&self.resources)
    }
}

impl TaskRecord {
    pub fn ready() -> Self {
        Self {
            state: TaskState::Ready,
            newest: Attempt(0),
            first_at: Millis(0),
            failures: 0,
            losses: 0,
            live: Vec::new(),
            won: None,
            extras: None,
        }
    }
    pub fn is_settled(&self) -> bool {
        matches!(self.state, TaskState::Done | TaskState::DeadLetter | TaskState::Parked)
    }
    pub fn extras_mut(&mut self) -> &mut TaskExtras {
        self.extras.get_or_insert_default()
    }
    pub fn is_revealing(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.revealing)
    }
    pub fn attempt(&self, attempt: Attempt) -> Option<&AttemptRecord> {
        self.live.iter().find(|live| live.attempt == attempt)
    }
    pub fn output(&self) -> Option<&Output> {
        self.won.as_ref().map(|won| &won.output)
    }
    /// Who has or had the attempt, as far as that is still known.
    pub fn worker_of(&self, attempt: Attempt) -> Option<PeerId> {
        let live = self.attempt(attempt).map(|live| live.worker);
        let won = self.won.as_ref().filter(|won| won.attempt == attempt).map(|won| won.worker);
        let last = self.extras.as_ref().and_then(|extras| extras.last.as_ref());
        let failed = last.filter(|failure| failure.attempt == attempt).map(|failure| failure.worker);
        live.or(won).or(failed)
    }
}
