//! `/v1/bench/jobs`: jobs that do nothing, from submit to end, as the submitting node sees them.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use quorate_api::bench_limits::{BENCH_JOBS_MAX, BENCH_OUTSTANDING_MAX};
use quorate_api::{BenchJobs, ErrorBody, JobsBench, NOTHING_WAT, percentile};
use quorate_node::quorums::submit::Wanted;
use quorate_node::raft::HostEvent;
use quorate_protocols::ids::JobId;
use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::job::{JobSpec, RunState};
use quorate_protocols::quorum::Event;
use quorate_protocols::task::spec::{Call, Content, OutputPlace, Program};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::backend::Shared;
use super::error::ApiError;
use super::extract;
use super::limits::BENCH_SILENCE_MAX;

/// Bytes of memory for it: its one page, and what a module costs besides.
const NOTHING_MEMORY: u64 = 4 << 20;

pub fn nothing() -> BatchSpec {
    let module = Content::Inline(Bytes::from_static(NOTHING_WAT.as_bytes()));
    let mut spec = BatchSpec::new(Call::new(Program::Wasm { module, fuel: None, deterministic: false }));
    spec.output = OutputPlace::Inline;
    spec.resources.capacity.memory_bytes = NOTHING_MEMORY;
    spec
}

/// Submits `count` jobs that do nothing, `outstanding` at a time, and says how long each took to end.
#[utoipa::path(post, path = "/v1/bench/jobs", tag = "bench", request_body = BenchJobs,
    responses((status = 200, body = JobsBench), (status = "default", body = ErrorBody)))]
pub async fn jobs(
    State(backend): State<Shared>,
    extract::Json(request): extract::Json<BenchJobs>,
) -> Result<Json<JobsBench>, ApiError> {
    let BenchJobs { quorum, count, outstanding } = request;
    if !(1..=BENCH_JOBS_MAX).contains(&count) || !(1..=BENCH_OUTSTANDING_MAX).contains(&outstanding) {
        return Err(ApiError::bad_request(format!(
            "count must be 1 to {BENCH_JOBS_MAX} and outstanding 1 to {BENCH_OUTSTANDING_MAX}"
        )));
    }
    if !backend.is_member(quorum) {
        return Err(ApiError::bad_request(format!("this node is no member of quorum {quorum}"))
            .hint(format!("a member hears when a job ends; `quorate quorum show {quorum}` names the members")));
    }
    // Before the first submit, so that no end is missed.
    let mut events = backend.quorum_events();
    let spec = nothing();
    let began = Instant::now();
    let mut run = Run::default();
    let mut submits = FuturesUnordered::new();
    let mut started = 0;
    while run.ended() < count as usize {
        while started < count && run.flying.len() < outstanding as usize && run.failures.len() < FAILURES_MAX {
            started += 1;
            let job = match backend.job_id(Wanted { quorum: Some(quorum), ..Wanted::default() }).await {
                Ok(job) => job,
                Err(error) => {
                    run.failures.push(error);
                    continue;
                }
            };
            run.flying.insert(job, Instant::now());
            let (backend, spec) = (&backend, JobSpec::batch(spec.clone()));
            submits.push(async move { (job, backend.submit(job, spec).await) });
        }
        if run.flying.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            received = events.recv() => match received {
                Ok(HostEvent::Applied { quorum: of, events }) if of == quorum => run.record_events(&events),
                Ok(_) => (),
                // What was missed is asked for.
                Err(RecvError::Lagged(_)) => run.ask(&backend).await,
                Err(RecvError::Closed) => break,
            },
            Some((job, submitted)) = submits.next() => if let Err(error) = submitted
                && run.flying.remove(&job).is_some()
            {
                run.failures.push(error);
            },
            // Jobs that nobody hears of any more end the measurement rather than the user's patience.
            () = tokio::time::sleep(BENCH_SILENCE_MAX) => {
                let left = run.flying.len();
                return Err(ApiError::internal(format!("{left} jobs did not end within {BENCH_SILENCE_MAX:?}"))
                    .hint("`quorate job ls --state live`, then `quorate job why` of one of them"));
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let Run { mut taken, mut failures, .. } = run;
    if taken.is_empty()
        && let Some(error) = failures.pop()
    {
        return Err(error);
    }
    taken.sort_unstable();
    let ms = |share: f64| percentile(&taken, share).unwrap_or(Duration::ZERO).as_secs_f64() * 1000.0;
    Ok(Json(JobsBench {
        outstanding,
        jobs: taken.len() as u64,
        per_s: taken.len() as f64 / seconds,
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        max_ms: ms(1.0),
        failed: failures.len() as u64,
    }))
}

/// After so many failures nothing more is submitted.
const FAILURES_MAX: usize = 16;

#[derive(Default)]
struct Run {
    /// Jobs that have not ended, since when.
    flying: BTreeMap<JobId, Instant>,
    taken: Vec<Duration>,
    failures: Vec<ApiError>,
}

impl Run {
    fn ended(&self) -> usize {
        self.taken.len() + self.failures.len()
    }

    fn record_events(&mut self, events: &[Event]) {
        for event in events {
            if let Event::JobChanged { job, state } = event {
                self.record_end(*job, *state);
            }
        }
    }

    fn record_end(&mut self, job: JobId, state: RunState) {
        if !state.is_final() {
            return;
        }
        let Some(since) = self.flying.remove(&job) else { return };
        match state {
            RunState::Succeeded => self.taken.push(since.elapsed()),
            state => self.failures.push(ApiError::internal(format!("job {job} is {state}"))),
        }
    }

    async fn ask(&mut self, backend: &Shared) {
        for job in self.flying.keys().copied().collect::<Vec<_>>() {
            if let Ok(info) = backend.job(job).await {
                self.record_end(job, info.state.into());
            }
        }
    }
}
