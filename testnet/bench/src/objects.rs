//! `bench objects`: objects put and read, small ones with several outstanding, large ones one at a time and set against
//! the bound.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::Method;
use quorate_bound::Run;
use quorate_testnet::Testnet;

use crate::Progress;
use crate::connection::{Body, CallError, Connection};
use crate::error::BenchError;
use crate::figures::{Spread, mib_per_s, ms};
use crate::lanes::{Lanes, Sample, Tally, Turn, Until, asked};
use crate::processes::Processes;
use crate::report::{BoundRow, ObjectsRow, Rates, RunFigures};
use crate::roles::{Roles, targets};
use crate::through::Through;
use crate::transfer::{Contents, Large, Stored};

/// Objects of so many bytes are put and read one at a time, each run is one of them, and they are set against the
/// bound. One segment: smaller ones measure round trips, not the work on bytes.
const LARGE_BYTES: u64 = 16 << 20;

/// One run of small objects puts no more than this, so that neither the disk nor the removal afterwards takes over.
const RUN_BYTES_MAX: u64 = 128 << 20;
const RUN_OBJECTS_MAX: u64 = 2_000;

const PUT: &str = "/v1/objects?name=bench";

/// What is measured.
#[derive(Clone, Debug)]
pub struct ObjectsPlan {
    pub through: Through,
    /// Bytes of an object.
    pub sizes: Vec<u64>,
    /// Of small objects.
    pub outstanding: Vec<usize>,
    /// How long one run of small objects lasts, at most.
    pub time: Duration,
    pub runs: usize,
}

/// Measures on this thread: see [`crate::on_one_thread`].
pub async fn objects(testnet: &Testnet, plan: &ObjectsPlan, progress: Progress) -> Result<Vec<ObjectsRow>, BenchError> {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(testnet.dir());
    let folder = folder.map_err(BenchError::io("the folder of the measurement cannot be made"))?;
    let roles = Roles::find(testnet).await?;
    let nodes = roles.nodes(plan.through)?;
    let bench = Objects {
        plan,
        progress,
        testnet,
        contents: Contents::new(folder.path().display().to_string()),
        processes: Processes::of_nodes(testnet),
        nodes,
    };
    let mut rows = Vec::new();
    for &bytes in &plan.sizes {
        if bytes >= LARGE_BYTES {
            let large = Large::new(folder.path(), bytes);
            rows.extend(bench.large(&large.map_err(BenchError::io("the file of the measurement"))?).await?);
        } else {
            rows.extend(bench.small(bytes as usize).await?);
        }
    }
    Ok(rows)
}

struct Objects<'a> {
    plan: &'a ObjectsPlan,
    progress: Progress,
    testnet: &'a Testnet,
    contents: Contents,
    processes: Processes,
    nodes: Vec<usize>,
}

impl Objects<'_> {
    fn row(&self, operation: &'static str, bytes: u64, outstanding: usize, figures: &[RunFigures]) -> ObjectsRow {
        let rates = Rates::of(figures);
        let mib = |per_s: f64| per_s * bytes as f64 / f64::from(1 << 20);
        ObjectsRow {
            operation,
            bytes,
            through: self.plan.through,
            nodes: asked(&self.nodes, outstanding),
            outstanding,
            in_process: false,
            mib_per_s: Spread { median: mib(rates.per_s.median), min: mib(rates.per_s.min), max: mib(rates.per_s.max) },
            rates,
            bound: None,
        }
    }

    fn print_run(&self, what: &str, run: usize, figures: &RunFigures) {
        let RunFigures { per_s, latency, .. } = figures;
        let runs = self.plan.runs;
        (self.progress)(&format!("{what}, run {run}/{runs}: {per_s:.1} per second, p50 {:.1} ms", latency.p50_ms));
    }

    async fn small(&self, bytes: usize) -> Result<Vec<ObjectsRow>, BenchError> {
        let targets = targets(self.testnet, &self.nodes)?;
        let most = (RUN_BYTES_MAX / bytes.max(1) as u64).clamp(1, RUN_OBJECTS_MAX);
        let until = Until { time: self.plan.time, operations: most };
        let (mut puts, mut gets) = (Vec::new(), Vec::new());
        for &outstanding in &self.plan.outstanding {
            let mut lanes = Lanes::new(&targets, outstanding)?;
            // By the lane that put them: whoever put an object has the claim on it.
            let stored = RefCell::new(vec![Vec::<String>::new(); outstanding]);
            let put = async |turn: Turn, connection: &mut Connection| {
                let body = Body::bytes(self.contents.make(bytes));
                let began = Instant::now();
                let answer = connection.call(Method::POST, PUT, body).await?;
                let whole = began.elapsed();
                stored.borrow_mut()[turn.lane].push(answer.json::<Stored<'_>>()?.object.to_owned());
                Ok::<_, CallError>(Sample { first: None, whole })
            };
            lanes.warm_up(&put).await;
            let mut figures = Vec::new();
            for run in 1..=self.plan.runs {
                // The objects of the last run stay, to be read.
                remove(&mut lanes, &stored).await;
                let before = self.processes.cpu_times();
                let tally = lanes.run(until, &put).await;
                let cpu_ms = self.processes.cpu_times().ms_per_operation(&before, tally.whole.len() as u64);
                let run_figures = RunFigures::of(tally, cpu_ms)?;
                self.print_run(&format!("put {bytes} bytes, {outstanding} outstanding"), run, &run_figures);
                figures.push(run_figures);
            }
            puts.push(self.row("put", bytes as u64, outstanding, &figures));

            let all: Vec<String> = stored.borrow().concat();
            let get = async |turn: Turn, connection: &mut Connection| {
                // Begins far from where this lane put its own, so that another node reads than the one that stored.
                let at = (turn.number as usize).wrapping_add(all.len() / 2) % all.len();
                let (began, mut read) = (Instant::now(), 0);
                let count = |chunk: bytes::Bytes| {
                    read += chunk.len();
                    Ok(())
                };
                connection.download(&format!("/v1/objects/{}/content", all[at]), count).await?;
                match read == bytes {
                    true => Ok(Sample { first: None, whole: began.elapsed() }),
                    false => Err(CallError::Outcome { what: format!("read {read} bytes of {bytes}") }),
                }
            };
            let mut figures = Vec::new();
            for run in 1..=self.plan.runs {
                let before = self.processes.cpu_times();
                let tally = lanes.run(Until::time(self.plan.time), &get).await;
                let cpu_ms = self.processes.cpu_times().ms_per_operation(&before, tally.whole.len() as u64);
                let run_figures = RunFigures::of(tally, cpu_ms)?;
                self.print_run(&format!("get {bytes} bytes, {outstanding} outstanding"), run, &run_figures);
                figures.push(run_figures);
            }
            gets.push(self.row("get", bytes as u64, outstanding, &figures));
            remove(&mut lanes, &stored).await;
        }
        puts.append(&mut gets);
        Ok(puts)
    }

    /// The network and the bound take turns, so that what else the machine and its disk do hits both.
    async fn large(&self, large: &Large) -> Result<Vec<ObjectsRow>, BenchError> {
        let bytes = large.bound.layout.size;
        let targets = targets(self.testnet, &self.nodes)?;
        let mut connections: Vec<Connection> = targets.into_iter().map(Connection::new).collect();
        let count = connections.len();
        let mut put_figures = Turns::default();
        let mut kept = None;
        for run in 1..=self.plan.runs {
            put_figures.bound.push(bound(|| large.bound.put())?);
            let connection = &mut connections[run % count];
            let before = self.processes.cpu_times();
            let (object, took) = large.put(connection, &self.contents).await?;
            put_figures.network.push(self.one(took, &before)?);
            self.print_transfer("put", bytes, run, &put_figures);
            // The last one stays, to be read.
            match run == self.plan.runs {
                true => kept = Some((run % count, object)),
                false => delete(connection, &object).await?,
            }
        }
        let Some((writer, object)) = kept else { return Err(BenchError::Plan("--runs must be at least 1".to_owned())) };

        bound(|| large.bound.prepare_get())?;
        let mut get_figures = Turns::default();
        for run in 1..=self.plan.runs {
            get_figures.bound.push(bound(|| large.bound.get())?);
            // Another node than the one that stored it, if there is another.
            let reader = &mut connections[(writer + 1 + (run - 1) % (count - 1).max(1)) % count];
            let before = self.processes.cpu_times();
            let took = large.get(reader, &object).await?;
            get_figures.network.push(self.one(took, &before)?);
            self.print_transfer("get", bytes, run, &get_figures);
        }
        delete(&mut connections[writer], &object).await?;
        Ok(vec![self.large_row("put", bytes, &put_figures), self.large_row("get", bytes, &get_figures)])
    }

    /// The figures of a run that was one operation.
    fn one(&self, took: Duration, before: &crate::processes::CpuTimes) -> Result<RunFigures, BenchError> {
        let cpu_ms = self.processes.cpu_times().ms_per_operation(before, 1);
        RunFigures::of(Tally { whole: vec![took], took, ..Tally::default() }, cpu_ms)
    }

    fn print_transfer(&self, operation: &str, bytes: u64, run: usize, turns: &Turns) {
        let (Some(network), Some(bound)) = (turns.network.last(), turns.bound.last()) else { return };
        (self.progress)(&format!(
            "{operation} {bytes} bytes, run {run}/{}: {:.0} MiB/s, bound {:.0} MiB/s",
            self.plan.runs,
            network.per_s * bytes as f64 / f64::from(1 << 20),
            mib_per_s(bytes, bound.took)
        ));
    }

    fn large_row(&self, operation: &'static str, bytes: u64, turns: &Turns) -> ObjectsRow {
        let row = self.row(operation, bytes, 1, &turns.network);
        let spread = |figure: &dyn Fn(&Run) -> f64| Spread::of(&turns.bound.iter().map(figure).collect::<Vec<_>>());
        let rates = spread(&|run| mib_per_s(bytes, run.took));
        let parts = turns.bound.iter().map(|run| {
            run.parts.iter().map(|(part, took)| ((*part).to_owned(), ms(*took))).collect::<BTreeMap<_, _>>()
        });
        let bound = BoundRow {
            mib_per_s: rates,
            ratio: row.mib_per_s.median / rates.median.max(1e-9),
            cpu_ms: spread(&|run| run.cpu_s * 1000.0),
            parts_ms: Spread::of_each(&parts.collect::<Vec<_>>()),
        };
        // Each run goes through another node.
        ObjectsRow { nodes: asked(&self.nodes, self.plan.runs), bound: Some(bound), ..row }
    }
}

/// Runs of the network and of the bound, of one operation.
#[derive(Default)]
struct Turns {
    network: Vec<RunFigures>,
    bound: Vec<Run>,
}

/// Measures the bound, on a thread of its own: its encryption has a runtime of its own.
fn bound<T: Send>(work: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T, BenchError> {
    let ran = std::thread::scope(|scope| scope.spawn(work).join());
    let ran = ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    ran.map_err(BenchError::io("measuring the bound"))
}

async fn delete(connection: &mut Connection, object: &str) -> Result<(), CallError> {
    connection.call(Method::DELETE, &format!("/v1/objects/{object}"), Body::default()).await.map(drop)
}

/// Removes what each lane put. What cannot be removed stays: it is in the way of nothing but the disk.
async fn remove(lanes: &mut Lanes, stored: &RefCell<Vec<Vec<String>>>) {
    lanes
        .each(async |lane, connection: &mut Connection| {
            loop {
                let Some(object) = stored.borrow_mut()[lane].pop() else { return };
                drop(delete(connection, &object).await);
            }
        })
        .await;
}
