//! Bodies of the raft protocol as openraft 0.9 has them on the wire, written a second time: the hostile client knows
//! no consensus library, only the order of the fields.

use quorate_protocols::ids::{Digest, LogIndex, MemberId};
use serde::Serialize;

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Vote {
    pub term: u64,
    pub voted_for: Option<MemberId>,
    pub committed: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct LogId {
    pub term: u64,
    pub index: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub enum Payload {
    Blank,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Entry {
    pub id: LogId,
    pub payload: Payload,
}

/// An append: the request and the sender's digest.
#[derive(Clone, Debug, Serialize)]
pub struct Append {
    pub vote: Vote,
    pub previous: Option<LogId>,
    pub entries: Vec<Entry>,
    pub committed: Option<LogId>,
    pub digest: (LogIndex, Digest),
}

impl Append {
    /// An append that carries nothing but its vote.
    pub fn empty(vote: Vote) -> Self {
        Self { vote, previous: None, entries: Vec::new(), committed: None, digest: (LogIndex(0), Digest([0; 32])) }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct VoteRequest {
    pub vote: Vote,
    pub last: Option<LogId>,
}

/// A snapshot: vote, metadata, and the list of chunks.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    pub vote: Vote,
    pub last: Option<LogId>,
    pub membership: StoredMembership,
    pub snapshot_id: String,
    pub chunks: Vec<Digest>,
    pub digest: (LogIndex, Digest),
}

#[derive(Clone, Debug, Serialize)]
pub struct StoredMembership {
    pub log_id: Option<LogId>,
    pub configs: Vec<Vec<MemberId>>,
    /// Each member with its empty description.
    pub nodes: Vec<(MemberId, ())>,
}
