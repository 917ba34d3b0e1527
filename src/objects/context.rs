//! What this module needs of the rest of the node, as narrow as it can be, so that it can be tested without a network,
//! a quorum or a resource tree.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use quorate_protocols::ids::{JobId, LeaseId, ObjectId, PeerId, PieceIndex, QuorumId};
use quorate_protocols::job::message::{Query, QueryAnswer};
use quorate_protocols::quorum::{Command, CommandReply};

use crate::directory::Directory;
use crate::jobs::{ClientError, Placement, PlacementError, QuorumClient};
use crate::seams::Net;
use quorate_protocols::approval::Requirement;
use quorate_protocols::job::Kind;
use quorate_protocols::liveness::distant_peers;
use quorate_protocols::object::Reachable;

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

/// [`Quorums`] over the node's own handles.
pub struct NodeQuorums {
    pub client: QuorumClient,
    pub placement: Placement,
    pub directory: Directory,
    pub net: Arc<dyn Net>,
}

impl Quorums for NodeQuorums {
    fn place(&self) -> BoxFuture<'static, Result<QuorumId, PlacementError>> {
        let placement = self.placement.clone();
        Box::pin(async move { placement.quorum_for_job().await })
    }
    fn propose(
        &self,
        quorum: QuorumId,
        command: Command,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<CommandReply, ClientError>> {
        let client = self.client.clone();
        Box::pin(async move { client.propose(quorum, command, deadline).await })
    }
    fn query(
        &self,
        quorum: QuorumId,
        query: Query,
        stale: bool,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<QueryAnswer, ClientError>> {
        let client = self.client.clone();
        Box::pin(async move { client.query(quorum, query, stale, deadline).await })
    }
    fn suspect(
        &self,
        object: ObjectId,
        column: PieceIndex,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<(), ClientError>> {
        let client = self.client.clone();
        Box::pin(async move { client.suspect(object, column, deadline).await })
    }
    fn members_known(&self, quorum: QuorumId) -> Vec<PeerId> {
        self.directory
            .quorum(quorum)
            .map(|advert| advert.members.iter().map(|member| member.peer).collect())
            .unwrap_or_default()
    }
    fn holders_known(&self, column_bytes: u64) -> HoldersKnown {
        let requirement = Requirement { disk_bytes: column_bytes, ..Requirement::default() };
        let candidates = self.directory.candidates(Kind::Store, &requirement);
        let keepers = self.directory.candidates(Kind::Store, &Requirement::default()).len();
        let full = keepers.saturating_sub(candidates.len());
        let (absent, present): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|peer| self.net.is_absent(*peer));
        let measured = |peer: &PeerId| Some((*peer, self.net.round_trip(*peer)?));
        let distant = distant_peers(&present.iter().filter_map(measured).collect()).len();
        let near = present.len() - distant;
        let is_stranger = |peer: &PeerId| self.directory.peer(*peer).is_none() && !self.net.is_absent(*peer);
        let connected = self.net.peers().into_iter().filter(|view| view.connected).map(|view| view.peer);
        let strangers = connected.filter(is_stranger).count();
        HoldersKnown { reachable: Reachable { near, distant, absent: absent.len(), full }, strangers }
    }
}
