//! The calls of WASI preview 1 that take a descriptor: reading, writing, seeking, the times and sizes of files, and the
//! entries of folders. Reads and writes may be short, as they always may.

use wasmtime::{Linker, Result};

use super::errno;
use super::files::{Filestat, KIND_FILE, KIND_FOLDER, KIND_UNKNOWN, Node, NodeId, WriteError};
use super::guest::{APPEND, FLAGS_ALL, Fault, Guest, Halt, ROOT, Target};
use super::rights::{self, Rights};
use super::wasi::{Calling, Memory, call};
use crate::executors::Stream;
use quorate_modules::imports::MODULE;

/// Kinds of advice.
const ADVICE_MAX: i32 = 5;

/// Which times are set, and to what.
const SET_ACCESSED: i32 = 1 << 0;
const SET_ACCESSED_NOW: i32 = 1 << 1;
const SET_MODIFIED: i32 = 1 << 2;
const SET_MODIFIED_NOW: i32 = 1 << 3;
const SET_ALL: i32 = (1 << 4) - 1;

/// The calls that take a descriptor.
pub(super) fn offer(linker: &mut Linker<Guest>) -> Result<()> {
    offer_descriptors(linker)?;
    offer_folders(linker)
}

fn offer_descriptors(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(MODULE, "fd_read", |mut c: Calling<'_>, fd: i32, list: i32, count: i32, result: i32| {
        call(&mut c, |memory, guest| read(memory, guest, fd, (list, count), None, result))
    })?;
    linker.func_wrap(
        MODULE,
        "fd_pread",
        |mut c: Calling<'_>, fd: i32, list: i32, count: i32, at: i64, result: i32| {
            call(&mut c, |memory, guest| {
                let at = u64::try_from(at).map_err(|_| errno::INVAL)?;
                read(memory, guest, fd, (list, count), Some(at), result)
            })
        },
    )?;
    linker.func_wrap(MODULE, "fd_write", |mut c: Calling<'_>, fd: i32, list: i32, count: i32, result: i32| {
        call(&mut c, |memory, guest| write(memory, guest, fd, (list, count), None, result))
    })?;
    linker.func_wrap(
        MODULE,
        "fd_pwrite",
        |mut c: Calling<'_>, fd: i32, list: i32, count: i32, at: i64, result: i32| {
            call(&mut c, |memory, guest| {
                let at = u64::try_from(at).map_err(|_| errno::INVAL)?;
                write(memory, guest, fd, (list, count), Some(at), result)
            })
        },
    )?;
    linker.func_wrap(MODULE, "fd_close", |mut c: Calling<'_>, fd: i32| call(&mut c, |_, guest| guest.close(fd)))?;
    linker.func_wrap(MODULE, "fd_seek", |mut c: Calling<'_>, fd: i32, offset: i64, whence: i32, result: i32| {
        call(&mut c, |memory, guest| {
            // Asking for the place is telling it.
            let right = if (offset, whence) == (0, 1) { rights::FD_TELL } else { rights::FD_SEEK };
            let now = seek(guest, fd, right, offset, whence)?;
            memory.put_u64(result, now)
        })
    })?;
    linker.func_wrap(MODULE, "fd_tell", |mut c: Calling<'_>, fd: i32, result: i32| {
        call(&mut c, |memory, guest| {
            let now = seek(guest, fd, rights::FD_TELL, 0, 1)?;
            memory.put_u64(result, now)
        })
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |mut c: Calling<'_>, fd: i32, result: i32| {
        call(&mut c, |memory, guest| {
            let descriptor = guest.descriptor(fd)?;
            let kind = match descriptor.target {
                Target::Stdin | Target::Stdout | Target::Stderr => KIND_UNKNOWN,
                Target::Folder(_) => KIND_FOLDER,
                Target::File { .. } => KIND_FILE,
            };
            let mut stat = [0u8; 24];
            stat[0] = kind;
            stat[2..4].copy_from_slice(&descriptor.flags.to_le_bytes());
            stat[8..16].copy_from_slice(&descriptor.rights.base.to_le_bytes());
            stat[16..24].copy_from_slice(&descriptor.rights.inheriting.to_le_bytes());
            memory.put(result, &stat)
        })
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_set_flags", |mut c: Calling<'_>, fd: i32, flags: i32| {
        call(&mut c, |_, guest| {
            let descriptor = guest.descriptor(fd)?;
            descriptor.rights.demand(rights::FD_FDSTAT_SET_FLAGS)?;
            match u16::try_from(flags) {
                Ok(flags) if flags & !FLAGS_ALL == 0 => descriptor.flags = flags,
                _ => return Err(errno::INVAL.into()),
            }
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_set_rights", |mut c: Calling<'_>, fd: i32, base: i64, inheriting: i64| {
        call(&mut c, |_, guest| {
            let to = Rights { base: base as u64, inheriting: inheriting as u64 };
            Ok(guest.descriptor(fd)?.rights.narrow(to)?)
        })
    })?;
    linker.func_wrap(MODULE, "fd_filestat_get", |mut c: Calling<'_>, fd: i32, result: i32| {
        call(&mut c, |memory, guest| {
            let descriptor = *guest.descriptor(fd)?;
            descriptor.rights.demand(rights::FD_FILESTAT_GET)?;
            match descriptor.target {
                Target::Folder(node) | Target::File { node, .. } => {
                    put_filestat(memory, &guest.files.filestat(node), result)
                }
                Target::Stdin | Target::Stdout | Target::Stderr => memory.put(result, &[0u8; 64]),
            }
        })
    })?;
    linker.func_wrap(
        MODULE,
        "fd_filestat_set_times",
        |mut c: Calling<'_>, fd: i32, accessed: i64, modified: i64, which: i32| {
            call(&mut c, |_, guest| {
                let descriptor = *guest.descriptor(fd)?;
                descriptor.rights.demand(rights::FD_FILESTAT_SET_TIMES)?;
                match descriptor.target {
                    Target::Folder(node) | Target::File { node, .. } => {
                        set_times(guest, node, accessed as u64, modified as u64, which)
                    }
                    Target::Stdin | Target::Stdout | Target::Stderr => Err(errno::BADF.into()),
                }
            })
        },
    )?;
    linker.func_wrap(MODULE, "fd_filestat_set_size", |mut c: Calling<'_>, fd: i32, size: i64| {
        call(&mut c, |_, guest| {
            let node = guest.file(fd, rights::FD_FILESTAT_SET_SIZE)?;
            let size = u64::try_from(size).map_err(|_| errno::INVAL)?;
            Ok(guest.files.resize(node, size, guest.world.file_ns())?)
        })
    })?;
    linker.func_wrap(MODULE, "fd_allocate", |mut c: Calling<'_>, fd: i32, at: i64, len: i64| {
        call(&mut c, |_, guest| {
            let node = guest.file(fd, rights::FD_ALLOCATE)?;
            guest.files.may_write(node)?;
            if at < 0 || len <= 0 {
                return Err(errno::INVAL.into());
            }
            let end = at.checked_add(len).ok_or(Halt::OutputTooLarge)? as u64;
            match end > guest.files.len(node) {
                true => Ok(guest.files.resize(node, end, guest.world.file_ns())?),
                false => Ok(()),
            }
        })
    })?;
    // Advice and syncing have nothing to do for files in memory.
    linker.func_wrap(MODULE, "fd_advise", |mut c: Calling<'_>, fd: i32, at: i64, len: i64, advice: i32| {
        call(&mut c, |_, guest| {
            let descriptor = guest.descriptor(fd)?;
            if !matches!(descriptor.target, Target::Folder(_) | Target::File { .. }) {
                return Err(errno::SPIPE.into());
            }
            descriptor.rights.demand(rights::FD_ADVISE)?;
            match at >= 0 && len >= 0 && (0..=ADVICE_MAX).contains(&advice) {
                true => Ok(()),
                false => Err(errno::INVAL.into()),
            }
        })
    })?;
    for (name, right) in [("fd_sync", rights::FD_SYNC), ("fd_datasync", rights::FD_DATASYNC)] {
        linker.func_wrap(MODULE, name, move |mut c: Calling<'_>, fd: i32| {
            call(&mut c, |_, guest| {
                let held = guest.descriptor(fd)?.rights;
                // Syncing everything syncs the data too.
                match held.may(rights::FD_SYNC) {
                    true => Ok(()),
                    false => Ok(held.demand(right)?),
                }
            })
        })?;
    }
    linker.func_wrap(MODULE, "fd_renumber", |mut c: Calling<'_>, from: i32, to: i32| {
        call(&mut c, |_, guest| guest.renumber(from, to))
    })?;
    Ok(())
}

fn offer_folders(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(MODULE, "fd_prestat_get", |mut c: Calling<'_>, fd: i32, result: i32| {
        call(&mut c, |memory, guest| {
            preopened(guest, fd)?;
            memory.put_u32(result, 0)?;
            memory.put_u32(result.wrapping_add(4), PREOPEN.len() as u32)
        })
    })?;
    linker.func_wrap(MODULE, "fd_prestat_dir_name", |mut c: Calling<'_>, fd: i32, buffer: i32, len: i32| {
        call(&mut c, |memory, guest| {
            preopened(guest, fd)?;
            match len as u32 as usize >= PREOPEN.len() {
                true => memory.put(buffer, PREOPEN),
                false => Err(errno::NAMETOOLONG.into()),
            }
        })
    })?;
    linker.func_wrap(
        MODULE,
        "fd_readdir",
        |mut c: Calling<'_>, fd: i32, buffer: i32, len: i32, cookie: i64, result: i32| {
            call(&mut c, |memory, guest| read_folder(memory, guest, fd, (buffer, len), cookie as u64, result))
        },
    )?;
    Ok(())
}

/// The name of the one folder that modules find open.
const PREOPEN: &[u8] = b"/";

/// The number is what makes it so: a module that moves another folder there has changed its root.
fn preopened(guest: &mut Guest, fd: i32) -> Result<(), Fault> {
    match guest.descriptor(fd)?.target {
        Target::Folder(_) if fd as u32 == ROOT => Ok(()),
        _ => Err(errno::BADF.into()),
    }
}

fn read(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    fd: i32,
    (list, count): (i32, i32),
    place: Option<u64>,
    result: i32,
) -> Result<(), Fault> {
    let vectors = memory.vectors(list, count)?;
    let whole = guest.world.is_made();
    let Guest { descriptors, files, stdin, stdin_at, stop, runtime, .. } = guest;
    let descriptor = descriptors.get_mut(&(fd as u32)).ok_or(errno::BADF)?;
    if matches!(descriptor.target, Target::Folder(_)) {
        return Err(errno::ISDIR.into());
    }
    descriptor.rights.demand(rights::FD_READ)?;
    let (input, at) = match &mut descriptor.target {
        Target::Stdin if place.is_some() => return Err(errno::SPIPE.into()),
        Target::Stdin => (stdin.as_mut().map(Readable::Input), stdin_at),
        Target::File { node, at } => match files.node(*node) {
            Node::Given(input) if place.is_some() && input.len().is_none() => return Err(errno::SPIPE.into()),
            Node::Given(input) => (Some(Readable::Input(input)), at),
            Node::Written(bytes) => (Some(Readable::Bytes(bytes.as_slice())), at),
            Node::Report => (None, at),
            Node::Folder(_) | Node::Link(_) => return Err(errno::ISDIR.into()),
        },
        Target::Stdout | Target::Stderr | Target::Folder(_) => return Err(errno::BADF.into()),
    };
    let mut total = 0;
    if let Some(mut input) = input {
        for (buffer, len) in vectors {
            let into = memory.buffer(buffer, len)?;
            let from = place.unwrap_or(*at).saturating_add(total as u64);
            // Once something has come, the module gets it before anything is waited for.
            if total > 0 && !whole && matches!(&input, Readable::Input(input) if input.len().is_none()) {
                break;
            }
            let found = match &mut input {
                Readable::Input(input) => input.read_at(from, into, whole, stop, runtime)?,
                Readable::Bytes(bytes) => {
                    let rest = &bytes[bytes.len().min(usize::try_from(from).unwrap_or(usize::MAX))..];
                    let found = rest.len().min(into.len());
                    into[..found].copy_from_slice(&rest[..found]);
                    found
                }
            };
            total += found;
            if found < len {
                break;
            }
        }
    }
    memory.note_moved(total);
    if place.is_none() {
        *at = at.saturating_add(total as u64);
    }
    memory.put_u32(result, total as u32)
}

enum Readable<'a> {
    Input(&'a mut super::input::Input),
    Bytes(&'a [u8]),
}

fn write(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    fd: i32,
    (list, count): (i32, i32),
    place: Option<u64>,
    result: i32,
) -> Result<(), Fault> {
    // Before the buffers, of which there may be none.
    let descriptor = *guest.descriptor(fd)?;
    descriptor.rights.demand(rights::FD_WRITE)?;
    let vectors = memory.vectors(list, count)?;
    let mut total = 0u32;
    for (buffer, len) in vectors {
        let bytes = memory.bytes(buffer, len)?;
        match descriptor.target {
            Target::Stdout | Target::Stderr if place.is_some() => return Err(errno::SPIPE.into()),
            Target::Stdout => guest.write_stdout(bytes)?,
            Target::Stderr => guest.log.push(Stream::Stderr, bytes),
            Target::File { node, .. } if matches!(guest.files.node(node), Node::Report) => guest.write_report(bytes)?,
            Target::File { node, .. } => match write_file(guest, fd, node, place, total, bytes) {
                // What was written before is written: the next call meets the error.
                Err(WriteError::Refused(_)) if total > 0 => break,
                result => result?,
            },
            Target::Stdin | Target::Folder(_) => return Err(errno::BADF.into()),
        }
        total += len as u32;
    }
    memory.put_u32(result, total)
}

/// Writes one buffer of several, `before` bytes of which are written.
fn write_file(
    guest: &mut Guest,
    fd: i32,
    node: NodeId,
    place: Option<u64>,
    before: u32,
    bytes: &[u8],
) -> Result<(), WriteError> {
    let Guest { descriptors, files, world, .. } = guest;
    let Some(descriptor) = descriptors.get_mut(&(fd as u32)) else { return Err(WriteError::Refused(errno::BADF)) };
    let append = descriptor.flags & APPEND != 0;
    let (from, at) = match (&mut descriptor.target, place) {
        (_, Some(place)) => (place.saturating_add(before.into()), None),
        (Target::File { at, .. }, None) if append => (files.len(node), Some(at)),
        (Target::File { at, .. }, None) => (*at, Some(at)),
        (_, None) => return Err(WriteError::Refused(errno::BADF)),
    };
    files.write_at(node, from, bytes, world.file_ns())?;
    if let Some(at) = at {
        *at = from + bytes.len() as u64;
    }
    Ok(())
}

fn seek(guest: &mut Guest, fd: i32, right: u64, offset: i64, whence: i32) -> Result<u64, Fault> {
    let Guest { descriptors, files, .. } = guest;
    let descriptor = descriptors.get_mut(&(fd as u32)).ok_or(errno::BADF)?;
    let (node, at) = match &mut descriptor.target {
        Target::File { node, at } => (*node, at),
        Target::Folder(_) => return Err(errno::ISDIR.into()),
        Target::Stdin | Target::Stdout | Target::Stderr => return Err(errno::SPIPE.into()),
    };
    // Who may seek may tell.
    if !descriptor.rights.may(rights::FD_SEEK) {
        descriptor.rights.demand(right)?;
    }
    match files.node(node) {
        Node::Given(input) if input.len().is_none() => return Err(errno::SPIPE.into()),
        Node::Report => return Err(errno::SPIPE.into()),
        _ => (),
    }
    let from = match whence {
        0 => 0,
        1 => *at,
        2 => files.len(node),
        _ => return Err(errno::INVAL.into()),
    };
    let to = from.checked_add_signed(offset).filter(|to| i64::try_from(*to).is_ok()).ok_or(errno::INVAL)?;
    *at = to;
    Ok(to)
}

pub(super) fn put_filestat(memory: &mut Memory<'_>, found: &Filestat, result: i32) -> Result<(), Fault> {
    let mut stat = [0u8; 64];
    let times = found.times;
    let numbers = [
        (0, 1),
        (8, found.node),
        (24, found.names.into()),
        (32, found.bytes),
        (40, times.accessed),
        (48, times.modified),
        (56, times.changed),
    ];
    for (at, number) in numbers {
        stat[at..at + 8].copy_from_slice(&u64::to_le_bytes(number));
    }
    stat[16] = found.kind;
    memory.put(result, &stat)
}

pub(super) fn set_times(
    guest: &mut Guest,
    node: NodeId,
    accessed: u64,
    modified: u64,
    which: i32,
) -> Result<(), Fault> {
    let both = |one, other| which & (one | other) == one | other;
    if which & !SET_ALL != 0 || both(SET_ACCESSED, SET_ACCESSED_NOW) || both(SET_MODIFIED, SET_MODIFIED_NOW) {
        return Err(errno::INVAL.into());
    }
    let now = guest.world.file_ns();
    let chosen = |given, set, set_now| match which {
        which if which & set != 0 => Some(given),
        which if which & set_now != 0 => Some(now),
        _ => None,
    };
    let accessed = chosen(accessed, SET_ACCESSED, SET_ACCESSED_NOW);
    let modified = chosen(modified, SET_MODIFIED, SET_MODIFIED_NOW);
    Ok(guest.files.set_times(node, accessed, modified, now)?)
}

/// Fills the buffer with entries after a cookie, which belongs to a name.
fn read_folder(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    fd: i32,
    (buffer, len): (i32, i32),
    cookie: u64,
    result: i32,
) -> Result<(), Fault> {
    let folder = guest.folder(fd, rights::FD_READDIR)?;
    let into = memory.buffer(buffer, len as u32 as usize)?;
    let mut used = 0;
    for (cookie, name, node, kind) in guest.files.list_after(folder, cookie)? {
        let mut entry = Vec::with_capacity(24 + name.len());
        entry.extend_from_slice(&cookie.to_le_bytes());
        entry.extend_from_slice(&node.to_le_bytes());
        entry.extend_from_slice(&(name.len() as u32).to_le_bytes());
        entry.extend_from_slice(&[kind, 0, 0, 0]);
        entry.extend_from_slice(name.as_bytes());
        // An entry that does not fit is cut: a full buffer tells the reader that there is more.
        let fits = entry.len().min(into.len() - used);
        into[used..used + fits].copy_from_slice(&entry[..fits]);
        used += fits;
        if used == into.len() {
            break;
        }
    }
    memory.note_moved(used);
    memory.put_u32(result, used as u32)
}
