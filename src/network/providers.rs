//! The store behind the hash table: which peers say that they can answer for a quorum.
//!
//! libp2p's own store takes any key, any addresses, and whatever fits; a stranger fills it in seconds. This one keeps
//! what a lookup needs and nothing else:
//!
//! - a key is exactly a quorum's id, and a record is a peer and an end. What a record says of addresses is dropped: the
//!   address book knows at which ones a peer confirmed over its own connection that it listens;
//! - a peer has at most [`PROVIDED_PER_PEER_MAX`] records, so that the whole store has room for every connected peer's
//!   share. When it is full, peers that are not connected make room, those who spoke longest ago first;
//! - of one quorum at most [`PROVIDERS_PER_QUORUM_MAX`] are kept; the same peers make room;
//! - this node's own records are apart and are never refused.
//!
//! No values are kept: a stored value is never asked for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use libp2p::Multiaddr;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use quorate_protocols::ids::{PeerId, QuorumId};

use super::config::{PROVIDED_PER_PEER_MAX, PROVIDERS_PER_QUORUM_MAX};
use crate::config::address::{from_libp2p, to_libp2p};

/// A peer that provides.
struct Provider {
    quorums: BTreeSet<QuorumId>,
    /// As the address book has them.
    addresses: Vec<Multiaddr>,
    spoke: Instant,
}

pub(super) struct ProviderStore {
    local: libp2p::PeerId,
    own: BTreeMap<QuorumId, ProviderRecord>,
    quorums: BTreeMap<QuorumId, BTreeMap<PeerId, Option<Instant>>>,
    peers: BTreeMap<PeerId, Provider>,
    records: usize,
    records_max: usize,
}

/// What became of a peer's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordOutcome {
    Kept,
    /// The key is no quorum's, or the provider no peer of this network.
    Malformed,
    /// The peer has its share.
    TooMany,
    /// Every record belongs to a connected peer.
    Full,
}

impl ProviderStore {
    pub fn new(local: libp2p::PeerId, records_max: usize) -> Self {
        Self { local, own: BTreeMap::new(), quorums: BTreeMap::new(), peers: BTreeMap::new(), records: 0, records_max }
    }

    /// Records of other peers.
    pub fn len(&self) -> usize {
        self.records
    }

    /// Takes in what a peer announced over its own connection.
    pub fn note_record(
        &mut self,
        record: &ProviderRecord,
        addresses: Vec<Multiaddr>,
        now: Instant,
        is_connected: impl Fn(PeerId) -> bool,
    ) -> RecordOutcome {
        let (Some(quorum), Some(peer)) = (quorum_of(&record.key), from_libp2p(&record.provider)) else {
            return RecordOutcome::Malformed;
        };
        let is_known = self.quorums.get(&quorum).is_some_and(|providers| providers.contains_key(&peer));
        if !is_known {
            if self.peers.get(&peer).is_some_and(|known| known.quorums.len() >= PROVIDED_PER_PEER_MAX) {
                return RecordOutcome::TooMany;
            }
            if !self.make_room(quorum, now, is_connected) {
                return RecordOutcome::Full;
            }
            self.records += 1;
        }
        self.quorums.entry(quorum).or_default().insert(peer, record.expires);
        let provider = Provider { quorums: BTreeSet::new(), addresses: Vec::new(), spoke: now };
        let provider = self.peers.entry(peer).or_insert(provider);
        provider.quorums.insert(quorum);
        (provider.addresses, provider.spoke) = (addresses, now);
        RecordOutcome::Kept
    }

    /// The peer confirmed where it listens.
    pub fn set_addresses(&mut self, peer: PeerId, addresses: impl FnOnce() -> Vec<Multiaddr>) {
        if let Some(provider) = self.peers.get_mut(&peer) {
            provider.addresses = addresses();
        }
    }

    fn make_room(&mut self, quorum: QuorumId, now: Instant, is_connected: impl Fn(PeerId) -> bool) -> bool {
        let providers = self.quorums.get(&quorum);
        if providers.is_some_and(|providers| providers.len() >= PROVIDERS_PER_QUORUM_MAX) {
            let away = providers.into_iter().flatten().map(|(peer, _)| *peer).filter(|peer| !is_connected(*peer));
            let Some(oldest) = away.min_by_key(|peer| self.peers.get(peer).map(|known| known.spoke)) else {
                return false;
            };
            self.remove(quorum, oldest);
        }
        if self.records < self.records_max {
            return true;
        }
        self.forget_expired(now);
        if self.records < self.records_max {
            return true;
        }
        let away = self.peers.iter().filter(|(peer, _)| !is_connected(**peer));
        let Some((oldest, _)) = away.min_by_key(|(peer, known)| (known.spoke, **peer)) else { return false };
        self.remove_peer(*oldest);
        true
    }

    /// Also done when the store is full.
    pub fn forget_expired(&mut self, now: Instant) {
        let ended = |expires: &Option<Instant>| expires.is_some_and(|expires| expires <= now);
        let expired: Vec<_> = self
            .quorums
            .iter()
            .flat_map(|(quorum, providers)| {
                providers.iter().filter(|(_, expires)| ended(expires)).map(|(peer, _)| (*quorum, *peer))
            })
            .collect();
        expired.into_iter().for_each(|(quorum, peer)| self.remove(quorum, peer));
    }

    fn remove_peer(&mut self, peer: PeerId) {
        let quorums = self.peers.get(&peer).map(|known| known.quorums.clone()).unwrap_or_default();
        quorums.into_iter().for_each(|quorum| self.remove(quorum, peer));
    }

    fn remove(&mut self, quorum: QuorumId, peer: PeerId) {
        let Some(providers) = self.quorums.get_mut(&quorum) else { return };
        if providers.remove(&peer).is_none() {
            return;
        }
        self.records -= 1;
        if providers.is_empty() {
            self.quorums.remove(&quorum);
        }
        if let Some(known) = self.peers.get_mut(&peer) {
            known.quorums.remove(&quorum);
            if known.quorums.is_empty() {
                self.peers.remove(&peer);
            }
        }
    }
}

fn quorum_of(key: &RecordKey) -> Option<QuorumId> {
    <[u8; QuorumId::LEN]>::try_from(key.as_ref()).ok().map(QuorumId)
}

pub(super) fn key_of(quorum: QuorumId) -> RecordKey {
    RecordKey::new(&quorum.0)
}

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Map<
        std::collections::btree_map::Values<'a, QuorumId, ProviderRecord>,
        fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>,
    >;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }
    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }
    fn remove(&mut self, _: &RecordKey) {}
    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    /// This node's own; those of others come through [`Self::note_record`].
    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        match quorum_of(&record.key).filter(|_| record.provider == self.local) {
            Some(quorum) => {
                self.own.insert(quorum, record);
                Ok(())
            }
            None => Err(Error::MaxProvidedKeys),
        }
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let Some(quorum) = quorum_of(key) else { return Vec::new() };
        let record = |(peer, expires): (&PeerId, &Option<Instant>)| {
            let addresses = self.peers.get(peer).map(|known| known.addresses.clone()).unwrap_or_default();
            Some(ProviderRecord { key: key.clone(), provider: to_libp2p(*peer)?, expires: *expires, addresses })
        };
        let others = self.quorums.get(&quorum).into_iter().flatten().filter_map(record);
        self.own.get(&quorum).cloned().into_iter().chain(others).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own.values().map(Cow::Borrowed)
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &libp2p::PeerId) {
        let Some(quorum) = quorum_of(key) else { return };
        if *peer == self.local {
            self.own.remove(&quorum);
        } else if let Some(peer) = from_libp2p(peer) {
            self.remove(quorum, peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ROOM: usize = 4 * PROVIDED_PER_PEER_MAX;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }
    fn quorum(n: usize) -> QuorumId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        QuorumId(id)
    }

    struct Table {
        store: ProviderStore,
        now: Instant,
        connected: Vec<u8>,
    }

    impl Table {
        fn new(connected: &[u8]) -> Self {
            let store = ProviderStore::new(to_libp2p(peer(0)).unwrap(), ROOM);
            Self { store, now: Instant::now(), connected: connected.to_vec() }
        }
        fn announce_record(&mut self, from: u8, key: &[u8], lasts: Duration) -> RecordOutcome {
            self.now += Duration::from_millis(1);
            let record = ProviderRecord {
                key: RecordKey::new(&key),
                provider: to_libp2p(peer(from)).unwrap(),
                expires: Some(self.now + lasts),
                addresses: vec!["/ip4/10.9.9.9/tcp/22".parse().unwrap()],
            };
            let connected = |asked: PeerId| self.connected.iter().any(|n| peer(*n) == asked);
            self.store.note_record(&record, Vec::new(), self.now, connected)
        }
        fn provide(&mut self, from: u8, n: usize) -> RecordOutcome {
            self.announce_record(from, &quorum(n).0, Duration::from_secs(60))
        }
        fn of(&self, n: usize) -> Vec<libp2p::PeerId> {
            self.store.providers(&key_of(quorum(n))).into_iter().map(|record| record.provider).collect()
        }
    }

    #[test]
    fn a_key_is_a_quorum_and_addresses_are_those_of_the_book() {
        let mut table = Table::new(&[1]);
        for key in [&[7; 15][..], &[7; 17], &[], &[7; 4096]] {
            assert_eq!(table.announce_record(1, key, Duration::from_secs(60)), RecordOutcome::Malformed);
        }
        assert_eq!(table.provide(1, 5), RecordOutcome::Kept);
        assert_eq!(table.store.providers(&key_of(quorum(5)))[0].addresses, Vec::<Multiaddr>::new());
        let book: Multiaddr = "/ip4/10.0.0.1/tcp/7".parse().unwrap();
        table.store.set_addresses(peer(1), || vec![book.clone()]);
        assert_eq!(table.store.providers(&key_of(quorum(5)))[0].addresses, [book]);
    }

    /// Goal: nobody's flood takes the room of others, and this node's own records need none of it.
    #[test]
    fn each_peer_has_its_share_and_this_node_its_own() {
        let mut table = Table::new(&[1, 2, 3, 4]);
        for from in [1, 2, 3, 4] {
            for n in 0..PROVIDED_PER_PEER_MAX {
                assert_eq!(table.provide(from, usize::from(from) * 1000 + n), RecordOutcome::Kept);
            }
            assert_eq!(table.provide(from, 999_999), RecordOutcome::TooMany);
            assert_eq!(table.provide(from, usize::from(from) * 1000), RecordOutcome::Kept, "a repeat is no second one");
        }
        assert_eq!(table.store.len(), ROOM);
        assert_eq!(table.provide(5, 1), RecordOutcome::Full, "all of them are connected");
        let own = ProviderRecord::new(key_of(quorum(1)), to_libp2p(peer(0)).unwrap(), Vec::new());
        table.store.add_provider(own).expect("never refused");
        assert_eq!((table.store.provided().count(), table.of(1).len()), (1, 1));
        table.connected = vec![2, 3, 4];
        assert_eq!(table.provide(5, 1), RecordOutcome::Kept, "one that left makes room");
        assert_eq!(table.of(1).len(), 2);
        assert!(table.of(1000).is_empty() && table.of(2000).len() == 1);
    }

    #[test]
    fn strangers_cannot_sit_on_a_quorum() {
        let mut table = Table::new(&[100]);
        for from in 1..=PROVIDERS_PER_QUORUM_MAX as u8 {
            assert_eq!(table.provide(from, 7), RecordOutcome::Kept);
        }
        assert_eq!(table.provide(100, 7), RecordOutcome::Kept);
        let found = table.of(7);
        assert_eq!(found.len(), PROVIDERS_PER_QUORUM_MAX);
        assert!(found.contains(&to_libp2p(peer(100)).unwrap()) && !found.contains(&to_libp2p(peer(1)).unwrap()));
    }

    #[test]
    fn what_has_expired_is_forgotten() {
        let mut table = Table::new(&[1, 2]);
        assert_eq!(table.announce_record(1, &quorum(1).0, Duration::from_millis(5)), RecordOutcome::Kept);
        assert_eq!(table.provide(2, 1), RecordOutcome::Kept);
        table.store.forget_expired(table.now + Duration::from_millis(10));
        assert_eq!((table.of(1), table.store.len()), (vec![to_libp2p(peer(2)).unwrap()], 1));
    }
}
