//! Raw streams as a behaviour of the swarm: opened on demand for any protocol, and taken in for those that are offered.
//! What is written on them is left to who opened them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};

pub type Reply = tokio::sync::oneshot::Sender<Result<Stream, String>>;

/// A stream that a peer opened to this one.
#[derive(Debug)]
pub struct Arrived {
    pub peer: PeerId,
    pub protocol: StreamProtocol,
    pub stream: Stream,
}

#[derive(Debug)]
pub struct Open {
    protocol: StreamProtocol,
    reply: Reply,
}

pub struct Behaviour {
    offered: Vec<StreamProtocol>,
    events: VecDeque<ToSwarm<Arrived, Open>>,
}

impl Behaviour {
    pub fn new(offered: impl IntoIterator<Item = &'static str>) -> Self {
        Self { offered: offered.into_iter().map(StreamProtocol::new).collect(), events: VecDeque::new() }
    }

    /// To be called for a connected peer; the caller polls the swarm afterwards.
    pub fn open(&mut self, peer_id: PeerId, protocol: StreamProtocol, reply: Reply) {
        let event = Open { protocol, reply };
        self.events.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event });
    }

    fn handler(&self) -> Handler {
        Handler { offered: Names(self.offered.clone()), wanted: VecDeque::new(), arrived: VecDeque::new() }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Arrived;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, (protocol, stream): Negotiated) {
        self.events.push_back(ToSwarm::GenerateEvent(Arrived { peer, protocol, stream }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Arrived, THandlerInEvent<Self>>> {
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// One stream with the protocol that was agreed on.
type Negotiated = (StreamProtocol, Stream);

/// An upgrade that leaves the stream as it is.
#[derive(Clone, Debug)]
pub struct Names(Vec<StreamProtocol>);

impl UpgradeInfo for Names {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;
    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Names {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = Ready<Result<Negotiated, Infallible>>;
    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((protocol, stream)))
    }
}

impl OutboundUpgrade<Stream> for Names {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = Ready<Result<Negotiated, Infallible>>;
    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((protocol, stream)))
    }
}

pub struct Handler {
    offered: Names,
    wanted: VecDeque<Open>,
    arrived: VecDeque<Negotiated>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Negotiated;
    type InboundProtocol = Names;
    type OutboundProtocol = Names;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<Names, ()> {
        SubstreamProtocol::new(self.offered.clone(), ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Names, Reply, Negotiated>> {
        if let Some(arrived) = self.arrived.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(arrived));
        }
        let Some(Open { protocol, reply }) = self.wanted.pop_front() else { return Poll::Pending };
        let protocol = SubstreamProtocol::new(Names(vec![protocol]), reply);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_behaviour_event(&mut self, event: Open) {
        self.wanted.push_back(event);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Names, Names, (), Reply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.arrived.push_back(protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: (_, stream), info }) => {
                let _ = info.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let reason = match error {
                    StreamUpgradeError::Timeout => "no answer to the negotiation".to_owned(),
                    StreamUpgradeError::NegotiationFailed => "the peer does not speak it".to_owned(),
                    StreamUpgradeError::Io(error) => error.to_string(),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = info.send(Err(reason));
            }
            _ => (),
        }
    }
}
