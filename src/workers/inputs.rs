//! Task inputs, as the executor reads them: bytes, a file, or a stream that is fetched while it is read.
//!
//! Objects come checked against their manifest; what earlier tasks left is checked against the digest that the quorum
//! recorded. Half an input is an error of class *input*, never a short one. In memory at once: small objects that
//! several tasks use (up to [`SHARED_BYTES_MAX`]), and of each stream a few chunks. Larger named inputs are files in a
//! folder of the worker, fetched once for all tasks that use them at the same time.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use parking_lot::Mutex;
use quorate_protocols::ids::{ObjectId, TaskIndex};
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::limits::MODULE_BYTES_MAX;
use quorate_protocols::task::message::{Assignment, OutputRef};
use quorate_protocols::task::record::{Output, Place};
use quorate_protocols::task::spec::Content;
use quorate_protocols::task::spec::TaskInput;
use quorate_protocols::units::ByteSize;
use tokio::sync::{OnceCell, mpsc};

use super::outputs::{Fault, Stores};
use super::split::Splitter;
use crate::executors::Source;
use crate::quorums::QuorumPort;
use crate::seams::{TaskGroup, run_blocking};

/// Chunks of one stream that wait for their reader.
const STREAM_CHUNKS: usize = 4;

/// A named input up to this is handed over in memory, in bytes.
const SMALL_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Small objects and modules kept for the next task that wants them, in bytes.
const SHARED_BYTES_MAX: u64 = 128 * 1024 * 1024;
const SHARED_MAX: usize = 256;

/// Files of inputs that no task uses at the moment, kept for the next.
const FILES_KEPT_MAX: usize = 8;

/// How much is read at once to find the end of a record that begins in a range and ends past it, in bytes.
const TAIL_BYTES: u64 = 64 * 1024;

/// How long outputs of earlier tasks are looked for in a quorum's record.
const OUTPUTS_DEADLINE: Duration = Duration::from_secs(30);

type Shared<T> = BTreeMap<ObjectId, (u64, Arc<OnceCell<T>>)>;

/// Cloneable; clones share what was fetched.
#[derive(Clone)]
pub(super) struct Inputs {
    inner: Arc<Inner>,
}

struct Inner {
    tasks: TaskGroup,
    quorum_port: Arc<dyn QuorumPort>,
    stores: Stores,
    /// Where large inputs are files; a simulated node has no such place.
    folder: Option<PathBuf>,
    small: Mutex<(u64, Shared<Bytes>)>,
    files: Mutex<(u64, Shared<Arc<tempfile::TempPath>>)>,
}

/// A named input, with what keeps it there while it is used.
pub(super) struct Named {
    pub source: Source,
    pub held: Option<Arc<tempfile::TempPath>>,
}

fn fault(reason: impl Into<String>) -> Fault {
    (ErrorClass::Input, reason.into())
}

fn broken(reason: impl Into<String>) -> io::Error {
    io::Error::other(reason.into())
}

impl Inputs {
    pub fn new(tasks: TaskGroup, quorum_port: Arc<dyn QuorumPort>, stores: Stores, folder: Option<PathBuf>) -> Self {
        let (small, files) = (Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { tasks, quorum_port, stores, folder, small, files }) }
    }

    /// A module's bytes.
    pub async fn module(&self, module: &Content) -> Result<Bytes, Fault> {
        match module {
            Content::Inline(bytes) => Ok(bytes.clone()),
            Content::Object { size, .. } if *size > MODULE_BYTES_MAX => Err((
                ErrorClass::Program,
                format!("the module has {}, more than {}", ByteSize(*size).rounded_up(), ByteSize(MODULE_BYTES_MAX)),
            )),
            Content::Object { object, size } => self.small(*object, *size).await,
        }
    }

    /// An input that the program may open several times, and look about in.
    pub async fn named(&self, content: &Content) -> Result<Named, Fault> {
        match content {
            Content::Inline(bytes) => Ok(Named { source: Source::Bytes(bytes.clone()), held: None }),
            Content::Object { object, size } if *size <= SMALL_BYTES_MAX || self.inner.folder.is_none() => {
                Ok(Named { source: Source::Bytes(self.small(*object, *size).await?), held: None })
            }
            Content::Object { object, size } => {
                let file = self.file(*object, *size).await?;
                Ok(Named { source: Source::File(file.to_path_buf()), held: Some(file) })
            }
        }
    }

    /// What the task itself is given, read once and in order.
    pub fn stdin(&self, assignment: &Assignment) -> Option<Source> {
        match &assignment.input {
            TaskInput::None => None,
            TaskInput::Item(Content::Inline(bytes)) => Some(Source::Bytes(bytes.clone())),
            TaskInput::Item(Content::Object { object, size }) => {
                let (inputs, object, size) = (self.clone(), *object, *size);
                Some(self.stream(move |send| async move { inputs.send_object(&send, object, Some(size), None).await }))
            }
            TaskInput::Range { object, total, offset, length, split } => {
                let (inputs, object, total) = (self.clone(), *object, *total);
                let splitter = Splitter::new(*split, *offset, *length);
                let range = *offset..offset + length;
                Some(
                    self.stream(
                        move |send| async move { inputs.send_range(&send, object, total, range, splitter).await },
                    ),
                )
            }
            TaskInput::Outputs { from, to, .. } => {
                let whole: Vec<_> = assignment.outputs.iter().map(|given| given.bytes.clone()).collect();
                let all = assignment.outputs.len() == (to.0 - from.0) as usize && whole.iter().all(Option::is_some);
                // The usual case costs no stream: the assignment brought everything.
                if all && assignment.outputs.iter().all(is_whole) {
                    let joined: BytesMut = whole.into_iter().flatten().flatten().collect();
                    return Some(Source::Bytes(joined.freeze()));
                }
                let (inputs, assignment) = (self.clone(), assignment.clone());
                Some(self.stream(move |send| async move { inputs.send_outputs(&send, &assignment).await }))
            }
        }
    }

    /// What an earlier attempt left to go on from.
    pub async fn checkpoint(&self, assignment: &Assignment) -> Result<Option<Bytes>, Fault> {
        let Some(given) = &assignment.checkpoint else { return Ok(None) };
        match (&given.bytes, given.output.place) {
            (Some(bytes), _) if is_whole(given) => Ok(Some(bytes.clone())),
            (_, Place::Object { quorum, manifest }) => {
                let object = ObjectId { quorum, manifest };
                Ok(Some(self.whole(object, given.output.bytes, Some(&given.output)).await?))
            }
            // Orders carry every checkpoint that is in the record.
            _ => Err(fault("the checkpoint did not come with the assignment")),
        }
    }

    // ---- objects that several tasks use ----

    async fn small(&self, object: ObjectId, size: u64) -> Result<Bytes, Fault> {
        let cell = share(&mut self.inner.small.lock(), object, |shared| {
            while shared.len() > SHARED_MAX
                || shared.values().filter_map(|(_, cell)| cell.get()).map(|bytes| bytes.len() as u64).sum::<u64>()
                    > SHARED_BYTES_MAX
            {
                let Some(oldest) = shared.iter().min_by_key(|(_, (used, _))| *used).map(|(object, _)| *object) else {
                    return;
                };
                shared.remove(&oldest);
            }
        });
        cell.get_or_try_init(|| self.whole(object, size, None)).await.cloned()
    }

    async fn whole(&self, object: ObjectId, size: u64, output: Option<&Output>) -> Result<Bytes, Fault> {
        let mut whole = BytesMut::new();
        let mut read = self.inner.stores.read(object, None).await.map_err(fault)?;
        if read.size != size {
            return Err(fault(other_size(object, read.size, size)));
        }
        while let Some(chunk) = read.bytes.next().await {
            whole.extend_from_slice(&chunk.map_err(fault)?);
        }
        if output.is_some_and(|output| output.digest.0 != *blake3::hash(&whole).as_bytes()) {
            return Err(fault(format!("object {object} is not what the quorum recorded")));
        }
        Ok(whole.freeze())
    }

    async fn file(&self, object: ObjectId, size: u64) -> Result<Arc<tempfile::TempPath>, Fault> {
        let cell = share(&mut self.inner.files.lock(), object, |shared| {
            // Those in use stay until they are not.
            let unused =
                |cell: &OnceCell<Arc<tempfile::TempPath>>| cell.get().is_some_and(|path| Arc::strong_count(path) == 1);
            let mut idle: Vec<_> =
                shared.iter().filter(|(_, (_, cell))| unused(cell)).map(|(o, (used, _))| (*used, *o)).collect();
            idle.sort_unstable();
            let surplus = idle.len().saturating_sub(FILES_KEPT_MAX);
            idle.into_iter().take(surplus).for_each(|(_, object)| drop(shared.remove(&object)));
        });
        cell.get_or_try_init(|| self.download(object, size)).await.cloned()
    }

    async fn download(&self, object: ObjectId, size: u64) -> Result<Arc<tempfile::TempPath>, Fault> {
        let failed = |error: io::Error| (ErrorClass::Host, format!("keeping an input: {error}"));
        let folder = self.inner.folder.clone().ok_or_else(|| fault("this node has no place for large inputs"))?;
        let create = || -> io::Result<_> {
            std::fs::create_dir_all(&folder)?;
            Ok(tempfile::Builder::new().prefix("input-").tempfile_in(&folder)?.into_parts())
        };
        let (mut file, path) = create().map_err(failed)?;
        let mut read = self.inner.stores.read(object, None).await.map_err(fault)?;
        if read.size != size {
            return Err(fault(other_size(object, read.size, size)));
        }
        while let Some(chunk) = read.bytes.next().await {
            let chunk = chunk.map_err(fault)?;
            let written = run_blocking(move || io::Write::write_all(&mut file, &chunk).map(|()| file)).await;
            file = written.map_err(failed)?;
        }
        Ok(Arc::new(path))
    }

    // ---- streams ----

    /// A source that `feed` fills while it is read. Its error is the reader's.
    fn stream<F, Fut>(&self, feed: F) -> Source
    where
        F: FnOnce(mpsc::Sender<io::Result<Bytes>>) -> Fut + Send + 'static,
        Fut: Future<Output = io::Result<()>> + Send,
    {
        let (send, receive) = mpsc::channel(STREAM_CHUNKS);
        self.inner.tasks.spawn(async move {
            let closed = send.clone();
            tokio::select! {
                biased;
                // The attempt ended, or has enough.
                () = closed.closed() => (),
                fed = feed(send.clone()) => if let Err(error) = fed {
                    let _ = send.send(Err(error)).await;
                },
            }
        });
        Source::Stream(receive)
    }

    /// Sends a whole object. `size` and `output` are what it must be.
    async fn send_object(
        &self,
        send: &mpsc::Sender<io::Result<Bytes>>,
        object: ObjectId,
        size: Option<u64>,
        output: Option<&Output>,
    ) -> io::Result<()> {
        let mut read = self.inner.stores.read(object, None).await.map_err(broken)?;
        if let Some(size) = size.or(output.map(|output| output.bytes)).filter(|size| *size != read.size) {
            return Err(broken(other_size(object, read.size, size)));
        }
        let mut hasher = blake3::Hasher::new();
        while let Some(chunk) = read.bytes.next().await {
            let chunk = chunk.map_err(broken)?;
            if output.is_some() {
                hasher.update(&chunk);
            }
            if send.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        match output {
            Some(output) if output.digest.0 != *hasher.finalize().as_bytes() => {
                Err(broken(format!("object {object} is not what the quorum recorded")))
            }
            _ => Ok(()),
        }
    }

    async fn send_range(
        &self,
        send: &mpsc::Sender<io::Result<Bytes>>,
        object: ObjectId,
        total: u64,
        range: std::ops::Range<u64>,
        mut splitter: Splitter,
    ) -> io::Result<()> {
        let (mut from, mut until) = (range.start, range.end.min(total));
        while !splitter.is_done() && from < until {
            let mut read = self.inner.stores.read(object, Some((from, until - from))).await.map_err(broken)?;
            if read.size != total {
                return Err(broken(other_size(object, read.size, total)));
            }
            while let Some(chunk) = read.bytes.next().await {
                let part = splitter.push(&chunk.map_err(broken)?);
                if !part.is_empty() && send.send(Ok(part)).await.is_err() {
                    return Ok(());
                }
                if splitter.is_done() {
                    return Ok(());
                }
            }
            // The last record goes on past the range.
            (from, until) = (until, (until + TAIL_BYTES).min(total));
        }
        Ok(())
    }

    async fn send_outputs(&self, send: &mpsc::Sender<io::Result<Bytes>>, assignment: &Assignment) -> io::Result<()> {
        let TaskInput::Outputs { step, to, .. } = assignment.input else { return Ok(()) };
        let job = assignment.task.id.job;
        // Bytes that the assignment had no room for, a page at a time.
        let mut asked = BTreeMap::<TaskIndex, OutputRef>::new();
        for given in &assignment.outputs {
            match given.output.place {
                Place::Object { quorum, manifest } => {
                    let object = ObjectId { quorum, manifest };
                    self.send_object(send, object, None, Some(&given.output)).await?;
                }
                Place::Record => {
                    let bytes = match &given.bytes {
                        Some(bytes) => Some(bytes.clone()),
                        None => {
                            if !asked.contains_key(&given.task) {
                                let limit = to.0.saturating_sub(given.task.0);
                                let query = Query::Outputs { job, step, from: given.task, limit };
                                let page = self.inner.quorum_port.query(job.quorum, query, false, OUTPUTS_DEADLINE);
                                let page = match page.await.map_err(|error| broken(error.to_string()))? {
                                    QueryAnswer::Outputs(outputs) => outputs,
                                    _ => Vec::new(),
                                };
                                asked = page.into_iter().map(|given| (given.task, given)).collect();
                            }
                            asked.remove(&given.task).and_then(|given| given.bytes)
                        }
                    };
                    let found = OutputRef { bytes, ..given.clone() };
                    let Some(bytes) = found.bytes.clone().filter(|_| is_whole(&found)) else {
                        return Err(broken(format!("the output of task {} is not in the quorum's record", given.task)));
                    };
                    if send.send(Ok(bytes)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether the bytes are those that the quorum recorded.
fn is_whole(given: &OutputRef) -> bool {
    given.bytes.as_ref().is_some_and(|bytes| *blake3::hash(bytes).as_bytes() == given.output.digest.0)
}

fn other_size(object: ObjectId, found: u64, said: u64) -> String {
    format!("object {object} has {found} bytes, and the job says {said}")
}

/// The cell of an object, made if need be; `evict` drops what there is too much of.
fn share<T>(shared: &mut (u64, Shared<T>), object: ObjectId, evict: impl FnOnce(&mut Shared<T>)) -> Arc<OnceCell<T>> {
    let (clock, shared) = shared;
    *clock += 1;
    let entry = shared.entry(object).or_insert_with(|| (*clock, Arc::default()));
    entry.0 = *clock;
    let cell = entry.1.clone();
    evict(shared);
    cell
}
