//! The directory core: what a node knows of peers and quorums from announcements, and how it ranks them.
//!
//! Everything in here is hearsay with an age. An advert replaces an older one of the same author (by boot and
//! sequence) or of the same quorum (by term), expires after [`ADVERT_EXPIRY`], and makes room for newer ones beyond
//! [`PEERS_MAX`] and [`QUORUMS_MAX`], the one heard of longest ago first. An advert that breaks a limit is its author's
//! fault and is not taken in. What the directory says is only where to ask: the answer to the question decides.
//!
//! `now` is monotonic; the wall-clock time that goes along is for people.

use std::collections::{BTreeMap, BTreeSet};

use super::limits::{ADVERT_EXPIRY, LABEL_BYTES_MAX, LABELS_MAX, NAME_BYTES_MAX, PEERS_MAX, QUORUMS_MAX};
use super::message::{PeerAdvert, QuorumAdvert};
use crate::approval::Refusal;
use crate::capacity::{Requirement, Supply};
use crate::engine::NodeRole;
use crate::ids::{BootId, MemberId, Millis, PeerId, QuorumId, Term};
use crate::membership::VOTERS_MAX;

/// Services one advert may list. There are far fewer; the bound only keeps an advert small.
const ROLES_MAX: usize = 32;

/// Members one advert may list: both configurations while one replaces the other, and its learners.
const MEMBERS_MAX: usize = 2 * VOTERS_MAX + 2;

/// What an honest author does not announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdvertFault {
    #[error("the advert lists {found} {what}, {limit} are allowed")]
    TooMany { what: &'static str, found: usize, limit: usize },
    #[error("a label of {found} bytes is longer than {limit}")]
    LabelTooLong { found: usize, limit: usize },
    #[error("a name of {found} bytes is longer than {limit}")]
    NameTooLong { found: usize, limit: usize },
    #[error("a name has control characters")]
    NameUnprintable,
    #[error("a quorum is announced by a peer that is not among the members that it names")]
    NotAMember,
}

/// What became of an advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdvertOutcome {
    /// Heard of for the first time, or after it had been forgotten.
    New,
    Updated,
    /// What is known is as new or newer.
    Ignored,
}

/// One peer as announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEntry {
    pub advert: PeerAdvert,
    /// Wall clock.
    pub heard_at: Millis,
    heard: Millis,
    /// The boot before the present one: its announcements, still under way, are not news.
    former_boot: Option<BootId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct QuorumEntry {
    advert: QuorumAdvert,
    /// `None` when only learnt from answers.
    author: Option<PeerId>,
    heard: Millis,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct DirectoryState {
    peers: BTreeMap<PeerId, PeerEntry>,
    quorums: BTreeMap<QuorumId, QuorumEntry>,
    peers_by_age: BTreeSet<(Millis, PeerId)>,
    quorums_by_age: BTreeSet<(Millis, QuorumId)>,
    /// Quorums that this node is a member of: kept whatever their age, and known better here than by hearsay.
    own: BTreeMap<QuorumId, QuorumAdvert>,
}

impl DirectoryState {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn note_peer(
        &mut self,
        now: Millis,
        wall: Millis,
        author: PeerId,
        advert: PeerAdvert,
    ) -> Result<AdvertOutcome, AdvertFault> {
        check_peer(&advert)?;
        self.expire(now);
        let (noted, former_boot) = match self.peers.get(&author) {
            None => (AdvertOutcome::New, None),
            Some(known) if known.advert.boot == advert.boot => {
                if advert.sequence <= known.advert.sequence {
                    return Ok(AdvertOutcome::Ignored);
                }
                (AdvertOutcome::Updated, known.former_boot)
            }
            Some(known) if known.former_boot == Some(advert.boot) => return Ok(AdvertOutcome::Ignored),
            Some(known) => (AdvertOutcome::Updated, Some(known.advert.boot)),
        };
        let entry = PeerEntry { advert, heard_at: wall, heard: now, former_boot };
        if let Some(before) = self.peers.insert(author, entry) {
            self.peers_by_age.remove(&(before.heard, author));
        }
        self.peers_by_age.insert((now, author));
        while self.peers.len() > PEERS_MAX
            && let Some((_, oldest)) = self.peers_by_age.pop_first()
        {
            self.peers.remove(&oldest);
        }
        Ok(noted)
    }

    /// Sets what this node would announce of itself now. Its own word about itself is never old.
    pub fn set_own_peer(&mut self, now: Millis, wall: Millis, own: PeerId, advert: PeerAdvert) {
        let entry = PeerEntry { advert, heard_at: wall, heard: now, former_boot: None };
        if let Some(before) = self.peers.insert(own, entry) {
            self.peers_by_age.remove(&(before.heard, own));
        }
        self.peers_by_age.insert((now, own));
    }

    pub fn note_quorum(
        &mut self,
        now: Millis,
        author: PeerId,
        advert: QuorumAdvert,
    ) -> Result<AdvertOutcome, AdvertFault> {
        check_quorum(author, &advert)?;
        self.expire(now);
        let noted = match self.quorums.get(&advert.quorum) {
            None => AdvertOutcome::New,
            // A primary of a later term knows better; of one term there is one primary, and its last word counts.
            Some(known) if advert.term < known.advert.term => return Ok(AdvertOutcome::Ignored),
            Some(known) if advert.term == known.advert.term && known.author.is_some_and(|before| before != author) => {
                return Ok(AdvertOutcome::Ignored);
            }
            Some(_) => AdvertOutcome::Updated,
        };
        self.insert_quorum(now, QuorumEntry { advert, author: Some(author), heard: now });
        Ok(noted)
    }

    /// Notes what a member answered about its quorum. It says nothing about load, so what an advert said stays.
    pub fn learn_members(&mut self, now: Millis, quorum: QuorumId, primary: Option<MemberId>, voters: Vec<MemberId>) {
        let mut members: Vec<_> = primary.into_iter().chain(voters).collect();
        let mut seen = BTreeSet::new();
        members.retain(|member| seen.insert(*member));
        if members.is_empty() || members.len() > MEMBERS_MAX {
            return;
        }
        self.expire(now);
        let entry = match self.quorums.get(&quorum) {
            Some(known) => QuorumEntry { advert: QuorumAdvert { members, ..known.advert.clone() }, ..known.clone() },
            None => {
                let advert = QuorumAdvert { quorum, term: Term(0), members, standbys: 0, jobs: 0, objects: 0, room: 0 };
                QuorumEntry { advert, author: None, heard: now }
            }
        };
        self.insert_quorum(now, QuorumEntry { heard: now, ..entry });
    }

    /// Sets what this node itself knows about a quorum that it is a member of.
    pub fn set_own_quorum(&mut self, advert: QuorumAdvert) {
        self.own.insert(advert.quorum, advert);
    }
    pub fn own_quorum(&self, quorum: QuorumId) -> Option<&QuorumAdvert> {
        self.own.get(&quorum)
    }
    pub fn remove_own_quorum(&mut self, quorum: QuorumId) {
        self.own.remove(&quorum);
    }

    fn insert_quorum(&mut self, now: Millis, entry: QuorumEntry) {
        let quorum = entry.advert.quorum;
        if let Some(before) = self.quorums.insert(quorum, entry) {
            self.quorums_by_age.remove(&(before.heard, quorum));
        }
        self.quorums_by_age.insert((now, quorum));
        while self.quorums.len() > QUORUMS_MAX
            && let Some((_, oldest)) = self.quorums_by_age.pop_first()
        {
            self.quorums.remove(&oldest);
        }
    }

    /// Forgets what was not repeated for too long. Also done before anything is noted.
    pub fn expire(&mut self, now: Millis) {
        while let Some(&(heard, peer)) = self.peers_by_age.first()
            && now.since(heard) > ADVERT_EXPIRY
        {
            self.peers_by_age.pop_first();
            self.peers.remove(&peer);
        }
        while let Some(&(heard, quorum)) = self.quorums_by_age.first()
            && now.since(heard) > ADVERT_EXPIRY
        {
            self.quorums_by_age.pop_first();
            self.quorums.remove(&quorum);
        }
    }

    /// Announced peers, in order of id.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, &PeerEntry)> {
        self.peers.iter().map(|(peer, entry)| (*peer, entry))
    }
    pub fn peer(&self, peer: PeerId) -> Option<&PeerEntry> {
        self.peers.get(&peer)
    }
    /// Quorums announced, learnt of, or this node's own, in order of id.
    pub fn quorums(&self) -> Vec<&QuorumAdvert> {
        let heard = self.quorums.iter().map(|(id, entry)| (*id, &entry.advert));
        let mut all: BTreeMap<_, _> = heard.collect();
        all.extend(self.own.iter().map(|(id, advert)| (*id, advert)));
        all.into_values().collect()
    }
    pub fn quorum(&self, quorum: QuorumId) -> Option<&QuorumAdvert> {
        self.own.get(&quorum).or_else(|| self.quorums.get(&quorum).map(|entry| &entry.advert))
    }

    /// Peers that could take this on, as announced, the most promising first. Ranked by the power of two choices: of
    /// two drawn at random the less busy goes first, so that many askers with one and the same directory do not all
    /// fall upon the same peer. `random` yields 64 random bits per call.
    pub fn candidates(
        &self,
        role: NodeRole,
        requirement: &Requirement,
        mut random: impl FnMut() -> u64,
    ) -> Vec<PeerId> {
        let fits = |(_, entry): &(&PeerId, &PeerEntry)| misfit(&entry.advert, role, requirement).is_none();
        let mut open: Vec<_> =
            self.peers.iter().filter(fits).map(|(peer, entry)| (entry.advert.load_permille, *peer)).collect();
        let mut ranked = Vec::with_capacity(open.len());
        while !open.is_empty() {
            let mut draw = || (random() % open.len() as u64) as usize;
            let (one, other) = (draw(), draw());
            let better = if open[other].0 < open[one].0 { other } else { one };
            ranked.push(open.swap_remove(better).1);
        }
        ranked
    }

    /// A quorum with room for one more job: of two drawn at random, the one with fewer jobs. `eligible` can refuse any.
    pub fn pick_quorum(
        &self,
        mut random: impl FnMut() -> u64,
        eligible: impl Fn(&QuorumAdvert) -> bool,
    ) -> Option<QuorumId> {
        let open: Vec<_> = self.quorums().into_iter().filter(|advert| advert.room > 0 && eligible(advert)).collect();
        if open.is_empty() {
            return None;
        }
        let mut draw = || open[(random() % open.len() as u64) as usize];
        let (one, other) = (draw(), draw());
        Some(if other.jobs < one.jobs { other.quorum } else { one.quorum })
    }
}

/// What keeps a peer, as it announced itself, from taking this on.
pub fn misfit(advert: &PeerAdvert, role: NodeRole, requirement: &Requirement) -> Option<Refusal> {
    if advert.draining {
        return Some(Refusal::Draining);
    }
    let supply = Supply { roles: advert.roles.iter().copied(), labels: &advert.labels, free: advert.free };
    requirement.unmet(role, supply).map(Refusal::from)
}

/// Whether labels keep to the limits; also asked of this node's own configuration.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), AdvertFault> {
    if labels.len() > LABELS_MAX {
        return Err(AdvertFault::TooMany { what: "labels", found: labels.len(), limit: LABELS_MAX });
    }
    let longest = labels.iter().flat_map(|(key, value)| [key.len(), value.len()]).max().unwrap_or(0);
    if longest > LABEL_BYTES_MAX {
        return Err(AdvertFault::LabelTooLong { found: longest, limit: LABEL_BYTES_MAX });
    }
    Ok(())
}

/// Whether a node may be called so; also asked of this node's own configuration.
pub fn check_name(name: &str) -> Result<(), AdvertFault> {
    match name.len() {
        found if found > NAME_BYTES_MAX => Err(AdvertFault::NameTooLong { found, limit: NAME_BYTES_MAX }),
        _ if name.chars().any(char::is_control) => Err(AdvertFault::NameUnprintable),
        _ => Ok(()),
    }
}

fn check_peer(advert: &PeerAdvert) -> Result<(), AdvertFault> {
    if advert.roles.len() > ROLES_MAX {
        return Err(AdvertFault::TooMany { what: "roles", found: advert.roles.len(), limit: ROLES_MAX });
    }
    check_name(&advert.name)?;
    check_labels(&advert.labels)
}

/// Whether the author may have announced this, by its looks.
pub fn check_quorum(author: PeerId, advert: &QuorumAdvert) -> Result<(), AdvertFault> {
    if !advert.members.iter().any(|member| member.peer == author) {
        return Err(AdvertFault::NotAMember);
    }
    if advert.members.len() > MEMBERS_MAX {
        return Err(AdvertFault::TooMany { what: "members", found: advert.members.len(), limit: MEMBERS_MAX });
    }
    Ok(())
}
