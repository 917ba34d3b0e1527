//! The door of a member: whose raft messages it takes, and which of them it refuses before raft sees them.
//!
//! openraft believes each message that it is given: who is a member is no concern of its own, and it obeys a primary
//! that is none. So a member judges each message first. It takes the claim to be primary, or a candidate, only from the
//! claimant itself, which must be a voter of a configuration that may be in force. A member that no configuration has
//! named yet knows no voters: it takes them from the peers of the invitation that it accepted, until a configuration
//! names it. After that the invitation, and with it the founding, counts for nothing.
//!
//! Terms rise by one per election, and nobody runs without a majority that misses the primary too ([`Election`]). So a
//! term far above the known one is no claim of an honest member, and is refused as well: see [`TERM_JUMP_MAX`].
//!
//! Not promised: that a *voter* tells the truth. It can still win an election with a false log, for there is no
//! Byzantine agreement in a quorum.
//!
//! [`Election`]: crate::liveness::Election

use std::collections::BTreeSet;

use super::limits::{TERM_JUMP_MAX, TERM_MAX};
use crate::ids::{MemberId, PeerId, Term};
use crate::membership::Voters;

/// The claim that a raft message makes for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftClaim {
    pub term: Term,
    pub by: Option<MemberId>,
    /// The sender says that it was elected; otherwise it asks for votes.
    pub is_primary: bool,
}

/// The invitation on which a member takes part, for as long as no configuration has named it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invitation {
    /// The voters that the group is founded with.
    pub founders: Voters,
    /// Everybody who may lead the quorum that this member is taken into: the peer that asked, and those that promised.
    pub peers: BTreeSet<PeerId>,
    /// The member has no configuration at all: its founding may still be going on.
    pub is_blank: bool,
}

/// What a member knows when a message arrives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Door {
    pub me: MemberId,
    /// The voters of each configuration that may be in force.
    pub configurations: Vec<Voters>,
    pub invitation: Option<Invitation>,
    /// The newest term known here, and its primary once one was elected.
    pub term: Term,
    pub primary: Option<MemberId>,
    /// A primary of that term whose state a majority contradicts: it is followed no further.
    pub deposed: Option<(Term, MemberId)>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the sender is no member here")]
    NotMember,
    #[error("the sender claims in the name of another")]
    OtherName,
    #[error("the claimant is no voter here")]
    NotVoter,
    #[error("the sender appends without having been elected")]
    NotElected,
    #[error("term {claimed} is beyond {known} by more than elections explain")]
    TermJump { known: Term, claimed: Term },
    #[error("term {term} has another primary")]
    SecondPrimary { term: Term },
    #[error("the state of the primary differs from that of a majority")]
    Deposed,
}

impl Door {
    /// Whether anything that the peer could claim may be taken. Asked before its message is read.
    pub fn knows(&self, from: PeerId) -> bool {
        self.configurations.iter().flat_map(Voters::iter).any(|voter| voter.peer == from)
            || self.invitation.as_ref().is_some_and(|invitation| invitation.admits(from))
    }

    /// Whether raft may see a message in which `from`, as the transport authenticated it, makes this claim.
    pub fn check(&self, from: PeerId, claim: RaftClaim) -> Result<(), Refusal> {
        let by = claim.by.filter(|by| by.peer == from).ok_or(Refusal::OtherName)?;
        let is_voter = self.configurations.iter().any(|voters| voters.contains(by));
        let is_invited = self.invitation.as_ref().is_some_and(|invitation| match claim.is_primary {
            true => invitation.admits(from),
            // Nobody needs the vote of a newcomer, but in a founding.
            false => invitation.is_blank && invitation.founders.contains(self.me) && invitation.founders.contains(by),
        });
        if !is_voter && !is_invited {
            return Err(Refusal::NotVoter);
        }
        // A newcomer knows no term to measure by. Nobody counts its vote yet.
        let known = if self.invitation.is_some() && claim.is_primary { None } else { Some(self.term) };
        check_term(known, claim.term)?;
        if claim.is_primary && claim.term == self.term && self.primary.is_some_and(|primary| primary != by) {
            return Err(Refusal::SecondPrimary { term: claim.term });
        }
        if claim.is_primary && self.deposed == Some((claim.term, by)) {
            return Err(Refusal::Deposed);
        }
        Ok(())
    }
}

impl Invitation {
    fn admits(&self, peer: PeerId) -> bool {
        self.peers.contains(&peer) || self.founders.iter().any(|founder| founder.peer == peer)
    }
}

/// Whether a term that another member tells may be believed, beside the newest one known here.
pub fn check_term(known: Option<Term>, claimed: Term) -> Result<(), Refusal> {
    let most = known.map_or(TERM_MAX, |known| known.0.saturating_add(TERM_JUMP_MAX).min(TERM_MAX));
    match claimed.0 <= most {
        true => Ok(()),
        false => Err(Refusal::TermJump { known: known.unwrap_or_default(), claimed }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;

    fn member(number: u8) -> MemberId {
        MemberId { peer: PeerId([number; 32]), incarnation: Incarnation(u64::from(number)) }
    }

    fn peers(numbers: &[u8]) -> BTreeSet<PeerId> {
        numbers.iter().map(|number| member(*number).peer).collect()
    }

    fn claim(by: u8, term: u64, is_primary: bool) -> RaftClaim {
        RaftClaim { term: Term(term), by: Some(member(by)), is_primary }
    }

    const KNOWN: u64 = 5;

    /// The door of member 2 of the voters 1, 2 and 3, in term 5 under member 1.
    fn door() -> Door {
        Door {
            me: member(2),
            configurations: vec![Voters::new([1, 2, 3].map(member))],
            invitation: None,
            term: Term(KNOWN),
            primary: Some(member(1)),
            deposed: None,
        }
    }

    /// The same of a member that no configuration names, which 1 asked, on the promises of 1, 2 and 3 and of a standby.
    fn invited(is_blank: bool) -> Door {
        let founders = Voters::new([1, 2, 3].map(member));
        let invitation = Invitation { founders, peers: peers(&[1, 2, 3, 4, 9]), is_blank };
        Door { configurations: vec![], invitation: Some(invitation), term: Term(0), primary: None, ..door() }
    }

    #[test]
    fn voters_speak_for_themselves_and_nobody_else_does() {
        let door = door();
        for is_primary in [false, true] {
            assert_eq!(door.check(member(3).peer, claim(3, KNOWN + 1, is_primary)), Ok(()));
            assert_eq!(door.check(member(1).peer, claim(3, KNOWN + 1, is_primary)), Err(Refusal::OtherName));
            assert_eq!(door.check(member(9).peer, claim(9, KNOWN + 1, is_primary)), Err(Refusal::NotVoter));
            let nobody = RaftClaim { by: None, ..claim(3, KNOWN + 1, is_primary) };
            assert_eq!(door.check(member(3).peer, nobody), Err(Refusal::OtherName));
        }
        // A voter whose disk was lost is another member until it is taken in.
        let reborn = MemberId { incarnation: Incarnation(77), ..member(3) };
        let claimed = RaftClaim { by: Some(reborn), ..claim(3, KNOWN + 1, false) };
        assert_eq!(door.check(member(3).peer, claimed), Err(Refusal::NotVoter));
        assert!(door.knows(member(3).peer) && !door.knows(member(9).peer));
    }

    /// Goal: no message takes a term further than elections do, and none near the end of the numbers.
    #[test]
    fn terms_rise_by_elections_only() {
        let door = door();
        for is_primary in [false, true] {
            let checked = |term| door.check(member(3).peer, claim(3, term, is_primary));
            assert_eq!(checked(KNOWN + TERM_JUMP_MAX), Ok(()));
            for term in [KNOWN + TERM_JUMP_MAX + 1, KNOWN + (1 << 32), u64::MAX] {
                let refused = Err(Refusal::TermJump { known: Term(KNOWN), claimed: Term(term) });
                assert_eq!(checked(term), refused);
            }
        }
        assert_eq!(check_term(None, Term(TERM_MAX)), Ok(()));
        assert!(check_term(None, Term(TERM_MAX + 1)).is_err());
        assert!(check_term(Some(Term(TERM_MAX)), Term(TERM_MAX + 1)).is_err());
    }

    #[test]
    fn a_term_has_one_primary() {
        let door = door();
        assert_eq!(door.check(member(1).peer, claim(1, KNOWN, true)), Ok(()));
        let second = door.check(member(3).peer, claim(3, KNOWN, true));
        assert_eq!(second, Err(Refusal::SecondPrimary { term: Term(KNOWN) }));
        assert_eq!(door.check(member(3).peer, claim(3, KNOWN, false)), Ok(()), "raft refuses that itself");
        let deposed = Door { deposed: Some((Term(KNOWN), member(1))), ..door };
        assert_eq!(deposed.check(member(1).peer, claim(1, KNOWN, true)), Err(Refusal::Deposed));
        assert_eq!(deposed.check(member(1).peer, claim(1, KNOWN + 1, true)), Ok(()), "it was elected again");
    }

    /// Goal: a founding elects among its voters, whoever asked for it; a newcomer follows those who may lead the quorum
    /// that it is taken into, whatever their term, and votes for nobody.
    #[test]
    fn an_invitation_admits_its_own_peers() {
        let blank = invited(true);
        assert_eq!(blank.check(member(3).peer, claim(3, 1, false)), Ok(()));
        for not_founding in [4, 9, 8] {
            assert_eq!(blank.check(member(not_founding).peer, claim(not_founding, 1, false)), Err(Refusal::NotVoter));
        }
        assert!(
            blank.check(member(3).peer, claim(3, 1 << 32, false)).is_err(),
            "a founding begins with the first term"
        );
        let catching_up = invited(false);
        for leading in [1, 3, 4, 9] {
            assert_eq!(catching_up.check(member(leading).peer, claim(leading, 1 << 40, true)), Ok(()));
        }
        assert_eq!(catching_up.check(member(8).peer, claim(8, 1, true)), Err(Refusal::NotVoter));
        assert_eq!(catching_up.check(member(3).peer, claim(3, 1, false)), Err(Refusal::NotVoter));
        assert!(catching_up.check(member(9).peer, claim(9, u64::MAX, true)).is_err());
        // Once a configuration has named it.
        let named = Door { invitation: None, configurations: vec![Voters::new([1, 2, 5].map(member))], ..catching_up };
        for gone in [3, 4, 9] {
            assert_eq!(named.check(member(gone).peer, claim(gone, 1, true)), Err(Refusal::NotVoter));
        }
        assert_eq!(named.check(member(5).peer, claim(5, 1, true)), Ok(()));
    }
}
