//! The command line: finds a node, asks its HTTP API, prints what it says.
//!
//! Apart from `init`, `admit` and `node`, which act on a data folder and are passed in ([`Daemon`]), and `testnet`,
//! which acts on processes, every command speaks HTTP to a node and nothing else. What a person asked for goes to
//! stdout (with `--json`, JSON and nothing but); progress, warnings and errors go to stderr, progress only to a
//! terminal. Either goes through [`output`], where text of others loses what would act on a terminal. Exit codes: 0
//! done, 1 the request failed, 2 wrong usage, 3 no node answers. Errors say what to do next.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod advice;
mod args;
mod bench;
mod chaos;
mod demo;
mod doctor;
pub mod escape;
mod event;
mod events;
mod failure;
mod find;
mod ids;
mod job;
mod object;
mod output;
mod reader;
mod receipt;
mod reference;
mod removal;
mod sealing;
mod show;
mod testnet;
mod token;
mod transfer;
mod wordcount;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};

use args::{Args, Command};
pub use failure::Failure;
use ids::Ids;
use output::print_to_stderr;

/// The commands that are a node, or make one: they act on a data folder and ask nobody. This crate knows how they are
/// written, and nothing of what is inside a node.
pub struct Daemon {
    /// Makes a data folder.
    pub init: fn(&Common, &InitArgs) -> Result<(), Failure>,
    /// Signs or takes an admission.
    pub admit: fn(&Common, &AdmitArgs) -> Result<(), Failure>,
    /// Runs the node of a data folder until it is told to end.
    pub node: fn(&Common, &NodeArgs) -> Result<(), Failure>,
}

/// Parses the command line, runs the command, and says how it went.
pub fn main(daemon: &Daemon) -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are answers, not mistakes; clap knows which stream and code each takes.
            if error.use_stderr() {
                // It quotes what was typed, or pasted from somewhere.
                print_to_stderr(Text::paragraphs(error.render().to_string().trim_end()));
            } else if let Err(printing) = error.print().and_then(|()| std::io::stdout().flush()) {
                return end(&Common::default(), &output::stdout_failure(&printing));
            }
            return ExitCode::from(error.exit_code().clamp(0, 2) as u8);
        }
    };
    if args.command.is_none() && !args.peers && !args.quorums {
        // Nothing was asked for: what could be is the answer, though a script that forgot its command should notice.
        print_to_stderr(Text::paragraphs(Args::command().render_help().to_string().trim_end()));
        return ExitCode::from(failure::USAGE);
    }
    let common = args.common.clone();
    match run(args, daemon) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => end(&common, &failure),
    }
}

/// Says how a command failed.
fn end(common: &Common, failure: &Failure) -> ExitCode {
    if !failure.is_reader_gone() {
        print_to_stderr(advice::complete(common, &failure.text()));
    }
    ExitCode::from(failure.code)
}

fn run(args: Args, daemon: &Daemon) -> Result<(), Failure> {
    let Args { common, peers, quorums, command } = args;
    let command = match (command, peers, quorums) {
        (Some(command), false, false) => command,
        (None, true, false) => Command::Peers { complete: false },
        (None, false, true) => Command::Quorum(args::QuorumCommand::Ls { complete: false }),
        (None, false, false) => return Err(Failure::usage("say what to do; `quorate --help` lists the commands")),
        _ => return Err(Failure::usage("--peers and --quorums are commands of their own: give one of them")),
    };
    match &command {
        Command::Init(init) => return (daemon.init)(&common, init),
        Command::Admit(admit) => return (daemon.admit)(&common, admit),
        Command::Node(node) => return (daemon.node)(&common, node),
        _ => (),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(async {
        let outcome = match command {
            Command::Init(_) | Command::Admit(_) | Command::Node(_) => unreachable!("handled above, by the daemon"),
            Command::Peers { complete } => reader::while_read(show::peers(&common, complete)).await,
            Command::Quorum(command) => reader::while_read(show::quorums(&common, command)).await,
            Command::Object(command) => object::run(&common, command).await,
            Command::Job(command) => job::run(&common, command).await,
            Command::Receipt(command) => receipt::run(&common, command),
            Command::Doctor { deep } => reader::while_read(doctor::run(&common, deep)).await,
            Command::Events => reader::while_read(events::run(&common)).await,
            Command::Event(command) => event::run(&common, command).await,
            Command::Token(command) => token::run(&common, command).await,
            Command::Testnet(command) => testnet::run(&common, command).await,
            Command::Bench(command) => reader::while_read(bench::run(&common, command)).await,
            Command::Demo(demo) => demo::run(&common, &demo).await,
        };
        match outcome {
            Err(failure) if failure.has_peers() => Err(failure.naming_peers(&names(&common).await)),
            outcome => outcome,
        }
    });
    // A read of stdin cannot be taken back; the process ends all the same.
    runtime.shutdown_background();
    outcome
}

/// How long a failure waits for the names of the peers in it: its node may be what failed.
const NAMES_PATIENCE: Duration = Duration::from_secs(2);

/// What the node that was asked calls its peers, if it says so.
async fn names(common: &Common) -> Ids {
    let Ok(client) = find::client_of(common) else { return Ids::new(common) };
    let asked = tokio::time::timeout(NAMES_PATIENCE, Ids::ask(common, &client)).await;
    asked.unwrap_or_else(|_| Ids::new(common))
}

pub use advice::shell_path;
pub use args::{AdmitArgs, Common, InitArgs, NodeArgs};
pub use find::default_node_dir;
pub use output::{Text, facts, print, print_json};

#[cfg(test)]
mod tests;
