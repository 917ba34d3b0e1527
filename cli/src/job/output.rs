//! `job output`: what a job's last step left, byte for byte, in the order of its tasks.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use quorate_api::{JobInfo, OutputInfo, RunState};
use quorate_protocols::ids::JobId;
use quorate_testnet::Client;

use super::super::failure::Failure;
use super::super::object::{print_payload, write_file};
use super::super::output::{print, word};
use super::super::transfer::download;

pub async fn run(client: &Client, job: JobId, task: Option<u32>, to: Option<&Path>, raw: bool) -> Result<(), Failure> {
    // Asked for before anything is written, so that a job without outputs leaves no file.
    let first = page(client, job, task.unwrap_or(0)).await?;
    let wanted = |output: &OutputInfo| task.is_none_or(|task| output.task.0 == task);
    if !first.iter().any(wanted) {
        let what = task.map_or("no outputs".to_owned(), |task| format!("no output of task {task}"));
        let info: JobInfo = client.get(&format!("/v1/jobs/{job}")).await?;
        let of = task.map(|task| format!(" --task {task}")).unwrap_or_default();
        let hint = match info.state {
            state if state.is_final() && state != RunState::Succeeded => format!(
                "the job is {}, and what fails leaves no output; the two ends of what its tasks wrote to standard output \
                 are in their logs: `quorate job logs {job} --stdout{of}`",
                word(&state)
            ),
            _ => format!("`quorate job show {job}` says where it stands; outputs are there when it has succeeded"),
        };
        return Err(Failure::failed(format!("job {job} has {what}")).hint(hint));
    }
    let content = content(client.clone(), job, first, task);
    match to.filter(|path| *path != Path::new("-")) {
        None => print_payload(content, raw).await.map(drop),
        Some(path) => {
            let written = write_file(content, path).await?;
            print(format!("{written} bytes to {}", path.display()))
        }
    }
}

async fn page(client: &Client, job: JobId, from: u32) -> Result<Vec<OutputInfo>, Failure> {
    Ok(client.get(&format!("/v1/jobs/{job}/outputs?from={from}")).await?)
}

/// Every page from `first` on; of one task, that task's bytes.
pub fn content(
    client: Client,
    job: JobId,
    first: Vec<OutputInfo>,
    task: Option<u32>,
) -> impl Stream<Item = Result<Bytes, Failure>> + Send + use<> {
    let next = client.clone();
    let pages = stream::try_unfold(Some(first), move |rows| {
        let client = next.clone();
        async move {
            let Some(rows) = rows.filter(|rows| !rows.is_empty()) else { return Ok::<_, Failure>(None) };
            let after = rows.last().map_or(0, |last| last.task.0 + 1);
            let next = if task.is_some() { None } else { Some(page(&client, job, after).await?) };
            Ok(Some((rows, next)))
        }
    });
    pages
        .map_ok(|rows| stream::iter(rows.into_iter().map(Ok)))
        .try_flatten()
        .try_filter(move |output| std::future::ready(task.is_none_or(|task| output.task.0 == task)))
        .and_then(move |output| {
            let client = client.clone();
            async move { bytes_of(&client, output).await }
        })
        .try_flatten()
}

async fn bytes_of(
    client: &Client,
    output: OutputInfo,
) -> Result<stream::BoxStream<'static, Result<Bytes, Failure>>, Failure> {
    let inline = match (output.text, output.base64, output.object) {
        (_, _, Some(object)) => return Ok(download(client, object, None).await?.1.boxed()),
        (Some(text), ..) => Bytes::from(text),
        (None, Some(base64), _) => {
            let bytes = STANDARD.decode(base64);
            Bytes::from(bytes.map_err(|error| Failure::failed(format!("the node's answer is no base64: {error}")))?)
        }
        (None, None, None) => {
            return Err(Failure::failed(format!("the output of task {} is no longer there", output.task)));
        }
    };
    Ok(stream::iter([Ok(inline)]).boxed())
}
