//! G2: at most one primary per quorum and term, over the whole history.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::{Guarantee, Violation};

/// Everybody who was ever seen to lead, by quorum and term.
#[derive(Clone, Debug)]
pub struct Leaders<Q: Ord, M> {
    seen: BTreeMap<(Q, u64), M>,
}

impl<Q: Ord, M> Default for Leaders<Q, M> {
    fn default() -> Self {
        Self { seen: BTreeMap::new() }
    }
}

impl<Q: Ord + Copy + Debug, M: PartialEq + Copy + Debug> Leaders<Q, M> {
    /// `member` says that it leads `quorum` in `term`.
    pub fn check(&mut self, quorum: Q, term: u64, member: M) -> Option<Violation> {
        let first = *self.seen.entry((quorum, term)).or_insert(member);
        (first != member).then(|| {
            Violation::new(Guarantee::G2, format!("{first:?} and {member:?} both lead {quorum:?} in term {term}"))
        })
    }
    /// Pairs of quorum and term that had a primary.
    pub fn count(&self) -> usize {
        self.seen.len()
    }
}

/// The newest term in which each member was seen. A member that forgot its vote comes back in an older one, and may
/// give a second vote there: two primaries of one term are then a matter of time.
#[derive(Clone, Debug)]
pub struct Terms<Q: Ord, M: Ord> {
    seen: BTreeMap<(Q, M), u64>,
}

impl<Q: Ord, M: Ord> Default for Terms<Q, M> {
    fn default() -> Self {
        Self { seen: BTreeMap::new() }
    }
}

impl<Q: Ord + Copy + Debug, M: Ord + Copy + Debug> Terms<Q, M> {
    /// `member` is in `term` of `quorum` now.
    pub fn check(&mut self, quorum: Q, member: M, term: u64) -> Option<Violation> {
        let newest = self.seen.entry((quorum, member)).or_default();
        let before = std::mem::replace(newest, term.max(*newest));
        (term < before).then(|| {
            let what = format!("{member:?} was in term {before} of {quorum:?} and is in term {term} now");
            Violation::new(Guarantee::G2, what)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_never_goes_back_to_an_older_term() {
        let mut terms = Terms::default();
        assert_eq!(terms.check("q", "a", 2), None);
        assert_eq!(terms.check("q", "b", 1), None);
        assert!(terms.check("q", "a", 1).is_some());
        assert!(terms.check("q", "a", 0).is_some(), "what was newest stays so");
    }

    #[test]
    fn a_term_belongs_to_the_first_member_that_led_it() {
        let mut leaders = Leaders::default();
        assert_eq!(leaders.check("q", 1, "a"), None);
        assert_eq!(leaders.check("q", 1, "a"), None);
        assert_eq!(leaders.check("q", 2, "b"), None);
        assert_eq!(leaders.check("p", 1, "b"), None);
        assert!(leaders.check("q", 1, "b").is_some(), "long after the term ended it is still taken");
    }
}
