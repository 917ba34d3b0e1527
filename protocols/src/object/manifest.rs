//! The manifest, and pieces checked against it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::layout::{Layout, Profile};
use super::limits::MANIFEST_BYTES_MAX;
use crate::ids::{Digest, ManifestHash, PieceHash, PieceIndex, SegmentIndex};
use crate::wire;

/// First byte of an encoded manifest. 1: first.
const MANIFEST_VERSION: u8 = 1;

/// What an object is made of. Equal content under an equal profile has an equal manifest, whoever stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub size: u64,
    pub profile: Profile,
    /// Hashes of all pieces, segment by segment, data pieces before parity pieces.
    pub pieces: Vec<PieceHash>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error(transparent)]
    Decode(#[from] wire::DecodeError),
    #[error("manifest version {found} is not known here")]
    Version { found: u8 },
    #[error("manifest of {bytes} bytes at {profile} needs {expected} piece hashes, found {found}")]
    Count { bytes: u64, profile: Profile, expected: usize, found: usize },
    #[error("profile {data}+{parity} is not possible")]
    Profile { data: u8, parity: u8 },
    #[error("an object of {bytes} bytes is larger than the {limit} that one manifest can name")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("manifest hash is {found}, expected {expected}")]
    Hash { expected: ManifestHash, found: ManifestHash },
}

impl Manifest {
    pub fn layout(&self) -> Layout {
        Layout::new(self.size, self.profile)
    }
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![MANIFEST_VERSION];
        bytes.extend_from_slice(&wire::encode(self));
        bytes
    }
    pub fn hash(&self) -> ManifestHash {
        ManifestHash(*blake3::hash(&self.encode()).as_bytes())
    }
    /// Reads and checks a manifest: its counts follow from its size and profile, or it is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (&version, body) = bytes.split_first().ok_or(wire::DecodeError::Empty)?;
        if version != MANIFEST_VERSION {
            return Err(ManifestError::Version { found: version });
        }
        let manifest: Self = wire::decode(body, MANIFEST_BYTES_MAX)?;
        manifest.check()?;
        Ok(manifest)
    }
    /// As `decode`, and the bytes must be those that `expected` names.
    pub fn decode_named(bytes: &[u8], expected: ManifestHash) -> Result<Self, ManifestError> {
        let found = ManifestHash(*blake3::hash(bytes).as_bytes());
        if found != expected {
            return Err(ManifestError::Hash { expected, found });
        }
        Self::decode(bytes)
    }
    pub fn check(&self) -> Result<(), ManifestError> {
        let Profile { data, parity } = self.profile;
        Profile::new(data, parity).ok_or(ManifestError::Profile { data, parity })?;
        let limit = self.profile.bytes_max();
        if self.size > limit {
            return Err(ManifestError::TooLarge { bytes: self.size, limit });
        }
        let expected = self.layout().segments() as usize * self.profile.columns();
        if self.pieces.len() != expected {
            let (bytes, profile, found) = (self.size, self.profile, self.pieces.len());
            return Err(ManifestError::Count { bytes, profile, expected, found });
        }
        Ok(())
    }
    /// `None` outside the object.
    pub fn piece(&self, segment: SegmentIndex, piece: PieceIndex) -> Option<PieceHash> {
        let columns = self.profile.columns();
        if piece.0 as usize >= columns {
            return None;
        }
        self.pieces.get(segment.0 as usize * columns + piece.0 as usize).copied()
    }
    /// The hashes of one column, segment by segment.
    pub fn column(&self, piece: PieceIndex) -> impl Iterator<Item = PieceHash> + '_ {
        self.pieces.iter().skip(piece.0 as usize).step_by(self.profile.columns().max(1)).copied()
    }
    pub fn column_digest(&self, piece: PieceIndex) -> Digest {
        column_digest(self.column(piece))
    }
}

/// What a receipt signs for a column: BLAKE3 over its piece hashes in order of the segments.
pub fn column_digest(pieces: impl Iterator<Item = PieceHash>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for piece in pieces {
        hasher.update(piece.as_bytes());
    }
    Digest(*hasher.finalize().as_bytes())
}

/// Bytes that are what they claim to be. Only `check` and `hash` make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedPiece {
    hash: PieceHash,
    bytes: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PieceFault {
    #[error("piece has hash {found}, expected {expected}")]
    Hash { expected: PieceHash, found: PieceHash },
    #[error("piece is {found} bytes long, expected {expected}")]
    Length { expected: usize, found: usize },
}

impl CheckedPiece {
    /// Hashes the bytes (about 1 ms per MiB on one slow core: call it where blocking is allowed).
    pub fn check(expected: PieceHash, bytes: Bytes) -> Result<Self, PieceFault> {
        let found = PieceHash(*blake3::hash(&bytes).as_bytes());
        if found != expected {
            return Err(PieceFault::Hash { expected, found });
        }
        Ok(Self { hash: expected, bytes })
    }
    /// Names bytes that were made here.
    pub fn hash_of(bytes: Bytes) -> Self {
        Self { hash: PieceHash(*blake3::hash(&bytes).as_bytes()), bytes }
    }
    pub fn hash(&self) -> PieceHash {
        self.hash
    }
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}
