//! Random histories of jobs that compute, against the invariants.

use crate::capacity::Capacity;
use crate::task::spec::Call;
use crate::task::spec::Program;
use crate::task::spec::Stragglers;
use crate::task::spec::Verify;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Draw {
    what: u8,
    job: u8,
    peer: u8,
    pick: u8,
    skew: u8,
}

fn draw() -> impl Strategy<Value = Draw> {
    (0..24u8, 1..5u8, 0..5u8, any::<u8>(), 0..8u8).prop_map(|(what, job, peer, pick, skew)| Draw {
        what,
        job,
        peer,
        pick,
        skew,
    })
}

fn drawn_spec(draw: &Draw) -> BatchSpec {
    let fold = Call::new(Program::Command { name: "fold".to_owned() });
    let base = if draw.pick & 1 == 1 { undoing(1 + draw.pick as u32 % 7) } else { spec(1 + draw.pick as u32 % 7) };
    let spec = match draw.job {
        1 => BatchSpec { reduce: Some(Box::new(Reduce { call: fold, fan_in: 2 })), ..base },
        2 => BatchSpec { verify: Some(Verify { copies: 3, agree: 2 }), parallelism: 1, ..base },
        3 => BatchSpec { idempotent: false, ..base },
        _ => BatchSpec { stragglers: Some(Stragglers { slower_percent: 110, done_percent: 1 }), ..base },
    };
    match draw.pick % 5 {
        0 => BatchSpec { on_failure: OnFailure::Park, ..spec },
        1 => BatchSpec { timeouts: Timeouts { step: Some(Duration::from_secs(9)), ..spec.timeouts }, ..spec },
        _ => spec,
    }
}

/// A command near what the state expects: mostly legal, now and then stale or another's.
fn concrete(state: &QuorumState, draw: &Draw) -> (PeerId, Command) {
    let (job, by) = (job(draw.job), peer(draw.peer));
    // Now and then by who has not seen the last of it.
    let seen = state.jobs.get(&job).map_or(0, |record| record.seen().0);
    let seen = LogIndex(seen.saturating_sub((draw.skew == 1).into()));
    let mine: Vec<_> = state.attempts_of(by).map(|(task, _)| task).collect();
    let stops: Vec<_> = state.stops_of(by).into_iter().map(|(task, _)| task).collect();
    let pick = |from: &[TaskAttempt]| from.get(draw.pick as usize % from.len().max(1)).copied();
    let mut task = pick(&mine).unwrap_or(TaskAttempt {
        id: TaskId { job, step: StepIndex(0), task: TaskIndex(draw.pick as u32 % 7) },
        attempt: Attempt(1 + draw.skew as u32),
    });
    if draw.skew == 0 {
        task.attempt.0 = task.attempt.0.saturating_sub(1);
    }
    let report = |task, result| Command::Task(TaskCommand::Report { reports: vec![Report { task, result }] });
    let text = if draw.skew == 1 { "lie" } else { "true" };
    let command = match draw.what {
        0 | 1 => Command::submit(&owner_key(), job, JobSpec::batch(drawn_spec(draw))),
        2 | 3 => Command::Task(TaskCommand::SetWorker { worker: worker(draw.peer, 1 + draw.pick as u32 % 3) }),
        4 => Command::Task(TaskCommand::LoseWorker {
            peer: by,
            lease: LeaseId([draw.peer; 16]),
            reason: "gone".to_owned(),
        }),
        5..=8 => report(task, done(text)),
        9 => report(task, failed(ErrorClass::ALL[draw.pick as usize % ErrorClass::ALL.len()])),
        10 => report(pick(&stops).unwrap_or(task), TaskResult::Stopped),
        11 | 12 => report(task, TaskResult::Commitment(commitment(task, by, Copies::verdict(text), NONCE))),
        13 | 14 => match state.assignment(task) {
            Some(assignment) => {
                let statement =
                    ResultStatement { task, worker: by, inputs: assignment.inputs, verdict: Copies::verdict(text) };
                let receipt = ResultReceipt::sign(&key(draw.peer), statement);
                let bytes = Some(Bytes::from(text));
                report(task, TaskResult::Reveal { nonce: NONCE, output: Some(output(text.as_bytes())), bytes, receipt })
            }
            None => Command::Quorum(QuorumCommand::Noop),
        },
        15 => Command::Task(TaskCommand::Start { tasks: vec![task] }),
        16 => Command::Task(TaskCommand::SaveCheckpoint {
            task,
            checkpoint: output(b"half"),
            bytes: Some(Bytes::from("half")),
        }),
        17 | 18 => Command::Quorum(QuorumCommand::Elapsed { until: state.next_timer().unwrap_or_default() }),
        19 => Command::control(job, seen, Control::Pause),
        20 => Command::control(job, seen, Control::Resume),
        21 if draw.pick < 128 => Command::control(job, seen, Control::Cancel),
        21 => Command::control(job, seen, Control::Retry),
        22 => {
            let resolution = [Resolution::Skip, Resolution::Fail, Resolution::Revert][draw.pick as usize % 3];
            Command::control(job, seen, Control::Resolve { resolution })
        }
        _ => {
            let resources = (draw.skew == 2).then(|| Capacity { slots: 2, ..spec(1).resources.capacity }.into());
            let (priority, parallelism) = (Some(draw.pick), Some(draw.skew as u32));
            Command::control(job, seen, Control::Update { priority, parallelism, resources })
        }
    };
    (by, command)
}

/// What must hold between one state and the next, beside `QuorumState::check_step`.
fn check_given(before: &QuorumState, after: &QuorumState, (by, command): &(PeerId, Command)) {
    // What a worker was given leaves the record when the worker says what became of it, when time does, or when the
    // worker is gone: never unseen.
    let tasks = |state: &QuorumState| -> BTreeSet<(PeerId, TaskAttempt)> {
        let used = state.tasks.index.used.iter();
        used.flat_map(|(worker, used)| used.tasks.iter().map(|task| (*worker, *task))).collect()
    };
    for (worker, task) in tasks(before).difference(&tasks(after)) {
        let said = *by == *worker && matches!(command, Command::Task(TaskCommand::Report { .. }));
        // A vote that is over ends all its copies; those have nothing more to say.
        let voted = matches!(command, Command::Task(TaskCommand::Report { .. }))
            && before.jobs[&task.id.job].batch().is_some_and(|(spec, _)| spec.verify.is_some());
        let late = matches!(command, Command::Quorum(QuorumCommand::Elapsed { .. }));
        assert!(
            said || voted || late || !after.tasks.workers.contains_key(worker),
            "{task:?} was forgotten by {command:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 500, ..ProptestConfig::default() })]

    /// Goal: no history of commands breaks an invariant (among them: whatever is not final has something that moves
    /// it), takes two results for one task, or lets two members differ. Method: draw commands around the current
    /// state, apply to one member one by one and to another that now and then starts from its snapshot.
    #[test]
    fn no_history_breaks_an_invariant(draws in proptest::collection::vec(draw(), 1..160)) {
        let mut state = QuorumState::new(QUORUM);
        let mut other = state.clone();
        for (index, draw) in draws.iter().enumerate() {
            let (by, command) = concrete(&state, draw);
            let before = state.clone();
            let now = Millis(before.time.0 + draw.skew as u64 * 700);
            let batch = Batch::at(now, vec![(by, command.clone())]);
            let reply = state.apply(LogIndex(index as u64), &batch);
            state.check_invariants().unwrap();
            before.check_step(&state, &command, &reply.0.replies[0]).unwrap();
            check_given(&before, &state, &(by, command));
            if index % 5 == 0 {
                let chunks = other.encode_snapshot();
                other = QuorumState::decode_snapshot(chunks.iter().map(|(_, chunk)| chunk)).unwrap();
            }
            prop_assert_eq!(&reply, &other.apply(LogIndex(index as u64), &batch));
            prop_assert_eq!(state.duties(), other.duties());
            if let Err(rejection) = &reply.0.replies[0] {
                let unchanged =
                    QuorumState { applied: state.applied, time: state.time, rolling: state.rolling, ..before };
                prop_assert_eq!(&unchanged, &state, "{}", rejection);
            }
        }
        prop_assert_eq!(&state, &other);
    }

    /// Goal: after any history, when faults end (workers are well, time passes, a person answers), every job ends.
    #[test]
    fn every_job_ends_once_faults_do(draws in proptest::collection::vec(draw(), 1..120)) {
        let mut quorum = Quorum::new(&[]);
        for draw in &draws {
            let (by, command) = concrete(&quorum.state, draw);
            let _ = quorum.apply(by, command);
        }
        for index in 0..4 {
            let _ = quorum.apply(OWNER, Command::Task(TaskCommand::SetWorker { worker: worker(index, 3) }));
        }
        for _ in 0..2_000 {
            let Some(live) = quorum.state.jobs.values().find(|record| !record.state.is_final()) else { break };
            let (job, state) = (live.job, live.state);
            let _ = match state {
                RunState::Paused | RunState::Pausing => quorum.control(Command::control(job, LogIndex(u64::MAX), Control::Resume)),
                RunState::AwaitingResolution => quorum.control(Command::control(job, LogIndex(u64::MAX), Control::Resolve { resolution: Resolution::Skip })),
                _ => Ok(CommandReply::Done),
            };
            // A copy that committed to a lie has nothing that it could show: only time helps there.
            let mut moved = false;
            for by in 0..5u8 {
                for (task, _) in quorum.state.stops_of(peer(by)) {
                    moved |= quorum.report(by, task, TaskResult::Stopped).is_ok();
                }
                for task in quorum.state.reveals_of(peer(by)) {
                    let reveal = quorum.true_reveal(by, task);
                    moved |= quorum.report(by, task, reveal).is_ok();
                }
                let attempts = quorum.state.attempts_of(peer(by));
                let open = attempts.filter(|(_, live)| matches!(live.phase, Phase::Assigned | Phase::Started));
                for task in open.map(|(task, _)| task).collect::<Vec<_>>() {
                    let digest = commitment(task, peer(by), Copies::verdict("true"), NONCE);
                    let done = quorum.report(by, task, done("true"));
                    moved |= done.or_else(|_| quorum.report(by, task, TaskResult::Commitment(digest))).is_ok();
                }
            }
            if !moved && quorum.state.next_timer().is_some() {
                quorum.elapse();
            }
        }
        let live = quorum.state.jobs.values().filter(|record| !record.state.is_final());
        let left: Vec<_> = live.map(|record| (record.job, record.state, quorum.state.why(record.job))).collect();
        prop_assert!(left.is_empty(), "{:?}", left);
    }
}
