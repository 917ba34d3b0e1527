//! Instants of a schedule: arithmetic on the calendar, without a clock.
//!
//! **The clock's face and daylight saving.** A line of cron is read on the clocks of its time zone.
//! - A line that names hours (`30 2 * * *`) means those times of day, each once. A time that the clocks skip comes at
//!   the first moment after the gap; a time that they show twice counts the first time.
//! - A line that runs in every hour (`*/10 * * * *`) follows the time that passes: it comes in both halves of an hour
//!   that is shown twice, and nothing is added for one that is skipped.
//!
//! So no day is without its daily run and none has two, and an hourly run is never two hours from the next. Several
//! lines are one schedule: an instant that two of them name is one instant.
//!
//! **Day of month and day of week.** As crontab(5) has it: when a line restricts both, either suffices; a field that
//! begins with `*` restricts nothing ([`super::crontab`] reads the line's shape).
//!
//! **Whose time zones.** The rules travel with the build. Two builds may know different ones, so this runs at the
//! primary alone: what it finds is committed, and no member computes it again.

use std::collections::VecDeque;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};

use super::crontab::{self, CronError};
use super::limits::{INSTANTS_NAMED_MAX, INSTANTS_PER_SPAN_MAX};
use super::record::{Clock, Due, Skipped, Span};
use super::spec::{Bounds, TriggerSpec, When};
use crate::ids::INSTANT_MAX;
use crate::ids::{JobId, Millis};
use crate::wire;

/// A day that every line of cron that ever comes has come before, counted from any other.
const SEARCH_FROM: i16 = 2000;

/// Changes of a zone's offset that a search crosses at most: some centuries.
const TRANSITIONS_MAX: usize = 1_000;

/// A timed trigger, read. Only what cannot be told from the specification at a glance: cheap to make, and to keep.
#[derive(Debug)]
pub struct Schedule {
    pattern: Pattern,
    bounds: Bounds,
}

#[derive(Debug)]
enum Pattern {
    At(Millis),
    Every { period: u64 },
    Cron { lines: Vec<Line>, zone: TimeZone },
}

#[derive(Debug)]
struct Line {
    cron: Cron,
    every_hour: bool,
}

impl Schedule {
    /// `None` for triggers that no clock fires. The error comes with its key below `trigger`.
    pub fn compile(spec: &TriggerSpec) -> Result<Option<Self>, (String, String)> {
        let (pattern, bounds) = match &spec.when {
            When::At(at) => (Pattern::At(*at), &Bounds::default()),
            When::Every { period, bounds } => (Pattern::Every { period: (period.as_millis() as u64).max(1) }, bounds),
            When::Cron { lines, timezone, bounds } => {
                let zone = zone(timezone).map_err(|error| ("timezone".to_owned(), error.to_string()))?;
                let read = |(index, line): (usize, &String)| {
                    Line::read(line).map_err(|error| (format!("cron.{index}"), error.to_string()))
                };
                (Pattern::Cron { lines: lines.iter().enumerate().map(read).collect::<Result<_, _>>()?, zone }, bounds)
            }
            When::Event(_) | When::Condition(_) | When::After(_) => return Ok(None),
        };
        Ok(Some(Self { pattern, bounds: bounds.clone() }))
    }

    /// The first instant of a trigger that began to count at `from`. Only `at` may lie before that.
    pub fn first(&self, from: Millis) -> Option<Millis> {
        let start = self.bounds.start.filter(|start| *start >= from);
        match &self.pattern {
            Pattern::At(at) => self.within(*at),
            Pattern::Every { .. } if start.is_some() => self.within(start?),
            Pattern::Every { .. } => self.next(from, from),
            Pattern::Cron { .. } => self.next(from, start.map_or(from, |start| Millis(start.0.saturating_sub(1)))),
        }
    }

    /// The first instant that is later than `after`.
    pub fn next(&self, from: Millis, after: Millis) -> Option<Millis> {
        let next = match &self.pattern {
            Pattern::At(_) => None,
            Pattern::Every { period } => {
                let anchor = self.bounds.start.unwrap_or(from);
                let steps = after.0.saturating_sub(anchor.0) / period + 1;
                Some(Millis(anchor.0.saturating_add(period.saturating_mul(steps))))
            }
            Pattern::Cron { lines, zone } => lines.iter().filter_map(|line| line.next(zone, after)).min(),
        };
        next.and_then(|next| self.within(next))
    }

    fn within(&self, instant: Millis) -> Option<Millis> {
        let last = self.bounds.until.map_or(INSTANT_MAX, |until| until.0.min(INSTANT_MAX));
        (instant.0 <= last).then_some(instant)
    }

    /// When an instant is due: up to `jitter` later, by a share that everybody draws alike.
    pub fn due(&self, job: JobId, instant: Millis) -> Due {
        Due::of(job, instant, self.bounds.jitter)
    }

    /// What became due by `now`, and what comes after it; `None` when that is nothing that the record does not know.
    ///
    /// Bounded, however long nobody looked: at most [`INSTANTS_PER_SPAN_MAX`] instants are visited, and a regular
    /// period is leapt over. When more are due, the span holds only such as are followed by more than could be caught
    /// up with; asking again goes on from there.
    ///
    /// `resuming`: the record waits for a span, even an empty one.
    pub fn span(&self, job: JobId, clock: &Clock, resuming: bool, now: Millis) -> Option<Span> {
        let from = clock.counts_from(now);
        let expected = clock.next.map(|next| next.instant);
        let mut cursor = if clock.from.is_none() { clock.skip_recorded(self.first(from)) } else { expected };
        // A span ends where what is open next is recorded apart: its rows stand for instants in a row.
        let open_until = cursor.and_then(|cursor| clock.open_until(cursor));
        let mut left = self.bounds.count.map_or(u64::MAX, |count| count.saturating_sub(clock.done));
        let mut skipped: Option<Skipped> = None;
        let mut named = VecDeque::new();
        let skip = |skipped: &mut Option<Skipped>, first: Millis, last: Millis, count: u64| {
            let range = skipped.get_or_insert(Skipped { first, last, count: 0 });
            (range.last, range.count) = (last, range.count + count);
        };
        if let (Some(first), Pattern::Every { period }) = (cursor, &self.pattern) {
            let by = open_until.map_or(now.plus(clock.lag), |last| now.plus(clock.lag).min(last));
            let leap = self.surely_due(first, *period, by).min(left).saturating_sub(2 * INSTANTS_NAMED_MAX as u64);
            if leap > 0 {
                let last = Millis(first.0 + period * (leap - 1));
                skip(&mut skipped, first, last, leap);
                left -= leap;
                cursor = Some(Millis(last.0 + period));
            }
        }
        let mut visited = 0;
        let mut more = false;
        let next = loop {
            let Some(instant) = cursor.filter(|_| left > 0) else { break None };
            let due = clock.due(job, instant, self.bounds.jitter);
            if due.due > now || open_until.is_some_and(|last| instant > last) {
                break Some(due);
            }
            if visited == INSTANTS_PER_SPAN_MAX {
                more = true;
                break Some(due);
            }
            visited += 1;
            left -= 1;
            named.push_back(instant);
            if named.len() > INSTANTS_NAMED_MAX
                && let Some(old) = named.pop_front()
            {
                skip(&mut skipped, old, old, 1);
            }
            cursor = clock.skip_recorded(self.next(from, instant));
        };
        // The newest so far are not the newest of all: the next span decides about them.
        let next = match named.front() {
            Some(instant) if more => Some(clock.due(job, *instant, self.bounds.jitter)),
            _ => next,
        };
        if more {
            named.clear();
        }
        let news = resuming || clock.from.is_none() || skipped.is_some() || !named.is_empty() || next != clock.next;
        news.then(|| Span { job, from, expected, skipped, named: named.into(), next, at: now, fault: None })
    }

    /// Instants of a regular period from `first` on that are due by `now`, whatever their jitter.
    fn surely_due(&self, first: Millis, period: u64, now: Millis) -> u64 {
        let until = self.bounds.until.map_or(INSTANT_MAX, |until| until.0.min(INSTANT_MAX));
        let last = now.0.saturating_sub(self.bounds.jitter.as_millis() as u64).min(until);
        last.checked_sub(first.0).map_or(0, |span| span / period + 1)
    }

    /// An instant as people read it: on the clocks of its time zone, with the offset from UTC.
    pub fn show(&self, instant: Millis) -> String {
        match (&self.pattern, timestamp(instant)) {
            (Pattern::Cron { zone, .. }, Some(at)) => at.to_zoned(zone.clone()).to_string(),
            _ => show_instant(instant),
        }
    }

    /// The next instants after `now`, for people.
    pub fn preview(&self, job: JobId, clock: &Clock, now: Millis, count: usize) -> Vec<Due> {
        let from = clock.counts_from(now);
        let mut cursor = match clock.from {
            None => clock.skip_recorded(self.first(from)),
            Some(_) => clock.next.map(|next| next.instant),
        };
        let left = self.bounds.count.map_or(u64::MAX, |count| count.saturating_sub(clock.done));
        let mut found = Vec::new();
        while let Some(instant) = cursor.filter(|_| found.len() < count && (found.len() as u64) < left) {
            found.push(clock.due(job, instant, self.bounds.jitter));
            cursor = clock.skip_recorded(self.next(from, instant));
        }
        found
    }
}

impl Due {
    pub fn of(job: JobId, instant: Millis, jitter: std::time::Duration) -> Self {
        let most = jitter.as_millis() as u64;
        if most == 0 {
            return Self { instant, due: instant };
        }
        let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 trigger jitter 1");
        hasher.update(&wire::encode(&(job, instant)));
        let mut drawn = [0; 8];
        drawn.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self { instant, due: Millis(instant.0.saturating_add(u64::from_le_bytes(drawn) % (most + 1))) }
    }
}

/// A name that no time zone of this build has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone {name:?}; an IANA name such as \"Europe/Berlin\" or \"UTC\" is needed")]
struct UnknownZone {
    name: String,
}

/// A zone by its IANA name.
fn zone(name: &str) -> Result<TimeZone, UnknownZone> {
    TimeZoneDatabase::bundled().get(name).map_err(|_| UnknownZone { name: name.to_owned() })
}

const INSTANT_NEEDED: &str =
    "an instant such as \"2027-01-01T09:00:00+01:00\" (with its offset from UTC, or Z) is needed";

/// A text that is no instant, or one that no schedule has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstantError {
    #[error("{reason}; {INSTANT_NEEDED}")]
    Unreadable { reason: String },
    #[error("it is before 1970; {INSTANT_NEEDED}")]
    TooEarly,
    #[error("it is after the year 9000; {INSTANT_NEEDED}")]
    TooLate,
}

/// An instant as people write it, with its offset from UTC: `2027-01-01T09:00:00+01:00`.
pub fn parse_instant(text: &str) -> Result<Millis, InstantError> {
    let unreadable = |error: jiff::Error| InstantError::Unreadable { reason: error.to_string() };
    let instant: Timestamp = text.trim().parse().map_err(unreadable)?;
    let millis = u64::try_from(instant.as_millisecond()).map_err(|_| InstantError::TooEarly)?;
    if millis > INSTANT_MAX {
        return Err(InstantError::TooLate);
    }
    Ok(Millis(millis))
}

/// As [`parse_instant`] reads it, in UTC.
pub fn show_instant(instant: Millis) -> String {
    timestamp(instant).map_or_else(|| format!("{instant:?}"), |instant| instant.to_string())
}

fn timestamp(instant: Millis) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(instant.0).ok()?).ok()
}

impl Line {
    fn read(text: &str) -> Result<Self, CronError> {
        let fields = crontab::read(text)?;
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed);
        let parser = parser.dom_and_dow(fields.both_days).build();
        let cron = parser
            .parse(&fields.text)
            .map_err(|error| CronError::Unreadable { line: text.to_owned(), reason: error.to_string() })?;
        let every_hour = (0..24).all(|hour| cron.pattern.hour_match(hour).unwrap_or(false));
        let line = Self { cron, every_hour };
        let start = jiff::civil::date(SEARCH_FROM, 1, 1).at(0, 0, 0, 0);
        line.civil(start, true).ok_or_else(|| CronError::NeverDue { line: text.to_owned() })?;
        Ok(line)
    }

    /// The next time on the clock's face.
    fn civil(&self, after: DateTime, inclusive: bool) -> Option<DateTime> {
        self.cron.find_next_occurrence(&after, inclusive).ok()
    }

    fn next(&self, zone: &TimeZone, after: Millis) -> Option<Millis> {
        let after = timestamp(after)?;
        let found = if self.every_hour { self.next_passing(zone, after) } else { self.next_on_face(zone, after) };
        Some(Millis(u64::try_from(found?.as_millisecond()).ok()?))
    }

    /// Each time on the face is one instant, and later times are never earlier instants.
    fn next_on_face(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let mut face = zone.to_datetime(after);
        // In the second half of what is shown twice, nothing comes before that half is over.
        if let AmbiguousOffset::Fold { before, .. } = zone.to_ambiguous_timestamp(face).offset()
            && let Some(turn) = zone.preceding(after.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?).next()
            && zone.to_offset(after) != before
        {
            face = before.to_datetime(turn.timestamp()).checked_sub(jiff::SignedDuration::from_nanos(1)).ok()?;
        }
        loop {
            face = self.civil(face, false)?;
            let ambiguous = zone.to_ambiguous_timestamp(face);
            let instant = match ambiguous.offset() {
                // The moment at which the clocks leap.
                AmbiguousOffset::Gap { before, .. } => zone
                    .following(before.to_timestamp(face).ok()?.checked_sub(jiff::SignedDuration::from_hours(26)).ok()?)
                    .map(|turn| turn.timestamp())
                    .find(|turn| {
                        before.to_datetime(*turn) <= face && zone.to_offset(*turn).to_datetime(*turn) > face
                    })?,
                _ => ambiguous.earlier().ok()?,
            };
            if instant > after {
                return Some(instant);
            }
        }
    }

    /// Walks from one offset of the zone to the next.
    fn next_passing(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let (mut at, mut inclusive) = (after, false);
        for _ in 0..TRANSITIONS_MAX {
            let offset = zone.to_offset(at);
            let turn = zone.following(at).next().map(|turn| turn.timestamp());
            let found = self.civil(offset.to_datetime(at), inclusive)?;
            // Past the last instant that can be told is past the turn as well.
            let found = offset.to_timestamp(found).ok();
            match (found, turn) {
                (Some(found), Some(turn)) if found < turn => return Some(found),
                (found, None) => return found,
                (_, Some(turn)) => (at, inclusive) = (turn, true),
            }
        }
        None
    }
}
