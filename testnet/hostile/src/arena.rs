//! The arena: five real nodes, an honest load beside the attack, and the bounds that every scenario must keep.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate_api::{BenchCommit, CommitBench, JobInfo, PutInfo, QuorumDetail, RunState, SubmitInfo, SubmitRequest};
use quorate_protocols::ids::{JobId, ObjectId, PeerId, QuorumId};
use quorate_testnet::process::rss_bytes;
use quorate_testnet::rng::{Rng, derive};
use quorate_testnet::testnet::TestnetError;
use quorate_testnet::{Client as Api, ClientError as ApiError, Testnet, UpOptions};
use reqwest::Method;

use crate::client::join::JoinLine;
use crate::client::{Answerer, Client, ClientError, no_answers};

pub const NODES: usize = 5;

/// What a node may hold at the end beyond what it held before the attack.
pub const RSS_GROWTH_MAX: u64 = 64 << 20;

/// An honest submit is acknowledged within this once the attack is over, on a machine with time for it.
pub const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(1);

/// How many times what a submit took before the attack it may take after, where that is longer.
const SLOWER_MAX: u32 = 4;

/// Memory that is only cached goes back within this.
const SETTLE_MAX: Duration = Duration::from_secs(15);

/// A job that was acknowledged has ended by then.
const ENDED_MAX: Duration = Duration::from_secs(30);

/// Two objects: one that is read in parts of a segment, and enough columns to rebuild it from.
const OBJECT_BYTES: usize = 2 << 20;
const PROFILE: &str = "3%2B2";

/// Jobs before the attack, so that a node's first use of everything is no growth.
const WARM_JOBS: usize = 20;

/// Between two honest submits.
const LOAD_PAUSE: Duration = Duration::from_millis(200);

/// Between two looks at something that should happen soon.
const POLL: Duration = Duration::from_millis(50);

const SPEC: &str = include_str!("../../../examples/hello.toml");

/// Why a scenario could not be carried out. A broken bound is no such fault: it is noted in [`Arena::broken`].
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Bounds and conditions that did not hold, in words.
    pub broken: Vec<String>,
    /// What happened, for people.
    pub notes: Vec<String>,
    pub took: Duration,
}

/// A testnet under attack.
pub struct Arena {
    pub testnet: Testnet,
    pub join: JoinLine,
    pub rng: Rng,
    seed: u64,
    identities: u64,
    broken: Vec<String>,
    notes: Vec<String>,
    /// The quorum that the honest load uses.
    pub quorum: QuorumId,
    objects: Vec<Stored>,
    load: Arc<Mutex<Load>>,
    /// Resident memory of each node before the attack.
    baseline: BTreeMap<usize, u64>,
    submit_baseline: Duration,
    began: Instant,
    // Last: the processes end before their folder goes.
    _dir: tempfile::TempDir,
}

struct Stored {
    info: PutInfo,
    content: Vec<u8>,
}

#[derive(Default)]
struct Load {
    acknowledged: Vec<JobId>,
    refused: usize,
    slowest: Duration,
    is_over: bool,
}

impl Load {
    fn note_submit(&mut self, submitted: Result<JobId, ApiError>, took: Duration) {
        match submitted {
            Ok(job) => self.acknowledged.push(job),
            Err(_) => self.refused += 1,
        }
        self.slowest = self.slowest.max(took);
    }
}

impl Arena {
    /// Starts the nodes and the honest load: jobs, and an object of five columns. What the nodes hold then is the
    /// baseline.
    pub async fn up(binary: &Path, seed: u64, change: impl FnOnce(&mut UpOptions)) -> Result<Self, Fault> {
        let began = Instant::now();
        let dir = tempfile::tempdir()?;
        let mut options = UpOptions::new(dir.path().join("net"), NODES, binary);
        options.testing = true;
        change(&mut options);
        let (testnet, _) = Testnet::up(options).await?;
        let testnet = testnet.owned();
        let secret = std::fs::read_to_string(testnet.node_dir(1).join("network.secret"))?;
        let addresses: Vec<&str> = testnet.layout().nodes.iter().map(|node| node.listen.as_str()).collect();
        let join = format!("quorate1-join:{}@{}", secret.trim(), addresses.join(",")).parse()?;
        let mut arena = Self {
            testnet,
            join,
            rng: Rng::new(seed, "hostile"),
            seed,
            identities: 0,
            broken: Vec::new(),
            notes: Vec::new(),
            quorum: QuorumId::default(),
            objects: Vec::new(),
            load: Arc::default(),
            baseline: BTreeMap::new(),
            submit_baseline: Duration::ZERO,
            began,
            _dir: dir,
        };
        arena.put(1).await?;
        arena.quorum = arena.objects[0].info.quorum;
        for number in 0..WARM_JOBS {
            let began = Instant::now();
            let job = submit(&arena.api(1 + number % NODES)?, arena.seed, number).await?;
            arena.submit_baseline = arena.submit_baseline.max(began.elapsed());
            arena.load.lock().acknowledged.push(job);
        }
        arena.check_acknowledged().await;
        arena.check_objects().await;
        for node in arena.testnet.indices() {
            let rss = arena.rss(node).ok_or("a node has ended before the attack")?;
            arena.baseline.insert(node, rss);
        }
        Ok(arena)
    }

    // --- what scenarios use ---

    /// A fresh identity, connected to every node that is up.
    pub async fn stranger(&mut self) -> Result<Client, Fault> {
        self.stranger_who_answers(no_answers()).await
    }

    pub async fn stranger_who_answers(&mut self, answerer: Answerer) -> Result<Client, Fault> {
        let client = self.unconnected(answerer)?;
        self.connect(&client).await?;
        Ok(client)
    }

    /// The identity of a key that the scenario chose, connected to every node that is up.
    pub async fn stranger_with_key(&mut self, key: [u8; 32], answerer: Answerer) -> Result<Client, Fault> {
        let client = Client::start(&self.join, key, answerer)?;
        self.connect(&client).await?;
        Ok(client)
    }

    async fn connect(&self, client: &Client) -> Result<(), ClientError> {
        let dials = self.join.addresses.iter().map(|address| client.connect(address));
        futures::future::join_all(dials).await.into_iter().try_for_each(|dialled| dialled.map(drop))
    }

    /// A fresh identity that is connected to nobody yet.
    pub fn unconnected(&mut self, answerer: Answerer) -> Result<Client, ClientError> {
        self.identities += 1;
        Client::start(&self.join, derive(self.seed, &format!("identity {}", self.identities)), answerer)
    }

    pub fn api(&self, node: usize) -> Result<Api, TestnetError> {
        self.testnet.client(node)
    }

    pub fn peers(&self) -> Vec<PeerId> {
        self.testnet.layout().nodes.iter().map(|node| node.peer).collect()
    }

    /// Notes that a condition of the scenario does not hold.
    pub fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(what());
        }
    }

    pub fn note_text(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// The quorum as a node has it.
    pub async fn view(&self, node: usize, quorum: QuorumId) -> Result<QuorumDetail, Fault> {
        Ok(self.api(node)?.get(&format!("/v1/quorums/{quorum}")).await?)
    }

    /// Commits commands that change nothing, through a node: how long each took.
    pub async fn commit(&self, node: usize, quorum: QuorumId, count: u32) -> Result<CommitBench, ApiError> {
        let request = BenchCommit { quorum, count, outstanding: 1 };
        self.testnet.client(node).map_err(|error| failed(&error))?.post("/v1/bench/noop", &request).await
    }

    /// The object that was stored before the attack, and how its columns lie.
    pub fn first_object(&self) -> &PutInfo {
        &self.objects[0].info
    }

    /// Honest submits through each node, which must all come to an end if they are acknowledged.
    pub async fn submit_through_all(&self, number: usize) {
        for node in self.testnet.indices() {
            let began = Instant::now();
            let submitted = match self.api(node) {
                Ok(api) => submit(&api, self.seed, number + node).await,
                Err(error) => Err(failed(&error)),
            };
            self.load.lock().note_submit(submitted, began.elapsed());
        }
    }

    /// Whether an honest job through node 2 succeeds within this.
    pub async fn run_job(&self, number: usize, patience: Duration) -> bool {
        self.run_job_in(None, number, patience).await
    }

    /// The same in a quorum of choice.
    pub async fn run_job_in(&self, quorum: Option<QuorumId>, number: usize, patience: Duration) -> bool {
        let run = async {
            let api = self.api(2).ok()?;
            let job = submit_to(&api, quorum, self.seed, number).await.ok()?;
            let path = format!("/v1/jobs/{job}/wait?timeout_ms={}", patience.as_millis());
            let info: JobInfo = api.get(&path).await.ok()?;
            (info.state == RunState::Succeeded).then_some(())
        };
        tokio::time::timeout(patience, run).await.is_ok_and(|ran| ran.is_some())
    }

    /// Stores one more object through a node.
    pub async fn put(&mut self, node: usize) -> Result<(), Fault> {
        let (seed, number) = (self.seed, self.objects.len());
        let mut content = vec![0; OBJECT_BYTES];
        Rng::new(seed, &format!("object {number}")).fill(&mut content);
        let path = format!("/v1/objects?name=honest-{number}&bytes={OBJECT_BYTES}&profile={PROFILE}");
        let api = self.api(node)?;
        let response = api.send(api.request(Method::POST, &path).body(content.clone())).await?;
        self.objects.push(Stored { info: response.json().await?, content });
        Ok(())
    }

    /// Lines of a node's log that hold this.
    pub fn logged(&self, node: usize, words: &str) -> usize {
        let text = std::fs::read(self.testnet.log_file(node)).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().filter(|line| line.contains(words)).count()
    }

    pub fn pid(&self, node: usize) -> Option<u32> {
        self.testnet.status().into_iter().find(|status| status.index == node)?.pid
    }

    pub fn rss(&self, node: usize) -> Option<u64> {
        rss_bytes(self.pid(node)?)
    }

    /// Looks again and again until there is an answer or the time is up.
    pub async fn wait<T, L: Future<Output = Option<T>>>(patience: Duration, mut look: impl FnMut() -> L) -> Option<T> {
        let deadline = Instant::now() + patience;
        loop {
            match look().await {
                None if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                found => return found,
            }
        }
    }

    // --- the honest load ---

    /// Submits at a steady pace through every node in turn, whatever becomes of it, until the arena is judged.
    pub fn start_load(&self) -> Result<(), Fault> {
        let apis = self.testnet.indices().into_iter().map(|node| self.api(node)).collect::<Result<Vec<_>, _>>()?;
        let (load, seed) = (Arc::clone(&self.load), self.seed);
        tokio::spawn(async move {
            let mut number = WARM_JOBS;
            while !load.lock().is_over {
                number += 1;
                let began = Instant::now();
                let submitted = submit(&apis[number % apis.len()], seed, number).await;
                load.lock().note_submit(submitted, began.elapsed());
                tokio::time::sleep(LOAD_PAUSE).await;
            }
        });
        Ok(())
    }

    /// Ends the load and holds the network to the common bounds.
    pub async fn judge(mut self) -> Outcome {
        let after = self.check_submits().await;
        self.load.lock().is_over = true;
        if let Err(error) = self.put(2).await {
            self.broken.push(format!("an honest put after the attack failed: {error}"));
        }
        self.check_acknowledged().await;
        self.check_objects().await;
        self.check_memory().await;
        self.check_logs();
        let load = {
            let load = self.load.lock();
            let jobs = load.acknowledged.len();
            format!("{jobs} jobs acknowledged, {} refused, the slowest took {:?}", load.refused, load.slowest)
        };
        self.note_text(load);
        self.note_text(format!(
            "submits after the attack took at most {after:?}, before it {:?}",
            self.submit_baseline
        ));
        Outcome { broken: self.broken, notes: self.notes, took: self.began.elapsed() }
    }

    async fn check_submits(&mut self) -> Duration {
        let bound = ACKNOWLEDGED_MAX.max(SLOWER_MAX * self.submit_baseline);
        let mut slowest = Duration::ZERO;
        for node in self.testnet.indices() {
            let began = Instant::now();
            let submitted = match self.api(node) {
                Ok(api) => submit(&api, self.seed, 1_000_000 + node).await,
                Err(error) => Err(failed(&error)),
            };
            slowest = slowest.max(began.elapsed());
            match submitted {
                Ok(job) => self.load.lock().acknowledged.push(job),
                Err(error) => self.broken.push(format!("an honest submit through node {node} failed: {error}")),
            }
        }
        self.require(slowest <= bound, || format!("an honest submit took {slowest:?} after the attack"));
        slowest
    }

    async fn check_acknowledged(&mut self) {
        let jobs = self.load.lock().acknowledged.clone();
        let deadline = Instant::now() + ENDED_MAX;
        for (position, job) in jobs.into_iter().enumerate() {
            let node = 1 + position % NODES;
            let left = deadline.saturating_duration_since(Instant::now());
            let asked = Self::wait(left, || async {
                let info: Result<JobInfo, String> = match self.api(node) {
                    Ok(api) => api.get(&format!("/v1/jobs/{job}")).await.map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                match info {
                    Ok(info) if info.state.is_final() => Some(info),
                    _ => None,
                }
            });
            match asked.await {
                Some(info) => self.require(info.state == RunState::Succeeded, || {
                    format!("job {job} was acknowledged and {}: {}", info.state, info.why.unwrap_or_default())
                }),
                None => self.broken.push(format!("job {job} was acknowledged and has no end, as node {node} has it")),
            }
        }
    }

    async fn check_objects(&mut self) {
        let mut broken = Vec::new();
        for Stored { info, content } in &self.objects {
            for node in self.testnet.indices() {
                match self.read(node, info.object).await {
                    Ok(bytes) if bytes == *content => (),
                    Ok(_) => broken.push(format!("object {} reads different through node {node}", info.object)),
                    Err(error) => broken.push(format!("object {} is unreadable at node {node}: {error}", info.object)),
                }
            }
        }
        self.broken.extend(broken);
    }

    async fn read(&self, node: usize, object: ObjectId) -> Result<Vec<u8>, Fault> {
        let api = self.api(node)?;
        let response = api.send(api.request(Method::GET, &format!("/v1/objects/{object}/content"))).await?;
        Ok(response.bytes().await?.to_vec())
    }

    async fn check_memory(&mut self) {
        for (node, before) in self.baseline.clone() {
            let mut last = None;
            let within = Self::wait(SETTLE_MAX, || {
                last = self.rss(node);
                std::future::ready(last.filter(|rss| *rss <= before + RSS_GROWTH_MAX))
            });
            let within = within.await.is_some();
            let mib = |bytes: u64| bytes >> 20;
            match last {
                None => self.broken.push(format!("node {node} has ended: {}", self.testnet.log_tail(node))),
                Some(rss) => {
                    self.require(within, || format!("node {node} holds {} MiB, before {}", mib(rss), mib(before)));
                    self.note_text(format!("node {node}: {} MiB resident, before {}", mib(rss), mib(before)));
                }
            }
        }
    }

    fn check_logs(&mut self) {
        for node in self.testnet.indices() {
            let text = std::fs::read(self.testnet.log_file(node)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            self.broken.extend(
                text.lines().filter(|line| line.contains("panicked at")).map(|line| format!("node {node}: {line}")),
            );
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::Transfer { reason: error.to_string() }
}

async fn submit(api: &Api, seed: u64, number: usize) -> Result<JobId, ApiError> {
    submit_to(api, None, seed, number).await
}

async fn submit_to(api: &Api, quorum: Option<QuorumId>, seed: u64, number: usize) -> Result<JobId, ApiError> {
    let set = [("who".to_owned(), format!("{seed}-{number}"))].into();
    let request = SubmitRequest { spec: SPEC.to_owned(), set, quorum, ..SubmitRequest::default() };
    Ok(api.post::<_, SubmitInfo>("/v1/jobs", &request).await?.job)
}

/// The `quorate` binary beside the running program, where cargo puts both.
pub fn sibling_binary() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.parent()?.join("quorate");
    beside.is_file().then_some(beside)
}
