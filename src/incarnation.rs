//! Settles which life of its disk a node is in, and which start of it this is, before it talks to anyone.
//!
//! What is compared and why is told in [`quorate_protocols::incarnation`]. A new incarnation is written to the data
//! folder first and to the record store after that: a crash in between finds two that differ, and draws another.
//!
//! Starts are counted so that others can tell an old announcement from a new one. The count is kept in the record store
//! and is never below the wall clock's time in milliseconds: a clock that goes back does not make it fall, and a disk
//! that is lost does not either.

use std::path::Path;

use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::ids::{Incarnation, Millis, QuorumId};
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

const BOOT_KEY: &[u8] = b"boot";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BootRow(u64);

impl Record for BootRow {
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
    wall: Millis,
) -> BoxFuture<'a, Result<Identity, SettleError>> {
    let settled = async move {
        let tasks = TaskGroup::threaded();
        let on_disk = async { settle_on(dir, Storage::start(disk.clone()), identity, entropy, wall).await };
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
    wall: Millis,
) -> Result<Identity, SettleError> {
    let boot_number = count_boot(&storage, wall).await?;
    let mut identity = settle_incarnation(dir, &storage, identity, entropy).await?;
    identity.boot_number = boot_number;
    Ok(identity)
}

/// Which start this is.
async fn count_boot(storage: &Storage, wall: Millis) -> Result<u64, DiskError> {
    let last = read_row::<BootRow>(storage, BOOT_KEY)?.map_or(0, |row| row.0);
    let number = last.saturating_add(1).max(wall.0);
    let mut batch = KvBatch::new();
    batch.put(TREE, BOOT_KEY, wire::encode_record(&BootRow(number)));
    storage.write(batch).await?;
    Ok(number)
}

async fn settle_incarnation(
    dir: &Path,
    storage: &Storage,
    identity: Identity,
    entropy: &dyn Entropy,
) -> Result<Identity, SettleError> {
    let lost = lost_quorums(storage, identity.member())?;
    let found = Found {
        folder: identity.incarnation,
        store: read_row::<IncarnationRow>(storage, KEY)?.map(|row| row.0),
        store_is_empty: !has_columns(storage)? && !has_members(storage)?,
        forgot: !lost.is_empty(),
    };
    match found.life() {
        Life::Same => Ok(identity),
        Life::Unrecorded => {
            record(storage, identity.incarnation).await?;
            Ok(identity)
        }
        Life::New(loss) => {
            identity::renew_incarnation(dir, entropy)?;
            let identity = identity::load(dir, entropy)?;
            record(storage, identity.incarnation).await?;
            report(loss, &lost, identity.incarnation);
            Ok(identity)
        }
    }
}

fn read_row<T: Record>(storage: &Storage, key: &[u8]) -> Result<Option<T>, DiskError> {
    let Some(bytes) = storage.kv().get(TREE, key)? else { return Ok(None) };
    let damaged = |error: wire::DecodeError| DiskError::Damaged { place: TREE.to_owned(), reason: error.to_string() };
    wire::decode_record(&bytes).map(Some).map_err(damaged)
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
        settle(dir, &disk.disk(), identity, &entropy, Millis(seed)).await.unwrap()
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

    /// Goal: an announcement of an earlier start is told from one of this start, whatever the clock did. Method: starts
    /// under clocks that go forwards and backwards, and on another disk.
    #[tokio::test]
    async fn the_number_of_a_start_is_above_all_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let disk = MemoryDisk::default();
        let mut last = 0;
        for wall in [1_000, 500, 500, 0, 2_000, 1_999] {
            let identity = start(folder.path(), &disk, wall).await;
            assert!(identity.boot_number > last && identity.boot_number >= wall, "{wall}: {}", identity.boot_number);
            last = identity.boot_number;
        }
        assert!(start(folder.path(), &MemoryDisk::default(), 3_000).await.boot_number > last);
    }
}
