//! Sizes of the entries of one log, by which a member knows when a snapshot is due.
//!
//! openraft counts entries, and an entry may be a few bytes or a megabyte. The log store notes here what it writes, and
//! what it reads again after a restart; entries before the snapshot that a restart found are not counted.

use std::collections::BTreeMap;

/// See the module.
#[derive(Default)]
pub struct LogSizes {
    entries: BTreeMap<u64, usize>,
    bytes: u64,
}

impl LogSizes {
    /// Notes an entry that is now in the log.
    pub fn record_entry(&mut self, index: u64, bytes: usize) {
        let before = self.entries.insert(index, bytes).unwrap_or(0);
        self.bytes = self.bytes + bytes as u64 - before as u64;
    }

    /// Notes an entry from before those that are known, if it is one.
    pub fn record_older(&mut self, index: u64, bytes: usize) {
        if !self.entries.contains_key(&index) {
            self.record_entry(index, bytes);
        }
    }

    /// The entries from this one on are gone.
    pub fn truncate(&mut self, from: u64) {
        let gone = self.entries.split_off(&from);
        self.bytes -= gone.values().map(|bytes| *bytes as u64).sum::<u64>();
    }

    /// The entries up to this one are gone.
    pub fn purge(&mut self, upto: u64) {
        let kept = self.entries.split_off(&upto.saturating_add(1));
        let gone = std::mem::replace(&mut self.entries, kept);
        self.bytes -= gone.values().map(|bytes| *bytes as u64).sum::<u64>();
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entry up to which the log goes when at most so many bytes are kept; `None` when all are.
    pub fn end_of_surplus(&self, kept: u64) -> Option<u64> {
        let (mut left, mut end) = (self.bytes, None);
        for (index, bytes) in &self.entries {
            if left <= kept {
                break;
            }
            left -= *bytes as u64;
            end = Some(*index);
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_what_is_written_cut_and_purged() {
        let mut sizes = LogSizes::default();
        (1..=5).for_each(|index| sizes.record_entry(index, 10));
        sizes.record_entry(5, 20);
        sizes.record_older(5, 99);
        assert_eq!(sizes.bytes(), 60);
        sizes.truncate(5);
        assert_eq!(sizes.bytes(), 40);
        sizes.record_older(0, 5);
        sizes.purge(2);
        assert_eq!(sizes.bytes(), 20);
        sizes.purge(100);
        assert_eq!(sizes.bytes(), 0);
    }

    #[test]
    fn what_goes_leaves_no_more_than_may_be_kept() {
        let mut sizes = LogSizes::default();
        assert_eq!(sizes.end_of_surplus(0), None);
        (1..=5).for_each(|index| sizes.record_entry(index, 10));
        assert_eq!(sizes.end_of_surplus(50), None);
        assert_eq!(sizes.end_of_surplus(49), Some(1));
        assert_eq!(sizes.end_of_surplus(20), Some(3));
        assert_eq!(sizes.end_of_surplus(0), Some(5));
    }
}
