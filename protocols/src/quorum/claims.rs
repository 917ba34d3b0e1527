//! Claims on objects: who keeps an object, and under which names.
//!
//! An object is named by its content, so that everybody who stores the same bytes in one quorum stores the same object.
//! Each of them has a *claim* of its own, one per owner and name, and the object lives as long as its last claim. So
//! nobody loses what another removes, and an owner who stored the same bytes as `a.txt` and as `b.txt` keeps the one
//! when it removes the other.
//!
//! Claims are bounded: an object has at most `OWNERS_MAX` owners, and the next is refused. An owner has at most
//! `NAMES_PER_OWNER_MAX` names, and all owners together `NAMES_MAX`; a further one is kept as the owner's one claim
//! without a name, so that a program that stores equal outputs under ever new names is neither refused nor remembered
//! without end. The object stays until that claim is removed too.

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, LogIndex, Millis, PeerId};
use crate::quorum::limits::{NAMES_MAX, NAMES_PER_OWNER_MAX, OWNERS_MAX};

/// One owner's word that an object is to be kept, under one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub owner: PeerId,
    /// For people. One claim of each owner may have none.
    pub name: Option<String>,
    /// The run that stored the bytes under this name first.
    pub job: JobId,
    pub at: Millis,
    /// The entry by which the owner said so last.
    pub since: LogIndex,
}

/// The claims on one object, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims(Vec<Claim>);

/// Which claims are given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimSelector {
    Named {
        owner: PeerId,
        name: Option<String>,
    },
    OwnedBy(PeerId),
    /// Everybody's.
    All,
}

impl ClaimSelector {
    pub fn selects(&self, claim: &Claim) -> bool {
        match self {
            Self::Named { owner, name } => claim.owner == *owner && claim.name == *name,
            Self::OwnedBy(owner) => claim.owner == *owner,
            Self::All => true,
        }
    }
    /// Whether no claim of anybody but this peer is among them, whatever claims there are.
    pub fn is_of(&self, peer: PeerId) -> bool {
        matches!(self, Self::Named { owner, .. } | Self::OwnedBy(owner) if *owner == peer)
    }
}

impl Claims {
    pub fn iter(&self) -> impl Iterator<Item = &Claim> {
        self.0.iter()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The one that began it all, as far as it is still there.
    pub fn oldest(&self) -> Option<&Claim> {
        self.0.first()
    }
    pub fn of(&self, owner: PeerId) -> impl Iterator<Item = &Claim> {
        self.0.iter().filter(move |claim| claim.owner == owner)
    }
    pub fn owners(&self) -> usize {
        self.0.iter().map(|claim| claim.owner).collect::<std::collections::BTreeSet<_>>().len()
    }
    /// Whether this peer may add a claim.
    pub fn admits(&self, owner: PeerId) -> bool {
        self.of(owner).next().is_some() || self.owners() < OWNERS_MAX
    }

    /// What one has seen who reads these claims now.
    pub fn seen(&self) -> LogIndex {
        self.iter().map(|claim| claim.since).max().unwrap_or_default()
    }

    /// Adds a claim, or renews the one that the owner has already. To be asked of owners that are admitted.
    pub(in crate::quorum) fn add(&mut self, mut claim: Claim) {
        let own = self.of(claim.owner).filter(|claim| claim.name.is_some()).count();
        let all = self.iter().filter(|claim| claim.name.is_some()).count();
        // An owner's first name is always kept: there are at most `OWNERS_MAX` of these.
        let full = own >= NAMES_PER_OWNER_MAX || (own > 0 && all >= NAMES_MAX);
        let of_name =
            |name: &Option<String>| self.0.iter().position(|known| known.owner == claim.owner && known.name == *name);
        let known = of_name(&claim.name).or_else(|| if full { of_name(&None) } else { None });
        match known.and_then(|known| self.0.get_mut(known)) {
            // Its owner was promised it anew: who looked before does not give it up any more.
            Some(known) => known.since = claim.since,
            None => {
                if full {
                    claim.name = None;
                }
                self.0.push(claim);
            }
        }
    }

    /// Parts the claims into those that are given up and those that are kept, by one who has seen what was said up to
    /// this entry.
    pub fn part(&self, selector: &ClaimSelector, seen: LogIndex) -> (Vec<Claim>, Self) {
        let given_up = |claim: &Claim| selector.selects(claim) && claim.since <= seen;
        let (removed, kept) = self.0.iter().cloned().partition(given_up);
        (removed, Self(kept))
    }

    pub fn into_vec(self) -> Vec<Claim> {
        self.0
    }
}

impl From<Vec<Claim>> for Claims {
    fn from(claims: Vec<Claim>) -> Self {
        Self(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::QuorumId;

    fn peer(number: u16) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        PeerId(bytes)
    }

    fn claim(owner: u16, name: Option<&str>) -> Claim {
        let job = JobId { quorum: QuorumId([1; 16]), local: [2; 16] };
        Claim { owner: peer(owner), name: name.map(str::to_owned), job, at: Millis(7), since: LogIndex(1) }
    }

    #[test]
    fn an_owner_gives_up_one_name_and_keeps_the_other() {
        let mut claims = Claims::default();
        for (owner, name) in [(1, "a.txt"), (1, "b.txt"), (2, "a.txt"), (1, "a.txt")] {
            claims.add(claim(owner, Some(name)));
        }
        assert_eq!((claims.iter().count(), claims.owners()), (3, 2), "a claim that is there is not added again");
        let one = ClaimSelector::Named { owner: peer(1), name: Some("a.txt".into()) };
        let (removed, kept) = claims.part(&one, LogIndex(1));
        assert_eq!(removed, [claim(1, Some("a.txt"))]);
        assert_eq!(kept.clone().into_vec(), [claim(1, Some("b.txt")), claim(2, Some("a.txt"))]);
        let (removed, kept) = kept.part(&one, LogIndex(1));
        assert!(removed.is_empty() && kept.iter().count() == 2, "given up twice is given up once");
        let (_, kept) = kept.part(&ClaimSelector::OwnedBy(peer(1)), LogIndex(1));
        assert_eq!(kept.into_vec(), [claim(2, Some("a.txt"))]);
        assert!(claims.part(&ClaimSelector::All, LogIndex(1)).1.is_empty());
        assert!(one.is_of(peer(1)) && !one.is_of(peer(2)) && !ClaimSelector::All.is_of(peer(1)));
    }

    /// Goal: equal bytes under ever new names are neither refused nor remembered without end, and no owner keeps
    /// another out by them.
    #[test]
    fn names_are_bounded_and_a_further_one_is_kept_without_its_name() {
        let mut claims = Claims::default();
        for owner in 0..OWNERS_MAX as u16 {
            assert!(claims.admits(peer(owner)));
            for name in 0..2 * NAMES_PER_OWNER_MAX {
                claims.add(claim(owner, Some(&format!("{name}"))));
            }
        }
        assert_eq!(claims.owners(), OWNERS_MAX);
        assert!(claims.admits(peer(0)) && !claims.admits(peer(OWNERS_MAX as u16)));
        let unnamed = |owner: u16| claims.of(peer(owner)).filter(|claim| claim.name.is_none()).count();
        let named = claims.iter().filter(|claim| claim.name.is_some()).count();
        assert!(named <= NAMES_MAX + OWNERS_MAX, "{named}");
        for owner in [0, OWNERS_MAX as u16 - 1] {
            assert_eq!(unnamed(owner), 1, "what has no name of its own is kept all the same");
            assert!(claims.of(peer(owner)).any(|claim| claim.name.as_deref() == Some("0")), "the first has its name");
        }
    }
}
