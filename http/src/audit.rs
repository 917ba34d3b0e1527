//! The audit log: who asked this node for what, from where, and what came of it.
//!
//! One line of JSON for each request that changes something, for each of a minted token, and for each that was refused
//! at the door; what the operator only reads is left out. A caller with a token waits until the log has taken its line.
//! Refusals and reads come as fast as their senders like, so only a few lines a second tell of them, and one line says
//! how many more there were: nobody can push out what others did by asking much. The file is `audit.log` in the data
//! folder; at a bound it becomes `audit.log.1`, and so on, and the oldest goes.
//!
//! What it does not: it is no proof. Whoever may write the data folder may write it, and lines that wait in memory are
//! lost when the process is killed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use quorate_api::{ErrorCode, Verb};
use quorate_node::seams::{TaskGroup, run_blocking};
use quorate_protocols::ids::Millis;
use serde::Serialize;
use tokio::sync::mpsc;

use super::error::status;
use super::limits::{AUDIT_LINES_PER_S_MAX, AUDIT_QUEUE_MAX, AuditLimits};
use super::tokens::Caller;

/// The log's file in a data folder.
pub const FILE_NAME: &str = "audit.log";

/// Longest path of a request that is written.
const PATH_BYTES_MAX: usize = 512;

/// What a handler says its request was about, such as the job that it submitted.
#[derive(Clone, Debug)]
pub struct Subject(pub String);

/// What a handler says of a request for several things: what each of them became. Each has a line, as if it had been
/// asked for by itself.
#[derive(Clone, Debug)]
pub struct Subjects(pub Vec<Result<String, ErrorCode>>);

/// One request.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub asked_at: Millis,
    /// `operator`, or the id of a token; `null` without one that holds.
    pub who: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    pub from: Option<SocketAddr>,
    pub method: String,
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verb: Option<Verb>,
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How many like this were left out since the last line of their kind.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Entry {
    pub fn new(asked_at: Millis, caller: Option<&Caller>, from: Option<SocketAddr>, method: &str, path: &str) -> Self {
        let (who, owner) = match caller {
            None => (None, None),
            Some(Caller::Operator) => (Some("operator".to_owned()), None),
            Some(Caller::Token(minted)) => (Some(minted.id().to_owned()), Some(minted.owner().to_owned())),
        };
        // The path of a request is ASCII: what is not is percent-encoded.
        let path = path.chars().take(PATH_BYTES_MAX).collect();
        let method = method.to_owned();
        let (verb, error, subject) = (None, None, None);
        Self { asked_at, who, owner, from, method, path, verb, status: 0, error, subject, left_out: 0 }
    }

    /// The lines of a request for several things; one if there were none.
    pub fn of_each(self, Subjects(subjects): Subjects) -> Vec<Self> {
        if subjects.is_empty() {
            return vec![self];
        }
        let line = |subject| match subject {
            Ok(subject) => Self { subject: Some(subject), ..self.clone() },
            Err(error) => Self { status: status(error).as_u16(), error: Some(error), ..self.clone() },
        };
        subjects.into_iter().map(line).collect()
    }
}

/// How much of what may come as fast as its sender likes is written: some lines in each second.
#[derive(Debug, Default)]
pub struct Share {
    second: u64,
    lines: u32,
    left_out: u64,
}

impl Share {
    /// Whether a line at this instant is written, and how many were left out before it.
    fn admit(&mut self, now: Millis) -> Option<u64> {
        let second = now.0 / 1_000;
        if second != self.second {
            (self.second, self.lines) = (second, 0);
        }
        if self.lines >= AUDIT_LINES_PER_S_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// The way into the log.
pub struct Audit {
    lines: mpsc::Sender<String>,
    /// Of requests without a token that holds, and of those that only read.
    refusals: Mutex<Share>,
    reads: Mutex<Share>,
}

impl Audit {
    /// Writes until the group closes.
    pub fn start(dir: &Path, limits: AuditLimits, tasks: &TaskGroup) -> Self {
        let (lines, received) = mpsc::channel(AUDIT_QUEUE_MAX);
        tasks.spawn(write_lines(Log::new(dir, limits), received, tasks.clone()));
        Self { lines, refusals: Mutex::default(), reads: Mutex::default() }
    }

    /// Writes a line, unless there are too many like it.
    pub async fn record(&self, mut entry: Entry) {
        let is_operator = entry.who.as_deref() == Some("operator");
        let reads = entry.verb.is_some_and(Verb::reads);
        let left_out = match (&entry.who, reads) {
            (None, _) => self.refusals.lock().admit(entry.asked_at),
            (Some(_), true) if is_operator => None,
            (Some(_), true) => self.reads.lock().admit(entry.asked_at),
            (Some(_), false) => Some(0),
        };
        let Some(left_out) = left_out else { return };
        entry.left_out = left_out;
        let line = match serde_json::to_string(&entry) {
            Ok(line) => line,
            Err(error) => return tracing::error!(%error, "a line of the audit log cannot be written"),
        };
        match entry.who {
            // It is not to wait for what it fills itself.
            None => _ = self.lines.try_send(line),
            // The log ends with the node.
            Some(_) => _ = self.lines.send(line).await,
        }
    }
}

async fn write_lines(mut log: Log, mut received: mpsc::Receiver<String>, tasks: TaskGroup) {
    let shutdown = tasks.shutdown_token();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            count = received.recv_many(&mut batch, AUDIT_QUEUE_MAX) => if count == 0 { return },
            () = shutdown.cancelled() => received.close(),
        }
        if batch.is_empty() {
            continue;
        }
        let lines = std::mem::take(&mut batch);
        let written;
        (log, written) = run_blocking(move || {
            let written = log.append(&lines);
            (log, written)
        })
        .await;
        if let Err(error) = written {
            tracing::warn!(%error, path = %log.path.display(), "the audit log cannot be written: lines are lost");
        }
    }
}

/// The file, and those before it.
struct Log {
    path: PathBuf,
    limits: AuditLimits,
    /// Open, with its length.
    file: Option<(File, u64)>,
}

impl Log {
    fn new(dir: &Path, limits: AuditLimits) -> Self {
        Self { path: dir.join(FILE_NAME), limits, file: None }
    }

    fn append(&mut self, lines: &[String]) -> io::Result<()> {
        for line in lines {
            let bytes = line.len() as u64 + 1;
            let length = self.opened()?.1;
            if length > 0 && length + bytes > self.limits.file_bytes_max {
                self.rotate()?;
            }
            let (file, length) = self.opened()?;
            // One write a line: a crash leaves whole ones.
            file.write_all(format!("{line}\n").as_bytes())?;
            *length += bytes;
        }
        Ok(())
    }

    fn opened(&mut self) -> io::Result<&mut (File, u64)> {
        match &mut self.file {
            Some(open) => Ok(open),
            closed => Ok(closed.insert(open(&self.path)?)),
        }
    }

    fn name(&self, age: u32) -> PathBuf {
        match age {
            0 => self.path.clone(),
            age => self.path.with_file_name(format!("{FILE_NAME}.{age}")),
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        for age in (0..self.limits.files_max.saturating_sub(1)).rev() {
            match fs::rename(self.name(age), self.name(age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => (),
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: AuditLimits = AuditLimits { file_bytes_max: 100, files_max: 3 };

    fn entry(who: Option<&str>, verb: Verb, at: u64) -> Entry {
        let entry = Entry::new(Millis(at), None, None, "GET", "/v1/jobs");
        Entry { who: who.map(str::to_owned), verb: Some(verb), status: 200, ..entry }
    }

    /// Goal: the log is bounded, and what it loses is its oldest lines.
    #[test]
    fn the_oldest_lines_go_when_the_log_is_full() {
        let dir = tempfile::tempdir().unwrap();
        for at in 0..50 {
            // Opened anew, as by a node that was started again.
            Log::new(dir.path(), SMALL).append(&[format!("line {at:02}")]).unwrap();
        }
        let mut log = Log::new(dir.path(), SMALL);
        let lines: Vec<_> = (50..100).map(|at| format!("line {at:02}")).collect();
        log.append(&lines).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2"]);
        let text: String = names.iter().rev().map(|name| fs::read_to_string(dir.path().join(name)).unwrap()).collect();
        let kept: Vec<_> = text.lines().collect();
        assert!(text.len() <= 300 && kept.len() > 20, "{text}");
        assert_eq!(kept.last(), Some(&"line 99"));
        let expected: Vec<_> = (100 - kept.len()..100).map(|at| format!("line {at:02}")).collect();
        assert_eq!(kept, expected, "none is missing in between");
    }

    /// Goal: nobody pushes out what others did. Method: many refusals, reads of tokens and of the operator, and
    /// changes, within one second and the next.
    #[tokio::test]
    async fn a_flood_of_refusals_and_reads_is_told_of_in_few_lines() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = TaskGroup::threaded();
        let audit = Audit::start(dir.path(), AuditLimits::default(), &tasks);
        for _ in 0..1_000 {
            audit.record(entry(None, Verb::JobRead, 5_000)).await;
            audit.record(entry(Some("abc"), Verb::JobRead, 5_000)).await;
            audit.record(entry(Some("operator"), Verb::JobRead, 5_000)).await;
        }
        audit.record(entry(Some("abc"), Verb::JobSubmit, 5_000)).await;
        audit.record(entry(Some("operator"), Verb::JobControl, 5_000)).await;
        audit.record(entry(None, Verb::JobRead, 6_000)).await;
        tasks.close().await;
        let text = fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |verb: Verb, who: Option<&str>| {
            lines.iter().filter(|line| line["verb"] == verb.name() && line["who"].as_str() == who).count()
        };
        let most = AUDIT_LINES_PER_S_MAX as usize;
        assert_eq!((of(Verb::JobRead, None), of(Verb::JobRead, Some("abc"))), (most + 1, most));
        assert_eq!(of(Verb::JobRead, Some("operator")), 0);
        assert_eq!((of(Verb::JobSubmit, Some("abc")), of(Verb::JobControl, Some("operator"))), (1, 1));
        assert_eq!(lines.last().unwrap()["left_out"], 1_000 - u64::from(AUDIT_LINES_PER_S_MAX));
    }
}
