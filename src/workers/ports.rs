//! Ports of a worker to the rest of its node, as narrow as they can be.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use quorate_protocols::capacity::Capacity;
use quorate_protocols::ids::{LeaseId, ObjectId, QuorumId};
use tokio::sync::broadcast;

use crate::approver::EndedLease;

/// The leases that this node granted as a worker.
pub trait WorkerLeases: Send + Sync + 'static {
    /// What this node promised the quorum for all its tasks here together, if the lease is alive and is one to work for
    /// this quorum.
    fn room_for(&self, lease: LeaseId, quorum: QuorumId) -> Option<Capacity>;
    /// The same for what was ordered before.
    fn room(&self, lease: LeaseId) -> Option<Capacity>;
    /// Leases of any sort as they end.
    fn ended(&self) -> broadcast::Receiver<EndedLease>;
}

/// Objects, as inputs and outputs.
pub trait TaskObjects: Send + Sync + 'static {
    /// The object's size and its bytes, or those of `range` (offset and length), each checked.
    fn read(&self, object: ObjectId, range: Option<(u64, u64)>) -> BoxFuture<'static, Result<ObjectBytes, String>>;
    /// Stores bytes of a known size; what it says of the object is committed.
    fn store(
        &self,
        name: String,
        size: u64,
        bytes: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> BoxFuture<'static, Result<ObjectId, String>>;
}

pub struct ObjectBytes {
    /// Of the whole object.
    pub size: u64,
    pub bytes: BoxStream<'static, Result<Bytes, String>>,
}
