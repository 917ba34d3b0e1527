//! WASI preview 1 as command modules use it: the functions that the libraries of C, Rust, Zig and AssemblyScript import,
//! over [`Files`] in memory. Links, times of files and sockets do not exist here: those functions answer `ENOSYS`.
//!
//! Pointers come from the module: each is checked against its memory, and one that does not fit answers `EFAULT`. No
//! call moves more than [`IO_BYTES_MAX`]: reads and writes may be short, as they always may.

use wasmtime::{Caller, Error, Extern, Linker, Result};

use super::errno::{self, Errno};
use super::files::{Files, Node, NodeId};
use super::guest::{Descriptor, Fault, Guest, Halt, ROOT};
use super::world::RESOLUTION_NS;
use crate::executors::Stream;

const MODULE: &str = "wasi_snapshot_preview1";

/// Bytes of one read or write: what a module cannot be interrupted in.
const IO_BYTES_MAX: usize = 4 << 20;

/// Buffers of one read or write, and subscriptions of one poll.
const VECTORS_MAX: u32 = 1024;

const RIGHT_READ: i64 = 1 << 1;
const RIGHT_WRITE: i64 = 1 << 6;
/// Every right that the standard names: what is refused is refused by the file.
const RIGHTS_ALL: u64 = (1 << 30) - 1;
/// A terminal could not seek; neither can these, and they are no terminal.
const RIGHTS_STREAM: u64 = (RIGHT_READ | RIGHT_WRITE) as u64 | 1 << 21 | 1 << 27;

const TYPE_UNKNOWN: u8 = 0;
const TYPE_FOLDER: u8 = 3;
const TYPE_FILE: u8 = 4;

/// A module's memory, with every access checked.
struct Memory<'a>(&'a mut [u8]);

impl Memory<'_> {
    fn bytes(&mut self, at: i32, len: usize) -> Result<&mut [u8], Fault> {
        let from = at as u32 as usize;
        from.checked_add(len).and_then(|end| self.0.get_mut(from..end)).ok_or(Fault::Errno(errno::FAULT))
    }
    fn array<const N: usize>(&mut self, at: i32) -> Result<[u8; N], Fault> {
        self.bytes(at, N).map(|bytes| <[u8; N]>::try_from(&*bytes).expect("as long as asked for"))
    }
    fn u32(&mut self, at: i32) -> Result<u32, Fault> {
        self.array(at).map(u32::from_le_bytes)
    }
    fn put(&mut self, at: i32, bytes: &[u8]) -> Result<(), Fault> {
        self.bytes(at, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
    fn put_u32(&mut self, at: i32, value: u32) -> Result<(), Fault> {
        self.put(at, &value.to_le_bytes())
    }
    fn put_u64(&mut self, at: i32, value: u64) -> Result<(), Fault> {
        self.put(at, &value.to_le_bytes())
    }
    fn path(&mut self, at: i32, len: i32) -> Result<&str, Fault> {
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
fn call(
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

type Calling<'a> = Caller<'a, Guest>;

/// Everything that a module may import.
pub(super) fn offer(linker: &mut Linker<Guest>) -> Result<()> {
    offer_process(linker)?;
    offer_descriptors(linker)?;
    offer_paths(linker)?;
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
        call(&mut c, |memory, _| match id {
            0..=3 => memory.put_u64(result, RESOLUTION_NS),
            _ => Err(errno::INVAL.into()),
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
            call(&mut c, |memory, guest| poll(memory, guest, subscriptions, events, count, result))
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

fn clock(guest: &mut Guest, id: u32) -> Result<u64, Fault> {
    match id {
        0 => Ok(guest.world.wall_ns()),
        // Processor time is the time since the start: modules only take differences of it.
        1..=3 => Ok(guest.world.monotonic_ns()),
        _ => Err(errno::INVAL.into()),
    }
}

/// One thing to wait for: its user data, and until when (a clock) or nothing (a descriptor, which is always ready).
struct Waited {
    user: [u8; 8],
    kind: u8,
    wait_ns: Option<u64>,
}

fn poll(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    subscriptions: i32,
    events: i32,
    count: i32,
    result: i32,
) -> Result<(), Fault> {
    let count = count as u32;
    if count == 0 || count > VECTORS_MAX {
        return Err(errno::INVAL.into());
    }
    let mut waited = Vec::with_capacity(count as usize);
    for index in 0..count {
        let at = subscriptions.wrapping_add((index * 48) as i32);
        let user = memory.array(at)?;
        let kind = memory.array::<1>(at.wrapping_add(8))?[0];
        let wait_ns = match kind {
            0 => {
                let id = memory.u32(at.wrapping_add(16))?;
                let time = u64::from_le_bytes(memory.array(at.wrapping_add(24))?);
                let absolute = memory.array::<1>(at.wrapping_add(40))?[0] & 1 == 1;
                let now = if absolute { clock(guest, id)? } else { 0 };
                Some(time.saturating_sub(now))
            }
            1 | 2 => None,
            _ => return Err(errno::INVAL.into()),
        };
        waited.push(Waited { user, kind, wait_ns });
    }
    // A descriptor is ready: reading waits by itself.
    let pause_ns = waited.iter().map(|waited| waited.wait_ns.unwrap_or(0)).min().unwrap_or(0);
    if pause_ns > 0 {
        match guest.world.is_made() {
            true => guest.world.skip_ns(pause_ns),
            false => {
                let stop = guest.stop.clone();
                guest.runtime.block_on(async {
                    tokio::select! {
                        biased;
                        () = stop.stopped() => Err(Halt::Stopped),
                        () = tokio::time::sleep(std::time::Duration::from_nanos(pause_ns)) => Ok(()),
                    }
                })?;
            }
        }
    }
    let mut told = 0u32;
    for ready in waited.iter().filter(|waited| waited.wait_ns.unwrap_or(0) <= pause_ns) {
        let mut event = [0u8; 32];
        event[..8].copy_from_slice(&ready.user);
        event[10] = ready.kind;
        event[16..24].copy_from_slice(&u64::from(ready.kind != 0).to_le_bytes());
        memory.put(events.wrapping_add((told * 32) as i32), &event)?;
        told += 1;
    }
    memory.put_u32(result, told)
}

fn offer_descriptors(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(MODULE, "fd_read", |mut c: Calling<'_>, fd: i32, list: i32, count: i32, result: i32| {
        call(&mut c, |memory, guest| read(memory, guest, fd, (list, count), None, result))
    })?;
    linker.func_wrap(
        MODULE,
        "fd_pread",
        |mut c: Calling<'_>, fd: i32, list: i32, count: i32, at: i64, result: i32| {
            call(&mut c, |memory, guest| read(memory, guest, fd, (list, count), Some(at as u64), result))
        },
    )?;
    linker.func_wrap(MODULE, "fd_write", |mut c: Calling<'_>, fd: i32, list: i32, count: i32, result: i32| {
        call(&mut c, |memory, guest| write(memory, guest, fd, (list, count), None, result))
    })?;
    linker.func_wrap(
        MODULE,
        "fd_pwrite",
        |mut c: Calling<'_>, fd: i32, list: i32, count: i32, at: i64, result: i32| {
            call(&mut c, |memory, guest| write(memory, guest, fd, (list, count), Some(at as u64), result))
        },
    )?;
    linker.func_wrap(MODULE, "fd_close", |mut c: Calling<'_>, fd: i32| call(&mut c, |_, guest| guest.close(fd)))?;
    linker.func_wrap(MODULE, "fd_seek", |mut c: Calling<'_>, fd: i32, offset: i64, whence: i32, result: i32| {
        call(&mut c, |memory, guest| {
            let now = seek(guest, fd, offset, whence)?;
            memory.put_u64(result, now)
        })
    })?;
    linker.func_wrap(MODULE, "fd_tell", |mut c: Calling<'_>, fd: i32, result: i32| {
        call(&mut c, |memory, guest| {
            let now = seek(guest, fd, 0, 1)?;
            memory.put_u64(result, now)
        })
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |mut c: Calling<'_>, fd: i32, result: i32| {
        call(&mut c, |memory, guest| {
            let (kind, flags, rights) = match guest.descriptor(fd)? {
                Descriptor::Stdin | Descriptor::Stdout | Descriptor::Stderr => (TYPE_UNKNOWN, 0, RIGHTS_STREAM),
                Descriptor::Folder { .. } => (TYPE_FOLDER, 0, RIGHTS_ALL),
                Descriptor::File { append, .. } => (TYPE_FILE, u8::from(*append), RIGHTS_ALL),
            };
            let mut stat = [0u8; 24];
            (stat[0], stat[2]) = (kind, flags);
            stat[8..16].copy_from_slice(&rights.to_le_bytes());
            stat[16..24].copy_from_slice(&rights.to_le_bytes());
            memory.put(result, &stat)
        })
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_set_flags", |mut c: Calling<'_>, fd: i32, flags: i32| {
        call(&mut c, |_, guest| {
            if let Descriptor::File { append, .. } = guest.descriptor(fd)? {
                *append = flags & 1 == 1;
            }
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, "fd_filestat_get", |mut c: Calling<'_>, fd: i32, result: i32| {
        call(&mut c, |memory, guest| match guest.descriptor(fd)? {
            Descriptor::Folder { node, .. } | Descriptor::File { node, .. } => {
                let node = *node;
                put_filestat(memory, &guest.files, node, result)
            }
            Descriptor::Stdin | Descriptor::Stdout | Descriptor::Stderr => memory.put(result, &[0u8; 64]),
        })
    })?;
    linker.func_wrap(MODULE, "fd_filestat_set_size", |mut c: Calling<'_>, fd: i32, size: i64| {
        call(&mut c, |_, guest| match guest.descriptor(fd)? {
            Descriptor::File { node, write: true, .. } => {
                let node = *node;
                Ok(guest.files.resize(node, size as u64)?)
            }
            _ => Err(errno::BADF.into()),
        })
    })?;
    linker.func_wrap(MODULE, "fd_allocate", |mut c: Calling<'_>, fd: i32, at: i64, len: i64| {
        call(&mut c, |_, guest| match guest.descriptor(fd)? {
            Descriptor::File { node, write: true, .. } => {
                let node = *node;
                let end = (at as u64).checked_add(len as u64).ok_or(Halt::OutputTooLarge)?;
                match end > guest.files.len(node) {
                    true => Ok(guest.files.resize(node, end)?),
                    false => Ok(()),
                }
            }
            _ => Err(errno::BADF.into()),
        })
    })?;
    // Advice and syncing have nothing to do for files in memory.
    linker.func_wrap(MODULE, "fd_advise", |mut c: Calling<'_>, fd: i32, _: i64, _: i64, _: i32| {
        call(&mut c, |_, guest| guest.descriptor(fd).map(|_| ()))
    })?;
    for name in ["fd_sync", "fd_datasync"] {
        linker.func_wrap(MODULE, name, |mut c: Calling<'_>, fd: i32| {
            call(&mut c, |_, guest| guest.descriptor(fd).map(|_| ()))
        })?;
    }
    linker.func_wrap(MODULE, "fd_renumber", |mut c: Calling<'_>, from: i32, to: i32| {
        call(&mut c, |_, guest| {
            guest.descriptor(from)?;
            guest.descriptor(to)?;
            if from != to {
                guest.close(to)?;
                let moved = guest.descriptors.remove(&(from as u32)).expect("seen above");
                guest.descriptors.insert(to as u32, moved);
            }
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, "fd_prestat_get", |mut c: Calling<'_>, fd: i32, result: i32| {
        call(&mut c, |memory, _| match fd as u32 {
            ROOT => {
                memory.put_u32(result, 0)?;
                memory.put_u32(result.wrapping_add(4), 1)
            }
            _ => Err(errno::BADF.into()),
        })
    })?;
    linker.func_wrap(MODULE, "fd_prestat_dir_name", |mut c: Calling<'_>, fd: i32, buffer: i32, len: i32| {
        call(&mut c, |memory, _| match (fd as u32, len as u32) {
            (ROOT, 1..) => memory.put(buffer, b"/"),
            (ROOT, 0) => Err(errno::NAMETOOLONG.into()),
            _ => Err(errno::BADF.into()),
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
    let (input, at) = match descriptors.get_mut(&(fd as u32)).ok_or(errno::BADF)? {
        Descriptor::Stdin if place.is_some() => return Err(errno::SPIPE.into()),
        Descriptor::Stdin => (stdin.as_mut().map(Readable::Input), stdin_at),
        Descriptor::File { node, at, read: true, .. } => match files.node(*node) {
            Node::Given(input) if place.is_some() && input.len().is_none() => return Err(errno::SPIPE.into()),
            Node::Given(input) => (Some(Readable::Input(input)), at),
            Node::Written(bytes) => (Some(Readable::Bytes(bytes.as_slice())), at),
            Node::Report => (None, at),
            Node::Folder => return Err(errno::ISDIR.into()),
        },
        Descriptor::Folder { .. } => return Err(errno::ISDIR.into()),
        Descriptor::Stdout | Descriptor::Stderr | Descriptor::File { .. } => return Err(errno::BADF.into()),
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
    let vectors = memory.vectors(list, count)?;
    let mut total = 0u32;
    for (buffer, len) in vectors {
        let bytes = memory.bytes(buffer, len)?;
        match guest.descriptor(fd)? {
            Descriptor::Stdout | Descriptor::Stderr if place.is_some() => return Err(errno::SPIPE.into()),
            Descriptor::Stdout => guest.write_stdout(bytes)?,
            Descriptor::Stderr => guest.log.push(Stream::Stderr, bytes),
            Descriptor::File { node, at, write: true, append, .. } => {
                let (node, at, append) = (*node, *at, *append);
                if matches!(guest.files.node(node), Node::Report) {
                    guest.write_report(bytes)?;
                } else {
                    let from = match (place, append) {
                        (Some(place), _) => place.saturating_add(total.into()),
                        (None, true) => guest.files.len(node),
                        (None, false) => at,
                    };
                    guest.files.write_at(node, from, bytes)?;
                    if let (None, Descriptor::File { at, .. }) = (place, guest.descriptor(fd)?) {
                        *at = from + bytes.len() as u64;
                    }
                }
            }
            Descriptor::Stdin | Descriptor::Folder { .. } | Descriptor::File { .. } => {
                return Err(errno::BADF.into());
            }
        }
        total += len as u32;
    }
    memory.put_u32(result, total)
}

fn seek(guest: &mut Guest, fd: i32, offset: i64, whence: i32) -> Result<u64, Fault> {
    let Guest { descriptors, files, .. } = guest;
    let (node, at) = match descriptors.get_mut(&(fd as u32)).ok_or(errno::BADF)? {
        Descriptor::File { node, at, .. } => (*node, at),
        Descriptor::Folder { .. } => return Err(errno::ISDIR.into()),
        Descriptor::Stdin | Descriptor::Stdout | Descriptor::Stderr => return Err(errno::SPIPE.into()),
    };
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
    *at = from.checked_add_signed(offset).ok_or(errno::INVAL)?;
    Ok(*at)
}

fn put_filestat(memory: &mut Memory<'_>, files: &Files, node: NodeId, result: i32) -> Result<(), Fault> {
    let mut stat = [0u8; 64];
    stat[0] = 1;
    stat[8..16].copy_from_slice(&node.to_le_bytes());
    stat[16] = if files.is_folder(node) { TYPE_FOLDER } else { TYPE_FILE };
    stat[24] = 1;
    stat[32..40].copy_from_slice(&files.len(node).to_le_bytes());
    memory.put(result, &stat)
}

fn read_folder(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    fd: i32,
    (buffer, len): (i32, i32),
    cookie: u64,
    result: i32,
) -> Result<(), Fault> {
    let folder = guest.folder(fd)?.to_owned();
    let own = guest.files.find(&folder).ok_or(errno::NOENT)?;
    let mut names = vec![(".".to_owned(), own), ("..".to_owned(), own)];
    names.extend(guest.files.list(&folder));
    let into = memory.bytes(buffer, len as u32 as usize)?;
    let mut used = 0;
    for (index, (name, node)) in names.iter().enumerate().skip(usize::try_from(cookie).unwrap_or(usize::MAX)) {
        let mut entry = Vec::with_capacity(24 + name.len());
        entry.extend_from_slice(&(index as u64 + 1).to_le_bytes());
        entry.extend_from_slice(&node.to_le_bytes());
        entry.extend_from_slice(&(name.len() as u32).to_le_bytes());
        entry.extend_from_slice(&[if guest.files.is_folder(*node) { TYPE_FOLDER } else { TYPE_FILE }, 0, 0, 0]);
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

fn offer_paths(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "path_open",
        |mut c: Calling<'_>,
         folder: i32,
         _follow: i32,
         path: i32,
         len: i32,
         how: i32,
         rights: i64,
         _inherited: i64,
         flags: i32,
         result: i32| {
            call(&mut c, |memory, guest| {
                let path = Files::resolve(guest.folder(folder)?, memory.path(path, len)?)?;
                let fd = open(guest, &path, how, rights, flags)?;
                memory.put_u32(result, fd)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_filestat_get",
        |mut c: Calling<'_>, folder: i32, _follow: i32, path: i32, len: i32, result: i32| {
            call(&mut c, |memory, guest| {
                let path = Files::resolve(guest.folder(folder)?, memory.path(path, len)?)?;
                let node = guest.files.find(&path).ok_or(errno::NOENT)?;
                put_filestat(memory, &guest.files, node, result)
            })
        },
    )?;
    linker.func_wrap(MODULE, "path_create_directory", |mut c: Calling<'_>, folder: i32, path: i32, len: i32| {
        call(&mut c, |memory, guest| {
            let path = Files::resolve(guest.folder(folder)?, memory.path(path, len)?)?;
            Ok(guest.files.create_folder(&path)?)
        })
    })?;
    linker.func_wrap(MODULE, "path_remove_directory", |mut c: Calling<'_>, folder: i32, path: i32, len: i32| {
        call(&mut c, |memory, guest| {
            let path = Files::resolve(guest.folder(folder)?, memory.path(path, len)?)?;
            Ok(guest.files.remove_folder(&path)?)
        })
    })?;
    linker.func_wrap(MODULE, "path_unlink_file", |mut c: Calling<'_>, folder: i32, path: i32, len: i32| {
        call(&mut c, |memory, guest| {
            let path = Files::resolve(guest.folder(folder)?, memory.path(path, len)?)?;
            Ok(guest.files.unlink(&path)?)
        })
    })?;
    linker.func_wrap(
        MODULE,
        "path_rename",
        |mut c: Calling<'_>, folder: i32, path: i32, len: i32, new_folder: i32, new_path: i32, new_len: i32| {
            call(&mut c, |memory, guest| {
                let from = Files::resolve(guest.folder(folder)?, memory.path(path, len)?)?;
                let to = Files::resolve(guest.folder(new_folder)?, memory.path(new_path, new_len)?)?;
                Ok(guest.files.rename(&from, &to)?)
            })
        },
    )?;
    // There are no links.
    linker.func_wrap(
        MODULE,
        "path_readlink",
        |mut c: Calling<'_>, folder: i32, path: i32, len: i32, _buffer: i32, _size: i32, _result: i32| {
            call(&mut c, |memory, guest| {
                let path = Files::resolve(guest.folder(folder)?, memory.path(path, len)?)?;
                guest.files.find(&path).ok_or(errno::NOENT)?;
                Err(errno::INVAL.into())
            })
        },
    )?;
    Ok(())
}

fn open(guest: &mut Guest, path: &str, how: i32, rights: i64, flags: i32) -> Result<u32, Fault> {
    let (create, folder, exclusive, truncate) = (how & 1 != 0, how & 2 != 0, how & 4 != 0, how & 8 != 0);
    let (read, write) = (rights & RIGHT_READ != 0, rights & RIGHT_WRITE != 0);
    if guest.descriptors.len() >= guest.descriptors_max {
        return Err(errno::MFILE.into());
    }
    let node = match guest.files.find(path) {
        Some(_) if create && exclusive => return Err(errno::EXIST.into()),
        Some(node) => node,
        None if create && !folder => guest.files.create(path)?,
        None => return Err(errno::NOENT.into()),
    };
    if guest.files.is_folder(node) {
        return match create || truncate {
            true => Err(errno::ISDIR.into()),
            false => guest.open(Descriptor::Folder { path: path.to_owned(), node }),
        };
    }
    if folder {
        return Err(errno::NOTDIR.into());
    }
    if write || truncate {
        guest.files.may_write(node)?;
    }
    // The report is a stream: there is nothing to cut.
    if truncate && matches!(guest.files.node(node), Node::Written(_)) {
        guest.files.resize(node, 0)?;
    }
    guest.open(Descriptor::File { node, at: 0, read, write, append: flags & 1 != 0 })
}

/// What does not exist here, with the shapes that modules import it in.
fn offer_absences(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(MODULE, "proc_raise", |_: Calling<'_>, _: i32| errno::NOSYS)?;
    linker.func_wrap(MODULE, "fd_fdstat_set_rights", |_: Calling<'_>, _: i32, _: i64, _: i64| errno::NOSYS)?;
    linker.func_wrap(MODULE, "fd_filestat_set_times", |_: Calling<'_>, _: i32, _: i64, _: i64, _: i32| errno::NOSYS)?;
    linker.func_wrap(
        MODULE,
        "path_filestat_set_times",
        |_: Calling<'_>, _: i32, _: i32, _: i32, _: i32, _: i64, _: i64, _: i32| errno::NOSYS,
    )?;
    linker.func_wrap(
        MODULE,
        "path_link",
        |_: Calling<'_>, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32| errno::NOSYS,
    )?;
    linker.func_wrap(MODULE, "path_symlink", |_: Calling<'_>, _: i32, _: i32, _: i32, _: i32, _: i32| errno::NOSYS)?;
    linker.func_wrap(MODULE, "sock_accept", |_: Calling<'_>, _: i32, _: i32, _: i32| errno::NOSYS)?;
    linker.func_wrap(MODULE, "sock_recv", |_: Calling<'_>, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32| {
        errno::NOSYS
    })?;
    linker.func_wrap(MODULE, "sock_send", |_: Calling<'_>, _: i32, _: i32, _: i32, _: i32, _: i32| errno::NOSYS)?;
    linker.func_wrap(MODULE, "sock_shutdown", |_: Calling<'_>, _: i32, _: i32| errno::NOSYS)?;
    Ok(())
}
