//! `bench failover`: how long a quorum is without a primary after SIGKILL, as a client of another node sees it.

use std::time::{Duration, Instant};

use quorate_protocols::api::{BenchCommit, CommitBench, FailoverBench, QuorumDetail};
use quorate_protocols::ids::QuorumId;
use quorate_testnet::{Client, Testnet};

use super::{entry, index_of, percentile, some_quorum};
use crate::cli::{Common, Failure, print, print_json};

/// How long the quorum may take to be whole again between two kills.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(25);

pub async fn run(common: &Common, testnet: &Testnet, kills: u32) -> Result<(), Failure> {
    if kills == 0 {
        return Err(Failure::usage("--kills must be at least 1"));
    }
    let quorum = some_quorum(testnet, entry(common, testnet)?).await?;
    let mut samples = Vec::new();
    for kill in 1..=kills {
        let (primary, watcher) = roles(testnet, quorum).await?;
        let client = testnet.client(watcher)?;
        // The client knows its way, as one that is at work does.
        commit(&client, quorum).await?;
        let began = Instant::now();
        tokio::task::block_in_place(|| testnet.kill(primary))?;
        commit(&client, quorum).await?;
        let took = began.elapsed();
        eprintln!("kill {kill}/{kills}: node {primary}, {:.0} ms", took.as_secs_f64() * 1000.0);
        samples.push(took);
        testnet.restart(primary).await?;
        wait_whole(testnet, quorum, primary, &client).await?;
    }
    let ms = |took: Duration| took.as_secs_f64() * 1000.0;
    let samples_ms = samples.iter().copied().map(ms).collect();
    samples.sort_unstable();
    let at = |share| percentile(&samples, share).map_or(0.0, ms);
    let result = FailoverBench { kills, p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0), samples_ms };
    match common.json {
        true => print_json(&result),
        false => print(format!(
            "{kills} kills: median {:.0} ms, p99 {:.0} ms, worst {:.0} ms to the next committed command",
            result.p50_ms, result.p99_ms, result.max_ms
        )),
    }
}

async fn commit(client: &Client, quorum: QuorumId) -> Result<(), Failure> {
    let request = BenchCommit { quorum, count: 1, outstanding: 1 };
    let _: CommitBench = client.post("/v1/bench/noop", &request).await?;
    Ok(())
}

/// The primary's node, and another one to watch from.
async fn roles(testnet: &Testnet, quorum: QuorumId) -> Result<(usize, usize), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for index in testnet.indices() {
            let Ok(client) = testnet.client(index) else { continue };
            let Ok(detail) = client.get::<QuorumDetail>(&format!("/v1/quorums/{quorum}")).await else { continue };
            let Some(primary) = detail.info.primary else { continue };
            let primary = index_of(testnet, primary)?;
            if primary != index && detail.info.paused.is_none() {
                return Ok((primary, index));
            }
        }
        if Instant::now() > deadline {
            return Err(Failure::failed(format!("quorum {quorum} has no primary after {PATIENCE:?}")));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the restarted member has applied what the others have committed: the next kill must not find the
/// quorum short of a member.
async fn wait_whole(testnet: &Testnet, quorum: QuorumId, restarted: usize, other: &Client) -> Result<(), Failure> {
    let path = format!("/v1/quorums/{quorum}");
    let deadline = Instant::now() + PATIENCE;
    let wanted: QuorumDetail = other.get(&path).await?;
    loop {
        let own: Result<QuorumDetail, _> = testnet.client(restarted)?.get(&path).await;
        if let Ok(own) = own
            && own.applied >= wanted.committed
            && own.info.primary.is_some()
            && own.info.paused.is_none()
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::failed(format!("node {restarted} has not caught up after {PATIENCE:?}"))
                .hint(format!("its log is {}", testnet.log_file(restarted).display())));
        }
        tokio::time::sleep(POLL).await;
    }
}
