//! Members whose states differ, and those that say so without reason.

use quorate_protocols::ids::{Digest, LogIndex};
use quorate_protocols::quorum::RaftAnswer;
use quorate_protocols::quorum::limits::DIGEST_INTERVAL;

use super::door::{append, vote_of};
use super::*;

impl TestNet {
    /// Commits until every running member has passed the next index at which states are compared, and some more.
    async fn pass_comparison(&self) {
        let applied = || self.members().map(|node| node.quorum().view().applied.0).max().expect("a member runs");
        let end = (applied() / DIGEST_INTERVAL + 1) * DIGEST_INTERVAL + 10;
        while applied() < end {
            self.commit(Command::Quorum(QuorumCommand::Noop)).await.unwrap();
        }
    }

    fn members(&self) -> impl Iterator<Item = &TestNode> {
        self.running().filter(|node| node.host().quorum(quorum_id()).is_some())
    }

    fn diverged(&self) -> Vec<u64> {
        self.members().map(|node| node.host().metrics().diverged.get()).collect()
    }

    async fn healed(&self, at: usize) {
        self.until("it has another state", |net| (net.nodes[at].host().metrics().healed.get() > 0).then_some(())).await;
    }
}

/// Goal: a member whose state differs from that of a majority says so, drops it and takes theirs, while the others go
/// on; it keeps its vote, its log and its place. Method: once without a snapshot of its own, and once with one, which
/// is as wrong as its state.
#[tokio::test(start_paused = true)]
async fn a_member_whose_state_differs_takes_that_of_the_others() {
    for with_snapshot in [false, true] {
        let mut net = TestNet::founded(3, 3).await;
        net.commit(submit(0)).await.unwrap();
        net.converged(&[0, 1, 2]).await;
        let mut events = net.nodes[2].host().events();
        net.nodes[2].group().machine.corrupt();
        if with_snapshot {
            let quorum = net.nodes[2].quorum();
            quorum.compact().await.unwrap();
            net.until("a snapshot", |net| net.nodes[2].group().snapshots.current().unwrap()).await;
        }
        let vote = net.nodes[2].group().log.vote().unwrap();
        net.pass_comparison().await;
        net.healed(2).await;
        net.converged(&[0, 1, 2]).await;
        assert_eq!(net.diverged(), [0, 0, 1]);
        assert_eq!(net.nodes[2].group().log.vote().unwrap(), vote);
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        let said = |event: &HostEvent| matches!(event, HostEvent::Paused { reason, .. } if reason.contains("differs"));
        assert!(told.iter().any(said), "{told:?}");
        assert!(net.nodes[2].quorum().view().paused.is_none());
        // It counts again, also after a restart, and has nothing to find at the next comparison.
        net.crash(2);
        net.start(2).await;
        net.pass_comparison().await;
        net.crash(1);
        net.commit(submit(1)).await.unwrap();
        net.converged(&[0, 2]).await;
        assert_eq!((net.diverged(), jobs(&net.nodes[2])), (vec![0, 0], 2));
    }
}

/// Goal: when the primary's state is the one that differs it steps aside for a member of the majority, and takes its
/// state.
#[tokio::test(start_paused = true)]
async fn a_primary_whose_state_differs_steps_aside() {
    let net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let term = net.terms()[0];
    net.nodes[0].group().machine.corrupt();
    net.pass_comparison().await;
    let next = net.until("another leads", |net| (1..3).find(|at| net.nodes[*at].quorum().leading().is_some())).await;
    net.commit(submit(1)).await.unwrap();
    net.healed(0).await;
    net.converged(&[0, 1, 2]).await;
    assert_eq!((net.led().await, net.diverged()), (next, vec![1, 0, 0]));
    assert!(net.terms()[0].0 <= term.0 + 3, "{:?} after {term}", net.terms());
}

/// Goal: one against one decides nothing: both go on until a third tells who is wrong.
#[tokio::test(start_paused = true)]
async fn without_a_majority_nobody_stops() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    net.crash(1);
    net.nodes[2].group().machine.corrupt();
    net.pass_comparison().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    net.commit(submit(1)).await.unwrap();
    assert_eq!((net.led().await, net.diverged()), (0, vec![0, 0]));
    net.start(1).await;
    // Any append has it compared again.
    while net.diverged() != [0, 0, 1] {
        net.commit(Command::Quorum(QuorumCommand::Noop)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    net.healed(2).await;
    net.converged(&[0, 1, 2]).await;
}

/// Goal: a false digest stops nobody: neither that of a stranger, nor one in a term that is over, nor that of a member
/// that makes itself primary. Method: the index at which the members compared their states is no secret.
#[tokio::test(start_paused = true)]
async fn a_false_digest_stops_no_member() {
    let net = TestNet::founded(4, 3).await;
    net.pass_comparison().await;
    net.converged(&[0, 1, 2]).await;
    let term = net.terms()[0].0;
    let (liar, target, stranger) = (net.nodes[1].member(), net.nodes[2].member(), net.nodes[3].member());
    let false_digest = (LogIndex(DIGEST_INTERVAL), Digest([1; 32]));
    let ours = net.nodes[2].group().machine.read(|applied| applied.digest_at(false_digest.0));
    assert!(ours.is_some_and(|ours| ours != false_digest.1));
    for (by, at_term, committed) in
        [(stranger, term, true), (liar, term - 1, true), (liar, term, true), (liar, 0, false)]
    {
        let message = append(target, vote_of(by, at_term, committed), vec![], false_digest);
        let answer = net.answer_to(2, by.peer, message).await;
        assert!(!net.nodes[2].group().is_stopped(), "{answer:?}");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((net.led().await, net.diverged()), (0, vec![0; 3]));
    // Whom members believe to have won an election they ask about: the others know better.
    let message = append(target, vote_of(liar, term + 1, true), vec![], false_digest);
    assert!(matches!(net.answer_to(2, liar.peer, message).await, RaftAnswer::Ok { .. }));
    net.until("it is followed no further", |net| net.nodes[2].group().is_primary_deposed().then_some(())).await;
    let again = append(target, vote_of(liar, term + 1, true), vec![], false_digest);
    assert!(matches!(net.answer_to(2, liar.peer, again).await, RaftAnswer::Failed { .. }));
    net.commit(submit(1)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    assert_eq!(net.diverged(), vec![0; 3]);
}
