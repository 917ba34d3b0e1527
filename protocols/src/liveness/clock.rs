//! The clock of a primary: its own wall clock as long as a majority bears it out, else theirs.
//!
//! Heartbeats carry the sender's wall clock. An answer to a heartbeat of ours says what a peer's clock read within a
//! round trip that we measured, so [`Clocks`] knows each member's clock by our monotonic one, and may carry it on from
//! there: whether our own wall clock or a peer's is set, the next look finds it apart at once.
//!
//! [`Clocks::judge`] promises: no time that it names is ahead of the clocks of a majority of every configuration by
//! more than [`CLOCK_APART_MAX`] (and half a round trip), whatever the others read. Its price is that with a bare
//! majority known one slow clock makes the time slow: late is what a trigger makes up for, early is not. Nothing is
//! decided about who leads: a primary with a wrong clock leads on by the others' time, so a clock that is set costs no
//! election, and there is no deadlock when all are wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::INSTANT_MAX;
use crate::ids::{MemberId, Millis, PeerId};
use crate::membership::Voters;

/// A clock that differs from a majority's by at most this is good: machines without a time server drift by seconds a
/// day. It must be more than the error of a reading, which is half a deadline of a heartbeat.
pub const CLOCK_APART_MAX: Duration = Duration::from_secs(2);

const _: () = assert!(CLOCK_APART_MAX.as_millis() > super::limits::DEADLINE.as_millis() / 2);

/// How long a clock that is not heard any more is carried on: clocks drift apart by far less than the above in that
/// time.
pub const READING_KEPT: Duration = Duration::from_secs(3600);

/// What a peer's wall clock read, at a moment of our monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    wall: Millis,
    at: Millis,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Clocks {
    readings: BTreeMap<PeerId, Reading>,
}

/// What to take for the time in one quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub time: Millis,
    /// How far our own clock is ahead of the majority's, in milliseconds; negative: behind.
    pub apart_ms: i64,
}

impl Judgement {
    /// Whether our own clock is the time.
    pub fn is_own_good(&self) -> bool {
        u128::from(self.apart_ms.unsigned_abs()) <= CLOCK_APART_MAX.as_millis()
    }
}

impl Clocks {
    /// A peer answered a heartbeat that was sent at `asked`, on our monotonic clock, with its wall clock, after `took`.
    /// What no calendar has is passed over.
    pub fn record(&mut self, peer: PeerId, wall: Millis, asked: Millis, took: Duration) {
        if wall.0 <= INSTANT_MAX {
            self.readings.insert(peer, Reading { wall, at: asked.plus(took / 2) });
        }
    }

    /// Keeps the clocks of these peers alone.
    pub fn retain(&mut self, keep: impl Fn(PeerId) -> bool) {
        self.readings.retain(|peer, _| keep(*peer));
    }

    /// The time, for member `me` whose wall clock reads `own`; `None` while fewer clocks than a majority's are known.
    pub fn judge(&self, now: Millis, own: Millis, me: MemberId, configurations: &[Voters]) -> Option<Judgement> {
        let majority = configurations.iter().map(|voters| self.majority_time(now, own, me, voters));
        let majority = majority.collect::<Option<Vec<_>>>()?.into_iter().min()?;
        let apart_ms = i64::try_from(i128::from(own.0) - i128::from(majority.0)).unwrap_or(i64::MAX);
        let judged = Judgement { time: majority, apart_ms };
        Some(if judged.is_own_good() { Judgement { time: own, ..judged } } else { judged })
    }

    /// The latest time that the clocks of a majority have reached.
    fn majority_time(&self, now: Millis, own: Millis, me: MemberId, voters: &Voters) -> Option<Millis> {
        let read = |member: MemberId| {
            if member == me {
                return Some(own);
            }
            let reading = self.readings.get(&member.peer)?;
            (now.since(reading.at) <= READING_KEPT).then(|| reading.wall.plus(now.since(reading.at)))
        };
        let mut clocks: Vec<Millis> = voters.iter().filter_map(read).collect();
        clocks.sort_unstable_by(|a, b| b.cmp(a));
        clocks.get(voters.majority() - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::Incarnation;

    const HOUR: u64 = 3_600_000;
    const TRUE: u64 = 1_900_000_000_000;

    fn member(n: u8) -> MemberId {
        MemberId { peer: PeerId([n; 32]), incarnation: Incarnation(1) }
    }

    fn voters(count: u8) -> Vec<Voters> {
        vec![Voters::new((0..count).map(member))]
    }

    /// Member 0 with this clock, and the others with these.
    fn judge(own: i64, others: &[Option<i64>]) -> Option<Judgement> {
        let mut clocks = Clocks::default();
        let wall = |off: i64| Millis(TRUE.saturating_add_signed(off));
        for (at, off) in (1..).zip(others).filter_map(|(at, off)| Some((at, (*off)?))) {
            clocks.record(PeerId([at; 32]), wall(off), Millis(990), Duration::from_millis(20));
        }
        clocks.judge(Millis(1_000), wall(own), member(0), &voters(1 + others.len() as u8))
    }

    fn off(judged: Option<Judgement>) -> Option<i64> {
        judged.map(|judged| judged.time.0 as i64 - TRUE as i64)
    }

    #[test]
    fn one_wrong_clock_of_three_is_outvoted_whoever_has_it() {
        let hour = HOUR as i64;
        assert_eq!(off(judge(0, &[Some(5), Some(-5)])), Some(0), "a good clock is the time itself");
        for wrong in [hour, -hour, 11 * 30 * 24 * hour] {
            let judged = judge(wrong, &[Some(5), Some(-5)]);
            assert!(off(judged).unwrap().abs() <= 5, "{judged:?}");
            assert!(!judged.unwrap().is_own_good() && (judged.unwrap().apart_ms - wrong).abs() <= 5);
            assert_eq!(off(judge(0, &[Some(wrong), Some(-5)])), Some(0));
        }
    }

    #[test]
    fn of_a_bare_majority_the_slower_clock_is_believed_and_less_is_nothing() {
        assert_eq!(off(judge(HOUR as i64, &[Some(0), None])), Some(0));
        assert_eq!(off(judge(0, &[Some(HOUR as i64), None])), Some(0));
        assert_eq!(off(judge(0, &[Some(-(HOUR as i64)), None])), Some(-(HOUR as i64)));
        assert_eq!(judge(0, &[None, None]), None);
    }

    #[test]
    fn a_clock_that_is_not_heard_is_carried_on_and_forgotten_in_the_end() {
        let mut clocks = Clocks::default();
        clocks.record(member(1).peer, Millis(TRUE), Millis(0), Duration::ZERO);
        let later = |clocks: &Clocks, ms, own| clocks.judge(Millis(ms), Millis(own), member(0), &voters(3));
        assert_eq!(later(&clocks, HOUR, TRUE + 2 * HOUR).map(|judged| judged.time), Some(Millis(TRUE + HOUR)));
        assert_eq!(later(&clocks, HOUR + 1, TRUE), None);
        clocks.record(member(1).peer, Millis(u64::MAX), Millis(0), Duration::ZERO);
        assert_eq!(
            later(&clocks, 0, TRUE).map(|judged| judged.time),
            Some(Millis(TRUE)),
            "no calendar has such a time"
        );
    }

    proptest! {
        /// Goal: the time is never ahead of a majority's clocks by more than the bound, and with all clocks known never
        /// behind a majority's either.
        #[test]
        fn the_time_is_never_ahead_of_a_majority(
            own in -2 * HOUR as i64..2 * HOUR as i64,
            others in prop::collection::vec(prop::option::of(-2 * HOUR as i64..2 * HOUR as i64), 2..7),
        ) {
            let count = 1 + others.len();
            let majority = count / 2 + 1;
            let bound = CLOCK_APART_MAX.as_millis() as i64;
            let known: Vec<i64> = std::iter::once(own).chain(others.iter().copied().flatten()).collect();
            match off(judge(own, &others)) {
                None => prop_assert!(known.len() < majority),
                Some(time) => {
                    let reached = known.iter().filter(|clock| **clock + bound >= time).count();
                    prop_assert!(reached >= majority, "{time} of {known:?}");
                    let behind = known.iter().filter(|clock| **clock - bound <= time).count();
                    prop_assert!(known.len() < count || behind > count - majority, "{time} of {known:?}");
                }
            }
        }
    }
}
