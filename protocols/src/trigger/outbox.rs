//! Events on their way from the node that emitted them to the quorums that listen: what is taken and kept here, and for
//! how long. Which quorum is owed what, and how it gets it, is in [`subscribers`].
//!
//! **Keeping.** A node numbers what it emits, from 1, and keeps it until every quorum it knows has taken it or does not
//! want it, and has known of some for [`OUTBOX_GRACE`]: a quorum may be so new that nobody has heard of it, and a node
//! that has just started, or is cut off, hears of none. One that is not announced any more may be on the other side of
//! a cut: it is owed events as before. When the outbox is full of events that are still owed, no more are taken. What
//! is owed for longer than [`OUTBOX_RETENTION`] is given up, and so is, when the outbox is full, what is owed only to
//! quorums that are gone and wanted nothing. It is counted as lost to those it may have been for, who record it.
//!
//! **The network's own events** happen whether anyone wants them or not. They are numbered and kept only once a quorum
//! is known to listen; until then the newest few wait in memory for the quorums to be asked. They have a rate and a
//! room of their own, and what is beyond is counted as lost.
//!
//! Time is the node's monotonic clock, with enough before its beginning to place events of an earlier life in it. How
//! old those are is what wall clocks say, which may have been set: so none of them is taken for older than
//! [`RESTORED_AGE_MAX`].

mod subscribers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::event::{Event, EventFault};
use super::limits::*;
use super::record::SeenId;
use crate::ids::{Millis, PeerId, QuorumId};
use subscribers::Subscriber;

pub use subscribers::{Ask, Subscription};

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
    /// Since when some quorum or other has been announced, without a break. While there is none, nobody knows what is
    /// owed to whom.
    announced_since: Option<Millis>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emitted {
    pub sequence: u64,
    /// It had been emitted before, under its id.
    pub existed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmitError {
    #[error(transparent)]
    Invalid(#[from] EventFault),
    #[error("the outbox of this node is full: {events} events with {bytes} bytes wait for quorums to take them")]
    Full { events: usize, bytes: usize },
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
            announced_since: None,
            asked: 0,
            unsure: VecDeque::new(),
            own_free_at: Millis(0),
            changes: Vec::new(),
        }
    }

    // ---- from disk, before anything else ----

    /// `age`: by wall clocks, for nothing better survives a restart.
    pub fn restore_event(&mut self, now: Millis, sequence: u64, event: Event, age: Duration) {
        self.newest = self.newest.max(sequence);
        self.insert_row(sequence, Arc::new(event), before(now, age.min(RESTORED_AGE_MAX)));
    }

    /// `age`: by wall clocks.
    pub fn restore_id(&mut self, now: Millis, sequence: u64, id: SeenId, age: Duration) {
        self.newest = self.newest.max(sequence);
        self.ids.insert(id, sequence);
        self.past.insert(sequence, (id, before(now, age.min(RESTORED_AGE_MAX))));
    }

    /// The last number, which a row need not be left of.
    pub fn restore_newest(&mut self, newest: u64) {
        self.newest = self.newest.max(newest);
    }

    pub fn restore_subscription(&mut self, now: Millis, quorum: QuorumId, subscription: Subscription) {
        self.subscribers.insert(quorum, Subscriber::restored(now, subscription));
    }

    // ---- taking events ----

    /// A user's event. It may be acknowledged once [`Outbox::take_changes`] is durable.
    pub fn emit(&mut self, now: Millis, event: Event) -> Result<Emitted, EmitError> {
        if event.is_own() {
            return Err(EventFault::OwnName { name: event.name }.into());
        }
        event.check()?;
        let id = event.id.is_some().then(|| event.seen_id(self.this, 0));
        if let Some(sequence) = id.and_then(|id| self.ids.get(&id)) {
            return Ok(Emitted { sequence: *sequence, existed: true });
        }
        self.make_room(now, event.data.len())?;
        Ok(Emitted { sequence: self.number_event(now, event), existed: false })
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
        self.number_event(since, event);
    }

    fn number_event(&mut self, since: Millis, event: Event) -> u64 {
        self.newest += 1;
        let (sequence, event) = (self.newest, Arc::new(event));
        self.changes.push(Change::Keep(sequence, event.clone()));
        self.insert_row(sequence, event, since);
        sequence
    }

    fn insert_row(&mut self, sequence: u64, event: Arc<Event>, since: Millis) {
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
            // What was acknowledged while no quorum was known stays, and what comes is refused.
            let settled = if self.announced_since.is_some() { self.settled_for(|known| !known.gives_way()) } else { 0 };
            while is_full(self)
                && let Some((&sequence, _)) = self.rows.first_key_value().filter(|(sequence, _)| **sequence <= settled)
            {
                self.give_up(now, sequence);
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
        self.settled_for(|_| true)
    }

    /// The same for some of them.
    fn settled_for(&self, counts: impl Fn(&Subscriber) -> bool) -> u64 {
        let counted = self.subscribers.values().filter(|subscriber| counts(subscriber));
        counted.map(|subscriber| subscriber.done).min().unwrap_or(self.newest)
    }

    /// To be called now and then: forgets what nobody is owed any more, and gives up what was owed for too long.
    pub fn tidy(&mut self, now: Millis) {
        self.give_up_old(now);
        let settled = self.settled();
        while let Some(announced_since) = self.announced_since
            && let Some((&sequence, row)) = self.rows.first_key_value()
            && sequence <= settled
            && now.since(row.since.max(announced_since)) >= OUTBOX_GRACE
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
            self.give_up(now, sequence);
        }
    }

    /// Forgets the event, which is lost to those that it is still owed to.
    fn give_up(&mut self, now: Millis, sequence: u64) {
        let Some(row) = self.rows.get(&sequence) else { return };
        for (quorum, subscriber) in &mut self.subscribers {
            if subscriber.done >= sequence {
                continue;
            }
            subscriber.done = sequence;
            if !subscriber.passes(sequence, &row.event.name) {
                subscriber.lost = subscriber.lost.saturating_add(1);
                self.changes.push(subscriber.note_subscription(*quorum));
            }
        }
        self.forget(now, sequence);
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

    /// Events kept, and those of them that some quorum is still owed.
    pub fn counts(&self) -> (usize, usize) {
        let settled = self.settled();
        (self.rows.len(), self.rows.range(settled + 1..).count())
    }

    pub fn newest(&self) -> u64 {
        self.newest
    }
}

/// That much earlier, as far back as the clock goes.
fn before(now: Millis, age: Duration) -> Millis {
    Millis(now.0.saturating_sub(age.as_millis() as u64))
}

#[cfg(test)]
mod tests;
