//! Wall time and monotonic time. Timers are tokio's; this seam only says what time it is.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_protocols::ids::Millis;

pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch, as this machine believes them. May step in either direction.
    fn wall(&self) -> Millis;
    /// Milliseconds on a clock that never steps. Comparable only within one process.
    fn monotonic(&self) -> Millis;
}

/// The machine's clocks. `offset_ms` moves the wall clock in nodes started with `--testing`.
pub struct SystemClock {
    started: tokio::time::Instant,
    offset_ms: AtomicI64,
}

impl SystemClock {
    pub fn new() -> Self {
        Self { started: tokio::time::Instant::now(), offset_ms: AtomicI64::new(0) }
    }
    pub fn set_offset_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Millis {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        Millis(now.saturating_add(self.offset_ms.load(Ordering::Relaxed)).max(0) as u64)
    }
    fn monotonic(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }
}
