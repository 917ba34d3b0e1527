//! Patience: how long an answer is waited for, and how soon something is asked again, by what links and disks take.
//!
//! Each of these has a least that suits a LAN, grows with what was measured, and ends at a named most. A lease is the
//! exception: its end is promised, so the tries of its renewal are fitted into it instead. Safety rests on none of
//! them: whoever loses patience asks again, and what is asked may be asked twice.

use std::time::Duration;

use super::latency::Latency;
use super::limits::ELECTION_MIN;

/// The asker counts on this share of a lease's duration, in percent: clocks that run at different speeds never make
/// it use a lease that has ended.
pub const LEASE_TRUST_PERCENT: u64 = 90;

/// One commit on a slow disk with a failover in the middle. Its expiry means *unknown*.
pub const COMMIT_DEADLINE: Duration = Duration::from_secs(10);

/// How long one member is asked before another is. One that is connected and silent for longer is most likely cut off.
/// Each silent try of a call doubles it, so that a commit on a slow disk is not asked for again and again.
pub const TRY_MIN: Duration = Duration::from_millis(1500);

/// A member answers within so many round trips: there and back, its own question to the others, each repeated once.
const TRY_ROUND_TRIPS: u32 = 6;

/// No try takes longer: the member itself gives up then.
pub const TRY_MAX: Duration = COMMIT_DEADLINE;

/// A message that may be carried out twice is sent again beside the first when its answer takes longer than this: the
/// peer has to sync something, and a busy machine lets it wait. Asking twice costs a message, so it is less than what a
/// member is given before another is asked.
pub const REPEAT_MIN: Duration = Duration::from_millis(1000);
pub const REPEAT_MAX: Duration = Duration::from_secs(5);

/// How long a member that misses its primary holds a question for the next one: a few elections. Short enough that
/// one who is cut off from the others costs its asker little.
pub const ELECTION_WAIT_MIN: Duration = Duration::from_millis(300);
pub const ELECTION_WAIT_MAX: Duration = Duration::from_millis(1000);
const ELECTIONS_WAITED: u32 = 5;

/// What a worker is to end or to show, and still has on record this long after it was asked, it is asked for again: it
/// may have restarted.
pub const ASK_AGAIN_MIN: Duration = Duration::from_secs(2);
pub const ASK_AGAIN_MAX: Duration = Duration::from_secs(15);

/// A lease is renewed once this share of it has passed, at the latest.
pub const RENEWALS_PER_LEASE: u32 = 4;

/// Tries of one renewal, the first of them and those after a failure, that end before the lease is trusted no more.
pub const RENEWAL_TRIES: u32 = 3;

/// The pause between two of them.
const RENEW_AGAIN_MAX: Duration = Duration::from_secs(1);

/// How long to wait for one member's answer to a question or command, when a question without work takes `round_trip`
/// and nearly all commands of its quorum take less than `commit` (zero: not known).
pub fn try_patience(round_trip: Duration, commit: Duration) -> Duration {
    TRY_MIN.max(TRY_ROUND_TRIPS * round_trip).max(commit).min(TRY_MAX)
}

/// How soon a message that may be carried out twice is sent again, when a question without work takes `round_trip`.
pub fn repeat_patience(round_trip: Duration) -> Duration {
    (TRY_ROUND_TRIPS * round_trip).clamp(REPEAT_MIN, REPEAT_MAX)
}

/// How long a member that misses its primary holds a question, with the latency that paces its elections.
pub fn election_wait(latency: Latency) -> Duration {
    (ELECTIONS_WAITED * latency.election()).clamp(ELECTION_WAIT_MIN, ELECTION_WAIT_MAX)
}

/// When a worker that was asked to end or to show something is asked again: it has to hear of it, to sync what it came
/// to, and to have it committed.
pub fn ask_again(quorum: Latency, worker_round_trip: Duration) -> Duration {
    (2 * (worker_round_trip + quorum.commit())).clamp(ASK_AGAIN_MIN, ASK_AGAIN_MAX)
}

/// When a lease is renewed, and how patiently, so that it outlives two tries that fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// After the last renewal.
    pub after: Duration,
    /// One try takes no longer.
    pub try_max: Duration,
    /// Between a try that failed and the next.
    pub pause: Duration,
}

impl Renewal {
    pub fn of(lease: Duration) -> Self {
        let after = lease / RENEWALS_PER_LEASE;
        let pause = RENEW_AGAIN_MAX.min(after / 4);
        let tries = trusted(lease).saturating_sub(after + (RENEWAL_TRIES - 1) * pause);
        Self { after, try_max: tries / RENEWAL_TRIES, pause }
    }
}

/// How long after its renewal a lease is counted on.
pub fn trusted(lease: Duration) -> Duration {
    lease * LEASE_TRUST_PERCENT as u32 / 100
}

// Whoever asks a member without a primary hears so before it gives that member up.
const _: () = assert!(ELECTION_WAIT_MAX.as_millis() < TRY_MIN.as_millis());
const _: () = assert!(REPEAT_MIN.as_millis() < TRY_MIN.as_millis());
// On a LAN a question is held for as long as the least.
const _: () = assert!((ELECTION_MIN.as_millis() * ELECTIONS_WAITED as u128) <= ELECTION_WAIT_MIN.as_millis());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::limits::{REVEAL_WAIT, STOP_WAIT, TIMEOUT_GRACE};

    const LAN: Latency = Latency { round_trip: Duration::from_millis(1), sync: Duration::from_millis(10) };

    /// 400 ms with 30 % of jitter, and disks that take a second for a sync.
    const SLOW: Latency = Latency { round_trip: Duration::from_millis(520), sync: Duration::from_secs(1) };

    #[test]
    fn on_a_lan_each_wait_is_the_least() {
        assert_eq!(try_patience(LAN.round_trip, LAN.commit()), TRY_MIN);
        assert_eq!(election_wait(LAN), ELECTION_WAIT_MIN);
        assert_eq!(repeat_patience(LAN.round_trip), REPEAT_MIN);
        assert_eq!(ask_again(LAN, LAN.round_trip), ASK_AGAIN_MIN);
    }

    #[test]
    fn slow_links_and_disks_get_the_time_that_they_take_and_no_more_than_the_most() {
        assert!(try_patience(SLOW.round_trip, Duration::ZERO) > 5 * SLOW.round_trip);
        assert_eq!(try_patience(SLOW.round_trip, SLOW.commit()), SLOW.commit());
        assert_eq!(try_patience(Duration::from_secs(60), Duration::from_secs(60)), TRY_MAX);
        assert_eq!(election_wait(SLOW), ELECTION_WAIT_MAX);
        // There and back, and a sync at the other end.
        assert!(repeat_patience(SLOW.round_trip) > SLOW.round_trip + SLOW.sync);
        assert_eq!(repeat_patience(Duration::from_secs(60)), REPEAT_MAX);
        assert!(ask_again(SLOW, SLOW.round_trip) > SLOW.round_trip + 2 * SLOW.sync + SLOW.commit());
        assert_eq!(ask_again(Latency { sync: Duration::from_secs(5), ..SLOW }, SLOW.round_trip), ASK_AGAIN_MAX);
    }

    #[test]
    fn three_tries_of_a_renewal_fit_into_the_trusted_part_of_any_lease() {
        for seconds in [1, 16, 120, 600, 3_600] {
            let lease = Duration::from_secs(seconds);
            let Renewal { after, try_max, pause } = Renewal::of(lease);
            assert!(after + RENEWAL_TRIES * try_max + (RENEWAL_TRIES - 1) * pause <= trusted(lease), "{lease:?}");
            assert!(try_max > after / 2, "{lease:?}: hardly any time for a try");
        }
    }

    /// The waits that the state machine counts are the same on every member, so they cannot follow what one of them
    /// measures: they are long enough for the slowest.
    #[test]
    fn what_a_worker_has_to_tell_on_slow_links_and_disks_is_recorded_before_its_quorum_gives_it_up() {
        let message = SLOW.round_trip / 2;
        // An order is durable once it and the sync before it are; a begin and a result are commits.
        let begin = message + 2 * SLOW.sync + message + SLOW.commit();
        let result = 2 * SLOW.sync + message + SLOW.commit();
        assert!(begin + result < TIMEOUT_GRACE, "{:?}", begin + result);
        assert!(message + result < STOP_WAIT);
        assert!(ask_again(SLOW, SLOW.round_trip) < REVEAL_WAIT, "it is asked twice in it");
    }
}
