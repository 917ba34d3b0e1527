//! Backoff: the pauses between tries of something that fails, doubled by every failure, up to a maximum.
//!
//! The schedule alone, without a clock and without jitter: who waits adds what keeps it from waiting in step with
//! others. The cores and the node count their failures themselves, and ask here how long to wait.

use std::time::Duration;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
}

impl Backoff {
    /// From `first` to `most`, which no pause exceeds.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most }
    }

    /// The pause after the first failure and `more` others in a row.
    pub fn pause(self, more: u32) -> Duration {
        self.first.saturating_mul(1 << more.min(31)).min(self.most)
    }

    /// The pause that follows on `pause`.
    pub fn next(self, pause: Duration) -> Duration {
        pause.saturating_mul(2).max(self.first).min(self.most)
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
        let longer = Backoff::new(Duration::from_secs(2), Duration::from_secs(1));
        assert_eq!((longer.pause(0), longer.next(Duration::ZERO)), (Duration::from_secs(1), Duration::from_secs(1)));
        assert_eq!(Backoff::new(Duration::ZERO, Duration::MAX).pause(u32::MAX), Duration::ZERO, "no wait stays none");
    }
}
