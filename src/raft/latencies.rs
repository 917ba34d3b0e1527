//! Latency table: what the members of this node's quorums take to answer and to sync, and the deadlines that follow.
//!
//! The liveness layer feeds it with the round trips of its heartbeats and with what peers say of their disks; the
//! node's own disk is asked when it is needed. A peer that was not measured yet is taken for slow, so that nothing is
//! given up on a link that merely takes its time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quorate_protocols::ids::{MemberId, PeerId};
use quorate_protocols::liveness::limits::DELAY_UNKNOWN;
use quorate_protocols::liveness::{DelayEstimate, Latency, majority_latency};
use quorate_protocols::membership::Voters;
use quorate_protocols::quorum::limits::{APPEND_DEADLINE, APPEND_DEADLINE_MAX};

use crate::storage::Storage;

pub struct Latencies {
    storage: Storage,
    /// Peers that the liveness layer watches, and no others.
    peers: Mutex<BTreeMap<PeerId, Measured>>,
}

#[derive(Clone, Copy, Default)]
struct Measured {
    round_trip: DelayEstimate,
    sync: Option<Duration>,
}

impl Latencies {
    pub fn new(storage: Storage) -> Self {
        Self { storage, peers: Mutex::default() }
    }

    /// An answer came this long after its question.
    pub fn record_round_trip(&self, peer: PeerId, took: Duration) {
        self.lock().entry(peer).or_default().round_trip.record(took);
    }

    /// What a peer says of its own disk.
    pub fn record_sync(&self, peer: PeerId, sync: Duration) {
        self.lock().entry(peer).or_default().sync = Some(sync);
    }

    /// Forgets everybody else.
    pub fn retain(&self, watched: &BTreeSet<PeerId>) {
        self.lock().retain(|peer, _| watched.contains(peer));
    }

    /// Until a write is durable here.
    pub fn own_sync(&self) -> Duration {
        self.storage.sync_latency()
    }

    pub fn of(&self, peer: PeerId) -> Latency {
        let measured = self.lock().get(&peer).copied().unwrap_or_default();
        Latency {
            round_trip: measured.round_trip.bound().unwrap_or(DELAY_UNKNOWN),
            sync: measured.sync.unwrap_or(DELAY_UNKNOWN),
        }
    }

    /// As [`Self::of`], also for the member that this node is.
    pub fn of_member(&self, member: MemberId, me: MemberId) -> Latency {
        match member == me {
            true => Latency { round_trip: Duration::ZERO, sync: self.own_sync() },
            false => self.of(member.peer),
        }
    }

    /// What paces elections and commits of `me`, with these voters suspected.
    pub fn of_majority(&self, configurations: &[Voters], me: MemberId, suspected: &BTreeSet<MemberId>) -> Latency {
        majority_latency(configurations, me, suspected, |member| self.of_member(member, me))
    }

    /// How long an append to this peer may take: several times what it usually does, for it may be large or wait behind
    /// others.
    pub fn append_deadline(&self, peer: PeerId) -> Duration {
        APPEND_DEADLINE.max(2 * self.of(peer).commit()).min(APPEND_DEADLINE_MAX)
    }

    /// When the answer to a small append is late: it was lost, or the peer is busier than it usually is.
    pub fn append_late(&self, peer: PeerId) -> Duration {
        let latency = self.of(peer);
        (APPEND_DEADLINE / 3).max(latency.round_trip + 2 * latency.sync)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Measured>> {
        self.peers.lock()
    }
}
