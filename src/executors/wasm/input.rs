//! A declared input as a module reads it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::stop::Stop;
use crate::executors::Source;

pub(super) enum Input {
    Bytes(Bytes),
    File {
        file: File,
        bytes: u64,
    },
    /// Chunks yet to come, and what is left of the last one.
    Stream {
        chunks: mpsc::Receiver<io::Result<Bytes>>,
        rest: Bytes,
        ended: bool,
    },
}

/// Why a read gave no bytes.
pub(super) enum ReadError {
    /// The module is being stopped.
    Stopped,
    Broken(String),
}

impl Input {
    pub(super) fn open(source: Source) -> io::Result<Self> {
        Ok(match source {
            Source::Bytes(bytes) => Self::Bytes(bytes),
            Source::File(path) => {
                let file = File::open(&path)
                    .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
                let bytes = file.metadata()?.len();
                Self::File { file, bytes }
            }
            Source::Stream(chunks) => Self::Stream { chunks, rest: Bytes::new(), ended: false },
        })
    }
    /// Its size where it is known.
    pub(super) fn len(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::File { bytes, .. } => Some(*bytes),
            Self::Stream { .. } => None,
        }
    }
    /// Fills `into` from `at`; a shorter answer means the end. Only a stream that need not be `whole` may answer with
    /// what has come so far: how it came in pieces depends on the network, which a deterministic run must not see.
    pub(super) fn read_at(
        &mut self,
        at: u64,
        into: &mut [u8],
        whole: bool,
        stop: &Stop,
        runtime: &Handle,
    ) -> Result<usize, ReadError> {
        match self {
            Self::Bytes(bytes) => {
                let from = bytes.len().min(usize::try_from(at).unwrap_or(usize::MAX));
                let found = &bytes[from..];
                let count = found.len().min(into.len());
                into[..count].copy_from_slice(&found[..count]);
                Ok(count)
            }
            Self::File { file, bytes } => {
                let wanted = into.len().min(usize::try_from(bytes.saturating_sub(at)).unwrap_or(usize::MAX));
                // The size was taken when it was opened: a file that shrank since is broken, not short.
                file.read_exact_at(&mut into[..wanted], at).map_err(|error| ReadError::Broken(error.to_string()))?;
                Ok(wanted)
            }
            Self::Stream { chunks, rest, ended } => {
                let mut count = 0;
                while count < into.len() {
                    if !rest.is_empty() {
                        let taken = rest.len().min(into.len() - count);
                        into[count..count + taken].copy_from_slice(&rest[..taken]);
                        rest.advance(taken);
                        count += taken;
                        continue;
                    }
                    if *ended || (count > 0 && !whole) {
                        break;
                    }
                    let next = runtime.block_on(async {
                        tokio::select! {
                            biased;
                            () = stop.stopped() => Err(ReadError::Stopped),
                            next = chunks.recv() => Ok(next),
                        }
                    })?;
                    match next {
                        Some(Ok(bytes)) => *rest = bytes,
                        Some(Err(error)) => return Err(ReadError::Broken(error.to_string())),
                        None => *ended = true,
                    }
                }
                Ok(count)
            }
        }
    }
}
