//! What happens to objects on this node: events for people, counters for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
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
    /// As they stand now, for one scrape.
    pub fn scrape(&self) -> Registry {
        let mut registry = Registry::with_prefix("quorate_objects");
        let mut counter = |name: &str, help: &str, value: &AtomicU64| {
            let counter = Counter::<u64, AtomicU64>::default();
            counter.inc_by(value.load(Ordering::Relaxed));
            registry.register(name, help, counter);
        };
        counter("pieces_received", "Pieces taken from peers", &self.pieces_received);
        counter("pieces_served", "Pieces given to peers", &self.pieces_served);
        counter("bytes_received", "Bytes of pieces taken from peers", &self.bytes_received);
        counter("bytes_served", "Bytes of pieces given to peers", &self.bytes_served);
        counter("pieces_sent", "Pieces sent by puts of this node", &self.pieces_sent);
        counter("pieces_skipped", "Pieces that a put found stored already", &self.pieces_skipped);
        counter("pieces_rebuilt", "Pieces rebuilt here from others", &self.pieces_rebuilt);
        counter("pieces_damaged", "Pieces found missing or rotten on this node's disk", &self.pieces_damaged);
        counter("pieces_deleted", "Pieces deleted here", &self.pieces_deleted);
        counter("pieces_scrubbed", "Pieces read back and checked here", &self.pieces_scrubbed);
        counter("piece_faults", "Pieces that holders gave wrong or not at all", &self.piece_faults);
        counter("pieces_hedged", "Pieces asked of a second holder because the first was slow", &self.pieces_hedged);
        counter("requests_refused", "Piece requests refused", &self.requests_refused);
        counter("stale_attempts_refused", "Piece requests of an old attempt", &self.stale_attempts_refused);
        counter("columns_replaced", "Columns given to another holder during puts", &self.columns_replaced);
        let mut gauge = |name: &str, help: &str, value: &AtomicU64| {
            let gauge = Gauge::<u64, AtomicU64>::default();
            gauge.set(value.load(Ordering::Relaxed));
            registry.register(name, help, gauge);
        };
        gauge("segments_in_memory", "Segments that puts and gets hold in memory", &self.segments_in_memory);
        gauge("segments_in_memory_peak", "The most of them at once", &self.segments_in_memory_peak);
        registry
    }
    pub(super) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
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
