//! The seeded generator of tests, simulations and chaos runs. Each part of a run draws from a stream of its own, so
//! that one more draw in one part does not change what the others do.

use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

pub struct Rng(ChaCha12Rng);

impl Rng {
    pub fn new(seed: u64, part: &str) -> Self {
        Self(ChaCha12Rng::from_seed(derive(seed, part)))
    }
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }
    /// A number in `0..bound`; zero when `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.u64() % bound }
    }
    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }
    /// At least `from`, less than `to`.
    pub fn duration(&mut self, from: Duration, to: Duration) -> Duration {
        let span = to.saturating_sub(from).as_micros() as u64;
        from + Duration::from_micros(self.below(span))
    }
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }
    /// One of the items, each as likely as its weight says.
    pub fn weighted<'a, T>(&mut self, items: &'a [(T, u64)]) -> Option<&'a T> {
        let mut at = self.below(items.iter().map(|(_, weight)| weight).sum());
        for (item, weight) in items {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return Some(item),
            }
        }
        None
    }
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

/// 32 bytes that belong to this part of this seed.
pub fn derive(seed: u64, part: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("quorate simulation 2026 seed");
    hasher.update(&seed.to_le_bytes());
    hasher.update(part.as_bytes());
    *hasher.finalize().as_bytes()
}

/// The same as a number, for seeds of seeds.
pub fn derive_u64(seed: u64, part: &str) -> u64 {
    u64::from_le_bytes(derive(seed, part)[..8].try_into().expect("eight of 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_draws_the_same_and_weights_count() {
        let draw = |seed| {
            let mut rng = Rng::new(seed, "part");
            (0..64).map(|_| rng.weighted(&[('a', 3), ('b', 1), ('c', 0)]).expect("some weigh")).collect::<String>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let drawn = draw(1);
        assert!(!drawn.contains('c') && drawn.matches('a').count() > drawn.matches('b').count(), "{drawn}");
        assert_eq!(Rng::new(1, "x").weighted::<u8>(&[]), None);
    }
}
