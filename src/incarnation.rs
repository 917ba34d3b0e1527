//! Settles which life of its disk a node is in, before it talks to anyone.
//!
//! What is compared and why is told in [`quorate_protocols::incarnation`]. A new incarnation is written to the data
//! folder first and to the record store after that: a crash in between finds two that differ, and draws another.

use std::path::Path;

use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::ids::{Incarnation, QuorumId};
use quorate_protocols::incarnation::{Found, Life, Loss};
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};

use crate::identity::{self, Identity, IdentityError};
use crate::objects::store::has_columns;
use crate::raft::{has_members, lost_quorums};
use crate::seams::{Disk, DiskError, Entropy, KvBatch, TaskGroup};
use crate::storage::Storage;

const TREE: &str = "node.incarnation";
const KEY: &[u8] = b"present";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct IncarnationRow(Incarnation);

impl Record for IncarnationRow {
    /// 1: first.
    const VERSION: u8 = 1;
}

#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error("reading which life of its disk this node is in")]
    Disk(#[from] DiskError),
    #[error("giving this node a new incarnation")]
    Identity(#[from] IdentityError),
}

/// The identity with which the node starts: the folder's, or that of a new life. Both places agree when this returns.
pub fn settle<'a>(
    dir: &'a Path,
    disk: &'a Disk,
    identity: Identity,
    entropy: &'a dyn Entropy,
) -> BoxFuture<'a, Result<Identity, SettleError>> {
    let settled = async move {
        let tasks = TaskGroup::threaded();
        let on_disk = async { settle_on(dir, Storage::start(disk.clone()), identity, entropy).await };
        let settled = tasks.scope(on_disk).await;
        tasks.close().await;
        settled
    };
    settled.boxed()
}

async fn settle_on(
    dir: &Path,
    storage: Storage,
    identity: Identity,
    entropy: &dyn Entropy,
) -> Result<Identity, SettleError> {
    let lost = lost_quorums(&storage, identity.member())?;
    let found = Found {
        folder: identity.incarnation,
        store: read(&storage)?,
        store_is_empty: !has_columns(&storage)? && !has_members(&storage)?,
        forgot: !lost.is_empty(),
    };
    match found.life() {
        Life::Same => Ok(identity),
        Life::Unrecorded => {
            record(&storage, identity.incarnation).await?;
            Ok(identity)
        }
        Life::New(loss) => {
            identity::renew_incarnation(dir, entropy)?;
            let identity = identity::load(dir, entropy)?;
            record(&storage, identity.incarnation).await?;
            report(loss, &lost, identity.incarnation);
            Ok(identity)
        }
    }
}

fn read(storage: &Storage) -> Result<Option<Incarnation>, DiskError> {
    let Some(bytes) = storage.kv().get(TREE, KEY)? else { return Ok(None) };
    let damaged = |error: wire::DecodeError| DiskError::Damaged { place: TREE.to_owned(), reason: error.to_string() };
    Ok(Some(wire::decode_record::<IncarnationRow>(&bytes).map_err(damaged)?.0))
}

async fn record(storage: &Storage, incarnation: Incarnation) -> Result<(), DiskError> {
    let mut batch = KvBatch::new();
    batch.put(TREE, KEY, wire::encode_record(&IncarnationRow(incarnation)));
    storage.write(batch).await
}

fn report(loss: Loss, lost: &[QuorumId], incarnation: Incarnation) {
    match loss {
        Loss::EmptyStore => tracing::info!(
            ?incarnation,
            "the record store is new; whatever this node held before, others rebuild elsewhere"
        ),
        Loss::OtherStore(store) => tracing::error!(
            ?store,
            ?incarnation,
            "the record store was written in another life of this node; it comes back as a new member, and what it \
             holds is rebuilt"
        ),
        Loss::ForgottenPromises => tracing::error!(
            quorums = ?lost, ?incarnation,
            "the record store lost what this node had promised; it comes back as a new member, with nothing to say \
             in these quorums until they take it in"
        ),
    }
}

#[cfg(test)]
mod tests {
    use quorate_testkit::MemoryDisk;

    use super::*;
    use crate::seams::entropy::SeededEntropy;

    async fn start(dir: &Path, disk: &MemoryDisk, seed: u64) -> Identity {
        let entropy = SeededEntropy::new(seed);
        let identity = identity::load_or_create(dir, &entropy).unwrap();
        settle(dir, &disk.disk(), identity, &entropy).await.unwrap()
    }

    /// Goal: a disk that comes back without its records is another one, for everybody; one that comes back with them
    /// is the same. Method: starts of one folder over record stores that are kept, lost and exchanged.
    #[tokio::test]
    async fn a_key_that_outlives_its_records_comes_back_in_another_incarnation() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, other) = (MemoryDisk::default(), MemoryDisk::default());
        let first = start(folder.path(), &kept, 1).await;
        let again = start(folder.path(), &kept, 2).await;
        assert_eq!(again.member(), first.member());
        let wiped = start(folder.path(), &other, 3).await;
        assert_eq!(wiped.peer(), first.peer());
        assert!(first.member().is_over(wiped.incarnation));
        assert_eq!(start(folder.path(), &other, 4).await.member(), wiped.member());
        // The old disk is found and put back: it missed what was released and rebuilt meanwhile.
        let back = start(folder.path(), &kept, 5).await;
        assert!(first.member().is_over(back.incarnation) && wiped.member().is_over(back.incarnation));
        assert_eq!(start(folder.path(), &kept, 6).await.member(), back.member());
    }
}
