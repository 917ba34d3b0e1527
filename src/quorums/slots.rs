//! Places for what is held for a while, so many for each peer and in all.
//!
//! Whoever finds none does without: nothing waits for a place.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_protocols::ids::PeerId;

/// Cloneable; clones share the places.
#[derive(Clone)]
pub struct PeerSlots {
    per_peer: usize,
    total: usize,
    reserved: Arc<Mutex<Reserved>>,
}

#[derive(Default)]
struct Reserved {
    total: usize,
    of_peers: BTreeMap<PeerId, usize>,
}

/// A place, which is free again when this is dropped.
pub struct PeerSlot {
    slots: PeerSlots,
    peer: PeerId,
}

impl PeerSlots {
    pub fn new(per_peer: usize, total: usize) -> Self {
        Self { per_peer, total, reserved: Arc::default() }
    }
    pub fn reserve(&self, peer: PeerId) -> Option<PeerSlot> {
        let mut reserved = self.lock();
        let of_peer = reserved.of_peers.get(&peer).copied().unwrap_or_default();
        if of_peer >= self.per_peer || reserved.total >= self.total {
            return None;
        }
        reserved.of_peers.insert(peer, of_peer + 1);
        reserved.total += 1;
        Some(PeerSlot { slots: self.clone(), peer })
    }
    fn lock(&self) -> MutexGuard<'_, Reserved> {
        self.reserved.lock()
    }
}

impl Drop for PeerSlot {
    fn drop(&mut self) {
        let mut reserved = self.slots.lock();
        reserved.total -= 1;
        if let Some(of_peer) = reserved.of_peers.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                reserved.of_peers.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_and_all_of_them_have_so_many_places_and_what_is_dropped_is_free_again() {
        let slots = PeerSlots::new(2, 3);
        let peer = |n| PeerId([n; 32]);
        let (one, two) = (slots.reserve(peer(1)), slots.reserve(peer(1)));
        assert!(one.is_some() && two.is_some() && slots.reserve(peer(1)).is_none());
        let other = slots.reserve(peer(2));
        assert!(other.is_some() && slots.reserve(peer(3)).is_none());
        drop(one);
        let again = slots.reserve(peer(3));
        assert!(again.is_some() && slots.reserve(peer(1)).is_none());
        drop((two, other, again));
        let reserved = slots.lock();
        assert!(reserved.of_peers.is_empty() && reserved.total == 0);
    }
}
