//! `/v1/bench/triggers`: triggers that fall due in the same moments, from their instants to their fires as this member
//! has them applied.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use quorate_api::bench_limits::{BENCH_FIRES_MAX, BENCH_PERIOD_MS_MIN, BENCH_TRIGGERS_MAX};
use quorate_api::{BenchTriggers, ErrorBody, NOTHING_WAT, TriggersBench, percentile};
use quorate_node::quorums::submit::Wanted;
use quorate_node::raft::HostEvent;
use quorate_protocols::ids::{JobId, Millis};
use quorate_protocols::job::JobSpec;
use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::job::spec::TriggeredSpec;
use quorate_protocols::quorum::Event;
use quorate_protocols::task::spec::{Call, Content, OutputPlace, Program};
use quorate_protocols::trigger::spec::{Bounds, Overlap, TriggerSpec, When};
use quorate_protocols::trigger::{Cause, Fired};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::backend::Shared;
use super::error::ApiError;
use super::extract;
use super::limits::BENCH_SILENCE_MAX;

/// Submits in flight at once, and between the beginnings of two: about half as many as a quorum takes from one peer.
const OUTSTANDING: usize = 256;
const PACE: Duration = Duration::from_micros(400);

/// The first instant is this much later than the request, and this much more for each trigger: all are to be submitted
/// by then, on slow machines too.
const LEAD: Duration = Duration::from_secs(2);
const LEAD_PER_TRIGGER: Duration = Duration::from_micros(1_500);

/// Bytes of memory for a task: its one page, and what a module costs besides.
const NOTHING_MEMORY: u64 = 4 << 20;

/// What each fire runs.
fn nothing() -> BatchSpec {
    let module = Content::Inline(Bytes::from_static(NOTHING_WAT.as_bytes()));
    let mut spec = BatchSpec::new(Call::new(Program::Wasm { module, fuel: None, deterministic: false }));
    spec.output = OutputPlace::Inline;
    spec.resources.capacity.memory_bytes = NOTHING_MEMORY;
    spec
}

/// Bytes of this process that are in memory; `None` where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Submits `count` triggers that fire `fires` times, all at the same instants, and says how late they were.
#[utoipa::path(post, path = "/v1/bench/triggers", tag = "bench", request_body = BenchTriggers,
    responses((status = 200, body = TriggersBench), (status = "default", body = ErrorBody)))]
pub async fn triggers(
    State(backend): State<Shared>,
    extract::Json(request): extract::Json<BenchTriggers>,
) -> Result<Json<TriggersBench>, ApiError> {
    let BenchTriggers { quorum, count, fires, period_ms } = request;
    let period = Duration::from_millis(period_ms);
    let is_bounded = (1..=BENCH_TRIGGERS_MAX).contains(&count) && (1..=BENCH_FIRES_MAX).contains(&fires);
    if !is_bounded || period_ms < BENCH_PERIOD_MS_MIN {
        return Err(ApiError::bad_request(format!(
            "count must be 1 to {BENCH_TRIGGERS_MAX}, fires 1 to {BENCH_FIRES_MAX}, and period_ms at least \
             {BENCH_PERIOD_MS_MIN}"
        )));
    }
    if !backend.is_member(quorum) {
        return Err(ApiError::bad_request(format!("this node is no member of quorum {quorum}"))
            .hint(format!("a member hears when a trigger fires; `quorate quorum show {quorum}` names the members")));
    }
    let mut events = backend.quorum_events();
    let before = resident_bytes();
    let began = Instant::now();
    let start = backend.node().answered_at.plus(LEAD + LEAD_PER_TRIGGER * count);
    let bounds = Bounds { start: Some(start), count: Some(fires.into()), ..Bounds::NONE };
    let trigger = TriggerSpec { overlap: Overlap::Allow, ..TriggerSpec::new(When::Every { period, bounds }) };
    let spec = JobSpec::Triggered(Box::new(TriggeredSpec::new(trigger, nothing())));
    let mut submits = FuturesUnordered::new();
    let (mut started, mut failed) = (0, 0);
    let mut jobs = BTreeSet::new();
    while started < count || !submits.is_empty() {
        while started < count && submits.len() < OUTSTANDING && began.elapsed() >= PACE * started {
            started += 1;
            let (backend, spec) = (&backend, spec.clone());
            submits.push(async move {
                let job = backend.job_id(Wanted { quorum: Some(quorum), ..Wanted::default() }).await?;
                backend.submit(job, spec).await.map(|_| job)
            });
        }
        tokio::select! {
            Some(submitted) = submits.next(), if !submits.is_empty() => match submitted {
                Ok(job) => {
                    jobs.insert(job);
                }
                Err(error) => {
                    tracing::debug!(%error.body.message, "a trigger was not taken");
                    failed += 1;
                }
            },
            () = tokio::time::sleep_until(began + PACE * started), if started < count && submits.len() < OUTSTANDING => (),
            // Not to be overrun with them when the first instant comes.
            _ = events.recv() => (),
        }
    }
    let submitting = began.elapsed();
    let after = resident_bytes();
    if backend.node().answered_at >= start {
        return Err(ApiError::internal(format!(
            "submitting {count} triggers took {submitting:?}, too long to see them fire"
        ))
        .hint("measure fewer, or on a machine that does nothing else"));
    }
    let mut heard = FireTally::default();
    let wanted = jobs.len() as u64 * u64::from(fires);
    while heard.total() < wanted {
        tokio::select! {
            received = events.recv() => match received {
                Ok(HostEvent::Applied { quorum: of, events, .. }) if of == quorum => {
                    let now = backend.node().answered_at;
                    events.iter().for_each(|event| heard.record_event(event, now, &jobs));
                }
                Ok(_) => (),
                Err(RecvError::Lagged(missed)) => {
                    return Err(ApiError::internal(format!("{missed} events of this node were missed: measure fewer")));
                }
                Err(RecvError::Closed) => break,
            },
            () = tokio::time::sleep(BENCH_SILENCE_MAX + period) => {
                let left = wanted - heard.total();
                return Err(ApiError::internal(format!("{left} fires did not come within {BENCH_SILENCE_MAX:?}")));
            }
        }
    }
    let FireTally { mut late, skipped, .. } = heard;
    late.sort_unstable();
    let ms = |share: f64| percentile(&late, share).unwrap_or(Duration::ZERO).as_secs_f64() * 1000.0;
    let grown = before.zip(after).map(|(before, after)| after.saturating_sub(before) / (jobs.len() as u64).max(1));
    Ok(Json(TriggersBench {
        triggers: jobs.len() as u32,
        fired: late.len() as u64,
        skipped: skipped.values().sum(),
        failed,
        submits_per_s: f64::from(count) / submitting.as_secs_f64(),
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        max_ms: ms(1.0),
        resident_bytes_per_trigger: grown,
    }))
}

#[derive(Default)]
struct FireTally {
    /// Of each row that made a run, how late it was heard of.
    late: Vec<Duration>,
    fired: BTreeSet<(JobId, u64)>,
    skipped: BTreeMap<(JobId, u64), u64>,
}

impl FireTally {
    fn total(&self) -> u64 {
        self.late.len() as u64 + self.skipped.values().sum::<u64>()
    }

    fn record_event(&mut self, event: &Event, now: Millis, jobs: &BTreeSet<JobId>) {
        let Event::Fired { job, row } = event else { return };
        if !jobs.contains(job) {
            return;
        }
        // The row is told of again when the run ends.
        let is_first = matches!(row.what, Fired::Run { .. }) && self.fired.insert((*job, row.number));
        match (row.cause, row.what) {
            (Cause::Instant(instant), Fired::Run { .. }) if is_first => self.late.push(now.since(instant)),
            (_, Fired::Skipped { count, .. }) => drop(self.skipped.insert((*job, row.number), count)),
            _ => (),
        }
    }
}
