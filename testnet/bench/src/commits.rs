//! `bench commit`: commands that change nothing, of one quorum: proposed by a node to itself as fast as it can, and one
//! to a request.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use quorate_api::bench_limits::BENCH_COMMITS_MAX;
use quorate_api::{BenchCommit, CommitBench};
use quorate_testnet::Testnet;

use crate::Progress;
use crate::connection::{Body, CallError, Connection};
use crate::error::BenchError;
use crate::figures::Latency;
use crate::lanes::{LANES_PER_NODE_MAX, Lanes, Sample, Until, asked};
use crate::processes::Processes;
use crate::report::{CommitsRow, Rates, RunFigures};
use crate::roles::{Roles, targets};
use crate::through::Through;

/// Commands with which the rate is guessed before it is measured, per command in flight.
const WARM_UP: u32 = 20;

/// The node answers when the last command of a run has ended, well before the client gives up on it.
const TIME_MAX: Duration = Duration::from_secs(30);

const NOOP: &str = "/v1/bench/noop";

/// What is measured.
#[derive(Clone, Debug)]
pub struct CommitsPlan {
    pub through: Through,
    pub outstanding: Vec<u32>,
    /// How long one run lasts, about.
    pub time: Duration,
    pub runs: usize,
}

/// Measures on this thread: see [`crate::on_one_thread`].
pub async fn commits(testnet: &Testnet, plan: &CommitsPlan, progress: Progress) -> Result<Vec<CommitsRow>, BenchError> {
    if plan.time > TIME_MAX {
        return Err(BenchError::Plan(format!("--time must be at most {TIME_MAX:?}")));
    }
    let roles = Roles::find(testnet).await?;
    let nodes = roles.nodes(plan.through)?;
    let bench = Commits { plan, progress, processes: Processes::of_nodes(testnet), roles: &roles };
    let targets = targets(testnet, &nodes)?;
    let row = |outstanding: u32, in_process: bool, figures: &[RunFigures]| CommitsRow {
        through: plan.through,
        nodes: asked(&nodes, if in_process { 1 } else { outstanding as usize }),
        quorum: roles.quorum,
        outstanding: outstanding as usize,
        in_process,
        rates: Rates::of(figures),
    };
    let mut rows = Vec::new();
    for &outstanding in &plan.outstanding {
        let figures = bench.in_process(&mut Connection::new(targets[0].clone()), outstanding).await?;
        rows.push(row(outstanding, true, &figures));
    }
    // A node takes so many connections; what is in flight beyond that, only it can have.
    let most = (LANES_PER_NODE_MAX * targets.len()) as u32;
    for &outstanding in plan.outstanding.iter().filter(|outstanding| **outstanding <= most) {
        let figures = bench.one_by_one(&mut Lanes::new(&targets, outstanding as usize)?).await?;
        rows.push(row(outstanding, false, &figures));
    }
    Ok(rows)
}

struct Commits<'a> {
    plan: &'a CommitsPlan,
    progress: Progress,
    processes: Processes,
    roles: &'a Roles,
}

impl Commits<'_> {
    fn print_run(&self, how: &str, outstanding: usize, run: usize, figures: &RunFigures) {
        (self.progress)(&format!(
            "commits {how}, {outstanding} outstanding, run {run}/{}: {:.0} per second, p50 {:.2} ms",
            self.plan.runs, figures.per_s, figures.latency.p50_ms
        ));
    }

    /// The node makes the commands itself.
    async fn in_process(&self, connection: &mut Connection, outstanding: u32) -> Result<Vec<RunFigures>, BenchError> {
        let request = |count: u32| BenchCommit { quorum: self.roles.quorum, count, outstanding };
        let warm = connection.post(NOOP, &request(outstanding.saturating_mul(WARM_UP))).await?;
        let warm: CommitBench = warm.json()?;
        let count = (warm.per_s * self.plan.time.as_secs_f64()).max(f64::from(outstanding));
        let count = count.min(f64::from(BENCH_COMMITS_MAX)) as u32;
        let mut figures = Vec::new();
        for run in 1..=self.plan.runs {
            let before = self.processes.cpu_times();
            let answer = connection.post(NOOP, &request(count)).await?;
            let figure: CommitBench = answer.json()?;
            let run_figures = RunFigures {
                done: figure.commits,
                per_s: figure.per_s,
                latency: Latency { p50_ms: figure.p50_ms, p99_ms: figure.p99_ms, max_ms: figure.max_ms },
                first: None,
                failed: figure.failed,
                failure: None,
                cpu_ms: self.processes.cpu_times().ms_per_operation(&before, figure.commits),
            };
            self.print_run("in process", outstanding as usize, run, &run_figures);
            figures.push(run_figures);
        }
        Ok(figures)
    }

    /// Each command is asked for by a request of its own, as a put to another store would be.
    async fn one_by_one(&self, lanes: &mut Lanes) -> Result<Vec<RunFigures>, BenchError> {
        let request = BenchCommit { quorum: self.roles.quorum, count: 1, outstanding: 1 };
        let body = serde_json::to_vec(&request).map_err(|error| BenchError::Plan(error.to_string()))?;
        let body = Bytes::from(body);
        let commit = async |connection: &mut Connection| {
            let began = Instant::now();
            connection.call(Method::POST, NOOP, Body::json(body.clone())).await?;
            Ok::<_, CallError>(Sample { first: None, whole: began.elapsed() })
        };
        lanes.warm_up(async |_, connection: &mut Connection| commit(connection).await).await;
        let mut figures = Vec::new();
        for run in 1..=self.plan.runs {
            let before = self.processes.cpu_times();
            let until = Until::time(self.plan.time);
            let tally = lanes.run(until, async |_, connection: &mut Connection| commit(connection).await).await;
            let cpu_ms = self.processes.cpu_times().ms_per_operation(&before, tally.whole.len() as u64);
            let run_figures = RunFigures::of(tally, cpu_ms)?;
            self.print_run("from outside", lanes.len(), run, &run_figures);
            figures.push(run_figures);
        }
        Ok(figures)
    }
}
