//! Bounds of a worker: what is too much is answered before it is kept.

use std::time::Duration;

use quorate_protocols::capacity::Capacity;
use quorate_protocols::ids::{LeaseId, PeerId, Term};
use quorate_protocols::job::batch::Map;
use quorate_protocols::task::limits::BATCH_MAX;
use quorate_protocols::task::message::{Assignment, Report, ReportRefusal, StepContext, TaskAnswer};
use quorate_protocols::task::record::TaskAttempt;
use quorate_protocols::task::spec::OutputPlace;
use quorate_protocols::task::spec::TaskInput;
use tokio::time::Instant;

use super::world::{World, call, compute};
use super::{QUORUM, attempt};
use crate::workers::ledger::{AssignRequest, Effect, Ledger};
use crate::workers::limits::{ATTEMPTS_MAX, HELD_BYTES_MAX, ORPHANS_MAX, RESULTS_KEPT};
use crate::workers::pending_result::PendingResult;

const LEASE: LeaseId = LeaseId([1; 16]);
const ROOM: Capacity = Capacity { slots: 4, memory_bytes: 1 << 30, disk_bytes: 0 };

fn context(args: &[&str]) -> StepContext {
    let task = attempt(0, 1).id;
    StepContext {
        job: task.job,
        step: task.step,
        owner: PeerId([9; 32]),
        readers: Default::default(),
        submitted_at: Default::default(),
        call: call(args),
        resources: Capacity { slots: 1, memory_bytes: 1, disk_bytes: 0 }.into(),
        timeout: Duration::from_secs(1),
        output: OutputPlace::Object,
        idempotent: true,
        verified: false,
        proof: None,
    }
}

fn assignment(task: TaskAttempt) -> Assignment {
    let (inputs, token) = Default::default();
    Assignment { task, of: 1, input: TaskInput::None, outputs: Vec::new(), inputs, token, checkpoint: None }
}

fn request(context: StepContext, tasks: impl Iterator<Item = u32>) -> AssignRequest {
    let assignments = tasks.map(|task| assignment(attempt(task, 1))).collect();
    AssignRequest { quorum: QUORUM, term: Term(1), lease: LEASE, room: ROOM, steps: vec![context], assignments }
}

#[test]
fn a_full_inbox_is_busy_and_takes_nothing() {
    let (now, mut ledger) = (Instant::now(), Ledger::default());
    for batch in 0..ATTEMPTS_MAX / BATCH_MAX {
        let tasks = (batch * BATCH_MAX) as u32..((batch + 1) * BATCH_MAX) as u32;
        ledger.assign(now, request(context(&[]), tasks), |_| None).unwrap();
    }
    assert_eq!(ledger.len(), ATTEMPTS_MAX);
    let more = ledger.assign(now, request(context(&[]), ATTEMPTS_MAX as u32..ATTEMPTS_MAX as u32 + 1), |_| None);
    assert_eq!((more, ledger.len()), (Err(TaskAnswer::Busy), ATTEMPTS_MAX));
    let begun = ledger.effects.iter().filter(|effect| matches!(effect, Effect::Begin(_))).count();
    assert_eq!(begun as u32, ROOM.slots, "the others wait for the lease's room");
}

#[test]
fn orders_that_weigh_too_much_are_busy() {
    let (now, mut ledger) = (Instant::now(), Ledger::default());
    let heavy = "x".repeat(HELD_BYTES_MAX);
    assert_eq!(ledger.assign(now, request(context(&[&heavy]), 0..1), |_| None), Err(TaskAnswer::Busy));
    ledger.assign(now, request(context(&["light"]), 0..1), |_| None).unwrap();
}

#[test]
fn orders_that_make_no_sense_are_malformed() {
    let (now, mut ledger) = (Instant::now(), Ledger::default());
    let without_work = AssignRequest { steps: Vec::new(), ..request(context(&[]), 0..1) };
    let of_another = AssignRequest { quorum: quorate_protocols::ids::QuorumId([8; 16]), ..request(context(&[]), 0..1) };
    for wrong in [without_work, of_another] {
        let answer = ledger.assign(now, wrong, |_| None);
        assert!(matches!(answer, Err(TaskAnswer::Malformed { .. })), "{answer:?}");
    }
    assert_eq!(ledger.len(), 0);
}

#[test]
fn a_task_that_no_lease_has_room_for_is_refused_by_name() {
    let (now, mut ledger) = (Instant::now(), Ledger::default());
    let mut wide = context(&[]);
    wide.resources.capacity.slots = 5;
    ledger.assign(now, request(wide, 0..1), |_| None).unwrap();
    let Some(Effect::Answer(_, TaskAnswer::Accepted { accepted, refused })) = ledger.effects.pop_front() else {
        panic!()
    };
    assert!(accepted.is_empty() && refused[0].0 == attempt(0, 1) && refused[0].1.contains("lease"));
}

#[test]
fn stops_of_what_is_not_here_are_confirmed_and_bounded() {
    let (now, mut ledger) = (Instant::now(), Ledger::default());
    let mut stop = |from: usize| {
        let tasks = (from..from + BATCH_MAX).map(|task| attempt(task as u32, 1)).collect();
        ledger.stop(QUORUM, Term(1), LEASE, tasks, false)
    };
    for batch in 0..ORPHANS_MAX / BATCH_MAX {
        assert_eq!(stop(batch * BATCH_MAX), TaskAnswer::Acknowledged);
    }
    assert_eq!(stop(ORPHANS_MAX), TaskAnswer::Busy);
    for _ in 0..ORPHANS_MAX / BATCH_MAX {
        let (sent, reports) = ledger.next_reports(now, QUORUM);
        assert!(ledger.next_reports(now, QUORUM).1.is_empty(), "one batch at a time");
        let answers = reports.iter().map(|_| Err(ReportRefusal::Unknown)).collect();
        ledger.reported(now, QUORUM, sent, Some(answers), 0);
    }
    assert_eq!(ledger.next_reports(now, QUORUM).1, Vec::<Report>::new());
}

/// Goal: a quorum that is gone for good does not fill the outbox for ever; one that has a lease here is waited for.
#[test]
fn results_for_a_quorum_that_is_gone_are_given_up_in_time() {
    for has_lease in [true, false] {
        let (mut now, mut ledger) = (Instant::now(), Ledger::default());
        ledger.assign(now, request(context(&[]), 0..1), |_| None).unwrap();
        ledger.finished(
            attempt(0, 1),
            Some(PendingResult::failed(quorate_protocols::task::error_class::ErrorClass::Exit, "")),
            Duration::ZERO,
        );
        if !has_lease {
            ledger.lease_ended(LEASE);
        }
        for _ in 0..3 {
            let (sent, _) = ledger.next_reports(now, QUORUM);
            ledger.reported(now, QUORUM, sent, None, 0);
            now += RESULTS_KEPT / 2 + Duration::from_secs(60);
        }
        assert_eq!(ledger.len(), usize::from(has_lease));
    }
}

/// Goal: more than the lease has room for waits, and is run in turn.
#[tokio::test(start_paused = true)]
async fn what_is_given_ahead_waits_for_room() {
    let mut world = World::new(1, 2).await;
    world.leases(0).shrink(1);
    let job = world.submit(1, compute(Map::Count(6), call(&["sleep", "50", "x"])));
    world.run_until(job, quorate_protocols::job::record::RunState::Succeeded).await;
    assert_eq!(world.most_at_once(0), 1);
}
