//! `job fires|next|fire`: what a trigger did, what it will do, and having it do so now.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quorate_api::{FireInfo, FireOutcome, FireRequest, InstantInfo, NextInfo};
use quorate_protocols::ids::{JobId, Millis, Nonce, QuorumId};
use quorate_protocols::trigger::record::Clock;
use quorate_protocols::trigger::{Schedule, show_instant};
use quorate_spec::show;
use quorate_testnet::Client;

use super::super::advice;
use super::super::args::{Common, FireArgs, NextArgs, SpecArgs};
use super::super::failure::Failure;
use super::super::find::client_of;
use super::super::ids::Ids;
use super::super::output::{Text, or_dash, print, print_json, print_to_stderr, table, word};
use super::super::reference::JobRef;
use super::{submit, watch};

/// How long a fire is asked for again whose answer did not come: a failover and more.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);

/// Every row that is still remembered, in order of the instants.
pub async fn fires(common: &Common, client: &Client, job: JobId) -> Result<(), Failure> {
    let mut rows: Vec<FireInfo> = client.list(&format!("/v1/jobs/{job}/fires")).await?.items;
    // A fire by hand may be recorded between an instant and its record.
    rows.sort_by_key(|row| (row.instant_at, row.number));
    match common.json {
        true => print_json(&rows),
        false => print(fires_table(&rows, &Ids::new(common))),
    }
}

fn fires_table(rows: &[FireInfo], ids: &Ids) -> Text {
    let rows = rows.iter().map(|row| {
        let last = row.last_at.map(|last| format!(" to {}", show_instant(last))).unwrap_or_default();
        let outcome = match row.outcome {
            FireOutcome::Skipped if row.skipped != 1 => format!("{} skipped", row.skipped),
            FireOutcome::Withdrawn => format!("{} withdrawn", row.skipped),
            outcome => word(&outcome),
        };
        let late = row.recorded_at.0.saturating_sub(row.last_at.unwrap_or(row.instant_at).0);
        vec![
            row.number.to_string(),
            format!("{}{last}", show_instant(row.instant_at)),
            word(&row.cause),
            outcome,
            or_dash(row.run.map(|run| ids.job(run))),
            format!("{late} ms"),
            match row.outcome {
                FireOutcome::Withdrawn => {
                    "skipped by clocks that ran ahead, and open again since they are right".to_owned()
                }
                _ => row.reason.map(|reason| reason.explain().to_owned()).unwrap_or_default(),
            },
        ]
    });
    table(&["row", "instant", "cause", "outcome", "run", "late", "why"], rows)
}

/// Of a job, as its quorum has it recorded; of a file, as if it were submitted now.
pub async fn next(common: &Common, args: NextArgs) -> Result<(), Failure> {
    let NextArgs { job, count, set } = args;
    let path = Path::new(&job);
    let is_file = job == "-" || path.exists() || job.contains('/') || job.ends_with(".toml");
    let info = match (is_file, job.parse::<JobRef>()) {
        (true, _) => of_file(SpecArgs { spec: path.to_owned(), set }, count)?,
        (false, Ok(_)) if !set.is_empty() => {
            return Err(Failure::usage("--set is for a specification: a job that was submitted has its parameters"));
        }
        (false, Ok(job)) => {
            let client = client_of(common)?;
            let job = job.resolve(&client).await?;
            client.get(&format!("/v1/jobs/{job}/next?count={count}")).await?
        }
        (false, Err(error)) => return Err(Failure::usage(format!("{job:?} is no file, and no job: {error}"))),
    };
    if common.json {
        return print_json(&info);
    }
    if info.suspended {
        let resume = format!("`quorate job unsuspend {}`", path.display());
        let what = format!("the trigger is suspended: what falls due is skipped until {resume}");
        print_to_stderr(advice::complete(common, &what.into()));
    }
    if info.next.is_empty() {
        return print(format!("no clock fires it any more, or ever: {}", info.when));
    }
    print(next_table(&info.next))
}

fn next_table(next: &[InstantInfo]) -> Text {
    let has_jitter = next.iter().any(|next| next.due_at != next.instant_at);
    let rows = next.iter().map(|next| {
        let mut row = vec![next.text.clone()];
        row.extend(has_jitter.then(|| show_instant(next.due_at)));
        row
    });
    table(if has_jitter { &["instant", "due, with its jitter"] } else { &["instant"] }, rows)
}

fn of_file(args: SpecArgs, count: usize) -> Result<NextInfo, Failure> {
    let file = submit::read(&args)?.file;
    let Some(trigger) = file.trigger() else {
        return Err(Failure::failed("the specification has no [trigger]: the job runs once, when it is submitted"));
    };
    let schedule =
        Schedule::compile(trigger).map_err(|(key, problem)| Failure::failed(format!("`trigger.{key}`: {problem}")))?;
    let now = Millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64);
    let jittered = !trigger.when.bounds().jitter.is_zero();
    if jittered {
        print_to_stderr(
            "its jitter follows from the job's id, which only a submit gives: each is due up to so much later",
        );
    }
    let next = schedule.iter().flat_map(|schedule| {
        let somewhere = JobId { quorum: QuorumId([0; 16]), local: [0; 16] };
        let preview = schedule.preview(somewhere, &Clock::default(), now, count);
        preview.into_iter().map(|next| InstantInfo {
            instant_at: next.instant,
            due_at: next.instant,
            text: schedule.show(next.instant),
        })
    });
    Ok(NextInfo { when: show::when(trigger), suspended: false, asked_at: now, next: next.collect() })
}

/// Asks again under the same nonce until it is answered: a failover in the middle makes no second fire.
pub async fn fire(common: &Common, client: &Client, args: FireArgs) -> Result<(), Failure> {
    let FireArgs { job, respect_overlap } = args;
    let job = job.resolve(client).await?;
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce.0)
        .map_err(|error| Failure::failed(format!("no random number could be had: {error}")))?;
    let request = FireRequest { respect_overlap, nonce: Some(nonce) };
    let began = Instant::now();
    let row: FireInfo = loop {
        match client.post(&format!("/v1/jobs/{job}/fire"), &request).await {
            Ok(row) => break row,
            Err(error) if began.elapsed() < PATIENCE && watch::passes(&error) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    };
    if common.json {
        return print_json(&row);
    }
    let overlap = match respect_overlap {
        true => "by its overlap policy",
        false => "beside whatever runs (with --respect-overlap its overlap policy counts)",
    };
    print(match (row.run, row.reason) {
        (Some(run), _) => format!("fired {overlap}: run {run}"),
        (None, Some(reason)) => format!("not fired, {overlap}: {}", reason.explain()),
        (None, None) => format!("fired {overlap}: it waits until an earlier run has ended"),
    })
}
