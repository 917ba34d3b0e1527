//! What this module needs of the rest of the node, as narrow as it can be, so that it can be tested without a network,
//! a quorum or a resource tree.

use quorate_protocols::job::JobRecord;
use quorate_protocols::quorum::watch::Until;
use std::time::Duration;

use futures::future::BoxFuture;
use quorate_protocols::ids::{JobId, LeaseId, ObjectId, PeerId, PieceIndex, QuorumId};
use quorate_protocols::object::Reachable;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{Command, CommandReply};

use crate::quorums::{ClientError, PlacementError};

/// Peers that could hold a column, counted by what they announce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldersKnown {
    pub reachable: Reachable,
    /// Connected, and not announced yet: they may have room.
    pub strangers: usize,
}

/// The quorums, as objects see them.
pub trait Quorums: Send + Sync + 'static {
    /// A quorum that takes a new run.
    fn place(&self) -> BoxFuture<'static, Result<QuorumId, PlacementError>>;
    /// Commits a command as this node, across failovers, until the deadline.
    fn propose(
        &self,
        quorum: QuorumId,
        command: Command,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<CommandReply, ClientError>>;
    /// Linearizable unless `stale`.
    fn query(
        &self,
        quorum: QuorumId,
        query: Query,
        stale: bool,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<QueryAnswer, ClientError>>;
    /// The job as soon as the condition holds; `None` when it does not within `patience`.
    fn watch(
        &self,
        job: JobId,
        until: Until,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Option<Box<JobRecord>>, ClientError>>;
    /// Tells an object's steward that a column gave a reader no good piece.
    fn suspect(
        &self,
        object: ObjectId,
        column: PieceIndex,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<(), ClientError>>;
    /// Voters and learners of the quorum, as far as this node knows without asking; empty when it knows none.
    fn members_known(&self, quorum: QuorumId) -> Vec<PeerId>;
    /// Which peers, this node included, could hold a column of `column_bytes`, counted.
    fn holders_known(&self, column_bytes: u64) -> HoldersKnown;
}

/// The leases that this node granted as a holder. The approver that lends from the resource tree implements it.
pub trait HolderLeases: Send + Sync + 'static {
    /// Whether this lease for a column of `job` is alive. Asking counts as traffic: it lives on for
    /// `piece::limits::LEASE` from now.
    fn touch(&self, lease: LeaseId, job: JobId) -> bool;
    /// Whether this lease is alive, without prolonging it.
    fn is_alive(&self, lease: LeaseId) -> bool;
    /// The column is permanent: `bytes` of disk stay accounted for without an end, whatever the lease had.
    fn settle(&self, lease: LeaseId, bytes: u64);
    /// The column is gone: give back what the lease, or the settled hold, had reserved. Nothing happens when it was
    /// given back before.
    fn release(&self, lease: LeaseId);
}
