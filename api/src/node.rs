//! Nodes: the one that answers, and the peers it knows.

use std::collections::BTreeMap;

use quorate_protocols::ids::{BootId, Incarnation, Millis, PeerId};
use quorate_protocols::{capacity, resources};
use serde::{Deserialize, Serialize};

use super::{NodeRole, as_text, schema};

/// The node that answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeInfo {
    #[schema(value_type = schema::PeerId)]
    pub peer: PeerId,
    /// What its operator calls it; `null` without a name.
    pub name: Option<String>,
    #[serde(with = "as_text")]
    #[schema(value_type = String, pattern = "^[0-9a-f]{16}$")]
    pub incarnation: Incarnation,
    #[schema(value_type = schema::BootId)]
    pub boot: BootId,
    pub version: String,
    /// Where peers reach it.
    pub addresses: Vec<String>,
    pub pid: u32,
    pub uptime_ms: u64,
    /// By its own wall clock.
    #[schema(value_type = schema::Millis)]
    pub answered_at: Millis,
    pub peers_known: u32,
    pub peers_connected: u32,
    /// Quorums it is a voter of, and those it leads now.
    pub quorums: u32,
    pub leading: u32,
    /// Whether fault hooks are open (`--testing`).
    pub testing: bool,
}

/// Which peers the answering node hears, asked now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ContactInfo {
    /// Peers heard of lately.
    pub known: u32,
    /// Those of them that answer.
    pub answering: u32,
    /// Said when these are few: what the node lists may be old, and there may be more.
    pub isolated: Option<String>,
}

/// What the answering node has reserved and how much disk it has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResourcesInfo {
    /// Every scope in use, in order. A limit of 2^64-1 is none.
    pub scopes: Vec<ScopeInfo>,
    /// What was promised to others, by the scope in which it is reserved.
    pub leases: Vec<LeasesInfo>,
    /// Of the disk that holds the data folder; `null` when the system does not say.
    pub disk_free_bytes: Option<u64>,
    pub disk_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ScopeInfo {
    pub scope: String,
    pub used: Amounts,
    pub limit: Amounts,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LeasesInfo {
    pub scope: String,
    pub leases: u32,
    /// What they set aside together.
    pub reserved: Amounts,
}

/// A peer as the answering node knows it. The answering node is not among its own peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PeerInfo {
    #[schema(value_type = schema::PeerId)]
    pub peer: PeerId,
    /// What its operator calls it, as it announced; `null` until heard. Two peers may have one name.
    #[serde(default)]
    pub name: Option<String>,
    pub addresses: Vec<String>,
    pub connected: bool,
    /// Silent though a connection to it is open.
    #[serde(default)]
    pub suspected: bool,
    /// Last measured round trip.
    pub rtt_ms: Option<f64>,
    /// What it announced that it can do; empty until its announcement was heard.
    pub roles: Vec<NodeRole>,
    /// What it announced as free; `null` until heard.
    pub free: Option<Capacity>,
    /// Quorums it announced to be a voter of.
    pub quorums: u32,
    /// Wall-clock time of its last sign of life.
    #[schema(value_type = Option<schema::Millis>)]
    pub last_seen_at: Option<Millis>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub load_permille: u16,
    #[serde(default)]
    pub draining: bool,
}

/// How much of each resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Amounts {
    pub memory_bytes: u64,
    pub slots: u64,
    pub disk_bytes: u64,
    pub connections: u64,
    pub streams: u64,
    pub descriptors: u64,
}

impl From<resources::Amounts> for Amounts {
    fn from(amounts: resources::Amounts) -> Self {
        let resources::Amounts { memory_bytes, slots, disk_bytes, connections, streams, descriptors } = amounts;
        Self { memory_bytes, slots, disk_bytes, connections, streams, descriptors }
    }
}

impl From<Amounts> for resources::Amounts {
    fn from(amounts: Amounts) -> Self {
        let Amounts { memory_bytes, slots, disk_bytes, connections, streams, descriptors } = amounts;
        Self { memory_bytes, slots, disk_bytes, connections, streams, descriptors }
    }
}

/// What a peer has free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Capacity {
    pub disk_bytes: u64,
    pub memory_bytes: u64,
    pub slots: u32,
}

impl From<capacity::Capacity> for Capacity {
    fn from(capacity: capacity::Capacity) -> Self {
        let capacity::Capacity { disk_bytes, memory_bytes, slots } = capacity;
        Self { disk_bytes, memory_bytes, slots }
    }
}
