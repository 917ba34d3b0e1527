//! `/v1/testing`: fault hooks, served only by a node started with `--testing`.

use axum::extract::State;
use axum::http::StatusCode;
use quorate_protocols::api::ErrorBody;
use serde::Deserialize;

use super::backend::TestingHooks;
use super::error::ApiError;
use super::extract::Json;
use super::router::Shared;

#[derive(Deserialize, utoipa::ToSchema)]
pub struct ClockFault {
    /// Milliseconds added to the machine's wall clock; may be negative, 0 ends the fault.
    offset_ms: i64,
}

#[derive(Deserialize, utoipa::ToSchema)]
pub struct DiskFault {
    /// Whether writes are refused as if the disk were full.
    full: bool,
}

fn hooks(backend: &Shared) -> Result<&dyn TestingHooks, ApiError> {
    backend.testing().ok_or_else(|| ApiError::not_found("this node was not started with --testing"))
}

/// Moves the node's wall clock.
#[utoipa::path(post, path = "/v1/testing/clock", tag = "testing", request_body = ClockFault,
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn clock(State(backend): State<Shared>, Json(fault): Json<ClockFault>) -> Result<StatusCode, ApiError> {
    hooks(&backend)?.set_clock_offset_ms(fault.offset_ms);
    Ok(StatusCode::NO_CONTENT)
}

/// Makes the disk refuse writes, or accept them again.
#[utoipa::path(post, path = "/v1/testing/disk", tag = "testing", request_body = DiskFault,
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn disk(State(backend): State<Shared>, Json(fault): Json<DiskFault>) -> Result<StatusCode, ApiError> {
    hooks(&backend)?.set_disk_full(fault.full);
    Ok(StatusCode::NO_CONTENT)
}
