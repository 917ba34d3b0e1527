//! WASI preview 1 as command modules use it: the functions that the libraries of C, Rust, Go, Zig, AssemblyScript and
//! others import, over [`Files`] in memory. Those that take a path are in [`paths`], the waiting one in [`poll`].
//!
//! Not here: sockets (no descriptor is one: `ENOTSOCK`), signals (`proc_raise` answers `ENOSYS`), owners and modes of
//! files, terminals, and links or paths to anything outside the module's own tree.
//!
//! Pointers come from the module: each is checked against its memory, and one that does not fit answers `EFAULT`. No
//! call moves more than [`IO_BYTES_MAX`]: reads and writes may be short, as they always may.

use quorate_modules::imports::MODULE;
use wasmtime::{Caller, Error, Extern, Linker, Result};

use super::errno::{self, Errno};
use super::files::{Filestat, KIND_FILE, KIND_FOLDER, KIND_UNKNOWN, Node, NodeId, WriteError};
use super::guest::{APPEND, FLAGS_ALL, Fault, Guest, Halt, ROOT, Target};
use super::rights::{self, Rights};
use super::world::RESOLUTION_NS;
use super::{paths, poll};
use crate::executors::Stream;

/// Bytes of one read or write: what a module cannot be interrupted in.
const IO_BYTES_MAX: usize = 4 << 20;

/// Buffers of one read or write, and subscriptions of one poll.
pub(super) const VECTORS_MAX: u32 = 1024;

/// Clocks by number: the wall clock, a monotonic one, and two of processor time.
pub(super) const CLOCKS: u32 = 4;

/// Kinds of advice.
const ADVICE_MAX: i32 = 5;

/// Which times are set, and to what.
const SET_ACCESSED: i32 = 1 << 0;
const SET_ACCESSED_NOW: i32 = 1 << 1;
const SET_MODIFIED: i32 = 1 << 2;
const SET_MODIFIED_NOW: i32 = 1 << 3;
const SET_ALL: i32 = (1 << 4) - 1;

/// A module's memory, with every access checked.
pub(super) struct Memory<'a>(&'a mut [u8]);

impl Memory<'_> {
    fn bytes(&mut self, at: i32, len: usize) -> Result<&mut [u8], Fault> {
        let from = at as u32 as usize;
        from.checked_add(len).and_then(|end| self.0.get_mut(from..end)).ok_or(Fault::Errno(errno::FAULT))
    }
    pub(super) fn array<const N: usize>(&mut self, at: i32) -> Result<[u8; N], Fault> {
        self.bytes(at, N).map(|bytes| <[u8; N]>::try_from(&*bytes).expect("as long as asked for"))
    }
    pub(super) fn u32(&mut self, at: i32) -> Result<u32, Fault> {
        self.array(at).map(u32::from_le_bytes)
    }
    pub(super) fn put(&mut self, at: i32, bytes: &[u8]) -> Result<(), Fault> {
        self.bytes(at, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
    pub(super) fn put_u32(&mut self, at: i32, value: u32) -> Result<(), Fault> {
        self.put(at, &value.to_le_bytes())
    }
    fn put_u64(&mut self, at: i32, value: u64) -> Result<(), Fault> {
        self.put(at, &value.to_le_bytes())
    }
    pub(super) fn path(&mut self, at: i32, len: i32) -> Result<&str, Fault> {
        std::str::from_utf8(self.bytes(at, len as u32 as usize)?).map_err(|_| errno::ILSEQ.into())
    }
    /// The buffers of a read or write, cut to what one call moves.
    fn vectors(&mut self, at: i32, count: i32) -> Result<Vec<(i32, usize)>, Fault> {
        let count = count as u32;
        if count > VECTORS_MAX {
            return Err(errno::INVAL.into());
        }
        let mut room = IO_BYTES_MAX;
        let mut found = Vec::with_capacity(count as usize);
        for index in 0..count {
            let at = at.wrapping_add((index * 8) as i32);
            let (buffer, len) = (self.u32(at)? as i32, self.u32(at.wrapping_add(4))? as usize);
            self.bytes(buffer, len)?;
            let len = len.min(room);
            room -= len;
            found.push((buffer, len));
        }
        Ok(found)
    }
}

/// Runs one host function: success or an error number for the module, or its end.
pub(super) fn call(
    caller: &mut Caller<'_, Guest>,
    function: impl FnOnce(&mut Memory<'_>, &mut Guest) -> Result<(), Fault>,
) -> Result<Errno> {
    let Some(memory) = caller.get_export("memory").and_then(Extern::into_memory) else {
        return Err(Error::new(Halt::NoMemory));
    };
    let (bytes, guest) = memory.data_and_store_mut(caller);
    match function(&mut Memory(bytes), guest) {
        Ok(()) => Ok(errno::SUCCESS),
        Err(Fault::Errno(errno)) => Ok(errno),
        Err(Fault::Halt(halt)) => Err(Error::new(halt)),
    }
}

pub(super) type Calling<'a> = Caller<'a, Guest>;

/// Everything that a module may import.
pub(super) fn offer(linker: &mut Linker<Guest>) -> Result<()> {
    offer_process(linker)?;
    offer_descriptors(linker)?;
    offer_folders(linker)?;
    paths::offer(linker)?;
    offer_absences(linker)
}

fn offer_process(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(MODULE, "args_sizes_get", |mut c: Calling<'_>, count: i32, bytes: i32| {
        call(&mut c, |memory, guest| put_sizes(memory, &guest.args, count, bytes))
    })?;
    linker.func_wrap(MODULE, "args_get", |mut c: Calling<'_>, list: i32, buffer: i32| {
        call(&mut c, |memory, guest| put_strings(memory, &guest.args, list, buffer))
    })?;
    linker.func_wrap(MODULE, "environ_sizes_get", |mut c: Calling<'_>, count: i32, bytes: i32| {
        call(&mut c, |memory, guest| put_sizes(memory, &guest.env, count, bytes))
    })?;
    linker.func_wrap(MODULE, "environ_get", |mut c: Calling<'_>, list: i32, buffer: i32| {
        call(&mut c, |memory, guest| put_strings(memory, &guest.env, list, buffer))
    })?;
    linker.func_wrap(MODULE, "clock_res_get", |mut c: Calling<'_>, id: i32, result: i32| {
        call(&mut c, |memory, _| match (id as u32) < CLOCKS {
            true => memory.put_u64(result, RESOLUTION_NS),
            false => Err(errno::INVAL.into()),
        })
    })?;
    linker.func_wrap(MODULE, "clock_time_get", |mut c: Calling<'_>, id: i32, _precision: i64, result: i32| {
        call(&mut c, |memory, guest| {
            let now = clock(guest, id as u32)?;
            memory.put_u64(result, now)
        })
    })?;
    linker.func_wrap(MODULE, "random_get", |mut c: Calling<'_>, buffer: i32, len: i32| {
        call(&mut c, |memory, guest| {
            for chunk in memory.bytes(buffer, len as u32 as usize)?.chunks_mut(IO_BYTES_MAX) {
                if guest.stop.reason().is_some() {
                    return Err(Halt::Stopped.into());
                }
                guest.world.random(chunk);
            }
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, "sched_yield", |_: Calling<'_>| errno::SUCCESS)?;
    linker.func_wrap(MODULE, "proc_exit", |_: Calling<'_>, code: i32| -> Result<()> {
        Err(Error::new(Halt::Exit(code)))
    })?;
    linker.func_wrap(
        MODULE,
        "poll_oneoff",
        |mut c: Calling<'_>, subscriptions: i32, events: i32, count: i32, result: i32| {
            call(&mut c, |memory, guest| poll::poll(memory, guest, subscriptions, events, count, result))
        },
    )?;
    Ok(())
}

fn put_sizes(memory: &mut Memory<'_>, strings: &[Vec<u8>], count: i32, bytes: i32) -> Result<(), Fault> {
    memory.put_u32(count, strings.len() as u32)?;
    memory.put_u32(bytes, strings.iter().map(Vec::len).sum::<usize>() as u32)
}

fn put_strings(memory: &mut Memory<'_>, strings: &[Vec<u8>], list: i32, buffer: i32) -> Result<(), Fault> {
    let (mut list, mut at) = (list, buffer);
    for string in strings {
        memory.put_u32(list, at as u32)?;
        memory.put(at, string)?;
        list = list.wrapping_add(4);
        at = at.wrapping_add(string.len() as i32);
    }
    Ok(())
}

pub(super) fn clock(guest: &mut Guest, id: u32) -> Result<u64, Errno> {
    match id {
        0 => Ok(guest.world.wall_ns()),
        // Processor time is the time since the start: modules only take differences of it.
        1..CLOCKS => Ok(guest.world.monotonic_ns()),
        _ => Err(errno::INVAL),
    }
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
            let into = memory.bytes(buffer, len)?;
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
    let into = memory.bytes(buffer, len as u32 as usize)?;
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
    memory.put_u32(result, used as u32)
}

/// What does not exist here, with the shapes that modules import it in.
fn offer_absences(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(MODULE, "proc_raise", |_: Calling<'_>, _: i32| errno::NOSYS)?;
    linker.func_wrap(MODULE, "sock_accept", |mut c: Calling<'_>, fd: i32, _: i32, _: i32| no_socket(&mut c, fd))?;
    linker.func_wrap(MODULE, "sock_recv", |mut c: Calling<'_>, fd: i32, _: i32, _: i32, _: i32, _: i32, _: i32| {
        no_socket(&mut c, fd)
    })?;
    linker.func_wrap(MODULE, "sock_send", |mut c: Calling<'_>, fd: i32, _: i32, _: i32, _: i32, _: i32| {
        no_socket(&mut c, fd)
    })?;
    linker.func_wrap(MODULE, "sock_shutdown", |mut c: Calling<'_>, fd: i32, _: i32| no_socket(&mut c, fd))?;
    Ok(())
}

/// No descriptor is a socket, but one that is not open is no descriptor.
fn no_socket(caller: &mut Calling<'_>, fd: i32) -> Result<Errno> {
    call(caller, |_, guest| {
        guest.descriptor(fd)?;
        Err(errno::NOTSOCK.into())
    })
}
