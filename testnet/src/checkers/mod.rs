//! The guarantees of quorate, as functions: one file per guarantee, each over plain facts that anybody can gather.
//!
//! A checker takes what was promised and what was seen, and returns what is wrong; it reaches for nothing. The
//! simulator feeds these from inside its nodes, a testnet over the HTTP API. An empty answer means that these facts
//! hold, not that enough was looked at: whoever checks also counts how much.

pub mod commands;
pub mod g1_acknowledged;
pub mod g2_one_primary;
pub mod g3_fires_once;
pub mod g4_progress;
pub mod g5_agreement;
pub mod g6_readable;
pub mod g7_bounded;
pub mod g8_reservations;
pub mod linearizable;

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum Guarantee {
    /// What was acknowledged is never lost.
    G1,
    /// At most one primary per term.
    G2,
    /// A scheduled instant or event fires once.
    G3,
    /// After faults end, everything moves again within a bound.
    G4,
    /// Members agree on every applied entry.
    G5,
    /// An object reads back identical.
    G6,
    /// No input panics a node or grows its memory without bound.
    G7,
    /// What is reserved never exceeds a limit and is released.
    G8,
}

/// A broken promise: which, and the facts that break it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub guarantee: Guarantee,
    pub what: String,
}

impl Violation {
    pub fn new(guarantee: Guarantee, what: impl Into<String>) -> Self {
        Self { guarantee, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} violated: {}", self.guarantee, self.what)
    }
}
