//! `bench triggers`: how late a clock's fires are, one by one and thousands at once. A node measures it of itself: no
//! client can see when an instant was applied.

use quorate_api::{BenchTriggers, TriggersBench};
use quorate_testnet::Testnet;

use crate::Progress;
use crate::error::BenchError;
use crate::report::TriggersRow;
use crate::roles::Roles;
use crate::through::Through;

/// Between the instants of the trigger that fires alone.
const PERIOD_MS: u64 = 100;

/// Of those that fire once: anything longer than the measurement.
const LONG_MS: u64 = 3_600_000;

/// What is measured.
#[derive(Clone, Debug)]
pub struct TriggersPlan {
    /// A member: others do not hear when a trigger fires.
    pub through: Through,
    /// Triggers that are due in the same second.
    pub count: u32,
    /// Fires of the one that fires alone.
    pub fires: u32,
}

pub async fn triggers(
    testnet: &Testnet,
    plan: &TriggersPlan,
    progress: Progress,
) -> Result<Vec<TriggersRow>, BenchError> {
    let roles = Roles::find(testnet).await?;
    let quorum = roles.quorum;
    let node = roles.nodes(plan.through)?[0];
    let client = testnet.client(node)?;
    let mut rows = Vec::new();
    // The first of them has workers found, and the module compiled.
    for (name, count, fires, period_ms) in
        [("", 1, 20, PERIOD_MS), ("alone", 1, plan.fires, PERIOD_MS), ("at once", plan.count, 1, LONG_MS)]
    {
        let request = BenchTriggers { quorum, count, fires, period_ms };
        let figures: TriggersBench = client.post("/v1/bench/triggers", &request).await?;
        if !name.is_empty() {
            progress(&format!("{name}: {} fires, p99 {:.0} ms late", figures.fired, figures.p99_ms));
            rows.push(TriggersRow { in_process: true, node, quorum, figures });
        }
    }
    Ok(rows)
}
