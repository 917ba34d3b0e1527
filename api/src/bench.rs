//! Measurements of one quorum that a node makes of itself: their results and bounds, and what both sides agree on.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds of one request for a measurement: what the node refuses beyond, and what its description says.
pub mod limits {
    /// Commands, and how many of them may be in flight.
    pub const BENCH_COMMITS_MAX: u32 = 1_000_000;
    pub const BENCH_OUTSTANDING_MAX: u32 = 1024;

    /// Triggers, as many as a quorum takes, and the fires of each.
    pub const BENCH_TRIGGERS_MAX: u32 = quorate_protocols::trigger::limits::OWNER_TRIGGERS_MAX as u32;
    pub const BENCH_FIRES_MAX: u32 = 1_000;
    pub const BENCH_PERIOD_MS_MIN: u64 = quorate_protocols::trigger::limits::PERIOD_MIN.as_millis() as u64;
}

/// `bench commit`: one row per number of commands in flight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CommitBench {
    pub outstanding: u32,
    pub per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    pub commits: u64,
    pub failed: u64,
}

/// `bench triggers`: one row for a trigger that fires alone, one for many that are due at the same moment. How late:
/// from the instant to the fire as the asked member has it applied, committed and synced on a majority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TriggersBench {
    pub triggers: u32,
    pub fired: u64,
    pub skipped: u64,
    /// Submits that were refused.
    pub failed: u64,
    pub submits_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// When the last of them was applied.
    pub max_ms: f64,
    /// By how much the asked member's memory grew while they were submitted: its state, its log and its store's cache.
    pub resident_bytes_per_trigger: Option<u64>,
}

/// A module whose tasks do nothing: what a task costs is then the network's work alone.
pub const NOTHING_WAT: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

/// The value that a `share` (0 to 1) of the sorted samples does not exceed; `None` of none.
pub fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_samples() {
        let samples: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&samples, 0.5), Some(Duration::from_millis(50)));
        assert_eq!(percentile(&samples, 0.99), Some(Duration::from_millis(99)));
        assert_eq!(percentile(&samples, 1.0), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&samples[..1], 0.99), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
