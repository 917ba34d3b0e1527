//! Events of objects on this node, and their counters for `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use quorate_protocols::ids::{JobId, ObjectId, PeerId, PieceHash, PieceIndex, SegmentIndex};
use tokio::sync::broadcast;

use crate::gauges;

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
    pub pieces_received: Counter,
    pub pieces_served: Counter,
    pub bytes_received: Counter,
    pub bytes_served: Counter,
    pub pieces_sent: Counter,
    pub pieces_skipped: Counter,
    pub pieces_rebuilt: Counter,
    pub pieces_damaged: Counter,
    pub pieces_deleted: Counter,
    pub pieces_scrubbed: Counter,
    pub piece_faults: Counter,
    pub pieces_hedged: Counter,
    pub requests_refused: Counter,
    pub stale_attempts_refused: Counter,
    pub columns_replaced: Counter,
    /// Piece requests that are being answered now.
    pub requests_handling: Gauge,
    /// Segments that puts and gets of this node hold in memory now, and the most that one put ever held. Puts read
    /// them, so they are no gauges.
    pub segments_in_memory: AtomicU64,
    pub segments_in_memory_peak: AtomicU64,
}

impl Metrics {
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("quorate_objects");
        let counters = [
            ("pieces_received", "Pieces taken from peers", &self.pieces_received),
            ("pieces_served", "Pieces given to peers", &self.pieces_served),
            ("bytes_received", "Bytes of pieces taken from peers", &self.bytes_received),
            ("bytes_served", "Bytes of pieces given to peers", &self.bytes_served),
            ("pieces_sent", "Pieces sent by puts of this node", &self.pieces_sent),
            ("pieces_skipped", "Pieces that a put found stored already", &self.pieces_skipped),
            ("pieces_rebuilt", "Pieces rebuilt here from others", &self.pieces_rebuilt),
            ("pieces_damaged", "Pieces found missing or rotten on this node's disk", &self.pieces_damaged),
            ("pieces_deleted", "Pieces deleted here", &self.pieces_deleted),
            ("pieces_scrubbed", "Pieces read back and checked here", &self.pieces_scrubbed),
            ("piece_faults", "Pieces that holders gave wrong or not at all", &self.piece_faults),
            ("pieces_hedged", "Pieces asked of a second holder because the first was slow", &self.pieces_hedged),
            ("requests_refused", "Piece requests refused", &self.requests_refused),
            ("stale_attempts_refused", "Piece requests of an old attempt", &self.stale_attempts_refused),
            ("columns_replaced", "Columns given to another holder during puts", &self.columns_replaced),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let (now, most) = (self.clone(), self.clone());
        gauges::register(registry, "segments_in_memory", "Segments that puts and gets hold in memory", move || {
            now.segments_in_memory.load(Ordering::Relaxed)
        });
        gauges::register(registry, "segments_in_memory_peak", "The most of them at once", move || {
            most.segments_in_memory_peak.load(Ordering::Relaxed)
        });
    }
    pub(super) fn add(counter: &Counter, by: u64) {
        counter.inc_by(by);
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
