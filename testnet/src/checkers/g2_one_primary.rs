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

#[cfg(test)]
mod tests {
    use super::*;

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
