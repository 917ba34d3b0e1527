//! Runs seeds, and prints what broke and how to see it again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use quorate::seams::Planted;
use quorate_simulate::faults::{Fault, FaultSet};
use quorate_simulate::moments::Moments;
use quorate_simulate::run::{Plan, Report, run};

/// With this many seeds and every fault, each interesting moment must have happened at least once.
const SEEDS_THAT_SHOW_ALL: usize = 1000;

/// Lines of the transcript shown with a violation.
const TAIL_LINES: usize = 60;

/// Whole quorate nodes under virtual time, with faults, replayable by seed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How many seeds to run, from 1 on.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// Run this seed alone.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=50))]
    nodes: u8,
    /// Virtual minutes under faults, per seed.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// all, none, or some of crash,partition,one-way,slow,loss,slow-disk,full-disk,rot,clock,wipe.
    #[arg(long, default_value = "all")]
    faults: FaultSet,
    /// Give every node this deliberate bug, to see that it is found: acknowledge-before-flush, skip-attempt-check,
    /// count-approver-twice, forget-vote, serve-stale-reads, drop-confirm, skip-hash-check, delete-without-asking.
    #[arg(long, value_parser = bug)]
    planted: Option<Planted>,
    /// Write the last seed's transcript here, every message in it.
    #[arg(long)]
    transcript: Option<PathBuf>,
}

fn bug(name: &str) -> Result<Planted, String> {
    Planted::ALL.into_iter().find(|bug| bug.name() == name).ok_or_else(|| "there is no such bug".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = arguments.seed.map_or(1..=arguments.seeds, |seed| seed..=seed);
    let is_everything = arguments.faults.0.len() == Fault::ALL.len();
    let (began, mut simulated, mut failed, mut moments) = (Instant::now(), Duration::ZERO, 0u64, Moments::default());
    for seed in seeds.clone() {
        let plan = Plan {
            seed,
            nodes: usize::from(arguments.nodes),
            duration: Duration::from_secs(60 * arguments.minutes),
            faults: arguments.faults.clone(),
            is_detailed: arguments.transcript.is_some(),
            planted: arguments.planted,
        };
        let report = match run(plan) {
            Ok(report) => report,
            Err(error) => {
                eprintln!("error: no runtime for a simulation: {error}");
                return ExitCode::from(1);
            }
        };
        simulated += report.simulated;
        failed += u64::from(!report.violations.is_empty());
        moments += report.moments;
        show(&report, arguments.minutes);
        if let Some(path) = &arguments.transcript
            && let Err(error) = std::fs::write(path, report.transcript.text())
        {
            eprintln!("error: writing {}: {error}", path.display());
            return ExitCode::from(1);
        }
    }
    let took = began.elapsed();
    println!(
        "{} seeds, {failed} failed; {:.0} s simulated in {:.1} s, {:.0} times faster than real time",
        seeds.clone().count(),
        simulated.as_secs_f64(),
        took.as_secs_f64(),
        simulated.as_secs_f64() / took.as_secs_f64().max(f64::EPSILON),
    );
    println!("{moments}");
    let missing = moments.missing();
    let is_blind = seeds.count() >= SEEDS_THAT_SHOW_ALL && !missing.is_empty() && is_everything;
    if is_blind {
        println!("these never happened, so the run proved less than it seems: {}", missing.join(", "));
    }
    ExitCode::from(u8::from(failed > 0 || is_blind))
}

fn show(report: &Report, minutes: u64) {
    let Report { plan, operations, moments, net, .. } = report;
    println!("seed {}: {operations:?} {moments} {net:?}", plan.seed);
    if report.violations.is_empty() {
        return;
    }
    for line in report.transcript.tail(TAIL_LINES) {
        println!("    {line}");
    }
    for violation in &report.violations {
        println!("seed {}: {violation}", plan.seed);
    }
    println!(
        "replay: cargo run --release -p quorate-simulate -- --seed {} --nodes {} --minutes {minutes} --faults {} --transcript transcript.txt",
        plan.seed, plan.nodes, plan.faults
    );
}
