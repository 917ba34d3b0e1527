//! The state of a module's instance: its arguments, files, descriptors, clock and limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::errno::{self, Errno};
use super::files::{self, Files, NAMES_MAX, New, NodeId, Place, WriteError};
use super::input::{Input, ReadError};
use super::rights::Rights;
use super::stop::Stop;
use super::world::World;
use crate::executors::log::LogBook;
use crate::executors::report::{Line, Lines};
use crate::executors::task::CHECKPOINT_BYTES_MAX;
use crate::executors::{Host, Stream};

/// The first descriptor after the standard ones: the root folder, as every WASI library expects it.
pub(super) const ROOT: u32 = 3;

/// Why a host function ends the module rather than answering it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Halt {
    #[error("exit {0}")]
    Exit(i32),
    #[error("stopped")]
    Stopped,
    #[error("too much output")]
    OutputTooLarge,
    #[error("{0}")]
    InputBroken(String),
    #[error("the module exports no memory called \"memory\"")]
    NoMemory,
}

/// What a host function may answer other than success.
pub(super) enum Fault {
    Errno(Errno),
    Halt(Halt),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Halt> for Fault {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::TooLarge => Halt::OutputTooLarge.into(),
            WriteError::Refused(errno) => errno.into(),
        }
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Stopped => Halt::Stopped.into(),
            ReadError::Broken(reason) => Halt::InputBroken(reason).into(),
        }
    }
}

/// Flags of a descriptor, as the standard numbers them. Only `APPEND` does something: files in memory are in sync.
pub(super) const APPEND: u16 = 1;
pub(super) const FLAGS_ALL: u16 = 0x1f;

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Stdin,
    Stdout,
    Stderr,
    Folder(NodeId),
    File { node: NodeId, at: u64 },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) target: Target,
    pub(super) rights: Rights,
    pub(super) flags: u16,
}

impl Descriptor {
    /// The node that it keeps, if it is not a stream.
    fn node(&self) -> Option<NodeId> {
        match self.target {
            Target::Folder(node) | Target::File { node, .. } => Some(node),
            Target::Stdin | Target::Stdout | Target::Stderr => None,
        }
    }
}

pub(super) struct Guest {
    /// Each ends with a zero byte, as the module will see it.
    pub args: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    pub world: World,
    pub files: Files,
    pub stdin: Option<Input>,
    pub stdin_at: u64,
    /// Standard output so far, when it is output.
    pub stdout: Option<Vec<u8>>,
    pub log: LogBook,
    pub host: Arc<dyn Host>,
    pub lines: Lines,
    pub descriptors: BTreeMap<u32, Descriptor>,
    pub descriptors_max: usize,
    /// Whether the log says that a limit was met: once is enough.
    pub descriptors_refused: bool,
    pub names_refusal_logged: bool,
    pub stop: Stop,
    /// For the few host functions that wait.
    pub runtime: Handle,
    /// Whether instructions are counted, and calls with them.
    pub is_metered: bool,
}

impl Guest {
    /// The descriptors that a module starts with.
    pub(super) fn first_descriptors(files: &mut Files) -> BTreeMap<u32, Descriptor> {
        files.opened(files::ROOT);
        let first = |target, rights| Descriptor { target, rights, flags: 0 };
        BTreeMap::from([
            (0, first(Target::Stdin, Rights::STDIN)),
            (1, first(Target::Stdout, Rights::STDOUT)),
            (2, first(Target::Stderr, Rights::STDOUT)),
            (ROOT, first(Target::Folder(files::ROOT), Rights::ROOT)),
        ])
    }
    pub(super) fn descriptor(&mut self, fd: i32) -> Result<&mut Descriptor, Fault> {
        self.descriptors.get_mut(&(fd as u32)).ok_or(Fault::Errno(errno::BADF))
    }
    /// The folder that a path starts from, for what needs these rights.
    pub(super) fn folder(&mut self, fd: i32, right: u64) -> Result<NodeId, Fault> {
        let descriptor = self.descriptor(fd)?;
        let Target::Folder(node) = descriptor.target else { return Err(errno::NOTDIR.into()) };
        descriptor.rights.demand(right)?;
        Ok(node)
    }
    /// The file behind a descriptor, for what needs these rights.
    pub(super) fn file(&mut self, fd: i32, right: u64) -> Result<NodeId, Fault> {
        let descriptor = self.descriptor(fd)?;
        let Target::File { node, .. } = descriptor.target else { return Err(errno::BADF.into()) };
        descriptor.rights.demand(right)?;
        Ok(node)
    }
    pub(super) fn open(&mut self, descriptor: Descriptor) -> Result<u32, Fault> {
        self.may_open()?;
        let free = (0..).find(|fd| !self.descriptors.contains_key(fd)).expect("far fewer are open");
        if let Some(node) = descriptor.node() {
            self.files.opened(node);
        }
        self.descriptors.insert(free, descriptor);
        Ok(free)
    }
    /// Whether there is a descriptor to be had.
    pub(super) fn may_open(&mut self) -> Result<(), Fault> {
        if self.descriptors.len() < self.descriptors_max {
            return Ok(());
        }
        if !std::mem::replace(&mut self.descriptors_refused, true) {
            self.log_line(&format!("a task may have {} files and folders open at once", self.descriptors_max));
        }
        Err(errno::MFILE.into())
    }
    pub(super) fn close(&mut self, fd: i32) -> Result<(), Fault> {
        let gone = self.descriptors.remove(&(fd as u32)).ok_or(errno::BADF)?;
        if let Some(node) = gone.node() {
            self.files.closed(node);
        }
        Ok(())
    }
    /// Gives a descriptor another number, and closes what had it.
    pub(super) fn renumber(&mut self, from: i32, to: i32) -> Result<(), Fault> {
        self.descriptor(from)?;
        self.descriptor(to)?;
        if from != to {
            self.close(to)?;
            let moved = self.descriptors.remove(&(from as u32)).expect("seen above");
            self.descriptors.insert(to as u32, moved);
        }
        Ok(())
    }
    /// Makes a file, folder or symbolic link.
    pub(super) fn create(&mut self, place: &Place, new: New) -> Result<NodeId, Fault> {
        let made = self.files.create(place, new, self.world.file_ns());
        self.log_names_refused();
        Ok(made?)
    }
    /// Says once what limit it was that refused a name.
    pub(super) fn log_names_refused(&mut self) {
        if self.files.names_refused && !std::mem::replace(&mut self.names_refusal_logged, true) {
            self.log_line(&format!("a task may have {NAMES_MAX} files, folders and links at once"));
        }
    }
    pub(super) fn write_stdout(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match &mut self.stdout {
            Some(stdout) => {
                self.files.take_room(bytes.len() as u64)?;
                stdout.extend_from_slice(bytes);
                self.log.show_output(bytes);
            }
            None => self.log.push(Stream::Stdout, bytes),
        }
        Ok(())
    }
    /// Bytes written to `task/report`.
    pub(super) fn write_report(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while let Some(line) = self.lines.next_line(&mut bytes) {
            if self.stop.reason().is_some() {
                return Err(Halt::Stopped.into());
            }
            match line {
                Line::Progress { permille, note } => self.host.progress(permille, &note),
                Line::Checkpoint => self.save_checkpoint()?,
                Line::Unknown(text) => {
                    if let Some(words) = self.lines.describe_unknown(&text) {
                        self.log_line(&words);
                    }
                }
            }
        }
        Ok(())
    }
    fn save_checkpoint(&mut self) -> Result<(), Fault> {
        let Some(bytes) = self.files.checkpoint() else {
            self.log_line("a checkpoint was reported, but there is no task/checkpoint");
            return Err(errno::NOENT.into());
        };
        if bytes.len() > CHECKPOINT_BYTES_MAX {
            self.log_line(&format!("a checkpoint may have {CHECKPOINT_BYTES_MAX} bytes; this one was not saved"));
            return Err(errno::FBIG.into());
        }
        let bytes: Bytes = bytes.to_vec().into();
        self.files.note_work(bytes.len());
        let (host, stop) = (self.host.clone(), self.stop.clone());
        let saved = self.runtime.block_on(async {
            // Asked in here: a host starts a task of its own, which only a runtime can do, and this thread has none.
            tokio::select! {
                biased;
                () = stop.stopped() => Err(Halt::Stopped),
                saved = host.checkpoint(bytes) => Ok(saved),
            }
        })?;
        saved.map_err(|reason| {
            self.log_line(&format!("a checkpoint was not saved: {reason}"));
            errno::IO.into()
        })
    }
    /// A line of the node's own in the task's log.
    fn log_line(&self, text: &str) {
        self.log.push(Stream::Stderr, format!("[node] {text}\n").as_bytes());
    }
}
