//! The rights of WASI preview 1: what a descriptor may be used for, and what those opened from it may be used for.
//!
//! Each function demands the right that the standard names for it. A descriptor is opened with at most the rights that
//! the folder it is opened from passes on and that apply to its kind; it can only lose rights afterwards. Libraries
//! read them back: `F_GETFL` of C tells a descriptor for reading from one for writing by its rights.

use super::errno::{self, Errno};

pub(super) const FD_DATASYNC: u64 = 1 << 0;
pub(super) const FD_READ: u64 = 1 << 1;
pub(super) const FD_SEEK: u64 = 1 << 2;
pub(super) const FD_FDSTAT_SET_FLAGS: u64 = 1 << 3;
pub(super) const FD_SYNC: u64 = 1 << 4;
pub(super) const FD_TELL: u64 = 1 << 5;
pub(super) const FD_WRITE: u64 = 1 << 6;
pub(super) const FD_ADVISE: u64 = 1 << 7;
pub(super) const FD_ALLOCATE: u64 = 1 << 8;
pub(super) const PATH_CREATE_DIRECTORY: u64 = 1 << 9;
pub(super) const PATH_CREATE_FILE: u64 = 1 << 10;
pub(super) const PATH_LINK_SOURCE: u64 = 1 << 11;
pub(super) const PATH_LINK_TARGET: u64 = 1 << 12;
pub(super) const PATH_OPEN: u64 = 1 << 13;
pub(super) const FD_READDIR: u64 = 1 << 14;
pub(super) const PATH_READLINK: u64 = 1 << 15;
pub(super) const PATH_RENAME_SOURCE: u64 = 1 << 16;
pub(super) const PATH_RENAME_TARGET: u64 = 1 << 17;
pub(super) const PATH_FILESTAT_GET: u64 = 1 << 18;
pub(super) const PATH_FILESTAT_SET_SIZE: u64 = 1 << 19;
pub(super) const PATH_FILESTAT_SET_TIMES: u64 = 1 << 20;
pub(super) const FD_FILESTAT_GET: u64 = 1 << 21;
pub(super) const FD_FILESTAT_SET_SIZE: u64 = 1 << 22;
pub(super) const FD_FILESTAT_SET_TIMES: u64 = 1 << 23;
pub(super) const PATH_SYMLINK: u64 = 1 << 24;
pub(super) const PATH_REMOVE_DIRECTORY: u64 = 1 << 25;
pub(super) const PATH_UNLINK_FILE: u64 = 1 << 26;
pub(super) const POLL_FD_READWRITE: u64 = 1 << 27;

/// Asked for by modules that want every right that applies: no wish to write to a folder.
pub(super) const WHATEVER_APPLIES: u64 = u64::MAX;

/// What applies to an open file.
const FILE: u64 = FD_DATASYNC
    | FD_READ
    | FD_SEEK
    | FD_FDSTAT_SET_FLAGS
    | FD_SYNC
    | FD_TELL
    | FD_WRITE
    | FD_ADVISE
    | FD_ALLOCATE
    | FD_FILESTAT_GET
    | FD_FILESTAT_SET_SIZE
    | FD_FILESTAT_SET_TIMES
    | POLL_FD_READWRITE;

/// What applies to an open folder.
const FOLDER: u64 = FD_DATASYNC
    | FD_FDSTAT_SET_FLAGS
    | FD_SYNC
    | FD_ADVISE
    | PATH_CREATE_DIRECTORY
    | PATH_CREATE_FILE
    | PATH_LINK_SOURCE
    | PATH_LINK_TARGET
    | PATH_OPEN
    | FD_READDIR
    | PATH_READLINK
    | PATH_RENAME_SOURCE
    | PATH_RENAME_TARGET
    | PATH_FILESTAT_GET
    | PATH_FILESTAT_SET_SIZE
    | PATH_FILESTAT_SET_TIMES
    | FD_FILESTAT_GET
    | FD_FILESTAT_SET_TIMES
    | PATH_SYMLINK
    | PATH_REMOVE_DIRECTORY
    | PATH_UNLINK_FILE
    | POLL_FD_READWRITE;

/// What applies to every standard stream. That none can seek or tell makes them no files.
const STREAM: u64 = FD_DATASYNC | FD_FDSTAT_SET_FLAGS | FD_SYNC | FD_FILESTAT_GET | POLL_FD_READWRITE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) base: u64,
    /// What descriptors that are opened from this one may have.
    pub(super) inheriting: u64,
}

impl Rights {
    pub(super) const ROOT: Self = Self { base: FOLDER, inheriting: FOLDER | FILE };
    pub(super) const STDIN: Self = Self { base: STREAM | FD_READ, inheriting: 0 };
    pub(super) const STDOUT: Self = Self { base: STREAM | FD_WRITE, inheriting: 0 };

    /// Those of a folder that is opened from one with these.
    pub(super) fn of_folder(self, wanted: Self) -> Self {
        let given = self.inheriting;
        Self { base: wanted.base & given & FOLDER, inheriting: wanted.inheriting & given }
    }
    /// Those of a file that is opened from a folder with these.
    pub(super) fn of_file(self, wanted: u64) -> Self {
        Self { base: wanted & self.inheriting & FILE, inheriting: 0 }
    }
    pub(super) fn may(self, right: u64) -> bool {
        self.base & right == right
    }
    /// The error is what a library of C makes of it: a descriptor that is not open for reading or writing is `EBADF`.
    pub(super) fn demand(self, right: u64) -> Result<(), Errno> {
        const CONTENT: u64 = FD_READ | FD_WRITE | FD_ALLOCATE | FD_FILESTAT_SET_SIZE;
        match self.may(right) {
            true => Ok(()),
            false if right & CONTENT != 0 => Err(errno::BADF),
            false => Err(errno::NOTCAPABLE),
        }
    }
    /// Gives rights up. None comes back.
    pub(super) fn narrow(&mut self, to: Self) -> Result<(), Errno> {
        if to.base & !self.base != 0 || to.inheriting & !self.inheriting != 0 {
            return Err(errno::NOTCAPABLE);
        }
        *self = to;
        Ok(())
    }
}
