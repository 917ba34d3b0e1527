//! A quorum's state with workers around it. The state is applied by hand; the primary's side is the few lines of
//! [`World::run_sessions`].

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use quorate_protocols::approval::Grant;
use quorate_protocols::approval::Subject;
use quorate_protocols::capacity::Capacity;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::*;
use quorate_protocols::job::JobRecord;
use quorate_protocols::job::batch::{BatchSpec, Map};
use quorate_protocols::job::plan::Plan;
use quorate_protocols::job::record::RunState;
use quorate_protocols::job::spec::JobSpec;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::watch::Until;
use quorate_protocols::quorum::{Batch, Command, CommandReply, QuorumCommand, QuorumState, Rejection, TaskCommand};
use quorate_protocols::task::message::{ReportRefusal, StepContext, TaskAnswer, TaskMessage};
use quorate_protocols::task::record::{Output, Place, TaskAttempt, TaskRecord, WorkerRecord};
use quorate_protocols::task::spec::{Call, Program};
use quorate_testkit::{MemoryDisk, VirtualClock};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::QUORUM;
use super::double::{Double, Scripted};
use crate::approver::EndedLease;
use crate::executors::Executor;
use crate::identity::Identity;
use crate::quorums::ports::LocalTasks;
use crate::quorums::{ClientError, QuorumPort, Report, ReportAnswer, Speaker};
use crate::seams::entropy::SeededEntropy;
use crate::seams::{Seams, TaskGroup};
use crate::storage::Storage;
use crate::workers::faults::WorkerFaults;
use crate::workers::ports::{ObjectBytes, TaskObjects, WorkerLeases};
use crate::workers::{WorkerMetrics, WorkerParts, Workers};

/// The peer whose key is made of 200s: it signs what it submits.
pub const OWNER: PeerId = PeerId([
    0x97, 0xff, 0xc8, 0x83, 0xc8, 0x0b, 0xee, 0x72, 0x37, 0xef, 0x95, 0xd9, 0xb9, 0xb7, 0x03, 0xd4, 0xad, 0x63, 0xe6,
    0x0a, 0x21, 0xe6, 0x05, 0x86, 0x76, 0x82, 0xb7, 0x5b, 0x8b, 0x3f, 0x43, 0x03,
]);
pub const PRIMARY: PeerId = PeerId([201; 32]);

/// How long a test waits, in virtual time.
const PATIENCE: Duration = Duration::from_secs(300);

pub fn key(index: u8) -> SigningKey {
    SigningKey::from_bytes(&[index + 1; 32])
}

pub fn peer(index: u8) -> PeerId {
    PeerId(key(index).verifying_key().to_bytes())
}

pub fn call(args: &[&str]) -> Call {
    let mut call = Call::new(Program::Command { name: "script".to_owned() });
    call.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    call
}

pub fn compute(map: Map, call: Call) -> BatchSpec {
    let mut spec = BatchSpec { map, ..BatchSpec::new(call) };
    spec.resources.capacity.memory_bytes = 1 << 20;
    spec.retry.base = Duration::from_millis(100);
    spec
}

// ---- the quorum ----

pub struct FakeQuorum {
    state: Mutex<(QuorumState, u64)>,
    away: Mutex<BTreeSet<u8>>,
    full_once: AtomicBool,
    deaf_once: AtomicBool,
    /// What a heartbeat takes until it is heard.
    heartbeats_take: Mutex<Duration>,
    heartbeats: Mutex<Heartbeats>,
    began_at: Instant,
}

/// Heartbeats that were heard, and that are on their way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heartbeats {
    pub heard: usize,
    pub under_way: usize,
    pub most: usize,
}

impl FakeQuorum {
    pub fn slow_heartbeats(&self, take: Duration) {
        *self.heartbeats_take.lock() = take;
    }
    pub fn heartbeats(&self) -> Heartbeats {
        *self.heartbeats.lock()
    }
    async fn take_heartbeat(&self, deadline: Duration) -> bool {
        let take = *self.heartbeats_take.lock();
        {
            let mut heartbeats = self.heartbeats.lock();
            heartbeats.under_way += 1;
            heartbeats.most = heartbeats.most.max(heartbeats.under_way);
        }
        sleep(take.min(deadline)).await;
        let mut heartbeats = self.heartbeats.lock();
        heartbeats.under_way -= 1;
        heartbeats.heard += usize::from(take <= deadline);
        take <= deadline
    }
    pub fn with<R>(&self, read: impl FnOnce(&QuorumState) -> R) -> R {
        read(&self.state.lock().0)
    }
    pub fn apply(&self, by: PeerId, command: Command) -> Result<CommandReply, Rejection> {
        let (state, index) = &mut *self.state.lock();
        *index += 1;
        let now = Millis(1_000 + self.began_at.elapsed().as_millis() as u64);
        let batch = Batch::at(now, vec![(by, command)]);
        let (reply, _) = state.apply(LogIndex(*index), &batch);
        state.check_invariants().unwrap();
        reply.replies.into_iter().next().unwrap()
    }
    /// Cuts one worker off.
    pub fn set_away(&self, worker: u8, away: bool) {
        let mut cut = self.away.lock();
        if away {
            cut.insert(worker)
        } else {
            cut.remove(&worker)
        };
    }
    pub fn is_away(&self, worker: u8) -> bool {
        self.away.lock().contains(&worker)
    }
    /// The next report finds no room in the record.
    pub fn full_record_once(&self) {
        self.full_once.store(true, Ordering::SeqCst);
    }
    /// The next report is recorded, and its answer lost.
    pub fn lose_answer_once(&self) {
        self.deaf_once.store(true, Ordering::SeqCst);
    }
}

struct FakePort {
    quorum: Arc<FakeQuorum>,
    worker: u8,
}

impl FakePort {
    fn unreachable(&self) -> ClientError {
        ClientError::Busy { quorum: QUORUM }
    }
}

impl QuorumPort for FakePort {
    fn report(
        &self,
        _: QuorumId,
        report: Report,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<ReportAnswer, ClientError>> {
        let (quorum, worker, unreachable) = (self.quorum.clone(), self.worker, self.unreachable());
        let Report::Task(message) = report else { panic!("no report of a worker: {report:?}") };
        async move {
            // A commit takes a while.
            sleep(Duration::from_millis(3)).await;
            if quorum.is_away(worker) {
                sleep(deadline).await;
                return Err(unreachable);
            }
            if matches!(message, TaskMessage::Heartbeat { .. }) {
                let noted = ReportAnswer::Task(TaskAnswer::Acknowledged);
                return if quorum.take_heartbeat(deadline).await { Ok(noted) } else { Err(unreachable) };
            }
            let is_report = matches!(message, TaskMessage::Report { .. });
            let command = match message {
                TaskMessage::Start { tasks, .. } => Command::Task(TaskCommand::Start { tasks }),
                TaskMessage::Report { reports, .. } if quorum.full_once.swap(false, Ordering::SeqCst) => {
                    let full = reports.iter().map(|_| Err(ReportRefusal::RecordFull));
                    return Ok(ReportAnswer::Task(TaskAnswer::Recorded(full.collect())));
                }
                TaskMessage::Report { reports, .. } => Command::Task(TaskCommand::Report { reports }),
                TaskMessage::Checkpoint { task, checkpoint, bytes, .. } => {
                    Command::Task(TaskCommand::SaveCheckpoint { task, checkpoint, bytes })
                }
                _ => return Ok(ReportAnswer::Task(TaskAnswer::Acknowledged)),
            };
            let reply = quorum.apply(peer(worker), command);
            if is_report && quorum.deaf_once.swap(false, Ordering::SeqCst) {
                return Err(unreachable);
            }
            match reply {
                Ok(CommandReply::Recorded(answers)) => Ok(ReportAnswer::Task(TaskAnswer::Recorded(answers))),
                other => panic!("{other:?}"),
            }
        }
        .boxed()
    }
    fn query(
        &self,
        _: QuorumId,
        query: Query,
        _: bool,
        _: Duration,
    ) -> BoxFuture<'static, Result<QueryAnswer, ClientError>> {
        let answer = self.quorum.with(|state| state.answer(&query));
        futures::future::ready(Ok(answer.unwrap_or(QueryAnswer::Unknown))).boxed()
    }
    fn propose(
        &self,
        _: QuorumId,
        command: Command,
        _: Duration,
    ) -> BoxFuture<'static, Result<(CommandReply, Speaker), ClientError>> {
        panic!("no worker proposes {command:?}")
    }
    fn watch(
        &self,
        job: JobId,
        _: Until,
        _: Duration,
    ) -> BoxFuture<'static, Result<Option<Box<JobRecord>>, ClientError>> {
        panic!("no worker watches {job:?}")
    }
    fn members(&self, _: QuorumId) -> Vec<PeerId> {
        vec![PRIMARY]
    }
    fn known(&self) -> Vec<QuorumId> {
        vec![QUORUM]
    }
    fn remember_primary(&self, _: QuorumId, _: PeerId) {}
}

// ---- leases and objects ----

pub struct FakeLeases {
    lease: LeaseId,
    room: Mutex<Option<Capacity>>,
    ended: broadcast::Sender<EndedLease>,
}

impl FakeLeases {
    pub fn end(&self) {
        *self.room.lock() = None;
        let subject = Subject::Worker { quorum: QUORUM };
        self.ended.send(EndedLease { lease: self.lease, subject }).unwrap();
    }
}

impl FakeLeases {
    /// The lease has less than the quorum thinks.
    pub fn shrink(&self, slots: u32) {
        self.room.lock().as_mut().unwrap().slots = slots;
    }
}

impl WorkerLeases for FakeLeases {
    fn room_for(&self, lease: LeaseId, quorum: QuorumId) -> Option<Capacity> {
        self.room(lease).filter(|_| quorum == QUORUM)
    }
    fn room(&self, lease: LeaseId) -> Option<Capacity> {
        self.room.lock().filter(|_| lease == self.lease)
    }
    fn ended(&self) -> broadcast::Receiver<EndedLease> {
        self.ended.subscribe()
    }
}

#[derive(Default)]
pub struct FakeObjects(Mutex<BTreeMap<ObjectId, Bytes>>);

impl FakeObjects {
    pub fn add(&self, bytes: Vec<u8>) -> (ObjectId, u64) {
        let object = ObjectId { quorum: QUORUM, manifest: ManifestHash(*blake3::hash(&bytes).as_bytes()) };
        let size = bytes.len() as u64;
        self.0.lock().insert(object, bytes.into());
        (object, size)
    }
    pub fn unknown(&self) -> ObjectId {
        ObjectId { quorum: QUORUM, manifest: ManifestHash([0xee; 32]) }
    }
    fn get(&self, object: ObjectId) -> Option<Bytes> {
        self.0.lock().get(&object).cloned()
    }
}

impl TaskObjects for FakeObjects {
    fn read(&self, object: ObjectId, range: Option<(u64, u64)>) -> BoxFuture<'static, Result<ObjectBytes, String>> {
        let found = self.get(object).ok_or_else(|| format!("no object {object}"));
        let read = found.map(|whole| {
            let (from, length) = range.unwrap_or((0, whole.len() as u64));
            let part = whole.slice(from as usize..(from + length) as usize);
            let chunks: Vec<_> = part.chunks(10_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            ObjectBytes { size: whole.len() as u64, bytes: futures::stream::iter(chunks).boxed() }
        });
        futures::future::ready(read).boxed()
    }
    fn store(
        &self,
        _: String,
        size: u64,
        bytes: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> BoxFuture<'static, Result<ObjectId, String>> {
        // The map outlives the future through the world.
        let parts = bytes.map(|chunk| chunk.unwrap()).collect::<Vec<_>>().now_or_never().expect("bytes in memory");
        let whole = parts.concat();
        assert_eq!(whole.len() as u64, size);
        futures::future::ready(Ok(self.add(whole).0)).boxed()
    }
}

// ---- the workers ----

struct Node {
    disk: MemoryDisk,
    leases: Arc<FakeLeases>,
    faults: WorkerFaults,
    double: Arc<Double>,
    boots: u64,
    running: Option<(TaskGroup, Workers)>,
    told: BTreeSet<TaskAttempt>,
    /// Messages of the primary on their way, with what they are about.
    talking: Vec<(Vec<TaskAttempt>, JoinHandle<Option<TaskAnswer>>)>,
}

pub struct World {
    pub quorum: Arc<FakeQuorum>,
    pub objects: Arc<FakeObjects>,
    nodes: Vec<Node>,
    slots: u32,
}

impl World {
    pub async fn new(nodes: u8, slots: u32) -> Self {
        let state = Mutex::new((QuorumState::new(QUORUM), 0));
        let (full_once, deaf_once) = (AtomicBool::new(false), AtomicBool::new(false));
        let quorum = FakeQuorum {
            state,
            away: Mutex::default(),
            full_once,
            deaf_once,
            heartbeats_take: Mutex::default(),
            heartbeats: Mutex::default(),
            began_at: Instant::now(),
        };
        let mut world = Self { quorum: Arc::new(quorum), objects: Arc::default(), nodes: Vec::new(), slots };
        for index in 0..nodes {
            let room = Capacity { slots, memory_bytes: 1 << 40, disk_bytes: 1 << 40 };
            let leases = FakeLeases {
                lease: LeaseId([index + 1; 16]),
                room: Mutex::new(Some(room)),
                ended: broadcast::channel(16).0,
            };
            world.nodes.push(Node {
                disk: MemoryDisk::default(),
                leases: Arc::new(leases),
                faults: WorkerFaults::for_testing(),
                double: Arc::default(),
                boots: 0,
                running: None,
                told: BTreeSet::new(),
                talking: Vec::new(),
            });
            world.start(index).await;
            world.employ(index);
        }
        world
    }

    /// The quorum has a lease of the node.
    pub fn employ(&mut self, index: u8) {
        let grant = Grant {
            holder: MemberId { peer: peer(index), incarnation: Incarnation(7) },
            lease: LeaseId([index + 1; 16]),
        };
        let worker = WorkerRecord {
            grant,
            capacity: Capacity { slots: self.slots, memory_bytes: 1 << 40, disk_bytes: 1 << 40 },
            engines: vec![Engine::Wasm, Engine::Command],
            labels: BTreeMap::new(),
        };
        self.apply(PRIMARY, Command::Task(TaskCommand::SetWorker { worker }));
    }

    pub async fn start(&mut self, index: u8) {
        let node = &mut self.nodes[index as usize];
        node.boots += 1;
        let tasks = TaskGroup::inline();
        let entropy = Arc::new(SeededEntropy::new(u64::from(index) * 100 + node.boots));
        let clock = Arc::new(VirtualClock::right());
        let seams = Seams { clock, entropy, disk: node.disk.disk(), tasks: tasks.clone() };
        let identity = Identity::new(key(index).to_bytes(), Incarnation(7), BootId([index; 16]));
        let executor: Arc<dyn Executor> = Arc::new(Scripted(node.double.clone()));
        let executors = BTreeMap::from([(Engine::Command, executor.clone()), (Engine::Wasm, executor)]);
        let parts = |storage| WorkerParts {
            seams: seams.clone(),
            identity,
            storage,
            quorum_port: Arc::new(FakePort { quorum: self.quorum.clone(), worker: index }),
            leases: node.leases.clone(),
            objects: self.objects.clone(),
            executors,
            operators: BTreeSet::new(),
            folder: None,
            faults: node.faults.clone(),
        };
        let starting = async { Workers::start(parts(Storage::start(seams.disk.clone()))).await.unwrap() };
        let workers = tasks.scope(starting).await;
        node.running = Some((tasks, workers));
    }

    /// The process dies, and with it whatever the disk had not synced.
    pub async fn crash(&mut self, index: u8) {
        let node = &mut self.nodes[index as usize];
        let (tasks, _) = node.running.take().unwrap();
        tasks.crash();
        node.talking.clear();
        // Its futures are dropped when they are next polled.
        sleep(Duration::from_millis(1)).await;
        node.disk.lose_unsynced();
    }

    /// It closes as on Ctrl-C, and starts again.
    pub async fn restart(&mut self, index: u8) {
        let node = &mut self.nodes[index as usize];
        let (tasks, _) = node.running.take().unwrap();
        tasks.close().await;
        node.talking.clear();
        node.disk.lose_unsynced();
        self.start(index).await;
    }

    pub fn lose(&mut self, index: u8) {
        let lease = LeaseId([index + 1; 16]);
        self.nodes[index as usize].told.clear();
        self.apply(
            PRIMARY,
            Command::Task(TaskCommand::LoseWorker { peer: peer(index), lease, reason: "gone".to_owned() }),
        );
    }

    pub fn apply(&self, by: PeerId, command: Command) -> CommandReply {
        self.quorum.apply(by, command).unwrap()
    }

    pub fn submit(&self, index: u8, spec: BatchSpec) -> JobId {
        spec.check().unwrap();
        let job = JobId { quorum: QUORUM, local: [index; 16] };
        self.apply(OWNER, Command::submit(&SigningKey::from_bytes(&[200; 32]), job, JobSpec::batch(spec)));
        job
    }

    /// What a primary does: tells each worker what it was not told.
    fn run_sessions(&mut self) {
        let (quorum, term) = (QUORUM, Term(1));
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let Some((tasks, workers)) = &node.running else { continue };
            if self.quorum.is_away(index as u8) {
                continue;
            }
            let busy: BTreeSet<_> = node.talking.iter().flat_map(|(about, _)| about).copied().collect();
            let (lease, me) = (node.leases.lease, peer(index as u8));
            let mut messages = Vec::new();
            self.quorum.with(|state| {
                let is_lease = |worker: &WorkerRecord| worker.grant.lease == lease;
                if !state.tasks().workers().get(&me).is_some_and(is_lease) {
                    return;
                }
                for (task, keep_checkpoint) in state.stops_of(me).into_iter().filter(|(task, _)| !busy.contains(task)) {
                    messages.push((
                        vec![task],
                        TaskMessage::Stop { quorum, term, lease, tasks: vec![task], keep_checkpoint },
                    ));
                }
                for task in state.reveals_of(me).into_iter().filter(|task| !busy.contains(task)) {
                    messages.push((vec![task], TaskMessage::Reveal { quorum, term, lease, tasks: vec![task] }));
                }
                let live: BTreeSet<_> = state.attempts_of(me).map(|(task, _)| task).collect();
                node.told.retain(|task| live.contains(task));
                let new = live.into_iter().filter(|task| !busy.contains(task) && !node.told.contains(task));
                let assignments: Vec<_> = new.filter_map(|task| state.assignment(task)).collect();
                let steps: BTreeSet<_> =
                    assignments.iter().map(|assignment| (assignment.task.id.job, assignment.task.id.step)).collect();
                let steps: Vec<StepContext> =
                    steps.into_iter().filter_map(|(job, step)| state.step_context(job, step)).collect();
                if !assignments.is_empty() {
                    let about = assignments.iter().map(|assignment| assignment.task).collect();
                    messages.push((about, TaskMessage::Assign { quorum, term, lease, steps, assignments }));
                }
            });
            for (about, message) in messages {
                let answer = workers.answer(PRIMARY, message);
                node.talking.push((about, tasks.spawn(answer)));
            }
        }
    }

    async fn take_answers(&mut self) {
        for node in &mut self.nodes {
            let (done, on_the_way) =
                std::mem::take(&mut node.talking).into_iter().partition(|(_, talk)| talk.is_finished());
            node.talking = on_the_way;
            let done: Vec<(Vec<TaskAttempt>, JoinHandle<Option<TaskAnswer>>)> = done;
            for (_, talk) in done {
                if let Some(TaskAnswer::Accepted { accepted, refused }) = talk.await.unwrap() {
                    assert_eq!(refused, []);
                    node.told.extend(accepted);
                }
            }
        }
    }

    /// One step of virtual time.
    async fn step(&mut self) {
        self.run_sessions();
        sleep(Duration::from_millis(1)).await;
        self.take_answers().await;
        let due = self.quorum.with(|state| state.next_timer().map(|due| (due, due.since(state.time()))));
        let now = Millis(1_000 + self.quorum.began_at.elapsed().as_millis() as u64);
        if let Some((until, _)) = due.filter(|(until, _)| *until <= now) {
            self.apply(PRIMARY, Command::Quorum(QuorumCommand::Elapsed { until }));
        }
    }

    pub async fn run_while(&mut self, mut wanting: impl FnMut(&Self) -> bool) {
        let began = Instant::now();
        while wanting(self) {
            assert!(began.elapsed() < PATIENCE, "it does not happen");
            self.step().await;
        }
    }

    pub async fn run_until(&mut self, job: JobId, state: RunState) {
        let began = Instant::now();
        while self.state(job) != state {
            let why = || self.quorum.with(|state| state.why(job));
            let over = self.quorum.with(|state| state.jobs()[&job].state.is_final());
            assert!(began.elapsed() < PATIENCE && !over, "it is {}: {:?}", self.state(job), why());
            self.step().await;
        }
    }

    pub async fn pass(&mut self, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            self.step().await;
        }
    }

    /// Lets everything that is on its way arrive.
    pub async fn settle(&mut self) {
        self.pass(Duration::from_millis(200)).await;
    }

    // ---- looking ----

    pub fn state(&self, job: JobId) -> RunState {
        self.quorum.with(|state| state.jobs()[&job].state)
    }
    pub fn reason(&self, job: JobId) -> String {
        self.quorum.with(|state| state.jobs()[&job].reason.clone().unwrap_or_default())
    }
    pub fn task(&self, job: JobId, step: u16, task: u32) -> TaskRecord {
        self.quorum
            .with(|state| state.tasks().table(&job).unwrap().get(StepIndex(step), TaskIndex(task)).unwrap().clone())
    }
    pub fn result(&self, job: JobId, step: u16, task: u32) -> Output {
        *self.task(job, step, task).output().unwrap()
    }
    pub async fn output_bytes(&self, job: JobId, step: u16, task: u32) -> Vec<u8> {
        let (step, from) = (StepIndex(step), TaskIndex(task));
        let answer = self.quorum.with(|state| state.answer(&Query::Outputs { job, step, from, limit: 1 }));
        let Some(QueryAnswer::Outputs(mut outputs)) = answer else { panic!("{answer:?}") };
        let given = outputs.remove(0);
        match given.output.place {
            Place::Record => given.bytes.unwrap().into(),
            Place::Object { quorum, manifest } => self.objects.get(ObjectId { quorum, manifest }).unwrap().into(),
        }
    }
    pub fn output(&self, job: JobId, step: u16, task: u32) -> String {
        String::from_utf8(self.output_bytes(job, step, task).now_or_never().unwrap()).unwrap()
    }
    pub fn last_step(&self, job: JobId) -> u16 {
        self.quorum.with(|state| Plan::of(state.jobs()[&job].batch().unwrap().0).last().0)
    }
    pub fn attempts(&self, job: JobId, task: u32) -> u32 {
        self.task(job, 0, task).newest.0
    }
    pub fn worker_of(&self, job: JobId, task: u32) -> u8 {
        let worker = self.task(job, 0, task).live[0].worker;
        (0..self.nodes.len() as u8).find(|index| peer(*index) == worker).unwrap()
    }
    pub fn checkpoints(&self, job: JobId) -> usize {
        self.quorum.with(|state| {
            let tasks = state.tasks().table(&job).unwrap().tasks(StepIndex(0)).iter();
            tasks.filter(|task| task.extras.as_ref().is_some_and(|notes| notes.checkpoint.is_some())).count()
        })
    }
    pub fn workers(&self, index: u8) -> &Workers {
        &self.nodes[index as usize].running.as_ref().unwrap().1
    }
    pub fn metrics(&self, index: u8) -> WorkerMetrics {
        self.nodes[index as usize].running.as_ref().unwrap().1.metrics().clone()
    }
    pub fn running(&self, index: u8) -> usize {
        self.nodes[index as usize].double.running()
    }
    pub fn most_at_once(&self, index: u8) -> usize {
        self.nodes[index as usize].double.most()
    }
    /// How often tasks were begun, on all nodes together.
    pub fn begun(&self) -> usize {
        self.nodes.iter().map(|node| node.double.begun.lock().values().sum::<usize>()).sum()
    }
    /// What the worker has on disk.
    pub fn rows(&self, index: u8) -> usize {
        let disk = self.nodes[index as usize].disk.disk().kv;
        let trees = disk.trees().unwrap().into_iter().filter(|tree| tree.starts_with("worker."));
        trees.map(|tree| disk.range(&tree, &[], &[0xff; 64], usize::MAX, usize::MAX).unwrap().len()).sum()
    }
    pub fn leases(&self, index: u8) -> &FakeLeases {
        &self.nodes[index as usize].leases
    }
    pub fn disk(&self, index: u8) -> &MemoryDisk {
        &self.nodes[index as usize].disk
    }
    pub fn lie(&self, index: u8) {
        self.nodes[index as usize].faults.set_lying(true).unwrap();
    }

    // ---- speaking by hand ----

    pub async fn ask(&self, index: u8, from: PeerId, message: TaskMessage) -> TaskAnswer {
        let (tasks, workers) = self.nodes[index as usize].running.as_ref().unwrap();
        tasks.scope(workers.answer(from, message)).await
    }
    pub async fn send_message(&self, index: u8, message: TaskMessage) -> TaskAnswer {
        self.ask(index, PRIMARY, message).await
    }
    pub async fn assign_nothing(&self, index: u8, term: Term) -> TaskAnswer {
        let (quorum, lease) = (QUORUM, LeaseId([index + 1; 16]));
        self.send_message(
            index,
            TaskMessage::Assign { quorum, term, lease, steps: Vec::new(), assignments: Vec::new() },
        )
        .await
    }
}
