//! Tells the C library's allocator to give large buffers back.
//!
//! A node moves segments and pieces of megabytes through many threads. glibc answers the first freed large block by
//! raising the size from which it maps blocks of their own, keeps the next ones in per-thread arenas, and the process
//! stays as large as its worst moment, times the threads. Two settings end that: large blocks are always mapped and
//! unmapped, and threads share few arenas. Other C libraries do not have this habit, and are left alone.

/// From this size on a block is mapped on its own: below a piece of a full segment, above everything that is frequent.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: libc::c_int = 512 * 1024;

/// Arenas shared by all threads. A guess: measured no slower than the default of eight per core at this load.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

/// Call once, before threads start.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)] // The one call into the C library; `mallopt` is not wrapped by any crate that we use.
pub fn tune() {
    // SAFETY: `mallopt` takes two integers, touches only the allocator's own parameters under its own lock, and answers
    // zero for a parameter that it does not know, which changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
    }
}

#[cfg(not(target_env = "gnu"))]
pub fn tune() {}
