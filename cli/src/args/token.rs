//! `quorate token`.

use std::time::Duration;

use clap::Subcommand;
use quorate_api::Verb;

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token for somebody, who may do so much for so long
    ///
    /// The token holds on this node alone and is shown once. What it may, by word: node.read (the node, its peers,
    /// quorums), metrics.read, event.read, event.emit, job.read (with outputs, logs and receipts), job.submit,
    /// job.control (cancel, pause, retry, resolve, update, fire), object.read, object.write, object.remove. Many
    /// commands look up what they show or are given: job.read beside job.submit, object.read beside object.write, and
    /// node.read for the names of peers.
    Mint {
        /// What its holder may do, such as job.submit,job.read
        #[arg(long, value_name = "VERB", value_delimiter = ',', required = true)]
        may: Vec<Verb>,
        /// Who is to have it: a name for lists and the audit log
        #[arg(long, value_name = "NAME")]
        owner: String,
        /// How long it holds, at most a year
        #[arg(long = "for", value_name = "TIME", default_value = "30d", value_parser = humantime::parse_duration)]
        lasts: Duration,
    },
    /// List the tokens that hold
    Ls,
    /// Have a token hold no more, at once
    Revoke {
        /// Its id, as `quorate token ls` shows it
        token: String,
    },
}
