//! The memory account of a module: its memories and tables, and what it wrote, together.

use quorate_modules::{ELEMENT_BYTES, MEMORIES_MAX, TABLES_MAX};
use wasmtime::{Error, ResourceLimiter, Result};

/// The machine, not the module's limit, had no memory left.
#[derive(Debug, thiserror::Error)]
#[error("the machine gave no memory")]
pub(super) struct MachineFull;

pub(super) struct MemoryLimiter {
    bytes_max: usize,
    pub(super) used: usize,
    pub(super) peak: usize,
    /// Whether the module was ever told no.
    pub(super) refused: bool,
}

impl MemoryLimiter {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX), used: 0, peak: 0, refused: false }
    }
    /// Room for what is kept beside the module's memories; whether there is any.
    pub(super) fn take_room(&mut self, bytes: usize) -> bool {
        self.grow(0, bytes, None)
    }
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
    }
    fn grow(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> bool {
        // Beyond the module's own maximum it fails by the module's own will.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return false;
        }
        let total = self.used.saturating_sub(current).saturating_add(desired);
        if total > self.bytes_max {
            self.refused = true;
            return false;
        }
        self.used = total;
        self.peak = self.peak.max(total);
        true
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        Ok(self.grow(current, desired, maximum))
    }
    /// Permitted, but the machine could not: that must not look to the module like its own limit.
    fn memory_grow_failed(&mut self, error: Error) -> Result<()> {
        Err(Error::new(MachineFull).context(error.to_string()))
    }
    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(ELEMENT_BYTES);
        Ok(self.grow(bytes(current), bytes(desired), maximum.map(bytes)))
    }
    fn table_grow_failed(&mut self, error: Error) -> Result<()> {
        Err(Error::new(MachineFull).context(error.to_string()))
    }
    fn instances(&self) -> usize {
        1
    }
    fn tables(&self) -> usize {
        TABLES_MAX
    }
    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}
