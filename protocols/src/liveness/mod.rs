//! Liveness, per pair of nodes and not per quorum.
//!
//! Every node sends one heartbeat per [`limits::HEARTBEAT_INTERVAL`] to each node it shares a quorum with. A peer
//! silent for about a second is *suspected*, adaptively; one whose connection closed and whose address then refuses is
//! suspected at once. A backup that suspects its primary asks the other voters whether they miss it too, showing its
//! last log id (a pre-vote); only with a majority's yes does it start an election, so that a cut-off or merely busy
//! node raises no terms. How long each step of that may take follows the round trips and syncs that were measured
//! ([`latency`]); the limits are what holds on a LAN. The waits of other protocols follow them too ([`patience`]).
//!
//! Heartbeats carry the sender's wall clock too, so that a node knows whether its own is right: see [`clock`].
//!
//! Peers without a common quorum exchange no heartbeats: [`presence`] tells from connections and unanswered questions
//! who is absent, and [`distance`] from round trips who is far away.
//!
//! Wire: `/quorate/liveness/1`, one [`message::LivenessMessage`] in, one [`message::LivenessAnswer`] out.

pub mod clock;
pub mod detector;
pub mod distance;
pub mod election;
pub mod latency;
pub mod limits;
pub mod message;
pub mod patience;
pub mod presence;

pub use clock::{Clocks, Judgement};
pub use detector::{Cause, Detector, DetectorEffect, DetectorInput};
pub use distance::distant_peers;
pub use election::{Election, ElectionEffect, ElectionInput, PreVoteRound, View};
pub use latency::{DelayEstimate, Latency, majority_latency};
pub use message::{Heartbeat, LivenessAnswer, LivenessMessage, LogPosition, PreVote};
pub use presence::{Absence, Presence, Sign};

#[cfg(test)]
mod tests;
