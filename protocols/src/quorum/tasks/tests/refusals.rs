//! Workers that refuse a job: whom it is offered to meanwhile, and when it is offered to them again.

use super::*;

#[test]
fn a_peer_that_refuses_is_not_asked_again_at_once_and_why_says_so() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(1, spec(1));
    let task = quorum.attempts(0)[0];
    quorum.report(0, task, TaskResult::Failed { class: ErrorClass::Refused, reason: "not listed".into() }).unwrap();
    assert!(quorum.attempts(0).is_empty());
    let why = quorum.state.why(job(1)).unwrap();
    assert!(why.contains("refused: not listed") && why.contains("0 of 1 task done"), "{why}");
    assert!(why.contains("; 1 peer refused ("), "{why}");
    assert!(quorum.state.duties().iter().any(|duty| matches!(duty, Duty::FindWorkers { slots: 1, .. })));
    quorum.apply(OWNER, Command::Task(TaskCommand::SetWorker { worker: worker(1, 1) })).unwrap();
    quorum.work(&[1]);
    assert_eq!(quorum.job_state(1), RunState::Succeeded);
}

/// Goal: what every worker refused is offered to them again, after waits that grow to a bound, and is run once one of
/// them takes it. Method: one worker that refuses whatever it is given, and gives in.
#[test]
fn a_task_that_every_worker_refused_is_offered_again_and_runs_once_one_takes_it() {
    let mut quorum = Quorum::new(&[(0, 2)]);
    quorum.submit(1, spec(5));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let offered = quorum.attempts(0);
        assert_eq!(offered.len(), 2, "as much as there is room for");
        for task in &offered {
            quorum.report(0, *task, failed(ErrorClass::Refused)).unwrap();
        }
        assert!(quorum.attempts(0).is_empty());
        let refused_at = quorum.state.time;
        while quorum.attempts(0).is_empty() {
            quorum.elapse();
        }
        waits.push(quorum.state.time.since(refused_at).as_secs_f32().round() as u64);
    }
    let (min, max) = (REFUSAL_WAIT_MIN.as_secs(), REFUSAL_WAIT_MAX.as_secs());
    assert_eq!(waits[..3], [min, 2 * min, 4 * min]);
    assert_eq!(waits[7], max);
    assert_eq!(quorum.run(1).tasks.tally.dead_letters, 0, "a refusal is no failure of the task");
    quorum.work(&[0]);
    assert_eq!(quorum.job_state(1), RunState::Succeeded);
}

/// Goal: a worker that was lost and is back is asked at once, for it may be another run of its node.
#[test]
fn a_worker_that_refused_and_restarted_is_asked_at_once() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(1, spec(1));
    let task = quorum.attempts(0)[0];
    quorum.report(0, task, failed(ErrorClass::Refused)).unwrap();
    assert_eq!(quorum.state.avoided_for(job(1)), BTreeSet::from([peer(0)]));
    let lose = Command::Task(TaskCommand::LoseWorker {
        peer: peer(0),
        lease: LeaseId([0; 16]),
        reason: "restarted".to_owned(),
    });
    quorum.apply(OWNER, lose).unwrap();
    assert!(quorum.state.avoided_for(job(1)).is_empty());
    quorum.apply(OWNER, Command::Task(TaskCommand::SetWorker { worker: worker(0, 1) })).unwrap();
    quorum.work(&[0]);
    assert_eq!(quorum.job_state(1), RunState::Succeeded);
}

/// Goal: a peer that refuses one job is still sought for another that needs the same of it.
#[test]
fn a_peer_is_avoided_only_for_the_jobs_that_it_refused() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(1, spec(1));
    let task = quorum.attempts(0)[0];
    quorum.report(0, task, failed(ErrorClass::Refused)).unwrap();
    quorum.apply(OWNER, Command::Task(TaskCommand::ReleaseWorker { peer: peer(0), lease: LeaseId([0; 16]) })).unwrap();
    assert_eq!(quorum.state.avoided_for(job(1)), BTreeSet::from([peer(0)]));
    quorum.submit(2, spec(1));
    assert!(quorum.state.avoided_for(job(1)).is_empty() && quorum.state.avoided_for(job(2)).is_empty());
}

/// Goal: the primary hears of whatever it has to do next, also when an entry gave nothing to anybody: the timer of a
/// next try, and tasks that want workers again.
#[test]
fn a_primary_hears_of_a_task_that_waits() {
    for class in [ErrorClass::Refused, ErrorClass::Exit] {
        let mut quorum = Quorum::new(&[(0, 1)]);
        quorum.submit(1, spec(1));
        let task = quorum.attempts(0)[0];
        quorum.report(0, task, failed(class)).unwrap();
        assert_eq!(quorum.events, [Event::DutiesChanged], "{class}");
        quorum.apply(OWNER, Command::Quorum(QuorumCommand::Noop)).unwrap();
        assert_eq!(quorum.events, [], "nothing changed");
    }
}
