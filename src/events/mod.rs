//! Events: the durable outbox of what is emitted on this node, and its way to the quorums whose triggers listen.
//!
//! [`Events`] is the emitter. Its actor owns the outbox ([`quorate_protocols::trigger::outbox`] decides; [`rows`] is
//! what of it is on disk), acknowledges an event once it is synced, asks quorums what they want and sends them what is
//! theirs, through the [`QuorumPort`]. Which triggers a dispatch fires is decided by the primary of each quorum.
//!
//! Promised: an event that was acknowledged is either taken by every quorum that wants it, after its commit, or counted
//! there as lost. Its author is the peer that the transport says. Not promised: an order between two emitters, and that
//! an event which a trigger was submitted a moment after stays unheard when the clock of the primary is set meanwhile.
//!
//! Bounds: those of the outbox, [`QUEUE_MAX`] callers that wait, and one question or dispatch at a time per quorum.

mod actor;
mod metrics;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use quorate_protocols::trigger::event::Event;
use quorate_protocols::trigger::outbox::{EmitError, Taken};
use tokio::sync::{mpsc, oneshot};

use crate::gauges;
use crate::quorums::QuorumPort;
use crate::seams::{Clock, DiskError, Net, Seams};
use crate::storage::Storage;

pub use metrics::EventsMetrics;

/// Events on their way to the actor; whoever emits more waits.
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
    queue: mpsc::Sender<Order>,
    metrics: EventsMetrics,
    clock: Arc<dyn Clock>,
}

enum Order {
    Emit { event: Event, reply: oneshot::Sender<Result<Taken, EventError>> },
    Own { event: Event },
}

impl Events {
    /// Reads what an earlier life has left to send, and starts the actor in the task group of the seams.
    pub async fn start(parts: EventsParts) -> Result<Self, DiskError> {
        let (queue, orders) = mpsc::channel(QUEUE_MAX);
        let clock = parts.seams.clock.clone();
        let metrics = EventsMetrics::default();
        actor::start(parts, orders, metrics.clone())?;
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

    /// Takes an event. On disk when this returns; the same id under the same name is the same event.
    pub async fn emit(&self, name: String, id: Option<String>, data: Bytes) -> Result<Taken, EventError> {
        let (reply, answer) = oneshot::channel();
        let event = Event { name, id, data, at: self.clock.wall() };
        self.queue.send(Order::Emit { event, reply }).await.map_err(|_| EventError::Closing)?;
        answer.await.unwrap_or(Err(EventError::Closing))
    }

    /// Takes an event of the network itself, if anyone listens.
    pub async fn emit_own(&self, name: &'static str, id: Option<String>, data: &serde_json::Value) {
        let data = Bytes::from(data.to_string());
        let event = Event { name: name.to_owned(), id, data, at: self.clock.wall() };
        // A node that closes has no news.
        let _ = self.queue.send(Order::Own { event }).await;
    }
}
