//! Clocks of simulated machines: one virtual time under all of them, and for each a wall clock that is wrong in its
//! own way.

use std::sync::atomic::{AtomicI64, Ordering};

use quorate_node::seams::Clock;
use quorate_protocols::ids::Millis;
use tokio::time::Instant;

/// The wall clock of every world begins here: 2030-01-01 00:00 UTC. Any fixed instant would do.
const EPOCH_MS: i64 = 1_893_456_000_000;

/// One machine's clocks. The offset outlives a restart of the node; the monotonic clock begins anew with it.
pub struct SimClock {
    world_began: Instant,
    booted: Instant,
    offset_ms: std::sync::Arc<AtomicI64>,
}

/// How wrong a machine's wall clock is. Cloneable; all clones are one offset.
#[derive(Clone, Default)]
pub struct ClockOffset(std::sync::Arc<AtomicI64>);

impl ClockOffset {
    /// Steps the wall clock, in either direction.
    pub fn step(&self, by_ms: i64) {
        self.0.fetch_add(by_ms, Ordering::Relaxed);
    }
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl SimClock {
    /// The clocks of a node that boots now.
    pub fn boot(world_began: Instant, offset: &ClockOffset) -> Self {
        Self { world_began, booted: Instant::now(), offset_ms: offset.0.clone() }
    }
}

impl Clock for SimClock {
    fn wall(&self) -> Millis {
        let now = EPOCH_MS + self.world_began.elapsed().as_millis() as i64;
        Millis(now.saturating_add(self.offset_ms.load(Ordering::Relaxed)).max(0) as u64)
    }
    fn monotonic(&self) -> Millis {
        Millis(self.booted.elapsed().as_millis() as u64)
    }
}
