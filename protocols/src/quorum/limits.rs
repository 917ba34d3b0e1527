//! Sizes and times of quorums.

use std::time::Duration;

use crate::budget::Rates;
use crate::object::limits::{MANIFEST_BYTES_MAX, NAME_BYTES_MAX};
use crate::trigger::limits as trigger;

pub use crate::membership::{VOTERS_DEFAULT, VOTERS_MAX, VOTERS_MIN};

pub const RAFT_PROTOCOL: &str = "/quorate/raft/1";

/// Largest raft message head: one log read (`LOG_READ_BYTES_MAX`) or one oversized batch, with room.
pub const RAFT_HEAD_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Largest raft payload: one snapshot chunk.
pub const RAFT_PAYLOAD_BYTES_MAX: usize = SNAPSHOT_CHUNK_BYTES;

/// Deadline of an append, and of what a member adds to a read, where links and disks are quick. Otherwise both follow
/// the latency of the member that is asked, up to [`APPEND_DEADLINE_MAX`].
pub const APPEND_DEADLINE: Duration = Duration::from_millis(1500);
pub const APPEND_DEADLINE_MAX: Duration = Duration::from_secs(12);

/// Deadline of one message about a snapshot or a founding.
pub const RAFT_DEADLINE: Duration = Duration::from_secs(5);

/// Deadline of a vote. Long, for nothing waits for it: a candidate gives up when the election core says so, and an
/// answer that comes later than that belongs to no election any more.
pub const VOTE_DEADLINE: Duration = Duration::from_secs(10);

/// No raft message is waited for longer than this.
pub const RAFT_DEADLINE_MAX: Duration = Duration::from_secs(15);

/// The lease during which a voter that has just heard its primary refuses every candidate. Nothing rests on it: the
/// pre-vote keeps candidates away from a primary that a majority hears, and reads ask a majority. So it is as short as
/// openraft takes it, and costs no failover.
pub const VOTER_LEASE: Duration = Duration::from_millis(2);

/// One entry carries at most this much.
pub const BATCH_COMMANDS_MAX: usize = 512;
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

pub const COMMAND_BYTES_MAX: usize = 512 * 1024;

/// Commands waiting at a primary; the next is refused as busy.
pub const PROPOSALS_MAX: usize = 4 * 1024;

/// What a primary takes of one other peer a second, and at once, over all quorums of its node: commands, and their
/// bytes in the log. Guesses, above what a node does that stores as fast as its disks are, or reports the largest
/// outputs; below what keeps others from committing. Beyond it the peer is told that the quorum is busy.
pub const PROPOSER_RATES: Rates = Rates {
    count_per_second: 5_000,
    count_burst: 20_000,
    bytes_per_second: 16 * 1024 * 1024,
    bytes_burst: 64 * 1024 * 1024,
};

/// Peers whose commands are counted; beyond that those that are closest to a full budget are forgotten.
pub const PROPOSERS_MAX: usize = 4_096;

const _: () = assert!(COMMAND_BYTES_MAX < PROPOSER_RATES.bytes_burst as usize);

/// A primary that has not heard a majority for this long starts nothing and reports the quorum paused.
pub const MAJORITY_SILENCE_MAX: Duration = Duration::from_secs(1);

/// Log read for replication at once.
pub const LOG_READ_BYTES_MAX: usize = 1024 * 1024;

pub const SNAPSHOT_CHUNK_BYTES: usize = 1024 * 1024;

/// Chunks of one snapshot: a full state of small records has some 5,000 ([`OBJECTS_MAX`] and their jobs, 64 to a
/// chunk), and a list of so many fits one message.
pub const SNAPSHOT_CHUNKS_MAX: usize = 32 * 1024;

/// Bytes of one snapshot, and of chunks that a sender may leave with a receiver. The limits on a state that count bytes
/// allow 160 MiB (piece hashes, and what tasks leave in the record); those that count records leave the rest to jobs,
/// triggers and claims of usual size. A guess at what a node can hold twice, as chunks and as a state.
pub const SNAPSHOT_BYTES_MAX: usize = 1024 * 1024 * 1024;

const _: () = assert!(SNAPSHOT_CHUNKS_MAX * 32 < RAFT_HEAD_BYTES_MAX - 64 * 1024);
const _: () = assert!(
    HASH_BYTES_MAX + crate::task::limits::RECORD_BYTES_MAX + crate::task::limits::ENDED_BYTES_MAX
        < SNAPSHOT_BYTES_MAX / 4
);

/// Entries between snapshots, and kept behind one for members that lag a little.
pub const SNAPSHOT_INTERVAL: u64 = 5_000;
pub const LOG_KEPT: u64 = 1_000;

/// Bytes of a log after which a member takes a snapshot, however few entries they are in, and what it then keeps behind
/// the snapshot for members that lag a little. So useless or large commands fill no disk.
pub const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;
pub const LOG_BYTES_KEPT: u64 = 16 * 1024 * 1024;

const _: () = assert!(2 * LOG_BYTES_KEPT < LOG_BYTES_MAX && 4 * BATCH_BYTES_MAX < LOG_BYTES_KEPT as usize);

/// Each member waits for up to this many entries more, by its name, so that not all are busy with theirs at once.
pub const SNAPSHOT_SPREAD: u64 = 2_000;

/// Entries between comparisons of the members' state digests.
pub const DIGEST_INTERVAL: u64 = 1_000;

/// Digests that a member remembers, so that members which have come differently far can still compare.
pub const DIGESTS_KEPT: usize = 8;

/// A member believes no term that is further than this above the newest one it knows. Honest terms stay far below:
/// nobody runs unless a majority misses the primary, so a member that was away missed one term for each election, and a
/// quorum that fails to elect raises a few a second at most. So many take it days without a primary and without this
/// member. Should it come to that, the member refuses, is replaced like one that stays away, and comes back as a
/// newcomer. Above it: ten thousand hostile messages a second for as long as people live do not use up the numbers.
pub const TERM_JUMP_MAX: u64 = 1 << 20;

/// No term is above this one, also for a member that knows none yet. Half of the numbers: whoever is here can still be
/// followed by more elections than there will ever be.
pub const TERM_MAX: u64 = 1 << 63;

const _: () = assert!(TERM_MAX < u64::MAX - TERM_JUMP_MAX);

/// Quorums one node may be a member of.
pub const QUORUMS_PER_NODE_MAX: usize = 4_096;

/// Those of them that one peer may have asked the node for, as their founder or their primary: many times what an
/// honest peer founds, for it founds one only when those that it knows are full.
pub const QUORUMS_PER_ASKER_MAX: usize = QUORUMS_PER_NODE_MAX / 16;

/// Objects of one quorum.
pub const OBJECTS_MAX: usize = 100_000;

/// Objects of one quorum on which one owner has a claim.
pub const OWNER_OBJECTS_MAX: usize = OBJECTS_MAX / 2;

/// Standbys that one quorum remembers.
pub const STANDBYS_MAX: usize = 16;

/// Peers that may own one object together, each by having stored the same content.
pub const OWNERS_MAX: usize = 256;

/// Names under which one of them keeps it.
pub const NAMES_PER_OWNER_MAX: usize = 16;

/// Names of all owners, beside each one's first: with names of full length, they and a manifest fit one message.
pub const NAMES_MAX: usize = 512;

const _: () = assert!(
    (NAMES_MAX + OWNERS_MAX) * (NAME_BYTES_MAX + 80) + OWNERS_MAX * 80 + MANIFEST_BYTES_MAX
        < crate::job::limits::MESSAGE_BYTES_MAX
);

/// Jobs that a refusal to remove an object names; it counts the others.
pub const USES_NAMED_MAX: usize = 8;

/// Bytes of piece hashes (of live runs and of manifests) that one quorum keeps in memory: 5 TiB of objects at 4+2. A
/// guess at what a node can spare when it is a member of several full quorums.
pub const HASH_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Those of them of one owner: of its live runs, and of the objects on which it has a claim.
pub const OWNER_HASH_BYTES_MAX: usize = HASH_BYTES_MAX / 2;

/// The newest state level this build proposes and applies. 1: first. 2: triggers.
pub const LEVEL: u16 = LEVEL_TRIGGERS;

/// What every quorum begins with.
pub const LEVEL_FIRST: u16 = 1;

/// The level of triggers.
pub const LEVEL_TRIGGERS: u16 = 2;

// A batch of reports is one command.
const _: () = assert!(crate::task::limits::REPORT_BYTES_MAX < COMMAND_BYTES_MAX);

// A trigger's record must fit one chunk of a snapshot: its specification, what waits, and some 25 bytes per id, 32 per
// run and 64 per row.
const _: () = assert!(
    crate::job::limits::SPEC_BYTES_MAX
        + trigger::WAITING_BYTES_MAX
        + trigger::EVENT_DATA_BYTES_MAX
        + 25 * trigger::SEEN_PER_TRIGGER_MAX
        + (32 + 64) * trigger::RUNS_LIVE_MAX
        + 64 * (trigger::FIRES_KEPT_MAX + trigger::QUEUE_MAX as usize)
        + 64 * 1024
        < SNAPSHOT_CHUNK_BYTES
);
