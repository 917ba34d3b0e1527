//! The place of results: in the quorum's record when they are small, in an object otherwise.

use std::io::{Read, Seek};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use quorate_protocols::ids::{Digest, ObjectId};
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::limits::OUTPUT_BYTES_MAX;
use quorate_protocols::task::record::{Output, Place, TaskAttempt};
use quorate_protocols::task::spec::OutputPlace;
use quorate_protocols::units::ByteSize;

use super::ports::TaskObjects;
use crate::executors::{Content, open_regular};
use crate::seams::run_blocking;
use crate::streams;

/// How much of what is in memory is sent at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// How to store an object.
pub(super) type Stores = Arc<dyn TaskObjects>;

/// Why an output could not be kept.
pub(super) type Fault = (ErrorClass, String);

/// Keeps one output of a task. Larger than what the record takes, it becomes an object, if the job allows.
pub(super) async fn keep_output(
    stores: &Stores,
    task: TaskAttempt,
    place: OutputPlace,
    content: Content,
) -> Result<(Output, Option<Bytes>), Fault> {
    let host = |reason: String| (ErrorClass::Host, reason);
    let bytes = content.len();
    if bytes > OUTPUT_BYTES_MAX as u64 && place == OutputPlace::Inline {
        let reason = format!(
            "its output has {}, and an inline one may have {}; with `output = \"object\"` it may be larger",
            ByteSize(bytes).rounded_up(),
            ByteSize(OUTPUT_BYTES_MAX as u64)
        );
        return Err((ErrorClass::Output, reason));
    }
    match content {
        Content::Bytes(bytes) => keep_bytes(stores, task, "output", bytes, OUTPUT_BYTES_MAX).await.map_err(host),
        Content::File { path, .. } if bytes <= OUTPUT_BYTES_MAX as u64 => {
            let read = run_blocking(move || {
                let mut read = Vec::with_capacity(bytes as usize);
                open_regular(&path)?.take(bytes).read_to_end(&mut read)?;
                match read.len() as u64 == bytes {
                    true => Ok(read),
                    false => Err(std::io::Error::other("it became shorter")),
                }
            });
            let read = read.await.map_err(|error| host(format!("reading its output back: {error}")))?;
            keep_bytes(stores, task, "output", read.into(), OUTPUT_BYTES_MAX).await.map_err(host)
        }
        Content::File { path, .. } => keep_file(stores, task, path, bytes).await.map_err(host),
    }
}

/// Keeps bytes in the record if they are at most `inline_max`, as an object otherwise.
pub(super) async fn keep_bytes(
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
    let digested = run_blocking(move || -> std::io::Result<(Digest, std::fs::File)> {
        let mut file = open_regular(&path)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&file)?;
        file.rewind()?;
        Ok((Digest(*hasher.finalize().as_bytes()), file))
    });
    let (digest, file) = digested.await.map_err(failed)?;
    let body = streams::file(file);
    let stored = put(stores, task, "output", size, body.boxed()).await?;
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

#[cfg(test)]
mod tests {

    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;
    use crate::seams::TaskGroup;
    use crate::workers::ports::ObjectBytes;
    use crate::workers::tests::{QUORUM, attempt};
    use parking_lot::Mutex;

    /// Remembers what was stored, and asks for more than there is, as a reader of segments does.
    #[derive(Default)]
    struct Stored(Arc<Mutex<Vec<u8>>>);

    impl TaskObjects for Stored {
        fn read(&self, _: ObjectId, _: Option<(u64, u64)>) -> BoxFuture<'static, Result<ObjectBytes, String>> {
            unreachable!("nothing is read here")
        }
        fn store(
            &self,
            _: String,
            size: u64,
            mut bytes: BoxStream<'static, std::io::Result<Bytes>>,
        ) -> BoxFuture<'static, Result<ObjectId, String>> {
            let stored = self.0.clone();
            async move {
                let mut whole = Vec::new();
                while let Some(chunk) = bytes.next().await {
                    whole.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
                }
                assert!(bytes.next().await.is_none() && whole.len() as u64 == size);
                *stored.lock() = whole;
                Ok(ObjectId { quorum: QUORUM, manifest: quorate_protocols::ids::ManifestHash([1; 32]) })
            }
            .boxed()
        }
    }

    /// Goal: an output of any size is kept whole, be it in memory, as a module's is, or a file, as a program's is.
    #[tokio::test]
    async fn an_output_of_any_size_is_kept_whole() {
        let folder = tempfile::tempdir().unwrap();
        let around = |bytes: usize| [bytes - 1, bytes, bytes + 1];
        let sizes = [OUTPUT_BYTES_MAX, CHUNK_BYTES, 16 << 20].map(around).concat();
        for size in [0, 1].into_iter().chain(sizes) {
            let content: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let path = folder.path().join(size.to_string());
            std::fs::write(&path, &content).unwrap();
            let whole = Content::Bytes(content.clone().into());
            for given in [whole, Content::File { path, bytes: size as u64 }] {
                let stored = Stored::default();
                let bytes = stored.0.clone();
                let stores: Stores = Arc::new(stored);
                let taking = keep_output(&stores, attempt(0, 1), OutputPlace::Object, given);
                let (output, inline) = TaskGroup::threaded().scope(taking).await.unwrap();
                assert_eq!((output.bytes, output.digest), (size as u64, digest(&content)));
                let kept = inline.map_or_else(|| bytes.lock().clone(), |inline| inline.to_vec());
                assert!(kept == content, "{size} bytes");
                assert_eq!(output.place == Place::Record, size <= OUTPUT_BYTES_MAX);
            }
        }
    }
}
