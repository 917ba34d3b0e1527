//! `job output`: what a job's last step left, byte for byte, in the order of its tasks.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use quorate_api::{JobInfo, Listing, OutputInfo, RunState};
use quorate_protocols::ids::JobId;
use quorate_testnet::Client;

use super::super::failure::Failure;
use super::super::object::{print_payload, write_file};
use super::super::output::{print, word};
use super::super::transfer::download;

pub async fn run(client: &Client, job: JobId, task: Option<u32>, to: Option<&Path>, raw: bool) -> Result<(), Failure> {
    // Asked for before anything is written, so that a job without outputs leaves no file.
    let query: Vec<_> = task.iter().map(|task| ("task", task.to_string())).collect();
    let first: Listing<OutputInfo> = client.page(&path(job), &query, None).await?;
    if first.items.is_empty() {
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
    let content = content(client.clone(), job, first);
    match to.filter(|path| *path != Path::new("-")) {
        None => print_payload(content, raw).await.map(drop),
        Some(path) => {
            let written = write_file(content, path).await?;
            print(format!("{written} bytes to {}", path.display()))
        }
    }
}

fn path(job: JobId) -> String {
    format!("/v1/jobs/{job}/outputs")
}

/// What the rows of `first` and of all pages that follow it stand for.
pub fn content(
    client: Client,
    job: JobId,
    first: Listing<OutputInfo>,
) -> impl Stream<Item = Result<Bytes, Failure>> + Send + use<> {
    let next = client.clone();
    let pages = stream::try_unfold(Some(first), move |page| {
        let client = next.clone();
        async move {
            let Some(Listing { items, cursor, .. }) = page else { return Ok::<_, Failure>(None) };
            let next = match cursor {
                Some(cursor) => Some(client.page(&path(job), &[], Some(&cursor)).await?),
                None => None,
            };
            Ok(Some((items, next)))
        }
    });
    pages
        .map_ok(|rows| stream::iter(rows.into_iter().map(Ok)))
        .try_flatten()
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
