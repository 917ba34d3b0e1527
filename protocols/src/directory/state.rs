//! The directory core: what a node knows of peers and quorums from announcements, and how it ranks them.
//!
//! Everything in here is hearsay with an age. An advert replaces an older one of the same author (by the number of its
//! boot, then by sequence, so that an old one that is sent again changes nothing) or of the same quorum (by term),
//! expires after [`ADVERT_EXPIRY`], and makes room for newer ones beyond [`PEERS_MAX`] and [`QUORUMS_MAX`], the one
//! heard of longest ago first. An advert that breaks a limit is its author's fault and is not taken in. What the
//! directory says is only where to ask: the answer to the question decides.
//!
//! A peer counts once it was *reached*: once this node was connected to it. One that was never reached is no candidate
//! for anything, makes room first, and is forgotten after [`REACHED_EXPIRY`].
//!
//! `now` is monotonic; the wall-clock time that goes along is for people.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::limits::{
    ADVERT_EXPIRY, LABEL_BYTES_MAX, LABELS_MAX, NAME_BYTES_MAX, PEERS_MAX, QUORUMS_MAX, REACHED_EXPIRY,
};
use super::message::{PeerAdvert, QuorumAdvert};
use crate::admission::{Distrust, Trust};
use crate::approval::Refusal;
use crate::capacity::{Requirement, Supply};
use crate::engine::NodeRole;
use crate::ids::{MemberId, Millis, PeerId, QuorumId, Term};
use crate::membership::VOTERS_MAX;

/// Services one advert may list. There are far fewer; the bound only keeps an advert small.
const ROLES_MAX: usize = 32;

/// Members one advert may list: both configurations while one replaces the other, and its learners.
const MEMBERS_MAX: usize = 2 * VOTERS_MAX + 2;

/// Between two looks at all peers for those that cannot be reached.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

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
    /// Of the first of its announcements since it was forgotten.
    first_heard: Millis,
    /// Until when this node relies on it, by the wall clock.
    trusted: Result<Millis, Distrust>,
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
    trust: Trust,
    peers: BTreeMap<PeerId, PeerEntry>,
    quorums: BTreeMap<QuorumId, QuorumEntry>,
    peers_by_age: BTreeSet<(Millis, PeerId)>,
    /// Peers that this node is connected to, or was until then.
    reached: BTreeMap<PeerId, Option<Millis>>,
    /// When unreached peers were last looked for.
    swept: Millis,
    quorums_by_age: BTreeSet<(Millis, QuorumId)>,
    /// Quorums that this node is a member of: kept whatever their age, and known better here than by hearsay.
    own: BTreeMap<QuorumId, QuorumAdvert>,
}

impl DirectoryState {
    pub fn new(trust: Trust) -> Self {
        Self { trust, ..Self::default() }
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
        let (noted, first_heard) = match self.peers.get(&author) {
            None => (AdvertOutcome::New, now),
            Some(known) if order_of(&advert) <= order_of(&known.advert) => return Ok(AdvertOutcome::Ignored),
            Some(known) => (AdvertOutcome::Updated, known.first_heard),
        };
        // A signature that was good stays good.
        let trusted = match self.peers.get(&author) {
            Some(PeerEntry { trusted: Ok(until), advert: known, .. })
                if known.admission == advert.admission && *until > wall =>
            {
                Ok(*until)
            }
            _ => self.trust.check(author, advert.admission.as_ref(), wall),
        };
        let entry = PeerEntry { advert, heard_at: wall, heard: now, first_heard, trusted };
        if let Some(before) = self.peers.insert(author, entry) {
            self.peers_by_age.remove(&(before.heard, author));
        }
        self.peers_by_age.insert((now, author));
        while self.peers.len() > PEERS_MAX {
            let unreached = self.peers_by_age.iter().find(|(_, peer)| !self.is_reached(*peer));
            let Some((heard, oldest)) = unreached.or(self.peers_by_age.first()).copied() else { break };
            self.peers_by_age.remove(&(heard, oldest));
            self.peers.remove(&oldest);
        }
        Ok(noted)
    }

    /// A connection to the peer is open, or one was until now.
    pub fn note_reached(&mut self, now: Millis, peer: PeerId, is_connected: bool) {
        self.reached.insert(peer, (!is_connected).then_some(now));
        while self.reached.len() > PEERS_MAX {
            let left = self.reached.iter().filter_map(|(peer, left)| left.map(|left| (left, *peer)));
            let Some((_, oldest)) = left.min() else { break };
            self.reached.remove(&oldest);
        }
    }

    /// Whether this node is connected to the peer, or was lately.
    pub fn is_reached(&self, peer: PeerId) -> bool {
        self.reached.contains_key(&peer)
    }

    /// Forgets what nobody can be reached for any more. Looks at everything, so now and then.
    fn forget_unreached(&mut self, now: Millis) {
        if now.since(self.swept) < SWEEP_INTERVAL {
            return;
        }
        self.swept = now;
        self.reached.retain(|_, left| left.is_none_or(|left| now.since(left) <= REACHED_EXPIRY));
        let (peers_by_age, reached) = (&mut self.peers_by_age, &self.reached);
        self.peers.retain(|peer, entry| {
            let keeps = reached.contains_key(peer) || now.since(entry.first_heard) <= REACHED_EXPIRY;
            keeps || !peers_by_age.remove(&(entry.heard, *peer))
        });
    }

    /// Sets what this node would announce of itself now. Its own word about itself is never old.
    pub fn set_own_peer(&mut self, now: Millis, wall: Millis, own: PeerId, advert: PeerAdvert) {
        let trusted = Ok(Millis(u64::MAX));
        let entry = PeerEntry { advert, heard_at: wall, heard: now, first_heard: now, trusted };
        self.reached.insert(own, None);
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
        self.forget_unreached(now);
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

    /// Whether this node relies on the peer, on what it has shown.
    pub fn check_trust(&self, wall: Millis, peer: PeerId) -> Result<(), Distrust> {
        match self.peers.get(&peer) {
            Some(entry) if entry.trusted? > wall => Ok(()),
            Some(_) => Err(Distrust::Ended),
            None => self.trust.check_unheard(peer),
        }
    }

    /// Reached peers that this node relies on and that could take this on, as announced, the most promising first.
    /// Ranked by the power of two choices: of two drawn at random the less busy goes first, so that many askers with
    /// one and the same directory do not all fall upon the same peer. `random` yields 64 random bits per call.
    pub fn candidates(
        &self,
        wall: Millis,
        role: NodeRole,
        requirement: &Requirement,
        mut random: impl FnMut() -> u64,
    ) -> Vec<PeerId> {
        let fits = |(peer, entry): &(&PeerId, &PeerEntry)| {
            let is_trusted = self.check_trust(wall, **peer).is_ok();
            is_trusted && self.is_reached(**peer) && misfit(&entry.advert, role, requirement).is_none()
        };
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

/// Which of two adverts of a peer is the newer one.
fn order_of(advert: &PeerAdvert) -> (u64, u64) {
    (advert.boot_number, advert.sequence)
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
