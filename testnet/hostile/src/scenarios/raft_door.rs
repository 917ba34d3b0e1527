//! Raft's door: a peer that founded a quorum and is no member of it speaks raft to the members.

use std::time::{Duration, Instant};

use quorate_protocols::ids::{Digest, Incarnation, LogIndex, MemberId, PeerId};
use quorate_protocols::quorum::limits::DIGEST_INTERVAL;
use quorate_protocols::quorum::{RaftAnswer, RaftMessage};
use quorate_protocols::wire;
use serde::Serialize;

use super::founding::{Founded, found};
use crate::arena::{Arena, Fault};
use crate::client::Client;
use crate::client::raft::{Append, LogId, Snapshot, StoredMembership, Vote, VoteRequest};

/// The nodes that the stranger's quorum lives on.
const MEMBERS: usize = 3;

/// A member that restarted leads or follows by then.
const ELECTED_MAX: Duration = Duration::from_secs(15);

/// Between two looks at what the members say.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The quorum commits through each of its members, which all name one primary of one term.
async fn expect_whole(arena: &mut Arena, founded: &Founded, when: &str) -> Result<(u64, Option<PeerId>), Fault> {
    for node in 1..=MEMBERS {
        let committed = Arena::wait(ELECTED_MAX, || async {
            arena.commit(node, founded.quorum, 1).await.ok().filter(|bench| bench.failed == 0)
        });
        let committed = committed.await;
        arena.require(committed.is_some(), || format!("{when} the quorum commits nothing through node {node}"));
    }
    // The node of a member that has just restarted passes a commit on before its member has heard of the term.
    let mut seen = Vec::new();
    let until = Instant::now() + ELECTED_MAX;
    loop {
        seen.clear();
        for node in 1..=MEMBERS {
            let view = arena.view(node, founded.quorum).await?;
            seen.push((view.info.term.0, view.info.primary));
        }
        if seen.iter().all(|view| *view == seen[0]) || Instant::now() >= until {
            break;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    arena.require(seen.iter().all(|view| *view == seen[0]), || format!("{when} members differ: {seen:?}"));
    let peers = arena.peers();
    arena.require(seen[0].1.is_some_and(|primary| peers.contains(&primary)), || {
        format!("{when} the primary is {:?}", seen[0].1)
    });
    Ok(seen[0])
}

/// What the stranger calls itself.
fn myself(client: &Client) -> MemberId {
    MemberId { peer: client.peer(), incarnation: Incarnation(1) }
}

fn body<T: Serialize>(value: &T) -> Vec<u8> {
    wire::encode(value)
}

/// Sends one raft message to each member; how many took it.
async fn send(client: &Client, founded: &Founded, make: impl Fn(MemberId) -> RaftMessage) -> usize {
    let mut taken = 0;
    for member in &founded.members {
        if let Ok(RaftAnswer::Ok { .. }) = client.raft(member.peer, &make(*member)).await {
            taken += 1;
        }
    }
    taken
}

/// Takes the lead with appends, votes and snapshots whose terms are far above the members' own; then all restart.
pub async fn seize_lead(arena: &mut Arena) -> Result<(), Fault> {
    let client = arena.stranger().await?;
    let peers = arena.peers()[..MEMBERS].to_vec();
    let founded = found(arena, &client, &peers).await?;
    let (term, primary) = expect_whole(arena, &founded, "before the attack").await?;
    let (quorum, me) = (founded.quorum, myself(&client));
    for jump in [1, 1 << 32, u64::MAX - term] {
        let term = term.saturating_add(jump);
        for committed in [true, false] {
            let vote = Vote { term, voted_for: Some(me), committed };
            let append = body(&Append::empty(vote));
            let taken = send(&client, &founded, |to| RaftMessage::Append { quorum, to, body: append.clone() }).await;
            arena.require(taken == 0, || format!("{taken} members took an append of term {term}"));
            let last = Some(LogId { term, index: 1 << 40 });
            let asked = body(&VoteRequest { vote, last });
            let taken = send(&client, &founded, |to| RaftMessage::Vote { quorum, to, body: asked.clone() }).await;
            arena.require(taken == 0, || format!("{taken} members took a vote of term {term}"));
            let membership = StoredMembership { log_id: last, configs: vec![vec![me]], nodes: vec![(me, ())] };
            let snapshot = body(&Snapshot {
                vote,
                last,
                membership,
                snapshot_id: "1".to_owned(),
                chunks: Vec::new(),
                digest: (LogIndex(0), Digest([0; 32])),
            });
            let taken =
                send(&client, &founded, |to| RaftMessage::Snapshot { quorum, to, body: snapshot.clone() }).await;
            arena.require(taken == 0, || format!("{taken} members took a snapshot of term {term}"));
        }
    }
    let after = expect_whole(arena, &founded, "after the attack").await?;
    arena
        .require(after == (term, primary), || format!("term and primary were {:?} and are {after:?}", (term, primary)));
    for node in 1..=MEMBERS {
        arena.testnet.restart(node).await?;
    }
    let (term, _) = expect_whole(arena, &founded, "after a restart of all members").await?;
    arena.require(term < 1 << 20, || format!("a persisted vote was moved: the term is {term}"));
    Ok(())
}

/// Stops members with digests that are not theirs: of an older term and of the present one, at the index that they have
/// and at an older one.
pub async fn wrong_digests(arena: &mut Arena) -> Result<(), Fault> {
    let client = arena.stranger().await?;
    let peers = arena.peers()[..MEMBERS].to_vec();
    let founded = found(arena, &client, &peers).await?;
    let (term, _) = expect_whole(arena, &founded, "before the attack").await?;
    // Members compare digests only once they have one.
    arena.commit(1, founded.quorum, DIGEST_INTERVAL as u32 + 10).await?;
    let view = arena.view(1, founded.quorum).await?;
    arena.require(view.digest_index >= LogIndex(DIGEST_INTERVAL), || format!("no digest yet: {view:?}"));
    let (quorum, me) = (founded.quorum, myself(&client));
    for index in [view.digest_index, LogIndex(0)] {
        for (term, committed) in [(0, false), (term, false), (term, true)] {
            let vote = Vote { term, voted_for: Some(me), committed };
            let append = body(&Append { digest: (index, Digest([0xee; 32])), ..Append::empty(vote) });
            let taken = send(&client, &founded, |to| RaftMessage::Append { quorum, to, body: append.clone() }).await;
            arena.require(taken == 0, || format!("{taken} members took an append of a stranger"));
        }
    }
    expect_whole(arena, &founded, "after the attack").await?;
    for node in 1..=MEMBERS {
        let stopped = arena.logged(node, "stopped for good");
        arena.require(stopped == 0, || format!("node {node} stopped a member for good"));
    }
    Ok(())
}
