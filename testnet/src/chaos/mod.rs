//! `testnet chaos`: work through several nodes of a real testnet while nodes are broken, and check what was promised.
//!
//! Three things go on at once. *Clients* put, read, remove and ask through nodes of their choice, and tell an
//! [`oracle`] what they were told; what they saw of each object is judged as a [`history`] of a single copy. [`jobs`]
//! come in at a steady rate, and each must end once, with the right result. The *nemesis* breaks one node at a time (a
//! minority of every quorum, at most one column of any object) or draws a line through the network that leaves each
//! quorum a majority on one side, undoes it, and waits until the victim is whole again; wrong clocks and slow links
//! stay while other faults come and go (a trigger must fire again within a minute once the clocks are right). Now and
//! then it kills a majority of one quorum at once, keeps it down for a while and notes what clients of that quorum are
//! told meanwhile: nothing may be acknowledged, and everything from before must be there afterwards. No disk is lost,
//! so whatever is lost is a bug. *Watchers* probe every quorum several times a second, and compare the members' terms
//! and digests, memory and reservations against their limits.
//!
//! In the end every fault is healed; then all must move again within [`RECOVERY_MAX`], every acknowledged object be
//! there and read back identical, every acknowledged removal hold, members agree, and reservations be let go. One seed
//! draws one series of faults and operations; real processes do the rest, so two runs of a seed are alike and not
//! equal.
//!
//! What is not checked: a machine that loses power.

mod beat;
mod content;
mod history;
mod jobs;
mod nemesis;
mod oracle;
mod report;
mod verify;
mod watch;
mod workload;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use report::{Checked, Finding, Outcomes, Report, Spread};

use crate::client::ClientError;
use crate::testnet::{Testnet, TestnetError};
use world::World;

/// After the end of a fault everything must answer and have caught up within this: a restart, an election, and the
/// log of the time away, on a machine that is busy with all the nodes at once.
pub const RECOVERY_MAX: Duration = Duration::from_secs(60);

/// Resident memory of a node under this load. A guess with room: an idle node takes about 30 MiB.
pub const RSS_BYTES_MAX: u64 = 768 << 20;

/// Clients at work at once.
const CLIENTS: u64 = 4;

/// Quorums formed before the first fault, so that faults of one are not faults of all.
const QUORUMS_MIN: usize = 2;

/// Quorums that are probed; a testnet that had more keeps the others unwatched for stalls.
const PROBES_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    #[error(transparent)]
    Testnet(#[from] TestnetError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("chaos needs at least {NODES_MIN} running nodes, and there are {running}")]
    TooFewNodes { running: usize },
    #[error("the kills are counted and `kill` is not among the faults")]
    NoKills,
    #[error("the run reached {done} of {wanted} kills in its time")]
    TooFewKills { done: u64, wanted: u64, report: Box<Report> },
}

/// Three voters, and somebody to ask while one of them is away.
const NODES_MIN: usize = 4;

/// A way to break a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL; restarted a moment later.
    Kill,
    /// SIGSTOP for a while.
    Pause,
    /// A node, or one side of a line, cut off from the rest.
    Partition,
    /// One direction of one link.
    Cut,
    /// All links of a node.
    Slow,
    /// A wrong wall clock.
    Clock,
    /// Flipped bits in what a node reads.
    Corrupt,
    /// A full disk.
    Fill,
    /// SIGKILL for a majority of one quorum at once; all restarted after a while.
    Majority,
}

impl Fault {
    pub const ALL: [Self; 9] = [
        Self::Kill,
        Self::Pause,
        Self::Partition,
        Self::Cut,
        Self::Slow,
        Self::Clock,
        Self::Corrupt,
        Self::Fill,
        Self::Majority,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::Cut => "cut",
            Self::Slow => "slow",
            Self::Clock => "clock",
            Self::Corrupt => "corrupt",
            Self::Fill => "fill",
            Self::Majority => "majority",
        }
    }
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Put,
    Get,
    /// Questions about one object and removals of it, several at once and through several nodes: all the answers that
    /// clients ever had about it must fit one order.
    Command,
    Rm,
    /// A small job that computes, submitted at a steady rate beside everything else and followed to its end.
    Job,
}

impl Operation {
    pub const ALL: [Self; 5] = [Self::Put, Self::Get, Self::Command, Self::Rm, Self::Job];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Command => "command",
            Self::Rm => "rm",
            Self::Job => "job",
        }
    }
}

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long faults are injected. With `kills` only the upper bound.
    pub length: Duration,
    /// Go on until this many nodes were killed.
    pub kills: Option<u64>,
    pub faults: BTreeSet<Fault>,
    pub workload: BTreeSet<Operation>,
    /// Jobs submitted in a second, when they are part of the workload.
    pub jobs_per_s: u32,
    pub seed: u64,
    /// Between the beginnings of two faults, at the least.
    pub every: Duration,
    /// The command that was typed, for the report.
    pub command: String,
}

/// How far a run is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub elapsed: Duration,
    pub doing: String,
    pub faults: u64,
    pub kills: u64,
    pub operations: u64,
    pub violations: usize,
}

/// Runs it all on a testnet that is up, and leaves it healed. `tell` is called about twice a second.
pub async fn run(
    testnet: Arc<Testnet>,
    options: &Options,
    tell: impl Fn(Progress) + Send + 'static,
) -> Result<Report, ChaosError> {
    if !testnet.layout().testing {
        return Err(TestnetError::NotTesting.into());
    }
    if options.kills.is_some() && !options.faults.contains(&Fault::Kill) {
        return Err(ChaosError::NoKills);
    }
    testnet.heal().await?;
    testnet.wait_meshed(RECOVERY_MAX).await?;
    let running = testnet.status().iter().filter(|node| node.pid.is_some()).count();
    if running < NODES_MIN || running < testnet.indices().len() {
        return Err(ChaosError::TooFewNodes { running });
    }
    let world = Arc::new(World::new(testnet, options.clone()));
    world.form_quorums(QUORUMS_MIN).await?;

    let beat = match options.faults.contains(&Fault::Clock) {
        true => Some(beat::submit(&world).await?),
        false => None,
    };
    let mut at_work = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        at_work.spawn(workload::client(world.clone(), number));
    }
    if options.workload.contains(&Operation::Job) {
        at_work.spawn(jobs::submit_steadily(world.clone()));
    }
    let mut watching = tokio::task::JoinSet::new();
    for quorum in world.quorums().into_iter().take(PROBES_MAX) {
        watching.spawn(watch::probe(world.clone(), quorum));
    }
    watching.spawn(watch::members(world.clone()));
    let teller = world.clone();
    watching.spawn(async move {
        while !teller.is_over() {
            tell(teller.progress());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });

    let outcome = nemesis::run(&world, Instant::now() + options.length).await;
    world.log_step("waiting for what is in flight");
    world.stop_work();
    while let Some(joined) = at_work.join_next().await {
        joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    outcome?;
    verify::all(&world, beat).await?;
    world.end();
    while let Some(joined) = watching.join_next().await {
        joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    let report = world.report();
    match options.kills {
        Some(wanted) if report.kills() < wanted && report.violations.is_empty() => {
            Err(ChaosError::TooFewKills { done: report.kills(), wanted, report: Box::new(report) })
        }
        _ => Ok(report),
    }
}
