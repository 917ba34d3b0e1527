//! Members that left and are taken in again: what they promised before still binds them.

use quorate_protocols::ids::Millis;
use quorate_protocols::liveness::{LivenessAnswer, LivenessMessage, PreVote};
use quorate_protocols::quorum::RaftAnswer;

use super::door::{asks_vote, vote_of};
use super::*;
use crate::raft::host::{DEPARTED_MAX, DEPARTED_TREE, Departed};
use crate::raft::records::Promise;
use crate::seams::KvBatch;

/// Longer than any election, over which nobody may be elected.
const MANY_ELECTIONS: Duration = Duration::from_secs(60);

/// The invitation with which the primary at `index` takes a member in.
fn invitation(net: &TestNet, index: usize) -> RaftMessage {
    let record = net.nodes[index].group().record();
    RaftMessage::Found {
        founding: record.founding,
        members: record.members,
        standbys: record.standbys,
        initialize: false,
    }
}

/// Goal: whoever leaves a quorum and is taken in again elects nobody without what it had promised before, whatever it
/// has heard of the quorum since. Method: voter 1 is cut off; voter 2 acknowledges entries, is replaced by node 3, and
/// leaves. It is invited again and hears of nobody but voter 1, in whose configuration it still is a voter.
#[tokio::test(start_paused = true)]
async fn a_member_that_left_and_is_back_elects_nobody_who_was_away() {
    let net = TestNet::founded_without_standbys(4, 3).await;
    let [first, away, back, _] = [0, 1, 2, 3].map(|index: usize| net.nodes[index].member());
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    net.world.cut_off([away.peer]);
    net.commit(submit(1)).await.unwrap();
    net.nodes[0].quorum().replace(back, net.nodes[3].stand_by(first.peer)).await.unwrap();
    net.until("it has left", |net| net.nodes[2].host().quorums().is_empty().then_some(())).await;
    net.commit(submit(2)).await.unwrap();
    let invited = invitation(&net, 0);
    net.world.heal();
    net.world.cut_off([away.peer, back.peer]);
    assert_eq!(net.answer_to(2, first.peer, invited).await, RaftAnswer::Founded);
    let elected = |net: &TestNet| net.nodes[1].group().is_raft_leader() || net.nodes[2].group().is_raft_leader();
    let end = tokio::time::Instant::now() + MANY_ELECTIONS;
    while tokio::time::Instant::now() < end {
        assert!(!elected(&net), "a voter without what was committed leads");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let group = net.nodes[2].group();
    let term = net.nodes[1].quorum().term();
    assert!(group.is_behind_promise() && group.log.vote().unwrap().is_some_and(|vote| vote.leader_id.term >= 1));
    // Not even when it is asked without a question before.
    let asked = asks_vote(back, vote_of(away, term.0 + 1, false));
    assert!(matches!(net.answer_to(2, away.peer, asked).await, RaftAnswer::Failed { .. }));
    // Nor after a restart.
    let mut net = net;
    net.crash(2);
    net.start(2).await;
    assert!(net.nodes[2].group().is_behind_promise());
    // Once it has what it had, it counts as any other.
    net.world.heal();
    net.nodes[0].quorum().replace(away, net.nodes[2].stand_by(first.peer)).await.unwrap();
    net.commit(submit(3)).await.unwrap();
    net.converged(&[0, 2, 3]).await;
    assert!(!net.nodes[2].group().is_behind_promise());
    assert_eq!(jobs(&net.nodes[2]), 4);
    net.crash(0);
    net.commit(submit(4)).await.unwrap();
    net.converged(&[2, 3]).await;
}

/// Goal: a node that has left more quorums than it can know its promises in takes part as nobody of whom it may have
/// promised something. Method: more notes with promises than it keeps.
#[tokio::test(start_paused = true)]
async fn a_node_that_forgets_a_promise_takes_a_new_incarnation() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    let (host, member) = (net.nodes[0].host(), net.nodes[0].member());
    let membership = host.quorum(quorum_id()).expect("a member").membership();
    let promise = Promise { member, vote: vote_of(member, 1, false), last: None };
    let note = Departed { membership, left_at: Millis(1), promise };
    let note = wire::encode_record(&note);
    let write = async |net: &TestNet, count: u128| {
        let mut batch = KvBatch::new();
        for number in 0..count {
            batch.put(DEPARTED_TREE, number.to_be_bytes(), note.clone());
        }
        net.nodes[0].host().0.storage.write(batch).await.expect("written");
    };
    write(&net, DEPARTED_MAX as u128).await;
    net.crash(0);
    net.start(0).await;
    let lost = |net: &TestNet| lost_quorums(&net.nodes[0].host().0.storage, member).expect("readable");
    assert_eq!(lost(&net), [], "as many as it keeps");
    write(&net, DEPARTED_MAX as u128 + 1).await;
    net.crash(0);
    net.start(0).await;
    assert_eq!(lost(&net), [QuorumId(0u128.to_be_bytes())], "the next start takes a new incarnation");
    // Until then it joins nothing.
    let asker = net.nodes[1].member().peer;
    let subject = Subject::Founding { nonce: Nonce([2; 16]) };
    let members: Vec<_> = net.nodes.iter().map(|node| node.promise(asker, subject)).collect();
    let founding = Founding::new(asker, Nonce([2; 16]), members.iter().map(Approval::member));
    let invited = RaftMessage::Found { founding, members, standbys: vec![], initialize: false };
    let answer = net.answer_to(0, asker, invited).await;
    assert!(matches!(&answer, RaftAnswer::Failed { reason } if reason.contains("restarts")), "{answer:?}");
    // It goes on where it is a member.
    net.commit(submit(1)).await.unwrap();
}

/// Goal: a question before an election is answered as the vote would be.
#[tokio::test(start_paused = true)]
async fn who_is_behind_its_promise_lets_nobody_run() {
    let net = TestNet::founded_without_standbys(4, 3).await;
    let [first, away, back, _] = [0, 1, 2, 3].map(|index: usize| net.nodes[index].member());
    net.commit(submit(0)).await.unwrap();
    net.nodes[0].quorum().replace(back, net.nodes[3].stand_by(first.peer)).await.unwrap();
    net.until("it has left", |net| net.nodes[2].host().quorums().is_empty().then_some(())).await;
    let invited = invitation(&net, 0);
    let (term, last_log) = (net.nodes[1].quorum().term(), net.nodes[1].group().last_log());
    net.world.cut_off([away.peer, back.peer]);
    assert_eq!(net.answer_to(2, first.peer, invited).await, RaftAnswer::Founded);
    let question = PreVote { quorum: quorum_id(), term, candidate: away, missing: None, last_log };
    let frame = Frame::head(wire::encode(&LivenessMessage::PreVote(question)));
    let (host, tasks) = net.nodes[1].running.as_ref().expect("the node runs");
    let asked = host.0.net.request(back.peer, Protocol::Liveness, frame, Duration::from_secs(1));
    let answer = tasks.scope(asked).await.expect("an answer");
    let answer: LivenessAnswer = wire::decode(&answer.head, usize::MAX).expect("readable");
    assert_eq!(answer, LivenessAnswer::NotMember);
}

/// Goal: a primary that still knows a member by the log that it had goes on when that member begins its log anew.
/// Method: a voter is replaced, leaves, and is taken in again by the same primary.
#[tokio::test(start_paused = true)]
async fn a_member_that_begins_its_log_anew_stops_no_primary() {
    let net = TestNet::founded_without_standbys(4, 3).await;
    let first = net.nodes[0].member();
    for number in 0..5 {
        net.commit(submit(number)).await.unwrap();
    }
    let (back, other) = (net.nodes[2].member(), net.nodes[3].member());
    net.nodes[0].quorum().replace(back, net.nodes[3].stand_by(first.peer)).await.unwrap();
    net.until("it has left", |net| net.nodes[2].host().quorums().is_empty().then_some(())).await;
    net.nodes[0].quorum().replace(other, net.nodes[2].stand_by(first.peer)).await.unwrap();
    net.commit(submit(5)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    assert_eq!(jobs(&net.nodes[2]), 6);
    assert_eq!(net.led().await, 0);
}
