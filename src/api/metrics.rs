//! `/metrics`.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::router::Shared;

/// Counters and gauges for Prometheus, among them each quorum's term and the elections seen.
#[utoipa::path(get, path = "/metrics", tag = "node", responses((status = 200, body = String)))]
pub async fn metrics(State(backend): State<Shared>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], backend.metrics())
}
