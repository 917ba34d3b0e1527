//! The serving side of a protocol: request-response, with codecs that know whose question they read.
//!
//! libp2p gives a codec the bytes of a stream and nothing about their sender, so the memory of a frame could be
//! accounted to nobody. [`Serving`] stands around the behaviour: while a connection is established it says from whom,
//! and the codec that is cloned for that connection keeps it ([`Caller`]).

use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::request_response::ResponseChannel;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use parking_lot::Mutex;
use quorate_protocols::ids;

use super::behaviour::AskBehaviour;
use super::codec::Answer;
use crate::config::address::from_libp2p;

/// The peer of a codec's connection. A clone of one that has none takes the peer whose connection is being established.
#[derive(Default)]
pub struct Caller {
    peer: Option<ids::PeerId>,
    establishing: Establishing,
}

/// Whose connection is being established just now.
type Establishing = Arc<Mutex<Option<ids::PeerId>>>;

impl Caller {
    pub fn peer(&self) -> Option<ids::PeerId> {
        self.peer
    }
}

impl Clone for Caller {
    fn clone(&self) -> Self {
        let peer = self.peer.or_else(|| *self.establishing.lock());
        Self { peer, establishing: self.establishing.clone() }
    }
}

/// See the module.
pub(super) struct Serving {
    inner: AskBehaviour,
    establishing: Establishing,
}

impl Serving {
    /// `caller` is that of the behaviour's codec.
    pub fn new(inner: AskBehaviour, caller: &Caller) -> Self {
        Self { inner, establishing: caller.establishing.clone() }
    }

    pub fn send_response(&mut self, channel: ResponseChannel<Answer>, answer: Answer) -> Result<(), Answer> {
        self.inner.send_response(channel, answer)
    }

    fn establish<T>(&mut self, peer: PeerId, establish: impl FnOnce(&mut AskBehaviour) -> T) -> T {
        *self.establishing.lock() = from_libp2p(&peer);
        let established = establish(&mut self.inner);
        *self.establishing.lock() = None;
        established
    }
}

impl NetworkBehaviour for Serving {
    type ConnectionHandler = <AskBehaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = <AskBehaviour as NetworkBehaviour>::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.establish(peer, |inner| inner.handle_established_inbound_connection(id, peer, local, remote))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.establish(peer, |inner| inner.handle_established_outbound_connection(id, peer, address, role, port))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_made_while_a_connection_is_established_belongs_to_its_peer_for_good() {
        let codec = Caller::default();
        let (one, other) = (ids::PeerId([1; 32]), ids::PeerId([2; 32]));
        assert_eq!(codec.clone().peer(), None);
        *codec.establishing.lock() = Some(one);
        let of_one = codec.clone();
        *codec.establishing.lock() = Some(other);
        let of_other = codec.clone();
        *codec.establishing.lock() = None;
        assert_eq!((of_one.clone().peer(), of_other.clone().peer(), codec.peer()), (Some(one), Some(other), None));
    }
}
