//! The dialler: the bootstrap addresses until they lead to a peer, and known peers while too few are connected.
//!
//! A peer that was just lost or just learnt is dialled at once; each failure doubles the wait, with jitter, up to
//! [`REDIAL_MAX`]. Pure bookkeeping: the actor says what time it is, dials, and reports what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::Multiaddr;
use quorate_protocols::ids::{Millis, PeerId};

use super::config::{BOOK_PEERS_MAX, REDIAL, REDIAL_MAX, REDIAL_MIN};
use super::error_text::DialFault;
use crate::config::address::Bootstrap;

#[derive(Debug, Clone)]
pub(super) struct Attempts {
    due: Millis,
    wait: Duration,
    pub last_fault: Option<DialFault>,
}

impl Attempts {
    fn new(now: Millis) -> Self {
        Self { due: now, wait: REDIAL_MIN, last_fault: None }
    }
    /// Notes a failure. Returns whether it is news: a fault that repeats is worth one line in the log.
    fn failed(&mut self, fault: DialFault, now: Millis, jitter: f64) -> bool {
        self.due = now.plus(self.wait.mul_f64(0.75 + jitter / 2.0));
        self.wait = REDIAL.next(self.wait);
        let news = self.last_fault.as_ref() != Some(&fault);
        self.last_fault = Some(fault);
        news
    }
}

pub(super) struct BootstrapEntry {
    pub bootstrap: Bootstrap,
    /// Who was found there.
    pub peer: Option<PeerId>,
    /// This node itself is there: nothing to dial.
    pub own: bool,
    attempts: Attempts,
}

pub(super) struct Dialler {
    peers: BTreeMap<PeerId, Attempts>,
    pub bootstrap: Vec<BootstrapEntry>,
}

impl Dialler {
    pub fn new(bootstrap: Vec<Bootstrap>, now: Millis) -> Self {
        let bootstrap = bootstrap
            .into_iter()
            .map(|bootstrap| BootstrapEntry {
                peer: bootstrap.peer(),
                bootstrap,
                own: false,
                attempts: Attempts::new(now),
            })
            .collect();
        Self { peers: BTreeMap::new(), bootstrap }
    }

    pub fn is_due(&self, peer: PeerId, now: Millis) -> bool {
        self.peers.get(&peer).is_none_or(|attempts| attempts.due <= now)
    }
    pub fn last_fault(&self, peer: PeerId) -> Option<&DialFault> {
        self.peers.get(&peer)?.last_fault.as_ref()
    }
    /// A dial began: not again until it ends, or so long after that it must have.
    pub fn started(&mut self, peer: PeerId, now: Millis) {
        if self.peers.len() < BOOK_PEERS_MAX || self.peers.contains_key(&peer) {
            let attempts = self.peers.entry(peer).or_insert_with(|| Attempts::new(now));
            attempts.due = now.plus(REDIAL_MAX);
        }
    }
    pub fn failed(&mut self, peer: PeerId, fault: DialFault, now: Millis, jitter: f64) -> bool {
        if self.peers.len() >= BOOK_PEERS_MAX && !self.peers.contains_key(&peer) {
            return false;
        }
        self.peers.entry(peer).or_insert_with(|| Attempts::new(now)).failed(fault, now, jitter)
    }
    /// Somebody needs the peer: the next dial is due at once, and the waits start over. What it failed with before is
    /// still no news, except that one of another version may have come back in ours.
    pub fn hurry(&mut self, peer: PeerId, now: Millis) {
        if let Some(attempts) = self.peers.get_mut(&peer) {
            (attempts.due, attempts.wait) = (now, REDIAL_MIN);
            attempts.last_fault.take_if(|fault| matches!(fault, DialFault::Version { .. }));
        }
    }
    /// The connection to the peer was a good one: should it break, the next dial is due at once.
    pub fn settled(&mut self, peer: PeerId, now: Millis) {
        self.peers.remove(&peer);
        for entry in self.bootstrap.iter_mut().filter(|entry| entry.peer == Some(peer)) {
            entry.attempts = Attempts::new(now);
        }
    }
    /// The peer was reached and turned out not to fit: as a failed dial, or the two would connect and part for ever.
    /// Returns whether that is news.
    pub fn turned_away(&mut self, peer: PeerId, fault: DialFault, now: Millis, jitter: f64) -> bool {
        for entry in self.bootstrap.iter_mut().filter(|entry| entry.peer == Some(peer)) {
            entry.attempts.failed(fault.clone(), now, jitter);
        }
        self.failed(peer, fault, now, jitter)
    }
    /// Whether the peer was turned away a moment ago, so that it is not worth a dial yet.
    pub fn is_misfit(&self, peer: PeerId, now: Millis) -> bool {
        matches!(self.last_fault(peer), Some(DialFault::Version { .. })) && !self.is_due(peer, now)
    }
    /// Forgets peers that the address book forgot.
    pub fn retain(&mut self, keep: impl Fn(PeerId) -> bool) {
        self.peers.retain(|peer, _| keep(*peer));
    }

    /// Bootstrap addresses that name a peer.
    pub fn bootstrap_addresses(&self, peer: PeerId) -> Vec<Multiaddr> {
        let named = self.bootstrap.iter().filter(|entry| entry.bootstrap.peer() == Some(peer));
        named.map(|entry| entry.bootstrap.to_multiaddr()).collect()
    }

    /// The bootstrap entries that are due, which count as begun from now on.
    pub fn bootstrap_due(&mut self, now: Millis, connected: impl Fn(PeerId) -> bool) -> Vec<usize> {
        let mut due = Vec::new();
        for (index, entry) in self.bootstrap.iter_mut().enumerate() {
            if !entry.own && !entry.peer.is_some_and(&connected) && entry.attempts.due <= now {
                entry.attempts.due = now.plus(REDIAL_MAX);
                due.push(index);
            }
        }
        due
    }
    pub fn bootstrap_failed(&mut self, index: usize, fault: DialFault, now: Millis, jitter: f64) -> bool {
        self.bootstrap.get_mut(index).is_some_and(|entry| {
            // Whoever was there before may have come back under another identity.
            entry.peer = entry.bootstrap.peer();
            entry.own = fault == DialFault::Own;
            entry.attempts.failed(fault, now, jitter)
        })
    }
    pub fn bootstrap_found(&mut self, index: usize, peer: PeerId) {
        if let Some(entry) = self.bootstrap.get_mut(index) {
            entry.peer = Some(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_start_over_after_a_connection() {
        let peer = PeerId([1; 32]);
        let mut dialler = Dialler::new(Vec::new(), Millis(0));
        let mut now = Millis(0);
        assert!(dialler.is_due(peer, now));
        for round in 0..20 {
            let news = dialler.failed(peer, DialFault::Refused, now, 0.5);
            assert_eq!(news, round == 0, "a repeated fault is no news");
            assert!(!dialler.is_due(peer, now));
            let longest = now.plus(REDIAL_MAX);
            assert!(dialler.is_due(peer, longest));
            now = longest;
        }
        dialler.hurry(peer, now);
        assert!(dialler.is_due(peer, now));
        assert!(!dialler.failed(peer, DialFault::Refused, now, 0.5), "a hurry makes no news of what is known");
        assert!(dialler.is_due(peer, now.plus(REDIAL_MIN * 2)), "the waits start over");
        dialler.settled(peer, now);
        assert!(dialler.failed(peer, DialFault::Refused, now, 0.5), "after a connection it is news again");
    }

    #[test]
    fn a_bootstrap_address_is_dialled_until_it_leads_somewhere() {
        let peer = PeerId([1; 32]);
        let mut dialler = Dialler::new(vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()], Millis(0));
        assert_eq!(dialler.bootstrap_due(Millis(0), |_| false), [0, 1]);
        assert_eq!(dialler.bootstrap_due(Millis(0), |_| false), Vec::<usize>::new());
        dialler.bootstrap_found(0, peer);
        dialler.settled(peer, Millis(1));
        dialler.bootstrap_failed(1, DialFault::Own, Millis(1), 0.0);
        let later = Millis(1).plus(REDIAL_MAX);
        assert_eq!(dialler.bootstrap_due(later, |known| known == peer), Vec::<usize>::new());
        assert_eq!(dialler.bootstrap_due(later, |_| false), [0]);
    }

    /// Goal: two versions that do not fit are not dialled as fast as they can part.
    #[test]
    fn a_peer_that_is_turned_away_is_dialled_less_and_less_often() {
        let peer = PeerId([1; 32]);
        let mut dialler = Dialler::new(vec!["127.0.0.1:1".parse().unwrap()], Millis(0));
        let mut now = Millis(0);
        for round in 0..8 {
            assert_eq!(dialler.bootstrap_due(now, |_| false), [0]);
            assert!(!dialler.is_misfit(peer, now), "it gets its next chance");
            dialler.bootstrap_found(0, peer);
            let news = dialler.turned_away(peer, DialFault::Version { theirs: "quorate/2".to_owned() }, now, 0.5);
            assert_eq!(news, round == 0, "said once");
            assert!(dialler.is_misfit(peer, now));
            let wait = REDIAL_MIN * (1 << round);
            let before = now.plus(wait - std::time::Duration::from_millis(1));
            assert!(dialler.bootstrap_due(before, |_| false).is_empty() && !dialler.is_due(peer, before));
            now = now.plus(wait);
        }
        dialler.settled(peer, now);
        assert!(dialler.is_due(peer, now) && dialler.bootstrap_due(now, |_| false) == [0]);
    }
}
