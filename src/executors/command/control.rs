//! The control channel between the node and its supervisor: one JSON value a line, over the socket that is the
//! supervisor's standard input. The node sends one [`Start`]; its end of the socket closing, for whatever reason, means
//! *stop*. The supervisor answers with [`Event`]s, the last of which is `Ended` or `Failed`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A start with all its arguments and variables. The kernel's own bound on both together is of this size.
pub const START_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    pub program: PathBuf,
    pub args: Vec<String>,
    /// All of it: nothing is inherited.
    pub env: BTreeMap<String, String>,
    pub folder: PathBuf,
    pub stdin: Option<PathBuf>,
    /// The task's control group, where it has one.
    pub group: Option<PathBuf>,
    pub limits: ProcessLimits,
    pub grace_ms: u64,
}

/// Limits of each process, by the kernel.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ProcessLimits {
    pub address_space_bytes: u64,
    pub cpu_seconds: Option<u64>,
    pub file_bytes: u64,
    pub open_files: u64,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Started {
        pid: i32,
    },
    /// The program did not start.
    Failed {
        reason: String,
    },
    /// The program ended, and nothing that it started is left, but for `survivors` that not even a kill ended.
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
        survivors: usize,
    },
}
