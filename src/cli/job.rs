//! `job ls|show|wait|history|cancel`.

use quorate_protocols::api::{ErrorCode, JobInfo, Listing};
use quorate_protocols::ids::JobId;
use quorate_protocols::job::RunState;
use quorate_protocols::job::record::HistoryEntry;
use quorate_testnet::{Client, ClientError};

use super::args::{Common, JobCommand};
use super::failure::Failure;
use super::find::client_of;
use super::output::{bytes, facts, instant, or_dash, print, print_json, progress, table, warn_unreachable, word};

pub async fn run(common: &Common, command: JobCommand) -> Result<(), Failure> {
    let client = client_of(common)?;
    let show = |job: &JobInfo| match common.json {
        true => print_json(job),
        false => print(job_text(job)),
    };
    match command {
        JobCommand::Ls => {
            let listing: Listing<JobInfo> = client.get("/v1/jobs").await?;
            warn_unreachable(&listing.unreachable, listing.truncated);
            match common.json {
                true => print_json(&listing.items),
                false => print(jobs_table(&listing.items)),
            }
        }
        JobCommand::Show { job } => {
            let job = job.resolve(&client).await?;
            show(&client.get(&format!("/v1/jobs/{job}")).await?)
        }
        JobCommand::Wait { job } => {
            let job = job.resolve(&client).await?;
            let ended = wait(&client, job, common.json).await?;
            show(&ended)?;
            match ended.state {
                RunState::Succeeded => Ok(()),
                state => Err(Failure::failed(format!("job {job} is {}", word(&state)))),
            }
        }
        JobCommand::History { job } => {
            let job = job.resolve(&client).await?;
            let entries: Vec<HistoryEntry> = client.get(&format!("/v1/jobs/{job}/history")).await?;
            match common.json {
                true => print_json(&entries),
                false => {
                    let rows =
                        entries.iter().map(|entry| vec![instant(entry.at), word(&entry.state), entry.what.clone()]);
                    print(table(&["at", "state", "what"], rows))
                }
            }
        }
        JobCommand::Cancel { job } => {
            let job = job.resolve(&client).await?;
            let nothing = serde_json::Value::Null;
            show(&client.post(&format!("/v1/jobs/{job}/cancel"), &nothing).await?)
        }
    }
}

async fn wait(client: &Client, job: JobId, json: bool) -> Result<JobInfo, Failure> {
    let bar = progress(None, json);
    loop {
        match client.get::<JobInfo>(&format!("/v1/jobs/{job}/wait?timeout_ms=2000")).await {
            Ok(info) if info.state.is_final() => {
                bar.finish_and_clear();
                return Ok(info);
            }
            Ok(info) => {
                bar.set_message(word(&info.state));
                bar.tick();
            }
            // A quorum between two primaries: the job is none the worse.
            Err(ClientError::Refused { error, .. })
                if [ErrorCode::Busy, ErrorCode::Unknown].iter().any(|code| word(code) == error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn jobs_table(jobs: &[JobInfo]) -> String {
    let rows = jobs.iter().map(|job| {
        vec![
            job.job.to_string(),
            job.kind.to_string(),
            word(&job.state),
            instant(job.created_at),
            or_dash(job.name.as_ref()),
            job.why.clone().unwrap_or_default(),
        ]
    });
    table(&["job", "kind", "state", "created", "name", "why"], rows)
}

pub fn job_text(job: &JobInfo) -> String {
    let mut rows = vec![
        ("job", job.job.to_string()),
        ("kind", job.kind.to_string()),
        ("state", word(&job.state)),
        ("why", or_dash(job.why.as_ref())),
        ("quorum", job.quorum.to_string()),
        ("primary", or_dash(job.primary)),
        ("owner", job.owner.to_string()),
        ("worker", or_dash(job.worker.map(|worker| format!("{worker} (attempt {})", job.attempts)))),
        ("name", or_dash(job.name.as_ref())),
        ("size", or_dash(job.size.map(bytes))),
        ("profile", or_dash(job.profile.map(|it| format!("{it}{}", if job.degraded { ", degraded" } else { "" })))),
        ("created", instant(job.created_at)),
        ("finished", or_dash(job.finished_at.map(instant))),
        ("object", or_dash(job.object)),
    ];
    // A run that has ended holds nothing: what became an object is told by `object show`.
    rows.extend(job.columns.iter().filter(|_| !job.state.is_final()).map(|column| {
        let holder = or_dash(column.holder);
        ("column", format!("{} {holder} {} {}/{}", column.column, word(&column.state), column.stored, job.segments))
    }));
    rows.extend(job.failed.iter().map(|failed| ("failed", failed.clone())));
    facts(&rows)
}
