//! Adapters of objects: leases over the approver, placement over the directory, and the piece service as a primary on
//! this node reaches it.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_protocols::approval::Writer;
use quorate_protocols::capacity::{Capacity, Requirement};
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{JobId, LeaseId, PeerId, QuorumId};
use quorate_protocols::liveness::distant_peers;
use quorate_protocols::object::Reachable;
use quorate_protocols::piece::{PieceAnswer, PieceMessage};

use crate::approver::Approver;
use crate::directory::Directory;
use crate::objects::{HolderLeases, HoldersKnown, ObjectPlacement, PieceService};
use crate::quorums::ports::LocalPieces;
use crate::quorums::{Placement, PlacementError};
use crate::seams::Net;

impl LocalPieces for PieceService {
    fn answer(&self, from: PeerId, message: PieceMessage, payload: Bytes) -> BoxFuture<'static, (PieceAnswer, Bytes)> {
        self.handle(from, message, payload)
    }
}

impl HolderLeases for Approver {
    fn writer(&self, lease: LeaseId, job: JobId) -> Option<Writer> {
        self.column_writer(lease, job)
    }
    fn set_writer(&self, lease: LeaseId, job: JobId, peer: PeerId) {
        self.set_column_writer(lease, job, peer);
    }
    fn touch(&self, lease: LeaseId) {
        self.touch_column_lease(lease);
    }
    fn reserve(&self, lease: LeaseId, bytes: u64) -> bool {
        self.reserve_column(lease, bytes)
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

/// [`ObjectPlacement`] over the node's own handles.
pub struct NodePlacement {
    pub placement: Placement,
    pub directory: Directory,
    pub net: Arc<dyn Net>,
}

impl ObjectPlacement for NodePlacement {
    fn place(&self) -> BoxFuture<'static, Result<QuorumId, PlacementError>> {
        let placement = self.placement.clone();
        Box::pin(async move { placement.quorum_for_job().await })
    }
    fn record_full(&self, quorum: QuorumId) {
        self.placement.record_full(quorum);
    }
    fn holders_known(&self, column_bytes: u64) -> HoldersKnown {
        let requirement = Requirement::from(Capacity::disk(column_bytes));
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
