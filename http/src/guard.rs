//! The guard of every request: the bearer token, the Host and the Origin, before anything else is read.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use quorate_api::ErrorCode;

use super::door::{Connection, Place};
use super::error::ApiError;

/// The token, kept only as a hash: comparing hashes takes the same time wherever a guess differs.
#[derive(Clone)]
pub struct Token(blake3::Hash);

impl Token {
    pub fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }
    fn matches(&self, offered: &[u8]) -> bool {
        self.0 == blake3::hash(offered)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// What a request must show.
#[derive(Clone, Debug)]
pub struct Guard {
    pub token: Token,
    /// Whether the operator opened the API to other machines: then any address will do as Host, but still no name,
    /// because it is names that can be rebound.
    pub allow_remote: bool,
}

pub async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let place = admit(&guard, &request).and_then(|()| match request.extensions().get::<Arc<Connection>>() {
        Some(connection) => connection.admit(ends_soon(request.method(), request.uri().path())),
        // It came through no door.
        None => Ok(Place::Own),
    });
    let (mut response, keeps) = match place {
        Ok(place) => (next.run(request).await, place == Place::Own),
        Err(error) => (error.into_response(), false),
    };
    if !keeps {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether a request waits for nothing and moves no content: it may have one of the kept places.
fn ends_soon(method: &Method, path: &str) -> bool {
    let waits = path.ends_with("/wait") || path.ends_with("/logs") || (method == Method::GET && path == "/v1/events");
    let moves = path.ends_with("/content") || (method == Method::POST && path == "/v1/objects");
    !waits && !moves && !path.starts_with("/v1/bench/")
}

fn admit(guard: &Guard, request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    let host = match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => text(headers, header::HOST)?,
    };
    // A page of another site can make a browser ask a name that resolves to this machine; it cannot choose the Host.
    let known = |authority: &str| is_this_machine(authority, guard.allow_remote);
    if !host.is_some_and(known) {
        return Err(ApiError::new(ErrorCode::Forbidden, "the Host header must name this machine")
            .hint("ask 127.0.0.1, [::1] or localhost"));
    }
    if let Some(origin) = text(headers, header::ORIGIN)?
        && !origin.split_once("://").is_some_and(|(_, authority)| known(authority))
    {
        return Err(ApiError::new(ErrorCode::Forbidden, "requests from pages of other sites are refused"));
    }
    let offered = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().split_at_checked(7))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, offered)| offered.trim_ascii());
    match offered {
        Some(offered) if guard.token.matches(offered) => Ok(()),
        Some(_) => Err(ApiError::new(ErrorCode::Unauthorized, "the bearer token is not this node's")),
        None => Err(ApiError::new(ErrorCode::Unauthorized, "a bearer token is needed")),
    }
    .map_err(|error| error.hint("the token is in the file api.token of the node's data folder"))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(&name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(ApiError::bad_request(format!("more than one {name} header")));
    }
    first
        .map(|value| value.to_str())
        .transpose()
        .map_err(|_| ApiError::bad_request(format!("unreadable {name} header")))
}

/// Whether `host[:port]` is `localhost` or a loopback address (with `any_address`, any address).
fn is_this_machine(authority: &str, any_address: bool) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) if port.is_empty() || is_port(port) => host,
            _ => return false,
        },
        None => match authority.find(':') {
            Some(at) if is_port(&authority[at..]) => &authority[..at],
            Some(_) => return false,
            None => authority,
        },
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| any_address || address.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_this_machine() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:9", "127.8.8.8", "[::1]", "[::1]:443"] {
            assert!(is_this_machine(host, false), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1",
            "0.0.0.0",
            "[::2]",
            "[::1",
            "[::1]x",
            "localhost:99999",
            "localhost:80:80",
            "user@localhost",
        ] {
            assert!(!is_this_machine(host, false), "{host}");
        }
        assert!(is_this_machine("10.0.0.1:7421", true));
        assert!(!is_this_machine("example.com", true));
    }
}
