//! Uploads and downloads, for `object` and `demo`.

use std::path::Path;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use quorate_api::{PutInfo, PutProgressInfo, PutUpdate};
use quorate_protocols::ids::{JobId, ObjectId, QuorumId};
use quorate_protocols::object::Profile;
use quorate_testnet::{Client, ClientError};
use reqwest::Method;
use reqwest::header::{ACCEPT, RANGE};

use super::failure::Failure;

/// A node reports the progress of a put every few seconds, also while it waits. One that says nothing for so long is
/// gone, or cut off.
const SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// Bytes read from a file at once.
pub const READ_BYTES: usize = 256 * 1024;

/// What an upload says about itself.
#[derive(Clone, Debug, Default)]
pub struct Upload {
    pub name: Option<String>,
    pub size: Option<u64>,
    pub profile: Option<Profile>,
    pub quorum: Option<QuorumId>,
    pub resume: Option<JobId>,
    pub fingerprint: Option<String>,
}

impl Upload {
    fn query(&self) -> Vec<(&'static str, String)> {
        let text = |name, value: Option<String>| value.map(|value| (name, value));
        [
            text("name", self.name.clone()),
            text("bytes", self.size.map(|size| size.to_string())),
            text("profile", self.profile.map(|profile| profile.to_string())),
            text("quorum", self.quorum.map(|quorum| quorum.to_string())),
            text("resume", self.resume.map(|job| job.to_string())),
            text("fingerprint", self.fingerprint.clone()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Streams `body` to a node, and reports what it says on the way.
pub async fn upload<S>(
    client: &Client,
    upload: &Upload,
    body: S,
    mut report: impl FnMut(&PutProgressInfo),
) -> Result<PutInfo, Failure>
where
    S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
{
    let request = client
        .request(Method::POST, "/v1/objects")
        .query(&upload.query())
        .header(ACCEPT, "application/x-ndjson")
        .body(reqwest::Body::wrap_stream(body));
    let mut lines = Box::pin(client.lines(request).await?);
    let silent = |_| {
        let seconds = SILENCE_MAX.as_secs();
        Failure::failed(format!(
            "the node has said nothing about the put for {seconds} s; whether it goes on is unknown"
        ))
        .hint("look at `quorate job ls`; putting the same file again goes on where it stopped")
    };
    while let Some(line) = tokio::time::timeout(SILENCE_MAX, lines.next()).await.map_err(silent)? {
        let update: PutUpdate = serde_json::from_value(line?)
            .map_err(|error| Failure::failed(format!("the node's progress cannot be read: {error}")))?;
        match update {
            PutUpdate::Progress(progress) => report(&progress),
            PutUpdate::Done(info) => return Ok(info),
            PutUpdate::Error(error) => {
                let failure = Failure::failed(error.message);
                return Err(match error.hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                });
            }
        }
    }
    Err(Failure::from(ClientError::Transfer { reason: "the node ended the answer before the put was done".into() }))
}

/// A file as a stream of chunks, with its size and the fingerprint by which the same node recognises it after a crash.
pub async fn open_file(
    path: &Path,
) -> Result<(impl Stream<Item = std::io::Result<Bytes>> + Send + use<>, Upload), Failure> {
    let fault = |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(fault)?;
    let metadata = file.metadata().await.map_err(fault)?;
    if metadata.is_dir() {
        return Err(Failure::failed(format!("{} is a folder", path.display()))
            .hint("put its files one by one, or an archive of it"));
    }
    let mut upload =
        Upload { name: path.file_name().map(|name| name.to_string_lossy().into_owned()), ..Upload::default() };
    if metadata.is_file() {
        upload.size = Some(metadata.len());
        let whole = tokio::fs::canonicalize(path).await.map_err(fault)?;
        let changed = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let text = format!("{}\0{}\0{}", whole.display(), metadata.len(), changed.as_nanos());
        upload.fingerprint = Some(blake3::hash(text.as_bytes()).to_hex().to_string());
    }
    Ok((tokio_util::io::ReaderStream::with_capacity(file, READ_BYTES), upload))
}

/// The length of what will come, and its bytes.
pub async fn download(
    client: &Client,
    object: ObjectId,
    range: Option<&str>,
) -> Result<(Option<u64>, impl Stream<Item = Result<Bytes, Failure>> + use<>), Failure> {
    let mut request = client.request(Method::GET, &format!("/v1/objects/{object}/content"));
    if let Some(range) = range {
        request = request.header(RANGE, format!("bytes={range}"));
    }
    let response = client.send(request).await?;
    let length = response.content_length();
    let bytes = response.bytes_stream().map(|chunk| {
        chunk.map_err(|error| {
            Failure::from(ClientError::Transfer { reason: quorate_protocols::text::chain(&error) })
                .hint("the node's log says which holders failed; what was read so far was thrown away")
        })
    });
    Ok((length, bytes))
}
