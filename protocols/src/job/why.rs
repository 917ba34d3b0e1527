//! Why a run is where it is, in one sentence for a person.

use super::record::{JobRecord, RunState};
use crate::ids::Millis;
use crate::object::layout::Profile;

impl JobRecord {
    /// Answers for every state; `now` is quorum time.
    pub fn why(&self, now: Millis) -> String {
        let run = &self.run;
        let reason = self.reason.as_deref();
        match self.state {
            RunState::Pending => {
                let assigned = run.columns.len() - run.open_columns();
                let needed = self.spec.profile().columns_min();
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
                    format!("holders are found; {} has not reported any pieces yet", run.worker)
                } else {
                    format!("{} is sending: {stored} of {known} pieces known so far are stored", run.worker)
                };
                let idle = now.since(run.fed_at).as_secs();
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
            RunState::Pausing => with("stopping its work, to be paused", reason),
            RunState::Paused => with("paused by its owner; `job resume` lets it go on", reason),
            RunState::Resuming => with("starting its work again after a pause", reason),
            RunState::Modifying => with("its specification is being changed", reason),
            RunState::Cancelling => with("stopping its work, to be cancelled", reason),
            RunState::Reverting => with("undoing what it did", reason),
            RunState::AwaitingResolution => with("waiting for a person to decide how to go on", reason),
            RunState::Succeeded if run.degraded => with("done; the object was stored with columns still owed", reason),
            RunState::Succeeded => with("done", reason),
            RunState::Failed => with("failed", reason),
            RunState::Reverted => with("undone", reason),
            RunState::Cancelled => {
                let mut text = with("cancelled", reason);
                if !run.releasing.is_empty() {
                    text.push_str(&format!("; {} holders are still to be told to let go", run.releasing.len()));
                }
                text
            }
        }
    }
}

impl super::spec::JobSpec {
    /// The profile of a store run.
    pub fn profile(&self) -> Profile {
        match self {
            Self::Store(store) => store.profile,
        }
    }
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
