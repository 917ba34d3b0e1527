//! Transitions: which command a run accepts in which state, as data: the words of the tables that every kind of work
//! has.
//!
//! The quorum's core asks the table of the job's kind, or that of triggers for a job that has one, before it acts on a
//! run; docs/jobs.md shows them as [`markdown`] renders them. A pair that is not in the table is refused with a
//! typed error. A row whose target is its own state is a repeat or a report that leaves the state alone.

use crate::run_state::RunState;

/// What acts on a run: a command, or something that befalls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunCommand {
    Cancel,
    Pause,
    Resume,
    Retry,
    Resolve,
    Update,
    /// What befalls a run that has tasks: a task was given to a worker, one was reported or lost.
    Assigned,
    Reported,
    /// A timer has run out.
    Elapsed,
    /// Of triggers, not of their runs.
    Fire,
    Suspend,
    Unsuspend,
    /// A command that only one kind has, by its name.
    Own(&'static str),
}

impl RunCommand {
    /// As error messages and docs/jobs.md name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
            Self::Resolve => "resolve",
            Self::Update => "update",
            Self::Assigned => "task assigned",
            Self::Reported => "task reported",
            Self::Elapsed => "time elapsed",
            Self::Fire => "fire",
            Self::Suspend => "suspend",
            Self::Unsuspend => "unsuspend",
            Self::Own(name) => name,
        }
    }

    /// Whether it acts on triggers and never on a run.
    pub const fn is_for_triggers(self) -> bool {
        matches!(self, Self::Fire | Self::Suspend | Self::Unsuspend)
    }
}

/// One row: a command in a state, and the states that it may lead to.
pub type Row = (RunState, RunCommand, &'static [RunState]);

/// Where the command may lead from `state`; `None` when it is illegal there.
pub fn targets(table: &[Row], state: RunState, command: RunCommand) -> Option<&'static [RunState]> {
    table.iter().find(|(from, by, _)| *from == state && *by == command).map(|(_, _, to)| *to)
}

/// Whether the table knows the command in any state.
pub fn knows(table: &[Row], command: RunCommand) -> bool {
    table.iter().any(|(_, by, _)| *by == command)
}

/// A table as docs/jobs.md shows it: a line per state that it names, with what leads on from there and what leaves it
/// alone.
pub fn markdown(table: &[Row]) -> String {
    let mut text = String::from("| state | what leads where | accepted, and nothing changes |\n|---|---|---|\n");
    for state in RunState::ALL {
        let (mut leads, mut stays) = (Vec::new(), Vec::new());
        for (_, command, to) in table.iter().filter(|(from, ..)| *from == state) {
            let to: Vec<_> = to.iter().map(|state| state.name()).collect();
            match to[..] {
                [alone] if alone == state.name() => stays.push(command.name().to_owned()),
                _ => leads.push(format!("*{}*: {}", command.name(), to.join(", "))),
            }
        }
        if !leads.is_empty() || !stays.is_empty() {
            text.push_str(&format!("| {} | {} | {} |\n", state.name(), leads.join("; "), stays.join(", ")));
        }
    }
    text
}
