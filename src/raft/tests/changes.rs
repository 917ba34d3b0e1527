//! Members that come and go.

use super::*;

/// Goal: a member whose disk was wiped comes back as a new member in its own place, without anybody's help.
#[tokio::test(start_paused = true)]
async fn a_member_with_a_wiped_disk_rejoins_in_a_new_incarnation() {
    let mut net = TestNet::founded(3, 3).await;
    for number in 0..5 {
        net.commit(submit(number)).await.unwrap();
    }
    net.converged(&[0, 1, 2]).await;
    let old = net.nodes[2].member();
    net.crash(2);
    net.nodes[2].disk.wipe_records();
    net.nodes[2].incarnation = Incarnation(0xbeef);
    net.start(2).await;
    let new = net.nodes[2].member();
    net.until("the new member votes", |net| {
        let view = net.nodes[0].quorum().view();
        (view.voters.contains(&new) && !view.voters.contains(&old) && view.voters.len() == 3).then_some(())
    })
    .await;
    net.converged(&[0, 1, 2]).await;
    assert_eq!(jobs(&net.nodes[2]), 5);
    // It counts: with it and one other, the quorum goes on.
    net.crash(0);
    net.commit(submit(5)).await.unwrap();
    net.converged(&[1, 2]).await;
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_the_place_of_a_member_that_stays_away() {
    let mut net = TestNet::founded(4, 3).await;
    net.commit(submit(0)).await.unwrap();
    let (lost, standby) = (net.nodes[2].member(), net.nodes[3].member());
    assert!(net.nodes[3].host().quorum(quorum_id()).is_none());
    net.crash(2);
    // A blip moves nothing.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(net.nodes[0].quorum().view().voters.contains(&lost));
    net.until("the standby votes", |net| {
        let view = net.nodes[0].quorum().view();
        (view.voters.contains(&standby) && !view.voters.contains(&lost) && view.voters.len() == 3).then_some(())
    })
    .await;
    net.converged(&[0, 1, 3]).await;
    assert_eq!(jobs(&net.nodes[3]), 1);
    assert!(net.commit(submit(1)).await.is_ok());
    // Its heartbeats are no longer listened for: were it suspected on, the node would never ask it anything again, and
    // what it holds for the quorum would stay with it.
    net.until("those who stay suspect nobody who left", |net| {
        [0, 1, 3].iter().all(|&index| !net.nodes[index].host().suspects(lost.peer)).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_primary_swaps_a_member_for_an_approved_peer_when_asked() {
    let net = TestNet::founded_without_standbys(4, 3).await;
    let asker = net.nodes[0].member().peer;
    net.commit(submit(0)).await.unwrap();
    let refused = net.nodes[1].quorum().replace(net.nodes[2].member(), net.nodes[3].stand_by(asker)).await;
    assert!(matches!(refused, Err(QuorumError::NotPrimary { .. })), "{refused:?}");
    net.nodes[0].quorum().replace(net.nodes[2].member(), net.nodes[3].stand_by(asker)).await.unwrap();
    let voters = net.nodes[0].quorum().view().voters;
    assert!(voters.contains(&net.nodes[3].member()) && !voters.contains(&net.nodes[2].member()));
    net.converged(&[0, 1, 3]).await;
    // The one that was swapped out finds out, leaves nothing behind and says where the quorum went.
    net.until("the old member leaves", |net| net.nodes[2].host().quorums().is_empty().then_some(())).await;
    let moved = net.nodes[2].quorum();
    assert!(moved.membership().is_genuine());
    assert!(matches!(noop(&moved).await, Err(QuorumError::NotMember { .. })));
    let left = net.nodes[2].disk.back_up();
    assert!(left.trees.keys().all(|tree| tree == "quorums.departed"), "{:?}", left.trees);
    assert!(left.logs.0.is_empty(), "{:?}", left.logs);
}

#[tokio::test(start_paused = true)]
async fn five_members_survive_the_loss_of_two() {
    let mut net = TestNet::founded(5, 5).await;
    net.commit(submit(0)).await.unwrap();
    net.crash(0);
    net.commit(submit(1)).await.unwrap();
    let second = net.led().await;
    net.crash(second);
    net.commit(submit(2)).await.unwrap();
    let left: Vec<usize> = (1..5).filter(|index| *index != second).collect();
    net.converged(&left).await;
    assert_eq!(jobs(&net.nodes[left[0]]), 3);
}

/// Goal: members that are gone for good are replaced one after the other by peers that were never standbys, also when
/// the primary that took the first in is lost; and the quorum goes on committing all the while.
#[tokio::test(start_paused = true)]
async fn one_lost_member_after_another_is_replaced_by_peers_that_promise_then() {
    let mut net = TestNet::founded_without_standbys(6, 3).await;
    for node in &net.nodes {
        let asker = node.member().peer;
        let willing = net.nodes[3..].iter().filter(|other| other.member().peer != asker);
        let willing = willing.map(|other| other.stand_by(asker)).collect();
        node.host().set_membership_leases(Arc::new(Volunteers(net.world.net(asker), willing, Distrusted::default())));
    }
    for round in 0..3 {
        net.commit(submit(round)).await.unwrap();
        let primary = net.led().await;
        let lost = net.nodes[primary].member();
        net.crash(primary);
        net.commit(submit(100 + round)).await.unwrap();
        net.until("somebody else votes", |net| {
            net.running().find_map(|node| {
                let quorum = node.host().quorum(quorum_id())?;
                let view = quorum.leading().map(|_| quorum.view())?;
                (view.voters.len() == 3 && !view.voters.contains(&lost) && view.learners.is_empty()).then_some(())
            })
        })
        .await;
    }
    net.commit(submit(200)).await.unwrap();
    let left: Vec<usize> = (0..6).filter(|index| net.nodes[*index].running.is_some()).collect();
    net.converged(&left).await;
    assert_eq!(jobs(&net.nodes[left[0]]), 7);
}

/// Goal: a joint configuration that its primary did not live to finish is finished by the next.
#[tokio::test(start_paused = true)]
async fn a_change_that_a_dead_primary_began_is_finished_by_the_next() {
    let mut net = TestNet::founded_without_standbys(4, 3).await;
    let asker = net.nodes[0].member().peer;
    net.commit(submit(0)).await.unwrap();
    let (primary, lost) = (net.nodes[0].quorum(), net.nodes[2].member());
    let (newcomer, approval) = (net.nodes[3].member(), net.nodes[3].stand_by(asker));
    let swapping = tokio::spawn(async move { primary.replace(lost, approval).await });
    let joint = |net: &TestNet, index: usize| net.nodes[index].group().configurations().len() > 1;
    net.until("a joint configuration", |net| {
        let reached = net.nodes[3].host().quorum(quorum_id()).is_some() && joint(net, 1) && joint(net, 3);
        reached.then_some(())
    })
    .await;
    net.crash(0);
    swapping.abort();
    assert!(joint(&net, 1), "the change was not finished before the crash");
    net.until("one configuration", |net| {
        let view = net.nodes[1].quorum().view();
        (!joint(net, 1) && view.voters.contains(&newcomer) && !view.voters.contains(&lost)).then_some(())
    })
    .await;
    net.commit(submit(1)).await.unwrap();
    net.converged(&[1, 3]).await;
}

#[tokio::test(start_paused = true)]
async fn a_promise_that_has_run_out_makes_nobody_a_member() {
    let net = TestNet::new(3).await;
    let asker = net.nodes[0].member().peer;
    let members = || net.nodes.iter().map(|node| node.approve(asker)).collect::<Vec<_>>();
    net.nodes[2].host().set_membership_leases(Arc::new(Bankrupt));
    let refused = net.nodes[0].host().found(founding(&members()), members(), vec![]).await;
    assert!(matches!(refused, Err(crate::raft::FoundError::TooFew { founded: 2, needed: 3, .. })), "{refused:?}");
    assert!(net.nodes[2].host().quorum(quorum_id()).is_none());
}

/// Goal: the standbys of the founding are recorded and kept; one that goes away is replaced; and a lost member's place
/// is taken by one of them when nobody else can be won.
#[tokio::test(start_paused = true)]
async fn a_quorum_keeps_standbys_and_takes_its_newcomers_from_them() {
    let mut net = TestNet::new(6).await;
    let asker = net.nodes[0].member().peer;
    let members: Vec<_> = net.nodes[..3].iter().map(|node| node.approve(asker)).collect();
    let founding = founding(&members);
    let mut standbys: Vec<_> = net.nodes[3..].iter().map(|node| node.stand_by(asker)).collect();
    let other = standbys.pop().expect("six nodes");
    net.nodes[0].host().found(founding, members, standbys).await.expect("founded");
    for (index, node) in net.nodes.iter().enumerate() {
        // Only the first primary can win anybody, and only once.
        let willing = if index == 0 { vec![other.clone()] } else { Vec::new() };
        node.host().set_membership_leases(Arc::new(Volunteers(
            net.world.net(node.member().peer),
            willing,
            Distrusted::default(),
        )));
    }
    let standbys = |net: &TestNet, index: usize| {
        let mut standbys = net.nodes[index].quorum().view().standbys;
        standbys.sort_unstable();
        standbys
    };
    let of = |net: &TestNet, indices: [usize; 2]| {
        let mut members = indices.map(|index| net.nodes[index].member());
        members.sort_unstable();
        members.to_vec()
    };
    net.until("standbys are recorded", |net| (standbys(net, 0) == of(net, [3, 4])).then_some(())).await;
    net.crash(3);
    net.until("the one that is gone is replaced", |net| (standbys(net, 0) == of(net, [4, 5])).then_some(())).await;
    // The next primary has them from the state.
    let lost = net.nodes[0].member();
    net.crash(0);
    net.until("a standby votes", |net| {
        net.running().find_map(|node| {
            let quorum = node.host().quorum(quorum_id())?;
            let view = quorum.leading().map(|_| quorum.view())?;
            let voters = view.voters.len() == 3 && !view.voters.contains(&lost) && view.learners.is_empty();
            (voters && view.standbys.len() == 1).then_some(())
        })
    })
    .await;
    net.commit(submit(1)).await.unwrap();
}

/// Goal: what is committed is known before it is applied, and never less than what is applied.
#[tokio::test(start_paused = true)]
async fn a_member_tells_what_is_committed() {
    let net = TestNet::founded(3, 3).await;
    for number in 0..10 {
        net.commit(submit(number)).await.unwrap();
    }
    net.converged(&[0, 1, 2]).await;
    for node in &net.nodes {
        let view = node.quorum().view();
        let log = node.group().raft.metrics().borrow().last_log_index.unwrap();
        assert_eq!((view.committed.0, view.applied.0), (log, log));
    }
}

/// A quorum of the first three nodes, with the other nodes as standbys that are recorded.
async fn founded_with_trust(nodes: u8) -> (TestNet, Vec<Distrusted>) {
    let net = TestNet::founded(nodes, 3).await;
    let distrust: Vec<Distrusted> = net.nodes.iter().map(|_| Distrusted::default()).collect();
    for (node, distrusted) in net.nodes.iter().zip(&distrust) {
        let volunteers = Volunteers(net.world.net(node.member().peer), Vec::new(), distrusted.clone());
        node.host().set_membership_leases(Arc::new(volunteers));
    }
    net.commit(submit(0)).await.unwrap();
    let standbys = usize::from(nodes) - 3;
    net.until("standbys are recorded", |net| (net.nodes[0].quorum().view().standbys.len() == standbys).then_some(()))
        .await;
    (net, distrust)
}

/// The voters, as whoever leads has them.
fn voters(net: &TestNet) -> Option<Vec<MemberId>> {
    net.running().find_map(|node| {
        let quorum = node.host().quorum(quorum_id())?;
        let view = quorum.leading().map(|_| quorum.view())?;
        (view.learners.is_empty() && view.voters.len() == 3).then_some(view.voters)
    })
}

/// Goal: a member that is there, and that nobody trusts any more, is replaced after the grace by a standby that is
/// trusted, and finds that out itself. Method: one of two standbys has lost trust as well.
#[tokio::test(start_paused = true)]
async fn a_member_that_is_not_trusted_any_more_is_replaced_after_the_grace() {
    let (net, distrust) = founded_with_trust(5).await;
    let (gone, unfit, fit) = (net.nodes[2].member(), net.nodes[3].member(), net.nodes[4].member());
    distrust.iter().for_each(|distrusted| distrusted.lock().extend([gone.peer, unfit.peer]));
    tokio::time::sleep(REPLACE_GRACE / 2).await;
    assert!(net.nodes[0].quorum().view().voters.contains(&gone), "a clock that is set moves nothing");
    // Trust that comes back begins the grace anew.
    distrust.iter().for_each(|distrusted| distrusted.lock().clear());
    tokio::time::sleep(Duration::from_secs(5)).await;
    distrust.iter().for_each(|distrusted| distrusted.lock().extend([gone.peer, unfit.peer]));
    tokio::time::sleep(REPLACE_GRACE * 3 / 4).await;
    assert!(net.nodes[0].quorum().view().voters.contains(&gone));
    net.until("the trusted standby votes", |net| {
        let voters = voters(net)?;
        assert!(!voters.contains(&unfit));
        (voters.contains(&fit) && !voters.contains(&gone)).then_some(())
    })
    .await;
    net.until("the old member leaves", |net| net.nodes[2].host().quorums().is_empty().then_some(())).await;
    net.commit(submit(1)).await.unwrap();
    net.converged(&[0, 1, 4]).await;
    // Trusted again, it is not fetched back.
    distrust.iter().for_each(|distrusted| distrusted.lock().clear());
    tokio::time::sleep(3 * REPLACE_GRACE).await;
    assert!(voters(&net).is_some_and(|voters| voters.contains(&fit) && !voters.contains(&gone)));
}

/// Goal: a primary that the others do not trust any more gives way to one of them, which replaces it; it does nothing
/// for that itself.
#[tokio::test(start_paused = true)]
async fn a_primary_that_a_majority_does_not_trust_any_more_is_replaced() {
    let (net, distrust) = founded_with_trust(4).await;
    let (old, fit) = (net.nodes[0].member(), net.nodes[3].member());
    assert_eq!(net.nodes[1].quorum().view().primary, Some(old));
    distrust[1..].iter().for_each(|distrusted| distrusted.lock().extend([old.peer]));
    net.until("the old primary is no member", |net| {
        let voters = voters(net)?;
        (voters.contains(&fit) && !voters.contains(&old)).then_some(())
    })
    .await;
    net.commit(submit(1)).await.unwrap();
    net.converged(&[1, 2, 3]).await;
}

/// Goal: where lists differ nothing moves back and forth: what one voter alone does not trust stays, and leads.
#[tokio::test(start_paused = true)]
async fn a_voter_that_alone_distrusts_the_primary_changes_nothing() {
    let (net, distrust) = founded_with_trust(4).await;
    let old = net.nodes[0].member();
    distrust[1].lock().insert(old.peer);
    let before = (voters(&net), net.nodes[0].quorum().term());
    tokio::time::sleep(10 * REPLACE_GRACE).await;
    net.commit(submit(1)).await.unwrap();
    assert_eq!((voters(&net), net.nodes[0].quorum().term()), before);
    assert_eq!(net.nodes[1].quorum().view().primary, Some(old));
    net.converged(&[0, 1, 2]).await;
}

/// Goal: a voter signs for no newcomer that it does not trust, so that a primary alone takes nobody in; and once it
/// does, the change is made. Method: one of three members dies, so that both others must sign.
#[tokio::test(start_paused = true)]
async fn a_voter_signs_for_no_newcomer_that_it_does_not_trust() {
    let (mut net, distrust) = founded_with_trust(4).await;
    let (lost, newcomer) = (net.nodes[2].member(), net.nodes[3].member());
    distrust[1].lock().insert(newcomer.peer);
    net.crash(2);
    tokio::time::sleep(5 * REPLACE_GRACE).await;
    let view = net.nodes[0].quorum().view();
    assert!(view.voters.contains(&lost) && !view.voters.contains(&newcomer), "{view:?}");
    distrust[1].lock().clear();
    net.until("the newcomer votes", |net| {
        let voters = voters(net)?;
        (voters.contains(&newcomer) && !voters.contains(&lost)).then_some(())
    })
    .await;
    net.commit(submit(1)).await.unwrap();
    net.converged(&[0, 1, 3]).await;
}
