//! Quorums that do not exist, announced with all the room there is, and existing ones in a term of their own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::certificate::{CertificatePart, Founding};
use quorate_protocols::directory::QuorumAdvert;
use quorate_protocols::ids::{Digest, Incarnation, LogIndex, MemberId, Millis, Nonce, QuorumId, Term};
use quorate_protocols::quorum::request::{
    JobAnswer, JobMessage, MembershipStatement, Query, QueryAnswer, QuorumView, SignedMembership,
};
use quorate_protocols::quorum::{Command, CommandReply, JobCommand};
use quorate_protocols::run_state::RunState;
use quorate_protocols::wire;

use crate::arena::{Arena, Fault};
use crate::client::frame::Frame;
use crate::client::{Answerer, Lane, TOPIC_QUORUMS};

const GHOSTS: usize = 50;

/// An invented quorum is out of everybody's list by then.
const GONE_MAX: Duration = Duration::from_secs(20);

/// A quorum that the stranger founded, of itself alone: its certificate is as good as any.
fn founded_alone(me: MemberId) -> Founding {
    Founding::new(me.peer, Nonce([1; 16]), [me])
}

/// The same as its only member shows it, with all the room there is.
fn view_alone(quorum: QuorumId, me: MemberId) -> QuorumView {
    QuorumView {
        quorum,
        term: Term(1),
        primary: Some(me),
        voters: vec![me],
        learners: Vec::new(),
        standbys: Vec::new(),
        committed: LogIndex(1),
        applied: LogIndex(1),
        digest: (LogIndex(0), Digest([0; 32])),
        jobs_live: 0,
        jobs_ended: 0,
        objects: 0,
        room: u32::MAX,
        level: 1,
        time: Millis(0),
        clock_apart_ms: None,
        clock_step: None,
        paused: None,
    }
}

/// Says yes to every submit, and that it alone is the quorum.
fn liar(key: [u8; 32]) -> Answerer {
    let key = Arc::new(ed25519_dalek::SigningKey::from_bytes(&key));
    Arc::new(move |_, lane, frame: Frame| {
        let key = Arc::clone(&key);
        Box::pin(async move {
            if lane != Lane::Job {
                return None;
            }
            let me = MemberId {
                peer: quorate_protocols::ids::PeerId(key.verifying_key().to_bytes()),
                incarnation: Incarnation(1),
            };
            let answer = match wire::decode(&frame.head, lane.head_bytes_max()).ok()? {
                JobMessage::Propose { command: Command::Job(_, JobCommand::Submit { .. }), .. } => {
                    JobAnswer::Reply(Ok(CommandReply::Submitted { existed: false, state: RunState::Running }))
                }
                JobMessage::Propose { .. } => JobAnswer::Reply(Ok(CommandReply::Done)),
                JobMessage::Membership { quorum } => {
                    let statement = MembershipStatement {
                        quorum,
                        by: me,
                        term: Term(u64::MAX),
                        voters: vec![me],
                        primary: Some(me),
                    };
                    JobAnswer::Membership(SignedMembership::sign(&key, statement))
                }
                JobMessage::Certificate { quorum, .. } if quorum == founded_alone(me).quorum() => {
                    let founding = Some(founded_alone(me));
                    JobAnswer::Certificate(CertificatePart { founding, ..CertificatePart::default() })
                }
                JobMessage::Query { quorum, query: Query::Quorum, .. } => {
                    JobAnswer::Answer(QueryAnswer::Quorum(view_alone(quorum, me)))
                }
                _ => JobAnswer::NotPrimary { primary: Some(me), voters: vec![me] },
            };
            Some(Frame { head: wire::encode(&answer).into(), payload: Bytes::new() })
        })
    })
}

/// Fifty invented quorums, one that the stranger founded of itself alone, and one that exists, at the highest term: no
/// submit is acknowledged by any of them, and the true members are found by a node that has just started.
pub async fn invent_quorums(arena: &mut Arena) -> Result<(), Fault> {
    let mut key = [0; 32];
    arena.rng.fill(&mut key);
    let answerer = liar(key);
    let client = arena.stranger_with_key(key, answerer).await?;
    let me = MemberId { peer: client.peer(), incarnation: Incarnation(1) };
    let advert = |quorum| QuorumAdvert {
        quorum,
        term: Term(u64::MAX),
        members: vec![me],
        standbys: 2,
        jobs: 0,
        objects: 0,
        room: u32::MAX,
    };
    let mut invented = Vec::new();
    for _ in 0..GHOSTS {
        let mut quorum = QuorumId::default();
        arena.rng.fill(&mut quorum.0);
        invented.push(quorum);
    }
    let taken = arena.quorum;
    for quorum in invented.iter().copied().chain([taken, founded_alone(me).quorum()]) {
        // A node that takes no more of them has defended itself.
        let _ = client.announce(TOPIC_QUORUMS, &advert(quorum)).await;
    }
    // The load submits all the while; what a ghost acknowledges has no end, and is found when the arena is judged.
    for round in 0..3 {
        arena.submit_through_all(2_000_000 + 100 * round).await;
    }
    arena.testnet.restart(5).await?;
    arena.testnet.wait_meshed(Duration::from_secs(20)).await?;
    let _ = client.announce(TOPIC_QUORUMS, &advert(taken)).await;
    let peers = arena.peers();
    let found = Arena::wait(Duration::from_secs(15), || async {
        let view = arena.view(5, taken).await.ok()?;
        view.info.primary.filter(|primary| peers.contains(primary)).map(drop)
    });
    let found = found.await;
    arena.require(found.is_some(), || "a node that has just started does not find the true members".to_owned());
    drop(client);
    let gone = Arena::wait(GONE_MAX, || async {
        let listed: quorate_api::Listing<quorate_api::QuorumInfo> =
            arena.api(2).ok()?.list("/v1/quorums").await.ok()?;
        listed.items.iter().all(|row| !invented.contains(&row.quorum)).then_some(())
    });
    let gone = gone.await;
    arena.require(gone.is_some(), || format!("invented quorums are listed {GONE_MAX:?} later"));
    Ok(())
}
