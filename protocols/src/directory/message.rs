//! Announcements. The author is the gossip layer's verified author, never a field in here.
//!
//! On the wire each stands behind the number of its version, as records do on disk: in a rolling upgrade a node passes
//! over announcements that it does not know, and holds nothing against their authors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::admission::Admission;
use crate::approval::Subject;
use crate::capacity::{Capacity, Requirement};
use crate::engine::NodeRole;
use crate::ids::{BootId, Incarnation, MemberId, QuorumId, Term};
use crate::wire::Record;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAdvert {
    pub incarnation: Incarnation,
    pub boot: BootId,
    /// Grows with every start of the process, over all lives of its disk: an announcement of an earlier one is ignored.
    pub boot_number: u64,
    /// Grows with every announcement of one boot; an older one is ignored.
    pub sequence: u64,
    pub roles: Vec<NodeRole>,
    /// What its operator calls it; empty when it has no name. For people: nothing is found or allowed by it.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// What the node has left to give.
    pub free: Capacity,
    /// How busy the node is, in thousandths.
    pub load_permille: u16,
    /// Quorums it is a voter of.
    pub quorums: u32,
    pub draining: bool,
    /// Highest state level this node can apply.
    pub level: u16,
    /// An authority's word for this node, where its operators gave it one.
    pub admission: Option<Admission>,
}

/// Announced by a quorum's primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumAdvert {
    pub quorum: QuorumId,
    pub term: Term,
    pub members: Vec<MemberId>,
    pub standbys: u8,
    /// Live jobs, objects, and how many more jobs it would take.
    pub jobs: u32,
    pub objects: u32,
    pub room: u32,
}

/// "This job looks for peers": those that could serve offer themselves to the author.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobAnnouncement {
    pub subject: Subject,
    pub role: NodeRole,
    pub requirement: Requirement,
}

impl Record for PeerAdvert {
    /// 1: first.
    const VERSION: u8 = 1;
}

impl Record for QuorumAdvert {
    /// 1: first.
    const VERSION: u8 = 1;
}

impl Record for JobAnnouncement {
    /// 1: first.
    const VERSION: u8 = 1;
}
