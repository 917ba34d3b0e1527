//! Mark and sweep: files that no record refers to leave through a quarantine, records without a file are marked
//! damaged.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::MutexGuard;
use quorate_protocols::ids::{Millis, PieceHash};

use super::{DAMAGED, PAGE, PieceStore, StoreError};
use crate::seams::{KvBatch, run_blocking};

/// Unreferenced pieces that wait for their quarantine to end; the rest are found again by a later sweep.
const QUARANTINED_MAX: usize = 64 * 1024;

/// What one round of the sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub deleted: u64,
    pub quarantined: u64,
    /// Records whose file is gone, newly marked.
    pub missing: u64,
}

impl PieceStore {
    /// Mark and sweep over one page of files after `after`: unreferenced ones enter the quarantine, those that stayed
    /// unreferenced through `quarantine` are deleted, and records without a file are marked damaged. Returns where the
    /// next page starts; `None` at the end.
    pub async fn sweep(
        &self,
        after: Option<PieceHash>,
        quarantine: Duration,
    ) -> Result<(Swept, Option<PieceHash>), StoreError> {
        let files = self.inner.storage.files();
        let listed = run_blocking(move || files.list_pieces(after, PAGE)).await?;
        let next = if listed.len() < PAGE { None } else { listed.last().copied() };
        let mut swept = Swept::default();
        for hash in &listed {
            if self.first_ref(*hash)?.is_some() {
                self.quarantine().remove(hash);
                continue;
            }
            let now = self.inner.clock.monotonic();
            let since = {
                let mut quarantined = self.quarantine();
                if !quarantined.contains_key(hash) && quarantined.len() >= QUARANTINED_MAX {
                    continue;
                }
                *quarantined.entry(*hash).or_insert_with(|| {
                    swept.quarantined += 1;
                    now
                })
            };
            if now.since(since) >= quarantine && self.delete_unreferenced(*hash).await? {
                swept.deleted += 1;
            }
        }
        swept.missing = self.mark_missing(after, next, &listed).await?;
        Ok((swept, next))
    }

    fn quarantine(&self) -> MutexGuard<'_, BTreeMap<PieceHash, Millis>> {
        self.inner.quarantine.lock()
    }

    async fn delete_unreferenced(&self, hash: PieceHash) -> Result<bool, StoreError> {
        let _alone = self.inner.files.write().await;
        let gone = self.first_ref(hash)?.is_none();
        if gone {
            let files = self.inner.storage.files();
            run_blocking(move || files.remove_piece(hash)).await?;
            if self.is_damaged(hash)? {
                let mut batch = KvBatch::new();
                batch.delete(DAMAGED, hash.0);
                // Not waited for: a mark without a piece says nothing.
                drop(self.apply(batch)?);
            }
        }
        self.quarantine().remove(&hash);
        Ok(gone)
    }

    /// Marks records between two file names whose file was not listed.
    async fn mark_missing(
        &self,
        after: Option<PieceHash>,
        upto: Option<PieceHash>,
        listed: &[PieceHash],
    ) -> Result<u64, StoreError> {
        let (mut cursor, mut missing) = (after, 0);
        while let Some(hash) = self.next_referred(cursor)? {
            if upto.is_some_and(|upto| hash > upto) {
                break;
            }
            cursor = Some(hash);
            if listed.binary_search(&hash).is_ok() || self.is_damaged(hash)? {
                continue;
            }
            // The file may have been written after the listing: look again before believing it.
            let files = self.inner.storage.files();
            if run_blocking(move || files.read_piece(hash)).await?.is_none() {
                self.mark_damaged(hash).await?;
                missing += 1;
            }
        }
        Ok(missing)
    }
}
