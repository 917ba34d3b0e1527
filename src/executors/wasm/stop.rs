//! The one way a running module is made to stop: a reason is set, the engine's epoch moves, and the module sees the
//! reason at its next loop or call. Epochs move only when something stops, so an idle node does nothing; every module
//! that sees the epoch move looks at its own reason, and goes on if there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::CancellationToken;
use wasmtime::Engine;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    Cancelled,
    Deadline,
}

#[derive(Clone)]
pub(super) struct Stop(Arc<Inner>);

struct Inner {
    /// Zero, or the first reason plus one.
    reason: AtomicU8,
    /// For host functions that wait.
    waiting: CancellationToken,
    engine: Engine,
}

impl Stop {
    pub(super) fn new(engine: &Engine) -> Self {
        let (reason, waiting) = (AtomicU8::new(0), CancellationToken::new());
        Self(Arc::new(Inner { reason, waiting, engine: engine.clone() }))
    }
    /// The first reason wins.
    pub(super) fn set(&self, reason: StopReason) {
        let code = match reason {
            StopReason::Cancelled => 1,
            StopReason::Deadline => 2,
        };
        let _ = self.0.reason.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst);
        self.0.waiting.cancel();
        self.0.engine.increment_epoch();
    }
    pub(super) fn reason(&self) -> Option<StopReason> {
        match self.0.reason.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(StopReason::Cancelled),
            _ => Some(StopReason::Deadline),
        }
    }
    /// Resolves when there is a reason.
    pub(super) async fn stopped(&self) {
        self.0.waiting.cancelled().await;
    }
}

/// Stops the module when the future that waits for it is dropped.
pub(super) struct StopOnDrop(Option<Stop>);

impl StopOnDrop {
    pub(super) fn new(stop: Stop) -> Self {
        Self(Some(stop))
    }
    /// The module has ended: there is nothing to stop, and no epoch to move.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(stop) = &self.0 {
            stop.set(StopReason::Cancelled);
        }
    }
}
