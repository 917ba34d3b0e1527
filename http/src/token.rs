//! `/v1/tokens`: the operator's way to let others in.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use quorate_api::{ErrorBody, Listing, MintInfo, MintRequest, TokenInfo};

use super::audit::Subject;
use super::backend::Shared;
use super::error::ApiError;
use super::extract;
use super::tokens::Tokens;

/// Tokens that were minted here and hold, the oldest first, in one page: there are at most 256.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens",
    responses((status = 200, body = Listing<TokenInfo>), (status = "default", body = ErrorBody)))]
pub async fn list(Extension(tokens): Extension<Arc<Tokens>>) -> Json<Listing<TokenInfo>> {
    Json(Listing { items: tokens.list(), ..Listing::default() })
}

/// Mints a token, which holds on this node from now on. Its secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = MintRequest,
    responses((status = 200, body = MintInfo), (status = "default", body = ErrorBody)))]
pub async fn mint(
    State(backend): State<Shared>,
    Extension(tokens): Extension<Arc<Tokens>>,
    extract::Json(request): extract::Json<MintRequest>,
) -> Result<(Extension<Subject>, Json<MintInfo>), ApiError> {
    let random = [(); 3].map(|()| backend.random());
    let (info, secret) = tokens.mint(request, backend.now(), random).await?;
    Ok((Extension(Subject(info.token.clone())), Json(MintInfo { info, secret })))
}

/// Has a token open nothing any more on this node, at once. What its holder is being answered breaks off.
#[utoipa::path(delete, path = "/v1/tokens/{token}", tag = "tokens", params(("token" = String, Path)),
    responses((status = 200, body = TokenInfo), (status = "default", body = ErrorBody)))]
pub async fn revoke(
    Extension(tokens): Extension<Arc<Tokens>>,
    extract::Path(token): extract::Path<String>,
) -> Result<Json<TokenInfo>, ApiError> {
    let is_id = token.len() == 16 && token.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if !is_id {
        return Err(ApiError::bad_request("a token's id has 16 hexadecimal digits, as `quorate token ls` shows it"));
    }
    Ok(Json(tokens.revoke(&token).await?))
}
