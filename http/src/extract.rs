//! axum's extractors, answering with our error body.

use axum::extract::{FromRequest, FromRequestParts};
use axum::http::Uri;
use serde::de::DeserializeOwned;

use super::error::ApiError;

#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(ApiError))]
pub struct Json<T>(pub T);

#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub struct Path<T>(pub T);

#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> Query<T> {
    /// The same before there is a handler.
    pub fn of_uri(uri: &Uri) -> Result<Self, ApiError> {
        Ok(axum::extract::Query::try_from_uri(uri).map(|axum::extract::Query(query)| Self(query))?)
    }
}
