//! Members behind slow and narrow links.

use futures::future::join_all;
use quorate_protocols::quorum::request::Query;

use super::*;

/// A submit that weighs some twenty thousand bytes. It is refused for that, once it is committed; the log keeps it.
fn heavy(number: u8) -> Command {
    let spec = StoreSpec { name: Some("x".repeat(20_000)), size: None, profile: Profile { data: 2, parity: 1 } };
    Command::submit(&owner_key(), JobId { quorum: quorum_id(), local: [number; 16] }, JobSpec::store(spec))
}

#[tokio::test(start_paused = true)]
async fn reads_send_a_slow_member_a_few_messages() {
    let net = TestNet::founded(3, 3).await;
    let far = net.nodes[2].member().peer;
    net.world.network.set_distance(far, Duration::from_millis(200));
    let quorum = net.nodes[net.led().await].quorum();
    let before = net.world.raft_asked(3);
    let began = tokio::time::Instant::now();
    let reads = (0..2_000u64).map(|number| {
        let quorum = quorum.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(number)).await;
            quorum.query(Query::Objects { after: None, limit: 1 }, false).await
        }
    });
    let answers = join_all(reads).await;
    assert!(answers.iter().all(Result::is_ok), "a majority is near");
    let (asked, took) = (net.world.raft_asked(3) - before, began.elapsed());
    // One per 250 ms or so, and a few for commits.
    assert!(asked <= 25, "{asked} messages in {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_behind_a_narrow_link_catches_up_in_small_steps() {
    let net = TestNet::founded(3, 3).await;
    let far = net.nodes[2].member().peer;
    net.world.cut_off([far]);
    for number in 0..100 {
        let refused = net.commit(heavy(number)).await;
        assert!(matches!(refused, Err(Rejection::TooLarge { .. })), "{refused:?}");
    }
    // Two million bytes lack there. An append of all that one may carry would take ten seconds, and has one and a half.
    net.world.network.set_distance(far, Duration::from_millis(20));
    net.world.network.set_bandwidth(far, 100_000);
    net.world.heal();
    net.converged(&[0, 1, 2]).await;
}
