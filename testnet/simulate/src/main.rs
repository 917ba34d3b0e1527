//! Runs seeds, and prints what broke and how to see it again.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use quorate_simulate::campaign::{Sum, run_seeds};
use quorate_simulate::faults::FaultSet;
use quorate_simulate::links::Links;
use quorate_simulate::minimise::minimise;
use quorate_simulate::planted::Planted;
use quorate_simulate::run::{Plan, Report, run};
use quorate_simulate::triggers;

/// Lines of the transcript shown with a violation.
const TAIL_LINES: usize = 60;

/// Of each of them, in letters. The transcript has all of it.
const LINE_LETTERS: usize = 240;

/// Failing seeds that are shown whole; of the rest only the number is said.
const SHOWN_MAX: usize = 5;

/// Between two lines about how far it has come.
const PROGRESS: Duration = Duration::from_secs(30);

/// Whole quorate nodes under virtual time, with faults, replayable by seed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How many seeds to run: 10 when neither this nor a seed is given, else 1.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed.
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=50))]
    nodes: u8,
    /// Virtual hours under faults, per seed; added to the minutes and seconds. Ten minutes when nothing is given.
    #[arg(long, default_value_t = 0)]
    hours: u64,
    #[arg(long, default_value_t = 0)]
    minutes: u64,
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// all, none, or some of crash, power, pause, partition, one-way, slow, loss, duplicate, reorder, slow-disk,
    /// full-disk, rot, clock, wipe, with commas between them.
    #[arg(long, default_value = "all")]
    faults: FaultSet,
    /// Faults that are drawn but not injected: what a smaller replay leaves out.
    #[arg(long, default_value = "none")]
    without: FaultSet,
    /// Milliseconds of a round trip between any two machines, with jitter; 0 is a LAN.
    #[arg(long, default_value_t = 0)]
    round_trip: u64,
    /// Messages of a thousand that are lost, whatever the faults.
    #[arg(long, default_value_t = 0)]
    loss: u32,
    /// Milliseconds of a sync of every disk; each has its own, and is quick, when none is given.
    #[arg(long)]
    sync: Option<u64>,
    /// Only one machine has such links and such a disk.
    #[arg(long)]
    one_slow: bool,
    /// Seeds that run at once, each on a thread of its own.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
    /// Give every node this deliberate bug, to see that it is found; its names are in docs/testing.md.
    #[arg(long, value_parser = bug)]
    planted: Option<Planted>,
    /// Run triggers on five nodes, with crashes, partitions, wrong clocks and people, in place of the usual clients.
    #[arg(long, conflicts_with_all = ["faults", "without", "nodes"])]
    triggers: bool,
    /// Go on after a seed that failed.
    #[arg(long)]
    keep_going: bool,
    /// Seconds spent on making a failing run smaller.
    #[arg(long, default_value_t = 60)]
    minimise: u64,
    /// Write the transcript of the first seed here, every message in it.
    #[arg(long)]
    transcript: Option<PathBuf>,
    /// Write what is printed at the end here as well.
    #[arg(long)]
    report: Option<PathBuf>,
}

impl Arguments {
    fn plan(&self) -> Plan {
        let seconds = 3600 * self.hours + 60 * self.minutes + self.seconds;
        Plan {
            seed: self.seed.unwrap_or(1),
            nodes: usize::from(self.nodes),
            duration: Duration::from_secs(if seconds == 0 { 600 } else { seconds }),
            faults: self.faults.clone(),
            links: Links {
                round_trip: Duration::from_millis(self.round_trip),
                loss_per_mille: self.loss,
                sync: self.sync.map(Duration::from_millis),
                is_one_slow: self.one_slow,
            },
            without: self.without.clone(),
            is_detailed: false,
            planted: self.planted,
        }
    }
}

fn bug(name: &str) -> Result<Planted, String> {
    let found = Planted::ALL.into_iter().find(|bug| bug.name() == name);
    found.ok_or_else(|| format!("there is no such bug; choose one of {}", Planted::ALL.map(Planted::name).join(", ")))
}

fn main() -> ExitCode {
    match run_all(&Arguments::parse()) {
        Ok(is_good) => ExitCode::from(u8::from(!is_good)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}

/// Each seed is one long history.
fn run_triggers(arguments: &Arguments) -> std::io::Result<bool> {
    let Plan { seed, duration, links, planted, .. } = arguments.plan();
    let count = arguments.seeds.unwrap_or(1);
    let (mut is_good, mut text) = (true, String::new());
    for seed in seed..seed + count {
        let began = Instant::now();
        let is_detailed = arguments.transcript.is_some();
        let plan = triggers::Plan { seed, duration, links, planted, is_detailed };
        let (report, transcript) = triggers::run(plan)?;
        let (simulated, took) = (duration.as_secs_f64(), began.elapsed().as_secs_f64());
        let _ = writeln!(text, "seed {seed}, {simulated:.0} s in {took:.1} s: {report}");
        for violation in report.violations.iter().take(SHOWN_MAX) {
            let _ = writeln!(text, "    {violation}");
        }
        if let Some(path) = &arguments.transcript {
            std::fs::write(path, transcript.text())?;
        }
        is_good &= report.violations.is_empty();
        if !(is_good || arguments.keep_going) {
            break;
        }
    }
    print!("{text}");
    if let Some(path) = &arguments.report {
        std::fs::write(path, &text)?;
    }
    Ok(is_good)
}

fn run_all(arguments: &Arguments) -> std::io::Result<bool> {
    if arguments.triggers {
        return run_triggers(arguments);
    }
    let plan = arguments.plan();
    if let Some(path) = &arguments.transcript {
        let report = run(Plan { is_detailed: true, ..plan.clone() })?;
        std::fs::write(path, report.transcript.text())?;
        println!("the transcript of seed {} is in {}", plan.seed, path.display());
    }
    let count = arguments.seeds.unwrap_or(if arguments.seed.is_some() { 1 } else { 10 });
    let (mut text, mut told, mut done) = (String::new(), Instant::now(), 0);
    let mut failures: Vec<Plan> = Vec::new();
    let sum = run_seeds(&plan, count, arguments.jobs, |report| {
        done += 1;
        if let Some(violation) = report.violations.first() {
            println!("seed {}: {violation}", report.plan.seed);
            failures.push(report.plan.clone());
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            println!("{done} of {count} seeds, {} failed", failures.len());
        }
        report.violations.is_empty() || arguments.keep_going
    })?;
    let budget = Duration::from_secs(arguments.minimise) / failures.len().clamp(1, SHOWN_MAX) as u32;
    for plan in failures.iter().take(SHOWN_MAX) {
        let least = minimise(run(plan.clone())?, budget)?;
        explain(&mut text, &least);
    }
    let missing = sum.missing(plan.faults.is_all() && plan.without.0.is_empty());
    summarise(&mut text, &plan, &sum, &missing);
    print!("{text}");
    if let Some(path) = &arguments.report {
        std::fs::write(path, &text)?;
    }
    Ok(sum.failed.is_empty() && missing.is_empty())
}

/// What broke, the end of the story of whatever it concerns, and how to see it again.
fn explain(text: &mut String, report: &Report) {
    let Some(violation) = report.violations.first() else { return };
    // Ids as they are printed short are what the lines of the transcript have in common with the violation.
    let words: Vec<String> = violation
        .what
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| word.len() >= 6 && word.bytes().any(|byte| byte.is_ascii_digit()))
        .map(str::to_owned)
        .collect();
    let _ = writeln!(text, "seed {}: {violation}", report.plan.seed);
    for line in report.transcript.tail_about(&words, TAIL_LINES) {
        let line: String = line.chars().take(LINE_LETTERS).collect();
        let _ = writeln!(text, "    {line}");
    }
    let _ = writeln!(text, "replay: {}", replay(&report.plan));
}

fn replay(plan: &Plan) -> String {
    let Plan { seed, nodes, duration, faults, links, without, planted, .. } = plan;
    let mut command = format!(
        "cargo run --release -p quorate-simulate -- --seed {seed} --nodes {nodes} --seconds {} --faults {faults}",
        duration.as_secs()
    );
    let Links { round_trip, loss_per_mille, sync, is_one_slow } = links;
    if *links != Links::LAN {
        let _ = write!(command, " --round-trip {} --loss {loss_per_mille}", round_trip.as_millis());
    }
    if let Some(sync) = sync {
        let _ = write!(command, " --sync {}", sync.as_millis());
    }
    if *is_one_slow {
        command.push_str(" --one-slow");
    }
    if !without.0.is_empty() {
        let _ = write!(command, " --without {without}");
    }
    if let Some(bug) = planted {
        let _ = write!(command, " --planted {}", bug.name());
    }
    command + " --transcript transcript.txt"
}

fn summarise(text: &mut String, plan: &Plan, sum: &Sum, missing: &[&str]) {
    let Plan { seed, nodes, duration, faults, .. } = plan;
    let _ =
        writeln!(text, "seeds from {seed} on, {nodes} nodes, {} s each under faults ({faults})", duration.as_secs());
    let _ = writeln!(text, "{sum}");
    if !missing.is_empty() {
        let _ = writeln!(text, "these never happened, so the runs proved less than it seems: {}", missing.join(", "));
    }
}
