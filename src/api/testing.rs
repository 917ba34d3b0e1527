//! `/v1/testing`: fault hooks, served only by a node started with `--testing`.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use quorate_protocols::api::ErrorBody;
use quorate_protocols::ids::PeerId;
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
    #[serde(default)]
    full: bool,
    /// Whether a bit is flipped in every piece that is read.
    #[serde(default)]
    flip_bits: bool,
    /// Milliseconds by which every sync takes longer.
    #[serde(default)]
    sync_delay_ms: u64,
}

#[derive(Deserialize, utoipa::ToSchema)]
pub struct LinkFault {
    peer: PeerId,
    /// Nothing reaches the peer.
    #[serde(default)]
    cut_to: bool,
    /// Nothing of the peer is heard.
    #[serde(default)]
    cut_from: bool,
    /// What is not cut takes this much longer.
    #[serde(default)]
    delay_ms: u64,
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

/// Sets all faults of the disk; what is left out is switched off.
#[utoipa::path(post, path = "/v1/testing/disk", tag = "testing", request_body = DiskFault,
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn disk(State(backend): State<Shared>, Json(fault): Json<DiskFault>) -> Result<StatusCode, ApiError> {
    let hooks = hooks(&backend)?;
    hooks.set_disk_full(fault.full);
    hooks.set_flip_bits(fault.flip_bits);
    hooks.set_sync_delay(Duration::from_millis(fault.sync_delay_ms));
    Ok(StatusCode::NO_CONTENT)
}

/// Sets the faults of the link to one peer; what is left out is switched off.
#[utoipa::path(post, path = "/v1/testing/link", tag = "testing", request_body = LinkFault,
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn link(State(backend): State<Shared>, Json(fault): Json<LinkFault>) -> Result<StatusCode, ApiError> {
    let delay = (fault.delay_ms > 0).then(|| Duration::from_millis(fault.delay_ms));
    hooks(&backend)?.set_link(fault.peer, fault.cut_to, fault.cut_from, delay);
    Ok(StatusCode::NO_CONTENT)
}
