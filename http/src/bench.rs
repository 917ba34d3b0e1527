//! `/v1/bench`: measurements that a node makes of itself, served only by one started with `--testing`. They commit
//! commands, submit triggers and form quorums on request, which is nothing for a node that others rely on.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use futures::stream::{FuturesUnordered, StreamExt};
use quorate_api::bench_limits::{BENCH_COMMITS_MAX, BENCH_OUTSTANDING_MAX};
use quorate_api::{BenchCommit, BenchForm, CommitBench, ErrorBody, QuorumDetail, percentile};
use tokio::time::Instant;

use super::backend::Shared;
use super::error::ApiError;
use super::extract;
use super::limits::QUESTION_DEADLINE;

/// Commits `count` no-op commands, `outstanding` at a time, and says how long each took.
#[utoipa::path(post, path = "/v1/bench/noop", tag = "bench", request_body = BenchCommit,
    responses((status = 200, body = CommitBench), (status = "default", body = ErrorBody)))]
pub async fn noop(
    State(backend): State<Shared>,
    extract::Json(request): extract::Json<BenchCommit>,
) -> Result<Json<CommitBench>, ApiError> {
    let BenchCommit { quorum, count, outstanding } = request;
    if !(1..=BENCH_COMMITS_MAX).contains(&count) || !(1..=BENCH_OUTSTANDING_MAX).contains(&outstanding) {
        return Err(ApiError::bad_request(format!(
            "count must be 1 to {BENCH_COMMITS_MAX} and outstanding 1 to {BENCH_OUTSTANDING_MAX}"
        )));
    }
    let commit = || async {
        let asked = Instant::now();
        backend.commit_noop(quorum, QUESTION_DEADLINE).await.map(|()| asked.elapsed())
    };
    let began = Instant::now();
    let mut flying: FuturesUnordered<_> = (0..outstanding.min(count)).map(|_| commit()).collect();
    let mut started = flying.len() as u32;
    let mut taken = Vec::new();
    let mut failures = Vec::new();
    while let Some(result) = flying.next().await {
        match result {
            Ok(took) => taken.push(took),
            Err(error) => failures.push(error),
        }
        // A quorum that answers nothing any more ends the measurement rather than the user's patience.
        if started < count && failures.len() < 16 {
            started += 1;
            flying.push(commit());
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    if taken.is_empty()
        && let Some(error) = failures.pop()
    {
        return Err(error);
    }
    taken.sort_unstable();
    let ms = |share: f64| percentile(&taken, share).unwrap_or(Duration::ZERO).as_secs_f64() * 1000.0;
    Ok(Json(CommitBench {
        outstanding,
        per_s: taken.len() as f64 / seconds,
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        max_ms: ms(1.0),
        commits: taken.len() as u64,
        failed: failures.len() as u64,
    }))
}

/// Forms a quorum, whatever there is already.
#[utoipa::path(post, path = "/v1/bench/form", tag = "bench", request_body = BenchForm,
    responses((status = 200, body = QuorumDetail), (status = "default", body = ErrorBody)))]
pub async fn form(
    State(backend): State<Shared>,
    extract::Json(request): extract::Json<BenchForm>,
) -> Result<Json<QuorumDetail>, ApiError> {
    use quorate_protocols::quorum::limits::{VOTERS_MAX, VOTERS_MIN};
    let voters = request.voters as usize;
    if !(VOTERS_MIN..=VOTERS_MAX).contains(&voters) {
        return Err(ApiError::bad_request(format!("a quorum has {VOTERS_MIN} to {VOTERS_MAX} voters, not {voters}")));
    }
    let quorum = backend.form(voters).await?;
    Ok(Json(backend.quorum(quorum).await?))
}
