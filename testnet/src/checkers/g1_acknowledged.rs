//! G1: an acknowledged object is known to the network for as long as nobody removes it.

use std::collections::BTreeSet;
use std::fmt::Debug;

use super::{Guarantee, Violation};

/// What clients were told. An operation that failed or timed out is in neither set: it may have happened.
#[derive(Clone, Debug, Default)]
pub struct Promises<T: Ord> {
    pub acknowledged: BTreeSet<T>,
    /// Removals that were asked for, whatever was answered: from then on both answers are right.
    pub removal_asked: BTreeSet<T>,
}

/// `missing`: what a query that was answered said is unknown.
pub fn check<T: Ord + Debug>(promises: &Promises<T>, missing: &BTreeSet<T>) -> Vec<Violation> {
    let lost =
        missing.iter().filter(|item| promises.acknowledged.contains(item) && !promises.removal_asked.contains(item));
    lost.map(|item| Violation::new(Guarantee::G1, format!("{item:?} was acknowledged and is gone"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_promised_and_not_removed_must_be_there() {
        let promises = Promises { acknowledged: [1, 2, 3].into(), removal_asked: [2].into() };
        assert_eq!(check(&promises, &[2, 4].into()), []);
        assert_eq!(check(&promises, &[1, 2, 4].into()).len(), 1);
    }
}
