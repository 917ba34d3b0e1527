//! The worker against primaries that are a real quorum's state, on disks that forget what was not synced, under virtual
//! time.

mod bounds;
mod double;
mod faults;
mod verified;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use quorate_protocols::ids::{Attempt, JobId, LeaseId, LogIndex, PeerId, QuorumId, StepIndex, TaskIndex, Term};
use quorate_protocols::job::batch::{BatchSpec, Map, Reduce};
use quorate_protocols::job::record::RunState;
use quorate_protocols::quorum::{Command, Control};
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::limits::OUTPUT_BYTES_MAX;
use quorate_protocols::task::message::{LogStream, StepContext, TaskAnswer, TaskMessage};
use quorate_protocols::task::record::{Place, TaskAttempt, TaskId};
use quorate_protocols::task::spec::{Content, OutputPlace, Split};

use self::world::{OWNER, World, call, compute, peer};
use crate::quorums::ports::LocalTasks;
use crate::testing::metrics::value;

pub(super) const QUORUM: QuorumId = QuorumId([1; 16]);

pub(super) fn attempt(task: u32, attempt: u32) -> TaskAttempt {
    let job = JobId { quorum: QUORUM, local: [1; 16] };
    TaskAttempt { id: TaskId { job, step: StepIndex(0), task: TaskIndex(task) }, attempt: Attempt(attempt) }
}

/// Goal: tasks that are over before a disk could be synced cost no sync, and every assignment is confirmed.
#[tokio::test(start_paused = true)]
async fn short_tasks_are_done_without_touching_the_disk() {
    let mut world = World::new(1, 4).await;
    let job = world.submit(1, compute(Map::Count(40), call(&["index"])));
    world.run_until(job, RunState::Succeeded).await;
    for task in 0..40 {
        assert_eq!(world.output(job, 0, task), format!("{task} of 40"));
    }
    let metrics = world.metrics(0);
    assert_eq!((metrics.accepted.get(), metrics.recorded.get()), (40, 40));
    assert_eq!((metrics.orders_saved.get(), metrics.results_saved.get()), (0, 0));
    world.settle().await;
    assert_eq!((metrics.held.get(), world.rows(0)), (0, 0), "nothing is left of them");
    assert!(world.most_at_once(0) <= 4, "no more than the lease has slots for");
}

/// Goal: what runs long is on disk soon, and its result before it is told.
#[tokio::test(start_paused = true)]
async fn long_tasks_are_kept_and_leave_nothing_behind() {
    let mut world = World::new(1, 4).await;
    let job = world.submit(1, compute(Map::Count(4), call(&["sleep", "500", "done"])));
    world.run_until(job, RunState::Succeeded).await;
    let metrics = world.metrics(0);
    assert_eq!((metrics.orders_saved.get(), metrics.results_saved.get()), (4, 4));
    world.settle().await;
    assert_eq!((metrics.held.get(), world.rows(0)), (0, 0));
}

/// Goal: a quorum far away, or in an election, hears of its worker all the same, and no heartbeats pile up on their way
/// to it.
#[tokio::test(start_paused = true)]
async fn a_beat_that_takes_long_is_heard_and_is_the_only_one_on_its_way() {
    let mut world = World::new(1, 1).await;
    world.quorum.slow_heartbeats(Duration::from_secs(3));
    let job = world.submit(1, compute(Map::Single, call(&["sleep", "20000", "done"])));
    world.run_until(job, RunState::Succeeded).await;
    let heartbeats = world.quorum.heartbeats();
    assert!(heartbeats.heard >= 4 && heartbeats.most == 1, "{heartbeats:?}");
}

#[tokio::test(start_paused = true)]
async fn words_of_an_object_are_given_once_and_folded_in_order() {
    let mut world = World::new(2, 3).await;
    let text: String = (0..40_000).map(|number| format!("word{number} ")).collect();
    let (object, size) = world.objects.add(text.clone().into_bytes());
    let map = Map::Segments { object, size, bytes: 64 * 1024, split: Split::Words };
    let mut spec = compute(map, call(&["read"]));
    spec.reduce = Some(Box::new(Reduce { call: call(&["read"]), fan_in: 4 }));
    let job = world.submit(1, spec);
    world.run_until(job, RunState::Succeeded).await;
    // Six parts of 64 KiB, more than one assignment carries: they come from objects and from the quorum's record.
    let step = world.last_step(job);
    assert_eq!(world.output_bytes(job, step, 0).await, text.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn outputs_that_are_small_are_in_the_record_and_others_are_objects() {
    let mut world = World::new(1, 2).await;
    let large = (OUTPUT_BYTES_MAX + 1).to_string();
    let job = world.submit(1, compute(Map::Single, call(&["fill", &large])));
    world.run_until(job, RunState::Succeeded).await;
    assert!(matches!(world.result(job, 0, 0).place, Place::Object { .. }));
    assert_eq!(world.output_bytes(job, 0, 0).await.len(), OUTPUT_BYTES_MAX + 1);
    let mut inline = compute(Map::Single, call(&["fill", &large]));
    inline.output = OutputPlace::Inline;
    let job = world.submit(2, inline);
    world.run_until(job, RunState::Failed).await;
    assert!(world.reason(job).contains("output"), "{}", world.reason(job));
}

#[tokio::test(start_paused = true)]
async fn an_output_that_the_full_record_refuses_becomes_an_object() {
    let mut world = World::new(1, 2).await;
    world.quorum.full_record_once();
    let job = world.submit(1, compute(Map::Single, call(&["say", "small"])));
    world.run_until(job, RunState::Succeeded).await;
    assert!(matches!(world.result(job, 0, 0).place, Place::Object { .. }));
    assert_eq!(world.output_bytes(job, 0, 0).await, b"small");
}

#[tokio::test(start_paused = true)]
async fn inputs_that_are_objects_arrive_whole_or_not_at_all() {
    let mut world = World::new(1, 2).await;
    let (object, size) = world.objects.add(b"an item".to_vec());
    let items = vec![Content::Object { object, size }, Content::Inline(Bytes::from_static(b"another"))];
    let job = world.submit(1, compute(Map::Items(items), call(&["read"])));
    world.run_until(job, RunState::Succeeded).await;
    assert_eq!((world.output(job, 0, 0), world.output(job, 0, 1)), ("an item".to_owned(), "another".to_owned()));
    // Another size than the job says, and one that is not there at all.
    let missing = world.objects.unknown();
    for (number, (object, size)) in [(object, size + 1), (missing, 5)].into_iter().enumerate() {
        let mut spec = compute(Map::Items(vec![Content::Object { object, size }]), call(&["read"]));
        spec.retry.attempts = 1;
        let job = world.submit(2 + number as u8, spec);
        world.run_until(job, RunState::Failed).await;
        assert!(world.reason(job).contains("input"), "{}", world.reason(job));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_program_cannot_do_is_told_with_its_class() {
    let mut world = World::new(1, 2).await;
    let ends = [("fail", "exit"), ("panic", "host"), ("trap", "trap")];
    for (number, (script, class)) in ends.into_iter().enumerate() {
        let mut spec = compute(Map::Single, call(&[script]));
        spec.retry.on = vec![ErrorClass::Input];
        let job = world.submit(1 + number as u8, spec);
        world.run_until(job, RunState::Failed).await;
        assert!(world.reason(job).contains(class), "{script}: {}", world.reason(job));
    }
    // The others go on.
    let job = world.submit(9, compute(Map::Single, call(&["say", "fine"])));
    world.run_until(job, RunState::Succeeded).await;
}

#[tokio::test(start_paused = true)]
async fn cancelled_work_is_stopped_and_confirmed() {
    let mut world = World::new(1, 2).await;
    let job = world.submit(1, compute(Map::Count(5), call(&["wait"])));
    world.run_while(|world| world.running(0) < 2).await;
    world.apply(OWNER, Command::control(job, LogIndex(u64::MAX), Control::Cancel));
    world.run_until(job, RunState::Cancelled).await;
    world.settle().await;
    assert_eq!((world.running(0), world.metrics(0).held.get(), world.rows(0)), (0, 0, 0));
    assert!(world.quorum.with(|state| state.stops_of(peer(0)).is_empty()), "each end was told");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_ends_what_runs_under_it() {
    let mut world = World::new(1, 2).await;
    let job = world.submit(1, compute(Map::Count(2), call(&["wait"])));
    world.run_while(|world| world.running(0) < 2).await;
    world.leases(0).end();
    world.run_while(|world| world.running(0) > 0).await;
    assert!(world.attempts(job, 0) >= 1);
    let answer = world.assign_nothing(0, Term(9)).await;
    assert_eq!(answer, TaskAnswer::UnknownLease);
}

#[tokio::test(start_paused = true)]
async fn a_primary_of_an_older_term_is_not_obeyed() {
    let world = World::new(1, 2).await;
    assert!(matches!(world.assign_nothing(0, Term(5)).await, TaskAnswer::Accepted { .. }));
    assert_eq!(world.assign_nothing(0, Term(4)).await, TaskAnswer::StaleTerm { seen: Term(5) });
    let stop = TaskMessage::Stop {
        quorum: QUORUM,
        term: Term(5),
        lease: LeaseId([77; 16]),
        tasks: vec![attempt(0, 1)],
        keep_checkpoint: false,
    };
    assert_eq!(world.send_message(0, stop).await, TaskAnswer::UnknownLease, "another lease is none of its");
}

/// Goal: a lease has this node run tasks of the quorum that holds it: who votes in another gives no order under it, and
/// its terms fence nobody.
#[tokio::test(start_paused = true)]
async fn a_quorum_gives_no_orders_under_the_lease_of_another() {
    let world = World::new(1, 2).await;
    let (quorum, term, lease) = (QuorumId([8; 16]), Term(u64::MAX), LeaseId([1; 16]));
    let orders = [
        TaskMessage::Assign { quorum, term, lease, steps: Vec::new(), assignments: Vec::new() },
        TaskMessage::Stop { quorum, term, lease, tasks: vec![attempt(0, 1)], keep_checkpoint: false },
        TaskMessage::Reveal { quorum, term, lease, tasks: vec![attempt(0, 1)] },
    ];
    for order in orders {
        assert_eq!(world.send_message(0, order).await, TaskAnswer::UnknownLease);
    }
    assert!(matches!(world.assign_nothing(0, Term(1)).await, TaskAnswer::Accepted { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_where_the_next_attempt_starts_on_another_node_too() {
    let mut world = World::new(2, 1).await;
    let job = world.submit(1, compute(Map::Single, call(&["resume", "half way"])));
    world.run_while(|world| world.checkpoints(job) == 0).await;
    let first = world.worker_of(job, 0);
    world.crash(first).await;
    world.lose(first);
    world.run_until(job, RunState::Succeeded).await;
    assert_eq!(world.output(job, 0, 0), "went on from half way");
}

#[tokio::test(start_paused = true)]
async fn logs_are_for_the_owner_its_readers_and_the_quorum() {
    let mut world = World::new(1, 2).await;
    let reader = PeerId([77; 32]);
    let spec = compute(Map::Single, call(&["log", "some words"]));
    let job = world.submit(1, BatchSpec { readers: BTreeSet::from([reader]), ..spec });
    world.run_until(job, RunState::Succeeded).await;
    world.settle().await;
    let task = TaskAttempt { id: TaskId { job, step: StepIndex(0), task: TaskIndex(0) }, attempt: Attempt(1) };
    let ask = TaskMessage::Logs { task, stream: LogStream::Stderr, from: 5, wait_ms: 0 };
    let bytes = Bytes::from_static(b"words");
    let page = TaskAnswer::Logs { at: 5, bytes, ended: true };
    assert_eq!(world.ask(0, OWNER, ask.clone()).await, page);
    assert_eq!(world.ask(0, reader, ask.clone()).await, page);
    assert_eq!(world.ask(0, world::PRIMARY, ask.clone()).await, page);
    assert_eq!(world.ask(0, PeerId([99; 32]), ask).await, TaskAnswer::Forbidden);
    let other = TaskMessage::Logs { task: attempt(7, 7), stream: LogStream::Stdout, from: 0, wait_ms: 0 };
    assert_eq!(world.ask(0, OWNER, other).await, TaskAnswer::NoLogs);
}

/// Goal: a worker runs a command on its owner's word, whoever leads the quorum. Method: a primary gives orders of its
/// own under the owner's name; then it gives the owner's.
#[tokio::test(start_paused = true)]
async fn a_command_runs_only_as_its_owner_signed_it() {
    let mut world = World::new(1, 2).await;
    let job = world.submit(1, compute(Map::Single, call(&["say", "signed"])));
    let (context, assignment) = world.quorum.with(|state| {
        let task = state.attempts_of(peer(0)).map(|(task, _)| task).next().unwrap();
        (state.step_context(job, task.id.step).unwrap(), state.assignment(task).unwrap())
    });
    let forged = StepContext { call: call(&["say", "forged"]), ..context };
    let (quorum, lease) = (QUORUM, LeaseId([1; 16]));
    let (steps, assignments) = (vec![forged], vec![assignment]);
    let order = TaskMessage::Assign { quorum, term: Term(1), lease, steps, assignments };
    assert!(matches!(world.send_message(0, order).await, TaskAnswer::Accepted { .. }));
    world.run_while(|world| world.attempts(job, 0) < 2).await;
    assert_eq!(world.begun(), 0, "nothing was run on the primary's word");
    world.run_until(job, RunState::Succeeded).await;
    assert_eq!((world.output(job, 0, 0).as_str(), world.begun()), ("signed", 1));
}

/// Goal: tasks whose quorum is away hold no thread and no slot for ever: results wait, and are told later.
#[tokio::test(start_paused = true)]
async fn results_wait_for_a_quorum_that_is_away() {
    let mut world = World::new(1, 2).await;
    let job = world.submit(1, compute(Map::Count(2), call(&["say", "here"])));
    world.run_while(|world| world.metrics(0).ended.get() < 2).await;
    world.quorum.set_away(0, true);
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(world.metrics(0).held.get(), 2);
    assert!(world.metrics(0).results_saved.get() >= 2, "and are on disk meanwhile");
    world.quorum.set_away(0, false);
    world.run_until(job, RunState::Succeeded).await;
    assert_eq!(world.begun(), 2);
}

/// Goal: requests that wait for the worker are seen.
#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_a_worker_are_counted() {
    let world = World::new(1, 4).await;
    let mut registry = Registry::default();
    world.workers(0).register_metrics(&mut registry);
    let queued = || value(&registry, "quorate_worker_requests_queued");
    assert_eq!(queued(), 0.0);
    let reveal =
        TaskMessage::Reveal { quorum: QUORUM, term: Term(1), lease: LeaseId([1; 16]), tasks: vec![attempt(1, 1)] };
    let mut answer = world.workers(0).answer(peer(0), reveal);
    assert!(futures::poll!(&mut answer).is_pending());
    assert_eq!(queued(), 1.0);
    answer.await;
    assert_eq!(queued(), 0.0);
}
