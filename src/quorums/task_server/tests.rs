//! The service over the real state machine.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_protocols::approval::Grant;
use quorate_protocols::capacity::Capacity;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{Attempt, Digest, JobId, LeaseId, StepIndex, TaskIndex, Term};
use quorate_protocols::job::JobSpec;
use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::quorum::{Command, TaskCommand};
use quorate_protocols::task::message::{Progress, Report, ReportRefusal, TaskResult};
use quorate_protocols::task::record::{Output, Place, TaskAttempt, TaskId, WorkerRecord};
use quorate_protocols::task::spec::{Call, Program};
use tokio::sync::oneshot;

use super::*;
use crate::primary::{DriverMetrics, PrimaryServices, WorkerHeartbeats};
use crate::seams::Reply;
use crate::seams::Reservation;
use crate::testing::quorums::{
    Known, QUORUM, Reaction, ScriptedNet, StateQuorum, StateQuorums, key, member, peer, seams,
};
use crate::testing::standings::Believed;

const JOB: JobId = JobId { quorum: QUORUM, local: [1; 16] };
const WORKER: u8 = 3;
const TASK: TaskAttempt =
    TaskAttempt { id: TaskId { job: JOB, step: StepIndex(0), task: TaskIndex(0) }, attempt: Attempt(1) };

struct World {
    requests: mpsc::Sender<InboundRequest>,
    net: Arc<ScriptedNet>,
    quorum: Arc<StateQuorum>,
    heartbeats: WorkerHeartbeats,
    metrics: DriverMetrics,
}

/// A primary whose quorum has given a task to node 3.
fn world() -> World {
    let net = ScriptedNet::new(peer(1), |_, _, _| Reaction::Unreachable);
    let quorum = StateQuorum::new(1);
    let (requests, receiver) = mpsc::channel(16);
    let quorums = Arc::new(StateQuorums(quorum.clone()));
    let primary = PrimaryServices::new(quorums, Arc::new(Known::default()));
    let (heartbeats, metrics) = (primary.wait_reasons.heartbeats().clone(), primary.metrics.clone());
    TaskService { net: net.clone(), primary: Arc::new(primary), standings: Believed::all_but([]), worker: None }
        .start(&seams(1).tasks, receiver);
    let worker = WorkerRecord {
        grant: Grant { holder: member(WORKER), lease: LeaseId([3; 16]) },
        capacity: Capacity { slots: 2, memory_bytes: 1 << 30, disk_bytes: 0 },
        engines: vec![Engine::Command],
        labels: BTreeMap::new(),
    };
    quorum.commit(peer(1), Command::Task(TaskCommand::SetWorker { worker })).unwrap();
    let spec = BatchSpec::new(Call::new(Program::Command { name: "true".to_owned() }));
    quorum.commit(peer(9), Command::submit(&key(9), JOB, JobSpec::batch(spec))).unwrap();
    assert_eq!(quorum.read(|state| state.attempts_of(peer(WORKER)).map(|(task, _)| task).collect::<Vec<_>>()), [TASK]);
    World { requests, net, quorum, heartbeats, metrics }
}

impl World {
    async fn ask_raw(&self, from: u8, head: Vec<u8>) -> TaskAnswer {
        let (reply, answer) = oneshot::channel();
        let request = InboundRequest {
            from: peer(from),
            frame: Frame::head(head),
            reply: Reply(reply),
            memory: Reservation::none(),
        };
        self.requests.send(request).await.expect("the service runs");
        wire::decode(&answer.await.expect("every request is answered").head, MESSAGE_BYTES_MAX).unwrap()
    }
    async fn ask(&self, from: u8, message: TaskMessage) -> TaskAnswer {
        self.ask_raw(from, wire::encode(&message)).await
    }
}

fn done() -> TaskMessage {
    let output = Output { digest: Digest(*blake3::hash(b"").as_bytes()), bytes: 0, place: Place::Record };
    let result = TaskResult::Done { output, bytes: Some(Bytes::new()) };
    TaskMessage::Report { quorum: QUORUM, reports: vec![Report { task: TASK, result }] }
}

/// Goal: a result is recorded once, for the worker that it was given to, and whoever comes late is told and counted.
#[tokio::test(start_paused = true)]
async fn reports_are_committed_as_the_worker_that_made_them() {
    let world = world();
    assert_eq!(world.ask(4, done()).await, TaskAnswer::Recorded(vec![Err(ReportRefusal::NotAssigned)]));
    assert_eq!(world.ask(WORKER, done()).await, TaskAnswer::Recorded(vec![Ok(())]));
    assert_eq!(world.ask(WORKER, done()).await, TaskAnswer::Recorded(vec![Ok(())]), "said again, it is recorded");
    assert!(world.quorum.read(|state| state.jobs()[&JOB].state.is_final()));
    let stale = TaskAttempt { attempt: Attempt(7), ..TASK };
    let result = TaskResult::Stopped;
    let report = TaskMessage::Report { quorum: QUORUM, reports: vec![Report { task: stale, result }] };
    assert!(matches!(world.ask(WORKER, report).await, TaskAnswer::Recorded(answers) if answers[0].is_err()));
    assert_eq!((world.metrics.reports_recorded.get(), world.metrics.reports_refused.get()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn beats_count_only_under_a_lease_and_say_how_far_tasks_are() {
    let world = world();
    let heartbeat = |lease: u8| TaskMessage::Heartbeat {
        quorum: QUORUM,
        lease: LeaseId([lease; 16]),
        running: vec![Progress { task: TASK, permille: 9_999, note: "ä".repeat(10_000) }],
    };
    assert_eq!(world.ask(4, heartbeat(3)).await, TaskAnswer::UnknownLease);
    assert_eq!(world.ask(WORKER, heartbeat(4)).await, TaskAnswer::UnknownLease);
    assert_eq!(world.heartbeats.heard_at(QUORUM, peer(WORKER)), None);
    assert_eq!(world.ask(WORKER, heartbeat(3)).await, TaskAnswer::Acknowledged);
    let [(worker, progress)] = &world.heartbeats.of_job(JOB)[..] else { panic!("one task was spoken of") };
    assert_eq!((*worker, progress.permille), (peer(WORKER), 1000));
    assert!(progress.note.len() <= quorate_protocols::text::REASON_BYTES_MAX);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_says_who_may_and_orders_need_a_worker() {
    let world = world();
    let order = TaskMessage::Stop {
        quorum: QUORUM,
        term: quorate_protocols::ids::Term(1),
        lease: LeaseId([3; 16]),
        tasks: vec![TASK],
        keep_checkpoint: false,
    };
    assert_eq!(world.ask(1, order).await, TaskAnswer::UnknownLease);
    world.quorum.set_term(None);
    assert!(matches!(world.ask(WORKER, done()).await, TaskAnswer::NotPrimary { .. }));
    let other = TaskMessage::Report { quorum: quorate_protocols::ids::QuorumId([8; 16]), reports: Vec::new() };
    assert_eq!(world.ask(WORKER, other).await, TaskAnswer::NotPrimary { primary: None, voters: Vec::new() });
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_or_names_too_much_is_refused_and_penalised() {
    let world = world();
    assert!(matches!(world.ask_raw(WORKER, vec![0xff; 9]).await, TaskAnswer::Malformed { .. }));
    let many = TaskMessage::Start { quorum: QUORUM, tasks: vec![TASK; BATCH_MAX + 1] };
    assert!(matches!(world.ask(WORKER, many).await, TaskAnswer::Malformed { .. }));
    assert_eq!(world.net.penalised.lock().len(), 2);
}

/// A worker that does what it is told.
#[derive(Default)]
struct Obedient(parking_lot::Mutex<Vec<PeerId>>);

impl LocalTasks for Obedient {
    fn answer(&self, from: PeerId, _: TaskMessage) -> BoxFuture<'static, TaskAnswer> {
        self.0.lock().push(from);
        Box::pin(std::future::ready(TaskAnswer::Acknowledged))
    }
}

/// Goal: whoever is no voter of the quorum in whose name it speaks orders nothing, whatever lease and term it names.
#[tokio::test(start_paused = true)]
async fn a_worker_takes_orders_from_voters_of_the_quorum_alone() {
    let (voter, stranger) = (peer(2), peer(8));
    let worker = Arc::new(Obedient::default());
    let service = TaskService {
        net: ScriptedNet::new(peer(1), |_, _, _| Reaction::Unreachable),
        primary: Arc::new(PrimaryServices::new(
            Arc::new(StateQuorums(StateQuorum::new(1))),
            Arc::new(Known::default()),
        )),
        standings: Believed::all_but([stranger]),
        worker: Some(worker.clone()),
    };
    let (quorum, term, lease) = (QUORUM, Term(u64::MAX), LeaseId([3; 16]));
    let orders = [
        TaskMessage::Assign { quorum, term, lease, steps: vec![], assignments: vec![] },
        TaskMessage::Stop { quorum, term, lease, tasks: vec![TASK], keep_checkpoint: false },
        TaskMessage::Reveal { quorum, term, lease, tasks: vec![TASK] },
    ];
    for order in orders {
        assert_eq!(service.answer(stranger, order.clone()).await, TaskAnswer::UnknownLease);
        assert_eq!(service.answer(voter, order).await, TaskAnswer::Acknowledged);
    }
    assert_eq!(*worker.0.lock(), [voter; 3]);
}
