//! Newline-delimited JSON: whether a client sends it or asks for it, and one value as a line.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, header};
use serde::Serialize;

pub const NDJSON: &str = "application/x-ndjson";

/// Whether the client asks for lines with `Accept`.
pub fn are_wanted(headers: &HeaderMap) -> bool {
    names(headers, header::ACCEPT)
}

/// Whether the body of the request is lines.
pub fn are_sent(headers: &HeaderMap) -> bool {
    names(headers, header::CONTENT_TYPE)
}

fn names(headers: &HeaderMap, header: HeaderName) -> bool {
    let mut values = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|part| part.trim().starts_with(NDJSON)))
}

pub fn line(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).unwrap_or_else(|error| {
        tracing::error!(%error, "a line of an answer cannot be written");
        Vec::new()
    });
    text.push(b'\n');
    text.into()
}
