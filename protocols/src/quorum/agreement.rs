//! Agreement of members on their state: who is the odd one out when a member's digest differs from the primary's.
//!
//! Members that have applied the same entries have the same digest. When two digests of one index differ, one of the
//! two members has a state that is wrong, and neither can tell which. So the member that notices asks the other voters
//! for theirs. A majority that agrees on one digest is right, by the same measure by which it commits; without one
//! nothing is decided, and the member goes on and asks again.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Digest, MemberId};
use crate::membership::Voters;

/// The digests of one index, as one member came to know them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestPoll {
    pub me: MemberId,
    pub mine: Digest,
    pub primary: MemberId,
    /// As its appends tell, whatever it answers when it is asked.
    pub of_primary: Digest,
    /// Those of the other voters that gave one.
    pub answers: BTreeMap<MemberId, Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestVerdict {
    /// A majority holds another state than this member: those are its voices.
    ThisMember { agreeing: BTreeSet<MemberId> },
    /// A majority, this member among it, holds another state than the primary.
    Primary,
    /// No digest has a majority behind it, as far as this member heard.
    Undecided,
}

impl DigestPoll {
    /// Contract: called when `mine` and `of_primary` differ. `configurations` has the voters of each configuration in
    /// force; a majority is one of all of them.
    pub fn judge(&self, configurations: &[Voters]) -> DigestVerdict {
        let mut voices: BTreeMap<Digest, BTreeSet<MemberId>> = BTreeMap::new();
        for (member, digest) in &self.answers {
            if *member != self.me && *member != self.primary {
                voices.entry(*digest).or_default().insert(*member);
            }
        }
        voices.entry(self.mine).or_default().insert(self.me);
        voices.entry(self.of_primary).or_default().insert(self.primary);
        let is_majority = |voices: &BTreeSet<MemberId>| {
            !configurations.is_empty() && configurations.iter().all(|voters| voters.is_majority(voices))
        };
        match voices.into_iter().find(|(_, voices)| is_majority(voices)) {
            Some((digest, _)) if digest == self.mine => DigestVerdict::Primary,
            Some((_, agreeing)) => DigestVerdict::ThisMember { agreeing },
            None => DigestVerdict::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, PeerId};

    fn member(number: u8) -> MemberId {
        MemberId { peer: PeerId([number; 32]), incarnation: Incarnation(1) }
    }

    /// The verdict of member 2 on what it and the others told, the primary (1) first; 0 for no answer.
    fn judge(configurations: &[&[u8]], told: &[u8]) -> DigestVerdict {
        let configurations: Vec<_> =
            configurations.iter().map(|voters| Voters::new(voters.iter().copied().map(member))).collect();
        let answers = told.iter().zip(1u8..).skip(2).filter(|(digest, _)| **digest != 0);
        let poll = DigestPoll {
            me: member(2),
            mine: Digest([told[1]; 32]),
            primary: member(1),
            of_primary: Digest([told[0]; 32]),
            answers: answers.map(|(digest, number)| (member(number), Digest([*digest; 32]))).collect(),
        };
        poll.judge(&configurations)
    }

    fn odd(agreeing: &[u8]) -> DigestVerdict {
        DigestVerdict::ThisMember { agreeing: agreeing.iter().copied().map(member).collect() }
    }

    #[test]
    fn only_a_majority_decides_who_is_the_odd_one_out() {
        const THREE: &[&[u8]] = &[&[1, 2, 3]];
        assert_eq!(judge(THREE, &[7, 8, 7]), odd(&[1, 3]));
        assert_eq!(judge(THREE, &[7, 8, 8]), DigestVerdict::Primary);
        assert_eq!(judge(THREE, &[7, 8, 0]), DigestVerdict::Undecided, "one against one");
        assert_eq!(judge(THREE, &[7, 8, 9]), DigestVerdict::Undecided, "three states");
        const FIVE: &[&[u8]] = &[&[1, 2, 3, 4, 5]];
        assert_eq!(judge(FIVE, &[7, 8, 9, 9, 9]), odd(&[3, 4, 5]), "the primary is wrong as well");
        assert_eq!(judge(FIVE, &[7, 8, 7, 0, 0]), DigestVerdict::Undecided);
        assert_eq!(judge(FIVE, &[7, 8, 8, 7, 8]), DigestVerdict::Primary);
    }

    #[test]
    fn a_joint_configuration_needs_a_majority_of_both_and_others_have_no_voice() {
        assert_eq!(judge(&[&[1, 2, 3], &[2, 4, 5]], &[7, 8, 7, 7, 0]), DigestVerdict::Undecided);
        assert_eq!(judge(&[&[1, 2, 3], &[2, 4, 5]], &[7, 8, 7, 7, 7]), odd(&[1, 3, 4, 5]));
        assert_eq!(judge(&[&[1, 2, 3]], &[7, 8, 0, 7, 7]), DigestVerdict::Undecided, "4 and 5 are no voters");
        assert_eq!(judge(&[&[1, 3, 4]], &[7, 8, 7, 0]), odd(&[1, 3]), "a learner hears the voters");
        assert_eq!(judge(&[], &[7, 8, 7]), DigestVerdict::Undecided);
    }
}
