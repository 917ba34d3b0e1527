//! Runs seeds, and prints what broke and how to see it again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use quorate_simulate::faults::FaultSet;
use quorate_simulate::run::{Moments, Plan, Report, run};

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
    /// all, none, or some of crash,partition,one-way,slow,loss,slow-disk,full-disk,rot,clock.
    #[arg(long, default_value = "all")]
    faults: FaultSet,
    /// Write the last seed's transcript here, every message in it.
    #[arg(long)]
    transcript: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = arguments.seed.map_or(1..=arguments.seeds, |seed| seed..=seed);
    let (began, mut simulated, mut failed, mut moments) = (Instant::now(), Duration::ZERO, 0u64, Moments::default());
    for seed in seeds.clone() {
        let plan = Plan {
            seed,
            nodes: usize::from(arguments.nodes),
            duration: Duration::from_secs(60 * arguments.minutes),
            faults: arguments.faults.clone(),
            is_detailed: arguments.transcript.is_some(),
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
        moments = add(moments, report.moments);
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
        seeds.count(),
        simulated.as_secs_f64(),
        took.as_secs_f64(),
        simulated.as_secs_f64() / took.as_secs_f64().max(f64::EPSILON),
    );
    println!("{moments:?}");
    ExitCode::from(u8::from(failed > 0))
}

fn show(report: &Report, minutes: u64) {
    let Report { plan, operations, moments, net, .. } = report;
    println!("seed {}: {operations:?} {moments:?} {net:?}", plan.seed);
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

fn add(a: Moments, b: Moments) -> Moments {
    Moments {
        crashes: a.crashes + b.crashes,
        primaries_crashed: a.primaries_crashed + b.primaries_crashed,
        crashes_that_lost_writes: a.crashes_that_lost_writes + b.crashes_that_lost_writes,
        terms_led: a.terms_led + b.terms_led,
        faults: a.faults + b.faults,
        rotten_reads: a.rotten_reads + b.rotten_reads,
        refused_full: a.refused_full + b.refused_full,
        digests_compared: a.digests_compared + b.digests_compared,
    }
}
