//! Arguments of `testnet`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use quorate_protocols::units::parse_span;
use quorate_testnet::chaos::{Fault, Operation};

#[derive(Debug, Subcommand)]
pub enum TestnetCommand {
    /// Start nodes, and wait until every node sees every other
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 7)]
        nodes: usize,
        /// Start the nodes without --testing, as on real machines: no fault can be injected then
        #[arg(long)]
        plain: bool,
    },
    /// List the nodes, and what is broken in them
    Status,
    /// SIGKILL a node
    Kill {
        /// Number of the node
        index: usize,
    },
    /// SIGSTOP a node
    Pause {
        /// Number of the node
        index: usize,
    },
    /// SIGCONT a node
    Resume {
        /// Number of the node
        index: usize,
    },
    /// Stop a node if it runs, and start it again
    Restart {
        /// Number of the node
        index: usize,
    },
    /// Drop all traffic between groups of nodes, such as 1,2 3,4,5
    ///
    /// Nodes in no group form one more. The links stay silent: no connection is closed. Faults add up until `heal`, and
    /// a node that is restarted has them from its start.
    Partition {
        /// Numbers of the nodes of one group, separated by commas
        #[arg(required = true, value_name = "N,N")]
        groups: Vec<Group>,
    },
    /// Drop what node FROM sends to node TO; the other direction stays open
    Cut {
        /// Number of the node that sends
        from: usize,
        /// Number of the node that hears nothing of it
        to: usize,
    },
    /// Delay everything that a node sends or receives, by a time such as 200ms
    Slow {
        /// Number of the node
        index: usize,
        /// How much longer
        #[arg(value_parser = parse_span)]
        delay: Duration,
    },
    /// Flip a bit in every piece that a node reads from its disk
    Corrupt {
        /// Number of the node
        index: usize,
    },
    /// Make a node's disk full
    Fill {
        /// Number of the node
        index: usize,
    },
    /// Make a node report wrong results of verified tasks
    Lie {
        /// Number of the node
        index: usize,
    },
    /// Set a node's wall clock wrong, such as +1h or -90s; 0 sets it right
    Clock {
        /// Number of the node
        index: usize,
        /// How far from the right time
        #[arg(allow_hyphen_values = true, value_parser = offset)]
        offset: i64,
    },
    /// Put load on nodes while breaking them, and check what was promised
    ///
    /// Uses the testnet that is up, else starts one in a temporary folder and takes it down. Never more is broken at
    /// once than a minority of every quorum and one column of any object, so every violation is a bug: it is printed
    /// with a command to look closer, and the exit code is 1.
    Chaos(ChaosArgs),
    /// End every partition, cut, delay, corruption, full disk, lie and wrong clock
    Heal,
    /// Stop all nodes
    Down {
        /// Delete their folders too
        #[arg(long)]
        remove: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub struct ChaosArgs {
    /// How long to break things; then everything is healed and checked. 1m, or as long as --kills takes
    #[arg(long = "for", value_name = "TIME", value_parser = parse_span)]
    pub length: Option<Duration>,
    /// Go on until this many nodes were killed with SIGKILL
    #[arg(long)]
    pub kills: Option<u64>,
    /// kill, pause, partition, cut, slow, clock, corrupt, fill, majority, or all
    #[arg(long, default_value = "all", value_parser = faults)]
    pub faults: Faults,
    /// put, get, command, rm, job, or all
    #[arg(long, default_value = "all", value_parser = workload)]
    pub workload: Workload,
    /// Jobs submitted per second, if the workload has jobs
    #[arg(long, default_value_t = 5)]
    pub jobs_per_second: u32,
    /// Seed: the same one draws the same faults and operations again; the report names it
    #[arg(long)]
    pub seed: Option<u64>,
    /// Shortest time between the beginnings of two faults
    #[arg(long, default_value = "2s", value_parser = parse_span)]
    pub every: Duration,
    /// Nodes of a testnet that is started for this
    #[arg(long, default_value_t = 7)]
    pub nodes: usize,
    /// Write the report here: JSON if the name ends in .json, else Markdown
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub BTreeSet<Fault>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload(pub BTreeSet<Operation>);

fn faults(text: &str) -> Result<Faults, String> {
    named(text, Fault::ALL.map(|fault| (fault.name(), fault))).map(Faults)
}

fn workload(text: &str) -> Result<Workload, String> {
    named(text, Operation::ALL.map(|operation| (operation.name(), operation))).map(Workload)
}

/// `kill,pause` or `all`.
fn named<T: Copy + Ord, const N: usize>(text: &str, known: [(&str, T); N]) -> Result<BTreeSet<T>, String> {
    if text == "all" {
        return Ok(known.into_iter().map(|(_, value)| value).collect());
    }
    let find = |word: &str| known.iter().find(|(name, _)| *name == word.trim()).map(|(_, value)| *value);
    text.split(',')
        .map(|word| {
            find(word).ok_or_else(|| {
                let names = known.map(|(name, _)| name).join(", ");
                format!("{word:?} is none of {names}; separate several by commas, or write all")
            })
        })
        .collect()
}

/// Nodes of one side of a partition: `1,2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group(pub Vec<usize>);

impl std::str::FromStr for Group {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let nodes = text.split(',').map(|node| node.trim().parse());
        let nodes: Result<Vec<usize>, _> = nodes.collect();
        nodes.map(Self).map_err(|_| format!("{text:?} is not a group of nodes: write their numbers, such as 1,2"))
    }
}

/// `+1h`, `-90s`, `0`: in milliseconds.
fn offset(text: &str) -> Result<i64, String> {
    if text == "0" {
        return Ok(0);
    }
    let fault = || format!("{text:?} is not an offset: write +1h, -90s or 0");
    let (sign, span) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(span), _) => (1, span),
        (_, Some(span)) => (-1, span),
        _ => return Err(fault()),
    };
    let span = parse_span(span).map_err(|error| format!("{}: {error}", fault()))?;
    i64::try_from(span.as_millis()).map(|span| sign * span).map_err(|_| fault())
}
