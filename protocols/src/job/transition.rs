//! Which command a run accepts in which state, as data.
//!
//! The quorum's core asks this table before it acts on a run; docs/jobs.md shows it as [`markdown`] renders it. A pair
//! that is not in the table is refused with a typed error. A row whose target is its own state is a repeat or a report
//! that leaves the state alone. A run that computes may pass through all of them. A store run goes through
//! *pending* and *running* only, and its cancel is immediate: nothing of it needs to be undone before it may be called
//! cancelled, and its holders are released afterwards as a duty of their own. A job that has a trigger is *running* or,
//! while suspended, *paused*; it ends when its last run has, and its runs are jobs of their own.

use super::record::RunState::{self, *};
use super::spec::Kind;

/// The commands that act on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunCommand {
    AddHolders,
    Attach,
    Progress,
    ColumnFailed,
    CommitObject,
    FailRun,
    Cancel,
    Abandon,
    Released,
    /// Not commands, but what befalls a run that computes: a task was given to a worker, one was reported or lost, and
    /// a timer has run out.
    Assigned,
    Reported,
    Elapsed,
    Pause,
    Resume,
    Retry,
    Resolve,
    Update,
    /// Of triggers, not of their runs.
    Fire,
    Suspend,
    Unsuspend,
}

impl RunCommand {
    pub const ALL: [Self; 20] = [
        Self::AddHolders,
        Self::Attach,
        Self::Progress,
        Self::ColumnFailed,
        Self::CommitObject,
        Self::FailRun,
        Self::Cancel,
        Self::Abandon,
        Self::Released,
        Self::Assigned,
        Self::Reported,
        Self::Elapsed,
        Self::Pause,
        Self::Resume,
        Self::Retry,
        Self::Resolve,
        Self::Update,
        Self::Fire,
        Self::Suspend,
        Self::Unsuspend,
    ];

    /// As error messages and docs/jobs.md name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AddHolders => "add holders",
            Self::Attach => "attach",
            Self::Progress => "progress",
            Self::ColumnFailed => "column failed",
            Self::CommitObject => "commit object",
            Self::FailRun => "fail",
            Self::Cancel => "cancel",
            Self::Abandon => "abandon",
            Self::Released => "released",
            Self::Assigned => "task assigned",
            Self::Reported => "task reported",
            Self::Elapsed => "time elapsed",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
            Self::Resolve => "resolve",
            Self::Update => "update",
            Self::Fire => "fire",
            Self::Suspend => "suspend",
            Self::Unsuspend => "unsuspend",
        }
    }

    /// Whether it is for runs of this kind.
    pub const fn is_for(self, kind: Kind) -> bool {
        match self {
            Self::Cancel => true,
            Self::AddHolders
            | Self::Attach
            | Self::Progress
            | Self::ColumnFailed
            | Self::CommitObject
            | Self::FailRun
            | Self::Abandon
            | Self::Released => matches!(kind, Kind::Store),
            Self::Assigned
            | Self::Reported
            | Self::Elapsed
            | Self::Pause
            | Self::Resume
            | Self::Retry
            | Self::Resolve
            | Self::Update
            | Self::Fire
            | Self::Suspend
            | Self::Unsuspend => matches!(kind, Kind::Wasm | Kind::Command),
        }
    }

    /// Whether it acts on jobs that have a trigger. All but the cancel act on either these or their runs.
    pub const fn is_for_triggers(self) -> bool {
        matches!(self, Self::Fire | Self::Suspend | Self::Unsuspend | Self::Cancel)
    }
}

impl RunState {
    pub const ALL: [Self; 11] = [
        Pending,
        Running,
        Pausing,
        Paused,
        Cancelling,
        Reverting,
        AwaitingResolution,
        Succeeded,
        Failed,
        Reverted,
        Cancelled,
    ];

    /// As people read it; the same words as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Pending => "pending",
            Running => "running",
            Pausing => "pausing",
            Paused => "paused",
            Cancelling => "cancelling",
            Reverting => "reverting",
            Succeeded => "succeeded",
            Failed => "failed",
            Reverted => "reverted",
            Cancelled => "cancelled",
            AwaitingResolution => "awaiting-resolution",
        }
    }
}

/// One row: a command in a state, and the states that it may lead to.
pub type Row = (RunState, RunCommand, &'static [RunState]);

/// The whole table, by state.
pub const TABLE: &[Row] = &[
    (Pending, RunCommand::AddHolders, &[Pending, Running]),
    (Pending, RunCommand::Attach, &[Pending]),
    (Pending, RunCommand::Progress, &[Pending]),
    (Pending, RunCommand::ColumnFailed, &[Pending, Failed]),
    (Pending, RunCommand::FailRun, &[Failed]),
    (Pending, RunCommand::Cancel, &[Cancelled]),
    (Pending, RunCommand::Abandon, &[Failed]),
    (Pending, RunCommand::Released, &[Pending]),
    (Pending, RunCommand::Assigned, &[Running]),
    (Pending, RunCommand::Elapsed, &[Pending, Failed]),
    (Pending, RunCommand::Pause, &[Paused]),
    (Pending, RunCommand::Update, &[Pending]),
    (Running, RunCommand::AddHolders, &[Running]),
    (Running, RunCommand::Attach, &[Running]),
    (Running, RunCommand::Progress, &[Running]),
    (Running, RunCommand::ColumnFailed, &[Running, Failed]),
    (Running, RunCommand::CommitObject, &[Succeeded]),
    (Running, RunCommand::FailRun, &[Failed]),
    (Running, RunCommand::Cancel, &[Cancelled, Cancelling, Reverting]),
    (Running, RunCommand::Abandon, &[Failed]),
    (Running, RunCommand::Released, &[Running]),
    (Running, RunCommand::Assigned, &[Running]),
    (Running, RunCommand::Reported, &[Running, Succeeded, Failed, Reverting, AwaitingResolution]),
    (Running, RunCommand::Elapsed, &[Running, Succeeded, Failed, Reverting, AwaitingResolution]),
    (Running, RunCommand::Pause, &[Pausing, Paused]),
    (Running, RunCommand::Update, &[Running]),
    (Running, RunCommand::Fire, &[Running]),
    (Running, RunCommand::Suspend, &[Paused]),
    (Running, RunCommand::Unsuspend, &[Running]),
    (Pausing, RunCommand::FailRun, &[Failed]),
    (Pausing, RunCommand::Cancel, &[Cancelled, Cancelling, Reverting]),
    (
        Pausing,
        RunCommand::Reported,
        &[Pausing, Paused, Succeeded, Failed, Reverting, Reverted, Cancelled, AwaitingResolution],
    ),
    (
        Pausing,
        RunCommand::Elapsed,
        &[Pausing, Paused, Succeeded, Failed, Reverting, Reverted, Cancelled, AwaitingResolution],
    ),
    (Pausing, RunCommand::Pause, &[Pausing]),
    (Pausing, RunCommand::Resume, &[Running, Reverting]),
    (Pausing, RunCommand::Update, &[Pausing]),
    (Paused, RunCommand::FailRun, &[Failed]),
    (Paused, RunCommand::Cancel, &[Cancelled, Cancelling, Reverting]),
    (Paused, RunCommand::Elapsed, &[Paused, Failed, Reverting, AwaitingResolution]),
    (Paused, RunCommand::Pause, &[Paused]),
    (Paused, RunCommand::Resume, &[Pending, Running, Reverting]),
    (Paused, RunCommand::Update, &[Paused]),
    (Paused, RunCommand::Fire, &[Paused]),
    (Paused, RunCommand::Suspend, &[Paused]),
    (Paused, RunCommand::Unsuspend, &[Running]),
    (Cancelling, RunCommand::FailRun, &[Failed]),
    (Cancelling, RunCommand::Cancel, &[Cancelling]),
    (Cancelling, RunCommand::Reported, &[Cancelling, Cancelled]),
    (Cancelling, RunCommand::Elapsed, &[Cancelling, Cancelled]),
    (Reverting, RunCommand::FailRun, &[Failed]),
    (Reverting, RunCommand::Cancel, &[Cancelled, Cancelling]),
    (Reverting, RunCommand::Assigned, &[Reverting]),
    (Reverting, RunCommand::Reported, &[Reverting, Reverted, Cancelled, AwaitingResolution]),
    (Reverting, RunCommand::Elapsed, &[Reverting, Reverted, Cancelled, AwaitingResolution]),
    (Reverting, RunCommand::Pause, &[Pausing, Paused]),
    (Reverting, RunCommand::Update, &[Reverting]),
    (AwaitingResolution, RunCommand::FailRun, &[Failed]),
    (AwaitingResolution, RunCommand::Cancel, &[Cancelled, Cancelling, Reverting]),
    (AwaitingResolution, RunCommand::Elapsed, &[AwaitingResolution, Failed]),
    (AwaitingResolution, RunCommand::Retry, &[Running, Reverting]),
    (AwaitingResolution, RunCommand::Resolve, &[Running, Succeeded, Failed, Reverting, Reverted, Cancelled]),
    (AwaitingResolution, RunCommand::Update, &[AwaitingResolution]),
    (Succeeded, RunCommand::CommitObject, &[Succeeded]),
    (Succeeded, RunCommand::Released, &[Succeeded]),
    (Failed, RunCommand::FailRun, &[Failed]),
    (Failed, RunCommand::Abandon, &[Failed]),
    (Failed, RunCommand::Released, &[Failed]),
    (Reverted, RunCommand::Released, &[Reverted]),
    (Cancelled, RunCommand::Cancel, &[Cancelled]),
    (Cancelled, RunCommand::Released, &[Cancelled]),
];

/// Where the command may lead from `state`; `None` when it is illegal there.
pub fn targets(state: RunState, command: RunCommand) -> Option<&'static [RunState]> {
    TABLE.iter().find(|(from, by, _)| *from == state && *by == command).map(|(_, _, to)| *to)
}

/// The table as docs/jobs.md shows it: a line per state, with what leads on from there and what leaves it alone.
pub fn markdown() -> String {
    let mut text = String::from("| state | what leads where | accepted, and nothing changes |\n|---|---|---|\n");
    for state in RunState::ALL {
        let (mut leads, mut stays) = (Vec::new(), Vec::new());
        for (_, command, to) in TABLE.iter().filter(|(from, ..)| *from == state) {
            let to: Vec<_> = to.iter().map(|state| state.name()).collect();
            match to[..] {
                [alone] if alone == state.name() => stays.push(command.name().to_owned()),
                _ => leads.push(format!("*{}*: {}", command.name(), to.join(", "))),
            }
        }
        text.push_str(&format!("| {} | {} | {} |\n", state.name(), leads.join("; "), stays.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_state_that_is_not_final_has_a_way_out_and_can_be_cancelled() {
        for state in RunState::ALL.into_iter().filter(|state| !state.is_final()) {
            let to = targets(state, RunCommand::Cancel).unwrap();
            assert!(to.iter().any(|to| matches!(to, Cancelled | Cancelling)), "{state:?}");
            let leaves = TABLE.iter().any(|(from, _, to)| *from == state && to.iter().any(|to| to.is_final()));
            assert!(leaves, "{state:?}");
        }
    }

    #[test]
    fn a_final_state_is_never_left() {
        for (from, command, to) in TABLE.iter().filter(|(from, ..)| from.is_final()) {
            assert_eq!(*to, &[*from][..], "{command:?}");
        }
    }

    #[test]
    fn no_pair_of_state_and_command_is_listed_twice() {
        let pairs: BTreeSet<_> = TABLE.iter().map(|(from, by, _)| (*from, *by)).collect();
        assert_eq!(pairs.len(), TABLE.len());
        // Every command is legal somewhere, and for some kind.
        for command in RunCommand::ALL {
            assert!(TABLE.iter().any(|(_, by, _)| *by == command), "{command:?}");
            assert!([Kind::Store, Kind::Wasm].into_iter().any(|kind| command.is_for(kind)), "{command:?}");
        }
    }

    #[test]
    fn names_are_those_of_the_json_form_and_every_state_is_listed() {
        for state in RunState::ALL {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{}\"", state.name()));
        }
        assert_eq!(RunState::ALL.into_iter().collect::<BTreeSet<_>>().len(), 11);
        let shown = markdown();
        assert!(shown.contains("*commit object*: succeeded; "), "{shown}");
        assert!(shown.contains("| succeeded |  | commit object, released |"), "{shown}");
        assert_eq!(shown.lines().count(), 2 + RunState::ALL.len());
    }
}
