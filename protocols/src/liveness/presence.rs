//! Presence tracker: which peers are known to be absent, so that nobody waits for them.
//!
//! The failure detector beside it watches the nodes that share a quorum, with a heartbeat every tenth of a second. This
//! tracker covers every peer that the node talks to, and costs nothing while all is well: it is told of connections, of
//! dials that were refused, and of what became of questions. A peer is absent when its connection closed and its
//! address refuses ([`Absence::Gone`]), when its connection stayed closed for [`CLOSED_MAX`], or when it left a
//! question and then a probe unanswered for several of its round trips ([`Absence::Silent`]). Any answer and any new
//! connection ends the absence.
//!
//! Absence is a hint with a short life, not a verdict: whoever is absent is asked last and not waited for. Nothing is
//! taken from a peer because it is absent.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{Millis, PeerId};

/// Peers remembered; a further one counts as present. As many as the directory knows.
pub const PEERS_MAX: usize = 10_000;

/// A connection that closed may be opened again at once, by either side; after this the peer counts as gone.
pub const CLOSED_MAX: Duration = Duration::from_secs(1);

/// A question that was not answered for this many of the peer's round trips, and for this long at least, has the peer
/// probed. Long against what a busy machine leaves an answer lying.
pub const PROBE_AFTER_MIN: Duration = Duration::from_millis(300);
const PROBE_AFTER_ROUND_TRIPS: u32 = 4;

/// How long a probe is waited for, by the same measure. With the wait before it: about a second of silence.
pub const PROBE_DEADLINE_MIN: Duration = Duration::from_millis(700);
const PROBE_ROUND_TRIPS: u32 = 8;

/// Neither is longer than this, however slow the peer has been.
const PATIENCE_MAX: Duration = Duration::from_secs(3);

/// A silent peer is probed again this often, for as long as its announcements are remembered.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
pub const PROBE_FOR: Duration = Duration::from_secs(600);

/// The same while a question is open that the peer may have parked. Short against the longest wait of a watch, so that
/// a peer that stops meanwhile is missed before that is over; a small question every few seconds costs nothing.
pub const PARKED_PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// A round trip that was measured longer ago says nothing of the peer as it is now. Two pings of the transport.
pub const ROUND_TRIP_FRESH: Duration = Duration::from_secs(10);

/// Something that shows whether a peer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    Connected,
    /// The last connection closed.
    Closed,
    /// Nothing listens at its address, or no address of it could be reached.
    Refused,
    /// It answered, whatever it said. `round_trip`: how long that took, when the answer costs the peer no work.
    Answered {
        round_trip: Option<Duration>,
    },
    /// It left a question and a probe after it unanswered.
    Unanswered,
    /// It is no longer probed: what is known of its silence is too old.
    Forgotten,
}

/// Why a peer is taken as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    Gone,
    Silent,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    connected: bool,
    closed_at: Option<Millis>,
    refused: bool,
    silent: bool,
    round_trip: Option<Duration>,
    /// When the last question was answered that `round_trip` is made of.
    measured_at: Millis,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    peers: BTreeMap<PeerId, Entry>,
}

impl Presence {
    /// Takes a sign into account, in the order in which it was seen.
    pub fn observe(&mut self, now: Millis, peer: PeerId, sign: Sign) {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            return;
        }
        let entry = self.peers.entry(peer).or_default();
        match sign {
            // Whoever makes a connection runs.
            Sign::Connected => {
                let Entry { round_trip, measured_at, .. } = *entry;
                *entry = Entry { connected: true, round_trip, measured_at, ..Entry::default() };
            }
            Sign::Closed => (entry.connected, entry.closed_at) = (false, Some(now)),
            // An old address that refuses says nothing of a peer that is connected.
            Sign::Refused => entry.refused |= !entry.connected,
            Sign::Answered { round_trip } => {
                (entry.silent, entry.refused, entry.closed_at) = (false, false, None);
                if let Some(took) = round_trip {
                    entry.round_trip = Some(entry.round_trip.map_or(took, |before| (before * 3 + took) / 4));
                    entry.measured_at = now;
                }
            }
            Sign::Unanswered => entry.silent = true,
            Sign::Forgotten => entry.silent = false,
        }
    }

    /// Why the peer is absent; `None` when it is there, or nothing is known of it.
    pub fn absence(&self, now: Millis, peer: PeerId) -> Option<Absence> {
        let entry = self.peers.get(&peer)?;
        let closed = entry.closed_at.is_some_and(|at| now.since(at) >= CLOSED_MAX);
        match entry {
            Entry { connected: false, refused, .. } if *refused || closed => Some(Absence::Gone),
            Entry { silent: true, .. } => Some(Absence::Silent),
            _ => None,
        }
    }

    /// What questions to the peer took, averaged over the last few; `None` when the last of them is older than
    /// [`ROUND_TRIP_FRESH`].
    pub fn round_trip(&self, now: Millis, peer: PeerId) -> Option<Duration> {
        let entry = self.peers.get(&peer)?;
        entry.round_trip.filter(|_| now.since(entry.measured_at) <= ROUND_TRIP_FRESH)
    }

    /// How long a question to the peer may stay open before the peer is probed.
    pub fn probe_after(&self, peer: PeerId) -> Duration {
        self.patience(peer, PROBE_AFTER_ROUND_TRIPS, PROBE_AFTER_MIN)
    }

    /// How long the probe is waited for.
    pub fn probe_deadline(&self, peer: PeerId) -> Duration {
        self.patience(peer, PROBE_ROUND_TRIPS, PROBE_DEADLINE_MIN)
    }

    fn patience(&self, peer: PeerId, round_trips: u32, min: Duration) -> Duration {
        let round_trip = self.peers.get(&peer).and_then(|entry| entry.round_trip).unwrap_or_default();
        (round_trip * round_trips).clamp(min, PATIENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId([1; 32]);
    const ANSWERED: Sign = Sign::Answered { round_trip: None };

    /// What is known after signs, each with the time at which it was seen, at `now`.
    fn absence(signs: &[(u64, Sign)], now: u64) -> Option<Absence> {
        let mut presence = Presence::default();
        for (at, sign) in signs {
            presence.observe(Millis(*at), PEER, *sign);
        }
        presence.absence(Millis(now), PEER)
    }

    #[test]
    fn a_closed_connection_and_a_refusal_or_a_second_without_one_mean_gone() {
        let closed = (10, Sign::Closed);
        assert_eq!(absence(&[(0, Sign::Connected), closed], 10), None, "it may be back at once");
        assert_eq!(absence(&[(0, Sign::Connected), closed, (11, Sign::Refused)], 11), Some(Absence::Gone));
        assert_eq!(absence(&[(0, Sign::Connected), closed], 1_010), Some(Absence::Gone));
        assert_eq!(absence(&[closed, (11, Sign::Refused), (900, Sign::Connected)], 9_000), None, "it is back");
        assert_eq!(absence(&[(0, Sign::Refused)], 0), Some(Absence::Gone), "never there since this node started");
    }

    #[test]
    fn a_refusal_at_an_old_address_says_nothing_of_a_connected_peer() {
        assert_eq!(absence(&[(0, Sign::Connected), (5, Sign::Refused)], 9_000), None);
    }

    #[test]
    fn silence_lasts_until_any_answer_or_a_new_connection() {
        let silent = [(0, Sign::Connected), (5, Sign::Unanswered)];
        assert_eq!(absence(&silent, 90_000), Some(Absence::Silent));
        for back in [ANSWERED, Sign::Connected, Sign::Forgotten] {
            assert_eq!(absence(&[silent[0], silent[1], (50, back)], 50), None, "{back:?}");
        }
        assert_eq!(absence(&[], 0), None, "nothing is known");
    }

    #[test]
    fn patience_follows_the_round_trips_of_the_peer_within_bounds() {
        let mut presence = Presence::default();
        assert_eq!(presence.probe_after(PEER), PROBE_AFTER_MIN);
        for _ in 0..50 {
            presence.observe(Millis(0), PEER, Sign::Answered { round_trip: Some(Duration::from_millis(200)) });
        }
        assert!(presence.probe_after(PEER) > Duration::from_millis(700));
        for _ in 0..50 {
            presence.observe(Millis(0), PEER, Sign::Answered { round_trip: Some(Duration::from_secs(9)) });
        }
        assert_eq!(presence.probe_deadline(PEER), PATIENCE_MAX);
    }

    #[test]
    fn no_more_peers_than_the_bound_are_remembered() {
        let mut presence = Presence::default();
        for n in 0..=PEERS_MAX as u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&n.to_le_bytes());
            presence.observe(Millis(0), PeerId(id), Sign::Unanswered);
        }
        assert_eq!(presence.peers.len(), PEERS_MAX);
    }
}
