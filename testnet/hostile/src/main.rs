//! The program: runs scenarios by name, all that are held, or mutations for as long as asked, each on a testnet of real
//! nodes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use quorate_hostile::arena::{Fault, Outcome, sibling_binary};
use quorate_hostile::mutate;
use quorate_hostile::scenarios::{self, SCENARIOS};

/// The name that stands for a run of mutations.
const MUTATE: &str = "mutate";

/// Attacks a testnet of real nodes, and says what did not hold.
#[derive(Parser)]
#[command(name = "quorate-hostile", version)]
struct Arguments {
    /// Scenarios to run, or `mutate`; without any, all that are held.
    scenario: Vec<String>,
    /// Other identities and bytes with every seed, the same with the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The `quorate` binary; the one beside this program if none is given.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// How long to send mutations, such as 60s or 10m.
    #[arg(long = "for", value_parser = humantime::parse_duration, default_value = "60s")]
    duration: Duration,
    /// Name the scenarios.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for scenario in SCENARIOS {
            println!("{:<20} {}", scenario.name, scenario.what);
        }
        return ExitCode::SUCCESS;
    }
    let Some(binary) = arguments.binary.clone().or_else(sibling_binary) else {
        eprintln!("error: there is no quorate beside this program: build it, or name it with --binary");
        return ExitCode::from(2);
    };
    let names: Vec<String> = match arguments.scenario.is_empty() {
        true => SCENARIOS.iter().map(|scenario| scenario.name.to_owned()).collect(),
        false => arguments.scenario.clone(),
    };
    let is_known = |name: &&String| *name == MUTATE || scenarios::find(name).is_some();
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        eprintln!("error: there is no scenario {unknown:?}; --list names them");
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut failed = 0;
    for name in &names {
        let outcome = match scenarios::find(name) {
            Some(scenario) => runtime.block_on(scenarios::run(scenario, &binary, arguments.seed)),
            None => runtime.block_on(mutate::run(&binary, arguments.seed, arguments.duration)),
        };
        failed += u8::from(!report(name, &outcome));
    }
    ExitCode::from(failed)
}

/// Prints what came of a run. Whether everything held.
fn report(name: &str, outcome: &Result<Outcome, Fault>) -> bool {
    let held = outcome.as_ref().is_ok_and(|outcome| outcome.broken.is_empty());
    println!("{name}: {}", if held { "holds" } else { "does not hold" });
    match outcome {
        Ok(outcome) => {
            outcome.broken.iter().for_each(|what| println!("  broken: {what}"));
            outcome.notes.iter().for_each(|what| println!("  {what}"));
            println!("  took {:?}", outcome.took);
        }
        Err(error) => println!("  could not be carried out: {error}"),
    }
    held
}
