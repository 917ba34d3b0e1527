//! Reports on a testnet, as a JSON document too.

use quorate_api::NodeFaults;
use quorate_protocols::ids::PeerId;
use serde::{Deserialize, Serialize};

/// `testnet status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestnetInfo {
    pub nodes: Vec<TestnetNode>,
    /// The folder that holds the nodes' own folders.
    pub dir: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestnetUp {
    #[serde(flatten)]
    pub testnet: TestnetInfo,
    pub took_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: scripts that read the documented fields keep working.
    #[test]
    fn documented_fields_are_there() {
        let node = TestnetNode {
            index: 1,
            peer: Some(PeerId([3; 32])),
            api: None,
            pid: None,
            state: TestnetNodeState::Dead,
            faults: NodeFaults::default(),
        };
        let up = TestnetUp { testnet: TestnetInfo { nodes: vec![node], dir: "d".into() }, took_ms: 1 };
        let up = serde_json::to_value(&up).unwrap();
        for field in ["nodes", "took_ms"] {
            assert!(up.get(field).is_some(), "{field} is missing: {up}");
        }
        for field in ["index", "peer", "api", "pid", "state"] {
            assert!(up["nodes"][0].get(field).is_some(), "{field} is missing: {up}");
        }
    }
}
