//! The bodies of requests: one that makes no progress ends, and one that was answered before it was read is drained.
//!
//! A body may be as large and as slow as its link, but its client must go on sending: the handler that reads it is told
//! that it has stalled. Time that the handler takes itself does not count.
//!
//! Many answers come early: the token is wrong, the body is too long, a put finds no quorum. A server that closes on a
//! client in the middle of sending destroys the answer on its way, and the client sees no more than a broken pipe. So a
//! body that is dropped before its end is read and thrown away for a moment.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use futures::stream::{Stream, StreamExt};
use tokio::time::{Instant, Sleep};

use super::door::Connection;
use super::limits::{DRAIN_PATIENCE, PROGRESS_BYTES, STALL_MAX};
use quorate_node::seams::TaskGroup;

/// A body that must make progress, and the rest of which is read when it is dropped.
struct Attended {
    /// `None` once it has ended.
    body: Option<BodyDataStream>,
    tasks: TaskGroup,
    connection: Option<Arc<Connection>>,
    progress: Progress,
}

/// How long the client has been waited for since the last [`PROGRESS_BYTES`].
struct Progress {
    waited: Duration,
    bytes: usize,
    /// The wait that goes on, and its end.
    wait: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Progress {
    fn on_bytes(&mut self, bytes: usize) {
        if let Some((since, _)) = self.wait.take() {
            self.waited += since.elapsed();
        }
        self.bytes += bytes;
        if self.bytes >= PROGRESS_BYTES {
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
    }
    /// Ready when the client was waited for too long.
    fn poll_stalled(&mut self, stall: Duration, context: &mut Context<'_>) -> Poll<()> {
        let waited = self.waited;
        let (_, end) = self.wait.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(tokio::time::sleep_until(now + stall.saturating_sub(waited))))
        });
        end.as_mut().poll(context)
    }
}

/// The same body, for a server that may answer before it has read it.
pub fn attended(body: Body, connection: Option<Arc<Connection>>, tasks: TaskGroup) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let progress = Progress { waited: Duration::ZERO, bytes: 0, wait: None };
    Body::from_stream(Attended { body: Some(body.into_data_stream()), tasks, connection, progress })
}

impl Stream for Attended {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        match body.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(chunk))) => {
                this.progress.on_bytes(chunk.len());
                Poll::Ready(Some(Ok(chunk)))
            }
            Poll::Ready(end) => {
                this.body = None;
                Poll::Ready(end.map(|chunk| chunk.map_err(io::Error::other)))
            }
            Poll::Pending => {
                // Asked each time: the guard may have given the connection another place meanwhile.
                let stall = this.connection.as_ref().map_or(STALL_MAX, |connection| connection.stall());
                ready!(this.progress.poll_stalled(stall, context));
                this.body = None;
                let reason = format!("the client has sent next to nothing of the body for {stall:?}");
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, reason))))
            }
        }
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|_| !self.tasks.is_ending()) else { return };
        self.tasks.spawn(async move {
            let rest = async { while let Some(Ok(_)) = body.next().await {} };
            // Whether the client noticed in time is its business now.
            let _ = tokio::time::timeout(DRAIN_PATIENCE, rest).await;
        });
    }
}
