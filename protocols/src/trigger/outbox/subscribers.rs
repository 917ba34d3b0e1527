//! Subscribers: what each quorum wants of this node's events, what it is owed, and one dispatch at a time to it.
//!
//! **Who wants what.** Quorums are asked which names they listen to, and only while there is an event of which nobody
//! knows whether they want it: an idle network asks nothing. An answer holds for all events that were emitted before
//! the question. What comes later under a name that the quorum wanted is sent at once; under another name it waits for
//! the next question. So an event that is emitted after a trigger was submitted finds it, wherever both were.
//!
//! **Who is gone.** A quorum that is not announced any more is lost, or this node is cut off from it. It stays a
//! subscriber for as long as an event is kept. The disk knows of it too while there are events. Where there is no room,
//! those that are gone and wanted nothing make it.
//!
//! **Sending.** One dispatch at a time to each quorum, in order, until it is answered: see [`Dispatch`].
//! The quorum says how far it has come, also after a failover or when the emitter has forgotten; so a dispatch may be
//! lost, doubled or late and every event is taken once. A quorum without room keeps its events waiting here, in ever
//! smaller dispatches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Change, Outbox, Row};
use crate::backoff::Backoff;
use crate::ids::{Millis, QuorumId};
use crate::trigger::event::{DeliveryAck, Dispatch, Dispatched};
use crate::trigger::limits::*;

/// What there is between this node and one quorum.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) names: BTreeSet<String>,
    /// The question that `names` answers was asked when this was the newest event, and then.
    pub(super) heard: Option<(u64, Millis)>,
    /// The number of the last event that it has on record, as far as known.
    recorded: Option<u64>,
    /// Nothing up to here is owed.
    pub(super) done: u64,
    /// Owed, and given up.
    pub(super) lost: u64,
    asked_at: Option<Millis>,
    not_before: Millis,
    failures: u32,
    under_way: bool,
    batch: usize,
    /// Since when it has not been announced any more.
    pub(super) gone_since: Option<Millis>,
    /// The disk knows of it.
    is_noted: bool,
}

/// What survives a restart of what is known of a quorum.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Subscription {
    pub names: BTreeSet<String>,
    pub lost: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// `Query::Subscription`; then [`Outbox::heard_names`] with `newest`, or [`Outbox::failed`].
    Names { newest: u64 },
    /// Then [`Outbox::delivered`], or one of the failures.
    Deliver(Dispatch),
}

impl Subscriber {
    pub(super) fn new(done: u64) -> Self {
        Self {
            names: BTreeSet::new(),
            heard: None,
            recorded: None,
            done,
            lost: 0,
            asked_at: None,
            not_before: Millis(0),
            failures: 0,
            under_way: false,
            batch: EVENTS_PER_DELIVERY_MAX,
            gone_since: None,
            is_noted: false,
        }
    }

    /// As the disk had it: it counts as gone until it is announced again.
    pub(super) fn restored(now: Millis, Subscription { names, lost }: Subscription) -> Self {
        Self { names, lost, gone_since: Some(now), is_noted: true, ..Self::new(0) }
    }

    /// Whether the event is known not to be for it.
    pub(super) fn passes(&self, sequence: u64, name: &str) -> bool {
        self.heard.is_some_and(|(newest, _)| sequence <= newest) && !self.names.contains(name)
    }

    pub(super) fn subscription(&self) -> Subscription {
        Subscription { names: self.names.clone(), lost: self.lost }
    }

    /// It is to be durable.
    pub(super) fn note_subscription(&mut self, quorum: QuorumId) -> Change {
        self.is_noted = true;
        Change::Subscribe(quorum, self.subscription())
    }

    fn is_worth_keeping(&self) -> bool {
        !self.names.is_empty() || self.lost > 0
    }

    /// Whether it is gone and wanted nothing: no event is refused for its sake.
    pub(super) fn gives_way(&self) -> bool {
        self.gone_since.is_some() && self.names.is_empty()
    }

    fn pause(&mut self, now: Millis) {
        let max = if self.gone_since.is_some() { DELIVERY_RETRY_GONE } else { DELIVERY_RETRY_MAX };
        let pause = Backoff::new(DELIVERY_RETRY_MIN, max).pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.plus(pause);
    }
}

impl Outbox {
    /// Which quorums are announced now.
    pub fn announced(&mut self, now: Millis, quorums: &BTreeSet<QuorumId>) {
        self.announced_since = if quorums.is_empty() { None } else { self.announced_since.or(Some(now)) };
        let first = self.rows.first_key_value().map_or(self.newest, |(sequence, _)| sequence - 1);
        let new = quorums.iter().filter(|quorum| !self.subscribers.contains_key(*quorum)).count();
        let is_full = self.subscribers.len() + new > SUBSCRIBERS_MAX;
        for quorum in quorums {
            if let Some(subscriber) = self.subscribers.get_mut(quorum) {
                if subscriber.gone_since.take().is_some() {
                    subscriber.not_before = now;
                }
            } else if self.subscribers.len() < SUBSCRIBERS_MAX {
                self.subscribers.insert(*quorum, Subscriber::new(first));
            }
        }
        let changes = &mut self.changes;
        self.subscribers.retain(|quorum, subscriber| {
            if quorums.contains(quorum) {
                return true;
            }
            let since = *subscriber.gone_since.get_or_insert(now);
            let makes_room = is_full && !subscriber.is_worth_keeping();
            let stays = subscriber.under_way || (now.since(since) < OUTBOX_RETENTION && !makes_room);
            if !stays && subscriber.is_noted {
                changes.push(Change::Unsubscribe(*quorum));
            } else if stays && !subscriber.is_noted && !self.rows.is_empty() {
                changes.push(subscriber.note_subscription(*quorum));
            }
            stays
        });
    }

    /// What to ask now, of whom; and when to come back if nothing happens before.
    pub fn asks(&mut self, now: Millis) -> (Vec<(QuorumId, Ask)>, Option<Millis>) {
        let (mut asks, mut wake) = (Vec::new(), None::<Millis>);
        let unsure = self.unsure.back().map(|(_, since)| *since);
        for (quorum, subscriber) in &mut self.subscribers {
            if subscriber.under_way {
                continue;
            }
            // The end of any of them comes back here.
            if self.asked >= ASKED_AT_ONCE_MAX {
                break;
            }
            // Those that are gone mostly do not answer, and others are not to wait for that.
            if subscriber.gone_since.is_some() && self.asked >= ASKED_AT_ONCE_MAX / 2 {
                continue;
            }
            match next(&self.rows, self.newest, unsure, subscriber, now) {
                Next::Nothing => (),
                Next::Later(at) => wake = Some(wake.map_or(at, |wake| wake.min(at))),
                Next::Ask(mut ask) => {
                    subscriber.under_way = true;
                    match &mut ask {
                        Ask::Names { .. } => subscriber.asked_at = Some(now),
                        // What was lost is recorded with a step forward. Where there is none, a number is spent on it.
                        Ask::Deliver(dispatch) if dispatch.lost > 0 && dispatch.events.is_empty() => {
                            self.newest += 1;
                            dispatch.reaches = self.newest;
                            self.changes.push(Change::Count);
                        }
                        Ask::Deliver(_) => (),
                    }
                    self.asked += 1;
                    asks.push((*quorum, ask));
                }
            }
        }
        (asks, wake)
    }

    fn ended(&mut self, quorum: QuorumId) -> Option<&mut Subscriber> {
        let subscriber = self.subscribers.get_mut(&quorum).filter(|subscriber| subscriber.under_way)?;
        subscriber.under_way = false;
        self.asked -= 1;
        Some(subscriber)
    }

    /// The answer to `Ask::Names { newest }`.
    pub fn heard_names(
        &mut self,
        now: Millis,
        quorum: QuorumId,
        newest: u64,
        known: Option<u64>,
        names: impl IntoIterator<Item = String>,
    ) {
        let Some(subscriber) = self.ended(quorum) else { return };
        let before = subscriber.subscription();
        subscriber.failures = 0;
        subscriber.names = names.into_iter().take(TRIGGERS_MAX).collect();
        let asked_at = subscriber.asked_at.unwrap_or(now);
        subscriber.heard = Some((newest, asked_at));
        self.note_recorded(quorum, known);
        let Some(subscriber) = self.subscribers.get_mut(&quorum) else { return };
        let after = subscriber.subscription();
        if subscriber.is_worth_keeping() && (before != after || !subscriber.is_noted) {
            self.changes.push(subscriber.note_subscription(quorum));
        } else if subscriber.is_noted && !subscriber.is_worth_keeping() {
            subscriber.is_noted = false;
            self.changes.push(Change::Unsubscribe(quorum));
        }
        let unsure = std::mem::take(&mut self.unsure).into_iter();
        let (wanted, unsure): (VecDeque<_>, _) = unsure.partition(|(event, _)| after.names.contains(&event.name));
        self.unsure = unsure;
        for (event, since) in wanted {
            self.take_own(now, since, event);
        }
    }

    /// The quorum says how far it has come.
    fn note_recorded(&mut self, quorum: QuorumId, known: Option<u64>) {
        let Some(subscriber) = self.subscribers.get_mut(&quorum) else { return };
        let Some(known) = known else { return };
        let rows = &self.rows;
        if known > self.newest {
            // This node has lost its disk and counts anew: what it has given those numbers to would pass for repeats.
            let wanted = rows.iter().filter(|(sequence, row)| {
                **sequence > subscriber.done && !subscriber.passes(**sequence, &row.event.name)
            });
            subscriber.lost = subscriber.lost.saturating_add(wanted.count() as u64);
            self.newest = known;
        }
        match subscriber.recorded.replace(known) {
            // It has forgotten what it had taken. What is not kept any more cannot be sent again.
            Some(before) if known < before => {
                let kept = rows.range(known + 1..=subscriber.done).count() as u64;
                subscriber.lost = subscriber.lost.saturating_add((subscriber.done - known).saturating_sub(kept));
                subscriber.done = known;
            }
            _ => subscriber.done = subscriber.done.max(known),
        }
    }

    /// The answer to `Ask::Deliver(sent)`.
    pub fn delivered(&mut self, now: Millis, quorum: QuorumId, sent: &Dispatch, heard: DeliveryAck) {
        let Some(subscriber) = self.ended(quorum) else { return };
        let moves = heard.reaches > subscriber.done || (sent.lost > 0 && heard.reaches >= subscriber.done);
        if !moves || heard.reaches > sent.reaches.max(heard.recorded.unwrap_or(0)) {
            // Nothing that a primary says. Not to be asked again at once.
            return subscriber.pause(now);
        }
        subscriber.failures = 0;
        subscriber.batch = (subscriber.batch * 2).min(EVENTS_PER_DELIVERY_MAX);
        subscriber.done = subscriber.done.max(heard.reaches);
        if sent.lost > 0 {
            subscriber.lost = subscriber.lost.saturating_sub(sent.lost);
            let noted = subscriber.note_subscription(quorum);
            self.changes.push(noted);
        }
        self.note_recorded(quorum, heard.recorded);
    }

    /// The quorum has not come as far as the dispatch follows.
    pub fn gap(&mut self, now: Millis, quorum: QuorumId, known: u64) {
        if let Some(subscriber) = self.ended(quorum) {
            subscriber.recorded = subscriber.recorded.or(Some(subscriber.done));
            subscriber.pause(now);
            self.note_recorded(quorum, Some(known));
        }
    }

    /// The quorum has no room for so much.
    pub fn full(&mut self, now: Millis, quorum: QuorumId) {
        if let Some(subscriber) = self.ended(quorum) {
            subscriber.batch = (subscriber.batch / 2).max(1);
            subscriber.pause(now);
        }
    }

    /// Nobody answered, or not to that.
    pub fn failed(&mut self, now: Millis, quorum: QuorumId) {
        if let Some(subscriber) = self.ended(quorum) {
            subscriber.pause(now);
        }
    }
}

enum Next {
    Nothing,
    Later(Millis),
    Ask(Ask),
}

fn next(
    rows: &BTreeMap<u64, Row>,
    newest: u64,
    unsure: Option<Millis>,
    subscriber: &mut Subscriber,
    now: Millis,
) -> Next {
    // What is known not to be for it, it is not owed.
    let owed = |subscriber: &Subscriber| {
        let mut rows = rows.range(subscriber.done + 1..);
        rows.find(|(sequence, row)| !subscriber.passes(**sequence, &row.event.name)).map(|(sequence, _)| *sequence)
    };
    let first = owed(subscriber);
    let settled = first.map_or(newest, |first| first - 1);
    if first.is_some() || subscriber.heard.is_some() {
        subscriber.done = subscriber.done.max(settled);
    }
    let curious = unsure.is_some_and(|since| subscriber.heard.is_none_or(|(_, at)| at < since));
    if first.is_none() && subscriber.lost == 0 && !(curious && subscriber.gone_since.is_none()) {
        if subscriber.heard.is_none() {
            // Nothing was kept when it became known.
            subscriber.done = newest;
        }
        return Next::Nothing;
    }
    if subscriber.not_before > now {
        return Next::Later(subscriber.not_before);
    }
    let ask = Next::Ask(Ask::Names { newest });
    if subscriber.heard.is_none() {
        return ask;
    }
    let candidates = || {
        let rows = rows.range(subscriber.done + 1..);
        rows.filter(|(sequence, row)| !subscriber.passes(**sequence, &row.event.name))
    };
    let (mut events, mut bytes, mut wanted) = (Vec::new(), 0, false);
    for (sequence, row) in candidates() {
        let size = row.event.data.len();
        if events.len() >= subscriber.batch || (bytes + size > DELIVERY_BYTES_MAX && !events.is_empty()) {
            break;
        }
        bytes += size;
        wanted |= subscriber.names.contains(&row.event.name);
        let event = (*row.event).clone();
        events.push(Dispatched { sequence: *sequence, age: now.since(row.since), event });
    }
    if wanted || (events.is_empty() && subscriber.lost > 0) {
        let reaches = events.last().map_or(subscriber.done, |last| last.sequence);
        let follows = subscriber.recorded.unwrap_or(subscriber.done).min(subscriber.done);
        return Next::Ask(Ask::Deliver(Dispatch { follows, reaches, lost: subscriber.lost, events }));
    }
    // Only events under names that it did not want when it was last asked.
    let users = candidates().any(|(_, row)| !row.event.is_own());
    let interval = if users { ASK_INTERVAL } else { ASK_OWN_INTERVAL };
    match subscriber.asked_at.map(|at| at.plus(interval)).filter(|at| *at > now) {
        Some(at) => Next::Later(at),
        None => ask,
    }
}
