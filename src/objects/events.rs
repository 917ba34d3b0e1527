//! What happens to objects on this node: events for people, counters for `/metrics`.

use std::sync::atomic::AtomicU64;

use quorate_protocols::ids::{JobId, ObjectId, PeerId, PieceHash, PieceIndex, SegmentIndex};
use tokio::sync::broadcast;

/// Events kept for a follower that lags; the oldest are lost first.
pub const EVENTS_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectEvent {
    /// A holder gave bytes that are not the piece, or none.
    PieceFault { object: ObjectId, segment: SegmentIndex, column: PieceIndex, holder: PeerId, reason: String },
    /// During a put, a column's holder failed.
    ColumnFailed { job: JobId, column: PieceIndex, holder: PeerId, reason: String },
    /// During a put, a column has a (new) holder after a failure.
    ColumnReplaced { job: JobId, column: PieceIndex, holder: PeerId },
    /// A put ended well here.
    Stored { object: ObjectId, job: JobId, bytes: u64, degraded: bool },
    /// A piece on this node's own disk is missing or rotten.
    PieceDamaged { hash: PieceHash, reason: String },
    /// A column that nobody wants any more was let go here.
    ColumnCollected { job: JobId, column: PieceIndex, reason: String },
}

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    pub pieces_received: AtomicU64,
    pub pieces_served: AtomicU64,
    pub bytes_received: AtomicU64,
    pub bytes_served: AtomicU64,
    pub pieces_sent: AtomicU64,
    pub pieces_skipped: AtomicU64,
    pub pieces_rebuilt: AtomicU64,
    pub pieces_damaged: AtomicU64,
    pub pieces_deleted: AtomicU64,
    pub pieces_scrubbed: AtomicU64,
    pub piece_faults: AtomicU64,
    pub pieces_hedged: AtomicU64,
    pub requests_refused: AtomicU64,
    pub stale_attempts_refused: AtomicU64,
    pub columns_replaced: AtomicU64,
    /// Segments that puts and gets of this node hold in memory now, and the most that one put ever held.
    pub segments_in_memory: AtomicU64,
    pub segments_in_memory_peak: AtomicU64,
}

impl Metrics {
    pub(super) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Where events go. Sending never waits and never fails.
#[derive(Clone)]
pub struct Events(broadcast::Sender<ObjectEvent>);

impl Events {
    pub fn new() -> Self {
        Self(broadcast::channel(EVENTS_MAX).0)
    }
    pub fn send(&self, event: ObjectEvent) {
        tracing::debug!(?event, "object event");
        // Nobody listening is fine.
        let _ = self.0.send(event);
    }
    pub fn subscribe(&self) -> broadcast::Receiver<ObjectEvent> {
        self.0.subscribe()
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}
