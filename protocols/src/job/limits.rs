//! Sizes and deadlines of jobs and of the job protocol.

use std::time::Duration;

pub const PROTOCOL: &str = "/quorate/job/1";

/// A command of 512 KiB, or an object's manifest with its placement, with room.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// One commit on a slow disk with a failover in the middle. Its expiry means *unknown*.
pub const DEADLINE: Duration = Duration::from_secs(10);

pub const SPEC_BYTES_MAX: usize = 256 * 1024;

/// Live jobs of one quorum; the next is refused.
pub const JOBS_LIVE_MAX: usize = 10_000;

/// Ended jobs kept in the record, and for how long.
pub const JOBS_ENDED_MAX: usize = 10_000;
pub const JOBS_ENDED_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// History entries kept per job; the oldest after the first go first.
pub const HISTORY_MAX: usize = 200;

/// Rows of one page of a listing.
pub const PAGE_MAX: usize = 500;

/// A store run that nobody fed for this long is abandoned, and what it stored is collected.
pub const STORE_IDLE_MAX: Duration = Duration::from_secs(3600);
