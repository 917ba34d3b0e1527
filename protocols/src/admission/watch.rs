//! Trust watch: how long a peer that a quorum relies on has not been trusted, and when what it has there is to move.
//!
//! Trust ends: an admission runs out, or a node is started again with a shorter list. A peer is then to be moved once
//! it has been distrusted without a break for a grace, so that a clock that is set and an announcement that comes late
//! move nothing. A peer of which nothing was heard proves nothing: it may have an admission that was not shown yet. It
//! counts as distrusted after [`UNHEARD_MAX`] as well, or a peer could stay by announcing nothing.
//!
//! Trust is each node's own: its lists, its clock, what it heard. Only the primary of a quorum moves anything, by its
//! own trust and only to peers that it trusts, so one primary moves nothing back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Distrust;
use crate::ids::{Millis, PeerId};

/// A peer of which nothing was heard for this long, beside what it announced before, is not waited for.
pub const UNHEARD_MAX: Duration = Duration::from_secs(600);

/// Distrusted peers that one watch remembers; a further one is noticed when another was moved. Far more than a quorum
/// relies on.
pub const WATCHED_MAX: usize = 4_096;

/// See the module.
#[derive(Clone, Debug)]
pub struct TrustWatch {
    grace: Duration,
    distrusted: BTreeMap<PeerId, Lapse>,
}

/// A peer that is not trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lapse {
    pub why: Distrust,
    /// Since when, on the monotonic clock.
    pub since: Millis,
    /// When what the peer has is to move.
    pub due: Millis,
}

impl TrustWatch {
    /// `grace`: how long a peer must have been distrusted before it is to be moved.
    pub fn new(grace: Duration) -> Self {
        Self { grace, distrusted: BTreeMap::new() }
    }

    /// Notes whether the peer is trusted now. What is known of it, if it is not.
    pub fn observe(&mut self, now: Millis, peer: PeerId, trust: Result<(), Distrust>) -> Option<Lapse> {
        let Err(why) = trust else {
            self.distrusted.remove(&peer);
            return None;
        };
        let (why, since) = match self.distrusted.get(&peer) {
            None if self.distrusted.len() >= WATCHED_MAX => return None,
            None => (why, now),
            // What was proven stays so when the peer falls silent, and is not older than its proof.
            Some(before) if why == Distrust::Unheard => (before.why, before.since),
            Some(before) if before.why == Distrust::Unheard => (why, now),
            Some(before) => (why, before.since),
        };
        let patience = if why == Distrust::Unheard { self.grace.max(UNHEARD_MAX) } else { self.grace };
        let lapse = Lapse { why, since, due: since.plus(patience) };
        self.distrusted.insert(peer, lapse);
        Some(lapse)
    }

    /// What is known of the peer, if it was distrusted when last observed.
    pub fn lapse(&self, peer: PeerId) -> Option<Lapse> {
        self.distrusted.get(&peer).copied()
    }

    /// Why the peer is to be moved now, by the last observation.
    pub fn due(&self, now: Millis, peer: PeerId) -> Option<Distrust> {
        self.lapse(peer).filter(|lapse| lapse.due <= now).map(|lapse| lapse.why)
    }

    /// Peers that were distrusted when last observed, in order of id.
    pub fn distrusted(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.distrusted.keys().copied()
    }

    /// Forgets the others.
    pub fn retain(&mut self, relied_on: impl Fn(PeerId) -> bool) {
        self.distrusted.retain(|peer, _| relied_on(*peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);
    const ENDED: Result<(), Distrust> = Err(Distrust::Ended);
    const UNHEARD: Result<(), Distrust> = Err(Distrust::Unheard);

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    /// Goal: trust that comes and goes moves nothing, however often, unless it is gone for a whole grace.
    #[test]
    fn a_peer_is_moved_after_a_whole_grace_without_trust() {
        let mut watch = TrustWatch::new(GRACE);
        let minute = |n: u64| Millis(n * 60_000);
        for round in 0..10 {
            watch.observe(minute(2 * round), peer(1), ENDED);
            assert_eq!(watch.due(minute(2 * round).plus(GRACE / 2), peer(1)), None);
            assert_eq!(watch.observe(minute(2 * round).plus(GRACE / 2), peer(1), Ok(())), None);
            assert_eq!(watch.due(minute(2 * round + 1), peer(1)), None);
        }
        watch.observe(minute(100), peer(1), ENDED);
        // Why may change meanwhile: it is distrusted all the same.
        let lapse = watch.observe(minute(100).plus(GRACE / 2), peer(1), Err(Distrust::Unknown)).unwrap();
        assert_eq!((lapse.why, lapse.since, lapse.due), (Distrust::Unknown, minute(100), minute(101)));
        assert_eq!(watch.due(minute(101), peer(1)), Some(Distrust::Unknown));
        assert_eq!(watch.due(minute(101), peer(2)), None);
    }

    /// Goal: a peer that was not heard of yet has time to show its admission, and one that stays silent gains nothing.
    #[test]
    fn silence_proves_nothing_for_ten_minutes_and_takes_nothing_back() {
        let mut watch = TrustWatch::new(GRACE);
        let start = Millis(0);
        watch.observe(start, peer(1), UNHEARD);
        assert_eq!(watch.due(start.plus(2 * GRACE), peer(1)), None);
        assert_eq!(watch.due(start.plus(UNHEARD_MAX), peer(1)), Some(Distrust::Unheard));
        // An admission that has ended is news, from which the grace counts.
        let told = start.plus(UNHEARD_MAX / 2);
        watch.observe(told, peer(1), ENDED);
        assert_eq!(watch.due(told.plus(GRACE / 2), peer(1)), None);
        watch.observe(told.plus(GRACE / 2), peer(1), UNHEARD);
        assert_eq!(watch.due(told.plus(GRACE), peer(1)), Some(Distrust::Ended));
    }

    #[test]
    fn a_watch_is_bounded_and_forgets_whom_nobody_relies_on() {
        let mut watch = TrustWatch::new(GRACE);
        for n in 0..=WATCHED_MAX as u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&n.to_le_bytes());
            assert_eq!(watch.observe(Millis(0), PeerId(id), ENDED).is_some(), (n as usize) < WATCHED_MAX);
        }
        assert_eq!(watch.distrusted().count(), WATCHED_MAX);
        watch.retain(|id| id == PeerId([0; 32]));
        assert_eq!(watch.distrusted().collect::<Vec<_>>(), [PeerId([0; 32])]);
    }
}
