//! Results of `bench`. Rates are in megabytes (10^6 bytes) per second, medians of the runs unless said otherwise.

use serde::{Deserialize, Serialize};

use crate::ids::PeerId;

/// Bounds of one request for a measurement: what the node refuses beyond, and what its description says.
pub mod limits {
    /// Commands, and how many of them or of jobs may be in flight.
    pub const BENCH_COMMITS_MAX: u32 = 1_000_000;
    pub const BENCH_OUTSTANDING_MAX: u32 = 1024;

    pub const BENCH_JOBS_MAX: u32 = 100_000;

    /// Triggers, as many as a quorum takes, and the fires of each.
    pub const BENCH_TRIGGERS_MAX: u32 = crate::trigger::limits::TRIGGERS_MAX as u32;
    pub const BENCH_FIRES_MAX: u32 = 1_000;
    pub const BENCH_PERIOD_MS_MIN: u64 = crate::trigger::limits::PERIOD_MIN.as_millis() as u64;
}

/// `bench put` and `bench get`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TransferBench {
    pub bytes: u64,
    pub mb_per_s: f64,
    /// What one process reaches on all cores with the same crates and piece sizes, and no network.
    pub bound_mb_per_s: f64,
    pub ratio: f64,
    /// Every run, in order, and the same for the bound.
    pub runs_mb_per_s: Vec<f64>,
    pub bound_runs_mb_per_s: Vec<f64>,
    /// CPU seconds per megabyte: of all the nodes together with the client, and of the bound.
    pub cpu_s_per_mb: f64,
    pub bound_cpu_s_per_mb: f64,
    /// Each part of the bound alone, in seconds per run over all cores: what the sum is made of.
    pub bound_parts_s: std::collections::BTreeMap<String, f64>,
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

/// `bench jobs`: one row per number of jobs in flight. From the submit at a node to the end of the job as that node's
/// member of the quorum has it applied, committed and synced on a majority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JobsBench {
    pub outstanding: u32,
    /// That succeeded.
    pub jobs: u64,
    pub per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// That were refused or failed.
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

/// `bench map`: one wide job, from its submit to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MapBench {
    pub tasks: u32,
    pub tasks_per_s: f64,
    /// Every run, in order.
    pub runs_tasks_per_s: Vec<f64>,
}

/// `bench failover`: from SIGKILL of the primary to the next committed command, as a client of another node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FailoverBench {
    pub kills: u32,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Every kill, in order.
    pub samples_ms: Vec<f64>,
    /// Kills that were watched from a node that is no member of the quorum; the others had no such node.
    pub from_outside: u32,
}

/// `bench idle`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IdleBench {
    pub window_s: f64,
    /// Quorums formed before the window began.
    pub quorums_formed: u32,
    /// CPU seconds per second, over all nodes.
    pub cores_total: f64,
    pub rss_bytes_max: u64,
    /// Elections seen during the window, over all nodes; an idle network has none.
    pub term_changes: u64,
    pub nodes: Vec<BenchNode>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BenchNode {
    pub index: usize,
    pub peer: Option<PeerId>,
    pub cpu_s: f64,
    pub rss_bytes: u64,
    pub quorums: u32,
}
