//! One column of a put, as the planner follows it: what it holds, what is on its way there, and since when.

use std::collections::{BTreeMap, BTreeSet};

use crate::approval::Grant;
use crate::ids::{Attempt, Millis, SegmentIndex};
use crate::job::store::ColumnRecord;

/// One column as the planner follows it.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) grant: Option<Grant>,
    pub(super) attempt: Attempt,
    /// Segments whose piece the holder has synced.
    pub(super) stored: BTreeSet<SegmentIndex>,
    /// All segments before this one are in `stored`: keeps scans short on long files.
    pub(super) floor: u32,
    /// Pieces sent and not yet answered, with the time of sending.
    pub(super) in_flight: BTreeMap<SegmentIndex, Millis>,
    /// Segments that the holder is rebuilding; at most one request at a time.
    pub(super) rebuilding: Option<BTreeSet<SegmentIndex>>,
    /// Since when it has been asked for rebuilds, in vain so far.
    pub(super) rebuilding_since: Option<Millis>,
    /// Since when it has been asked what it still holds.
    pub(super) checking: Option<Millis>,
    pub(super) sealing: Option<Millis>,
    pub(super) sealed: bool,
    /// Reported as failed: nothing more goes there under this attempt.
    pub(super) reported: bool,
    /// When the column got its holder.
    pub(super) assigned_at: Millis,
    /// Last sign of progress under this attempt.
    pub(super) progress_at: Option<Millis>,
}

impl Column {
    pub(super) fn from_record(record: &ColumnRecord, now: Millis) -> Self {
        let stored = record.stored.iter().enumerate().filter(|(_, stored)| **stored);
        let mut column = Self {
            grant: record.grant,
            attempt: record.attempt,
            stored: stored.map(|(segment, _)| SegmentIndex(segment as u32)).collect(),
            floor: 0,
            in_flight: BTreeMap::new(),
            rebuilding: None,
            rebuilding_since: None,
            checking: None,
            sealing: None,
            sealed: false,
            reported: false,
            assigned_at: now,
            progress_at: None,
        };
        column.raise_floor();
        column
    }
    /// The holder to send to, if there is one that has not failed.
    pub(super) fn serving(&self) -> Option<Grant> {
        self.grant.filter(|_| !self.reported)
    }
    pub(super) fn store(&mut self, segment: SegmentIndex) {
        self.stored.insert(segment);
        self.raise_floor();
    }
    pub(super) fn raise_floor(&mut self) {
        while self.stored.contains(&SegmentIndex(self.floor)) {
            self.floor += 1;
        }
    }
    pub(super) fn forget(&mut self, segment: SegmentIndex) {
        self.stored.remove(&segment);
        self.floor = self.floor.min(segment.0);
    }
    /// Whether the segment's piece has been sent to the holder, or is being rebuilt by it.
    pub(super) fn awaits(&self, segment: SegmentIndex) -> bool {
        let rebuilding = self.rebuilding.as_ref().is_some_and(|segments| segments.contains(&segment));
        rebuilding || self.in_flight.contains_key(&segment)
    }
    pub(super) fn last_progress(&self) -> Millis {
        self.progress_at.unwrap_or(self.assigned_at).max(self.assigned_at)
    }
    /// Since when the oldest piece under way has brought nothing.
    pub(super) fn sending_since(&self) -> Option<Millis> {
        self.in_flight.values().copied().min().map(|at| at.max(self.last_progress()))
    }
    /// Since when the oldest request of any sort has brought nothing.
    pub(super) fn asking_since(&self) -> Option<Millis> {
        let asked = self.in_flight.values().copied().chain(self.rebuilding_since).chain(self.checking);
        let asked = asked.chain(self.sealing);
        asked.min().map(|at| at.max(self.last_progress()))
    }
}
