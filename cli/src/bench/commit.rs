//! `bench commit`: commands per second of one quorum, asked at its primary.

use std::time::Duration;

use quorate_api::bench_limits::BENCH_COMMITS_MAX;
use quorate_api::{BenchCommit, CommitBench};
use quorate_testnet::Testnet;

use super::at_primary;
use crate::{Common, Failure, print, print_json, print_to_stderr, table};

/// Commands with which the rate is guessed before it is measured, per command in flight.
const WARM_UP: u32 = 20;

/// A request must end well before the client gives up on it.
const TIME_MAX: Duration = Duration::from_secs(30);

pub async fn run(common: &Common, testnet: &Testnet, outstanding: &[u32], time: Duration) -> Result<(), Failure> {
    if time > TIME_MAX || time.is_zero() {
        return Err(Failure::usage(format!("--time must be more than nothing and at most {TIME_MAX:?}")));
    }
    let (quorum, client) = at_primary(common, testnet).await?;
    let mut rows = Vec::new();
    for &outstanding in outstanding {
        let commit = |count: u32| BenchCommit { quorum, count, outstanding };
        let warm: CommitBench = client.post("/v1/bench/noop", &commit(outstanding.saturating_mul(WARM_UP))).await?;
        let count = (warm.per_s * time.as_secs_f64()).max(f64::from(outstanding)).min(f64::from(u32::MAX)) as u32;
        let row: CommitBench = client.post("/v1/bench/noop", &commit(count.clamp(1, BENCH_COMMITS_MAX))).await?;
        print_to_stderr(format!("{outstanding} outstanding: {:.0} per second", row.per_s));
        rows.push(row);
    }
    if common.json {
        return print_json(&rows);
    }
    let rows = rows.iter().map(|row| {
        vec![
            row.outstanding.to_string(),
            format!("{:.0}", row.per_s),
            format!("{:.2} ms", row.p50_ms),
            format!("{:.2} ms", row.p99_ms),
            format!("{:.2} ms", row.max_ms),
            row.failed.to_string(),
        ]
    });
    print(table(&["outstanding", "commits/s", "p50", "p99", "max", "failed"], rows))
}
