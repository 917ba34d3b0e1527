//! A thousand days of triggers in seconds: the core, a model of the quorum around it, and a checker that sees the
//! record.
//!
//! Time jumps to whatever is next. Members' clocks differ and are set forward and back by an hour; primaries come and
//! go, with proposals of theirs lost, committed without their knowledge, committed twice, or committed hours later; the
//! quorum pauses for days. What is modelled is what Raft leaves open: which proposals are committed, and when.

use crate::capacity::Capacity;
use crate::job::spec::TriggeredSpec;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;

use crate::approval::Grant;
use crate::engine::Engine;
use crate::ids::*;
use crate::job::batch::BatchSpec;
use crate::job::spec::JobSpec;
use crate::quorum::command::{Control, QuorumCommand, TaskCommand, TriggerCommand};
use crate::quorum::entry::{Batch, Command};
use crate::quorum::event::Event;
use crate::quorum::reply::{CommandReply, Rejection};
use crate::quorum::state::QuorumState;
use crate::task::message::{Report, TaskResult};
use crate::task::record::{Output, Place, TaskAttempt, WorkerRecord};
use crate::task::spec::{Call, Program};
use crate::trigger::audit;
use crate::trigger::limits::SPANS_MAX;
use crate::trigger::record::{Cause, FireRow, Fired, SkipReason};
use crate::trigger::spec::*;
use crate::trigger::{Planner, parse_instant};

thread_local! {
    /// The planted bug: a span is applied whether or not the record still expects it.
    pub(super) static PLANTED: Cell<bool> = const { Cell::new(false) };
}

const QUORUM: QuorumId = QuorumId([1; 16]);
/// The peer whose key is made of 9s: it signs what it submits.
const OWNER: PeerId = PeerId([
    0xfd, 0x17, 0x24, 0x38, 0x5a, 0xa0, 0xc7, 0x5b, 0x64, 0xfb, 0x78, 0xcd, 0x60, 0x2f, 0xa1, 0xd9, 0x91, 0xfd, 0xeb,
    0xf7, 0x6b, 0x13, 0xc5, 0x8e, 0xd7, 0x02, 0xea, 0xc8, 0x35, 0xe9, 0xf6, 0x18,
]);

fn owner_key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}
const WORKER: PeerId = PeerId([8; 32]);
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Without optimisation a thousand days take minutes.
const DAYS: u64 = if cfg!(debug_assertions) { 30 } else { 1_000 };

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Moments without which a run would prove little.
#[derive(Debug, Default)]
struct Coverage {
    leaders: u64,
    steps_of_clocks: u64,
    pauses: u64,
    lost: u64,
    twice: u64,
    stale: u64,
    suspensions: u64,
}

struct Model {
    random: Random,
    state: QuorumState,
    planner: Planner,
    index: u64,
    /// What no member knows.
    now: u64,
    /// How far each member's clock is off.
    offsets: [i64; 3],
    leader: usize,
    /// When the primary saw quorum time become what it is.
    seen: (u64, Millis),
    /// When the primary wrote its entry before, or took the lead; and whether it wrote any.
    wrote_at: u64,
    wrote: bool,
    /// Entries that are committed later, from whatever primary.
    strays: BTreeMap<(u64, u64), Batch>,
    working: BTreeMap<TaskAttempt, u64>,
    chaos_at: u64,
    rows: BTreeMap<(JobId, u64), FireRow>,
    coverage: Coverage,
}

fn job(index: u8) -> JobId {
    JobId { quorum: QUORUM, local: [index; 16] }
}

fn work() -> BatchSpec {
    BatchSpec::new(Call::new(Program::Command { name: "work".to_owned() }))
}

fn worker() -> WorkerRecord {
    let holder = MemberId { peer: WORKER, incarnation: Incarnation(7) };
    WorkerRecord {
        grant: Grant { holder, lease: LeaseId([8; 16]) },
        capacity: Capacity { slots: 1_000, memory_bytes: 1 << 40, disk_bytes: 1 << 40 },
        engines: vec![Engine::Wasm, Engine::Command],
        labels: BTreeMap::new(),
    }
}

fn triggers() -> Vec<TriggerSpec> {
    let every = |minutes: u64, bounds: Bounds| When::Every { period: Duration::from_secs(60 * minutes), bounds };
    let cron = |lines: &[&str], timezone: &str, jitter: u64| When::Cron {
        lines: lines.iter().map(|line| line.to_string()).collect(),
        timezone: timezone.to_owned(),
        bounds: Bounds { jitter: Duration::from_secs(60 * jitter), ..Bounds::NONE },
    };
    let spec = |when, overlap, policy, deadline| TriggerSpec { when, overlap, missed: Missed { policy, deadline } };
    let hour = Some(Duration::from_secs(3_600));
    let jitter = Duration::from_secs(300);
    vec![
        spec(every(15, Bounds::NONE), Overlap::Forbid, MissedPolicy::Once, None),
        spec(every(7, Bounds { jitter, ..Bounds::NONE }), Overlap::Allow, MissedPolicy::CatchUp(5), None),
        spec(cron(&["*/30 * * * *"], "Europe/Berlin", 0), Overlap::Queue(3), MissedPolicy::Skip, None),
        spec(
            cron(&["30 2 * * *", "0 9 * * MON-FRI"], "America/New_York", 0),
            Overlap::Replace,
            MissedPolicy::Once,
            hour,
        ),
        spec(every(60, Bounds { count: Some(700), ..Bounds::NONE }), Overlap::Allow, MissedPolicy::CatchUp(100), None),
        spec(When::At(parse_instant("2024-01-20T12:00:00Z").unwrap()), Overlap::Forbid, MissedPolicy::Once, None),
        spec(cron(&["0 0 29 2 *"], "UTC", 0), Overlap::Forbid, MissedPolicy::Once, None),
        spec(cron(&["17 * * * *"], "Australia/Lord_Howe", 120), Overlap::Queue(100), MissedPolicy::CatchUp(3), hour),
    ]
}

impl Model {
    fn new(seed: u64) -> Self {
        let now = parse_instant("2024-01-01T00:00:00Z").unwrap().0;
        let mut model = Self {
            random: Random(seed),
            state: QuorumState::at_level(QUORUM, crate::quorum::limits::LEVEL_TRIGGERS),
            planner: Planner::default(),
            index: 0,
            now,
            offsets: [0, 700, -1_300],
            leader: 0,
            seen: (now, Millis(0)),
            wrote_at: now,
            wrote: false,
            strays: BTreeMap::new(),
            working: BTreeMap::new(),
            chaos_at: now + HOUR,
            rows: BTreeMap::new(),
            coverage: Coverage::default(),
        };
        model.commit(Command::Task(TaskCommand::SetWorker { worker: worker() })).unwrap();
        for (index, trigger) in triggers().into_iter().enumerate() {
            let spec = TriggeredSpec::new(trigger, work());
            spec.check_meaning().unwrap();
            model.commit(Command::submit(&owner_key(), job(index as u8), JobSpec::Triggered(Box::new(spec)))).unwrap();
        }
        model
    }

    fn wall(&self) -> Millis {
        Millis(self.now.saturating_add_signed(self.offsets[self.leader]))
    }

    /// Record time as the primary sees it go on.
    fn steady(&self) -> Millis {
        Millis(self.seen.1.0 + (self.now - self.seen.0))
    }

    fn batch(&mut self, by: PeerId, command: Command) -> Batch {
        let passed = Duration::from_millis(self.now - self.wrote_at);
        self.wrote_at = self.now;
        let since = std::mem::replace(&mut self.wrote, true).then_some(passed);
        Batch { since, passed, ..Batch::at(self.wall(), vec![(by, command)]) }
    }

    fn commit(&mut self, command: Command) -> Result<CommandReply, Rejection> {
        let batch = self.batch(OWNER, command);
        self.apply(&batch)
    }

    fn apply(&mut self, batch: &Batch) -> Result<CommandReply, Rejection> {
        self.index += 1;
        // A look at everything costs as much as thousands of entries.
        let look = self.random.below(if cfg!(debug_assertions) { 3_000 } else { 20_000 }) == 0;
        let before = look.then(|| self.state.clone());
        let (reply, events) = self.state.apply(LogIndex(self.index), batch);
        let reply = reply.replies.into_iter().next().unwrap();
        if let Some(before) = before.filter(|_| !PLANTED.get()) {
            self.state.check_invariants().unwrap();
            before.check_step(&self.state, &batch.commands[0].1, &reply).unwrap();
            let chunks = self.state.encode_snapshot();
            let again = QuorumState::decode_snapshot(chunks.iter().map(|(_, chunk)| chunk)).unwrap();
            assert_eq!(again, self.state, "a member that comes back has the same state");
        }
        for event in events {
            if let Event::Fired { job, row } = event {
                self.rows.insert((job, row.number), row);
            }
        }
        if self.state.time > self.seen.1 {
            self.seen = (self.now, self.state.time);
        }
        let tasks: Vec<_> = self.state.attempts_of(WORKER).map(|(task, _)| task).collect();
        for task in tasks {
            // Most are done soon, some last.
            let lasts =
                if self.random.percent(10) { self.random.below(3 * HOUR) } else { self.random.below(5 * MINUTE) };
            let now = self.now;
            self.working.entry(task).or_insert(now + lasts);
        }
        reply
    }

    fn elect(&mut self) {
        self.leader = (self.leader + 1 + self.random.below(2) as usize) % 3;
        self.planner = Planner::default();
        // It knows the record, and nothing of how long ago that was.
        self.seen = (self.now, self.state.time);
        (self.wrote_at, self.wrote) = (self.now, false);
        self.coverage.leaders += 1;
    }

    /// What becomes of a proposal is not the primary's to know.
    fn propose(&mut self, command: Command) {
        let batch = self.batch(OWNER, command);
        let later = self.now + 1_000 + self.random.below(2 * HOUR);
        match self.random.below(1_000) {
            0..=9 => {
                self.coverage.lost += 1;
                self.elect();
            }
            10..=19 => {
                let _ = self.apply(&batch);
                self.elect();
            }
            20..=29 => {
                self.coverage.twice += 1;
                let _ = self.apply(&batch);
                self.strays.insert((later, self.index), batch);
            }
            30..=34 => {
                self.strays.insert((later, self.index), batch);
                self.elect();
            }
            _ => drop(self.apply(&batch)),
        }
    }

    /// When the primary will next have something to do, by what really passes.
    fn due_at(&self) -> u64 {
        let by_wall = |due: Millis| due.0.saturating_add_signed(-self.offsets[self.leader]);
        let by_time = |due: Millis| self.seen.0 + due.0.saturating_sub(self.seen.1.0);
        let by_steady = |due: Millis| self.seen.0 + due.0.saturating_sub(self.state.wall_at(self.seen.1).0);
        let duties = self.state.duties();
        let due = duties.iter().filter_map(|duty| match duty {
            crate::quorum::duty::Duty::FireAt { due } => Some(by_wall(*due)),
            crate::quorum::duty::Duty::FireAfter { due, .. } => Some(by_wall(*due).min(by_steady(*due))),
            crate::quorum::duty::Duty::Wake { due, .. } => Some(by_time(*due)),
            _ => None,
        });
        due.min().unwrap_or(u64::MAX).max(self.now)
    }

    fn step(&mut self) {
        let stray = self.strays.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
        let done = self.working.values().min().copied().unwrap_or(u64::MAX);
        let due = self.due_at();
        self.now = self.now.max(stray.min(done).min(due).min(self.chaos_at));
        if self.now >= self.chaos_at {
            self.disturb();
        } else if self.now >= stray {
            let ((_, _), batch) = self.strays.pop_first().unwrap();
            let rows = self.rows.len();
            let _ = self.apply(&batch);
            self.coverage.stale += u64::from(self.rows.len() == rows);
        } else if self.now >= done {
            self.finish_work();
        } else {
            self.lead();
        }
    }

    fn lead(&mut self) {
        let (wall, steady) = (self.wall(), self.steady());
        let spans = self.planner.spans(&self.state, wall, self.state.wall_at(steady), SPANS_MAX);
        if !spans.is_empty() {
            return self.propose(Command::Trigger(TriggerCommand::Due { spans }));
        }
        match self.state.next_timer().filter(|until| *until <= steady) {
            Some(until) => self.propose(Command::Quorum(QuorumCommand::Elapsed { until })),
            None => panic!("woken for nothing at {}: {:?}", self.now, self.state.duties()),
        }
    }

    fn finish_work(&mut self) {
        let live: Vec<_> = self.state.attempts_of(WORKER).map(|(task, _)| task).collect();
        let stops: Vec<_> = self.state.stops_of(WORKER).into_iter().map(|(task, _)| task).collect();
        let over: Vec<_> = self.working.iter().filter(|(_, at)| **at <= self.now).map(|(task, _)| *task).collect();
        let output = Output { digest: Digest(*blake3::hash(b"").as_bytes()), bytes: 0, place: Place::Record };
        let done = || TaskResult::Done { output, bytes: Some(Bytes::new()) };
        let mut reports: Vec<_> =
            stops.iter().map(|task| Report { task: *task, result: TaskResult::Stopped }).collect();
        for task in over {
            self.working.remove(&task);
            if live.contains(&task) && !stops.contains(&task) {
                reports.push(Report { task, result: done() });
            }
        }
        if !reports.is_empty() {
            let batch = self.batch(WORKER, Command::Task(TaskCommand::Report { reports }));
            let _ = self.apply(&batch);
        }
    }

    fn disturb(&mut self) {
        self.chaos_at = self.now + 10 * MINUTE + self.random.below(12 * HOUR);
        match self.random.below(10) {
            0..=3 => self.elect(),
            4..=6 => {
                self.coverage.steps_of_clocks += 1;
                let member = self.random.below(3) as usize;
                let step = self.random.below(4);
                self.offsets[member] = match step {
                    0 => HOUR as i64,
                    1 => -(HOUR as i64),
                    2 => self.random.below(20_000) as i64 - 10_000,
                    _ => 0,
                };
            }
            7 => {
                self.coverage.pauses += 1;
                let pause = if self.random.percent(10) { self.random.below(4 * DAY) } else { self.random.below(HOUR) };
                self.now += pause;
                self.elect();
            }
            8 => {
                self.coverage.suspensions += 1;
                let job = job(self.random.below(8) as u8);
                let suspended = self.state.trigger(job).is_some_and(|(_, run)| run.suspended);
                self.propose(if suspended {
                    Command::control(job, LogIndex(u64::MAX), Control::Unsuspend)
                } else {
                    Command::control(job, LogIndex(u64::MAX), Control::Suspend)
                });
            }
            _ => {
                let (job, nonce) = (job(self.random.below(8) as u8), Nonce([self.random.below(250) as u8; 16]));
                let respect_overlap = self.random.percent(50);
                self.propose(Command::Trigger(TriggerCommand::Fire {
                    job,
                    seen: LogIndex(u64::MAX),
                    nonce,
                    respect_overlap,
                }));
            }
        }
        // Nobody forgets a suspended trigger for good.
        if self.random.percent(30) {
            let suspended = (0..8).map(job).find(|job| self.state.trigger(*job).is_some_and(|(_, run)| run.suspended));
            if let Some(job) = suspended {
                self.propose(Command::control(job, LogIndex(u64::MAX), Control::Unsuspend));
            }
        }
    }

    /// What the checker says of the whole record.
    fn audit(&self) -> Vec<String> {
        let mut faults = audit::runs(self.rows.values());
        for (index, trigger) in triggers().iter().enumerate() {
            let job = job(index as u8);
            let Some((_, run)) = self.state.trigger(job) else { continue };
            let Some(from) = run.clock.from else { continue };
            let rows = self.rows.range((job, 0)..=(job, u64::MAX)).map(|(_, row)| row);
            let (next, open) = (run.clock.end(), &run.clock.open);
            let found = audit::instants(trigger, from, next, open, 0, &audit::covered(rows));
            faults.extend(found.into_iter().map(|fault| format!("trigger {index}: {fault}")));
        }
        faults
    }
}

/// Goal: each instant of each trigger is one fire or one recorded skip. Method: a thousand days of the above, and a
/// checker that works out the instants for itself.
#[test]
fn in_a_thousand_days_each_instant_is_one_record() {
    let mut model = Model::new(20_260_101);
    let end = model.now + DAYS * DAY;
    while model.now < end {
        model.step();
    }
    model.state.check_invariants().unwrap();
    assert_eq!(model.audit(), Vec::<String>::new());
    let rows = || model.rows.values();
    let ran = rows().filter(|row| matches!(row.what, Fired::Run { .. })).count();
    let skipped = |wanted| rows().any(|row| matches!(row.what, Fired::Skipped { reason, .. } if reason == wanted));
    for reason in [SkipReason::Missed, SkipReason::Deadline, SkipReason::Overlap, SkipReason::Suspended] {
        assert!(skipped(reason), "nothing was skipped as {reason:?}");
    }
    let manual = rows().filter(|row| matches!(row.cause, Cause::Manual(_))).count();
    assert!(ran > 50 * DAYS as usize && manual > 0, "{ran} runs, {manual} by hand");
    let Coverage { leaders, steps_of_clocks, pauses, lost, twice, stale, suspensions } = model.coverage;
    let rare = [leaders, steps_of_clocks, pauses, lost, twice, stale, suspensions].into_iter().min();
    assert!(rare > Some(0), "{:?}", model.coverage);
    println!("{ran} runs in {} rows over {DAYS} days: {:?}", model.rows.len(), model.coverage);
}

#[test]
fn the_checker_sees_a_span_that_is_applied_twice() {
    PLANTED.set(true);
    let mut model = Model::new(7);
    let end = model.now + 30 * DAY;
    while model.now < end && model.audit_sometimes().is_empty() {
        model.step();
    }
    PLANTED.set(false);
    let faults = model.audit();
    assert!(faults.iter().any(|fault| fault.contains("twice")), "{faults:?}");
}

impl Model {
    fn audit_sometimes(&self) -> Vec<String> {
        if self.index.is_multiple_of(200) { self.audit() } else { Vec::new() }
    }
}
