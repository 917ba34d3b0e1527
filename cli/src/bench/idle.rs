//! `bench idle`: what nodes cost that do nothing, and whether anything happens among them that should not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use quorate_api::{BenchForm, NodeInfo, QuorumDetail};
use quorate_protocols::quorum::limits::VOTERS_DEFAULT;
use quorate_testnet::Testnet;
use quorate_testnet::measure::cpu_seconds;
use quorate_testnet::process::rss_bytes;

use crate::bench::report::{BenchNode, IdleBench};
use crate::{Common, Failure, print, print_json, table};

/// Quorums formed at once. Each takes a few syncs on three nodes.
const FORMING_MAX: usize = 4;

/// `quorums` is per node: that many are formed that every node is a voter of about as many.
pub async fn run(common: &Common, testnet: &Testnet, quorums: u32, window: Duration) -> Result<(), Failure> {
    if window.is_zero() {
        return Err(Failure::usage("--seconds must be at least 1"));
    }
    let indices = testnet.indices();
    let formed = (quorums as usize * indices.len()).div_ceil(VOTERS_DEFAULT);
    stream::iter(0..formed)
        .map(|number| {
            let index = indices[number % indices.len()];
            async move {
                let request = BenchForm { voters: VOTERS_DEFAULT as u32 };
                let _: QuorumDetail = testnet.client(index)?.post("/v1/bench/form", &request).await?;
                Ok::<_, Failure>(())
            }
        })
        .buffer_unordered(FORMING_MAX)
        .try_collect::<()>()
        .await?;
    let before = measure_nodes(testnet).await?;
    let began = Instant::now();
    tokio::time::sleep(window).await;
    let window_s = began.elapsed().as_secs_f64();
    let after = measure_nodes(testnet).await?;
    let mut nodes = Vec::new();
    for (index, now) in &after {
        // A node that was restarted in between would count from nothing.
        let Some(then) = before.get(index).filter(|then| then.pid == now.pid) else {
            return Err(Failure::failed(format!("node {index} did not run through the whole window")));
        };
        nodes.push(BenchNode {
            index: *index,
            peer: Some(now.info.peer),
            cpu_s: now.cpu_s - then.cpu_s,
            rss_bytes: now.rss_bytes,
            quorums: now.info.quorums,
        });
    }
    let result = IdleBench {
        window_s,
        quorums_formed: formed as u32,
        cores_total: nodes.iter().map(|node| node.cpu_s).sum::<f64>() / window_s,
        rss_bytes_max: nodes.iter().map(|node| node.rss_bytes).max().unwrap_or(0),
        term_changes: term_changes(&terms(&before), &terms(&after)),
        nodes,
    };
    if common.json {
        return print_json(&result);
    }
    let rows = result.nodes.iter().map(|node| {
        vec![
            node.index.to_string(),
            format!("{:.2} %", node.cpu_s / window_s * 100.0),
            format!("{:.1} MiB", node.rss_bytes as f64 / f64::from(1 << 20)),
            node.quorums.to_string(),
        ]
    });
    print(table(&["node", "of a core", "memory", "quorums"], rows).below(format!(
        "all together {:.3} of one core over {window_s:.0} s; {} elections",
        result.cores_total, result.term_changes
    )))
}

struct Sample {
    pid: u32,
    cpu_s: f64,
    rss_bytes: u64,
    info: NodeInfo,
    terms: BTreeMap<String, u64>,
}

async fn measure_nodes(testnet: &Testnet) -> Result<BTreeMap<usize, Sample>, Failure> {
    let mut samples = BTreeMap::new();
    for node in testnet.status() {
        let Some(pid) = node.pid else { continue };
        let client = testnet.client(node.index)?;
        let (info, metrics): (NodeInfo, String) = (client.get("/v1/node").await?, client.text("/metrics").await?);
        let gone = || Failure::failed(format!("node {} ended while it was watched", node.index));
        let cpu_s = cpu_seconds(pid).ok_or_else(gone)?;
        let rss_bytes = rss_bytes(pid).ok_or_else(gone)?;
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
