//! Sizes, deadlines and quotas of the approval protocol.

use crate::liveness::patience::LEASE_TRUST_PERCENT;
use std::time::Duration;

/// Protocol name and major version. 1: first.
pub const PROTOCOL: &str = "/quorate/approval/1";

/// Largest message: a requirement with labels, with room. A guess, far above what is sent.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// A peer that has not answered by then, and some round trips more, is not a good candidate anyway. An approver syncs
/// what it promises, and may first have to wait for a sync that is under way: on the slowest disk that timing allows
/// for, of a second a sync, this leaves it a second to spare.
pub const DEADLINE: Duration = Duration::from_secs(3);

/// The longest that any approver is waited for, whatever its round trip.
pub const DEADLINE_MAX: Duration = Duration::from_secs(6);

/// Peers asked at once beyond the number needed, so that one slow peer does not set the pace.
pub const OVER_ASK: usize = 3;

/// Leases one asker may hold at one approver; the next is refused.
pub const LEASES_PER_ASKER_MAX: usize = 1024;

/// Those of them that nobody has used yet: a column without a piece, a worker without a task, a founding that did not
/// begin. An asker with hundreds of transfers at once has some tens.
pub const UNUSED_PER_ASKER_MAX: usize = LEASES_PER_ASKER_MAX / 2;

/// The same of all askers together, for names of peers cost nothing. At some 600 bytes each.
pub const UNUSED_MAX: usize = 8 * 1024;

/// How long a lease lasts that nobody uses. It has time for the longest round, for a commit of what was won, and for
/// the first order under it, also where links and disks are slow. One that is used lasts as long as it was asked for.
pub const UNUSED_LEASE_MAX: Duration = Duration::from_secs(30);

/// How soon a primary confirms leases that may not be used for long, such as those of spares: early enough for a second
/// try.
pub const CONFIRM_INTERVAL: Duration = Duration::from_secs(5);

/// Longest lease an approver grants before it must be renewed.
pub const LEASE_DURATION_MAX: Duration = Duration::from_secs(3600);

/// Disk that one asker may hold of a node under leases that can still end, in percent of what the node may promise:
/// others find room beside it. Columns that became part of an object are not counted.
pub const ASKER_DISK_PERCENT: u64 = 75;

/// What a member sets aside for one quorum, whatever it is asked for: its log between snapshots, and its state in
/// memory. Guesses, to be replaced by what `bench idle` measures.
pub const MEMBER_DISK_BYTES: u64 = 64 * 1024 * 1024;
pub const MEMBER_MEMORY_BYTES: u64 = 4 * 1024 * 1024;

/// A peer that was asked this long ago, and two of its round trips, and is silent no longer counts as an answer to
/// come: another is asked as well.
pub const SLOW: Duration = Duration::from_millis(500);

/// With enough approvals won, how much longer to wait for the spares that were wished for, and half a round trip more.
/// Short against what a job takes, long against the answer of a peer that is well; answers over one link differ by less
/// than half of what they take.
pub const EXTRA_WAIT: Duration = Duration::from_millis(150);

/// How long volunteers may take to hear an announcement and offer themselves: a few gossip heartbeats.
pub const VOLUNTEERS_WAIT: Duration = Duration::from_secs(3);

/// A round ends by then, with what it has.
pub const ROUND_DEADLINE: Duration = Duration::from_secs(10);

/// Candidates of one round; further volunteers are not heard. Far more than any round asks.
pub const CANDIDATES_MAX: usize = 1024;

/// Standbys that a quorum tries to keep.
pub const STANDBYS: usize = 2;

/// A member must be away this long before it is replaced, so that a restart moves nothing.
pub const REPLACE_GRACE: Duration = Duration::from_secs(60);

/// Between two replacements of voters that are there and not trusted any more, tried or done. Each costs the quorum a
/// copy of its state, and nothing is lost meanwhile.
pub const DISTRUST_INTERVAL: Duration = Duration::from_secs(15);

/// How long an approver is waited for whose answers usually take `round_trip`.
pub fn deadline(round_trip: Duration) -> Duration {
    (DEADLINE + 4 * round_trip).min(DEADLINE_MAX)
}

/// When an approver is slow whose answers usually take `round_trip`.
pub fn slow_after(round_trip: Duration) -> Duration {
    (SLOW + 2 * round_trip).min(DEADLINE)
}

// An over-asked round must be able to top up before a silent peer's deadline passes.
const _: () = assert!(SLOW.as_millis() < DEADLINE.as_millis() && DEADLINE.as_millis() < DEADLINE_MAX.as_millis());
const _: () = assert!(DEADLINE_MAX.as_millis() < ROUND_DEADLINE.as_millis());
const _: () = assert!(LEASE_TRUST_PERCENT < 100);
// A promise that was won last in the longest round is counted on for another such round, and two tries to confirm it.
const _: () = assert!(
    2 * ROUND_DEADLINE.as_millis() + CONFIRM_INTERVAL.as_millis()
        <= UNUSED_LEASE_MAX.as_millis() * LEASE_TRUST_PERCENT as u128 / 100
);
