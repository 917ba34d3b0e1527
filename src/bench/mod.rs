//! Measurements against a running network.

use std::time::Duration;

/// The value that a `share` (0 to 1) of the sorted samples does not exceed; `None` of none.
pub fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}
