//! Workers that die, are cut off, or have no disk left.

use std::time::Duration;

use quorate_protocols::job::batch::Map;
use quorate_protocols::job::record::RunState;

use super::world::{World, call, compute, peer};

/// Goal: killed after it had computed and before it could tell, a worker tells after its restart, and computes nothing
/// again.
#[tokio::test(start_paused = true)]
async fn a_finished_result_survives_its_worker() {
    for idempotent in [true, false] {
        let mut world = World::new(1, 2).await;
        let mut spec = compute(Map::Count(2), call(&["sleep", "400", "kept"]));
        spec.idempotent = idempotent;
        let job = world.submit(1, spec);
        world.run_while(|world| world.running(0) < 2).await;
        world.quorum.set_away(0, true);
        world.run_while(|world| world.metrics(0).results_saved.get() < 2).await;
        world.settle().await;
        world.crash(0).await;
        world.quorum.set_away(0, false);
        world.start(0).await;
        world.run_until(job, RunState::Succeeded).await;
        assert_eq!((world.begun(), world.output(job, 0, 1)), (2, "kept".to_owned()));
        world.settle().await;
        assert_eq!(world.rows(0), 0);
    }
}

/// Goal: a result that was on no disk dies with its worker, and is computed again under the same attempt; the quorum
/// never saw a difference.
#[tokio::test(start_paused = true)]
async fn what_was_on_no_disk_is_run_again() {
    let mut world = World::new(1, 2).await;
    let job = world.submit(1, compute(Map::Count(2), call(&["say", "short"])));
    // Told, run, and not recorded when it dies.
    world.run_while(|world| world.begun() < 2).await;
    assert_eq!(world.metrics(0).orders_saved.get(), 0);
    world.crash(0).await;
    world.start(0).await;
    world.run_until(job, RunState::Succeeded).await;
    assert!(world.attempts(job, 0) == 1 && world.begun() <= 4);
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_attempt_goes_on_after_a_crash_and_after_a_restart() {
    for orderly in [true, false] {
        let mut world = World::new(1, 2).await;
        let job = world.submit(1, compute(Map::Single, call(&["sleep", "2000", "done"])));
        world.run_while(|world| world.running(0) < 1).await;
        world.settle().await;
        match orderly {
            true => world.restart(0).await,
            false => {
                world.crash(0).await;
                world.start(0).await;
            }
        }
        world.run_until(job, RunState::Succeeded).await;
        assert_eq!((world.attempts(job, 0), world.begun()), (1, 2), "the same attempt, begun again");
    }
}

/// Goal: a task that must not begin twice, and whose worker died in the middle of it, waits for a person.
#[tokio::test(start_paused = true)]
async fn what_must_not_begin_twice_is_parked() {
    let mut world = World::new(1, 2).await;
    let mut spec = compute(Map::Single, call(&["wait"]));
    spec.idempotent = false;
    let job = world.submit(1, spec);
    world.run_while(|world| world.running(0) < 1).await;
    world.crash(0).await;
    world.start(0).await;
    world.run_until(job, RunState::AwaitingResolution).await;
    assert_eq!(world.begun(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_must_not_begin_twice_begins_only_when_its_start_is_recorded() {
    let mut world = World::new(1, 2).await;
    let mut spec = compute(Map::Single, call(&["say", "once"]));
    spec.idempotent = false;
    let job = world.submit(1, spec);
    world.run_while(|world| world.metrics(0).orders_saved.get() < 1).await;
    world.quorum.set_away(0, true);
    world.pass(Duration::from_secs(15)).await;
    assert_eq!(world.begun(), 0);
    world.quorum.set_away(0, false);
    world.run_until(job, RunState::Succeeded).await;
    assert_eq!(world.begun(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_report_whose_answer_is_lost_is_recorded_once() {
    let mut world = World::new(1, 2).await;
    world.quorum.lose_answer_once();
    let job = world.submit(1, compute(Map::Single, call(&["say", "once"])));
    world.run_until(job, RunState::Succeeded).await;
    world.settle().await;
    assert_eq!((world.metrics(0).held.get(), world.begun(), world.attempts(job, 0)), (0, 1, 1));
}

/// Goal: a worker that was cut off and finishes after its task went elsewhere is told so; there is one result.
#[tokio::test(start_paused = true)]
async fn the_result_of_a_replaced_attempt_is_refused_and_forgotten() {
    let mut world = World::new(2, 1).await;
    let job = world.submit(1, compute(Map::Single, call(&["sleep", "300", "done"])));
    world.run_while(|world| world.running(0) + world.running(1) < 1).await;
    let first = world.worker_of(job, 0);
    world.quorum.set_away(first, true);
    world.lose(first);
    world.run_until(job, RunState::Succeeded).await;
    assert_eq!(world.task(job, 0, 0).won.unwrap().attempt.0, 2);
    world.quorum.set_away(first, false);
    world.run_while(|world| world.metrics(first).stale.get() < 1).await;
    world.settle().await;
    assert_eq!((world.metrics(first).held.get(), world.rows(first)), (0, 0));
    let stale = world.quorum.with(|state| state.jobs()[&job].tasks().unwrap().stale_reports);
    assert_eq!((stale, world.task(job, 0, 0).won.unwrap().attempt.0), (1, 2));
}

/// Goal: a full disk keeps no attempt from its result, and what must be on disk first is told as the node's failure.
#[tokio::test(start_paused = true)]
async fn a_full_disk_is_told_and_lost_nothing() {
    let mut world = World::new(1, 2).await;
    world.disk(0).set_full(true);
    let job = world.submit(1, compute(Map::Count(2), call(&["sleep", "400", "done"])));
    world.run_until(job, RunState::Succeeded).await;
    let mut spec = compute(Map::Single, call(&["say", "once"]));
    (spec.idempotent, spec.retry.attempts) = (false, 1);
    let job = world.submit(2, spec);
    world.run_until(job, RunState::Failed).await;
    assert!(world.reason(job).contains("host"), "{}", world.reason(job));
    assert_eq!(world.begun(), 2);
    world.disk(0).set_full(false);
    world.settle().await;
    assert_eq!(world.quorum.with(|state| state.attempts_of(peer(0)).count()), 0);
}
