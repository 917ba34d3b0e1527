//! The timers of a batch run itself: of the run, of its step, and of a pause that waits. Those of tasks are the pool's.

use super::life::{end, fail, park};
use super::of;
use crate::ids::Millis;
use crate::job::record::{JobRecord, RunState};
use crate::job::transition::RunCommand;
use crate::quorum::kinds::context::RunCx;
use crate::task::limits::STOP_WAIT;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Run,
    Step,
    /// Work that a pause waits for.
    Pause,
}

fn timers(record: &JobRecord) -> Vec<(Timer, Millis)> {
    let Some((spec, run)) = record.batch().filter(|_| !record.state.is_final()) else { return Vec::new() };
    let mut timers = Vec::with_capacity(3);
    if record.state != RunState::Cancelling {
        timers.push((Timer::Run, run.clock_at.plus(spec.timeouts.run)));
    }
    if matches!(record.state, RunState::Pending | RunState::Running)
        && let Some(step) = spec.timeouts.step
    {
        timers.push((Timer::Step, run.step_at.plus(step)));
    }
    if record.state == RunState::Pausing
        && spec.idempotent
        && let Some(since) = run.stopped_at
    {
        timers.push((Timer::Pause, since.plus(STOP_WAIT)));
    }
    timers
}

pub(super) fn next(record: &JobRecord) -> Option<Millis> {
    timers(record).into_iter().map(|(_, due)| due).min()
}

/// Serves every timer that has run out.
pub(super) fn serve(cx: &mut RunCx<'_>) {
    let now = cx.time();
    let due: Vec<_> = match cx.record() {
        Ok(record) => timers(record).into_iter().filter(|(_, due)| *due <= now).map(|(timer, _)| timer).collect(),
        Err(_) => return,
    };
    for timer in due {
        // The one before may have ended the run, or set its clocks anew.
        let is_due = |record: &JobRecord| timers(record).into_iter().any(|(other, at)| other == timer && at <= now);
        if !cx.record().is_ok_and(is_due) {
            continue;
        }
        match timer {
            Timer::Run => run_over(cx),
            Timer::Step => {
                let Some((spec, run)) = of(cx) else { return };
                let (step, timeout) = (run.tasks.step, spec.timeouts.step.unwrap_or_default());
                let reason = format!("step {step} took longer than its timeout of {timeout:?}");
                fail(cx, RunCommand::Elapsed, reason);
            }
            // Whoever does not stop in time is fenced, and the tasks wait for the resume.
            Timer::Pause => cx.tasks().stop_all(),
        }
    }
}

fn run_over(cx: &mut RunCx<'_>) {
    let by = RunCommand::Elapsed;
    let (Some((spec, run)), Ok(record)) = (of(cx), cx.record()) else { return };
    let reason = format!("the run took longer than its timeout of {:?}", spec.timeouts.run);
    match record.state {
        RunState::AwaitingResolution => {
            let reason = "nobody decided in time how to go on".to_owned();
            end(cx, by, RunState::Failed, Some(reason.clone()), &reason);
        }
        // What cannot be undone in time is for a person.
        _ if run.ending.is_some() => {
            cx.tasks().stop_all();
            park(cx, by, "undoing it took longer than the run's timeout");
        }
        _ => fail(cx, by, reason),
    }
}
