//! The authority of proposers: who may propose what, decided by the quorum's primary before a command enters the log.
//!
//! - *Submit*: any admitted peer, for itself: its signature is on the job ([`Command::submission`]). Quotas and
//!   the sources that a condition may name are the node's own to check.
//! - What is asked of a job (*cancel* and the like), and *attach*, which goes on with an upload: the owner of the job
//!   or an operator of the network, by the table of rights ([`super::rights`]). *Remove*: the owner of the claims that
//!   it names, or an operator.
//! - Duties of the primary (holders, workers, timers, triggers, confirmations, releases, repairs, standbys, levels),
//!   and entries that only bring the record up to its time: the primary's node itself, never a peer.
//! - Commands of a run's uploader, and of workers of tasks: the state machine compares the author with the peer that it
//!   has on record, so they pass here.
//!
//! The check reads what the primary has applied, which may lag behind what is committed. That is safe: an owner never
//! changes, and a job that is not there yet is refused here as unknown, so that nobody slips through in between.

use crate::ids::{JobId, ManifestHash, PeerId};
use crate::quorum::author::Author;
use crate::quorum::command::{Control, JobCommand, ObjectCommand, QuorumCommand, TaskCommand, TriggerCommand};
use crate::quorum::entry::Command;
use crate::quorum::rights::{Party, Verb};
use crate::quorum::state::QuorumState;

/// The peer that sent a command, as the primary's transport authenticated it, and what the primary knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorship {
    pub by: PeerId,
    /// The command comes from the primary's own node.
    pub is_primary: bool,
    /// The primary's settings name the peer as an operator of the network.
    pub is_operator: bool,
}

/// Why a command must not be proposed, for the peer that sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    #[error("only the primary itself proposes this")]
    NotPrimary,
    #[error("the quorum knows no job {job}")]
    UnknownJob { job: JobId },
    #[error("job {job} belongs to {owner}; only its owner and the operators may {} it", verb.word())]
    NotOwner { job: JobId, owner: PeerId, verb: Verb },
    #[error(
        "only {owner}, which owns job {job}, the peers that it names in `readers`, operators and members of its quorum \
         may {} it", verb.word()
    )]
    NotReader { job: JobId, owner: PeerId, verb: Verb },
    #[error("job {job} is not signed by {by}, in whose name it is submitted")]
    NotSigned { job: JobId, by: PeerId },
    #[error("only the operators may remove claims of others on object {manifest}")]
    NotClaimant { manifest: ManifestHash },
}

impl QuorumState {
    /// Whether the author may propose the command.
    pub fn check_author(&self, author: Authorship, command: &Command) -> Result<(), Forbidden> {
        match command.author() {
            Author::Anyone | Author::Worker => Ok(()),
            Author::Primary if author.is_primary => Ok(()),
            Author::Primary => Err(Forbidden::NotPrimary),
            Author::Owner { job, verb } => {
                let owner = self.jobs.get(&job).map(|record| record.owner);
                let is_owner = owner == Some(author.by);
                match (verb.allows(&[(Party::Owner, is_owner), (Party::Operator, author.is_operator)]), owner) {
                    (true, _) => Ok(()),
                    (false, Some(owner)) => Err(Forbidden::NotOwner { job, owner, verb }),
                    (false, None) => Err(Forbidden::UnknownJob { job }),
                }
            }
            // A peer without a claim gives none up. Only its own are looked for, so that a command that is sent again
            // after its first try took the last of them changes nothing and is not refused either.
            Author::Claimant { manifest, claims } => {
                let is = [(Party::Owner, claims.is_of(author.by)), (Party::Operator, author.is_operator)];
                if Verb::Remove.allows(&is) { Ok(()) } else { Err(Forbidden::NotClaimant { manifest }) }
            }
        }
    }
}

impl Command {
    /// Who may propose it. Exhaustive, group by group.
    pub fn author(&self) -> Author<'_> {
        match self {
            Self::Quorum(command) => command.author(),
            Self::Job(job, command) => command.author(*job),
            Self::Kind(job, command) => command.author(*job),
            Self::Task(command) => command.author(),
            Self::Object(manifest, command) => command.author(*manifest),
            Self::Trigger(command) => command.author(),
        }
    }
}

impl QuorumCommand {
    const fn author(&self) -> Author<'_> {
        match self {
            Self::Noop
            | Self::Elapsed { .. }
            | Self::SetStandbys { .. }
            | Self::RaiseLevel { .. }
            | Self::RecordFounding { .. }
            | Self::DecideVoters { .. }
            | Self::CertifyVoters { .. } => Author::Primary,
        }
    }
}

impl JobCommand {
    const fn author(&self, job: JobId) -> Author<'_> {
        match self {
            Self::Submit { .. } => Author::Anyone,
            Self::Control { control, .. } => Author::Owner { job, verb: control.verb() },
        }
    }
}

impl Control {
    const fn verb(&self) -> Verb {
        match self {
            Self::Cancel => Verb::Cancel,
            Self::Pause => Verb::Pause,
            Self::Resume => Verb::Resume,
            Self::Retry => Verb::Retry,
            Self::Resolve { .. } => Verb::Resolve,
            Self::Update { .. } => Verb::Update,
            Self::Suspend => Verb::Suspend,
            Self::Unsuspend => Verb::Unsuspend,
        }
    }
}

impl TaskCommand {
    const fn author(&self) -> Author<'_> {
        match self {
            Self::SetWorker { .. } | Self::LoseWorker { .. } | Self::ReleaseWorker { .. } => Author::Primary,
            Self::Start { .. } | Self::Report { .. } | Self::SaveCheckpoint { .. } => Author::Worker,
        }
    }
}

impl ObjectCommand {
    const fn author(&self, manifest: ManifestHash) -> Author<'_> {
        match self {
            Self::Remove { claims, .. } => Author::Claimant { manifest, claims },
            Self::Confirmed { .. }
            | Self::OweRepair { .. }
            | Self::StartRepair { .. }
            | Self::FinishRepair { .. }
            | Self::FailRepair { .. } => Author::Primary,
        }
    }
}

impl TriggerCommand {
    const fn author(&self) -> Author<'_> {
        match self {
            Self::Fire { job, .. } => Author::Owner { job: *job, verb: Verb::Fire },
            Self::Due { .. } | Self::Deliver { .. } | Self::Observe { .. } => Author::Primary,
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::claims::ClaimSelector;
    use super::super::command::{Resolution, StoreCommand};
    use super::super::entry::Batch;
    use super::*;
    use crate::ids::{LogIndex, Millis, Nonce, QuorumId};
    use crate::job::batch::BatchSpec;
    use crate::job::spec::JobSpec;
    use crate::task::spec::{Call, Program};

    const QUORUM: QuorumId = QuorumId([1; 16]);
    const JOB: JobId = JobId { quorum: QUORUM, local: [2; 16] };
    const MANIFEST: ManifestHash = ManifestHash([3; 32]);
    const PRIMARY: u8 = 1;
    const OWNER: u8 = 2;
    const OPERATOR: u8 = 8;
    const STRANGER: u8 = 9;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn peer(number: u8) -> PeerId {
        PeerId(key(number).verifying_key().to_bytes())
    }

    fn author(number: u8) -> Authorship {
        Authorship { by: peer(number), is_primary: number == PRIMARY, is_operator: number == OPERATOR }
    }

    fn state() -> QuorumState {
        let spec = BatchSpec::new(Call::new(Program::Command { name: "work".to_owned() }));
        let submit = Command::submit(&key(OWNER), JOB, JobSpec::batch(spec));
        let mut state = QuorumState::new(QUORUM);
        let batch = Batch::at(Millis(1), vec![(peer(OWNER), submit)]);
        state.apply(LogIndex(1), &batch).0.replies[0].as_ref().unwrap();
        state
    }

    /// Those of the four who may propose the command.
    fn allowed(command: &Command) -> Vec<u8> {
        let state = state();
        let may = |peer: &u8| state.check_author(author(*peer), command).is_ok();
        [PRIMARY, OWNER, OPERATOR, STRANGER].into_iter().filter(may).collect()
    }

    #[test]
    fn only_the_owner_and_the_operators_command_a_job_or_go_on_with_an_upload() {
        for control in [
            Control::Cancel,
            Control::Pause,
            Control::Resume,
            Control::Retry,
            Control::Resolve { resolution: Resolution::Skip },
            Control::Update { priority: Some(1), parallelism: None, resources: None },
            Control::Suspend,
            Control::Unsuspend,
        ] {
            assert_eq!(allowed(&Command::control(JOB, LogIndex(1), control)), [OWNER, OPERATOR]);
        }
        assert_eq!(allowed(&Command::store(JOB, StoreCommand::Attach)), [OWNER, OPERATOR]);
        let fire =
            TriggerCommand::Fire { job: JOB, seen: LogIndex(u64::MAX), nonce: Nonce([5; 16]), respect_overlap: true };
        assert_eq!(allowed(&Command::Trigger(fire)), [OWNER, OPERATOR]);
        let refusal = state()
            .check_author(author(STRANGER), &Command::control(JOB, LogIndex(u64::MAX), Control::Cancel))
            .unwrap_err();
        assert!(refusal.to_string().ends_with("only its owner and the operators may cancel it"), "{refusal}");
    }

    #[test]
    fn a_job_that_is_not_known_has_no_owner() {
        let other = JobId { local: [7; 16], ..JOB };
        let cancel = Command::control(other, LogIndex(u64::MAX), Control::Cancel);
        assert_eq!(state().check_author(author(OWNER), &cancel), Err(Forbidden::UnknownJob { job: other }));
        assert_eq!(state().check_author(author(OPERATOR), &cancel), Ok(()));
    }

    #[test]
    fn the_primarys_duties_are_nobody_elses_not_even_an_operators() {
        for command in [
            Command::Quorum(QuorumCommand::Noop),
            Command::Quorum(QuorumCommand::RaiseLevel { level: 2 }),
            Command::Quorum(QuorumCommand::Elapsed { until: Millis(1) }),
            Command::store(JOB, StoreCommand::AddHolders { grants: Vec::new(), exhausted: false }),
            Command::store(JOB, StoreCommand::Fail { upload_attempt: None, reason: String::new() }),
            Command::Trigger(TriggerCommand::Due { spans: Vec::new() }),
        ] {
            assert_eq!(allowed(&command), [PRIMARY], "{command:?}");
        }
    }

    #[test]
    fn claims_are_given_up_by_their_owner_or_an_operator() {
        let remove = |claims| {
            Command::Object(MANIFEST, ObjectCommand::Remove { claims, seen: LogIndex(u64::MAX), force: false })
        };
        let of = |number: u8| remove(ClaimSelector::OwnedBy(peer(number)));
        assert_eq!(allowed(&of(OWNER)), [OWNER, OPERATOR]);
        assert_eq!(allowed(&of(STRANGER)), [OPERATOR, STRANGER]);
        assert_eq!(allowed(&remove(ClaimSelector::All)), [OPERATOR]);
    }

    #[test]
    fn everybody_submits_and_workers_are_told_apart_by_the_state() {
        let all = [PRIMARY, OWNER, OPERATOR, STRANGER];
        assert_eq!(allowed(&Command::Task(TaskCommand::Report { reports: Vec::new() })), all);
    }
}
