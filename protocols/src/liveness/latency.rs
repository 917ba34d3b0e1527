//! Latency estimates: how long a peer takes to answer, how long a disk takes to sync, and what an election that needs
//! both may take.
//!
//! A [`DelayEstimate`] is the smoothed mean and deviation of TCP's retransmission timer (RFC 6298): with the mean `m`
//! and the mean deviation `d`, nearly every sample lies below `m + 4 d`. That bound is what timing follows here, so
//! that a quorum over slow links or on slow disks waits as long as they take, and one on a LAN no longer than it must.
//! Estimates pace work; safety never rests on them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::limits::{DELAY_MAX, ELECTION_MIN};
use crate::ids::MemberId;
use crate::membership::Voters;

/// Running estimate of one delay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DelayEstimate {
    /// Mean and mean deviation, in microseconds so that averaging does not round them away.
    mean_us: u64,
    deviation_us: u64,
    is_measured: bool,
}

impl DelayEstimate {
    /// Adds a sample. Samples above [`DELAY_MAX`] count as that.
    pub fn record(&mut self, sample: Duration) {
        let sample = sample.min(DELAY_MAX).as_micros() as u64;
        if !self.is_measured {
            *self = Self { mean_us: sample, deviation_us: sample / 2, is_measured: true };
            return;
        }
        // The gains of RFC 6298: a quarter for the deviation, an eighth for the mean.
        self.deviation_us = (3 * self.deviation_us + self.mean_us.abs_diff(sample)) / 4;
        self.mean_us = (7 * self.mean_us + sample) / 8;
    }

    /// What nearly every delay stays below; at most [`DELAY_MAX`]. `None` before the first sample.
    pub fn bound(&self) -> Option<Duration> {
        self.is_measured.then(|| Duration::from_micros(self.mean_us + 4 * self.deviation_us).min(DELAY_MAX))
    }
}

/// Bounds on what one exchange with a member takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// From the question to the answer, for one that needs no disk.
    pub round_trip: Duration,
    /// Until a write is durable on the member's disk.
    pub sync: Duration,
}

impl Latency {
    /// The larger of each.
    pub fn max(self, other: Self) -> Self {
        Self { round_trip: self.round_trip.max(other.round_trip), sync: self.sync.max(other.sync) }
    }

    /// What an election takes from `elect` to a winner: the candidate syncs its own vote, then asks, and each voter
    /// syncs its vote before it answers. At least [`ELECTION_MIN`].
    pub fn election(&self) -> Duration {
        ELECTION_MIN.max(self.round_trip + 2 * self.sync)
    }

    /// What a command takes until it is committed, and every message that ends in an append: both sides sync once, and
    /// each may first have to wait for a sync that is under way.
    pub fn commit(&self) -> Duration {
        self.round_trip + 4 * self.sync
    }
}

/// The latency that paces an election of `me`: its own, and that of the slowest voter that the quickest majority needs.
/// One slow member among quick ones slows nobody down as long as it is not needed.
pub fn majority_latency(
    configurations: &[Voters],
    me: MemberId,
    suspected: &BTreeSet<MemberId>,
    latency_of: impl Fn(MemberId) -> Latency,
) -> Latency {
    let mut needed = latency_of(me);
    for voters in configurations {
        let mut others: Vec<Latency> =
            voters.iter().filter(|voter| *voter != me && !suspected.contains(voter)).map(&latency_of).collect();
        others.sort_by_key(Latency::commit);
        let voices = voters.majority().saturating_sub(usize::from(voters.contains(me)));
        needed = others.into_iter().take(voices).fold(needed, Latency::max);
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, PeerId};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
    fn member(n: u8) -> MemberId {
        MemberId { peer: PeerId([n; 32]), incarnation: Incarnation(1) }
    }

    #[test]
    fn the_bound_covers_a_jittery_delay_and_stays_near_a_steady_one() {
        let mut steady = DelayEstimate::default();
        assert_eq!(steady.bound(), None);
        (0..100).for_each(|_| steady.record(ms(200)));
        assert!(steady.bound() < Some(ms(205)), "{steady:?}");
        let mut jittery = DelayEstimate::default();
        // Evenly between 280 and 520 ms.
        (0..200).for_each(|n| jittery.record(ms(280 + n * 83 % 241)));
        let bound = jittery.bound().expect("measured");
        assert!(bound > ms(520) && bound < ms(800), "{bound:?}");
    }

    #[test]
    fn the_bound_follows_a_delay_that_grows_within_a_few_samples_and_never_passes_the_limit() {
        let mut estimate = DelayEstimate::default();
        (0..100).for_each(|_| estimate.record(ms(1)));
        (0..2).for_each(|_| estimate.record(ms(400)));
        assert!(estimate.bound() > Some(ms(400)), "{estimate:?}");
        estimate.record(Duration::from_secs(3600));
        assert!(estimate.bound() <= Some(DELAY_MAX));
    }

    #[test]
    fn a_slow_voter_paces_an_election_only_when_it_is_needed() {
        let voters = Voters::new([1, 2, 3, 4, 5].map(member));
        let latency_of = |voter: MemberId| Latency {
            round_trip: ms(if voter == member(5) { 400 } else { u64::from(voter.peer.0[0]) }),
            sync: ms(1),
        };
        let needed = |suspected: &[MemberId]| {
            let suspected = suspected.iter().copied().collect();
            majority_latency(std::slice::from_ref(&voters), member(1), &suspected, latency_of).round_trip
        };
        assert_eq!(needed(&[]), ms(3));
        assert_eq!(needed(&[member(2)]), ms(4));
        assert_eq!(needed(&[member(2), member(3)]), ms(400));
    }
}
