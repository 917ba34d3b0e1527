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
use crate::quorum::command::Batch;
use crate::quorum::state::{Event, QuorumState};
use crate::trigger::show_instant;

/// A difference between what the clocks say has passed and what has passed, from which on it is a step of the clocks
/// and no drift. Smaller ones are followed forward, and waited out when they lead back.
pub const CLOCK_STEP_MIN: Duration = Duration::from_secs(5);

/// A primary that has not written an entry yet cannot know to the millisecond what has passed.
const STEP_SLACK: Duration = Duration::from_secs(1);

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

impl QuorumState {
    /// What the clocks said at the newest entry, as far as the record knows.
    pub fn wall(&self) -> Millis {
        self.wall_at(self.time)
    }

    /// Record time as the clocks say it.
    pub fn wall_at(&self, time: Millis) -> Millis {
        Millis(time.0.saturating_add_signed(self.clock_offset_ms))
    }

    /// Whether the clocks of a majority, reading `clocks` while record time has gone on to `time`, were stepped since
    /// the newest entry: then an entry is due for that alone, or a record that waits for a time that was never true
    /// waits on.
    pub fn is_stepped(&self, clocks: Millis, time: Millis) -> bool {
        // More than an entry needs to see it so too.
        let apart = millis_between(self.wall_at(time), clocks).unsigned_abs();
        Duration::from_millis(apart) >= CLOCK_STEP_MIN + STEP_SLACK
    }

    /// Takes the time of an entry in.
    pub(super) fn advance(&mut self, batch: &Batch, events: &mut Vec<Event>) {
        self.led_time = self.led_time.plus(batch.passed);
        let ahead = millis_between(self.wall(), batch.now);
        let (passed, step) = match batch.since {
            // Nobody counted: as much has passed as the clocks say.
            None if ahead >= 0 => (ahead as u64, 0),
            None => (0, if is_step(ahead) { ahead } else { 0 }),
            Some(since) => {
                let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                let apart = ahead.saturating_sub_unsigned(since);
                if is_step(apart) { (since, apart) } else { (ahead.max(0) as u64, 0) }
            }
        };
        let room = u64::MAX - self.time.0;
        self.time.0 += passed.min(room);
        if step != 0 {
            let before = self.wall();
            self.clock_offset_ms = millis_between(self.time, batch.now);
            self.step_clock(before, step, events);
        }
    }

    /// `before`: what wall time would be without the step.
    fn step_clock(&mut self, before: Millis, by_ms: i64, events: &mut Vec<Event>) {
        let at = self.wall();
        self.stepped = Some(ClockStep { at, by_ms, reopened: 0 });
        if by_ms < 0 {
            // Stamps of a future that did not come become the moment of the correction.
            for job in self.jobs.withdraw_stamps(at) {
                self.reindex_job(job);
            }
            self.objects.withdraw_stamps(at);
        }
        let reopened = self.step_triggers(before, by_ms, events);
        self.stepped = Some(ClockStep { at, by_ms, reopened });
    }
}

fn is_step(apart_ms: i64) -> bool {
    u128::from(apart_ms.unsigned_abs()) >= CLOCK_STEP_MIN.as_millis()
}

/// From one to the other; negative: back.
fn millis_between(from: Millis, to: Millis) -> i64 {
    i64::try_from(i128::from(to.0) - i128::from(from.0)).unwrap_or(if to > from { i64::MAX } else { i64::MIN })
}
