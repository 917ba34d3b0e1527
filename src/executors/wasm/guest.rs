//! What a module's instance carries: its arguments, files, descriptors, clock and limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::errno::{self, Errno};
use super::files::{Files, NodeId, WriteError};
use super::input::{Input, ReadError};
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

#[derive(Clone, Debug)]
pub(super) enum Descriptor {
    Stdin,
    Stdout,
    Stderr,
    Folder { path: String, node: NodeId },
    File { node: NodeId, at: u64, read: bool, write: bool, append: bool },
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
    pub stop: Stop,
    /// For the few host functions that wait.
    pub runtime: Handle,
}

impl Guest {
    /// The descriptors that a module starts with.
    pub(super) fn first_descriptors(files: &Files) -> BTreeMap<u32, Descriptor> {
        let node = files.find("").expect("there is a root");
        BTreeMap::from([
            (0, Descriptor::Stdin),
            (1, Descriptor::Stdout),
            (2, Descriptor::Stderr),
            (ROOT, Descriptor::Folder { path: String::new(), node }),
        ])
    }
    pub(super) fn descriptor(&mut self, fd: i32) -> Result<&mut Descriptor, Fault> {
        self.descriptors.get_mut(&(fd as u32)).ok_or(Fault::Errno(errno::BADF))
    }
    /// The folder that a path starts from.
    pub(super) fn folder(&self, fd: i32) -> Result<&str, Fault> {
        match self.descriptors.get(&(fd as u32)) {
            Some(Descriptor::Folder { path, .. }) => Ok(path),
            Some(_) => Err(errno::NOTDIR.into()),
            None => Err(errno::BADF.into()),
        }
    }
    pub(super) fn open(&mut self, descriptor: Descriptor) -> Result<u32, Fault> {
        if self.descriptors.len() >= self.descriptors_max {
            return Err(errno::MFILE.into());
        }
        let free = (0..).find(|fd| !self.descriptors.contains_key(fd)).expect("far fewer are open");
        if let Descriptor::File { node, .. } | Descriptor::Folder { node, .. } = &descriptor {
            self.files.opened(*node);
        }
        self.descriptors.insert(free, descriptor);
        Ok(free)
    }
    pub(super) fn close(&mut self, fd: i32) -> Result<(), Fault> {
        let gone = self.descriptors.remove(&(fd as u32)).ok_or(errno::BADF)?;
        if let Descriptor::File { node, .. } | Descriptor::Folder { node, .. } = gone {
            self.files.closed(node);
        }
        Ok(())
    }
    pub(super) fn write_stdout(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match &mut self.stdout {
            Some(stdout) => {
                self.files.take_room(bytes.len() as u64)?;
                stdout.extend_from_slice(bytes);
            }
            None => self.log.push(Stream::Stdout, bytes),
        }
        Ok(())
    }
    /// Bytes written to `task/report`.
    pub(super) fn write_report(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        for line in self.lines.push(bytes) {
            match line {
                Line::Progress { permille, note } => self.host.progress(permille, &note),
                Line::Checkpoint => self.save_checkpoint()?,
                Line::Unknown(text) => self.tell(&format!("task/report does not know {text:?}")),
            }
        }
        Ok(())
    }
    fn save_checkpoint(&mut self) -> Result<(), Fault> {
        let Some(bytes) = self.files.checkpoint() else {
            self.tell("a checkpoint was reported, but there is no task/checkpoint");
            return Err(errno::NOENT.into());
        };
        if bytes.len() > CHECKPOINT_BYTES_MAX {
            self.tell(&format!("a checkpoint may have {CHECKPOINT_BYTES_MAX} bytes; this one was not saved"));
            return Err(errno::FBIG.into());
        }
        let saving = self.host.checkpoint(bytes.to_vec().into());
        let stop = self.stop.clone();
        let saved = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = stop.stopped() => Err(Halt::Stopped),
                saved = saving => Ok(saved),
            }
        })?;
        saved.map_err(|reason| {
            self.tell(&format!("a checkpoint was not saved: {reason}"));
            errno::IO.into()
        })
    }
    /// A line of the node's own in the task's log.
    fn tell(&self, text: &str) {
        self.log.push(Stream::Stderr, format!("[node] {text}\n").as_bytes());
    }
}
