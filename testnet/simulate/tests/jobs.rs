//! Jobs that compute, on whole simulated nodes that crash, stand still and lose sight of each other.
//!
//! Goal: every job that was acknowledged comes to its end, every task has exactly its own result, and what must not
//! begin twice does not. Method: jobs are submitted through any node while nodes crash and paths are cut, all drawn
//! from a seed; then faults end, and everything is waited for and looked at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{JobId, QuorumId, StepIndex, TaskIndex};
use quorate_protocols::job::batch::{BatchSpec, Map};
use quorate_protocols::job::record::RunState;
use quorate_protocols::job::spec::JobSpec;
use quorate_protocols::quorum::CommandReply;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::task::inputs::idempotency_token;
use quorate_protocols::task::record::TaskId;
use quorate_protocols::task::spec::{Call, Content, Program, Verify};
use quorate_simulate::executor::SimExecutor;
use quorate_simulate::runtime;
use quorate_simulate::transcript::Transcript;
use quorate_simulate::world::World;
use quorate_testnet::rng::Rng;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const NODES: usize = 5;

/// Virtual time under faults, and what is waited for afterwards.
const UNDER_FAULTS: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(240);

#[derive(Clone, Copy)]
struct Submitted {
    job: JobId,
    tasks: u32,
    idempotent: bool,
}

struct Run {
    seed: u64,
    world: World,
    rng: Rng,
    executor: SimExecutor,
    submitting: Vec<(Submitted, JoinHandle<Option<bool>>)>,
    acknowledged: Vec<Submitted>,
    /// Crashes of nodes while tasks were on their way.
    crashes: u64,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let executor = SimExecutor::default();
        let mut world = World::new(seed, NODES, Transcript::new(false));
        world.work.executors = BTreeMap::from([(Engine::Wasm, Arc::new(executor.clone()) as Arc<_>)]);
        for index in 1..=NODES {
            world.start(index).await.expect("a new machine starts");
        }
        assert!(world.settle(Duration::from_secs(60)).await, "seed {seed}: the nodes see each other");
        let rng = Rng::new(seed, "jobs");
        Self { seed, world, rng, executor, submitting: Vec::new(), acknowledged: Vec::new(), crashes: 0 }
    }

    async fn quorum(&self) -> QuorumId {
        let node = self.world.node(1).expect("it runs").clone();
        let placing = {
            let tasks = node.seams().tasks.clone();
            tasks.spawn(async move { node.placement().quorum_for_job().await })
        };
        placing.await.expect("no panic").expect("no crash").expect("a quorum of idle nodes")
    }

    fn spec(&mut self) -> (BatchSpec, u32) {
        let module = Content::Inline(Bytes::from_static(b"simulated"));
        let verified = self.rng.chance(200);
        let program = Program::Wasm { module, fuel: verified.then_some(1), deterministic: verified };
        let mut call = Call::new(program);
        call.args = vec![[0, 20, 300, 3_000][self.rng.below(4) as usize].to_string()];
        let tasks = 1 + self.rng.below(12) as u32;
        let mut spec = BatchSpec { map: Map::Count(tasks), ..BatchSpec::new(call) };
        spec.resources.capacity.memory_bytes = 1 << 20;
        spec.timeouts.task = Duration::from_secs(30);
        spec.retry.base = Duration::from_millis(200);
        match verified {
            true => spec.verify = Some(Verify { copies: 3, agree: 2 }),
            false => spec.idempotent = !self.rng.chance(250),
        }
        (spec, tasks)
    }

    fn submit(&mut self, quorum: QuorumId) {
        let (spec, tasks) = self.spec();
        let Some(index) = self.rng.pick(&self.world.up()).copied() else { return };
        let mut local = [0; 16];
        self.rng.fill(&mut local);
        let (job, idempotent) = (JobId { quorum, local }, spec.idempotent);
        let submit = self.world.submit(index, job, JobSpec::batch(spec));
        let is_taken = |result| matches!(result, Ok(CommandReply::Submitted { .. }));
        let submitting = self.world.command(index, quorum, submit, is_taken);
        self.submitting.push((Submitted { job, tasks, idempotent }, submitting));
    }

    async fn fault(&mut self) {
        match self.rng.below(6) {
            0..=1 => {
                let up = self.world.up();
                if up.len() + 1 >= NODES
                    && let Some(index) = self.rng.pick(&up).copied()
                {
                    self.world.crash(index);
                    self.crashes += 1;
                }
            }
            2..=3 => self.start_all().await,
            4 => {
                let index = 1 + self.rng.below(NODES as u64) as usize;
                let alone = self.world.peer(index);
                for other in (1..=NODES).filter(|other| *other != index) {
                    self.world.network.cut(alone, self.world.peer(other));
                    self.world.network.cut(self.world.peer(other), alone);
                }
            }
            _ => self.world.network.heal(),
        }
    }

    async fn start_all(&mut self) {
        for index in self.world.down() {
            self.world.start(index).await.expect("its disk has all that it had called durable");
        }
    }

    async fn ask_quorum(&self, quorum: QuorumId, query: Query) -> Option<QueryAnswer> {
        let looked = self.world.spawn_query(1, quorum, query, |result| result.as_ref().ok().cloned());
        looked.await.ok().flatten().flatten()
    }

    async fn check(&self, submitted: Submitted) -> Result<(), String> {
        let Submitted { job, tasks, idempotent } = submitted;
        let Some(QueryAnswer::Job(record)) = self.ask_quorum(job.quorum, Query::Job { job }).await else {
            return Err("its quorum does not know it, or does not answer".to_owned());
        };
        match record.state {
            RunState::Succeeded => (),
            // A worker died in the middle of it: a person decides.
            RunState::AwaitingResolution if !idempotent => return Ok(()),
            other => return Err(format!("it is {other}: {:?}", record.reason)),
        }
        let outputs = Query::Outputs { job, step: StepIndex(0), from: TaskIndex(0), limit: tasks };
        let Some(QueryAnswer::Outputs(outputs)) = self.ask_quorum(job.quorum, outputs).await else {
            return Err("its outputs are not to be had".to_owned());
        };
        let found: Vec<_> = outputs.into_iter().map(|given| given.bytes.unwrap_or_default()).collect();
        let expected: Vec<_> = (0..tasks).map(|task| token(job, task)).collect();
        (found == expected).then_some(()).ok_or_else(|| format!("{} outputs that are not its own", found.len()))
    }

    async fn play(mut self) {
        let quorum = self.quorum().await;
        let began = Instant::now();
        while began.elapsed() < UNDER_FAULTS {
            match self.rng.chance(600) {
                true => self.submit(quorum),
                false => self.fault().await,
            }
            tokio::time::sleep(self.rng.duration(Duration::from_millis(20), Duration::from_millis(1_200))).await;
        }
        self.world.network.heal();
        self.start_all().await;
        for (submitted, submitting) in std::mem::take(&mut self.submitting) {
            if let Ok(Some(true)) = submitting.await {
                self.acknowledged.push(submitted);
            }
        }
        let end = Instant::now() + PATIENCE;
        for submitted in self.acknowledged.clone() {
            while let Err(why) = self.check(submitted).await {
                let seed = self.seed;
                assert!(Instant::now() < end, "seed {seed}: job {} after the faults: {why}", submitted.job);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        let begun = self.executor.begun().clone();
        for Submitted { job, tasks, .. } in self.acknowledged.iter().filter(|submitted| !submitted.idempotent) {
            for task in 0..*tasks {
                let times = begun.get(&*token_text(*job, task)).copied().unwrap_or_default();
                assert!(times <= 1, "seed {}: task {task} of {job} began {times} times", self.seed);
            }
        }
        let (jobs, crashes) = (self.acknowledged.len(), self.crashes);
        assert!(jobs >= 15 && crashes >= 2, "seed {}: {jobs} jobs and {crashes} crashes prove little", self.seed);
    }
}

fn token_text(job: JobId, task: u32) -> String {
    let token = idempotency_token(TaskId { job, step: StepIndex(0), task: TaskIndex(task) });
    token.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn token(job: JobId, task: u32) -> Bytes {
    token_text(job, task).into()
}

#[test]
fn jobs_come_to_their_end_whatever_crashes_meanwhile() {
    for seed in 0..2 {
        runtime::run(seed, async { Run::new(seed).await.play().await }).expect("a runtime");
    }
}
