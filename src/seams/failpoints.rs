//! Failpoints: places where the simulator may change a value that a node is about to act on.
//!
//! A harness that never fails proves nothing, so the simulator runs nodes with deliberate bugs and must find them. The
//! bugs are the simulator's: a node names the places ([`Failpoint`]) and hands each value to whoever stands there. In a
//! real node nobody does, and there is nothing that a setting or a peer could arm: only [`TaskGroup::inline_with`]
//! groups, which run simulated nodes and nothing else, have [`Failpoints`].

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};

use super::TaskGroup;

/// A place, and what is handed over there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failpoint {
    /// A batch was applied, and its write waits for a sync: `storage::Done` of the node.
    WriteApplied,
    /// A piece is about to be stored: `objects::store::Admission` of the node.
    PieceAdmitted,
    /// A column is confirmed: the [`super::KvBatch`] that records it.
    ColumnConfirmed,
    /// A column is let go: the [`super::KvBatch`] that records it.
    ColumnReleased,
    /// The lease of a column that was let go is about to end: its `LeaseId`.
    ColumnLeaseEnds,
    /// The steward was asked whether it wants a column here: `bool`.
    ColumnWanted,
    /// A piece was fetched and is about to be checked: its `PieceHash`, and the `Bytes`.
    PieceFetched,
    /// A member reads its log: `raft::LogRead` of the node.
    LogRead,
    /// A member reads the vote that it gave: `Option` of `raft::Vote` of the node.
    VoteRead,
    /// An append was answered, or was not: `raft::Appended` of the node.
    AppendAnswered,
    /// A member is about to answer a query or a watch: `bool`, whether it may answer without asking who leads.
    ReadAsked,
    /// A primary is about to fire what is due: `primary::DueSpans` of the node.
    SpansDue,
}

/// Stands at the failpoints of one simulated node.
pub trait Failpoints: Send + Sync + 'static {
    /// May change `value`, which is of the type that the failpoint names.
    fn reach(&self, point: Failpoint, value: &mut dyn Any);
}

/// Whether this process ever had a group with failpoints: real nodes pay one load for each place.
static ANY: AtomicBool = AtomicBool::new(false);

pub(super) fn enable() {
    ANY.store(true, Ordering::Relaxed);
}

/// Hands `value` to whoever stands at this place in the node whose task calls.
#[inline]
pub fn failpoint<T: Any>(point: Failpoint, value: &mut T) {
    if ANY.load(Ordering::Relaxed) {
        TaskGroup::reach(point, value);
    }
}
