//! The bound: the work that a put or a get cannot avoid, done by one process on all cores, without a network.
//!
//! A put reads every byte once, encodes and hashes it (parity pieces have hashes too), encrypts and decrypts all pieces
//! once, hashes them again on receipt, and writes each piece to a file of its own with a sync. A get reads the data
//! pieces, hashes them, encrypts and decrypts them, and writes the file. Segments are taken by twice as many threads
//! as there are cores, so that a thread that waits for the disk leaves no core idle.

mod noise;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use quorate_protocols::object::limits::SEGMENT_BYTES;
use quorate_protocols::object::{Layout, Profile};
use quorate_testnet::measure::own_cpu;
use reed_solomon_erasure::galois_8::ReedSolomon;

use noise::Loopback;

/// One run of a bound.
pub struct Run {
    pub took: Duration,
    pub cpu_s: f64,
    /// Time in each part, summed over the threads.
    pub parts: BTreeMap<&'static str, Duration>,
}

/// The file that is stored and read, and a folder for pieces.
pub struct Bound {
    pub source: PathBuf,
    pub scratch: PathBuf,
    pub layout: Layout,
}

struct Parts(BTreeMap<&'static str, Duration>);

impl Parts {
    fn time<T>(&mut self, part: &'static str, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = work();
        *self.0.entry(part).or_default() += began.elapsed();
        result
    }
}

impl Bound {
    pub fn put(&self) -> io::Result<Run> {
        let run = self.over_segments(|segment, session, parts| self.put_segment(segment, session, parts))?;
        for segment in 0..self.layout.segments() {
            for piece in 0..self.layout.profile.columns() {
                std::fs::remove_file(self.piece_file(segment, piece))?;
            }
        }
        Ok(run)
    }

    /// What holders have, on the disk before any clock starts.
    pub fn prepare_get(&self) -> io::Result<()> {
        for segment in 0..self.layout.segments() {
            for (index, piece) in self.data_pieces(segment)?.into_iter().enumerate() {
                let mut file = File::create(self.piece_file(segment, index))?;
                file.write_all(&piece)?;
                file.sync_data()?;
            }
        }
        Ok(())
    }

    /// After [`Self::prepare_get`], any number of times.
    pub fn get(&self) -> io::Result<Run> {
        let out_path = self.scratch.join("out");
        let out = File::create(&out_path)?;
        let run = self.over_segments(|segment, session, parts| self.get_segment(segment, &out, session, parts))?;
        std::fs::remove_file(out_path)?;
        Ok(run)
    }

    fn piece_file(&self, segment: u32, piece: usize) -> PathBuf {
        self.scratch.join(format!("{segment}-{piece}"))
    }

    /// A segment cut into equal data pieces, the last padded with zeros.
    fn data_pieces(&self, segment: u32) -> io::Result<Vec<Vec<u8>>> {
        let length = self.layout.piece_bytes(segment);
        let bytes = self.layout.segment_bytes(segment);
        let start = u64::from(segment) * SEGMENT_BYTES as u64;
        let file = File::open(&self.source)?;
        (0..self.layout.profile.data as usize)
            .map(|piece| {
                let from = (piece * length).min(bytes);
                let to = (from + length).min(bytes);
                let mut buffer = vec![0; length];
                file.read_exact_at(&mut buffer[..to - from], start + from as u64)?;
                Ok(buffer)
            })
            .collect()
    }

    fn put_segment(&self, segment: u32, session: &mut Loopback, parts: &mut Parts) -> io::Result<()> {
        let Profile { data, parity } = self.layout.profile;
        let mut pieces = parts.time("read", || self.data_pieces(segment))?;
        let length = self.layout.piece_bytes(segment);
        parts.time("encode", || {
            pieces.resize(data as usize + parity as usize, vec![0; length]);
            let coder = ReedSolomon::new(data.into(), parity.into()).map_err(io::Error::other)?;
            coder.encode(&mut pieces).map_err(io::Error::other)
        })?;
        for (index, piece) in pieces.iter().enumerate() {
            let made = parts.time("hash", || blake3::hash(piece));
            let mut received = vec![0; piece.len()];
            parts.time("encrypt and decrypt", || session.pass(piece, &mut received))?;
            let found = parts.time("hash on receipt", || blake3::hash(&received));
            if made != found {
                return Err(io::Error::other("a piece changed on its way through memory"));
            }
            parts.time("write and sync", || {
                let mut file = File::create(self.piece_file(segment, index))?;
                file.write_all(&received)?;
                file.sync_data()
            })?;
        }
        Ok(())
    }

    fn get_segment(&self, segment: u32, out: &File, session: &mut Loopback, parts: &mut Parts) -> io::Result<()> {
        let length = self.layout.piece_bytes(segment);
        let bytes = self.layout.segment_bytes(segment);
        let start = u64::from(segment) * SEGMENT_BYTES as u64;
        for index in 0..self.layout.profile.data as usize {
            let piece = parts.time("read", || std::fs::read(self.piece_file(segment, index)))?;
            let mut received = vec![0; piece.len()];
            parts.time("encrypt and decrypt", || session.pass(&piece, &mut received))?;
            std::hint::black_box(parts.time("hash", || blake3::hash(&received)));
            let from = (index * length).min(bytes);
            let to = (from + length).min(bytes);
            parts.time("write", || out.write_all_at(&received[..to - from], start + from as u64))?;
        }
        Ok(())
    }

    fn over_segments<W>(&self, work: W) -> io::Result<Run>
    where
        W: Fn(u32, &mut Loopback, &mut Parts) -> io::Result<()> + Sync,
    {
        let threads = 2 * std::thread::available_parallelism().map_or(1, usize::from);
        // Handshakes are not what is measured.
        let sessions: Vec<Loopback> = (0..threads).map(|_| Loopback::new()).collect::<io::Result<_>>()?;
        let next = AtomicU32::new(0);
        let (began, cpu) = (Instant::now(), own_cpu());
        let results: Vec<io::Result<Parts>> = std::thread::scope(|scope| {
            let handles: Vec<_> = sessions
                .into_iter()
                .map(|mut session| {
                    let (next, work) = (&next, &work);
                    scope.spawn(move || {
                        let mut parts = Parts(BTreeMap::new());
                        loop {
                            let segment = next.fetch_add(1, Ordering::Relaxed);
                            if segment >= self.layout.segments() {
                                return Ok(parts);
                            }
                            work(segment, &mut session, &mut parts)?;
                        }
                    })
                })
                .collect();
            handles
                .into_iter()
                .map(|handle| handle.join().unwrap_or_else(|_| Err(io::Error::other("a measuring thread panicked"))))
                .collect()
        });
        let (took, cpu_s) = (began.elapsed(), own_cpu() - cpu);
        let mut parts = BTreeMap::new();
        for result in results {
            for (part, time) in result?.0 {
                *parts.entry(part).or_default() += time;
            }
        }
        Ok(Run { took, cpu_s, parts })
    }
}

/// Writes a file of bytes that neither compress nor repeat.
pub fn write_random(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = io::BufWriter::new(File::create(path)?);
    let mut source = blake3::Hasher::new().update(b"quorate bench").finalize_xof();
    let mut buffer = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(buffer.len() as u64) as usize;
        source.fill(&mut buffer[..now]);
        file.write_all(&buffer[..now])?;
        left -= now as u64;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the bound does the whole work and leaves nothing behind.
    #[test]
    fn the_bound_passes_every_byte_and_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let size = SEGMENT_BYTES as u64 + 12_345;
        write_random(&source, size).unwrap();
        let scratch = dir.path().join("scratch");
        std::fs::create_dir(&scratch).unwrap();
        let bound = Bound { source, scratch: scratch.clone(), layout: Layout::new(size, Profile::DEFAULT) };
        let put = bound.put().unwrap();
        let names: Vec<&str> = put.parts.keys().copied().collect();
        assert_eq!(names, ["encode", "encrypt and decrypt", "hash", "hash on receipt", "read", "write and sync"]);
        assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
        bound.prepare_get().unwrap();
        for _ in 0..2 {
            let get = bound.get().unwrap();
            assert_eq!(get.parts.len(), 4);
            assert!(get.took > Duration::ZERO);
        }
        // Only the pieces, for the next run.
        assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 8);
    }
}
