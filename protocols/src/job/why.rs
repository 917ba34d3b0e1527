//! The reason for a job's state, in one sentence for the user: the words that all kinds share, and those of triggers.

use super::record::{JobRecord, RunState};
use crate::ids::Millis;
use crate::job::spec::TriggeredSpec;
use crate::text::counted;
use crate::trigger::record::TriggerRun;
use crate::trigger::show_instant;
use crate::trigger::spec::When;

impl JobRecord {
    /// Of a trigger; `now` is record time, `wall` what the clocks say.
    pub(crate) fn why_armed(&self, spec: &TriggeredSpec, run: &TriggerRun, now: Millis, wall: Millis) -> String {
        let shown = |time: Millis| show_instant(Millis(wall.0.saturating_sub(now.since(time).as_millis() as u64)));
        let reason = self.reason.as_deref();
        if self.state == RunState::Paused {
            return with("suspended by its owner; `job unsuspend` lets it fire again", reason);
        }
        if self.state.is_final() {
            return ended_or_resting(self.state, reason);
        }
        let waits = match (&spec.trigger.when, &run.condition.last) {
            (When::At(_) | When::Every { .. } | When::Cron { .. }, _) => match run.clock.next {
                Some(next) => format!("waiting until {}", show_instant(next.due)),
                None if run.clock.from.is_none() => "waiting for the primary to work out when it is due".to_owned(),
                None => "its last instant has passed".to_owned(),
            },
            (When::Event(event), _) => format!("listening for events {:?}", event.name),
            (When::Condition(_), None) => "waiting for the first check of its condition".to_owned(),
            (When::Condition(_), Some(Err(why))) => format!("its condition could not be evaluated: {why}"),
            (When::Condition(_), Some(Ok(value))) => match (run.condition.spent, run.condition.holds_since) {
                (true, _) => format!("it fired, and its condition is not over yet: {value}"),
                (false, Some(since)) => format!("its condition holds since {}: {value}", shown(since)),
                (false, None) => format!("its condition does not hold: {value}"),
            },
            (When::After(jobs), _) => {
                format!(
                    "waiting for {} of {} to end",
                    jobs.len() - run.ended.len().min(jobs.len()),
                    counted(jobs.len(), "job")
                )
            }
        };
        let rows =
            format!("{waits}; {}, {}", counted(run.live.len(), "live run"), counted(run.waiting.len(), "waiting fire"));
        with(&rows, reason)
    }
}

/// What a state says by itself, with the reason that the record has for it.
pub(crate) fn ended_or_resting(state: RunState, reason: Option<&str>) -> String {
    let what = match state {
        RunState::Pending => "waiting to begin",
        RunState::Running => "at work",
        RunState::Pausing => "stopping its work, to be paused",
        RunState::Paused => "paused by its owner; `job resume` lets it go on",
        RunState::Cancelling => "stopping its work, to be cancelled",
        RunState::Reverting => "undoing what it did",
        RunState::AwaitingResolution => "waiting for a decision on how to go on",
        RunState::Succeeded => "done",
        RunState::Failed => "failed",
        RunState::Reverted => "undone",
        RunState::Cancelled => "cancelled",
    };
    with(what, reason)
}

pub(crate) fn append(text: &mut String, what: &str, reason: Option<&str>) {
    if let Some(reason) = reason {
        text.push_str(what);
        text.push_str(reason);
    }
}

pub(crate) fn with(what: &str, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{what}: {reason}"),
        None => what.to_owned(),
    }
}
