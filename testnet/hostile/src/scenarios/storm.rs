//! All at once: many identities, each with what it does best, and a partition in the middle.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_protocols::ids::{Incarnation, LogIndex, MemberId, PeerId, QuorumId, Term};
use quorate_protocols::liveness::message::{LivenessMessage, LogPosition, PreVote};
use quorate_protocols::quorum::request::JobMessage;
use quorate_protocols::quorum::{Command, QuorumCommand};
use quorate_testnet::rng::Rng;

use crate::arena::{Arena, Fault};
use crate::client::frame::{Frame, Half};
use crate::client::{Client, Lane, TOPIC_PEERS};

const IDENTITIES: usize = 20;
const LASTS: Duration = Duration::from_secs(20);

/// Questions of the largest size that one identity sends but for their last byte: 48 MiB in all.
const UNFINISHED_QUESTIONS: usize = 16;

/// Such a question is replaced after this time: its patience, at the end of which a node forgets it.
const UNFINISHED_LASTS: Duration = Duration::from_secs(15);

/// An honest commit takes twice as long at most, or this where that is longer.
const COMMIT_MAX_MS: f64 = 400.0;

/// What each identity goes on doing until the storm is over.
async fn trouble(client: Client, number: usize, peers: Arc<Vec<PeerId>>, quorum: QuorumId, until: Instant, seed: u64) {
    let mut rng = Rng::new(seed, &format!("storm {number}"));
    let (mut streams, mut unfinished, mut next) = (BTreeMap::new(), VecDeque::new(), 0);
    while Instant::now() < until {
        let peer = peers[rng.below(peers.len() as u64) as usize];
        // Whatever becomes of one attack, the next follows.
        match number % 5 {
            0 if unfinished.len() < UNFINISHED_QUESTIONS => {
                let stream = match streams.remove(&peer) {
                    Some(stream) => Ok(stream),
                    None => client.open(peer, Lane::Raft.name()).await,
                };
                if let Ok(mut stream) = stream {
                    next += 1;
                    let half = Half {
                        id: next,
                        patience: UNFINISHED_LASTS,
                        head: Lane::Raft.head_bytes_max() as u32,
                        payload: 0,
                        bytes: vec![0; Lane::Raft.head_bytes_max() - 1].into(),
                    };
                    if half.write(&mut stream, Lane::Raft).await.is_ok() {
                        streams.insert(peer, stream);
                    }
                    unfinished.push_back(Instant::now());
                }
            }
            0 => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                unfinished.pop_front_if(|since| since.elapsed() > UNFINISHED_LASTS);
            }
            1 => {
                let candidate = MemberId { peer: client.peer(), incarnation: Incarnation(1) };
                let last_log = LogPosition { term: Term(u64::MAX), index: LogIndex(u64::MAX) };
                let vote = PreVote { quorum, term: Term(u64::MAX), candidate, missing: None, last_log };
                let _ = client.liveness(peer, &LivenessMessage::PreVote(vote)).await;
            }
            2 => {
                let command = Command::Quorum(QuorumCommand::Noop);
                let _ = client.job(peer, &JobMessage::Propose { quorum, command }).await;
            }
            3 => {
                let mut garbage = vec![0; 200 + rng.below(2_000) as usize];
                rng.fill(&mut garbage);
                let lane = Lane::ALL[rng.below(Lane::ALL.len() as u64) as usize];
                let frame = Frame { head: garbage.into(), payload: Bytes::new() };
                let _ = client.ask(peer, lane, frame, Duration::from_secs(2)).await;
            }
            _ => {
                let mut garbage = vec![0; 100];
                rng.fill(&mut garbage);
                let _ = client.publish(TOPIC_PEERS, garbage).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Twenty identities for twenty seconds; in the middle the primary is cut off for a while. The quorum elects once, and
/// honest commits and a put go on.
pub async fn everything(arena: &mut Arena) -> Result<(), Fault> {
    let quorum = arena.quorum;
    let before = arena.commit(1, quorum, 50).await?;
    let term = arena.view(1, quorum).await?.info.term;
    let peers = Arc::new(arena.peers());
    let until = Instant::now() + LASTS;
    let mut storm = tokio::task::JoinSet::new();
    for number in 0..IDENTITIES {
        let (client, seed) = (arena.stranger().await?, arena.rng.u64());
        storm.spawn(trouble(client, number, Arc::clone(&peers), quorum, until, seed));
    }
    tokio::time::sleep(LASTS / 4).await;
    let during = arena.commit(1, quorum, 50).await?;
    arena.put(2).await?;
    let primary = arena.view(1, quorum).await?.info.primary.and_then(|peer| arena.testnet.index_of(peer));
    let primary = primary.ok_or("the quorum has no primary")?;
    let others: Vec<usize> = arena.testnet.indices().into_iter().filter(|node| *node != primary).collect();
    arena.testnet.partition(&[vec![primary], others.clone()]).await?;
    let entry = others[0];
    let cut = Instant::now();
    let committed =
        Arena::wait(LASTS, || async { arena.commit(entry, quorum, 1).await.ok().filter(|bench| bench.failed == 0) });
    let committed = committed.await;
    arena.require(committed.is_some(), || "nothing commits without the primary that was cut off".to_owned());
    arena.note_text(format!("committed {:?} after the primary was cut off", cut.elapsed()));
    arena.testnet.heal().await?;
    while let Some(joined) = storm.join_next().await {
        joined?;
    }
    let after = arena.view(entry, quorum).await?.info.term;
    arena.require(after.0 <= term.0 + 2, || format!("the term was {term:?} and is {after:?}"));
    let bound = (2.0 * before.p99_ms).max(COMMIT_MAX_MS);
    arena.require(during.p99_ms <= bound, || format!("commits took {during:?}, before {before:?}"));
    Ok(())
}
