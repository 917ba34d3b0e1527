//! The window of pieces on their way to and from one peer: all that the protocol allows while the peer's liveness
//! answers come as quickly as they used to, fewer when these begin to wait.
//!
//! Liveness messages and pieces share the connection, the machine at the other end and its disk. A round trip that
//! grows says that one of them is full; what is taken back then is bulk, so that it never starves consensus. A peer
//! with which this node shares no quorum has no liveness traffic, and nothing to starve.
//!
//! Pure: round trips in, a weight out.

use std::time::Duration;

/// A round trip counts as grown above this multiple of the quickest seen, and this much beyond it. Guesses: far above
/// jitter, far below the second of silence at which a peer is suspected.
const GROWN_FACTOR: u32 = 4;
const GROWN_BY: Duration = Duration::from_millis(30);

/// The quickest round trip is forgotten by so much per answer (one per 100 ms), so that a path that became slower for
/// good is not held against the peer for ever.
const FORGET_SHARE: u32 = 256;

/// Answers in a row that were not grown before the window opens by one step.
const CALM_ANSWERS: u32 = 5;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    quickest: Option<Duration>,
    calm: u32,
    /// How often the window was halved and not opened again.
    halvings: u32,
}

impl Window {
    /// Takes note of one liveness round trip. `whole` is the window while all is calm.
    pub fn observe(&mut self, rtt: Duration, whole: usize) {
        let known = self.quickest.unwrap_or(rtt);
        self.quickest = Some((known + known / FORGET_SHARE).min(rtt.max(known / 2)));
        if rtt > known * GROWN_FACTOR + GROWN_BY {
            self.calm = 0;
            self.halvings = (self.halvings + 1).min(whole.max(1).ilog2());
            return;
        }
        self.calm += 1;
        if self.calm >= CALM_ANSWERS {
            self.calm = 0;
            self.halvings = self.halvings.saturating_sub(1);
        }
    }

    /// Places of the whole window that one piece takes up now: one while all is calm, all of them at worst.
    pub fn weight(&self) -> u32 {
        1 << self.halvings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAMS: usize = 4;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_window_shrinks_when_answers_wait_and_opens_when_they_do_not() {
        let mut window = Window::default();
        for _ in 0..20 {
            window.observe(ms(2), STREAMS);
        }
        assert_eq!(window.weight(), 1);
        window.observe(ms(200), STREAMS);
        assert_eq!(window.weight(), 2);
        for _ in 0..10 {
            window.observe(ms(200), STREAMS);
        }
        assert_eq!(window.weight(), STREAMS as u32, "one piece at a time, never none");
        for _ in 0..2 * CALM_ANSWERS {
            window.observe(ms(3), STREAMS);
        }
        assert_eq!(window.weight(), 1);
    }

    #[test]
    fn jitter_changes_nothing_and_a_path_that_became_slow_is_accepted_in_the_end() {
        let mut window = Window::default();
        for round in 0..1000u64 {
            window.observe(ms(1 + round % 20), STREAMS);
            assert_eq!(window.weight(), 1);
        }
        let mut slow = 0;
        while {
            window.observe(ms(120), STREAMS);
            window.weight()
        } > 1
        {
            slow += 1;
            assert!(slow < 10_000, "{window:?}");
        }
        assert!(slow > 100, "{slow}: accepted at once");
    }
}
