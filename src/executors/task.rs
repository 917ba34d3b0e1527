//! One attempt of a task: its inputs, and what comes of it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::ids::PeerId;
use quorate_protocols::units::ByteSize;
use rustix::fs::OFlags;
use tokio::sync::mpsc;

use super::command::Folder;
use super::{Ending, Logs};

/// Memory of a module or of each process of a program, unless the task says otherwise.
pub const MEMORY_BYTES_DEFAULT: u64 = 256 << 20;

/// Output of one task, all its files together. Larger results belong into several tasks.
pub const OUTPUT_BYTES_DEFAULT: u64 = 64 << 20;

/// Kept of each log stream, half from its beginning and half from its end.
pub const LOG_BYTES_DEFAULT: usize = 256 << 10;

/// Largest checkpoint. It travels through the quorum's log.
pub const CHECKPOINT_BYTES_MAX: usize = 256 << 10;

/// Files that a task has open at once: what Linux gives a process that asks for nothing.
pub const FILES_OPEN_DEFAULT: u32 = 1024;

/// One attempt.
pub struct Task {
    /// Who asked for the work. Of a command, as its signature has proven.
    pub submitter: PeerId,
    /// The task's idempotency token, the same for every attempt: `QUORATE_TASK` in its environment.
    pub token: String,
    /// Which of its step's tasks it is, and of how many: `QUORATE_TASK_INDEX` and `QUORATE_TASK_COUNT`.
    pub position: (u32, u32),
    pub program: Program,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub stdin: Option<Source>,
    /// By the name under `in/`.
    pub inputs: BTreeMap<String, Source>,
    pub stdout: Stdout,
    /// What the last attempt saved.
    pub checkpoint: Option<Bytes>,
    pub limits: Limits,
}

#[derive(Clone, Debug)]
pub enum Program {
    /// A WASI preview 1 command module, binary or text.
    Wasm { module: Bytes, deterministic: Option<Deterministic> },
    /// A name on the worker's list.
    Command { name: String },
}

/// The world of a deterministic run: its outcome follows from the module, the inputs and this. Needs fuel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deterministic {
    /// Where randomness starts from.
    pub seed: u64,
    /// Where the clock starts, in milliseconds since the Unix epoch. Each look at it moves it by a millisecond, and a
    /// sleep by the time slept, which takes no time.
    pub clock_ms: u64,
}

/// Bytes that a task reads.
#[derive(Debug)]
pub enum Source {
    Bytes(Bytes),
    File(PathBuf),
    /// Read once, in order. An error ends the attempt: half an input is not an input.
    Stream(mpsc::Receiver<std::io::Result<Bytes>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdout {
    Output,
    Log,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the start of the work to its forced end; compiling counts.
    pub time: Duration,
    /// Of a module: what it wrote counts, for it stays in memory until it is delivered. A program's outputs are files.
    pub memory_bytes: u64,
    /// All outputs together, scratch included.
    pub output_bytes: u64,
    /// Of each stream.
    pub log_bytes: usize,
    pub files_open: u32,
    /// Instructions of a module, roughly. Without it only time ends a loop.
    pub fuel: Option<u64>,
    /// Processor time of each process of a program.
    pub cpu: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(3600),
            memory_bytes: MEMORY_BYTES_DEFAULT,
            output_bytes: OUTPUT_BYTES_DEFAULT,
            log_bytes: LOG_BYTES_DEFAULT,
            files_open: FILES_OPEN_DEFAULT,
            fuel: None,
            cpu: None,
        }
    }
}

/// An output: a module's is in memory, a program's a file in its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Bytes(Bytes),
    File { path: PathBuf, bytes: u64 },
}

impl Content {
    /// Bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }
}

/// Opens a file that a program has left, to read it. A link may lead anywhere and a pipe may never have a writer:
/// neither is followed, waited for, or read.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub wall: Duration,
    /// Where it was counted.
    pub fuel: Option<u64>,
    /// Largest size of a module's memories and tables. Zero for programs.
    pub memory_peak_bytes: u64,
}

/// What came of an attempt. Outputs are there only after a success: what a failed attempt left is thrown away.
#[derive(Debug)]
pub struct Finished {
    pub ending: Ending,
    /// Standard output, unless it was log.
    pub stdout: Option<Content>,
    /// Files under `out/`, by their path there.
    pub outputs: BTreeMap<String, Content>,
    pub logs: Logs,
    pub used: Usage,
    /// The folder that file outputs are in; it goes away with this.
    pub folder: Option<Folder>,
}

impl Finished {
    pub(super) fn without_outputs(ending: Ending, logs: Logs, used: Usage) -> Self {
        Self { ending, stdout: None, outputs: BTreeMap::new(), logs, used, folder: None }
    }
}

impl Task {
    /// The variables that every task finds, whatever it sets itself.
    pub(super) fn identity(&self) -> [(String, String); 3] {
        let (index, count) = self.position;
        [
            ("QUORATE_TASK".to_owned(), self.token.clone()),
            ("QUORATE_TASK_INDEX".to_owned(), index.to_string()),
            ("QUORATE_TASK_COUNT".to_owned(), count.to_string()),
        ]
    }
}

/// Whether `name` may stand behind `in/`: one path component of plain characters.
pub(super) fn is_input_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.bytes().any(|byte| byte == b'/' || byte < b' ' || byte == 0x7f)
}

/// What is wrong with a task wherever it runs, if anything.
pub(super) fn check(task: &Task) -> Result<(), Ending> {
    let invalid = |reason: String| Err(Ending::Invalid { reason });
    if let Some(name) = task.inputs.keys().find(|name| !is_input_name(name)) {
        return invalid(format!("{name:?} is no name for an input: one file name of at most 255 bytes is"));
    }
    let mut words = task.args.iter().chain(task.env.keys()).chain(task.env.values()).chain([&task.token]);
    if words.any(|word| word.contains('\0')) {
        return invalid("an argument or variable holds a zero byte".to_owned());
    }
    if let Some(name) = task.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return invalid(format!("{name:?} is no name for a variable"));
    }
    if task.checkpoint.as_ref().is_some_and(|bytes| bytes.len() > CHECKPOINT_BYTES_MAX) {
        return invalid(format!("its checkpoint is larger than {}", ByteSize(CHECKPOINT_BYTES_MAX as u64)));
    }
    Ok(())
}
