//! The run's own dice: one seed, one stream per part, so that a client's luck does not change the faults.

use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

pub struct Dice(ChaCha12Rng);

impl Dice {
    pub fn new(seed: u64, part: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("quorate chaos 2026 seed");
        hasher.update(&seed.to_le_bytes());
        hasher.update(part.as_bytes());
        Self(ChaCha12Rng::from_seed(*hasher.finalize().as_bytes()))
    }
    /// A number in `0..bound`; zero when `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.next_u64() % bound }
    }
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        from + Duration::from_micros(self.below(to.saturating_sub(from).as_micros() as u64))
    }
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        items.get(self.below(items.len() as u64) as usize).copied()
    }
    /// One of the items, each as likely as its weight says.
    pub fn weighted<T: Copy>(&mut self, items: &[(T, u64)]) -> Option<T> {
        let mut at = self.below(items.iter().map(|(_, weight)| weight).sum());
        items
            .iter()
            .find(|(_, weight)| match at.checked_sub(*weight) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            })
            .map(|(item, _)| *item)
    }
}

/// Content that no other number of this seed has.
pub fn content(seed: u64, number: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    let mut hasher = blake3::Hasher::new_derive_key("quorate chaos 2026 content");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_throws_the_same_and_weights_count() {
        let throw = |seed| {
            let mut dice = Dice::new(seed, "part");
            (0..64).map(|_| dice.weighted(&[('a', 3), ('b', 1), ('c', 0)]).unwrap()).collect::<String>()
        };
        assert_eq!(throw(1), throw(1));
        assert_ne!(throw(1), throw(2));
        let thrown = throw(1);
        assert!(!thrown.contains('c') && thrown.matches('a').count() > thrown.matches('b').count(), "{thrown}");
        assert_eq!(Dice::new(1, "x").weighted::<u8>(&[]), None);
        assert_ne!(content(1, 1, 8), content(1, 2, 8));
    }
}
