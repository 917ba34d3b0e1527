//! A testnet on this machine.

use serde::{Deserialize, Serialize};

use crate::ids::PeerId;

/// `testnet status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TestnetInfo {
    pub nodes: Vec<TestnetNode>,
    /// The folder that holds the nodes' own folders.
    pub dir: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TestnetNode {
    /// Counted from 1; what `--node` takes.
    pub index: usize,
    pub peer: Option<PeerId>,
    /// Base URL of its API.
    pub api: Option<String>,
    pub pid: Option<u32>,
    pub state: TestnetNodeState,
    /// What is broken on purpose; a node that is down takes it up when it starts.
    #[serde(default)]
    pub faults: NodeFaults,
}

/// All faults injected into one node (`/v1/testing/faults`). The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodeFaults {
    /// Milliseconds added to the machine's wall clock.
    pub clock_offset_ms: i64,
    pub disk: DiskFaults,
    /// At most one per peer; the last one counts.
    pub links: Vec<LinkFaults>,
    /// Tasks that several nodes run to compare results end with a wrong one here.
    pub lie: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiskFaults {
    /// Writes are refused as if the disk were full.
    pub full: bool,
    /// A bit is flipped in every piece that is read.
    pub flip_bits: bool,
    /// Every sync takes this much longer.
    pub sync_delay_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkFaults {
    pub peer: PeerId,
    /// Nothing reaches the peer.
    #[serde(default)]
    pub cut_to: bool,
    /// Nothing of the peer is heard.
    #[serde(default)]
    pub cut_from: bool,
    /// What is not cut takes this much longer, each way.
    #[serde(default)]
    pub delay_ms: u64,
}

impl NodeFaults {
    /// The entry of the link to `peer`, made when there is none.
    pub fn link_mut(&mut self, peer: PeerId) -> &mut LinkFaults {
        let at = self.links.iter().position(|link| link.peer == peer).unwrap_or_else(|| {
            self.links.push(LinkFaults { peer, cut_to: false, cut_from: false, delay_ms: 0 });
            self.links.len() - 1
        });
        &mut self.links[at]
    }
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TestnetNodeState {
    Running,
    /// Stopped by SIGSTOP.
    Paused,
    /// No process.
    Dead,
}

impl std::fmt::Display for TestnetNodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Dead => "dead",
        })
    }
}

/// `testnet up`: returned when every node sees every other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TestnetUp {
    #[serde(flatten)]
    pub testnet: TestnetInfo,
    pub took_ms: u64,
}
