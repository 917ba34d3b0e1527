//! Sizes, deadlines and quotas of the approval protocol.

use std::time::Duration;

/// Protocol name and major version. 1: first.
pub const PROTOCOL: &str = "/quorate/approval/1";

/// Largest message: a requirement with labels, with room. A guess, far above what is sent.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// A peer that has not answered by then is not a good candidate anyway.
pub const DEADLINE: Duration = Duration::from_secs(3);

/// Peers asked at once beyond the number needed, so that one slow peer does not set the pace.
pub const OVER_ASK: usize = 3;

/// Leases one asker may hold at one approver; the next is refused.
pub const LEASES_PER_ASKER_MAX: usize = 1024;

/// The asker counts on this share of a lease's duration, in percent: clocks that run at different speeds never make
/// it use a lease that has ended.
pub const LEASE_TRUST_PERCENT: u64 = 90;

/// Longest lease an approver grants before it must be renewed.
pub const LEASE_DURATION_MAX: Duration = Duration::from_secs(3600);
