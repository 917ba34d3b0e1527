//! Times of the liveness layer. They set how fast a lost primary is replaced.

use std::time::Duration;

pub const PROTOCOL: &str = "/quorate/liveness/1";

/// A heartbeat is small; an answer may list the quorums that a node leads: 4,096 of them fit.
pub const MESSAGE_BYTES_MAX: usize = 96 * 1024;

/// One heartbeat per pair of nodes that share a quorum.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);

/// Silence before suspicion when the round trip is unremarkable. Ten heartbeats: a busy machine misses several in a
/// row.
pub const SUSPICION_MIN: Duration = Duration::from_millis(1000);

/// Suspicion grows with the measured jitter up to this.
pub const SUSPICION_MAX: Duration = Duration::from_millis(5000);

/// How long an answer to a heartbeat or a pre-vote is waited for. Round trips up to this are measured; of one that
/// takes longer nothing is learnt.
pub const DEADLINE: Duration = Duration::from_millis(2000);

/// The largest delay that timing follows. A disk or a link that takes longer is one that does not work.
pub const DELAY_MAX: Duration = Duration::from_secs(5);

/// A delay that was not measured yet is taken for this. A guess on the safe side: deadlines that are too long cost time
/// only where something is lost as well.
pub const DELAY_UNKNOWN: Duration = Duration::from_millis(250);

/// The least that an election is given before a candidate or those who voted for it try anew: what a busy machine takes
/// on a LAN.
pub const ELECTION_MIN: Duration = Duration::from_millis(60);

/// Answers of pre-votes are waited for at least this long, and at least twice the round trip.
pub const PRE_VOTE_MIN: Duration = Duration::from_millis(500);

/// A voter that still heard the primary is asked again after this, or after half a round trip: two voters notice a
/// death that far apart.
pub const RETRY_MIN: Duration = Duration::from_millis(20);

/// Candidates of one quorum start at least this far apart, by rank, and at least a round trip, so that two rarely split
/// a vote. On a LAN one election fits in it.
pub const CANDIDATE_STAGGER: Duration = Duration::from_millis(80);

/// A quorum whose primary is alive as a node but leads nothing for this long, and for two elections, elects another.
pub const LEADERLESS_MAX: Duration = Duration::from_millis(1000);

/// A node that was itself held up this long beyond its next tick blames nobody for the silence in between.
pub const STALL: Duration = Duration::from_millis(300);

/// A closed connection and a refused dial count together as proof of death when they are at most this far apart.
pub const EVIDENCE_MAX: Duration = Duration::from_secs(2);

/// A peer whose connection closed is dialled again this often until it answers, refuses, or `REDIAL_FOR` has passed. A
/// process that is being torn down may still take a connection and reset it, which proves nothing; the next dial does.
pub const REDIAL_INTERVAL: Duration = Duration::from_millis(10);
pub const REDIAL_FOR: Duration = Duration::from_millis(500);

/// Candidacies that failed back off up to this, or up to what an election takes.
pub const BACKOFF_MAX: Duration = Duration::from_secs(2);

// An adaptive bound that starts above its ceiling would never adapt.
const _: () = assert!(SUSPICION_MIN.as_millis() < SUSPICION_MAX.as_millis());
// Evidence that comes from the last of those dials must still count.
const _: () = assert!(REDIAL_FOR.as_millis() < EVIDENCE_MAX.as_millis());
// A slow round trip must not look like silence.
const _: () = assert!(DEADLINE.as_millis() < SUSPICION_MAX.as_millis());
// A pause that counts as our own must be shorter than the silence that we hold against others.
const _: () = assert!(STALL.as_millis() + HEARTBEAT_INTERVAL.as_millis() < SUSPICION_MIN.as_millis());
