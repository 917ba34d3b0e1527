//! `bench idle`: processor time and memory of nodes that do nothing, and whether anything happens among them that
//! should not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use quorate_api::{BenchForm, NodeInfo, QuorumDetail};
use quorate_protocols::quorum::limits::VOTERS_DEFAULT;
use quorate_testnet::Testnet;
use quorate_testnet::measure::cpu_seconds;
use quorate_testnet::process::rss_bytes;

use crate::error::BenchError;
use crate::report::{IdleNode, IdleRow};

/// Quorums formed at once. Each takes a few syncs on three nodes.
const FORMING_MAX: usize = 4;

/// What is measured.
#[derive(Clone, Debug)]
pub struct IdlePlan {
    /// Per node: so many are formed first that every node is a voter of about as many.
    pub quorums: u32,
    pub window: Duration,
}

pub async fn idle(testnet: &Testnet, plan: &IdlePlan) -> Result<IdleRow, BenchError> {
    if plan.window.is_zero() {
        return Err(BenchError::Plan("--seconds must be at least 1".to_owned()));
    }
    let indices = testnet.indices();
    let formed = (plan.quorums as usize * indices.len()).div_ceil(VOTERS_DEFAULT);
    stream::iter(0..formed)
        .map(|number| {
            let index = indices[number % indices.len()];
            async move {
                let request = BenchForm { voters: VOTERS_DEFAULT as u32 };
                let _: QuorumDetail = testnet.client(index)?.post("/v1/bench/form", &request).await?;
                Ok::<_, BenchError>(())
            }
        })
        .buffer_unordered(FORMING_MAX)
        .try_collect::<()>()
        .await?;
    let before = measure_nodes(testnet).await?;
    let began = Instant::now();
    tokio::time::sleep(plan.window).await;
    let window_s = began.elapsed().as_secs_f64();
    let after = measure_nodes(testnet).await?;
    let mut nodes = Vec::new();
    for (index, now) in &after {
        // A node that was restarted in between would count from nothing.
        let Some(then) = before.get(index).filter(|then| then.pid == now.pid) else {
            return Err(BenchError::Restarted { index: *index });
        };
        nodes.push(IdleNode {
            index: *index,
            peer: now.info.peer,
            cpu_s: now.cpu_s - then.cpu_s,
            rss_bytes: now.rss_bytes,
            quorums: now.info.quorums,
        });
    }
    Ok(IdleRow {
        window_s,
        quorums_formed: formed as u32,
        cores_total: nodes.iter().map(|node| node.cpu_s).sum::<f64>() / window_s,
        rss_bytes_max: nodes.iter().map(|node| node.rss_bytes).max().unwrap_or(0),
        term_changes: term_changes(&terms(&before), &terms(&after)),
        nodes,
    })
}

struct Sample {
    pid: u32,
    cpu_s: f64,
    rss_bytes: u64,
    info: NodeInfo,
    terms: BTreeMap<String, u64>,
}

async fn measure_nodes(testnet: &Testnet) -> Result<BTreeMap<usize, Sample>, BenchError> {
    let mut samples = BTreeMap::new();
    for node in testnet.status() {
        let Some(pid) = node.pid else { continue };
        let client = testnet.client(node.index)?;
        let (info, metrics): (NodeInfo, String) = (client.get("/v1/node").await?, client.text("/metrics").await?);
        let gone = BenchError::Restarted { index: node.index };
        let Some((cpu_s, rss_bytes)) = cpu_seconds(pid).zip(rss_bytes(pid)) else { return Err(gone) };
        samples.insert(node.index, Sample { pid, cpu_s, rss_bytes, info, terms: parse_terms(&metrics) });
    }
    Ok(samples)
}

/// The term of each quorum, from the text of `/metrics`.
fn parse_terms(metrics: &str) -> BTreeMap<String, u64> {
    metrics
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix("quorate_quorum_term{quorum=\"")?;
            let (quorum, value) = rest.split_once("\"} ")?;
            Some((quorum.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// The newest term that any node knows of each quorum.
fn terms(samples: &BTreeMap<usize, Sample>) -> BTreeMap<String, u64> {
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for (quorum, term) in samples.values().flat_map(|sample| &sample.terms) {
        let known = newest.entry(quorum.clone()).or_default();
        *known = (*known).max(*term);
    }
    newest
}

fn term_changes(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> u64 {
    after.iter().map(|(quorum, term)| term.saturating_sub(*before.get(quorum).unwrap_or(term))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elections_are_counted_from_the_terms_in_the_metrics() {
        let text = "# TYPE quorate_quorum_term gauge\nquorate_quorum_term{quorum=\"aa\"} 3\nquorate_quorum_term{quorum=\"bb\"} 1\n# EOF\n";
        let before = parse_terms(text);
        assert_eq!(before.len(), 2);
        let after = parse_terms(&text.replace("} 3", "} 5"));
        assert_eq!(term_changes(&before, &after), 2);
        assert_eq!(term_changes(&before, &before), 0);
    }
}
