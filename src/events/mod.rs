//! Event emitter: keeps the events emitted on this node on disk until every quorum with a trigger that listens for them
//! has taken them.
//!
//! [`Events`] is the handle. Its actor owns the outbox: [`quorate_protocols::trigger::outbox`] decides, and [`rows`] is
//! its form on disk. The actor acknowledges an event once it is synced, asks quorums which event names they listen for,
//! and sends each quorum its events through the [`QuorumPort`]. The primary of the quorum decides which triggers fire.
//!
//! Promised: a quorum that listens for an acknowledged event either commits it or counts it as lost. The author of an
//! event is the peer that the transport authenticated.
//!
//! Not promised: an order between events of two emitters. When clocks are set, a trigger may also fire for an event
//! that was emitted before the trigger was submitted.
//!
//! Bounds: those of the outbox; [`QUEUE_MAX`] events that wait for the actor; one question or dispatch at a time per
//! quorum.

mod actor;
mod metrics;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use quorate_protocols::trigger::event::Event;
use quorate_protocols::trigger::outbox::{EmitError, Emitted};
use tokio::sync::{mpsc, oneshot};

use crate::gauges;
use crate::quorums::QuorumPort;
use crate::seams::{Clock, DiskError, Net, Seams};
use crate::storage::Storage;

pub use metrics::EventsMetrics;

/// Events that wait for the actor. An emitter that finds the queue full waits.
pub const QUEUE_MAX: usize = 1_024;

/// Largest JSON of an event.
pub use quorate_protocols::trigger::limits::EVENT_DATA_BYTES_MAX;

#[derive(Debug, Clone, thiserror::Error)]
pub enum EventError {
    #[error(transparent)]
    Refused(#[from] EmitError),
    #[error("the event cannot be recorded")]
    Disk(#[from] DiskError),
    #[error("this node is closing; whether the event was taken is unknown")]
    Closing,
}

/// What the emitter is built from.
pub struct EventsParts {
    pub seams: Seams,
    pub net: Arc<dyn Net>,
    pub storage: Storage,
    pub quorum_port: Arc<dyn QuorumPort>,
}

/// Handle to this node's emitter.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<EmitterRequest>,
    metrics: EventsMetrics,
    clock: Arc<dyn Clock>,
}

enum EmitterRequest {
    Emit { event: Event, reply: oneshot::Sender<Result<Emitted, EventError>> },
    Own { event: Event },
}

impl Events {
    /// Reads what an earlier life has left to send, and starts the actor in the task group of the seams.
    pub async fn start(parts: EventsParts) -> Result<Self, DiskError> {
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        let clock = parts.seams.clock.clone();
        let metrics = EventsMetrics::default();
        actor::start(parts, requests, metrics.clone())?;
        Ok(Self { queue, metrics, clock })
    }

    pub fn metrics(&self) -> &EventsMetrics {
        &self.metrics
    }
    /// Registers what it counts, and how many events wait to be taken.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
        let queue = self.queue.downgrade();
        let registry = registry.sub_registry_with_prefix("quorate_events");
        gauges::register(registry, "queued", "Events that wait to be taken", move || gauges::depth(&queue));
    }

    /// Takes an event, which is on disk when this returns. The same id under the same name is the same event.
    pub async fn emit(&self, name: String, id: Option<String>, data: Bytes) -> Result<Emitted, EventError> {
        let (reply, answer) = oneshot::channel();
        let event = Event { name, id, data, at: self.clock.wall() };
        self.queue.send(EmitterRequest::Emit { event, reply }).await.map_err(|_| EventError::Closing)?;
        answer.await.unwrap_or(Err(EventError::Closing))
    }

    /// Takes an event of the network itself, if anyone listens.
    pub async fn emit_own(&self, name: &'static str, id: Option<String>, data: &serde_json::Value) {
        let data = Bytes::from(data.to_string());
        let event = Event { name: name.to_owned(), id, data, at: self.clock.wall() };
        // A node that closes has no news.
        let _ = self.queue.send(EmitterRequest::Own { event }).await;
    }
}
