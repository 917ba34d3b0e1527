//! Sizes and times of announcements.

use std::time::Duration;

/// Largest announcement that is accepted or forwarded.
pub const ADVERT_BYTES_MAX: usize = 4 * 1024;

/// Unchanged facts are repeated this often, with up to a quarter of jitter.
pub const ADVERT_INTERVAL: Duration = Duration::from_secs(120);

/// Changed facts are announced at most this often.
pub const ADVERT_CHANGE_INTERVAL: Duration = Duration::from_secs(2);

/// A fact not repeated for this long is forgotten.
pub const ADVERT_EXPIRY: Duration = Duration::from_secs(600);

// Two announcements in a row may be lost before a living peer is forgotten.
const _: () = assert!(ADVERT_EXPIRY.as_secs() > 3 * ADVERT_INTERVAL.as_secs());

/// Peers and quorums remembered; beyond that the one heard of longest ago is forgotten.
pub const PEERS_MAX: usize = 10_000;
pub const QUORUMS_MAX: usize = 50_000;

/// Labels a peer may carry, and the length of a key or value.
pub const LABELS_MAX: usize = 16;
pub const LABEL_BYTES_MAX: usize = 64;
