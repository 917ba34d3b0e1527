//! `/v1/quorums`.

use axum::Json;
use axum::extract::State;
use quorate_api::{ErrorBody, Listing, MemberView, QuorumDetail, QuorumInfo, schema};
use quorate_protocols::ids::QuorumId;
use quorate_protocols::membership::VOTERS_MAX;

use super::backend::Shared;
use super::error::ApiError;
use super::extract::{Path, Query};
use super::page::PageParams;

/// Quorums this node knows, in order of id. One that does not answer is listed as last announced, with the reason in
/// `paused`.
#[utoipa::path(get, path = "/v1/quorums", tag = "quorums", params(PageParams),
    responses((status = 200, body = Listing<QuorumInfo>), (status = "default", body = ErrorBody)))]
pub async fn list(
    State(backend): State<Shared>,
    Query(params): Query<PageParams>,
) -> Result<Json<Listing<QuorumInfo>>, ApiError> {
    Ok(Json(backend.quorums(params.page()?).await))
}

/// One quorum, as one of its members sees it now.
#[utoipa::path(get, path = "/v1/quorums/{quorum}", tag = "quorums", params(("quorum" = schema::QuorumId, Path)),
    responses((status = 200, body = QuorumDetail), (status = "default", body = ErrorBody)))]
pub async fn show(State(backend): State<Shared>, Path(quorum): Path<QuorumId>) -> Result<Json<QuorumDetail>, ApiError> {
    Ok(Json(backend.quorum(quorum).await?))
}

// The description says how many voters there are at most.
const _: () = assert!(VOTERS_MAX == 7);

/// One quorum as each of its voters sees it, asked now: 7 at most, on one page.
#[utoipa::path(get, path = "/v1/quorums/{quorum}/members", tag = "quorums", params(("quorum" = schema::QuorumId, Path)),
    responses((status = 200, body = Listing<MemberView>), (status = "default", body = ErrorBody)))]
pub async fn members(
    State(backend): State<Shared>,
    Path(quorum): Path<QuorumId>,
) -> Result<Json<Listing<MemberView>>, ApiError> {
    Ok(Json(Listing { items: backend.members(quorum).await?, ..Listing::default() }))
}
