//! Jobs that compute, over the real state machine and scripted workers, under virtual time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_protocols::approval::{ApprovalAnswer, ApprovalMessage, Refusal};
use quorate_protocols::capacity::Capacity;
use quorate_protocols::directory::PeerAdvert;
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{Attempt, BootId, Digest, Incarnation, JobId, LogIndex, Millis, PeerId, Term};
use quorate_protocols::job::batch::{BatchSpec, Map};
use quorate_protocols::job::{JobSpec, RunState};
use quorate_protocols::liveness::Latency;
use quorate_protocols::liveness::patience::{RENEWAL_TRIES, REPEAT_MIN, trusted};
use quorate_protocols::quorum::{Command, Control, QuorumState, TaskCommand};
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::message::{Report, ReportRefusal, TaskAnswer, TaskMessage, TaskResult};
use quorate_protocols::task::record::{Output, Place, TaskAttempt};
use quorate_protocols::task::spec::{Call, Program};
use quorate_protocols::wire;

use tokio::time::Instant;

use super::*;
use crate::directory::KnownPeer;
use crate::primary::ReportIntake;
use crate::quorums::approvals::{Approvals, ApprovalsParts};
use crate::quorums::ports::LocalTasks;
use crate::seams::Protocol;
use crate::testing::quorums::{
    Known, QUORUM, Reaction, ScriptedNet, StateQuorum, StateQuorums, approve, key, peer, seams,
};

const JOB: JobId = JobId { quorum: QUORUM, local: [1; 16] };
const PRIMARY: u8 = 1;

/// What the workers of a test do: by default they take everything and wait for the test to report for them.
#[derive(Default)]
struct Script {
    /// Nobody listens there.
    dead: Mutex<BTreeSet<PeerId>>,
    /// Does not answer what it is told.
    silent: Mutex<BTreeSet<PeerId>>,
    /// Their leases have ended.
    forgetful: Mutex<BTreeSet<PeerId>>,
    /// They will not run it.
    unwilling: Mutex<BTreeSet<PeerId>>,
    /// Leave their renewals unanswered.
    lost: Mutex<BTreeSet<PeerId>>,
    /// Were told that their lease is not needed.
    given_back: Mutex<BTreeSet<PeerId>>,
    /// When each was asked to renew.
    renewals: Mutex<Vec<Instant>>,
    /// What each was told, in order.
    heard: Mutex<BTreeMap<PeerId, Vec<TaskMessage>>>,
}

impl Script {
    fn task(&self, n: u8, message: TaskMessage) -> TaskAnswer {
        self.heard.lock().entry(peer(n)).or_default().push(message.clone());
        match message {
            TaskMessage::Assign { assignments, .. } => {
                let tasks = assignments.iter().map(|assignment| assignment.task);
                if self.unwilling.lock().contains(&peer(n)) {
                    let refused = tasks.map(|task| (task, "it is not on the list".to_owned())).collect();
                    return TaskAnswer::Accepted { accepted: Vec::new(), refused };
                }
                TaskAnswer::Accepted { accepted: tasks.collect(), refused: Vec::new() }
            }
            TaskMessage::Stop { .. } | TaskMessage::Reveal { .. } => TaskAnswer::Acknowledged,
            other => panic!("{other:?} is not for a worker"),
        }
    }
    fn approval(&self, n: u8, message: ApprovalMessage) -> ApprovalAnswer {
        if matches!(message, ApprovalMessage::Release { .. }) {
            self.given_back.lock().insert(peer(n));
        }
        if matches!(message, ApprovalMessage::Renew { .. }) {
            self.renewals.lock().push(Instant::now());
        }
        match message {
            ApprovalMessage::Ask(request) => approve(n, peer(PRIMARY), &request),
            ApprovalMessage::Renew { .. } if self.forgetful.lock().contains(&peer(n)) => {
                ApprovalAnswer::Refused(Refusal::UnknownLease)
            }
            _ => ApprovalAnswer::Acknowledged,
        }
    }
}

struct Local(Arc<Script>);

impl LocalTasks for Local {
    fn answer(&self, _: PeerId, message: TaskMessage) -> BoxFuture<'static, TaskAnswer> {
        let answer = self.0.task(PRIMARY, message);
        async move { answer }.boxed()
    }
}

impl crate::quorums::ports::LocalApprover for Local {
    fn answer(&self, _: PeerId, message: ApprovalMessage) -> BoxFuture<'static, ApprovalAnswer> {
        let answer = self.0.approval(PRIMARY, message);
        async move { answer }.boxed()
    }
}

struct World {
    quorum: Arc<StateQuorum>,
    script: Arc<Script>,
    known: Arc<Known>,
    wait_reasons: WaitReasons,
    report_intake: ReportIntake,
}

/// A primary, node 1, and nodes 2 to `peers` with `slots` slots each. Node 1 has none.
fn world(peers: u8, slots: u32) -> World {
    let script = Arc::new(Script::default());
    let theirs = script.clone();
    let net = ScriptedNet::new(peer(PRIMARY), move |to, protocol, frame| {
        if theirs.dead.lock().contains(&to) {
            return Reaction::Unreachable;
        }
        let n = (1..=peers).find(|n| peer(*n) == to).expect("only known peers are asked");
        match protocol {
            Protocol::Approval => {
                let answer = theirs.approval(n, wire::decode(&frame.head, 65_536).unwrap());
                let is_lost = matches!(answer, ApprovalAnswer::Acknowledged) && theirs.lost.lock().contains(&to);
                if is_lost { Reaction::Silent } else { Reaction::answer(&answer) }
            }
            Protocol::Task if theirs.silent.lock().contains(&to) => Reaction::Silent,
            Protocol::Task => Reaction::answer(&theirs.task(n, wire::decode(&frame.head, 1 << 20).unwrap())),
            other => panic!("{other:?} is not the driver's to speak"),
        }
    });
    let known = Arc::new(Known::default());
    for n in 2..=peers {
        known.candidates.lock().push(peer(n));
        let advert = PeerAdvert {
            incarnation: Incarnation(1),
            boot_number: 1,
            boot: BootId([n; 16]),
            sequence: 1,
            roles: vec![NodeRole::Store, NodeRole::Command],
            name: String::new(),
            labels: BTreeMap::new(),
            free: Capacity { disk_bytes: 0, memory_bytes: 1 << 40, slots },
            load_permille: 0,
            quorums: 0,
            draining: false,
            level: 1,
            admission: None,
        };
        known.peers.lock().push(KnownPeer { peer: peer(n), advert, heard_at: Millis(0) });
    }
    let seams = seams(u64::from(peers));
    let (quorum, wait_reasons) = (StateQuorum::new(PRIMARY), WaitReasons::default());
    let metrics = DriverMetrics::default();
    let quorums = Arc::new(StateQuorums(quorum.clone()));
    let local = Arc::new(Local(script.clone()));
    let approvals = Approvals::new(ApprovalsParts {
        seams: seams.clone(),
        net: net.clone(),
        knowledge: known.clone(),
        local: local.clone(),
    });
    let report_intake = ReportIntake {
        quorums: quorums.clone(),
        heartbeats: wait_reasons.heartbeats().clone(),
        metrics: metrics.clone(),
    };
    start(DriverParts {
        quorums,
        events: quorum.events(),
        env: DriverEnv {
            seams,
            net,
            knowledge: known.clone(),
            approvals,
            pieces: Arc::new(super::tests::NoPieces),
            worker: Some(local),
            wait_reasons: wait_reasons.clone(),
            audit_hints: AuditHints::default(),
            sources: Arc::new(crate::testing::quorums::NoSources),
            metrics,
            settings: DriverSettings::default(),
        },
    });
    World { quorum, script, known, wait_reasons, report_intake }
}

fn spec(tasks: u32) -> BatchSpec {
    let call = Call::new(Program::Command { name: "map".to_owned() });
    BatchSpec { map: Map::Count(tasks), ..BatchSpec::new(call) }
}

fn done() -> TaskResult {
    let output = Output { digest: Digest(*blake3::hash(b"").as_bytes()), bytes: 0, place: Place::Record };
    TaskResult::Done { output, bytes: Some(Bytes::new()) }
}

impl World {
    fn submit(&self, spec: BatchSpec) {
        let spec = JobSpec::batch(spec);
        self.quorum.commit(peer(99), Command::submit(&key(99), JOB, spec)).unwrap();
    }
    fn state(&self) -> RunState {
        self.quorum.read(|state| state.jobs()[&JOB].state)
    }
    /// Orders that the worker was sent so far and that still count, by the term of their message.
    fn assignments(&self, n: u8) -> Vec<(Term, TaskAttempt)> {
        let heard = self.script.heard.lock();
        let assigns = heard.get(&peer(n)).into_iter().flatten().filter_map(|message| match message {
            TaskMessage::Assign { term, assignments, .. } => Some((*term, assignments.clone())),
            _ => None,
        });
        let all = assigns
            .flat_map(|(term, assignments)| assignments.into_iter().map(move |assignment| (term, assignment.task)));
        let live: BTreeSet<_> = self.quorum.read(|state| state.attempts_of(peer(n)).map(|(task, _)| task).collect());
        all.filter(|(_, task)| live.contains(task)).collect()
    }
    fn messages(&self, n: u8) -> usize {
        self.script.heard.lock().get(&peer(n)).map_or(0, Vec::len)
    }
    async fn report(&self, n: u8, tasks: &[TaskAttempt], result: &TaskResult) -> Vec<Result<(), ReportRefusal>> {
        let reports = tasks.iter().map(|task| Report { task: *task, result: result.clone() }).collect();
        match self.report_intake.answer(peer(n), TaskMessage::Report { quorum: QUORUM, reports }).await {
            TaskAnswer::Recorded(answers) => answers,
            other => panic!("{other:?}"),
        }
    }
    /// Waits, for at most a minute of virtual time, until the worker has assignments that still count.
    async fn ordered(&self, n: u8) -> Vec<TaskAttempt> {
        for _ in 0..60_000 {
            let assignments = self.assignments(n);
            if !assignments.is_empty() {
                return assignments.into_iter().map(|(_, task)| task).collect();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("node {n} was given nothing; the state is {:#?}", self.quorum.read(|state| state.clone()));
    }
}

/// Goal: a map is won workers for, handed out in few messages, and what a result frees is given away without a pause.
#[tokio::test(start_paused = true)]
async fn a_wide_map_goes_to_workers_in_batches_without_waiting() {
    let world = world(3, 100);
    world.submit(spec(1_000));
    let started = tokio::time::Instant::now();
    let mut rounds = 0;
    while world.state() != RunState::Succeeded {
        for n in [2, 3] {
            let assignments: Vec<_> = world.assignments(n).into_iter().map(|(_, task)| task).collect();
            for batch in assignments.chunks(256) {
                assert!(world.report(n, batch, &done()).await.iter().all(Result::is_ok));
            }
        }
        rounds += 1;
        assert!(rounds < 1_000, "{:?}", world.state());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Winning the workers takes some milliseconds; ten hands of a hundred tasks each take two or three each.
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    let messages = world.messages(2) + world.messages(3);
    assert!(messages <= 24, "{messages} messages for 1000 tasks");
}

/// Goal: a task does not wait for the deadline of a message that was lost. Method: the worker hears nothing of its
/// first assignment, and all that comes after.
#[tokio::test(start_paused = true)]
async fn an_assignment_that_is_lost_is_sent_again_soon() {
    let world = world(2, 1);
    world.script.silent.lock().insert(peer(2));
    world.submit(spec(1));
    world.quorum.reaches("an attempt", |state| state.attempts_of(peer(2)).next().is_some()).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    world.script.silent.lock().clear();
    let began = Instant::now();
    let tasks = world.ordered(2).await;
    assert!(began.elapsed() < 2 * REPEAT_MIN, "{:?}", began.elapsed());
    assert_eq!(world.report(2, &tasks, &done()).await, [Ok(())]);
    assert_eq!(world.state(), RunState::Succeeded);
}

/// Goal: one result whatever a lost worker still says. Method: it takes a task, falls silent past its lease, and comes
/// back with its result after another has the task.
#[tokio::test(start_paused = true)]
async fn a_worker_that_falls_silent_is_lost_and_its_late_result_refused() {
    let world = world(2, 1);
    world.submit(spec(1));
    let old = world.ordered(2).await[0];
    world.script.dead.lock().insert(peer(2));
    let lost = |state: &QuorumState| state.tasks().workers().is_empty();
    let started = tokio::time::Instant::now();
    world.quorum.reaches("the loss", lost).await;
    let lease = DriverSettings::default().worker_lease;
    assert!(started.elapsed() >= lease * 3 / 4 && started.elapsed() < lease * 2, "{:?}", started.elapsed());
    assert_eq!(world.report(2, &[old], &done()).await, [Err(ReportRefusal::Stale { newest: old.attempt })]);
    assert_eq!(
        (world.report_intake.metrics.workers_lost.get(), world.report_intake.metrics.reports_stale.get()),
        (1, 1)
    );
    world.script.dead.lock().clear();
    let new = world.ordered(2).await[0];
    assert_eq!((new.id, new.attempt), (old.id, Attempt(2)));
    assert_eq!(world.report(2, &[new], &done()).await, [Ok(())]);
    assert_eq!(world.state(), RunState::Succeeded);
}

/// Goal: a worker that is not trusted any more is given nothing, its lease goes back, and its task to another; what it
/// still says is stale.
#[tokio::test(start_paused = true)]
async fn a_worker_that_is_not_trusted_any_more_leaves_with_its_tasks() {
    let world = world(3, 1);
    world.submit(spec(4));
    let old = world.ordered(2).await[0];
    world.ordered(3).await;
    let started = Instant::now();
    world.known.distrusted.lock().insert(peer(2));
    world.quorum.reaches("the loss", |state| !state.tasks().workers().contains_key(&peer(2))).await;
    assert!(started.elapsed() < DriverSettings::default().worker_lease / 2, "{:?}", started.elapsed());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(world.script.given_back.lock().contains(&peer(2)));
    assert_eq!(world.report(2, &[old], &done()).await, [Err(ReportRefusal::Stale { newest: old.attempt })]);
    while world.state() != RunState::Succeeded {
        let tasks = world.ordered(3).await;
        assert!(world.report(3, &tasks, &done()).await.iter().all(Result::is_ok));
    }
    assert!(world.assignments(2).is_empty());
    assert!(!world.quorum.read(|state| state.tasks().workers().contains_key(&peer(2))));
}

/// Goal: how soon a worker that died is given up follows from its lease alone, whether its address refuses or nothing
/// is heard, and whatever links and disks take: three renewals were tried by then.
#[tokio::test(start_paused = true)]
async fn a_dead_worker_is_given_up_when_its_lease_is_trusted_no_more_whatever_the_latency() {
    for (round_trip, sync) in [(0, 0), (60, 60), (400, 0), (400, 1_000)] {
        for is_refused in [true, false] {
            let world = world(2, 1);
            let (round_trip, sync) = (Duration::from_millis(round_trip), Duration::from_millis(sync));
            *world.quorum.latency.lock() = Latency { round_trip, sync };
            world.submit(spec(1));
            world.ordered(2).await;
            let script = &world.script;
            let gone = if is_refused { &script.dead } else { &script.lost };
            gone.lock().insert(peer(2));
            // That of a worker that was just won.
            script.renewals.lock().clear();
            let started = Instant::now();
            world.quorum.reaches("the loss", |state| state.tasks().workers().is_empty()).await;
            let (took, trusted) = (started.elapsed(), trusted(DriverSettings::default().worker_lease));
            assert!(took <= trusted && took + Duration::from_millis(100) > trusted, "{took:?} of {trusted:?}");
            let tries = script.renewals.lock().len();
            assert!(is_refused || tries == RENEWAL_TRIES as usize, "{tries} tries");
        }
    }
}

/// Goal: a lease that was last renewed while the old primary was dying does not end while the new one settles.
#[tokio::test(start_paused = true)]
async fn a_new_primary_renews_the_leases_that_it_finds_at_once() {
    let world = world(2, 1);
    world.submit(spec(1));
    world.ordered(2).await;
    world.quorum.set_term(None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.script.renewals.lock().len(), 1, "a worker that was just won is confirmed once");
    world.quorum.set_term(Some(Term(2)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.script.renewals.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_has_ended_at_its_worker_ends_here_at_the_next_renewal() {
    let world = world(3, 1);
    world.submit(spec(1));
    let (first, other) = if world.ordered_by_any().await == 2 { (2, 3) } else { (3, 2) };
    world.script.forgetful.lock().insert(peer(first));
    let started = tokio::time::Instant::now();
    let lost = |state: &QuorumState| !state.tasks().workers().contains_key(&peer(first));
    world.quorum.reaches("the loss", lost).await;
    assert!(started.elapsed() <= DriverSettings::default().worker_lease / 2, "{:?}", started.elapsed());
    world.script.dead.lock().insert(peer(first));
    let task = world.ordered(other).await[0];
    assert_eq!(world.report(other, &[task], &done()).await, [Ok(())]);
}

impl World {
    async fn ordered_by_any(&self) -> u8 {
        for _ in 0..60_000 {
            if let Some(n) = (2..=3).find(|n| !self.assignments(*n).is_empty()) {
                return n;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("nobody was given anything");
    }
}

/// Goal: a message to a worker that was lost while it was on its way says nothing about the worker that was won again.
/// Method: its questions go unanswered, so that it is lost with one under way; then it is back, with a new lease.
#[tokio::test(start_paused = true)]
async fn a_worker_that_was_lost_and_won_again_is_told_its_tasks() {
    let world = world(2, 3);
    world.script.silent.lock().insert(peer(2));
    world.submit(spec(1));
    world.quorum.reaches("the worker", |state| !state.tasks().workers().is_empty()).await;
    world.quorum.reaches("an attempt", |state| state.attempts_of(peer(2)).next().is_some()).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let lease = world.quorum.read(|state| state.tasks().workers()[&peer(2)].grant.lease);
    let lose = Command::Task(TaskCommand::LoseWorker { peer: peer(2), lease, reason: "gone".to_owned() });
    world.quorum.commit(peer(PRIMARY), lose).unwrap();
    world.script.silent.lock().clear();
    let task = world.ordered(2).await[0];
    assert!(task.attempt > Attempt(1));
    // Past the end of the message that was never answered.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.report(2, &[task], &done()).await, [Ok(())]);
    let job = JobId { local: [2; 16], ..JOB };
    world.quorum.commit(peer(99), Command::submit(&key(99), job, JobSpec::batch(spec(1)))).unwrap();
    world.ordered(2).await;
}

/// Goal: whatever the old primary said, the next one says again, under its own term.
#[tokio::test(start_paused = true)]
async fn a_new_primary_tells_workers_what_they_have() {
    let world = world(2, 2);
    world.submit(spec(2));
    let tasks = world.ordered(2).await;
    world.quorum.set_term(None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.quorum.set_term(Some(Term(2)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again: Vec<_> = world.assignments(2).into_iter().filter(|(term, _)| *term == Term(2)).collect();
    assert_eq!(again, tasks.iter().map(|task| (Term(2), *task)).collect::<Vec<_>>());
    assert!(world.report(2, &tasks, &done()).await.iter().all(Result::is_ok));
    assert_eq!(world.state(), RunState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_the_worker_at_once_and_again_until_it_has_stopped() {
    let world = world(2, 1);
    world.submit(spec(1));
    let task = world.ordered(2).await[0];
    world.quorum.commit(peer(99), Command::control(JOB, LogIndex(u64::MAX), Control::Cancel)).unwrap();
    let stops = || {
        let heard = world.script.heard.lock();
        let stop = |message: &&TaskMessage| matches!(message, TaskMessage::Stop { tasks, .. } if tasks == &[task]);
        heard[&peer(2)].iter().filter(stop).count()
    };
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!((stops(), world.state()), (1, RunState::Cancelling));
    // It may have restarted and forgotten.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!((2..=4).contains(&stops()), "{}", stops());
    assert_eq!(world.report(2, &[task], &TaskResult::Stopped).await, [Ok(())]);
    assert_eq!(world.state(), RunState::Cancelled);
}

/// Goal: no worker is asked again while what it came to may still be on its way to the record.
#[tokio::test(start_paused = true)]
async fn over_slow_links_and_disks_a_worker_has_the_time_to_stop_before_it_is_asked_again() {
    let world = world(2, 1);
    let latency = Latency { round_trip: Duration::from_millis(400), sync: Duration::from_secs(1) };
    *world.quorum.latency.lock() = latency;
    world.submit(spec(1));
    world.ordered(2).await;
    let before = world.messages(2);
    world.quorum.commit(peer(99), Command::control(JOB, LogIndex(u64::MAX), Control::Cancel)).unwrap();
    tokio::time::sleep(latency.round_trip + 2 * latency.sync + latency.commit()).await;
    assert_eq!(world.messages(2) - before, 1);
    tokio::time::sleep(latency.commit()).await;
    assert_eq!(world.messages(2) - before, 2, "it may have restarted");
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_refuses_goes_to_another_is_explained_and_is_offered_again() {
    let world = world(3, 1);
    world.script.unwilling.lock().extend([peer(2), peer(3)]);
    world.submit(spec(1));
    let refused = |state: &QuorumState| {
        state.jobs()[&JOB]
            .batch()
            .is_some_and(|(_, run)| run.tasks.avoided.contains_key(&peer(2)) && run.tasks.avoided.len() == 2)
    };
    world.quorum.reaches("both refusals", refused).await;
    let why = world.quorum.read(|state| state.why(JOB).unwrap());
    assert!(why.contains("it is not on the list"), "{why}");
    assert_eq!(world.state(), RunState::Running);
    // What it was refused for has passed at one of them: it is offered again, and runs there.
    world.script.unwilling.lock().remove(&peer(2));
    world.quorum.reaches("another offer", |state| state.attempts_of(peer(2)).next().is_some()).await;
    let task = world.quorum.read(|state| state.attempts_of(peer(2)).next().unwrap().0);
    assert_eq!(world.report(2, &[task], &done()).await, [Ok(())]);
    assert_eq!(world.state(), RunState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_failed_task_is_tried_again_when_its_pause_is_over() {
    let world = world(2, 1);
    world.submit(spec(1));
    let first = world.ordered(2).await[0];
    let failed = TaskResult::Failed { class: ErrorClass::Exit, reason: "1".to_owned() };
    assert_eq!(world.report(2, &[first], &failed).await, [Ok(())]);
    let started = tokio::time::Instant::now();
    let second = world.ordered(2).await[0];
    assert_eq!(second.attempt, Attempt(2));
    let pause = started.elapsed();
    assert!(pause >= Duration::from_millis(700) && pause <= Duration::from_millis(1_200), "{pause:?}");
}

/// Goal: a worker that has nothing to do is kept for a while, and while it is used; then its lease goes back.
#[tokio::test(start_paused = true)]
async fn an_idle_worker_is_kept_for_a_while_and_let_go() {
    let world = world(2, 1);
    world.submit(spec(1));
    let task = world.ordered(2).await[0];
    assert_eq!(world.report(2, &[task], &done()).await, [Ok(())]);
    let idle = DriverSettings::default().worker_idle;
    tokio::time::sleep(idle / 2).await;
    let job = JobId { local: [2; 16], ..JOB };
    let again = JobSpec::batch(spec(1));
    world.quorum.commit(peer(99), Command::submit(&key(99), job, again)).unwrap();
    let task = world.ordered(2).await[0];
    assert_eq!(world.report(2, &[task], &done()).await, [Ok(())]);
    tokio::time::sleep(idle * 3 / 4).await;
    assert_eq!(world.quorum.read(|state| state.tasks().workers().len()), 1, "it was used a moment ago");
    world.quorum.reaches("the release", |state| state.tasks().workers().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_finds_no_worker_says_what_is_looked_for_and_what_each_peer_lacks() {
    let world = world(2, 0);
    world.submit(spec(1));
    for _ in 0..60_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if let Some(reason) = world.wait_reasons.workers(QUORUM) {
            assert!(reason.contains("a command task, which needs 1 slot, "), "{reason}");
            let lacks = format!("{}: it has 0 task slots left, and 1 is needed", peer(2));
            assert!(reason.contains(&lacks), "{reason}");
            return;
        }
    }
    panic!("nothing is said");
}
