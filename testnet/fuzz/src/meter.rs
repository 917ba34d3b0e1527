//! Counts what a target allocates, so that an input which asks for more memory than it is worth is found.

// An allocator cannot be written without it.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The largest single allocation and the bytes allocated in all, per thread.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// Safety: defers to the system's allocator in every respect; the counters are plain cells that never allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.with(|bytes| bytes.set(bytes.get().saturating_add(layout.size())));
        LARGEST.with(|bytes| bytes.set(bytes.get().max(layout.size())));
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `act` allocated on this thread: bytes at once, and in all.
pub fn measure<T>(act: impl FnOnce() -> T) -> (T, usize, usize) {
    ALLOCATED.set(0);
    LARGEST.set(0);
    let result = act();
    (result, LARGEST.get(), ALLOCATED.get())
}

/// Panics when reading an input of `bytes` took more memory than it may, whatever it says: at once what `wire` lets a
/// value claim for its length, or the 1 MiB that serde reserves at most for a declared number of elements; in all, a
/// few of those.
pub fn metered<T>(bytes: usize, act: impl FnOnce() -> T) -> T {
    let (result, largest, allocated) = measure(act);
    let largest_max = (130 * bytes).max(1024 * 1024);
    assert!(largest <= largest_max, "{largest} bytes allocated at once for an input of {bytes}");
    assert!(allocated <= 8 * largest_max, "{allocated} bytes allocated in all for an input of {bytes}");
    result
}
