//! One run: a world from a seed, a schedule of operations and faults, and what the checkers say.
//!
//! Two phases. **Safety**: clients put and get while faults come and go, and after every step the invariants that can be
//! seen from inside are checked (G2, G5, G7, G8), and every operation that ended (G1, G6). **Liveness**: faults end,
//! every node runs, and within [`LIVENESS_BOUND`] every acknowledged object must read back and a new one must be stored
//! (G4). The schedule is drawn from the seed alone, so a failing seed fails again.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_protocols::ids::{MemberId, QuorumId};
use quorate_protocols::resources::Resource;
use quorate_testnet::checkers::g2_one_primary::Leaders;
use quorate_testnet::checkers::g5_agreement::Digests;
use quorate_testnet::checkers::g8_reservations::{self, Account};
use quorate_testnet::checkers::{Guarantee, Violation, g4_progress, g7_bounded};
use tokio::time::Instant;

use crate::faults::{Fault, FaultSet};
use crate::net::{Faults, NetCounts};
use crate::oracle::{Operations, Oracle};
use crate::panics;
use crate::rng::SimRng;
use crate::runtime;
use crate::transcript::Transcript;
use crate::world::{World, content};

/// After faults have ended, everything must serve again within this. Much longer than any failover: it covers a
/// put's wait for holders, a client's deadline and the backoff after long faults.
pub const LIVENESS_BOUND: Duration = Duration::from_secs(180);

/// A client's own patience with one operation under faults; what is open beyond it stays unknown.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two steps, at most.
const STEP_MAX: Duration = Duration::from_secs(4);

/// Largest object of a schedule, in bytes. Small: what is tested is not the coding.
const OBJECT_BYTES_MAX: u64 = 200_000;

/// Operations open at once; a client does not start more while the network is paused.
const OPEN_MAX: usize = 8;

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    /// Virtual time under faults.
    pub duration: Duration,
    pub faults: FaultSet,
    /// Every message becomes a line of the transcript.
    pub is_detailed: bool,
}

/// How often something worth testing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moments {
    pub crashes: u64,
    /// Crashes of a node that led a quorum.
    pub primaries_crashed: u64,
    pub crashes_that_lost_writes: u64,
    /// Pairs of quorum and term that had a primary.
    pub terms_led: u64,
    pub faults: u64,
    pub rotten_reads: u64,
    pub refused_full: u64,
    pub digests_compared: u64,
}

pub struct Report {
    pub plan: Plan,
    pub transcript: Transcript,
    pub violations: Vec<Violation>,
    pub operations: Operations,
    pub moments: Moments,
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
    rng: SimRng,
    oracle: Oracle,
    leaders: Leaders<QuorumId, MemberId>,
    digests: Digests<QuorumId, MemberId>,
    violations: Vec<Violation>,
    moments: Moments,
    /// What each account held at the last look.
    reserved: BTreeMap<String, u64>,
    puts: u64,
    /// The one machine whose pieces rot: objects promise to survive the loss of m columns, not of all.
    rotting: usize,
}

impl Session {
    fn new(plan: Plan) -> Self {
        let transcript = Transcript::new(plan.is_detailed);
        let world = World::new(plan.seed, plan.nodes, transcript);
        let mut rng = SimRng::new(plan.seed, "schedule");
        let rotting = 1 + rng.below(plan.nodes as u64) as usize;
        Self {
            world,
            rng,
            oracle: Oracle::default(),
            leaders: Leaders::default(),
            digests: Digests::default(),
            violations: Vec::new(),
            moments: Moments::default(),
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

    /// One operation of a client, one fault, or the end of one.
    async fn step(&mut self) {
        match self.rng.below(10) {
            0..=2 if self.oracle.open() < OPEN_MAX => self.put(),
            3..=5 if self.oracle.open() < OPEN_MAX => self.get(),
            6 => self.recover().await,
            _ => self.fault(),
        }
    }

    fn put(&mut self) {
        let Some(index) = self.rng.pick(&self.world.up()).copied() else { return };
        self.puts += 1;
        let name = format!("object-{}", self.puts);
        let bytes = content(self.plan.seed, &name, 1 + self.rng.below(OBJECT_BYTES_MAX) as usize);
        let put = self.world.put(index, name.clone(), bytes.clone());
        self.oracle.putting(name, &bytes, put);
    }

    fn get(&mut self) {
        let Some(index) = self.rng.pick(&self.world.up()).copied() else { return };
        let Some(object) = self.rng.pick(&self.oracle.objects()).copied() else { return };
        let get = self.world.get(index, object);
        self.oracle.getting(object, get);
    }

    async fn start(&mut self, index: usize) {
        if let Err(error) = self.world.start(index).await {
            let what = format!("node {index} does not start: {}", crate::world::chain(&error));
            self.violations.push(Violation::new(Guarantee::G1, what));
        }
    }

    /// Boots a node that is down, or ends the faults of network and disks.
    async fn recover(&mut self) {
        match self.rng.pick(&self.world.down()).copied() {
            Some(index) => self.start(index).await,
            None => self.heal(),
        }
    }

    fn heal(&mut self) {
        self.world.transcript.line(0, "faults of network and disks end");
        self.world.fabric.heal();
        for index in 1..=self.plan.nodes {
            self.world.disk(index).set_full(false);
            self.world.disk(index).set_sync_delay(Duration::ZERO);
        }
    }

    fn fault(&mut self) {
        let kinds: Vec<_> = self.plan.faults.0.iter().copied().collect();
        let Some(kind) = self.rng.pick(&kinds).copied() else { return };
        let node = 1 + self.rng.below(self.plan.nodes as u64) as usize;
        let other = 1 + self.rng.below(self.plan.nodes as u64) as usize;
        self.moments.faults += 1;
        let detail = self.inject(kind, node, other);
        self.world.transcript.line(0, format_args!("fault {}: {detail}", kind.name()));
    }

    fn inject(&mut self, kind: Fault, node: usize, other: usize) -> String {
        match kind {
            Fault::Crash => {
                if self.world.node(node).is_some() {
                    self.moments.crashes += 1;
                    let leads = self.world.leads().iter().any(|lead| lead.node == node);
                    self.moments.primaries_crashed += u64::from(leads);
                }
                self.world.crash(node);
                format!("node {node}")
            }
            Fault::Partition => {
                let sides: Vec<bool> = (0..self.plan.nodes).map(|_| self.rng.chance(500)).collect();
                for (a, left) in sides.iter().enumerate() {
                    for (b, right) in sides.iter().enumerate() {
                        if left != right {
                            self.world.fabric.cut(self.world.peer(a + 1), self.world.peer(b + 1));
                        }
                    }
                }
                format!("{sides:?}")
            }
            Fault::OneWay => {
                self.world.fabric.cut(self.world.peer(node), self.world.peer(other));
                format!("{other} does not hear {node}")
            }
            Fault::Slow => {
                let by = self.rng.duration(Duration::from_millis(20), Duration::from_millis(800));
                self.world.fabric.slow(self.world.peer(node), by);
                format!("node {node} by {by:?}")
            }
            Fault::Loss => {
                let faults = Faults {
                    latency: (Duration::from_micros(300), self.rng.duration(Faults::NONE.latency.1, STEP_MAX / 8)),
                    loss_per_mille: self.rng.below(150) as u32,
                    duplicates_per_mille: self.rng.below(150) as u32,
                };
                self.world.fabric.set_faults(faults);
                format!("{faults:?}")
            }
            Fault::SlowDisk => {
                let by = self.rng.duration(Duration::from_millis(10), Duration::from_secs(2));
                self.world.disk(node).set_sync_delay(by);
                format!("node {node} by {by:?}")
            }
            Fault::FullDisk => {
                self.world.disk(node).set_full(true);
                format!("node {node}")
            }
            Fault::Rot => {
                let rotten = self.world.disk(self.rotting).rot_one(&mut self.rng);
                format!("node {}: {rotten:?}", self.rotting)
            }
            Fault::Clock => {
                let by_ms = self.rng.below(2 * 3_600_000) as i64 - 3_600_000;
                self.world.clock(node).step(by_ms);
                format!("node {node} by {by_ms} ms")
            }
        }
    }

    /// Every invariant that can be seen between two steps.
    async fn check(&mut self) {
        let mut found = self.oracle.collect().await;
        for lead in self.world.leads() {
            found.extend(self.leaders.check(lead.quorum, lead.term.0, lead.member));
        }
        for index in self.world.up() {
            let Some(node) = self.world.node(index) else { continue };
            for quorum in node.quorums().quorums() {
                let (at, digest) = quorum.view().digest;
                if at.0 > 0 {
                    let member = node.identity().member();
                    found.extend(self.digests.check(quorum.id(), at.0, member, digest.0));
                }
            }
            let accounts: Vec<_> = node.resources().usage().iter().flat_map(|usage| accounts(index, usage)).collect();
            found.extend(g8_reservations::check(&self.grown(accounts)));
        }
        found.extend(g7_bounded::check::<String>(&[], &panics::take()));
        for violation in &found {
            self.world.transcript.line(0, violation);
        }
        self.violations.extend(found);
    }

    /// The accounts that grew since the last look. A limit that follows the machine, as a full disk's does, may sink
    /// below what was reserved before; what the guarantee forbids is to reserve beyond it.
    fn grown(&mut self, accounts: Vec<Account<String>>) -> Vec<Account<String>> {
        let mut has_grown = |account: &Account<String>| {
            let before = self.reserved.insert(account.scope.clone(), account.used).unwrap_or_default();
            account.used > before
        };
        accounts.into_iter().filter(|account| has_grown(account)).collect()
    }

    /// Faults end; everything that was promised must be served, and something new must be possible.
    async fn liveness(&mut self) {
        self.world.transcript.line(0, "liveness: every fault ends");
        self.heal();
        for index in 1..=self.plan.nodes {
            self.world.clock(index).reset();
            self.start(index).await;
        }
        let began = Instant::now();
        let end = began + LIVENESS_BOUND;
        let (found, open) = self.oracle.drain(end).await;
        self.violations.extend(found);
        let mut waits = vec![(format!("{open} operations"), (open == 0).then(|| began.elapsed()))];

        let name = "object-last".to_owned();
        let bytes = content(self.plan.seed, &name, 50_000);
        let mut stored = None;
        while stored.is_none() && Instant::now() < end {
            let index = 1 + self.rng.below(self.plan.nodes as u64) as usize;
            if let Ok(Ok(Some(Ok(outcome)))) =
                tokio::time::timeout_at(end, self.world.put(index, name.clone(), bytes.clone())).await
            {
                stored = Some((outcome.object, began.elapsed()));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        waits.push(("a new put".into(), stored.map(|(_, took)| took)));

        for object in self.oracle.objects() {
            let mut took = None;
            while took.is_none() && Instant::now() < end && self.violations.is_empty() {
                let index = 1 + self.rng.below(self.plan.nodes as u64) as usize;
                if let Ok(Ok(Some(result))) = tokio::time::timeout_at(end, self.world.get(index, object)).await {
                    let found = self.oracle.read(object, &result);
                    self.violations.extend(found);
                    took = result.is_ok().then(|| began.elapsed());
                }
                if took.is_none() {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
            waits.push((format!("reading {object:?}"), took));
        }
        if self.violations.is_empty() {
            self.violations.extend(g4_progress::check(&waits, LIVENESS_BOUND));
        }
        self.check().await;
    }

    fn report(mut self) -> Report {
        for index in 1..=self.plan.nodes {
            let counts = self.world.disk(index).counts();
            self.moments.crashes_that_lost_writes += counts.crashes_with_loss;
            self.moments.rotten_reads += counts.rotten_reads;
            self.moments.refused_full += counts.refused_full;
        }
        self.moments.terms_led = self.leaders.count() as u64;
        self.moments.digests_compared = self.digests.compared();
        Report {
            transcript: self.world.transcript.clone(),
            violations: self.violations,
            operations: self.oracle.counts,
            moments: self.moments,
            net: self.world.fabric.counts(),
            simulated: self.world.elapsed(),
            plan: self.plan,
        }
    }
}

fn accounts(index: usize, usage: &quorate::resources::ScopeUsage) -> Vec<Account<String>> {
    let account = |resource: Resource| Account {
        scope: format!("node {index} {} {resource:?}", usage.scope),
        used: usage.used.get(resource),
        limit: usage.limit.get(resource),
    };
    Resource::ALL.into_iter().map(account).collect()
}
