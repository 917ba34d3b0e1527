//! Pauses between tries of something that fails: doubled by every failure, up to a maximum.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
}

impl Backoff {
    /// From `first` to `most`, which is not less.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most }
    }

    /// The pause after the first failure and `more` others in a row.
    pub fn pause(self, more: u32) -> Duration {
        let doubled = 1u32.checked_shl(more).and_then(|factor| self.first.checked_mul(factor));
        doubled.map_or(self.most, |pause| pause.min(self.most))
    }

    /// The pause that follows on `pause`.
    pub fn next(self, pause: Duration) -> Duration {
        pause.saturating_mul(2).clamp(self.first, self.most)
    }

    /// All pauses, without end.
    pub fn pauses(self) -> impl Iterator<Item = Duration> + Send + 'static {
        std::iter::successors(Some(self.first), move |pause| Some(self.next(*pause)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum_and_never_overflow() {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let first: Vec<u128> = backoff.pauses().take(7).map(|pause| pause.as_millis()).collect();
        assert_eq!(first, [50, 100, 200, 400, 800, 1000, 1000]);
        assert!((0..7).all(|failures| backoff.pause(failures).as_millis() == first[failures as usize]));
        for failures in [31, 32, 33, u32::MAX] {
            assert_eq!(backoff.pause(failures), Duration::from_secs(1));
        }
        assert_eq!(backoff.next(Duration::MAX), Duration::from_secs(1));
        assert_eq!(backoff.next(Duration::ZERO), Duration::from_millis(50));
    }
}
