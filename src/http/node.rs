//! `/v1/node`, `/v1/peers`, `/v1/contact`, `/v1/resources`.

use axum::Json;
use axum::extract::State;
use quorate_protocols::api::{ContactInfo, ErrorBody, NodeInfo, PeerInfo, ResourcesInfo};

use super::backend::Shared;

/// The node that answers.
#[utoipa::path(get, path = "/v1/node", tag = "node",
    responses((status = 200, body = NodeInfo), (status = "default", body = ErrorBody)))]
pub async fn node(State(backend): State<Shared>) -> Json<NodeInfo> {
    Json(backend.node())
}

/// Peers this node knows, itself excluded.
#[utoipa::path(get, path = "/v1/peers", tag = "node",
    responses((status = 200, body = Vec<PeerInfo>), (status = "default", body = ErrorBody)))]
pub async fn peers(State(backend): State<Shared>) -> Json<Vec<PeerInfo>> {
    Json(backend.peers())
}

/// Which of these answer now. A node that is cut off finds out here, whatever its connections look like.
#[utoipa::path(get, path = "/v1/contact", tag = "node",
    responses((status = 200, body = ContactInfo), (status = "default", body = ErrorBody)))]
pub async fn contact(State(backend): State<Shared>) -> Json<ContactInfo> {
    Json(backend.contact().await)
}

/// What this node has reserved, of what limits, and the disk it has left.
#[utoipa::path(get, path = "/v1/resources", tag = "node",
    responses((status = 200, body = ResourcesInfo), (status = "default", body = ErrorBody)))]
pub async fn resources(State(backend): State<Shared>) -> Json<ResourcesInfo> {
    Json(backend.resources())
}
