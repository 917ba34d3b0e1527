//! The worker's ports over the rest of the node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use quorate_protocols::approval::Subject;
use quorate_protocols::ids::{JobId, LeaseId, ObjectId, PeerId, QuorumId, StepIndex, TaskIndex};
use quorate_protocols::object::ByteRange;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::task::message::{OutputRef, TaskAnswer, TaskMessage};
use quorate_protocols::text::chain;
use tokio::sync::{broadcast, watch};

use crate::approver::{Approver, EndedLease, LeaseInfo};
use crate::objects::{Objects, PutProgress, PutRequest};
use crate::quorums::ports::{Knowledge, LocalQuorums};
use crate::quorums::{ClientError, QuorumClient};
use crate::workers::ports::{ObjectBytes, QuorumPort, Room, TaskObjects, WorkerLeases};

/// How long a worker looks for outputs of earlier tasks in a quorum's record.
const OUTPUTS_DEADLINE: Duration = Duration::from_secs(30);

/// [`QuorumPort`] over the node's client of quorums.
pub struct NodeQuorumPort {
    pub client: QuorumClient,
    pub quorums: Arc<dyn LocalQuorums>,
    pub knowledge: Arc<dyn Knowledge>,
}

impl QuorumPort for NodeQuorumPort {
    fn send_to_primary(
        &self,
        quorum: QuorumId,
        message: TaskMessage,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<TaskAnswer, ClientError>> {
        let client = self.client.clone();
        async move { client.send_to_primary(quorum, message, deadline).await }.boxed()
    }
    fn remember_primary(&self, quorum: QuorumId, primary: PeerId) {
        self.client.remember_primary(quorum, primary);
    }
    fn outputs(
        &self,
        job: JobId,
        step: StepIndex,
        from: TaskIndex,
        limit: u32,
    ) -> BoxFuture<'static, Result<Vec<OutputRef>, ClientError>> {
        let client = self.client.clone();
        async move {
            let query = Query::Outputs { job, step, from, limit };
            match client.query(job.quorum, query, false, OUTPUTS_DEADLINE).await? {
                QueryAnswer::Outputs(outputs) => Ok(outputs),
                _ => Ok(Vec::new()),
            }
        }
        .boxed()
    }
    fn is_member(&self, quorum: QuorumId, peer: PeerId) -> bool {
        let advertised = self.knowledge.quorum(quorum);
        let advertised = advertised.iter().flat_map(|advert| &advert.members).any(|member| member.peer == peer);
        let local = || self.quorums.quorum(quorum).map(|quorum| quorum.view());
        advertised || local().is_some_and(|view| view.voters.iter().any(|member| member.peer == peer))
    }
}

impl From<LeaseInfo> for Room {
    fn from(info: LeaseInfo) -> Self {
        let reserved = info.reserved;
        Self { slots: reserved.slots, memory_bytes: reserved.memory_bytes, disk_bytes: reserved.disk_bytes }
    }
}

impl WorkerLeases for Approver {
    fn orders(&self, lease: LeaseId, quorum: QuorumId, from: PeerId) -> Option<Room> {
        self.check_worker_lease(lease, quorum, from).map(Room::from)
    }
    fn room(&self, lease: LeaseId) -> Option<Room> {
        self.lease(lease).filter(|info| matches!(info.subject, Subject::Worker { .. })).map(Room::from)
    }
    fn ended(&self) -> broadcast::Receiver<EndedLease> {
        Self::ended(self)
    }
}

impl TaskObjects for Objects {
    fn read(&self, object: ObjectId, range: Option<(u64, u64)>) -> BoxFuture<'static, Result<ObjectBytes, String>> {
        let objects = self.clone();
        async move {
            let range = range.map(|(start, length)| ByteRange::From { start, length: Some(length) });
            let read = objects.get(object, range).await.map_err(|error| chain(&error))?;
            let bytes = read.bytes.map(|chunk| chunk.map_err(|error| chain(&error))).boxed();
            Ok(ObjectBytes { size: read.size, bytes })
        }
        .boxed()
    }
    fn store(
        &self,
        name: String,
        size: u64,
        bytes: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> BoxFuture<'static, Result<ObjectId, String>> {
        let objects = self.clone();
        async move {
            let request = PutRequest { name: Some(name), size: Some(size), ..PutRequest::default() };
            let (progress, _) = watch::channel(PutProgress::default());
            let stored = objects.put(request, bytes, progress).await.map_err(|error| chain(&error))?;
            Ok(stored.object)
        }
        .boxed()
    }
}
