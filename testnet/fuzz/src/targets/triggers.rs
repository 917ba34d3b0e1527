//! Triggers under hostile histories: a primary that is mostly right about what is due, what matches and what holds, old
//! commands again, clocks that leap, workers that finish now and then.
//!
//! After every command what the quorum's target checks. At the end the checker of fires looks at every row that was
//! ever written: each instant must have had one.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use quorate_protocols::approval::Grant;
use quorate_protocols::capacity::Capacity;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{
    Digest, Incarnation, JobId, LeaseId, LogIndex, MemberId, Millis, Nonce, PeerId, QuorumId,
};
use quorate_protocols::job::JobSpec;
use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::job::spec::TriggeredSpec;
use quorate_protocols::quorum::{Command, Control, QuorumCommand, QuorumState, TaskCommand, TriggerCommand};
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::message::{Report, TaskResult};
use quorate_protocols::task::record::{Output, Place, WorkerRecord};
use quorate_protocols::task::spec::{Call, Program};
use quorate_protocols::trigger::event::{Delivery, Event};
use quorate_protocols::trigger::limits::SPANS_MAX;
use quorate_protocols::trigger::record::FireRow;
use quorate_protocols::trigger::spec::{
    After, AfterJob, Bounds, ConditionSpec, EventSpec, Missed, MissedPolicy, Overlap, Source, TriggerSpec, When,
};
use quorate_protocols::trigger::{Planner, Span, audit};

use super::Target;
use super::quorum::Members;
use crate::script::{Step, steps};
use crate::trail::Trail;

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
const JOBS: usize = 5;

pub fn target() -> Target {
    Target::script("triggers", run)
}

fn job(index: usize) -> JobId {
    JobId { quorum: QUORUM, local: [index as u8; 16] }
}

fn run(bytes: &[u8]) -> Trail {
    let mut members = Members::new(QUORUM);
    let mut planner = Planner::default();
    let mut rows = BTreeMap::<(JobId, u64), FireRow>::new();
    let mut old = Vec::new();
    let mut now = Millis(1_000_000);
    for step in steps(bytes) {
        // Up to some months at once, and back by up to some hours.
        now = Millis(now.0.saturating_add(step.wide(6) >> 30).min(1 << 42));
        let wall = if step.byte(7) > 240 { Millis(now.0.saturating_sub(u64::from(step.byte(5)) << 16)) } else { now };
        let (by, command) = command(&members.whole, &mut planner, step, wall, &old);
        if matches!(
            command,
            Command::Trigger(TriggerCommand::Due { .. }) | Command::Trigger(TriggerCommand::Deliver { .. })
        ) {
            old.push((by, command.clone()));
        }
        for (job, row) in members.apply(wall, by, command) {
            rows.insert((job, row.number), row);
        }
        // An id that was forgotten may be given again, to another trigger with rows of its own.
        rows.retain(|(job, _), _| members.whole.jobs().contains_key(job));
    }
    check_fires(&members.whole, &rows);
    members.finish()
}

fn check_fires(state: &QuorumState, rows: &BTreeMap<(JobId, u64), FireRow>) {
    assert_eq!(audit::runs(rows.values()), Vec::<String>::new());
    for job in (0..JOBS).map(job) {
        let Some((spec, run)) = state.trigger(job) else { continue };
        let Some(from) = run.clock.from.filter(|_| spec.trigger.is_timed()) else { continue };
        let rows = rows.range((job, 0)..=(job, u64::MAX)).map(|(_, row)| row);
        let next = run.clock.end();
        let faults = audit::instants(&spec.trigger, from, next, &run.clock.open, 0, &audit::covered(rows));
        assert_eq!(faults, Vec::<String>::new(), "{:?}", spec.trigger);
    }
}

fn trigger(step: Step<'_>) -> TriggerSpec {
    let bounds = Bounds {
        start: step.is_set(4, 0).then_some(Millis(1_500_000)),
        until: step.is_set(4, 1).then_some(Millis(90_000_000)),
        jitter: Duration::from_secs(if step.is_set(4, 2) { 5 } else { 0 }),
        count: step.is_set(4, 3).then_some(1 + u64::from(step.byte(5))),
    };
    let event = || EventSpec { filter: step.is_set(4, 4).then(|| "data.t > 3".to_owned()), ..EventSpec::new("door") };
    let when = match step.below(3, 7) {
        0 => When::At(Millis(step.wide(5).min(1 << 42))),
        1 => When::Every { period: Duration::from_secs(60), bounds },
        2 => {
            let lines = vec!["* * * * *".to_owned(), "*/7 3 * * * *".to_owned()];
            When::Cron { lines, timezone: "Europe/Berlin".to_owned(), bounds }
        }
        3 => When::Event(event()),
        4 => When::Event(EventSpec { debounce: Duration::from_secs(9), ..event() }),
        5 => When::Condition(ConditionSpec {
            source: Source::Metric { name: "load".to_owned() },
            when: "value > 5".to_owned(),
            reset: None,
            every: Duration::from_secs(1),
            hold_for: Duration::from_secs(u64::from(step.byte(5) % 4)),
            hysteresis: Duration::from_secs(u64::from(step.byte(5) / 64)),
            verify: None,
        }),
        _ => When::After(vec![AfterJob {
            job: job(step.below(5, JOBS)),
            on: step.pick(4, &[After::Any, After::Success]),
        }]),
    };
    let overlap = step.pick(2, &[Overlap::Allow, Overlap::Forbid, Overlap::Replace, Overlap::Queue(2)]);
    let policy = step.pick(7, &[MissedPolicy::Once, MissedPolicy::Skip, MissedPolicy::CatchUp(3)]);
    let deadline = step.is_set(7, 7).then_some(Duration::from_secs(3_600));
    TriggerSpec { when, overlap, missed: Missed { policy, deadline } }
}

fn work() -> BatchSpec {
    BatchSpec::new(Call::new(Program::Command { name: "work".to_owned() }))
}

fn command(
    state: &QuorumState,
    planner: &mut Planner,
    step: Step<'_>,
    wall: Millis,
    old: &[(PeerId, Command)],
) -> (PeerId, Command) {
    let job = job(step.below(1, JOBS));
    // Now and then by who has not seen the last of it.
    let seen = state.jobs().get(&job).map_or(0, |record| record.seen().0);
    let seen = LogIndex(seen.saturating_sub(u64::from(step.byte(6) > 240)));
    let command = match step.below(0, 16) {
        0 | 1 => {
            let spec = match step.byte(2) {
                255 => JobSpec::batch(work()),
                _ => JobSpec::Triggered(Box::new(TriggeredSpec::new(trigger(step), work()))),
            };
            Command::submit(&owner_key(), job, spec)
        }
        2..=5 => {
            let mut spans = planner.spans(state, wall, state.time().max(wall), SPANS_MAX);
            spans.iter_mut().for_each(|span| skew(span, step));
            Command::Trigger(TriggerCommand::Due { spans })
        }
        6 => {
            return old
                .get(step.below(1, old.len().max(1)))
                .cloned()
                .unwrap_or((OWNER, Command::Quorum(QuorumCommand::Noop)));
        }
        7 | 8 => deliver(state, planner, step),
        9 => {
            let value = (i32::from(step.byte(4)) - 250).to_string();
            let value = if step.byte(5) > 200 { Err("no answer") } else { Ok(value.as_str()) };
            match planner.judge(state, job, value, Vec::new()) {
                Some(observation) => Command::Trigger(TriggerCommand::Observe { job, observation }),
                None => Command::Quorum(QuorumCommand::Noop),
            }
        }
        10 => Command::Trigger(TriggerCommand::Fire {
            job,
            seen,
            nonce: Nonce([step.byte(4) % 4; 16]),
            respect_overlap: step.is_set(5, 0),
        }),
        11 => match step.below(4, 5) {
            0 | 1 => Command::control(job, seen, Control::Suspend),
            2 | 3 => Command::control(job, seen, Control::Unsuspend),
            _ => Command::control(job, seen, Control::Cancel),
        },
        12 => state
            .next_timer()
            .map_or(Command::Quorum(QuorumCommand::Noop), |until| Command::Quorum(QuorumCommand::Elapsed { until })),
        13 => {
            let holder = MemberId { peer: WORKER, incarnation: Incarnation(7) };
            let worker = WorkerRecord {
                grant: Grant { holder, lease: LeaseId([8; 16]) },
                capacity: Capacity { slots: 1 + u32::from(step.byte(4)), memory_bytes: 1 << 40, disk_bytes: 1 << 40 },
                engines: vec![Engine::Command],
                labels: BTreeMap::new(),
            };
            Command::Task(TaskCommand::SetWorker { worker })
        }
        _ => return (WORKER, report(state, step)),
    };
    (OWNER, command)
}

/// What a primary gets wrong: the record that it made the span from.
fn skew(span: &mut Span, step: Step<'_>) {
    match step.byte(4) {
        0..=200 => (),
        201..=215 => span.expected = span.expected.map(|expected| Millis(expected.0.wrapping_sub(60_000))),
        // The first span says from when its instants count, and is believed.
        216..=225 if span.expected.is_some() => span.from = Millis(span.from.0 ^ 1),
        216..=225 => (),
        226..=235 => span.expected = None,
        236..=245 => drop(span.named.pop()),
        _ => span.named.reverse(),
    }
    // An instant that is left out would be the primary's own lie about which there are, and no checker's business here.
    if (236..=245).contains(&step.byte(4)) {
        span.expected = Some(Millis(u64::MAX));
    }
}

fn deliver(state: &QuorumState, planner: &mut Planner, step: Step<'_>) -> Command {
    let known = state.triggers().emitters().get(&EMITTER).map_or(0, |emitter| emitter.sequence);
    let follows = known.saturating_sub(u64::from(step.byte(3) % 3)) + u64::from(step.byte(3) > 250);
    let count = u64::from(step.byte(4) % 4);
    let event = |index: u64| Event {
        name: "door".to_owned(),
        id: step.is_set(5, index as u8).then(|| (step.byte(2) % 3).to_string()),
        data: Bytes::from_static(if step.is_set(7, index as u8) { b"{\"t\": 4}" } else { b"[]" }),
        at: Millis(5),
    };
    let mut deliveries = Vec::new();
    for index in 0..count {
        let event = event(index);
        let matches = planner.matches(&state.listeners(&event.name), EMITTER, &event);
        deliveries.push(Delivery { sequence: follows + 1 + index, event, matches });
    }
    let lost = u64::from(step.byte(6) > 240);
    Command::Trigger(TriggerCommand::Deliver { emitter: EMITTER, follows, reaches: follows + count, lost, deliveries })
}

fn report(state: &QuorumState, step: Step<'_>) -> Command {
    let output = Output { digest: Digest(*blake3::hash(b"").as_bytes()), bytes: 0, place: Place::Record };
    let done = || TaskResult::Done { output, bytes: Some(Bytes::new()) };
    let failed = || TaskResult::Failed { class: ErrorClass::Trap, reason: "because".to_owned() };
    let stops: Vec<_> = state.stops_of(WORKER).into_iter().map(|(task, _)| task).collect();
    let live = state.attempts_of(WORKER).map(|(task, _)| task).filter(|task| !stops.contains(task));
    let some = |index: &usize| step.is_set(4, *index as u8);
    let live = live.enumerate().filter(|(index, _)| some(index)).map(|(_, task)| task).take(64).collect::<Vec<_>>();
    let mut reports: Vec<_> =
        stops.into_iter().map(|task| Report { task, result: TaskResult::Stopped }).take(64).collect();
    let result = || if step.byte(5) > 200 { failed() } else { done() };
    reports.extend(live.into_iter().map(|task| Report { task, result: result() }));
    Command::Task(TaskCommand::Report { reports })
}
