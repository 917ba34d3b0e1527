//! A trigger as its quorum remembers it: where its clock stands, what fired, what waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::condition::ConditionState;
use super::limits::FIRES_RETENTION;
use super::reopen::{InstantRange, Leap};
use crate::ids::{JobId, Millis, Nonce};
use crate::run_state::RunState;
use crate::wire;

/// The state of a job that has a trigger. Its runs are jobs of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerRun {
    pub clock: Clock,
    /// What falls due or arrives meanwhile is skipped, and recorded as such.
    pub suspended: bool,
    /// It was suspended until now: what fell due meanwhile is still to be recorded.
    pub resuming: bool,
    /// Runs that have not ended.
    pub live: BTreeSet<JobId>,
    /// Fires that wait for them, by row.
    pub waiting: VecDeque<Waiting>,
    /// Newest last. Of old ones those that nothing more becomes of are forgotten first.
    pub fires: VecDeque<FireRow>,
    /// Rows so far; the next has this number plus one.
    pub rows: u64,
    /// Ids of events and manual fires that must not fire again, and until when.
    pub seen: BTreeMap<SeenId, Millis>,
    pub debounced: Option<Box<Debounced>>,
    pub condition: ConditionState,
    /// Of the jobs that are waited for: the last end since the last fire.
    pub ended: BTreeMap<JobId, Ended>,
}

/// Where a timed trigger stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// From when its instants count: the primary's clock when it first looked. None before that, and when it begins
    /// anew: see [`Clock::counts_from`].
    pub from: Option<Millis>,
    /// The first instant that is not recorded yet; none before the first look, and after the last instant.
    pub next: Option<Due>,
    /// Instants recorded, skipped ones included.
    pub done: u64,
    /// The primary could not tell what comes next; it is asked again then.
    pub rest_until: Option<Millis>,
    /// Instants before the head that have no row, because their rows were withdrawn; in order. `next` is in the first.
    pub open: Vec<InstantRange>,
    /// The first instant after the last open range that has no row; meaningless without one.
    pub head: Option<Millis>,
    /// What was recorded from here on was recorded without a gap; `None`: all of it.
    pub since: Option<Millis>,
    /// Instants that were skipped, as far as they could still turn out to lie ahead.
    pub leaps: Vec<Leap>,
    /// How much earlier than they say the instants of a period fall due.
    pub lag: Duration,
}

/// An instant, and when it is due: later by its jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Due {
    pub instant: Millis,
    pub due: Millis,
}

/// What moves a timed trigger on: everything between the instant that the record expects and the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub job: JobId,
    pub from: Millis,
    /// What the record named as next: a span that was made from another record changes nothing.
    pub expected: Option<Millis>,
    /// So long ago that enough newer ones are due to make up for them.
    pub skipped: Option<Skipped>,
    /// The instants after those, in order, one by one.
    pub named: Vec<Millis>,
    pub next: Option<Due>,
    /// What the clock said by which they are due.
    pub at: Millis,
    /// Instead of all that: why the next instant cannot be told.
    pub fault: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub first: Millis,
    pub last: Millis,
    pub count: u64,
}

/// What fired, or did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FireRow {
    pub number: u64,
    pub cause: Cause,
    /// Quorum time of the record.
    pub at: Millis,
    pub what: Fired,
}

/// The key of a fire beside its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cause {
    Instant(Millis),
    Event(SeenId),
    Manual(Nonce),
    /// The observation that settled it, by number.
    Condition(u64),
    /// The end of the last of the jobs that it waited for.
    After(JobId),
}

/// The first half of a hash: of an event's name and id, or of its emitter and place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeenId(pub [u8; 16]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fired {
    /// A run of its own, and how it ended if it has.
    Run { run: JobId, end: Option<RunState> },
    /// Its turn comes when an earlier run has ended.
    Waiting,
    /// `count` of them, of which the row's cause is the first. `last`: the last instant, or when the last came.
    Skipped { last: Millis, count: u64, reason: SkipReason },
    /// `count` instants, of which the row's cause is the first, were skipped by clocks that ran ahead. They are open
    /// again: each has, or will have, another row.
    Withdrawn { last: Millis, count: u64 },
}

/// Why nothing ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// Nobody could commit it in time, and the policy does not make up for it.
    Missed,
    /// Later than the policy's deadline.
    Deadline,
    /// An earlier run was not over.
    Overlap,
    QueueFull,
    /// A newer one took its place in the queue.
    Replaced,
    Suspended,
    /// A newer event came within the debounce.
    Debounced,
    /// The quorum had no room for another run.
    Full,
    /// The expression could not be evaluated.
    Fault,
    /// The job that it waited for ended otherwise.
    Outcome,
    /// Its emitter could not keep it until it was taken.
    Lost,
    /// The trigger was cancelled while it waited.
    Cancelled,
}

/// A fire that waits for an earlier run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub number: u64,
    /// What its task will find.
    pub input: Bytes,
}

/// The newest of a stream of events that has not come to rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debounced {
    pub cause: Cause,
    pub input: Bytes,
    pub since: Millis,
    pub until: Millis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub run: JobId,
    pub state: RunState,
    pub at: Millis,
}

/// What a run was made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FiredBy {
    pub job: JobId,
    /// The row.
    pub number: u64,
}

impl FiredBy {
    /// The id of the run that the row makes: whoever works it out again finds the same.
    pub fn run(self) -> JobId {
        let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 trigger run 1");
        hasher.update(&wire::encode(&self));
        let mut local = [0; 16];
        local.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        JobId { quorum: self.job.quorum, local }
    }
}

impl TriggerRun {
    /// A row that is still remembered.
    pub fn row(&self, number: u64) -> Option<&FireRow> {
        self.fires.get(self.position(number)?)
    }
    pub(crate) fn row_mut(&mut self, number: u64) -> Option<&mut FireRow> {
        let position = self.position(number)?;
        self.fires.get_mut(position)
    }
    fn position(&self, number: u64) -> Option<usize> {
        self.fires.binary_search_by_key(&number, |row| row.number).ok()
    }
    /// Adds a row, and forgets the oldest settled ones past `keep` rows or past their time.
    pub(crate) fn push(&mut self, row: FireRow, keep: usize, now: Millis) {
        self.fires.push_back(row);
        while let Some(oldest) = self.fires.iter().position(FireRow::is_settled).filter(|at| at + 1 < self.fires.len())
            && (self.fires.len() > keep || now.since(self.fires[oldest].at) > FIRES_RETENTION)
        {
            self.fires.remove(oldest);
        }
    }

    /// Bytes that wait, for the quorum's account of what it keeps.
    pub(crate) fn input_bytes(&self) -> usize {
        let waiting = self.waiting.iter().map(|waiting| waiting.input.len()).sum::<usize>();
        waiting + self.debounced.as_ref().map_or(0, |debounced| debounced.input.len())
    }
    pub fn is_busy(&self) -> bool {
        !self.live.is_empty() || !self.waiting.is_empty()
    }

    /// Clocks were set back: stamps later than `at` become `at`.
    pub(crate) fn withdraw_stamps(&mut self, at: Millis) {
        self.fires.iter_mut().for_each(|row| row.at = row.at.min(at));
        self.ended.values_mut().for_each(|ended| ended.at = ended.at.min(at));
    }

    /// Without what only its own pages show.
    pub(crate) fn outline(&self) -> Self {
        let outline = |debounced: &Debounced| Box::new(Debounced { input: Bytes::new(), ..debounced.clone() });
        Self {
            clock: self.clock.clone(),
            live: self.live.clone(),
            waiting: VecDeque::new(),
            fires: VecDeque::new(),
            seen: BTreeMap::new(),
            debounced: self.debounced.as_deref().map(outline),
            condition: self.condition.clone(),
            ended: self.ended.clone(),
            ..*self
        }
    }
}

impl FireRow {
    /// Whether it may be forgotten: nothing more becomes of it.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(self.what, Fired::Waiting | Fired::Run { end: None, .. })
    }
}

impl SkipReason {
    /// For people.
    pub const fn explain(self) -> &'static str {
        match self {
            Self::Missed => "it was missed: no primary could commit it in time",
            Self::Deadline => "it came later than the deadline for missed instants",
            Self::Overlap => "an earlier run was not over",
            Self::QueueFull => "as many fires as allowed were waiting for an earlier run",
            Self::Replaced => "a newer fire took its place",
            Self::Suspended => "the trigger was suspended",
            Self::Debounced => "a newer event came within the debounce",
            Self::Full => "the quorum had no room for another run, or its owner's share of it had none",
            Self::Fault => "its expression could not be evaluated",
            Self::Outcome => "a job that it waited for ended otherwise",
            Self::Lost => "its emitter could not keep it until it was taken",
            Self::Cancelled => "the trigger was cancelled while it waited",
        }
    }
}
