//! The chain: a quorum's certificate as its members keep it in their record, and the change that is under way.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{CertificatePart, Founding, LINKS_PER_PART_MAX, Link, LinkStatement, check_voters};
use crate::approval::Signature;
use crate::ids::{MemberId, PeerId, QuorumId};
use crate::membership::Voters;
use crate::shared_map::SharedMap;

/// A configuration that the log has decided and that is not certified yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub number: u64,
    pub voters: Vec<MemberId>,
}

/// Why a change of the chain is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    #[error("the founding is known, and another one")]
    Founded,
    #[error("the founding is not of this quorum")]
    NotOurs,
    #[error("the founding is not recorded yet")]
    NotFounded,
    #[error("these are no voters")]
    Voters,
    #[error("configuration {number} is not the one to be certified")]
    NotPending { number: u64 },
    #[error("no majority of configuration {base} signed")]
    Signatures { base: u64 },
}

/// See the module. Signatures in here were checked by the primary that proposed them: applying an entry computes none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    founding: Option<Founding>,
    /// By number.
    links: SharedMap<u64, Link>,
    pending: Option<Pending>,
    /// The highest number given so far: no number is given twice, so that what was signed under one is one thing.
    numbered: u64,
}

impl Chain {
    /// As it was read; `None` when the parts do not belong together.
    pub fn from_parts(
        founding: Option<Founding>,
        links: SharedMap<u64, Link>,
        pending: Option<Pending>,
        numbered: u64,
    ) -> Option<Self> {
        let is_whole = match &founding {
            None => links.is_empty() && pending.is_none() && numbered == 0,
            Some(founding) => {
                let pending = pending.as_ref();
                let last = links.last_key_value().map_or(0, |(number, _)| *number);
                check_voters(0, &founding.voters).is_ok()
                    && links.iter().all(|(number, link)| link.number == *number && *number > 0)
                    && links.values().all(|link| check_voters(link.number, &link.voters).is_ok())
                    && pending.is_none_or(|next| check_voters(next.number, &next.voters).is_ok())
                    && pending.is_none_or(|next| last < next.number && next.number == numbered)
                    && last <= numbered
            }
        };
        is_whole.then_some(Self { founding, links, pending, numbered })
    }

    pub fn founding(&self) -> Option<&Founding> {
        self.founding.as_ref()
    }
    /// By number.
    pub fn links(&self) -> &SharedMap<u64, Link> {
        &self.links
    }
    pub fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }
    pub fn numbered(&self) -> u64 {
        self.numbered
    }

    /// The number and the voters of the newest configuration that is certified.
    pub fn newest(&self) -> Option<(u64, &[MemberId])> {
        match self.links.last_key_value() {
            Some((number, link)) => Some((*number, &link.voters)),
            None => self.founding.as_ref().map(|founding| (0, &founding.voters[..])),
        }
    }

    /// Those that the pending configuration adds to the newest certified one.
    pub fn newcomers(&self) -> Vec<MemberId> {
        let voters = self.newest().map_or(&[][..], |(_, voters)| voters);
        let pending = self.pending.iter().flat_map(|pending| &pending.voters);
        pending.filter(|voter| !voters.contains(voter)).copied().collect()
    }

    /// The oldest configuration of which a majority is among `signers`, by its number.
    pub fn oldest_base(&self, signers: &BTreeSet<PeerId>) -> Option<u64> {
        let founding = self.founding.iter().map(|founding| (0, &founding.voters[..]));
        let links = self.links.iter().map(|(number, link)| (*number, &link.voters[..]));
        let mut all = founding.chain(links);
        all.find(|(_, voters)| is_majority(voters, signers)).map(|(number, _)| number)
    }

    /// What is to be signed by the voters of configuration `base` for the one that is pending.
    pub fn statement(&self, quorum: QuorumId, base: u64) -> Option<LinkStatement> {
        let Pending { number, voters } = self.pending.clone()?;
        self.voters_of(base).map(|_| LinkStatement { quorum, base, number, voters })
    }

    fn voters_of(&self, number: u64) -> Option<&[MemberId]> {
        match number {
            0 => self.founding.as_ref().map(|founding| &founding.voters[..]),
            number => self.links.get(&number).map(|link| &link.voters[..]),
        }
    }

    // ---- as entries are applied ----

    /// Records the founding. Once more is the same.
    pub fn found(&mut self, quorum: QuorumId, founding: &Founding) -> Result<(), ChainFault> {
        match &self.founding {
            Some(known) if known == founding => Ok(()),
            Some(_) => Err(ChainFault::Founded),
            None if founding.quorum() != quorum => Err(ChainFault::NotOurs),
            None => {
                check_voters(0, &founding.voters).map_err(|_| ChainFault::Voters)?;
                self.founding = Some(founding.clone());
                Ok(())
            }
        }
    }

    /// Decides that these are to be the voters, under a number of its own. Takes the place of what was pending.
    pub fn decide(&mut self, voters: &[MemberId]) -> Result<u64, ChainFault> {
        let (_, newest) = self.newest().ok_or(ChainFault::NotFounded)?;
        match &self.pending {
            Some(pending) if pending.voters == voters => return Ok(pending.number),
            None if newest == voters => return Ok(self.numbered),
            _ => (),
        }
        let number = self.numbered.checked_add(1).ok_or(ChainFault::Voters)?;
        check_voters(number, voters).map_err(|_| ChainFault::Voters)?;
        self.numbered = number;
        self.pending = Some(Pending { number, voters: voters.to_vec() });
        Ok(number)
    }

    /// Adds the link to the pending configuration that the voters of `base` signed; configurations after `base` leave
    /// the chain.
    pub fn certify(&mut self, number: u64, base: u64, signatures: &[(PeerId, Signature)]) -> Result<(), ChainFault> {
        if self.newest().is_some_and(|(newest, _)| newest == number) && number > 0 {
            return Ok(());
        }
        let not_pending = ChainFault::NotPending { number };
        let pending = self.pending.as_ref().filter(|pending| pending.number == number).ok_or(not_pending)?;
        let voters = self.voters_of(base).ok_or(ChainFault::Signatures { base })?;
        let counts = |signer: PeerId| voters.iter().any(|voter| voter.peer == signer);
        let signers: BTreeSet<_> = signatures.iter().map(|(signer, _)| *signer).collect();
        if !is_majority(voters, &signers) || signers.len() < signatures.len() {
            return Err(ChainFault::Signatures { base });
        }
        // Others have no voice here, and would only make the certificate longer.
        let signatures = signatures.iter().copied().filter(|(signer, _)| counts(*signer)).collect();
        let link = Link { number, voters: pending.voters.clone(), signatures };
        let skipped: Vec<u64> = self.links.keys().copied().filter(|number| *number > base).collect();
        skipped.iter().for_each(|number| drop(self.links.remove(number)));
        self.links.insert(number, link);
        self.pending = None;
        Ok(())
    }

    // ---- for those who ask ----

    /// The links behind configuration `since`, or the certificate from its founding on when that is not known here.
    pub fn part(&self, since: Option<u64>) -> CertificatePart {
        let known = since.filter(|number| self.voters_of(*number).is_some());
        let behind = known.unwrap_or(0);
        let mut links = self.links.range_from(std::ops::Bound::Excluded(&behind));
        CertificatePart {
            founding: if known.is_none() { self.founding.clone() } else { None },
            links: links.by_ref().take(LINKS_PER_PART_MAX).map(|(_, link)| link.clone()).collect(),
            more: links.next().is_some(),
        }
    }
}

fn is_majority(voters: &[MemberId], signers: &BTreeSet<PeerId>) -> bool {
    let voters = Voters::new(voters.iter().copied());
    let voices = voters.iter().filter(|voter| signers.contains(&voter.peer)).collect();
    voters.is_majority(&voices)
}
