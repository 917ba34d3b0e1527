//! What objects ask of quorums and of leases, over the node's client, directory and approver; and the piece service as
//! a primary on this node reaches it.

use quorate_protocols::job::JobRecord;
use quorate_protocols::quorum::watch::Until;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_protocols::approval::Requirement;
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{JobId, LeaseId, ObjectId, PeerId, PieceIndex, QuorumId};
use quorate_protocols::liveness::distant_peers;
use quorate_protocols::object::Reachable;
use quorate_protocols::piece::{PieceAnswer, PieceMessage};
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{Command, CommandReply};

use crate::approver::Approver;
use crate::directory::Directory;
use crate::objects::{HolderLeases, HoldersKnown, PieceService, Quorums};
use crate::quorums::ports::LocalPieces;
use crate::quorums::{ClientError, Placement, PlacementError, QuorumClient};
use crate::seams::Net;

impl LocalPieces for PieceService {
    fn answer(&self, from: PeerId, message: PieceMessage, payload: Bytes) -> BoxFuture<'static, (PieceAnswer, Bytes)> {
        self.handle(from, message, payload)
    }
}

impl HolderLeases for Approver {
    fn touch(&self, lease: LeaseId, job: JobId) -> bool {
        self.touch_column_lease(lease, job)
    }
    fn is_alive(&self, lease: LeaseId) -> bool {
        Self::is_alive(self, lease)
    }
    fn settle(&self, lease: LeaseId, bytes: u64) {
        self.settle_column(lease, bytes);
    }
    fn release(&self, lease: LeaseId) {
        self.release_column(lease);
    }
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
    fn watch(
        &self,
        job: JobId,
        until: Until,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Option<Box<JobRecord>>, ClientError>> {
        let client = self.client.clone();
        Box::pin(async move { client.watch(job, until, patience).await })
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
        let candidates = self.directory.candidates(NodeRole::Store, &requirement);
        let keepers = self.directory.candidates(NodeRole::Store, &Requirement::default()).len();
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
