//! What a worker needs of the rest of its node, as narrow as it can be.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use quorate_protocols::ids::{JobId, LeaseId, ObjectId, PeerId, QuorumId, StepIndex, TaskIndex};
use quorate_protocols::task::message::{OutputRef, TaskAnswer, TaskMessage};
use tokio::sync::broadcast;

use crate::approver::EndedLease;
use crate::quorums::ClientError;

/// The quorums that this worker works for.
pub trait QuorumPort: Send + Sync + 'static {
    /// Says it to whoever leads the quorum, looking for it until the deadline. What a worker says may be said again.
    fn send_to_primary(
        &self,
        quorum: QuorumId,
        message: TaskMessage,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<TaskAnswer, ClientError>>;
    /// `primary` has just spoken for the quorum: it is asked first.
    fn remember_primary(&self, quorum: QuorumId, primary: PeerId);
    /// Outputs of a step's tasks from `from` on, at most `limit`, in order; fewer when they are large.
    fn outputs(
        &self,
        job: JobId,
        step: StepIndex,
        from: TaskIndex,
        limit: u32,
    ) -> BoxFuture<'static, Result<Vec<OutputRef>, ClientError>>;
    /// Whether the peer is a member of the quorum, as far as this node knows without asking.
    fn is_member(&self, quorum: QuorumId, peer: PeerId) -> bool;
}

/// What this node promised a quorum for all its tasks here together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub slots: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// The leases that this node granted as a worker.
pub trait WorkerLeases: Send + Sync + 'static {
    /// What is set aside under the lease, if it is alive, is one to work for this quorum, and `from` may give orders
    /// under it.
    fn orders(&self, lease: LeaseId, quorum: QuorumId, from: PeerId) -> Option<Room>;
    /// The same for what was ordered before.
    fn room(&self, lease: LeaseId) -> Option<Room>;
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
