//! The streams of one connection, driven by its task.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use libp2p::{Stream, StreamProtocol};
use quorate_protocols::ids::PeerId;
use tokio::sync::mpsc;

use super::asking::Asking;
use super::routes::Order;
use super::serving::Serving;
use super::{Env, Misdeed, PROTOCOLS};
use crate::network::error_text;
use crate::seams::{NetError, Places, Protocol};

/// Taken from a stream at once.
const READ_BYTES: usize = 32 * 1024;

/// The names of the protocols as an upgrade that leaves the stream as it is.
#[derive(Clone, Debug)]
pub(in crate::network) struct Names(Vec<StreamProtocol>);

impl UpgradeInfo for Names {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;
    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

type Negotiated = (StreamProtocol, Stream);

impl InboundUpgrade<Stream> for Names {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = Ready<Result<Negotiated, Infallible>>;
    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((name, stream)))
    }
}

impl OutboundUpgrade<Stream> for Names {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = Ready<Result<Negotiated, Infallible>>;
    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((name, stream)))
    }
}

/// Both directions of one protocol.
struct Lane {
    protocol: Protocol,
    asking: Asking<Stream>,
    /// The newest stream that the peer opened; one that it opened before is closed.
    serving: Option<Serving<Stream>>,
    /// Of questions that are dealt with, whichever stream they came on.
    handled: Places,
}

pub(in crate::network) struct Handler {
    env: Arc<Env>,
    peer: PeerId,
    orders: mpsc::UnboundedReceiver<Order>,
    lanes: [Lane; PROTOCOLS.len()],
    /// Streams to open.
    wanted: VecDeque<Protocol>,
    misdeeds: VecDeque<Misdeed>,
    buffer: Box<[u8]>,
}

impl Handler {
    pub(super) fn new(env: Arc<Env>, peer: PeerId, orders: mpsc::UnboundedReceiver<Order>) -> Self {
        let lane = |protocol| Lane {
            protocol,
            asking: Asking::new(protocol, peer),
            serving: None,
            handled: Places::default(),
        };
        Self {
            env,
            peer,
            orders,
            lanes: PROTOCOLS.map(lane),
            wanted: VecDeque::new(),
            misdeeds: VecDeque::new(),
            buffer: vec![0; READ_BYTES].into(),
        }
    }

    fn lane(&mut self, protocol: Protocol) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| lane.protocol == protocol)
    }

    fn take_order(&mut self, order: Order) {
        match order {
            Order::Ask(question) => {
                let protocol = question.protocol;
                if self.lane(protocol).is_some_and(|lane| lane.asking.ask(question)) {
                    self.wanted.push_back(protocol);
                }
            }
            Order::Cancel(protocol, id) => {
                if let Some(lane) = self.lane(protocol) {
                    lane.asking.cancel(id);
                }
            }
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Misdeed;
    type InboundProtocol = Names;
    type OutboundProtocol = Names;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Protocol;

    fn listen_protocol(&self) -> SubstreamProtocol<Names, ()> {
        SubstreamProtocol::new(Names(PROTOCOLS.map(|protocol| StreamProtocol::new(protocol.name())).into()), ())
    }

    /// The streams stay; a connection is in use while a question is on its way.
    fn connection_keep_alive(&self) -> bool {
        let is_idle = |lane: &Lane| lane.asking.is_idle() && lane.serving.as_ref().is_none_or(Serving::is_idle);
        !self.lanes.iter().all(is_idle)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Names, Protocol, Misdeed>> {
        while let Poll::Ready(Some(order)) = self.orders.poll_recv(cx) {
            self.take_order(order);
        }
        for lane in &mut self.lanes {
            self.misdeeds.extend(lane.asking.poll(cx, &mut self.buffer, &self.env));
            let served = lane.serving.as_mut().map(|serving| serving.poll(cx, &mut self.buffer, &self.env));
            if let Some(Err(misdeed)) = served {
                lane.serving = None;
                self.misdeeds.extend(misdeed);
            }
        }
        if let Some(protocol) = self.wanted.pop_front() {
            let name = Names(vec![StreamProtocol::new(protocol.name())]);
            let protocol = SubstreamProtocol::new(name, protocol);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        match self.misdeeds.pop_front() {
            Some(misdeed) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(misdeed)),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Names, Names, (), Protocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (name, mut stream), ..
            }) => {
                let peer = self.peer;
                if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.protocol.name() == name.as_ref()) {
                    stream.ignore_for_keep_alive();
                    lane.serving = Some(Serving::new(lane.protocol, peer, stream, lane.handled.clone()));
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: (_, mut stream), info }) => {
                if let Some(lane) = self.lane(info) {
                    stream.ignore_for_keep_alive();
                    lane.asking.opened(stream);
                }
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let is_unsupported = match &error {
                    StreamUpgradeError::NegotiationFailed => true,
                    StreamUpgradeError::Io(error) => error_text::is_unsupported(error),
                    StreamUpgradeError::Timeout => false,
                    StreamUpgradeError::Apply(never) => match *never {},
                };
                if let Some(lane) = self.lane(info) {
                    lane.asking.fail(|peer, protocol| match is_unsupported {
                        true => NetError::Unsupported { peer, protocol: protocol.name() },
                        false => NetError::Broken { peer },
                    });
                }
            }
            _ => (),
        }
    }
}
