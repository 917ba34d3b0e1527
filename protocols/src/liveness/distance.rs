//! Distance: which peers are far away, by the round trips that were measured to all of them.
//!
//! A peer is distant when its answers take several times as long as those of the middle one of all peers, and long
//! enough for a user to notice. Where every peer is far from every other, nobody is distant: then there is nobody
//! nearer to ask.
//!
//! Distance is a hint, as absence is: whoever is distant is asked after the others, and nothing waits for it that the
//! others can do as well. Nothing is taken from a peer because it is distant.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::PeerId;

/// A peer is not distant below this round trip. Well above what a busy machine on a LAN takes, and above what a link
/// within one city takes; a put makes about four round trips.
pub const DISTANT_MIN: Duration = Duration::from_millis(25);

/// How many times the round trip of the middle peer a distant one takes at least.
pub const DISTANT_FACTOR: u32 = 4;

/// The distant ones among peers with these round trips. Peers that were not measured are left out of `round_trips`:
/// they are not distant.
pub fn distant_peers(round_trips: &BTreeMap<PeerId, Duration>) -> BTreeSet<PeerId> {
    let mut sorted: Vec<Duration> = round_trips.values().copied().collect();
    sorted.sort_unstable();
    // The lower of two middle ones: of two peers, the farther can be distant.
    let Some(middle) = sorted.get(sorted.len().saturating_sub(1) / 2) else { return BTreeSet::new() };
    let bound = DISTANT_MIN.max(*middle * DISTANT_FACTOR);
    round_trips.iter().filter(|(_, round_trip)| **round_trip > bound).map(|(peer, _)| *peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distant(round_trips_ms: &[u64]) -> Vec<u8> {
        let round_trips = (1..).zip(round_trips_ms).map(|(n, ms)| (PeerId([n; 32]), Duration::from_millis(*ms)));
        distant_peers(&round_trips.collect()).into_iter().map(|peer| peer.0[0]).collect()
    }

    #[test]
    fn a_peer_is_distant_when_it_is_far_and_most_are_near() {
        assert_eq!(distant(&[1, 1, 2, 400]), [4]);
        assert_eq!(distant(&[1, 400]), [2], "of two the farther");
        assert_eq!(distant(&[1, 1, 400, 400]), [3, 4], "half of them are near");
        assert_eq!(distant(&[60, 70, 80, 500]), [4], "also where all links are slow");
    }

    #[test]
    fn nobody_is_distant_where_all_are_far_or_all_near_or_nobody_was_measured() {
        assert_eq!(distant(&[400, 380, 420]), [0; 0]);
        assert_eq!(distant(&[1, 300, 400]), [0; 0], "the near one alone is no measure for the others");
        assert_eq!(distant(&[1, 1, 1, 20]), [0; 0], "a busy machine is not far");
        assert_eq!(distant(&[400]), [0; 0]);
        assert_eq!(distant(&[]), [0; 0]);
    }
}
