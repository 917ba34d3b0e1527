//! Events on their way from the node that emitted them to the quorums that listen: what is kept, who is owed what.
//!
//! **Keeping.** A node numbers what it emits, from 1, and keeps it until every quorum it knows has taken it or does not
//! want it, and for [`OUTBOX_GRACE`] beyond that: a quorum may be so new that nobody has heard of it. When the outbox
//! is full of events that are still owed, no more are taken. What is owed for longer than [`OUTBOX_RETENTION`] is given
//! up, and counted as lost to the quorums it may have been for, who record that.
//!
//! **Who wants what.** Quorums are asked which names they listen to, and only while there is an event of which nobody
//! knows whether they want it: an idle network asks nothing. An answer holds for all events that were emitted before
//! the question. What comes later under a name that the quorum wanted is sent at once; under another name it waits for
//! the next question. So an event that is emitted after a trigger was submitted finds it, wherever both were.
//!
//! **Sending.** One dispatch at a time to each quorum, in order, until it is answered: see [`super::event::Dispatch`].
//! The quorum says how far it has come, also after a failover or when the emitter has forgotten; so a dispatch may be
//! lost, doubled or late and every event is taken once. A quorum without room keeps its events waiting here, in ever
//! smaller dispatches.
//!
//! **The network's own events** happen whether anyone wants them or not. They are numbered and kept only once a quorum
//! is known to listen; until then the newest few wait in memory for the quorums to be asked. They have a rate and a
//! room of their own, and what is beyond is counted as lost.
//!
//! Time is the node's monotonic clock, with enough before its beginning to place events of an earlier life in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::event::{DeliveryAck, Dispatch, Dispatched, Event};
use super::limits::*;
use super::record::SeenId;
use crate::backoff::Backoff;
use crate::ids::{Millis, PeerId, QuorumId};

#[derive(Debug)]
pub struct Outbox {
    this: PeerId,
    /// The number that was given last.
    newest: u64,
    rows: BTreeMap<u64, Row>,
    bytes: usize,
    own_rows: usize,
    /// Numbers of events by their ids, and those of them that are gone.
    ids: BTreeMap<SeenId, u64>,
    past: BTreeMap<u64, (SeenId, Millis)>,
    subscribers: BTreeMap<QuorumId, Subscriber>,
    asked: usize,
    unsure: VecDeque<(Event, Millis)>,
    /// When the next own event may be taken, with a burst allowed before it.
    own_free_at: Millis,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Row {
    event: Arc<Event>,
    /// When it was emitted.
    since: Millis,
}

/// What there is between this node and one quorum.
#[derive(Debug)]
struct Subscriber {
    names: BTreeSet<String>,
    /// The question that `names` answers was asked when this was the newest event, and then.
    heard: Option<(u64, Millis)>,
    /// The number of the last event that it has on record, as far as known.
    recorded: Option<u64>,
    /// Nothing up to here is owed.
    done: u64,
    /// Owed, and given up.
    lost: u64,
    asked_at: Option<Millis>,
    not_before: Millis,
    failures: u32,
    under_way: bool,
    batch: usize,
    /// Since when it has not been announced any more.
    gone_since: Option<Millis>,
}

/// What is to be made durable, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Keep(u64, Arc<Event>),
    /// [`Outbox::newest`] alone, which is to be durable with every change.
    Count,
    /// Nothing is left of it but its id.
    Outlive(u64, SeenId, Millis),
    Forget(u64),
    Subscribe(QuorumId, Subscription),
    Unsubscribe(QuorumId),
}

/// What survives a restart of what is known of a quorum.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Subscription {
    pub names: BTreeSet<String>,
    pub lost: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// `Query::Listening`; then [`Outbox::heard_names`] with `newest`, or [`Outbox::failed`].
    Names { newest: u64 },
    /// Then [`Outbox::delivered`], or one of the failures.
    Deliver(Dispatch),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub sequence: u64,
    /// It had been emitted before, under its id.
    pub existed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmitError {
    #[error("{0}")]
    Invalid(String),
    #[error("the outbox of this node is full: {events} events with {bytes} bytes wait for quorums to take them")]
    Full { events: usize, bytes: usize },
}

impl Subscriber {
    fn new(done: u64) -> Self {
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
        }
    }

    /// Whether the event is known not to be for it.
    fn passes(&self, sequence: u64, name: &str) -> bool {
        self.heard.is_some_and(|(newest, _)| sequence <= newest) && !self.names.contains(name)
    }

    fn subscription(&self) -> Subscription {
        Subscription { names: self.names.clone(), lost: self.lost }
    }

    fn is_worth_keeping(&self) -> bool {
        !self.names.is_empty() || self.lost > 0
    }

    fn pause(&mut self, now: Millis) {
        let max = if self.gone_since.is_some() { DELIVERY_RETRY_GONE } else { DELIVERY_RETRY_MAX };
        let pause = Backoff::new(DELIVERY_RETRY_MIN, max).pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.plus(pause);
    }
}

impl Outbox {
    pub fn new(this: PeerId) -> Self {
        Self {
            this,
            newest: 0,
            rows: BTreeMap::new(),
            bytes: 0,
            own_rows: 0,
            ids: BTreeMap::new(),
            past: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            asked: 0,
            unsure: VecDeque::new(),
            own_free_at: Millis(0),
            changes: Vec::new(),
        }
    }

    // ---- from disk, before anything else ----

    /// `age`: by the wall clock, for nothing better survives a restart.
    pub fn restore_event(&mut self, now: Millis, sequence: u64, event: Event, age: Duration) {
        self.newest = self.newest.max(sequence);
        self.keep(sequence, Arc::new(event), before(now, age));
    }

    pub fn restore_id(&mut self, now: Millis, sequence: u64, id: SeenId, age: Duration) {
        self.newest = self.newest.max(sequence);
        self.ids.insert(id, sequence);
        self.past.insert(sequence, (id, before(now, age)));
    }

    /// The last number, which a row need not be left of.
    pub fn restore_newest(&mut self, newest: u64) {
        self.newest = self.newest.max(newest);
    }

    pub fn restore_subscription(&mut self, now: Millis, quorum: QuorumId, subscription: Subscription) {
        let Subscription { names, lost } = subscription;
        let subscriber = Subscriber { names, lost, gone_since: Some(now), ..Subscriber::new(0) };
        self.subscribers.insert(quorum, subscriber);
    }

    // ---- taking events ----

    /// A user's event. It may be acknowledged once [`Outbox::take_changes`] is durable.
    pub fn emit(&mut self, now: Millis, event: Event) -> Result<Taken, EmitError> {
        if event.is_own() {
            let name = &event.name;
            return Err(EmitError::Invalid(format!(
                "name: {name:?} begins with {OWN_PREFIX:?}, which is kept for the network's own events; choose another"
            )));
        }
        event.check().map_err(EmitError::Invalid)?;
        let id = event.id.is_some().then(|| event.seen_id(self.this, 0));
        if let Some(sequence) = id.and_then(|id| self.ids.get(&id)) {
            return Ok(Taken { sequence: *sequence, existed: true });
        }
        self.make_room(now, event.data.len())?;
        Ok(Taken { sequence: self.take(now, event), existed: false })
    }

    /// One of the network's own.
    pub fn emit_own(&mut self, now: Millis, event: Event) {
        if self.is_wanted(&event.name) {
            return self.take_own(now, now, event);
        }
        self.unsure.push_back((event, now));
        if self.unsure.len() > OWN_UNSURE_MAX {
            self.unsure.pop_front();
        }
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.subscribers.values().any(|subscriber| subscriber.names.contains(name))
    }

    fn take_own(&mut self, now: Millis, since: Millis, event: Event) {
        let burst = Duration::from_secs(10);
        let free_at = self.own_free_at.max(before(now, burst));
        if free_at > now || self.own_rows >= OWN_KEPT_MAX || self.make_room(now, event.data.len()).is_err() {
            let lost = self.subscribers.values_mut().filter(|subscriber| subscriber.names.contains(&event.name));
            lost.for_each(|subscriber| subscriber.lost = subscriber.lost.saturating_add(1));
            return;
        }
        self.own_free_at = free_at.plus(Duration::from_millis(1_000 / OWN_PER_SECOND));
        self.take(since, event);
    }

    fn take(&mut self, since: Millis, event: Event) -> u64 {
        self.newest += 1;
        let (sequence, event) = (self.newest, Arc::new(event));
        self.changes.push(Change::Keep(sequence, event.clone()));
        self.keep(sequence, event, since);
        sequence
    }

    fn keep(&mut self, sequence: u64, event: Arc<Event>, since: Millis) {
        self.bytes += event.data.len();
        self.own_rows += usize::from(event.is_own());
        // What the network says of itself may be said again: whether it is the same is for the triggers to tell.
        if event.id.is_some() && !event.is_own() {
            self.ids.insert(event.seen_id(self.this, sequence), sequence);
        }
        self.rows.insert(sequence, Row { event, since });
    }

    /// Takes back what could not be made durable.
    pub fn take_back(&mut self, sequence: u64) {
        if let Some(row) = self.remove(sequence)
            && row.event.id.is_some()
            && !row.event.is_own()
        {
            self.ids.remove(&row.event.seen_id(self.this, sequence));
        }
    }

    fn remove(&mut self, sequence: u64) -> Option<Row> {
        let row = self.rows.remove(&sequence)?;
        self.bytes -= row.event.data.len();
        self.own_rows -= usize::from(row.event.is_own());
        Some(row)
    }

    fn make_room(&mut self, now: Millis, bytes: usize) -> Result<(), EmitError> {
        let is_full = |outbox: &Self| outbox.rows.len() >= OUTBOX_EVENTS_MAX || outbox.bytes + bytes > OUTBOX_BYTES_MAX;
        if is_full(self) {
            self.give_up_old(now);
            let settled = self.settled();
            while is_full(self)
                && let Some((&sequence, _)) = self.rows.first_key_value().filter(|(sequence, _)| **sequence <= settled)
            {
                self.forget(now, sequence);
            }
        }
        if is_full(self) {
            return Err(EmitError::Full { events: self.rows.len(), bytes: self.bytes });
        }
        Ok(())
    }

    // ---- forgetting ----

    /// Every quorum known has taken what is up to here, or does not want it.
    fn settled(&self) -> u64 {
        self.subscribers.values().map(|subscriber| subscriber.done).min().unwrap_or(self.newest)
    }

    /// To be called now and then: forgets what nobody is owed any more, and gives up what was owed for too long.
    pub fn tidy(&mut self, now: Millis) {
        self.give_up_old(now);
        let settled = self.settled();
        while let Some((&sequence, row)) = self.rows.first_key_value()
            && sequence <= settled
            && now.since(row.since) >= OUTBOX_GRACE
        {
            self.forget(now, sequence);
        }
        while let Some((&sequence, (id, since))) = self.past.first_key_value()
            && (self.past.len() > OUTBOX_IDS_MAX || now.since(*since) >= OUTBOX_RETENTION)
        {
            self.ids.remove(id);
            self.past.remove(&sequence);
            self.changes.push(Change::Forget(sequence));
        }
        while self.unsure.front().is_some_and(|(_, since)| now.since(*since) >= OWN_UNSURE || self.is_answered(*since))
        {
            self.unsure.pop_front();
        }
    }

    /// Whether every announced quorum was asked since then.
    fn is_answered(&self, since: Millis) -> bool {
        let asked = |subscriber: &Subscriber| subscriber.heard.is_some_and(|(_, at)| at >= since);
        self.subscribers.values().all(|subscriber| subscriber.gone_since.is_some() || asked(subscriber))
    }

    fn give_up_old(&mut self, now: Millis) {
        while let Some((&sequence, row)) = self.rows.first_key_value()
            && now.since(row.since) >= OUTBOX_RETENTION
        {
            for (quorum, subscriber) in &mut self.subscribers {
                if subscriber.done >= sequence {
                    continue;
                }
                subscriber.done = sequence;
                if !subscriber.passes(sequence, &row.event.name) {
                    subscriber.lost = subscriber.lost.saturating_add(1);
                    self.changes.push(Change::Subscribe(*quorum, subscriber.subscription()));
                }
            }
            self.forget(now, sequence);
        }
    }

    fn forget(&mut self, now: Millis, sequence: u64) {
        let Some(row) = self.remove(sequence) else { return };
        if row.event.id.is_some() && !row.event.is_own() && now.since(row.since) < OUTBOX_RETENTION {
            let id = row.event.seen_id(self.this, sequence);
            self.past.insert(sequence, (id, row.since));
            self.changes.push(Change::Outlive(sequence, id, row.event.at));
        } else {
            if row.event.id.is_some() {
                self.ids.remove(&row.event.seen_id(self.this, sequence));
            }
            self.changes.push(Change::Forget(sequence));
        }
    }

    /// What has changed since the last call. To be durable before anything is acknowledged or sent.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    // ---- who is owed what ----

    /// Which quorums are announced now.
    pub fn announced(&mut self, now: Millis, quorums: &BTreeSet<QuorumId>) {
        let first = self.rows.first_key_value().map_or(self.newest, |(sequence, _)| sequence - 1);
        for quorum in quorums {
            if let Some(subscriber) = self.subscribers.get_mut(quorum) {
                if subscriber.gone_since.take().is_some() {
                    subscriber.not_before = now;
                }
            } else if self.subscribers.len() < SUBSCRIBERS_MAX {
                self.subscribers.insert(*quorum, Subscriber::new(first));
            }
        }
        for (quorum, subscriber) in &mut self.subscribers {
            if !quorums.contains(quorum) && subscriber.gone_since.is_none() {
                subscriber.gone_since = Some(now);
            }
        }
        // One that listened is waited for as long as its events are kept.
        let changes = &mut self.changes;
        self.subscribers.retain(|quorum, subscriber| {
            let Some(since) = subscriber.gone_since else { return true };
            let stays = subscriber.under_way || (subscriber.is_worth_keeping() && now.since(since) < OUTBOX_RETENTION);
            if !stays && subscriber.is_worth_keeping() {
                changes.push(Change::Unsubscribe(*quorum));
            }
            stays
        });
    }

    /// Events that are kept, and the bytes of their data.
    pub fn events(&self) -> usize {
        self.rows.len()
    }
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether anything is left to find out or to deliver.
    pub fn is_idle(&self) -> bool {
        self.unsure.is_empty() && self.rows.is_empty() && self.subscribers.values().all(|known| known.lost == 0)
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
        let Some(subscriber) = self.subscribers.get(&quorum) else { return };
        let after = subscriber.subscription();
        if before != after {
            let keeps = subscriber.is_worth_keeping();
            let change = if keeps { Change::Subscribe(quorum, after.clone()) } else { Change::Unsubscribe(quorum) };
            self.changes.push(change);
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
            let subscription = subscriber.subscription();
            self.changes.push(Change::Subscribe(quorum, subscription));
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

    /// Events kept, and those of them that some quorum is still owed.
    pub fn counts(&self) -> (usize, usize) {
        let settled = self.settled();
        (self.rows.len(), self.rows.range(settled + 1..).count())
    }

    pub fn newest(&self) -> u64 {
        self.newest
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

/// That much earlier, as far back as the clock goes.
fn before(now: Millis, age: Duration) -> Millis {
    Millis(now.0.saturating_sub(age.as_millis() as u64))
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
