//! `/v1/testing`: fault hooks, served only by a node started with `--testing`.

use axum::extract::State;
use axum::http::StatusCode;
use quorate_api::{ErrorBody, NodeFaults};

use super::backend::Shared;
use super::backend::TestingHooks;
use super::error::ApiError;
use super::extract::Json;

/// Links of one node that may be broken at once: a testnet has fewer nodes.
const LINKS_MAX: usize = 256;

fn hooks(backend: &Shared) -> Result<&dyn TestingHooks, ApiError> {
    backend.testing().ok_or_else(|| ApiError::not_found("this node was not started with --testing"))
}

/// What is broken on purpose in this node.
#[utoipa::path(get, path = "/v1/testing/faults", tag = "testing",
    responses((status = 200, body = NodeFaults), (status = "default", body = ErrorBody)))]
pub async fn faults(State(backend): State<Shared>) -> Result<axum::Json<NodeFaults>, ApiError> {
    Ok(axum::Json(hooks(&backend)?.faults()))
}

/// Replaces all faults of this node: what is left out is whole again.
#[utoipa::path(put, path = "/v1/testing/faults", tag = "testing", request_body = NodeFaults,
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn set_faults(State(backend): State<Shared>, Json(faults): Json<NodeFaults>) -> Result<StatusCode, ApiError> {
    if faults.links.len() > LINKS_MAX {
        return Err(ApiError::bad_request(format!("at most {LINKS_MAX} links, not {}", faults.links.len())));
    }
    hooks(&backend)?.set_faults(faults);
    Ok(StatusCode::NO_CONTENT)
}
