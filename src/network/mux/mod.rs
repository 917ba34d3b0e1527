//! The protocols whose questions share streams: raft, liveness, jobs and tasks, which say much in small messages.
//!
//! A connection has one stream for each of them and direction, opened by the first question and kept. On it many
//! questions are on their way at once, as [`quorate_protocols::mux`] has them: they leave in the order in which they
//! came, all that came while one write was under way in the next, and each is answered when its answer is ready. Large
//! messages take turns with small ones. Approvals and pieces have a stream for each question ([`super::codec`]): they
//! are rare or large.
//!
//! A question goes from its caller to the task of the connection, and from there to whoever serves its protocol; the
//! swarm's actor sees neither. It deals with what is rare: peers that are not connected yet ([`Behaviour`]), and those
//! that break the rules.
//!
//! | what happens | what follows |
//! |---|---|
//! | a caller gives up | the question is cancelled: its answer is not waited for at either end |
//! | the stream ends | all its questions fail as broken; the next opens another |
//! | more questions at once than the protocol has, or no memory for one | busy |
//! | a question is incomplete, or its answer not taken, when its asker's patience has ended | it is forgotten |
//! | bytes that mean nothing | the stream is closed, the peer penalised |
//! | refusals that the asker does not read | nothing more is read from it until it does |

mod asking;
mod assembly;
mod behaviour;
mod handler;
mod io;
mod routes;
mod serving;

use quorate_protocols::mux::Lengths;

use super::actor::Outlets;
use super::codec::Admission;
use super::handle::Shared;
use crate::seams::{Protocol, TaskGroup};

pub(super) use asking::Question;
pub(super) use behaviour::{Behaviour, Event};
pub(super) use routes::Routes;

/// The protocols whose questions share a stream. Those before others write first where a connection has one window for
/// all streams, as QUIC has: heartbeats do not wait for bulk.
pub(super) const PROTOCOLS: [Protocol; 4] = [Protocol::Liveness, Protocol::Raft, Protocol::Job, Protocol::Task];

/// An answer of up to so many bytes is not accounted, at neither end: together they are few, and heartbeats are among
/// them.
const ANSWER_FREE_BYTES: usize = 4 * 1024;

pub(super) fn carries(protocol: Protocol) -> bool {
    PROTOCOLS.contains(&protocol)
}

fn largest(protocol: Protocol) -> Lengths {
    Lengths { head: protocol.head_bytes_max(), payload: protocol.payload_bytes_max() }
}

/// What the streams of all connections need of the node.
pub(super) struct Env {
    pub shared: std::sync::Arc<Shared>,
    pub admission: Admission,
    pub outlets: Outlets,
    pub tasks: TaskGroup,
}

/// The rule that a peer broke.
#[derive(Clone, Copy, Debug)]
pub(super) enum Misdeed {
    Question,
    Answer,
}

impl Misdeed {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Question => "a malformed question",
            Self::Answer => "a malformed answer",
        }
    }
}

#[cfg(test)]
mod tests;
