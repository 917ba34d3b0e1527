//! The command line as data: what can be typed, and the text of `--help`. What each command does stands in the file of
//! its name beside this folder.

mod bench;
mod job;
mod object;
mod testnet;
mod token;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};

use quorate_protocols::admission::Admission;
use quorate_protocols::ids::PeerId;

use super::find::NodeChoice;
use super::reference::QuorumRef;
use values::bytes;

pub use bench::{BenchCommand, Repeated, ThroughArg};
pub use job::{FireArgs, JobCommand, ListArgs, LogArgs, NextArgs, Resolution, SpecArgs, SubmitArgs, UpdateArgs};
pub use object::{GetArgs, ObjectCommand, PutArgs, RmArgs};
pub use testnet::{ChaosArgs, TestnetCommand};
pub use token::TokenCommand;

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
    /// Let a peer be a member, holder and worker, where the network has an authority
    ///
    /// On the machine whose data folder has the authority's key: signs an admission of the peer, which is public. On
    /// the peer's own machine, `quorate admit --install LINE` puts it into its data folder; it holds from the node's
    /// next start.
    Admit(AdmitArgs),
    /// Run a node in the foreground
    Node(NodeArgs),
    /// List the peers that a node knows
    Peers {
        /// Fail if anything may be missing or old: a quorum or most peers cannot be asked
        #[arg(long)]
        complete: bool,
    },
    /// List quorums, and show one
    #[command(subcommand)]
    Quorum(QuorumCommand),
    /// Store and read objects
    #[command(subcommand)]
    Object(ObjectCommand),
    /// Submit, inspect and control jobs
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
    /// Let others use a node's API: tokens that may do so much for so long
    #[command(subcommand)]
    Token(TokenCommand),
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
    /// Measure a running testnet, as its clients see it
    ///
    /// A client of its own asks the nodes over HTTP, on connections that stay open. What a node measures of itself says
    /// so: in process. With --json each row is one line.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Run a demonstration: seven nodes, a stored file, a killed primary
    Demo(DemoArgs),
}

#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// Emit an event
    ///
    /// Runs the jobs whose trigger listens for this name, whichever quorum owns them. The command returns once the node
    /// has the event on disk; the node then delivers it until every quorum that listens has taken it.
    Emit {
        /// Name: letters, digits, '-', '_' and '.'; names that begin with `quorate.` are the network's own
        name: String,
        /// Data of the event, for expressions and tasks
        #[arg(long, value_name = "JSON", default_value = "null")]
        data: String,
        /// Id: the same name and id, emitted again through any node, is the same event
        #[arg(long)]
        id: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("admission").required(true).args(["peer", "install"]))]
pub struct AdmitArgs {
    /// The peer to admit, by its whole id
    pub peer: Option<PeerId>,
    /// How long it is trusted, at most ten years
    #[arg(long = "for", value_name = "TIME", default_value = "365d", value_parser = humantime::parse_duration)]
    pub lasts: Duration,
    /// Put the admission of this folder's node, as `quorate admit PEER` printed it, into its data folder
    #[arg(long, value_name = "LINE")]
    pub install: Option<Admission>,
}

#[derive(Debug, ClapArgs)]
pub struct InitArgs {
    /// Join the network of this line, as printed by `quorate init` on its first node
    #[arg(long, value_name = "LINE")]
    pub join: Option<String>,
    /// Address and port at which peers reach this node
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<std::net::SocketAddr>,
    /// Make an authority: only peers that it admits (`quorate admit`) become members, holders and workers
    #[arg(long)]
    pub authority: bool,
}

#[derive(Debug, ClapArgs)]
pub struct NodeArgs {
    /// Configuration file; without this, the one in the data folder
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

#[derive(Debug, ClapArgs)]
pub struct DemoArgs {
    /// Leave the network running
    #[arg(long)]
    pub keep: bool,
    /// Count the words of a large text instead, on all nodes, and compare with a count by one process
    #[arg(long)]
    pub wordcount: bool,
    /// With --wordcount: the text to count; without this, one is made
    #[arg(long, value_name = "FILE", requires = "wordcount")]
    pub text: Option<PathBuf>,
    /// With --wordcount: how much text to make
    #[arg(long, default_value = "100MB", value_parser = bytes, requires = "wordcount", conflicts_with = "text")]
    pub size: u64,
}
