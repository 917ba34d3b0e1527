//! Owners' signatures, from the submit to the order of a worker.

use super::*;
use crate::capacity::Capacity;
use crate::engine::Engine;
use crate::job::batch::{BatchSpec, Map, Reduce};
use crate::job::signed::{OrderFault, check_order};
use crate::job::spec::TriggeredSpec;
use crate::job::submission::Genuine;
use crate::quorum::command::{TaskCommand, TriggerCommand};
use crate::quorum::limits::LEVEL;
use crate::task::message::{Assignment, FireProof, OwnerProof, StepContext};
use crate::task::record::{TaskAttempt, WorkerRecord};
use crate::task::spec::{Call, Content, OutputPlace, Program, TaskInput};
use crate::trigger::limits::INPUT_NAME;
use crate::trigger::spec::{Bounds, TriggerSpec, When};
use crate::wire;

const OWNER: u8 = 3;
const OTHER: u8 = 4;
const WORKER: u8 = 7;

fn call(program: Program) -> Call {
    let mut call = Call::new(program);
    call.args = vec!["--to".to_owned(), "attic".to_owned()];
    call
}

fn work() -> BatchSpec {
    let items = [b"one", b"two"].map(|item| Content::Inline(Bytes::from_static(item)));
    let spec = BatchSpec::new(call(Program::Command { name: "copy".to_owned() }));
    BatchSpec { map: Map::Items(items.to_vec()), ..spec }
}

fn every_minute() -> TriggerSpec {
    TriggerSpec::new(When::Every { period: Duration::from_secs(60), bounds: Bounds::NONE })
}

/// A quorum with a worker that takes all that there is.
fn quorum() -> Quorum {
    let mut quorum = Quorum::new();
    quorum.state.level = LEVEL;
    let worker = WorkerRecord {
        grant: grant(WORKER),
        capacity: Capacity { slots: 8, memory_bytes: 1 << 40, disk_bytes: 1 << 40 },
        engines: vec![Engine::Command, Engine::Wasm],
        labels: Default::default(),
    };
    quorum.apply(peer(0), Command::Task(TaskCommand::SetWorker { worker })).unwrap();
    quorum
}

/// What the worker is sent, of each attempt that it has.
fn orders(quorum: &Quorum) -> Vec<(StepContext, Assignment)> {
    let attempts: Vec<TaskAttempt> = quorum.state.attempts_of(peer(WORKER)).map(|(task, _)| task).collect();
    let order = |task: TaskAttempt| {
        let context = quorum.state.step_context(task.id.job, task.id.step).unwrap();
        (context, quorum.state.assignment(task).unwrap())
    };
    attempts.into_iter().map(order).collect()
}

/// The order of a command that its owner submitted, and of a run of its trigger.
fn order_and_fired() -> [(StepContext, Assignment); 2] {
    let mut once = quorum();
    once.apply(peer(OWNER), Command::submit(&key(OWNER), job(1), JobSpec::batch(work()))).unwrap();
    let mut fired = quorum();
    let triggered = TriggeredSpec::new(every_minute(), work());
    fired.apply(peer(OWNER), Command::submit(&key(OWNER), job(2), JobSpec::Triggered(Box::new(triggered)))).unwrap();
    let fire =
        TriggerCommand::Fire { job: job(2), seen: LogIndex(u64::MAX), nonce: Nonce([1; 16]), respect_overlap: true };
    fired.apply(peer(OTHER), Command::Trigger(fire)).unwrap();
    [once, fired].map(|quorum| orders(&quorum).remove(1))
}

fn proof(context: &mut StepContext) -> &mut OwnerProof {
    context.proof.as_mut().expect("commands are ordered with a proof")
}

fn verified(submit: &Command, by: PeerId) -> Option<Genuine> {
    submit.submission(by).and_then(|(_, submission)| submission.verify())
}

/// Goal: nobody comes into a record by another's hand. Method: a primary puts a name beside a submit; every member
/// refuses it when it is applied, and an honest primary before.
#[test]
fn a_job_is_only_in_the_name_of_the_peer_that_signed_it() {
    let spec = JobSpec::batch(work());
    let signed_by_other = Command::submit(&key(OTHER), job(1), spec.clone());
    let of_another_job = match Command::submit(&key(OWNER), job(2), spec.clone()) {
        Command::Job(_, submit) => Command::Job(job(1), submit),
        command => command,
    };
    let of_another_spec = match Command::submit(&key(OWNER), job(1), JobSpec::store(named_store())) {
        Command::Job(job, JobCommand::Submit { signature, .. }) => {
            Command::Job(job, JobCommand::Submit { spec: spec.clone(), signature })
        }
        command => command,
    };
    let mut quorum = quorum();
    for forged in [signed_by_other, of_another_job, of_another_spec] {
        let by = peer(OWNER);
        assert_eq!(verified(&forged, by), None);
        assert_eq!(quorum.apply(by, forged), Err(Rejection::NotSigned { job: job(1), by }));
        assert!(quorum.state.jobs().is_empty());
    }
    let honest = Command::submit(&key(OWNER), job(1), spec);
    assert!(verified(&honest, peer(OWNER)).is_some());
    quorum.apply(peer(OWNER), honest).unwrap();
    assert_eq!(quorum.state.jobs()[&job(1)].owner, peer(OWNER));
}

fn named_store() -> StoreSpec {
    StoreSpec { name: None, size: None, profile: PROFILE }
}

#[test]
fn an_order_shows_its_owners_word_also_of_a_run_that_a_trigger_made() {
    for (context, assignment) in order_and_fired() {
        assert_eq!(check_order(&context, &assignment), Ok(()));
        let encoded: StepContext = wire::decode(&wire::encode(&context), 1 << 20).unwrap();
        assert_eq!(check_order(&encoded, &assignment), Ok(()), "as it arrives");
    }
}

/// Goal: no part of an order that says what is run can be another than the owner wrote.
#[test]
fn an_order_that_differs_from_what_was_signed_is_refused() {
    type Change = fn(&mut StepContext, &mut Assignment);
    let changes: [Change; 12] = [
        |context, _| context.call.program = Program::Command { name: "erase".to_owned() },
        |context, _| context.call.args.push("/".to_owned()),
        |context, _| drop(context.call.env.insert("PATH".to_owned(), "/tmp".to_owned())),
        |context, _| drop(context.call.inputs.insert("x".to_owned(), Content::Inline(Bytes::new()))),
        |context, _| context.timeout += Duration::from_secs(1),
        |context, _| context.output = OutputPlace::Inline,
        |context, _| context.idempotent = false,
        |context, _| context.verified = true,
        |context, _| {
            context.readers.insert(peer(OTHER));
        },
        |_, assignment| assignment.input = TaskInput::Item(Content::Inline(Bytes::from_static(b"three"))),
        |_, assignment| assignment.of = 3,
        |_, assignment| assignment.token = Digest([1; 32]),
    ];
    for (context, assignment) in order_and_fired() {
        for (number, change) in changes.iter().enumerate() {
            let (mut context, mut assignment) = (context.clone(), assignment.clone());
            change(&mut context, &mut assignment);
            assert_eq!(check_order(&context, &assignment), Err(OrderFault::Differs), "change {number}");
        }
    }
}

/// Goal: a signature counts for its own job and owner, and for nothing beside.
#[test]
fn an_order_in_a_name_that_did_not_sign_it_is_refused() {
    for (context, assignment) in order_and_fired() {
        let check = |change: &dyn Fn(&mut StepContext, &mut Assignment)| {
            let (mut context, mut assignment) = (context.clone(), assignment.clone());
            change(&mut context, &mut assignment);
            check_order(&context, &assignment)
        };
        assert_eq!(check(&|context, _| context.proof = None), Err(OrderFault::NoProof));
        let other = Err(OrderFault::NotSigned { owner: peer(OTHER) });
        assert_eq!(check(&|context, _| context.owner = peer(OTHER)), other);
        let not_signed = Err(OrderFault::NotSigned { owner: peer(OWNER) });
        let forged = JobSpec::batch(work()).sign(&key(OTHER), context.job);
        assert_eq!(check(&|context, _| proof(context).signature = forged), not_signed);
        assert_eq!(check(&|context, _| proof(context).work = wire::encode(&work()).into()), not_signed);
        // Another job's id, in the order and in the attempt alike.
        let elsewhere = check(&|context, assignment| {
            context.job = job(9);
            assignment.task.id.job = job(9);
        });
        assert!(matches!(elsewhere, Err(OrderFault::NotSigned { .. } | OrderFault::OtherJob)), "{elsewhere:?}");
    }
}

/// Goal: a trigger's signature makes its runs and no others: not another fire's id, no job without the trigger, no run
/// without a fire.
#[test]
fn the_runs_of_a_trigger_are_those_of_its_fires() {
    let [_, (context, assignment)] = order_and_fired();
    let fire = context.proof.clone().and_then(|proof| proof.fire).expect("it was fired");
    assert_eq!(fire.trigger, job(2));
    let with = |fire: Option<FireProof>, trigger: Option<Digest>| {
        let mut context = context.clone();
        let signed = proof(&mut context);
        (signed.fire, signed.trigger) = (fire, trigger);
        check_order(&context, &assignment)
    };
    let trigger = context.proof.as_ref().and_then(|proof| proof.trigger);
    assert!(trigger.is_some());
    let next = FireProof { number: fire.number + 1, ..fire.clone() };
    assert_eq!(with(Some(next), trigger), Err(OrderFault::OtherJob));
    assert_eq!(with(None, trigger), Err(OrderFault::OtherJob));
    assert_eq!(with(Some(fire.clone()), None), Err(OrderFault::OtherJob));
    let not_signed = Err(OrderFault::NotSigned { owner: peer(OWNER) });
    assert_eq!(with(Some(fire.clone()), Some(Digest([9; 32]))), not_signed);
    assert_eq!(with(None, None), not_signed);
    // What fired it is the one thing that the owner did not write: the program finds it under its own name.
    let said = Bytes::from_static(b"{}");
    let mut told = context.clone();
    told.call.inputs.insert(INPUT_NAME.to_owned(), Content::Inline(said.clone()));
    proof(&mut told).fire = Some(FireProof { input: said, ..fire });
    assert_eq!(check_order(&told, &assignment), Ok(()));
}

/// Goal: what is changed while a job lives changes nothing that was signed: its next orders show the same word.
#[test]
fn an_update_a_retry_and_a_later_step_keep_the_owners_word() {
    let mut quorum = quorum();
    let fold = Reduce { call: call(Program::Command { name: "fold".to_owned() }), fan_in: 2 };
    let spec = JobSpec::batch(BatchSpec { reduce: Some(Box::new(fold)), ..work() });
    quorum.apply(peer(OWNER), Command::submit(&key(OWNER), job(1), spec)).unwrap();
    let resources = Some(Capacity { slots: 2, memory_bytes: 1 << 20, disk_bytes: 0 }.into());
    let update = Control::Update { priority: Some(1), parallelism: None, resources };
    quorum.apply(peer(0), Command::control(job(1), LogIndex(u64::MAX), update)).unwrap();
    assert_eq!(orders(&quorum).len(), 2);
    for (context, assignment) in orders(&quorum) {
        assert_eq!(context.resources.capacity.slots, 2);
        assert_eq!(check_order(&context, &assignment), Ok(()));
    }
    // A lost worker is a retry.
    let lost = TaskCommand::LoseWorker { peer: peer(WORKER), lease: grant(WORKER).lease, reason: "gone".to_owned() };
    let worker = quorum.state.tasks().workers()[&peer(WORKER)].clone();
    quorum.apply(peer(0), Command::Task(lost)).unwrap();
    quorum.apply(peer(0), Command::Task(TaskCommand::SetWorker { worker })).unwrap();
    while orders(&quorum).len() < 2 {
        let until = quorum.state.next_timer().expect("tasks wait for their next try");
        quorum.apply(peer(0), Command::Quorum(QuorumCommand::Elapsed { until })).unwrap();
    }
    for (context, assignment) in orders(&quorum) {
        assert!(assignment.task.attempt > Attempt(1));
        assert_eq!(check_order(&context, &assignment), Ok(()));
    }
    quorum.report_all_done();
    let folding = orders(&quorum);
    assert!(matches!(folding[..], [(StepContext { step: StepIndex(1), .. }, _)]), "{folding:?}");
    assert_eq!(check_order(&folding[0].0, &folding[0].1), Ok(()));
}

#[test]
fn a_module_needs_no_word_of_its_owner() {
    let mut quorum = quorum();
    let module =
        Program::Wasm { module: Content::Inline(Bytes::from_static(b"\0asm")), fuel: None, deterministic: false };
    let spec = JobSpec::batch(BatchSpec::new(call(module)));
    quorum.apply(peer(OWNER), Command::submit(&key(OWNER), job(1), spec)).unwrap();
    assert_eq!(orders(&quorum)[0].0.proof, None);
}

impl Quorum {
    fn report_all_done(&mut self) {
        use crate::task::message::{Report, TaskResult};
        use crate::task::record::{Output, Place};
        let digest = Digest(*blake3::hash(b"").as_bytes());
        let output = Output { digest, bytes: 0, place: Place::Record };
        let done = |task| Report { task, result: TaskResult::Done { output, bytes: Some(Bytes::new()) } };
        let tasks = self.state.attempts_of(peer(WORKER)).map(|(task, _)| task);
        let reports = tasks.map(done).collect();
        self.apply(peer(WORKER), Command::Task(TaskCommand::Report { reports })).unwrap();
    }
}
