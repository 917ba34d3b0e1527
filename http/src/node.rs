//! `/v1/node`, `/v1/peers`, `/v1/contact`, `/v1/resources`.

use std::cmp::Reverse;

use axum::Json;
use axum::extract::State;
use quorate_api::{ContactInfo, ErrorBody, Listing, NodeInfo, PeerInfo, ResourcesInfo};

use super::backend::Shared;
use super::error::ApiError;
use super::extract::Query;
use super::page::{ById, Gathered, PageParams};

/// The node that answers.
#[utoipa::path(get, path = "/v1/node", tag = "node",
    responses((status = 200, body = NodeInfo), (status = "default", body = ErrorBody)))]
pub async fn node(State(backend): State<Shared>) -> Json<NodeInfo> {
    Json(backend.node())
}

/// Peers this node knows, itself excluded, in order of peer id. Whether they hear it is told by `/v1/contact`.
#[utoipa::path(get, path = "/v1/peers", tag = "node", params(PageParams),
    responses((status = 200, body = Listing<PeerInfo>), (status = "default", body = ErrorBody)))]
pub async fn peers(
    State(backend): State<Shared>,
    Query(params): Query<PageParams>,
) -> Result<Json<Listing<PeerInfo>>, ApiError> {
    let mut rows = Gathered::new(params.page()?);
    for peer in backend.peers() {
        rows.add(ById(Reverse(peer.peer)), || peer);
    }
    Ok(Json(rows.into_listing()))
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
