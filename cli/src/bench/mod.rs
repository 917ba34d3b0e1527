//! Measurements against a running testnet, through the same HTTP API that everyone uses.
//!
//! `put` and `get` set what the network reaches against a bound measured in the same run: one process on all cores
//! that does the unavoidable work (read, hash, encode, encrypt, write) with the same crates and piece sizes, and no
//! network ([`quorate_bound`]). `commit` measures the primary of one quorum, `jobs` and `map` what its jobs that
//! compute cost, `triggers` how late what a clock fires is, `failover` kills it, `idle` watches processes.
//!
//! Figures go to stdout (with `--json`, as [`report`] and the API have them), progress to stderr. Nothing here judges:
//! what is fast enough is said elsewhere.

mod commit;
mod failover;
mod idle;
mod jobs;
mod map;
mod report;
mod transfer;
mod triggers;

use std::time::Duration;

use quorate_api::{BenchForm, NodeInfo, QuorumDetail, QuorumInfo};
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_protocols::quorum::limits::VOTERS_DEFAULT;
use quorate_testnet::measure::{cpu_seconds, own_cpu};
use quorate_testnet::{Client, Testnet};

use crate::{BenchCommand, Common, Failure, print_to_stderr, resolve_testnet};

pub async fn run(common: &Common, command: BenchCommand) -> Result<(), Failure> {
    let testnet = Testnet::open(&resolve_testnet(common))?;
    if asks_of_testing(&command) && !testnet.layout().testing {
        return Err(Failure::failed("this testnet's nodes were started without --testing, and take no measurements")
            .hint("start the testnet without --plain: `quorate testnet down`, then `quorate testnet up`"));
    }
    match command {
        BenchCommand::Put(args) => transfer::put(common, &testnet, &args).await,
        BenchCommand::Get(args) => transfer::get(common, &testnet, &args).await,
        BenchCommand::Commit { outstanding, time } => commit::run(common, &testnet, &outstanding, time).await,
        BenchCommand::Jobs { outstanding, time } => jobs::run(common, &testnet, &outstanding, time).await,
        BenchCommand::Map { tasks, runs } => map::run(common, &testnet, tasks, runs).await,
        BenchCommand::Triggers { count, fires } => triggers::run(common, &testnet, count, fires).await,
        BenchCommand::Failover { kills } => failover::run(common, &testnet, kills).await,
        BenchCommand::Idle { quorums, seconds } => {
            idle::run(common, &testnet, quorums, Duration::from_secs(seconds)).await
        }
    }
}

/// Whether it needs routes that only nodes started with `--testing` have.
fn asks_of_testing(command: &BenchCommand) -> bool {
    match command {
        BenchCommand::Commit { .. }
        | BenchCommand::Jobs { .. }
        | BenchCommand::Triggers { .. }
        | BenchCommand::Failover { .. } => true,
        // A quorum to begin with is formed through them.
        BenchCommand::Map { .. } => true,
        BenchCommand::Idle { quorums, .. } => *quorums > 0,
        BenchCommand::Put(_) | BenchCommand::Get(_) => false,
    }
}

/// CPU seconds of this process and of all nodes together.
pub fn cpu_of_all(testnet: &Testnet) -> f64 {
    let nodes = testnet.status().into_iter().filter_map(|node| cpu_seconds(node.pid?)).sum::<f64>();
    nodes + own_cpu()
}

/// The middle of the values; 0 of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (length, middle) if length % 2 == 1 => sorted[middle],
        (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The node that a measurement goes through: `--node`, else the testnet's first.
fn entry(common: &Common, testnet: &Testnet) -> Result<usize, Failure> {
    use crate::NodeChoice;
    let index = match &common.node {
        Some(NodeChoice::Index(index)) => *index,
        Some(NodeChoice::Url(_)) => return Err(Failure::usage("a testnet is measured: give --node its number")),
        None => 1,
    };
    testnet.layout().node(index)?;
    Ok(index)
}

/// A quorum to measure: one that there is, else a new one.
async fn some_quorum(testnet: &Testnet, asked: usize) -> Result<QuorumId, Failure> {
    let client = testnet.client(asked)?;
    let quorums: Vec<QuorumInfo> = client.list("/v1/quorums").await?.items;
    if let Some(row) = quorums.iter().find(|row| row.paused.is_none() && row.primary.is_some()) {
        return Ok(row.quorum);
    }
    let formed: QuorumDetail = client.post("/v1/bench/form", &BenchForm { voters: VOTERS_DEFAULT as u32 }).await?;
    Ok(formed.info.quorum)
}

/// The node through which a quorum is measured: its primary, where no other node's queue is measured along, or that of
/// `--node`.
async fn at_primary(common: &Common, testnet: &Testnet) -> Result<(QuorumId, Client), Failure> {
    let asked = entry(common, testnet)?;
    let quorum = some_quorum(testnet, asked).await?;
    let detail: QuorumDetail = testnet.client(asked)?.get(&format!("/v1/quorums/{quorum}")).await?;
    let node = match (&common.node, detail.info.primary) {
        (None, Some(primary)) => index_of(testnet, primary)?,
        _ => asked,
    };
    Ok((quorum, testnet.client(node)?))
}

/// The node through which something is measured that only a member hears the end of: as [`at_primary`], but of a node
/// that is no member its quorum's primary takes the place.
async fn at_member(common: &Common, testnet: &Testnet) -> Result<(QuorumId, Client), Failure> {
    let (quorum, client) = at_primary(common, testnet).await?;
    let node: NodeInfo = client.get("/v1/node").await?;
    let detail: QuorumDetail = client.get(&format!("/v1/quorums/{quorum}")).await?;
    if detail.info.members.contains(&node.peer) {
        return Ok((quorum, client));
    }
    let Some(member) = detail.info.primary.or(detail.info.members.first().copied()) else {
        return Err(Failure::failed(format!("quorum {quorum} names no members"))
            .hint(format!("`quorate quorum show {quorum}` says what is known of it")));
    };
    let (asked, index) = (index_of(testnet, node.peer)?, index_of(testnet, member)?);
    print_to_stderr(format!(
        "node {asked} is no member of quorum {quorum}, and so hears of no end: measuring through node {index}"
    ));
    Ok((quorum, testnet.client(index)?))
}

fn index_of(testnet: &Testnet, peer: PeerId) -> Result<usize, Failure> {
    testnet.index_of(peer).ok_or_else(|| Failure::failed(format!("{peer} is not a node of this testnet")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_few_samples() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
