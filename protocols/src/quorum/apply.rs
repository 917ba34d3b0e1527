//! One command at a time: what it requires, what it changes, what it answers.
//!
//! Every function here checks everything before it changes anything, so that a refused command leaves no trace. None
//! looks at a clock, and none fails for a reason that could differ between members.

use std::collections::BTreeSet;

use super::command::{Command, CommandReply, QuorumCommand, Rejection};
use super::limits::{LEVEL, STANDBYS_MAX};
use super::state::{Event, QuorumState};
use crate::approval::Grant;
use crate::approval::{Approval, Subject};
use crate::ids::{Attempt, ManifestHash, PeerId, PieceIndex};
use crate::job::store::Releasing;
use crate::text::REASON_BYTES_MAX;
use crate::text::truncate;

pub(super) type Applied = Result<CommandReply, Rejection>;

impl QuorumState {
    pub(super) fn apply_command(&mut self, by: PeerId, command: &Command, events: &mut Vec<Event>) -> Applied {
        let needed = command.level();
        if needed > self.level {
            return Err(Rejection::Level { needed, level: self.level });
        }
        match command {
            Command::Quorum(command) => self.apply_quorum(command, events),
            Command::Job(job, command) => self.apply_job(by, *job, command, events),
            Command::Kind(job, command) => self.apply_kind(by, *job, command, events),
            Command::Task(command) => self.apply_task(by, command, events),
            Command::Object(manifest, command) => self.apply_object(*manifest, command, events),
            Command::Trigger(command) => self.apply_trigger(by, command, events),
        }
    }

    fn apply_quorum(&mut self, command: &QuorumCommand, events: &mut Vec<Event>) -> Applied {
        match command {
            QuorumCommand::Noop => Ok(CommandReply::Done),
            QuorumCommand::Elapsed { until } => Ok(self.elapsed(*until, events)),
            QuorumCommand::SetStandbys { standbys } => self.set_standbys(standbys),
            QuorumCommand::RaiseLevel { level } => self.raise_level(*level),
        }
    }

    fn set_standbys(&mut self, standbys: &[Approval]) -> Applied {
        if standbys.len() > STANDBYS_MAX {
            return Err(Rejection::Full { what: "standbys".to_owned(), limit: STANDBYS_MAX });
        }
        let peers: BTreeSet<_> = standbys.iter().map(|standby| standby.statement.approver).collect();
        let subject = Subject::Member { quorum: self.quorum };
        if peers.len() < standbys.len() || standbys.iter().any(|standby| standby.statement.subject != subject) {
            return Err(invalid("a standby is named twice, or promised something else"));
        }
        self.standbys = standbys.to_vec();
        Ok(CommandReply::Done)
    }

    fn raise_level(&mut self, level: u16) -> Applied {
        // Proposed only when every member advertises the level, so a build that cannot apply it never sees it.
        if level > LEVEL {
            return Err(invalid(format!("level {level} is above {LEVEL}, the newest that this build applies")));
        }
        self.level = self.level.max(level);
        Ok(CommandReply::Done)
    }
}

pub(super) fn releasing(column: usize, grant: Grant, attempt: Attempt) -> Releasing {
    Releasing { column: PieceIndex(column as u8), grant, attempt }
}

pub(super) fn invalid(reason: impl Into<String>) -> Rejection {
    Rejection::Invalid { reason: reason.into() }
}

pub(super) fn unknown(manifest: ManifestHash) -> Rejection {
    Rejection::UnknownObject { manifest }
}

/// Cuts a text that came from elsewhere to what a record may keep.
pub(super) fn short(text: &str) -> String {
    truncate(text, REASON_BYTES_MAX).to_owned()
}
