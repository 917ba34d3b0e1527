//! Sizes, windows and deadlines of the piece protocol.

use std::time::Duration;

pub const PROTOCOL: &str = "/quorate/piece/1";

/// Largest piece: a whole segment, as profile 1+n stores it.
pub const PIECE_BYTES_MAX: usize = crate::object::limits::SEGMENT_BYTES;

/// Largest head: the piece list of a `Seal` or `Rebuild` of the largest object.
pub const HEAD_BYTES_MAX: usize = 512 * 1024;

/// One piece over a slow link and a slow disk. A stalled holder is replaced after `STALL`, well before.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A holder that made no progress for this long loses its column to a backup.
pub const STALL: Duration = Duration::from_secs(5);

/// Pieces of one column in flight at once: one on the wire while one is being written.
pub const WINDOW_PIECES: usize = 2;

/// Segments that a put holds in memory at most, whatever the object's size.
pub const SEGMENTS_IN_MEMORY_MAX: usize = 3;

/// Segments per `Rebuild` request, so that each answers within the deadline.
pub const REBUILD_SEGMENTS_MAX: usize = 4;

/// How long a lease for a column lasts without renewal or traffic.
pub const LEASE: Duration = Duration::from_secs(600);

/// How long a released or unwanted piece is kept before it is deleted.
pub const QUARANTINE: Duration = Duration::from_secs(600);
