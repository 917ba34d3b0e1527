//! The clocks of a machine in memory: tokio's clock, which tests pause, under a wall clock that is wrong as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use quorate_protocols::ids::Millis;
use quorate_seams::Clock;
use tokio::time::Instant;

/// Every wall clock begins here: 2030-01-01 00:00 UTC. Any fixed instant would do.
pub const EPOCH: Millis = Millis(1_893_456_000_000);

/// One machine's clocks. The offset outlives a restart of the node; the monotonic clock begins anew with it.
pub struct VirtualClock {
    world_began: Instant,
    booted: Instant,
    offset: ClockOffset,
}

/// How wrong a machine's wall clock is. Cloneable; all clones are one offset.
#[derive(Clone, Default)]
pub struct ClockOffset(Arc<AtomicI64>);

impl ClockOffset {
    /// Steps the wall clock, in either direction.
    pub fn step(&self, by_ms: i64) {
        self.0.fetch_add(by_ms, Ordering::Relaxed);
    }
    /// From now on the wall clock is this far off.
    pub fn set(&self, ms: i64) {
        self.0.store(ms, Ordering::Relaxed);
    }
    pub fn reset(&self) {
        self.set(0);
    }
}

impl VirtualClock {
    /// The clocks of a node that boots now.
    pub fn boot(world_began: Instant, offset: &ClockOffset) -> Self {
        Self { world_began, booted: Instant::now(), offset: offset.clone() }
    }
    /// The clocks of a world that begins now, and are right.
    pub fn right() -> Self {
        Self::boot(Instant::now(), &ClockOffset::default())
    }
    /// How wrong the wall clock is.
    pub fn offset(&self) -> &ClockOffset {
        &self.offset
    }
    /// What a wall clock says that is right.
    pub fn right_wall(world_began: Instant) -> Millis {
        Millis(EPOCH.0 + world_began.elapsed().as_millis() as u64)
    }
}

impl Clock for VirtualClock {
    fn wall(&self) -> Millis {
        let right = Self::right_wall(self.world_began).0;
        Millis(right.saturating_add_signed(self.offset.0.load(Ordering::Relaxed)))
    }
    fn monotonic(&self) -> Millis {
        Millis(self.booted.elapsed().as_millis() as u64)
    }
}
