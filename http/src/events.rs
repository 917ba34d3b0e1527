//! `/v1/events`: what happens here, live; and events that users emit for jobs that wait for them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::{Extension, Json};
use futures::Stream;
use quorate_api::{EmitInfo, EmitRequest, ErrorBody, ErrorCode, EventInfo, EventKind};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use quorate_node::compose::NodeEvent;
use quorate_node::objects::ObjectEvent;
use quorate_node::raft::HostEvent;
use quorate_node::streams;

use super::backend::Shared;
use super::error::ApiError;
use super::{extract, views};

/// Events of this node from now on: its quorums, its own puts and gets, the pieces it holds, its connections. What
/// other nodes do in quorums of which it is no member is told by those. Server-sent events with an `EventInfo` each. A
/// client that is too slow is told `lagged` and misses what it missed. When too many follow already it is `busy`.
#[utoipa::path(get, path = "/v1/events", tag = "node",
    responses((status = 200, body = EventInfo, content_type = "text/event-stream"),
        (status = "default", body = ErrorBody)))]
pub async fn events(
    State(backend): State<Shared>,
    Extension(places): Extension<StreamPlaces>,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, ApiError> {
    let follower = Follower {
        _place: places.take_one()?,
        quorums: backend.quorum_events(),
        objects: backend.object_events(),
        node: backend.node_events(),
        shutdown: backend.tasks().shutdown_token(),
        waiting: VecDeque::from([views::event(EventKind::Listening, "listening")]),
        sequence: 0,
        backend,
    };
    let stream = streams::unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        let sse = SseEvent::default().json_data(&event).unwrap_or_else(|error| {
            tracing::error!(%error, "an event cannot be written");
            SseEvent::default().comment("an event was left out")
        });
        Some((Ok(sse), follower))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

/// The streams of events that may be open at once.
#[derive(Clone)]
pub struct StreamPlaces {
    streams_max: usize,
    free: Arc<Semaphore>,
}

impl StreamPlaces {
    pub fn new(streams_max: usize) -> Self {
        Self { streams_max, free: Arc::new(Semaphore::new(streams_max)) }
    }
    fn take_one(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.free.clone().try_acquire_owned().map_err(|_| {
            let text = format!("{} clients follow the events of this node, and no more may", self.streams_max);
            ApiError::new(ErrorCode::Busy, text).hint("end one of them, such as a `quorate events` that nobody reads")
        })
    }
}

/// Emits an event: jobs with a trigger for its name run, whichever quorum owns them. Success means that this node has
/// it on disk and will deliver it. The same id under the same name is the same event, through whichever node it comes.
#[utoipa::path(post, path = "/v1/events", tag = "node", request_body = EmitRequest,
    responses((status = 200, body = EmitInfo), (status = "default", body = ErrorBody)))]
pub async fn emit(
    State(backend): State<Shared>,
    extract::Json(request): extract::Json<EmitRequest>,
) -> Result<Json<EmitInfo>, ApiError> {
    Ok(Json(backend.emit(request).await?))
}

struct Follower {
    _place: OwnedSemaphorePermit,
    backend: Shared,
    quorums: broadcast::Receiver<HostEvent>,
    objects: broadcast::Receiver<ObjectEvent>,
    node: broadcast::Receiver<NodeEvent>,
    shutdown: CancellationToken,
    /// The rest of the last entry's events: bounded by what one entry can hold.
    waiting: VecDeque<EventInfo>,
    sequence: u64,
}

impl Follower {
    /// `None` when the node closes.
    async fn next(&mut self) -> Option<EventInfo> {
        loop {
            if let Some(mut event) = self.waiting.pop_front() {
                event.sequence = self.sequence;
                event.seen_at = self.backend.node().answered_at;
                self.sequence += 1;
                return Some(event);
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                received = self.quorums.recv() => match received {
                    Ok(HostEvent::Applied { quorum, events, .. }) => {
                        self.waiting.extend(events.iter().filter_map(|event| views::applied(quorum, event)));
                    }
                    Ok(event) => self.waiting.extend(views::host_event(&event)),
                    Err(RecvError::Lagged(missed)) => self.waiting.push_back(lagged(missed)),
                    Err(RecvError::Closed) => return None,
                },
                received = self.objects.recv() => match received {
                    // A member hears from the quorum what it keeps of this.
                    Ok(event) => {
                        self.waiting.extend(views::object_event(&event, |quorum| self.backend.is_member(quorum)));
                    }
                    Err(RecvError::Lagged(missed)) => self.waiting.push_back(lagged(missed)),
                    Err(RecvError::Closed) => return None,
                },
                received = self.node.recv() => match received {
                    Ok(event) => self.waiting.push_back(views::node_event(&event)),
                    Err(RecvError::Lagged(missed)) => self.waiting.push_back(lagged(missed)),
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }
}

fn lagged(missed: u64) -> EventInfo {
    views::event(EventKind::Lagged, format!("{missed} events were left out: this client was too slow"))
}
