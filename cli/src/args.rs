//! The command line as data.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use quorate_api::{Kind, NEXT_DEFAULT, NEXT_MAX};
use quorate_protocols::object::Profile;
use quorate_protocols::units::parse_span;
use quorate_testnet::chaos::{Fault, Operation};

use super::find::NodeChoice;
use super::reference::{JobRef, ObjectRef, PeerRef, QuorumRef};

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
    /// Print ids whole in tables too
    #[arg(long, global = true)]
    pub full_ids: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set up a data folder: identity, network secret, configuration
    Init(InitArgs),
    /// Run a node in the foreground
    Node(NodeArgs),
    /// List the peers that a node knows
    Peers {
        /// Fail if anything may be missing or old: a quorum or most peers cannot be asked
        #[arg(long)]
        complete: bool,
    },
    /// Look at quorums
    #[command(subcommand)]
    Quorum(QuorumCommand),
    /// Store and read objects
    #[command(subcommand)]
    Object(ObjectCommand),
    /// Submit jobs, look at them, and decide about them
    #[command(subcommand)]
    Job(JobCommand),
    /// Check receipts
    #[command(subcommand)]
    Receipt(ReceiptCommand),
    /// Follow what happens, until Ctrl-C
    ///
    /// A node tells what happens in quorums of which it is a member, its own puts and gets, the pieces it holds, and
    /// its connections. For what happens elsewhere, ask a node there: `quorate quorum ls` names primaries.
    Events,
    /// Emit events that jobs wait for
    #[command(subcommand)]
    Event(EventCommand),
    /// Check a live network from outside, and say what is wrong and what to do
    ///
    /// Asks one node, which answers for its quorums' members and its peers; without --node on a testnet, every node.
    /// What only a node itself can tell (its clock, disk, reservations) is checked of the nodes that are asked. Exit
    /// code 0: healthy; 1: findings.
    Doctor {
        /// Read every object whole
        #[arg(long)]
        deep: bool,
    },
    /// Run a network of real nodes on this machine, and break it
    #[command(subcommand)]
    Testnet(TestnetCommand),
    /// Measure a running testnet
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Show it all: seven nodes, a real file, a killed primary
    Demo(DemoArgs),
}

#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// Emit an event
    ///
    /// The jobs whose trigger listens to the name run, wherever they are owned. Done means that the node has it on disk
    /// and delivers it until it is taken.
    Emit {
        /// Letters, digits, '-', '_' and '.'; what begins with `quorate.` is the network's own
        name: String,
        /// What expressions and tasks are given
        #[arg(long, value_name = "JSON", default_value = "null")]
        data: String,
        /// Events of one name and id are one, through whichever node they come
        #[arg(long)]
        id: Option<String>,
    },
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
    Ls {
        /// Fail if anything may be missing or old: a quorum or most peers cannot be asked
        #[arg(long)]
        complete: bool,
    },
    /// Show one quorum
    Show {
        /// A quorum's id, or the first four or more of its digits
        quorum: QuorumRef,
    },
}

#[derive(Debug, Subcommand)]
pub enum ObjectCommand {
    /// Store a file
    Put(PutArgs),
    /// Read an object
    Get(GetArgs),
    /// List objects
    Ls {
        /// Fail if anything may be missing or old: a quorum or most peers cannot be asked
        #[arg(long)]
        complete: bool,
    },
    /// Show who holds what of an object
    Show {
        /// An object's reference, or the first four or more digits of it or of its second half
        object: ObjectRef,
    },
    /// Give up a claim on an object, and remove the object with the last one
    ///
    /// The same bytes are one object, whoever stores them and under whichever names. Each owner has a claim per name,
    /// and the object stays readable for every peer until the last claim is gone; what is said names those that keep
    /// it. An object that a live job or trigger needs is not removed without --force.
    Rm(RmArgs),
}

#[derive(Debug, ClapArgs)]
pub struct RmArgs {
    /// An object's reference, or the first four or more digits of it or of its second half
    pub object: ObjectRef,
    /// The claim under this name; "" is the one without a name
    #[arg(long, conflicts_with = "all")]
    pub name: Option<String>,
    /// All names of the owner
    #[arg(long)]
    pub all: bool,
    /// The claims of this peer; those of the node that is asked otherwise. For operators
    #[arg(long, value_name = "PEER")]
    pub owner: Option<PeerRef>,
    /// The claims of everybody. For operators
    #[arg(long, conflicts_with_all = ["name", "all", "owner"])]
    pub everyone: bool,
    /// Do not ask before the claims of others are removed
    #[arg(long)]
    pub yes: bool,
    /// Remove the object even though live jobs need it
    #[arg(long)]
    pub force: bool,
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
    pub quorum: Option<QuorumRef>,
    /// Go on with a run that was interrupted on another node
    #[arg(long, value_name = "JOB")]
    pub resume: Option<JobRef>,
}

#[derive(Debug, ClapArgs)]
pub struct GetArgs {
    /// An object's reference, or the first four or more digits of it or of its second half
    pub object: ObjectRef,
    /// Where to write; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Bytes to read: FIRST-LAST, FIRST- or -COUNT, counted from 0, both ends included
    #[arg(long, value_name = "RANGE", value_parser = range, allow_hyphen_values = true)]
    pub range: Option<String>,
    /// On a terminal too, write control characters as they are
    #[arg(long)]
    pub raw: bool,
}

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Submit a job that computes, and wait for its end
    ///
    /// The file says what to run, on what, and how patiently: see examples/ and docs/jobs.md. Files that it names are
    /// sent along, large ones as objects. Ctrl-C ends the waiting, not the job. A job with a trigger is not waited for
    /// unless --wait or --follow ask for it: its end comes when nothing is left to fire, which may be never.
    Submit(SubmitArgs),
    /// Check a specification, without asking anyone
    Validate(SpecArgs),
    /// Show what a submit would do: who would run it, and who would not and why
    Plan(SpecArgs),
    /// List jobs
    Ls(ListArgs),
    /// Show one job, with its outputs once it has succeeded
    Show {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
        /// Show who signed what, of a verified job; `quorate receipt verify` checks what --json prints
        #[arg(long)]
        receipts: bool,
    },
    /// Say why a job is where it is
    Why {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Wait until a job has ended, or waits for a person
    Wait {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// What happened to a job
    History {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// List the tasks of a job that computes
    Tasks {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
        /// The present step otherwise, or the last
        #[arg(long)]
        step: Option<u16>,
    },
    /// Show what tasks wrote on standard error
    ///
    /// Workers keep it for a time, and show it through the node that submitted the job, an operator's, or one of a
    /// member of its quorum.
    Logs(LogArgs),
    /// Write the outputs of a job that computes, one after the other
    Output {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
        /// Of this task alone
        #[arg(long)]
        task: Option<u32>,
        /// Where to write; standard output otherwise
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// On a terminal too, write control characters as they are
        #[arg(long)]
        raw: bool,
    },
    /// Cancel a job; a second cancel gives up undoing, too
    Cancel {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Stop the work of a job until it is resumed
    Pause {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Let a paused job go on
    Resume {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Try again what was given up: of a job that waits for a person
    Retry {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Decide about a job that waits for a person
    Resolve {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
        #[command(flatten)]
        how: Resolution,
    },
    /// Change priority, parallelism or resources of a job that lives
    Update(UpdateArgs),
    /// List what a trigger fired and what it skipped, and why
    Fires {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Show when a trigger fires next: of a job, or of a specification before it is submitted
    Next(NextArgs),
    /// Have a trigger fire now
    Fire(FireArgs),
    /// Have a trigger skip what falls due from now on; its runs go on
    Suspend {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Let a suspended trigger fire again
    Unsuspend {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
}

#[derive(Clone, Debug, ClapArgs)]
pub struct SpecArgs {
    /// The specification, in TOML; `-` reads standard input
    pub spec: PathBuf,
    /// A value for one of its parameters; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct NextArgs {
    /// A job's id, or enough of its digits; or a specification, and `-` reads it from standard input
    #[arg(value_name = "JOB|SPEC")]
    pub job: String,
    /// Instants to show
    #[arg(short = 'n', long, default_value_t = NEXT_DEFAULT, value_parser = next_count)]
    pub count: usize,
    /// A value for a parameter of the specification; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct FireArgs {
    /// A job's id, or the first four or more digits of it or of its second half
    pub job: JobRef,
    /// Apply the overlap policy; without this it runs beside whatever runs
    #[arg(long)]
    pub respect_overlap: bool,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct SubmitArgs {
    #[command(flatten)]
    pub spec: SpecArgs,
    /// Wait for the end and show the job then; the exit code says whether it succeeded (the default, but for triggers)
    #[arg(long, conflicts_with_all = ["follow", "detach"])]
    pub wait: bool,
    /// As --wait, and tell what happens meanwhile
    #[arg(long, conflicts_with = "detach")]
    pub follow: bool,
    /// Print the id and leave
    #[arg(long)]
    pub detach: bool,
    /// Show what would happen, and submit nothing
    #[arg(long, conflicts_with_all = ["wait", "follow", "detach"])]
    pub dry_run: bool,
    /// Submits with the same key are the same job, through this node; with --quorum through every node
    #[arg(long)]
    pub key: Option<String>,
    /// The quorum that shall own the job
    #[arg(long)]
    pub quorum: Option<QuorumRef>,
}

#[derive(Clone, Debug, Default, ClapArgs)]
pub struct ListArgs {
    /// States, parted by commas; `live` is all that have not ended, `ended` the others
    #[arg(long)]
    pub state: Option<String>,
    /// store, wasm or command
    #[arg(long, value_parser = kind)]
    pub kind: Option<Kind>,
    /// The peer through which it was submitted; `me` is the node that is asked
    #[arg(long, value_name = "PEER|me")]
    pub owner: Option<String>,
    /// Part of the name
    #[arg(long)]
    pub name: Option<String>,
    /// Fail if anything may be missing or old: a quorum or most peers cannot be asked
    #[arg(long)]
    pub complete: bool,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct LogArgs {
    /// A job's id, or the first four or more digits of it or of its second half
    pub job: JobRef,
    /// Go on until the job has ended
    #[arg(short, long)]
    pub follow: bool,
    /// Of this task alone; of all tasks of the step otherwise
    #[arg(long)]
    pub task: Option<u32>,
    /// The present step otherwise, or the last
    #[arg(long)]
    pub step: Option<u16>,
    /// Standard output alone, of what runs or failed; of what succeeded, `job output` has it
    #[arg(long)]
    pub stdout: bool,
    /// On a terminal too, write control characters as they are
    #[arg(long)]
    pub raw: bool,
}

#[derive(Clone, Copy, Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct Resolution {
    /// Take the tasks that were given up as done, without outputs
    #[arg(long)]
    pub skip: bool,
    /// Give the job up
    #[arg(long)]
    pub fail: bool,
    /// Undo what was begun, as the specification says
    #[arg(long)]
    pub revert: bool,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct UpdateArgs {
    /// A job's id, or the first four or more digits of it or of its second half
    pub job: JobRef,
    /// Its share of the workers beside other jobs, 1 to 100
    #[arg(long)]
    pub priority: Option<u8>,
    /// Tasks that may run at once; 0 is as many as there is room for
    #[arg(long)]
    pub parallelism: Option<u32>,
    /// Memory of one task, such as 256MiB
    #[arg(long, value_parser = bytes)]
    pub memory: Option<u64>,
    /// Disk of one task
    #[arg(long, value_parser = bytes)]
    pub disk: Option<u64>,
    /// Slots of one task
    #[arg(long)]
    pub slots: Option<u32>,
    /// A label that workers must carry, in place of those of the specification; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub enum ReceiptCommand {
    /// Check the receipts of a verified job, with nothing but the file
    ///
    /// Says which workers signed what. Whether these are the workers you know, only you can tell.
    Verify {
        /// What `quorate job show ID --receipts --json` printed; `-` reads standard input
        file: PathBuf,
        /// Check that this file is the output that was agreed on, of a job with one task
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum TestnetCommand {
    /// Start nodes, and wait until every node sees every other
    Up {
        #[arg(long, default_value_t = 7)]
        nodes: usize,
        /// Start the nodes without --testing, as on real machines: no fault can be injected then
        #[arg(long)]
        plain: bool,
    },
    /// List the nodes, and what is broken in them
    Status,
    /// SIGKILL a node
    Kill { index: usize },
    /// SIGSTOP a node
    Pause { index: usize },
    /// SIGCONT a node
    Resume { index: usize },
    /// Stop a node if it runs, and start it again
    Restart { index: usize },
    /// Let nothing pass between groups of nodes, such as 1,2 3,4,5
    ///
    /// Nodes in no group form one more. The links stay silent: no connection is closed. Faults add up until `heal`, and
    /// a node that is restarted has them from its start.
    Partition {
        #[arg(required = true, value_name = "N,N")]
        groups: Vec<Group>,
    },
    /// Let nothing that node FROM sends reach node TO; the other way stays open
    Cut { from: usize, to: usize },
    /// Make everything that a node sends or hears take longer, such as 200ms
    Slow {
        index: usize,
        #[arg(value_parser = parse_span)]
        delay: Duration,
    },
    /// Flip a bit in every piece that a node reads from its disk
    Corrupt { index: usize },
    /// Let a node's disk be full
    Fill { index: usize },
    /// Let a node give wrong results of verified tasks
    Lie { index: usize },
    /// Set a node's wall clock wrong, such as +1h or -90s; 0 sets it right
    Clock {
        index: usize,
        #[arg(allow_hyphen_values = true, value_parser = offset)]
        offset: i64,
    },
    /// Work and break nodes at once, and check what was promised
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
    /// Jobs submitted in a second, when they are part of the workload
    #[arg(long, default_value_t = 5)]
    pub jobs_per_second: u32,
    /// Draws the same faults and operations again; the report names it
    #[arg(long)]
    pub seed: Option<u64>,
    /// Between the beginnings of two faults, at the least
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
                format!("{word:?} is none of {names}; several are parted by commas, and `all` is all of them")
            })
        })
        .collect()
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
        #[arg(long, default_value = "3s", value_parser = parse_span)]
        time: Duration,
    },
    /// Submit jobs that do nothing, and wait for their results
    Jobs {
        /// Jobs in flight at once
        #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512])]
        outstanding: Vec<u32>,
        /// How long to measure each, about
        #[arg(long, default_value = "5s", value_parser = parse_span)]
        time: Duration,
    },
    /// Run one wide job of tasks that do nothing
    Map {
        #[arg(long, default_value_t = 10_000)]
        tasks: u32,
        #[arg(long, default_value_t = 3)]
        runs: u32,
    },
    /// Have one trigger fire again and again, and many at the same moment
    Triggers {
        /// Triggers that are due in the same second
        #[arg(long, default_value_t = 10_000)]
        count: u32,
        /// Fires of the one that fires alone
        #[arg(long, default_value_t = 200)]
        fires: u32,
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
    /// Count the words of a large text instead, on all nodes, and compare with a count by one process
    #[arg(long)]
    pub wordcount: bool,
    /// With --wordcount: a text of one's own
    #[arg(long, value_name = "FILE", requires = "wordcount")]
    pub text: Option<PathBuf>,
    /// With --wordcount: how much text to make
    #[arg(long, default_value = "100MB", value_parser = bytes, requires = "wordcount", conflicts_with = "text")]
    pub size: u64,
}

/// As many as a node shows.
fn next_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=NEXT_MAX).contains(&count) => Ok(count),
        _ => Err(format!("{text:?} is not between 1 and {NEXT_MAX}")),
    }
}

/// `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::ALL.iter().copied().find(|kind| kind.name() == text).ok_or_else(|| {
        let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("{text:?} is none of {}", known.join(", "))
    })
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

/// Nodes of one side of a partition: `1,2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group(pub Vec<usize>);

impl std::str::FromStr for Group {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let nodes = text.split(',').map(|node| node.trim().parse());
        let nodes: Result<Vec<usize>, _> = nodes.collect();
        nodes.map(Self).map_err(|_| format!("{text:?} is no group of nodes; write 1,2"))
    }
}

/// `+1h`, `-90s`, `0`: in milliseconds.
fn offset(text: &str) -> Result<i64, String> {
    if text == "0" {
        return Ok(0);
    }
    let fault = || format!("{text:?} is no offset; write +1h, -90s or 0");
    let (sign, span) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(span), _) => (1, span),
        (_, Some(span)) => (-1, span),
        _ => return Err(fault()),
    };
    let span = parse_span(span).map_err(|error| format!("{}: {error}", fault()))?;
    i64::try_from(span.as_millis()).map(|span| sign * span).map_err(|_| fault())
}

fn range(text: &str) -> Result<String, String> {
    let fault = || format!("{text:?} is no range; write FIRST-LAST, FIRST- or -COUNT");
    let (first, last) = text.split_once('-').ok_or_else(fault)?;
    // What the node will make of it, before anybody is asked.
    let number = |part: &str| part.is_empty() || quorate_api::range::number(part).is_some();
    if !number(first) || !number(last) || (first.is_empty() && last.is_empty()) {
        return Err(fault());
    }
    match quorate_api::range::parse(&format!("bytes={text}")) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{text:?} ends before it begins; write FIRST-LAST with LAST not below FIRST")),
    }
}
