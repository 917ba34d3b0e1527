//! Load over slow links and on slow disks: the usual runs of the simulator, with every guarantee checked.
//!
//! Goal: what holds on a LAN holds over links with round trips of up to 400 ms, 30 % of jitter and one message of a
//! hundred lost, and on disks whose syncs take up to a second, whether all machines are like that or one. Method: the
//! runs of `seeds.rs` and `triggers.rs` on such machines, under the faults that timing could take for others: crashes,
//! pauses, partitions. Then, without faults, files and jobs one after the other, each within a bound that follows the
//! links and disks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{JobId, QuorumId};
use quorate_protocols::job::batch::{BatchSpec, Map};
use quorate_protocols::job::record::RunState;
use quorate_protocols::job::spec::JobSpec;
use quorate_protocols::liveness::patience::COMMIT_DEADLINE;
use quorate_protocols::piece::limits::STALL;
use quorate_protocols::quorum::CommandReply;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::task::spec::{Call, Content, Program};
use quorate_simulate::executor::SimExecutor;
use quorate_simulate::faults::FaultSet;
use quorate_simulate::links::Links;
use quorate_simulate::run::{Plan, run};
use quorate_simulate::runtime;
use quorate_simulate::transcript::Transcript;
use quorate_simulate::triggers;
use quorate_simulate::world::{World, content};
use tokio::time::Instant;

const NODES: usize = 5;

const ROUND_TRIPS_MS: [u64; 4] = [0, 60, 200, 400];
const SYNCS_MS: [u64; 4] = [0, 60, 200, 1_000];

/// Seeds of each pair of the two.
const SEEDS: u64 = 2;

/// Files, and jobs, whose time counts.
const THINGS: usize = 7;

fn links(round_trip: u64, sync: u64, is_one_slow: bool) -> Links {
    let (round_trip, sync) = (Duration::from_millis(round_trip), Some(Duration::from_millis(sync)));
    Links { round_trip, loss_per_mille: 10, sync, is_one_slow }
}

fn grid(is_one_slow: bool) -> impl Iterator<Item = Links> {
    let of = move |round_trip| SYNCS_MS.iter().map(move |sync| links(round_trip, *sync, is_one_slow));
    ROUND_TRIPS_MS.into_iter().flat_map(of)
}

fn keep_every_guarantee(is_one_slow: bool) {
    let (mut puts, mut jobs, mut answered) = (0, 0, 0);
    for (at, links) in grid(is_one_slow).enumerate() {
        for seed in 0..SEEDS {
            let plan = Plan {
                seed: 1 + seed + SEEDS * at as u64,
                nodes: NODES,
                duration: Duration::from_secs(60),
                faults: "crash,power,pause,partition".parse().expect("the faults are known"),
                links,
                without: FaultSet::none(),
                is_detailed: false,
                planted: None,
            };
            let (seed, began) = (plan.seed, std::time::Instant::now());
            let report = run(plan).expect("a runtime starts");
            let tail = || report.transcript.tail(60).join("\n");
            assert_eq!(report.violations, [], "seed {seed}, {links}\n{}", tail());
            println!("seed {seed}, {links}: {:?}, in {:?}", report.operations, began.elapsed());
            puts += report.operations.puts_acknowledged;
            answered += report.operations.calls_answered;
            jobs += report.coverage.jobs_acknowledged;
        }
    }
    let runs = SEEDS * (ROUND_TRIPS_MS.len() * SYNCS_MS.len()) as u64;
    println!("{puts} puts, {jobs} jobs and {answered} calls in {runs} runs");
    assert!(puts >= 2 * runs && jobs >= runs / 4 && answered >= 3 * runs, "{puts} puts, {jobs} jobs, {answered} calls");
}

#[test]
fn faults_break_no_guarantee_where_all_links_and_disks_are_slow() {
    keep_every_guarantee(false);
}

#[test]
fn faults_break_no_guarantee_where_one_machine_is_slow() {
    keep_every_guarantee(true);
}

#[test]
fn every_instant_has_one_row_where_links_and_disks_are_slow() {
    for (seed, links) in [(1, links(400, 0, false)), (2, links(0, 1_000, false)), (3, links(400, 1_000, false))] {
        let plan =
            triggers::Plan { seed, duration: Duration::from_secs(300), links, planted: None, is_detailed: false };
        let (report, _) = triggers::run(plan).expect("a runtime");
        println!("{links}: {report}");
        assert!(report.violations.is_empty(), "{links}: {:?}", report.violations);
        assert!(report.instants >= 50 && report.runs >= 20, "{links}: this proves little: {report}");
    }
}

/// One after the other, without faults.
struct Calm {
    links: Links,
    world: World,
}

impl Calm {
    async fn new(links: Links) -> Self {
        let mut world = World::new(7, NODES, Transcript::new(false));
        let executor: Arc<_> = Arc::new(SimExecutor::default());
        world.work.executors = BTreeMap::from([(Engine::Wasm, executor as Arc<_>)]);
        links.apply(&world);
        for index in 1..=NODES {
            world.start(index).await.expect("a new machine starts");
        }
        assert!(world.settle(Duration::from_secs(120)).await, "{links}: the nodes see each other");
        Self { links, world }
    }

    /// What the median of such things may take: what is done in a row for one of them takes so many round trips and
    /// syncs.
    fn bound(&self) -> Duration {
        let sync = self.links.sync.unwrap_or_default();
        Duration::from_secs(1) + 20 * self.links.round_trip + 25 * sync
    }

    async fn put(&self, index: usize, name: &str) -> (Duration, QuorumId) {
        let (began, bytes) = (Instant::now(), content(7, name, 50_000));
        let stored = self.world.put(index, name.to_owned(), bytes).await.expect("no panic").expect("no crash");
        let stored = stored.unwrap_or_else(|error| panic!("{}: {name}: {error}", self.links));
        (began.elapsed(), stored.object.quorum)
    }

    /// Submits four tasks of 100 ms, and waits for their end.
    async fn compute(&self, index: usize, quorum: QuorumId, number: u8) -> Duration {
        let (began, job) = (Instant::now(), JobId { quorum, local: [number; 16] });
        let module = Content::Inline(Bytes::from_static(b"simulated"));
        let mut call = Call::new(Program::Wasm { module, fuel: None, deterministic: false });
        call.args = vec!["100".to_owned()];
        let mut spec = BatchSpec { map: Map::Count(4), ..BatchSpec::new(call) };
        spec.resources.capacity.memory_bytes = 1 << 20;
        let submit = self.world.submit(index, job, JobSpec::batch(spec));
        // A client whose answer does not come in time submits the same job again.
        loop {
            let taken = |result| matches!(result, Ok(CommandReply::Submitted { .. }));
            let taken = self.world.command(index, quorum, submit.clone(), taken).await.expect("no panic");
            if taken == Some(true) {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{}: job {number} is not taken", self.links);
        }
        loop {
            let state = self.world.spawn_query(index, quorum, Query::Job { job }, |looked| match looked {
                Ok(QueryAnswer::Job(record)) => Some((record.state, record.reason.clone())),
                _ => None,
            });
            match state.await.expect("no panic").flatten() {
                Some((RunState::Succeeded, _)) => return began.elapsed(),
                Some((state, why)) if state.is_final() => panic!("{}: {state}: {why:?}", self.links),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            assert!(began.elapsed() < Duration::from_secs(300), "{}: job {number} does not end", self.links);
        }
    }

    /// What took too long.
    async fn play(self) -> Vec<String> {
        // The first founds a quorum.
        let (_, quorum) = self.put(1, "object 0").await;
        let (mut puts, mut jobs) = (Vec::new(), Vec::new());
        for at in 1..=THINGS {
            let index = 1 + at % NODES;
            puts.push(self.put(index, &format!("object {at}")).await.0);
            jobs.push(self.compute(index, quorum, at as u8).await);
        }
        println!("{}: puts {puts:?}, jobs {jobs:?}, of {:?}", self.links, self.bound());
        let mut failed = Vec::new();
        for (what, mut took) in [("puts", puts), ("jobs", jobs)] {
            took.sort_unstable();
            // A lost message costs a repetition of its question, and a lost piece the time after which its holder
            // counts as stalled. Where the repetition is lost as well, the question ends at its deadline.
            let longest = 2 * self.bound() + Duration::from_secs(2) + STALL + COMMIT_DEADLINE;
            if took[THINGS / 2] > self.bound() || took[THINGS - 1] > longest {
                failed.push(format!("{}: {what} {took:?} of {:?}", self.links, self.bound()));
            }
        }
        failed
    }
}

#[test]
fn files_are_stored_and_jobs_end_within_some_round_trips_and_syncs() {
    let mut failed = Vec::new();
    for links in grid(false).chain(grid(true)) {
        failed.extend(runtime::run(7, async { Calm::new(links).await.play().await }).expect("a runtime"));
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
