//! One run: a world from a seed, a schedule of operations and faults, and what the checkers say.
//!
//! Two phases. **Safety**: clients put and get files, command jobs and submit work while faults come and go, and after
//! every step the invariants that can be seen from inside are checked (G2, G5, G7, G8), and every operation that ended
//! (G1, G6), the commands as histories of single copies. **Liveness**: faults end, every node runs, and within
//! [`LIVENESS_BOUND`] every acknowledged object must read back, every acknowledged job must have ended with the results
//! of its own tasks, and a new object must be stored (G4); then everything is removed, and nothing may stay reserved
//! for it (G8). No client submits a trigger here, so G3 is not fed. The schedule is drawn from the seed alone, so a
//! failing seed fails again.

mod breaking;
mod checking;
mod computing;
mod liveness;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_node::compose::StartError;
use quorate_node::raft::lost_quorums;
use quorate_node::seams::{DiskError, TaskGroup};
use quorate_node::storage::Storage;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{JobId, MemberId, ObjectId, PieceIndex, QuorumId};
use quorate_protocols::text::chain;
use quorate_testnet::checkers::commands::{Job, Object};
use quorate_testnet::checkers::g2_one_primary::{Leaders, Terms};
use quorate_testnet::checkers::g5_agreement::Digests;
use quorate_testnet::checkers::g6_readable::Holdings;
use quorate_testnet::checkers::{Guarantee, Violation};
use tokio::time::Instant;

use crate::coverage::Coverage;
use crate::executor::SimExecutor;
use crate::faults::{Fault, FaultSet};
use crate::history::{self, Histories};
use crate::links::Links;
use crate::oracle::{Operations, Oracle};
use crate::panics;
use crate::planted::Planted;
use crate::runtime;
use crate::transcript::Transcript;
use crate::world::World;
use computing::Computing;
use quorate_testkit::net::NetCounts;
use quorate_testnet::rng::Rng;
use workload::WatchedJob;

/// After faults have ended, everything must serve again within this. Much longer than any failover: it covers a
/// put's wait for holders, a client's deadline and the backoff after long faults.
pub const LIVENESS_BOUND: Duration = Duration::from_secs(180);

/// A client's own patience with one operation under faults; what is open beyond it stays unknown.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two steps, at most.
const STEP_MAX: Duration = Duration::from_secs(4);

/// How wrong a wall clock may be from the start, in either direction, where clocks are among the faults.
const SKEW_MS_MAX: u64 = 5_000;

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    /// Virtual time under faults.
    pub duration: Duration,
    pub faults: FaultSet,
    pub links: Links,
    /// Of these, the ones that are drawn and then not injected: what is left of a schedule when it is made smaller.
    pub without: FaultSet,
    /// Every message becomes a line of the transcript.
    pub is_detailed: bool,
    /// A deliberate bug in every node, which the run should find.
    pub planted: Option<Planted>,
}

pub struct Report {
    pub plan: Plan,
    pub transcript: Transcript,
    pub violations: Vec<Violation>,
    pub operations: Operations,
    /// Faults by kind.
    pub injected: BTreeMap<&'static str, u64>,
    /// The most that each bounded thing ever held, and its bound.
    pub high_water: BTreeMap<&'static str, (u64, u64)>,
    pub coverage: Coverage,
    pub net: NetCounts,
    pub simulated: Duration,
}

/// Runs the plan to its end, or to its first violation.
pub fn run(plan: Plan) -> std::io::Result<Report> {
    panics::watch();
    runtime::run(plan.seed, async move {
        let mut session = Session::new(plan);
        session.play().await;
        session.report()
    })
}

struct Session {
    plan: Plan,
    world: World,
    rng: Rng,
    oracle: Oracle,
    leaders: Leaders<QuorumId, MemberId>,
    terms: Terms<QuorumId, MemberId>,
    digests: Digests<QuorumId, MemberId>,
    /// Whole states, compared once at the end.
    states: Digests<QuorumId, MemberId>,
    memberships: Digests<QuorumId, MemberId>,
    clock: history::HistoryClock,
    job_history: Histories<JobId, Job>,
    object_history: Histories<ObjectId, Object>,
    watched: Vec<WatchedJob>,
    /// Jobs that compute, and what their tasks do.
    computing: Vec<Computing>,
    executor: SimExecutor,
    injected: BTreeMap<&'static str, u64>,
    high_water: BTreeMap<&'static str, (u64, u64)>,
    holdings: Holdings<MemberId, (JobId, PieceIndex)>,
    /// Crashes of each node's disk that lost writes, as of its last start.
    losses: BTreeMap<usize, u64>,
    voters: BTreeMap<QuorumId, BTreeSet<MemberId>>,
    /// Counters of the nodes' own at the last look, by node and what is counted.
    counted: BTreeMap<(usize, String), u64>,
    /// Where a put that ended unknown was tried, and its size.
    tried: BTreeMap<String, (usize, usize)>,
    is_cut: bool,
    violations: Vec<Violation>,
    coverage: Coverage,
    /// What each account held at the last look.
    reserved: BTreeMap<String, u64>,
    puts: u64,
    /// The one machine whose pieces rot: objects promise to survive the loss of m columns, not of all.
    rotting: usize,
}

impl Session {
    fn new(plan: Plan) -> Self {
        let transcript = Transcript::new(plan.is_detailed);
        let mut world = World::new(plan.seed, plan.nodes, transcript);
        world.planted = plan.planted;
        plan.links.apply(&world);
        let executor = SimExecutor::default();
        world.work.executors = BTreeMap::from([(Engine::Wasm, Arc::new(executor.clone()) as Arc<_>)]);
        let mut rng = Rng::new(plan.seed, "schedule");
        if plan.faults.0.contains(&Fault::Clock) {
            for index in 1..=plan.nodes {
                world.clock(index).step(rng.below(2 * SKEW_MS_MAX) as i64 - SKEW_MS_MAX as i64);
            }
        }
        let rotting = 1 + rng.below(plan.nodes as u64) as usize;
        Self {
            world,
            rng,
            oracle: Oracle::default(),
            leaders: Leaders::default(),
            terms: Terms::default(),
            digests: Digests::default(),
            states: Digests::default(),
            memberships: Digests::default(),
            clock: history::HistoryClock::default(),
            job_history: Histories::new(Job),
            object_history: Histories::new(Object),
            watched: Vec::new(),
            computing: Vec::new(),
            executor,
            injected: BTreeMap::new(),
            high_water: BTreeMap::new(),
            holdings: Holdings::default(),
            losses: BTreeMap::new(),
            voters: BTreeMap::new(),
            counted: BTreeMap::new(),
            tried: BTreeMap::new(),
            is_cut: false,
            violations: Vec::new(),
            coverage: Coverage::default(),
            reserved: BTreeMap::new(),
            puts: 0,
            rotting,
            plan,
        }
    }

    async fn play(&mut self) {
        for index in 1..=self.plan.nodes {
            self.start(index).await;
        }
        if !self.world.settle(SETTLE_PATIENCE).await {
            let what = format!("the nodes did not see each other within {SETTLE_PATIENCE:?}, without any fault");
            self.violations.push(Violation::new(Guarantee::G4, what));
        }
        let end = Instant::now() + self.plan.duration;
        while Instant::now() < end && self.violations.is_empty() {
            let pause = self.rng.duration(Duration::from_millis(50), STEP_MAX);
            tokio::time::sleep(pause).await;
            self.step().await;
            self.check().await;
        }
        if self.violations.is_empty() {
            self.liveness().await;
        }
    }

    async fn start(&mut self, index: usize) {
        let is_up = self.world.node(index).is_some();
        if !is_up {
            self.check_remembered(index).await;
        }
        let mut started = self.world.start(index).await;
        if let Err(StartError::Disk(DiskError::Full { .. })) = started {
            self.world.transcript.line(index, "does not start on a full disk; its operator makes room");
            self.world.disk(index).set_full(false);
            started = self.world.start(index).await;
        }
        if let Err(error) = started {
            let what = format!("node {index} does not start: {}", chain(&error));
            self.violations.push(Violation::new(Guarantee::G1, what));
        }
        if is_up {
            return;
        }
        self.counted.retain(|(node, _), _| *node != index);
        let losses = self.world.disk(index).counts().crashes_with_loss;
        let has_lost = self.losses.insert(index, losses).unwrap_or_default() < losses;
        let Some(node) = self.world.node(index) else { return };
        let member = node.identity().member();
        if has_lost {
            self.holdings.lost_writes(&member);
        }
        for quorum in node.quorums().quorums() {
            self.violations.extend(self.terms.check(quorum.id(), member, quorum.view().term.0));
        }
    }

    /// That no crash looks like a disk that forgot, as a node asks before it starts: it would give up all that it is a
    /// member of.
    async fn check_remembered(&mut self, index: usize) {
        let tasks = TaskGroup::inline();
        let storage = tasks.scope(async { Storage::start(self.world.disk(index).disk()) }).await;
        let forgot = lost_quorums(&storage, self.world.member(index));
        tasks.crash();
        // The disks of this world keep what they acknowledged, and a wiped one comes back as another member.
        if !matches!(&forgot, Ok(lost) if lost.is_empty()) {
            let what = format!("the disk of node {index} forgot what it had called durable: {forgot:?}");
            self.violations.push(Violation::new(Guarantee::G1, what));
        }
    }

    fn report(mut self) -> Report {
        for index in 1..=self.plan.nodes {
            let counts = self.world.disk(index).counts();
            self.coverage.crashes_that_lost_writes += counts.crashes_with_loss;
            self.coverage.rotten_reads += counts.rotten_reads;
            self.coverage.refused_full += counts.refused_full;
            self.coverage.torn_recovered += counts.torn_recovered;
        }
        self.coverage.terms_led = self.leaders.count() as u64;
        self.coverage.digests_compared = self.digests.compared();
        self.coverage.states_compared = self.states.compared();
        let seen = &self.world.seen;
        self.coverage.backups_used = seen.backups_used.load(Ordering::Relaxed);
        self.coverage.columns_repaired = seen.columns_repaired.load(Ordering::Relaxed);
        self.coverage.workers_lost = seen.workers_lost.load(Ordering::Relaxed);
        self.coverage.puts_resumed = seen.puts_resumed.load(Ordering::Relaxed);
        let mut operations = self.oracle.counts;
        operations.calls_answered = self.job_history.answered + self.object_history.answered;
        operations.calls_unknown = self.job_history.unanswered + self.object_history.unanswered;
        operations.histories_undecided = self.job_history.undecided + self.object_history.undecided;
        Report {
            transcript: self.world.transcript.clone(),
            violations: self.violations,
            operations,
            injected: self.injected,
            high_water: self.high_water,
            coverage: self.coverage,
            net: self.world.network.counts(),
            simulated: self.world.elapsed(),
            plan: self.plan,
        }
    }
}
