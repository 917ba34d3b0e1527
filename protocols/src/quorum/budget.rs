//! Budgets of proposers: how many commands, and how many bytes of them, a primary takes of one peer.
//!
//! A peer has two buckets that fill as time passes. A command is taken from both or refused, with how long to wait. Who
//! proposes faster than the buckets fill delays itself: others commit meanwhile. The peers that are counted are
//! bounded; one that is forgotten had nearly all of its budget.

use std::collections::BTreeMap;
use std::time::Duration;

use super::limits::{
    PROPOSER_BYTES_BURST, PROPOSER_BYTES_PER_SECOND, PROPOSER_COMMANDS_BURST, PROPOSER_COMMANDS_PER_SECOND,
    PROPOSERS_MAX,
};
use crate::ids::{Millis, PeerId};

const MICROS: u64 = 1_000_000;

/// A bucket, as the time in microseconds at which it will be full.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(u64);

impl Bucket {
    /// What it is once `amount` was taken; or for how long there is not enough in it.
    fn drawn(self, now: u64, amount: u64, per_second: u64, burst: u64) -> Result<Self, Duration> {
        let micros = |amount: u64| amount.saturating_mul(MICROS).div_ceil(per_second);
        let full_at = self.0.max(now).saturating_add(micros(amount));
        match full_at.saturating_sub(now.saturating_add(micros(burst))) {
            0 => Ok(Self(full_at)),
            short => Err(Duration::from_micros(short)),
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Budgets {
    spent: BTreeMap<PeerId, (Bucket, Bucket)>,
}

impl Budgets {
    /// Takes a command of so many bytes from the peer's budget; or says how long to wait for it.
    pub fn take_command(&mut self, now: Millis, peer: PeerId, bytes: usize) -> Result<(), Duration> {
        let now = now.0.saturating_mul(1_000);
        let (commands, log) = self.spent.get(&peer).copied().unwrap_or_default();
        let commands = commands.drawn(now, 1, PROPOSER_COMMANDS_PER_SECOND, PROPOSER_COMMANDS_BURST)?;
        let log = log.drawn(now, bytes as u64, PROPOSER_BYTES_PER_SECOND, PROPOSER_BYTES_BURST)?;
        self.spent.insert(peer, (commands, log));
        if self.spent.len() > PROPOSERS_MAX
            && let Some(fullest) = self.spent.iter().min_by_key(|(_, (a, b))| a.0.max(b.0)).map(|(peer, _)| *peer)
        {
            self.spent.remove(&fullest);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u16) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        PeerId(bytes)
    }

    /// Goal: a peer has its burst, then what its budget gives a second, and takes nothing from another.
    #[test]
    fn a_peer_has_its_burst_and_then_its_share_of_each_second() {
        for (bytes, burst, per_second) in [
            (0, PROPOSER_COMMANDS_BURST, PROPOSER_COMMANDS_PER_SECOND),
            (1 << 19, PROPOSER_BYTES_BURST >> 19, PROPOSER_BYTES_PER_SECOND >> 19),
        ] {
            let mut budgets = Budgets::default();
            let mut taken =
                |now, by| (0..2 * burst).take_while(|_| budgets.take_command(now, by, bytes).is_ok()).count();
            assert_eq!(taken(Millis(5_000), peer(1)) as u64, burst);
            assert_eq!(taken(Millis(5_000), peer(1)), 0);
            assert_eq!(taken(Millis(6_000), peer(1)) as u64, per_second);
            assert_eq!(taken(Millis(6_000), peer(2)) as u64, burst);
            assert_eq!(taken(Millis(600_000), peer(1)) as u64, burst, "no more than a burst is saved up");
        }
    }

    #[test]
    fn who_is_refused_hears_how_long_to_wait() {
        let mut budgets = Budgets::default();
        while budgets.take_command(Millis(0), peer(1), 1 << 19).is_ok() {}
        let wait = budgets.take_command(Millis(0), peer(1), 1 << 19).unwrap_err();
        assert!(wait > Duration::ZERO && wait < Duration::from_secs(1), "{wait:?}");
        let later = Millis(0).plus(wait + Duration::from_millis(1));
        assert_eq!(budgets.take_command(later, peer(1), 1 << 19), Ok(()));
    }

    #[test]
    fn only_so_many_peers_are_counted() {
        let mut budgets = Budgets::default();
        while budgets.take_command(Millis(0), peer(0), 1 << 19).is_ok() {}
        for number in 1..=PROPOSERS_MAX as u16 + 10 {
            budgets.take_command(Millis(0), peer(number), 0).unwrap();
        }
        assert_eq!(budgets.spent.len(), PROPOSERS_MAX);
        assert!(budgets.take_command(Millis(0), peer(0), 1 << 19).is_err(), "who has spent most is not forgotten");
    }
}
