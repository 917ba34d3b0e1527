//! Two faults of other versions of openraft, shown absent from this one as it is used here.

use futures::future::join_all;
use quorate_protocols::quorum::limits::APPEND_DEADLINE_MAX;

use super::*;

/// Goal: an answer to an append of an earlier lead counts for nothing in a later one of the same node, although the
/// member that gave it has since dropped what it answered for. A version that took such answers could call entries
/// committed that no majority has. Method: a primary and a slow member are cut off together; what the primary proposes
/// reaches that member, and is then dropped for the log of the primary that the others elect. The first node leads
/// again when the answer arrives.
#[tokio::test(start_paused = true)]
async fn late_answers_of_an_earlier_lead_count_for_nothing_in_a_later_one() {
    const ONE_WAY: Duration = Duration::from_secs(3);
    let net = TestNet::founded(5, 5).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2, 3, 4]).await;
    let (first, far) = (net.nodes[0].member().peer, net.nodes[4].member().peer);
    net.world.cut_off([first, far]);
    net.world.network.set_distance(far, ONE_WAY);
    let orphans = (1..4).map(|number| net.nodes[0].propose_here(owner(), submit(number)));
    let (orphans, ()) = tokio::join!(join_all(orphans), async {
        // The member has what was proposed, and its answer is on the way.
        net.until("the far member has the orphans", |net| {
            (net.nodes[4].group().last_log() == net.nodes[0].group().last_log()).then_some(())
        })
        .await;
        let elected = net.until("a primary of the others", |net| {
            (1..4).find(|index| net.nodes[*index].quorum().leading().is_some())
        });
        let elected = elected.await;
        net.world.network.set_distance(far, Duration::ZERO);
        net.world.heal();
        net.nodes[elected].quorum().propose(owner(), submit(9), Duration::from_secs(5)).await.unwrap().unwrap();
        net.converged(&[0, 1, 2, 3, 4]).await;
        // A voter that heard the other primary just now refuses, and then somebody else may win.
        while net.nodes[0].quorum().leading().is_none() {
            net.nodes[0].group().raft.trigger().elect().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(orphans.iter().all(Result::is_err), "what was never committed was acknowledged: {orphans:?}");
    net.commit(submit(10)).await.unwrap();
    tokio::time::sleep(APPEND_DEADLINE_MAX).await;
    net.commit(submit(11)).await.unwrap();
    net.converged(&[0, 1, 2, 3, 4]).await;
    assert_eq!(net.nodes.iter().map(jobs).collect::<Vec<_>>(), vec![4; 5], "the first, and three since");
}

/// Goal: appends to a log are synced one after the other, so that none can be told as synced before an earlier one. A
/// version that has several under way loses track when they end out of order. Method: many commands at once on disks
/// whose syncs are slow, through a change of primaries.
#[tokio::test(start_paused = true)]
async fn a_log_has_one_append_under_way_at_a_time() {
    let mut net = TestNet::founded(3, 3).await;
    net.nodes.iter().for_each(|node| node.disk.set_sync_delay(Duration::from_millis(30)));
    join_all((0..200).map(|number| net.commit(submit(number)))).await.into_iter().for_each(|done| drop(done.unwrap()));
    net.crash(0);
    join_all((200..400).map(|number| net.commit(submit(number))))
        .await
        .into_iter()
        .for_each(|done| drop(done.unwrap()));
    net.converged(&[1, 2]).await;
    assert_eq!(jobs(&net.nodes[1]), 400);
    assert_eq!(net.nodes.iter().map(|node| node.disk.counts().appends_unsynced_most).max(), Some(1));
}
