//! Clocks of a whole quorum that are set: what becomes of time, of stamps and of triggers.

use crate::job::spec::TriggeredSpec;
use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::SigningKey;

use crate::ids::*;
use crate::job::batch::BatchSpec;
use crate::job::spec::JobSpec;
use crate::quorum::command::{Control, QuorumCommand, TriggerCommand};
use crate::quorum::entry::{Batch, Command};
use crate::quorum::event::Event;
use crate::quorum::limits::LEVEL_TRIGGERS;
use crate::quorum::state::QuorumState;
use crate::task::spec::{Call, Program};
use crate::trigger::record::{Cause, FireRow, Fired, SkipReason};
use crate::trigger::spec::*;
use crate::trigger::{Planner, audit, parse_instant};

const QUORUM: QuorumId = QuorumId([1; 16]);
/// The peer whose key is made of 9s: it signs what it submits.
const OWNER: PeerId = PeerId([
    0xfd, 0x17, 0x24, 0x38, 0x5a, 0xa0, 0xc7, 0x5b, 0x64, 0xfb, 0x78, 0xcd, 0x60, 0x2f, 0xa1, 0xd9, 0x91, 0xfd, 0xeb,
    0xf7, 0x6b, 0x13, 0xc5, 0x8e, 0xd7, 0x02, 0xea, 0xc8, 0x35, 0xe9, 0xf6, 0x18,
]);

fn owner_key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const MONTHS: u64 = 11 * 30 * 24 * HOUR;

/// A quorum under one primary after another, whose clocks, all of them, are off by `off`.
struct Quorum {
    state: QuorumState,
    planner: Planner,
    /// True time.
    now: u64,
    off: i64,
    wrote_at: Option<u64>,
    index: u64,
    rows: BTreeMap<(JobId, u64), FireRow>,
}

fn job(index: u8) -> JobId {
    JobId { quorum: QUORUM, local: [index; 16] }
}

fn start() -> u64 {
    parse_instant("2026-11-29T17:51:00Z").unwrap().0
}

fn cron(line: &str) -> TriggerSpec {
    let bounds = Bounds::NONE;
    let when = When::Cron { lines: vec![line.to_owned()], timezone: "UTC".to_owned(), bounds };
    TriggerSpec { overlap: Overlap::Allow, ..TriggerSpec::new(when) }
}

fn every(seconds: u64) -> TriggerSpec {
    let when = When::Every { period: Duration::from_secs(seconds), bounds: Bounds::NONE };
    TriggerSpec { overlap: Overlap::Allow, ..TriggerSpec::new(when) }
}

impl Quorum {
    fn new() -> Self {
        let state = QuorumState::at_level(QUORUM, LEVEL_TRIGGERS);
        let (planner, rows) = (Planner::default(), BTreeMap::new());
        Self { state, planner, now: start(), off: 0, wrote_at: None, index: 0, rows }
    }

    fn wall(&self) -> Millis {
        Millis(self.now.saturating_add_signed(self.off))
    }

    fn apply(&mut self, command: Command) {
        let since = self.wrote_at.replace(self.now).map(|before| Duration::from_millis(self.now - before));
        let batch = Batch { since, ..Batch::at(self.wall(), vec![(OWNER, command)]) };
        self.index += 1;
        // A look at everything costs as much as hundreds of entries.
        let looks = self.index.is_multiple_of(509) || self.state.is_stepped(self.wall(), self.state.time);
        let before = looks.then(|| self.state.clone());
        let (reply, events) = self.state.apply(LogIndex(self.index), &batch);
        if let Some(before) = before {
            self.state.check_invariants().unwrap();
            before.check_step(&self.state, &batch.commands[0].1, &reply.replies[0]).unwrap();
            let chunks = self.state.encode_snapshot();
            assert_eq!(QuorumState::decode_snapshot(chunks.iter().map(|(_, chunk)| chunk)).as_ref(), Ok(&self.state));
        }
        for event in events {
            if let Event::Fired { job, row } = event {
                self.rows.insert((job, row.number), row);
            }
        }
    }

    fn submit(&mut self, index: u8, trigger: TriggerSpec) -> JobId {
        let job_spec = BatchSpec::new(Call::new(Program::Command { name: "work".to_owned() }));
        let spec = JobSpec::Triggered(Box::new(TriggeredSpec::new(trigger, job_spec)));
        self.apply(Command::submit(&owner_key(), job(index), spec));
        job(index)
    }

    /// Lets time pass, with the primary looking each second.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += SECOND;
            // A primary that has written nothing counts from when it first looked, which is now.
            let since = self.wrote_at.map_or(0, |before| self.now - before);
            let time = self.state.time.plus(Duration::from_millis(since));
            if self.state.is_stepped(self.wall(), time) {
                self.apply(Command::Quorum(QuorumCommand::Noop));
                continue;
            }
            let steady = self.state.wall_at(time);
            let spans = self.planner.spans(&self.state, self.wall(), steady, 256);
            if !spans.is_empty() {
                self.apply(Command::Trigger(TriggerCommand::Due { spans }));
                self.end_runs();
            }
        }
    }

    /// Nobody works for the quorum: what runs is cancelled at once.
    fn end_runs(&mut self) {
        let triggers = self.state.jobs.values().filter_map(|record| record.trigger());
        let live: Vec<JobId> = triggers.flat_map(|(_, run)| run.live.iter().copied()).collect();
        live.into_iter().for_each(|job| self.apply(Command::control(job, LogIndex(u64::MAX), Control::Cancel)));
    }

    /// Nobody leads for a time, and then another primary does.
    fn down(&mut self, seconds: u64) {
        self.now += seconds * SECOND;
        self.wrote_at = None;
        self.planner = Planner::default();
    }

    /// Instants that ran, as offsets from the start in seconds, of those whose row is at least as new as `from`.
    fn ran(&self, job: JobId, from: u64) -> Vec<i64> {
        let rows = self.rows.range((job, from)..=(job, u64::MAX));
        let ran = rows.filter_map(|(_, row)| match (row.cause, row.what) {
            (Cause::Instant(at), Fired::Run { .. }) => Some((at.0 as i64 - start() as i64) / SECOND as i64),
            _ => None,
        });
        ran.collect()
    }

    fn next_row(&self, job: JobId) -> u64 {
        self.state.trigger(job).unwrap().1.rows + 1
    }

    fn audit(&self, job: JobId) {
        let (spec, run) = self.state.trigger(job).unwrap();
        let rows = self.rows.range((job, 0)..=(job, u64::MAX)).map(|(_, row)| row);
        let (from, end, open) = (run.clock.counts_from(self.wall()), run.clock.end(), &run.clock.open);
        let faults = audit::instants(&spec.trigger, from, end, open, 0, &audit::covered(rows.clone()));
        assert_eq!(faults, Vec::<String>::new(), "{:#?}", rows.collect::<Vec<_>>());
    }
}

/// Goal: after clocks of a majority were ahead for eight seconds, a line of each second goes on in the next second, and
/// in the time that they were ahead by nothing fires twice.
#[test]
fn clocks_that_were_ahead_for_seconds_silence_no_trigger() {
    for (policy, made_up) in [(MissedPolicy::Once, 1), (MissedPolicy::Skip, 0), (MissedPolicy::CatchUp(5), 5)] {
        let mut quorum = Quorum::new();
        let each = |policy| TriggerSpec { missed: Missed { policy, deadline: None }, ..cron("* * * * * *") };
        let beat = quorum.submit(1, each(policy));
        quorum.pass(10);
        quorum.off = 20 * MINUTE as i64;
        quorum.pass(8);
        assert!(*quorum.ran(beat, 0).last().unwrap() > 1_200, "the false time is taken for true");
        quorum.off = 0;
        quorum.pass(2);
        let from = quorum.next_row(beat);
        quorum.pass(10);
        assert_eq!(quorum.ran(beat, from), (21..=30).collect::<Vec<i64>>(), "{policy:?}");
        quorum.audit(beat);
        // Through the false time and the seconds that are recorded already.
        quorum.pass(1_300);
        let mut ran = quorum.ran(beat, 0);
        let count = ran.len();
        ran.sort_unstable();
        ran.dedup();
        assert_eq!(ran.len(), count, "none fired twice");
        // Of the nine seconds in which the clocks were ahead, as many were made up for as the policy says.
        let missing = (1..=1_300).filter(|second| !ran.contains(second)).count();
        assert!(missing + made_up <= 10, "{missing} seconds did not run with {policy:?}");
        assert_eq!(quorum.state.trigger(beat).unwrap().1.clock.open, []);
        quorum.audit(beat);
    }
}

/// Goal: all clocks are 11 months ahead for minutes, and then right. Lines, periods, stamps and new jobs are as if it
/// had not been, within a minute; a downtime counts again.
#[test]
fn a_record_that_clocks_led_months_ahead_heals_when_they_are_right() {
    let mut quorum = Quorum::new();
    let (minutely, beat, hourly) =
        (quorum.submit(1, cron("* * * * *")), quorum.submit(2, every(10)), quorum.submit(3, cron("0 * * * *")));
    quorum.pass(120);
    quorum.off = MONTHS as i64;
    quorum.pass(300);
    let late = quorum.submit(4, cron("*/2 * * * *"));
    let late_beat = quorum.submit(5, every(10));
    quorum.pass(120);
    assert!(
        quorum.state.wall() > Millis(start() + MONTHS)
            && quorum.state.jobs[&late].created_at > Millis(start() + MONTHS)
    );
    quorum.off = 0;
    quorum.pass(10);
    let healed: BTreeMap<JobId, u64> =
        [minutely, beat, hourly, late, late_beat].map(|job| (job, quorum.next_row(job))).into();
    assert!(quorum.state.wall().since(Millis(quorum.now)) < Duration::from_secs(5));
    assert!(quorum.state.jobs.values().all(|record| record.changed_at.0 <= quorum.now));
    assert!(quorum.state.jobs[&late].created_at.0 <= quorum.now);
    quorum.pass(600);
    // 17:51 and 550 s are 18:00:10; from there on ten minutes.
    assert_eq!(quorum.ran(minutely, healed[&minutely]), (10..=19).map(|minute| minute * 60).collect::<Vec<_>>());
    assert_eq!(quorum.ran(beat, healed[&beat]).len(), 60, "each ten seconds");
    assert_eq!(quorum.ran(late, healed[&late]).len(), 5, "each other minute, though submitted in the false future");
    assert_eq!(quorum.ran(late_beat, healed[&late_beat]).len(), 60);
    assert!(quorum.ran(hourly, 0).contains(&540), "the hour that truly came");
    for job in [minutely, beat, hourly, late, late_beat] {
        quorum.audit(job);
        let why = quorum.state.why(job).unwrap();
        assert!(
            why.contains("the clocks of a majority were set back by 7920h 0m") && why.contains("are open again"),
            "{why}"
        );
    }
    // A downtime of an hour counts: one run makes up for it, and the rest is one row.
    let from = quorum.next_row(beat);
    quorum.down(3_600);
    quorum.pass(2);
    assert!((1..=2).contains(&quorum.ran(beat, from).len()), "what is not late fires, and else the newest");
    let skipped = quorum.rows.range((beat, from)..).find_map(|(_, row)| match row.what {
        Fired::Skipped { count, reason: SkipReason::Missed, .. } => Some(count),
        _ => None,
    });
    assert!((355..=365).contains(&skipped.unwrap()), "{skipped:?}");
    quorum.audit(beat);
    let young = quorum.submit(6, cron("* * * * *"));
    assert_eq!(quorum.state.jobs[&young].created_at, Millis(quorum.now));
}

/// Goal: clocks that go ahead and back again and again leave one row for each instant.
#[test]
fn clocks_that_jump_ahead_and_back_many_times_leave_one_row_for_each_instant() {
    let mut quorum = Quorum::new();
    let jobs = [
        quorum.submit(1, cron("*/10 * * * * *")),
        quorum.submit(2, every(7)),
        quorum.submit(
            3,
            TriggerSpec { missed: Missed { policy: MissedPolicy::Skip, deadline: None }, ..cron("*/5 * * * *") },
        ),
        quorum.submit(
            4,
            TriggerSpec {
                missed: Missed { policy: MissedPolicy::CatchUp(20), deadline: Some(Duration::from_secs(600)) },
                ..cron("* * * * *")
            },
        ),
    ];
    for round in 0..18u64 {
        quorum.off = [0, HOUR as i64, -(HOUR as i64) / 2, 2 * HOUR as i64, 20 * SECOND as i64][(round % 5) as usize];
        quorum.pass(20 + 17 * (round % 7));
        match round % 6 {
            2 => quorum.down(90),
            4 => quorum.apply(Command::control(jobs[0], LogIndex(u64::MAX), Control::Suspend)),
            5 => quorum.apply(Command::control(jobs[0], LogIndex(u64::MAX), Control::Unsuspend)),
            _ => (),
        }
        for job in jobs {
            quorum.audit(job);
        }
    }
    quorum.off = 0;
    quorum.pass(60);
    let from = jobs.map(|job| quorum.next_row(job));
    quorum.pass(300);
    for (job, from, least) in
        [(jobs[0], from[0], 29), (jobs[1], from[1], 40), (jobs[2], from[2], 1), (jobs[3], from[3], 4)]
    {
        let ran = quorum.ran(job, from).len();
        assert!(ran >= least, "job {job} ran {ran} times in five minutes: {}", quorum.state.why(job).unwrap());
    }
    quorum.pass(7_300);
    jobs.iter().for_each(|job| quorum.audit(*job));
}

/// Goal: a line whose clocks are set back to before it began, and right again before a primary looks at it, has one row
/// for each instant: those that it had stay its record, and those that were open meanwhile are recorded.
#[test]
fn a_line_that_begins_anew_unseen_keeps_its_record() {
    for ahead in [0, HOUR as i64] {
        let mut quorum = Quorum::new();
        let beat = quorum.submit(1, cron("*/20 * * * * *"));
        quorum.pass(60);
        quorum.off = ahead;
        quorum.pass(30);
        quorum.apply(Command::control(beat, LogIndex(u64::MAX), Control::Suspend));
        quorum.off = -(HOUR as i64);
        quorum.pass(10);
        assert_eq!(quorum.state.trigger(beat).unwrap().1.clock.from, None, "it begins anew");
        quorum.audit(beat);
        quorum.off = 0;
        quorum.pass(300);
        quorum.audit(beat);
        quorum.apply(Command::control(beat, LogIndex(u64::MAX), Control::Unsuspend));
        let from = quorum.next_row(beat);
        quorum.pass(60);
        quorum.audit(beat);
        assert!(quorum.ran(beat, from).len() >= 2, "{ahead}");
    }
}

/// Goal: clocks that are set back, rightly or not, do not silence a period, and forward again cost it nothing.
#[test]
fn a_period_goes_on_as_time_passes_when_clocks_are_set_back_and_forth() {
    let mut quorum = Quorum::new();
    let beat = quorum.submit(1, every(600));
    quorum.pass(1_500);
    assert_eq!(quorum.ran(beat, 0).len(), 2);
    quorum.off = -(10 * HOUR as i64);
    quorum.pass(1_200);
    assert_eq!(quorum.ran(beat, 0).len(), 4, "{}", quorum.state.why(beat).unwrap());
    quorum.off = 0;
    quorum.pass(1_200);
    assert_eq!(quorum.ran(beat, 0), (1..=6).map(|nth| nth * 600 + 1).collect::<Vec<_>>());
    quorum.audit(beat);
}

/// Goal: a step of the clocks makes no timer run out, and none waits longer for it.
#[test]
fn a_step_of_the_clocks_moves_no_timer() {
    let mut quorum = Quorum::new();
    quorum.submit(1, every(600));
    quorum.pass(100);
    quorum.apply(Command::Quorum(QuorumCommand::Noop));
    let time = quorum.state.time;
    for off in [HOUR as i64, -(HOUR as i64), MONTHS as i64, 0] {
        quorum.off = off;
        quorum.pass(10);
    }
    quorum.apply(Command::Quorum(QuorumCommand::Noop));
    let passed = quorum.state.time.since(time);
    assert!((39..=41).contains(&passed.as_secs()), "{passed:?}");
    // Across a change of primary nobody knows better than the clocks.
    quorum.down(3_600);
    quorum.apply(Command::Quorum(QuorumCommand::Noop));
    assert!((3_600..=3_650).contains(&quorum.state.time.since(time).as_secs()));
}

/// Goal: a drift is followed forward and waited out back, without a step.
#[test]
fn small_differences_are_no_steps() {
    let mut quorum = Quorum::new();
    quorum.apply(Command::Quorum(QuorumCommand::Noop));
    for (off, ahead) in [(2_000, 0), (-2_000, 4_000 - SECOND), (0, 0)] {
        quorum.off = off;
        quorum.now += SECOND;
        quorum.apply(Command::Quorum(QuorumCommand::Noop));
        assert_eq!(quorum.state.wall().since(quorum.wall()), Duration::from_millis(ahead), "{off}");
    }
    assert_eq!((quorum.state.stepped, quorum.state.clock_offset_ms), (None, 0));
}

impl Quorum {
    /// Whether the trigger hears of an event that was emitted then, in true time, and is delivered now.
    fn hears(&self, job: JobId, emitted: u64) -> bool {
        let listeners = self.state.listeners("door");
        let listener = listeners.iter().find(|listener| listener.job == job).unwrap();
        listener.hears(Millis(self.state.wall().max(self.wall()).0 - (self.now - emitted)))
    }
}

/// Goal: however the clocks were set while an event was on its way, a trigger that was there before it hears of it, and
/// one that was submitted after the last step does not.
#[test]
fn a_trigger_hears_of_an_event_that_was_on_its_way_while_clocks_were_set() {
    const AHEAD: i64 = HOUR as i64;
    let door = || TriggerSpec::new(When::Event(EventSpec::new("door")));
    for steps in [&[][..], &[-AHEAD], &[AHEAD], &[AHEAD, 0], &[-AHEAD, 0], &[-AHEAD, 20_000], &[AHEAD, -AHEAD, 0]] {
        let mut quorum = Quorum::new();
        quorum.pass(60);
        let early = quorum.submit(1, door());
        quorum.now += SECOND;
        let emitted = quorum.now;
        quorum.now += SECOND;
        assert!(quorum.hears(early, emitted) && !quorum.hears(early, emitted - 10 * SECOND));
        for off in steps {
            quorum.off = *off;
            quorum.pass(10);
            assert!(quorum.hears(early, emitted), "{steps:?}");
        }
        quorum.now += SECOND;
        let late = quorum.submit(2, door());
        quorum.now += SECOND;
        assert!(!quorum.hears(late, emitted) && quorum.hears(late, quorum.now), "{steps:?}");
    }
}
