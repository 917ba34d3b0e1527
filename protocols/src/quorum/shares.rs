//! Shares of owners: how much of something that a quorum has room for belongs to each owner.
//!
//! Derived from the records and rebuilt with them, like every index. One owner may have at most half of what a quorum
//! takes in all ([`limits`](super::limits) of each sort), whoever else is there: so another finds room at once, and an
//! owner that needs more uses another quorum.

use std::collections::BTreeMap;

use crate::ids::PeerId;

/// What belongs to whom, by what it is counted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shares<K> {
    parts: BTreeMap<K, (PeerId, u64)>,
    of: BTreeMap<PeerId, u64>,
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self { parts: BTreeMap::new(), of: BTreeMap::new() }
    }
}

impl<K: Ord> Shares<K> {
    /// What is counted for `key` from now on; nothing for `None` and for none of it.
    pub(super) fn set(&mut self, key: K, part: Option<(PeerId, u64)>) {
        let part = part.filter(|(_, amount)| *amount > 0);
        let before = match part {
            Some(part) => self.parts.insert(key, part),
            None => self.parts.remove(&key),
        };
        if let Some((owner, amount)) = before
            && let Some(sum) = self.of.get_mut(&owner)
        {
            *sum -= amount;
            if *sum == 0 {
                self.of.remove(&owner);
            }
        }
        if let Some((owner, amount)) = part {
            *self.of.entry(owner).or_default() += amount;
        }
    }

    /// What belongs to the owner.
    pub(super) fn of(&self, owner: &PeerId) -> u64 {
        self.of.get(owner).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_the_sums_of_what_is_counted_now() {
        let (mut shares, one, other) = (Shares::default(), PeerId([1; 32]), PeerId([2; 32]));
        shares.set("a", Some((one, 3)));
        shares.set("b", Some((one, 4)));
        shares.set("c", Some((other, 5)));
        assert_eq!((shares.of(&one), shares.of(&other)), (7, 5));
        shares.set("a", Some((other, 1)));
        shares.set("c", Some((other, 0)));
        assert_eq!((shares.of(&one), shares.of(&other)), (4, 1));
        shares.set("a", None);
        shares.set("b", None);
        shares.set("b", None);
        assert_eq!(shares, Shares::default());
    }
}
