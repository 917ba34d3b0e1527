//! Rows: the results of measurements, as JSON has them. Times are in milliseconds; every [`Spread`] is over the runs.

use std::collections::BTreeMap;

use quorate_api::TriggersBench;
use quorate_protocols::ids::{PeerId, QuorumId};
use serde::Serialize;

use crate::error::BenchError;
use crate::figures::{Latency, Spread};
use crate::lanes::Tally;
use crate::machine::Limits;
use crate::through::Through;

/// One line of results; `bench` says of what.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "bench", rename_all = "snake_case")]
pub enum Row {
    Limits(Limits),
    Jobs(JobsRow),
    Commits(CommitsRow),
    Objects(ObjectsRow),
    Map(MapRow),
    Triggers(TriggersRow),
    Failover(FailoverRow),
    Idle(IdleRow),
    Etcd(EtcdRow),
}

/// What became of some operation, done again and again in each of several runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    pub runs: usize,
    /// Operations that succeeded, in all runs.
    pub done: u64,
    pub per_s: Spread,
    pub p50_ms: Spread,
    pub p99_ms: Spread,
    pub max_ms: Spread,
    /// Operations that were refused or failed, in all runs, and how the first of them did.
    pub failed: u64,
    pub failure: Option<String>,
    /// Milliseconds of processor time per operation: of each process, and of `all` together with the client.
    pub cpu_ms: BTreeMap<String, Spread>,
}

/// Figures of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFigures {
    pub done: u64,
    pub per_s: f64,
    pub latency: Latency,
    /// Until the first answer, of operations that have two.
    pub first: Option<Latency>,
    pub failed: u64,
    pub failure: Option<String>,
    pub cpu_ms: BTreeMap<String, f64>,
}

impl RunFigures {
    /// An error when nothing succeeded.
    pub fn of(mut tally: Tally, cpu_ms: BTreeMap<String, f64>) -> Result<Self, BenchError> {
        let Some(latency) = Latency::of(&mut tally.whole) else {
            let failure = tally.failure.unwrap_or_else(|| "no operation ended in the time".to_owned());
            return Err(BenchError::Nothing { failure });
        };
        let done = tally.whole.len() as u64;
        Ok(Self {
            done,
            per_s: done as f64 / tally.took.as_secs_f64().max(1e-9),
            latency,
            first: Latency::of(&mut tally.first),
            failed: tally.failed,
            failure: tally.failure,
            cpu_ms,
        })
    }
}

impl Rates {
    pub fn of(runs: &[RunFigures]) -> Self {
        let spread = |figure: fn(&RunFigures) -> f64| Spread::of(&runs.iter().map(figure).collect::<Vec<_>>());
        let cpu_ms: Vec<_> = runs.iter().map(|run| run.cpu_ms.clone()).collect();
        Self {
            runs: runs.len(),
            done: runs.iter().map(|run| run.done).sum(),
            per_s: spread(|run| run.per_s),
            p50_ms: spread(|run| run.latency.p50_ms),
            p99_ms: spread(|run| run.latency.p99_ms),
            max_ms: spread(|run| run.latency.max_ms),
            failed: runs.iter().map(|run| run.failed).sum(),
            failure: runs.iter().find_map(|run| run.failure.clone()),
            cpu_ms: Spread::of_each(&cpu_ms),
        }
    }
}

/// `bench jobs`: jobs that do nothing, from the submit to the answer that says how they ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobsRow {
    pub through: Through,
    pub nodes: Vec<usize>,
    pub quorum: QuorumId,
    pub outstanding: usize,
    /// Whether the submit itself waited for the end.
    pub one_trip: bool,
    pub in_process: bool,
    #[serde(flatten)]
    pub rates: Rates,
    /// Until the submit was acknowledged; `null` where it waits for the end.
    pub submit_p50_ms: Option<Spread>,
    pub submit_p99_ms: Option<Spread>,
    /// Jobs that the asked nodes gave to another quorum than the one whose nodes these are.
    pub other_quorums: u64,
}

/// `bench commit`: commands that change nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CommitsRow {
    pub through: Through,
    pub nodes: Vec<usize>,
    pub quorum: QuorumId,
    pub outstanding: usize,
    /// Whether the node proposed them to itself; else each came in a request of its own.
    pub in_process: bool,
    #[serde(flatten)]
    pub rates: Rates,
}

/// `bench objects`: objects of one size, put or read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObjectsRow {
    /// `put` or `get`.
    pub operation: &'static str,
    pub bytes: u64,
    pub through: Through,
    pub nodes: Vec<usize>,
    pub outstanding: usize,
    pub in_process: bool,
    #[serde(flatten)]
    pub rates: Rates,
    pub mib_per_s: Spread,
    /// Of large objects, what no network could beat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<BoundRow>,
}

/// What one process reaches on all cores with the same crates and piece sizes, and no network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BoundRow {
    pub mib_per_s: Spread,
    /// The network's median of it.
    pub ratio: f64,
    pub cpu_ms: Spread,
    /// Each part of the work alone, summed over the threads: what the bound is made of.
    pub parts_ms: BTreeMap<String, Spread>,
}

/// `bench map`: one wide job of tasks that do nothing, from its submit to the answer that says how it ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MapRow {
    pub through: Through,
    /// The node that it was submitted through.
    pub node: usize,
    pub quorum: QuorumId,
    pub tasks: u32,
    pub runs: usize,
    pub in_process: bool,
    pub tasks_per_s: Spread,
    /// Milliseconds of processor time per task.
    pub cpu_ms: BTreeMap<String, Spread>,
}

/// `bench triggers`: how late fires are, as a member has them applied.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TriggersRow {
    pub in_process: bool,
    pub node: usize,
    pub quorum: QuorumId,
    #[serde(flatten)]
    pub figures: TriggersBench,
}

/// `bench failover`: the longest time without an acknowledgement around the end of the primary.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailoverRow {
    pub through: Through,
    pub quorum: QuorumId,
    /// Whether the primary was asked to end (SIGTERM), not killed (SIGKILL).
    pub planned: bool,
    pub in_process: bool,
    pub kills: u32,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Every kill, in order.
    pub samples_ms: Vec<f64>,
    /// Submits that were sent through a second node, because the first gave no answer in time.
    pub hedged: u64,
    /// Submits that were sent again, because a node refused them or was gone.
    pub retried: u64,
}

/// `bench idle`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdleRow {
    pub window_s: f64,
    /// Quorums formed before the window began.
    pub quorums_formed: u32,
    /// CPU seconds per second, over all nodes.
    pub cores_total: f64,
    pub rss_bytes_max: u64,
    /// Elections seen during the window, over all nodes; an idle network has none.
    pub term_changes: u64,
    pub nodes: Vec<IdleNode>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdleNode {
    pub index: usize,
    pub peer: PeerId,
    pub cpu_s: f64,
    pub rss_bytes: u64,
    pub quorums: u32,
}

/// `bench etcd`: values of 256 bytes put into three nodes of etcd.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EtcdRow {
    pub version: String,
    /// `leader`, or `all` three.
    pub through: &'static str,
    /// How the client speaks to it.
    pub protocol: &'static str,
    pub value_bytes: usize,
    pub outstanding: usize,
    pub in_process: bool,
    #[serde(flatten)]
    pub rates: Rates,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Goal: scripts that read the documented fields keep working, and a line says of what it is.
    #[test]
    fn a_row_is_one_flat_object_with_spreads() {
        let run = |ms: u64| {
            let whole = vec![Duration::from_millis(ms), Duration::from_millis(3 * ms)];
            let first = vec![Duration::from_millis(1)];
            let tally = Tally { first, whole, failed: 1, failure: Some("busy".into()), took: Duration::from_secs(1) };
            RunFigures::of(tally, [("all".to_owned(), ms as f64)].into()).unwrap()
        };
        let runs = [run(10), run(20), run(30)];
        let rates = Rates::of(&runs);
        assert_eq!((rates.runs, rates.done, rates.failed), (3, 6, 3));
        let row = Row::Jobs(JobsRow {
            through: Through::Outsider,
            nodes: vec![4, 5],
            quorum: QuorumId([1; 16]),
            outstanding: 2,
            one_trip: false,
            in_process: false,
            rates,
            submit_p50_ms: Some(Spread::of(&[1.0])),
            submit_p99_ms: None,
            other_quorums: 0,
        });
        let json = serde_json::to_value(&row).unwrap();
        assert!(json["bench"] == "jobs" && json["through"] == "outsider", "{json}");
        assert_eq!(json["per_s"]["median"], 2.0, "{json}");
        assert!(json["p50_ms"]["min"] == 10.0 && json["p50_ms"]["max"] == 30.0, "{json}");
        assert!(json["p99_ms"]["median"] == 60.0 && json["cpu_ms"]["all"]["median"] == 20.0, "{json}");
        for field in ["max_ms", "failed", "failure", "submit_p50_ms", "in_process", "quorum", "runs", "done"] {
            assert!(json.get(field).is_some(), "{field} is missing: {json}");
        }
    }

    #[test]
    fn a_run_in_which_nothing_succeeded_says_why() {
        let tally = Tally { failed: 2, failure: Some("node 1 refused: busy".into()), ..Tally::default() };
        let error = RunFigures::of(tally, BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("node 1 refused: busy"), "{error}");
    }
}
