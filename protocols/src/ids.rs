//! Names of things: newtypes over fixed-size bytes, ordered, hashable, and printable.
//!
//! `Display` prints the full form, which `FromStr` reads back; `Debug` prints a short form for logs. Ids that a
//! person may type (quorum, job, object) are lower-case hex joined by dots, so that one glance tells them apart:
//! a quorum is 32 digits, a job is `quorum.32 digits`, an object is `quorum.64 digits`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::excerpt;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    #[error("expected {expected} hexadecimal digits, found {found:?}")]
    Hex { expected: usize, found: String },
    #[error("{found:?} is no {what}, which looks like {shape}")]
    Shape { what: &'static str, shape: &'static str, found: String },
    #[error("not the base58 form of an ed25519 peer id: {found:?}")]
    Peer { found: String },
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let mut bytes = [0u8; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError::Hex { expected: 2 * N, found: excerpt(text) })?;
    Ok(bytes)
}

/// Serializes as text where people read (JSON, TOML), as bytes where machines do (bincode).
macro_rules! text_or_bytes {
    ($name:ident, $bytes:ty, $from:expr, $to:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    let to: fn(&$name) -> $bytes = $to;
                    to(self).serialize(serializer)
                }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    let from: fn($bytes) -> $name = $from;
                    Ok(from(<$bytes>::deserialize(deserializer)?))
                }
            }
        }
    };
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $debug:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            pub const LEN: usize = $len;
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($debug, "{}"), hex::encode(&self.0[..4]))
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self)
            }
        }
        text_or_bytes!($name, [u8; $len], Self, |id: &Self| id.0);
    };
}

byte_id!(
    /// A quorum: the first 16 bytes of a digest over its founding ([`crate::certificate`]).
    QuorumId, 16, "q:"
);
byte_id!(
    /// BLAKE3 of one piece's bytes.
    PieceHash, 32, "piece:"
);
byte_id!(
    /// BLAKE3 of an encoded manifest: the content half of an object's name.
    ManifestHash, 32, "m:"
);
byte_id!(
    /// BLAKE3 of anything else: requirement digests, column digests, state digests, snapshot chunks.
    Digest, 32, "d:"
);
byte_id!(
    /// Drawn when a node's process starts; leases and liveness heartbeats name it, so that a restart is seen.
    BootId, 16, "boot:"
);
byte_id!(
    /// 16 random bytes that make one question unlike any other.
    Nonce, 16, "n:"
);
byte_id!(
    /// The reservation behind an approval, named by its approver.
    LeaseId, 16, "lease:"
);

/// A node of the network, as others see it: its ed25519 public key. Always learnt from the transport or from a
/// verified signature, never from a field that a sender filled in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PeerId(pub [u8; 32]);

/// libp2p's text form of an ed25519 peer id is base58 over an identity multihash (0x00, length 0x24) of a protobuf
/// public key (field 1 = ed25519, field 2 = 32 bytes). See the libp2p peer-ids specification.
const PEER_MULTIHASH_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl PeerId {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    /// The multihash bytes that libp2p calls a peer id.
    pub fn to_multihash_bytes(self) -> [u8; 38] {
        let mut bytes = [0u8; 38];
        bytes[..6].copy_from_slice(&PEER_MULTIHASH_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        bytes
    }
    /// Reads libp2p's multihash bytes; `None` for keys that are not ed25519.
    pub fn from_multihash_bytes(bytes: &[u8]) -> Option<Self> {
        let key = bytes.strip_prefix(&PEER_MULTIHASH_PREFIX)?;
        Some(Self(key.try_into().ok()?))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_multihash_bytes()).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_string();
        // The first eight characters are the same for every ed25519 key; the last six tell peers apart.
        write!(f, "peer:{}", &text[text.len() - 6..])
    }
}

impl FromStr for PeerId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let fault = || ParseIdError::Peer { found: excerpt(text) };
        if text.len() > 80 {
            return Err(fault());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| fault())?;
        Self::from_multihash_bytes(&bytes).ok_or_else(fault)
    }
}

text_or_bytes!(PeerId, [u8; 32], PeerId, |id: &PeerId| id.0);

/// Which life of a node's data folder: drawn when the folder is created, and again when its disk was lost. A member
/// that forgot its promises must not be mistaken for the one that made them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Incarnation {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        parse_hex(text).map(|bytes| Self(u64::from_be_bytes(bytes)))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0 >> 48)
    }
}

/// A quorum's view of a peer: who, and in which life of its disk. This is openraft's node id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct MemberId {
    pub peer: PeerId,
    pub incarnation: Incarnation,
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.peer, self.incarnation)
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}", self.peer, self.incarnation)
    }
}

/// A job: the quorum that owns it and 16 bytes of its own. The first half routes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct JobId {
    pub quorum: QuorumId,
    pub local: [u8; 16],
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.quorum, hex::encode(self.local))
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job:{}", hex::encode(&self.local[..4]))
    }
}

impl FromStr for JobId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (quorum, local) = text.split_once('.').ok_or_else(|| ParseIdError::Shape {
            what: "job id",
            shape: "<32 hex digits>.<32 hex digits>",
            found: excerpt(text),
        })?;
        Ok(Self { quorum: quorum.parse()?, local: parse_hex(local)? })
    }
}

text_or_bytes!(JobId, (QuorumId, [u8; 16]), |(quorum, local)| JobId { quorum, local }, |id: &JobId| (
    id.quorum, id.local
));

/// An object: the quorum that stewards it and the hash of its manifest. The first half routes, the second verifies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ObjectId {
    pub quorum: QuorumId,
    pub manifest: ManifestHash,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.quorum, self.manifest)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "object:{}", hex::encode(&self.manifest.0[..4]))
    }
}

impl FromStr for ObjectId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (quorum, manifest) = text.split_once('.').ok_or_else(|| ParseIdError::Shape {
            what: "object reference",
            shape: "<32 hex digits>.<64 hex digits>",
            found: excerpt(text),
        })?;
        Ok(Self { quorum: quorum.parse()?, manifest: manifest.parse()? })
    }
}

text_or_bytes!(
    ObjectId,
    (QuorumId, ManifestHash),
    |(quorum, manifest)| ObjectId { quorum, manifest },
    |id: &ObjectId| (id.quorum, id.manifest)
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A slice of an object, counted from its start.
    SegmentIndex, u32
);
number!(
    /// An erasure-coded part of a segment, counted from the first data piece. All pieces with one index are a column.
    PieceIndex, u8
);
number!(
    /// Which try of a task (or of a column's holder). Grows by one with every new assignment; older ones are fenced.
    Attempt, u32
);
number!(
    /// A stage of a run, counted from the first. Its tasks begin when those of the stage before are done.
    StepIndex, u16
);
number!(
    /// A unit of a step, given to one worker (or, under verification, to several).
    TaskIndex, u32
);
number!(
    /// Raft's term: the reign of at most one primary.
    Term, u64
);
number!(
    /// A position in a quorum's log.
    LogIndex, u64
);

/// A wall-clock instant or a span in milliseconds: since the Unix epoch where a person reads it, since the process
/// started where a core measures with it. Which of the two is said where it is used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    pub const fn plus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(duration.as_millis() as u64))
    }
    /// Time since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// Instants lie before this: the end of the year 9000, in milliseconds since the Unix epoch. Calendars end soon after.
pub const INSTANT_MAX: u64 = 221_845_391_999_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print() {
        let job = JobId { quorum: QuorumId([7; 16]), local: [9; 16] };
        assert_eq!(job.to_string().parse(), Ok(job));
        let object = ObjectId { quorum: QuorumId([7; 16]), manifest: ManifestHash([3; 32]) };
        assert_eq!(object.to_string().parse(), Ok(object));
        let peer = PeerId([5; 32]);
        assert!(peer.to_string().starts_with("12D3KooW"), "{peer}");
        assert_eq!(peer.to_string().parse(), Ok(peer));
        let json = serde_json::to_string(&object).unwrap();
        assert_eq!(serde_json::from_str::<ObjectId>(&json).unwrap(), object);
    }

    #[test]
    fn ids_refuse_texts_of_another_shape() {
        assert!("".parse::<JobId>().is_err());
        assert!("zz".parse::<QuorumId>().is_err());
        assert!("ab.cd".parse::<ObjectId>().is_err());
        assert!("12D3KooW".parse::<PeerId>().is_err());
        assert!("x".repeat(100_000).parse::<PeerId>().is_err());
    }
}
