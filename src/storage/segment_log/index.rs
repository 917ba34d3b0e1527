//! The index of the log, in memory: where each entry of each group lies, its small values, and what of each segment is
//! still in use.
//!
//! Opening a log builds the index from its records, in the same way as appending does. A segment of which nothing is in
//! use may go, if all before it have gone: what deleted its entries stands in a later one.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocols::ids::QuorumId;

use super::record::{Change, Stored};

/// What an entry or a value counts beyond its bytes: its share of a record. A guess.
const OVERHEAD_BYTES: u64 = 24;

/// An entry in a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Location {
    pub(super) segment: u64,
    pub(super) stored: Stored,
}

#[derive(Debug)]
struct Value {
    segment: u64,
    bytes: Vec<u8>,
}

#[derive(Default, Debug)]
struct Group {
    entries: BTreeMap<u64, Location>,
    values: BTreeMap<Vec<u8>, Value>,
}

/// What is in use of one segment.
#[derive(Default, Debug)]
struct Use {
    items: u64,
    bytes: u64,
    /// Groups that may have some of it.
    groups: BTreeSet<QuorumId>,
}

#[derive(Default, Debug)]
pub(super) struct Index {
    groups: BTreeMap<QuorumId, Group>,
    uses: BTreeMap<u64, Use>,
    bytes: u64,
}

/// What a segment still has of one group.
#[derive(Default, Debug)]
pub(super) struct Leftovers {
    pub(super) entries: Vec<(u64, Location)>,
    pub(super) values: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Index {
    /// Makes the changes of a record of a segment.
    pub(super) fn apply(&mut self, segment: u64, id: QuorumId, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Append { first, entries } => {
                    for (index, stored) in (first..).zip(entries) {
                        self.count(segment, id, stored.length.into());
                        let entries = &mut self.groups.entry(id).or_default().entries;
                        let before = entries.insert(index, Location { segment, stored });
                        self.release(before);
                    }
                }
                Change::Put { key, value } => {
                    self.count(segment, id, value_bytes(&key, &value));
                    let values = &mut self.groups.entry(id).or_default().values;
                    if let Some(before) = values.insert(key.clone(), Value { segment, bytes: value }) {
                        self.discount(before.segment, value_bytes(&key, &before.bytes));
                    }
                }
                Change::Truncate { from } => {
                    let gone = self.groups.get_mut(&id).map(|group| group.entries.split_off(&from));
                    self.release(gone.unwrap_or_default().into_values());
                }
                Change::Purge { upto } => {
                    let gone = self.groups.get_mut(&id).map(|group| match upto.checked_add(1) {
                        Some(from) => {
                            let kept = group.entries.split_off(&from);
                            std::mem::replace(&mut group.entries, kept)
                        }
                        None => std::mem::take(&mut group.entries),
                    });
                    self.release(gone.unwrap_or_default().into_values());
                }
                Change::Drop => {
                    let gone = self.groups.remove(&id).unwrap_or_default();
                    self.release(gone.entries.into_values());
                    for (key, value) in gone.values {
                        self.discount(value.segment, value_bytes(&key, &value.bytes));
                    }
                }
            }
        }
        // A group is what there is of it.
        if self.groups.get(&id).is_some_and(|group| group.entries.is_empty() && group.values.is_empty()) {
            self.groups.remove(&id);
        }
    }

    fn count(&mut self, segment: u64, group: QuorumId, bytes: u64) {
        let used = self.uses.entry(segment).or_default();
        used.items += 1;
        used.bytes += bytes + OVERHEAD_BYTES;
        used.groups.insert(group);
        self.bytes += bytes + OVERHEAD_BYTES;
    }

    fn discount(&mut self, segment: u64, bytes: u64) {
        let used = self.uses.entry(segment).or_default();
        used.items -= 1;
        used.bytes -= bytes + OVERHEAD_BYTES;
        self.bytes -= bytes + OVERHEAD_BYTES;
    }

    fn release(&mut self, gone: impl IntoIterator<Item = Location>) {
        for location in gone {
            self.discount(location.segment, location.stored.length.into());
        }
    }

    /// Bytes in use, about.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_in_use(&self, segment: u64) -> bool {
        self.uses.get(&segment).is_some_and(|used| used.items > 0)
    }

    pub(super) fn forget(&mut self, segment: u64) {
        self.uses.remove(&segment);
    }

    /// The next group that a segment has something of, and at most so many bytes of what it has; `None` when nothing in
    /// it is in use.
    pub(super) fn leftovers(&mut self, segment: u64, bytes_max: u64) -> Option<(QuorumId, Leftovers)> {
        let used = self.uses.get_mut(&segment)?;
        while let Some(id) = used.groups.first().copied() {
            let mut found = Leftovers::default();
            let mut bytes = 0;
            if let Some(group) = self.groups.get(&id) {
                let values = group.values.iter().filter(|(_, value)| value.segment == segment);
                found.values.extend(values.map(|(key, value)| (key.clone(), value.bytes.clone())));
                let entries = group.entries.iter().filter(|(_, location)| location.segment == segment);
                let entries = entries.take_while(|(_, location)| {
                    let is_within = bytes < bytes_max;
                    bytes += u64::from(location.stored.length) + OVERHEAD_BYTES;
                    is_within
                });
                found.entries.extend(entries.map(|(index, location)| (*index, *location)));
            }
            if !found.entries.is_empty() || !found.values.is_empty() {
                return Some((id, found));
            }
            used.groups.remove(&id);
        }
        None
    }

    pub(super) fn groups(&self) -> Vec<QuorumId> {
        self.groups.keys().copied().collect()
    }

    pub(super) fn value(&self, group: QuorumId, key: &[u8]) -> Option<Vec<u8>> {
        self.groups.get(&group)?.values.get(key).map(|value| value.bytes.clone())
    }

    pub(super) fn last(&self, group: QuorumId) -> Option<(u64, Location)> {
        self.groups.get(&group)?.entries.last_key_value().map(|(index, location)| (*index, *location))
    }

    /// As [`crate::seams::LogEngine::entries`] says.
    pub(super) fn range(&self, group: QuorumId, from: u64, to: u64, bytes_max: usize) -> Vec<(u64, Location)> {
        let Some(group) = self.groups.get(&group).filter(|_| from < to) else { return Vec::new() };
        let mut bytes = 0usize;
        let mut found = Vec::new();
        for (index, location) in group.entries.range(from..to) {
            bytes = bytes.saturating_add(location.stored.length as usize);
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push((*index, *location));
        }
        found
    }
}

fn value_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(first: u64, count: u64) -> Change {
        let entries = (0..count).map(|at| Stored { offset: at * 10, length: 10, checksum: 0 }).collect();
        Change::Append { first, entries }
    }

    fn put(key: u8) -> Change {
        Change::Put { key: vec![key], value: vec![0; 9] }
    }

    #[test]
    fn a_segment_is_in_use_until_all_in_it_was_replaced_or_deleted() {
        let (one, two) = (QuorumId([1; 16]), QuorumId([2; 16]));
        let mut index = Index::default();
        index.apply(1, one, vec![append(1, 10), put(1)]);
        index.apply(1, two, vec![append(1, 1)]);
        let full = index.bytes();
        index.apply(2, one, vec![Change::Truncate { from: 8 }, append(8, 3), Change::Purge { upto: 4 }]);
        assert!(index.is_in_use(1) && index.is_in_use(2));
        assert_eq!(index.range(one, 0, 99, 1000).iter().map(|(at, _)| *at).collect::<Vec<_>>(), [5, 6, 7, 8, 9, 10]);
        let (group, found) = index.leftovers(1, 1).expect("something is left");
        assert_eq!((group, found.entries.len(), found.values.len()), (one, 1, 1), "as much as was asked for");
        index.apply(3, one, vec![append(5, 3), put(1)]);
        let (group, found) = index.leftovers(1, 1).expect("something is left");
        assert_eq!((group, found.entries.len(), found.values.len()), (two, 1, 0));
        index.apply(3, two, vec![Change::Drop]);
        assert!(index.leftovers(1, 1).is_none() && !index.is_in_use(1));
        assert!(index.bytes() < full && index.groups() == [one]);
        index.apply(3, one, vec![Change::Purge { upto: u64::MAX }]);
        assert_eq!((index.last(one).is_some(), index.value(one, &[1]).map(|value| value.len())), (false, Some(9)));
        index.apply(3, one, vec![Change::Drop]);
        assert_eq!((index.bytes(), index.groups()), (0, vec![]));
    }
}
