//! Limits of the machine itself, taken beside the figures that they bound: syncs of its disk, trips over loopback,
//! bytes hashed.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::BenchError;
use crate::figures::Spread;

/// How often each is taken, and for how long.
const RUNS: usize = 3;
const TIME: Duration = Duration::from_millis(300);

/// Bytes of an append that is synced, and of a message that goes to and fro: those of a small command.
const MESSAGE_BYTES: usize = 256;

/// Bytes hashed at once: more than the nearest caches hold.
const HASHED_BYTES: usize = 4 << 20;

/// What this machine reached with nothing in between.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limits {
    pub cores: usize,
    /// Appends of 256 bytes to one file, each followed by fdatasync, one after the other.
    pub fdatasync_per_s: Spread,
    /// 256 bytes to another thread over a TCP connection on loopback and back, one after the other.
    pub loopback_trips_per_s: Spread,
    /// BLAKE3 on one core.
    pub blake3_mib_per_s: Spread,
}

/// Takes them. `dir` is on the disk that is meant. Blocks for three seconds.
pub fn limits(dir: &Path) -> Result<Limits, BenchError> {
    Ok(Limits {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        fdatasync_per_s: spread(|| syncs(dir)).map_err(BenchError::io("measuring syncs of the disk"))?,
        loopback_trips_per_s: spread(round_trips).map_err(BenchError::io("measuring trips over loopback"))?,
        blake3_mib_per_s: spread(|| Ok(hashes() * HASHED_BYTES as f64 / f64::from(1 << 20)))
            .map_err(BenchError::io("measuring hashes"))?,
    })
}

fn spread(mut run: impl FnMut() -> io::Result<f64>) -> io::Result<Spread> {
    let runs = (0..RUNS).map(|_| run()).collect::<io::Result<Vec<f64>>>()?;
    Ok(Spread::of(&runs))
}

/// How often something is done in a second, one after the other.
fn rate(mut operation: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let (began, mut count) = (Instant::now(), 0u32);
    while began.elapsed() < TIME {
        operation()?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

fn syncs(dir: &Path) -> io::Result<f64> {
    let mut file = tempfile::tempfile_in(dir)?;
    rate(|| {
        file.write_all(&[7; MESSAGE_BYTES])?;
        file.sync_data()
    })
}

fn round_trips() -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut message = [0; MESSAGE_BYTES];
            // Ends when the near side closes.
            while far.read_exact(&mut message).and_then(|()| far.write_all(&message)).is_ok() {}
        });
        let mut message = [7; MESSAGE_BYTES];
        let rate = rate(|| near.write_all(&message).and_then(|()| near.read_exact(&mut message)));
        drop(near);
        rate
    })
}

fn hashes() -> f64 {
    let bytes = vec![7; HASHED_BYTES];
    let hash = || {
        std::hint::black_box(blake3::hash(std::hint::black_box(&bytes)));
        Ok(())
    };
    rate(hash).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_syncs_talks_to_itself_and_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let limits = limits(dir.path()).unwrap();
        for spread in [limits.fdatasync_per_s, limits.loopback_trips_per_s, limits.blake3_mib_per_s] {
            assert!(0.0 < spread.min && spread.min <= spread.median && spread.median <= spread.max, "{spread:?}");
        }
        assert!(limits.cores > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
