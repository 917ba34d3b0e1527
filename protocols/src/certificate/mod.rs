//! Certificates: who the voters of a quorum are, as anybody can check who knows its id.
//!
//! A quorum's id is the digest of its [`Founding`], so the id itself names the first voters. Each later change of the
//! voters is a [`Link`] that a majority of the voters before it has signed. The founding with its links is the quorum's
//! *certificate*; a [`Tip`] is what is left of one that was checked: the voters now. A member signs a link only once
//! the quorum's log has decided it, under a number that is given once.
//!
//! A link may leave out configurations: it is signed under the oldest one of which a majority is still there to sign.
//! So a quorum whose voters come and go among the same peers keeps a short certificate.
//!
//! What it does not prove is that it is the newest: a voter that was replaced can still show the certificate that it
//! had. Of two, the one with the higher number counts.

mod chain;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::approval::Signature;
use crate::ids::{MemberId, Nonce, PeerId, QuorumId};
use crate::membership::{VOTERS_MAX, Voters};
use crate::wire;

pub use chain::{Chain, ChainFault, Pending};

/// Links of one [`CertificatePart`]. A link of seven voters with the signatures of four takes 600 bytes.
pub const LINKS_PER_PART_MAX: usize = 128;

const FOUNDING_CONTEXT: &str = "quorate 2026 founding of a quorum 1";
const LINK_DOMAIN: &[u8] = b"quorate link 1\0";

/// The record that a quorum's id is the digest of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The peer that asked the voters.
    pub founder: PeerId,
    /// What it asked them with: the voters' approvals name it. It makes one founding unlike another of the same voters.
    pub nonce: Nonce,
    /// In order, no peer twice.
    pub voters: Vec<MemberId>,
}

impl Founding {
    pub fn new(founder: PeerId, nonce: Nonce, voters: impl IntoIterator<Item = MemberId>) -> Self {
        let voters: BTreeSet<_> = voters.into_iter().collect();
        Self { founder, nonce, voters: voters.into_iter().collect() }
    }

    /// The id of the quorum: the first 16 bytes of BLAKE3 in its mode for deriving keys.
    pub fn quorum(&self) -> QuorumId {
        let digest = blake3::derive_key(FOUNDING_CONTEXT, &wire::encode(self));
        let mut id = [0; QuorumId::LEN];
        id.copy_from_slice(&digest[..QuorumId::LEN]);
        QuorumId(id)
    }
}

/// What a voter signs: that configuration `number` of the quorum has these voters, after configuration `base`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatement {
    pub quorum: QuorumId,
    /// The number of the configuration whose voters sign. The founding has number zero.
    pub base: u64,
    pub number: u64,
    pub voters: Vec<MemberId>,
}

impl LinkStatement {
    pub fn sign(&self, key: &SigningKey) -> Signature {
        Signature::sign(key, LINK_DOMAIN, self)
    }
    pub fn is_signed_by(&self, signer: PeerId, signature: &Signature) -> bool {
        signature.verifies(signer, LINK_DOMAIN, self)
    }
}

/// One change of the voters. The configuration before it in the certificate is its base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub number: u64,
    /// In order, no peer twice.
    pub voters: Vec<MemberId>,
    /// Of a majority of the base's voters.
    pub signatures: Vec<(PeerId, Signature)>,
}

/// A piece of a certificate as it travels: from the founding on, or behind a configuration that its reader knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatePart {
    /// Set when the links begin at the founding.
    pub founding: Option<Founding>,
    /// At most [`LINKS_PER_PART_MAX`].
    pub links: Vec<Link>,
    /// More links follow.
    pub more: bool,
}

/// Why a certificate is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    #[error("its founding has another id than {quorum}")]
    Id { quorum: QuorumId },
    #[error("configuration {number} has {found} voters; between 1 and {VOTERS_MAX} are allowed, each peer once")]
    Voters { number: u64, found: usize },
    #[error("configuration {number} does not come after configuration {base}")]
    Order { base: u64, number: u64 },
    #[error("{signed} voters of configuration {base} signed configuration {number}, and a majority is {needed}")]
    Signatures { base: u64, number: u64, signed: usize, needed: usize },
    #[error("it goes on behind a configuration that is not known here")]
    Gap,
    #[error("it has {found} links at once; {LINKS_PER_PART_MAX} are allowed")]
    TooLong { found: usize },
}

/// The voters of a quorum by a certificate that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    quorum: QuorumId,
    number: u64,
    voters: Voters,
}

impl Tip {
    /// The first voters of the quorum.
    pub fn of_founding(quorum: QuorumId, founding: &Founding) -> Result<Self, CertificateFault> {
        check_voters(0, &founding.voters)?;
        if founding.quorum() != quorum {
            return Err(CertificateFault::Id { quorum });
        }
        Ok(Self { quorum, number: 0, voters: Voters::new(founding.voters.iter().copied()) })
    }

    /// What `part` proves of the quorum: from its founding, or else from what is `known`.
    pub fn read(quorum: QuorumId, known: Option<&Self>, part: &CertificatePart) -> Result<Self, CertificateFault> {
        if part.links.len() > LINKS_PER_PART_MAX {
            return Err(CertificateFault::TooLong { found: part.links.len() });
        }
        let start = match &part.founding {
            Some(founding) => Self::of_founding(quorum, founding)?,
            None => known.filter(|tip| tip.quorum == quorum).cloned().ok_or(CertificateFault::Gap)?,
        };
        part.links.iter().try_fold(start, |tip, link| tip.follow(link))
    }

    /// The voters behind one link more.
    pub fn follow(&self, link: &Link) -> Result<Self, CertificateFault> {
        let Link { number, voters, signatures } = link;
        check_voters(*number, voters)?;
        if *number <= self.number {
            return Err(CertificateFault::Order { base: self.number, number: *number });
        }
        let statement =
            LinkStatement { quorum: self.quorum, base: self.number, number: *number, voters: voters.clone() };
        let is_good = |(signer, signature): &&(PeerId, Signature)| statement.is_signed_by(*signer, signature);
        // Only signatures that count are checked, so that a long list costs no more than the voters are many.
        let mut counted = BTreeSet::new();
        let ours = signatures.iter().filter(|(signer, _)| self.has(*signer) && counted.insert(*signer));
        let signed = ours.filter(is_good).count();
        let needed = self.voters.majority();
        if signed < needed {
            return Err(CertificateFault::Signatures { base: self.number, number: *number, signed, needed });
        }
        Ok(Self { quorum: self.quorum, number: *number, voters: Voters::new(voters.iter().copied()) })
    }

    pub fn quorum(&self) -> QuorumId {
        self.quorum
    }
    /// Of the configuration; greater is later.
    pub fn number(&self) -> u64 {
        self.number
    }
    pub fn voters(&self) -> &Voters {
        &self.voters
    }
    /// Whether the peer is a voter.
    pub fn has(&self, peer: PeerId) -> bool {
        self.voters.iter().any(|voter| voter.peer == peer)
    }
}

fn check_voters(number: u64, voters: &[MemberId]) -> Result<(), CertificateFault> {
    let is_ordered = voters.windows(2).all(|pair| pair[0].peer < pair[1].peer);
    match is_ordered && (1..=VOTERS_MAX).contains(&voters.len()) {
        true => Ok(()),
        false => Err(CertificateFault::Voters { number, found: voters.len() }),
    }
}
