//! Texts of libp2p's errors, which say what to do.

use std::io;

use libp2p::core::transport::TransportError;
use libp2p::swarm::DialError;
use libp2p::{Multiaddr, allow_block_list, connection_limits};

use super::config::IDENTIFY_VERSION;

/// What a failed dial means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DialFault {
    /// At every address tried, nothing listens.
    Refused,
    /// The address is this node's own.
    Own,
    /// Another peer than expected answers there.
    WrongPeer,
    /// No address is known.
    NoAddress,
    /// The peer there belongs to another network.
    WrongSecret {
        at: String,
    },
    /// The peer there says of itself something else than this node does.
    Version {
        theirs: String,
    },
    /// The peer closed the connection before it said what it is.
    ClosedAtOnce,
    /// Another dial to the same peer goes on, or this node closed it.
    Superseded,
    Other {
        reason: String,
    },
}

impl std::fmt::Display for DialFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused => f.write_str("nobody listens there"),
            Self::Own => f.write_str("the address is this node's own"),
            Self::WrongPeer => f.write_str("another peer answers at its address"),
            Self::NoAddress => f.write_str("no address is known"),
            Self::WrongSecret { at } => {
                write!(f, "the peer at {at} belongs to another network: its secret differs")
            }
            Self::ClosedAtOnce => {
                f.write_str("it closed the connection at once: it is full, ended, or does not let this node in")
            }
            Self::Version { theirs } => {
                write!(f, "its version of quorate does not fit this one: it says {theirs:?}, not {IDENTIFY_VERSION:?}")
            }
            Self::Superseded => f.write_str("the attempt was given up for another"),
            Self::Other { reason } => f.write_str(reason),
        }
    }
}

pub(super) fn dial_fault(error: &DialError) -> DialFault {
    match error {
        DialError::LocalPeerId { .. } => DialFault::Own,
        DialError::NoAddresses => DialFault::NoAddress,
        DialError::DialPeerConditionFalse(_) | DialError::Aborted => DialFault::Superseded,
        DialError::WrongPeerId { .. } => DialFault::WrongPeer,
        DialError::Denied { cause } => {
            let known = cause.downcast_ref::<allow_block_list::NotAllowed>().is_some();
            let shut_out = cause.downcast_ref::<allow_block_list::Blocked>().is_some();
            let reason = match (known, shut_out, cause.downcast_ref::<connection_limits::Exceeded>()) {
                (true, _, _) => "it is not in network.allow_peers".to_owned(),
                (_, true, _) => "it is shut out for its misbehaviour".to_owned(),
                (_, _, Some(exceeded)) => exceeded.to_string(),
                _ => cause.to_string(),
            };
            DialFault::Other { reason }
        }
        DialError::Transport(attempts) => transport_fault(attempts),
    }
}

fn transport_fault(attempts: &[(Multiaddr, TransportError<io::Error>)]) -> DialFault {
    if attempts.is_empty() {
        return DialFault::NoAddress;
    }
    let refused = |error: &TransportError<io::Error>| matches!(error, TransportError::Other(error) if io_kind(error) == Some(io::ErrorKind::ConnectionRefused));
    // An address that this node does not dial says nothing of the peer.
    let mut tried = attempts.iter().map(|(_, error)| error).filter(|error| !is_unsupported_address(error)).peekable();
    if tried.peek().is_some() && tried.all(refused) {
        return DialFault::Refused;
    }
    // The most telling failure speaks for all: a handshake got further than a connection that was not made.
    let faults = attempts.iter().map(|(at, error)| address_fault(at, error));
    faults.max_by_key(|(telling, _)| *telling).map(|(_, fault)| fault).unwrap_or(DialFault::NoAddress)
}

/// Name resolution, which stands above the transports, puts their refusal into an error of its own.
fn is_unsupported_address(error: &TransportError<io::Error>) -> bool {
    match error {
        TransportError::MultiaddrNotSupported(_) => true,
        TransportError::Other(error) => format!("{error:?}").contains("MultiaddrNotSupported"),
    }
}

fn address_fault(at: &Multiaddr, error: &TransportError<io::Error>) -> (u8, DialFault) {
    let at = plain(at);
    let unsupported = || (0, DialFault::Other { reason: format!("{at} is not an address that this node dials") });
    let error = match error {
        _ if is_unsupported_address(error) => return unsupported(),
        TransportError::MultiaddrNotSupported(_) => return unsupported(),
        TransportError::Other(error) => error,
    };
    // libp2p boxes these errors in layers that differ by transport; their names are all that they have in common.
    let text = format!("{error:?}");
    if text.contains("Decrypt") {
        return (4, DialFault::WrongSecret { at });
    }
    let negotiation = ["Negotiat", "ProtocolError", "InvalidMessage", "Handshake", "Noise", "Muxer"];
    if negotiation.iter().any(|name| text.contains(name)) {
        return (3, DialFault::Other { reason: format!("what answers at {at} is not a quorate node") });
    }
    match io_kind(error) {
        Some(io::ErrorKind::ConnectionRefused) => (1, DialFault::Other { reason: format!("nobody listens at {at}") }),
        Some(io::ErrorKind::TimedOut) => (2, DialFault::Other { reason: format!("{at} does not answer") }),
        Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => (
            3,
            DialFault::Other {
                reason: format!(
                    "{at} closed the connection: it is full, shuts this node out, or is not a quorate node"
                ),
            },
        ),
        _ => (2, DialFault::Other { reason: format!("{at} cannot be reached: {error}") }),
    }
}

/// Why this node cannot listen.
pub(super) fn listen_fault(error: &TransportError<io::Error>) -> String {
    match error {
        TransportError::MultiaddrNotSupported(address) => format!("{address} is not a kind of address to listen on"),
        TransportError::Other(error) => match io_kind(error) {
            Some(io::ErrorKind::AddrInUse) => "another program listens there already".to_owned(),
            Some(io::ErrorKind::AddrNotAvailable) => "the machine has no such address".to_owned(),
            Some(io::ErrorKind::PermissionDenied) => "the system does not allow it (ports below 1024?)".to_owned(),
            _ => error.to_string(),
        },
    }
}

/// Whether a stream failed because the peer does not know its protocol, which shows only when its first bytes are read.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    format!("{error:?}").contains("Failed")
}

/// The kind of the innermost I/O error.
fn io_kind(error: &io::Error) -> Option<io::ErrorKind> {
    let mut kind = Some(error.kind()).filter(|kind| *kind != io::ErrorKind::Other);
    let mut cause: Option<&(dyn std::error::Error + 'static)> =
        error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(inner) = cause {
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            if inner.kind() != io::ErrorKind::Other {
                kind = Some(inner.kind());
            } else if let Some(nested) = inner.get_ref() {
                cause = Some(nested);
                continue;
            }
        }
        cause = inner.source();
    }
    if kind.is_none() {
        let text = format!("{error:?}");
        kind = [
            ("AddrInUse", io::ErrorKind::AddrInUse),
            ("AddrNotAvailable", io::ErrorKind::AddrNotAvailable),
            ("PermissionDenied", io::ErrorKind::PermissionDenied),
            ("ConnectionRefused", io::ErrorKind::ConnectionRefused),
            ("UnexpectedEof", io::ErrorKind::UnexpectedEof),
            ("ConnectionReset", io::ErrorKind::ConnectionReset),
            ("Timeout", io::ErrorKind::TimedOut),
            ("TimedOut", io::ErrorKind::TimedOut),
        ]
        .into_iter()
        .find_map(|(name, kind)| text.contains(name).then_some(kind));
    }
    kind
}

/// `host:port` where that says it all, the multiaddr where not.
pub(super) fn plain(address: &Multiaddr) -> String {
    use libp2p::multiaddr::Protocol as Part;
    let parts: Vec<_> = address.iter().filter(|part| !matches!(part, Part::P2p(_))).collect();
    match parts.as_slice() {
        [Part::Ip4(ip), Part::Tcp(port)] => format!("{ip}:{port}"),
        [Part::Ip6(ip), Part::Tcp(port)] => format!("[{ip}]:{port}"),
        [Part::Dns(name) | Part::Dns4(name) | Part::Dns6(name), Part::Tcp(port)] => format!("{name}:{port}"),
        _ => address.to_string(),
    }
}
