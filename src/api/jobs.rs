//! `/v1/jobs`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use quorate_protocols::api::{ErrorBody, ErrorCode, JobInfo, Listing};
use quorate_protocols::ids::JobId;
use quorate_protocols::job::record::HistoryEntry;
use serde::Deserialize;
use tokio::time::Instant;

use super::error::ApiError;
use super::extract::{Path, Query};
use super::limits::{WAIT_MAX, WAIT_POLL_MAX, WAIT_POLL_MIN};
use super::router::Shared;

/// Jobs of every quorum that this node knows.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", responses((status = 200, body = Listing<JobInfo>)))]
pub async fn list(State(backend): State<Shared>) -> Json<Listing<JobInfo>> {
    Json(backend.jobs().await)
}

/// One job.
#[utoipa::path(get, path = "/v1/jobs/{job}", tag = "jobs", params(("job" = JobId, Path)),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn show(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<JobInfo>, ApiError> {
    Ok(Json(backend.job(job).await?))
}

/// What happened to a job, oldest first.
#[utoipa::path(get, path = "/v1/jobs/{job}/history", tag = "jobs", params(("job" = JobId, Path)),
    responses((status = 200, body = Vec<HistoryEntry>), (status = "default", body = ErrorBody)))]
pub async fn history(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
) -> Result<Json<Vec<HistoryEntry>>, ApiError> {
    Ok(Json(backend.history(job).await?))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitParams {
    /// Milliseconds to wait at most; capped at a minute.
    timeout_ms: Option<u64>,
}

/// Waits until the job has ended, or the time is up, and answers with the job as it is then.
#[utoipa::path(get, path = "/v1/jobs/{job}/wait", tag = "jobs", params(("job" = JobId, Path), WaitParams),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn wait(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
    Query(params): Query<WaitParams>,
) -> Result<Json<JobInfo>, ApiError> {
    let patience = params.timeout_ms.map_or(WAIT_MAX, Duration::from_millis).min(WAIT_MAX);
    let deadline = Instant::now() + patience;
    let shutdown = backend.tasks().shutdown_token();
    let mut pause = WAIT_POLL_MIN;
    loop {
        let now_over = Instant::now() + pause >= deadline || shutdown.is_cancelled();
        match backend.job(job).await {
            Ok(info) if info.state.is_final() || now_over => return Ok(Json(info)),
            Ok(_) => (),
            // A quorum between two primaries is no reason to send the waiter away.
            Err(error)
                if !now_over
                    && matches!(error.code(), ErrorCode::Unavailable | ErrorCode::Busy | ErrorCode::Unknown) => {}
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => (),
            () = shutdown.cancelled() => (),
        }
        pause = (pause * 2).min(WAIT_POLL_MAX);
    }
}

/// Cancels a job. What it stored is given back.
#[utoipa::path(post, path = "/v1/jobs/{job}/cancel", tag = "jobs", params(("job" = JobId, Path)),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn cancel(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<JobInfo>, ApiError> {
    Ok(Json(backend.cancel(job).await?))
}
