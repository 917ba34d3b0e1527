//! The asker of a session of watches: which entries one node has with one quorum, and what it asks next.
//!
//! Whoever drives it sends each request to the quorum's primary, retries it as it is when that gave no answer, and says
//! what came of it. Requests of a session that is over need no answer any more.
//!
//! A request that is lost is missed only once its wait is over. So whatever is new is waited for a moment at first, and
//! each request that brings nothing has the next one wait twice as long.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{EntryId, Until, WatchAnswer, WatchEntry, WatchRequest, Watched};
use crate::backoff::Backoff;
use crate::ids::{JobId, QuorumId};
use crate::job::limits::{
    WATCH_CHANGES_MAX, WATCH_ENTRIES_PER_SESSION_MAX, WATCH_PAUSE_MAX, WATCH_PAUSE_MIN, WATCH_REQUESTS_MAX,
    WATCH_WAIT_MAX, WATCH_WAIT_MIN,
};

/// Dropped entries that wait for the next request; more of them make one.
const DROPPED_WAITING_MAX: usize = 256;

/// Answers in a row that bring nothing before the next request pauses. A new primary has the session opened anew, and
/// two requests that cross each other may both be told of the same entry.
const FRUITLESS_FREE: u32 = 2;

pub struct WatchAsker {
    quorum: QuorumId,
    last_id: u64,
    entries: BTreeMap<EntryId, Entry>,
    /// Entries that the primary may still have, and the first request of the session that drops them.
    dropped: BTreeMap<EntryId, Option<u64>>,
    session: u64,
    /// The newest request of the session, and the newest that was answered.
    sent: u64,
    answered: u64,
    /// Requests that have no answer yet, and since when.
    in_flight: BTreeMap<u64, Duration>,
    /// Answers in a row that brought nothing and came at once.
    fruitless: u32,
    not_before: Duration,
    /// What the next request is parked for, if it brings no new entry.
    wait: Duration,
}

struct Entry {
    job: JobId,
    until: Until,
    /// The first request of the session that adds it.
    carried: Option<u64>,
    refusals: u32,
    /// Not added before.
    from: Duration,
}

impl WatchAsker {
    pub fn new(quorum: QuorumId, random: u64) -> Self {
        Self {
            quorum,
            last_id: 0,
            entries: BTreeMap::new(),
            dropped: BTreeMap::new(),
            session: random,
            sent: 0,
            answered: 0,
            in_flight: BTreeMap::new(),
            fruitless: 0,
            not_before: Duration::ZERO,
            wait: WATCH_WAIT_MIN,
        }
    }

    /// Adds a watch on a job of this quorum.
    pub fn add(&mut self, job: JobId, until: Until) -> EntryId {
        self.last_id += 1;
        let id = EntryId(self.last_id);
        self.entries.insert(id, Entry { job, until, carried: None, refusals: 0, from: Duration::ZERO });
        id
    }

    /// Nobody waits for it any more. The primary hears of it with the next request.
    pub fn cancel(&mut self, id: EntryId) {
        if let Some(entry) = self.entries.remove(&id)
            && (entry.carried.is_some() || entry.refusals > 0)
        {
            self.dropped.insert(id, None);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a request belongs to the session that is open now.
    pub fn is_current(&self, session: u64) -> bool {
        self.session == session
    }

    /// When the next request is due; `None` before an entry is added or a request answered.
    pub fn next_at(&self) -> Option<Duration> {
        if self.in_flight.len() >= WATCH_REQUESTS_MAX {
            return None;
        }
        let new = self.entries.values().filter(|entry| entry.carried.is_none()).map(|entry| entry.from).min();
        let nothing_parked = self.in_flight.is_empty() && self.entries.values().any(|entry| entry.carried.is_some());
        let crowded = self.dropped.values().filter(|carried| carried.is_none()).count() > DROPPED_WAITING_MAX;
        let at_once = (nothing_parked || crowded).then_some(Duration::ZERO);
        [new, at_once].into_iter().flatten().min().map(|at| at.max(self.not_before))
    }

    /// The next request, if one is due.
    pub fn next_request(&mut self, now: Duration) -> Option<WatchRequest> {
        self.next_at().filter(|at| *at <= now)?;
        self.sent += 1;
        let (number, base) = (self.sent, self.answered);
        self.in_flight.insert(number, now);
        let is_news = |carried: Option<u64>| carried.is_none_or(|carried| base == 0 || carried > base);
        let due = |entry: &Entry| is_news(entry.carried) && (entry.carried.is_some() || entry.from <= now);
        // What an earlier request carries comes first: each change since the base is in this one.
        let (before, new): (Vec<_>, Vec<_>) =
            self.entries.iter_mut().filter(|(_, entry)| due(entry)).partition(|(_, entry)| entry.carried.is_some());
        if !new.is_empty() {
            self.wait = WATCH_WAIT_MIN;
        }
        let mut added = Vec::new();
        for (id, entry) in before.into_iter().chain(new).take(WATCH_ENTRIES_PER_SESSION_MAX) {
            entry.carried.get_or_insert(number);
            added.push(WatchEntry { id: *id, local: entry.job.local, until: entry.until });
        }
        let (before, new): (Vec<_>, Vec<_>) = self.dropped.iter_mut().partition(|(_, carried)| carried.is_some());
        let mut dropped = Vec::new();
        for (id, carried) in before.into_iter().chain(new).take(WATCH_CHANGES_MAX) {
            carried.get_or_insert(number);
            dropped.push(*id);
        }
        let wait_ms = self.wait.as_millis() as u32;
        self.wait = (2 * self.wait).min(WATCH_WAIT_MAX);
        Some(WatchRequest { quorum: self.quorum, session: self.session, number, base, added, dropped, wait_ms })
    }

    /// Whether an answer says nothing that cannot be true.
    pub fn may_believe(&self, answer: &WatchAnswer) -> bool {
        let WatchAnswer::Update { met, .. } = answer else { return true };
        met.iter()
            .all(|(id, watched)| self.entries.get(id).is_none_or(|entry| watched.may_answer(entry.job, &entry.until)))
    }

    /// Takes the answer to a request. Returns the entries that are answered, which are gone from here.
    pub fn take_answer(
        &mut self,
        session: u64,
        number: u64,
        answer: WatchAnswer,
        now: Duration,
        random: u64,
    ) -> Vec<(EntryId, Watched)> {
        let is_current = self.is_current(session);
        let sent_at = self.in_flight.get(&number).copied().filter(|_| is_current);
        let (met, refused) = match answer {
            WatchAnswer::Update { met, refused } => (met, refused),
            WatchAnswer::Reopen => {
                if is_current {
                    self.reopen(random);
                    self.count_fruitless(now, random);
                }
                return Vec::new();
            }
        };
        if is_current {
            self.in_flight.remove(&number);
            self.answered = self.answered.max(number);
            let answered = self.answered;
            self.dropped.retain(|_, carried| carried.is_none_or(|carried| carried > answered));
        }
        let mut told = Vec::new();
        for (id, watched) in met {
            let Some(entry) = self.entries.remove(&id) else { continue };
            if entry.carried.is_some() {
                self.dropped.insert(id, None);
            }
            told.push((id, watched));
        }
        let mut was_refused = false;
        for id in refused {
            let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.carried.is_some_and(|c| c <= number))
            else {
                continue;
            };
            if is_current {
                entry.refusals += 1;
                entry.carried = None;
                entry.from = now + pause(entry.refusals, random);
                was_refused = true;
            }
        }
        let was_parked = sent_at.is_none_or(|at| now.saturating_sub(at) >= WATCH_PAUSE_MAX);
        let is_superseded = number < self.sent;
        if told.is_empty() && is_current && !was_parked && !is_superseded && !was_refused {
            self.count_fruitless(now, random);
        } else if is_current {
            self.fruitless = 0;
        }
        told
    }

    /// A request ended without an answer: the quorum cannot be reached. Returns the entries that it asked for, which
    /// are gone from here.
    pub fn give_up(&mut self, session: u64, number: u64) -> Vec<EntryId> {
        if !self.is_current(session) || self.in_flight.remove(&number).is_none() {
            return Vec::new();
        }
        let asked = |entry: &Entry| entry.carried.is_some_and(|carried| carried <= number);
        let failed: Vec<_> = self.entries.iter().filter(|(_, entry)| asked(entry)).map(|(id, _)| *id).collect();
        for id in &failed {
            self.cancel(*id);
        }
        failed
    }

    /// The last request of a session without entries, which ends it at the primary; `None` if none was opened.
    pub fn close(&mut self) -> Option<WatchRequest> {
        if self.sent == 0 || !self.entries.is_empty() {
            return None;
        }
        self.sent += 1;
        let dropped = self.dropped.keys().take(WATCH_CHANGES_MAX).copied().collect();
        let (number, base) = (self.sent, self.answered);
        Some(WatchRequest {
            quorum: self.quorum,
            session: self.session,
            number,
            base,
            added: Vec::new(),
            dropped,
            wait_ms: 0,
        })
    }

    fn reopen(&mut self, random: u64) {
        self.session = self.session.wrapping_add(random | 1);
        (self.sent, self.answered) = (0, 0);
        self.in_flight.clear();
        self.dropped.clear();
        for entry in self.entries.values_mut() {
            entry.carried = None;
        }
    }

    fn count_fruitless(&mut self, now: Duration, random: u64) {
        self.fruitless += 1;
        if self.fruitless > FRUITLESS_FREE {
            self.not_before = now + pause(self.fruitless - FRUITLESS_FREE, random);
        }
    }
}

/// From `WATCH_PAUSE_MIN` on, doubling up to `WATCH_PAUSE_MAX`, with up to half of it as jitter.
fn pause(times: u32, random: u64) -> Duration {
    let pause = Backoff::new(WATCH_PAUSE_MIN, WATCH_PAUSE_MAX).pause(times.saturating_sub(1));
    pause + Duration::from_millis(random % (pause.as_millis() as u64 / 2 + 1))
}
