//! Many seeds, on as many threads as asked, and what they add up to.
//!
//! A seed runs on one thread from its start to its end, with a runtime of its own; nothing is shared between seeds, so
//! what a seed does depends on nothing but the seed, however many run beside it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use quorate_testnet::checkers::Violation;

use crate::coverage::Coverage;
use crate::oracle::Operations;
use crate::run::{Plan, Report, run};

/// With this many seeds and every fault, each interesting moment must have happened at least once.
pub const SEEDS_THAT_SHOW_ALL: u64 = 1000;

/// What the seeds of a campaign did together.
#[derive(Default)]
pub struct Sum {
    pub seeds: u64,
    /// Seeds that broke a guarantee, and the first that each broke.
    pub failed: Vec<(u64, Violation)>,
    pub simulated: Duration,
    /// Processor time of the threads that ran the seeds, as far as the system tells.
    pub processor: Duration,
    pub took: Duration,
    pub operations: Operations,
    pub injected: BTreeMap<&'static str, u64>,
    pub coverage: Coverage,
    pub high_water: BTreeMap<&'static str, (u64, u64)>,
    pub requests: u64,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.failed.extend(report.violations.first().map(|violation| (report.plan.seed, violation.clone())));
        self.simulated += report.simulated;
        self.operations += report.operations;
        self.coverage += report.coverage;
        self.requests += report.net.requests;
        for (kind, count) in &report.injected {
            *self.injected.entry(kind).or_default() += count;
        }
        for (name, (value, limit)) in &report.high_water {
            let most = self.high_water.entry(name).or_insert((0, *limit));
            most.0 = most.0.max(*value);
        }
    }

    /// What never happened, although enough was run to expect each.
    pub fn missing(&self, is_everything: bool) -> Vec<&'static str> {
        if self.seeds < SEEDS_THAT_SHOW_ALL || !is_everything {
            return Vec::new();
        }
        self.coverage.missing()
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = |time: Duration| self.simulated.as_secs_f64() / time.as_secs_f64().max(f64::EPSILON);
        writeln!(f, "seeds: {}, of which {} broke a guarantee", self.seeds, self.failed.len())?;
        writeln!(
            f,
            "time: {:.0} s simulated in {:.1} s of processor time ({:.0} times real time on one core) and {:.1} s of ours \
             ({:.0} times)",
            self.simulated.as_secs_f64(),
            self.processor.as_secs_f64(),
            rate(self.processor),
            self.took.as_secs_f64(),
            rate(self.took)
        )?;
        let minutes = (self.simulated.as_secs_f64() / 60.0).max(f64::EPSILON);
        let operations = &self.operations;
        let asked = operations.puts_acknowledged + operations.puts_unknown + operations.reads_checked;
        let asked = asked + operations.reads_failed + operations.calls_answered + operations.calls_unknown;
        writeln!(f, "operations: {operations}; {:.1} per simulated minute", asked as f64 / minutes)?;
        let kinds: Vec<_> = self.injected.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let faults: u64 = self.injected.values().sum();
        writeln!(f, "faults: {faults} ({}); {:.1} per simulated minute", kinds.join(", "), faults as f64 / minutes)?;
        writeln!(f, "requests between nodes: {}", self.requests)?;
        let bounds: Vec<_> =
            self.high_water.iter().map(|(name, (value, limit))| format!("{name} {value} of {limit}")).collect();
        writeln!(f, "most ever held: {}", bounds.join(", "))?;
        write!(f, "coverage: {}", self.coverage)
    }
}

/// Runs `count` seeds from `plan.seed` on, `jobs` at a time, and hands each report over in the order in which they end.
/// Stops early when `each` says so.
pub fn run_seeds(plan: &Plan, count: u64, jobs: usize, mut each: impl FnMut(&Report) -> bool) -> io::Result<Sum> {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let processor_ns = AtomicU64::new(0);
    let mut sum = Sum::default();
    let (send, receive) = mpsc::channel();
    let failed = std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (send, next, processor_ns) = (send.clone(), &next, &processor_ns);
            scope.spawn(move || {
                while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < count) {
                    let before = thread_time();
                    let report = run(Plan { seed: plan.seed + at, ..plan.clone() });
                    let spent = thread_time().zip(before).map_or(Duration::ZERO, |(after, before)| after - before);
                    processor_ns.fetch_add(spent.as_nanos() as u64, Ordering::Relaxed);
                    if send.send(report).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for report in receive {
            match report {
                Ok(report) => {
                    sum.add(&report);
                    if !each(&report) {
                        next.store(count, Ordering::Relaxed);
                    }
                }
                Err(error) => {
                    next.store(count, Ordering::Relaxed);
                    return Some(error);
                }
            }
        }
        None
    });
    sum.took = began.elapsed();
    sum.processor = Duration::from_nanos(processor_ns.into_inner());
    failed.map_or(Ok(sum), Err)
}

/// Processor time of this thread so far; `None` where the system does not say.
fn thread_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
