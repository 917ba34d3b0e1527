//! Wall clocks of members that are set wrong while the quorum works.

use super::*;

const HOUR_MS: i64 = 3_600_000;
const YEAR_MS: i64 = 365 * 24 * HOUR_MS;

impl TestNet {
    fn set_clock(&self, index: usize, wrong_ms: i64) {
        self.nodes[index].offset.set(wrong_ms);
    }

    /// How far the time of the record, a command just committed, is ahead of what the clocks should say.
    async fn record_ahead_ms(&self) -> i64 {
        // What a member hears of the others' clocks is a heartbeat old.
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.commit(Command::Quorum(QuorumCommand::Noop)).await.unwrap();
        let time = self.nodes[self.led().await].quorum().view().time;
        time.0 as i64 - VirtualClock::right_wall(self.clock).0 as i64
    }
}

/// Goal: whoever's clock it is, and however wrong, one of three moves neither the record's time nor the lead.
#[tokio::test(start_paused = true)]
async fn one_wrong_clock_of_three_moves_neither_time_nor_the_lead() {
    let net = TestNet::founded(3, 3).await;
    assert!(net.record_ahead_ms().await.abs() < 100);
    let (primary, terms) = (net.led().await, net.terms());
    for index in 0..3 {
        for wrong_ms in [HOUR_MS, -HOUR_MS, 2 * YEAR_MS, -2 * YEAR_MS] {
            net.set_clock(index, wrong_ms);
            let ahead = net.record_ahead_ms().await;
            assert!(ahead.abs() < 100, "node {index} is off by {wrong_ms} ms, the record by {ahead} ms");
            let apart = net.nodes[index].quorum().view().clock_apart_ms.expect("it hears the others");
            assert!((apart - wrong_ms).abs() < 100, "{apart}");
            net.set_clock(index, 0);
        }
    }
    assert_eq!((net.led().await, net.terms()), (primary, terms), "nobody was elected for a clock");
    assert_eq!(net.nodes[primary].quorum().view().clock_step, None);
}

/// Goal: the record follows the clocks of a majority ahead, and back as soon as they are right, also under another
/// primary.
#[tokio::test(start_paused = true)]
async fn clocks_of_all_that_are_put_right_take_the_record_along() {
    let mut net = TestNet::founded(3, 3).await;
    net.record_ahead_ms().await;
    for elect in [false, true] {
        (0..3).for_each(|index| net.set_clock(index, YEAR_MS));
        assert!((net.record_ahead_ms().await - YEAR_MS).abs() < 100);
        if elect {
            let primary = net.led().await;
            net.crash(primary);
            net.start(primary).await;
        }
        (0..3).for_each(|index| net.set_clock(index, 0));
        let ahead = net.record_ahead_ms().await;
        assert!(ahead.abs() < 100, "{ahead}");
        let step = net.nodes[net.led().await].quorum().view().clock_step.expect("it is told");
        assert!((step.by_ms + YEAR_MS).abs() < 2_000, "{step:?}");
    }
    net.converged(&[0, 1, 2]).await;
}
