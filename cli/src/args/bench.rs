//! Arguments of `bench`.

use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand, value_parser};
use quorate_bench::Through;
use quorate_protocols::units::parse_span;

use super::values::bytes;

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Submit jobs that do nothing, and wait for their results
    Jobs {
        #[command(flatten)]
        through: ThroughArg,
        /// Jobs in flight at once
        #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256], value_parser = value_parser!(u32).range(1..))]
        outstanding: Vec<u32>,
        #[command(flatten)]
        repeated: Repeated,
        /// Have the submit wait for the result (`POST /v1/jobs?wait=30s`): one request for a job, not two
        #[arg(long)]
        one_trip: bool,
    },
    /// Commit commands that change nothing, in process and one to a request
    ///
    /// In process the node proposes them to itself, which has more of them in flight than any client could have.
    Commit {
        #[command(flatten)]
        through: ThroughArg,
        /// Commands in flight at once; those that are more than a node takes connections, in process alone
        #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512], value_parser = value_parser!(u32).range(1..))]
        outstanding: Vec<u32>,
        #[command(flatten)]
        repeated: Repeated,
    },
    /// Store and read objects of random bytes
    ///
    /// Those of 16 MiB and more go one at a time, each run is one of them, and they are set against the work that
    /// cannot be avoided.
    Objects {
        #[command(flatten)]
        through: ThroughArg,
        /// Bytes of an object, such as 256MiB
        #[arg(long, value_delimiter = ',', default_values = ["1KiB", "64KiB", "1MiB", "256MiB"], value_parser = bytes)]
        size: Vec<u64>,
        /// Small objects in flight at once
        #[arg(long, value_delimiter = ',', default_values_t = [1, 16], value_parser = value_parser!(u32).range(1..))]
        outstanding: Vec<u32>,
        #[command(flatten)]
        repeated: Repeated,
    },
    /// Run one wide job of tasks that do nothing
    Map {
        #[command(flatten)]
        through: ThroughArg,
        /// Tasks of the job
        #[arg(long, default_value_t = 10_000)]
        tasks: u32,
        /// How often
        #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
        runs: u32,
    },
    /// Have one trigger fire again and again, and many at the same moment, in process
    Triggers {
        #[command(flatten)]
        through: ThroughArg,
        /// Triggers that are due in the same second
        #[arg(long, default_value_t = 5_000)]
        count: u32,
        /// Fires of the one that fires alone
        #[arg(long, default_value_t = 200)]
        fires: u32,
    },
    /// Kill the primary while a client submits, and say for how long nothing was acknowledged
    Failover {
        #[command(flatten)]
        through: ThroughArg,
        /// How often
        #[arg(long, default_value_t = 20)]
        kills: u32,
        /// Ask the primary to end (SIGTERM), do not kill it
        #[arg(long)]
        planned: bool,
    },
    /// Measure what idle nodes use
    Idle {
        /// Form this many quorums first
        #[arg(long, default_value_t = 0)]
        quorums: u32,
        /// Seconds to measure
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Put values into three nodes of etcd, to compare with: those of the `etcd` on the PATH
    Etcd {
        /// Puts in flight at once
        #[arg(long, value_delimiter = ',', default_values_t = [1, 64], value_parser = value_parser!(u32).range(1..))]
        outstanding: Vec<u32>,
        #[command(flatten)]
        repeated: Repeated,
    },
}

#[derive(Clone, Debug, ClapArgs)]
pub struct ThroughArg {
    /// The nodes to ask, by their part in the measured quorum: primary, member, outsider or all; --node names one
    #[arg(long, value_name = "NODES")]
    pub through: Option<Through>,
}

#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Repeated {
    /// How long one run lasts
    #[arg(long, default_value = "5s", value_parser = parse_span)]
    pub time: Duration,
    /// Runs of each figure; what is printed is their median, with the least and the greatest of them
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    pub runs: u32,
}
