//! A quorum founded by a stranger on honest nodes, as the protocol lets any peer do.

use std::time::Duration;

use quorate_protocols::approval::{Approval, ApprovalAnswer, ApprovalMessage, ApprovalRequest, Subject};
use quorate_protocols::capacity::Requirement;
use quorate_protocols::certificate::Founding;
use quorate_protocols::ids::{MemberId, Nonce, PeerId, QuorumId};
use quorate_protocols::quorum::{RaftAnswer, RaftMessage};

use crate::arena::{Arena, Fault};
use crate::client::Client;

const LEASE: Duration = Duration::from_secs(60);

/// How long the members may take to elect the one that was asked to initialize.
const ELECTED_MAX: Duration = Duration::from_secs(10);

pub struct Founded {
    pub quorum: QuorumId,
    pub members: Vec<MemberId>,
}

/// Asks these nodes to be members, and has them create the quorum. Returns once one of them leads.
pub async fn found(arena: &mut Arena, client: &Client, peers: &[PeerId]) -> Result<Founded, Fault> {
    let mut founding = Nonce::default();
    arena.rng.fill(&mut founding.0);
    let mut approvals: Vec<Approval> = Vec::new();
    for peer in peers {
        let mut nonce = Nonce::default();
        arena.rng.fill(&mut nonce.0);
        let request = ApprovalRequest {
            subject: Subject::Founding { nonce: founding },
            requirement: Requirement::default(),
            nonce,
            duration: LEASE,
        };
        match client.approval(*peer, &ApprovalMessage::Ask(request)).await? {
            ApprovalAnswer::Granted(approval) => approvals.push(approval),
            other => return Err(format!("{peer} does not approve: {other:?}").into()),
        }
    }
    let founding = Founding::new(client.peer(), founding, approvals.iter().map(Approval::member));
    let quorum = founding.quorum();
    let message = |initialize| RaftMessage::Found {
        founding: founding.clone(),
        members: approvals.clone(),
        standbys: Vec::new(),
        initialize,
    };
    for peer in peers {
        match client.raft(*peer, &message(false)).await? {
            RaftAnswer::Founded => (),
            other => return Err(format!("{peer} does not create the quorum: {other:?}").into()),
        }
    }
    let elected = Arena::wait(ELECTED_MAX, || async {
        matches!(client.raft(peers[0], &message(true)).await, Ok(RaftAnswer::Founded)).then_some(())
    });
    elected.await.ok_or("nobody was elected in the stranger's quorum")?;
    let members = approvals.iter().map(Approval::member).collect();
    Ok(Founded { quorum, members })
}
