//! Bounds of the API.

use std::time::Duration;

/// Connections of callers that have shown a token: far more than a person's tools hold open. When all are in use, the
/// one that has been idle for longest gives way; when none is idle, a caller is refused, but for [`KEPT_PLACES`].
pub const CONNECTIONS_MAX: usize = 256;

/// Connections that have not shown a token yet. When there are more, the oldest of them is closed, once it has had
/// [`LOBBY_AGE_MIN`]: a caller with a token needs its place for a moment.
pub const LOBBY_MAX: usize = 256;

/// How long a connection has for its first request, whatever comes after it. A full lobby accepts nobody sooner, so
/// that a flood waits in the socket's queue: two thousand connections for a fifth of a second at this rate.
pub const LOBBY_AGE_MIN: Duration = Duration::from_millis(20);

/// Connections that wait to be accepted, as far as the kernel lets them (`net.core.somaxconn`): a client that finds the
/// queue full tries again a second later.
pub const BACKLOG: u32 = 4096;

/// A full lobby opens for many at once: timers count whole milliseconds.
pub const LOBBY_PAUSE: Duration = Duration::from_millis(5);

/// Places beyond the others, for requests that end by themselves: what the command line and a scrape ask works on a
/// node all of whose places are held by callers that wait, follow or send. As many again are for those that end by
/// themselves once their body has come.
pub const KEPT_PLACES: usize = 8;

/// Streams of events at once. Each holds a place and a queue.
pub const STREAMS_MAX: usize = 64;

/// A request's head, whole, from its first byte; for a new connection from its beginning.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// Longest head of a request: what a caller without a token can have a node keep.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Between two requests on one connection. Longer than a program pauses between two questions.
pub const IDLE_MAX: Duration = Duration::from_secs(30);

/// A client that neither sends the rest of its body nor reads its answer for so long is gone. A guess: longer than a
/// pipe or a pager pauses that somebody attends to.
pub const STALL_MAX: Duration = Duration::from_secs(120);

/// The same in one of the [`KEPT_PLACES`], which others wait for.
pub const KEPT_STALL_MAX: Duration = Duration::from_secs(5);

/// Bytes of a body that are progress: a byte now and then is not. The last ones may be fewer.
pub const PROGRESS_BYTES: usize = 1024;

/// How long a refusal outside of any request may take to be written: the connection's buffer has room for it.
pub const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);

/// Lines of the audit log that wait to be written.
pub const AUDIT_QUEUE_MAX: usize = 1024;

/// Lines a second about refused requests, and as many about what tokens read.
pub const AUDIT_LINES_PER_S_MAX: u32 = 10;

/// How much of the audit log is kept: a hundred thousand lines and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditLimits {
    pub file_bytes_max: u64,
    pub files_max: u32,
}

impl Default for AuditLimits {
    fn default() -> Self {
        Self { file_bytes_max: 8 * 1024 * 1024, files_max: 5 }
    }
}

/// Tokens that the operator may have minted at once.
pub const TOKENS_MAX: usize = 256;

/// Longest file of tokens that is read: far above that many.
pub const TOKENS_FILE_BYTES_MAX: usize = 1024 * 1024;

/// Each token has at most one of so many places: no program's token keeps the operator out.
pub const TOKEN_SHARE: usize = 4;

/// Pause after accepting failed, for lack of descriptors for example.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

// Whoever is drained does not outlive the deadline by which it had to show a token by much.
const _: () = assert!(DRAIN_PATIENCE.as_secs() <= HEAD_DEADLINE.as_secs());

/// The bounds of the door, which tests set lower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorLimits {
    pub connections_max: usize,
    pub lobby_max: usize,
    pub lobby_age_min: Duration,
    pub kept_places: usize,
    pub streams_max: usize,
    pub head: Duration,
    pub idle: Duration,
    pub stall: Duration,
    pub kept_stall: Duration,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            lobby_max: LOBBY_MAX,
            lobby_age_min: LOBBY_AGE_MIN,
            kept_places: KEPT_PLACES,
            streams_max: STREAMS_MAX,
            head: HEAD_DEADLINE,
            idle: IDLE_MAX,
            stall: STALL_MAX,
            kept_stall: KEPT_STALL_MAX,
        }
    }
}

/// Largest JSON body. The largest request but one is a handful of short fields.
pub const JSON_BYTES_MAX: usize = 64 * 1024;

/// Largest body of a submit: a specification, and files of which all but the inline ones are objects. Base64 and JSON
/// make it longer than what it says.
pub const SUBMIT_BYTES_MAX: usize = 4 * quorate_protocols::job::limits::SPEC_BYTES_MAX;

// What may be submitted by itself may be submitted among others.
const _: () = assert!(SUBMIT_BYTES_MAX < quorate_api::SUBMIT_MANY_BYTES_MAX);

/// Requests with many submits that are in hand at once: the body of each is in memory until all its jobs are answered.
pub const SUBMIT_MANY_MAX: usize = 4;

/// Jobs of one of them that are on their way to their quorums together. As many again are left of what a primary
/// handles at once for one peer.
pub const SUBMIT_MANY_IN_FLIGHT: usize = 32;

/// Jobs that were not begun by then are refused, so that the answer comes before its client has given up.
pub const SUBMIT_MANY_DEADLINE: Duration = Duration::from_secs(30);

/// Outputs that a job shows of itself; all of them are at `/v1/jobs/{job}/outputs`. As many as come with its end.
pub const OUTCOME_OUTPUTS_MAX: u32 = quorate_protocols::job::limits::WATCH_OUTPUTS_MAX as u32;

/// Receipts are gathered of at most so many tasks.
pub const RECEIPT_TASKS_MAX: u32 = 10_000;

/// Longest text that a request may name (a fingerprint; names have their own bound).
pub const TEXT_BYTES_MAX: usize = 4 * 1024;

/// Deadline of one question to one quorum. It is the job protocol's own: a failover fits in it.
pub const QUESTION_DEADLINE: Duration = quorate_protocols::job::limits::DEADLINE;

/// Deadline per quorum while a listing gathers rows: a quorum without a majority must not hold up the others.
pub const LISTING_DEADLINE: Duration = Duration::from_secs(2);

/// The same once a quorum was silent for the whole deadline, and for old rows: whoever is cut off is not kept waiting
/// for each of its quorums. Far from its peers it waits as long as these take to answer: see
/// [`listing_deadline_short`].
pub const LISTING_DEADLINE_SHORT: Duration = Duration::from_millis(300);

/// How long a peer is given to show that it hears this node, and how many are asked.
pub const CONTACT_DEADLINE: Duration = Duration::from_secs(1);
pub const CONTACT_PEERS_MAX: usize = 32;

/// Quorums asked at once by a listing.
pub const LISTING_FAN_OUT: usize = 16;

/// Rows of one page of a list: if the request does not say how many, and at most.
pub const PAGE_ROWS_DEFAULT: usize = 1_000;
pub const PAGE_ROWS_MAX: usize = 5_000;

/// Bytes of outputs in the quorum's record after which a page of outputs ends, whatever rows it may have: with the
/// largest, a page is a little longer.
pub const PAGE_OUTPUT_BYTES: u64 = 1024 * 1024;

/// Longest cursor: an instant and the longest id.
pub const CURSOR_BYTES_MAX: usize = 256;

/// Pages that are asked of one quorum for one listing: more than a quorum at its limits has, whose longest rows fill a
/// page by themselves now and then.
pub const LISTING_PAGES_MAX: usize = 10_000;

/// Longest wait of `/v1/jobs/{id}/wait`; clients ask again.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// Pause before a request that waits for a job asks its quorum again after that gave no answer.
pub const WAIT_RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Chunks of a download that wait between the object's reader and the client.
pub const DOWNLOAD_CHUNKS_MAX: usize = 2;

/// Progress lines of an upload within one phase are sent at most this often, and at least this often as a sign of life.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
pub const PROGRESS_SILENCE_MAX: Duration = Duration::from_secs(5);

/// How long the rest of a body that was answered early is read and thrown away, so that its client sees the answer.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// A closing server gives requests this long to end.
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

/// A benchmark of which nothing has ended for so long is over.
pub const BENCH_SILENCE_MAX: Duration = Duration::from_secs(20);

/// The short deadline of a listing whose slowest peer answers within `round_trip`: one question and its repetition.
pub fn listing_deadline_short(round_trip: Duration) -> Duration {
    LISTING_DEADLINE_SHORT.max(3 * round_trip).min(LISTING_DEADLINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_rows_of_far_members_arrive_and_a_lan_waits_no_longer() {
        assert_eq!(listing_deadline_short(Duration::from_millis(2)), LISTING_DEADLINE_SHORT);
        assert!(listing_deadline_short(Duration::from_millis(400)) > 2 * Duration::from_millis(520), "with jitter");
        assert_eq!(listing_deadline_short(Duration::from_secs(60)), LISTING_DEADLINE);
    }
}
