//! Engines and roles: what runs one attempt of a task, and what a node takes on for others.
//!
//! An engine is not a kind of work ([`crate::job::Kind`]): a quorum runs a batch job, and a worker's engine runs each
//! attempt of its tasks.

use serde::{Deserialize, Serialize};

/// What runs one attempt of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Runs a WebAssembly module.
    Wasm,
    /// Runs a program that the worker's operator allows.
    Command,
}

impl Engine {
    pub const ALL: [Self; 2] = [Self::Wasm, Self::Command];

    /// As people read it; the same word as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Command => "command",
        }
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a node announces that it takes on for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// Keeps columns of objects, and is a member of quorums.
    Store,
    /// Runs tasks of WebAssembly modules.
    Wasm,
    /// Runs tasks of programs that its operator allows.
    Command,
}

impl NodeRole {
    pub const ALL: [Self; 3] = [Self::Store, Self::Wasm, Self::Command];

    /// The engine that it runs tasks with; `None` when it runs none.
    pub const fn engine(self) -> Option<Engine> {
        match self {
            Self::Store => None,
            Self::Wasm => Some(Engine::Wasm),
            Self::Command => Some(Engine::Command),
        }
    }

    /// As people read it; the same word as in JSON and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Wasm => "wasm",
            Self::Command => "command",
        }
    }
}

impl From<Engine> for NodeRole {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Wasm => Self::Wasm,
            Engine::Command => Self::Command,
        }
    }
}

impl std::fmt::Display for NodeRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
