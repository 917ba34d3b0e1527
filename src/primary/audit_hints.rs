//! Audit hints: columns that a reader found damaged, waiting for the primary to look for itself.
//!
//! A reader's word condemns nobody: it only brings forward the audit that would have come anyway. So a hint is
//! remembered in memory alone, by the primary that was told; what is lost with it, the regular round of audits finds.
//! Told again, it is the same hint, and a column that was just audited is left alone for a while, so that readers can
//! neither fill the queue with one column nor keep its holder reading.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quorate_protocols::ids::{ManifestHash, PieceIndex, QuorumId};
use tokio::sync::watch;
use tokio::time::Instant;

/// Hints and recent audits remembered over all quorums; beyond that a new hint is dropped, and the round finds it.
const HINTS_MAX: usize = 1_024;

/// A column that was audited on a hint is not audited on another before this.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

type Column = (QuorumId, ManifestHash, PieceIndex);

#[derive(Clone)]
pub struct AuditHints {
    /// `None` waits for its audit; otherwise, when that began.
    columns: Arc<Mutex<BTreeMap<Column, Option<Instant>>>>,
    news: watch::Sender<()>,
}

impl Default for AuditHints {
    fn default() -> Self {
        Self { columns: Arc::default(), news: watch::Sender::new(()) }
    }
}

impl AuditHints {
    /// Remembers a hint.
    pub fn add_hint(&self, quorum: QuorumId, manifest: ManifestHash, column: PieceIndex) {
        let mut columns = self.lock();
        columns.retain(|_, audited| audited.is_none_or(|at| at.elapsed() < AGAIN_AFTER));
        if columns.len() < HINTS_MAX {
            columns.entry((quorum, manifest, column)).or_insert(None);
            drop(columns);
            self.news.send_replace(());
        }
    }

    /// The next suspect column of a quorum; waits until there is one.
    pub async fn next(&self, quorum: QuorumId) -> (ManifestHash, PieceIndex) {
        let mut news = self.news.subscribe();
        loop {
            let waiting = self.lock().iter_mut().find_map(|((of, manifest, column), audited)| {
                let found = *of == quorum && audited.is_none();
                found.then(|| {
                    *audited = Some(Instant::now());
                    (*manifest, *column)
                })
            });
            match waiting {
                Some(found) => return found,
                // The sender lives in `self`.
                None => drop(news.changed().await),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Column, Option<Instant>>> {
        self.columns.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const QUORUM: QuorumId = QuorumId([1; 16]);

    fn manifest(number: u16) -> ManifestHash {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        ManifestHash(bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_is_handed_out_once_and_again_only_after_a_while() {
        let audit_hints = AuditHints::default();
        assert!(audit_hints.next(QUORUM).now_or_never().is_none());
        let waiting = tokio::spawn({
            let audit_hints = audit_hints.clone();
            async move { audit_hints.next(QUORUM).await }
        });
        tokio::task::yield_now().await;
        audit_hints.add_hint(QuorumId([2; 16]), manifest(9), PieceIndex(0));
        audit_hints.add_hint(QUORUM, manifest(7), PieceIndex(3));
        assert_eq!(waiting.await.unwrap(), (manifest(7), PieceIndex(3)));
        audit_hints.add_hint(QUORUM, manifest(7), PieceIndex(3));
        assert!(audit_hints.next(QUORUM).now_or_never().is_none(), "it was audited a moment ago");
        tokio::time::advance(AGAIN_AFTER).await;
        audit_hints.add_hint(QUORUM, manifest(7), PieceIndex(3));
        assert_eq!(audit_hints.next(QUORUM).await, (manifest(7), PieceIndex(3)));
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let audit_hints = AuditHints::default();
        for number in 0..2 * HINTS_MAX as u16 {
            audit_hints.add_hint(QUORUM, manifest(number), PieceIndex(0));
        }
        assert_eq!(audit_hints.lock().len(), HINTS_MAX);
    }
}
