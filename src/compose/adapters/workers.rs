//! The worker's ports over the rest of the node.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use quorate_protocols::approval::Subject;
use quorate_protocols::capacity::Capacity;
use quorate_protocols::ids::{LeaseId, ObjectId, QuorumId};
use quorate_protocols::object::ByteRange;
use quorate_protocols::text::chain;
use tokio::sync::{broadcast, watch};

use crate::approver::{Approver, EndedLease};
use crate::objects::{Objects, PutProgress, PutRequest};
use crate::workers::ports::{ObjectBytes, TaskObjects, WorkerLeases};

impl WorkerLeases for Approver {
    fn room_for(&self, lease: LeaseId, quorum: QuorumId) -> Option<Capacity> {
        self.use_worker_lease(lease, quorum).map(|info| info.reserved.capacity())
    }
    fn room(&self, lease: LeaseId) -> Option<Capacity> {
        self.lease(lease)
            .filter(|info| matches!(info.subject, Subject::Worker { .. }))
            .map(|info| info.reserved.capacity())
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
