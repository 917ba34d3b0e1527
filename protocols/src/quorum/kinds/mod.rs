//! Kinds of work: the seam between what a quorum keeps of every job and what only one kind knows.
//!
//! The frame has what all jobs share: records, states, history, time, the pool of tasks, the catalog of objects,
//! triggers. A kind says what a specification means, which command leads where, what the primary owes a run and why a
//! run is where it is ([`Kind`]). It reaches the frame through a context ([`RunCx`]) and through nothing else.
//!
//! A new kind is one line of [the registry](crate::job::kind), one module here, and whatever its users see of it: its
//! reader, its JSON and its page. `counter`, a kind that only tests have, shows what the seam asks for.

pub(crate) mod batch;
pub(in crate::quorum) mod context;
#[cfg(test)]
pub(crate) mod counter;
mod dispatch;
pub(crate) mod store;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::author::Author;
use super::check::Checked;
use super::command::Control;
use super::duty::Duty;
use super::reply::Rejection;
use super::reply::{Applied, invalid};
use super::uses::Part;
use crate::ids::{JobId, Millis, ObjectId, PeerId, StepIndex, TaskIndex};
use crate::job::record::JobRecord;
use crate::job::transition::{Row, RunCommand};
use crate::task::record::RunTasks;
use crate::task::spec::Call;
use crate::task::spec::TaskInput;
use crate::task::terms::TaskTerms;
use context::{RunCx, RunView};

pub use dispatch::{KindCommand, transition_tables};

/// What a kind of work is. Every function is pure: what it is given, and what a context shows of the record.
///
/// A kind that has tasks also says which ([`Kind::call`], [`Kind::input`]) and under which terms; the pool gives them
/// out, judges reports and calls [`Kind::task_event`].
pub(in crate::quorum) trait Kind {
    /// The level that a quorum must have reached before such a job may be proposed.
    const LEVEL: u16;
    /// Which command leads where.
    const TRANSITIONS: &'static [Row];

    type Spec;
    type Run;
    /// Commands that only this kind has; [`NoCommand`] for none.
    type Command: OwnCommand;

    // ---- a job's life ----

    /// The first thing that is wrong with a specification, whoever wrote it.
    fn check(spec: &Self::Spec) -> Result<(), Rejection>;
    /// What one more run counts against the quorum's room, of a specification of so many bytes. The frame refuses what
    /// does not fit, at a submit and at a fire alike; that live jobs have a limit is the frame's own.
    fn weight(spec: &Self::Spec, spec_bytes: usize) -> Weight;
    /// A new run of the job that `by` submits.
    fn new_run(view: RunView<'_>, spec: &Self::Spec, by: PeerId) -> Self::Run;
    /// The record was just made.
    fn begin(cx: &mut RunCx<'_>);
    /// A control that every kind may have: pause, resume, cancel, retry, resolve, update. The table allows it.
    fn control(cx: &mut RunCx<'_>, by: PeerId, control: &Control) -> Applied;
    /// Refuses one of its own commands for what can be seen without its time; asked before the command enters the log,
    /// and again when it is applied.
    fn check_command(_: &JobRecord, _by: PeerId, _: &Self::Command) -> Result<(), Rejection> {
        Ok(())
    }
    /// One of its own commands. The table allows it, and so does [`Kind::check_command`].
    fn command(cx: &mut RunCx<'_>, by: PeerId, command: &Self::Command) -> Applied;
    /// The earliest timer of the run, in quorum time; those of its tasks are the pool's.
    fn timer(record: &JobRecord) -> Option<Millis>;
    /// Timers have run out: it serves each that has.
    fn elapsed(cx: &mut RunCx<'_>);
    /// Tasks of the run have changed: it makes the moves that follow. `by` is what changed them.
    fn task_event(cx: &mut RunCx<'_>, by: RunCommand);

    // ---- what the primary owes it ----

    /// Whether the primary has duties for the run as it stands, ended or not. A run with duties is not forgotten after
    /// its end.
    fn has_duties(record: &JobRecord, run: &Self::Run) -> bool;
    fn duties(record: &JobRecord, run: &Self::Run, duties: &mut Vec<Duty>);

    // ---- reading ----

    fn name(spec: &Self::Spec) -> Option<&str>;
    /// Why a run is where it is, in one sentence. `time` is quorum time, `wall` what the clocks say.
    fn why(record: &JobRecord, spec: &Self::Spec, run: &Self::Run, time: Millis, wall: Millis) -> String;
    /// The same without inline bytes and without what only the job's own page shows.
    fn outline_spec(spec: &Self::Spec) -> Self::Spec;
    fn outline_run(run: &Self::Run) -> Self::Run;
    /// The outline, without what only those may read whom the table of rights names.
    fn redacted_spec(spec: &Self::Spec) -> Self::Spec {
        Self::outline_spec(spec)
    }
    /// What is always true of a run.
    fn check_invariants(view: RunView<'_>, record: &JobRecord, spec: &Self::Spec, run: &Self::Run) -> Checked;

    // ---- what some kinds have ----

    /// Whether a repeated submit must come through the same peer to be the same job.
    const IS_OF_ITS_SUBMITTER: bool = false;
    /// What an object is to the job; `None` when its specification does not name it.
    fn part_of(_: &Self::Spec, _: ObjectId) -> Option<Part> {
        None
    }
    /// Bytes of piece hashes that the run keeps: they grow with it, and have a limit of their own
    /// (`HASH_BYTES_MAX`). What tasks add while they run is weighed by the pool.
    fn hash_bytes(_: &Self::Run) -> usize {
        0
    }
    /// Clocks were set back: stamps later than `at` become `at`.
    fn withdraw_stamps(_: &mut Self::Run, _: Millis) {}
    /// Whether a trigger may run it, beside what [`Kind::check`] says.
    fn check_triggered(_: &Self::Spec) -> Result<(), Rejection> {
        Ok(())
    }
    /// Gives a run what fired it.
    fn give_input(_: &mut Self::Spec, _: Bytes) {}

    // ---- what kinds with tasks have ----

    fn tasks(_: &Self::Run) -> Option<&RunTasks> {
        None
    }
    fn tasks_mut(_: &mut Self::Run) -> Option<&mut RunTasks> {
        None
    }
    /// How tasks of a step are given out and judged.
    fn terms(_: &Self::Spec, _: StepIndex) -> Option<TaskTerms<'_>> {
        None
    }
    /// What tasks of a step run.
    fn call(_: &Self::Spec, _: StepIndex) -> Option<&Call> {
        None
    }
    /// Tasks of a step; `None` when there is no such step.
    fn step_len(_: &Self::Spec, _: StepIndex) -> Option<u32> {
        None
    }
    /// What one task is given.
    fn input(_: &Self::Spec, _: StepIndex, _: TaskIndex) -> Option<TaskInput> {
        None
    }
}

/// What a run counts against the room that a quorum has, as long as it lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::quorum) struct Weight {
    /// Tasks that are live at once, at the most.
    pub tasks: usize,
    /// Bytes of specifications and outputs, which members keep in memory and in snapshots.
    pub bytes: usize,
    /// The object that it makes, with bytes of piece hashes; `None` when it makes none.
    pub object: Option<usize>,
}

/// A command that only one kind has.
pub(in crate::quorum) trait OwnCommand {
    /// As the kind's table names it, in `RunCommand::Own`.
    fn name(&self) -> &'static str;
    /// The level that a quorum must have reached before this may be proposed: that of the kind, or a later one if the
    /// command came later. Exhaustive, as [`Command::level`](crate::quorum::Command::level) is.
    fn level(&self) -> u16;
    /// Who may propose it.
    fn author(&self, job: JobId) -> Author<'_>;
}

/// The commands of a kind that has none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoCommand {}

impl OwnCommand for NoCommand {
    fn name(&self) -> &'static str {
        match *self {}
    }
    fn level(&self) -> u16 {
        match *self {}
    }
    fn author(&self, _: JobId) -> Author<'_> {
        match *self {}
    }
}

/// The answer to a command that the kind's table does not have. The table is asked first, so it is never given; it
/// stands in place of a panic.
pub(in crate::quorum) fn not_for_this_kind() -> Rejection {
    invalid("the command is not for jobs of this kind")
}
