//! Budgets: how many things, and how many bytes of them, somebody may have a second, and at once.
//!
//! A budget is two token buckets that fill as time passes. A thing is taken from both or refused, with how long to wait
//! for it. [`Budgets`] keeps one for each peer. The peers that are counted are bounded: those with a full budget are
//! forgotten, for they would begin with the same; then the half that is closest to it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{Millis, PeerId};

const NANOS: u64 = 1_000_000_000;

/// What a budget gains a second, and what it holds when it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    pub count_per_second: u64,
    pub count_burst: u64,
    pub bytes_per_second: u64,
    pub bytes_burst: u64,
}

/// A bucket, as the time in nanoseconds at which it will be full.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(u64);

impl Bucket {
    /// What it is once `amount` was taken; or for how long there is not enough in it.
    fn drawn(self, now: u64, amount: u64, per_second: u64, burst: u64) -> Result<Self, Duration> {
        let nanos = |amount: u64| amount.saturating_mul(NANOS).div_ceil(per_second);
        let full_at = self.0.max(now).saturating_add(nanos(amount));
        match full_at.saturating_sub(now.saturating_add(nanos(burst))) {
            0 => Ok(Self(full_at)),
            short => Err(Duration::from_nanos(short)),
        }
    }
}

/// One budget. It begins full.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    count: Bucket,
    bytes: Bucket,
}

impl Budget {
    /// Takes one thing of so many bytes; or says how long to wait for it.
    pub fn charge(&mut self, now: Millis, rates: &Rates, bytes: usize) -> Result<(), Duration> {
        *self = self.drawn(now, rates, bytes)?;
        Ok(())
    }

    fn drawn(self, now: Millis, rates: &Rates, bytes: usize) -> Result<Self, Duration> {
        let now = nanos_of(now);
        let count = self.count.drawn(now, 1, rates.count_per_second, rates.count_burst)?;
        let bytes = self.bytes.drawn(now, bytes as u64, rates.bytes_per_second, rates.bytes_burst)?;
        Ok(Self { count, bytes })
    }

    fn full_at(&self) -> u64 {
        self.count.0.max(self.bytes.0)
    }
}

/// A budget for each peer. See the module.
#[derive(Clone, Debug)]
pub struct Budgets {
    rates: Rates,
    peers_max: usize,
    spent: BTreeMap<PeerId, Budget>,
}

impl Budgets {
    /// Of these rates for each peer, of whom at most `peers_max` are counted.
    pub const fn new(rates: Rates, peers_max: usize) -> Self {
        Self { rates, peers_max, spent: BTreeMap::new() }
    }

    /// Takes one thing of so many bytes from the peer's budget; or says how long to wait for it.
    pub fn charge(&mut self, now: Millis, peer: PeerId, bytes: usize) -> Result<(), Duration> {
        let left = self.drawn(now, peer, bytes)?;
        self.set(now, peer, left);
        Ok(())
    }

    /// The peer's budget once the thing was taken, for [`Budgets::set`]; or how long to wait for it.
    pub fn drawn(&self, now: Millis, peer: PeerId, bytes: usize) -> Result<Budget, Duration> {
        self.spent.get(&peer).copied().unwrap_or_default().drawn(now, &self.rates, bytes)
    }

    pub fn set(&mut self, now: Millis, peer: PeerId, left: Budget) {
        self.spent.insert(peer, left);
        if self.spent.len() <= self.peers_max {
            return;
        }
        self.spent.retain(|_, budget| budget.full_at() > nanos_of(now));
        if self.spent.len() > self.peers_max {
            // Many at once, so that a flood of names costs a look at all of them now and then, and not for each name.
            let mut all: Vec<u64> = self.spent.values().map(Budget::full_at).collect();
            all.sort_unstable();
            let median = all[all.len() / 2];
            self.spent.retain(|_, budget| budget.full_at() > median);
        }
    }
}

fn nanos_of(time: Millis) -> u64 {
    time.0.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEERS_MAX: usize = 100;
    const RATES: Rates = Rates { count_per_second: 50, count_burst: 200, bytes_per_second: 1_600, bytes_burst: 6_400 };

    fn budgets() -> Budgets {
        Budgets::new(RATES, PEERS_MAX)
    }

    fn peer(number: u16) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        PeerId(bytes)
    }

    /// Goal: a peer has its burst, then what its budget gives a second, and takes nothing from another.
    #[test]
    fn a_peer_has_its_burst_and_then_its_share_of_each_second() {
        for (bytes, burst, per_second) in [
            (0, RATES.count_burst, RATES.count_per_second),
            (100, RATES.bytes_burst / 100, RATES.bytes_per_second / 100),
        ] {
            let mut budgets = budgets();
            let mut taken = |now, by| (0..2 * burst).take_while(|_| budgets.charge(now, by, bytes).is_ok()).count();
            assert_eq!(taken(Millis(5_000), peer(1)) as u64, burst);
            assert_eq!(taken(Millis(5_000), peer(1)), 0);
            assert_eq!(taken(Millis(6_000), peer(1)) as u64, per_second);
            assert_eq!(taken(Millis(6_000), peer(2)) as u64, burst);
            assert_eq!(taken(Millis(600_000), peer(1)) as u64, burst, "no more than a burst is saved up");
        }
    }

    #[test]
    fn who_is_refused_hears_how_long_to_wait() {
        let mut budget = Budget::default();
        while budget.charge(Millis(0), &RATES, 100).is_ok() {}
        let wait = budget.charge(Millis(0), &RATES, 100).unwrap_err();
        assert!(wait > Duration::ZERO && wait < Duration::from_secs(1), "{wait:?}");
        let later = Millis(0).plus(wait + Duration::from_millis(1));
        assert_eq!(budget.charge(later, &RATES, 100), Ok(()));
    }

    /// Goal: a flood of names neither grows without end nor gives anybody its budget anew.
    #[test]
    fn only_so_many_peers_are_counted() {
        let mut budgets = budgets();
        while budgets.charge(Millis(0), peer(0), 100).is_ok() {}
        for number in 1..=PEERS_MAX as u16 + 10 {
            budgets.charge(Millis(0), peer(number), 0).unwrap();
        }
        assert!(budgets.spent.len() <= PEERS_MAX);
        assert!(budgets.charge(Millis(0), peer(0), 100).is_err(), "who has spent most is not forgotten");
    }

    #[test]
    fn who_has_a_full_budget_again_makes_room_first() {
        let mut budgets = budgets();
        for number in 0..PEERS_MAX as u16 {
            budgets.charge(Millis(0), peer(number), 0).unwrap();
        }
        assert_eq!(budgets.spent.len(), PEERS_MAX);
        budgets.charge(Millis(1_000), peer(1_000), 0).unwrap();
        assert_eq!(budgets.spent.keys().collect::<Vec<_>>(), [&peer(1_000)]);
    }
}
