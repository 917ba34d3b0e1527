//! Fuzzes for as long as asked. Each target runs in a process of its own, which notes every input before it tries it:
//! so an input that ends the process or never ends is known as well as one that panics.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use quorate_fuzz::corpus;
use quorate_fuzz::runner::{ROUND_INPUTS, round, try_once};
use quorate_fuzz::targets::{self, Target};
use serde::{Deserialize, Serialize};

/// One input that takes longer than this is a failure.
const STUCK: Duration = Duration::from_secs(20);

/// A target has its turn for this long, then the next.
const TURN: Duration = Duration::from_secs(5);

/// Hostile bytes for every decoder, hostile histories for every state machine, by seed.
#[derive(Parser)]
#[command(name = "scripts/fuzz", version)]
struct Arguments {
    /// How long to run, such as 90s or 10m.
    #[arg(long = "for", value_parser = humantime::parse_duration, default_value = "1m")]
    duration: Duration,
    /// Only this target; may be given more than once.
    #[arg(long)]
    target: Vec<String>,
    /// Other inputs with every seed, the same with the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Failing inputs are written here.
    #[arg(long, default_value = "target/fuzz")]
    out: PathBuf,
    /// Run the inputs of this file, as it was written for a failure, and show what happens.
    #[arg(long, conflicts_with_all = ["target", "duration"])]
    replay: Option<PathBuf>,
    /// Name the targets.
    #[arg(long)]
    list: bool,
    /// One turn of one target, from this round on; the input being tried is kept in `--out`.
    #[arg(long, hide = true)]
    turn: Option<u64>,
}

/// What a turn prints when nothing failed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Turn {
    rounds: u64,
    inputs: u64,
    marks: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let targets = targets::all();
    if let Some(unknown) = arguments.target.iter().find(|name| !targets.iter().any(|target| target.name == **name)) {
        eprintln!("error: there is no target {unknown:?}; --list names them");
        return ExitCode::from(2);
    }
    let chosen = |target: &Target| arguments.target.is_empty() || arguments.target.contains(&target.name);
    let targets: Vec<Target> = targets.into_iter().filter(chosen).collect();
    let done = match (&arguments.replay, arguments.turn, targets.first()) {
        _ if arguments.list => {
            targets.iter().for_each(|target| println!("{}", target.name));
            Ok(ExitCode::SUCCESS)
        }
        (Some(file), ..) => replay(&targets, file),
        (_, Some(first), Some(target)) => turn(target, &arguments, first),
        _ => fuzz(&targets, &arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(1)
    })
}

/// Gives every target its turns until the time is up or something failed.
fn fuzz(targets: &[Target], arguments: &Arguments) -> io::Result<ExitCode> {
    fs::create_dir_all(&arguments.out)?;
    let until = Instant::now() + arguments.duration;
    let mut totals = vec![Turn::default(); targets.len()];
    while Instant::now() < until {
        for (index, (target, total)) in targets.iter().zip(&mut totals).enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            // Shared with those that come after, so that the last one has its turn too, however short the time is.
            let turn = TURN.min(left / (targets.len() - index) as u32);
            match run_turn(target, arguments, total.rounds, turn)? {
                Ok(done) => {
                    total.rounds += done.rounds;
                    total.inputs += done.inputs;
                    total.marks = total.marks.max(done.marks);
                }
                Err((what, input)) => {
                    let file = write_failure(&arguments.out, &target.name, &input)?;
                    eprintln!("{}: {what}", target.name);
                    eprintln!("input of {} bytes; replay: scripts/fuzz --replay {}", input.len(), file.display());
                    eprintln!("when it is mended, add its line to testnet/fuzz/corpus/{}.txt", target.name);
                    return Ok(ExitCode::from(1));
                }
            }
        }
    }
    for (target, Turn { rounds, inputs, marks }) in targets.iter().zip(&totals) {
        println!("{:<24} {inputs:>10} inputs in {rounds} rounds, up to {marks} marks in one", target.name);
    }
    println!("{} inputs, nothing failed", totals.iter().map(|total| total.inputs).sum::<u64>());
    Ok(ExitCode::SUCCESS)
}

/// A child process's turn: what it did, or what went wrong and with which input.
fn run_turn(
    target: &Target,
    arguments: &Arguments,
    first: u64,
    time: Duration,
) -> io::Result<Result<Turn, (String, Vec<u8>)>> {
    let note = arguments.out.join("current");
    let child = Command::new(std::env::current_exe()?)
        .args(["--target", &target.name, "--seed", &arguments.seed.to_string(), "--turn", &first.to_string()])
        .arg("--out")
        .arg(&note)
        .args(["--for", &format!("{}ms", time.as_millis().max(1))])
        .stdin(Stdio::null())
        .output()?;
    if child.status.success() {
        return serde_json::from_slice(&child.stdout).map(Ok).map_err(io::Error::other);
    }
    let mut what = String::from_utf8_lossy(&child.stderr).trim().to_owned();
    if let Some(signal) = child.status.signal() {
        what = format!("the process was ended by signal {signal}: {what}");
    }
    Ok(Err((what, Note::read(&note)?)))
}

/// Rounds of one target until the time is up, in this process.
fn turn(target: &Target, arguments: &Arguments, first: u64) -> io::Result<ExitCode> {
    let mut note = Note::create(&arguments.out)?;
    let (until, mut done) = (Instant::now() + arguments.duration, Turn::default());
    let tried = watch_for_standstill();
    loop {
        let result = round(target, arguments.seed, first + done.rounds, ROUND_INPUTS, |input| {
            tried.fetch_add(1, Ordering::Relaxed);
            note.write(input);
            Instant::now() < until
        });
        match result {
            Ok(report) => {
                done.rounds += 1;
                done.inputs += report.inputs;
                done.marks = done.marks.max(report.marks);
            }
            Err(failure) => {
                note.write(&failure.input);
                eprintln!("round {}, input {}: {}", first + done.rounds, failure.after, failure.what);
                return Ok(ExitCode::from(1));
            }
        }
        if Instant::now() >= until {
            println!("{}", serde_json::to_string(&done)?);
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Ends the process when the count of inputs tried stands still for `STUCK`.
fn watch_for_standstill() -> Arc<AtomicU64> {
    let tried = Arc::new(AtomicU64::new(0));
    let watched = tried.clone();
    std::thread::spawn(move || {
        let mut before = 0;
        loop {
            std::thread::sleep(STUCK);
            let now = watched.load(Ordering::Relaxed);
            if now == before {
                eprintln!("one input takes longer than {} s", STUCK.as_secs());
                std::process::abort();
            }
            before = now;
        }
    });
    tried
}

/// The input being tried, in a file that outlives the process. Not synced: only the process may die, not the machine.
struct Note(File);

impl Note {
    fn create(path: &Path) -> io::Result<Self> {
        File::create(path).map(Self)
    }
    fn write(&mut self, input: &[u8]) {
        let bytes = [&(input.len() as u64).to_le_bytes()[..], input].concat();
        let written = self.0.seek(SeekFrom::Start(0)).and_then(|_| self.0.write_all(&bytes));
        written.expect("the note of the present input can be written");
    }
    fn read(path: &Path) -> io::Result<Vec<u8>> {
        let (mut file, mut length, mut input) = (File::open(path)?, [0; 8], Vec::new());
        file.read_exact(&mut length)?;
        file.take(u64::from_le_bytes(length)).read_to_end(&mut input)?;
        Ok(input)
    }
}

/// Writes the input as a line of a corpus file, under a name of its own.
fn write_failure(out: &Path, target: &str, input: &[u8]) -> io::Result<PathBuf> {
    let sum = input.iter().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    let file = out.join(format!("{target}.{sum:08x}.txt"));
    fs::write(&file, corpus::line(&format!("found-{sum:08x}"), input))?;
    Ok(file)
}

fn replay(targets: &[Target], file: &Path) -> io::Result<ExitCode> {
    let name = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next());
    let Some(target) = targets.iter().find(|target| Some(&*target.name) == name) else {
        return Err(io::Error::other(format!("{}: the file's name begins with no target's", file.display())));
    };
    let mut failed = 0;
    for line in fs::read_to_string(file)?.lines() {
        let Some((name, input)) = corpus::entry(line) else {
            return Err(io::Error::other(format!("{}: a line is a name and hexadecimal digits", file.display())));
        };
        match try_once(target, &input) {
            Ok(_) => println!("{name}: {} bytes, nothing failed", input.len()),
            Err(what) => {
                failed += 1;
                println!("{name}: {what}");
            }
        }
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}
