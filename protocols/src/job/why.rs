//! Why a run is where it is, in one sentence for a person.

use super::record::{JobRecord, Run, RunState};
use super::spec::{JobSpec, StoreSpec};
use super::store::StoreRun;
use crate::ids::Millis;
use crate::task::record::{ComputeRun, Ending, Tally};
use crate::trigger::record::TriggerRun;
use crate::trigger::show_instant;
use crate::trigger::spec::{TriggeredSpec, When};

impl JobRecord {
    /// Answers for every state; `now` is record time, `wall` what the clocks say.
    pub fn why(&self, now: Millis, wall: Millis) -> String {
        let shown = |time: Millis| show_instant(Millis(wall.0.saturating_sub(now.since(time).as_millis() as u64)));
        match (&self.spec, &self.run) {
            (JobSpec::Store(spec), Run::Store(run)) => self.why_stored(spec, run, wall),
            (_, Run::Compute(run)) => self.why_computed(run, now),
            (JobSpec::Triggered(spec), Run::Trigger(run)) => self.why_armed(spec, run, shown),
            (_, Run::Store(_) | Run::Trigger(_)) => "its record contradicts itself".to_owned(),
        }
    }

    fn why_computed(&self, run: &ComputeRun, now: Millis) -> String {
        let reason = self.reason.as_deref();
        let Tally { total, ready, delayed, running, done, .. } = run.tally;
        let step =
            format!("step {}: {done} of {total} tasks are done, {running} run, {ready} wait for a worker", run.step);
        let refusals = || match run.avoided.iter().next() {
            Some((peer, refusal)) => {
                let again = match run.refusal_over_at() {
                    Some(at) => format!("; the next is asked again within {} s", at.since(now).as_secs().max(1)),
                    None => String::new(),
                };
                format!("; {} peers refused, {peer} because: {}{again}", run.avoided.len(), refusal.reason)
            }
            None => String::new(),
        };
        match self.state {
            RunState::Pending => {
                let tasks = if total == 1 { "its task".to_owned() } else { format!("one of its {total} tasks") };
                format!("waiting for workers: none has room for {tasks}{}", refusals())
            }
            RunState::Running if delayed > 0 => format!("{step}, {delayed} wait for another try{}", refusals()),
            RunState::Running => step + &refusals(),
            RunState::Pausing => with(&format!("waiting for {running} tasks to stop, to be paused"), reason),
            RunState::Cancelling => with("waiting for its workers to say that they have stopped", reason),
            RunState::Reverting => {
                let why = match &run.ending {
                    Some(Ending::Reverted { reason }) => reason.as_str(),
                    _ => "it was cancelled",
                };
                format!("undoing what it did, because {why}; {step}")
            }
            RunState::AwaitingResolution => {
                let waits = now.since(run.clock_at).as_secs();
                let what = format!("waiting for a person for {waits} s; `job retry` or `job resolve` lets it go on");
                with(&what, reason)
            }
            state => ended_or_resting(state, reason),
        }
    }

    fn why_armed(&self, spec: &TriggeredSpec, run: &TriggerRun, shown: impl Fn(Millis) -> String) -> String {
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
            (When::Condition(_), None) => "waiting for the first look at its condition".to_owned(),
            (When::Condition(_), Some(Err(why))) => format!("its condition cannot be told: {why}"),
            (When::Condition(_), Some(Ok(value))) => match (run.condition.spent, run.condition.holds_since) {
                (true, _) => format!("it fired, and its condition is not over yet: {value}"),
                (false, Some(since)) => format!("its condition holds since {}: {value}", shown(since)),
                (false, None) => format!("its condition does not hold: {value}"),
            },
            (When::After(jobs), _) => {
                format!("waiting for {} of {} jobs to end", jobs.len() - run.ended.len().min(jobs.len()), jobs.len())
            }
        };
        let rows = format!("{waits}; {} runs are live, {} fires wait for them", run.live.len(), run.waiting.len());
        with(&rows, reason)
    }

    fn why_stored(&self, spec: &StoreSpec, run: &StoreRun, now: Millis) -> String {
        let reason = self.reason.as_deref();
        match self.state {
            RunState::Pending => {
                let assigned = run.columns.len() - run.open_columns();
                let needed = spec.profile.columns_min();
                let mut text = format!(
                    "waiting for holders: {assigned} of {} columns have one and {needed} are needed to begin",
                    run.columns.len()
                );
                append(&mut text, "; last setback: ", reason);
                text
            }
            RunState::Running => {
                let (stored, known) = run.pieces_stored();
                let mut text = if known == 0 {
                    format!("holders are found; {} has not reported any pieces yet", run.uploader)
                } else {
                    format!("{} is sending: {stored} of {known} pieces known so far are stored", run.uploader)
                };
                let idle = now.since(run.upload_seen_at).as_secs();
                if idle >= 10 {
                    text.push_str(&format!("; nothing was heard from it for {idle} s"));
                }
                let open = run.open_columns();
                if open > 0 {
                    text.push_str(&format!("; {open} columns look for a holder"));
                }
                append(&mut text, "; last setback: ", reason);
                text
            }
            RunState::Succeeded if run.degraded => with("done; the object was stored with columns still owed", reason),
            RunState::Cancelled => {
                let mut text = with("cancelled", reason);
                if !run.releasing.is_empty() {
                    text.push_str(&format!("; {} holders are still to be told to let go", run.releasing.len()));
                }
                text
            }
            state => ended_or_resting(state, reason),
        }
    }
}

fn ended_or_resting(state: RunState, reason: Option<&str>) -> String {
    let what = match state {
        RunState::Pending => "waiting to begin",
        RunState::Running => "at work",
        RunState::Pausing => "stopping its work, to be paused",
        RunState::Paused => "paused by its owner; `job resume` lets it go on",
        RunState::Cancelling => "stopping its work, to be cancelled",
        RunState::Reverting => "undoing what it did",
        RunState::AwaitingResolution => "waiting for a person to decide how to go on",
        RunState::Succeeded => "done",
        RunState::Failed => "failed",
        RunState::Reverted => "undone",
        RunState::Cancelled => "cancelled",
    };
    with(what, reason)
}

fn append(text: &mut String, what: &str, reason: Option<&str>) {
    if let Some(reason) = reason {
        text.push_str(what);
        text.push_str(reason);
    }
}

fn with(what: &str, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{what}: {reason}"),
        None => what.to_owned(),
    }
}
