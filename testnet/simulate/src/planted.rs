//! Bugs that are planted on purpose, to prove that the simulator would find them.
//!
//! A harness that never fails proves nothing. Each [`Planted`] bug is a fault that a real implementation could have, at
//! the very line where it would sit: it stands at one of the node's failpoints and changes what is about to be acted
//! on. At most one is armed per run, and the run must name a broken guarantee within a stated number of seeds. The
//! node's own code holds none of them.

use std::any::Any;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::raft::AppendEntriesResponse;
use quorate_node::objects::store::{Admission, COLUMNS, ColumnRow, HoldState};
use quorate_node::primary::DueSpans;
use quorate_node::raft::{Appended, LogRead, Vote};
use quorate_node::seams::disk::KvOp;
use quorate_node::seams::{Failpoint, Failpoints, KvBatch};
use quorate_node::storage::Done;
use quorate_protocols::ids::{LeaseId, PieceHash};
use quorate_protocols::object::CheckedPiece;

/// One deliberate fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// A write is called durable when it was applied, before the sync.
    AcknowledgeBeforeFlush,
    /// A holder takes pieces for an attempt that was replaced, or for a column that it let go.
    SkipAttemptCheck,
    /// A primary counts an append that got no answer as stored.
    CountSilentMember,
    /// A member starts without the vote that it gave.
    ForgetVote,
    /// A member answers from what it has applied without asking whether it still leads.
    ServeStaleReads,
    /// A holder says that it keeps a column for good, and records nothing.
    DropConfirm,
    /// A piece that was fetched is used without comparing its hash.
    SkipHashCheck,
    /// A holder lets go of columns whatever their steward answers.
    IgnoreSteward,
    /// A holder that lets go of a column forgets at once that it did: no tombstone, and the lease goes on.
    ForgetTombstone,
    /// A member that restarts reads its log without the changes of membership after the founding.
    DropMembershipChange,
    /// A new primary has triggers go on from its clock and not from the record.
    FireFromClock,
}

impl Planted {
    pub const ALL: [Self; 11] = [
        Self::AcknowledgeBeforeFlush,
        Self::SkipAttemptCheck,
        Self::CountSilentMember,
        Self::ForgetVote,
        Self::ServeStaleReads,
        Self::DropConfirm,
        Self::SkipHashCheck,
        Self::IgnoreSteward,
        Self::ForgetTombstone,
        Self::DropMembershipChange,
        Self::FireFromClock,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::AcknowledgeBeforeFlush => "acknowledge-before-flush",
            Self::SkipAttemptCheck => "skip-attempt-check",
            Self::CountSilentMember => "count-silent-member",
            Self::ForgetVote => "forget-vote",
            Self::ServeStaleReads => "serve-stale-reads",
            Self::DropConfirm => "drop-confirm",
            Self::SkipHashCheck => "skip-hash-check",
            Self::IgnoreSteward => "ignore-steward",
            Self::ForgetTombstone => "forget-tombstone",
            Self::DropMembershipChange => "drop-membership-change",
            Self::FireFromClock => "fire-from-clock",
        }
    }
}

impl Failpoints for Planted {
    fn reach(&self, point: Failpoint, value: &mut dyn Any) {
        match (self, point) {
            (Self::AcknowledgeBeforeFlush, Failpoint::WriteApplied) => {
                let done: &mut Done = typed(value);
                std::mem::replace(done, Box::new(|_| ()))(Ok(()));
            }
            (Self::SkipAttemptCheck, Failpoint::PieceAdmitted) => {
                let Admission { slot, permit, row, needs_room, .. }: &mut Admission = typed(value);
                let (lease, writer) = (permit.lease, permit.writer);
                let bytes = row.map_or(0, |row| row.bytes);
                *row = Some(ColumnRow { attempt: slot.attempt, lease, writer, state: HoldState::Filling, bytes });
                // The end of a lease refuses a late piece as well.
                *needs_room = false;
            }
            (Self::CountSilentMember, Failpoint::AppendAnswered) => {
                let answer: &mut Appended = typed(value);
                if answer.is_err() {
                    *answer = Ok(AppendEntriesResponse::Success);
                }
            }
            (Self::ForgetVote, Failpoint::VoteRead) => *typed::<Option<Vote>>(value) = None,
            (Self::ServeStaleReads, Failpoint::ReadAsked) => *typed(value) = true,
            (Self::DropConfirm, Failpoint::ColumnConfirmed) => *typed(value) = KvBatch::new(),
            (Self::SkipHashCheck, Failpoint::PieceFetched) => {
                let (hash, bytes): &mut (PieceHash, Bytes) = typed(value);
                *hash = CheckedPiece::hash_of(bytes.clone()).hash();
            }
            (Self::IgnoreSteward, Failpoint::ColumnWanted) => *typed(value) = false,
            (Self::ForgetTombstone, Failpoint::ColumnReleased) => {
                typed::<KvBatch>(value).ops.iter_mut().for_each(delete_row)
            }
            // No lease has this id, so none ends.
            (Self::ForgetTombstone, Failpoint::ColumnLeaseEnds) => *typed(value) = LeaseId([0xff; 16]),
            (Self::DropMembershipChange, Failpoint::LogRead) => {
                let LogRead { is_at_start, entries }: &mut LogRead = typed(value);
                let later = entries.iter_mut().filter(|entry| *is_at_start && entry.log_id.index > 0);
                later
                    .filter(|entry| matches!(entry.payload, EntryPayload::Membership(_)))
                    .for_each(|entry| entry.payload = EntryPayload::Blank);
            }
            (Self::FireFromClock, Failpoint::SpansDue) => {
                let DueSpans { is_first, spans }: &mut DueSpans = typed(value);
                if *is_first {
                    spans.iter_mut().for_each(|span| (span.skipped, span.named) = (None, Vec::new()));
                }
            }
            _ => (),
        }
    }
}

/// The value of a failpoint as what the failpoint says that it is.
fn typed<T: Any>(value: &mut dyn Any) -> &mut T {
    value.downcast_mut().expect("the failpoint hands over what it names")
}

/// Deletes the row of a column in place of writing it.
fn delete_row(op: &mut KvOp) {
    if let KvOp::Put { tree, key, .. } = op
        && tree == COLUMNS
    {
        *op = KvOp::Delete { tree: std::mem::take(tree), key: std::mem::take(key) };
    }
}
