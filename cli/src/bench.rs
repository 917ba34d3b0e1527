//! `bench`: measurements of a running testnet by the client of [`quorate_bench`], printed.
//!
//! Figures go to stdout: with `--json` one row a line, the machine's own limits first. Progress goes to stderr. Nothing
//! here judges: what is fast enough is said elsewhere.

use std::time::Duration;

use quorate_bench::{
    BenchError, CommitsPlan, EtcdPlan, FailoverPlan, IdlePlan, JobsPlan, MapPlan, ObjectsPlan, Rates, Row, Spread,
    Through, TriggersPlan, on_one_thread,
};
use quorate_testnet::Testnet;

use crate::args::{BenchCommand, Repeated, ThroughArg};
use crate::find::{NodeChoice, resolve_testnet};
use crate::output::{print_json_line, print_to_stderr, table};
use crate::{Common, Failure, Text, facts, print};

pub async fn run(common: &Common, command: BenchCommand) -> Result<(), Failure> {
    let dir = resolve_testnet(common);
    let testnet = Testnet::open(&dir)?;
    if asks_of_testing(&command) && !testnet.layout().testing {
        return Err(BenchError::NotTesting.into());
    }
    if !matches!(command, BenchCommand::Idle { .. }) {
        let disk = dir.clone();
        let limits = on_one_thread(async move || quorate_bench::limits(&disk)).await?;
        show(common, &[Row::Limits(limits)])?;
    }
    let through = |arg: &ThroughArg, default| through(common, &testnet, arg, default);
    // Its own handle goes to the thread of the client.
    let handle = Testnet::open(&dir)?;
    let rows: Vec<Row> = match command {
        BenchCommand::Jobs { through: arg, outstanding, repeated: Repeated { time, runs }, one_trip } => {
            let through = through(&arg, Through::All)?;
            let plan = JobsPlan { through, outstanding: counts(&outstanding), time, runs: runs as usize, one_trip };
            let rows = on_one_thread(async move || quorate_bench::jobs(&handle, &plan, progress).await).await?;
            rows.into_iter().map(Row::Jobs).collect()
        }
        BenchCommand::Commit { through: arg, outstanding, repeated: Repeated { time, runs } } => {
            let through = through(&arg, Through::Primary)?;
            let plan = CommitsPlan { through, outstanding, time, runs: runs as usize };
            let rows = on_one_thread(async move || quorate_bench::commits(&handle, &plan, progress).await).await?;
            rows.into_iter().map(Row::Commits).collect()
        }
        BenchCommand::Objects { through: arg, size, outstanding, repeated: Repeated { time, runs } } => {
            let (through, outstanding) = (through(&arg, Through::All)?, counts(&outstanding));
            let plan = ObjectsPlan { through, sizes: size, outstanding, time, runs: runs as usize };
            let rows = on_one_thread(async move || quorate_bench::objects(&handle, &plan, progress).await).await?;
            rows.into_iter().map(Row::Objects).collect()
        }
        BenchCommand::Map { through: arg, tasks, runs } => {
            let plan = MapPlan { through: through(&arg, Through::Primary)?, tasks, runs: runs as usize };
            vec![Row::Map(on_one_thread(async move || quorate_bench::map(&handle, &plan, progress).await).await?)]
        }
        BenchCommand::Triggers { through: arg, count, fires } => {
            let plan = TriggersPlan { through: through(&arg, Through::Primary)?, count, fires };
            quorate_bench::triggers(&testnet, &plan, progress).await?.into_iter().map(Row::Triggers).collect()
        }
        BenchCommand::Failover { through: arg, kills, planned } => {
            let plan = FailoverPlan { through: through(&arg, Through::All)?, kills, planned };
            vec![Row::Failover(quorate_bench::failover(&testnet, &plan, progress).await?)]
        }
        BenchCommand::Idle { quorums, seconds } => {
            let plan = IdlePlan { quorums, window: Duration::from_secs(seconds) };
            vec![Row::Idle(quorate_bench::idle(&testnet, &plan).await?)]
        }
        BenchCommand::Etcd { outstanding, repeated: Repeated { time, runs } } => {
            let plan = EtcdPlan { outstanding: counts(&outstanding), time, runs: runs as usize };
            quorate_bench::etcd(&testnet, &plan, progress).await?.into_iter().map(Row::Etcd).collect()
        }
    };
    show(common, &rows)
}

fn progress(line: &str) {
    print_to_stderr(line);
}

fn counts(outstanding: &[u32]) -> Vec<usize> {
    outstanding.iter().map(|outstanding| *outstanding as usize).collect()
}

/// Whether it needs routes that only nodes started with `--testing` have.
fn asks_of_testing(command: &BenchCommand) -> bool {
    match command {
        BenchCommand::Commit { .. } | BenchCommand::Triggers { .. } => true,
        BenchCommand::Idle { quorums, .. } => *quorums > 0,
        BenchCommand::Jobs { .. }
        | BenchCommand::Objects { .. }
        | BenchCommand::Map { .. }
        | BenchCommand::Failover { .. }
        | BenchCommand::Etcd { .. } => false,
    }
}

/// The nodes to ask: `--through`, else the one of `--node`, else the default.
fn through(common: &Common, testnet: &Testnet, arg: &ThroughArg, default: Through) -> Result<Through, Failure> {
    match (arg.through, &common.node) {
        (Some(_), Some(_)) => Err(Failure::usage("--through and --node both say which nodes to ask: give one of them")),
        (Some(through), None) => Ok(through),
        (None, None) => Ok(default),
        (None, Some(NodeChoice::Url(_))) => Err(Failure::usage("a testnet is measured: give --node its number")),
        (None, Some(NodeChoice::Index(index))) => {
            testnet.layout().node(*index)?;
            Ok(Through::Node(*index))
        }
    }
}

fn show(common: &Common, rows: &[Row]) -> Result<(), Failure> {
    match common.json {
        true => rows.iter().try_for_each(print_json_line),
        false => print(page(rows)),
    }
}

/// Rows of one measurement as people read them.
fn page(rows: &[Row]) -> Text {
    match rows.first() {
        None => Text::default(),
        Some(Row::Limits(limits)) => facts(&[
            ("machine", format!("{} cores", limits.cores)),
            ("synced appends/s", spread(limits.fdatasync_per_s, 0)),
            ("loopback trips/s", spread(limits.loopback_trips_per_s, 0)),
            ("hashed MiB/s", spread(limits.blake3_mib_per_s, 0)),
        ]),
        Some(Row::Jobs(_)) => table(
            &["through", "outstanding", "jobs/s", "submit p50", "p50", "p99", "max", "failed", "CPU ms"],
            rows.iter().filter_map(|row| {
                let Row::Jobs(row) = row else { return None };
                let head = [row.through.to_string(), row.outstanding.to_string()];
                let submit = row.submit_p50_ms.map_or_else(|| "-".to_owned(), |ms| spread(ms, 1));
                Some(cells(head, &row.rates, Some(submit)))
            }),
        ),
        Some(Row::Commits(_)) => table(
            &["", "outstanding", "commits/s", "p50", "p99", "max", "failed", "CPU ms"],
            rows.iter().filter_map(|row| {
                let Row::Commits(row) = row else { return None };
                let how = if row.in_process { "in process" } else { "from outside" };
                Some(cells([how.to_owned(), row.outstanding.to_string()], &row.rates, None))
            }),
        ),
        Some(Row::Objects(_)) => objects(rows),
        Some(Row::Map(row)) => table(
            &["through", "tasks", "tasks/s", "CPU ms"],
            [vec![
                format!("node {}", row.node),
                row.tasks.to_string(),
                spread(row.tasks_per_s, 0),
                row.cpu_ms.get("all").map_or_else(|| "-".to_owned(), |ms| spread(*ms, 3)),
            ]],
        ),
        Some(Row::Triggers(_)) => table(
            &["triggers", "fired", "skipped", "refused", "late p50", "p99", "max", "memory each"],
            rows.iter().filter_map(|row| {
                let Row::Triggers(row) = row else { return None };
                let figures = &row.figures;
                Some(vec![
                    figures.triggers.to_string(),
                    figures.fired.to_string(),
                    figures.skipped.to_string(),
                    figures.failed.to_string(),
                    format!("{:.0} ms", figures.p50_ms),
                    format!("{:.0} ms", figures.p99_ms),
                    format!("{:.0} ms", figures.max_ms),
                    match figures.resident_bytes_per_trigger {
                        Some(bytes) if figures.triggers > 1 => format!("{bytes} B"),
                        _ => "-".to_owned(),
                    },
                ])
            }),
        )
        .below("measured in process, by the node"),
        Some(Row::Failover(row)) => Text::from(format!(
            "{} {}, begun through {}: median {:.0} ms, p99 {:.0} ms, worst {:.0} ms without an acknowledgement; {} \
             submits went through a second node in time, {} again after a refusal",
            row.kills,
            if row.planned { "planned ends" } else { "kills" },
            row.through,
            row.p50_ms,
            row.p99_ms,
            row.max_ms,
            row.hedged,
            row.retried
        )),
        Some(Row::Idle(row)) => table(
            &["node", "of a core", "memory", "quorums"],
            row.nodes.iter().map(|node| {
                vec![
                    node.index.to_string(),
                    format!("{:.2} %", node.cpu_s / row.window_s * 100.0),
                    format!("{:.1} MiB", node.rss_bytes as f64 / f64::from(1 << 20)),
                    node.quorums.to_string(),
                ]
            }),
        )
        .below(format!(
            "all together {:.3} of one core over {:.0} s; {} elections",
            row.cores_total, row.window_s, row.term_changes
        )),
        Some(Row::Etcd(first)) => table(
            &["through", "outstanding", "puts/s", "p50", "p99", "max", "failed", "CPU ms"],
            rows.iter().filter_map(|row| {
                let Row::Etcd(row) = row else { return None };
                Some(cells([row.through.to_owned(), row.outstanding.to_string()], &row.rates, None))
            }),
        )
        .below(format!("etcd {}, three nodes, over its JSON gateway", first.version)),
    }
}

fn objects(rows: &[Row]) -> Text {
    let rows = || rows.iter().filter_map(|row| if let Row::Objects(row) = row { Some(row) } else { None });
    let figures = table(
        &["", "bytes", "outstanding", "per s", "MiB/s", "p50", "p99", "max", "failed", "CPU ms"],
        rows().map(|row| {
            let head = [row.operation.to_owned(), row.bytes.to_string(), row.outstanding.to_string()];
            let mut cells = cells(head, &row.rates, None);
            cells.insert(4, spread(row.mib_per_s, 1));
            cells
        }),
    );
    rows().fold(figures, |page, row| {
        let Some(bound) = &row.bound else { return page };
        let parts: Vec<String> =
            bound.parts_ms.iter().map(|(part, ms)| format!("{part} {:.2} s", ms.median / 1000.0)).collect();
        page.below(format!(
            "{} of {} bytes: {:.2} of the bound, {} MiB/s",
            row.operation,
            row.bytes,
            bound.ratio,
            spread(bound.mib_per_s, 0)
        ))
        .and(format!("of the bound, summed over threads: {}", parts.join(", ")))
    })
}

/// The cells of a row: its head, the rate, what stands before the latencies, these, failures and processor time.
fn cells<const N: usize>(head: [String; N], rates: &Rates, submit: Option<String>) -> Vec<String> {
    let mut cells: Vec<String> = head.into();
    cells.push(spread(rates.per_s, if rates.per_s.median < 100.0 { 1 } else { 0 }));
    cells.extend(submit);
    cells.extend([rates.p50_ms, rates.p99_ms, rates.max_ms].map(|ms| format!("{:.2} ms", ms.median)));
    cells.push(rates.failed.to_string());
    cells.push(rates.cpu_ms.get("all").map_or_else(|| "-".to_owned(), |ms| format!("{:.2}", ms.median)));
    cells
}

/// The median, and the least and the greatest where they differ from it.
fn spread(of: Spread, digits: usize) -> String {
    let Spread { median, min, max } = of;
    match min < max {
        true => format!("{median:.digits$} ({min:.digits$}..{max:.digits$})"),
        false => format!("{median:.digits$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_shown_only_where_there_is_one() {
        assert_eq!(spread(Spread { median: 2.0, min: 1.0, max: 3.5 }, 1), "2.0 (1.0..3.5)");
        assert_eq!(spread(Spread { median: 2.0, min: 2.0, max: 2.0 }, 0), "2");
    }

    #[test]
    fn rows_are_shown_with_their_rates() {
        let flat = Spread { median: 5.0, min: 4.0, max: 6.0 };
        let rates = Rates {
            runs: 3,
            done: 15,
            per_s: flat,
            p50_ms: flat,
            p99_ms: flat,
            max_ms: flat,
            failed: 2,
            failure: None,
            cpu_ms: [("all".to_owned(), flat)].into(),
        };
        let shown = cells(["primary".to_owned()], &rates, Some("-".to_owned()));
        assert_eq!(shown, ["primary", "5.0 (4.0..6.0)", "-", "5.00 ms", "5.00 ms", "5.00 ms", "2", "5.00"]);
        assert_eq!(page(&[]), Text::default());
    }
}
