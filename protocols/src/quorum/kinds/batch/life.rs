//! The life of a batch run: its steps, and every way to its end.
//!
//! Whatever changes a run ends in [`advance`], which looks at where its tasks stand and makes the moves that follow. So
//! each rule (when a step is done, when failure is final, when a pause is complete) stands once.

use super::{of, with_run};
use crate::ids::{Attempt, StepIndex};
use crate::job::batch::Ending;
use crate::job::batch::OnFailure;
use crate::job::plan::Plan;
use crate::job::record::RunState;
use crate::job::transition::RunCommand;
use crate::quorum::kinds::context::RunCx;
use crate::task::limits::UNDONE_TASKS_MAX;
use crate::task::record::{TaskRecord, TaskState};
use crate::text::counted;

/// What follows for a run from where its tasks stand.
enum Move {
    Begin,
    Paused,
    Cancelled,
    /// A task was given up.
    GivenUp(String),
    StepDone,
    Park(String),
}

/// Opens the first step.
pub(super) fn begin(cx: &mut RunCx<'_>) {
    let tasks = of(cx).and_then(|(spec, _)| Plan::of(spec).step(StepIndex(0))).map_or(0, |step| step.tasks);
    cx.tasks().open_step(StepIndex(0), tasks);
}

/// Makes every move that follows from where the run's tasks stand.
pub(super) fn advance(cx: &mut RunCx<'_>, by: RunCommand) {
    while let Some(next) = next_move(cx) {
        match next {
            Move::Begin => cx.enter(by, RunState::Running, "its first task has a worker"),
            Move::Paused => {
                let now = cx.time();
                with_run(cx, |run| run.stopped_at = Some(now));
                cx.enter(by, RunState::Paused, "all its work has stopped");
            }
            Move::Cancelled => {
                let by_whom = cx.record().ok().and_then(|record| record.reason.clone());
                end(cx, by, RunState::Cancelled, by_whom, "all its work has stopped");
            }
            Move::GivenUp(reason) => fail(cx, by, reason),
            Move::StepDone => step_done(cx, by),
            Move::Park(reason) => park(cx, by, &reason),
        }
    }
}

fn next_move(cx: &RunCx<'_>) -> Option<Move> {
    let record = cx.record().ok()?;
    let (spec, run) = of(cx)?;
    if record.state == RunState::Cancelling {
        return (!cx.view().is_stopping()).then_some(Move::Cancelled);
    }
    if !matches!(record.state, RunState::Pending | RunState::Running | RunState::Pausing | RunState::Reverting) {
        return None;
    }
    let index = cx.view().table()?.of(run.tasks.step)?;
    let tally = index.tally;
    let why =
        || run.tasks.dead_letters.last().map_or_else(|| "a task was given up".to_owned(), |(_, _, why)| why.clone());
    // What undoes is worth a person's look when it cannot be done.
    if tally.dead_letters > 0 && run.ending.is_none() && spec.on_failure != OnFailure::Park {
        return Some(Move::GivenUp(why()));
    }
    if tally.done == tally.total {
        return Some(Move::StepDone);
    }
    if tally.ready + tally.delayed + tally.running == 0 {
        let why =
            if tally.dead_letters > 0 { why() } else { "a task may have begun and must not begin twice".to_owned() };
        let what = match tally.dead_letters + tally.parked {
            1 => "a task waits".to_owned(),
            count => format!("{count} tasks wait"),
        };
        return Some(Move::Park(format!("{what} for a decision: {why}")));
    }
    match record.state {
        RunState::Pausing if index.live.is_empty() => Some(Move::Paused),
        RunState::Pending if !index.live.is_empty() => Some(Move::Begin),
        _ => None,
    }
}

fn step_done(cx: &mut RunCx<'_>, by: RunCommand) {
    let now = cx.time();
    let Some((spec, run)) = of(cx) else { return };
    let plan = Plan::of(spec);
    let (done, next) = (run.tasks.step, plan.next(run.tasks.step));
    match (&run.ending, next) {
        (Some(Ending::Cancelled), _) => end(cx, by, RunState::Cancelled, None, "what it did is undone"),
        (Some(Ending::Reverted { reason }), _) => {
            let reason = Some(reason.clone());
            end(cx, by, RunState::Reverted, reason, "what it did is undone");
        }
        (None, None) => end(cx, by, RunState::Succeeded, None, "every task is done"),
        (None, Some(next)) => {
            let tasks = plan.step(next).map_or(0, |step| step.tasks);
            let program = plan.call(spec, next).map(|call| call.program.digest());
            with_run(cx, |run| {
                (run.tasks.step, run.step_at) = (next, now);
                run.tasks.program = program.unwrap_or(run.tasks.program);
                run.tasks.durations.clear();
            });
            // The new step is given outputs of the one before it alone.
            if done.0 > 0 {
                cx.tasks().forget_step(StepIndex(done.0 - 1));
            }
            cx.tasks().open_step(next, tasks);
            cx.write_history(format!("step {done} is done; step {next} has {}", counted(tasks, "task")));
        }
    }
}

/// The run cannot succeed any more: it reverts, if its specification says how, or fails.
pub(super) fn fail(cx: &mut RunCx<'_>, by: RunCommand, reason: String) {
    // A run that never had a worker has nothing to undo.
    let pending = cx.record().is_ok_and(|record| record.state == RunState::Pending);
    let reverts =
        of(cx).is_some_and(|(spec, run)| spec.on_failure == OnFailure::Revert && run.ending.is_none() && !pending);
    if reverts {
        revert(cx, by, Ending::Reverted { reason });
    } else {
        let what = format!("failed: {reason}");
        end(cx, by, RunState::Failed, Some(reason), &what);
    }
}

/// Stops the work and begins to undo it. Tasks that no worker ever had need no undoing.
pub(super) fn revert(cx: &mut RunCx<'_>, by: RunCommand, ending: Ending) {
    let now = cx.time();
    cx.tasks().stop_all();
    let undoing = |cx: &RunCx<'_>| {
        let (spec, _) = of(cx)?;
        let (plan, program) = (Plan::of(spec), spec.compensate.as_ref()?.program.digest());
        let step = plan.compensation()?;
        Some((step, plan.step(step)?.tasks, program))
    };
    let Some((step, tasks, program)) = undoing(cx) else { return };
    // Once a later step has begun, every task of the first had.
    let begun: Vec<bool> = match cx.tasks().of_step(StepIndex(0)) {
        Some(tasks) => tasks.iter().map(|task| task.newest > Attempt(0)).collect(),
        None => Vec::new(),
    };
    for step in cx.tasks().steps() {
        cx.tasks().forget_step(step);
    }
    let undo = |task: u32| {
        let needed = begun.get(task as usize).copied().unwrap_or(true);
        let state = if needed { TaskState::Ready } else { TaskState::Done };
        TaskRecord { state, ..TaskRecord::ready() }
    };
    cx.tasks().adopt_step(step, (0..tasks).map(undo).collect());
    let what = match &ending {
        Ending::Cancelled => "cancelled: what was begun is undone".to_owned(),
        Ending::Reverted { reason } => format!("what was begun is undone: {reason}"),
    };
    with_run(cx, |run| {
        (run.tasks.step, run.step_at, run.clock_at) = (step, now, now);
        run.tasks.program = program;
        run.ending = Some(ending);
        run.stopped_at = None;
        run.tasks.durations.clear();
    });
    cx.set_before_pause(None);
    cx.enter(by, RunState::Reverting, &what);
}

/// Has a person decide.
pub(super) fn park(cx: &mut RunCx<'_>, by: RunCommand, reason: &str) {
    let now = cx.time();
    with_run(cx, |run| {
        run.clock_at = now;
        run.stopped_at = None;
    });
    cx.set_reason(Some(reason));
    cx.set_before_pause(None);
    cx.enter(by, RunState::AwaitingResolution, reason);
}

/// Ends the run. Attempts that still run are stopped; the tasks and outputs of the step that it came to stay, unless
/// they are too many for a run that did not succeed.
pub(super) fn end(cx: &mut RunCx<'_>, by: RunCommand, to: RunState, reason: Option<String>, what: &str) {
    cx.tasks().stop_all();
    if let Some(last) = of(cx).map(|(_, run)| run.tasks.step) {
        let tasks_max = if to == RunState::Succeeded { usize::MAX } else { UNDONE_TASKS_MAX };
        cx.tasks().close(last, tasks_max);
    }
    with_run(cx, |run| {
        run.tasks.durations.clear();
        run.tasks.avoided.clear();
        run.stopped_at = None;
    });
    cx.end(by, to, reason, what);
}
