//! The replicate planner: which piece of a put goes where next.
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

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::store::ColumnRecord;
use crate::approval::Grant;
use crate::ids::{Attempt, Millis, PeerId, PieceHash, PieceIndex, SegmentIndex};
use crate::job::store::SegmentProgress;
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

/// One column as the planner follows it.
#[derive(Clone, Debug)]
struct Column {
    grant: Option<Grant>,
    attempt: Attempt,
    /// Segments whose piece the holder has synced.
    stored: BTreeSet<SegmentIndex>,
    /// All segments before this one are in `stored`: keeps scans short on long files.
    floor: u32,
    /// Pieces sent and not yet answered, with the time of sending.
    in_flight: BTreeMap<SegmentIndex, Millis>,
    /// Segments that the holder is rebuilding; at most one request at a time.
    rebuilding: Option<BTreeSet<SegmentIndex>>,
    /// Since when it has been asked for rebuilds, in vain so far.
    rebuilding_since: Option<Millis>,
    /// Since when it has been asked what it still holds.
    checking: Option<Millis>,
    sealing: Option<Millis>,
    sealed: bool,
    /// Reported as failed: nothing more goes there under this attempt.
    reported: bool,
    /// When the column got its holder.
    assigned_at: Millis,
    /// Last sign of progress under this attempt.
    progress_at: Option<Millis>,
}

impl Column {
    fn from_record(record: &ColumnRecord, now: Millis) -> Self {
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
    fn serving(&self) -> Option<Grant> {
        self.grant.filter(|_| !self.reported)
    }
    fn store(&mut self, segment: SegmentIndex) {
        self.stored.insert(segment);
        self.raise_floor();
    }
    fn raise_floor(&mut self) {
        while self.stored.contains(&SegmentIndex(self.floor)) {
            self.floor += 1;
        }
    }
    fn forget(&mut self, segment: SegmentIndex) {
        self.stored.remove(&segment);
        self.floor = self.floor.min(segment.0);
    }
    /// Whether the segment's piece has been sent to the holder, or is being rebuilt by it.
    fn awaits(&self, segment: SegmentIndex) -> bool {
        let rebuilding = self.rebuilding.as_ref().is_some_and(|segments| segments.contains(&segment));
        rebuilding || self.in_flight.contains_key(&segment)
    }
    fn last_progress(&self) -> Millis {
        self.progress_at.unwrap_or(self.assigned_at).max(self.assigned_at)
    }
    /// Since when the oldest piece under way has brought nothing.
    fn sending_since(&self) -> Option<Millis> {
        self.in_flight.values().copied().min().map(|at| at.max(self.last_progress()))
    }
    /// Since when the oldest request of any sort has brought nothing.
    fn asking_since(&self) -> Option<Millis> {
        let asked = self.in_flight.values().copied().chain(self.rebuilding_since).chain(self.checking);
        let asked = asked.chain(self.sealing);
        asked.min().map(|at| at.max(self.last_progress()))
    }
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
pub struct ReplicatePlan {
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

impl ReplicatePlan {
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
        if let Err(fault) = self.take(now, input, &mut effects).and_then(|()| self.plan(now, &mut effects)) {
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

    // ---- inputs ----

    fn take(&mut self, now: Millis, input: Input, effects: &mut Vec<Effect>) -> Result<(), PlanFault> {
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

    // ---- decisions ----

    fn plan(&mut self, now: Millis, effects: &mut Vec<Effect>) -> Result<(), PlanFault> {
        self.find_stalls(now, effects);
        self.check_recoverable()?;
        self.let_go(now, effects);
        self.load(effects);
        for column in 0..self.columns.len() {
            self.send(now, PieceIndex(column as u8), effects);
            self.rebuild(now, PieceIndex(column as u8), effects);
            self.seal(now, PieceIndex(column as u8), effects);
        }
        self.note_held_up();
        self.record(effects);
        self.commit(now, effects);
        Ok(())
    }

    fn find_stalls(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        for index in 0..self.columns.len() {
            let column = &self.columns[index];
            if column.serving().is_none() {
                continue;
            }
            let sending = column.sending_since().filter(|since| now.since(*since) >= STALL && self.witness(*since));
            let asking = column.asking_since().filter(|since| now.since(*since) >= DEADLINE);
            if let Some(since) = sending.or(asking) {
                let attempt = column.attempt;
                let reason = format!("nothing stored for {:.1} s", now.since(since).as_secs_f64());
                self.fail(PieceIndex(index as u8), attempt, reason, effects);
            }
        }
    }

    /// Whether any column has made progress after `since`: then this node and its network are not to blame.
    fn witness(&self, since: Millis) -> bool {
        self.columns.iter().filter_map(|column| column.progress_at).any(|at| at > since)
    }

    /// Columns on which the segment's piece is.
    fn holding(&self, segment: SegmentIndex) -> usize {
        self.columns.iter().filter(|column| column.stored.contains(&segment)).count()
    }

    /// Columns with a holder that lacks the segment.
    fn laggards(&self, segment: SegmentIndex) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(move |column| column.serving().is_some() && !column.stored.contains(&segment))
    }

    /// Whether the column must rebuild something that has left memory.
    fn behind(&self, column: &Column) -> bool {
        let known = self.segments.iter().enumerate().skip(column.floor as usize);
        let mut gone = known.filter(|(_, segment)| !segment.in_memory);
        gone.any(|(index, _)| !column.stored.contains(&SegmentIndex(index as u32)))
    }

    /// Columns that may yet store the segment by what was asked of them before.
    fn on_its_way(&self, segment: SegmentIndex) -> usize {
        self.columns.iter().filter(|column| column.serving().is_some() && column.awaits(segment)).count()
    }

    /// A segment that left memory must be left on enough columns for the others to be rebuilt from them.
    fn check_recoverable(&mut self) -> Result<(), PlanFault> {
        if !std::mem::take(&mut self.pieces_lost) {
            return Ok(());
        }
        let needed = self.profile.data as usize;
        for (index, segment) in self.segments.iter().enumerate() {
            let index = SegmentIndex(index as u32);
            let left = self.holding(index);
            if segment.in_memory || left >= needed {
                continue;
            }
            if left + self.on_its_way(index) < needed {
                return Err(PlanFault::Lost { segment: index, left, needed });
            }
            // It hangs on answers that are still owed: each of them comes, or fails by its deadline.
            self.pieces_lost = true;
        }
        Ok(())
    }

    fn resident(&self) -> impl Iterator<Item = SegmentIndex> + '_ {
        let resident = self.segments.iter().enumerate().filter(|(_, segment)| segment.in_memory);
        resident.map(|(index, _)| SegmentIndex(index as u32))
    }

    fn let_go(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let passed = now.since(self.seen_at);
        self.lag = if self.held_up { self.lag + passed } else { self.lag.saturating_sub(passed) };
        self.seen_at = self.seen_at.max(now);
        let held_up = self.held_up && self.lag >= LAG_MAX;
        let oldest = self.resident().next();
        for segment in self.resident().collect::<Vec<_>>() {
            let complete = self.laggards(segment).next().is_none();
            let laggards_may_rebuild = held_up && oldest == Some(segment);
            let not_waited_for =
                self.is_full() && (laggards_may_rebuild || self.laggards(segment).all(|column| self.behind(column)));
            if self.holding(segment) >= self.profile.columns_min() && (complete || not_waited_for) {
                self.segments[segment.0 as usize].in_memory = false;
                effects.push(Effect::DropSegment { segment });
                if laggards_may_rebuild {
                    self.lag = Duration::ZERO;
                }
            }
        }
    }

    /// Whether the next segment waits for memory.
    fn is_full(&self) -> bool {
        self.end.is_none() && self.resident().count() >= SEGMENTS_IN_MEMORY_MAX
    }

    fn load(&mut self, effects: &mut Vec<Effect>) {
        if self.end.is_none() && !self.loading && self.resident().count() < SEGMENTS_IN_MEMORY_MAX {
            self.loading = true;
            effects.push(Effect::Load { segment: SegmentIndex(self.segments.len() as u32) });
        }
    }

    fn send(&mut self, now: Millis, index: PieceIndex, effects: &mut Vec<Effect>) {
        let resident: Vec<_> = self.resident().collect();
        let column = &mut self.columns[index.0 as usize];
        let Some(grant) = column.serving() else { return };
        for segment in resident {
            if column.in_flight.len() >= WINDOW_PIECES {
                break;
            }
            if !column.stored.contains(&segment) && !column.in_flight.contains_key(&segment) {
                column.in_flight.insert(segment, now);
                let (attempt, hash) = (column.attempt, self.segments[segment.0 as usize].hashes[index.0 as usize]);
                effects.push(Effect::Send { column: index, attempt, grant, segment, hash });
            }
        }
    }

    fn rebuild(&mut self, now: Millis, index: PieceIndex, effects: &mut Vec<Effect>) {
        let column = &self.columns[index.0 as usize];
        let Some(grant) = column.serving().filter(|_| column.rebuilding.is_none()) else { return };
        let known = self.segments.iter().enumerate().skip(column.floor as usize);
        let gone = known.filter(|(_, segment)| !segment.in_memory);
        let wanted = gone.map(|(segment, known)| (SegmentIndex(segment as u32), known));
        // A piece that is still on its way is not rebuilt beside it.
        let wanted = wanted
            .filter(|(segment, _)| !column.stored.contains(segment) && !column.in_flight.contains_key(segment))
            .take(REBUILD_SEGMENTS_MAX);
        let parts: Vec<RebuildPart> = wanted
            .map(|(segment, known)| RebuildPart {
                segment,
                hash: known.hashes[index.0 as usize],
                piece_bytes: known.piece_bytes,
                sources: self.sources(index, segment),
            })
            .filter(|part| part.sources.len() >= self.profile.data as usize)
            .collect();
        if parts.is_empty() {
            return;
        }
        let attempt = column.attempt;
        let segments = parts.iter().map(|part| part.segment).collect();
        let column = &mut self.columns[index.0 as usize];
        column.rebuilding = Some(segments);
        column.rebuilding_since.get_or_insert(now);
        effects.push(Effect::Rebuild { column: index, attempt, grant, parts });
    }

    /// Where the other pieces of a segment are.
    fn sources(&self, except: PieceIndex, segment: SegmentIndex) -> Vec<(PieceIndex, PieceHash, PeerId)> {
        let others = self.columns.iter().enumerate().filter(|(index, _)| *index != except.0 as usize);
        let holding = others.filter(|(_, column)| column.stored.contains(&segment));
        holding
            .filter_map(|(index, column)| {
                let hash = self.segments[segment.0 as usize].hashes[index];
                Some((PieceIndex(index as u8), hash, column.serving()?.holder.peer))
            })
            .collect()
    }

    /// Asks the other columns that count as having these segments whether they do.
    fn check_sources(
        &mut self,
        now: Millis,
        except: PieceIndex,
        wanted: &BTreeSet<SegmentIndex>,
        effects: &mut Vec<Effect>,
    ) {
        let known = &self.segments;
        for (index, column) in (0..).map(PieceIndex).zip(&mut self.columns) {
            let Some(grant) = column.serving().filter(|_| index != except && column.checking.is_none()) else {
                continue;
            };
            if column.stored.is_disjoint(wanted) {
                continue;
            }
            // What an earlier life of the put stored is compared once its segment is cut again.
            let hash_of = |segment: &SegmentIndex| Some(known.get(segment.0 as usize)?.hashes[index.0 as usize]);
            let pieces = column.stored.iter().filter_map(|segment| Some((*segment, hash_of(segment)?))).collect();
            column.checking = Some(now);
            effects.push(Effect::Check { column: index, attempt: column.attempt, grant, pieces });
        }
    }

    fn seal(&mut self, now: Millis, index: PieceIndex, effects: &mut Vec<Effect>) {
        let column = &mut self.columns[index.0 as usize];
        let (Some(end), Some(grant)) = (self.end, column.serving()) else { return };
        if column.floor >= end && !column.sealed && column.sealing.is_none() {
            column.sealing = Some(now);
            let pieces = self.segments.iter().map(|segment| segment.hashes[index.0 as usize]).collect();
            effects.push(Effect::Seal { column: index, attempt: column.attempt, grant, pieces });
        }
    }

    /// Notes whether memory is full only because of laggards: the others have nothing left to send.
    fn note_held_up(&mut self) {
        let resident: Vec<_> = self.resident().collect();
        let done = |column: &&Column| resident.iter().all(|segment| column.stored.contains(segment));
        let idle = self.columns.iter().filter(|column| column.serving().is_some()).filter(done).count();
        // Enough columns are done that the rest could rebuild: the put is held up by a minority.
        self.held_up = self.is_full() && idle >= self.profile.columns_min();
    }

    fn record(&mut self, effects: &mut Vec<Effect>) {
        if self.recording {
            return;
        }
        // A piece that was found on a holder before its segment was cut again waits for the segment's hashes.
        let later = self.unrecorded.split_off(&SegmentIndex(self.segments.len() as u32));
        let mut recordable = std::mem::replace(&mut self.unrecorded, later);
        if recordable.is_empty() {
            return;
        }
        // One command stays far below its limit: the oldest segments first, the rest with the next.
        if let Some(cut) = recordable.keys().nth(RECORD_SEGMENTS_MAX).copied() {
            let mut rest = recordable.split_off(&cut);
            self.unrecorded.append(&mut rest);
        }
        self.recording = true;
        let progress = recordable.into_iter().map(|(segment, stored)| SegmentProgress {
            segment,
            pieces: self.segments[segment.0 as usize].hashes.clone(),
            stored: stored.into_iter().collect(),
        });
        effects.push(Effect::RecordProgress(progress.collect()));
    }

    fn sealed(&self) -> Vec<(PieceIndex, Attempt)> {
        let sealed = self.columns.iter().enumerate().filter(|(_, column)| column.sealed && column.serving().is_some());
        sealed.map(|(index, column)| (PieceIndex(index as u8), column.attempt)).collect()
    }

    /// Whether enough columns are sealed for a degraded commit.
    fn may_commit(&self) -> bool {
        self.end.is_some() && self.sealed().len() >= self.profile.columns_min()
    }

    /// Whether a column that is not sealed may yet be: it has a holder, its failure is being reported, or the quorum
    /// looks for a holder.
    fn may_improve(&self) -> bool {
        self.columns.iter().any(|column| !column.sealed && (column.grant.is_some() || !self.exhausted))
    }

    /// Last progress of any column: whoever waits for the missing ones waits from here.
    fn last_progress(&self) -> Millis {
        self.columns.iter().map(Column::last_progress).max().unwrap_or_default()
    }

    fn commit(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if !self.may_commit() {
            return;
        }
        let sealed = self.sealed();
        let degraded = sealed.len() < self.columns.len();
        if !degraded || !self.may_improve() || now.since(self.last_progress()) >= DEGRADED_AFTER {
            self.ended = true;
            effects.push(Effect::Commit { sealed, degraded });
        }
    }
}

#[cfg(test)]
mod tests;
