//! Arguments of `bench`.

use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use quorate_protocols::units::parse_span;

use super::values::bytes;

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Store a file of random bytes again and again
    Put(TransferArgs),
    /// Read a stored file again and again
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
        /// Tasks of the job
        #[arg(long, default_value_t = 10_000)]
        tasks: u32,
        /// How often
        #[arg(long, default_value_t = 3)]
        runs: u32,
    },
    /// Have one trigger fire again and again, and many at the same moment
    Triggers {
        /// Triggers that are due in the same second
        #[arg(long, default_value_t = 5_000)]
        count: u32,
        /// Fires of the one that fires alone
        #[arg(long, default_value_t = 200)]
        fires: u32,
    },
    /// Kill the primary and wait for the next committed command
    Failover {
        /// How often
        #[arg(long, default_value_t = 20)]
        kills: u32,
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
}

#[derive(Debug, ClapArgs)]
pub struct TransferArgs {
    /// Bytes per run, such as 256MiB
    #[arg(long, default_value = "256MiB", value_parser = bytes)]
    pub size: u64,
    /// How often
    #[arg(long, default_value_t = 5)]
    pub runs: u32,
}
