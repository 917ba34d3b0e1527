//! `job`: submit, look, decide.

mod logs;
mod output;
mod submit;
mod submit_many;
mod text;
mod triggers;
mod watch;

use quorate_api::{
    HistoryEntry, JobInfo, Listing, ReceiptBundle, ResolutionInfo, ResolveRequest, TaskInfo, UpdateRequest, WhyInfo,
};
use quorate_protocols::ids::JobId;
use quorate_testnet::Client;

use super::advice;
use super::args::{Common, JobCommand, ListArgs, Resolution, UpdateArgs};
use super::failure::Failure;
use super::find::client_of;
use super::ids::Ids;
use super::output::{Missing, instant, print, print_json, table, word};
use super::reader::while_read;
use super::reference::{JobRef, PeerRef};

pub use output::content as output_content;
pub use text::verdict_text;
pub use watch::{passes, show as show_progress};

pub async fn run(common: &Common, command: JobCommand) -> Result<(), Failure> {
    if let JobCommand::Validate(args) = &command {
        // Nobody is asked, so nobody need be there.
        return submit::validate(common, args);
    }
    if let JobCommand::Next(args) = command {
        // Of a file nobody is asked either.
        return triggers::next(common, args).await;
    }
    let client = &client_of(common)?;
    match command {
        JobCommand::Validate(_) | JobCommand::Next(_) => unreachable!("handled above, without a node"),
        JobCommand::Submit(args) => match args.single() {
            Some(spec) => submit::submit(common, client, spec, args).await,
            None => submit_many::submit_many(common, client, args).await,
        },
        JobCommand::Plan(args) => submit::plan(common, client, &args).await,
        JobCommand::Ls(args) => ls(common, client, args).await,
        JobCommand::Show { job, receipts } => show(common, client, job.resolve(client).await?, receipts).await,
        JobCommand::Why { job } => {
            let job = job.resolve(client).await?;
            let why: WhyInfo = client.get(&format!("/v1/jobs/{job}/why")).await?;
            match common.json {
                true => print_json(&why),
                false => {
                    let ids = Ids::ask(common, client).await;
                    print(advice::complete(common, &ids.sentence(&why.why).into()))
                }
            }
        }
        JobCommand::Wait { job } => {
            let job = job.resolve(client).await?;
            watch::until_end(common, client, job, false, None).await
        }
        JobCommand::History { job } => {
            let job = job.resolve(client).await?;
            let entries = history(client, job).await?;
            match common.json {
                true => print_json(&entries),
                false => {
                    let ids = Ids::ask(common, client).await;
                    let what = |entry: &HistoryEntry| ids.sentence(&entry.what);
                    let rows =
                        entries.iter().map(|entry| vec![instant(entry.recorded_at), word(&entry.state), what(entry)]);
                    print(table(&["at", "state", "what"], rows))
                }
            }
        }
        JobCommand::Tasks { job, step } => tasks(common, client, job.resolve(client).await?, step).await,
        JobCommand::Logs(args) => while_read(logs::run(common, client, args)).await,
        JobCommand::Output { job, task, output, raw } => {
            output::run(client, job.resolve(client).await?, task, output.as_deref(), raw).await
        }
        JobCommand::Cancel { job } => send_command(common, client, job, "cancel", &()).await,
        JobCommand::Pause { job } => send_command(common, client, job, "pause", &()).await,
        JobCommand::Resume { job } => send_command(common, client, job, "resume", &()).await,
        JobCommand::Fires { job } => triggers::fires(common, client, job.resolve(client).await?).await,
        JobCommand::Fire(args) => triggers::fire(common, client, args).await,
        JobCommand::Suspend { job } => send_command(common, client, job, "suspend", &()).await,
        JobCommand::Unsuspend { job } => send_command(common, client, job, "unsuspend", &()).await,
        JobCommand::Retry { job } => send_command(common, client, job, "retry", &()).await,
        JobCommand::Resolve { job, how } => {
            let resolution = match how {
                Resolution { skip: true, .. } => ResolutionInfo::Skip,
                Resolution { revert: true, .. } => ResolutionInfo::Revert,
                // One of the three is given: the group is required.
                Resolution { .. } => ResolutionInfo::Fail,
            };
            send_command(common, client, job, "resolve", &ResolveRequest { resolution }).await
        }
        JobCommand::Update(args) => {
            let UpdateArgs { job, priority, parallelism, memory, disk, slots, label } = args;
            let labels = (!label.is_empty()).then(|| label.into_iter().collect());
            let request =
                UpdateRequest { priority, parallelism, memory_bytes: memory, disk_bytes: disk, slots, labels };
            if request == UpdateRequest::default() {
                return Err(Failure::usage(
                    "nothing to change: give --priority, --parallelism, --memory, --disk, --slots or --label",
                ));
            }
            send_command(common, client, job, "update", &request).await
        }
    }
}

/// Tells the quorum something about the job, and shows the job as it is then.
async fn send_command(
    common: &Common,
    client: &Client,
    job: JobRef,
    verb: &str,
    body: &impl serde::Serialize,
) -> Result<(), Failure> {
    let job = job.resolve(client).await?;
    let info: JobInfo = client.post(&format!("/v1/jobs/{job}/{verb}"), body).await?;
    show_info(common, client, &info).await
}

async fn show_info(common: &Common, client: &Client, info: &JobInfo) -> Result<(), Failure> {
    match common.json {
        true => print_json(info),
        false => {
            let ids = Ids::ask(common, client).await;
            print(advice::complete(common, &text::job_text(info, &ids)))
        }
    }
}

async fn show(common: &Common, client: &Client, job: JobId, receipts: bool) -> Result<(), Failure> {
    let info: JobInfo = client.get(&format!("/v1/jobs/{job}")).await?;
    if !receipts {
        return show_info(common, client, &info).await;
    }
    let bundle: ReceiptBundle = client.get(&format!("/v1/jobs/{job}/receipts")).await?;
    if common.json {
        /// The job with its receipts beside it.
        #[derive(serde::Serialize)]
        struct WithReceipts {
            #[serde(flatten)]
            info: JobInfo,
            receipts: ReceiptBundle,
        }
        return print_json(&WithReceipts { info, receipts: bundle });
    }
    let ids = Ids::ask(common, client).await;
    print(text::job_text(&info, &ids).below(text::receipts_text(&bundle, &ids)))
}

async fn ls(common: &Common, client: &Client, args: ListArgs) -> Result<(), Failure> {
    let ListArgs { state, kind, owner, name, complete } = args;
    let owner = match owner.as_deref() {
        None | Some("me") => owner,
        Some(text) => {
            let peer: PeerRef = text.parse().map_err(|error| Failure::usage(format!("--owner: {error}")))?;
            Some(peer.resolve(client).await?.to_string())
        }
    };
    let query: Vec<(&str, String)> =
        [("state", state), ("kind", kind.map(|kind| kind.to_string())), ("owner", owner), ("name", name)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
    let listing: Listing<JobInfo> = client.list_where("/v1/jobs", &query).await?;
    let ids = Ids::ask(common, client).await;
    let whole = Missing::of(&listing).warn(complete, &ids);
    match common.json {
        true => print_json(&listing.items),
        false => print(text::jobs_table(&listing.items, &ids)),
    }?;
    whole
}

async fn tasks(common: &Common, client: &Client, job: JobId, step: Option<u16>) -> Result<(), Failure> {
    let all = all_tasks(client, job, step).await?;
    match common.json {
        true => print_json(&all),
        false => print(text::tasks_table(&all, &Ids::ask(common, client).await)),
    }
}

/// All tasks of a step; of the present one, or the last, if none is named.
async fn all_tasks(client: &Client, job: JobId, step: Option<u16>) -> Result<Vec<TaskInfo>, Failure> {
    let query: Vec<_> = step.iter().map(|step| ("step", step.to_string())).collect();
    let listing: Listing<TaskInfo> = client.list_where(&format!("/v1/jobs/{job}/tasks"), &query).await?;
    Ok(listing.items)
}

/// What happened to a job, oldest first.
async fn history(client: &Client, job: JobId) -> Result<Vec<HistoryEntry>, Failure> {
    let listing: Listing<HistoryEntry> = client.get(&format!("/v1/jobs/{job}/history")).await?;
    Ok(listing.items)
}
