//! The contents of a log of raft groups, as maps in memory: the model that the doubles keep and the suites compare
//! with.

use std::collections::BTreeMap;

use quorate_protocols::ids::QuorumId;
use quorate_seams::{LogBatch, LogOp};

/// What there is of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupLog {
    pub entries: BTreeMap<u64, Vec<u8>>,
    pub values: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The groups of which there is anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs(pub BTreeMap<QuorumId, GroupLog>);

impl Logs {
    pub fn apply(&mut self, batch: LogBatch) {
        let group = self.0.entry(batch.group).or_default();
        for op in batch.ops {
            match op {
                LogOp::Append { first, entries } => group.entries.extend((first..).zip(entries)),
                LogOp::Put { key, value } => drop(group.values.insert(key, value)),
                LogOp::Truncate { from } => drop(group.entries.split_off(&from)),
                LogOp::Purge { upto } => group.entries.retain(|index, _| *index > upto),
                LogOp::Drop => *group = GroupLog::default(),
            }
        }
        self.0.retain(|_, group| !group.entries.is_empty() || !group.values.is_empty());
    }

    /// As [`quorate_seams::LogEngine::entries`] says.
    pub fn entries(&self, group: QuorumId, from: u64, to: u64, bytes_max: usize) -> Vec<(u64, Vec<u8>)> {
        let Some(group) = self.0.get(&group).filter(|_| from < to) else { return Vec::new() };
        let mut found = Vec::new();
        let mut bytes = 0usize;
        for (index, entry) in group.entries.range(from..to) {
            bytes = bytes.saturating_add(entry.len());
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push((*index, entry.clone()));
        }
        found
    }
}
