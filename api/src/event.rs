//! Events of a node, live.

use quorate_protocols::ids::{JobId, Millis, ObjectId, PeerId, QuorumId, Term};
use serde::{Deserialize, Serialize};

use super::{RunState, schema};

/// An event that a user emits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmitRequest {
    /// What triggers listen to: letters, digits, `-`, `_` and `.`. Names that begin with `quorate.` are the network's
    /// own.
    pub name: String,
    /// Events of one name and id are one.
    #[serde(default)]
    pub id: Option<String>,
    /// What expressions and tasks are given: any JSON.
    #[serde(default)]
    #[schema(value_type = serde_json::Value)]
    pub data: serde_json::Value,
}

/// An event that is on the disk of the node that took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EmitInfo {
    /// Its number at that node.
    pub sequence: u64,
    /// It had been emitted there before, under its id.
    pub existed: bool,
}

/// One event as the answering node saw it: its own quorums and connections, not the whole network's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventInfo {
    /// Counts the events of this connection.
    pub sequence: u64,
    /// The node's wall clock when it passed the event on.
    #[schema(value_type = schema::Millis)]
    pub seen_at: Millis,
    pub event: EventKind,
    /// For people: one line.
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::QuorumId>)]
    pub quorum: Option<QuorumId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Term>)]
    pub term: Option<Term>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::JobId>)]
    pub job: Option<JobId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RunState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::ObjectId>)]
    pub object: Option<ObjectId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::PeerId>)]
    pub peer: Option<PeerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The stream is open: what happens from here on is told.
    Listening,
    /// This client was too slow and events were left out: look at the state instead.
    Lagged,
    PeerConnected,
    PeerDisconnected,
    QuorumJoined,
    QuorumLeft,
    QuorumPaused,
    QuorumUnpaused,
    PrimaryElected,
    JobChanged,
    JobProgressed,
    /// A trigger fired, or skipped, or what it fired has ended: `job` is the one that has the trigger.
    TriggerFired,
    ObjectStored,
    ObjectRemoved,
    ColumnReassigned,
    ColumnOwed,
    ColumnRepaired,
    /// A worker was given up with attempts on it.
    WorkerLost,
    /// During a put through this node, a holder failed.
    ColumnFailed,
    /// A holder gave this node bytes that are not the piece, or none.
    PieceFault,
    /// A piece on this node's own disk is missing or rotten.
    PieceDamaged,
    /// A column that nobody wants any more was deleted on this node.
    ColumnCollected,
    /// A kind that this build does not know.
    #[serde(other)]
    Other,
}
