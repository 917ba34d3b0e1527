//! The rest of a body that was answered before it was read.
//!
//! Many answers come early: the token is wrong, the body is too long, a put finds no quorum. A server that closes on a
//! client in the middle of sending destroys the answer on its way, and the client sees no more than a broken pipe. So a
//! body that is dropped before its end is read and thrown away for a moment.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use futures::stream::{Stream, StreamExt};

use super::limits::DRAIN_PATIENCE;
use quorate_node::seams::TaskGroup;

/// A body, the rest of which is read when it is dropped.
struct Drained {
    /// `None` once it has ended.
    body: Option<BodyDataStream>,
    tasks: TaskGroup,
}

/// The same body, for a server that may answer before it has read it.
pub fn drained(body: Body, tasks: TaskGroup) -> Body {
    match body.is_end_stream() {
        true => body,
        false => Body::from_stream(Drained { body: Some(body.into_data_stream()), tasks }),
    }
}

impl Stream for Drained {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let next = ready!(body.poll_next_unpin(context));
        if !matches!(next, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(next.map(|chunk| chunk.map_err(io::Error::other)))
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|_| !self.tasks.is_ending()) else { return };
        self.tasks.spawn(async move {
            let rest = async { while let Some(Ok(_)) = body.next().await {} };
            // Whether the client noticed in time is its business now.
            let _ = tokio::time::timeout(DRAIN_PATIENCE, rest).await;
        });
    }
}
