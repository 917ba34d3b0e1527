//! Entries of a quorum's log: the only way to change its state.

use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::command::{Control, JobCommand, ObjectCommand, QuorumCommand, StoreCommand, TaskCommand, TriggerCommand};
use super::kinds::KindCommand;
use super::reply::{CommandReply, Rejection};
use crate::ids::{JobId, LogIndex, ManifestHash, Millis, PeerId};
use crate::job::spec::JobSpec;
use crate::job::submission::{Genuine, Submission};
use crate::job::transition::RunCommand;

/// One log entry: commands that arrived while the entry before was in flight. Applied in order; each has its reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The time by the clocks of a majority, as the primary knows it.
    pub now: Millis,
    /// What has passed since this primary's entry before, by its monotonic clock; none for its first.
    pub since: Option<Duration>,
    /// What has passed since this primary's entry before, or since it leads, by its monotonic clock, without the times
    /// in which it heard no majority.
    pub passed: Duration,
    /// Each with the peer that sent it, as the primary's transport authenticated it.
    pub commands: Vec<(PeerId, Command)>,
}

impl Batch {
    /// The first entry of a primary: nothing has passed.
    pub fn at(now: Millis, commands: Vec<(PeerId, Command)>) -> Self {
        Self { now, since: None, passed: Duration::ZERO, commands }
    }

    /// The submits in it, each with its place among the commands.
    pub fn submissions(&self) -> impl Iterator<Item = (usize, Submission)> {
        let submission = |(at, (by, command)): (usize, &(PeerId, Command))| Some((at, command.submission(*by)?.1));
        self.commands.iter().enumerate().filter_map(submission)
    }
}

/// The submits of one entry that are known to be signed by their authors, by their places among its commands
/// ([`Batch::submissions`]). It spares applying the entry their verification, and changes nothing else.
#[derive(Debug, Default)]
pub struct GenuineSubmits(BTreeMap<usize, Genuine>);

impl GenuineSubmits {
    pub fn insert(&mut self, place: usize, genuine: Genuine) {
        self.0.insert(place, genuine);
    }
    pub(super) fn contains(&self, place: usize) -> bool {
        self.0.contains_key(&place)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchReply {
    pub replies: Vec<Result<CommandReply, Rejection>>,
}

/// A change of the state, by the part of it that owns the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Quorum(QuorumCommand),
    Job(JobId, JobCommand),
    /// What only jobs of one kind are told.
    Kind(JobId, KindCommand),
    Task(TaskCommand),
    Object(ManifestHash, ObjectCommand),
    /// Without a job of its own: two of them act on many triggers at once.
    Trigger(TriggerCommand),
}

impl Command {
    /// The state level that a quorum must have reached before this may be proposed. Exhaustive, group by group: a
    /// member that does not know a command must never meet it.
    pub fn level(&self) -> u16 {
        match self {
            Self::Quorum(command) => command.level(),
            Self::Job(_, command) => command.level(),
            Self::Kind(_, command) => command.level(),
            Self::Task(command) => command.level(),
            Self::Object(_, command) => command.level(),
            Self::Trigger(command) => command.level(),
        }
    }

    /// The submit of a job by the peer whose key it is.
    pub fn submit(key: &SigningKey, job: JobId, spec: JobSpec) -> Self {
        Self::Job(job, JobCommand::submit(key, job, spec))
    }

    /// What a submit by that peer is signed as; `None` for any other command.
    pub fn submission(&self, by: PeerId) -> Option<(JobId, Submission)> {
        let Self::Job(job, JobCommand::Submit { spec, signature }) = self else { return None };
        Some((*job, Submission::new(by, *job, spec, signature)))
    }

    /// A control of the job by one who has seen it as it was then.
    pub const fn control(job: JobId, seen: LogIndex, control: Control) -> Self {
        Self::Job(job, JobCommand::Control { seen, control })
    }

    /// A command of kind *store*.
    pub const fn store(job: JobId, command: StoreCommand) -> Self {
        Self::Kind(job, KindCommand::Store(command))
    }

    /// What the command is to the run that it acts on; `None` for those that act on none.
    pub fn run_command(&self) -> Option<RunCommand> {
        match self {
            Self::Job(_, command) => command.run_command(),
            Self::Kind(_, command) => Some(RunCommand::Own(command.name())),
            Self::Trigger(command) => match command {
                TriggerCommand::Fire { .. } => Some(RunCommand::Fire),
                TriggerCommand::Due { .. } | TriggerCommand::Deliver { .. } | TriggerCommand::Observe { .. } => None,
            },
            Self::Quorum(_) | Self::Task(_) | Self::Object(..) => None,
        }
    }
}
