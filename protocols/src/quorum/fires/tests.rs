//! Triggers in a quorum: scenarios by name, then random histories against the invariants.

use crate::capacity::Capacity;
use crate::job::spec::TriggeredSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ed25519_dalek::SigningKey;

use crate::approval::Grant;
use crate::engine::Engine;
use crate::ids::*;
use crate::job::batch::{BatchSpec, Map};
use crate::job::record::RunState;
use crate::job::spec::JobSpec;
use crate::quorum::command::{Control, QuorumCommand, TaskCommand, TriggerCommand};
use crate::quorum::duty::Duty;
use crate::quorum::entry::{Batch, Command};
use crate::quorum::event::Event;
use crate::quorum::limits::LEVEL_TRIGGERS;
use crate::quorum::reply::{CommandReply, Rejection};
use crate::quorum::request::{Query, QueryAnswer};
use crate::quorum::state::QuorumState;
use crate::task::error_class::ErrorClass;
use crate::task::message::{Report, TaskResult};
use crate::task::record::{Output, Place, WorkerRecord};
use crate::task::spec::{Call, Content, Program, Verify};
use crate::trigger::condition::{Observation, Seen};
use crate::trigger::event::{Delivery, Event as Emitted, Match};
use crate::trigger::limits::*;
use crate::trigger::record::{Cause, Clock, FireRow, Fired, SeenId, SkipReason};
use crate::trigger::spec::*;
use crate::trigger::{Planner, audit};
use bytes::Bytes;

mod emitters;
mod histories;

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
const EMITTER: PeerId = PeerId([7; 32]);
const SECOND: u64 = 1_000;

fn job(index: u8) -> JobId {
    JobId { quorum: QUORUM, local: [index; 16] }
}

fn work() -> BatchSpec {
    BatchSpec::new(Call::new(Program::Command { name: "work".to_owned() }))
}

fn every(seconds: u64) -> TriggerSpec {
    TriggerSpec::new(When::Every { period: Duration::from_secs(seconds), bounds: Bounds::NONE })
}

fn on_event(change: impl FnOnce(&mut EventSpec)) -> TriggerSpec {
    let mut event = EventSpec::new("door");
    change(&mut event);
    TriggerSpec { overlap: Overlap::Allow, ..TriggerSpec::new(When::Event(event)) }
}

fn on_condition(hold: u64, verify: Option<Verify>) -> TriggerSpec {
    TriggerSpec::new(When::Condition(ConditionSpec {
        source: Source::Metric { name: "load".to_owned() },
        when: "value > 5".to_owned(),
        reset: None,
        every: Duration::from_secs(1),
        hold_for: Duration::from_secs(hold),
        hysteresis: Duration::ZERO,
        verify,
    }))
}

/// A state with a log in front of it and a primary beside it.
struct Quorum {
    state: QuorumState,
    planner: Planner,
    index: u64,
    /// The primary's wall clock.
    now: u64,
    /// What it said at the entry before.
    wrote_at: u64,
    /// Every row that was ever written, as it was last.
    rows: BTreeMap<(JobId, u64), FireRow>,
}

impl Quorum {
    fn new() -> Self {
        let state = QuorumState::at_level(QUORUM, LEVEL_TRIGGERS);
        Self {
            state,
            planner: Planner::default(),
            index: 0,
            now: 1_000_000,
            wrote_at: 1_000_000,
            rows: BTreeMap::new(),
        }
    }
    fn with_worker() -> Self {
        let mut quorum = Self::new();
        let holder = MemberId { peer: WORKER, incarnation: Incarnation(7) };
        let worker = WorkerRecord {
            grant: Grant { holder, lease: LeaseId([8; 16]) },
            capacity: Capacity { slots: 1_000, memory_bytes: 1 << 40, disk_bytes: 1 << 40 },
            engines: vec![Engine::Command],
            labels: BTreeMap::new(),
        };
        quorum.apply(Command::Task(TaskCommand::SetWorker { worker })).unwrap();
        quorum
    }
    fn apply_by(&mut self, by: PeerId, command: Command) -> Result<CommandReply, Rejection> {
        self.index += 1;
        let passed = Duration::from_millis(self.now.saturating_sub(self.wrote_at));
        self.wrote_at = self.now;
        let batch = Batch { passed, ..Batch::at(Millis(self.now), vec![(by, command)]) };
        let before = self.state.clone();
        let (reply, events) = self.state.apply(LogIndex(self.index), &batch);
        let reply = reply.replies.into_iter().next().unwrap();
        self.state.check_invariants().unwrap();
        before.check_step(&self.state, &batch.commands[0].1, &reply).unwrap();
        for event in events {
            if let Event::Fired { job, row } = event {
                self.rows.insert((job, row.number), row);
            }
        }
        let chunks = self.state.encode_snapshot();
        assert_eq!(QuorumState::decode_snapshot(chunks.iter().map(|(_, chunk)| chunk)).as_ref(), Ok(&self.state));
        reply
    }
    fn apply(&mut self, command: Command) -> Result<CommandReply, Rejection> {
        self.apply_by(OWNER, command)
    }
    fn submit(&mut self, index: u8, trigger: TriggerSpec) -> JobId {
        let spec = TriggeredSpec::new(trigger, work());
        self.apply(Command::submit(&owner_key(), job(index), JobSpec::Triggered(Box::new(spec)))).unwrap();
        self.lead();
        job(index)
    }
    /// The primary proposes what is due.
    fn lead(&mut self) {
        loop {
            let (wall, steady) = (Millis(self.now), Millis(self.now));
            let spans = self.planner.spans(&self.state, wall, steady, SPANS_MAX);
            if spans.is_empty() {
                return;
            }
            self.apply(Command::Trigger(TriggerCommand::Due { spans })).unwrap();
        }
    }
    fn pass(&mut self, seconds: u64) {
        self.now += seconds * SECOND;
        self.lead();
        while let Some(until) = self.state.next_timer().filter(|until| until.0 <= self.now) {
            self.apply(Command::Quorum(QuorumCommand::Elapsed { until })).unwrap();
        }
    }
    /// Every run ends.
    fn work(&mut self, result: TaskResult) {
        loop {
            let live: Vec<_> = self.state.attempts_of(WORKER).map(|(task, _)| task).collect();
            let stops: Vec<_> = self.state.stops_of(WORKER).into_iter().map(|(task, _)| task).collect();
            let mut reports: Vec<_> =
                stops.iter().map(|task| Report { task: *task, result: TaskResult::Stopped }).collect();
            let live = live.into_iter().filter(|task| !stops.contains(task));
            reports.extend(live.map(|task| Report { task, result: result.clone() }));
            if reports.is_empty() {
                return;
            }
            self.apply_by(WORKER, Command::Task(TaskCommand::Report { reports })).unwrap();
        }
    }
    fn succeed(&mut self) {
        let output = Output { digest: Digest(*blake3::hash(b"").as_bytes()), bytes: 0, place: Place::Record };
        self.work(TaskResult::Done { output, bytes: Some(Bytes::new()) });
    }
    fn fail(&mut self) {
        self.work(TaskResult::Failed { class: ErrorClass::Trap, reason: "because".to_owned() });
    }
    /// The rows of a trigger in a few letters: `r` runs, `+` succeeded, `-` ended otherwise, `w` waits, and skips by
    /// reason.
    fn story(&self, job: JobId) -> String {
        let rows = self.rows.range((job, 0)..=(job, u64::MAX));
        let word = |row: &FireRow| match row.what {
            Fired::Run { end: None, .. } => "r".to_owned(),
            Fired::Run { end: Some(RunState::Succeeded), .. } => "+".to_owned(),
            Fired::Run { .. } => "-".to_owned(),
            Fired::Waiting => "w".to_owned(),
            Fired::Skipped { count, reason, .. } => format!("{reason:?}{count}"),
            Fired::Withdrawn { count, .. } => format!("Withdrawn{count}"),
        };
        rows.map(|(_, row)| word(row)).collect::<Vec<_>>().join(" ")
    }
    fn job_state(&self, job: JobId) -> RunState {
        self.state.jobs[&job].state
    }
    fn audit(&self, job: JobId) -> Vec<String> {
        let (spec, run) = self.state.trigger(job).unwrap();
        let rows = self.rows.range((job, 0)..=(job, u64::MAX)).map(|(_, row)| row);
        let Clock { from, open, .. } = &run.clock;
        audit::instants(&spec.trigger, from.unwrap(), run.clock.end(), open, 0, &audit::covered(rows))
    }
    /// What the newest run of a trigger is given.
    fn input(&self, job: JobId) -> serde_json::Value {
        let rows = self.rows.range((job, 0)..=(job, u64::MAX)).rev();
        let run = rows.into_iter().find_map(|(_, row)| match row.what {
            Fired::Run { run, .. } => Some(run),
            _ => None,
        });
        let (spec, _) = self.state.jobs[&run.expect("a run")].batch().unwrap();
        let Content::Inline(bytes) = &spec.call.inputs[INPUT_NAME] else { panic!("inline") };
        serde_json::from_slice(bytes).unwrap()
    }
    /// The emitter sends its events after `follows`, the first with the next number.
    fn deliver(&mut self, follows: u64, events: &[Emitted]) -> Result<CommandReply, Rejection> {
        let deliver = |(index, event): (usize, &Emitted)| {
            event.check().unwrap();
            let matches = self.planner.matches(&self.state.listeners(&event.name), EMITTER, event);
            Delivery { sequence: follows + 1 + index as u64, event: event.clone(), matches }
        };
        let deliveries: Vec<_> = events.iter().enumerate().map(deliver).collect();
        let reaches = follows + events.len() as u64;
        self.apply(Command::Trigger(TriggerCommand::Deliver {
            emitter: EMITTER,
            follows,
            reaches,
            lost: 0,
            deliveries,
        }))
    }
    fn observe(
        &mut self,
        job: JobId,
        value: Result<&str, &str>,
        witnesses: &[PeerId],
    ) -> Result<CommandReply, Rejection> {
        let observation = self.planner.judge(&self.state, job, value, witnesses.to_vec()).unwrap();
        self.apply(Command::Trigger(TriggerCommand::Observe { job, observation }))
    }
}

fn event(id: Option<&str>, data: &str) -> Emitted {
    Emitted { name: "door".to_owned(), id: id.map(str::to_owned), data: Bytes::from(data.to_owned()), at: Millis(5) }
}

// ---- instants ----

#[test]
fn a_period_fires_once_per_instant_and_says_what_it_was() {
    let mut quorum = Quorum::with_worker();
    let beat = quorum.submit(1, every(1));
    assert!(matches!(quorum.state.duties()[..], [.., Duty::FireAfter { due: Millis(1_001_000), .. }]));
    for _ in 0..5 {
        quorum.pass(1);
        quorum.succeed();
    }
    assert_eq!(quorum.story(beat), "+ + + + +");
    assert_eq!(quorum.input(beat)["instant_at"], 1_005_000);
    assert_eq!(quorum.audit(beat), Vec::<String>::new());
    let Some(QueryAnswer::Fires(rows)) = quorum.state.answer(&Query::Fires { job: beat, from: 3, limit: 2 }) else {
        panic!("rows")
    };
    assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [3, 4]);
    assert!(quorum.state.why(beat).unwrap().starts_with("waiting until 1970-01-01T00:16:46Z"));
}

#[test]
fn a_span_made_from_an_older_record_changes_nothing() {
    let mut quorum = Quorum::with_worker();
    let beat = quorum.submit(1, every(1));
    quorum.now += SECOND;
    let spans = quorum.planner.spans(&quorum.state, Millis(quorum.now), Millis(quorum.now), SPANS_MAX);
    let mine = Command::Trigger(TriggerCommand::Due { spans });
    // Another primary was quicker, by a clock that is an hour ahead.
    quorum.now += 3_600 * SECOND;
    let hour = Millis(quorum.now);
    let spans = Planner::default().spans(&quorum.state, hour, hour, SPANS_MAX);
    quorum.apply(Command::Trigger(TriggerCommand::Due { spans })).unwrap();
    let story = quorum.story(beat);
    for _ in 0..3 {
        quorum.apply(mine.clone()).unwrap();
    }
    assert_eq!(quorum.story(beat), story);
    assert_eq!(quorum.audit(beat), Vec::<String>::new());
    // And nothing is due before the next second.
    let steady = Millis(quorum.state.time.0 + SECOND);
    assert_eq!(quorum.planner.spans(&quorum.state, Millis(quorum.now), steady, SPANS_MAX).len(), 1);
    assert!(quorum.planner.spans(&quorum.state, Millis(quorum.now), Millis(quorum.now), SPANS_MAX).is_empty());
}

#[test]
fn missed_instants_are_made_up_for_as_the_policy_says() {
    let hour = 3_600;
    for (policy, deadline, expected) in [
        // The newest two are at most ten seconds late, which is not missed.
        (MissedPolicy::Skip, None, "Missed358 r r"),
        (MissedPolicy::Once, None, "Missed358 r r"),
        (MissedPolicy::CatchUp(3), None, "Missed355 r r r r r"),
        (MissedPolicy::CatchUp(100), Some(25), "Missed260 Deadline97 r r r"),
        (MissedPolicy::Skip, Some(5), "Missed358 Deadline1 r"),
    ] {
        let mut quorum = Quorum::with_worker();
        let trigger = TriggerSpec {
            overlap: Overlap::Allow,
            missed: Missed { policy, deadline: deadline.map(Duration::from_secs) },
            ..every(10)
        };
        let beat = quorum.submit(1, trigger);
        quorum.pass(hour);
        assert_eq!(quorum.story(beat), expected, "{policy:?} {deadline:?}");
        assert_eq!(quorum.audit(beat), Vec::<String>::new());
    }
    // When nothing but what was missed is due, once is the newest of it.
    let mut quorum = Quorum::with_worker();
    let daily = quorum.submit(1, every(24 * hour));
    quorum.pass(3 * 24 * hour + 60);
    assert_eq!(quorum.story(daily), "Missed2 r");
}

#[test]
fn a_trigger_ends_when_its_last_run_has() {
    let mut quorum = Quorum::with_worker();
    let at = quorum.submit(1, TriggerSpec::new(When::At(Millis(1_005_000))));
    assert!(matches!(quorum.state.duties()[..], [.., Duty::FireAt { due: Millis(1_005_000) }]));
    quorum.pass(4);
    assert_eq!(quorum.story(at), "");
    quorum.pass(1);
    assert_eq!((quorum.story(at).as_str(), quorum.job_state(at)), ("r", RunState::Running));
    quorum.succeed();
    assert_eq!((quorum.story(at).as_str(), quorum.job_state(at)), ("+", RunState::Succeeded));
    let twice = When::Every { period: Duration::from_secs(1), bounds: Bounds { count: Some(2), ..Bounds::NONE } };
    let twice = quorum.submit(2, TriggerSpec::new(twice));
    for _ in 0..5 {
        quorum.pass(1);
        quorum.succeed();
    }
    assert_eq!((quorum.story(twice).as_str(), quorum.job_state(twice)), ("+ +", RunState::Succeeded));
    // An instant that had passed when it was submitted is a missed one.
    let past = quorum.submit(3, TriggerSpec::new(When::At(Millis(5))));
    assert_eq!(quorum.story(past), "r");
}

#[test]
fn overlap_is_as_the_policy_says() {
    for (overlap, early, late) in [
        (Overlap::Allow, "r r r r", "+ + + +"),
        (Overlap::Forbid, "r Overlap3", "+ Overlap3"),
        (Overlap::Queue(2), "r w w QueueFull1", "+ + + QueueFull1"),
        (Overlap::Replace, "r Replaced1 Replaced1 w", "- Replaced1 Replaced1 +"),
    ] {
        let mut quorum = Quorum::with_worker();
        let beat = quorum.submit(1, TriggerSpec { overlap, ..every(1) });
        (0..4).for_each(|_| quorum.pass(1));
        assert_eq!(quorum.story(beat), early, "{overlap:?}");
        quorum.succeed();
        assert_eq!(quorum.story(beat), late, "{overlap:?}");
        assert_eq!(quorum.audit(beat), Vec::<String>::new());
    }
}

#[test]
fn what_falls_due_while_suspended_is_recorded_when_it_goes_on() {
    let mut quorum = Quorum::with_worker();
    let beat = quorum.submit(1, every(1));
    quorum.pass(1);
    quorum.succeed();
    quorum.apply(Command::control(beat, LogIndex(u64::MAX), Control::Suspend)).unwrap();
    assert_eq!(quorum.job_state(beat), RunState::Paused);
    quorum.pass(5);
    assert_eq!(quorum.story(beat), "+");
    assert!(quorum.state.why(beat).unwrap().contains("suspended"));
    quorum.apply(Command::control(beat, LogIndex(u64::MAX), Control::Unsuspend)).unwrap();
    quorum.lead();
    assert_eq!(quorum.story(beat), "+ Suspended5");
    quorum.pass(1);
    assert_eq!(quorum.story(beat), "+ Suspended5 r");
    assert_eq!(quorum.audit(beat), Vec::<String>::new());
}

#[test]
fn a_manual_fire_is_one_fire_however_often_it_is_asked_for() {
    let mut quorum = Quorum::with_worker();
    let beat = quorum.submit(1, every(3_600));
    let fire = |nonce, respect_overlap| {
        Command::Trigger(TriggerCommand::Fire {
            job: job(1),
            seen: LogIndex(u64::MAX),
            nonce: Nonce([nonce; 16]),
            respect_overlap,
        })
    };
    let first = quorum.apply(fire(1, true)).unwrap();
    assert!(matches!(&first, CommandReply::Fired(row) if row.number == 1), "{first:?}");
    assert_eq!(quorum.apply(fire(1, true)).unwrap(), first);
    assert_eq!(quorum.input(beat)["by"], OWNER.to_string());
    let CommandReply::Fired(row) = quorum.apply(fire(2, true)).unwrap() else { panic!("a row") };
    assert!(matches!(row.what, Fired::Skipped { reason: SkipReason::Overlap, .. }));
    quorum.apply(fire(3, false)).unwrap();
    assert_eq!(quorum.story(beat), "r Overlap1 r");
}

/// Goal: a copy of a person's command that comes late neither suspends a trigger that goes on, nor fires one that was
/// not there when it was asked for.
#[test]
fn a_copy_of_a_suspend_or_a_fire_that_comes_late_changes_nothing() {
    let mut quorum = Quorum::with_worker();
    let fire = |seen| {
        let (nonce, respect_overlap) = (Nonce([7; 16]), true);
        Command::Trigger(TriggerCommand::Fire { job: job(1), seen, nonce, respect_overlap })
    };
    let early = fire(LogIndex(0));
    assert_eq!(quorum.apply(early.clone()), Err(Rejection::UnknownJob { job: job(1) }));
    let beat = quorum.submit(1, every(3_600));
    let superseded = |controlled| Err(Rejection::Superseded { job: job(1), controlled });
    assert_eq!(quorum.apply(early.clone()), superseded(false));
    assert_eq!(quorum.story(beat), "");
    let seen = |quorum: &Quorum| quorum.state.jobs[&beat].seen();
    let suspend = Command::control(beat, seen(&quorum), Control::Suspend);
    quorum.apply(suspend.clone()).unwrap();
    assert_eq!(quorum.apply(suspend.clone()), Ok(CommandReply::Done));
    quorum.apply(Command::control(beat, seen(&quorum), Control::Unsuspend)).unwrap();
    assert_eq!(quorum.apply(suspend), superseded(true));
    assert_eq!(quorum.job_state(beat), RunState::Running);
    let fired = quorum.apply(fire(seen(&quorum))).unwrap();
    assert_eq!(quorum.apply(early), Ok(fired), "by its nonce it is known, whatever its sender had seen");
}

#[test]
fn cancelling_a_trigger_ends_its_runs_and_its_queue() {
    let mut quorum = Quorum::with_worker();
    let beat = quorum.submit(1, TriggerSpec { overlap: Overlap::Queue(9), ..every(1) });
    (0..3).for_each(|_| quorum.pass(1));
    quorum.apply(Command::control(beat, LogIndex(u64::MAX), Control::Cancel)).unwrap();
    assert_eq!((quorum.story(beat).as_str(), quorum.job_state(beat)), ("r Cancelled1 Cancelled1", RunState::Cancelled));
    quorum.succeed();
    assert_eq!(quorum.story(beat), "- Cancelled1 Cancelled1");
    quorum.pass(10);
    assert_eq!(quorum.apply(Command::control(beat, LogIndex(u64::MAX), Control::Cancel)), Ok(CommandReply::Done));
    assert!(quorum.apply(Command::control(beat, LogIndex(u64::MAX), Control::Suspend)).is_err());
}

#[test]
fn commands_for_runs_are_not_for_triggers_and_the_other_way_round() {
    let mut quorum = Quorum::with_worker();
    let beat = quorum.submit(1, every(1));
    let error = quorum.apply(Command::control(beat, LogIndex(u64::MAX), Control::Pause)).unwrap_err();
    assert!(error.to_string().contains("is for its runs: `job fires"), "{error}");
    quorum.apply(Command::submit(&owner_key(), job(2), JobSpec::batch(work()))).unwrap();
    let error = quorum.apply(Command::control(job(2), LogIndex(u64::MAX), Control::Suspend)).unwrap_err();
    assert!(error.to_string().contains("has no trigger"), "{error}");
    let low = Command::control(beat, LogIndex(u64::MAX), Control::Suspend);
    quorum.state.level = 1;
    assert_eq!(quorum.apply(low), Err(Rejection::Level { needed: LEVEL_TRIGGERS, level: 1 }));
}

#[test]
fn a_schedule_that_the_primary_cannot_read_rests_and_says_so() {
    let mut quorum = Quorum::with_worker();
    let cron = When::Cron { lines: vec!["0 9 * * *".into()], timezone: "Mars/Base".into(), bounds: Bounds::NONE };
    let spec = TriggeredSpec::new(TriggerSpec::new(cron), work());
    assert!(spec.check().is_ok() && spec.check_meaning().is_err());
    quorum.apply(Command::submit(&owner_key(), job(1), JobSpec::Triggered(Box::new(spec)))).unwrap();
    quorum.lead();
    assert!(quorum.state.why(job(1)).unwrap().contains("there is no time zone"), "{:?}", quorum.state.why(job(1)));
    let rest = Millis(quorum.now).plus(FAULT_REST);
    assert!(matches!(quorum.state.duties()[..], [.., Duty::FireAt { due }] if due == rest));
}

// ---- events ----

#[test]
fn an_event_fires_what_it_matches_and_brings_its_data() {
    let mut quorum = Quorum::with_worker();
    let hot = quorum.submit(1, on_event(|event| event.filter = Some("data.t > 30".to_owned())));
    let any = quorum.submit(2, on_event(|_| ()));
    let other = quorum.submit(3, on_event(|event| event.name = "window".to_owned()));
    let reply = quorum.deliver(0, &[event(None, r#"{"t": 20}"#), event(None, r#"{"t": 31.5, "who": "é"}"#)]);
    assert_eq!(reply, Ok(CommandReply::Delivered { reaches: 2 }));
    assert_eq!([hot, any, other].map(|job| quorum.story(job)), ["r", "r r", ""]);
    let input = quorum.input(hot);
    assert_eq!((&input["event"]["data"]["who"], &input["event"]["name"]), (&"é".into(), &"door".into()));
    assert_eq!(quorum.state.event_names().collect::<Vec<_>>(), ["door", "window"]);
    // What cannot be told is a recorded skip.
    quorum.deliver(2, &[event(None, r#"{"p": 1}"#)]).unwrap();
    assert_eq!(quorum.story(hot), "r Fault1");
    assert!(quorum.state.jobs[&hot].reason.as_deref().unwrap().contains('t'));
}

#[test]
fn an_event_is_taken_once_however_often_and_by_whomever_it_is_sent() {
    let mut quorum = Quorum::with_worker();
    let door = quorum.submit(1, on_event(|event| event.dedupe_window = Duration::from_secs(60)));
    let events = [event(None, "1"), event(Some("a"), "2"), event(Some("a"), "3")];
    assert_eq!(quorum.deliver(0, &events), Ok(CommandReply::Delivered { reaches: 3 }));
    assert_eq!(quorum.story(door), "r r");
    // Sent again, as a whole and from the middle.
    assert_eq!(quorum.deliver(0, &events), Ok(CommandReply::Delivered { reaches: 3 }));
    assert_eq!(
        quorum.deliver(1, &events),
        Ok(CommandReply::Delivered { reaches: 4 }),
        "the last is new, with an old id"
    );
    assert_eq!(quorum.story(door), "r r");
    // A gap is not passed over.
    assert_eq!(quorum.deliver(9, &events), Err(Rejection::EventGap { known: 4, follows: 9 }));
    // The clock is set forward by an hour: the window has not passed.
    quorum.now += 3_600 * SECOND;
    quorum.wrote_at = quorum.now;
    assert_eq!(quorum.deliver(4, &events[1..2]), Ok(CommandReply::Delivered { reaches: 5 }));
    assert_eq!(quorum.story(door), "r r");
    // Now it has: the id is another event's.
    quorum.now += 61 * SECOND;
    quorum.deliver(5, &events[1..]).unwrap();
    assert_eq!(quorum.story(door), "r r r");
    // What the emitter could not keep is recorded.
    let lost = Command::Trigger(TriggerCommand::Deliver {
        emitter: EMITTER,
        follows: 7,
        reaches: 20,
        lost: 3,
        deliveries: Vec::new(),
    });
    quorum.apply(lost.clone()).unwrap();
    quorum.apply(lost).unwrap();
    assert_eq!((quorum.story(door).as_str(), quorum.state.triggers.emitters()[&EMITTER].lost), ("r r r Lost3", 3));
}

#[test]
fn a_stream_of_events_fires_when_it_rests_and_not_for_ever_later() {
    let mut quorum = Quorum::with_worker();
    let door = quorum.submit(1, on_event(|event| event.debounce = Duration::from_secs(10)));
    for sequence in 0..3 {
        quorum.deliver(sequence, &[event(None, &format!("{sequence}"))]).unwrap();
        quorum.pass(9);
    }
    assert_eq!(quorum.story(door), "Debounced2");
    quorum.pass(1);
    assert_eq!((quorum.story(door).as_str(), &quorum.input(door)["event"]["data"]), ("Debounced2 r", &2.into()));
    for sequence in 3..15 {
        quorum.deliver(sequence, &[event(None, "0")]).unwrap();
        quorum.pass(9);
    }
    assert_eq!(quorum.story(door), "Debounced2 r Debounced11 r");
}

#[test]
fn events_for_which_there_is_no_room_are_refused_and_not_lost() {
    let mut quorum = Quorum::new();
    quorum.submit(1, on_event(|_| ()));
    let bell = quorum.submit(2, TriggerSpec::new(When::Event(EventSpec::new("bell"))));
    let event = |sequence: u64| Delivery {
        sequence,
        event: event(Some(&sequence.to_string()), "0"),
        matches: vec![Match { job: job(1), fault: None }],
    };
    let mut sequence = 0;
    let refused = loop {
        let deliveries: Vec<_> = (1..=EVENTS_PER_DELIVERY_MAX as u64).map(|next| event(sequence + next)).collect();
        let reaches = sequence + EVENTS_PER_DELIVERY_MAX as u64;
        let command = Command::Trigger(TriggerCommand::Deliver {
            emitter: EMITTER,
            follows: sequence,
            reaches,
            lost: 0,
            deliveries,
        });
        // Without the checks of every entry, for there are thousands of ids.
        quorum.index += 1;
        let batch = Batch::at(Millis(quorum.now), vec![(OWNER, command)]);
        match quorum.state.apply(LogIndex(quorum.index), &batch).0.replies.remove(0) {
            Ok(_) => sequence = reaches,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Rejection::Full { limit: SEEN_PER_TRIGGER_MAX, .. }), "{refused:?}");
    assert_eq!(quorum.state.triggers.emitters()[&EMITTER].sequence, sequence);
    quorum.state.check_invariants().unwrap();
    let (_, run) = quorum.state.trigger(job(1)).unwrap();
    assert_eq!(run.live.len(), RUNS_LIVE_MAX, "the others were skipped, and recorded so");
    // Another trigger has room.
    let Delivery { event: rung, .. } = event(sequence + 1);
    let matches = vec![Match { job: bell, fault: None }];
    sequence += 1;
    let command = Command::Trigger(TriggerCommand::Deliver {
        emitter: EMITTER,
        follows: sequence - 1,
        reaches: sequence,
        lost: 0,
        deliveries: vec![Delivery { sequence, event: Emitted { name: "bell".to_owned(), ..rung }, matches }],
    });
    assert_eq!(quorum.apply(command), Ok(CommandReply::Delivered { reaches: sequence }));
    // Later the windows have passed, and the same delivery is taken.
    quorum.now += DEDUPE_WINDOW_DEFAULT.as_millis() as u64 + SECOND;
    let command = Command::Trigger(TriggerCommand::Deliver {
        emitter: EMITTER,
        follows: sequence,
        reaches: sequence + 1,
        lost: 0,
        deliveries: vec![event(sequence + 1)],
    });
    assert_eq!(quorum.apply(command), Ok(CommandReply::Delivered { reaches: sequence + 1 }));
}

// ---- conditions ----

#[test]
fn a_condition_fires_with_the_value_that_was_seen() {
    let mut quorum = Quorum::with_worker();
    let load = quorum.submit(1, on_condition(2, None));
    assert!(matches!(quorum.state.duties()[..], [.., Duty::Poll { every, .. }] if every == Duration::from_secs(1)));
    for value in ["3", "9", "9", "9.5", "9", "1", "7"] {
        quorum.observe(load, Ok(value), &[]).unwrap();
        quorum.pass(1);
    }
    assert_eq!((quorum.story(load).as_str(), &quorum.input(load)["value"]), ("r", &9.5.into()));
    quorum.observe(load, Err("no answer"), &[]).unwrap();
    assert!(quorum.state.why(load).unwrap().contains("could not be evaluated: no answer"));
    quorum.observe(load, Ok("{\"not\": \"a number\"}"), &[]).unwrap();
    assert!(quorum.state.why(load).unwrap().contains("could not be evaluated"));
    quorum.apply(Command::control(load, LogIndex(u64::MAX), Control::Suspend)).unwrap();
    assert!(matches!(quorum.observe(load, Ok("1"), &[]), Err(Rejection::IllegalState { .. })));
    assert!(!quorum.state.duties().iter().any(|duty| matches!(duty, Duty::Poll { .. })));
}

#[test]
fn no_single_peers_word_fires_a_verified_condition() {
    let mut quorum = Quorum::with_worker();
    let load = quorum.submit(1, on_condition(0, Some(Verify { copies: 3, agree: 2 })));
    for witnesses in [&[][..], &[OWNER], &[OWNER, OWNER]] {
        let refused = quorum.observe(load, Ok("9"), witnesses);
        assert!(matches!(refused, Err(Rejection::Invalid { .. })), "{refused:?}");
    }
    quorum.observe(load, Ok("9"), &[OWNER, WORKER]).unwrap();
    assert_eq!(quorum.story(load), "r");
}

// ---- after others ----

#[test]
fn a_job_runs_after_others_that_ended_as_it_wants() {
    let mut quorum = Quorum::with_worker();
    let beat = quorum.submit(1, every(60));
    let after = |job, on| TriggerSpec::new(When::After(vec![AfterJob { job, on }]));
    let good = quorum.submit(2, after(beat, After::Success));
    let bad = quorum.submit(3, after(beat, After::Failure));
    quorum.pass(60);
    quorum.succeed();
    quorum.pass(60);
    quorum.fail();
    quorum.succeed();
    assert_eq!(quorum.story(beat), "+ -");
    assert_eq!((quorum.story(good).as_str(), quorum.story(bad).as_str()), ("+ Outcome1", "Outcome1 -"));
    assert_eq!(quorum.input(good)["ended"][0]["state"], "succeeded");
    // When nothing is left to wait for, they end.
    quorum.apply(Command::control(beat, LogIndex(u64::MAX), Control::Cancel)).unwrap();
    assert_eq!([good, bad].map(|job| quorum.job_state(job)), [RunState::Succeeded; 2]);
}

#[test]
fn of_several_jobs_each_must_end_and_those_that_have_count() {
    let mut quorum = Quorum::with_worker();
    for index in [1, 2] {
        quorum.apply(Command::submit(&owner_key(), job(index), JobSpec::batch(work()))).unwrap();
    }
    quorum.succeed();
    let long = BatchSpec { map: Map::Count(2), ..work() };
    quorum.apply(Command::submit(&owner_key(), job(3), JobSpec::batch(long))).unwrap();
    let all = [1, 2, 3].map(|index| AfterJob { job: job(index), on: After::Any });
    let last = quorum.submit(4, TriggerSpec::new(When::After(all.to_vec())));
    assert_eq!(quorum.story(last), "");
    assert!(quorum.state.why(last).unwrap().contains("1 of 3 jobs"));
    quorum.succeed();
    assert_eq!((quorum.story(last).as_str(), quorum.job_state(last)), ("+", RunState::Succeeded));
    // All of them ended long ago.
    let late = quorum.submit(5, TriggerSpec::new(When::After(all.to_vec())));
    assert_eq!(quorum.story(late), "r");
    let unknown = When::After(vec![AfterJob { job: job(99), on: After::Any }]);
    let spec = TriggeredSpec::new(TriggerSpec::new(unknown), work());
    let submit = Command::submit(&owner_key(), job(6), JobSpec::Triggered(Box::new(spec)));
    assert_eq!(quorum.apply(submit), Err(Rejection::UnknownJob { job: job(99) }));
}

// ---- bounds ----

/// Goal: ten thousand triggers that are due in one second are all recorded, and what each takes is small. Method: count
/// entries and encoded bytes; time and memory are measured elsewhere.
#[test]
fn ten_thousand_triggers_fire_in_one_second() {
    let mut quorum = Quorum::new();
    let ids: Vec<_> = (0..TRIGGERS_MAX as u32)
        .map(|index| {
            let mut local = [0; 16];
            local[..4].copy_from_slice(&index.to_le_bytes());
            JobId { quorum: QUORUM, local }
        })
        .collect();
    // Each of two owners has a half.
    let keys = [owner_key(), SigningKey::from_bytes(&[77; 32])];
    let mut apply = |commands: Vec<(PeerId, Command)>, now: u64| {
        quorum.index += 1;
        let batch = Batch::at(Millis(now), commands);
        let (reply, _) = quorum.state.apply(LogIndex(quorum.index), &batch);
        assert!(reply.replies.iter().all(Result::is_ok), "{:?}", reply.replies.iter().find(|reply| reply.is_err()));
    };
    for ids in ids.chunks(500) {
        let submit = |(job, key): (&JobId, &SigningKey)| {
            let spec = TriggeredSpec::new(every(60), work());
            let by = PeerId(key.verifying_key().to_bytes());
            (by, Command::submit(key, *job, JobSpec::Triggered(Box::new(spec))))
        };
        apply(ids.iter().zip(keys.iter().cycle()).map(submit).collect(), 1_000_000);
    }
    let mut planner = Planner::default();
    let mut entries = 0;
    for now in [1_000_000, 1_060_000] {
        loop {
            let spans = planner.spans(&quorum.state, Millis(now), Millis(now), SPANS_MAX);
            if spans.is_empty() {
                break;
            }
            quorum.index += 1;
            entries += 1;
            let batch = Batch::at(Millis(now), vec![(OWNER, Command::Trigger(TriggerCommand::Due { spans }))]);
            quorum.state.apply(LogIndex(quorum.index), &batch);
        }
    }
    assert_eq!(entries, 2 * TRIGGERS_MAX.div_ceil(SPANS_MAX), "as many entries as there must be");
    let fired = ids.iter().filter(|job| quorum.state.trigger(**job).unwrap().1.live.len() == 1).count();
    assert_eq!(fired, TRIGGERS_MAX);
    quorum.state.check_invariants().unwrap();
    // One more is refused.
    let spec = TriggeredSpec::new(every(60), work());
    let refused = quorum.apply(Command::submit(
        &owner_key(),
        JobId { quorum: QUORUM, local: [255; 16] },
        JobSpec::Triggered(Box::new(spec)),
    ));
    assert!(matches!(refused, Err(Rejection::Full { limit: TRIGGERS_MAX, .. })), "{refused:?}");
    // With one gone of the other owner's there is room, and none of it is the first owner's.
    let other = PeerId(keys[1].verifying_key().to_bytes());
    quorum.apply_by(other, Command::control(ids[1], LogIndex(u64::MAX), Control::Cancel)).unwrap();
    let submit = |key: &SigningKey| {
        let spec = TriggeredSpec::new(TriggerSpec::new(When::Event(EventSpec::new("bell"))), work());
        let id = JobId { quorum: QUORUM, local: [254; 16] };
        Command::submit(key, id, JobSpec::Triggered(Box::new(spec)))
    };
    let refused = quorum.apply(submit(&keys[0]));
    assert!(matches!(refused, Err(Rejection::Full { limit: OWNER_TRIGGERS_MAX, .. })), "{refused:?}");
    quorum.apply_by(other, submit(&keys[1])).unwrap();
}

/// Goal: the timed triggers of one owner fire so often together, and no oftener; those of another have their own share.
#[test]
fn the_timed_fires_of_one_owner_have_a_rate() {
    let mut quorum = Quorum::new();
    let often = || TriggerSpec::new(When::Every { period: PERIOD_MIN, bounds: Bounds::NONE });
    let submit = |index: u8| {
        let spec = TriggeredSpec::new(often(), work());
        Command::submit(&owner_key(), job(index), JobSpec::Triggered(Box::new(spec)))
    };
    let most = (OWNER_FIRES_PER_SECOND_MAX * PERIOD_MIN.as_millis() as u64 / 1_000) as u8;
    for index in 0..most {
        quorum.apply(submit(index)).unwrap();
    }
    let full = Rejection::Full {
        what: "timed fires a second of one owner".to_owned(),
        limit: OWNER_FIRES_PER_SECOND_MAX as usize,
    };
    assert_eq!(quorum.apply(submit(most)), Err(full));
    let (other, spec) = (SigningKey::from_bytes(&[77; 32]), TriggeredSpec::new(often(), work()));
    let theirs = Command::submit(&other, job(most + 2), JobSpec::Triggered(Box::new(spec)));
    quorum.apply_by(PeerId(other.verifying_key().to_bytes()), theirs).unwrap();
    // Events are counted where they come from.
    quorum.submit(most + 1, TriggerSpec::new(When::Event(EventSpec::new("bell"))));
    quorum.apply(Command::control(job(0), LogIndex(u64::MAX), Control::Cancel)).unwrap();
    quorum.apply(submit(most)).unwrap();
}

#[test]
fn rows_are_forgotten_oldest_first_and_those_that_matter_stay() {
    let mut quorum = Quorum::with_worker();
    let beat = quorum.submit(1, TriggerSpec { overlap: Overlap::Allow, ..every(1) });
    // The first run lasts.
    quorum.pass(1);
    let lasting: BTreeSet<_> = quorum.state.attempts_of(WORKER).map(|(task, _)| task).collect();
    let output = Output { digest: Digest(*blake3::hash(b"").as_bytes()), bytes: 0, place: Place::Record };
    for _ in 0..FIRES_KEPT_MAX + 50 {
        quorum.now += SECOND;
        let spans = quorum.planner.spans(&quorum.state, Millis(quorum.now), Millis(quorum.now), SPANS_MAX);
        let mut commands = vec![(OWNER, Command::Trigger(TriggerCommand::Due { spans }))];
        let live: Vec<_> = quorum.state.attempts_of(WORKER).map(|(task, _)| task).collect();
        let done = |task| Report { task, result: TaskResult::Done { output, bytes: Some(Bytes::new()) } };
        let reports = live.into_iter().filter(|task| !lasting.contains(task)).map(done).collect();
        commands.push((WORKER, Command::Task(TaskCommand::Report { reports })));
        quorum.index += 1;
        quorum.state.apply(LogIndex(quorum.index), &Batch::at(Millis(quorum.now), commands));
    }
    quorum.state.check_invariants().unwrap();
    let (_, run) = quorum.state.trigger(beat).unwrap();
    assert_eq!(run.rows, FIRES_KEPT_MAX as u64 + 51);
    assert!(run.fires.len() <= FIRES_KEPT_MAX + 2, "{}", run.fires.len());
    assert!(matches!(run.row(1), Some(FireRow { what: Fired::Run { end: None, .. }, .. })), "it still runs");
    assert!(run.row(2).is_none() && run.row(run.rows).is_some());
    assert_eq!(run.row(run.rows).unwrap().cause, Cause::Instant(Millis(1_000_000 + 1_051 * SECOND)));
}

/// What the wire may bring: values no honest primary makes.
#[test]
fn impossible_spans_and_deliveries_are_refused() {
    let mut quorum = Quorum::with_worker();
    let beat = quorum.submit(1, every(1));
    quorum.now += 5 * SECOND;
    let good = quorum.planner.spans(&quorum.state, Millis(quorum.now), Millis(quorum.now), SPANS_MAX).remove(0);
    let changed = |change: &dyn Fn(&mut crate::trigger::Span)| {
        let mut span = good.clone();
        change(&mut span);
        Command::Trigger(TriggerCommand::Due { spans: vec![span] })
    };
    let skipped =
        |first, last, count| Some(crate::trigger::record::Skipped { first: Millis(first), last: Millis(last), count });
    for command in [
        changed(&|span| span.named.reverse()),
        changed(&|span| span.named = vec![Millis(1); 3]),
        changed(&|span| span.named = (0..=INSTANTS_NAMED_MAX as u64).map(Millis).collect()),
        changed(&|span| {
            span.named.remove(0);
        }),
        changed(&|span| span.next = Some(crate::trigger::record::Due { instant: Millis(1), due: Millis(1) })),
        changed(&|span| span.skipped = skipped(9, 8, 1)),
        changed(&|span| span.skipped = skipped(8, 9, 0)),
        changed(&|span| span.skipped = skipped(8, u64::MAX, 5)),
        Command::Trigger(TriggerCommand::Due { spans: vec![good.clone(); SPANS_MAX + 1] }),
    ] {
        assert!(quorum.apply(command.clone()).is_err(), "{command:?}");
    }
    let delivery = |sequence| Delivery { sequence, event: event(None, "1"), matches: Vec::new() };
    let deliver = |follows, reaches, deliveries| {
        Command::Trigger(TriggerCommand::Deliver { emitter: EMITTER, follows, reaches, lost: 0, deliveries })
    };
    let twice = vec![Match { job: beat, fault: None }; 2];
    for command in [
        deliver(5, 4, Vec::new()),
        deliver(0, 1, vec![delivery(2)]),
        deliver(0, 2, vec![delivery(2), delivery(1)]),
        deliver(0, 1, vec![Delivery { matches: twice, ..delivery(1) }]),
        deliver(0, 99, (1..99).map(delivery).collect()),
        deliver(0, 1, vec![Delivery { event: event(None, &"9".repeat(EVENT_DATA_BYTES_MAX + 1)), ..delivery(1) }]),
    ] {
        assert!(quorum.apply(command.clone()).is_err(), "{command:?}");
    }
    // A trigger that another peer invents in a match is passed over.
    let stray = Delivery {
        matches: vec![Match { job: beat, fault: None }, Match { job: job(77), fault: None }],
        ..delivery(1)
    };
    quorum.apply(deliver(0, 1, vec![stray])).unwrap();
    assert_eq!(quorum.story(beat), "");
    let long = Seen { value: "1".repeat(OBSERVED_BYTES_MAX + 1), holds: true, resets: false, witnesses: Vec::new() };
    let load = quorum.submit(2, on_condition(0, None));
    assert!(
        quorum
            .apply(Command::Trigger(TriggerCommand::Observe { job: load, observation: Observation { seen: Ok(long) } }))
            .is_err()
    );
    assert_eq!(audit::events(&[], &BTreeSet::<SeenId>::new()), Vec::<String>::new());
}
