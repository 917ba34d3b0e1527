//! Certifying who the voters are: a change of the voters is decided in the log, then signed by a majority of the voters
//! before it, and only then made by openraft. So nobody votes of whom others cannot check that it may.
//!
//! A voter signs for no newcomer that it does not trust itself: a primary takes in nobody whom a majority distrusts.
//!
//! Every step may be repeated, and any later primary goes on where an earlier one stopped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::approval::Signature;
use quorate_protocols::backoff::Backoff;
use quorate_protocols::certificate::{CertificatePart, Chain, LinkStatement};
use quorate_protocols::ids::{MemberId, PeerId};
use quorate_protocols::quorum::limits::RAFT_DEADLINE;
use quorate_protocols::quorum::{Command, CommandReply, QuorumCommand, RaftAnswer, RaftMessage};

use super::group::Group;
use super::host::Inner;
use super::{Member, Quorum, QuorumError};

/// Committing one step. When it takes longer, the next look at the group does it again.
const COMMIT_DEADLINE: Duration = Duration::from_secs(10);

/// Has these certified as the voters, if they are not yet.
pub async fn certify(host: &Arc<Inner>, group: &Arc<Group>, voters: &BTreeSet<MemberId>) -> Result<(), QuorumError> {
    let chain = |group: &Group| group.machine.read(|applied| applied.state.chain().clone());
    if chain(group).founding().is_none() {
        let founding = group.record().founding;
        propose(host, group, QuorumCommand::RecordFounding { founding }).await?;
    }
    let voters: Vec<MemberId> = voters.iter().copied().collect();
    if is_certified(&chain(group), &voters) {
        return Ok(());
    }
    propose(host, group, QuorumCommand::DecideVoters { voters: voters.clone() }).await?;
    let chain = chain(group);
    let (Some(pending), Some((newest, signers))) = (chain.pending(), chain.newest()) else { return Ok(()) };
    let signed = sign_by(host, group, &chain, newest, signers).await;
    let who: BTreeSet<PeerId> = signed.iter().map(|(signer, _)| *signer).collect();
    let failed = |reason: String| QuorumError::Paused { quorum: group.id, reason };
    let oldest = chain
        .oldest_base(&who)
        .ok_or_else(|| failed(format!("{} of {} voters signed the change of the voters", who.len(), signers.len())))?;
    let number = pending.number;
    // An older configuration that can still sign makes the certificate shorter; it is as well as the newest.
    if oldest != newest {
        let signers: Vec<_> = signers.iter().copied().filter(|signer| who.contains(&signer.peer)).collect();
        let signatures = sign_by(host, group, &chain, oldest, &signers).await;
        let command = QuorumCommand::CertifyVoters { number, base: oldest, signatures };
        if propose(host, group, command).await.is_ok() {
            return Ok(());
        }
    }
    propose(host, group, QuorumCommand::CertifyVoters { number, base: newest, signatures: signed }).await
}

/// A member hears of a commit a moment after the primary: it is asked to sign again, so many times in all.
const SIGN_TRIES: usize = 6;
const SIGN_PAUSES: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(320));

/// Whether these are the voters by the certificate.
pub fn is_certified(chain: &Chain, voters: &[MemberId]) -> bool {
    chain.newest().is_some_and(|(_, newest)| newest == voters)
}

/// The good signatures of those asked that answered in time.
async fn sign_by(
    host: &Arc<Inner>,
    group: &Group,
    chain: &Chain,
    base: u64,
    signers: &[MemberId],
) -> Vec<(PeerId, Signature)> {
    let Some(statement) = chain.statement(group.id, base) else { return Vec::new() };
    let asked = signers.iter().map(|signer| sign_one(host, group, &statement, *signer));
    let signatures = futures::future::join_all(asked).await;
    signers.iter().zip(signatures).filter_map(|(signer, signature)| Some((signer.peer, signature?))).collect()
}

async fn sign_one(host: &Inner, group: &Group, statement: &LinkStatement, signer: MemberId) -> Option<Signature> {
    if signer == group.me {
        return Some(statement.sign(host.identity.signing_key()));
    }
    let LinkStatement { quorum, base, number, .. } = *statement;
    let message = RaftMessage::SignLink { quorum, to: signer, base, number };
    for pause in SIGN_PAUSES.pauses().take(SIGN_TRIES) {
        match host.links.ask(signer.peer, &message, RAFT_DEADLINE).await {
            Ok((RaftAnswer::Signed(signature), _)) if statement.is_signed_by(signer.peer, &signature) => {
                return Some(signature);
            }
            // It may not have heard yet that the change is committed, or of a newcomer that it is to trust.
            Ok((answer, _)) => tracing::debug!(quorum = %group.id, %signer, ?answer, "a change was not signed"),
            Err(error) => {
                tracing::debug!(quorum = %group.id, %signer, %error, "a change was not signed");
                return None;
            }
        }
        tokio::time::sleep(pause).await;
    }
    None
}

async fn propose(host: &Arc<Inner>, group: &Arc<Group>, command: QuorumCommand) -> Result<(), QuorumError> {
    let quorum = Quorum { host: host.clone(), id: group.id, member: Member::Active(group.clone()) };
    let reply = quorum.propose(host.identity.peer(), Command::Quorum(command), COMMIT_DEADLINE).await?;
    match reply {
        Ok(CommandReply::Done | CommandReply::Decided { .. }) => Ok(()),
        Ok(other) => Err(QuorumError::Paused { quorum: group.id, reason: format!("answered {other:?}") }),
        Err(rejection) => Err(QuorumError::Paused { quorum: group.id, reason: rejection.to_string() }),
    }
}

impl Group {
    /// What this member can prove of the voters, behind configuration `since` if the reader knows that one.
    pub fn certificate(&self, since: Option<u64>) -> CertificatePart {
        let part =
            self.machine.read(|applied| applied.state.chain().founding().map(|_| applied.state.chain().part(since)));
        // Before the founding is in the record, nothing is behind it.
        part.unwrap_or_else(|| CertificatePart { founding: Some(self.record().founding), ..CertificatePart::default() })
    }
}
