//! `poll_oneoff`: waits for the first of several clocks and descriptors.
//!
//! A descriptor is always ready, for reading waits by itself; one that is not open is an event that says so, and so is
//! a clock that does not exist. Made time passes without waiting.

use std::time::Duration;

use super::errno::{self, Errno};
use super::guest::{Fault, Guest, Halt};
use super::rights;
use super::wasi::{self, Memory, VECTORS_MAX};

const CLOCK: u8 = 0;
const READ: u8 = 1;
const WRITE: u8 = 2;

const SUBSCRIPTION_BYTES: u32 = 48;
const EVENT_BYTES: u32 = 32;

/// One thing to wait for: its user data, and how long.
struct Subscription {
    user: [u8; 8],
    kind: u8,
    /// None for what is ready.
    wait_ns: Option<u64>,
    error: Errno,
}

impl Subscription {
    fn read(memory: &mut Memory<'_>, guest: &mut Guest, at: i32) -> Result<Self, Fault> {
        let user = memory.array(at)?;
        let kind = memory.array::<1>(at.wrapping_add(8))?[0];
        let of = memory.u32(at.wrapping_add(16))?;
        let found = match kind {
            CLOCK => {
                let time = u64::from_le_bytes(memory.array(at.wrapping_add(24))?);
                let absolute = memory.array::<1>(at.wrapping_add(40))?[0] & 1 == 1;
                wait(guest, of, time, absolute).map(Some)
            }
            READ | WRITE => descriptor(guest, of).map(|()| None),
            _ => return Err(errno::INVAL.into()),
        };
        let (wait_ns, error) = match found {
            Ok(wait_ns) => (wait_ns, errno::SUCCESS),
            Err(error) => (None, error),
        };
        Ok(Self { user, kind, wait_ns, error })
    }
    fn is_ready_after(&self, passed_ns: u64) -> bool {
        self.wait_ns.unwrap_or(0) <= passed_ns
    }
}

/// How long until a clock shows a time, or a time has passed.
fn wait(guest: &mut Guest, clock: u32, time: u64, absolute: bool) -> Result<u64, Errno> {
    match absolute {
        true => Ok(time.saturating_sub(wasi::clock(guest, clock)?)),
        false if clock < wasi::CLOCKS => Ok(time),
        false => Err(errno::INVAL),
    }
}

fn descriptor(guest: &Guest, fd: u32) -> Result<(), Errno> {
    guest.descriptors.get(&fd).ok_or(errno::BADF)?.rights.demand(rights::POLL_FD_READWRITE)
}

pub(super) fn poll(
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
    let places = (0..count).map(|index| subscriptions.wrapping_add((index * SUBSCRIPTION_BYTES) as i32));
    let waited: Vec<_> = places.map(|at| Subscription::read(memory, guest, at)).collect::<Result<_, _>>()?;
    let pause_ns = waited.iter().map(|waited| waited.wait_ns.unwrap_or(0)).min().unwrap_or(0);
    pause(guest, pause_ns)?;
    let mut told = 0u32;
    for ready in waited.iter().filter(|waited| waited.is_ready_after(pause_ns)) {
        let mut event = [0u8; EVENT_BYTES as usize];
        event[..8].copy_from_slice(&ready.user);
        event[8..10].copy_from_slice(&(ready.error as u16).to_le_bytes());
        event[10] = ready.kind;
        let bytes = u64::from(ready.kind != CLOCK && ready.error == errno::SUCCESS);
        event[16..24].copy_from_slice(&bytes.to_le_bytes());
        memory.put(events.wrapping_add((told * EVENT_BYTES) as i32), &event)?;
        told += 1;
    }
    memory.put_u32(result, told)
}

fn pause(guest: &mut Guest, ns: u64) -> Result<(), Fault> {
    if ns == 0 {
        return Ok(());
    }
    if guest.world.is_made() {
        guest.world.skip_ns(ns);
        return Ok(());
    }
    let stop = guest.stop.clone();
    guest.runtime.block_on(async {
        tokio::select! {
            biased;
            () = stop.stopped() => Err(Halt::Stopped.into()),
            () = tokio::time::sleep(Duration::from_nanos(ns)) => Ok(()),
        }
    })
}
