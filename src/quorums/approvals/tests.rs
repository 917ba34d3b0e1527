//! Gathering over scripted peers, under virtual time.

use std::collections::BTreeSet;

use super::*;
use crate::testing::quorums::{Approver, Known, QUORUM, Reaction, ScriptedNet, approve, peer, seams};
use parking_lot::Mutex;

const SUBJECT: Subject = Subject::Member { quorum: QUORUM };

/// Node 1 gathers from nodes 1 to 9, of which those in `dead` do not answer. Also returns who got a promise back.
fn gatherer(candidates: &[u8], dead: &'static [u8]) -> (Approvals, Arc<Known>, Arc<Mutex<BTreeSet<PeerId>>>) {
    let released: Arc<Mutex<BTreeSet<PeerId>>> = Arc::default();
    let noted = released.clone();
    let net = ScriptedNet::new(peer(1), move |to, _, frame| {
        let n = (1..=9).find(|n| peer(*n) == to).expect("only known peers are asked");
        if dead.contains(&n) {
            return Reaction::Silent;
        }
        match wire::decode(&frame.head, MESSAGE_BYTES_MAX).unwrap() {
            ApprovalMessage::Ask(request) => Reaction::answer(&approve(n, peer(1), &request)),
            ApprovalMessage::Release { .. } => {
                noted.lock().insert(to);
                Reaction::answer(&ApprovalAnswer::Acknowledged)
            }
            other => panic!("{other:?}"),
        }
    });
    let known = Arc::new(Known::default());
    known.candidates.lock().extend(candidates.iter().map(|n| peer(*n)));
    let local = Arc::new(Approver(1));
    let approvals = Approvals::new(ApprovalsParts { seams: seams(1), net, knowledge: known.clone(), local });
    (approvals, known, released)
}

async fn gather(approvals: &Approvals, needed: usize) -> Result<Vec<Approval>, RoundError> {
    approvals.gather(SUBJECT, Requirement::default(), needed, needed, Vec::new(), Duration::from_secs(100)).await
}

#[tokio::test(start_paused = true)]
async fn distinct_peers_approve_this_node_among_them_and_the_surplus_is_given_back() {
    let (approvals, _, released) = gatherer(&[1, 2, 3, 4, 5, 6], &[]);
    let won = gather(&approvals, 3).await.unwrap();
    let peers: BTreeSet<PeerId> = won.iter().map(|approval| approval.statement.approver).collect();
    assert_eq!(peers.len(), 3);
    assert!(peers.contains(&peer(1)), "this node was asked in process: {peers:?}");
    // All six were asked at once; the late ones are told that they are not needed.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let released = released.lock().clone();
    assert_eq!(released.len(), 3, "{released:?}");
    assert!(peers.is_disjoint(&released));
}

#[tokio::test(start_paused = true)]
async fn volunteers_fill_in_for_silent_candidates() {
    let (approvals, known, _) = gatherer(&[2, 3], &[3]);
    known.volunteers.lock().extend([peer(7), peer(8)]);
    let won = gather(&approvals, 3).await.unwrap();
    let peers: BTreeSet<PeerId> = won.iter().map(|approval| approval.statement.approver).collect();
    assert_eq!(peers, BTreeSet::from([peer(2), peer(7), peer(8)]));
}

#[tokio::test(start_paused = true)]
async fn too_few_are_named_and_what_was_won_is_given_back() {
    let (approvals, _, released) = gatherer(&[2, 3, 4], &[4]);
    let RoundError::TooFew { needed, granted, silent, .. } = gather(&approvals, 3).await.unwrap_err();
    assert_eq!((needed, granted, silent), (3, 2, vec![peer(4)]));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(*released.lock(), BTreeSet::from([peer(2), peer(3)]));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_no_promise_behind() {
    let (approvals, _, released) = gatherer(&[2, 3, 4], &[]);
    let gathering = gather(&approvals, 3);
    assert!(tokio::time::timeout(Duration::from_micros(1), gathering).await.is_err());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(released.lock().len(), 3);
}
