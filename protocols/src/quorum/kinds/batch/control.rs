//! Control of batch runs: pause, resume, cancel, retry, resolve, update.

use super::life::{advance, end, revert};
use super::{of, with_run};
use crate::capacity::Requirement;
use crate::ids::{Millis, PeerId, TaskIndex};
use crate::job::batch::Ending;
use crate::job::batch::OnFailure;
use crate::job::record::RunState;
use crate::job::transition::RunCommand;
use crate::quorum::command::Resolution;
use crate::quorum::kinds::context::RunCx;
use crate::quorum::reply::CommandReply;
use crate::quorum::reply::{Applied, invalid};
use crate::task::limits::{PRIORITY_MAX, PRIORITY_MIN, TASKS_PER_STEP_MAX};
use crate::task::record::TaskState;
use crate::text::counted;

/// Stops the work of a run. Tasks that must not begin twice and have begun are waited for.
pub(super) fn pause(cx: &mut RunCx<'_>, by: PeerId) -> Applied {
    let state = cx.record()?.state;
    if matches!(state, RunState::Pausing | RunState::Paused) {
        return Ok(CommandReply::Done);
    }
    let now = cx.time();
    let idle = cx.tasks().live().is_empty();
    cx.set_before_pause(Some(state));
    with_run(cx, |run| run.stopped_at = Some(now));
    let to = if idle { RunState::Paused } else { RunState::Pausing };
    cx.enter(RunCommand::Pause, to, &format!("paused by {by}"));
    if !idle {
        cx.tasks().tell_workers();
    }
    Ok(CommandReply::Done)
}

pub(super) fn resume(cx: &mut RunCx<'_>, by: PeerId) -> Applied {
    let record = cx.record()?;
    let (state, before) = (record.state, record.before_pause.unwrap_or(RunState::Running));
    cx.set_before_pause(None);
    // A run that had begun to wait for workers when it was paused may have got one before it stopped.
    let to = if state == RunState::Pausing && before == RunState::Pending { RunState::Running } else { before };
    let now = cx.time();
    with_run(cx, |run| {
        // The step's time stood still meanwhile.
        if let Some(since) = run.stopped_at.take() {
            run.step_at = run.step_at.plus(now.since(since));
        }
    });
    cx.enter(RunCommand::Resume, to, &format!("resumed by {by}"));
    advance(cx, RunCommand::Assigned);
    Ok(CommandReply::Done)
}

/// What was begun is undone when the specification says that a failure reverts; a second cancel gives that up too.
pub(super) fn cancel(cx: &mut RunCx<'_>, by: PeerId) -> Applied {
    let record = cx.record()?;
    let state = record.state;
    let begun = state != RunState::Pending && record.before_pause != Some(RunState::Pending);
    let reverts =
        of(cx).is_some_and(|(spec, run)| spec.on_failure == OnFailure::Revert && run.ending.is_none() && begun);
    if matches!(state, RunState::Cancelled | RunState::Cancelling) {
        return Ok(CommandReply::Done);
    }
    let what = format!("cancelled by {by}");
    if reverts {
        revert(cx, RunCommand::Cancel, Ending::Cancelled);
        // Nothing may have been begun.
        advance(cx, RunCommand::Reported);
        return Ok(CommandReply::Done);
    }
    cx.tasks().stop_all();
    if cx.view().is_stopping() {
        cx.set_reason(Some(&format!("by {by}")));
        cx.set_before_pause(None);
        with_run(cx, |run| run.ending = Some(Ending::Cancelled));
        cx.enter(RunCommand::Cancel, RunState::Cancelling, &what);
    } else {
        end(cx, RunCommand::Cancel, RunState::Cancelled, Some(format!("by {by}")), &what);
    }
    Ok(CommandReply::Done)
}

/// Begins anew what was given up or parked. The tries that the policy allows are counted from nothing.
pub(super) fn retry(cx: &mut RunCx<'_>, by: PeerId) -> Applied {
    let again = given_up(cx);
    let count = again.len();
    for (step, task) in again {
        cx.tasks().change(step, task, |task| {
            task.state = TaskState::Ready;
            (task.failures, task.losses) = (0, 0);
            task.first_at = Millis(0);
            if let Some(extras) = &mut task.extras {
                extras.rounds = 0;
            }
        });
    }
    back_to_work(cx, RunCommand::Retry, &format!("{} to be tried again, by {by}", counted(count, "task")));
    Ok(CommandReply::Done)
}

pub(super) fn resolve(cx: &mut RunCx<'_>, by: PeerId, resolution: Resolution) -> Applied {
    let undoing = of(cx).is_some_and(|(_, run)| run.ending.is_some());
    let can_revert = of(cx).is_some_and(|(spec, _)| spec.compensate.is_some()) && !undoing;
    match resolution {
        Resolution::Fail => {
            let reason = cx.record()?.reason.clone().unwrap_or_default();
            end(cx, RunCommand::Resolve, RunState::Failed, Some(reason), &format!("given up by {by}"));
        }
        Resolution::Revert if !can_revert => {
            return Err(invalid(format!("job {} does not say how to undo it, or is being undone", cx.job())));
        }
        Resolution::Revert => {
            revert(cx, RunCommand::Resolve, Ending::Reverted { reason: format!("undone by {by}") });
            advance(cx, RunCommand::Reported);
        }
        Resolution::Skip => {
            let skipped = given_up(cx);
            let count = skipped.len();
            for (step, task) in skipped {
                cx.tasks().change(step, task, |task| task.state = TaskState::Done);
            }
            back_to_work(cx, RunCommand::Resolve, &format!("{} skipped by {by}", counted(count, "task")));
        }
    }
    Ok(CommandReply::Done)
}

/// Tasks of the present step that were given up or parked.
fn given_up(cx: &mut RunCx<'_>) -> Vec<(crate::ids::StepIndex, TaskIndex)> {
    let Some(step) = of(cx).map(|(_, run)| run.tasks.step) else { return Vec::new() };
    let tasks = cx.tasks().in_state(|state| matches!(state, TaskState::DeadLetter | TaskState::Parked));
    tasks.into_iter().map(|task| (step, task)).collect()
}

/// From waiting for a person back to what the run was doing.
fn back_to_work(cx: &mut RunCx<'_>, by: RunCommand, what: &str) {
    let now = cx.time();
    let undoing = with_run(cx, |run| {
        // The time spent waiting for a person is not the run's.
        (run.clock_at, run.step_at) = (now, now);
        run.tasks.dead_letters.clear();
        run.tasks.avoided.clear();
        run.ending.is_some()
    });
    cx.set_reason(None);
    let to = if undoing == Some(true) { RunState::Reverting } else { RunState::Running };
    cx.enter(by, to, what);
    advance(cx, RunCommand::Reported);
}

pub(super) fn update(
    cx: &mut RunCx<'_>,
    priority: Option<u8>,
    parallelism: Option<u32>,
    resources: Option<&Requirement>,
) -> Applied {
    if let Some(priority) = priority.filter(|priority| !(PRIORITY_MIN..=PRIORITY_MAX).contains(priority)) {
        return Err(invalid(format!("priority: {priority} is not between {PRIORITY_MIN} and {PRIORITY_MAX}")));
    }
    if let Some(parallelism) = parallelism.filter(|parallelism| *parallelism > TASKS_PER_STEP_MAX) {
        return Err(invalid(format!("parallelism: {parallelism} is more than {TASKS_PER_STEP_MAX}")));
    }
    if let Some(resources) = resources {
        resources.check().map_err(|fault| invalid(fault.to_string()))?;
    }
    with_run(cx, |run| {
        let settings = &mut run.tasks.settings;
        settings.priority = priority.unwrap_or(settings.priority);
        settings.parallelism = parallelism.unwrap_or(settings.parallelism);
        if let Some(resources) = resources {
            settings.resources.clone_from(resources);
        }
    });
    cx.write_history("priority, parallelism or resources were changed".to_owned());
    Ok(CommandReply::Done)
}
