//! G5: members of a quorum that have applied up to the same index have the same state.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::{Guarantee, Violation};

/// The digest that the first member reported at each index, by quorum.
#[derive(Clone, Debug)]
pub struct Digests<Q: Ord, M> {
    seen: BTreeMap<(Q, u64), (M, [u8; 32])>,
    compared: u64,
}

impl<Q: Ord, M> Default for Digests<Q, M> {
    fn default() -> Self {
        Self { seen: BTreeMap::new(), compared: 0 }
    }
}

impl<Q: Ord + Copy + Debug, M: PartialEq + Copy + Debug> Digests<Q, M> {
    /// `member` has this digest after applying everything up to `index`.
    pub fn check(&mut self, quorum: Q, index: u64, member: M, digest: [u8; 32]) -> Option<Violation> {
        let (first, expected) = *self.seen.entry((quorum, index)).or_insert((member, digest));
        self.compared += u64::from(first != member);
        (expected != digest).then(|| {
            Violation::new(Guarantee::G5, format!("{first:?} and {member:?} differ in {quorum:?} at index {index}"))
        })
    }
    /// Comparisons of two different members.
    pub fn compared(&self) -> u64 {
        self.compared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_compared_at_the_same_index_only() {
        let mut digests = Digests::default();
        assert_eq!(digests.check("q", 1000, "a", [1; 32]), None);
        assert_eq!(digests.check("q", 2000, "b", [2; 32]), None);
        assert_eq!(digests.check("q", 1000, "b", [1; 32]), None);
        assert_eq!(digests.compared(), 1);
        assert!(digests.check("q", 2000, "a", [3; 32]).is_some());
    }
}
