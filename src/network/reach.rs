//! Dial policy: which addresses this node dials at all, and how many peers that it has never met.
//!
//! Addresses come from others: from identify, from the hash table, from mDNS. A node that dialled them all could be
//! made to knock at any port of the network that it stands in. So it dials only where a peer of its own kind can be:
//!
//! | address | dialled |
//! |---|---|
//! | given by the operator (bootstrap) | always |
//! | public | always |
//! | private, or of the local link | while this node itself listens on such a one |
//! | of this machine | while this node listens on nothing else, or the operator gave one |
//!
//! A name is looked up first: the rows are for what it stands for. Peers that this node knows are dialled freely; for
//! strangers there is a budget, [`STRANGERS_MAX`] at once and one more per [`STRANGER_PAUSE`], whoever names them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, Transport, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::config::{STRANGER_PAUSE, STRANGERS_MAX};
use super::handle::Shared;
use crate::config::address::{Bootstrap, from_libp2p};

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Public,
    Private,
    LocalLink,
    ThisMachine,
}

impl Kind {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

fn kind_of(ip: IpAddr) -> Kind {
    match ip.to_canonical() {
        ip if ip.is_loopback() || ip.is_unspecified() => Kind::ThisMachine,
        IpAddr::V4(ip) if ip.is_link_local() => Kind::LocalLink,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Kind::LocalLink,
        IpAddr::V4(ip) if ip.is_private() || is_shared(ip) || ip.is_broadcast() => Kind::Private,
        IpAddr::V6(ip) if ip.is_unique_local() => Kind::Private,
        _ => Kind::Public,
    }
}

/// The range that providers share among their customers (100.64.0.0/10).
const fn is_shared(ip: Ipv4Addr) -> bool {
    ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64
}

/// The address and port at the beginning of a multiaddr, when it is no name.
fn socket_of(address: &Multiaddr) -> Option<(IpAddr, u16)> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Part::Ip4(ip) => IpAddr::V4(ip),
        Part::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let port = match parts.next() {
        Some(Part::Tcp(port) | Part::Udp(port)) => port,
        _ => 0,
    };
    Some((ip, port))
}

pub(super) struct Reach {
    given: BTreeSet<(IpAddr, u16)>,
    /// Kinds that this node listens on.
    own: AtomicU8,
}

impl Reach {
    pub fn new(bootstrap: &[Bootstrap]) -> Self {
        let given = bootstrap.iter().filter_map(|bootstrap| socket_of(&bootstrap.to_multiaddr())).collect();
        Self { given, own: AtomicU8::new(0) }
    }

    /// This node is found at these addresses now.
    pub fn set_own<'a>(&self, addresses: impl Iterator<Item = &'a Multiaddr>) {
        let kinds = addresses.filter_map(socket_of).fold(0, |kinds, (ip, _)| kinds | kind_of(ip).bit());
        self.own.store(kinds, Ordering::Relaxed);
    }

    /// Whether the address is dialled. A name is: what it stands for is asked about when that is known.
    pub fn allows(&self, address: &Multiaddr) -> bool {
        let Some((ip, port)) = socket_of(address) else { return true };
        if self.given.contains(&(ip, port)) {
            return true;
        }
        let own = self.own.load(Ordering::Relaxed);
        match kind_of(ip) {
            Kind::Public => true,
            Kind::ThisMachine => {
                own == Kind::ThisMachine.bit() || self.given.iter().any(|(ip, _)| kind_of(*ip) == Kind::ThisMachine)
            }
            kind => own & kind.bit() != 0,
        }
    }
}

/// A transport that dials only what is allowed. Stands below name resolution.
pub(super) struct Reaching<T> {
    pub transport: T,
    pub reach: Arc<Reach>,
}

impl<T: Transport + Unpin> Transport for Reaching<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.transport.listen_on(id, address)
    }
    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.transport.remove_listener(id)
    }
    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<T::Error>> {
        match self.reach.allows(&address) {
            true => self.transport.dial(address, options),
            false => Err(TransportError::MultiaddrNotSupported(address)),
        }
    }
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Pin::new(&mut self.transport).poll(context)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("too many strangers were dialled just now")]
pub(super) struct TooManyStrangers;

/// Dials of strangers that are left, as the time by which those made are paid for.
struct Budget {
    spent_until: Instant,
}

impl Budget {
    fn draw(&mut self, now: Instant) -> bool {
        let from = self.spent_until.max(now);
        if from.duration_since(now) > (STRANGERS_MAX - 1) * STRANGER_PAUSE {
            return false;
        }
        self.spent_until = from + STRANGER_PAUSE;
        true
    }
}

/// The budget as a behaviour, which sees every dial before it begins, those of the hash table's own queries too.
pub(super) struct Strangers {
    shared: Arc<Shared>,
    reach: Arc<Reach>,
    budget: Budget,
}

impl Strangers {
    pub fn new(shared: Arc<Shared>, reach: Arc<Reach>) -> Self {
        Self { shared, reach, budget: Budget { spent_until: Instant::now() } }
    }
}

impl NetworkBehaviour for Strangers {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        // An address without a peer is one that the operator gave.
        let Some(peer) = peer else { return Ok(Vec::new()) };
        let given = |address: &Multiaddr| socket_of(address).is_some_and(|socket| self.reach.given.contains(&socket));
        let is_known = from_libp2p(&peer).is_some_and(|peer| self.shared.knows(peer));
        if is_known || addresses.iter().any(given) || self.budget.draw(Instant::now()) {
            return Ok(Vec::new());
        }
        Err(ConnectionDenied::new(TooManyStrangers))
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(own: &[&str], given: &[&str], asked: &[&str]) -> Vec<bool> {
        let given: Vec<Bootstrap> = given.iter().map(|text| text.parse().unwrap()).collect();
        let reach = Reach::new(&given);
        let own: Vec<Multiaddr> = own.iter().map(|text| text.parse().unwrap()).collect();
        reach.set_own(own.iter());
        asked.iter().map(|text| reach.allows(&text.parse().unwrap())).collect()
    }

    const ASKED: [&str; 9] = [
        "/ip4/203.0.113.9/tcp/7420",
        "/ip4/192.168.1.1/tcp/80",
        "/ip4/169.254.169.254/tcp/80",
        "/ip4/127.0.0.1/tcp/6379",
        "/ip6/::1/tcp/22",
        "/ip6/::ffff:10.0.0.1/tcp/22",
        "/ip6/fd00::1/tcp/22",
        "/ip4/100.64.3.4/tcp/22",
        "/dns/a.example/tcp/7420",
    ];

    #[test]
    fn a_node_dials_the_kinds_of_addresses_that_it_has() {
        let (yes, no) = (true, false);
        let server = allowed(&["/ip4/198.51.100.1/tcp/1"], &[], &ASKED);
        assert_eq!(server, [yes, no, no, no, no, no, no, no, yes]);
        let home = allowed(&["/ip4/192.168.1.7/tcp/1", "/ip4/127.0.0.1/tcp/1"], &[], &ASKED);
        assert_eq!(home, [yes, yes, no, no, no, yes, yes, yes, yes]);
        let testnet = allowed(&["/ip4/127.0.0.1/tcp/1"], &[], &ASKED);
        assert_eq!(testnet, [yes, no, no, yes, yes, no, no, no, yes]);
    }

    #[test]
    fn what_the_operator_gave_is_dialled() {
        let own = ["/ip4/198.51.100.1/tcp/1"];
        let asked = ["/ip4/10.0.0.5/tcp/7", "/ip4/10.0.0.5/tcp/8", "/ip4/127.0.0.1/tcp/9"];
        assert_eq!(allowed(&own, &["10.0.0.5:7"], &asked), [true, false, false]);
        assert_eq!(allowed(&own, &["127.0.0.1:7"], &asked), [false, false, true], "nodes of one machine");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_are_dialled_within_a_budget() {
        let mut budget = Budget { spent_until: Instant::now() };
        let drawn =
            |budget: &mut Budget| (0..10 * STRANGERS_MAX).filter(|_| budget.draw(Instant::now())).count() as u32;
        assert_eq!(drawn(&mut budget), STRANGERS_MAX);
        tokio::time::advance(3 * STRANGER_PAUSE / 2).await;
        assert_eq!(drawn(&mut budget), 1);
        tokio::time::advance(STRANGER_PAUSE / 2).await;
        assert_eq!(drawn(&mut budget), 1, "halves add up");
        tokio::time::advance(1000 * STRANGERS_MAX * STRANGER_PAUSE).await;
        assert_eq!(drawn(&mut budget), STRANGERS_MAX, "unused time is not saved without end");
    }
}
