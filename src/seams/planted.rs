//! Bugs that are planted on purpose, to prove that the simulator would find them.
//!
//! A harness that never fails proves nothing. Each [`Planted`] bug is a fault that a real implementation could have, at
//! the very line where it would sit; the simulator arms at most one per run and must name a broken guarantee within a
//! stated number of seeds. A bug is armed in a node's [`TaskGroup`], and only [`TaskGroup::inline`] groups, which run
//! simulated nodes and nothing else, can carry one: in a real node [`planted`] is always false.

use super::TaskGroup;

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
    /// A holder lets go of columns without asking the steward.
    DeleteWithoutAsking,
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
        Self::DeleteWithoutAsking,
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
            Self::DeleteWithoutAsking => "delete-without-asking",
            Self::ForgetTombstone => "forget-tombstone",
            Self::DropMembershipChange => "drop-membership-change",
            Self::FireFromClock => "fire-from-clock",
        }
    }
}

/// Whether this bug is armed in the node whose task calls. False in every real node.
pub fn planted(bug: Planted) -> bool {
    TaskGroup::planted() == Some(bug)
}
