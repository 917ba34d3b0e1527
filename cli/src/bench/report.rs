//! Results of the measurements that the command line makes; those of a single node are its API's. Rates are in
//! megabytes (10^6 bytes) per second, medians of the runs unless said otherwise.

use quorate_protocols::ids::PeerId;
use serde::Serialize;

/// `bench put` and `bench get`.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

/// `bench map`: one wide job, from its submit to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MapBench {
    pub tasks: u32,
    pub tasks_per_s: f64,
    /// Every run, in order.
    pub runs_tasks_per_s: Vec<f64>,
}

/// `bench failover`: from SIGKILL of the primary to the next committed command, as a client of another node sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize)]
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

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchNode {
    pub index: usize,
    pub peer: Option<PeerId>,
    pub cpu_s: f64,
    pub rss_bytes: u64,
    pub quorums: u32,
}
