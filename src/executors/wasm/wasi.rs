//! WASI preview 1 as command modules use it: the functions that the libraries of C, Rust, Go, Zig, AssemblyScript and
//! others import, over files in memory. Those that take a descriptor are in [`descriptors`], those that take a path in
//! [`paths`], the waiting one in [`poll`].
//!
//! Not here: sockets (no descriptor is one: `ENOTSOCK`), signals (`proc_raise` answers `ENOSYS`), owners and modes of
//! files, terminals, and links or paths to anything outside the module's own tree.
//!
//! Pointers come from the module: each is checked against its memory, and one that does not fit answers `EFAULT`. No
//! call moves more than [`IO_BYTES_MAX`].
//!
//! Where instructions are counted a call takes of the fuel too: [`CALL_FUEL`], and a part for every byte that it moves,
//! walks over or makes. What a call takes follows from the module's own world alone, so a deterministic task ends at
//! the same call on every machine.

use quorate_modules::imports::MODULE;
use wasmtime::{AsContext, AsContextMut, Caller, Error, Extern, Linker, Result, Trap};

use super::errno::{self, Errno};
use super::guest::{Fault, Guest, Halt};
use super::world::RESOLUTION_NS;
use super::{descriptors, paths, poll};

/// Bytes of one read or write: what a module cannot be interrupted in.
const IO_BYTES_MAX: usize = 4 << 20;

/// Fuel of a call, whatever it does: the time of so many instructions.
pub(super) const CALL_FUEL: u64 = 100;

/// Bytes that a call works on for one unit of fuel.
pub(super) const BYTES_PER_FUEL: u64 = 4;

/// Buffers of one read or write, and subscriptions of one poll.
pub(super) const VECTORS_MAX: u32 = 1024;

/// Clocks by number: the wall clock, a monotonic one, and two of processor time.
pub(super) const CLOCKS: u32 = 4;

/// A module's memory, with every access checked and counted.
pub(super) struct Memory<'a> {
    bytes: &'a mut [u8],
    /// Bytes that the call has moved so far.
    moved: u64,
}

impl Memory<'_> {
    pub(super) fn bytes(&mut self, at: i32, len: usize) -> Result<&mut [u8], Fault> {
        self.note_moved(len);
        self.buffer(at, len)
    }
    /// A buffer that may stay empty; what came into it is counted by [`Memory::note_moved`].
    pub(super) fn buffer(&mut self, at: i32, len: usize) -> Result<&mut [u8], Fault> {
        let from = at as u32 as usize;
        from.checked_add(len).and_then(|end| self.bytes.get_mut(from..end)).ok_or(Fault::Errno(errno::FAULT))
    }
    pub(super) fn note_moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
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
    pub(super) fn put_u64(&mut self, at: i32, value: u64) -> Result<(), Fault> {
        self.put(at, &value.to_le_bytes())
    }
    pub(super) fn path(&mut self, at: i32, len: i32) -> Result<&str, Fault> {
        std::str::from_utf8(self.bytes(at, len as u32 as usize)?).map_err(|_| errno::ILSEQ.into())
    }
    /// The buffers of a read or write, cut to what one call moves.
    pub(super) fn vectors(&mut self, at: i32, count: i32) -> Result<Vec<(i32, usize)>, Fault> {
        let count = count as u32;
        if count > VECTORS_MAX {
            return Err(errno::INVAL.into());
        }
        let mut room = IO_BYTES_MAX;
        let mut found = Vec::with_capacity(count as usize);
        for index in 0..count {
            let at = at.wrapping_add((index * 8) as i32);
            let (buffer, len) = (self.u32(at)? as i32, self.u32(at.wrapping_add(4))? as usize);
            self.buffer(buffer, len)?;
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
    // First, so that no work is done for nothing.
    take_fuel(caller, CALL_FUEL)?;
    let (bytes, guest) = memory.data_and_store_mut(&mut *caller);
    let mut memory = Memory { bytes, moved: 0 };
    let result = function(&mut memory, guest);
    let worked = memory.moved + guest.files.take_work();
    take_fuel(caller, worked / BYTES_PER_FUEL)?;
    match result {
        Ok(()) => Ok(errno::SUCCESS),
        Err(Fault::Errno(errno)) => Ok(errno),
        Err(Fault::Halt(halt)) => Err(Error::new(halt)),
    }
}

/// Ends the module if it has not so much left.
fn take_fuel(caller: &mut Calling<'_>, fuel: u64) -> Result<()> {
    if fuel == 0 || !caller.data().is_metered {
        return Ok(());
    }
    let left = caller.as_context().get_fuel()?.checked_sub(fuel);
    caller.as_context_mut().set_fuel(left.unwrap_or(0))?;
    left.map(|_| ()).ok_or_else(|| Trap::OutOfFuel.into())
}

pub(super) type Calling<'a> = Caller<'a, Guest>;

/// Everything that a module may import.
pub(super) fn offer(linker: &mut Linker<Guest>) -> Result<()> {
    offer_process(linker)?;
    descriptors::offer(linker)?;
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
    linker
        .func_wrap(MODULE, "sched_yield", |mut c: Calling<'_>| take_fuel(&mut c, CALL_FUEL).map(|()| errno::SUCCESS))?;
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

/// What does not exist here, with the shapes that modules import it in.
fn offer_absences(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(MODULE, "proc_raise", |mut c: Calling<'_>, _: i32| {
        take_fuel(&mut c, CALL_FUEL).map(|()| errno::NOSYS)
    })?;
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
