//! `bench failover`: how long a quorum is without a primary after SIGKILL, as a client of another node sees it.
//!
//! The client's node is no member of the quorum when there is one that is none: it hears of the new primary only by
//! asking, which is what most clients of a larger network meet. A member that takes part in the election knows sooner.

use std::time::{Duration, Instant};

use quorate_api::{BenchCommit, CommitBench, QuorumDetail, percentile};
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_testnet::{Client, Testnet};

use super::{entry, index_of, some_quorum};
use crate::bench::report::FailoverBench;
use crate::{Common, Failure, print, print_json, print_to_stderr};

/// How long the quorum may take to be whole again between two kills.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(25);

pub async fn run(common: &Common, testnet: &Testnet, kills: u32) -> Result<(), Failure> {
    if kills == 0 {
        return Err(Failure::usage("--kills must be at least 1"));
    }
    let quorum = some_quorum(testnet, entry(common, testnet)?).await?;
    let (mut samples, mut from_outside) = (Vec::new(), 0);
    for kill in 1..=kills {
        let Roles { primary, watcher, outside } = roles(testnet, quorum).await?;
        from_outside += u32::from(outside);
        let client = testnet.client(watcher)?;
        // The client knows its way, as one that is at work does.
        commit(&client, quorum).await?;
        let began = Instant::now();
        tokio::task::block_in_place(|| testnet.kill(primary))?;
        commit(&client, quorum).await?;
        let took = began.elapsed();
        let place = if outside { "outside" } else { "a member" };
        let ms = took.as_secs_f64() * 1000.0;
        print_to_stderr(format!("kill {kill}/{kills}: node {primary}, {ms:.0} ms seen from node {watcher} ({place})"));
        samples.push(took);
        testnet.restart(primary).await?;
        wait_whole(testnet, quorum, primary, &client).await?;
    }
    let ms = |took: Duration| took.as_secs_f64() * 1000.0;
    let samples_ms = samples.iter().copied().map(ms).collect();
    samples.sort_unstable();
    let at = |share| percentile(&samples, share).map_or(0.0, ms);
    let result = FailoverBench { kills, p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0), samples_ms, from_outside };
    match common.json {
        true => print_json(&result),
        false => print(format!(
            "{kills} kills, {from_outside} of them seen from outside the quorum: median {:.0} ms, p99 {:.0} ms, worst {:.0} \
             ms to the next committed command",
            result.p50_ms, result.p99_ms, result.max_ms
        )),
    }
}

async fn commit(client: &Client, quorum: QuorumId) -> Result<(), Failure> {
    let request = BenchCommit { quorum, count: 1, outstanding: 1 };
    let _: CommitBench = client.post("/v1/bench/noop", &request).await?;
    Ok(())
}

/// Which nodes play which part in one kill.
struct Roles {
    primary: usize,
    watcher: usize,
    /// Whether the watcher is no member of the quorum.
    outside: bool,
}

/// The primary's node, and another one to watch from: one that is no member if there is one.
async fn roles(testnet: &Testnet, quorum: QuorumId) -> Result<Roles, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut member = None;
        for index in testnet.indices() {
            let Ok(client) = testnet.client(index) else { continue };
            let Ok(detail) = client.get::<QuorumDetail>(&format!("/v1/quorums/{quorum}")).await else { continue };
            let Some(primary) = detail.info.primary else { continue };
            let primary = index_of(testnet, primary)?;
            if primary == index || detail.info.paused.is_some() {
                continue;
            }
            let is_member = |peer: &PeerId| testnet.index_of(*peer) == Some(index);
            let outside = !detail.info.members.iter().any(is_member);
            let roles = Roles { primary, watcher: index, outside };
            match outside {
                true => return Ok(roles),
                false => drop(member.get_or_insert(roles)),
            }
        }
        if let Some(roles) = member {
            return Ok(roles);
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
