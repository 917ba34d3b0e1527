//! Shares: of the workers, for jobs and owners in turns, and of what a quorum keeps of one owner's tasks.

use super::*;

#[test]
fn tasks_of_many_jobs_take_turns_by_priority() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(1, BatchSpec { priority: 10, ..spec(300) });
    quorum.submit(2, BatchSpec { priority: 30, ..spec(300) });
    let mut counts = BTreeMap::new();
    for _ in 0..200 {
        let task = quorum.attempts(0)[0];
        *counts.entry(task.id.job).or_insert(0u32) += 1;
        // Slow enough that nothing is given ahead of its turn.
        quorum.state.time = quorum.state.time.plus(AHEAD_TIME * 2);
        quorum.report(0, task, done("x")).unwrap();
    }
    let (low, high) = (counts[&job(1)], counts[&job(2)]);
    assert!((45..=55).contains(&low) && (145..=155).contains(&high), "{low} and {high}");
    // A job that comes later waits for its turn, not for the end of the others.
    quorum.submit(3, spec(1));
    for _ in 0..4 {
        let task = quorum.attempts(0)[0];
        quorum.state.time = quorum.state.time.plus(AHEAD_TIME * 2);
        quorum.report(0, task, done("x")).unwrap();
    }
    assert_eq!(quorum.job_state(3), RunState::Succeeded);
}

/// Goal: owners share the workers, however many jobs one of them has waiting.
#[test]
fn tasks_of_owners_take_turns_however_many_jobs_each_has() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    (1..=9).for_each(|index| quorum.submit(index, spec(300)));
    let alone = Command::submit(&key(77), job(10), JobSpec::batch(spec(300)));
    quorum.apply(peer(77), alone).unwrap();
    let mut counts = BTreeMap::new();
    for _ in 0..200 {
        let task = quorum.attempts(0)[0];
        *counts.entry(task.id.job).or_insert(0u32) += 1;
        // Slow enough that nothing is given ahead of its turn.
        quorum.state.time = quorum.state.time.plus(AHEAD_TIME * 2);
        quorum.report(0, task, done("x")).unwrap();
    }
    assert!((90..=110).contains(&counts[&job(10)]), "{counts:?}");
    // The nine share what is theirs.
    assert!((1..=9).all(|index| (8..=15).contains(&counts[&job(index)])), "{counts:?}");
}

/// Goal: nobody waits longer for having the higher id. Method: one slot; before each end comes another job of a lower
/// id.
#[test]
fn who_came_first_is_not_overtaken_by_all_who_come_later() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(100, spec(1));
    quorum.submit(99, spec(1));
    for later in (90..99).rev() {
        quorum.submit(later, spec(1));
        let task = quorum.attempts(0)[0];
        quorum.state.time = quorum.state.time.plus(AHEAD_TIME * 2);
        quorum.report(0, task, done("x")).unwrap();
    }
    assert_eq!(quorum.job_state(99), RunState::Succeeded);
    // All of one moment are served before any of the next.
    assert!((94..99).all(|job| quorum.job_state(job) == RunState::Succeeded));
}

#[test]
fn parallelism_and_slots_bound_what_runs_at_once() {
    let mut quorum = Quorum::new(&[(0, 5), (1, 5)]);
    quorum.submit(1, BatchSpec { parallelism: 3, ..spec(100) });
    assert_eq!(quorum.run(1).tasks.tally.running, 3);
    let update = Command::control(
        job(1),
        LogIndex(u64::MAX),
        Control::Update { priority: None, parallelism: Some(0), resources: None },
    );
    quorum.control(update).unwrap();
    assert_eq!(quorum.run(1).tasks.tally.running, 10);
    assert_eq!((quorum.attempts(0).len(), quorum.attempts(1).len()), (5, 5));
}

#[test]
fn a_wide_job_is_bounded_in_every_way() {
    let mut quorum = Quorum::new(&[(0, 64)]);
    let submit = |state: &mut QuorumState, owner: &SigningKey, index: u8, tasks: u32| {
        let spec = JobSpec::batch(spec(tasks));
        let by = PeerId(owner.verifying_key().to_bytes());
        let batch = Batch::at(Millis(1), vec![(by, Command::submit(owner, job(index), spec))]);
        state.apply(LogIndex(1), &batch).0.replies.remove(0)
    };
    let (all, half) =
        ((TASKS_MAX as u32 / TASKS_PER_STEP_MAX) as u8, (OWNER_TASKS_MAX as u32 / TASKS_PER_STEP_MAX) as u8);
    for index in 0..half {
        submit(&mut quorum.state, &owner_key(), index, TASKS_PER_STEP_MAX).unwrap();
    }
    // One owner has a half, and the next finds the other.
    let reply = submit(&mut quorum.state, &owner_key(), 99, 1);
    assert!(matches!(reply, Err(Rejection::Full { limit: OWNER_TASKS_MAX, .. })), "{reply:?}");
    assert!(quorum.state.room() > 0);
    for index in half..all {
        submit(&mut quorum.state, &key(77), index, TASKS_PER_STEP_MAX).unwrap();
    }
    let reply = submit(&mut quorum.state, &key(78), 99, 1);
    assert!(matches!(reply, Err(Rejection::Full { limit: TASKS_MAX, .. })), "{reply:?}");
    assert_eq!(quorum.state.room(), 0, "jobs have room, and tasks have none");
    let chunks = quorum.state.encode_snapshot();
    let again = QuorumState::decode_snapshot(chunks.iter().map(|(_, chunk)| chunk)).unwrap();
    assert_eq!(again, quorum.state);
    let bytes: usize = chunks.iter().map(|(_, chunk)| chunk.len()).sum();
    assert!(bytes < 16 * TASKS_MAX, "{bytes} bytes for {TASKS_MAX} tasks");
    assert!(quorum.state.duties().len() < 10, "duties do not grow with the tasks");
}

#[test]
fn results_beyond_the_records_room_must_be_objects() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(1, spec(2_000));
    let big = vec![7; OUTPUT_BYTES_MAX];
    let result = TaskResult::Done { output: output(&big), bytes: Some(Bytes::from(big)) };
    let mut taken = 0;
    let refused = loop {
        let task = quorum.attempts(0)[0];
        let batch = Batch::at(
            Millis(1),
            vec![(
                peer(0),
                Command::Task(TaskCommand::Report { reports: vec![Report { task, result: result.clone() }] }),
            )],
        );
        let Ok(CommandReply::Recorded(answers)) = quorum.state.apply(LogIndex(1), &batch).0.replies.remove(0) else {
            panic!()
        };
        match &answers[0] {
            Ok(()) => taken += 1,
            Err(refusal) => break refusal.clone(),
        }
    };
    assert_eq!(refused, ReportRefusal::RecordFull);
    assert!(taken * OUTPUT_BYTES_MAX <= OWNER_RECORD_BYTES_MAX && taken > 500, "{taken}");
    assert!(quorum.state.tasks.check_bytes(OWNER, OUTPUT_BYTES_MAX).is_err());
    assert_eq!(
        quorum.state.tasks.check_bytes(peer(77), OUTPUT_BYTES_MAX),
        Ok(()),
        "outputs of another owner have room"
    );
    let task = quorum.attempts(0)[0];
    let object = Place::Object { quorum: QUORUM, manifest: ManifestHash([1; 32]) };
    let output = Output { place: object, ..output(b"big") };
    assert_eq!(quorum.report(0, task, TaskResult::Done { output, bytes: None }), Ok(()));
}

/// Goal: specifications of one owner take half of the record's bytes, and another owner has room beside them.
#[test]
fn specifications_of_one_owner_take_a_half_of_the_records_bytes() {
    let mut state = QuorumState::new(QUORUM);
    let mut submit = |owner: &SigningKey, index: u8| {
        let items = (0..20).map(|_| Content::Inline(Bytes::from(vec![index; 10_000]))).collect();
        let spec = JobSpec::batch(BatchSpec { map: Map::Items(items), ..spec(1) });
        let by = PeerId(owner.verifying_key().to_bytes());
        let batch = Batch::at(Millis(1), vec![(by, Command::submit(owner, job(index), spec))]);
        state.apply(LogIndex(1), &batch).0.replies.remove(0)
    };
    let mut taken = 0;
    let refused = loop {
        match submit(&owner_key(), taken) {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Rejection::Full { limit: OWNER_RECORD_BYTES_MAX, .. }), "{refused:?}");
    assert!(usize::from(taken) * 200_000 > OWNER_RECORD_BYTES_MAX * 9 / 10, "{taken}");
    assert!(submit(&key(77), taken).is_ok(), "another owner has room");
    assert!(state.room() > 0);
}
