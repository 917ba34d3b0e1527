//! Who this node is: an ed25519 key, the peer id that follows from it, and the incarnation of its data folder.

use ed25519_dalek::SigningKey;
use quorate_protocols::ids::{BootId, Incarnation, MemberId, PeerId};

#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
    pub incarnation: Incarnation,
    /// Drawn at every start of the process.
    pub boot: BootId,
}

impl Identity {
    pub fn new(secret: [u8; 32], incarnation: Incarnation, boot: BootId) -> Self {
        Self { key: SigningKey::from_bytes(&secret), incarnation, boot }
    }
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }
    pub fn peer(&self) -> PeerId {
        PeerId(self.key.verifying_key().to_bytes())
    }
    pub fn member(&self) -> MemberId {
        MemberId { peer: self.peer(), incarnation: self.incarnation }
    }
    /// The 32 secret bytes, for libp2p's own key type.
    pub fn secret_bytes(&self) -> [u8; 32] {
        self.key.to_bytes()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the key.
        write!(f, "Identity({:?})", self.member())
    }
}
