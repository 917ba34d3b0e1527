//! `testnet chaos`: finds or starts a testnet, shows how the run goes, prints and keeps its report.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use quorate_protocols::text::counted;
use quorate_testnet::chaos::{self, ChaosError, Options, Progress, Report};
use quorate_testnet::{Layout, Testnet, TestnetNodeState, UpOptions};

use super::args::{ChaosArgs, Common};
use super::failure::{Failure, unless_reader_gone};
use super::output::{Text, print, print_json, print_to_stderr, set_message};
use super::reader;
use super::testnet::own_binary;

/// Without `--for` and `--kills`.
const LENGTH_DEFAULT: Duration = Duration::from_secs(60);

/// With `--kills` alone: longer than anyone waits, so that the kills decide.
const LENGTH_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Without a terminal, progress is a line at most this often.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

pub async fn run(common: &Common, dir: &Path, args: ChaosArgs) -> Result<(), Failure> {
    let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()) ^ now_s());
    let report_file = match &args.report {
        // Before an hour of work, not after it.
        Some(path) => Some((path, std::fs::File::create(path).map_err(|error| file_failure(path, &error))?)),
        None => None,
    };
    let is_up =
        Layout::exists(dir) && Testnet::open(dir)?.status().iter().any(|node| node.state != TestnetNodeState::Dead);
    let folder = match is_up {
        true => None,
        false => Some(
            tempfile::Builder::new()
                .prefix("quorate-chaos-")
                .tempdir()
                .map_err(|error| Failure::failed(format!("cannot make a temporary folder: {error}")))?,
        ),
    };
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
    let net = folder.as_ref().map_or_else(|| dir.to_owned(), |folder| folder.path().join("net"));
    let outcome = tokio::select! {
        outcome = perform(common, &net, folder.is_some(), &args, seed) => outcome,
        _ = tokio::signal::ctrl_c() => Err(interrupted(folder.is_some())),
        _ = terminate.recv() => Err(interrupted(folder.is_some())),
        // With a file for the report, standard output is not all that it is for.
        () = reader::until_gone(), if args.report.is_none() => Err(interrupted(folder.is_some())),
    };
    if folder.is_some() {
        // However it ended, and however far the start had come: nothing is left running.
        if let Ok(testnet) = Testnet::open(&net) {
            tokio::task::block_in_place(|| testnet.down())?;
        }
    }
    let (report, short) = match outcome {
        Ok(report) => (report, None),
        Err(Stopped::Short { report, why }) => (*report, Some(why)),
        Err(Stopped::Failed(failure)) => return Err(keep_folder(folder, &net, failure)),
    };
    if let Some((path, mut file)) = report_file {
        use std::io::Write;
        let text = match path.extension().is_some_and(|extension| extension == "json") {
            true => serde_json::to_string_pretty(&report).map_err(|error| Failure::of(&error))? + "\n",
            false => report.to_markdown(),
        };
        file.write_all(text.as_bytes()).map_err(|error| file_failure(path, &error))?;
    }
    unless_reader_gone(match common.json {
        true => print_json(&report),
        false => print(Text::paragraphs(report.to_markdown().trim_end())),
    })?;
    match (report.violations.len(), short) {
        (0, None) => Ok(()),
        (0, Some(why)) => Err(Failure::failed(why)),
        (count, _) => Err(keep_folder(
            folder,
            &net,
            Failure::failed(format!("{}: the report names them", counted(count, "violation"))),
        )),
    }
}

/// How a run ended that did not do what it was asked.
enum Stopped {
    Failed(Failure),
    /// Whole and checked, but shorter than was asked for.
    Short {
        report: Box<Report>,
        why: String,
    },
}

impl<E: Into<Failure>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

async fn perform(common: &Common, net: &Path, start: bool, args: &ChaosArgs, seed: u64) -> Result<Report, Stopped> {
    if start {
        let mut options = UpOptions::new(net, args.nodes, own_binary()?);
        options.testing = true;
        Testnet::up(options).await.map_err(Failure::from)?;
    }
    let testnet = Arc::new(Testnet::open(net).map_err(Failure::from)?);
    let length = args.length.unwrap_or(if args.kills.is_some() { LENGTH_MAX } else { LENGTH_DEFAULT });
    let options = Options {
        length,
        kills: args.kills,
        faults: args.faults.0.clone(),
        workload: args.workload.0.clone(),
        jobs_per_s: args.jobs_per_second,
        seed,
        every: args.every,
        command: command(args, seed),
    };
    let bar = spinner(common.json);
    let told = parking_lot::Mutex::new(None::<Duration>);
    let is_terminal = !bar.is_hidden();
    let shown = bar.clone();
    let outcome = chaos::run(testnet, &options, move |progress| {
        set_message(&shown, progress_text(&progress));
        let mut told = told.lock();
        if !is_terminal && told.is_none_or(|told| progress.elapsed >= told + LINE_INTERVAL) {
            print_to_stderr(progress_text(&progress));
            *told = Some(progress.elapsed);
        }
    })
    .await;
    bar.finish_and_clear();
    match outcome {
        Ok(report) => Ok(report),
        Err(error @ ChaosError::TooFewKills { .. }) => {
            let why = error.to_string();
            let ChaosError::TooFewKills { report, .. } = error else { unreachable!("matched above") };
            Err(Stopped::Short { report, why })
        }
        Err(error) => Err(Failure::from(error).into()),
    }
}

fn progress_text(progress: &Progress) -> String {
    let Progress { elapsed, doing, faults, kills, operations, violations } = progress;
    let elapsed = humantime::format_duration(Duration::from_secs(elapsed.as_secs()));
    format!("{elapsed}: {faults} faults ({kills} kills), {operations} operations, {violations} violations; {doing}")
}

fn spinner(json: bool) -> ProgressBar {
    let bar = super::output::progress(None, json);
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}

/// What makes a run like this one: everything that decides it, and no folder of this machine.
fn command(args: &ChaosArgs, seed: u64) -> String {
    let mut words = vec!["quorate testnet chaos".to_owned()];
    if let Some(length) = args.length {
        words.push(format!("--for {}", humantime::format_duration(length).to_string().replace(' ', "")));
    }
    if let Some(kills) = args.kills {
        words.push(format!("--kills {kills}"));
    }
    let faults = &args.faults.0;
    if faults.len() < chaos::Fault::ALL.len() {
        words.push(format!("--faults {}", faults.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(",")));
    }
    let workload = &args.workload.0;
    if workload.len() < chaos::Operation::ALL.len() {
        let names: Vec<_> = workload.iter().map(|operation| operation.name()).collect();
        words.push(format!("--workload {}", names.join(",")));
    }
    if workload.contains(&chaos::Operation::Job) {
        words.push(format!("--jobs-per-second {}", args.jobs_per_second));
    }
    words.push(format!("--every {}", humantime::format_duration(args.every).to_string().replace(' ', "")));
    words.push(format!("--nodes {}", args.nodes));
    words.push(format!("--seed {seed}"));
    words.join(" ")
}

/// What a run that went wrong leaves behind to be looked at.
fn keep_folder(folder: Option<tempfile::TempDir>, net: &Path, failure: Failure) -> Failure {
    if failure.code != super::failure::FAILED || folder.is_none() {
        return failure;
    }
    drop(folder.map(tempfile::TempDir::keep));
    let net = net.display();
    failure.hint(format!(
        "its nodes are stopped, and their data and logs are in {net}: to look closer, `quorate testnet restart N --dir \
         {net}` for each, then the commands of the report with `--dir {net}`"
    ))
}

fn interrupted(is_own: bool) -> Stopped {
    Stopped::Failed(match is_own {
        true => Failure::failed("interrupted; its nodes are stopped"),
        false => Failure::failed("interrupted in the middle")
            .hint("`quorate testnet heal` ends faults; `quorate testnet status` shows who is dead or paused"),
    })
}

fn file_failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", path.display()))
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}
