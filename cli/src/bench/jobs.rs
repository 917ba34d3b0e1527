//! `bench jobs`: jobs that do nothing, by the full durable path, as a node that submits them sees it.

use std::time::Duration;

use quorate_api::bench_limits::BENCH_JOBS_MAX;
use quorate_api::{BenchJobs, JobsBench};
use quorate_testnet::Testnet;

use super::at_member;
use crate::{Common, Failure, print, print_json, print_to_stderr, table};

/// Jobs with which the rate is guessed before it is measured, per job in flight. The first of them find workers and
/// have the module compiled, once per node.
const WARM_UP: u32 = 10;

/// A request must end well before the client gives up on it.
const TIME_MAX: Duration = Duration::from_secs(30);

pub async fn run(common: &Common, testnet: &Testnet, outstanding: &[u32], time: Duration) -> Result<(), Failure> {
    if time > TIME_MAX || time.is_zero() {
        return Err(Failure::usage(format!("--time must be more than nothing and at most {TIME_MAX:?}")));
    }
    let (quorum, client) = at_member(common, testnet).await?;
    let mut rows = Vec::new();
    for &outstanding in outstanding {
        let jobs = |count: u32| BenchJobs { quorum, count, outstanding };
        let warm_up = outstanding.saturating_mul(WARM_UP).clamp(1, BENCH_JOBS_MAX);
        let warm: JobsBench = client.post("/v1/bench/jobs", &jobs(warm_up)).await?;
        let count = (warm.per_s * time.as_secs_f64()).max(f64::from(outstanding)) as u32;
        let row: JobsBench = client.post("/v1/bench/jobs", &jobs(count.clamp(1, BENCH_JOBS_MAX))).await?;
        print_to_stderr(format!("{outstanding} outstanding: {:.0} per second", row.per_s));
        rows.push(row);
    }
    if common.json {
        return print_json(&rows);
    }
    let rows = rows.iter().map(|row| {
        vec![
            row.outstanding.to_string(),
            row.jobs.to_string(),
            format!("{:.0}", row.per_s),
            format!("{:.2} ms", row.p50_ms),
            format!("{:.2} ms", row.p99_ms),
            format!("{:.2} ms", row.max_ms),
            row.failed.to_string(),
        ]
    });
    print(table(&["outstanding", "jobs", "jobs/s", "p50", "p99", "max", "failed"], rows))
}
