//! Quorums, and listings that are merged over several of them.

use quorate_protocols::ids::{Digest, LogIndex, Millis, PeerId, QuorumId, Term};
use serde::{Deserialize, Serialize};

use super::schema;

/// One row of `quorum ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct QuorumInfo {
    #[schema(value_type = schema::QuorumId)]
    pub quorum: QuorumId,
    /// `null` while none is known.
    #[schema(value_type = Option<schema::PeerId>)]
    pub primary: Option<PeerId>,
    /// The voters.
    #[schema(value_type = Vec<schema::PeerId>)]
    pub members: Vec<PeerId>,
    #[schema(value_type = schema::Term)]
    pub term: Term,
    /// Live jobs.
    pub jobs: u32,
    pub objects: u32,
    /// Why it cannot commit now, if it cannot.
    #[serde(default)]
    pub paused: Option<String>,
    /// Why this row may be old: nobody of the quorum could be asked, so that it is as last announced; or the answering
    /// node is a member that hears no majority.
    #[serde(default)]
    pub unreachable: Option<Unreachable>,
}

/// One quorum in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct QuorumDetail {
    #[serde(flatten)]
    pub info: QuorumInfo,
    #[schema(value_type = Vec<schema::PeerId>)]
    pub learners: Vec<PeerId>,
    #[schema(value_type = Vec<schema::PeerId>)]
    pub standbys: Vec<PeerId>,
    #[schema(value_type = schema::LogIndex)]
    pub committed: LogIndex,
    #[schema(value_type = schema::LogIndex)]
    pub applied: LogIndex,
    pub jobs_ended: u32,
    /// How many more jobs it takes, whoever submits them: the least that any of its limits leaves. One owner has half
    /// of each.
    pub room: u32,
    /// State level: which commands may be proposed.
    pub level: u16,
    /// Quorum time of the newest entry: by the clocks of a majority.
    #[schema(value_type = schema::Millis)]
    pub last_entry_at: Millis,
    /// How far the answering member's own clock is ahead of a majority's (negative: behind); `null` while it does not
    /// know.
    #[serde(default)]
    pub clock_apart_ms: Option<i64>,
    /// The last time that the clocks of a majority were set, and what became of triggers.
    #[serde(default)]
    pub clock_step: Option<String>,
    /// Rolling digest of applied state at `digest_index`; members that differ have diverged.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
    #[schema(value_type = schema::LogIndex)]
    pub digest_index: LogIndex,
    /// What the answering node itself has, when it is a member.
    #[serde(default)]
    pub own: Option<OwnState>,
}

/// One member's own part of a quorum. Members that have applied as much have the same digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OwnState {
    #[schema(value_type = schema::Term)]
    pub term: Term,
    /// The term in which it is primary and hears a majority.
    #[schema(value_type = Option<schema::Term>)]
    pub leading: Option<Term>,
    #[schema(value_type = schema::LogIndex)]
    pub applied: LogIndex,
    /// Rolling digest over everything applied up to there.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
}

/// One member's answer when it was asked for its own view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MemberView {
    #[schema(value_type = schema::PeerId)]
    pub member: PeerId,
    /// `null` when it did not answer.
    pub view: Option<QuorumDetail>,
    /// Why not.
    pub error: Option<String>,
}

/// A member that spoke for its quorum, and why it was believed: these voters are answerable for what it said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SpeakerInfo {
    #[schema(value_type = schema::PeerId)]
    pub peer: PeerId,
    /// What its operator calls it, as it announced; `null` when that was not heard.
    pub name: Option<String>,
    /// The quorum's voters by the certificate that the member was checked against; of a quorum of which the answering
    /// node is a member, as that one has them.
    #[schema(value_type = Vec<schema::PeerId>)]
    pub voters: Vec<PeerId>,
}

/// One page of a list. Of what is gathered from many quorums, also those that gave no fresh answer in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Listing<T> {
    pub items: Vec<T>,
    /// What the next request gives as `cursor` to go on where this page ends; `null` when nothing follows.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Quorums whose rows are missing here, or old.
    #[serde(default)]
    pub unreachable: Vec<Unreachable>,
    /// Said by a node that hears few of the peers it knows: there may be more than it knows of.
    #[serde(default)]
    pub isolated: Option<String>,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self { items: Vec::new(), cursor: None, unreachable: Vec::new(), isolated: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Unreachable {
    #[schema(value_type = schema::QuorumId)]
    pub quorum: QuorumId,
    pub reason: String,
    /// What is shown of it is what a member had last; otherwise nothing is.
    #[serde(default)]
    pub stale: bool,
    /// How long ago that was; `null` when it is not known.
    #[serde(default)]
    pub age_ms: Option<u64>,
}

/// Asks for no-op commands to be committed, for measuring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BenchCommit {
    #[schema(value_type = schema::QuorumId)]
    pub quorum: QuorumId,
    /// Commands to commit, one after the other over each of `outstanding` lanes.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub count: u32,
    /// Commands in flight at once.
    #[schema(minimum = 1, maximum = 1024)]
    pub outstanding: u32,
}

/// Asks for triggers that fall due at the same instants, for measuring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BenchTriggers {
    /// The asked node must be a member of it.
    #[schema(value_type = schema::QuorumId)]
    pub quorum: QuorumId,
    /// Triggers in all.
    #[schema(minimum = 1, maximum = 5_000)]
    pub count: u32,
    /// How often each fires.
    #[schema(minimum = 1, maximum = 1_000)]
    pub fires: u32,
    /// Between two fires of one trigger.
    #[schema(minimum = 100)]
    pub period_ms: u64,
}

/// Asks for a new quorum to be formed, for measuring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BenchForm {
    #[schema(minimum = 3, maximum = 7)]
    pub voters: u32,
}
