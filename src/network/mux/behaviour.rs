//! The connections whose streams carry questions, and the questions to peers that are not connected yet.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, DialFailure};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandlerInEvent, ToSwarm};
use libp2p::{Multiaddr, PeerId};
use quorate_protocols::ids;
use tokio::sync::mpsc;

use super::handler::Handler;
use super::{Env, Misdeed, Question};
use crate::config::address::{from_libp2p, to_libp2p};

/// What the swarm's actor has to deal with.
#[derive(Debug)]
pub(in crate::network) enum Event {
    /// No connection came about for this question.
    NotConnected(Question),
    Misdeed(ids::PeerId, Misdeed),
}

pub(in crate::network) struct Behaviour {
    env: Arc<Env>,
    /// Questions that wait for a connection: of all questions of this node, of which there are so many at most.
    waiting: BTreeMap<ids::PeerId, Vec<Question>>,
    events: VecDeque<ToSwarm<Event, Infallible>>,
}

impl Behaviour {
    pub fn new(env: Env) -> Self {
        Self { env: Arc::new(env), waiting: BTreeMap::new(), events: VecDeque::new() }
    }

    /// Asks as soon as the peer is connected, and has it dialled when it is not. The caller polls the swarm afterwards.
    pub fn ask(&mut self, question: Question) {
        let Some(question) = self.env.shared.routes.ask(question) else { return };
        let Some(target) = to_libp2p(question.peer) else {
            return self.events.push_back(ToSwarm::GenerateEvent(Event::NotConnected(question)));
        };
        let waiting = self.waiting.entry(question.peer).or_default();
        waiting.retain(|question| !question.reply.is_closed());
        waiting.push(question);
        self.events.push_back(ToSwarm::Dial { opts: DialOpts::peer_id(target).build() });
    }

    fn establish(&mut self, id: ConnectionId, peer: PeerId) -> Result<Handler, ConnectionDenied> {
        let peer = from_libp2p(&peer).ok_or_else(|| ConnectionDenied::new("a peer whose key is of another kind"))?;
        let (orders, receiver) = mpsc::unbounded_channel();
        self.env.shared.routes.add(peer, id, orders);
        for question in self.waiting.remove(&peer).unwrap_or_default() {
            if let Some(question) = self.env.shared.routes.ask(question) {
                self.events.push_back(ToSwarm::GenerateEvent(Event::NotConnected(question)));
            }
        }
        Ok(Handler::new(self.env.clone(), peer, receiver))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.establish(id, peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.establish(id, peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                let Some(peer) = from_libp2p(&peer_id) else { return };
                self.env.shared.routes.remove(peer, connection_id);
                // Asked between the connection's end and this: no dial was made, for the peer counted as connected.
                for question in self.waiting.remove(&peer).unwrap_or_default() {
                    self.ask(question);
                }
            }
            // Another dial to the peer goes on, and is what its questions wait for.
            FromSwarm::DialFailure(DialFailure { error: DialError::DialPeerConditionFalse(_), .. }) => (),
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), .. }) => {
                let waiting = from_libp2p(&peer).and_then(|peer| self.waiting.remove(&peer));
                let failed = waiting.into_iter().flatten().map(Event::NotConnected);
                self.events.extend(failed.map(ToSwarm::GenerateEvent));
            }
            _ => (),
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, misdeed: Misdeed) {
        if let Some(peer) = from_libp2p(&peer) {
            self.events.push_back(ToSwarm::GenerateEvent(Event::Misdeed(peer, misdeed)));
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}
