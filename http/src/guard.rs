//! The guard of every request: the Host and the Origin, the bearer token, whether its holder may do this, and whether
//! the node has a place for it; before anything else is read. What came of it goes to the audit log.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use hyper::body::{Frame, SizeHint};
use quorate_api::{ErrorCode, Route, Verb};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::audit::{Audit, Entry, Subject, Subjects};
use super::backend::Shared;
use super::door::{Connection, Need, Place};
use super::error::ApiError;
use super::tokens::{Caller, Minted, Tokens};
use super::wait;

/// A token, kept only as a hash: comparing hashes takes the same time wherever a guess differs.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(blake3::Hash);

impl Token {
    pub fn new(text: &[u8]) -> Self {
        Self(blake3::hash(text))
    }
}

impl Ord for Token {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_bytes().cmp(other.0.as_bytes())
    }
}

impl PartialOrd for Token {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0.to_hex().to_string()
    }
}

impl TryFrom<String> for Token {
    type Error = blake3::HexError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        blake3::Hash::from_hex(text).map(Self)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// What a request must show, and to whom.
#[derive(Clone)]
pub struct Guard {
    pub tokens: Arc<Tokens>,
    pub audit: Arc<Audit>,
    /// Whether the operator opened the API to other machines: then any address will do as Host, but still no name,
    /// because it is names that can be rebound.
    pub allow_remote: bool,
}

pub async fn guard(State((guard, backend)): State<(Guard, Shared)>, request: Request, next: Next) -> Response {
    let now = backend.now();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .and_then(|path| quorate_api::route(request.method().as_str(), path.as_str()));
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let caller = identify(&guard, &request, now);
    let from = connection.as_ref().map(|connection| connection.from());
    let mut entry = Entry::new(now, caller.as_ref().ok(), from, request.method().as_str(), request.uri().path());
    entry.verb = route.map(|route| route.verb);
    let admitted = caller.and_then(|caller| admit(caller, route, &request, connection.as_deref()));
    let (mut response, keeps) = match admitted {
        Ok(Admitted { place, minted: None }) => (next.run(request).await, place == Place::Own),
        Ok(Admitted { place, minted: Some((minted, permit)) }) => {
            let mut ended: BoxFuture<'static, ()> = Box::pin(minted.ended(now));
            tokio::select! {
                biased;
                () = &mut ended => (refused_token("the token has ended").into_response(), false),
                response = next.run(request) => {
                    let response = response.map(|body| Body::new(Fenced { body, ended, _permit: permit }));
                    (response, place == Place::Own)
                }
            }
        }
        Err(error) => (error.into_response(), false),
    };
    if !keeps {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    entry.status = response.status().as_u16();
    entry.error = response.extensions().get::<ErrorCode>().copied();
    entry.subject = response.extensions().get::<Subject>().map(|subject| subject.0.clone());
    match response.extensions_mut().remove::<Subjects>() {
        None => guard.audit.record(entry).await,
        Some(subjects) => {
            for line in entry.of_each(subjects) {
                guard.audit.record(line).await;
            }
        }
    }
    response
}

/// A request that may be answered.
struct Admitted {
    place: Place,
    /// The token that it was made with, and one of its requests.
    minted: Option<(Arc<Minted>, OwnedSemaphorePermit)>,
}

fn refused_token(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, message).hint(
        "the operator's token is in the file api.token of the node's data folder; others are minted with `quorate token \
         mint` and hold until they end or are revoked",
    )
}

fn identify(guard: &Guard, request: &Request, now: quorate_protocols::ids::Millis) -> Result<Caller, ApiError> {
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
        .map(|(_, offered)| offered.trim_ascii())
        .ok_or_else(|| refused_token("a bearer token is needed"))?;
    guard
        .tokens
        .caller(offered, now)
        .ok_or_else(|| refused_token("the bearer token is not this node's, or holds no more"))
}

/// Whether this caller may ask this, now.
fn admit(
    caller: Caller,
    route: Option<&Route>,
    request: &Request,
    connection: Option<&Connection>,
) -> Result<Admitted, ApiError> {
    let is_matched = request.extensions().get::<MatchedPath>().is_some();
    // A path that leads nowhere is told to be so. A route that the table has forgotten is the operator's alone.
    let verb = route.map_or(Verb::Operate, |route| route.verb);
    if is_matched && !caller.may(verb) {
        return Err(lacking(verb));
    }
    // A submit that waits is answered with what the job came to.
    if verb == Verb::JobSubmit && is_awaited(request) && !caller.may(Verb::JobRead) {
        return Err(lacking(Verb::JobRead));
    }
    let minted = match caller {
        Caller::Operator => None,
        Caller::Token(minted) => {
            let permit = minted.requests.clone().try_acquire_owned().map_err(|_| {
                ApiError::new(ErrorCode::Busy, "this token has as many requests in hand as it may")
                    .hint("wait until one of them ends")
            })?;
            Some((minted, permit))
        }
    };
    let place = match connection {
        Some(connection) => connection.admit(need(route, request))?,
        // It came through no door.
        None => Place::Own,
    };
    Ok(Admitted { place, minted })
}

fn lacking(verb: Verb) -> ApiError {
    let error = ApiError::new(ErrorCode::Forbidden, format!("this token may not do this: it needs {verb}"));
    error.hint(match verb {
        Verb::Operate => "only the token in the node's data folder may".to_owned(),
        verb => format!("the node's operator can mint one that may: `quorate token mint --may {verb}`"),
    })
}

fn is_awaited(request: &Request) -> bool {
    wait::is_asked(request.uri(), request.headers())
}

fn need(route: Option<&Route>, request: &Request) -> Need {
    match route {
        // Whoever asks to be answered late has no claim to what is kept for those that end by themselves.
        Some(route) if route.is_long || is_awaited(request) => Need::Long,
        _ if request.body().is_end_stream() => Need::Brief,
        _ => Need::Body,
    }
}

/// The body of an answer to a token, which breaks off when the token ends.
struct Fenced {
    body: Body,
    ended: BoxFuture<'static, ()>,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Fenced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new("the token has ended"))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
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
