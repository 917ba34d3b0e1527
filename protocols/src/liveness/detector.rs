//! The failure detector of one node: who is silent, and for how long that may go on.
//!
//! One [`Detector`] watches every node that this one shares a quorum with. It is told of heartbeats, of connections
//! that closed and of dials that were refused, and ticks at least once per [`HEARTBEAT_INTERVAL`]; it answers with who
//! became suspect and who came back. It sends nothing and decides nothing about quorums: that is `election`.
//!
//! Silence is measured against a bound that follows the lateness of earlier heartbeats, between [`SUSPICION_MIN`] and
//! [`SUSPICION_MAX`]. Two things shorten or stretch it. A connection that closed *and* a dial that was refused prove
//! that the process is gone, and are acted on at once. A tick of ours that came late proves that *we* were held up,
//! and the time lost is charged to nobody: without that, a laptop that wakes from sleep would suspect the world.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::limits::{
    EVIDENCE_MAX, HEARTBEAT_INTERVAL, REDIAL_FOR, REDIAL_INTERVAL, STALL, SUSPICION_MAX, SUSPICION_MIN,
};
use crate::ids::{BootId, Millis, PeerId};

/// What the node learnt. Times are on its monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectorInput {
    /// A quorum is shared with this peer from now on. Repeating it changes nothing.
    Watch { peer: PeerId },
    /// No quorum is shared any longer.
    Unwatch { peer: PeerId },
    /// A heartbeat, an answer to ours, or any other message that proves the peer's process runs. Without a connection
    /// it proves only that the process ran when it was sent.
    Heartbeat { peer: PeerId, boot: BootId },
    /// A connection exists. Proves nothing about the process behind it, but ends the evidence against it.
    Connected { peer: PeerId },
    /// The last connection closed.
    Disconnected { peer: PeerId },
    /// A dial was answered with a refusal.
    Refused { peer: PeerId },
    /// Time passed. Due at least once per `HEARTBEAT_INTERVAL`; a tick that comes later than that by `STALL` is taken
    /// as a pause of this node.
    Tick,
}

/// Why a peer is suspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Silent {
        silence: Duration,
        allowed: Duration,
    },
    /// Its connection closed and its address refuses.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectorEffect {
    Suspected {
        peer: PeerId,
        cause: Cause,
    },
    Recovered {
        peer: PeerId,
    },
    /// The peer runs in another boot than before: its leases and its lead, if any, must be looked at anew. Follows a
    /// `Recovered` when the peer had been suspected.
    Restarted {
        peer: PeerId,
        boot: BootId,
    },
    /// Try to connect now: a refusal completes the evidence, a success refutes it.
    Dial {
        peer: PeerId,
    },
}

#[derive(Clone, Debug)]
struct Watched {
    /// Last proof of life, moved forward by pauses of our own; the start of the watch before the first.
    heard_at: Millis,
    heard: bool,
    boot: Option<BootId>,
    /// Smoothed lateness of heartbeats, in microseconds so that averaging does not round it away.
    lateness_us: u64,
    disconnected_at: Option<Millis>,
    /// When the next dial for evidence is due.
    redial_at: Option<Millis>,
    suspected_since: Option<Millis>,
}

impl Watched {
    fn allowed(&self) -> Duration {
        // Four times the usual lateness covers nearly every heartbeat that is merely late.
        (SUSPICION_MIN + 4 * Duration::from_micros(self.lateness_us)).min(SUSPICION_MAX)
    }
    fn learn_lateness(&mut self, gap: Duration) {
        // An outage is not jitter: beyond the least suspicion a gap says nothing about how late heartbeats usually are.
        let late = gap.saturating_sub(HEARTBEAT_INTERVAL).min(SUSPICION_MIN).as_micros() as u64;
        // Up quickly, down slowly: wrong suspicions cost an election, a slow suspicion costs a second.
        let (old, new) = if late > self.lateness_us { (3, 1) } else { (15, 1) };
        self.lateness_us = (self.lateness_us * old + late * new) / (old + new);
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Detector {
    peers: BTreeMap<PeerId, Watched>,
    driven_at: Millis,
}

impl Detector {
    pub fn new(now: Millis) -> Self {
        Self { peers: BTreeMap::new(), driven_at: now }
    }

    /// Contract: call for every input in the order in which it happened, and perform the effects in order.
    pub fn step(&mut self, now: Millis, input: DetectorInput) -> Vec<DetectorEffect> {
        self.forgive_own_pause(now);
        let mut effects = Vec::new();
        match input {
            DetectorInput::Watch { peer } => {
                self.peers.entry(peer).or_insert(Watched {
                    heard_at: now,
                    heard: false,
                    boot: None,
                    lateness_us: 0,
                    disconnected_at: None,
                    redial_at: None,
                    suspected_since: None,
                });
            }
            DetectorInput::Unwatch { peer } => drop(self.peers.remove(&peer)),
            DetectorInput::Heartbeat { peer, boot } => {
                let Some(watched) = self.peers.get_mut(&peer) else { return effects };
                // Sent before the connection closed: a new one would have been told first.
                let closed = watched.disconnected_at.is_some_and(|at| now.since(at) <= EVIDENCE_MAX);
                if closed && watched.boot == Some(boot) {
                    return effects;
                }
                if watched.heard && watched.suspected_since.is_none() {
                    watched.learn_lateness(now.since(watched.heard_at));
                }
                watched.heard_at = watched.heard_at.max(now);
                watched.heard = true;
                (watched.disconnected_at, watched.redial_at) = (None, None);
                if watched.suspected_since.take().is_some() {
                    effects.push(DetectorEffect::Recovered { peer });
                }
                if watched.boot.replace(boot).is_some_and(|before| before != boot) {
                    // What we knew of its timing belonged to another process.
                    watched.lateness_us = 0;
                    effects.push(DetectorEffect::Restarted { peer, boot });
                }
            }
            DetectorInput::Connected { peer } => {
                if let Some(watched) = self.peers.get_mut(&peer) {
                    (watched.disconnected_at, watched.redial_at) = (None, None);
                }
            }
            DetectorInput::Disconnected { peer } => {
                if let Some(watched) = self.peers.get_mut(&peer) {
                    watched.disconnected_at = Some(now);
                    if watched.suspected_since.is_none() {
                        watched.redial_at = Some(now.plus(REDIAL_INTERVAL));
                        effects.push(DetectorEffect::Dial { peer });
                    }
                }
            }
            DetectorInput::Refused { peer } => {
                if let Some(watched) = self.peers.get_mut(&peer) {
                    let closed = watched.disconnected_at.is_some_and(|at| now.since(at) <= EVIDENCE_MAX);
                    // A peer that was never heard has no connection to lose: the refusal alone says that it is not
                    // there.
                    if (closed || !watched.heard) && watched.suspected_since.is_none() {
                        watched.redial_at = None;
                        watched.suspected_since = Some(now);
                        effects.push(DetectorEffect::Suspected { peer, cause: Cause::Gone });
                    }
                }
            }
            DetectorInput::Tick => {
                for (&peer, watched) in &mut self.peers {
                    let (silence, allowed) = (now.since(watched.heard_at), watched.allowed());
                    if watched.suspected_since.is_none() && silence > allowed {
                        watched.suspected_since = Some(now);
                        let cause = Cause::Silent { silence, allowed };
                        effects.push(DetectorEffect::Suspected { peer, cause });
                    }
                    if watched.redial_at.is_some_and(|at| at <= now) {
                        let next = now.plus(REDIAL_INTERVAL);
                        let closed = watched.disconnected_at.filter(|at| next.since(*at) <= REDIAL_FOR);
                        watched.redial_at = closed.filter(|_| watched.suspected_since.is_none()).map(|_| next);
                        effects.push(DetectorEffect::Dial { peer });
                    }
                }
            }
        }
        effects
    }

    /// Moves every deadline by the time in which this node did not run.
    fn forgive_own_pause(&mut self, now: Millis) {
        let gap = now.since(self.driven_at);
        self.driven_at = self.driven_at.max(now);
        let lost = gap.saturating_sub(HEARTBEAT_INTERVAL);
        if lost > STALL {
            for watched in self.peers.values_mut() {
                watched.heard_at = watched.heard_at.plus(lost).min(now);
            }
        }
    }

    /// When to tick next for a dial, if nothing happens before.
    pub fn wake_at(&self) -> Option<Millis> {
        self.peers.values().filter_map(|watched| watched.redial_at).min()
    }

    pub fn is_watched(&self, peer: PeerId) -> bool {
        self.peers.contains_key(&peer)
    }
    /// Peers watched, in order.
    pub fn watched(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.peers.keys().copied()
    }
    pub fn is_suspected(&self, peer: PeerId) -> bool {
        self.suspected_since(peer).is_some()
    }
    pub fn suspected_since(&self, peer: PeerId) -> Option<Millis> {
        self.peers.get(&peer)?.suspected_since
    }
    pub fn suspected(&self) -> BTreeSet<PeerId> {
        self.peers.iter().filter(|(_, watched)| watched.suspected_since.is_some()).map(|(&peer, _)| peer).collect()
    }
    /// Since when a suspected peer has been gone, at the latest: its last connection closed, or the heartbeat after its
    /// last one did not come. No message of its reached anybody much later than that.
    pub fn lost_at(&self, peer: PeerId) -> Option<Millis> {
        let watched = self.peers.get(&peer)?;
        let since = watched.suspected_since?;
        Some(watched.disconnected_at.unwrap_or(watched.heard_at.plus(HEARTBEAT_INTERVAL)).min(since))
    }
    /// Whether the peer was ever heard since the watch began.
    pub fn was_heard(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|watched| watched.heard)
    }
    /// Whether the peer gave a sign of life within `span`, pauses of our own not counted. For a primary that must know
    /// whether it still hears a majority.
    pub fn heard_within(&self, now: Millis, peer: PeerId, span: Duration) -> bool {
        self.peers.get(&peer).is_some_and(|watched| watched.heard && now.since(watched.heard_at) <= span)
    }
    /// Silence that is not suspected yet. For a peer that is not watched, the least.
    pub fn allowed(&self, peer: PeerId) -> Duration {
        self.peers.get(&peer).map_or(SUSPICION_MIN, Watched::allowed)
    }
    /// The boot in which the peer was last heard.
    pub fn boot(&self, peer: PeerId) -> Option<BootId> {
        self.peers.get(&peer)?.boot
    }
}
