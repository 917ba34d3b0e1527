//! Time in a quorum's record: what entries bring, as time that passes and as what clocks say.
//!
//! Two readings are kept apart, because wall clocks are set and durations are not.
//! - *Record time* (`QuorumState::time`) never goes back, and every timer is measured by it. While one primary leads it
//!   grows by what passed on that primary's monotonic clock; across a change of primary by as much as the clocks say.
//! - *Wall time* (`QuorumState::wall`) is what the clocks of a majority say ([`crate::liveness::clock`]). Stamps for
//!   people and instants of triggers are wall time. It follows the clocks in either direction.
//!
//! Both go together until a clock is *stepped*: until wall time differs from what has passed by [`CLOCK_STEP_MIN`]. A
//! step changes no timer. A step back is how a record heals that clocks of a majority had led into the future: stamps
//! that lie ahead become the moment of the correction, and instants that were skipped because that future seemed to
//! have come are open again ([`crate::trigger::reopen`]).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::Millis;
use crate::liveness::clock::CLOCK_APART_MAX;
use crate::trigger::show_instant;

/// A difference between what the clocks say has passed and what has passed, from which on it is a step of the clocks
/// and no drift. Smaller ones are followed forward, and waited out when they lead back.
pub const CLOCK_STEP_MIN: Duration = Duration::from_secs(5);

/// A primary that has not written an entry yet cannot know to the millisecond what has passed.
pub(super) const STEP_SLACK: Duration = Duration::from_secs(1);

// A primary whose own clock is believed hands over to one that is apart from it the other way: that is no step.
const _: () = assert!(CLOCK_STEP_MIN.as_millis() > 2 * CLOCK_APART_MAX.as_millis());

/// The last time that the clocks were stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStep {
    /// Wall time after the step.
    pub at: Millis,
    /// By how much, in milliseconds; negative: back.
    pub by_ms: i64,
    /// Instants of triggers that are open again since.
    pub reopened: u64,
}

impl ClockStep {
    /// For people.
    pub fn explain(&self) -> String {
        let by = Duration::from_secs(self.by_ms.unsigned_abs().div_ceil(1000));
        let (hours, minutes, seconds) = (by.as_secs() / 3600, by.as_secs() / 60 % 60, by.as_secs() % 60);
        let way = if self.by_ms < 0 { "back" } else { "forward" };
        let mut text = format!(
            "the clocks of a majority were set {way} by {hours}h {minutes}m {seconds}s at {}",
            show_instant(self.at)
        );
        if self.reopened > 0 {
            text.push_str(&format!(", and {} instants that were skipped before are open again", self.reopened));
        }
        text
    }
}

pub(super) fn is_step(apart_ms: i64) -> bool {
    u128::from(apart_ms.unsigned_abs()) >= CLOCK_STEP_MIN.as_millis()
}

/// From one to the other; negative: back.
pub(super) fn millis_between(from: Millis, to: Millis) -> i64 {
    i64::try_from(i128::from(to.0) - i128::from(from.0)).unwrap_or(if to > from { i64::MAX } else { i64::MIN })
}
