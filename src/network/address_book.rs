//! The address book of peers: bounded, expiring, kept on disk.
//!
//! Only addresses at which a peer says, over an authenticated connection, that it listens come in, and bootstrap
//! addresses that led to it: never the port from which it happened to dial.
//!
//! A key and a short connection cost nothing, so a peer is only kept for long once it was *reached*: once an address
//! led to it, or its connection lasted. When the book is full, the peer heard of longest ago makes room, one that was
//! not reached first.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::Multiaddr;
use quorate_protocols::ids::{Millis, PeerId};
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};

use super::config::{BOOK_ADDRESSES_MAX, BOOK_EXPIRY, BOOK_PEERS_MAX, BOOK_UNREACHED_EXPIRY};
use crate::config::address::is_dialable;

/// The book's file beside the record store.
pub(super) const FILE: &str = "addresses";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The most recently confirmed first.
    pub addresses: Vec<Multiaddr>,
    /// Wall-clock time of the last sign of life.
    pub last_seen: Millis,
    /// One of the addresses led to it, or it stayed connected.
    pub reached: bool,
}

impl Entry {
    fn expiry(&self) -> Duration {
        if self.reached { BOOK_EXPIRY } else { BOOK_UNREACHED_EXPIRY }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AddressBook {
    peers: BTreeMap<PeerId, Entry>,
    changed: bool,
}

/// Version 1: peers with the binary form of their addresses, when they were seen last, and whether they were reached.
#[derive(Serialize, Deserialize)]
struct BookRecord {
    peers: Vec<(PeerId, Vec<Vec<u8>>, Millis, bool)>,
}

impl Record for BookRecord {
    const VERSION: u8 = 1;
}

impl AddressBook {
    pub fn get(&self, peer: PeerId) -> Option<&Entry> {
        self.peers.get(&peer)
    }
    pub fn addresses(&self, peer: PeerId) -> Vec<Multiaddr> {
        self.peers.get(&peer).map(|entry| entry.addresses.clone()).unwrap_or_default()
    }
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Entry)> {
        self.peers.iter().map(|(peer, entry)| (*peer, entry))
    }
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Replaces what is known of a peer by what it says itself.
    pub fn confirm(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Millis) {
        let mut addresses: Vec<Multiaddr> = addresses.into_iter().filter(is_dialable).collect();
        let mut seen = std::collections::BTreeSet::new();
        addresses.retain(|address| seen.insert(address.to_vec()));
        addresses.truncate(BOOK_ADDRESSES_MAX);
        if addresses.is_empty() {
            return self.touch(peer, now);
        }
        self.make_room(peer);
        let reached = self.peers.get(&peer).is_some_and(|known| known.reached);
        let entry = Entry { addresses, last_seen: now, reached };
        self.changed |= self.peers.get(&peer).is_none_or(|known| known.addresses != entry.addresses);
        self.peers.insert(peer, entry);
    }

    /// Notes that an address led to a peer; it comes first from now on.
    pub fn found_at(&mut self, peer: PeerId, address: Multiaddr, now: Millis) {
        if !is_dialable(&address) {
            return;
        }
        self.make_room(peer);
        let entry = Entry { addresses: Vec::new(), last_seen: now, reached: true };
        let entry = self.peers.entry(peer).or_insert(entry);
        self.changed |= !entry.reached;
        (entry.last_seen, entry.reached) = (now, true);
        if entry.addresses.first() != Some(&address) {
            entry.addresses.retain(|known| *known != address);
            entry.addresses.insert(0, address);
            entry.addresses.truncate(BOOK_ADDRESSES_MAX);
            self.changed = true;
        }
    }

    /// Notes that a connection to the peer has lasted.
    pub fn note_reached(&mut self, peer: PeerId) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            self.changed |= !entry.reached;
            entry.reached = true;
        }
    }

    pub fn touch(&mut self, peer: PeerId, now: Millis) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.last_seen = now;
        }
    }

    fn make_room(&mut self, peer: PeerId) {
        if self.peers.len() < BOOK_PEERS_MAX || self.peers.contains_key(&peer) {
            return;
        }
        let order = |(peer, entry): &(&PeerId, &Entry)| (entry.reached, entry.last_seen, **peer);
        let oldest = self.peers.iter().min_by_key(order).map(|(peer, _)| *peer);
        if let Some(oldest) = oldest {
            self.peers.remove(&oldest);
        }
    }

    /// Forgets peers that were not heard of for long.
    pub fn expire(&mut self, now: Millis) {
        let before = self.peers.len();
        self.peers.retain(|_, entry| now.since(entry.last_seen) <= entry.expiry());
        self.changed |= self.peers.len() != before;
    }

    /// The bytes to write, when something changed since the last time.
    pub fn take_changes(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.changed).then(|| self.encode())
    }

    pub fn encode(&self) -> Vec<u8> {
        let peers = self
            .peers
            .iter()
            .map(|(peer, entry)| {
                let addresses = entry.addresses.iter().map(Multiaddr::to_vec).collect();
                (*peer, addresses, entry.last_seen, entry.reached)
            })
            .collect();
        wire::encode_record(&BookRecord { peers })
    }

    pub fn decode(bytes: &[u8], now: Millis) -> Result<Self, wire::DecodeError> {
        let record: BookRecord = wire::decode_record(bytes)?;
        let mut book = Self::default();
        for (peer, addresses, last_seen, reached) in record.peers.into_iter().take(BOOK_PEERS_MAX) {
            let addresses = addresses.into_iter().filter_map(|bytes| Multiaddr::try_from(bytes).ok()).collect();
            // A clock that stood in the future when the book was written must not keep an entry for ever.
            book.confirm(peer, addresses, last_seen.min(now));
            if reached {
                book.note_reached(peer);
            }
        }
        book.expire(now);
        book.changed = false;
        Ok(book)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }
    fn peer(n: usize) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
        PeerId(bytes)
    }

    #[test]
    fn a_book_reads_back_what_it_wrote() {
        let now = Millis(1_000_000);
        let mut book = AddressBook::default();
        book.confirm(peer(1), vec![address(1), address(2), address(1)], now);
        book.found_at(peer(1), address(2), now);
        book.found_at(peer(2), "/dns/box/tcp/9".parse().unwrap(), now);
        assert_eq!(book.addresses(peer(1)), [address(2), address(1)]);
        let bytes = book.take_changes().unwrap();
        assert_eq!(book.take_changes(), None);
        assert_eq!(AddressBook::decode(&bytes, now).unwrap(), book);
        let later = now.plus(BOOK_EXPIRY).plus(Duration::from_millis(1));
        assert_eq!(AddressBook::decode(&bytes, later).unwrap().len(), 0);
    }

    /// Goal: keys that connect once and leave neither stay for long nor push out peers that were there.
    #[test]
    fn a_peer_that_was_never_reached_is_soon_forgotten_and_makes_room_first() {
        let mut book = AddressBook::default();
        book.found_at(peer(1), address(1), Millis(0));
        book.confirm(peer(2), vec![address(2)], Millis(0));
        book.note_reached(peer(2));
        for n in 3..BOOK_PEERS_MAX + 10 {
            book.confirm(peer(n), vec![address(3)], Millis(n as u64));
        }
        assert!(book.get(peer(1)).is_some() && book.get(peer(2)).is_some() && book.get(peer(3)).is_none());
        book.confirm(peer(1), vec![address(7)], Millis(0));
        let later = Millis(2 * BOOK_PEERS_MAX as u64).plus(BOOK_UNREACHED_EXPIRY);
        let mut read = AddressBook::decode(&book.encode(), Millis(2 * BOOK_PEERS_MAX as u64)).unwrap();
        read.expire(later);
        assert_eq!(read.iter().map(|(peer, _)| peer).collect::<Vec<_>>(), [peer(1), peer(2)]);
    }

    #[test]
    fn damaged_bytes_are_errors_and_never_panics() {
        let mut book = AddressBook::default();
        book.confirm(peer(1), vec![address(1)], Millis(5));
        let bytes = book.encode();
        for cut in 0..bytes.len() {
            assert!(AddressBook::decode(&bytes[..cut], Millis(5)).is_err());
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            let _ = AddressBook::decode(&flipped, Millis(5));
        }
    }

    #[test]
    fn the_book_stays_within_its_bounds_and_forgets_the_oldest() {
        let mut book = AddressBook::default();
        for n in 0..BOOK_PEERS_MAX + 10 {
            book.confirm(peer(n), (1..100).map(address).collect(), Millis(n as u64));
        }
        assert_eq!(book.len(), BOOK_PEERS_MAX);
        assert_eq!(book.get(peer(9)), None);
        assert_eq!(book.addresses(peer(10)).len(), BOOK_ADDRESSES_MAX);
        book.confirm(peer(10), vec!["/ip4/0.0.0.0/tcp/1".parse().unwrap()], Millis(0));
        assert_eq!(book.addresses(peer(10)).len(), BOOK_ADDRESSES_MAX, "nothing usable replaces nothing");
    }
}
