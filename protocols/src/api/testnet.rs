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
    pub peer_id: Option<PeerId>,
    /// Base URL of its API.
    pub api: Option<String>,
    pub pid: Option<u32>,
    pub state: TestnetNodeState,
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
