//! One run: a world from a seed, a schedule of operations and faults, and what the checkers say.
//!
//! Two phases. **Safety**: clients put and get while faults come and go, and after every step the invariants that can be
//! seen from inside are checked (G2, G5, G7, G8), and every operation that ended (G1, G6). **Liveness**: faults end,
//! every node runs, and within [`LIVENESS_BOUND`] every acknowledged object must read back and a new one must be stored
//! (G4). The schedule is drawn from the seed alone, so a failing seed fails again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate::node::Node;
use quorate::objects::store::{ColumnRow, HoldState};
use quorate::quorum::lost_quorums;
use quorate::seams::Planted;
use quorate_protocols::ids::{JobId, MemberId, PieceIndex, QuorumId};
use quorate_protocols::job::limits::PAGE_MAX;
use quorate_protocols::job::message::{Query, QueryAnswer};
use quorate_protocols::job::store::ColumnState;
use quorate_protocols::resources::Resource;
use quorate_testnet::checkers::g2_one_primary::{Leaders, Terms};
use quorate_testnet::checkers::g5_agreement::Digests;
use quorate_testnet::checkers::g6_readable::{self, Held, Holdings};
use quorate_testnet::checkers::g8_reservations::{self, Account};
use quorate_testnet::checkers::{Guarantee, Violation, g4_progress, g7_bounded};
use tokio::time::Instant;

use crate::faults::{Fault, FaultSet};
use crate::moments::Moments;
use crate::net::{Faults, NetCounts};
use crate::oracle::{Operations, Oracle};
use crate::panics;
use crate::rng::SimRng;
use crate::runtime;
use crate::transcript::Transcript;
use crate::world::{Lead, World, content};

/// After faults have ended, everything must serve again within this. Much longer than any failover: it covers a
/// put's wait for holders, a client's deadline and the backoff after long faults.
pub const LIVENESS_BOUND: Duration = Duration::from_secs(180);

/// A client's own patience with one operation under faults; what is open beyond it stays unknown.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two steps, at most.
const STEP_MAX: Duration = Duration::from_secs(4);

/// Largest object of a schedule, in bytes. Small: what is tested is not the coding.
const OBJECT_BYTES_MAX: u64 = 200_000;

/// Turns that a started node's tasks get before its first look. They take no virtual time.
const STARTUP_YIELDS: usize = 100;

/// How long a crash may wait for a primary that is in the middle of a commit.
const HUNT_MS_MAX: u64 = 300;

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
    /// A deliberate bug in every node, which the run should find.
    pub planted: Option<Planted>,
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
    terms: Terms<QuorumId, MemberId>,
    digests: Digests<QuorumId, MemberId>,
    /// Whole states, compared once at the end.
    states: Digests<QuorumId, MemberId>,
    holdings: Holdings<(MemberId, JobId, PieceIndex)>,
    voters: BTreeMap<QuorumId, BTreeSet<MemberId>>,
    /// Counters of the nodes' own at the last look, by node and what is counted.
    counted: BTreeMap<(usize, String), u64>,
    /// Where a put that ended unknown was tried, and its size.
    tried: BTreeMap<String, (usize, usize)>,
    is_cut: bool,
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
        let mut world = World::new(plan.seed, plan.nodes, transcript);
        world.planted = plan.planted;
        let mut rng = SimRng::new(plan.seed, "schedule");
        let rotting = 1 + rng.below(plan.nodes as u64) as usize;
        Self {
            world,
            rng,
            oracle: Oracle::default(),
            leaders: Leaders::default(),
            terms: Terms::default(),
            digests: Digests::default(),
            states: Digests::default(),
            holdings: Holdings::default(),
            voters: BTreeMap::new(),
            counted: BTreeMap::new(),
            tried: BTreeMap::new(),
            is_cut: false,
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
        match self.rng.below(22) {
            0..=5 if self.oracle.open() < OPEN_MAX => self.put(),
            6..=11 if self.oracle.open() < OPEN_MAX => self.get(),
            12..=13 => self.recover().await,
            14 => self.compact().await,
            _ => self.fault().await,
        }
    }

    fn put(&mut self) {
        if self.rng.chance(400)
            && let Some(name) = self.oracle.take_unknown()
        {
            return self.put_again(name);
        }
        let Some(index) = self.rng.pick(&self.world.up()).copied() else { return };
        self.puts += 1;
        let name = format!("object-{}", self.puts);
        let bytes = content(self.plan.seed, &name, 1 + self.rng.below(OBJECT_BYTES_MAX) as usize);
        self.tried.insert(name.clone(), (index, bytes.len()));
        let put = self.world.put(index, name.clone(), bytes.clone());
        self.oracle.putting(name, &bytes, put);
    }

    /// A client whose put ended unknown comes back with the same file, to the same node.
    fn put_again(&mut self, name: String) {
        let Some(&(index, bytes)) = self.tried.get(&name) else { return };
        let bytes = content(self.plan.seed, &name, bytes);
        let put = self.world.put(index, name.clone(), bytes.clone());
        self.oracle.putting(name, &bytes, put);
    }

    /// A primary shortens its log, so that members which are far behind need its snapshot.
    async fn compact(&mut self) {
        let Some(lead) = self.rng.pick(&self.world.leads()).copied() else { return };
        let Some(quorum) = self.world.node(lead.node).and_then(|node| node.quorums().quorum(lead.quorum)) else {
            return;
        };
        let told = quorum.compact().await.is_ok();
        self.world.transcript.line(lead.node, format_args!("compacts {:?}: {told}", lead.quorum));
    }

    fn get(&mut self) {
        let Some(index) = self.rng.pick(&self.world.up()).copied() else { return };
        let Some(object) = self.rng.pick(&self.oracle.objects()).copied() else { return };
        let get = self.world.get(index, object);
        self.oracle.getting(object, get);
    }

    async fn start(&mut self, index: usize) {
        let is_up = self.world.node(index).is_some();
        if let Err(error) = self.world.start(index).await {
            let what = format!("node {index} does not start: {}", crate::world::chain(&error));
            self.violations.push(Violation::new(Guarantee::G1, what));
        }
        if is_up {
            return;
        }
        self.counted.retain(|(node, _), _| *node != index);
        // openraft's tasks read what is on the disk and say where they stand, before any message can arrive.
        for _ in 0..STARTUP_YIELDS {
            tokio::task::yield_now().await;
        }
        let Some(node) = self.world.node(index) else { return };
        let member = node.identity().member();
        match lost_quorums(node.storage(), member) {
            Ok(lost) if lost.is_empty() => {}
            // The disks of this world keep what they acknowledged, and a wiped one comes back as another member.
            forgot => {
                let what = format!("the disk of node {index} forgot what it had called durable: {forgot:?}");
                self.violations.push(Violation::new(Guarantee::G1, what));
            }
        }
        for quorum in node.quorums().quorums() {
            self.violations.extend(self.terms.check(quorum.id(), member, quorum.view().term.0));
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
        self.moments.partitions_healed += u64::from(std::mem::take(&mut self.is_cut));
        for index in 1..=self.plan.nodes {
            self.world.disk(index).set_full(false);
            self.world.disk(index).set_sync_delay(Duration::ZERO);
        }
    }

    async fn fault(&mut self) {
        let kinds: Vec<_> = self.plan.faults.0.iter().copied().collect();
        let Some(kind) = self.rng.pick(&kinds).copied() else { return };
        let mut node = 1 + self.rng.below(self.plan.nodes as u64) as usize;
        if kind == Fault::Crash && self.rng.chance(300) {
            node = self.hunt().await.unwrap_or(node);
        }
        let other = 1 + self.rng.below(self.plan.nodes as u64) as usize;
        self.moments.faults += 1;
        let detail = self.inject(kind, node, other);
        self.world.transcript.line(0, format_args!("fault {}: {detail}", kind.name()));
    }

    /// A primary with an entry under way, if one shows up soon.
    async fn hunt(&self) -> Option<usize> {
        for _ in 0..HUNT_MS_MAX {
            if let Some(lead) = self.world.leads().into_iter().find(|lead| self.is_mid_commit(lead)) {
                return Some(lead.node);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        None
    }

    fn is_mid_commit(&self, lead: &Lead) -> bool {
        let quorum = self.world.node(lead.node).and_then(|node| node.quorums().quorum(lead.quorum));
        quorum.and_then(|quorum| quorum.progress()).is_some_and(|progress| progress.last_log > progress.applied)
    }

    fn inject(&mut self, kind: Fault, node: usize, other: usize) -> String {
        match kind {
            Fault::Crash => {
                if self.world.node(node).is_some() {
                    self.moments.crashes += 1;
                    let leads: Vec<_> = self.world.leads().into_iter().filter(|lead| lead.node == node).collect();
                    self.moments.primaries_crashed += u64::from(!leads.is_empty());
                    let is_mid_commit = leads.iter().any(|lead| self.is_mid_commit(lead));
                    self.moments.primaries_crashed_mid_commit += u64::from(is_mid_commit);
                }
                self.world.crash(node);
                format!("node {node}")
            }
            Fault::Partition => {
                self.is_cut = true;
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
                self.is_cut = true;
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
            Fault::Wipe => {
                self.moments.disks_wiped += 1;
                self.world.wipe(self.rotting);
                format!("node {}", self.rotting)
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
            let member = node.identity().member();
            let mut counts = vec![("leases expired".to_owned(), node.approver().counts().expired)];
            for quorum in node.quorums().quorums() {
                let Some(progress) = quorum.progress() else { continue };
                found.extend(self.digests.check(quorum.id(), progress.applied.0, member, progress.digest.0));
                counts.push((format!("snapshots {}", quorum.id()), progress.snapshots_installed));
                found.extend(self.terms.check(quorum.id(), member, quorum.term().0));
                if quorum.leading().is_some() {
                    let voters: BTreeSet<_> = quorum.view().voters.into_iter().collect();
                    let before = self.voters.insert(quorum.id(), voters.clone()).unwrap_or_default();
                    self.moments.members_replaced += before.difference(&voters).count() as u64;
                }
            }
            for (job, column, row) in columns(node) {
                found.extend(self.holdings.check((member, job, column), held(&row)));
            }
            for (what, now) in counts {
                let expired = what.starts_with("leases");
                let before = self.counted.insert((index, what), now).unwrap_or_default();
                let more = now.saturating_sub(before);
                match expired {
                    true => self.moments.leases_expired += more,
                    false => self.moments.snapshots_installed += more,
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
        self.compare().await;
    }

    /// What is looked at once, at rest: whole states, and whether holders keep what the quorums count on.
    async fn compare(&mut self) {
        for index in self.world.up() {
            let Some(node) = self.world.node(index) else { continue };
            for quorum in node.quorums().quorums() {
                if let Some((at, hash)) = quorum.state_hash() {
                    let member = node.identity().member();
                    self.violations.extend(self.states.check(quorum.id(), at.0, member, hash.0));
                }
            }
        }
        let holders: BTreeMap<MemberId, &Node> = (1..=self.plan.nodes)
            .filter_map(|index| self.world.node(index))
            .map(|node| (node.identity().member(), node))
            .collect();
        for lead in self.world.leads() {
            let quorum = self.world.node(lead.node).and_then(|node| node.quorums().quorum(lead.quorum));
            let Some(quorum) = quorum else { continue };
            let page = Query::Objects { after: None, limit: PAGE_MAX as u32 };
            let Ok(QueryAnswer::Objects(objects)) = quorum.query(page, true).await else { continue };
            for view in objects {
                for (index, column) in (0..).zip(&view.record.columns) {
                    // A holder that lost its disk since is the steward's to notice, in its own time.
                    let Some(node) = column.grant.and_then(|grant| holders.get(&grant.holder)) else { continue };
                    if column.state == ColumnState::Confirmed {
                        let kept = node.objects().service().store().column(view.record.job, PieceIndex(index));
                        let kept = kept.ok().flatten().map(|row| held(&row));
                        let what = (view.record.job, PieceIndex(index));
                        self.violations.extend(g6_readable::check_confirmed(what, kept));
                    }
                }
            }
        }
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
        self.moments.states_compared = self.states.compared();
        let seen = &self.world.seen;
        self.moments.backups_used = seen.backups_used.load(Ordering::Relaxed);
        self.moments.columns_repaired = seen.columns_repaired.load(Ordering::Relaxed);
        self.moments.puts_resumed = seen.puts_resumed.load(Ordering::Relaxed);
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

/// Every column that this node has or had, as its own index says.
fn columns(node: &Node) -> Vec<(JobId, PieceIndex, ColumnRow)> {
    node.objects().service().store().columns(None, usize::MAX).unwrap_or_default()
}

fn held(row: &ColumnRow) -> Held {
    Held {
        attempt: row.attempt.0.into(),
        is_released: matches!(row.state, HoldState::Released { .. }),
        is_confirmed: matches!(row.state, HoldState::Confirmed { .. }),
    }
}
