//! The planner against a simulated set of holders, in virtual time.

use proptest::prelude::*;

use super::*;
use crate::ids::{Incarnation, LeaseId, MemberId, PeerId};
use crate::job::store::ColumnState;

const PROFILE: Profile = Profile { data: 4, parity: 2 };
const COLUMNS: u8 = 6;

fn grant(index: u8) -> Grant {
    Grant { holder: MemberId { peer: PeerId([index; 32]), incarnation: Incarnation(1) }, lease: LeaseId([index; 16]) }
}

fn hashes(segment: u32) -> Vec<PieceHash> {
    (0..COLUMNS).map(|column| PieceHash([column * 32 + segment as u8; 32])).collect()
}

fn record(holder: Option<u8>, attempt: u32, stored: &[bool]) -> ColumnRecord {
    let state = if holder.is_some() { ColumnState::Filling } else { ColumnState::Open };
    ColumnRecord { grant: holder.map(grant), attempt: Attempt(attempt), state, stored: stored.to_vec() }
}

/// How one holder behaves.
#[derive(Clone, Copy, Debug)]
enum Holder {
    /// Answers each piece after so many milliseconds.
    Answers(u64),
    /// As `Answers`, until it stores this many pieces; then it is silent for ever.
    DiesAfter(u64, usize),
    /// As `Answers`, until it stores this many pieces; then it has lost its disk, and with it the lease.
    ForgetsAfter(u64, usize),
}

/// Everything around the planner: the file, the holders, the quorum that hands out spares.
struct World {
    plan: UploadPlan,
    now: u64,
    /// By time and order of asking, so that a run is one history.
    due: BTreeMap<(u64, u64), Input>,
    order: u64,
    segments: u32,
    load_ms: u64,
    holders: BTreeMap<u8, Holder>,
    columns: Vec<ColumnRecord>,
    spares: Vec<u8>,
    /// Synced pieces, as the quorum's record has them.
    recorded: BTreeSet<(PieceIndex, Attempt, SegmentIndex)>,
    held: BTreeMap<PieceIndex, BTreeSet<SegmentIndex>>,
    /// Holders that have lost their disk.
    forgetful: BTreeSet<u8>,
    in_memory: BTreeSet<SegmentIndex>,
    in_flight: BTreeMap<(PieceIndex, Attempt), usize>,
    sent: Vec<(PieceIndex, SegmentIndex)>,
    rebuilt: Vec<(PieceIndex, SegmentIndex)>,
    failures: Vec<PieceIndex>,
    loaded_at: BTreeMap<SegmentIndex, u64>,
    /// Segments that were let go without waiting for these columns.
    skipped: BTreeMap<SegmentIndex, BTreeSet<PieceIndex>>,
    outcome: Option<Effect>,
}

impl World {
    fn new(segments: u32, holders: &[Holder], spares: u8) -> Self {
        let columns: Vec<_> = (0..COLUMNS).map(|column| record(Some(column), 1, &[])).collect();
        let all = holders.iter().enumerate().map(|(index, holder)| (index as u8, *holder));
        let extra = (0..spares).map(|spare| (COLUMNS + spare, Holder::Answers(5)));
        Self {
            plan: UploadPlan::new(PROFILE, &columns, Vec::new(), Millis(0)),
            now: 0,
            due: BTreeMap::new(),
            order: 0,
            segments,
            load_ms: 2,
            holders: all.chain(extra).collect(),
            columns,
            spares: (COLUMNS..COLUMNS + spares).collect(),
            recorded: BTreeSet::new(),
            held: BTreeMap::new(),
            forgetful: BTreeSet::new(),
            in_memory: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            sent: Vec::new(),
            rebuilt: Vec::new(),
            failures: Vec::new(),
            loaded_at: BTreeMap::new(),
            skipped: BTreeMap::new(),
            outcome: None,
        }
    }
    fn later(&mut self, after: u64, input: Input) {
        self.order += 1;
        self.due.insert((self.now + after, self.order), input);
    }
    fn step(&mut self, input: Input) {
        if let Input::PieceStored { column, attempt, segment } = &input {
            *self.in_flight.get_mut(&(*column, *attempt)).unwrap() -= 1;
            if self.columns[column.0 as usize].attempt == *attempt {
                self.held.entry(*column).or_default().insert(*segment);
            }
        }
        if let Input::Rebuilt { column, attempt, segments } = &input
            && self.columns[column.0 as usize].attempt == *attempt
        {
            self.held.entry(*column).or_default().extend(segments);
        }
        self.forget();
        if let Input::SegmentReady { segment, .. } = &input {
            self.in_memory.insert(*segment);
            self.loaded_at.insert(*segment, self.now);
            assert!(self.in_memory.len() <= SEGMENTS_IN_MEMORY_MAX, "memory is bounded");
        }
        for effect in self.plan.step(Millis(self.now), input) {
            self.perform(effect);
        }
    }
    fn forget(&mut self) {
        for (index, column) in (0..).map(PieceIndex).zip(&self.columns) {
            let Some(holder) = column.grant.map(|grant| grant.holder.peer.0[0]) else { continue };
            let held = self.held.get(&index).map_or(0, BTreeSet::len);
            if matches!(self.holders[&holder], Holder::ForgetsAfter(_, pieces) if held >= pieces) {
                self.forgetful.insert(holder);
            }
            if self.forgetful.contains(&holder) {
                self.held.remove(&index);
            }
        }
    }
    /// Whether the holder knows nothing of its column any more; if so, it says so.
    fn is_refused(&mut self, grant: Grant, column: PieceIndex, attempt: Attempt) -> bool {
        let is_forgetful = self.forgetful.contains(&grant.holder.peer.0[0]);
        if is_forgetful {
            self.later(1, Input::ColumnFailed { column, attempt, reason: "no such lease".into() });
        }
        is_forgetful
    }
    /// First holders that live and lack the segment.
    fn laggards(&self, segment: SegmentIndex) -> BTreeSet<PieceIndex> {
        let lacks = |column: &PieceIndex| !self.held.get(column).is_some_and(|held| held.contains(&segment));
        let lives = |column: &PieceIndex| {
            self.columns[column.0 as usize].attempt == Attempt(1)
                && matches!(self.holders[&column.0], Holder::Answers(_))
        };
        (0..COLUMNS).map(PieceIndex).filter(|column| lives(column) && lacks(column)).collect()
    }
    /// The delay of the holder's next answer; `None` when it is dead.
    fn delay(&mut self, grant: Grant, column: PieceIndex) -> Option<u64> {
        let stored = self.held.get(&column).map_or(0, BTreeSet::len);
        match self.holders[&grant.holder.peer.0[0]] {
            Holder::Answers(delay) => Some(delay),
            Holder::DiesAfter(delay, pieces) => (stored < pieces).then_some(delay),
            Holder::ForgetsAfter(delay, _) => Some(delay),
        }
    }
    fn perform(&mut self, effect: Effect) {
        assert!(self.outcome.is_none(), "nothing follows the end: {effect:?}");
        match effect {
            Effect::Load { segment } if segment.0 < self.segments => {
                let ready = Input::SegmentReady { segment, hashes: hashes(segment.0), piece_bytes: 4 };
                self.later(self.load_ms, ready);
            }
            Effect::Load { .. } => self.later(1, Input::EndOfFile { segments: self.segments }),
            Effect::Send { column, attempt, grant, segment, hash } => {
                assert!(self.in_memory.contains(&segment), "only what is in memory is sent");
                assert_eq!(hash, hashes(segment.0)[column.0 as usize]);
                let in_flight = self.in_flight.entry((column, attempt)).or_default();
                *in_flight += 1;
                assert!(*in_flight <= WINDOW_PIECES, "the window is kept");
                self.sent.push((column, segment));
                let current = &self.columns[column.0 as usize];
                assert_eq!((current.grant, current.attempt), (Some(grant), attempt), "only the current holder is fed");
                if self.is_refused(grant, column, attempt) {
                    *self.in_flight.get_mut(&(column, attempt)).unwrap() -= 1;
                } else if let Some(delay) = self.delay(grant, column) {
                    let queued = *self.in_flight.get(&(column, attempt)).unwrap() as u64;
                    self.later(delay * queued, Input::PieceStored { column, attempt, segment });
                }
            }
            Effect::Rebuild { column, attempt, grant, parts } => {
                assert!(!parts.is_empty() && parts.len() <= REBUILD_SEGMENTS_MAX);
                let mut segments = Vec::new();
                for part in &parts {
                    assert!(!self.in_memory.contains(&part.segment));
                    assert!(part.sources.len() >= PROFILE.data as usize);
                    let (mut good, mut gone) = (0, 0);
                    for (source, _, peer) in &part.sources {
                        let holds = self.held.get(source).is_some_and(|held| held.contains(&part.segment));
                        assert!(*source != column && (holds || self.forgetful.contains(&peer.0[0])), "sources hold it");
                        *(if holds { &mut good } else { &mut gone }) += 1;
                    }
                    assert!(gone == 0 || !self.forgetful.is_empty());
                    if good >= PROFILE.data as usize {
                        segments.push(part.segment);
                    }
                }
                if self.is_refused(grant, column, attempt) {
                } else if segments.is_empty() {
                    if self.delay(grant, column).is_some() {
                        self.later(250, Input::NotRebuilt { column, attempt, by_sources: true });
                    }
                } else if let Some(delay) = self.delay(grant, column) {
                    self.rebuilt.extend(segments.iter().map(|segment| (column, *segment)));
                    self.later(delay * 4, Input::Rebuilt { column, attempt, segments });
                }
            }
            Effect::Check { column, attempt, grant, pieces } => {
                let lacks = |segment: &SegmentIndex| !self.held.get(&column).is_some_and(|held| held.contains(segment));
                let missing = pieces.into_keys().filter(lacks).collect();
                if let Some(delay) = self.delay(grant, column) {
                    self.later(delay, Input::Checked { column, attempt, missing });
                }
            }
            Effect::RecordProgress(progress) => {
                for SegmentProgress { segment, pieces, stored } in progress {
                    assert_eq!(pieces, hashes(segment.0));
                    self.recorded.extend(stored.into_iter().map(|(column, attempt)| (column, attempt, segment)));
                }
                self.later(3, Input::Recorded);
            }
            Effect::ReportFailure { column, attempt, .. } => {
                let current = &mut self.columns[column.0 as usize];
                assert_eq!(current.attempt, attempt);
                self.failures.push(column);
                self.held.remove(&column);
                *current = match self.spares.pop() {
                    Some(spare) => record(Some(spare), attempt.0 + 1, &[]),
                    None => record(None, attempt.0, &[]),
                };
                let columns = self.columns.clone();
                self.later(3, Input::Columns(columns));
            }
            Effect::DropSegment { segment } => {
                assert!(self.in_memory.remove(&segment), "dropped once");
                let copies = self.held.values().filter(|held| held.contains(&segment)).count();
                let copies = copies + self.forgetful.len();
                assert!(copies >= PROFILE.columns_min(), "a segment is let go when one more loss does no harm");
                let laggards = self.laggards(segment);
                if !laggards.is_empty() {
                    self.skipped.insert(segment, laggards);
                }
            }
            Effect::Seal { column, attempt, pieces, grant } => {
                assert_eq!(pieces.len(), self.segments as usize);
                if self.is_refused(grant, column, attempt) {
                    return;
                }
                let whole = (0..self.segments).all(|segment| self.held[&column].contains(&SegmentIndex(segment)));
                assert!(whole || self.segments == 0, "only whole columns are sealed");
                if let Some(delay) = self.delay(grant, column) {
                    self.later(delay, Input::Sealed { column, attempt });
                }
            }
            end @ (Effect::Commit { .. } | Effect::Fail(_)) => self.outcome = Some(end),
        }
    }
    /// Runs to the end. A put that neither acts nor waits for anything is a bug.
    fn run(&mut self) -> Effect {
        self.step(Input::Tick);
        for _ in 0..100_000 {
            if let Some(outcome) = &self.outcome {
                return outcome.clone();
            }
            let due = self.due.keys().next().map(|(at, _)| *at);
            let wake = self.plan.wake_at().map(|at| at.0.max(self.now));
            let next = due.into_iter().chain(wake).min().expect("a live put always waits for something");
            self.now = self.now.max(next);
            let input = match self.due.first_entry() {
                Some(entry) if entry.key().0 <= self.now => entry.remove(),
                _ => Input::Tick,
            };
            self.step(input);
        }
        panic!("the put does not end")
    }
    fn expect_commit(&mut self, degraded: bool) {
        match self.run() {
            Effect::Commit { sealed, degraded: found } => {
                assert_eq!(found, degraded);
                assert!(sealed.len() == COLUMNS as usize || degraded);
                for (column, _) in sealed {
                    assert_eq!(self.held.get(&column).map_or(0, BTreeSet::len), self.segments as usize);
                }
            }
            other => panic!("{other:?} at {} ms", self.now),
        }
    }
}

#[test]
fn every_piece_is_sent_once_and_recorded_when_all_goes_well() {
    let mut world = World::new(20, &[Holder::Answers(5); 6], 0);
    world.expect_commit(false);
    assert_eq!(world.sent.len(), 20 * 6);
    assert!(world.rebuilt.is_empty() && world.failures.is_empty());
    // The last batches may still be under way: the commit carries receipts, which count for more.
    assert!(world.recorded.len() > 15 * 6, "{}", world.recorded.len());
}

/// A world in which one column never gets a holder, and whether the quorum expects one.
fn with_an_open_column(exhausted: bool) -> World {
    let mut world = World::new(3, &[Holder::Answers(5); 6], 0);
    world.columns[5] = record(None, 0, &[]);
    world.plan = UploadPlan::new(PROFILE, &world.columns, Vec::new(), Millis(0));
    world.step(Input::Exhausted(exhausted));
    world
}

/// Goal: a put is not slower because a column has no holder and will get none. Method: the same file with all six
/// columns, with five and nobody expected, and with five while somebody may come.
#[test]
fn a_column_that_no_holder_is_expected_for_is_not_waited_for() {
    let mut whole = World::new(3, &[Holder::Answers(5); 6], 0);
    whole.expect_commit(false);
    let mut short = with_an_open_column(true);
    short.expect_commit(true);
    assert!(short.now <= whole.now, "{} ms against {}", short.now, whole.now);
    let mut hopeful = with_an_open_column(false);
    hopeful.expect_commit(true);
    assert!(hopeful.now >= DEGRADED_AFTER.as_millis() as u64, "{}", hopeful.now);
}

#[test]
fn nobody_is_settled_for_less_while_a_holder_that_may_finish_is_at_work() {
    let mut holders = [Holder::Answers(5); 6];
    holders[2] = Holder::Answers(900);
    let mut world = World::new(3, &holders, 0);
    world.step(Input::Exhausted(true));
    world.expect_commit(false);
}

/// Goal: a holder whose node is absent costs the put no wait. Method: it is silent from its second piece on; with
/// nobody to take its place the put commits without it, and with a spare it commits whole.
#[test]
fn an_absent_holder_is_given_up_at_once() {
    for (spares, degraded) in [(0, true), (1, false)] {
        let mut holders = [Holder::Answers(5); 6];
        holders[4] = Holder::DiesAfter(5, 1);
        let mut world = World::new(3, &holders, spares);
        world.step(Input::Exhausted(true));
        world.later(40, Input::Absent([grant(4).holder.peer].into()));
        world.expect_commit(degraded);
        assert_eq!(world.failures, [PieceIndex(4)]);
        assert!(world.now < 1_000, "{} ms", world.now);
    }
}

/// Goal: a node that is cut off itself sees everybody absent, and must not give its holders up.
#[test]
fn holders_are_not_given_up_when_the_others_are_too_few_to_commit() {
    let mut world = World::new(3, &[Holder::Answers(5); 6], 0);
    let absent = (0..2).map(|index| grant(index).holder.peer).collect();
    world.step(Input::Absent(absent));
    assert!(world.failures.is_empty());
    world.expect_commit(false);
}

#[test]
fn an_empty_file_is_sealed_at_once() {
    World::new(0, &[Holder::Answers(5); 6], 0).expect_commit(false);
}

#[test]
fn a_dead_holder_costs_only_its_own_column_and_its_successor_rebuilds() {
    let mut holders = [Holder::Answers(40); 6];
    holders[2] = Holder::DiesAfter(40, 5);
    let mut world = World::new(30, &holders, 1);
    world.expect_commit(false);
    assert_eq!(world.failures, [PieceIndex(2)]);
    assert!(world.rebuilt.iter().all(|(column, _)| *column == PieceIndex(2)));
    assert!(!world.rebuilt.is_empty());
    let others = world.sent.iter().filter(|(column, _)| *column != PieceIndex(2)).count();
    assert_eq!(others, 30 * 5, "nobody else is sent anything twice");
}

#[test]
fn a_slow_holder_delays_the_others_once_and_catches_up_by_rebuilding() {
    let mut holders = [Holder::Answers(5); 6];
    holders[4] = Holder::Answers(800);
    let mut world = World::new(40, &holders, 0);
    world.expect_commit(false);
    assert!(world.failures.is_empty(), "slow is not dead");
    // At the slow one's pace the last segment would be cut after 30 s.
    let last = world.loaded_at[&SegmentIndex(39)];
    assert!(last < 4_000, "the others had to wait until {last} ms");
    assert!(world.rebuilt.iter().all(|(column, _)| *column == PieceIndex(4)));
}

#[test]
fn a_silence_of_all_holders_is_nobodys_fault_before_the_deadline() {
    let columns: Vec<_> = (0..COLUMNS).map(|column| record(Some(column), 1, &[])).collect();
    let mut plan = UploadPlan::new(PROFILE, &columns, Vec::new(), Millis(0));
    let failures =
        |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::ReportFailure { .. })).count();
    let ready = Input::SegmentReady { segment: SegmentIndex(0), hashes: hashes(0), piece_bytes: 1 };
    let sends = plan.step(Millis(1), ready);
    assert_eq!(sends.iter().filter(|effect| matches!(effect, Effect::Send { .. })).count(), 6);
    assert_eq!(plan.wake_at(), Some(Millis(1).plus(DEADLINE)));
    assert_eq!(failures(&plan.step(Millis(1).plus(STALL * 2), Input::Tick)), 0);
    // One answers: now the other five have had their time.
    let mut witnessed = plan.clone();
    let stored = Input::PieceStored { column: PieceIndex(0), attempt: Attempt(1), segment: SegmentIndex(0) };
    assert_eq!(failures(&witnessed.step(Millis(2).plus(STALL * 2), stored)), 5);
    assert_eq!(failures(&plan.step(Millis(1).plus(DEADLINE), Input::Tick)), 6);
}

#[test]
fn a_column_without_successor_is_left_out_after_ten_seconds() {
    let mut holders = [Holder::Answers(5); 6];
    holders[0] = Holder::DiesAfter(5, 3);
    let mut world = World::new(10, &holders, 0);
    world.expect_commit(true);
    assert!(world.now >= DEGRADED_AFTER.as_millis() as u64);
}

#[test]
fn a_resumed_put_sends_only_what_is_missing() {
    let mut world = World::new(8, &[Holder::Answers(5); 6], 0);
    // All columns have the first four segments, column 3 only the first.
    for (index, column) in world.columns.iter_mut().enumerate() {
        column.stored = (0..5).map(|segment| segment < if index == 3 { 1 } else { 4 }).collect();
        let stored = (0..if index == 3 { 1 } else { 4 }).map(SegmentIndex).collect();
        world.held.insert(PieceIndex(index as u8), stored);
    }
    let recorded = (0..4).map(hashes).chain([Vec::new()]).collect();
    world.plan = UploadPlan::new(PROFILE, &world.columns, recorded, Millis(0));
    world.expect_commit(false);
    assert_eq!(world.sent.len() + world.rebuilt.len(), 4 * 6 + 3);
}

#[test]
fn another_file_under_the_same_run_is_refused() {
    let columns: Vec<_> = (0..COLUMNS).map(|column| record(Some(column), 1, &[true])).collect();
    let mut plan = UploadPlan::new(PROFILE, &columns, vec![hashes(0), hashes(1)], Millis(0));
    plan.step(Millis(0), Input::Tick);
    let other = Input::SegmentReady { segment: SegmentIndex(0), hashes: hashes(9), piece_bytes: 1 };
    let mut other_plan = plan.clone();
    let fault = PlanFault::DifferentContent { segment: SegmentIndex(0) };
    assert_eq!(other_plan.step(Millis(1), other), [Effect::Fail(fault)]);
    assert_eq!(other_plan.step(Millis(2), Input::Tick), []);
    plan.step(Millis(1), Input::SegmentReady { segment: SegmentIndex(0), hashes: hashes(0), piece_bytes: 1 });
    let short = plan.step(Millis(2), Input::EndOfFile { segments: 1 });
    assert_eq!(short, [Effect::Fail(PlanFault::Shorter { found: 1, recorded: 2 })]);
}

#[test]
fn losing_more_columns_than_parity_of_a_segment_that_is_gone_ends_the_put() {
    let mut holders = [Holder::Answers(5); 6];
    holders[..3].fill(Holder::DiesAfter(5, 4));
    let mut world = World::new(30, &holders, 3);
    let outcome = world.run();
    assert!(matches!(outcome, Effect::Fail(PlanFault::Lost { left: 3, needed: 4, .. })), "{outcome:?}");
}

/// A put of 4+2 in which column 0 is far behind the others, and the others end as told.
fn beside_a_laggard(third: Holder, fifth: Holder) -> World {
    let quick = Holder::Answers(1);
    World::new(17, &[Holder::Answers(347), quick, quick, third, quick, fifth], 1)
}

#[test]
fn a_loss_beside_a_laggard_does_no_harm() {
    let mut world = beside_a_laggard(Holder::Answers(1), Holder::DiesAfter(1, 15));
    world.expect_commit(false);
    assert!(world.skipped.values().all(|laggards| *laggards == BTreeSet::from([PieceIndex(0)])));
    assert!(!world.skipped.is_empty(), "column 0 was not waited for");
}

/// Goal: two losses beside a laggard are more than the planner promises to bear, but what was on its way to the
/// laggard is waited for. Found by the property below: the put was given up with the saving piece in flight.
#[test]
fn two_losses_at_once_beside_a_laggard_wait_for_what_it_was_sent() {
    let mut world = beside_a_laggard(Holder::DiesAfter(1, 16), Holder::DiesAfter(1, 15));
    // Degraded, because there is a successor for one of the two.
    world.expect_commit(true);
    assert!(!world.skipped.is_empty(), "column 0 was not waited for");
}

/// Goal: a piece that was sent before its segment was let go may be the one that saves it.
#[test]
fn a_put_is_not_given_up_while_a_piece_that_would_save_it_is_on_its_way() {
    let columns: Vec<_> = (0..COLUMNS).map(|column| record(Some(column), 1, &[])).collect();
    let mut plan = UploadPlan::new(PROFILE, &columns, Vec::new(), Millis(0));
    let segment = SegmentIndex(0);
    // Column 0 is sent every piece and answers none; the others are quick, until memory is full and it has lagged.
    for next in 0..SEGMENTS_IN_MEMORY_MAX as u32 {
        let ready = Input::SegmentReady { segment: SegmentIndex(next), hashes: hashes(next), piece_bytes: 1 };
        plan.step(Millis(1), ready);
        for column in 1..COLUMNS {
            let stored =
                Input::PieceStored { column: PieceIndex(column), attempt: Attempt(1), segment: SegmentIndex(next) };
            plan.step(Millis(1), stored);
        }
    }
    let dropped = plan.step(Millis(1).plus(LAG_MAX), Input::Tick);
    assert!(dropped.contains(&Effect::DropSegment { segment }), "{dropped:?}");
    let fail = |column: u8| {
        let reason = "it broke".to_owned();
        Input::ColumnFailed { column: PieceIndex(column), attempt: Attempt(1), reason }
    };
    let failed = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Fail(_)));
    let now = Millis(2).plus(LAG_MAX);
    assert!(!failed(&plan.step(now, fail(1))));
    assert!(!failed(&plan.step(now, fail(2))), "three columns hold it, and a fourth may");
    let mut lost = plan.clone();
    let stored = Input::PieceStored { column: PieceIndex(0), attempt: Attempt(1), segment };
    assert!(!failed(&plan.step(now, stored)) && !failed(&plan.step(now, Input::Tick)));
    let fault = PlanFault::Lost { segment, left: 3, needed: 4 };
    assert!(lost.step(now, fail(0)).contains(&Effect::Fail(fault)));
}

/// Goal: a put does not wait for ever for pieces that a sealed column has lost. Method: five columns are sealed, the
/// segment has left memory, and the sixth finds one source after the other without it.
#[test]
fn a_source_that_lost_its_pieces_is_found_out_by_those_who_need_them() {
    let columns: Vec<_> = (0..COLUMNS).map(|column| record(Some(column), 1, &[])).collect();
    let mut plan = UploadPlan::new(PROFILE, &columns, Vec::new(), Millis(0));
    let (attempt, segment) = (Attempt(1), SegmentIndex(0));
    plan.step(Millis(1), Input::SegmentReady { segment, hashes: hashes(0), piece_bytes: 1 });
    plan.step(Millis(1), Input::EndOfFile { segments: 1 });
    for column in (0..COLUMNS - 1).map(PieceIndex) {
        plan.step(Millis(2), Input::PieceStored { column, attempt, segment });
        plan.step(Millis(3), Input::Sealed { column, attempt });
    }
    let last = PieceIndex(COLUMNS - 1);
    plan.step(Millis(4), Input::ColumnFailed { column: last, attempt, reason: "it broke".into() });
    let mut columns = columns;
    columns[last.0 as usize] = record(Some(COLUMNS), 2, &[]);
    let asked = plan.step(Millis(5), Input::Columns(columns));
    assert!(matches!(&asked[..], [Effect::Rebuild { column, .. }] if *column == last), "{asked:?}");

    let in_vain = |column, attempt, by_sources| Input::NotRebuilt { column, attempt, by_sources };
    let checks = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Check { .. })).count();
    assert_eq!(checks(&plan.step(Millis(6), in_vain(last, Attempt(2), false))), 0, "the holder was busy");
    assert_eq!(checks(&plan.step(Millis(7), in_vain(last, Attempt(2), true))), 5);
    assert_eq!(checks(&plan.step(Millis(8), in_vain(last, Attempt(2), true))), 0, "one question at a time");
    let checked =
        |column, missing: &[_]| Input::Checked { column: PieceIndex(column), attempt, missing: missing.into() };
    assert_eq!(plan.step(Millis(9), checked(4, &[])), []);
    // Column 0 has to make its piece anew, from the other four.
    let again = plan.step(Millis(10), checked(0, &[segment]));
    assert!(matches!(&again[..], [Effect::Rebuild { column: PieceIndex(0), .. }]), "{again:?}");
    assert_eq!(plan.step(Millis(11), checked(1, &[segment])), [], "two rebuilds are still under way");
    plan.step(Millis(12), in_vain(last, Attempt(2), true));
    let end = plan.step(Millis(13), in_vain(PieceIndex(0), attempt, true));
    assert_eq!(end.last(), Some(&Effect::Fail(PlanFault::Lost { segment, left: 3, needed: 4 })));
}

/// Goal: a holder that cannot reach its sources loses the column, although each try for itself was answered in time.
#[test]
fn rebuilds_in_vain_cost_the_column_after_the_deadline() {
    let stored = |column: u8| [column != 0];
    let columns: Vec<_> = (0..COLUMNS).map(|column| record(Some(column), 1, &stored(column))).collect();
    let mut plan = UploadPlan::new(PROFILE, &columns, Vec::new(), Millis(0));
    let (column, attempt, segment) = (PieceIndex(0), Attempt(1), SegmentIndex(0));
    plan.step(Millis(0), Input::ColumnFailed { column, attempt, reason: "it broke".into() });
    plan.step(Millis(0), Input::SegmentReady { segment, hashes: hashes(0), piece_bytes: 1 });
    let mut columns = columns;
    columns[0] = record(Some(COLUMNS), 2, &[]);
    plan.step(Millis(0), Input::Columns(columns));
    let attempt = Attempt(2);
    let mut now = Millis(0);
    let reported = loop {
        now = now.plus(Duration::from_millis(250));
        let others = (1..COLUMNS).map(PieceIndex);
        let mut effects: Vec<_> = others
            .flat_map(|column| plan.step(now, Input::Checked { column, attempt: Attempt(1), missing: Vec::new() }))
            .collect();
        effects.extend(plan.step(now, Input::NotRebuilt { column, attempt, by_sources: true }));
        if effects.iter().any(|effect| matches!(effect, Effect::ReportFailure { column: PieceIndex(0), .. })) {
            break now;
        }
        assert!(now.since(Millis(0)) <= DEADLINE * 2, "it is asked for ever");
    };
    assert!(reported.since(Millis(0)) >= DEADLINE);
}

#[test]
fn an_answer_under_an_old_attempt_changes_nothing() {
    let columns: Vec<_> = (0..COLUMNS).map(|column| record(Some(column), 3, &[])).collect();
    let mut plan = UploadPlan::new(PROFILE, &columns, Vec::new(), Millis(0));
    plan.step(Millis(0), Input::SegmentReady { segment: SegmentIndex(0), hashes: hashes(0), piece_bytes: 1 });
    let (column, segment) = (PieceIndex(0), SegmentIndex(0));
    assert_eq!(plan.step(Millis(1), Input::PieceStored { column, attempt: Attempt(2), segment }), []);
    assert!(!plan.is_stored(column, segment));
    // An older view of the columns does not bring an old holder back.
    let old: Vec<_> = (0..COLUMNS).map(|column| record(Some(column + 9), 2, &[])).collect();
    assert_eq!(plan.step(Millis(2), Input::Columns(old)), []);
    plan.step(Millis(3), Input::PieceStored { column, attempt: Attempt(3), segment });
    assert!(plan.is_stored(column, segment));
}

fn holder() -> impl Strategy<Value = Holder> {
    prop_oneof![
        6 => (1u64..60).prop_map(Holder::Answers),
        1 => (60u64..900).prop_map(Holder::Answers),
        1 => ((1u64..60), (0usize..20)).prop_map(|(delay, pieces)| Holder::DiesAfter(delay, pieces)),
        1 => ((1u64..60), (1usize..20)).prop_map(|(delay, pieces)| Holder::ForgetsAfter(delay, pieces)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Goal: whatever the holders do, a put ends, within its memory and its windows (asserted as it runs), and a
    /// commit names whole columns only. It is lost only when, for some segment, the holders that died and those that
    /// had missed it and still lack it are together more than the parity.
    #[test]
    fn every_put_ends_and_few_losses_do_no_harm(
        holders in proptest::collection::vec(holder(), 6),
        segments in 0u32..40,
        spares in 0u8..4,
        load_ms in 1u64..50,
    ) {
        let mut world = World::new(segments, &holders, spares);
        world.load_ms = load_ms;
        let dead = holders.iter().filter(|holder| !matches!(holder, Holder::Answers(_))).count();
        let min = PROFILE.columns_min();
        if 6 - dead + (spares as usize).min(dead) < min {
            // It would wait for holders for ever, rightly so: the quorum watches over idle runs.
            return Ok(());
        }
        match world.run() {
            Effect::Commit { sealed, degraded } => {
                prop_assert!(sealed.len() >= min && degraded == (sealed.len() < 6));
                for (column, _) in sealed {
                    let holder = world.columns[column.0 as usize].grant.map(|grant| grant.holder.peer.0[0]);
                    if holder.is_some_and(|holder| world.forgetful.contains(&holder)) {
                        // It signed first, and lost its disk afterwards: the steward's to notice.
                        continue;
                    }
                    prop_assert_eq!(world.held.get(&column).map_or(0, BTreeSet::len), segments as usize);
                }
            }
            Effect::Fail(PlanFault::Lost { segment, .. }) => {
                let missed = world.skipped.get(&segment).cloned().unwrap_or_default();
                let laggards = missed.intersection(&world.laggards(segment)).count();
                prop_assert!(dead + laggards > PROFILE.parity as usize, "{} dead, {} behind", dead, laggards);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
