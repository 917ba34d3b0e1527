//! Messages of the hash table's protocol, as bytes: an unsigned varint of the length, then the protobuf message of the
//! libp2p Kademlia specification. Only what an attack sends is here.

use libp2p::Multiaddr;
use quorate_protocols::ids::PeerId;

use super::protobuf::{field, framed};

pub const PROTOCOL: &str = "/quorate/kad/1";

const PUT_VALUE: u8 = 0;
const ADD_PROVIDER: u8 = 2;

fn message(kind: u8, key: &[u8], rest: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = vec![1 << 3, kind];
    field(2, key, &mut body);
    rest(&mut body);
    framed(&body)
}

/// "This peer can answer for the key, at these addresses."
pub fn add_provider(key: &[u8], provider: PeerId, addresses: &[Multiaddr]) -> Vec<u8> {
    message(ADD_PROVIDER, key, |body| {
        let mut peer = Vec::new();
        field(1, &provider.to_multihash_bytes(), &mut peer);
        addresses.iter().for_each(|address| field(2, &address.to_vec(), &mut peer));
        field(9, &peer, body);
    })
}

/// "Keep this value under the key."
pub fn put_value(key: &[u8], value: &[u8]) -> Vec<u8> {
    message(PUT_VALUE, key, |body| {
        let mut record = Vec::new();
        field(1, key, &mut record);
        field(2, value, &mut record);
        field(3, &record, body);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_record_has_the_bytes_of_the_specification() {
        let bytes = add_provider(&[7; 16], PeerId([5; 32]), &["/ip4/10.0.0.1/tcp/9".parse().unwrap()]);
        // Length, type, key, provider { id, one address of eight bytes }.
        assert_eq!(bytes[..5], [(bytes.len() - 1) as u8, 0x08, 2, 0x12, 16]);
        assert_eq!(bytes[21..25], [0x4a, 50, 0x0a, 38]);
        assert_eq!(bytes.len(), 1 + 2 + 2 + 16 + 2 + 2 + 38 + 2 + 8);
    }
}
