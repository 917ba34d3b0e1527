//! The door of this node's groups: tells the pure door of `quorate_protocols::quorum::door` what each member knows, and
//! finds out about voters that a member does not know yet.
//!
//! A member that was away may meet a primary, or a candidate, that became a voter meanwhile. It refuses the stranger,
//! and asks the voters that it knows who the members are ([`Inner::inquire`]). A voter that has applied more than the
//! entry of this member's own configuration knows one that is at least as new, and its word counts until the log tells
//! the rest: the same word could have been a vote. The stranger tries again, as openraft and the election do anyway.
//!
//! Answers are judged as well: a vote in them moves this member's own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::LogIdOptionExt;
use openraft::raft::{AppendEntriesRequest, VoteResponse};
use quorate_protocols::ids::{LogIndex, MemberId, Millis, PeerId, Term};
use quorate_protocols::quorum::door::check_term;
use quorate_protocols::quorum::limits::{RAFT_DEADLINE, VOTERS_MAX};
use quorate_protocols::quorum::{Attestation, Door, RaftAnswer, RaftClaim, RaftMessage, Refusal, Voters};

use super::group::Group;
use super::host::Inner;
use super::log_store::KnownVote;
use super::types::{LogId, Membership, TypeConfig, Vote};

/// Groups whose voters are asked about strangers at the same time. Another stranger is refused without.
pub const INQUIRIES_MAX: usize = 4;

/// A group asks its voters at most this often, however many strangers speak to it.
const INQUIRY_INTERVAL: Duration = Duration::from_secs(1);

/// Voters as another voter knows them.
pub struct Vouched {
    /// The index of this member's own configuration when it asked. A newer one makes the word of others needless.
    configuration: Option<u64>,
    voters: Voters,
}

/// A primary that a majority contradicts.
#[derive(Clone, Copy, Debug)]
pub struct Deposed {
    pub term: Term,
    pub primary: MemberId,
    pub at: Millis,
}

/// What a raft message claims for its sender.
pub fn claim_of(vote: &Vote, is_primary: bool) -> RaftClaim {
    RaftClaim { term: Term(vote.leader_id.term), by: vote.leader_id.voted_for, is_primary }
}

fn voters_of(membership: &Membership) -> Vec<Voters> {
    membership.get_joint_config().iter().map(|voters| Voters::new(voters.iter().copied())).collect()
}

impl Group {
    fn door(&self) -> Door {
        let mut configurations = self.configurations();
        let is_blank = configurations.iter().all(Voters::is_empty);
        let invitation = (!self.is_named()).then(|| self.record().invitation(is_blank));
        configurations.extend(self.vouched());
        let vote = self.log.known_vote.get();
        Door {
            me: self.me,
            configurations,
            invitation,
            term: Term(vote.leader_id.term),
            primary: vote.leader_id.voted_for.filter(|_| vote.committed),
            deposed: self.deposed().map(|deposed| (deposed.term, deposed.primary)),
        }
    }

    /// The door with the configuration that is applied here beside the newest in the log, while they differ. The newest
    /// may not be committed, and may be cut from the log by a primary of the one before it.
    fn door_with_applied(&self) -> Door {
        let mut door = self.door();
        door.configurations.extend(self.machine.read(|applied| voters_of(applied.membership.membership())));
        door
    }

    /// Whether anything that the peer could claim may be taken.
    pub fn knows(&self, from: PeerId) -> bool {
        self.has_member(from) || self.door_with_applied().knows(from)
    }

    pub fn check_claim(&self, from: PeerId, claim: RaftClaim) -> Result<(), Refusal> {
        match self.door().check(from, claim) {
            Err(Refusal::NotVoter) => self.door_with_applied().check(from, claim),
            checked => checked,
        }
    }

    /// Whether the peer is a member, by the configuration in force or the one that is applied.
    pub fn serves(&self, peer: PeerId) -> bool {
        self.has_member(peer)
            || self.machine.read(|applied| applied.membership.nodes().any(|(member, _)| member.peer == peer))
    }

    /// Whether a configuration has named this member since it was invited. From then on the invitation admits nobody.
    pub fn is_named(&self) -> bool {
        if self.named.load(Ordering::Acquire) {
            return true;
        }
        // What it hears of again at first are configurations of before it left.
        let named = self.members().contains(&self.me) && !self.is_behind_promise();
        if named && !self.stop_token().is_cancelled() {
            self.named.store(true, Ordering::Release);
            if let Err(error) = self.log.set_named() {
                tracing::debug!(quorum = ?self.id, %error, "what a log says again was not written");
            }
        }
        named
    }

    /// The voters of a newer configuration than this member's own, as another voter told them.
    pub fn vouched(&self) -> Option<Voters> {
        let vouched = self.vouched.lock();
        let current = self.configuration_index();
        vouched.as_ref().filter(|vouched| vouched.configuration == current).map(|vouched| vouched.voters.clone())
    }

    fn configuration_index(&self) -> Option<u64> {
        self.raft.server_metrics().borrow().membership_config.log_id().map(|at| at.index)
    }

    /// Whether an inquiry may begin now.
    fn begins_inquiry(&self, now: Millis) -> bool {
        let mut inquired_at = self.inquired_at.lock();
        let waits = inquired_at.is_some_and(|at| now.since(at) < INQUIRY_INTERVAL);
        if !waits {
            *inquired_at = Some(now);
        }
        !waits
    }

    pub fn attest(&self, index: LogIndex) -> Attestation {
        let voters: BTreeSet<MemberId> = self.configurations().iter().flat_map(Voters::iter).collect();
        self.machine.read(|applied| Attestation {
            applied: LogIndex(applied.last.index().unwrap_or(0)),
            voters: voters.into_iter().collect(),
            digest: applied.digest_at(index),
        })
    }

    pub fn deposed(&self) -> Option<Deposed> {
        *self.deposed.lock()
    }

    /// Whether the present primary's state differs from that of a majority.
    pub fn is_primary_deposed(&self) -> bool {
        self.deposed().is_some_and(|deposed| deposed.term == self.term())
    }
}

impl Inner {
    /// Whether raft may see a message with this claim. Who is unknown is asked about.
    pub(super) fn admit(self: &Arc<Self>, from: PeerId, group: &Arc<Group>, claim: RaftClaim) -> Result<(), Refusal> {
        let checked = group.check_claim(from, claim);
        if checked == Err(Refusal::NotVoter) {
            self.inquire(group);
        }
        checked
    }

    /// Asks the voters that this member knows who the voters are, unless it is in touch with its quorum.
    pub(super) fn inquire(self: &Arc<Self>, group: &Arc<Group>) {
        // Who hears its primary has missed none.
        let hears = |primary: MemberId| {
            primary != group.me && !self.suspects(primary.peer) && !self.denied.lock().contains(&group.id)
        };
        if group.is_stopped() || group.primary().is_some_and(hears) {
            return;
        }
        let Ok(permit) = self.inquiries.clone().try_acquire_owned() else { return };
        if !group.begins_inquiry(self.seams.clock.monotonic()) {
            return;
        }
        let (host, group, stop) = (self.clone(), group.clone(), group.stop_token());
        crate::seams::spawn(async move {
            stop.run_until_cancelled(host.learn_voters(&group)).await;
            drop(permit);
        });
    }

    async fn learn_voters(&self, group: &Group) {
        let configuration = group.configuration_index();
        // A member on which nothing was agreed yet knows those that founded it, or that it was invited by.
        let own = if group.is_blank() { vec![group.founders()] } else { group.configurations() };
        let is_voter = own.iter().any(|voters| voters.contains(group.me));
        let newest = self.ask_voters(group, &own, LogIndex(0)).await.into_iter().map(|(_, told)| told);
        let newest = newest
            .filter(|told| Some(told.applied.0) > configuration && told.voters.len() <= 2 * VOTERS_MAX)
            .filter(|told| !is_voter || told.voters.contains(&group.me))
            .max_by_key(|told| told.applied);
        if let Some(told) = newest {
            let voters = Voters::new(told.voters);
            tracing::debug!(quorum = %group.id, ?voters, applied = ?told.applied, "another voter knows newer members");
            *group.vouched.lock() = Some(Vouched { configuration, voters });
        }
    }

    /// What the other voters of these configurations attest, in the order of their ids.
    pub(super) async fn ask_voters(
        &self,
        group: &Group,
        configurations: &[Voters],
        index: LogIndex,
    ) -> Vec<(MemberId, Attestation)> {
        let others: BTreeSet<MemberId> =
            configurations.iter().flat_map(Voters::iter).filter(|voter| voter.peer != group.me.peer).collect();
        let message = RaftMessage::Attest { quorum: group.id, index };
        let asked = others.iter().map(|voter| self.links.ask(voter.peer, &message, RAFT_DEADLINE));
        let answers = futures::future::join_all(asked).await;
        let attested = others.iter().zip(answers).filter_map(|(voter, answer)| match answer {
            Ok((RaftAnswer::Attested(told), _)) => Some((*voter, told)),
            _ => None,
        });
        attested.collect()
    }
}

/// Whether the entries follow each other and the one before them, and nothing in the message is of a later term than
/// its primary's. openraft takes that for granted.
pub fn is_in_order(request: &AppendEntriesRequest<TypeConfig>) -> bool {
    let term = request.vote.leader_id.term;
    let mut before = request.prev_log_id;
    let in_order = request.entries.iter().all(|entry| {
        let follows = entry.log_id.index == before.next_index() && Some(entry.log_id) > before;
        before = Some(entry.log_id);
        follows
    });
    in_order && is_of_term(before, term) && is_of_term(request.leader_commit, term)
}

/// Whether the entry is none of a later term.
pub fn is_of_term(log_id: Option<LogId>, term: u64) -> bool {
    log_id.is_none_or(|log_id| log_id.leader_id.term <= term)
}

/// The vote of another member, from its answer, as this member's openraft may see it. A vote in an answer only says
/// that there is a later term: nobody is made a primary by an answer, and least of all the one that asked.
pub fn check_answer(me: MemberId, known: &KnownVote, vote: Vote) -> Result<Vote, Refusal> {
    let (known, term) = (known.term(), Term(vote.leader_id.term));
    check_term(Some(known), term)?;
    // What this member asks for it has saved before.
    match vote.leader_id.voted_for == Some(me) && term > known {
        true => Err(Refusal::OtherName),
        false => Ok(Vote { committed: false, ..vote }),
    }
}

/// The same of an answer to a request for votes, which repeats the vote that it grants.
pub fn check_voted(
    me: MemberId,
    known: &KnownVote,
    asked: Vote,
    answer: VoteResponse<MemberId>,
) -> Result<VoteResponse<MemberId>, Refusal> {
    if answer.vote == asked {
        return Ok(answer);
    }
    Ok(VoteResponse { vote: check_answer(me, known, answer.vote)?, ..answer })
}
