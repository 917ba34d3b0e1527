//! Task logs: the standard error of attempts, kept on the worker that ran them for a while after their end.
//!
//! The standard output of an attempt that failed is kept as well. That of one that succeeded is the task's output, and
//! is not kept here twice.
//!
//! While an attempt runs, both ends of each stream are in memory, cut in the middle ([`STREAM_BYTES_MAX`]). When it
//! ends they are written to a file; an attempt that wrote nothing gets none, and is remembered in memory as one whose
//! log is empty. Files are kept for [`KEPT`], at most [`FILES_MAX`] of them and [`FILES_BYTES_MAX`] bytes; the oldest
//! go first. Logs are shown to their job's owner, to those whom it names, to operators and to members of its quorum. No
//! guarantee covers them: they are not synced, and a node that dies in the middle of an attempt loses what that attempt
//! wrote.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quorate_protocols::ids::{Millis, PeerId};
use quorate_protocols::task::limits::LOG_PAGE_BYTES_MAX;
use quorate_protocols::task::message::LogStream;
use quorate_protocols::task::record::TaskAttempt;
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::seams::{Clock, run_blocking};
use crate::utf8;

/// Of one stream of one attempt, half from its beginning and half from its end.
const STREAM_BYTES_MAX: usize = 256 * 1024;

const FILES_MAX: usize = 4_096;
const FILES_BYTES_MAX: u64 = 256 * 1024 * 1024;
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is written in so short a time is told together to who waits for it.
const GATHER_TIME: Duration = Duration::from_millis(20);

/// Logs of ended attempts on a node without a folder for them.
const MEMORY_MAX: usize = 64;

/// Ended attempts remembered as having written nothing, so that their log is empty and not missing. They get no file:
/// small tasks mostly write none, and there are many. About a megabyte.
const SILENT_MAX: usize = 8_192;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    head: Vec<u8>,
    /// The last bytes, in order.
    tail: VecDeque<u8>,
    /// Bytes between them that are gone.
    dropped: u64,
}

/// Whose job a log is of, and whom that peer lets read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Audience {
    pub owner: PeerId,
    pub readers: BTreeSet<PeerId>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Logged {
    task: TaskAttempt,
    audience: Audience,
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
    /// Where something was dropped, both ends are cut between two characters.
    fn page(&self, from: u64) -> (u64, Bytes, bool) {
        let end = self.head.len() as u64 + self.dropped + self.tail.len() as u64;
        if self.dropped == 0 {
            let at = from.min(end);
            let bytes = self.head.iter().chain(&self.tail).skip(at as usize);
            let page: Vec<u8> = bytes.take(LOG_PAGE_BYTES_MAX).copied().collect();
            let whole = at + page.len() as u64 == end;
            return (at, page.into(), whole);
        }
        let head = &self.head[..self.head.len() - utf8::unfinished(&self.head)];
        if from < head.len() as u64 {
            let page: Vec<u8> = head[from as usize..].iter().take(LOG_PAGE_BYTES_MAX).copied().collect();
            return (from, page.into(), false);
        }
        let kept_at = self.head.len() as u64 + self.dropped;
        let at = from.clamp(kept_at + utf8::continued(&self.tail) as u64, end);
        let bytes = self.tail.iter().skip((at - kept_at) as usize);
        let page: Vec<u8> = bytes.take(LOG_PAGE_BYTES_MAX).copied().collect();
        let whole = at + page.len() as u64 == end;
        (at, page.into(), whole)
    }
    /// The last line that says something, cut to `chars_max`. Longer ones than a few hundred bytes are told from
    /// within.
    fn last_line(&self, chars_max: usize) -> Option<String> {
        const BYTES: usize = 400;
        let last: Vec<u8> = self.head.iter().chain(&self.tail).rev().take(BYTES).copied().collect();
        let last: Vec<u8> = last.into_iter().rev().collect();
        let last = &last[utf8::continued(&last)..last.len() - utf8::unfinished(&last)];
        let text = String::from_utf8_lossy(last);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        Some(line.chars().take(chars_max).collect())
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
    pub audience: Audience,
}

impl LogPage {
    /// Whether it says something that a reader who has read up to `from` does not know.
    pub fn has_news(&self, from: u64) -> bool {
        self.ended || self.at > from || !self.bytes.is_empty()
    }
}

/// What an attempt that runs has written, and who is woken when it writes more or ends.
struct Live {
    logged: Mutex<Logged>,
    grown: watch::Sender<()>,
}

/// Where one attempt writes.
#[derive(Clone)]
pub(super) struct LogWriter(Arc<Live>);

impl LogWriter {
    pub fn push(&self, stream: LogStream, bytes: &[u8]) {
        let mut logged = lock(&self.0.logged);
        match stream {
            LogStream::Stdout => logged.stdout.push(bytes),
            LogStream::Stderr => logged.stderr.push(bytes),
        }
        drop(logged);
        self.0.grown.send_replace(());
    }
    /// Standard output has become the task's output: what of it was kept here is there too.
    pub fn drop_stdout(&self) {
        lock(&self.0.logged).stdout = Kept::default();
    }
    /// How both streams end, for a failure's reason: standard error first, which is meant for it.
    pub fn last_words(&self) -> Option<String> {
        let logged = lock(&self.0.logged);
        // Each gets half of what a reason has room for, unless it is alone.
        const CHARS: usize = 160;
        // Output may be anything; only text says why.
        let is_text = |line: &String| !line.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER);
        let said = |chars| (logged.stderr.last_line(chars), logged.stdout.last_line(chars).filter(is_text));
        match said(CHARS) {
            (None, None) => None,
            (Some(stderr), None) => Some(format!(": {stderr}")),
            (None, Some(stdout)) => Some(format!("; its standard output ends with: {stdout}")),
            (Some(_), Some(_)) => {
                let (stderr, stdout) = said(CHARS / 2);
                let (stderr, stdout) = (stderr.unwrap_or_default(), stdout.unwrap_or_default());
                Some(format!(": {stderr}; its standard output ends with: {stdout}"))
            }
        }
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
    live: Mutex<BTreeMap<TaskAttempt, Arc<Live>>>,
    /// An attempt has begun.
    begun: watch::Sender<()>,
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
    /// Attempts that wrote nothing, and whose they were; the oldest first in `silent_order`.
    silent: BTreeMap<TaskAttempt, Audience>,
    silent_order: VecDeque<TaskAttempt>,
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
        let logs = Self {
            inner: Arc::new(Inner {
                clock,
                folder,
                live: Mutex::default(),
                begun: watch::Sender::default(),
                ended: Mutex::new(ended),
            }),
        };
        logs.expire();
        logs
    }

    pub fn begin(&self, task: TaskAttempt, audience: Audience) -> LogWriter {
        let logged = Logged { task, audience, stdout: Kept::default(), stderr: Kept::default() };
        let live = Arc::new(Live { logged: Mutex::new(logged), grown: watch::Sender::default() });
        lock(&self.inner.live).insert(task, live.clone());
        self.inner.begun.send_replace(());
        LogWriter(live)
    }

    /// The attempt has ended: what it wrote goes to disk.
    pub async fn end(&self, task: TaskAttempt) {
        let live = lock(&self.inner.live).get(&task).cloned();
        let Some(live) = live else { return };
        let logged = lock(&live.logged).clone();
        match logged.stdout.is_empty() && logged.stderr.is_empty() {
            true => lock(&self.inner.ended).add_silent(task, logged.audience),
            false => self.keep_log(logged).await,
        }
        // Only now, so that a reader finds it in one place or the other.
        lock(&self.inner.live).remove(&task);
        live.grown.send_replace(());
    }

    async fn keep_log(&self, logged: Logged) {
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
        // Its standard output may be elsewhere, as the task's output.
        let silent = || lock(&self.inner.ended).silent.get(&task).cloned().filter(|_| stream == LogStream::Stderr);
        let (logged, live) = match live {
            Some(live) => (lock(&live.logged).clone(), true),
            None => match self.ended(task).await {
                Some(logged) => (logged, false),
                None => {
                    let audience = silent()?;
                    (Logged { task, audience, stdout: Kept::default(), stderr: Kept::default() }, false)
                }
            },
        };
        let (at, bytes, whole) = logged.stream(stream).page(from);
        Some(LogPage { at, bytes, ended: whole && !live, audience: logged.audience })
    }

    /// As [`Self::read`], but waits for so long until there is something that the reader does not know, and until the
    /// attempt begins.
    pub async fn read_on(&self, task: TaskAttempt, stream: LogStream, from: u64, wait: Duration) -> Option<LogPage> {
        let end = Instant::now() + wait;
        loop {
            // Before the look, so that nothing comes between the two.
            let mut begun = self.inner.begun.subscribe();
            let grown = lock(&self.inner.live).get(&task).map(|live| live.grown.subscribe());
            let page = self.read(task, stream, from).await;
            if page.as_ref().is_some_and(|page| page.has_news(from)) || Instant::now() >= end {
                return page;
            }
            // Fails when the sender has ended, with all that could be waited for.
            let changed = async {
                match grown {
                    Some(mut grown) => drop(grown.changed().await),
                    None => drop(begun.changed().await),
                }
            };
            tokio::select! {
                // More of it comes with the same answer.
                () = changed => sleep(GATHER_TIME).await,
                () = sleep_until(end) => (),
            }
        }
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
    fn add_silent(&mut self, task: TaskAttempt, audience: Audience) {
        if self.silent.insert(task, audience).is_none() {
            self.silent_order.push_back(task);
        }
        if self.silent_order.len() > SILENT_MAX
            && let Some(oldest) = self.silent_order.pop_front()
        {
            self.silent.remove(&oldest);
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "an old log could not be removed");
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::TaskGroup;
    use crate::seams::clock::SystemClock;
    use crate::workers::tests::attempt;
    use proptest::prelude::*;

    fn audience() -> Audience {
        Audience { owner: PeerId([5; 32]), readers: BTreeSet::from([PeerId([6; 32])]) }
    }

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

    /// Goal: no character is broken on a border of what is kept or of a page, be anything dropped or not, also for a
    /// reader who follows while characters come in pieces. Method: texts around the size that is kept, read behind
    /// every write.
    #[test]
    fn no_character_of_a_log_is_broken() {
        const HALF: usize = STREAM_BYTES_MAX / 2;
        for (letters, shift) in [("é", 0), ("é", 1), ("€", 0), ("€", 1), ("€", 2), ("😀", 1), ("😀", 3)] {
            for bytes in [10, HALF - 2, HALF + 9_000, 2 * HALF + 1, 3 * HALF] {
                let text = "x".repeat(shift) + &letters.repeat(bytes / letters.len());
                // As much as is read from a pipe at once, and one byte more or less.
                for chunk in [65_535, 65_536, 65_537] {
                    let (mut kept, mut shown, mut from, mut missing) = (Kept::default(), String::new(), 0, 0);
                    let mut read = |kept: &Kept, ended: bool| {
                        loop {
                            let (at, page, whole) = kept.page(from);
                            let begun = if ended && whole { 0 } else { utf8::unfinished(&page) };
                            let page = &page[..page.len() - begun];
                            shown.push_str(std::str::from_utf8(page).expect("whole characters"));
                            missing += at - from;
                            from = at + page.len() as u64;
                            if whole {
                                break;
                            }
                        }
                    };
                    for chunk in text.as_bytes().chunks(chunk) {
                        kept.push(chunk);
                        read(&kept, false);
                    }
                    read(&kept, true);
                    assert!(shown == text, "who follows misses nothing");
                    // Who comes later.
                    (shown, from, missing) = (String::new(), 0, 0);
                    let mut last = 0;
                    loop {
                        let (at, page, whole) = kept.page(from);
                        shown.push_str(std::str::from_utf8(&page).expect("whole characters"));
                        missing += at - from;
                        from = at + page.len() as u64;
                        last += 1;
                        if whole {
                            break;
                        }
                    }
                    assert!(last <= 2 && shown.len() as u64 + missing == text.len() as u64);
                    assert_eq!(missing == 0, kept.dropped == 0);
                    assert!(missing <= kept.dropped + 6, "no more than what belongs to characters that are gone");
                }
            }
        }
    }

    /// Goal: a failure's reason has how both streams end, as far as that is text.
    #[test]
    fn the_last_words_are_those_of_both_streams() {
        let words = |stdout: &[u8], stderr: &[u8]| {
            let logs = Logs::open(Arc::new(SystemClock::new()), None);
            let writer = logs.begin(attempt(0, 1), audience());
            writer.push(LogStream::Stdout, stdout);
            writer.push(LogStream::Stderr, stderr);
            writer.last_words()
        };
        assert_eq!(words(b"", b"\n \n"), None);
        assert_eq!(words(b"", b"one\ntwo\n").as_deref(), Some(": two"));
        assert_eq!(words(b"a\nb", b"").as_deref(), Some("; its standard output ends with: b"));
        assert_eq!(words(b"b\n", b"two").as_deref(), Some(": two; its standard output ends with: b"));
        assert_eq!(words(&[0; 500], b"two").as_deref(), Some(": two"), "no text");
        assert_eq!(words(&[0xff; 500], b""), None, "no text");
        let long = "é".repeat(3_000);
        assert_eq!(words(long.as_bytes(), b"").unwrap().matches('é').count(), 160);
        let both = words(long.as_bytes(), long.as_bytes()).unwrap();
        assert_eq!((both.matches('é').count(), both.contains(char::REPLACEMENT_CHARACTER)), (160, false));
    }

    /// Goal: a log is there while its attempt runs, after its end, and after a restart; and not for ever.
    #[tokio::test]
    async fn a_log_outlives_its_attempt_and_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Logs::open(Arc::new(SystemClock::new()), Some(folder.path().to_owned()));
        TaskGroup::threaded()
            .scope(async {
                let logs = open();
                let writer = logs.begin(attempt(0, 1), audience());
                writer.push(LogStream::Stderr, b"one\ntwo\n");
                let page = logs.read(attempt(0, 1), LogStream::Stderr, 4).await.unwrap();
                assert_eq!((page.at, &page.bytes[..], page.ended), (4, &b"two\n"[..], false));
                assert_eq!(writer.last_words().as_deref(), Some(": two"));
                logs.end(attempt(0, 1)).await;
                for logs in [logs, open()] {
                    let page = logs.read(attempt(0, 1), LogStream::Stderr, 0).await.unwrap();
                    assert_eq!((&page.bytes[..], page.ended, page.audience), (&b"one\ntwo\n"[..], true, audience()));
                    assert_eq!(logs.read(attempt(0, 2), LogStream::Stderr, 0).await, None);
                }
            })
            .await;
    }

    #[tokio::test]
    async fn an_attempt_that_wrote_nothing_has_an_empty_log_and_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(Arc::new(SystemClock::new()), Some(folder.path().to_owned()));
        logs.begin(attempt(0, 1), audience());
        logs.end(attempt(0, 1)).await;
        let page = logs.read(attempt(0, 1), LogStream::Stderr, 0).await.expect("it ran here");
        assert_eq!((page.bytes.len(), page.ended, page.audience), (0, true, audience()));
        assert_eq!(logs.read(attempt(0, 1), LogStream::Stdout, 0).await, None, "that is the task's output");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Goal: who follows a log hears of what is written when it is, and of its end, without asking in between.
    #[tokio::test(start_paused = true)]
    async fn who_waits_for_more_hears_of_it_when_it_is_written_and_of_the_beginning_and_the_end() {
        let (logs, task) = (Logs::open(Arc::new(SystemClock::new()), None), attempt(1, 1));
        let wait = Duration::from_secs(5);
        let started = Instant::now();
        let read_on = |from| logs.read_on(task, LogStream::Stderr, from, wait);
        assert!(read_on(0).await.is_none());
        assert_eq!(started.elapsed(), wait, "it did not begin");
        let at = |millis| Duration::from_millis(millis);
        let began = Instant::now();
        let writing = async {
            sleep(at(1_000)).await;
            let writer = logs.begin(task, audience());
            sleep(at(1_000)).await;
            writer.push(LogStream::Stderr, b"one\n");
            writer.push(LogStream::Stderr, b"two\n");
            sleep(at(1_000)).await;
            logs.end(task).await;
        };
        let reading = async {
            let page = read_on(0).await.expect("it has begun");
            assert_eq!((&page.bytes[..], page.ended), (&b"one\ntwo\n"[..], false));
            assert!(began.elapsed() >= at(2_000) && began.elapsed() < at(2_100), "{:?}", began.elapsed());
            let page = read_on(8).await.expect("it is kept");
            assert_eq!((page.bytes.len(), page.ended), (0, true));
            assert!(began.elapsed() >= at(3_000) && began.elapsed() < at(3_100), "{:?}", began.elapsed());
        };
        tokio::join!(writing, reading);
    }
}
