//! The door of the API: accepts connections, gives each a place, and closes those whose clients are too slow.
//!
//! Whoever can reach the socket can open connections and say nothing, half a head, or half a body. What they get is
//! bounded in number ([`places`]) and in time ([`pace`]), and is nothing that a caller with a token needs: a connection
//! has to show one with its first request, and one that does not is closed with its refusal. Of a connection that is
//! closed within a request's head the client reads an `ErrorBody`, as of every other refusal.
//!
//! What it does not: it makes no difference between callers with a token. A program that holds one can hold all places
//! but [`super::limits::KEPT_PLACES`], which only requests can take that wait for nothing.

mod pace;
mod places;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use quorate_api::ErrorCode;
use quorate_node::seams::TaskGroup;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::pace::{Pace, Paced};
use self::places::{ConnectionId, NoPlace, Places};
use super::error::ApiError;
use super::limits::{ACCEPT_PAUSE, CLOSE_PATIENCE, DoorLimits, HEAD_BYTES_MAX, REFUSAL_PATIENCE};
use super::metrics::{Closed, DoorMetrics};

pub use self::pace::Overdue;
pub use self::places::{Need, Place};

/// All open connections.
pub struct Door {
    limits: DoorLimits,
    metrics: DoorMetrics,
    inner: Mutex<Inner>,
}

struct Inner {
    places: Places,
    /// By which each is told to close.
    dismissals: BTreeMap<ConnectionId, CancellationToken>,
}

impl Inner {
    fn dismiss(&mut self, id: Option<ConnectionId>) {
        if let Some(dismissal) = id.and_then(|id| self.dismissals.remove(&id)) {
            dismissal.cancel();
        }
    }
}

/// One connection, as its requests have it among their extensions.
pub struct Connection {
    door: Arc<Door>,
    id: ConnectionId,
    from: SocketAddr,
    pace: Arc<Pace>,
    dismissal: CancellationToken,
    /// It has shown a token.
    is_known: AtomicBool,
}

impl Door {
    pub fn new(limits: DoorLimits, metrics: DoorMetrics) -> Arc<Self> {
        let inner = Inner { places: Places::new(&limits), dismissals: BTreeMap::new() };
        Arc::new(Self { limits, metrics, inner: Mutex::new(inner) })
    }

    /// Accepts until the group closes. Each connection is a task of the group.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, app: Router, tasks: TaskGroup) {
        let shutdown = tasks.shutdown_token();
        let app = TowerToHyperService::new(app);
        loop {
            let opens_at = self.inner.lock().places.opens_at(Instant::now());
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                accepted = accept(&listener, opens_at) => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                // It ended before it was accepted.
                Err(error) if is_of_connection(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, "the API cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Answers are small and waited for.
            let _ = stream.set_nodelay(true);
            tasks.spawn(self.enter(from).run(stream, app.clone(), shutdown.clone()));
        }
    }

    fn enter(self: &Arc<Self>, from: SocketAddr) -> Arc<Connection> {
        let dismissal = CancellationToken::new();
        let mut inner = self.inner.lock();
        let (id, closed) = inner.places.enter(Instant::now());
        inner.dismissals.insert(id, dismissal.clone());
        inner.dismiss(closed);
        self.metrics.set_open(inner.places.counts());
        drop(inner);
        let pace = Arc::new(Pace::new(&self.limits));
        let is_known = AtomicBool::new(false);
        Arc::new(Connection { door: self.clone(), id, from, pace, dismissal, is_known })
    }
}

/// The next connection, but not before this instant.
async fn accept(listener: &TcpListener, opens_at: Option<Instant>) -> io::Result<(TcpStream, SocketAddr)> {
    if let Some(opens_at) = opens_at {
        tokio::time::sleep_until(opens_at).await;
    }
    listener.accept().await
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Connection {
    /// A place for a request that has shown a token.
    pub fn admit(&self, need: Need) -> Result<Place, ApiError> {
        let mut inner = self.door.inner.lock();
        let admitted = inner.places.admit(self.id, need);
        if let Ok((_, closed)) = admitted {
            inner.dismiss(closed);
            self.door.metrics.on_closed(Closed::MadeRoom, closed.is_some().into());
        }
        self.door.metrics.set_open(inner.places.counts());
        drop(inner);
        match admitted {
            Ok((place, _)) => {
                self.is_known.store(true, Ordering::Relaxed);
                if place == Place::Kept {
                    self.pace.set_stall(self.door.limits.kept_stall);
                }
                Ok(place)
            }
            Err(NoPlace::Full) => {
                self.door.metrics.on_closed(Closed::Full, 1);
                Err(full(self.door.limits.connections_max))
            }
            Err(NoPlace::Closed) => Err(crowded()),
        }
    }

    /// Where the client is.
    pub fn from(&self) -> SocketAddr {
        self.from
    }

    /// How long the client may take for the next part of its body, or of its answer.
    pub fn stall(&self) -> Duration {
        self.pace.stall()
    }

    fn leave(&self) {
        let mut inner = self.door.inner.lock();
        inner.places.leave(self.id);
        inner.dismissals.remove(&self.id);
        self.door.metrics.set_open(inner.places.counts());
    }

    async fn run(self: Arc<Self>, stream: TcpStream, app: TowerToHyperService<Router>, shutdown: CancellationToken) {
        let socket = TokioIo::new(Paced { stream, pace: self.pace.clone() });
        let this = self.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| this.clone().answer(&app, request));
        let mut builder = http1::Builder::new();
        // The deadlines are ours: the library's begins when the request before it ends.
        builder.header_read_timeout(None::<Duration>).max_header_size(HEAD_BYTES_MAX);
        let mut serving = builder.serve_connection(socket, service);
        let mut closing = std::pin::pin!(async {
            shutdown.cancelled().await;
            tokio::time::sleep(CLOSE_PATIENCE).await;
        });
        let mut is_ending = false;
        let refusal = loop {
            tokio::select! {
                biased;
                // How it ended is the client's business.
                _ = &mut serving => break None,
                () = shutdown.cancelled(), if !is_ending => {
                    Pin::new(&mut serving).graceful_shutdown();
                    is_ending = true;
                }
                () = &mut closing => break None,
                () = self.dismissal.cancelled(), if !is_ending => {
                    // A caller with a token was idle when it was chosen, and may have asked something since.
                    if !self.is_known.load(Ordering::Relaxed) {
                        self.door.metrics.on_closed(Closed::Crowded, 1);
                        break (!self.pace.is_handling()).then(crowded);
                    }
                    Pin::new(&mut serving).graceful_shutdown();
                    is_ending = true;
                }
                overdue = self.pace.overdue() => {
                    self.door.metrics.on_closed(Closed::of(overdue), 1);
                    break (overdue == Overdue::Head).then(|| slow_head(self.door.limits.head));
                }
            }
        };
        // Before the refusal: a place that nobody can use is free. Parts of a request may outlive the connection.
        self.leave();
        if let Some(refusal) = refusal {
            let mut stream = serving.into_parts().io.into_inner().stream;
            let text = refusal.to_http();
            // Nobody may be there to read it.
            let _ = tokio::time::timeout(REFUSAL_PATIENCE, async {
                stream.write_all(&text).await?;
                stream.shutdown().await
            })
            .await;
        }
    }

    fn answer(
        self: Arc<Self>,
        app: &TowerToHyperService<Router>,
        request: hyper::Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Watched>, Infallible>> + use<> {
        self.pace.begin();
        let turn = Arc::new(Turn(self.clone()));
        let mut request: Request =
            request.map(|body| Body::new(Watched { body: Body::new(body), _turn: turn.clone() }));
        request.extensions_mut().insert(self);
        let answer = app.call(request);
        async move { Ok(answer.await?.map(|body| Watched { body, _turn: turn })) }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Its task may have been dropped with its node.
        self.leave();
    }
}

/// One request. It is over when its body is read, or given up, and its answer is handed to the socket.
struct Turn(Arc<Connection>);

impl Drop for Turn {
    fn drop(&mut self) {
        // Held over both: the next request is admitted before or after.
        let mut inner = self.0.door.inner.lock();
        if self.0.pace.end() {
            inner.places.rest(self.0.id);
        }
    }
}

/// A body that belongs to a turn.
pub struct Watched {
    body: Body,
    _turn: Arc<Turn>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn full(connections_max: usize) -> ApiError {
    ApiError::new(ErrorCode::Busy, format!("all {connections_max} connections to this node's API are in use")).hint(
        "end programs that wait, follow or send, or raise `api.connections_max`; requests that wait for nothing have \
         places of their own, so try again in a moment",
    )
}

fn crowded() -> ApiError {
    ApiError::new(ErrorCode::Busy, "too many connections that have not shown a token")
        .hint("try again; a request that follows the connection at once is served first")
}

fn slow_head(deadline: Duration) -> ApiError {
    ApiError::new(ErrorCode::TooSlow, format!("the head of the request was not whole within {deadline:?}"))
        .hint("send it in one piece")
}
