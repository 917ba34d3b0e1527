//! The transport of a connection: TCP, then Noise with the network's secret in its prologue, then Yamux; QUIC beside it
//! when an allow list admits peers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::Either;
use futures::io::BufReader;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{
    Boxed, DialOpts, ListenerId, OptionalTransport, PortUse, Transport, TransportError, TransportEvent,
};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, dns, noise, quic, tcp};

use super::NetworkError;
use super::coalesce::GatheredNoise;
use super::reach::{Reach, Reaching};
use super::yamux::Yamux;
use crate::identity::NetworkSecret;

/// From the first packet to a multiplexed, authenticated connection. A stalled peer must not hold a dial for long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes taken from a socket at once: an encrypted frame. The layer above asks for 8 KiB at a time.
const READ_BYTES: usize = 64 * 1024;

/// The secret itself never enters the handshake: what does is bound to this one use.
const PROLOGUE_CONTEXT: &str = "quorate 1 noise prologue of a network secret";

pub(super) fn build(
    keypair: &Keypair,
    secret: &NetworkSecret,
    with_quic: bool,
    reach: Arc<Reach>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetworkError> {
    let crypto = |error: noise::Error| NetworkError::Crypto { reason: error.to_string() };
    let prologue = blake3::derive_key(PROLOGUE_CONTEXT, secret.as_bytes()).to_vec();
    let noise = noise::Config::new(keypair).map_err(crypto)?.with_prologue(prologue);
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
    let tcp = FreshPorts(tcp).map(|socket, _| BufReader::with_capacity(READ_BYTES, socket));
    let noise = GatheredNoise(noise);
    let tcp = tcp.upgrade(Version::V1Lazy).authenticate(noise).multiplex(Yamux).timeout(CONNECT_TIMEOUT);
    let quic = match with_quic {
        true => OptionalTransport::some(quic::tokio::Transport::new(quic::Config::new(keypair))),
        false => OptionalTransport::none(),
    };
    let either = tcp.or_transport(quic).map(|output, _| match output {
        Either::Left((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
        Either::Right((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
    });
    let either = Reaching { transport: either, reach };
    // Names resolve with the machine's own settings; one without any can still dial addresses.
    Ok(match dns::tokio::Transport::system(either) {
        Ok(named) => named.boxed(),
        Err(error) => {
            return Err(NetworkError::Resolver { reason: error.to_string() });
        }
    })
}

/// Dials from a fresh port each time. Dialling from the listening port would let two nodes that dial each other at the
/// same moment open one and the same TCP connection from both ends, in which neither is the listener and the handshake
/// fails; and it would make the redial of a killed peer collide with the remains of the old connection.
struct FreshPorts<T>(T);

impl<T: Transport + Unpin> Transport for FreshPorts<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.0.listen_on(id, address)
    }
    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }
    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<T::Error>> {
        self.0.dial(address, DialOpts { port_use: PortUse::New, ..options })
    }
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Pin::new(&mut self.0).poll(context)
    }
}
