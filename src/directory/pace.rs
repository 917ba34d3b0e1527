//! The pace of announcements: what this node says goes out within a budget that all others are sure to take.
//!
//! Nodes pass over what an author announces beyond its budget ([`quorate_protocols::directory::budget`]). This one
//! stays far within that, whatever it leads and however many peers connect to it at once.

use std::time::Duration;

use quorate_protocols::budget::Budget;
use quorate_protocols::directory::limits::ANNOUNCER_RATES;
use quorate_protocols::ids::Millis;
use quorate_protocols::wire::{self, Record};

/// After a budget came to its end nothing is announced for at least so long: some announcements together then, and not
/// a look at all quorums for each.
const REST_MIN: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Pace {
    budget: Budget,
    held_until: Option<Millis>,
}

impl Pace {
    /// Whether the announcement may go out now; it is then taken from the budget.
    pub fn allows<T: Record>(&mut self, now: Millis, announcement: &T) -> bool {
        if self.held_until.is_some_and(|until| now < until) {
            return false;
        }
        let taken = self.budget.charge(now, &ANNOUNCER_RATES, wire::encode_record(announcement).len());
        self.held_until = taken.err().map(|wait| now.plus(wait.max(REST_MIN)));
        self.held_until.is_none()
    }

    /// Until when everything waits, if the pace kept something back.
    pub fn held_until(&self) -> Option<Millis> {
        self.held_until
    }
}
