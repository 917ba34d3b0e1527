//! What attempts write for people, kept here for a while after their end.
//!
//! While an attempt runs, both ends of each stream are in memory, cut in the middle ([`STREAM_BYTES_MAX`]); when it ends
//! they are written to a file, if there is anything in them. Files are kept for [`KEPT`], at most [`FILES_MAX`] of them
//! and [`FILES_BYTES_MAX`] bytes; the oldest go first. They are told to their job's owner, to operators and to members
//! of its quorum, and are no part of any guarantee: they are not synced, and a node that dies in the middle of an
//! attempt loses what that attempt wrote.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::ids::{Millis, PeerId};
use quorate_protocols::task::limits::LOG_PAGE_BYTES_MAX;
use quorate_protocols::task::message::LogStream;
use quorate_protocols::task::record::TaskAttempt;
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};

use crate::seams::{Clock, run_blocking};

/// Of one stream of one attempt, half from its beginning and half from its end.
const STREAM_BYTES_MAX: usize = 256 * 1024;

const FILES_MAX: usize = 4_096;
const FILES_BYTES_MAX: u64 = 256 * 1024 * 1024;
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Logs of ended attempts on a node without a folder for them.
const MEMORY_MAX: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    head: Vec<u8>,
    /// The last bytes, in order.
    tail: VecDeque<u8>,
    /// Bytes between them that are gone.
    dropped: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Logged {
    task: TaskAttempt,
    owner: PeerId,
    stdout: Kept,
    stderr: Kept,
}

impl Record for Logged {
    /// 1: first.
    const VERSION: u8 = 1;
}

impl Kept {
    fn push(&mut self, bytes: &[u8]) {
        const HALF: usize = STREAM_BYTES_MAX / 2;
        let (head, rest) = bytes.split_at(bytes.len().min(HALF - self.head.len()));
        self.head.extend_from_slice(head);
        let skipped = rest.len().saturating_sub(HALF);
        let rest = &rest[skipped..];
        let pushed_out = (self.tail.len() + rest.len()).saturating_sub(HALF);
        self.tail.drain(..pushed_out);
        self.tail.extend(rest);
        self.dropped += (skipped + pushed_out) as u64;
    }
    /// A page from byte `from` of the stream on, where it begins, and whether it reaches the end of what there is.
    fn page(&self, from: u64) -> (u64, Bytes, bool) {
        let (head, tail) = (self.head.len() as u64, self.tail.len() as u64);
        let tail_at = head + self.dropped;
        if from < head {
            let page: Vec<u8> = self.head[from as usize..].iter().copied().take(LOG_PAGE_BYTES_MAX).collect();
            let whole = from + page.len() as u64 == head && tail == 0 && self.dropped == 0;
            return (from, page.into(), whole);
        }
        let at = from.clamp(tail_at, tail_at + tail);
        let page: Vec<u8> = self.tail.iter().skip((at - tail_at) as usize).copied().take(LOG_PAGE_BYTES_MAX).collect();
        let whole = at + page.len() as u64 == tail_at + tail;
        (at, page.into(), whole)
    }
    fn is_empty(&self) -> bool {
        self.head.is_empty()
    }
}

impl Logged {
    fn stream(&self, stream: LogStream) -> &Kept {
        match stream {
            LogStream::Stdout => &self.stdout,
            LogStream::Stderr => &self.stderr,
        }
    }
}

/// A page of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LogPage {
    pub at: u64,
    pub bytes: Bytes,
    pub ended: bool,
    pub owner: PeerId,
}

/// Where one attempt writes.
#[derive(Clone)]
pub(super) struct LogWriter(Arc<Mutex<Logged>>);

impl LogWriter {
    pub fn push(&self, stream: LogStream, bytes: &[u8]) {
        let mut logged = lock(&self.0);
        match stream {
            LogStream::Stdout => logged.stdout.push(bytes),
            LogStream::Stderr => logged.stderr.push(bytes),
        }
    }
    /// The last line of standard error that says something, for a failure's reason.
    pub fn last_line(&self) -> Option<String> {
        const BYTES: usize = 400;
        let logged = lock(&self.0);
        let kept = &logged.stderr;
        let last: Vec<u8> = kept.head.iter().chain(&kept.tail).rev().take(BYTES).copied().collect();
        let text: Vec<u8> = last.into_iter().rev().collect();
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        Some(line.chars().take(160).collect())
    }
}

/// Logs of this worker. Cloneable; clones share them.
#[derive(Clone)]
pub(super) struct Logs {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    folder: Option<PathBuf>,
    live: Mutex<BTreeMap<TaskAttempt, Arc<Mutex<Logged>>>>,
    ended: Mutex<Ended>,
}

#[derive(Default)]
struct Ended {
    /// Files by name, oldest first in `order`: when it was written, and its size.
    files: BTreeMap<String, (Millis, u64)>,
    order: VecDeque<String>,
    bytes: u64,
    /// In the place of files, where there is no folder.
    memory: VecDeque<Logged>,
}

/// One path component that nobody chose: a hash of the attempt's name.
fn file_name(task: TaskAttempt) -> String {
    let hash = blake3::hash(&wire::encode(&task));
    format!("{}.log", hex::encode(&hash.as_bytes()[..16]))
}

impl Logs {
    /// Finds what is in the folder. Blocks.
    pub fn open(clock: Arc<dyn Clock>, folder: Option<PathBuf>) -> Self {
        let mut ended = Ended::default();
        if let Some(folder) = &folder {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let (Ok(name), Ok(about)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
                let at = about.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                found.push((Millis(at.unwrap_or_default().as_millis() as u64), name, about.len()));
            }
            found.sort_unstable();
            for (at, name, bytes) in found {
                ended.add(name, at, bytes);
            }
        }
        let logs = Self { inner: Arc::new(Inner { clock, folder, live: Mutex::default(), ended: Mutex::new(ended) }) };
        logs.expire();
        logs
    }

    pub fn begin(&self, task: TaskAttempt, owner: PeerId) -> LogWriter {
        let logged = Logged { task, owner, stdout: Kept::default(), stderr: Kept::default() };
        let logged = Arc::new(Mutex::new(logged));
        lock(&self.inner.live).insert(task, logged.clone());
        LogWriter(logged)
    }

    /// The attempt has ended: what it wrote goes to disk.
    pub async fn end(&self, task: TaskAttempt) {
        let live = lock(&self.inner.live).get(&task).cloned();
        let Some(logged) = live.map(|live| lock(&live).clone()) else { return };
        if !logged.stdout.is_empty() || !logged.stderr.is_empty() {
            self.keep(logged).await;
        }
        // Only now, so that a reader finds it in one place or the other.
        lock(&self.inner.live).remove(&task);
    }

    async fn keep(&self, logged: Logged) {
        let Some(folder) = self.inner.folder.clone() else {
            let mut ended = lock(&self.inner.ended);
            ended.memory.push_back(logged);
            if ended.memory.len() > MEMORY_MAX {
                ended.memory.pop_front();
            }
            return;
        };
        let (name, bytes) = (file_name(logged.task), wire::encode_record(&logged));
        let (path, size) = (folder.join(&name), bytes.len() as u64);
        let written = run_blocking(move || {
            std::fs::create_dir_all(&folder)?;
            std::fs::write(path, bytes)
        });
        match written.await {
            Ok(()) => {
                let now = self.inner.clock.wall();
                lock(&self.inner.ended).add(name, now, size);
                self.expire();
            }
            Err(error) => tracing::warn!(task = %logged.task.id.task, %error, "the log of a task could not be kept"),
        }
    }

    /// Removes what is too much or too old.
    fn expire(&self) {
        let Some(folder) = &self.inner.folder else { return };
        let now = self.inner.clock.wall();
        let mut gone = Vec::new();
        {
            let mut ended = lock(&self.inner.ended);
            while let Some(name) = ended.order.front().cloned() {
                let (at, bytes) = ended.files.get(&name).copied().unwrap_or_default();
                let surplus = ended.files.len() > FILES_MAX || ended.bytes > FILES_BYTES_MAX;
                if !surplus && now.since(at) < KEPT {
                    break;
                }
                ended.order.pop_front();
                ended.files.remove(&name);
                ended.bytes -= bytes;
                gone.push(name);
            }
        }
        for name in gone {
            remove(&folder.join(name));
        }
    }

    /// A page of what an attempt wrote; `None` when nothing of it is here.
    pub async fn read(&self, task: TaskAttempt, stream: LogStream, from: u64) -> Option<LogPage> {
        let live = lock(&self.inner.live).get(&task).cloned();
        let (logged, live) = match live {
            Some(live) => (lock(&live).clone(), true),
            None => (self.ended(task).await?, false),
        };
        let (at, bytes, whole) = logged.stream(stream).page(from);
        Some(LogPage { at, bytes, ended: whole && !live, owner: logged.owner })
    }

    async fn ended(&self, task: TaskAttempt) -> Option<Logged> {
        let Some(folder) = &self.inner.folder else {
            return lock(&self.inner.ended).memory.iter().find(|logged| logged.task == task).cloned();
        };
        let name = file_name(task);
        if !lock(&self.inner.ended).files.contains_key(&name) {
            return None;
        }
        let path = folder.join(name);
        let bytes = run_blocking(move || std::fs::read(path)).await.ok()?;
        wire::decode_record::<Logged>(&bytes).ok().filter(|logged| logged.task == task)
    }
}

impl Ended {
    fn add(&mut self, name: String, at: Millis, bytes: u64) {
        self.bytes += bytes;
        match self.files.insert(name.clone(), (at, bytes)) {
            Some((_, before)) => self.bytes -= before,
            None => self.order.push_back(name),
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "an old log could not be removed");
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::TaskGroup;
    use crate::seams::clock::SystemClock;
    use crate::workers::tests::attempt;
    use proptest::prelude::*;

    const OWNER: PeerId = PeerId([5; 32]);

    proptest! {
        /// Goal: read page by page, a stream gives its two ends in order, and says where it skips.
        #[test]
        fn pages_are_the_kept_ends_of_the_stream(writes in prop::collection::vec(0usize..200_000, 0..6)) {
            let mut kept = Kept::default();
            let mut whole = Vec::new();
            for (number, length) in writes.into_iter().enumerate() {
                let bytes = vec![number as u8; length];
                kept.push(&bytes);
                whole.extend(bytes);
            }
            let mut from = 0;
            loop {
                let (at, bytes, ended) = kept.page(from);
                prop_assert!(at >= from && bytes.len() <= LOG_PAGE_BYTES_MAX);
                prop_assert_eq!(&bytes[..], &whole[at as usize..at as usize + bytes.len()]);
                from = at + bytes.len() as u64;
                if ended {
                    break;
                }
                prop_assert!(!bytes.is_empty());
            }
            prop_assert_eq!(from, whole.len() as u64);
            prop_assert!(kept.head.len() + kept.tail.len() <= STREAM_BYTES_MAX);
        }
    }

    /// Goal: a log is there while its attempt runs, after its end, and after a restart; and not for ever.
    #[tokio::test]
    async fn a_log_outlives_its_attempt_and_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Logs::open(Arc::new(SystemClock::new()), Some(folder.path().to_owned()));
        TaskGroup::threaded()
            .scope(async {
                let logs = open();
                let writer = logs.begin(attempt(0, 1), OWNER);
                writer.push(LogStream::Stderr, b"one\ntwo\n");
                let page = logs.read(attempt(0, 1), LogStream::Stderr, 4).await.unwrap();
                assert_eq!((page.at, &page.bytes[..], page.ended), (4, &b"two\n"[..], false));
                assert_eq!(writer.last_line().as_deref(), Some("two"));
                logs.end(attempt(0, 1)).await;
                for logs in [logs, open()] {
                    let page = logs.read(attempt(0, 1), LogStream::Stderr, 0).await.unwrap();
                    assert_eq!((&page.bytes[..], page.ended, page.owner), (&b"one\ntwo\n"[..], true, OWNER));
                    assert_eq!(logs.read(attempt(0, 2), LogStream::Stderr, 0).await, None);
                }
            })
            .await;
    }
}
