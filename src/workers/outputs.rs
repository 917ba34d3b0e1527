//! Where results go: into the quorum's record when they are small, into an object otherwise.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use quorate_protocols::ids::{Digest, ObjectId};
use quorate_protocols::job::compute::OutputPlace;
use quorate_protocols::task::limits::OUTPUT_BYTES_MAX;
use quorate_protocols::task::record::{ErrorClass, Output, Place, TaskAttempt};

use super::ports::TaskObjects;
use crate::executors::Content;
use crate::seams::run_blocking;

/// How much of a file is read, hashed or sent at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// How to store an object.
pub(super) type Stores = Arc<dyn TaskObjects>;

/// Why an output could not be kept.
pub(super) type Fault = (ErrorClass, String);

/// Keeps one output of a task. Larger than what the record takes, it becomes an object, if the job allows.
pub(super) async fn take(
    stores: &Stores,
    task: TaskAttempt,
    place: OutputPlace,
    content: Content,
) -> Result<(Output, Option<Bytes>), Fault> {
    let host = |reason: String| (ErrorClass::Host, reason);
    let bytes = content.len();
    if bytes > OUTPUT_BYTES_MAX as u64 && place == OutputPlace::Inline {
        let reason = format!(
            "its output is {bytes} bytes, and an inline one may be {OUTPUT_BYTES_MAX}; with `output = \"object\"` it may be larger"
        );
        return Err((ErrorClass::Output, reason));
    }
    match content {
        Content::Bytes(bytes) => keep(stores, task, "output", bytes, OUTPUT_BYTES_MAX).await.map_err(host),
        Content::File { path, .. } if bytes <= OUTPUT_BYTES_MAX as u64 => {
            let read = run_blocking(move || std::fs::read(&path)).await;
            let read = read.map_err(|error| host(format!("reading its output back: {error}")))?;
            keep(stores, task, "output", read.into(), OUTPUT_BYTES_MAX).await.map_err(host)
        }
        Content::File { path, .. } => keep_file(stores, task, path, bytes).await.map_err(host),
    }
}

/// Keeps bytes in the record if they are at most `inline_max`, as an object otherwise.
pub(super) async fn keep(
    stores: &Stores,
    task: TaskAttempt,
    what: &str,
    bytes: Bytes,
    inline_max: usize,
) -> Result<(Output, Option<Bytes>), String> {
    if bytes.len() <= inline_max {
        return Ok((in_record(&bytes), Some(bytes)));
    }
    Ok((store(stores, task, what, bytes).await?, None))
}

pub(super) fn in_record(bytes: &Bytes) -> Output {
    Output { digest: digest(bytes), bytes: bytes.len() as u64, place: Place::Record }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
}

/// Stores bytes as an object, whatever their size.
pub(super) async fn store(stores: &Stores, task: TaskAttempt, what: &str, bytes: Bytes) -> Result<Output, String> {
    let (digest, size) = (digest(&bytes), bytes.len() as u64);
    let pieces: Vec<_> = (0..bytes.len())
        .step_by(CHUNK_BYTES)
        .map(|from| Ok(bytes.slice(from..bytes.len().min(from + CHUNK_BYTES))))
        .collect();
    let stored = put(stores, task, what, size, futures::stream::iter(pieces).boxed()).await?;
    Ok(Output { digest, bytes: size, place: place(stored) })
}

async fn keep_file(
    stores: &Stores,
    task: TaskAttempt,
    path: PathBuf,
    size: u64,
) -> Result<(Output, Option<Bytes>), String> {
    let failed = |error: std::io::Error| format!("reading its output back: {error}");
    let hashed = path.clone();
    let digest = run_blocking(move || -> std::io::Result<Digest> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(&hashed)?)?;
        Ok(Digest(*hasher.finalize().as_bytes()))
    });
    let digest = digest.await.map_err(failed)?;
    let stored = put(stores, task, "output", size, file_stream(path)).await?;
    Ok((Output { digest, bytes: size, place: place(stored) }, None))
}

async fn put(
    stores: &Stores,
    task: TaskAttempt,
    what: &str,
    size: u64,
    body: BoxStream<'static, std::io::Result<Bytes>>,
) -> Result<ObjectId, String> {
    let name = format!("{what} of task {}.{} of job {}", task.id.step, task.id.task, task.id.job);
    stores.store(name, size, body).await.map_err(|error| format!("storing its {what} as an object: {error}"))
}

fn place(object: ObjectId) -> Place {
    Place::Object { quorum: object.quorum, manifest: object.manifest }
}

/// A file in chunks, read where reading may block.
pub(super) fn file_stream(path: PathBuf) -> BoxStream<'static, std::io::Result<Bytes>> {
    let next = |file: Option<std::fs::File>| async move {
        use std::io::Read;
        let mut file = file?;
        let read = run_blocking(move || {
            let mut chunk = vec![0; CHUNK_BYTES];
            let mut filled = 0;
            while filled < chunk.len() {
                match file.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
                    Err(error) => return Err(error),
                }
            }
            chunk.truncate(filled);
            Ok((Bytes::from(chunk), file))
        });
        match read.await {
            Ok((chunk, _)) if chunk.is_empty() => None,
            Ok((chunk, file)) => Some((Ok(chunk), Some(file))),
            Err(error) => Some((Err(error), None)),
        }
    };
    match std::fs::File::open(path) {
        Ok(file) => futures::stream::unfold(Some(file), next).boxed(),
        Err(error) => futures::stream::iter([Err(error)]).boxed(),
    }
}
