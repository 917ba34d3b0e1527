//! Jobs that compute: scenarios by name. Random histories against the invariants are in [`histories`], what
//! follows when workers refuse in [`refusals`], votes on results in [`votes`].

mod histories;
mod refusals;
mod shares;
mod submits;
mod votes;

use crate::capacity::Capacity;
use crate::task::spec::Call;
use crate::task::spec::Content;
use crate::task::spec::Program;
use crate::task::spec::RetryPolicy;
use crate::task::spec::Stragglers;
use crate::task::spec::Verify;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;

use crate::approval::Grant;
use crate::engine::Engine;
use crate::ids::*;
use crate::job::batch::*;
use crate::job::record::RunState;
use crate::job::spec::JobSpec;
use crate::quorum::command::{Control, QuorumCommand, Resolution, StoreCommand, TaskCommand};
use crate::quorum::duty::Duty;
use crate::quorum::entry::{Batch, Command};
use crate::quorum::event::Event;
use crate::quorum::reply::{CommandReply, Rejection};
use crate::quorum::request::{Query, QueryAnswer};
use crate::quorum::state::QuorumState;
use crate::task::error_class::ErrorClass;
use crate::task::limits::*;
use crate::task::message::{Report, ReportRefusal, TaskResult};
use crate::task::record::*;
use crate::task::table::Blob;
use crate::task::vote::{ResultReceipt, ResultStatement, Verdict, check_receipts, commitment};
use votes::{Copies, NONCE};

const QUORUM: QuorumId = QuorumId([1; 16]);
/// The peer whose key is made of 200s: it signs what it submits.
const OWNER: PeerId = PeerId([
    0x97, 0xff, 0xc8, 0x83, 0xc8, 0x0b, 0xee, 0x72, 0x37, 0xef, 0x95, 0xd9, 0xb9, 0xb7, 0x03, 0xd4, 0xad, 0x63, 0xe6,
    0x0a, 0x21, 0xe6, 0x05, 0x86, 0x76, 0x82, 0xb7, 0x5b, 0x8b, 0x3f, 0x43, 0x03,
]);

fn owner_key() -> SigningKey {
    SigningKey::from_bytes(&[200; 32])
}

fn key(index: u8) -> SigningKey {
    SigningKey::from_bytes(&[index + 1; 32])
}

fn peer(index: u8) -> PeerId {
    PeerId(key(index).verifying_key().to_bytes())
}

fn job(index: u8) -> JobId {
    JobId { quorum: QUORUM, local: [index; 16] }
}

fn worker(index: u8, slots: u32) -> WorkerRecord {
    WorkerRecord {
        grant: Grant {
            holder: MemberId { peer: peer(index), incarnation: Incarnation(7) },
            lease: LeaseId([index; 16]),
        },
        capacity: Capacity { slots, memory_bytes: 1 << 40, disk_bytes: 1 << 40 },
        engines: vec![Engine::Wasm, Engine::Command],
        labels: BTreeMap::new(),
    }
}

fn spec(tasks: u32) -> BatchSpec {
    let spec = BatchSpec::new(Call::new(Program::Command { name: "count".to_owned() }));
    let retry = RetryPolicy { attempts: 3, jitter_percent: 0, ..spec.retry.clone() };
    BatchSpec { map: Map::Count(tasks), retry, ..spec }
}

fn undoing(tasks: u32) -> BatchSpec {
    let undo = Call::new(Program::Command { name: "undo".to_owned() });
    BatchSpec { compensate: Some(Box::new(undo)), on_failure: OnFailure::Revert, ..spec(tasks) }
}

fn output(bytes: &[u8]) -> Output {
    Output { digest: Digest(*blake3::hash(bytes).as_bytes()), bytes: bytes.len() as u64, place: Place::Record }
}

fn done(text: &str) -> TaskResult {
    TaskResult::Done { output: output(text.as_bytes()), bytes: Some(Bytes::from(text.to_owned())) }
}

fn failed(class: ErrorClass) -> TaskResult {
    TaskResult::Failed { class, reason: "because".to_owned() }
}

/// A state with a log in front of it.
struct Quorum {
    state: QuorumState,
    index: u64,
    events: Vec<Event>,
}

impl Quorum {
    fn new(workers: &[(u8, u32)]) -> Self {
        let mut quorum = Self { state: QuorumState::new(QUORUM), index: 0, events: Vec::new() };
        for (index, slots) in workers {
            quorum.apply(OWNER, Command::Task(TaskCommand::SetWorker { worker: worker(*index, *slots) })).unwrap();
        }
        quorum
    }
    fn apply(&mut self, by: PeerId, command: Command) -> Result<CommandReply, Rejection> {
        self.index += 1;
        let foretold = self.state.foretell_reply(by, &command);
        let batch = Batch::at(Millis(self.state.time.0 + 1), vec![(by, command)]);
        let (reply, events) = self.state.apply(LogIndex(self.index), &batch);
        self.state.check_invariants().unwrap();
        self.events = events;
        let reply = reply.replies.into_iter().next().unwrap();
        assert!(foretold.is_none_or(|foretold| foretold == reply), "what was foretold is not what came: {reply:?}");
        reply
    }
    fn submit(&mut self, index: u8, spec: BatchSpec) {
        let spec = JobSpec::batch(spec);
        self.apply(OWNER, Command::submit(&owner_key(), job(index), spec)).unwrap();
    }
    fn report(&mut self, by: u8, task: TaskAttempt, result: TaskResult) -> Result<(), ReportRefusal> {
        let reply = self
            .apply(peer(by), Command::Task(TaskCommand::Report { reports: vec![Report { task, result }] }))
            .unwrap();
        let CommandReply::Recorded(mut answers) = reply else { panic!("{reply:?}") };
        answers.remove(0)
    }
    fn attempts(&self, worker: u8) -> Vec<TaskAttempt> {
        self.state.attempts_of(peer(worker)).map(|(task, _)| task).collect()
    }
    fn stops(&self, worker: u8) -> Vec<TaskAttempt> {
        self.state.stops_of(peer(worker)).into_iter().map(|(task, _)| task).collect()
    }
    fn run(&self, index: u8) -> &BatchRun {
        self.state.jobs[&job(index)].batch().unwrap().1
    }
    fn job_state(&self, index: u8) -> RunState {
        self.state.jobs[&job(index)].state
    }
    fn task(&self, task: TaskAttempt) -> &TaskRecord {
        self.state.tasks.tables[&task.id.job].get(task.id.step, task.id.task).unwrap()
    }
    fn elapse(&mut self) {
        let until = self.state.next_timer().expect("a timer");
        self.apply(OWNER, Command::Quorum(QuorumCommand::Elapsed { until })).unwrap();
    }
    /// Lets time pass until the state of the job is another, at most `timers` times.
    fn elapse_until(&mut self, index: u8, state: RunState, timers: usize) {
        for _ in 0..timers {
            if self.job_state(index) == state {
                return;
            }
            self.elapse();
        }
        assert_eq!(self.job_state(index), state);
    }
    /// Every worker does what it has, until nobody has anything.
    fn work(&mut self, workers: &[u8]) {
        while let Some((by, task)) = workers.iter().find_map(|by| Some((*by, *self.attempts(*by).first()?))) {
            assert_eq!(self.report(by, task, done(&format!("{}", task.id.task))), Ok(()));
        }
    }
    /// What a worker shows that had committed to "true".
    fn true_reveal(&self, by: u8, task: TaskAttempt) -> TaskResult {
        let inputs = self.state.assignment(task).map(|assignment| assignment.inputs).unwrap_or_default();
        let statement = ResultStatement { task, worker: peer(by), inputs, verdict: Copies::verdict("true") };
        let receipt = ResultReceipt::sign(&key(by), statement);
        let (output, bytes) = (Some(output(b"true")), Some(Bytes::from("true")));
        TaskResult::Reveal { nonce: NONCE, output, bytes, receipt }
    }
    fn control(&mut self, command: Command) -> Result<CommandReply, Rejection> {
        self.apply(OWNER, command)
    }
}

#[test]
fn a_job_goes_from_submit_to_success_in_two_entries() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(1, BatchSpec { map: Map::Single, ..spec(1) });
    assert_eq!(quorum.job_state(1), RunState::Running);
    let task = quorum.attempts(0)[0];
    assert!(quorum.events.contains(&Event::Assigned { worker: peer(0), tasks: vec![task] }));
    assert_eq!(quorum.report(0, task, done("42")), Ok(()));
    assert_eq!(quorum.job_state(1), RunState::Succeeded);
    let table = &quorum.state.tasks.tables[&job(1)];
    assert_eq!(table.blob((StepIndex(0), TaskIndex(0), Blob::Output)).unwrap(), &Bytes::from("42"));
    // The worker's outbox repeats until it hears: that is no second result.
    assert_eq!(quorum.report(0, task, done("42")), Ok(()));
    assert_eq!(quorum.run(1).tasks.stale_reports, 0);
}

#[test]
fn a_map_is_reduced_and_the_reducers_are_given_the_outputs() {
    let mut quorum = Quorum::new(&[(0, 2), (1, 2)]);
    let fold = Call::new(Program::Command { name: "fold".to_owned() });
    quorum.submit(1, BatchSpec { reduce: Some(Box::new(Reduce { call: fold, fan_in: 3 })), ..spec(5) });
    while quorum.run(1).tasks.step == StepIndex(0) {
        let by = if quorum.attempts(0).is_empty() { 1 } else { 0 };
        let task = quorum.attempts(by)[0];
        quorum.report(by, task, done(&format!("out {}", task.id.task))).unwrap();
    }
    let task = quorum.attempts(0).into_iter().chain(quorum.attempts(1)).min().unwrap();
    let assignment = quorum.state.assignment(task).unwrap();
    let given: Vec<_> = assignment.outputs.iter().map(|given| given.bytes.clone().unwrap()).collect();
    assert_eq!(given, ["out 0", "out 1", "out 2"]);
    assert_eq!(
        quorum.state.step_context(job(1), task.id.step).unwrap().call.program,
        Program::Command { name: "fold".into() }
    );
    quorum.work(&[0, 1]);
    assert_eq!(quorum.job_state(1), RunState::Succeeded);
    // Only the last step's outputs are kept.
    assert_eq!(quorum.state.tasks.tables[&job(1)].steps().collect::<Vec<_>>(), [StepIndex(2)]);
}

#[test]
fn a_report_of_a_replaced_attempt_is_refused_told_and_counted() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(1, spec(1));
    let old = quorum.attempts(0)[0];
    quorum.apply(OWNER, Command::Task(TaskCommand::SetWorker { worker: worker(1, 1) })).unwrap();
    let lose =
        Command::Task(TaskCommand::LoseWorker { peer: peer(0), lease: LeaseId([0; 16]), reason: "silent".to_owned() });
    quorum.apply(OWNER, lose).unwrap();
    quorum.elapse();
    let new = quorum.attempts(1)[0];
    assert_eq!((old.id, new.attempt), (new.id, Attempt(2)));
    // The partitioned worker comes back with its result: exactly one is taken.
    assert_eq!(quorum.report(0, old, done("late")), Err(ReportRefusal::Stale { newest: Attempt(2) }));
    assert_eq!(quorum.run(1).tasks.stale_reports, 1);
    assert_eq!(quorum.report(0, new, done("stolen")), Err(ReportRefusal::NotAssigned));
    assert_eq!(quorum.report(1, new, done("in time")), Ok(()));
    assert_eq!(quorum.report(0, old, done("late")), Err(ReportRefusal::Stale { newest: Attempt(2) }));
    assert_eq!(quorum.job_state(1), RunState::Succeeded);
    let never = TaskAttempt { attempt: Attempt(9), ..new };
    assert!(matches!(quorum.report(0, never, done("x")), Err(ReportRefusal::Invalid { .. })));
}

#[test]
fn losing_a_worker_needs_the_lease_that_was_lost() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(1, spec(1));
    let lose = Command::Task(TaskCommand::LoseWorker { peer: peer(0), lease: LeaseId([9; 16]), reason: String::new() });
    assert_eq!(quorum.apply(OWNER, lose), Err(Rejection::UnknownWorker { peer: peer(0) }));
    // A worker that restarts and promises anew keeps its attempts; one that lost its disk does not.
    let task = quorum.attempts(0)[0];
    let again = WorkerRecord { grant: Grant { lease: LeaseId([9; 16]), ..worker(0, 1).grant }, ..worker(0, 1) };
    quorum.apply(OWNER, Command::Task(TaskCommand::SetWorker { worker: again })).unwrap();
    assert_eq!(quorum.attempts(0), [task]);
    let mut reborn = worker(0, 1);
    reborn.grant.holder.incarnation = Incarnation(8);
    quorum.apply(OWNER, Command::Task(TaskCommand::SetWorker { worker: reborn })).unwrap();
    assert_eq!(quorum.task(task).losses, 1);
}

/// Goal: tasks that were seen to be quick are given ahead, to workers that are alive and not without end; those that
/// take long, that must not begin twice, or of which nothing is known, wait for a slot.
#[test]
fn quick_tasks_are_given_ahead_of_a_slot_and_slow_ones_are_not() {
    let mut quorum = Quorum::new(&[(0, 2)]);
    let finish = |quorum: &mut Quorum| {
        let task = quorum.attempts(0)[0];
        quorum.report(0, task, done("x")).unwrap();
    };
    quorum.submit(1, spec(400));
    assert_eq!(quorum.attempts(0).len(), 2, "nothing is known of it yet");
    for finished in 1..=100 {
        finish(&mut quorum);
        assert_eq!(quorum.attempts(0).len(), 2 + finished.min(AHEAD_MAX as usize));
    }
    // A job of the same program is known at once; another program is not, and neither is what must not begin twice.
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Cancel)).unwrap();
    for task in quorum.stops(0) {
        quorum.report(0, task, TaskResult::Stopped).unwrap();
    }
    quorum.submit(2, spec(100));
    assert_eq!(quorum.attempts(0).len(), 2 + AHEAD_MAX as usize);
    let one = BatchSpec { idempotent: false, ..spec(100) };
    let mut other = spec(100);
    other.call.program = Program::Command { name: "other".to_owned() };
    for (number, spec) in [(3, one), (4, other)] {
        let before = quorum.attempts(0).len();
        quorum.submit(number, spec);
        assert_eq!(quorum.attempts(0).len(), before);
    }
    // Nothing was heard of the worker for a while: what is freed is not filled up.
    quorum.state.time = quorum.state.time.plus(AHEAD_TIME * 2);
    quorum.control(Command::control(job(3), LogIndex(u64::MAX), Control::Cancel)).unwrap();
    quorum.submit(5, spec(100));
    let task = quorum.attempts(0)[0];
    let before = quorum.attempts(0).len();
    quorum.report(0, task, failed(ErrorClass::Exit)).unwrap();
    assert!(quorum.attempts(0).len() >= before, "its report is a sign of life");
    // What is done took long now: the number falls at once, and to nothing when that goes on.
    for _ in 0..12 {
        quorum.state.time = quorum.state.time.plus(AHEAD_TIME * 2);
        finish(&mut quorum);
    }
    let left = quorum.attempts(0).len();
    quorum.state.time = quorum.state.time.plus(AHEAD_TIME * 2);
    finish(&mut quorum);
    assert_eq!(quorum.attempts(0).len(), left - 1, "nothing is given ahead any more");
}

#[test]
fn an_idle_worker_is_let_go_and_a_busy_one_is_not() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    let release = |lease: u8| Command::Task(TaskCommand::ReleaseWorker { peer: peer(0), lease: LeaseId([lease; 16]) });
    assert_eq!(quorum.apply(OWNER, release(9)), Err(Rejection::UnknownWorker { peer: peer(0) }));
    quorum.submit(1, spec(1));
    let task = quorum.attempts(0)[0];
    assert!(matches!(quorum.apply(OWNER, release(0)), Err(Rejection::Invalid { .. })));
    assert_eq!(quorum.report(0, task, done("x")), Ok(()));
    quorum.apply(OWNER, release(0)).unwrap();
    assert!(quorum.state.tasks.workers.is_empty());
}

/// Goal: whoever has something to stop is named by the entry that brought it, so that nobody has to look for it.
#[test]
fn an_entry_that_stops_work_names_its_workers() {
    let mut quorum = Quorum::new(&[(0, 1), (1, 1), (2, 1)]);
    quorum.submit(1, spec(2));
    let busy: Vec<_> = (0..3).filter(|worker| !quorum.attempts(*worker).is_empty()).collect();
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Cancel)).unwrap();
    let named = quorum.events.iter().filter_map(|event| match event {
        Event::StopWanted { worker } => Some(*worker),
        _ => None,
    });
    let mut named: Vec<_> = named.collect();
    named.sort();
    let mut expected: Vec<_> = busy.iter().map(|worker| peer(*worker)).collect();
    expected.sort();
    assert_eq!(named, expected);
    assert!(busy.len() == 2 && busy.iter().all(|worker| quorum.stops(*worker).len() == 1));
}

/// Goal: a message to a worker has each call once, whole, and no more bytes than fit; what is left comes next.
#[test]
fn an_assignment_has_each_call_once_and_keeps_to_its_size() {
    let mut quorum = Quorum::new(&[(0, 8)]);
    let item = |n: u8| Content::Inline(Bytes::from(vec![n; 10_000]));
    quorum.submit(1, BatchSpec { map: Map::Items((0..4).map(item).collect()), ..spec(1) });
    quorum.submit(2, spec(2));
    let tasks = quorum.attempts(0);
    let (steps, assignments) = quorum.state.assignments(tasks.clone(), 1 << 20);
    assert_eq!((steps.len(), assignments.len()), (2, 6));
    for assignment in &assignments {
        assert_eq!(Some(assignment), quorum.state.assignment(assignment.task).as_ref());
        assert!(crate::wire::encode(assignment).len() <= assignment.bytes_about());
    }
    let mut left = tasks;
    let mut messages = 0;
    while !left.is_empty() {
        // Each has the work as its owner signed it once.
        let (steps, assignments) = quorum.state.assignments(left.clone(), 65_000);
        assert!(!assignments.is_empty() && crate::wire::encode(&(steps, &assignments)).len() <= 65_000);
        left.drain(..assignments.len());
        messages += 1;
    }
    assert_eq!(messages, 2);
    let gone = TaskAttempt { attempt: Attempt(9), ..assignments[0].task };
    let (steps, assignments) = quorum.state.assignments([gone, assignments[1].task], 1 << 20);
    assert_eq!((steps.len(), assignments.len()), (1, 1), "one that is gone leaves its call to the next");
}

#[test]
fn a_failing_task_is_tried_again_and_given_up_with_its_reason() {
    let mut quorum = Quorum::new(&[(0, 1), (1, 1)]);
    quorum.submit(1, spec(1));
    for attempt in 1..=3 {
        let by = if quorum.attempts(0).is_empty() { 1 } else { 0 };
        let task = quorum.attempts(by)[0];
        assert_eq!(task.attempt, Attempt(attempt));
        quorum.report(by, task, failed(ErrorClass::Exit)).unwrap();
        if attempt < 3 {
            assert_eq!(quorum.run(1).tasks.tally.delayed, 1);
            assert!(quorum.attempts(0).is_empty() && quorum.attempts(1).is_empty());
            quorum.elapse();
            let elsewhere = if quorum.attempts(0).is_empty() { 1 } else { 0 };
            assert_ne!(by, elsewhere, "another worker is preferred");
        }
    }
    assert_eq!(quorum.job_state(1), RunState::Failed);
    let why = quorum.state.why(job(1)).unwrap();
    assert!(why.contains("exit") && why.contains("because") && why.contains("3 times"), "{why}");
    assert!(
        quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Retry)).is_err(),
        "a final state is final"
    );
}

/// Goal: a job that failed still shows which of its tasks were done and by whom, and what each of the others came to.
#[test]
fn a_failed_job_keeps_the_tasks_that_it_came_to() {
    let mut quorum = Quorum::new(&[(0, 1), (1, 1)]);
    let mut once = spec(3);
    once.retry.attempts = 1;
    quorum.submit(1, once);
    let (a, b) = (quorum.attempts(0)[0], quorum.attempts(1)[0]);
    quorum.report(0, a, done("kept")).unwrap();
    quorum.report(1, b, failed(ErrorClass::Trap)).unwrap();
    assert_eq!(quorum.job_state(1), RunState::Failed);
    let table = &quorum.state.tasks.tables[&job(1)];
    let task = |id: TaskAttempt| table.get(id.id.step, id.id.task).unwrap();
    assert_eq!((task(a).state, task(a).worker_of(Attempt(1))), (TaskState::Done, Some(peer(0))));
    assert_eq!(table.blob((a.id.step, a.id.task, Blob::Output)).map(|bytes| &bytes[..]), Some(&b"kept"[..]));
    assert_eq!((task(b).state, task(b).worker_of(Attempt(1))), (TaskState::DeadLetter, Some(peer(1))));
    assert_eq!(table.tasks(a.id.step).len(), 3);
    assert_eq!(quorum.state.tasks.index.live, Default::default(), "none of it counts as live");
    assert!(quorum.attempts(0).is_empty() && quorum.attempts(1).is_empty());
}

/// Goal: wide jobs that came to nothing do not have the quorum forget the records of others.
#[test]
fn a_wide_job_that_was_cancelled_leaves_its_record_alone() {
    let mut quorum = Quorum::new(&[]);
    quorum.submit(1, spec(UNDONE_TASKS_MAX as u32 + 1));
    quorum.submit(2, spec(UNDONE_TASKS_MAX as u32));
    for index in [1, 2] {
        quorum.control(Command::control(job(index), LogIndex(u64::MAX), Control::Cancel)).unwrap();
        assert_eq!(quorum.job_state(index), RunState::Cancelled);
    }
    assert_eq!(quorum.state.tasks.tables.keys().collect::<Vec<_>>(), [&job(2)]);
    let query = Query::Tasks { job: job(1), step: StepIndex(0), from: TaskIndex(0), limit: 9 };
    assert_eq!(quorum.state.answer(&query), Some(QueryAnswer::Tasks(Vec::new())));
}

#[test]
fn a_task_that_kills_its_workers_ends() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(1, spec(1));
    for _ in 0..=LOSSES_MAX {
        let lose = Command::Task(TaskCommand::LoseWorker {
            peer: peer(0),
            lease: LeaseId([0; 16]),
            reason: "killed".to_owned(),
        });
        quorum.apply(OWNER, lose).unwrap();
        quorum.apply(OWNER, Command::Task(TaskCommand::SetWorker { worker: worker(0, 1) })).unwrap();
        if quorum.job_state(1).is_final() {
            break;
        }
        quorum.elapse();
    }
    assert_eq!(quorum.job_state(1), RunState::Failed);
}

/// Goal: a job that waits for a program names it, and who would have to be allowed to run it. Method: no worker, one
/// that takes no programs, one that refused this one; then one that may list it.
#[test]
fn a_program_that_nobody_lists_is_named() {
    let mut quorum = Quorum::new(&[]);
    quorum.submit(1, spec(1));
    let named = |quorum: &Quorum| {
        let why = quorum.state.why(job(1)).unwrap();
        why.contains("list `count` under [commands]") && why.contains(&OWNER.to_string())
    };
    assert!(named(&quorum));
    let modules_only = WorkerRecord { engines: vec![Engine::Wasm], ..worker(0, 1) };
    quorum.apply(OWNER, Command::Task(TaskCommand::SetWorker { worker: modules_only })).unwrap();
    assert!(named(&quorum));
    quorum.apply(OWNER, Command::Task(TaskCommand::SetWorker { worker: worker(1, 1) })).unwrap();
    let task = quorum.attempts(1)[0];
    quorum.report(1, task, TaskResult::Failed { class: ErrorClass::Refused, reason: "not listed".into() }).unwrap();
    assert!(named(&quorum));
    quorum.submit(2, spec(9));
    quorum.apply(OWNER, Command::Task(TaskCommand::SetWorker { worker: worker(2, 1) })).unwrap();
    assert!(!quorum.state.why(job(2)).unwrap().contains("[commands]"), "one may list it: it is busy");
}

#[test]
fn a_pause_stops_the_work_and_a_resume_goes_on_from_the_checkpoint() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(1, spec(1));
    let task = quorum.attempts(0)[0];
    let save = Command::Task(TaskCommand::SaveCheckpoint {
        task,
        checkpoint: output(b"half"),
        bytes: Some(Bytes::from("half")),
    });
    assert_eq!(quorum.apply(peer(0), save.clone()), Ok(CommandReply::Recorded(vec![Ok(())])));
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Pause)).unwrap();
    assert_eq!((quorum.job_state(1), quorum.stops(0)), (RunState::Pausing, vec![task]));
    quorum.report(0, task, TaskResult::Stopped).unwrap();
    assert_eq!(quorum.job_state(1), RunState::Paused);
    assert!(matches!(quorum.apply(peer(0), save), Ok(CommandReply::Recorded(answers)) if answers[0].is_err()));
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Pause)).unwrap();
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Resume)).unwrap();
    let again = quorum.attempts(0)[0];
    assert_eq!(again.attempt, Attempt(2));
    let assignment = quorum.state.assignment(again).unwrap();
    assert_eq!(assignment.checkpoint.unwrap().bytes.unwrap(), Bytes::from("half"));
    let illegal = quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Resume));
    assert!(matches!(illegal, Err(Rejection::IllegalState { state: RunState::Running, .. })), "{illegal:?}");
    quorum.work(&[0]);
    assert_eq!(quorum.job_state(1), RunState::Succeeded);
}

#[test]
fn a_pause_does_not_wait_for_a_worker_that_does_not_stop() {
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(1, spec(2));
    let task = quorum.attempts(0)[0];
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Pause)).unwrap();
    quorum.elapse_until(1, RunState::Paused, 3);
    assert_eq!(quorum.report(0, task, done("late")), Err(ReportRefusal::Stale { newest: Attempt(1) }));
}

#[test]
fn the_state_before_a_pause_is_returned_to() {
    let mut quorum = Quorum::new(&[]);
    quorum.submit(1, spec(1));
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Pause)).unwrap();
    assert_eq!(quorum.job_state(1), RunState::Paused);
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Resume)).unwrap();
    assert_eq!(quorum.job_state(1), RunState::Pending);
    let mut quorum = Quorum::new(&[(0, 1)]);
    quorum.submit(1, undoing(2));
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Cancel)).unwrap();
    assert_eq!(quorum.job_state(1), RunState::Reverting);
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Pause)).unwrap();
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Resume)).unwrap();
    assert_eq!(quorum.job_state(1), RunState::Reverting);
}

#[test]
fn cancel_waits_for_the_workers_but_not_for_ever() {
    let mut quorum = Quorum::new(&[(0, 1), (1, 1)]);
    quorum.submit(1, spec(5));
    let (a, b) = (quorum.attempts(0)[0], quorum.attempts(1)[0]);
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Cancel)).unwrap();
    assert_eq!((quorum.job_state(1), quorum.stops(0), quorum.stops(1)), (RunState::Cancelling, vec![a], vec![b]));
    quorum.report(0, a, TaskResult::Stopped).unwrap();
    assert_eq!(quorum.job_state(1), RunState::Cancelling);
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Cancel)).unwrap();
    quorum.elapse();
    assert_eq!(quorum.job_state(1), RunState::Cancelled);
    assert!(quorum.stops(1).is_empty());
    assert_eq!(quorum.report(1, b, done("late")), Err(ReportRefusal::Stale { newest: Attempt(1) }));
    assert_eq!(quorum.run(1).tasks.stale_reports, 1);
}

#[test]
fn a_failed_run_undoes_what_was_begun_and_only_that() {
    let mut quorum = Quorum::new(&[(0, 2)]);
    quorum.submit(1, undoing(5));
    let [a, b] = quorum.attempts(0)[..] else { panic!() };
    quorum.report(0, a, failed(ErrorClass::Fuel)).unwrap();
    assert_eq!((quorum.job_state(1), quorum.stops(0)), (RunState::Reverting, vec![b]));
    assert!(quorum.attempts(0).is_empty(), "nothing is undone while it may still be going on");
    quorum.report(0, b, TaskResult::Stopped).unwrap();
    let undone: Vec<_> = quorum.attempts(0).iter().map(|task| task.id.task.0).collect();
    assert_eq!((undone, quorum.run(1).tasks.tally.done), (vec![0, 1], 3));
    quorum.work(&[0]);
    assert_eq!(quorum.job_state(1), RunState::Reverted);
    assert!(quorum.state.why(job(1)).unwrap().contains("fuel"));
}

#[test]
fn a_parked_run_waits_for_a_person_who_may_retry_skip_fail_or_cancel() {
    let parked = || {
        let mut quorum = Quorum::new(&[(0, 2)]);
        quorum.submit(1, BatchSpec { on_failure: OnFailure::Park, ..spec(2) });
        let [a, b] = quorum.attempts(0)[..] else { panic!() };
        quorum.report(0, a, failed(ErrorClass::Trap)).unwrap();
        assert_eq!(quorum.job_state(1), RunState::Running, "the others go on");
        quorum.report(0, b, done("b")).unwrap();
        assert_eq!(quorum.job_state(1), RunState::AwaitingResolution);
        quorum
    };
    let mut quorum = parked();
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Retry)).unwrap();
    quorum.work(&[0]);
    assert_eq!(quorum.job_state(1), RunState::Succeeded);
    let resolved = |resolution| {
        let mut quorum = parked();
        quorum
            .control(Command::control(job(1), LogIndex(u64::MAX), Control::Resolve { resolution }))
            .map(|_| quorum.job_state(1))
    };
    assert_eq!(resolved(Resolution::Skip), Ok(RunState::Succeeded));
    assert_eq!(resolved(Resolution::Fail), Ok(RunState::Failed));
    assert!(resolved(Resolution::Revert).is_err(), "it does not say how");
    let mut quorum = parked();
    quorum.control(Command::control(job(1), LogIndex(u64::MAX), Control::Cancel)).unwrap();
    assert_eq!(quorum.job_state(1), RunState::Cancelled);
    let mut quorum = parked();
    quorum.elapse_until(1, RunState::Failed, 3);
}

/// Goal: a copy of a control that comes late changes nothing: neither after another control, nor after the job has come
/// by itself to where the control would be allowed.
#[test]
fn a_copy_of_a_control_that_comes_late_changes_nothing() {
    let mut quorum = Quorum::new(&[(0, 2)]);
    let seen = |quorum: &Quorum| quorum.state.jobs[&job(1)].seen();
    quorum.submit(1, BatchSpec { on_failure: OnFailure::Park, ..spec(2) });
    let pause = Command::control(job(1), seen(&quorum), Control::Pause);
    quorum.control(pause.clone()).unwrap();
    assert_eq!(quorum.control(pause.clone()), Ok(CommandReply::Done));
    let resume = Command::control(job(1), seen(&quorum), Control::Resume);
    quorum.control(resume.clone()).unwrap();
    let before = quorum.state.jobs[&job(1)].clone();
    assert_eq!(quorum.control(pause), Err(Rejection::Superseded { job: job(1), controlled: true }));
    assert_eq!(quorum.control(resume), Ok(CommandReply::Done), "as it was answered at first");
    assert_eq!(quorum.state.jobs[&job(1)], before);

    let mut quorum = Quorum::new(&[(0, 2)]);
    quorum.submit(1, BatchSpec { on_failure: OnFailure::Park, ..spec(2) });
    let retry = Command::control(job(1), seen(&quorum), Control::Retry);
    assert!(matches!(quorum.control(retry.clone()), Err(Rejection::IllegalState { .. })));
    let [a, b] = quorum.attempts(0)[..] else { panic!() };
    quorum.report(0, a, failed(ErrorClass::Trap)).unwrap();
    quorum.report(0, b, done("b")).unwrap();
    assert_eq!(quorum.job_state(1), RunState::AwaitingResolution);
    assert_eq!(quorum.control(retry), Err(Rejection::Superseded { job: job(1), controlled: false }));
    assert_eq!(quorum.job_state(1), RunState::AwaitingResolution);
    // What was retried and failed again is not retried by a copy.
    let retry = Command::control(job(1), seen(&quorum), Control::Retry);
    quorum.control(retry.clone()).unwrap();
    let [again] = quorum.attempts(0)[..] else { panic!() };
    quorum.report(0, again, failed(ErrorClass::Trap)).unwrap();
    assert_eq!(quorum.control(retry), Ok(CommandReply::Done));
    assert_eq!(quorum.job_state(1), RunState::AwaitingResolution);
}

#[test]
fn a_task_that_must_not_begin_twice_is_parked_when_it_may_have_begun() {
    let once = || {
        let mut quorum = Quorum::new(&[(0, 1), (1, 1)]);
        quorum.submit(1, BatchSpec { idempotent: false, ..spec(1) });
        let by = if quorum.attempts(0).is_empty() { 1 } else { 0 };
        (quorum, by)
    };
    let lose = |by: u8| {
        Command::Task(TaskCommand::LoseWorker { peer: peer(by), lease: LeaseId([by; 16]), reason: "gone".to_owned() })
    };
    let (mut quorum, by) = once();
    quorum.apply(OWNER, lose(by)).unwrap();
    quorum.elapse();
    assert_eq!(quorum.run(1).tasks.tally.running, 1, "it had not begun: another may");
    let (mut quorum, by) = once();
    let task = quorum.attempts(by)[0];
    let begun = quorum.apply(peer(by), Command::Task(TaskCommand::Start { tasks: vec![task] }));
    assert_eq!(begun, Ok(CommandReply::Recorded(vec![Ok(())])));
    quorum.apply(OWNER, lose(by)).unwrap();
    assert_eq!(quorum.job_state(1), RunState::AwaitingResolution);
    assert!(quorum.state.why(job(1)).unwrap().contains("must not begin twice"));
    // Whoever was replaced must not begin at all.
    let (mut quorum, by) = once();
    let task = quorum.attempts(by)[0];
    quorum.apply(OWNER, lose(by)).unwrap();
    let begun = quorum.apply(peer(by), Command::Task(TaskCommand::Start { tasks: vec![task] }));
    assert!(matches!(begun, Ok(CommandReply::Recorded(answers)) if answers[0].is_err()));
}

#[test]
fn a_straggler_gets_a_copy_elsewhere_and_the_first_result_wins() {
    let mut quorum = Quorum::new(&[(0, 1), (1, 1)]);
    let stragglers = Some(Stragglers { slower_percent: 150, done_percent: 50 });
    quorum.submit(1, BatchSpec { stragglers, ..spec(4) });
    let slow = quorum.attempts(0)[0];
    for _ in 0..3 {
        let task = quorum.attempts(1)[0];
        quorum.report(1, task, done("quick")).unwrap();
    }
    assert!(quorum.attempts(1).is_empty());
    quorum.elapse();
    let copy = quorum.attempts(1)[0];
    assert_eq!((copy.id, copy.attempt), (slow.id, Attempt(2)));
    quorum.report(1, copy, done("first")).unwrap();
    assert_eq!((quorum.job_state(1), quorum.stops(0)), (RunState::Succeeded, vec![slow]));
    assert!(matches!(quorum.report(0, slow, done("second")), Err(ReportRefusal::Stale { .. })));
    assert!(quorum.stops(0).is_empty());
}

#[test]
fn an_attempt_that_outlives_its_timeout_is_replaced() {
    let mut quorum = Quorum::new(&[(0, 1), (1, 1)]);
    let timeouts = Timeouts { task: Duration::from_secs(5), ..spec(1).timeouts };
    quorum.submit(1, BatchSpec { timeouts, ..spec(1) });
    let by = if quorum.attempts(0).is_empty() { 1 } else { 0 };
    let task = quorum.attempts(by)[0];
    quorum.elapse();
    assert_eq!((quorum.stops(by), quorum.task(task).failures), (vec![task], 1));
    quorum.elapse();
    assert_eq!(quorum.run(1).tasks.tally.running, 1);
}

#[test]
fn a_run_past_its_timeout_fails_wherever_it_is() {
    let mut quorum = Quorum::new(&[]);
    quorum.submit(1, spec(1));
    quorum.elapse();
    assert_eq!(quorum.job_state(1), RunState::Failed);
    quorum.submit(2, undoing(1));
    quorum.elapse();
    assert_eq!(quorum.job_state(2), RunState::Failed, "nothing was begun, so nothing is undone");
}
