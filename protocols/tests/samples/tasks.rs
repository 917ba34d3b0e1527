//! Jobs that compute, their tasks and their workers.

use super::*;

pub(super) const STEP: StepIndex = StepIndex(1);
pub(super) const TASK: TaskIndex = TaskIndex(66_000);

pub(super) fn task() -> TaskAttempt {
    TaskAttempt { id: TaskId { job: JOB, step: STEP, task: TASK }, attempt: ATTEMPT }
}
pub(super) fn reference() -> ObjectId {
    ObjectId { quorum: QUORUM, manifest: manifest().hash() }
}
pub(super) fn inline() -> Content {
    Content::Inline(Bytes::from_static(b"bytes"))
}
pub(super) fn stored() -> Content {
    Content::Object { object: reference(), size: 20_000_000 }
}
pub(super) fn call() -> Call {
    Call {
        program: Program::Wasm { module: stored(), fuel: Some(1 << 40), deterministic: true },
        args: vec!["--top".to_owned(), "10".to_owned()],
        env: BTreeMap::from([("LANG".to_owned(), "C".to_owned())]),
        inputs: BTreeMap::from([("stop-words".to_owned(), inline())]),
    }
}
pub(super) fn resources() -> Requirement {
    let labels = BTreeMap::from([("zone".to_owned(), "attic".to_owned())]);
    Requirement { capacity: Capacity { memory_bytes: 128 << 20, disk_bytes: 1 << 30, slots: 2 }, labels }
}
pub(super) fn compute() -> BatchSpec {
    let verify = Some(Verify { copies: 3, agree: 2 });
    let stragglers = Some(Stragglers { slower_percent: 300, done_percent: 50 });
    let second = Duration::from_secs(1);
    BatchSpec {
        name: Some("count".to_owned()),
        call: call(),
        map: Map::Segments { object: reference(), size: 20_000_000, bytes: 1 << 20, split: Split::Words },
        reduce: Some(Box::new(Reduce { call: call(), fan_in: 16 })),
        compensate: Some(Box::new(Call::new(Program::Command { name: "undo".to_owned() }))),
        on_failure: OnFailure::Revert,
        output: OutputPlace::Object,
        resources: resources(),
        priority: 50,
        parallelism: 300,
        retry: RetryPolicy {
            attempts: 4,
            base: Duration::from_millis(500),
            cap: 60 * second,
            jitter_percent: 25,
            deadline: Some(3600 * second),
            on: ErrorClass::ALL.to_vec(),
        },
        timeouts: Timeouts { task: 600 * second, step: Some(3600 * second), run: 86_400 * second },
        verify,
        stragglers,
        idempotent: true,
        readers: BTreeSet::from([peer(3)]),
    }
}
pub(super) fn output() -> Output {
    let digest = Digest(*blake3::hash(b"bytes").as_bytes());
    Output { digest, bytes: 5, place: Place::Record }
}
fn result_receipt() -> ResultReceipt {
    let verdict = Verdict::Output(output().digest);
    let statement = ResultStatement { task: task(), worker: peer(3), inputs: Digest([0xaa; 32]), verdict };
    ResultReceipt::sign(&key(3), statement)
}
fn vote() -> Vote {
    Vote { output: Some(output()), receipt: result_receipt() }
}
pub(super) fn worker(index: u8) -> WorkerRecord {
    WorkerRecord {
        grant: grant(index),
        capacity: Capacity { slots: 4, memory_bytes: 1 << 40, disk_bytes: 1 << 40 },
        engines: vec![Engine::Wasm, Engine::Command],
        labels: resources().labels,
    }
}
pub(super) fn output_ref() -> OutputRef {
    OutputRef { task: TASK, output: output(), bytes: Some(Bytes::from_static(b"bytes")) }
}
pub(super) fn task_record() -> TaskRecord {
    let live = |attempt, phase| AttemptRecord {
        attempt: Attempt(attempt),
        worker: peer(attempt as u8),
        phase,
        since: Millis(1_700_000_000_000),
        until: Some(Millis(1_700_000_600_000)),
        resources: resources(),
    };
    let extras = TaskExtras {
        last: Some(Failure { attempt: Attempt(3), worker: peer(3), class: ErrorClass::Exit, reason: text() }),
        checkpoint: Some(output()),
        rounds: 1,
        revealing: true,
        votes: vec![vote()],
    };
    let phases = [Phase::Assigned, Phase::Started, Phase::Committed(Digest([0xbb; 32])), Phase::Revealed(vote())];
    TaskRecord {
        state: TaskState::Running,
        newest: Attempt(4),
        first_at: Millis(1_700_000_000_000),
        failures: 1,
        losses: 2,
        live: (1..).zip(phases).map(|(attempt, phase)| live(attempt, phase)).collect(),
        won: Some(Box::new(Won { attempt: Attempt(4), worker: peer(4), output: output() })),
        extras: Some(Box::new(extras)),
    }
}
pub(super) fn compute_record() -> JobRecord {
    let settings = Settings { priority: 9, parallelism: 300, resources: resources() };
    let new = BatchRun::new(&compute(), Millis(1_700_000_000_100));
    let tasks = RunTasks {
        step: STEP,
        tally: Tally { total: 7, ready: 1, delayed: 2, running: 1, done: 1, dead_letters: 1, parked: 1 },
        settings,
        pass: 1 << 40,
        avoided: BTreeMap::from([
            (peer(4), WorkerRefusal { reason: text(), times: 300, until: Some(Millis(1_700_000_000_300)) }),
            (peer(5), WorkerRefusal { reason: text(), times: 1, until: None }),
        ]),
        dead_letters: vec![(STEP, TASK, text())],
        stale_reports: 70_000,
        durations: vec![0, 1, 300],
        ..new.tasks
    };
    let run = BatchRun {
        tasks,
        ending: Some(Ending::Reverted { reason: text() }),
        stopped_at: Some(Millis(1_700_000_000_200)),
        step_at: new.step_at,
        clock_at: new.clock_at,
    };
    let (spec, fired_by) = (JobSpec::batch(compute()), Some(FiredBy { job: JOB, number: 300 }));
    JobRecord { spec, run: Run::Batch(Box::new(run)), before_pause: Some(RunState::Running), fired_by, ..record() }
}

pub(super) fn results() -> Vec<TaskResult> {
    vec![
        TaskResult::Done { output: output(), bytes: output_ref().bytes },
        TaskResult::Failed { class: ErrorClass::Exit, reason: text() },
        TaskResult::Stopped,
        TaskResult::Commitment(Digest([0xbb; 32])),
        TaskResult::Reveal {
            nonce: Nonce([0x55; 16]),
            output: Some(output()),
            bytes: output_ref().bytes,
            receipt: result_receipt(),
        },
    ]
}

pub(super) fn report_refusals() -> Vec<ReportRefusal> {
    vec![
        ReportRefusal::Stale { newest: ATTEMPT },
        ReportRefusal::Unknown,
        ReportRefusal::NotAssigned,
        ReportRefusal::RecordFull,
        ReportRefusal::Invalid { reason: text() },
    ]
}

fn task_inputs() -> Vec<TaskInput> {
    vec![
        TaskInput::None,
        TaskInput::Item(stored()),
        TaskInput::Range {
            object: reference(),
            total: 20_000_000,
            offset: 1 << 20,
            length: 1 << 20,
            split: Split::Lines,
        },
        TaskInput::Outputs { step: STEP, from: TaskIndex(16), to: TaskIndex(32) },
    ]
}

pub(super) fn task_samples(samples: &mut Samples) {
    let limit = task::limits::MESSAGE_BYTES_MAX;
    let (quorum, term, tasks) = (QUORUM, Term(7), vec![task()]);
    let context = StepContext {
        job: JOB,
        step: STEP,
        owner: peer(1),
        readers: BTreeSet::from([peer(3)]),
        submitted_at: Millis(1_750_000_000_000),
        call: call(),
        resources: resources(),
        timeout: Duration::from_millis(600_250),
        output: OutputPlace::Object,
        idempotent: true,
        verified: true,
        proof: Some(OwnerProof {
            signature: owner_signature().signature,
            trigger: owner_signature().trigger,
            work: Bytes::from_static(b"work"),
            fire: Some(FireProof { trigger: JOB, number: 300, input: Bytes::from_static(b"{}") }),
        }),
    };
    let assignment = |input| Assignment {
        task: task(),
        of: 70_000,
        input,
        outputs: vec![output_ref()],
        inputs: Digest([0xaa; 32]),
        token: Digest([0xcc; 32]),
        checkpoint: Some(OutputRef { bytes: None, ..output_ref() }),
    };
    let assignments = task_inputs().into_iter().map(assignment).collect();
    let progress = Progress { task: task(), permille: 125, note: text() };
    let reports = results().into_iter().map(|result| Report { task: task(), result }).collect();
    let messages = vec![
        TaskMessage::Assign { quorum, term, lease: LEASE, steps: vec![context], assignments },
        TaskMessage::Stop { quorum, term, lease: LEASE, tasks: tasks.clone(), keep_checkpoint: true },
        TaskMessage::Reveal { quorum, term, lease: LEASE, tasks: tasks.clone() },
        TaskMessage::Start { quorum, tasks: tasks.clone() },
        TaskMessage::Heartbeat { quorum, lease: LEASE, running: vec![progress] },
        TaskMessage::Report { quorum, reports },
        TaskMessage::Checkpoint { quorum, task: task(), checkpoint: output(), bytes: output_ref().bytes },
        TaskMessage::Logs { task: task(), stream: LogStream::Stderr, from: 4096, wait_ms: 0 },
        TaskMessage::Logs { task: task(), stream: LogStream::Stdout, from: 0, wait_ms: 5_000 },
    ];
    samples.all("task", "message", limit, messages);
    let answers = vec![
        TaskAnswer::Accepted { accepted: tasks.clone(), refused: vec![(task(), text())] },
        TaskAnswer::Acknowledged,
        TaskAnswer::Recorded(vec![Ok(()), Err(ReportRefusal::Unknown)]),
        TaskAnswer::StaleTerm { seen: Term(8) },
        TaskAnswer::UnknownLease,
        TaskAnswer::NotPrimary { primary: Some(member(2)), voters: vec![member(2), member(3)] },
        TaskAnswer::Busy,
        TaskAnswer::Unknown,
        TaskAnswer::Malformed { reason: text() },
        TaskAnswer::Logs { at: 4096, bytes: Bytes::from_static(b"a line"), ended: true },
        TaskAnswer::NoLogs,
        TaskAnswer::Forbidden,
    ];
    samples.all("task", "answer", limit, answers);
    samples.all("task", "result", limit, results());
    samples.all("task", "report-refusal", limit, report_refusals());
    samples.all("task", "input", limit, task_inputs());
    samples.all("task", "error-class", limit, ErrorClass::ALL.to_vec());
    let object = Place::Object { quorum: QUORUM, manifest: manifest().hash() };
    samples.all("task", "place", limit, vec![Place::Record, object]);
    samples.all("task", "phase", limit, task_record().live.into_iter().map(|live| live.phase).collect());
    let until = Millis(1_700_000_000_000);
    use TaskState::{DeadLetter, Delayed, Done, Parked, Ready, Running};
    samples.all("task", "state", limit, vec![Ready, Delayed { until }, Running, Done, DeadLetter, Parked]);
    let verdicts = vec![Verdict::Output(output().digest), Verdict::Failed(ErrorClass::Trap)];
    samples.all("task", "verdict", limit, verdicts);
    samples.all("task", "ending", limit, vec![Ending::Cancelled, Ending::Reverted { reason: text() }]);
}
