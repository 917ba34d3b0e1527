//! SIGKILL of real nodes while files go in: what was acknowledged reads back, and what was interrupted goes on.

mod support;

use std::collections::BTreeMap;

use futures::StreamExt;
use serde_json::Value;
use support::{Net, content};

const MIB: usize = 1024 * 1024;

/// Kills in all, and in each phase of a put at the least.
const KILLS: usize = 50;
const KILLS_PER_PHASE: usize = 5;
const PHASES: [&str; 4] = ["approval", "sending", "receipts", "commit"];

/// A phase can be over before its line is read; so many puts are tried at the most before the test gives up.
const PUTS_MAX: usize = 250;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Primary,
    Holder,
    Entry,
}

/// How a put ended, as its client saw it.
enum End {
    Stored {
        object: String,
        skipped: u64,
    },
    Refused(String),
    /// The stream ended without a last line: nobody knows.
    Unknown,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stored { .. } => f.write_str("stored"),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
            Self::Unknown => f.write_str("cut off"),
        }
    }
}

struct Attempt {
    end: End,
    /// The phase that was last seen when a node was killed, and which.
    killed: Option<(String, usize)>,
}

/// Goal: every acknowledged object reads back whatever is killed when. Method: put after put, each of other content;
/// when the wanted phase shows, kill the primary of the run's quorum, a holder, or the entry node itself, in turn;
/// restart it; a put whose entry node died is put again there and must then succeed. In the end, read everything.
#[test]
fn nothing_acknowledged_is_lost_over_fifty_kills() {
    let net = Net::up(7);
    let mut kills: BTreeMap<&str, usize> = PHASES.iter().map(|phase| (*phase, 0)).collect();
    let mut by_victim: BTreeMap<Victim, usize> = BTreeMap::new();
    let mut stored: Vec<(u64, usize, String)> = Vec::new();
    let (mut resumed, mut unknown, mut refused) = (0, 0, Vec::new());

    for round in 0..PUTS_MAX {
        let total: usize = kills.values().sum();
        if total >= KILLS && kills.values().all(|count| *count >= KILLS_PER_PHASE) {
            break;
        }
        // The phase that was hit least so far is wanted next.
        let wanted = *PHASES.iter().min_by_key(|phase| kills[*phase]).expect("there are phases");
        let victim = [Victim::Primary, Victim::Holder, Victim::Entry][round % 3];
        let entry = 1 + round % 7;
        let seed = 1000 + round as u64;
        let bytes = 17 * MIB + round;
        let attempt = put(&net, entry, seed, bytes, Some((wanted, victim)));
        if let Some((phase, node)) = &attempt.killed {
            *kills.get_mut(phase.as_str()).expect("a phase of a put") += 1;
            *by_victim.entry(victim).or_default() += 1;
            net.restart(*node);
        }
        println!("round {round}: {victim:?} in {wanted} through {entry}: killed {:?}, {}", attempt.killed, attempt.end);
        match attempt.end {
            End::Stored { object, .. } => stored.push((seed, bytes, object)),
            End::Refused(reason) => refused.push(format!("round {round}, {wanted}, {victim:?}: {reason}")),
            End::Unknown => {
                unknown += 1;
                // The same file again on the restarted node: now it must be stored.
                match put(&net, entry, seed, bytes, None).end {
                    End::Stored { object, skipped } => {
                        resumed += usize::from(skipped > 0);
                        stored.push((seed, bytes, object));
                    }
                    End::Refused(reason) => panic!("round {round}: putting again failed: {reason}"),
                    End::Unknown => panic!("round {round}: putting again was cut off, though nothing was killed"),
                }
            }
        }
    }

    println!(
        "kills by phase {kills:?}, by victim {by_victim:?}; {} stored, {unknown} cut off, {resumed} resumed",
        stored.len()
    );
    assert!(kills.values().sum::<usize>() >= KILLS, "{kills:?}");
    assert!(kills.values().all(|count| *count >= KILLS_PER_PHASE), "{kills:?}");
    assert!(refused.is_empty(), "one node of seven is never enough to refuse a put: {refused:#?}");
    assert!(resumed > 0, "no interrupted put had anything to go on with: the kills came too early to prove resumption");
    for (position, (seed, bytes, object)) in stored.iter().enumerate() {
        let read = net.read(1 + position % 7, object);
        assert!(read == content(*bytes, *seed), "object {object} (seed {seed}) differs after the kills");
    }
}

fn put(net: &Net, entry: usize, seed: u64, bytes: usize, plan: Option<(&str, Victim)>) -> Attempt {
    let client = net.client(entry);
    let path = format!("/v1/objects?name=kill-{seed}&bytes={bytes}&fingerprint=kill-{seed}");
    let data = content(bytes, seed);
    let request = client.request(reqwest::Method::POST, &path).header("accept", "application/x-ndjson").body(data);
    let mut killed = None;
    let end = net.runtime.block_on(async {
        let mut lines = match client.lines(request).await {
            Ok(lines) => Box::pin(lines),
            Err(error) if plan.is_none() => return End::Refused(error.to_string()),
            Err(_) => return End::Unknown,
        };
        while let Some(line) = lines.next().await {
            let Ok(line) = line else { return End::Unknown };
            if let Some(done) = line.get("done") {
                let object = done["object"].as_str().expect("a reference").to_owned();
                return End::Stored { object, skipped: done["pieces_skipped"].as_u64().unwrap_or(0) };
            }
            if let Some(error) = line.get("error") {
                return End::Refused(error["message"].as_str().unwrap_or("?").to_owned());
            }
            let progress = &line["progress"];
            let phase = progress["phase"].as_str().expect("a phase");
            if let Some((wanted, victim)) = plan
                && killed.is_none()
                && phase == wanted
                && (phase != "sending" || progress["pieces_sent"].as_u64() > Some(0))
                && let Some(node) = choose(net, entry, victim, progress["job"].as_str()).await
            {
                net.testnet.kill(node).expect("a running node can be killed");
                killed = Some((phase.to_owned(), node));
            }
        }
        End::Unknown
    });
    Attempt { end, killed }
}

/// The node to kill; never the entry node unless it is the one meant.
async fn choose(net: &Net, entry: usize, victim: Victim, job: Option<&str>) -> Option<usize> {
    if victim == Victim::Entry {
        return Some(entry);
    }
    let job: Value = net.client(entry).get(&format!("/v1/jobs/{}", job?)).await.ok()?;
    let index = |peer: &Value| net.testnet.index_of(peer.as_str()?.parse().ok()?);
    match victim {
        Victim::Primary => index(&job["primary"]).filter(|node| *node != entry),
        _ => job["store"]["columns"]
            .as_array()?
            .iter()
            .filter_map(|column| index(&column["holder"]))
            .find(|node| *node != entry && Some(*node) != index(&job["primary"]))
            // Before holders are chosen any other node may become one.
            .or(Some(1 + entry % 7)),
    }
}
