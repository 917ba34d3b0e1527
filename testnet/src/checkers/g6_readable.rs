//! G6: an object reads back identical to what was stored.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::{Guarantee, Violation};

/// What was stored, and what a read that succeeded gave: each as length and digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub bytes: u64,
    pub blake3: [u8; 32],
}

pub fn check(object: impl Debug, stored: Content, read: Content) -> Option<Violation> {
    (stored != read).then(|| {
        let what = match stored.bytes == read.bytes {
            true => format!("{object:?} read back different"),
            false => format!("{object:?} read back with {} bytes, {} were stored", read.bytes, stored.bytes),
        };
        Violation::new(Guarantee::G6, what)
    })
}

/// One column at one holder, as the holder's own index has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub attempt: u64,
    /// Let go: nothing more is taken under this attempt.
    pub is_released: bool,
    /// Kept for good.
    pub is_confirmed: bool,
}

/// What each holder had of each column at the last look. A holder that goes back to a replaced assignment overwrites
/// what the newest one relies on.
#[derive(Clone, Debug)]
pub struct Holdings<K: Ord> {
    seen: BTreeMap<K, Held>,
}

impl<K: Ord> Default for Holdings<K> {
    fn default() -> Self {
        Self { seen: BTreeMap::new() }
    }
}

impl<K: Ord + Clone + Debug> Holdings<K> {
    /// `column` names a column at one life of one holder's disk.
    pub fn check(&mut self, column: K, held: Held) -> Option<Violation> {
        let before = self.seen.insert(column.clone(), held)?;
        let went_back = held.attempt < before.attempt;
        let came_back = held.attempt == before.attempt && before.is_released && !held.is_released;
        (went_back || came_back)
            .then(|| Violation::new(Guarantee::G6, format!("{column:?} went from {before:?} back to {held:?}")))
    }
}

/// The quorum was told that `column` is kept for good; `held` is what its holder says, `None` for nothing.
pub fn check_confirmed(column: impl Debug, held: Option<Held>) -> Option<Violation> {
    (!held.is_some_and(|held| held.is_confirmed)).then(|| {
        Violation::new(Guarantee::G6, format!("{column:?} counts as kept for good, and its holder has {held:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_does_not_go_back_to_a_replaced_assignment() {
        let held = |attempt, is_released| Held { attempt, is_released, is_confirmed: false };
        let mut holdings = Holdings::default();
        assert_eq!(holdings.check("column", held(1, false)), None);
        assert_eq!(holdings.check("column", held(1, true)), None);
        assert!(holdings.check("column", held(1, false)).is_some(), "let go and taken up again");
        assert_eq!(holdings.check("column", held(2, false)), None);
        assert!(holdings.check("column", held(1, true)).is_some(), "an older attempt");
    }

    #[test]
    fn what_counts_as_kept_is_kept() {
        let held = |is_confirmed| Held { attempt: 1, is_released: false, is_confirmed };
        assert_eq!(check_confirmed("column", Some(held(true))), None);
        assert!(check_confirmed("column", Some(held(false))).is_some());
        assert!(check_confirmed("column", None).is_some());
    }

    #[test]
    fn length_and_content_both_count() {
        let stored = Content { bytes: 4, blake3: [1; 32] };
        assert_eq!(check("o", stored, stored), None);
        assert!(check("o", stored, Content { blake3: [2; 32], ..stored }).is_some());
        assert!(check("o", stored, Content { bytes: 5, ..stored }).is_some());
    }
}
