//! Sizes and deadlines of jobs and of the job protocol.

use std::time::Duration;

pub const PROTOCOL: &str = "/quorate/job/1";

/// A command of 512 KiB, or an object's manifest with its placement, with room.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Of one question on this protocol. Its expiry means *unknown*.
pub const DEADLINE: Duration = crate::liveness::patience::COMMIT_DEADLINE;

/// A primary holds a watch for so long at most, and then has the asker ask again: what it promised nothing for ends by
/// itself when the asker has gone. Short of `DEADLINE`, so that the answer still arrives in it.
pub const WATCH_WAIT_MAX: Duration = Duration::from_secs(5);

/// What a request with a new watch is held for: the loss of one that matters at once costs no more than this and the
/// patience of a question. Not less than `WATCH_PAUSE_MAX`, by which the asker tells that a request was held.
pub const WATCH_WAIT_MIN: Duration = Duration::from_millis(500);

/// Sessions of watches that a primary's node holds for one peer, and for all peers. Each takes a handler of the job
/// protocol, for a moment two, so peers keep at least as many for commands and questions.
pub const WATCH_SESSIONS_PER_PEER_MAX: usize = 16;
pub const WATCH_SESSIONS_OF_PEERS_MAX: usize = 128;

/// Requests of one session that are on their way at once: the parked one, and one that changes the entries.
pub const WATCH_REQUESTS_MAX: usize = 2;

/// Entries of one session, of all peers together, and of this node's own clients. The next is judged once and refused;
/// it is added again with a growing pause.
pub const WATCH_ENTRIES_PER_SESSION_MAX: usize = 1_024;
pub const WATCH_ENTRIES_OF_PEERS_MAX: usize = 16_384;
pub const WATCH_ENTRIES_OWN_MAX: usize = 4_096;

/// Entries that one request drops.
pub const WATCH_CHANGES_MAX: usize = 4 * WATCH_ENTRIES_PER_SESSION_MAX;

/// Outputs of a run that has succeeded which travel with the answer to a watch for its end, and their bytes together:
/// the whole result of a small job, and little beside the largest record.
pub const WATCH_OUTPUTS_MAX: usize = 16;
pub const WATCH_OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// A session of which no request is parked for so long has ended.
pub const WATCH_SESSION_IDLE_MAX: Duration = Duration::from_secs(10);

/// Pause before a watch that was refused is asked again; it doubles up to the second.
pub const WATCH_PAUSE_MIN: Duration = Duration::from_millis(50);
pub const WATCH_PAUSE_MAX: Duration = Duration::from_millis(500);

const _: () = assert!(2 * WATCH_WAIT_MAX.as_millis() <= DEADLINE.as_millis());

/// Questions of one peer that are under way at once: its watches, which are parked for seconds, and as many commands
/// and other questions as fill a batch of the log in a commit or two.
pub const IN_FLIGHT_PER_PEER_MAX: usize = WATCH_REQUESTS_MAX * WATCH_SESSIONS_PER_PEER_MAX + 256;

/// Peers that an owner names as readers of one job.
pub const READERS_MAX: usize = 64;

pub const SPEC_BYTES_MAX: usize = 256 * 1024;

/// Live jobs of one quorum; the next is refused.
pub const JOBS_LIVE_MAX: usize = 10_000;

/// Those of them of one owner: a half, so that nobody fills a quorum for all others.
pub const OWNER_JOBS_MAX: usize = JOBS_LIVE_MAX / 2;

/// Ended jobs kept in the record, and for how long.
pub const JOBS_ENDED_MAX: usize = 10_000;
pub const JOBS_ENDED_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// History entries kept per job; the oldest after the first go first.
pub const HISTORY_MAX: usize = 200;

/// Backups that one run keeps; holders won beyond that are released at once.
pub const SPARES_MAX: usize = 16;

/// Backups that a primary tries to have for a live run.
pub const SPARES_WANTED: usize = 2;

/// A run that has lost this many holders fails: something is wrong that the next holder will not cure.
pub const HOLDERS_FAILED_MAX: usize = 64;

/// Holders of one run waiting to be told to let go, beyond which unused grants are left to run out by themselves and
/// no repair starts.
pub const RELEASING_MAX: usize = 256;

/// Rows of one page of a listing.
pub const PAGE_MAX: usize = 500;

/// Bytes after which a page ends early. The row that passes it is still in: with the largest, an answer still fits
/// `MESSAGE_BYTES_MAX`.
pub const PAGE_BYTES_MAX: usize = 256 * 1024;

/// A store run that has stored nothing is abandoned after this without a sign of its uploader: there is nothing in it
/// to go on with.
pub const STORE_EMPTY_MAX: Duration = Duration::from_secs(60);

/// A peer that did not submit a store run takes over its upload only after this without a sign of the present uploader:
/// before, it would break off an upload that goes on.
pub const UPLOAD_SILENT_MAX: Duration = STORE_EMPTY_MAX;

/// A store run without upload progress for this long is abandoned, and what it stored is collected.
pub const STORE_IDLE_MAX: Duration = Duration::from_secs(3600);
