//! The way from a caller to the tasks of the connections to a peer.

use std::collections::BTreeMap;

use libp2p::swarm::ConnectionId;
use parking_lot::Mutex;
use quorate_protocols::ids::PeerId;
use tokio::sync::mpsc;

use super::Question;
use crate::seams::Protocol;

/// What callers tell the task of a connection, in the order in which it happened.
pub(super) enum Order {
    Ask(Question),
    /// Nobody waits for the answer to this question any more.
    Cancel(Protocol, u64),
}

/// The tasks of all connections. Their queues are bounded by what is asked: a question holds a place among those to its
/// peer ([`Protocol::in_flight_max`]) until its cancellation is queued, and a task takes all that is queued whenever it
/// runs.
#[derive(Default)]
pub(in crate::network) struct Routes(Mutex<BTreeMap<PeerId, Connections>>);

/// A few at most, in the order in which they were made.
type Connections = Vec<(ConnectionId, mpsc::UnboundedSender<Order>)>;

impl Routes {
    pub(super) fn add(&self, peer: PeerId, id: ConnectionId, orders: mpsc::UnboundedSender<Order>) {
        self.0.lock().entry(peer).or_default().push((id, orders));
    }

    pub(super) fn remove(&self, peer: PeerId, id: ConnectionId) {
        let mut routes = self.0.lock();
        if let Some(connections) = routes.get_mut(&peer) {
            connections.retain(|(known, _)| *known != id);
            if connections.is_empty() {
                routes.remove(&peer);
            }
        }
    }

    /// Asks over the newest connection: of a peer that vanished and came back, the older one may be dead and not known
    /// to be. Gives the question back when the peer is not connected.
    #[must_use]
    pub fn ask(&self, mut question: Question) -> Option<Question> {
        let routes = self.0.lock();
        for (_, orders) in routes.get(&question.peer).into_iter().flatten().rev() {
            match orders.send(Order::Ask(question)) {
                Ok(()) => return None,
                // The connection has just ended.
                Err(mpsc::error::SendError(Order::Ask(back))) => question = back,
                Err(mpsc::error::SendError(Order::Cancel(..))) => return None,
            }
        }
        Some(question)
    }

    /// To be called once the caller hears no answer any more. Whichever task has the question drops it.
    pub fn cancel(&self, peer: PeerId, protocol: Protocol, id: u64) {
        for (_, orders) in self.0.lock().get(&peer).into_iter().flatten() {
            let _ = orders.send(Order::Cancel(protocol, id));
        }
    }
}
