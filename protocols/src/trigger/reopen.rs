//! Instants that are open again: how a timed trigger heals after clocks that ran ahead were put right.
//!
//! While the clocks of a majority are ahead, everything up to their time is recorded: most of it as skipped in one
//! leap, the newest as a run. When the clocks are set back, the leaps that reach past the true time are *withdrawn*:
//! their rows say so, and their instants are open again. What ran in the false future stays recorded. So the record of
//! a trigger is everything before its *head*, but for *open ranges*; the trigger goes through these first, in order,
//! and then on from its head. Each instant has one row that counts, whatever the clocks did, and none fires twice.
//!
//! Members never work out instants (see the module above), so a range is opened in whole: what of it has truly passed
//! is recorded anew at once, as after any other pause.
//!
//! A period (`every`) is not tied to the calendar: where going back would silence it, its instants go on as they are
//! named and fall due earlier by its *lag*.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::record::{Clock, Due};
use super::spec::{TriggerSpec, When};
use crate::ids::{JobId, Millis};

/// Open ranges and leaps that one trigger remembers together. A leap that is forgotten stays skipped.
pub const RANGES_MAX: usize = 16;

/// Instants from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstantRange {
    pub first: Millis,
    pub last: Millis,
}

/// Instants that were skipped because they had passed when they were recorded, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leap {
    /// The row that stands for them.
    pub row: u64,
    pub range: InstantRange,
    pub count: u64,
    /// They were skipped because the trigger was suspended.
    pub suspended: bool,
}

/// What a correction of the clocks changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Withdrawn {
    pub leaps: Vec<Leap>,
    /// The trigger began to count in the future that did not come.
    pub begins_anew: bool,
}

impl InstantRange {
    pub fn contains(&self, instant: Millis) -> bool {
        (self.first..=self.last).contains(&instant)
    }
}

impl Clock {
    /// From when its instants count, if it is first looked at when clocks read `now`. A trigger that begins anew begins
    /// where the clocks were set back to, however late it is looked at: what is open since then is to be recorded, and
    /// nothing of its record may lie before that.
    pub fn counts_from(&self, now: Millis) -> Millis {
        let anew = self.open.first().map(|range| Millis(range.first.0.saturating_sub(1)));
        self.from.or(anew).unwrap_or(now)
    }

    /// Where the trigger goes on when the instant that follows is `next`: there, or where the record is open next.
    pub fn skip_recorded(&self, next: Option<Millis>) -> Option<Millis> {
        let next = next?;
        if let Some(range) = self.open.iter().find(|range| next <= range.last) {
            return Some(next.max(range.first));
        }
        if self.open.is_empty() { Some(next) } else { self.head.map(|head| head.max(next)) }
    }

    /// The first instant of all from which on nothing is recorded; none after the last of all.
    pub fn end(&self) -> Option<Millis> {
        if self.open.is_empty() { self.next.map(|next| next.instant) } else { self.head }
    }

    /// Whether the instant has no row.
    pub fn is_open(&self, instant: Millis) -> bool {
        self.open.is_empty()
            || self.open.iter().any(|range| range.contains(instant))
            || self.head.is_some_and(|head| head <= instant)
    }

    /// The end of the open range that the instant is in, if it is in one.
    pub fn open_until(&self, instant: Millis) -> Option<Millis> {
        self.open.iter().find(|range| range.contains(instant)).map(|range| range.last)
    }

    /// Moves on to `next`: what is before it is recorded.
    pub(crate) fn move_to(&mut self, next: Option<Due>) {
        self.next = next;
        let Some(next) = next.map(|next| next.instant) else {
            (self.open, self.head) = (Vec::new(), None);
            return;
        };
        let before = self.open.len();
        self.open.retain(|range| range.last >= next);
        if self.open.len() < before {
            // What came before this is recorded apart.
            self.since = Some(next);
        }
        match self.open.first_mut() {
            Some(range) => range.first = range.first.max(next),
            None => self.head = None,
        }
    }

    /// Whether what begins at `first` was recorded without a gap up to `next`, so that a row may be continued with it.
    pub(crate) fn continues(&self, first: Millis, next: Millis) -> bool {
        first < next && self.since.is_none_or(|since| first >= since)
    }

    /// Remembers instants that a row skips. The row may be one that is remembered already and has grown.
    pub(crate) fn note_leap(&mut self, leap: Leap) {
        match self.leaps.last_mut() {
            Some(last) if last.row == leap.row => {
                (last.range.last, last.count) = (leap.range.last, last.count.saturating_add(leap.count));
            }
            _ => self.leaps.push(leap),
        }
        while self.open.len() + self.leaps.len() > RANGES_MAX {
            // The one that reaches least far ahead is the last to be wanted back.
            let Some(oldest) = (0..self.leaps.len()).min_by_key(|at| self.leaps[*at].range.last) else { break };
            self.leaps.remove(oldest);
        }
    }

    /// The clocks were set back to `now` (from `before`): opens again what was skipped past it.
    pub(crate) fn set_back(&mut self, job: JobId, trigger: &TriggerSpec, before: Millis, now: Millis) -> Withdrawn {
        let mut withdrawn = Withdrawn::default();
        let Some(from) = self.from else { return withdrawn };
        let left = self.next.map(|next| next.due.since(before));
        let is_ahead = |leap: &Leap| leap.range.last > now;
        withdrawn.leaps = self.leaps.iter().filter(|leap| is_ahead(leap)).copied().collect();
        self.leaps.retain(|leap| !is_ahead(leap));
        let mut ranges: Vec<InstantRange> = withdrawn.leaps.iter().map(|leap| leap.range).collect();
        let is_cron = matches!(trigger.when, When::Cron { .. });
        let is_endless = trigger.when.bounds().count.is_none();
        if is_cron
            && is_endless
            && from > now.plus(Duration::from_millis(1))
            && self.open.len() + ranges.len() < RANGES_MAX
        {
            // A start that is set comes no sooner for it, and what is at `from` itself may be recorded.
            ranges.push(InstantRange { first: Millis(now.0 + 1), last: Millis(from.0 - 1) });
            withdrawn.begins_anew = true;
        }
        if !ranges.is_empty() {
            if self.open.is_empty() {
                self.head = self.next.map(|next| next.instant);
            }
            self.open.extend(ranges);
            self.open.sort_unstable();
            let count = withdrawn.leaps.iter().map(|leap| leap.count).fold(0, u64::saturating_add);
            self.done = self.done.saturating_sub(count);
            let first = self.open[0].first;
            self.since = Some(first);
            self.rest_until = None;
            self.next = Some(Due::of(job, first, trigger.when.bounds().jitter));
            if withdrawn.begins_anew {
                (self.from, self.next) = (None, None);
            }
        }
        if trigger.is_steady()
            && let (Some(next), Some(left)) = (self.next, left)
        {
            // No later than it would have come as time passes.
            let due = Due::of(job, next.instant, trigger.when.bounds().jitter).due;
            self.set_lag(due, due.since(now.plus(left)));
        }
        withdrawn
    }

    /// The clocks were set forward: what is due as time passes gives back what it was ahead by.
    pub(crate) fn set_forward(&mut self, by: Duration) {
        if let Some(next) = self.next.filter(|_| !self.lag.is_zero()) {
            self.set_lag(next.due.plus(self.lag), self.lag.saturating_sub(by));
        }
    }

    fn set_lag(&mut self, due: Millis, lag: Duration) {
        self.lag = lag;
        if let Some(next) = &mut self.next {
            next.due = Millis(due.0.saturating_sub(lag.as_millis() as u64));
        }
    }

    /// When an instant is due: later by its jitter, earlier by the clock's lag.
    pub fn due(&self, job: JobId, instant: Millis, jitter: Duration) -> Due {
        let Due { due, .. } = Due::of(job, instant, jitter);
        Due { instant, due: Millis(due.0.saturating_sub(self.lag.as_millis() as u64)) }
    }
}
