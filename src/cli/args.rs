//! The command line as data.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use quorate_protocols::ids::QuorumId;
use quorate_protocols::object::Profile;

use super::find::NodeChoice;
use super::reference::{JobRef, ObjectRef};

#[derive(Debug, Parser)]
#[command(
    name = "quorate",
    version,
    about = "A peer-to-peer network that keeps files and runs jobs, with no control plane"
)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// List peers (as `quorate peers`)
    #[arg(long)]
    pub peers: bool,
    /// List quorums (as `quorate quorum ls`)
    #[arg(long)]
    pub quorums: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Common {
    /// The node to ask: a URL, or the number of a testnet node
    #[arg(long, global = true, value_name = "URL|N")]
    pub node: Option<NodeChoice>,
    /// Data folder of a node, or folder of a testnet
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set up a data folder: identity, network secret, configuration
    Init(InitArgs),
    /// Run a node in the foreground
    Node(NodeArgs),
    /// List the peers that a node knows
    Peers,
    /// Look at quorums
    #[command(subcommand)]
    Quorum(QuorumCommand),
    /// Store and read objects
    #[command(subcommand)]
    Object(ObjectCommand),
    /// Look at jobs
    #[command(subcommand)]
    Job(JobCommand),
    /// Follow what happens, until Ctrl-C
    ///
    /// A node tells what happens in quorums of which it is a member, its own puts and gets, the pieces it holds, and its
    /// connections. For what happens elsewhere, ask a node there: `quorate quorum ls` names primaries.
    Events,
    /// Run a network of real nodes on this machine, and break it
    #[command(subcommand)]
    Testnet(TestnetCommand),
    /// Measure a running testnet
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Show it all: seven nodes, a real file, a killed primary
    Demo(DemoArgs),
}

#[derive(Debug, ClapArgs)]
pub struct InitArgs {
    /// Join the network of this line, as printed by `quorate init` on its first node
    #[arg(long, value_name = "LINE")]
    pub join: Option<String>,
    /// Address and port at which peers reach this node
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<std::net::SocketAddr>,
}

#[derive(Debug, ClapArgs)]
pub struct NodeArgs {
    /// Configuration file; the data folder's otherwise
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Open the fault hooks of the API. For testnets only
    #[arg(long)]
    pub testing: bool,
    /// Print the configuration with every default, and exit
    #[arg(long)]
    pub print_config: bool,
}

#[derive(Debug, Subcommand)]
pub enum QuorumCommand {
    /// List quorums
    Ls,
    /// Show one quorum
    Show {
        /// A quorum's id, or the first eight or more of its digits
        quorum: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum ObjectCommand {
    /// Store a file
    Put(PutArgs),
    /// Read an object
    Get(GetArgs),
    /// List objects
    Ls,
    /// Show who holds what of an object
    Show {
        /// An object's reference, or the first eight or more digits of it or of its second half
        object: ObjectRef,
    },
    /// Remove an object
    Rm {
        /// An object's reference, or the first eight or more digits of it or of its second half
        object: ObjectRef,
    },
}

#[derive(Debug, ClapArgs)]
pub struct PutArgs {
    /// The file; `-` reads standard input
    pub file: PathBuf,
    /// Name shown in listings; the file's otherwise
    #[arg(long)]
    pub name: Option<String>,
    /// data+parity, such as 4+2; chosen by the number of peers otherwise
    #[arg(long)]
    pub profile: Option<Profile>,
    /// The quorum that shall own the run
    #[arg(long)]
    pub quorum: Option<QuorumId>,
    /// Go on with a run that was interrupted on another node
    #[arg(long, value_name = "JOB")]
    pub resume: Option<JobRef>,
}

#[derive(Debug, ClapArgs)]
pub struct GetArgs {
    /// An object's reference, or the first eight or more digits of it or of its second half
    pub object: ObjectRef,
    /// Where to write; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Bytes to read: FIRST-LAST, FIRST- or -COUNT, counted from 0, both ends included
    #[arg(long, value_name = "RANGE", value_parser = range, allow_hyphen_values = true)]
    pub range: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// List jobs
    Ls,
    /// Show one job
    Show {
        /// A job's id, or the first eight or more digits of it or of its second half
        job: JobRef,
    },
    /// Wait until a job has ended
    Wait {
        /// A job's id, or the first eight or more digits of it or of its second half
        job: JobRef,
    },
    /// What happened to a job
    History {
        /// A job's id, or the first eight or more digits of it or of its second half
        job: JobRef,
    },
    /// Cancel a job
    Cancel {
        /// A job's id, or the first eight or more digits of it or of its second half
        job: JobRef,
    },
}

#[derive(Debug, Subcommand)]
pub enum TestnetCommand {
    /// Start nodes, and wait until every node sees every other
    Up {
        #[arg(long, default_value_t = 7)]
        nodes: usize,
        /// Open the nodes' fault hooks
        #[arg(long)]
        testing: bool,
    },
    /// List the nodes
    Status,
    /// SIGKILL a node
    Kill { index: usize },
    /// SIGSTOP a node
    Pause { index: usize },
    /// SIGCONT a node
    Resume { index: usize },
    /// Stop a node if it runs, and start it again
    Restart { index: usize },
    /// Stop all nodes
    Down {
        /// Delete their folders too
        #[arg(long)]
        remove: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Store a file of random bytes again and again
    Put(TransferArgs),
    /// Read one back again and again
    Get(TransferArgs),
    /// Commit commands that change nothing
    Commit {
        /// Commands in flight at once
        #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512])]
        outstanding: Vec<u32>,
        /// How long to measure each, about
        #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
        time: Duration,
    },
    /// Kill the primary and wait for the next committed command
    Failover {
        #[arg(long, default_value_t = 20)]
        kills: u32,
    },
    /// Watch the nodes do nothing
    Idle {
        /// Form this many quorums first
        #[arg(long, default_value_t = 0)]
        quorums: u32,
        /// Length of the window
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
}

#[derive(Debug, ClapArgs)]
pub struct TransferArgs {
    /// Bytes per run, such as 256MiB
    #[arg(long, default_value = "256MiB", value_parser = bytes)]
    pub size: u64,
    #[arg(long, default_value_t = 5)]
    pub runs: u32,
}

#[derive(Debug, ClapArgs)]
pub struct DemoArgs {
    /// Leave the network running
    #[arg(long)]
    pub keep: bool,
}

/// `256MiB`, `1GB`, `4096`.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(format!("{text:?} is no size; write 256MiB, 1GB or a number of bytes")),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("{text:?} is no size; write 256MiB, 1GB or a number of bytes"))
}

fn range(text: &str) -> Result<String, String> {
    let fault = || format!("{text:?} is no range; write FIRST-LAST, FIRST- or -COUNT");
    let (first, last) = text.split_once('-').ok_or_else(fault)?;
    let number = |part: &str| part.is_empty() || part.parse::<u64>().is_ok();
    match number(first) && number(last) && !(first.is_empty() && last.is_empty()) {
        true => Ok(text.to_owned()),
        false => Err(fault()),
    }
}
