//! Admissions: which peers may be members, holders and workers, by a list or by the signature of an authority.
//!
//! Knowing the network's secret lets a peer connect. A network with *trust* asks for more of those that its quorums
//! rely on: that an operator has listed them, or that an *authority* has admitted them. An authority is a key of the
//! operators that belongs to no node; its [`Admission`] of a peer ends by itself. Nothing is asked of peers that only
//! use the network.
//!
//! [`TrustWatch`] says when a peer whose trust has ended is to be moved.

mod watch;

use std::collections::BTreeSet;
use std::str::FromStr;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::approval::Signature;
use crate::ids::{Millis, PeerId};
use crate::wire;

pub use watch::{Lapse, TrustWatch, UNHEARD_MAX, WATCHED_MAX};

const ADMISSION_DOMAIN: &[u8] = b"quorate admission 1\0";

/// Before the text of an admission.
const PREFIX: &str = "quorate1-admission:";

/// Bytes of an encoded admission: a few more than it has.
const BYTES_MAX: usize = 256;

/// An authority's word that a peer may be relied on, until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The public key of the authority.
    pub authority: PeerId,
    pub peer: PeerId,
    /// Wall clock.
    pub until: Millis,
    signature: Signature,
}

impl Admission {
    pub fn sign(key: &SigningKey, peer: PeerId, until: Millis) -> Self {
        let authority = PeerId(key.verifying_key().to_bytes());
        let signature = Signature::sign(key, ADMISSION_DOMAIN, &(authority, peer, until));
        Self { authority, peer, until, signature }
    }

    fn is_signed(&self) -> bool {
        self.signature.verifies(self.authority, ADMISSION_DOMAIN, &(self.authority, self.peer, self.until))
    }
}

/// As people copy it from one machine to another.
impl std::fmt::Display for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}", hex::encode(wire::encode(self)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an admission begins with `{PREFIX}`; copy the whole line that `quorate admit` printed")]
pub struct NoAdmission;

impl FromStr for Admission {
    type Err = NoAdmission;
    fn from_str(text: &str) -> Result<Self, NoAdmission> {
        let digits = text.trim().strip_prefix(PREFIX).filter(|digits| digits.len() <= 2 * BYTES_MAX);
        let bytes = digits.and_then(|digits| hex::decode(digits).ok()).ok_or(NoAdmission)?;
        wire::decode(&bytes, BYTES_MAX).map_err(|_| NoAdmission)
    }
}

/// Why a peer is not relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    #[error("it is not among the trusted peers, and shows no admission")]
    Unknown,
    /// It may have an admission: nothing that it announced is known.
    #[error("it is not among the trusted peers, and nothing was heard of it that could show an admission")]
    Unheard,
    #[error("its admission is another peer's")]
    OtherPeer,
    #[error("its admission is by an authority that is not one of this network")]
    OtherAuthority,
    #[error("its admission is not signed by its authority")]
    Signature,
    #[error("its admission has ended")]
    Ended,
}

/// Whom a node relies on. With neither peers nor authorities: everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    pub peers: BTreeSet<PeerId>,
    /// Public keys.
    pub authorities: BTreeSet<PeerId>,
}

impl Trust {
    /// Whether everybody is relied on.
    pub fn is_open(&self) -> bool {
        self.peers.is_empty() && self.authorities.is_empty()
    }

    /// Whether a peer of which nothing is known is relied on.
    pub fn check_unheard(&self, peer: PeerId) -> Result<(), Distrust> {
        match self.is_open() || self.peers.contains(&peer) {
            true => Ok(()),
            false if self.authorities.is_empty() => Err(Distrust::Unknown),
            false => Err(Distrust::Unheard),
        }
    }

    /// Until when the peer is relied on, by the wall clock, on what it shows.
    pub fn check(&self, peer: PeerId, admission: Option<&Admission>, wall: Millis) -> Result<Millis, Distrust> {
        if self.is_open() || self.peers.contains(&peer) {
            return Ok(Millis(u64::MAX));
        }
        let admission = admission.ok_or(Distrust::Unknown)?;
        if admission.peer != peer {
            return Err(Distrust::OtherPeer);
        }
        if !self.authorities.contains(&admission.authority) {
            return Err(Distrust::OtherAuthority);
        }
        if admission.until <= wall {
            return Err(Distrust::Ended);
        }
        match admission.is_signed() {
            true => Ok(admission.until),
            false => Err(Distrust::Signature),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_000);

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn public(number: u8) -> PeerId {
        PeerId(key(number).verifying_key().to_bytes())
    }

    fn peer(number: u8) -> PeerId {
        PeerId([number; 32])
    }

    #[test]
    fn without_lists_everybody_is_relied_on() {
        assert_eq!(Trust::default().check(peer(1), None, NOW), Ok(Millis(u64::MAX)));
    }

    /// Goal: only what an authority of the network has signed for this very peer counts, and only for its time. Method:
    /// each part of an admission made wrong in turn; two authorities.
    #[test]
    fn an_admission_counts_for_its_peer_under_its_authorities_until_its_end() {
        let trust = Trust { peers: [peer(9)].into(), authorities: [public(1), public(2)].into() };
        let check = |shown: u8, admission: &Admission, now| trust.check(peer(shown), Some(admission), now);
        for authority in [1, 2] {
            let admission = Admission::sign(&key(authority), peer(5), Millis(2_000));
            assert_eq!(check(5, &admission, NOW), Ok(Millis(2_000)));
            assert_eq!(check(5, &admission, Millis(2_000)), Err(Distrust::Ended));
            assert_eq!(check(6, &admission, NOW), Err(Distrust::OtherPeer));
            let longer = Admission { until: Millis(9_000), ..admission.clone() };
            assert_eq!(check(5, &longer, NOW), Err(Distrust::Signature));
            let given_on = Admission { peer: peer(6), ..admission };
            assert_eq!(check(6, &given_on, NOW), Err(Distrust::Signature));
        }
        let foreign = Admission::sign(&key(3), peer(5), Millis(2_000));
        assert_eq!(check(5, &foreign, NOW), Err(Distrust::OtherAuthority));
        let borrowed = Admission { authority: public(1), ..foreign };
        assert_eq!(check(5, &borrowed, NOW), Err(Distrust::Signature));
        assert_eq!(trust.check(peer(5), None, NOW), Err(Distrust::Unknown));
        assert_eq!(trust.check(peer(9), None, NOW), Ok(Millis(u64::MAX)), "it is listed");
    }

    /// Goal: silence is told from distrust, where there may be an admission that was not heard of.
    #[test]
    fn of_an_unheard_peer_a_list_alone_tells() {
        let list = Trust { peers: [peer(9)].into(), ..Trust::default() };
        let both = Trust { authorities: [public(1)].into(), ..list.clone() };
        assert_eq!(Trust::default().check_unheard(peer(5)), Ok(()));
        assert_eq!((list.check_unheard(peer(9)), both.check_unheard(peer(9))), (Ok(()), Ok(())));
        assert_eq!(list.check_unheard(peer(5)), Err(Distrust::Unknown));
        assert_eq!(both.check_unheard(peer(5)), Err(Distrust::Unheard));
    }

    #[test]
    fn an_admission_is_a_line_of_text() {
        let admission = Admission::sign(&key(1), peer(5), Millis(2_000));
        assert_eq!(format!(" {admission}\n").parse(), Ok(admission));
        let long = format!("{PREFIX}{}", "a".repeat(100_000));
        for wrong in ["", "hello", PREFIX, "quorate1-admission:00", &long] {
            assert_eq!(wrong.parse::<Admission>(), Err(NoAdmission));
        }
    }
}
