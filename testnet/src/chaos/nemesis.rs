//! Breaks one thing at a time, undoes it, and waits until the victim is whole again.
//!
//! At most one node is broken at once, so a minority of every quorum and one column of every object; a line through the
//! network leaves each quorum its majority on one side. The exception is a majority of one quorum that is killed at
//! once: it may decide nothing until it is back, and no disk is lost. A disk that gives flipped bits may cost a column
//! for good, so the next one is not touched before every repair is done. Wrong clocks and slow links take no node away:
//! one such fault may last while others come and go.

use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use quorate_api::{BenchCommit, CommitBench, Listing, NodeFaults, ObjectInfo, QuorumDetail};
use quorate_protocols::ids::{LogIndex, QuorumId};

use super::world::{World, is_majority};
use super::{ChaosError, Fault, Operation, RECOVERY_MAX};
use crate::checkers::{Guarantee, Violation, g4_progress};
use crate::client::ClientError;
use crate::report::TestnetNodeState;

const POLL: Duration = Duration::from_millis(25);

/// Faults after which some of what was promised is looked at before going on.
const FAULTS_PER_CHECK: u64 = 100;

/// Of a hundred faults that are not kills when kills are counted.
const KILLS_PER_MILLE: u32 = 850;

/// A fault that stays while others come and go: how many of them.
const MILD_FAULTS_MAX: u64 = 6;

/// How long a quorum stays without its majority: some of them longer than a node tries to get an answer for a client.
const OUTAGE_MIN: Duration = Duration::from_secs(2);
const OUTAGE_MAX: Duration = Duration::from_secs(15);

/// How long a kill waits for a job to be under way. At a job in a few seconds it may miss them all.
const JOB_WAIT_MAX: Duration = Duration::from_secs(1);

/// Something wrong that takes no node away, and how many more faults it lasts.
struct Mild {
    node: usize,
    faults: NodeFaults,
    left: u64,
}

/// What a fault sets in a node's faults.
type Change = fn(&mut NodeFaults);

struct Nemesis<'a> {
    world: &'a World,
    rng: Rng,
    mild: Option<Mild>,
    /// Whether every repair is known to be done since a disk was last corrupted.
    repaired: bool,
    injected: u64,
}

/// Until the time or the kills are over. Everything is healed and running when it returns.
pub async fn run(world: &World, until: Instant) -> Result<(), ChaosError> {
    let rng = Rng::new(world.options.seed, "nemesis");
    let mut nemesis = Nemesis { world, rng, mild: None, repaired: true, injected: 0 };
    while Instant::now() < until && world.options.kills.is_none_or(|wanted| nemesis.kills() < wanted) {
        let next = Instant::now() + world.options.every;
        nemesis.round().await?;
        if nemesis.injected.is_multiple_of(FAULTS_PER_CHECK) {
            super::verify::sample(world).await?;
        }
        world.log_step("everything is whole");
        tokio::time::sleep_until(next.into()).await;
    }
    nemesis.mild = None;
    world.testnet.heal().await?;
    Ok(())
}

impl Nemesis<'_> {
    fn kills(&self) -> u64 {
        self.world.state().faults.get(Fault::Kill.name()).copied().unwrap_or(0)
    }

    fn count(&mut self, fault: Fault) {
        *self.world.state().faults.entry(fault.name()).or_default() += 1;
        self.injected += 1;
    }

    /// What to do next: kinds that came up least are not favoured, except that each comes once before any comes again.
    fn choose(&mut self) -> Option<Fault> {
        let faults = &self.world.options.faults;
        let done = self.world.state().faults.clone();
        let fresh: Vec<Fault> = faults.iter().copied().filter(|fault| !done.contains_key(fault.name())).collect();
        if !fresh.is_empty() && self.rng.chance(500) {
            return self.rng.pick(&fresh).copied();
        }
        let kills_counted = self.world.options.kills.is_some() && faults.len() > 1;
        if kills_counted && self.rng.chance(KILLS_PER_MILLE) {
            return Some(Fault::Kill);
        }
        let all: Vec<Fault> = faults.iter().copied().collect();
        self.rng.pick(&all).copied()
    }

    async fn round(&mut self) -> Result<(), ChaosError> {
        let Some(fault) = self.choose() else { return Ok(()) };
        if let Some(mild) = &mut self.mild {
            mild.left = mild.left.saturating_sub(1);
            if mild.left == 0 {
                self.mild = None;
                self.apply(None).await?;
            }
        }
        let (role, node) = self.victim();
        self.start_again(node).await?;
        let world = self.world;
        world.log_step(format!("{} node {node} ({role})", fault.name()));
        match fault {
            Fault::Kill => self.kill(role, node).await?,
            Fault::Pause => {
                self.count(fault);
                self.take_node(node).await;
                tokio::task::block_in_place(|| world.testnet.pause(node))?;
                self.hold(500, 4000).await;
                world.testnet.resume(node).await?;
                self.whole_again(node, "was paused").await?;
            }
            Fault::Partition => self.partition(node).await?,
            Fault::Cut => {
                self.count(fault);
                let others: Vec<usize> = world.testnet.indices().into_iter().filter(|other| *other != node).collect();
                let Some(other) = self.rng.pick(&others).copied() else { return Ok(()) };
                let (from, to) = if self.rng.chance(500) { (node, other) } else { (other, node) };
                // Whom the link belongs to is away for some: its quorums may well replace it as primary.
                self.break_node(node);
                world.testnet.cut(from, to).await?;
                self.hold(500, 4000).await;
                self.apply(None).await?;
                self.whole_again(node, "lost one way of a link").await?;
            }
            Fault::Slow | Fault::Clock => {
                self.count(fault);
                let mut faults = NodeFaults::default();
                if fault == Fault::Clock {
                    let span = 1 + self.rng.below(3_600_000) as i64;
                    faults.clock_offset_ms = if self.rng.chance(500) { span } else { -span };
                } else {
                    let delay_ms = 20 + self.rng.below(180);
                    for other in world.testnet.indices().into_iter().filter(|other| *other != node) {
                        faults.link_mut(world.testnet.peer_id(other)?).delay_ms = delay_ms;
                    }
                }
                self.mild = Some(Mild { node, faults, left: 1 + self.rng.below(MILD_FAULTS_MAX) });
                self.apply(None).await?;
            }
            Fault::Corrupt => {
                if !self.repaired && !self.wait_repaired().await? {
                    return Ok(());
                }
                self.count(fault);
                self.repaired = false;
                self.break_node(node);
                self.apply(Some((node, |faults| faults.disk.flip_bits = true))).await?;
                self.hold(500, 4000).await;
                self.apply(None).await?;
                self.whole_again(node, "read flipped bits").await?;
            }
            Fault::Fill => {
                self.count(fault);
                self.break_node(node);
                self.apply(Some((node, |faults| faults.disk.full = true))).await?;
                self.hold(500, 3000).await;
                self.apply(None).await?;
                self.whole_again(node, "had a full disk").await?;
            }
            Fault::Majority => self.majority().await?,
        }
        Ok(())
    }

    /// A majority of one quorum is killed at once. Until it is back the quorum may acknowledge nothing.
    async fn majority(&mut self) -> Result<(), ChaosError> {
        let world = self.world;
        super::watch::learn(world).await;
        let Some(quorum) = self.rng.pick(&world.quorums()).copied() else { return Ok(()) };
        let members = world.members(quorum);
        let (mut left, mut victims): (Vec<usize>, _) = (members.iter().copied().collect(), BTreeSet::new());
        while !is_majority(&victims, &members)
            && let Some(victim) = self.rng.pick(&left).copied()
        {
            left.retain(|member| *member != victim);
            victims.insert(victim);
        }
        for victim in victims.iter().copied() {
            self.start_again(victim).await?;
            self.break_node(victim);
        }
        world.log_step(format!("kill nodes {victims:?}, a majority of {quorum}"));
        self.count(Fault::Majority);
        for victim in victims.iter().copied() {
            tokio::task::block_in_place(|| world.testnet.kill(victim))?;
            self.count(Fault::Kill);
            *world.state().kills_by_role.entry("of a majority").or_default() += 1;
        }
        let until = Instant::now() + self.rng.duration(OUTAGE_MIN, OUTAGE_MAX);
        let standing = world.testnet.indices().into_iter().filter(|index| !victims.contains(index));
        futures::future::join_all(standing.map(|entry| ask_in_vain(world, quorum, entry, until))).await;
        for victim in victims.iter().copied() {
            world.testnet.start(victim)?;
        }
        for victim in victims {
            self.whole_again(victim, "was killed with a majority").await?;
        }
        Ok(())
    }

    /// A primary, a holder of what was stored lately, a node with an operation in flight, or anyone.
    fn victim(&mut self) -> (&'static str, usize) {
        let state = self.world.state();
        let primaries: Vec<usize> = state.primaries.values().copied().collect();
        let holders: Vec<usize> = state.holders.iter().copied().filter(|node| !primaries.contains(node)).collect();
        let busy = state.entries.iter().filter(|(_, count)| **count > 0).map(|(node, _)| *node);
        let entries: Vec<usize> = busy.filter(|node| !primaries.contains(node)).collect();
        drop(state);
        let all = self.world.testnet.indices();
        let (role, among) = match self.rng.below(4) {
            0 => ("primary", primaries),
            1 => ("holder", holders),
            2 => ("entry node", entries),
            _ => ("any node", all.clone()),
        };
        match self.rng.pick(&among).copied() {
            Some(node) => (role, node),
            None => ("any node", self.rng.pick(&all).copied().unwrap_or(all[0])),
        }
    }

    fn break_node(&self, node: usize) {
        self.world.state().broken.insert(node);
    }

    /// The same, with the quorums that it leads this very moment counted as without a primary.
    async fn take_node(&self, node: usize) {
        let mut led = Vec::new();
        for quorum in self.world.quorums() {
            if self.world.members(quorum).contains(&node)
                && let Some(detail) = super::watch::view(self.world, node, quorum).await
                && detail.own.is_some_and(|own| own.leading.is_some())
            {
                led.push(quorum);
            }
        }
        let mut state = self.world.state();
        state.broken.insert(node);
        let now = Instant::now();
        state.taken.extend(led.into_iter().map(|quorum| (quorum, now)));
    }

    /// Waits for a moment with a job under way, if jobs come in, and notes how many there are.
    async fn catch_jobs(&self) {
        if !self.world.options.workload.contains(&Operation::Job) {
            return;
        }
        let began = Instant::now();
        while self.world.state().jobs_in_flight == 0 && began.elapsed() < JOB_WAIT_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut state = self.world.state();
        let in_flight = state.jobs_in_flight;
        state.jobs_at_kills.push(in_flight);
    }

    async fn hold(&mut self, from_ms: u64, to_ms: u64) {
        tokio::time::sleep(self.rng.duration(Duration::from_millis(from_ms), Duration::from_millis(to_ms))).await;
    }

    /// Tells every node its faults: the mild one that goes on, and this one.
    async fn apply(&self, fault: Option<(usize, Change)>) -> Result<(), ChaosError> {
        let mut wanted: BTreeMap<usize, NodeFaults> = BTreeMap::new();
        if let Some(mild) = &self.mild {
            wanted.insert(mild.node, mild.faults.clone());
        }
        if let Some((node, change)) = fault {
            change(wanted.entry(node).or_default());
        }
        Ok(self.world.testnet.set_faults(&wanted).await?)
    }

    async fn kill(&mut self, role: &'static str, node: usize) -> Result<(), ChaosError> {
        let testnet = &self.world.testnet;
        self.take_node(node).await;
        self.catch_jobs().await;
        tokio::task::block_in_place(|| testnet.kill(node))?;
        self.count(Fault::Kill);
        *self.world.state().kills_by_role.entry(role).or_default() += 1;
        self.hold(50, 700).await;
        // One in eight is killed again while it starts: recovery itself must survive that.
        if self.rng.chance(120) {
            testnet.start(node)?;
            self.hold(10, 500).await;
            self.catch_jobs().await;
            tokio::task::block_in_place(|| testnet.kill(node))?;
            self.count(Fault::Kill);
            *self.world.state().kills_by_role.entry("node that was starting").or_default() += 1;
        }
        testnet.restart(node).await?;
        self.whole_again(node, "was killed").await
    }

    async fn partition(&mut self, node: usize) -> Result<(), ChaosError> {
        self.count(Fault::Partition);
        let testnet = &self.world.testnet;
        let all = testnet.indices();
        let one: BTreeSet<usize> = match self.rng.chance(700) {
            true => BTreeSet::from([node]),
            false => all.iter().copied().filter(|_| self.rng.chance(500)).collect(),
        };
        if one.is_empty() || one.len() == all.len() {
            return Ok(());
        }
        if let (Some(alone), 1) = (one.first(), one.len()) {
            self.take_node(*alone).await;
        }
        let sides = testnet.partition(&[one.iter().copied().collect()]).await?;
        self.world.state().sides = sides;
        self.hold(1000, 5000).await;
        self.apply(None).await?;
        self.world.state().sides.clear();
        for side in one {
            self.whole_again(side, "was cut off").await?;
        }
        Ok(())
    }

    /// No node ends by itself, whatever was done to it. One that did is started again, so that the run can go on.
    async fn start_again(&self, node: usize) -> Result<(), ChaosError> {
        let state = self.world.testnet.status().into_iter().find(|row| row.index == node).map(|row| row.state);
        if state == Some(TestnetNodeState::Dead) {
            let what = format!("node {node} ended by itself");
            self.world.find(Violation::new(Guarantee::G7, what), format!("the log of node {node}"));
            self.world.testnet.restart(node).await?;
        }
        Ok(())
    }

    /// Waits until the node answers and has applied what its quorums have committed. Not within the bound is a
    /// violation; then it is restarted, so that the run can go on.
    async fn whole_again(&mut self, node: usize, what: &'static str) -> Result<(), ChaosError> {
        self.world.log_step(format!("waiting until node {node}, which {what}, is whole again"));
        let began = Instant::now();
        let (mut took, mut missing, mut goals) = (None, String::new(), BTreeMap::new());
        while began.elapsed() < RECOVERY_MAX {
            match missing_of(self.world, node, &mut goals).await {
                None => {
                    took = Some(began.elapsed());
                    break;
                }
                Some(found) => missing = found,
            }
            // It may have been on its way out when the fault ended.
            self.start_again(node).await?;
            tokio::time::sleep(POLL).await;
        }
        self.world.count(Guarantee::G4, 1);
        for violation in g4_progress::check(&[(format!("node {node}, which {what} ({missing}),"), took)], RECOVERY_MAX)
        {
            self.world.find(violation, format!("quorate quorum ls --node {node}; quorate doctor"));
        }
        match took {
            Some(took) => self.world.state().recoveries.push(took),
            None => self.world.testnet.restart(node).await?,
        }
        self.world.state().broken.remove(&node);
        Ok(())
    }

    /// Whether no object is owed a repair, within the bound. A repair may take minutes; other faults go on meanwhile.
    async fn wait_repaired(&mut self) -> Result<bool, ChaosError> {
        let Ok(client) = self.world.client(self.world.testnet.indices()[0]) else { return Ok(false) };
        let listed: Result<Listing<ObjectInfo>, _> = client.list("/v1/objects").await;
        self.repaired = listed.is_ok_and(|listed| {
            listed.unreachable.is_empty() && listed.items.iter().all(|object| object.owed.is_empty())
        });
        Ok(self.repaired)
    }
}

/// Commands to a quorum without a majority, through one node, one after the other until the time is over. An
/// acknowledgement in that time is a violation; everything else is an answer to count.
async fn ask_in_vain(world: &World, quorum: QuorumId, entry: usize, until: Instant) {
    let request = BenchCommit { quorum, count: 1, outstanding: 1 };
    loop {
        let asked = async { world.client(entry)?.post::<_, CommitBench>("/v1/bench/noop", &request).await };
        let code = match tokio::time::timeout_at(until.into(), asked).await {
            // It still tries, and may be served once the majority is back.
            Err(_) => {
                *world.state().outage_answers.entry("not yet".to_owned()).or_default() += 1;
                return;
            }
            Ok(answer) => answer_code(answer),
        };
        world.count(Guarantee::G1, 1);
        if code == DONE {
            let what = format!("quorum {quorum} acknowledged a command through node {entry} without a majority");
            world.find(Violation::new(Guarantee::G1, what), format!("quorate quorum show {quorum}"));
        }
        *world.state().outage_answers.entry(code).or_default() += 1;
        tokio::time::sleep(4 * POLL).await;
    }
}

/// A command that was carried out.
const DONE: &str = "done";

fn answer_code<T>(answer: Result<T, ClientError>) -> String {
    match answer {
        Ok(_) => DONE.to_owned(),
        Err(ClientError::Refused { error, .. }) => error,
        Err(ClientError::NoAnswer { .. } | ClientError::File { .. }) => "no answer".to_owned(),
        Err(ClientError::Answer { .. } | ClientError::Transfer { .. }) => "broken off".to_owned(),
    }
}

/// What a node lacks to be whole: to answer, and to have applied what the primaries of its quorums had when they were
/// first asked, which `goals` remembers.
async fn missing_of(world: &World, node: usize, goals: &mut BTreeMap<QuorumId, LogIndex>) -> Option<String> {
    let Ok(client) = world.client(node) else { return Some("it has no address".to_owned()) };
    for quorum in world.quorums() {
        let members = world.members(quorum);
        if !members.contains(&node) {
            continue;
        }
        let Some(own) = quorum_at(world, node, quorum).await else {
            return Some(format!("it does not answer for quorum {quorum}"));
        };
        // It was replaced as a member, and another took its place.
        let Some(state) = own.own else { continue };
        if let Some(paused) = own.info.paused {
            return Some(format!("quorum {quorum} is paused: {paused}"));
        }
        if own.info.primary.is_none() {
            return Some(format!("it knows no primary of quorum {quorum}"));
        }
        let Some(goal) = goal_of(world, quorum, &members, goals).await else {
            return Some(format!("nobody leads quorum {quorum}"));
        };
        if state.applied < goal {
            let applied = state.applied;
            return Some(format!("it has applied {applied} entries of quorum {quorum}, and its primary had {goal}"));
        }
    }
    let answers = client.get::<serde_json::Value>("/v1/node").await.is_ok();
    (!answers).then(|| "it does not answer".to_owned())
}

/// What was applied where the quorum is led, at the first look that found it led: everything committed before.
async fn goal_of(
    world: &World,
    quorum: QuorumId,
    members: &BTreeSet<usize>,
    goals: &mut BTreeMap<QuorumId, LogIndex>,
) -> Option<LogIndex> {
    if let Some(goal) = goals.get(&quorum) {
        return Some(*goal);
    }
    for member in members {
        let theirs = quorum_at(world, *member, quorum).await.and_then(|theirs| theirs.own);
        if let Some(theirs) = theirs.filter(|theirs| theirs.leading.is_some()) {
            goals.insert(quorum, theirs.applied);
            return Some(theirs.applied);
        }
    }
    None
}

async fn quorum_at(world: &World, node: usize, quorum: QuorumId) -> Option<QuorumDetail> {
    let asked = async { world.client(node)?.get::<QuorumDetail>(&format!("/v1/quorums/{quorum}")).await };
    tokio::time::timeout(Duration::from_secs(2), asked).await.ok()?.ok()
}
