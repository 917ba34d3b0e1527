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

/// What each holder had of each column, over its whole history. A holder that goes back to a replaced assignment, or
/// takes up again what it had let go, overwrites what the newest one relies on.
#[derive(Clone, Debug)]
pub struct Holdings<H: Ord, C: Ord> {
    seen: BTreeMap<H, BTreeMap<C, Held>>,
}

impl<H: Ord, C: Ord> Default for Holdings<H, C> {
    fn default() -> Self {
        Self { seen: BTreeMap::new() }
    }
}

impl<H: Ord + Copy + Debug, C: Ord + Clone + Debug> Holdings<H, C> {
    /// The holder's disk lost writes that it had not called durable. Some may have been seen before they were gone:
    /// what comes now is a beginning.
    pub fn lost_writes(&mut self, holder: &H) {
        self.seen.remove(holder);
    }
    /// `columns`: all that one life of one holder's disk has now. A column that is not there any more was let go.
    pub fn check(&mut self, holder: H, columns: BTreeMap<C, Held>) -> Vec<Violation> {
        let before = self.seen.entry(holder).or_default();
        for (column, held) in before.iter_mut() {
            held.is_released |= !columns.contains_key(column);
        }
        let mut found = Vec::new();
        for (column, held) in columns {
            let Some(before) = before.insert(column.clone(), held) else { continue };
            let went_back = held.attempt < before.attempt;
            let came_back = held.attempt == before.attempt && before.is_released && !held.is_released;
            if went_back || came_back {
                let what = format!("{holder:?} went from {before:?} of {column:?} back to {held:?}");
                found.push(Violation::new(Guarantee::G6, what));
            }
        }
        found
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
        let mut look =
            |held: Option<Held>| holdings.check("holder", held.map(|held| ("column", held)).into_iter().collect());
        assert_eq!(look(Some(held(1, false))), []);
        assert_eq!(look(Some(held(1, true))), []);
        assert_eq!(look(Some(held(1, false))).len(), 1, "let go and taken up again");
        assert_eq!(look(Some(held(2, false))), []);
        assert_eq!(look(Some(held(1, true))).len(), 1, "an older attempt");
        assert_eq!(look(Some(held(3, false))), []);
        assert_eq!(look(None), []);
        assert_eq!(look(Some(held(3, false))).len(), 1, "forgotten and taken up again");
        assert_eq!(look(Some(held(4, false))), []);
        // A column that was seen before it was durable, and was gone after a loss of power.
        holdings.lost_writes(&"holder");
        assert_eq!(holdings.check("holder", BTreeMap::new()), []);
        assert_eq!(holdings.check("holder", BTreeMap::from([("column", held(4, false))])), []);
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
