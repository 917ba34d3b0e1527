//! Buffers for pieces and segments, used again.
//!
//! Blocks of this size are mapped by the C library one by one (see the daemon's allocator settings, which keep a
//! node small), so every new one costs a page fault and a cleared page per 4 KiB, more than hashing its bytes does. A
//! few are therefore kept when they are let go, and handed out again as they are.
//!
//! Promises: at most [`FREE_BYTES_MAX`] are kept beyond what is in use; what was not wanted for a whole housekeeping
//! interval is given back to the system. A buffer's bytes are whatever it held before: whoever takes one overwrites
//! all of it or shows none of it.

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

/// Smaller buffers come from the allocator's heap, which keeps its pages by itself.
const POOLED_FROM_BYTES: usize = 256 * 1024;

/// Kept free at most, in bytes: the pieces of one segment at the default profile, and some.
const FREE_BYTES_MAX: usize = 32 * 1024 * 1024;

static POOL: Pool = Pool::new();

struct Pool {
    free: Mutex<Vec<Free>>,
}

struct Free {
    bytes: Vec<u8>,
    /// Not wanted since the last look.
    idle: bool,
}

/// Bytes of a fixed length that go back to the pool when dropped, also as the owner of a [`Bytes`].
pub struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    pool: &'static Pool,
}

impl Buffer {
    /// A buffer of `length` bytes with unspecified content.
    pub fn with_length(length: usize) -> Self {
        POOL.take_buffer(length)
    }

    /// Shows only the first `length` bytes from now on.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Makes it `length` bytes long: what is new is zero. Moves only when the buffer has no room for it.
    pub fn resize(&mut self, length: usize) {
        if length > self.bytes.len() {
            let mut larger = self.pool.take_buffer(length);
            larger[..self.length].copy_from_slice(self);
            larger.length = self.length;
            *self = larger;
        }
        if length > self.length {
            self.bytes[self.length..length].fill(0);
        }
        self.length = length;
    }

    /// Bytes that it can show without being moved.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = Self::with_length(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }
}

/// Gives back to the system what nobody wanted since the last call.
pub fn trim() {
    POOL.trim();
}

impl Pool {
    const fn new() -> Self {
        Self { free: Mutex::new(Vec::new()) }
    }

    fn take_buffer(&'static self, length: usize) -> Buffer {
        let mut free = self.lock();
        // The newest first: its pages are the warmest. Not one that is much too large: a small piece that is kept for
        // long must not keep a segment's memory.
        let fits = |bytes: usize| bytes >= length && bytes / 2 <= length;
        let found = match length >= POOLED_FROM_BYTES {
            true => free.iter().rposition(|free| fits(free.bytes.len())),
            false => None,
        };
        let found = found.map(|at| free.remove(at).bytes);
        drop(free);
        // Zeroed memory of this size comes from the system untouched: what is never written costs no pages.
        Buffer { bytes: found.unwrap_or_else(|| vec![0; length]), length, pool: self }
    }

    fn put_back(&self, bytes: Vec<u8>) {
        if bytes.len() < POOLED_FROM_BYTES {
            return;
        }
        let mut free = self.lock();
        if free.iter().map(|free| free.bytes.len()).sum::<usize>() + bytes.len() <= FREE_BYTES_MAX {
            free.push(Free { bytes, idle: false });
        }
    }

    fn trim(&self) {
        let mut free = self.lock();
        // Taken out first: giving memory back is a call to the system, and needs no lock.
        let (idle, kept): (Vec<Free>, Vec<Free>) = std::mem::take(&mut *free).into_iter().partition(|free| free.idle);
        *free = kept.into_iter().map(|free| Free { idle: true, ..free }).collect();
        drop(free);
        drop(idle);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Free>> {
        self.free.lock()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.put_back(std::mem::take(&mut self.bytes));
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> &'static Pool {
        Box::leak(Box::new(Pool::new()))
    }

    fn kept(pool: &Pool) -> usize {
        pool.lock().iter().map(|free| free.bytes.len()).sum()
    }

    #[test]
    fn a_buffer_is_used_again_once_its_last_reader_is_gone() {
        let pool = pool();
        let bytes = pool.take_buffer(POOLED_FROM_BYTES).freeze();
        let (place, part) = (bytes.as_ptr(), bytes.slice(10..20));
        drop(bytes);
        assert_ne!(pool.take_buffer(POOLED_FROM_BYTES).as_ptr(), place, "a slice still shows it");
        drop(part);
        // Both are free now: one of them is handed out, whichever length within reason is asked for.
        let mut again = pool.take_buffer(POOLED_FROM_BYTES);
        again.truncate(7);
        assert_eq!((again.len(), kept(pool)), (7, POOLED_FROM_BYTES));
    }

    #[test]
    fn a_large_buffer_is_not_spent_on_a_small_piece() {
        let pool = pool();
        drop(pool.take_buffer(8 * POOLED_FROM_BYTES));
        let small = pool.take_buffer(POOLED_FROM_BYTES);
        assert_eq!((small.bytes.len(), kept(pool)), (POOLED_FROM_BYTES, 8 * POOLED_FROM_BYTES));
        assert_eq!(pool.take_buffer(5 * POOLED_FROM_BYTES).len(), 5 * POOLED_FROM_BYTES);
        assert_eq!(kept(pool), 8 * POOLED_FROM_BYTES);
    }

    #[test]
    fn growing_shows_zeros_and_never_what_was_there_before() {
        let mut buffer = pool().take_buffer(10);
        buffer.fill(7);
        buffer.truncate(4);
        buffer.resize(6);
        assert_eq!(&buffer[..], [7, 7, 7, 7, 0, 0]);
        buffer.resize(12);
        assert_eq!(&buffer[..], [7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(buffer.capacity(), 12);
    }

    #[test]
    fn what_is_kept_is_bounded_and_given_back_when_idle() {
        let pool = pool();
        let many: Vec<Buffer> = (0..20).map(|_| pool.take_buffer(4 * 1024 * 1024)).collect();
        drop(many);
        drop(pool.take_buffer(100));
        assert_eq!(kept(pool), FREE_BYTES_MAX);
        pool.trim();
        drop(pool.take_buffer(4 * 1024 * 1024));
        pool.trim();
        assert_eq!(kept(pool), 4 * 1024 * 1024, "only what was wanted meanwhile");
        pool.trim();
        assert_eq!(kept(pool), 0);
    }
}
