//! The join line as an outsider reads it: the network's secret, and addresses of nodes.

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol as Part;

const PREFIX: &str = "quorate1-join:";

/// `quorate1-join:SECRET@host:port,host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinLine {
    pub secret: [u8; 32],
    pub addresses: Vec<String>,
}

impl std::str::FromStr for JoinLine {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or("a join line begins with quorate1-join:")?;
        let (secret, addresses) = rest.split_once('@').ok_or("a join line has an @")?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(secret, &mut bytes).map_err(|error| error.to_string())?;
        Ok(Self { secret: bytes, addresses: addresses.split(',').map(str::to_owned).collect() })
    }
}

/// `host:port`, or a multiaddr.
pub fn multiaddr(address: &str) -> Result<Multiaddr, String> {
    if address.starts_with('/') {
        return address.parse().map_err(|error: libp2p::multiaddr::Error| error.to_string());
    }
    let socket: std::net::SocketAddr = address.parse().map_err(|error| format!("{address:?}: {error}"))?;
    Ok(Multiaddr::from(socket.ip()).with(Part::Tcp(socket.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_line_is_read() {
        let line = format!("quorate1-join:{}@127.0.0.1:7,[::1]:9", "ab".repeat(32));
        let join: JoinLine = line.parse().unwrap();
        assert_eq!(join, JoinLine { secret: [0xab; 32], addresses: vec!["127.0.0.1:7".into(), "[::1]:9".into()] });
        assert_eq!(multiaddr("[::1]:9").unwrap().to_string(), "/ip6/::1/tcp/9");
        assert!("quorate1-join:ab@x:1".parse::<JoinLine>().is_err());
    }
}
