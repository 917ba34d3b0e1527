//! G3: each due instant or event of a trigger has one record: one run, or one skip.

use std::collections::BTreeSet;
use std::fmt::Debug;

use super::{Guarantee, Violation};

/// `records`: (job, instant or event id) of every run and every recorded skip, in any order. `due`: those that must
/// have one by now.
pub fn check<K: Ord + Debug>(records: &[K], due: &[K]) -> Vec<Violation> {
    let mut once = BTreeSet::new();
    let mut found: Vec<_> = records
        .iter()
        .filter(|fire| !once.insert(*fire))
        .map(|fire| Violation::new(Guarantee::G3, format!("{fire:?} is recorded twice")))
        .collect();
    let silent = due.iter().filter(|fire| !once.contains(fire));
    found.extend(silent.map(|fire| Violation::new(Guarantee::G3, format!("{fire:?} was due and has no record"))));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_and_never_are_both_wrong() {
        assert_eq!(check(&[("a", 1), ("a", 2), ("b", 1)], &[("a", 1)]), []);
        assert_eq!(check(&[("a", 1), ("a", 1)], &[("a", 1)]).len(), 1);
        assert_eq!(check(&[("a", 1)], &[("a", 1), ("a", 2)]).len(), 1);
    }
}
