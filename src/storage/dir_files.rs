//! Pieces and small synced files in a folder.
//!
//! A piece is a file named by the hex of its hash, in one of 256 folders named by its first byte, so that no folder
//! grows past what a file system lists quickly. It is written under a temporary name, synced, renamed into place, and
//! then the folder is synced: a piece that is there after a crash is there whole. Temporary files are removed when
//! the store opens. What the bytes are is the reader's to check: this store gives back what the disk gives.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quorate_protocols::ids::PieceHash;

use super::{io_error, require_space, sync_folder};
use crate::buffers::Buffer;
use crate::seams::disk::check_small_name;
use crate::seams::{DiskError, Files};

/// Room that pieces must leave on the disk, in bytes: when pieces have filled it, the record store and the marks must
/// still be able to say so. Larger than the record store's own reserve.
const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;

const TEMPORARY: &str = "unfinished";
const PIECES: &str = "pieces";
const SMALL: &str = "small";

/// Piece files and small files under one folder.
pub struct DirFiles {
    pieces: PathBuf,
    small: PathBuf,
    temporary: PathBuf,
    /// Makes temporary names distinct within this process; other processes are kept out by [`super::open`].
    written: AtomicU64,
}

impl DirFiles {
    pub fn open(folder: &Path) -> Result<Self, DiskError> {
        let (pieces, small, temporary) = (folder.join(PIECES), folder.join(SMALL), folder.join(TEMPORARY));
        let create = |path: &Path| fs::create_dir_all(path).map_err(|error| io_error("creating", path, &error));
        match fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error("clearing", &temporary, &error)),
            _ => {}
        }
        create(&temporary)?;
        create(&small)?;
        for first in 0..=u8::MAX {
            create(&pieces.join(hex::encode([first])))?;
        }
        sync_folder(&pieces)?;
        sync_folder(folder)?;
        Ok(Self { pieces, small, temporary, written: AtomicU64::new(0) })
    }

    fn piece(&self, hash: PieceHash) -> (PathBuf, PathBuf) {
        let name = hex::encode(hash.0);
        let folder = self.pieces.join(&name[..2]);
        let path = folder.join(name);
        (folder, path)
    }

    /// Writes a file so that it is, whatever happens, either not changed or whole; on `Ok` it survives a power loss.
    fn replace(&self, folder: &Path, path: &Path, bytes: &[u8], reserve: u64) -> Result<(), DiskError> {
        require_space(&self.temporary, bytes.len() as u64, reserve)?;
        let temporary = self.temporary.join(self.written.fetch_add(1, Ordering::Relaxed).to_string());
        let written = write_synced(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
        if let Err(error) = written {
            // The space is wanted back, and the write has failed already: a second error adds nothing.
            let _ = fs::remove_file(&temporary);
            return Err(match io_error("writing", path, &error) {
                DiskError::Full { place, .. } => DiskError::Full { place, needed: bytes.len() as u64 },
                error => error,
            });
        }
        sync_folder(folder)
    }

    fn small(&self, name: &str) -> Result<PathBuf, DiskError> {
        check_small_name(name)?;
        Ok(self.small.join(name))
    }
}

impl Files for DirFiles {
    fn write_piece(&self, hash: PieceHash, bytes: &[u8]) -> Result<(), DiskError> {
        let (folder, path) = self.piece(hash);
        match fs::metadata(&path) {
            // Already there, but perhaps by a rename whose writer has not yet synced the folder.
            Ok(found) if found.is_file() && found.len() == bytes.len() as u64 => sync_folder(&folder),
            _ => self.replace(&folder, &path, bytes, FREE_BYTES_MIN),
        }
    }

    fn read_piece(&self, hash: PieceHash) -> Result<Option<Bytes>, DiskError> {
        let (_, path) = self.piece(hash);
        match read_buffer(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("reading", &path, &error)),
        }
    }

    fn remove_piece(&self, hash: PieceHash) -> Result<(), DiskError> {
        let (folder, path) = self.piece(hash);
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(&folder),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("removing", &path, &error)),
        }
    }

    fn list_pieces(&self, after: Option<PieceHash>, limit: usize) -> Result<Vec<PieceHash>, DiskError> {
        let first = after.map_or(0, |after| after.0[0]);
        let mut found = Vec::new();
        for prefix in first..=u8::MAX {
            if found.len() >= limit {
                break;
            }
            let folder = self.pieces.join(hex::encode([prefix]));
            let failed = |error: io::Error| io_error("listing", &folder, &error);
            let mut hashes = Vec::new();
            for entry in fs::read_dir(&folder).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                let mut hash = [0; 32];
                // A file of another name is not ours, and not ours to judge.
                if hex::decode_to_slice(name.as_encoded_bytes(), &mut hash).is_ok() {
                    hashes.push(PieceHash(hash));
                }
            }
            hashes.sort();
            found.extend(hashes.into_iter().filter(|hash| after.is_none_or(|after| *hash > after)));
        }
        found.truncate(limit);
        Ok(found)
    }

    fn write_small(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let path = self.small(name)?;
        self.replace(&self.small, &path, bytes, 0)
    }

    fn read_small(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        read(&self.small(name)?)
    }

    fn free_space(&self) -> Result<(u64, u64), DiskError> {
        let (free, size) = super::space(&self.pieces)?;
        // What pieces may not use is not free for them.
        Ok((free.saturating_sub(FREE_BYTES_MIN), size))
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

/// A whole file, in a buffer that is used again. A file that shrinks meanwhile is an error, one that grows is cut.
fn read_buffer(path: &Path) -> io::Result<Bytes> {
    let mut file = fs::File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut buffer = Buffer::with_length(length);
    file.read_exact(&mut buffer)?;
    Ok(buffer.freeze())
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("reading", path, &error)),
    }
}
