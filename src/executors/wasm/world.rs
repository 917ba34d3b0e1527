//! Time and randomness as a module sees them: the machine's, to the millisecond, or made from a seed.

use std::sync::Arc;

use quorate_protocols::ids::Millis;

use crate::executors::Deterministic;
use crate::seams::entropy::SeededEntropy;
use crate::seams::{Clock, Entropy};

/// Readings are no finer: nothing that a module may know needs more, and what shares a machine stays unmeasured.
pub(super) const RESOLUTION_NS: u64 = 1_000_000;

/// 1980-01-01: no file is older, whatever the clock says. Archives in the format of ZIP know no earlier time.
const FILE_TIME_NS_MIN: u64 = 315_532_800_000_000_000;

pub(super) enum World {
    Real {
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        started: Millis,
    },
    /// Every look at the clock moves it, so that a loop that waits for it ends.
    Made {
        start_ms: u64,
        passed_ms: u64,
        entropy: SeededEntropy,
    },
}

impl World {
    pub(super) fn real(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        let started = clock.monotonic();
        Self::Real { clock, entropy, started }
    }
    pub(super) fn made(from: Deterministic) -> Self {
        Self::Made { start_ms: from.clock_ms, passed_ms: 0, entropy: SeededEntropy::new(from.seed) }
    }
    pub(super) fn is_made(&self) -> bool {
        matches!(self, Self::Made { .. })
    }
    /// Nanoseconds since the Unix epoch.
    pub(super) fn wall_ns(&mut self) -> u64 {
        match self {
            Self::Real { clock, .. } => nanoseconds(clock.wall().0),
            Self::Made { start_ms, passed_ms, .. } => {
                *passed_ms = passed_ms.saturating_add(1);
                nanoseconds(start_ms.saturating_add(*passed_ms))
            }
        }
    }
    /// The wall clock for the times of files: looking does not move it, so that a file which is written is never newer
    /// than the clock that the module reads next.
    pub(super) fn file_ns(&self) -> u64 {
        let now = match self {
            Self::Real { clock, .. } => nanoseconds(clock.wall().0),
            Self::Made { start_ms, passed_ms, .. } => nanoseconds(start_ms.saturating_add(*passed_ms)),
        };
        now.max(FILE_TIME_NS_MIN)
    }
    /// Nanoseconds since just before the module started: never zero, which Go's runtime takes for a broken clock.
    pub(super) fn monotonic_ns(&mut self) -> u64 {
        match self {
            Self::Real { clock, started, .. } => nanoseconds(clock.monotonic().0.saturating_sub(started.0) + 1),
            Self::Made { passed_ms, .. } => {
                *passed_ms = passed_ms.saturating_add(1);
                nanoseconds(*passed_ms)
            }
        }
    }
    /// Lets `ns` pass, if time is made; otherwise the caller must wait.
    pub(super) fn skip_ns(&mut self, ns: u64) {
        if let Self::Made { passed_ms, .. } = self {
            *passed_ms = passed_ms.saturating_add(ns.div_ceil(RESOLUTION_NS));
        }
    }
    pub(super) fn random(&self, bytes: &mut [u8]) {
        match self {
            Self::Real { entropy, .. } => entropy.fill(bytes),
            Self::Made { entropy, .. } => entropy.fill(bytes),
        }
    }
}

fn nanoseconds(ms: u64) -> u64 {
    ms.saturating_mul(RESOLUTION_NS)
}
