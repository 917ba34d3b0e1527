//! Triggers on whole simulated nodes, for as many virtual hours as asked, and the checker of G3 over what was recorded.
//!
//! A few triggers of every timed form, with every policy, belong to one quorum. Meanwhile nodes crash, the network
//! falls apart, wall clocks are set wrong by up to an hour in either direction, and people fire, suspend and unsuspend.
//! Rows are read through whichever node answers, before their quorum forgets them. In the end faults are over and every
//! trigger is suspended; the checker works out from the specification alone which instants there were, and each must
//! have one row. Every run must have come to its end (G4).
//!
//! One more trigger listens to an event that is emitted through any node all the while. Each event that was
//! acknowledged must have one row in the end, and each that was not at most one, through however many nodes it came.

mod judging;
mod rows;
mod specs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{JobId, Millis, Nonce, QuorumId};
use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::job::spec::JobSpec;
use quorate_protocols::job::spec::TriggeredSpec;
use quorate_protocols::quorum::limits::LEVEL;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{Command, CommandReply, Control};
use quorate_protocols::task::spec::{Call, Content, Program};
use quorate_protocols::trigger::audit::covered;
use quorate_protocols::trigger::record::{SeenId, TriggerRun};
use quorate_protocols::trigger::reopen::InstantRange;
use quorate_protocols::trigger::spec::{Bounds, EventSpec, Missed, MissedPolicy, Overlap, TriggerSpec, When};
use quorate_protocols::trigger::{Cause, FireRow, Fired};
use quorate_testnet::checkers::g3_fires_once::{Reach, check_events, check_rows};
use quorate_testnet::checkers::{Guarantee, Violation, g7_bounded};
use tokio::time::Instant;

use crate::event_workload::{self, EventWorkload};
use crate::executor::SimExecutor;
use crate::links::Links;
use crate::panics;
use crate::planted::Planted;
use crate::runtime;
use crate::transcript::Transcript;
use crate::world::World;
use quorate_testnet::rng::Rng;
use rows::Watched;
use specs::{triggers, work};

pub const NODES: usize = 5;

/// Between two steps: a fault, its end, or a person's command.
const STEP_MIN: Duration = Duration::from_secs(2);
const STEP_MAX: Duration = Duration::from_secs(45);

/// Rows are read at least this often. In it no trigger makes as many as its quorum keeps.
const READ_INTERVAL: Duration = Duration::from_secs(60);

/// How wrong a wall clock is set, at the most, in either direction.
const WRONG_MS_MAX: i64 = 3_600_000;

/// How far ahead all clocks are now and then, until all are right again: seconds, an hour, eleven months.
const ALL_AHEAD_MS: [i64; 3] = [20_000, 3_600_000, 11 * 30 * 86_400_000];

/// Clocks that are further ahead than this make quorums forget rows that nobody has read.
const ROWS_KEPT_MS: i64 = 3_600_000;

/// Once all clocks are right, instants of the true time fire again within this.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

/// The place of the trigger that shows it, in `triggers`.
const BEAT: usize = 7;

/// After the faults, until all is told and every run has ended.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long runs take, in milliseconds.
const MILLIS: [u64; 4] = [0, 200, 3_000, 15_000];

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Virtual time under faults.
    pub duration: Duration,
    pub links: Links,
    pub planted: Option<Planted>,
    /// Every message is a line of the transcript.
    pub is_detailed: bool,
}

/// What one run did.
#[derive(Debug, Default)]
pub struct Report {
    pub violations: Vec<Violation>,
    /// Instants that were recorded, and of them those that were skipped.
    pub instants: u64,
    pub skipped: u64,
    pub runs: u64,
    pub crashes: u64,
    pub partitions: u64,
    pub clock_steps: u64,
    /// Times that all clocks were ahead together, and were put right.
    pub all_ahead: u64,
    pub suspensions: u64,
    /// Events that were tried, those of them that were acknowledged, and how often one was tried again.
    pub events: u64,
    pub acknowledged: u64,
    pub again: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { violations, instants, skipped, runs, crashes, partitions, clock_steps, suspensions, .. } = self;
        let Self { events, acknowledged, again, all_ahead, .. } = self;
        write!(
            f,
            "{instants} instants, {skipped} of them skipped; {events} events, {acknowledged} of them acknowledged, {again} \
             emitted again; {runs} runs; {crashes} crashes, {partitions} partitions, {clock_steps} steps of clocks, \
             {all_ahead} of all clocks; {suspensions} suspensions; {} violations",
            violations.len()
        )
    }
}

struct Scene {
    plan: Plan,
    world: World,
    rng: Rng,
    watched: Vec<Watched>,
    events: EventWorkload,
    read_at: Instant,
    /// How wrong each machine's wall clock is.
    wrong: BTreeMap<usize, i64>,
    /// How far all clocks are ahead beside that, and whether they ever were.
    all_ahead: i64,
    has_been_ahead: bool,
    nonces: u64,
    report: Report,
}

/// Runs the plan to its end.
pub fn run(plan: Plan) -> std::io::Result<(Report, Transcript)> {
    panics::watch();
    runtime::run(plan.seed, async move {
        let transcript = Transcript::new(plan.is_detailed);
        (Scene::new(plan, transcript.clone()).await.play().await, transcript)
    })
}

impl Scene {
    async fn new(plan: Plan, transcript: Transcript) -> Self {
        let mut world = World::new(plan.seed, NODES, transcript);
        world.planted = plan.planted;
        plan.links.apply(&world);
        let executor = SimExecutor::default();
        world.work.executors = BTreeMap::from([(Engine::Wasm, Arc::new(executor) as Arc<_>)]);
        let rng = Rng::new(plan.seed, "triggers");
        Self {
            plan,
            world,
            rng,
            watched: Vec::new(),
            events: EventWorkload::default(),
            read_at: Instant::now(),
            wrong: BTreeMap::new(),
            all_ahead: 0,
            has_been_ahead: false,
            nonces: 0,
            report: Report::default(),
        }
    }

    async fn play(mut self) -> Report {
        if let Err(why) = self.act().await {
            self.report.violations.push(Violation::new(Guarantee::G4, why));
        }
        self.report.violations.append(&mut self.world.seen.forks.lock());
        self.report.violations.extend(g7_bounded::check::<&str>(&[], &panics::take_messages()));
        self.report
    }

    /// `Err`: something did not come about that had to.
    async fn act(&mut self) -> Result<(), String> {
        self.start_all().await?;
        if !self.world.settle(PATIENCE).await {
            return Err("the nodes did not see each other, without any fault".to_owned());
        }
        let quorum = self.quorum().await.ok_or("no quorum was formed, without any fault")?;
        let is_raised = |world: &World| {
            let views = world.node(1).map(|node| node.quorums().quorums()).unwrap_or_default();
            let known = views.iter().find(|view| view.id() == quorum).map(|view| view.view().level);
            known.is_none_or(|level| level >= LEVEL)
        };
        self.world.wait_until(PATIENCE, is_raised).await;
        self.submit_all(quorum).await?;
        let end = Instant::now() + self.plan.duration;
        while Instant::now() < end {
            tokio::time::sleep(self.rng.duration(STEP_MIN, STEP_MAX)).await;
            self.step().await?;
            self.events.emit(&self.world, &mut self.rng);
            if self.read_at.elapsed() >= READ_INTERVAL {
                self.read_at = Instant::now();
                self.read_rows().await;
            }
        }
        self.world.network.heal();
        self.start_all().await?;
        for index in 1..=NODES {
            self.world.clock(index).reset();
        }
        (self.wrong, self.all_ahead) = (BTreeMap::new(), 0);
        self.check_healed().await;
        self.judge().await
    }

    /// What the clock of a machine without a fault says.
    fn true_time(&self) -> Millis {
        let read = self.world.up().first().and_then(|index| {
            let wall = self.world.node(*index)?.seams().clock.wall();
            Some(wall.0.saturating_add_signed(-self.wrong.get(index).copied().unwrap_or(0) - self.all_ahead))
        });
        Millis(read.unwrap_or(0))
    }

    /// The clocks are right from now on: instants of the true time must run again soon.
    async fn check_healed(&mut self) {
        let (job, right_at) = (self.watched[BEAT].job, self.true_time());
        let end = Instant::now() + HEALED_WITHIN;
        let mut unsuspended = false;
        while Instant::now() < end {
            unsuspended = unsuspended || self.control(1, job, Control::Unsuspend).await;
            self.read_rows().await;
            let now = self.true_time();
            let is_true = |row: &FireRow| match (row.cause, row.what) {
                (Cause::Instant(at), Fired::Run { .. }) => at > right_at && at <= now,
                _ => false,
            };
            if self.watched[BEAT].rows().any(is_true) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let what = format!("{job:?} ran at no instant in {HEALED_WITHIN:?} after the clocks were put right");
        self.report.violations.push(Violation::new(Guarantee::G4, what));
    }

    async fn start_all(&mut self) -> Result<(), String> {
        for index in self.world.down() {
            self.world.start(index).await.map_err(|error| format!("node {index} does not start: {error}"))?;
        }
        Ok(())
    }

    async fn quorum(&self) -> Option<QuorumId> {
        let node = self.world.node(1)?.clone();
        let tasks = node.seams().tasks.clone();
        tasks.spawn(async move { node.placement().quorum_for_job().await.ok() }).await.ok().flatten().flatten()
    }

    async fn submit_all(&mut self, quorum: QuorumId) -> Result<(), String> {
        let now = self.world.node(1).map_or(Millis(0), |node| node.seams().clock.wall());
        let half = Millis(now.0 + self.plan.duration.as_millis() as u64 / 2);
        for (index, (spec, millis)) in (1..).zip(triggers(half).into_iter().zip(MILLIS.into_iter().cycle())) {
            let job = JobId { quorum, local: [index; 16] };
            let triggered = TriggeredSpec::new(spec.clone(), work(millis));
            let submit = self.world.submit(1, job, JobSpec::Triggered(Box::new(triggered)));
            let end = Instant::now() + PATIENCE;
            while !self.send_command(1, quorum, submit.clone()).await {
                if Instant::now() >= end {
                    return Err(format!("trigger {index} is not taken, without any fault"));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            self.watched.push(Watched::new(job, spec));
        }
        Ok(())
    }

    /// Whether the command was committed and not refused, as far as its client learned.
    async fn send_command(&self, index: usize, quorum: QuorumId, command: Command) -> bool {
        let done = |result: Result<CommandReply, _>| result.is_ok();
        self.world.command(index, quorum, command, done).await.ok().flatten().unwrap_or(false)
    }

    /// The same of a control.
    async fn control(&self, index: usize, job: JobId, control: Control) -> bool {
        let done = |result: Result<CommandReply, _>| result.is_ok();
        self.world.control(index, job, control, done).await.ok().flatten().unwrap_or(false)
    }

    async fn step(&mut self) -> Result<(), String> {
        match self.rng.below(13) {
            0..=1 => {
                let up = self.world.up();
                if up.len() == NODES
                    && let Some(index) = self.rng.pick(&up).copied()
                {
                    self.world.crash(index);
                    self.report.crashes += 1;
                }
            }
            // Whoever leads: a crash at random mostly hits others.
            2..=3 => {
                let leads = self.world.leads();
                if self.world.up().len() == NODES
                    && let Some(lead) = self.rng.pick(&leads).copied()
                {
                    self.world.crash(lead.node);
                    self.report.crashes += 1;
                }
            }
            4..=5 => self.start_all().await?,
            6 => {
                let index = 1 + self.rng.below(NODES as u64) as usize;
                let alone = self.world.peer(index);
                for other in (1..=NODES).filter(|other| *other != index) {
                    self.world.network.cut(alone, self.world.peer(other));
                    self.world.network.cut(self.world.peer(other), alone);
                }
                self.report.partitions += 1;
            }
            7..=8 => self.world.network.heal(),
            9 => {
                let index = 1 + self.rng.below(NODES as u64) as usize;
                let wrong = self.rng.below(2 * WRONG_MS_MAX as u64) as i64 - WRONG_MS_MAX;
                let before = self.wrong.insert(index, wrong).unwrap_or_default();
                self.world.clock(index).step(wrong - before);
                self.report.clock_steps += 1;
            }
            10 => {
                // Ahead for a while, and right again.
                let ahead = match self.all_ahead {
                    0 => self.rng.pick(&ALL_AHEAD_MS).copied().unwrap_or_default(),
                    _ => 0,
                };
                // Quorums forget what ended months ago by their clocks: what is there is read before.
                if ahead > ROWS_KEPT_MS && !self.read_rows().await {
                    return Ok(());
                }
                for index in 1..=NODES {
                    self.world.clock(index).step(ahead - self.all_ahead);
                }
                self.report.all_ahead += u64::from(ahead == 0);
                self.all_ahead = ahead;
                self.has_been_ahead |= ahead != 0;
            }
            _ => self.person(),
        }
        Ok(())
    }

    /// Whatever becomes of it: nobody waits for the answer.
    fn person(&mut self) {
        let Some(index) = self.rng.pick(&self.world.up()).copied() else { return };
        // What a suspended trigger is told of is skipped, and several such share a row: the events are to be told
        // apart.
        let timed = self.watched.iter().filter(|watched| watched.spec.is_timed());
        let jobs: Vec<JobId> = timed.map(|watched| watched.job).collect();
        let Some(job) = self.rng.pick(&jobs).copied() else { return };
        self.nonces += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.nonces.to_le_bytes());
        let asked = match self.rng.below(4) {
            0 => {
                self.report.suspensions += 1;
                self.world.control(index, job, Control::Suspend, drop)
            }
            1..=2 => self.world.control(index, job, Control::Unsuspend, drop),
            _ => self.world.fire(index, job, (Nonce(nonce), self.rng.chance(500)), drop),
        };
        drop(asked);
    }

    async fn ask_quorum(&self, quorum: QuorumId, query: Query) -> Option<QueryAnswer> {
        let index = *self.world.up().first()?;
        let looked = self.world.spawn_query(index, quorum, query, |result| result.as_ref().ok().cloned());
        looked.await.ok().flatten().flatten()
    }

    /// What is not to be had now is read later. Whether all was to be had.
    async fn read_rows(&mut self) -> bool {
        let now = self.true_time();
        for at in 0..self.watched.len() {
            let (job, mut from) = (self.watched[at].job, self.watched[at].unsettled(now));
            loop {
                let page = match self.ask_quorum(job.quorum, Query::Fires { job, from, limit: u32::MAX }).await {
                    Some(QueryAnswer::Fires(page)) => page,
                    Some(_) => break,
                    // The faults wait for this: what one question cost is enough.
                    None => return false,
                };
                let Some(last) = page.last().map(|row| row.number) else { break };
                self.watched[at].take_page(from, page);
                from = last + 1;
            }
        }
        true
    }
}
