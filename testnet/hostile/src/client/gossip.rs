//! Gossip as bytes: announcements of the libp2p gossipsub specification, on a stream that is written by hand.
//!
//! gossipsub's own sender keeps to what an honest peer does: it drops what its queue has no room for, sends to those
//! alone that said they listen, and gives up a stream that broke five times. Nothing here holds an attack back, and
//! whoever sends an announcement need not be its author.

use ed25519_dalek::{Signer, SigningKey};
use futures::AsyncWriteExt;
use libp2p::Stream;
use quorate_protocols::ids::PeerId;

use super::protobuf::{field, framed};
use super::{Client, ClientError};

pub const PROTOCOL: &str = "/meshsub/1.1.0";

const SIGNING_PREFIX: &[u8] = b"libp2p-pubsub:";

/// A frame with one announcement. No author may use a number twice.
pub fn announcement(author: &SigningKey, number: u64, topic: &str, data: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(data.len() + 256);
    field(1, &PeerId(author.verifying_key().to_bytes()).to_multihash_bytes(), &mut message);
    field(2, data, &mut message);
    field(3, &number.to_be_bytes(), &mut message);
    field(4, topic.as_bytes(), &mut message);
    let signature = author.sign(&[SIGNING_PREFIX, &message].concat());
    field(5, &signature.to_bytes(), &mut message);
    let mut frame = Vec::with_capacity(message.len() + 8);
    field(2, &message, &mut frame);
    framed(&frame)
}

/// One end of a stream of gossip. A node reads the newest that a peer opened.
pub struct RawGossip {
    stream: Stream,
}

impl RawGossip {
    /// Of a client that has no gossip of its own ([`Client::start_without_gossip`]), which would open another.
    pub async fn open(client: &Client, peer: PeerId) -> Result<Self, ClientError> {
        Ok(Self { stream: client.open(peer, PROTOCOL).await? })
    }

    pub async fn write(&mut self, frames: &[u8]) -> Result<(), ClientError> {
        self.stream.write_all(frames).await?;
        Ok(self.stream.flush().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signature, Verifier};

    #[test]
    fn an_announcement_has_the_bytes_of_the_specification() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let frame = announcement(&key, 0x0102, "top", b"data");
        // Length, then publish { from, data, seqno, topic, signature }.
        assert_eq!((&frame[..4], frame.len()), (&[0x81, 1, 0x12, 127][..], 2 + 2 + 127));
        let (signed, signature) = frame[4..].split_at(127 - 66);
        assert_eq!(signed[..2], [0x0a, 38]);
        assert_eq!(signed[40..], *b"\x12\x04data\x1a\x08\0\0\0\0\0\0\x01\x02\x22\x03top");
        assert_eq!(signature[..2], [0x2a, 64]);
        let signature = Signature::from_slice(&signature[2..]).unwrap();
        key.verifying_key().verify(&[SIGNING_PREFIX, signed].concat(), &signature).unwrap();
    }
}
