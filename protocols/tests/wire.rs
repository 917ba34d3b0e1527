//! The bytes of everything that travels or is kept: they are what they were, and hostile ones do no harm.
//!
//! The fixtures are text (`name hex`, a file per protocol), so that a change of a format shows in review. To change one
//! on purpose: `UPDATE_FIXTURES=1 cargo test -p quorate-protocols --test wire`, in a commit of its own that says why.

// The counting allocator below is the one thing here that needs it.
#![allow(unsafe_code)]

mod samples;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use quorate_protocols::quorum::QuorumState;
use samples::{samples, state};

/// Remembers the largest single allocation and the bytes allocated in all, per thread.
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

/// What reading `bytes` may allocate, whatever they say: at once, what `wire` lets a value claim for its length, or the
/// 1 MiB that serde reserves at most for a declared number of elements; in all, a few of those.
fn measured<T>(what: &str, bytes: usize, act: impl FnOnce() -> T) -> T {
    ALLOCATED.set(0);
    LARGEST.set(0);
    let result = act();
    let (allocated, largest) = (ALLOCATED.get(), LARGEST.get());
    let largest_max = (130 * bytes).max(1024 * 1024);
    assert!(largest <= largest_max, "{what}: {largest} bytes at once for {bytes}");
    assert!(allocated <= 8 * largest_max, "{what}: {allocated} bytes for {bytes}");
    result
}

fn fixture(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{file}.txt"))
}

/// The fixture lines of every file, from the samples of today.
fn lines() -> BTreeMap<&'static str, String> {
    let mut files = BTreeMap::<_, String>::new();
    for sample in samples() {
        *files.entry(sample.file).or_default() += &format!("{} {}\n", sample.name, hex::encode(&sample.bytes));
    }
    let chunks = state().encode_snapshot();
    for (index, (hash, chunk)) in chunks.iter().enumerate() {
        *files.entry("records").or_default() += &format!("snapshot.{index}.{hash} {}\n", hex::encode(chunk));
    }
    files
}

#[test]
fn every_message_and_record_has_the_bytes_that_it_always_had() {
    let update = std::env::var_os("UPDATE_FIXTURES").is_some_and(|value| value == "1");
    for (file, lines) in lines() {
        if update {
            std::fs::write(fixture(file), lines).unwrap();
            continue;
        }
        let known = std::fs::read_to_string(fixture(file)).unwrap();
        for (known, found) in known.lines().zip(lines.lines()) {
            assert_eq!(known, found, "in {file}.txt");
        }
        assert_eq!(known.lines().count(), lines.lines().count(), "samples of {file}.txt");
    }
}

#[test]
fn every_fixture_reads_back_to_the_same_bytes_within_its_size_cap() {
    let samples: BTreeMap<_, _> =
        samples().into_iter().map(|sample| ((sample.file, sample.name.clone()), sample)).collect();
    let mut snapshot = Vec::new();
    for file in lines().into_keys() {
        for line in std::fs::read_to_string(fixture(file)).unwrap().lines() {
            let (name, bytes) = line.split_once(' ').unwrap();
            let bytes = hex::decode(bytes).unwrap();
            match samples.get(&(file, name.to_owned())) {
                Some(sample) => {
                    assert!(bytes.len() <= sample.limit, "{file} {name}");
                    assert_eq!((sample.reread)(&bytes).as_ref(), Ok(&bytes), "{file} {name}");
                }
                None => snapshot.push(bytes),
            }
        }
    }
    assert_eq!(QuorumState::decode_snapshot(&snapshot), Ok(state()));
}

/// xorshift: the same bytes on every run.
struct Draws(u64);

impl Draws {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }
    /// Damages bytes the way disks and liars do: flips, extreme lengths, cuts, repeats, noise.
    fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..1 + self.next(3) {
            let at = self.next(bytes.len());
            match self.next(6) {
                0 => bytes.truncate(at),
                1 if !bytes.is_empty() => bytes[at] ^= 1 << self.next(8),
                2 if !bytes.is_empty() => bytes[at] = [0, 1, 127, 250, 251, 252, 253, 254, 255][self.next(9)],
                3 => {
                    // A length that no input has.
                    let length: Vec<u8> = std::iter::once(253).chain((1u64 << self.next(63)).to_le_bytes()).collect();
                    let end = (at + 1).min(bytes.len());
                    bytes.splice(at..end, length);
                }
                4 => bytes.extend_from_within(at..),
                _ => bytes.extend((0..self.next(64)).map(|_| self.next(256) as u8).collect::<Vec<_>>()),
            }
        }
        bytes
    }
}

#[test]
fn every_truncation_is_refused() {
    for sample in samples() {
        for length in 0..sample.bytes.len() {
            let read = measured(&sample.name, length, || (sample.reread)(&sample.bytes[..length]));
            assert!(read.is_err(), "{} {} cut to {length} bytes", sample.file, sample.name);
        }
    }
}

#[test]
fn hostile_bytes_are_refused_or_read_but_never_panic_or_swell() {
    let mut draws = Draws(0x9e37_79b9_7f4a_7c15);
    for sample in samples() {
        for _ in 0..400 {
            let bytes = draws.damage(&sample.bytes);
            let what = format!("{} {}: {}", sample.file, sample.name, hex::encode(&bytes));
            // What is read is written as one form only, and that form reads back.
            if let Ok(again) = measured(&what, bytes.len(), || (sample.reread)(&bytes)) {
                assert_eq!((sample.reread)(&again), Ok(again.clone()), "{what}");
            }
        }
    }
}

#[test]
fn hostile_snapshots_are_refused_or_sound() {
    let chunks = state().encode_snapshot();
    let mut draws = Draws(7);
    for _ in 0..3_000 {
        let mut damaged: Vec<Vec<u8>> = chunks.iter().map(|(_, chunk)| chunk.to_vec()).collect();
        let chunk = draws.next(damaged.len());
        damaged[chunk] = draws.damage(&damaged[chunk]);
        let bytes = damaged.iter().map(Vec::len).sum();
        if let Ok(state) = measured("snapshot", bytes, || QuorumState::decode_snapshot(&damaged)) {
            state.check_invariants().unwrap();
        }
    }
    // Order and number of the chunks count as well.
    let mut turned = chunks.clone();
    turned.reverse();
    assert!(QuorumState::decode_snapshot(turned.iter().map(|(_, chunk)| chunk)).is_err());
    assert!(QuorumState::decode_snapshot(chunks[1..].iter().map(|(_, chunk)| chunk)).is_err());
    assert!(QuorumState::decode_snapshot(chunks[..2].iter().map(|(_, chunk)| chunk)).is_err());
    assert!(QuorumState::decode_snapshot([[]; 0]).is_err());
}
