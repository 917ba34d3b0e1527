//! `bench triggers`: how late a clock's fires are, one by one and ten thousand at once.

use quorate_api::{BenchTriggers, TriggersBench};
use quorate_testnet::Testnet;

use super::at_member;
use crate::{Common, Failure, print, print_json, print_to_stderr, table};

/// Between the instants of the trigger that fires alone.
const PERIOD_MS: u64 = 100;

/// Of those that fire once: anything longer than the measurement.
const LONG_MS: u64 = 3_600_000;

pub async fn run(common: &Common, testnet: &Testnet, count: u32, fires: u32) -> Result<(), Failure> {
    let (quorum, client) = at_member(common, testnet).await?;
    let mut rows = Vec::new();
    // The first of them has workers found, and the module compiled.
    for (name, count, fires, period_ms) in
        [("", 1, 20, PERIOD_MS), ("alone", 1, fires, PERIOD_MS), ("at once", count, 1, LONG_MS)]
    {
        let request = BenchTriggers { quorum, count, fires, period_ms };
        let row: TriggersBench = client.post("/v1/bench/triggers", &request).await?;
        if !name.is_empty() {
            print_to_stderr(format!("{name}: {} fires, p99 {:.0} ms late", row.fired, row.p99_ms));
            rows.push(row);
        }
    }
    if common.json {
        return print_json(&rows);
    }
    let rows = rows.iter().map(|row| {
        vec![
            row.triggers.to_string(),
            row.fired.to_string(),
            row.skipped.to_string(),
            row.failed.to_string(),
            format!("{:.0} ms", row.p50_ms),
            format!("{:.0} ms", row.p99_ms),
            format!("{:.0} ms", row.max_ms),
            match row.resident_bytes_per_trigger {
                Some(bytes) if row.triggers > 1 => format!("{bytes} B"),
                _ => "-".to_owned(),
            },
        ]
    });
    print(table(&["triggers", "fired", "skipped", "refused", "late p50", "p99", "max", "memory each"], rows))
}
