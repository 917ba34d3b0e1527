//! `bench jobs`: jobs that do nothing, as a client that submits them and waits for their ends sees them.

use std::cell::Cell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use quorate_api::{NOTHING_WAT, RunState, SubmitRequest};
use quorate_testnet::Testnet;
use serde::Deserialize;

use crate::Progress;
use crate::connection::{Body, CallError, Connection};
use crate::error::BenchError;
use crate::figures::{Latency, Spread};
use crate::lanes::{Lanes, Sample, Turn, Until, asked};
use crate::processes::Processes;
use crate::report::{JobsRow, Rates, RunFigures};
use crate::roles::{Roles, targets};
use crate::through::Through;

/// A job that has no end after so long counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);

const SUBMIT: &str = "/v1/jobs";
const SUBMIT_AND_WAIT: &str = "/v1/jobs?wait=30s";

/// What is measured.
#[derive(Clone, Debug)]
pub struct JobsPlan {
    pub through: Through,
    pub outstanding: Vec<usize>,
    /// How long one run lasts.
    pub time: Duration,
    pub runs: usize,
    /// The submit waits for the end, so that a job takes one request; else it takes two.
    pub one_trip: bool,
}

/// A job of one task that does nothing. The node that it is submitted through chooses its quorum.
pub fn nothing() -> SubmitRequest {
    SubmitRequest { spec: spec(""), ..SubmitRequest::default() }
}

/// The specification of tasks that do nothing, with these lines besides.
pub fn spec(besides: &str) -> String {
    format!(
        "name = \"bench\"\nengine = \"wasm\"\nmodule = {{ inline = '''{NOTHING_WAT}''' }}\noutput = \"inline\"\n\
         resources.memory = \"4 MiB\"\n{besides}"
    )
}

/// Measures on this thread: see [`crate::on_one_thread`].
pub async fn jobs(testnet: &Testnet, plan: &JobsPlan, progress: Progress) -> Result<Vec<JobsRow>, BenchError> {
    let JobsPlan { through, runs, one_trip, .. } = *plan;
    let roles = Roles::find(testnet).await?;
    let (nodes, processes) = (roles.nodes(through)?, Processes::of_nodes(testnet));
    let targets = targets(testnet, &nodes)?;
    let submit = Submit::new(&roles, one_trip)?;
    let mut rows = Vec::new();
    for &outstanding in &plan.outstanding {
        let mut lanes = Lanes::new(&targets, outstanding)?;
        lanes.warm_up(async |_, connection: &mut Connection| submit.run(connection).await).await;
        submit.elsewhere.set(0);
        let mut figures = Vec::new();
        for run in 1..=runs {
            let before = processes.cpu_times();
            let operation = async |_: Turn, connection: &mut Connection| submit.run(connection).await;
            let tally = lanes.run(Until::time(plan.time), operation).await;
            let cpu_ms = processes.cpu_times().ms_per_operation(&before, tally.whole.len() as u64);
            let run_figures = RunFigures::of(tally, cpu_ms)?;
            progress(&format!(
                "jobs through {through}, {outstanding} outstanding, run {run}/{runs}: {:.0} per second, p50 {:.1} ms",
                run_figures.per_s, run_figures.latency.p50_ms
            ));
            figures.push(run_figures);
        }
        let first = |figure: fn(&Latency) -> f64| {
            let of_runs: Vec<f64> = figures.iter().filter_map(|run| run.first.as_ref().map(figure)).collect();
            (!of_runs.is_empty()).then(|| Spread::of(&of_runs))
        };
        rows.push(JobsRow {
            through,
            nodes: asked(&nodes, outstanding),
            quorum: roles.quorum,
            outstanding,
            one_trip,
            in_process: false,
            submit_p50_ms: first(|latency| latency.p50_ms),
            submit_p99_ms: first(|latency| latency.p99_ms),
            rates: Rates::of(&figures),
            other_quorums: submit.elsewhere.get(),
        });
    }
    Ok(rows)
}

/// The requests of one job.
struct Submit {
    path: &'static str,
    body: Bytes,
    one_trip: bool,
    /// How the ids of the quorum's jobs begin.
    quorum: String,
    /// Jobs whose ids begin otherwise.
    elsewhere: Cell<u64>,
}

/// What both answers have of a job.
#[derive(Deserialize)]
struct Seen<'a> {
    job: &'a str,
    state: RunState,
}

impl Submit {
    fn new(roles: &Roles, one_trip: bool) -> Result<Self, BenchError> {
        let body = serde_json::to_vec(&nothing()).map_err(|error| BenchError::Plan(error.to_string()))?;
        Ok(Self {
            path: if one_trip { SUBMIT_AND_WAIT } else { SUBMIT },
            body: body.into(),
            one_trip,
            quorum: format!("{}.", roles.quorum),
            elsewhere: Cell::new(0),
        })
    }

    async fn run(&self, connection: &mut Connection) -> Result<Sample, CallError> {
        let began = Instant::now();
        let mut answer = connection.call(Method::POST, self.path, Body::json(self.body.clone())).await?;
        let submitted = began.elapsed();
        let mut is_first = true;
        loop {
            let Seen { job, state } = answer.json()?;
            if is_first && !job.starts_with(&self.quorum) {
                self.elsewhere.set(self.elsewhere.get() + 1);
            }
            is_first = false;
            let whole = began.elapsed();
            if state == RunState::Succeeded {
                return Ok(Sample { first: (!self.one_trip).then_some(submitted), whole });
            }
            if state.is_final() || whole > PATIENCE {
                return Err(CallError::Outcome { what: format!("job {job} is {state} after {whole:?}") });
            }
            answer = connection.get(&format!("/v1/jobs/{job}/wait")).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_that_does_nothing_is_one_document() {
        let request = nothing();
        assert!(request.spec.contains("engine = \"wasm\"") && request.spec.contains(NOTHING_WAT), "{}", request.spec);
        assert!(spec("map.count = 5\n").ends_with("\nmap.count = 5\n"));
        assert!(serde_json::to_string(&request).unwrap().contains("\"spec\""));
    }

    #[test]
    fn both_answers_say_which_job_and_how_it_is() {
        let text = r#"{"job":"ab.cd","state":"succeeded","existed":false,"batch":{"engine":"wasm"}}"#;
        let seen: Seen<'_> = serde_json::from_str(text).unwrap();
        assert_eq!((seen.job, seen.state), ("ab.cd", RunState::Succeeded));
    }
}
