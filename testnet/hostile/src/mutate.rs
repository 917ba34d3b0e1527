//! A run of mutations: samples of every message of every protocol, changed by seed and sent to a live testnet for as
//! long as asked.
//!
//! The samples are the fixtures of the wire's own tests. Ids in them are of nothing that exists, so in half of them the
//! quorum's and the object's are put in: what is decoded then meets state. An identity that a node has shut out makes
//! room for a fresh one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::AsyncWriteExt;
use quorate_protocols::ids::PeerId;
use quorate_testnet::mutate::{Random, Style, mutate};

use crate::arena::{Arena, Fault, Outcome};
use crate::client::frame::{Frame, Half};
use crate::client::parts;
use crate::client::{Client, Lane, TOPIC_JOBS, TOPIC_PEERS, TOPIC_QUORUMS, kad};

/// Identities at once.
const IDENTITIES: usize = 6;

/// Questions whose answer is not waited for longer than this.
const PATIENCE: Duration = Duration::from_millis(500);

/// The quorum of the samples.
const SAMPLE_QUORUM: [u8; 16] = [0x11; 16];

/// Messages end well below this; longer inputs are cut.
const BYTES_MAX: usize = 64 << 10;

/// Where an input goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Ask(Lane),
    Announce(&'static str),
    HashTable,
}

struct Sample {
    way: Way,
    bytes: Vec<u8>,
}

/// The fixtures of the wire, by where each travels.
fn samples() -> Vec<Sample> {
    const FILES: [(&str, &str, Way); 9] = [
        (include_str!("../../../protocols/tests/fixtures/approval.txt"), "message", Way::Ask(Lane::Approval)),
        (include_str!("../../../protocols/tests/fixtures/liveness.txt"), "message", Way::Ask(Lane::Liveness)),
        (include_str!("../../../protocols/tests/fixtures/job.txt"), "message", Way::Ask(Lane::Job)),
        (include_str!("../../../protocols/tests/fixtures/piece.txt"), "message", Way::Ask(Lane::Piece)),
        (include_str!("../../../protocols/tests/fixtures/task.txt"), "message", Way::Ask(Lane::Task)),
        (include_str!("../../../protocols/tests/fixtures/quorum.txt"), "raft-message", Way::Ask(Lane::Raft)),
        (include_str!("../../../protocols/tests/fixtures/directory.txt"), "peer", Way::Announce(TOPIC_PEERS)),
        (include_str!("../../../protocols/tests/fixtures/directory.txt"), "quorum", Way::Announce(TOPIC_QUORUMS)),
        (include_str!("../../../protocols/tests/fixtures/directory.txt"), "job", Way::Announce(TOPIC_JOBS)),
    ];
    let mut samples = Vec::new();
    for (text, kind, way) in FILES {
        for (name, digits) in text.lines().filter_map(|line| line.split_once(' ')) {
            if name.split('.').next() == Some(kind) {
                let bytes = hex::decode(digits.trim()).expect("a fixture is hexadecimal");
                samples.push(Sample { way, bytes });
            }
        }
    }
    let address = "/ip4/10.1.2.3/tcp/9".parse().expect("an address");
    let record = kad::add_provider(&SAMPLE_QUORUM, PeerId([7; 32]), &[address]);
    samples.push(Sample { way: Way::HashTable, bytes: record });
    samples.push(Sample { way: Way::HashTable, bytes: kad::put_value(&SAMPLE_QUORUM, b"value") });
    samples
}

fn put_in(bytes: &mut [u8], from: &[u8; 16], to: &[u8; 16]) {
    let mut at = 0;
    while let Some(window) = bytes.get_mut(at..at + 16) {
        let found = window == from;
        if found {
            window.copy_from_slice(to);
        }
        at += if found { 16 } else { 1 };
    }
}

async fn send(client: &Client, peer: PeerId, way: Way, bytes: Vec<u8>, random: &mut Random) {
    // Whatever the node makes of it; the arena is judged at the end.
    match way {
        Way::Ask(lane) if random.below(16) == 0 => {
            if let Ok(mut stream) = client.open(peer, lane.name()).await {
                let head = [bytes.len() as u32, 1 << random.below(32)][random.below(2)];
                let payload = 1 << random.below(32);
                let half = Half { id: 0, patience: PATIENCE, head, payload, bytes: bytes.into() };
                let _ = half.write(&mut stream, lane).await;
            }
        }
        // Parts of any kind, of few messages, in any order.
        Way::Ask(lane) if lane.is_shared() && random.below(16) == 0 => {
            if let Ok(mut stream) = client.open(peer, lane.name()).await {
                for piece in bytes.chunks(1 + random.below(64)) {
                    let part = parts::part(random.below(6) as u8, random.below(4) as u64, piece);
                    let _ = stream.write_all(&part).await;
                }
                let _ = stream.flush().await;
            }
        }
        Way::Ask(lane) => {
            let payload = match lane {
                Lane::Piece | Lane::Raft if random.below(2) == 0 => Bytes::from(vec![7; random.below(100_000)]),
                _ => Bytes::new(),
            };
            let _ = client.ask(peer, lane, Frame { head: bytes.into(), payload }, PATIENCE).await;
        }
        Way::Announce(topic) => drop(client.publish(topic, bytes).await),
        Way::HashTable => drop(client.write_kad(peer, &bytes).await),
    }
}

/// Sends mutations for as long as asked beside an honest load, and holds the network to the common bounds.
pub async fn run(binary: &Path, seed: u64, lasts: Duration) -> Result<Outcome, Fault> {
    let mut arena = Arena::up(binary, seed, |_| ()).await?;
    arena.start_load()?;
    let (samples, peers) = (Arc::new(samples()), arena.peers());
    let quorum = arena.quorum;
    let sent = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + lasts;
    let mut identities = 0;
    while Instant::now() < until {
        let mut round = tokio::task::JoinSet::new();
        for _ in 0..IDENTITIES {
            let client = arena.stranger().await?;
            identities += 1;
            let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(identities));
            let (samples, peers, sent) = (Arc::clone(&samples), peers.clone(), Arc::clone(&sent));
            round.spawn(async move {
                while Instant::now() < until {
                    let peer = peers[random.below(peers.len())];
                    if !client.is_connected(peer) {
                        // Shut out: a fresh identity goes on.
                        return;
                    }
                    let (one, other) = (random.below(samples.len()), random.below(samples.len()));
                    let Sample { way, bytes } = &samples[one];
                    let mut bytes = bytes.clone();
                    if random.below(2) == 0 {
                        put_in(&mut bytes, &SAMPLE_QUORUM, &quorum.0);
                    }
                    let style = Style { grain: 1, words: &[], bytes_max: BYTES_MAX };
                    let changed = mutate(&mut random, style, &bytes, &samples[other].bytes);
                    send(&client, peer, *way, changed, &mut random).await;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while let Some(joined) = round.join_next().await {
            joined?;
        }
    }
    arena.note_text(format!("{} mutations by {identities} identities", sent.load(Ordering::Relaxed)));
    Ok(arena.judge().await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_and_topic_has_samples() {
        let samples = samples();
        for lane in Lane::ALL {
            let of_lane = samples.iter().filter(|sample| matches!(sample.way, Way::Ask(other) if other == lane));
            assert!(of_lane.count() >= 3, "{lane:?}");
        }
        for topic in [TOPIC_PEERS, TOPIC_QUORUMS, TOPIC_JOBS] {
            assert!(samples.iter().any(|sample| matches!(sample.way, Way::Announce(other) if other == topic)));
        }
    }

    #[test]
    fn ids_are_put_in_wherever_they_stand() {
        let mut bytes = [&[9][..], &[0x11; 32], &[9; 3]].concat();
        put_in(&mut bytes, &SAMPLE_QUORUM, &[5; 16]);
        assert_eq!(bytes, [&[9][..], &[5; 32], &[9; 3]].concat());
    }
}
