//! Faults of a worker, for tests: results of tasks that copies are compared of, made wrong on purpose.
//!
//! Without `--testing` on the command line a node's faults are [`WorkerFaults::off`], and setting one is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::FaultsAreOff;

#[derive(Clone, Debug, Default)]
pub struct WorkerFaults(Option<Arc<AtomicBool>>);

impl WorkerFaults {
    pub fn off() -> Self {
        Self(None)
    }
    pub fn for_testing() -> Self {
        Self(Some(Arc::default()))
    }
    /// Whether verified tasks end with a wrong output from now on.
    pub fn set_lying(&self, lying: bool) -> Result<(), FaultsAreOff> {
        self.0.as_ref().ok_or(FaultsAreOff)?.store(lying, Ordering::Relaxed);
        Ok(())
    }
    pub fn lies(&self) -> bool {
        self.0.as_ref().is_some_and(|lying| lying.load(Ordering::Relaxed))
    }
}
