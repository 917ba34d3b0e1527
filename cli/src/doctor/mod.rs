//! `doctor`: gathers what nodes say over the HTTP API, judges it, prints what is wrong and what to do.

mod judge;
mod report;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use quorate_api::{Listing, MemberView, NodeFaults, NodeInfo, ObjectInfo, PeerInfo, QuorumInfo, ResourcesInfo};
use quorate_protocols::ids::ObjectId;
use quorate_protocols::text;
use quorate_testnet::{Client, ClientError, TestnetNodeState, reservations};

use super::advice;
use super::args::Common;
use super::failure::{Failure, unless_reader_gone};
use super::find::{client_of, whole_testnet};
use super::ids::Ids;
use super::output::{Text, print, print_json};
use crate::doctor::report::Diagnosis;
use judge::{Asked, Facts, QuorumFacts};

/// What one node is given to answer one question.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Leases and reservations are read one after the other; a difference that stays over so many looks is one.
const LEASE_CHECKS: usize = 3;

/// Objects read at once by `--deep`.
const READS: usize = 2;

pub async fn run(common: &Common, deep: bool) -> Result<(), Failure> {
    let facts = gather_facts(common, deep).await?;
    let diagnosis = judge::judge(&facts);
    unless_reader_gone(match common.json {
        true => print_json(&diagnosis),
        false => print(advice::complete(common, &diagnosis_text(&diagnosis, &names(common, &facts)))),
    })?;
    match diagnosis.findings.len() {
        0 => Ok(()),
        count => Err(Failure::failed(text::counted(count, "finding"))),
    }
}

/// `1 digest compared`, `2 digests compared`: the first word is what is counted, in the plural.
fn counted(count: u64, what: &str) -> String {
    let (noun, rest) = what.split_once(' ').map_or((what, String::new()), |(noun, rest)| (noun, format!(" {rest}")));
    text::counted(count, noun.strip_suffix('s').unwrap_or(noun)) + &rest
}

/// What the nodes that were asked call themselves and their peers.
fn names(common: &Common, facts: &Facts) -> Ids {
    facts.asked.iter().fold(Ids::new(common), |ids, asked| {
        ids.with_peers(&asked.peers).with_name(asked.info.peer, asked.info.name.clone())
    })
}

fn diagnosis_text(diagnosis: &Diagnosis, ids: &Ids) -> Text {
    let checked: Vec<String> = diagnosis.checked.iter().map(|(what, count)| counted(*count, what)).collect();
    let mut lines: Vec<String> = Vec::new();
    for finding in &diagnosis.findings {
        let (what, advice) = (ids.sentence(&finding.what), ids.sentence(&finding.advice));
        lines.extend([format!("- {what}"), format!("  {advice}")]);
    }
    let verdict = if diagnosis.healthy { "healthy" } else { "not healthy" };
    lines.push(format!("{verdict}; checked: {}", checked.join(", ")));
    Text::lines(lines)
}

async fn gather_facts(common: &Common, deep: bool) -> Result<Facts, Failure> {
    let mut facts = Facts::default();
    let mut clients: Vec<Client> = Vec::new();
    match whole_testnet(common) {
        Some(testnet) => {
            for node in testnet.status() {
                let name = format!("node {}", node.index);
                if let (TestnetNodeState::Running, Ok(client)) = (node.state, testnet.client(node.index)) {
                    match ask(name.clone(), &client, node.faults).await {
                        Ok(asked) => {
                            facts.asked.push(asked);
                            clients.push(client);
                        }
                        Err(error) => facts.silent.push((name, node.state, Some(node.index), error.to_string())),
                    }
                } else {
                    facts.silent.push((name, node.state, Some(node.index), node.state.to_string()));
                }
            }
            if clients.is_empty() {
                return Err(Failure::no_node(format!("no node of the testnet in {} answers", testnet.dir().display()))
                    .hint("`quorate testnet up` starts one; `quorate testnet restart N` starts one node"));
            }
        }
        None => {
            let client = client_of(common)?;
            let name = format!("the node at {}", client.base());
            facts.asked.push(ask(name, &client, NodeFaults::default()).await?);
            clients.push(client);
        }
    }
    let first = &clients[0];
    let mut quorums: Vec<QuorumInfo> = Vec::new();
    for client in &clients {
        // A quorum that one node has not heard of yet, another is a member of.
        for row in list::<QuorumInfo>(client, "/v1/quorums").await.unwrap_or_default().items {
            if !quorums.iter().any(|known| known.quorum == row.quorum) {
                quorums.push(row);
            }
        }
    }
    for info in quorums {
        let path = format!("/v1/quorums/{}/members", info.quorum);
        let members = list::<MemberView>(first, &path).await.map(|listing| listing.items);
        let members = members.map_err(|error| error.to_string());
        facts.quorums.push(QuorumFacts { info, members });
    }
    match list::<ObjectInfo>(first, "/v1/objects").await {
        Ok(listing) => facts.objects = listing,
        Err(error) => facts.not_checked.push(format!("objects could not be listed: {error}")),
    }
    if deep {
        let objects: Vec<(ObjectId, u64)> = facts.objects.items.iter().map(|row| (row.object, row.bytes)).collect();
        let reads = objects.into_iter().enumerate().map(|(at, (object, bytes))| {
            // Each through another node, so that all of them read.
            let client = clients[at % clients.len()].clone();
            async move { (object, read(&client, object, bytes).await) }
        });
        facts.reads = Some(futures::stream::iter(reads).buffer_unordered(READS).collect().await);
    }
    Ok(facts)
}

async fn get<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T, ClientError> {
    let silent = || ClientError::NoAnswer { url: client.url(path), reason: format!("nothing within {ANSWER_MAX:?}") };
    tokio::time::timeout(ANSWER_MAX, client.get(path)).await.unwrap_or_else(|_| Err(silent()))
}

async fn list<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<Listing<T>, ClientError> {
    let silent = || ClientError::NoAnswer { url: client.url(path), reason: format!("nothing within {ANSWER_MAX:?}") };
    tokio::time::timeout(ANSWER_MAX, client.list(path)).await.unwrap_or_else(|_| Err(silent()))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

async fn ask(name: String, client: &Client, faults: NodeFaults) -> Result<Asked, ClientError> {
    let before = now_ms();
    let info: NodeInfo = get(client, "/v1/node").await?;
    let after = now_ms();
    let peers: Vec<PeerInfo> = list(client, "/v1/peers").await?.items;
    let mut resources: ResourcesInfo = get(client, "/v1/resources").await?;
    for _ in 1..LEASE_CHECKS {
        let (accounts, stays) = reservations::leased(&resources);
        if accounts.iter().zip(&stays).all(|(account, stays)| account.used == *stays) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        resources = get(client, "/v1/resources").await?;
    }
    // A node that was started for testing tells what is broken in it, whoever broke it.
    let faults = match info.testing {
        true => get(client, "/v1/testing/faults").await?,
        false => faults,
    };
    Ok(Asked { name, info, before, after, peers, resources, faults })
}

/// Reads an object whole; what went wrong, if anything did.
async fn read(client: &Client, object: ObjectId, bytes: u64) -> Result<(), String> {
    let request = client.request(reqwest::Method::GET, &format!("/v1/objects/{object}/content"));
    let response = client.send(request).await.map_err(|error| error.to_string())?;
    let mut stream = response.bytes_stream();
    let mut read = 0;
    while let Some(chunk) = stream.next().await {
        read += chunk.map_err(|error| error.to_string())?.len() as u64;
    }
    match read == bytes {
        true => Ok(()),
        false => Err(format!("{read} of {bytes} bytes came")),
    }
}
