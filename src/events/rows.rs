//! Rows of the outbox on disk.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocols::ids::{Millis, PeerId, QuorumId};
use quorate_protocols::trigger::event::Event;
use quorate_protocols::trigger::outbox::{Change, Outbox, Subscription};
use quorate_protocols::trigger::record::SeenId;
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};

use crate::seams::{DiskError, Kv, KvBatch};

/// Number, big-endian, to [`Row`].
const ROWS: &str = "events.rows";
/// Quorum to [`Row`] of a subscription.
const QUORUMS: &str = "events.quorums";
/// [`NEWEST`] to the number that was given last, which need not have a row.
const STATE: &str = "events.state";
const NEWEST: &[u8] = b"newest";

/// Rows and bytes that are read at once.
const PAGE: usize = 4_096;
const PAGE_BYTES: usize = 4 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
enum Row {
    Event(EventRow),
    /// The event is gone; its id must not be taken again.
    Id(SeenId, Millis),
    Subscription(Subscription),
    Newest(u64),
}

#[derive(Serialize, Deserialize)]
struct EventRow {
    name: String,
    id: Option<String>,
    data: Bytes,
    at: Millis,
}

impl Record for Row {
    /// 1: first.
    const VERSION: u8 = 1;
}

/// The changes, in their order, and how far numbers have been given.
pub(super) fn batch(changes: &[Change], newest: u64) -> KvBatch {
    let mut batch = KvBatch::new();
    for change in changes {
        match change {
            Change::Keep(sequence, event) => {
                let Event { name, id, data, at } = Arc::unwrap_or_clone(event.clone());
                let row = Row::Event(EventRow { name, id, data, at });
                batch.put(ROWS, sequence.to_be_bytes(), wire::encode_record(&row))
            }
            Change::Outlive(sequence, id, at) => {
                batch.put(ROWS, sequence.to_be_bytes(), wire::encode_record(&Row::Id(*id, *at)))
            }
            Change::Forget(sequence) => batch.delete(ROWS, sequence.to_be_bytes()),
            Change::Subscribe(quorum, subscription) => {
                batch.put(QUORUMS, quorum.0, wire::encode_record(&Row::Subscription(subscription.clone())))
            }
            Change::Unsubscribe(quorum) => batch.delete(QUORUMS, quorum.0),
            Change::Count => &mut batch,
        };
    }
    batch.put(STATE, NEWEST, wire::encode_record(&Row::Newest(newest)));
    batch
}

/// The outbox as an earlier life left it. `now` is the outbox's clock, `wall` the wall's.
pub(super) fn load(kv: &dyn Kv, this: PeerId, now: Millis, wall: Millis) -> Result<Outbox, DiskError> {
    let mut outbox = Outbox::new(this);
    each(kv, ROWS, |key, row| {
        let sequence = u64::from_be_bytes(key.try_into().map_err(|_| damaged(ROWS, "a key of another length"))?);
        match row {
            Row::Event(EventRow { name, id, data, at }) => {
                outbox.restore_event(now, sequence, Event { name, id, data, at }, wall.since(at));
            }
            Row::Id(id, at) => outbox.restore_id(now, sequence, id, wall.since(at)),
            _ => return Err(damaged(ROWS, "a row of another sort")),
        }
        Ok(())
    })?;
    each(kv, QUORUMS, |key, row| {
        let quorum = QuorumId(key.try_into().map_err(|_| damaged(QUORUMS, "a key of another length"))?);
        match row {
            Row::Subscription(subscription) => outbox.restore_subscription(now, quorum, subscription),
            _ => return Err(damaged(QUORUMS, "a row of another sort")),
        }
        Ok(())
    })?;
    if let Some(bytes) = kv.get(STATE, NEWEST)? {
        match decode(STATE, &bytes)? {
            Row::Newest(newest) => outbox.restore_newest(newest),
            _ => return Err(damaged(STATE, "a row of another sort")),
        }
    }
    Ok(outbox)
}

fn each(kv: &dyn Kv, tree: &str, mut visit: impl FnMut(&[u8], Row) -> Result<(), DiskError>) -> Result<(), DiskError> {
    let mut from = Vec::new();
    loop {
        let page = kv.range(tree, &from, &[0xff; 17], PAGE, PAGE_BYTES)?;
        for (key, value) in &page {
            visit(key, decode(tree, value)?)?;
        }
        match page.into_iter().next_back() {
            Some((last, _)) => from = [&last[..], &[0]].concat(),
            None => return Ok(()),
        }
    }
}

fn decode(tree: &str, bytes: &[u8]) -> Result<Row, DiskError> {
    wire::decode_record(bytes).map_err(|error| damaged(tree, &error.to_string()))
}

fn damaged(tree: &str, reason: &str) -> DiskError {
    DiskError::Damaged { place: tree.to_owned(), reason: reason.to_owned() }
}
