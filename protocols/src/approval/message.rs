//! Wire types of the approval protocol, and the signature over a promise.

use std::time::Duration;

use ed25519_dalek::{Signer, SigningKey, Verifier, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::capacity::{Requirement, Resource, Unmet};
use crate::ids::{BootId, Digest, Incarnation, JobId, LeaseId, MemberId, Nonce, PeerId, QuorumId};
use crate::wire;

/// What a peer is asked to take on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// Be a voter of this quorum, or a standby that can become one.
    Member { quorum: QuorumId },
    /// Keep one column of the object that this run stores, as this writer fills it.
    Holder { job: JobId, writer: Writer },
    /// Run tasks of this quorum's jobs, as many at a time as the requirement has room for. A node has one such lease
    /// per quorum: whoever may manage it and asks again gets the same one, grown to what is asked for.
    Worker { quorum: QuorumId },
    /// Be a voter of a quorum that the asker is about to found. Its id will be the digest of this nonce and of all its
    /// voters, who are known once they have approved.
    Founding { nonce: Nonce },
}

/// Who may fill the column that a holder promises. The holder believes the connection that pieces come over, and never
/// that their sender knows the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Writer {
    /// This peer sends the pieces, up to the bytes that the holder set aside.
    Uploader(PeerId),
    /// Likewise, of a file whose length nobody knows: the holder sets more aside as pieces come, while it has room.
    Streamer(PeerId),
    /// Nobody sends pieces: a voter of the quorum that owns the run has the column rebuilt.
    Quorum,
}

impl Writer {
    /// The peer that sends the pieces, if any does.
    pub fn peer(self) -> Option<PeerId> {
        match self {
            Self::Uploader(peer) | Self::Streamer(peer) => Some(peer),
            Self::Quorum => None,
        }
    }
    /// The same with another peer that sends the pieces.
    pub fn with_peer(self, peer: PeerId) -> Self {
        match self {
            Self::Uploader(_) => Self::Uploader(peer),
            Self::Streamer(_) => Self::Streamer(peer),
            Self::Quorum => Self::Quorum,
        }
    }
}

impl Requirement {
    /// Stands for it in a [`Statement`].
    pub fn digest(&self) -> Digest {
        Digest(*blake3::hash(&wire::encode(self)).as_bytes())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    pub subject: Subject,
    /// What the subject needs. The approver reserves all of it, or refuses. What a member needs it knows itself.
    pub requirement: Requirement,
    pub nonce: Nonce,
    /// How long the lease lasts once it is used; unused it ends after `UNUSED_LEASE_MAX`.
    pub duration: Duration,
}

/// What is signed. Every field matters: leave one out and an approval can be replayed for something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    pub asker: PeerId,
    pub approver: PeerId,
    pub incarnation: Incarnation,
    pub boot: BootId,
    pub subject: Subject,
    pub requirement: Digest,
    pub nonce: Nonce,
    pub duration: Duration,
    pub lease: LeaseId,
}

/// A signed promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub statement: Statement,
    pub signature: Signature,
}

/// An ed25519 signature; two halves, because serde derives arrays up to 32 bytes. As text it is 128 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature(pub [u8; 32], pub [u8; 32]);

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(&format_args!("{}{}", hex::encode(self.0), hex::encode(self.1))),
            false => (self.0, self.1).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <([u8; 32], [u8; 32])>::deserialize(deserializer).map(|(first, second)| Self(first, second));
        }
        let (mut first, mut second) = ([0; 32], [0; 32]);
        let text = String::deserialize(deserializer)?;
        let halves = text.split_at_checked(64).unwrap_or_default();
        hex::decode_to_slice(halves.0, &mut first)
            .and_then(|()| hex::decode_to_slice(halves.1, &mut second))
            .map_err(|_| serde::de::Error::custom("a signature has 128 hex digits"))?;
        Ok(Self(first, second))
    }
}

/// Keeps a signature for one purpose from being read as one for another.
const APPROVAL_DOMAIN: &[u8] = b"quorate approval 1\0";

impl Signature {
    /// Signs `domain` followed by the encoded value.
    pub fn sign<T: Serialize>(key: &SigningKey, domain: &[u8], value: &T) -> Self {
        let bytes = key.sign(&[domain, &wire::encode(value)].concat()).to_bytes();
        let (mut first, mut second) = ([0; 32], [0; 32]);
        first.copy_from_slice(&bytes[..32]);
        second.copy_from_slice(&bytes[32..]);
        Self(first, second)
    }
    /// Whether `signer` signed `domain` followed by the encoded value.
    pub fn verifies<T: Serialize>(&self, signer: PeerId, domain: &[u8], value: &T) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(signer.as_bytes()) else { return false };
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.0);
        bytes[32..].copy_from_slice(&self.1);
        key.verify(&[domain, &wire::encode(value)].concat(), &ed25519_dalek::Signature::from_bytes(&bytes)).is_ok()
    }
}

impl Approval {
    pub fn sign(key: &SigningKey, statement: Statement) -> Self {
        let signature = Signature::sign(key, APPROVAL_DOMAIN, &statement);
        Self { statement, signature }
    }
    /// The approver, in the life in which it promised.
    pub fn member(&self) -> MemberId {
        MemberId { peer: self.statement.approver, incarnation: self.statement.incarnation }
    }
    /// Whether the named approver signed exactly this statement. Says nothing about expiry or fitness.
    pub fn is_genuine(&self) -> bool {
        self.signature.verifies(self.statement.approver, APPROVAL_DOMAIN, &self.statement)
    }
}

/// Why a peer will not. Names what was asked and what there is, so that a person can act on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error(
        "{scope} has {} left of {}, and {}",
        resource.amount(*available),
        resource.number(*limit),
        resource.needed(*needed, false)
    )]
    Resources { scope: String, resource: Resource, needed: u64, available: u64, limit: u64 },
    #[error(transparent)]
    Unmet(#[from] Unmet),
    #[error("the node is draining and takes on nothing new")]
    Draining,
    #[error("the asker already holds {held} leases here, the most allowed")]
    TooManyLeases { held: usize },
    #[error("it has a promise out for this already")]
    AlreadyPromised,
    #[error("it has no such lease: the lease ended, or the node restarted")]
    UnknownLease,
    #[error("this lease is not the asking peer's to change")]
    NotAllowed,
    #[error("{reason}")]
    Unfit { reason: String },
    /// One of the two does not rely on the other.
    #[error("only trusted peers are relied on: {reason}")]
    Untrusted { reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApprovalMessage {
    /// Reserve and promise.
    Ask(ApprovalRequest),
    /// "I heard your announcement and could take this on": asks nothing, promises nothing.
    Offer { subject: Subject },
    /// Extend a lease by `duration` from now.
    Renew { lease: LeaseId, duration: Duration },
    /// Give a lease back.
    Release { lease: LeaseId },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApprovalAnswer {
    Granted(Approval),
    Refused(Refusal),
    /// The offer, renewal or release was noted.
    Acknowledged,
}
