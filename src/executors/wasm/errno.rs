//! The error numbers of WASI preview 1 that modules are told here.

pub(super) type Errno = i32;

pub(super) const SUCCESS: Errno = 0;
pub(super) const BADF: Errno = 8;
pub(super) const BUSY: Errno = 10;
pub(super) const EXIST: Errno = 20;
pub(super) const FAULT: Errno = 21;
pub(super) const FBIG: Errno = 22;
pub(super) const ILSEQ: Errno = 25;
pub(super) const INVAL: Errno = 28;
pub(super) const IO: Errno = 29;
pub(super) const ISDIR: Errno = 31;
pub(super) const LOOP: Errno = 32;
pub(super) const MFILE: Errno = 33;
pub(super) const NAMETOOLONG: Errno = 37;
pub(super) const NOENT: Errno = 44;
pub(super) const NOSPC: Errno = 51;
pub(super) const NOSYS: Errno = 52;
pub(super) const NOTDIR: Errno = 54;
pub(super) const NOTEMPTY: Errno = 55;
pub(super) const NOTSOCK: Errno = 57;
pub(super) const PERM: Errno = 63;
pub(super) const ROFS: Errno = 69;
pub(super) const SPIPE: Errno = 70;
pub(super) const XDEV: Errno = 75;
pub(super) const NOTCAPABLE: Errno = 76;
