//! Bounds of a worker: what it holds for quorums, and how patient it is.

use std::time::Duration;

use quorate_protocols::backoff::Backoff;

/// Attempts in the inbox and the outbox together. More than the slots of any machine; results wait here while their
/// quorum is away. When they are that many, assignments are answered *busy*, and the primary asks again.
pub const ATTEMPTS_MAX: usize = 4_096;

/// Orders, calls and results in memory, in bytes. Past it assignments are answered *busy*; what runs may still add its
/// results, each at most `task::limits::OUTPUT_BYTES_MAX`.
pub const HELD_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Stops of attempts that this worker does not know, per quorum, until they are confirmed. Past it stops are answered
/// *busy*.
pub const ORPHANS_MAX: usize = 1_024;

/// Quorums that this worker has something of, or has lately worked for; the idle one used longest ago is forgotten.
pub const OUTBOXES_MAX: usize = 256;

/// Requests on their way to the worker's actor; whoever brings more waits, holding a handler of the task service.
pub const REQUESTS_QUEUE: usize = 64;

/// Ended attempts and answers on their way to the actor; senders wait.
pub const ENDED_QUEUE: usize = 256;

/// How long an attempt may be on no disk. One that ends and is recorded sooner never is: its assignment is only
/// confirmed then, so nothing is lost by a crash but the work of this long. A few syncs of a disk.
pub const SAVE_AFTER: Duration = Duration::from_millis(25);

/// What took longer to compute than this is written down before it is reported: it is worth more than a sync.
pub const WORTH_KEEPING: Duration = Duration::from_millis(100);

/// Between two tries to reach a quorum, doubling from the first to the second, with up to half as jitter. One try
/// already looks for the primary for as long as the protocol's deadline.
pub const PAUSE_MIN: Duration = Duration::from_millis(50);
pub const PAUSES: Backoff = Backoff::new(PAUSE_MIN, Duration::from_secs(10));

/// How long results are kept for a quorum that cannot be reached and has no lease here any more. Longer than an outage
/// that its members survive; after that it is taken for gone, and its results would only take the place of others'.
pub const RESULTS_KEPT: Duration = Duration::from_secs(3 * 24 * 3600);

/// How often a quorum hears what runs here for it, unless the last heartbeat is still on its way: one is at a time, and
/// a slow link or an election only makes heartbeats fewer. A third of the shortest silence that its primary makes much
/// of.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

/// For what runs when the node closes, to be stopped: a program's grace and then some. Less than the node itself waits.
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(8);
