//! The upload planner: which piece of a put goes where next.
//!
//! A put streams a file through at most [`SEGMENTS_IN_MEMORY_MAX`] segments. The planner says when to cut the next
//! segment ([`Effect::Load`]), which piece to send to which column within [`WINDOW_PIECES`] per column, which segments
//! may be let go, which columns have to rebuild segments that are no longer in memory, when a column is to be sealed,
//! and when the whole can be committed. It decides; the node's put performs, in the order given, and tells what came
//! of it. Time is an argument (milliseconds since any fixed start, never running backwards).
//!
//! **One slow column.** A segment leaves memory when every column that has a holder has stored it. A column that is
//! slower than the others therefore sets the pace, which is what backpressure should do, but not at any price: the time
//! for which the others have nothing to send is added up, the time for which they do is taken off again, and at
//! [`LAG_MAX`] (so only if somebody is less than half as fast as the rest) the oldest segment is let go without the
//! laggards, which rebuild it later from the others: more traffic for a slow holder, but nobody else waits. From then
//! on a laggard gets what happens to be in memory, but is not waited for again before it has caught up; so a slow
//! holder costs the put one `LAG_MAX`, not one per segment. A column without a holder never holds memory: its next
//! holder rebuilds.
//!
//! **What may be lost.** A segment that is not yet on every column is let go only to make room for the next one, the
//! oldest first, and only when one more column holds it than are needed: otherwise the put waits. So one loss is always
//! borne, and the price of not waiting for a laggard is that, for the segments which it has missed and not yet rebuilt,
//! it counts as lost: the put outlives any failures as long as, for each segment, lost columns and laggards together
//! are no more than the parity. Keeping the segment would bear one loss more and run the whole put at the pace of its
//! slowest holder. Beyond that the put ends with [`PlanFault::Lost`], though not before every piece that was on its
//! way, sent or being rebuilt, has arrived or failed. Nothing that was promised to anyone is lost with it.
//!
//! **One dead column.** A column with pieces in flight that stores nothing for [`STALL`] while another column does is
//! reported as failed; so is one that leaves any request without progress for [`DEADLINE`], whatever the others do. The
//! first rule needs a witness, so that a busy or suspended entry node does not blame every holder at once. A holder
//! whose node is known to be absent ([`Input::Absent`]) is not waited for at all, as long as enough others are there to
//! commit: a node that is itself cut off sees everybody absent, and gives nobody up.
//!
//! **A lost source.** A holder may lose what it has stored, its whole disk even, and nobody is told. It shows when a
//! rebuild fails because of its sources: these are then asked what they still hold ([`Effect::Check`]), and what they
//! lack is sent or rebuilt again like anything else that is missing. A column whose rebuilds bring nothing for
//! [`DEADLINE`] although its sources have everything loses to a backup: it may be unable to reach them.
//!
//! **The end.** With the end of the file known, every whole column is sealed. [`Effect::Commit`] is given once: when
//! all columns are sealed, or when the columns that a degraded put may return with are, and the rest have made no
//! progress for [`DEGRADED_AFTER`], or cannot make any: they have no holder, and the quorum expects no further one
//! ([`Input::Exhausted`]). What can be neither sent nor rebuilt ends the put with [`Effect::Fail`].

mod column;
mod decisions;

use column::Column;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::approval::Grant;
use crate::ids::{Attempt, Millis, PeerId, PieceHash, PieceIndex, SegmentIndex};
use crate::job::store::{ColumnRecord, SegmentProgress};
use crate::object::layout::Profile;
use crate::piece::limits::{DEADLINE, REBUILD_SEGMENTS_MAX, SEGMENTS_IN_MEMORY_MAX, STALL, WINDOW_PIECES};
use crate::piece::message::RebuildPart;

/// How long the other columns wait for a slow one before its segment is let go. A guess: long enough for a slow sync,
/// short enough that one bad disk costs a put little.
pub const LAG_MAX: Duration = Duration::from_secs(1);

/// Segments in one `RecordProgress`: 256 of the widest profile are 160 KiB of a command's 512.
const RECORD_SEGMENTS_MAX: usize = 256;

/// A put that could commit without its missing columns waits this long for them.
pub const DEGRADED_AFTER: Duration = Duration::from_secs(10);

// A stalled holder must be found, and its successor must have a chance, before a put settles for less.
const _: () = assert!(STALL.as_millis() < DEGRADED_AFTER.as_millis() && LAG_MAX.as_millis() < STALL.as_millis());

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A segment that was asked for is cut, encoded and in memory. `piece_bytes`: bytes of each of its pieces.
    SegmentReady { segment: SegmentIndex, hashes: Vec<PieceHash>, piece_bytes: u32 },
    /// The file ends after this many segments. Comes after the last of them is ready.
    EndOfFile { segments: u32 },
    /// The holder has synced the piece.
    PieceStored { column: PieceIndex, attempt: Attempt, segment: SegmentIndex },
    /// The holder has rebuilt and synced these segments: all that were asked for, or some.
    Rebuilt { column: PieceIndex, attempt: Attempt, segments: Vec<SegmentIndex> },
    /// A rebuild did not work, and the holder itself is not to blame: ask again. `by_sources`: too few of the named
    /// sources gave their piece; otherwise the holder was busy.
    NotRebuilt { column: PieceIndex, attempt: Attempt, by_sources: bool },
    /// The holder refuses, cannot be reached, or answers nonsense.
    ColumnFailed { column: PieceIndex, attempt: Attempt, reason: String },
    /// The answer to `Seal`: the holder lacks these. They are sent or rebuilt again.
    Missing { column: PieceIndex, attempt: Attempt, segments: Vec<SegmentIndex> },
    /// The answer to `Check`: the holder lacks these, if any.
    Checked { column: PieceIndex, attempt: Attempt, missing: Vec<SegmentIndex> },
    /// The holder has signed for the column. The driver keeps the receipt.
    Sealed { column: PieceIndex, attempt: Attempt },
    /// The quorum's view of the columns, from any reply. Older views do no harm.
    Columns(Vec<ColumnRecord>),
    /// Whether the quorum expects no further holders, as of its last search.
    Exhausted(bool),
    /// The nodes of these holders are known to be absent.
    Absent(BTreeSet<PeerId>),
    /// The last `RecordProgress` is committed: the next may follow.
    Recorded,
    /// Time has passed.
    Tick,
}

/// Something to do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Cut and encode the next segment, or say that the file has ended.
    Load {
        segment: SegmentIndex,
    },
    Send {
        column: PieceIndex,
        attempt: Attempt,
        grant: Grant,
        segment: SegmentIndex,
        hash: PieceHash,
    },
    /// Have the holder rebuild segments that are no longer in memory.
    Rebuild {
        column: PieceIndex,
        attempt: Attempt,
        grant: Grant,
        parts: Vec<RebuildPart>,
    },
    /// Ask the holder which of these it no longer has; answer with `Checked`. Repeated until the holder answers.
    Check {
        column: PieceIndex,
        attempt: Attempt,
        grant: Grant,
        pieces: BTreeMap<SegmentIndex, PieceHash>,
    },
    /// Commit this progress; answer with `Recorded`. One is under way at a time, so batches grow with the delay.
    RecordProgress(Vec<SegmentProgress>),
    /// Tell the quorum that the column failed; answer with the `Columns` of the reply.
    ReportFailure {
        column: PieceIndex,
        attempt: Attempt,
        reason: String,
    },
    /// Forget the segment's bytes. Sends under way may keep the piece that they are sending.
    DropSegment {
        segment: SegmentIndex,
    },
    /// The column is whole: have its holder check and sign for it.
    Seal {
        column: PieceIndex,
        attempt: Attempt,
        grant: Grant,
        pieces: Vec<PieceHash>,
    },
    /// Commit the object with the receipts of these columns. Given again, with more columns, never: once is all.
    Commit {
        sealed: Vec<(PieceIndex, Attempt)>,
        degraded: bool,
    },
    /// The put cannot go on. Nothing follows.
    Fail(PlanFault),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    #[error("segment {segment} differs from what this run stored before: this is another file")]
    DifferentContent { segment: SegmentIndex },
    #[error("the file ends after {found} segments, and this run stored {recorded} before: this is another file")]
    Shorter { found: u32, recorded: u32 },
    #[error("too many holders were lost at once: segment {segment} is left on {left} columns and {needed} are needed")]
    Lost { segment: SegmentIndex, left: usize, needed: usize },
    #[error("an object of this profile may have at most {limit} segments")]
    TooLarge { limit: usize },
    #[error("bug in the put: {what}")]
    Driver { what: &'static str },
}

/// What is known of one segment that was cut in this life of the put.
#[derive(Clone, Debug)]
struct Segment {
    hashes: Vec<PieceHash>,
    piece_bytes: u32,
    in_memory: bool,
}

/// See the module's essay.
#[derive(Clone, Debug)]
pub struct UploadPlan {
    profile: Profile,
    columns: Vec<Column>,
    /// By index: all segments cut so far.
    segments: Vec<Segment>,
    /// What an earlier life of the run recorded: the file must still be the same. Empty where nothing was recorded.
    recorded: Vec<Vec<PieceHash>>,
    /// A segment that was asked for and is not ready yet.
    loading: bool,
    /// Number of segments, once the end is known.
    end: Option<u32>,
    /// Stored pieces not yet handed to `RecordProgress`.
    unrecorded: BTreeMap<SegmentIndex, BTreeSet<(PieceIndex, Attempt)>>,
    recording: bool,
    /// The quorum expects no further holders.
    exhausted: bool,
    /// Whether only laggards keep the next segment from being cut, and the time lost so.
    held_up: bool,
    lag: Duration,
    /// When `lag` was brought up to date.
    seen_at: Millis,
    /// Pieces were lost since `check_recoverable` last looked.
    pieces_lost: bool,
    ended: bool,
}

impl UploadPlan {
    /// From what the quorum knows: `columns` and `segments` as `Attached` (or a fresh run) has them.
    pub fn new(profile: Profile, columns: &[ColumnRecord], segments: Vec<Vec<PieceHash>>, now: Millis) -> Self {
        Self {
            profile,
            columns: columns.iter().map(|record| Column::from_record(record, now)).collect(),
            segments: Vec::new(),
            recorded: segments,
            loading: false,
            end: None,
            unrecorded: BTreeMap::new(),
            recording: false,
            exhausted: false,
            held_up: false,
            lag: Duration::ZERO,
            seen_at: now,
            pieces_lost: false,
            ended: false,
        }
    }

    /// Contract: call for every input, then perform every effect in the order given. The first call may be a `Tick`.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        if self.ended {
            return Vec::new();
        }
        let mut effects = Vec::new();
        if let Err(fault) = self.apply_input(now, input, &mut effects).and_then(|()| self.plan(now, &mut effects)) {
            self.ended = true;
            effects.push(Effect::Fail(fault));
        }
        effects
    }

    /// When to call `step` with `Tick` at the latest, if nothing else happens before.
    pub fn wake_at(&self) -> Option<Millis> {
        if self.ended {
            return None;
        }
        let serving = || self.columns.iter().filter(|column| column.serving().is_some());
        // Without a witness `STALL` passes without consequence, and any witness is an input of its own.
        let stalls = serving().filter_map(|column| {
            column.sending_since().filter(|since| self.witness(*since)).map(|since| since.plus(STALL))
        });
        let deadlines = serving().filter_map(Column::asking_since).map(|since| since.plus(DEADLINE));
        let lag = self.held_up.then(|| self.seen_at.plus(LAG_MAX.saturating_sub(self.lag)));
        let degraded = self.may_commit().then(|| self.last_progress().plus(DEGRADED_AFTER));
        stalls.chain(deadlines).chain(lag).chain(degraded).min()
    }

    /// Segments that are on every column which has a holder, as a measure of progress.
    pub fn segments_stored(&self) -> u32 {
        (0..self.segments.len() as u32).filter(|segment| self.laggards(SegmentIndex(*segment)).next().is_none()).count()
            as u32
    }

    /// Whether a segment's bytes are still needed.
    pub fn in_memory(&self, segment: SegmentIndex) -> bool {
        self.segments.get(segment.0 as usize).is_some_and(|segment| segment.in_memory)
    }

    /// Whether the column had stored the segment's piece before this life of the put, or has since.
    pub fn is_stored(&self, column: PieceIndex, segment: SegmentIndex) -> bool {
        self.columns.get(column.0 as usize).is_some_and(|column| column.stored.contains(&segment))
    }

    fn apply_input(&mut self, now: Millis, input: Input, effects: &mut Vec<Effect>) -> Result<(), PlanFault> {
        match input {
            Input::SegmentReady { segment, hashes, piece_bytes } => self.ready(segment, hashes, piece_bytes)?,
            Input::EndOfFile { segments } => {
                if segments as usize != self.segments.len() {
                    return Err(PlanFault::Driver { what: "the end of the file is not where its segments end" });
                }
                if self.recorded.len() > self.segments.len() {
                    return Err(PlanFault::Shorter { found: segments, recorded: self.recorded.len() as u32 });
                }
                self.loading = false;
                self.end = Some(segments);
            }
            Input::PieceStored { column, attempt, segment } => {
                if let Some(current) = self.current(column, attempt) {
                    current.in_flight.remove(&segment);
                    current.store(segment);
                    current.progress_at = Some(now);
                    self.unrecorded.entry(segment).or_default().insert((column, attempt));
                }
            }
            Input::Rebuilt { column, attempt, segments } => {
                if let Some(current) = self.current(column, attempt) {
                    let asked = current.rebuilding.take().unwrap_or_default();
                    let stored: Vec<_> = segments.into_iter().filter(|segment| asked.contains(segment)).collect();
                    // An answer that brought nothing is no progress: the clock of `STALL` goes on.
                    if !stored.is_empty() {
                        current.progress_at = Some(now);
                        current.rebuilding_since = None;
                    }
                    stored.iter().for_each(|segment| current.store(*segment));
                    for segment in stored {
                        self.unrecorded.entry(segment).or_default().insert((column, attempt));
                    }
                }
            }
            Input::NotRebuilt { column, attempt, by_sources } => {
                let current = self.current(column, attempt);
                let asked = current.and_then(|current| current.rebuilding.take()).unwrap_or_default();
                if by_sources {
                    self.check_sources(now, column, &asked, effects);
                }
            }
            Input::Missing { column, attempt, segments } => {
                if let Some(current) = self.current(column, attempt) {
                    current.sealing = None;
                    segments.into_iter().for_each(|segment| current.forget(segment));
                    self.pieces_lost = true;
                }
            }
            Input::Checked { column, attempt, missing } => {
                if let Some(current) = self.current(column, attempt) {
                    current.checking = None;
                    if !missing.is_empty() {
                        current.sealed = false;
                        missing.into_iter().for_each(|segment| current.forget(segment));
                        self.pieces_lost = true;
                    }
                }
            }
            Input::Sealed { column, attempt } => {
                if let Some(current) = self.current(column, attempt) {
                    current.sealing = None;
                    current.sealed = true;
                    current.progress_at = Some(now);
                }
            }
            Input::ColumnFailed { column, attempt, reason } => self.fail(column, attempt, reason, effects),
            Input::Columns(records) => self.adopt(now, &records),
            Input::Exhausted(exhausted) => self.exhausted = exhausted,
            Input::Absent(peers) => self.give_up_absent(&peers, effects),
            Input::Recorded => self.recording = false,
            Input::Tick => (),
        }
        Ok(())
    }

    fn ready(&mut self, segment: SegmentIndex, hashes: Vec<PieceHash>, piece_bytes: u32) -> Result<(), PlanFault> {
        if segment.0 as usize != self.segments.len() || hashes.len() != self.columns.len() || self.end.is_some() {
            return Err(PlanFault::Driver { what: "a segment came out of order or with too few pieces" });
        }
        let limit = self.profile.segments_max();
        if self.segments.len() >= limit {
            return Err(PlanFault::TooLarge { limit });
        }
        let recorded = self.recorded.get(segment.0 as usize);
        if recorded.is_some_and(|recorded| !recorded.is_empty() && *recorded != hashes) {
            return Err(PlanFault::DifferentContent { segment });
        }
        self.loading = false;
        self.segments.push(Segment { hashes, piece_bytes, in_memory: true });
        Ok(())
    }

    /// The column, if it still is under that attempt and has not been given up.
    fn current(&mut self, column: PieceIndex, attempt: Attempt) -> Option<&mut Column> {
        let column = self.columns.get_mut(column.0 as usize)?;
        (column.attempt == attempt && column.serving().is_some()).then_some(column)
    }

    fn fail(&mut self, column: PieceIndex, attempt: Attempt, reason: String, effects: &mut Vec<Effect>) {
        if let Some(current) = self.current(column, attempt) {
            current.reported = true;
            // Pieces there cannot be counted on, neither for reading nor as a source of rebuilds.
            current.stored.clear();
            current.floor = 0;
            current.in_flight.clear();
            current.rebuilding = None;
            current.rebuilding_since = None;
            current.checking = None;
            current.sealing = None;
            current.sealed = false;
            self.pieces_lost = true;
            effects.push(Effect::ReportFailure { column, attempt, reason });
        }
    }

    /// Fails the columns of absent holders that have not signed yet, if the others are enough to commit.
    fn give_up_absent(&mut self, peers: &BTreeSet<PeerId>, effects: &mut Vec<Effect>) {
        let is_absent = |column: &Column| {
            column.serving().is_some_and(|grant| !column.sealed && peers.contains(&grant.holder.peer))
        };
        let others = self.columns.iter().filter(|column| column.serving().is_some() && !is_absent(column)).count();
        if others < self.profile.columns_min() {
            return;
        }
        let absent: Vec<(usize, Attempt)> = self
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| is_absent(column))
            .map(|(index, column)| (index, column.attempt))
            .collect();
        for (index, attempt) in absent {
            self.fail(PieceIndex(index as u8), attempt, "its node does not answer".to_owned(), effects);
        }
    }

    fn adopt(&mut self, now: Millis, records: &[ColumnRecord]) {
        for (column, record) in self.columns.iter_mut().zip(records) {
            // Replies may arrive out of order. A holder that was taken away shows under the attempt it had.
            let newer = record.attempt > column.attempt;
            let taken = record.attempt == column.attempt && record.grant.is_none() && column.grant.is_some();
            if newer || taken {
                *column = Column::from_record(record, now);
                self.pieces_lost = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
