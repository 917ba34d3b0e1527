//! Ports of the objects to the rest of the node, as narrow as it can be, so that it can be tested without a network,
//! a quorum or a resource tree.

use futures::future::BoxFuture;
use quorate_protocols::approval::Writer;
use quorate_protocols::ids::{JobId, LeaseId, PeerId, QuorumId};
use quorate_protocols::object::Reachable;

use crate::quorums::PlacementError;

/// Peers that could hold a column, counted by what they announce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldersKnown {
    pub reachable: Reachable,
    /// Connected, and not announced yet: they may have room.
    pub strangers: usize,
}

/// Where a new object may go.
pub trait ObjectPlacement: Send + Sync + 'static {
    /// A quorum that takes a new run.
    fn place(&self) -> BoxFuture<'static, Result<QuorumId, PlacementError>>;
    /// The quorum refused a run for want of room: others are chosen for a while.
    fn record_full(&self, quorum: QuorumId);
    /// Which peers, this node included, could hold a column of `column_bytes`, counted.
    fn holders_known(&self, column_bytes: u64) -> HoldersKnown;
}

/// The leases that this node granted as a holder. The approver that lends from the resource tree implements it.
pub trait HolderLeases: Send + Sync + 'static {
    /// Who fills the column of `job` under this lease; `None` when it is not alive.
    fn writer(&self, lease: LeaseId, job: JobId) -> Option<Writer>;
    /// The quorum of the run says that this peer uploads into it now.
    fn set_writer(&self, lease: LeaseId, job: JobId, peer: PeerId);
    /// Traffic under a lease: it lives on for `piece::limits::LEASE` from now.
    fn touch(&self, lease: LeaseId);
    /// Whether the lease is alive and reserves `bytes` of disk; that of a stream is grown where there is room.
    fn reserve(&self, lease: LeaseId, bytes: u64) -> bool;
    /// Whether this lease is alive, without prolonging it.
    fn is_alive(&self, lease: LeaseId) -> bool;
    /// The column is permanent: `bytes` of disk stay accounted for without an end, whatever the lease had.
    fn settle(&self, lease: LeaseId, bytes: u64);
    /// The column is gone: give back what the lease, or the settled hold, had reserved. Nothing happens when it was
    /// given back before.
    fn release(&self, lease: LeaseId);
}
