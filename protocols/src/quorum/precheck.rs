//! The pre-check of a command: the reply that is certain before the command enters the log.
//!
//! A command that changes nothing costs its bytes on the disks of all members like any other. So a primary looks first
//! whether its state refuses the command, or knows it already, and then answers without an entry. The answer is the one
//! that an entry in this place of the log would have given: the primary has applied all that was in its log when it was
//! elected, has its lead confirmed after the command came, and looks again.
//!
//! Not promised: that every useless command is found out. Apply decides, and refuses whatever is refused here; a
//! refusal that depends on the time of the entry, or is costly to foretell, is left to it.

use super::command::{JobCommand, ObjectCommand, TriggerCommand};
use super::entry::Command;
use super::reply::{CommandReply, Rejection, unknown};
use super::state::QuorumState;
use crate::ids::PeerId;
use crate::job::transition::RunCommand;

impl QuorumState {
    /// The reply to the command of `by`, if an entry would certainly give it and change nothing.
    pub fn foretell_reply(&self, by: PeerId, command: &Command) -> Option<Result<CommandReply, Rejection>> {
        let (needed, level) = (command.level(), self.level);
        if needed > level {
            return Some(Err(Rejection::Level { needed, level }));
        }
        let checked = match command {
            // Whether it is signed was looked at before, outside of the state.
            Command::Job(job, JobCommand::Submit { spec, .. }) => return self.check_submit(by, *job, spec).transpose(),
            Command::Task(command) => return self.pool().foretell_reply(by, command),
            Command::Kind(job, command) => self.check_kind_command(by, *job, command),
            Command::Object(manifest, ObjectCommand::Remove { .. }) => match self.objects.get(manifest) {
                Some(_) => Ok(()),
                None => Err(unknown(*manifest)),
            },
            Command::Job(job, JobCommand::Control { seen, control }) => {
                return self.jobs.check_control((by, *seen, control), *job).transpose();
            }
            Command::Trigger(TriggerCommand::Fire { job, .. }) => self.jobs.run_for(*job, RunCommand::Fire).map(drop),
            // The primary's own, each made for the state as it stands.
            Command::Quorum(_) | Command::Object(..) | Command::Trigger(_) => Ok(()),
        };
        checked.err().map(Err)
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::{Control, StoreCommand, TaskCommand};
    use super::super::entry::Batch;
    use super::*;
    use crate::ids::{Attempt, JobId, LogIndex, ManifestHash, Millis, QuorumId, StepIndex, TaskIndex};
    use ed25519_dalek::SigningKey;

    use crate::job::batch::BatchSpec;
    use crate::job::spec::{JobSpec, StoreSpec};
    use crate::object::Profile;
    use crate::quorum::ClaimSelector;
    use crate::task::message::{Report, TaskResult};
    use crate::task::record::{TaskAttempt, TaskId};
    use crate::task::spec::{Call, Program};

    const QUORUM: QuorumId = QuorumId([1; 16]);

    fn job(number: u8) -> JobId {
        JobId { quorum: QUORUM, local: [number; 16] }
    }

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn peer(number: u8) -> PeerId {
        PeerId(key(number).verifying_key().to_bytes())
    }

    fn store() -> JobSpec {
        JobSpec::store(StoreSpec { name: None, size: Some(1), profile: Profile { data: 1, parity: 0 } })
    }

    fn submit(by: u8, number: u8, spec: JobSpec) -> Command {
        Command::submit(&key(by), job(number), spec)
    }

    /// A batch that nobody runs, as job 1; a store run as job 2, and one that was cancelled as job 3. All of peer 1.
    fn state() -> QuorumState {
        let mut state = QuorumState::new(QUORUM);
        let batch = JobSpec::batch(BatchSpec::new(Call::new(Program::Command { name: "work".to_owned() })));
        let cancel = Command::control(job(3), LogIndex(u64::MAX), Control::Cancel);
        let commands = [submit(1, 1, batch), submit(1, 2, store()), submit(1, 3, store()), cancel];
        let batch = Batch::at(Millis(1), commands.map(|command| (peer(1), command)).into());
        assert!(state.apply(LogIndex(1), &batch).0.replies.iter().all(Result::is_ok));
        state
    }

    fn task(number: u8) -> TaskAttempt {
        TaskAttempt { id: TaskId { job: job(number), step: StepIndex(0), task: TaskIndex(0) }, attempt: Attempt(1) }
    }

    fn progress(number: u8) -> Command {
        Command::store(job(number), StoreCommand::Progress { upload_attempt: Attempt(1), segments: Vec::new() })
    }

    /// Goal: what is foretold is what apply says, and apply changes nothing by it. What may change something is not
    /// foretold.
    #[test]
    fn a_foretold_reply_is_that_of_an_entry_that_changes_nothing() {
        let report = |number| Report { task: task(number), result: TaskResult::Stopped };
        let remove = ObjectCommand::Remove { claims: ClaimSelector::All, seen: LogIndex(u64::MAX), force: true };
        let useless = [
            (1, submit(1, 2, store())),
            (2, submit(2, 2, store())),
            (1, submit(1, 1, store())),
            (1, Command::submit(&key(1), JobId { quorum: QuorumId([9; 16]), ..job(5) }, store())),
            (1, Command::control(job(9), LogIndex(u64::MAX), Control::Cancel)),
            (1, Command::control(job(3), LogIndex(u64::MAX), Control::Pause)),
            (2, progress(9)),
            (2, progress(2)),
            (1, progress(3)),
            (1, progress(1)),
            (2, Command::store(job(2), StoreCommand::Fail { upload_attempt: Some(Attempt(1)), reason: String::new() })),
            (2, Command::Task(TaskCommand::Start { tasks: vec![task(1), task(9)] })),
            (2, Command::Task(TaskCommand::Report { reports: vec![report(1), report(9)] })),
            (1, Command::Object(ManifestHash([1; 32]), remove)),
            (1, Command::control(job(1), LogIndex(u64::MAX), Control::Suspend)),
            (1, Command::control(job(9), LogIndex(u64::MAX), Control::Suspend)),
        ];
        for (by, command) in useless {
            let mut state = state();
            let foretold = state.foretell_reply(peer(by), &command);
            let told = foretold.unwrap_or_else(|| panic!("nothing is foretold of {command:?}"));
            let records: Vec<_> = state.jobs.values().cloned().collect();
            let batch = Batch::at(Millis(1), vec![(peer(by), command.clone())]);
            assert_eq!(state.apply(LogIndex(2), &batch).0.replies, [told], "{command:?}");
            let without_counts =
                |state: &QuorumState| state.jobs.values().map(|record| record.state).collect::<Vec<_>>();
            assert_eq!(without_counts(&state), records.iter().map(|record| record.state).collect::<Vec<_>>());
        }
        let honest = [
            (1, submit(1, 5, store())),
            (1, Command::control(job(2), LogIndex(u64::MAX), Control::Cancel)),
            (1, progress(2)),
            (1, Command::store(job(2), StoreCommand::Attach)),
        ];
        for (by, command) in honest {
            assert_eq!(state().foretell_reply(peer(by), &command), None, "{command:?}");
        }
    }
}
