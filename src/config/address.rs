//! Addresses as people write them, and as libp2p dials them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use quorate_protocols::ids::PeerId;
use quorate_protocols::text::excerpt;

/// Longer than any host name with a port, and than any multiaddr that quorate dials.
const ADDRESS_BYTES_MAX: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("{found:?} is not an address: expected host:port, such as \"192.168.1.4:7420\"")]
    Shape { found: String },
    #[error("{found:?} has no usable port: expected a number from 1 to 65535 after the colon")]
    Port { found: String },
    #[error("{found:?} is not a multiaddr with an IP address or name and a TCP port (or UDP and QUIC)")]
    Multiaddr { found: String },
}

/// `host:port`, with the host a name or an IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicAddress {
    host: String,
    port: u16,
}

impl PublicAddress {
    pub fn to_multiaddr(&self) -> Multiaddr {
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => Part::Ip4(ip),
            Ok(IpAddr::V6(ip)) => Part::Ip6(ip),
            Err(_) => Part::Dns(self.host.as_str().into()),
        };
        Multiaddr::empty().with(host).with(Part::Tcp(self.port))
    }
}

impl fmt::Display for PublicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for PublicAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let found = || excerpt(text);
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(AddressError::Shape { found: found() });
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| AddressError::Shape { found: found() })?;
        let port = match port.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => return Err(AddressError::Port { found: found() }),
        };
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(ip) if ip.parse::<std::net::Ipv6Addr>().is_ok() => ip,
            Some(_) => return Err(AddressError::Shape { found: found() }),
            None => host,
        };
        let is_name = |host: &str| {
            !host.is_empty()
                && host.len() <= 253
                && host.split('.').all(|label| !label.is_empty() && label.len() <= 63)
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if host.parse::<IpAddr>().is_err() && !is_name(host) {
            return Err(AddressError::Shape { found: found() });
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// A node to start from: an address whose peer id is not known, or a multiaddr that may say who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    Address(PublicAddress),
    Multiaddr { address: Multiaddr, peer: Option<PeerId> },
}

impl Bootstrap {
    /// The address to dial, without a peer id.
    pub fn to_multiaddr(&self) -> Multiaddr {
        match self {
            Self::Address(address) => address.to_multiaddr(),
            Self::Multiaddr { address, .. } => address.clone(),
        }
    }
    pub fn peer(&self) -> Option<PeerId> {
        match self {
            Self::Address(_) => None,
            Self::Multiaddr { peer, .. } => *peer,
        }
    }
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Multiaddr { address, peer: None } => address.fmt(f),
            Self::Multiaddr { address, peer: Some(peer) } => write!(f, "{address}/p2p/{peer}"),
        }
    }
}

impl FromStr for Bootstrap {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if !text.starts_with('/') {
            return text.parse().map(Self::Address);
        }
        let fault = || AddressError::Multiaddr { found: excerpt(text) };
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(fault());
        }
        let mut address: Multiaddr = text.parse().map_err(|_| fault())?;
        let mut peer = None;
        if let Some(Part::P2p(id)) = address.iter().last() {
            peer = Some(from_libp2p(&id).ok_or_else(fault)?);
            address.pop();
        }
        if !is_dialable(&address) {
            return Err(fault());
        }
        Ok(Self::Multiaddr { address, peer })
    }
}

/// Whether this is an address that quorate dials: an IP address or a name, then TCP, or UDP and QUIC; a port that is
/// not zero and nothing else. Relays, web sockets and unspecified addresses are not.
pub fn is_dialable(address: &Multiaddr) -> bool {
    let parts: Vec<Part<'_>> = address.iter().take(5).collect();
    let host = |part: &Part<'_>| match part {
        Part::Ip4(ip) => !ip.is_unspecified() && !ip.is_multicast(),
        Part::Ip6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
        Part::Dns(name) | Part::Dns4(name) | Part::Dns6(name) => !name.is_empty() && name.len() <= 253,
        _ => false,
    };
    match parts.as_slice() {
        [first, Part::Tcp(port)] => host(first) && *port != 0,
        [first, Part::Udp(port), Part::QuicV1] => host(first) && *port != 0,
        _ => false,
    }
}

pub(crate) fn tcp_listen(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Part::Tcp(address.port()))
}

pub(crate) fn quic_listen(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Part::Udp(address.port())).with(Part::QuicV1)
}

pub(crate) fn to_libp2p(peer: PeerId) -> Option<libp2p::PeerId> {
    // Any 32 bytes that are not a point of the curve still make a well-formed id; nobody can prove to own it.
    libp2p::PeerId::from_bytes(&peer.to_multihash_bytes()).ok()
}

pub(crate) fn from_libp2p(peer: &libp2p::PeerId) -> Option<PeerId> {
    PeerId::from_multihash_bytes(&peer.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_what_they_print() {
        let peer = PeerId([5; 32]);
        for text in [
            "192.168.1.4:7420",
            "box.local:1",
            "[::1]:7420",
            "/ip4/10.0.0.1/tcp/7420",
            &format!("/dns/a.example/udp/9/quic-v1/p2p/{peer}"),
        ] {
            let address: Bootstrap = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert!(is_dialable(&address.to_multiaddr()), "{text}");
        }
        assert_eq!("[::1]:7420".parse::<Bootstrap>().unwrap().to_multiaddr().to_string(), "/ip6/::1/tcp/7420");
    }

    #[test]
    fn what_nobody_can_dial_is_refused() {
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:70000",
            ":7420",
            "a b:1",
            "[zz]:1",
            "a..b:1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/10.0.0.1/tcp/0",
            "/ip4/10.0.0.1",
            "/ip4/10.0.0.1/tcp/1/ws",
            "/memory/7",
            "/nonsense",
        ] {
            assert!(text.parse::<Bootstrap>().is_err(), "{text}");
        }
    }
}
