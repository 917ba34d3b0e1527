//! Kind *counter*, of tests alone: what is asked for, and where a run stands.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::Millis;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterSpec {
    pub ticks: u32,
    pub every: Duration,
    /// What fired the run.
    pub input: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRun {
    pub ticked: u32,
    /// Quorum time of the next tick; none while it is paused, and after the last.
    pub next_at: Option<Millis>,
}
