//! The transcript of a run, in order: virtual time, node, event. Two runs of one seed must write the same bytes.
//!
//! Messages and syncs are too many to keep: each goes into a running hash, which every kept line shows. Two runs that
//! differ in a single message thus differ in the next line, and in a detailed one every message is a line.

use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use quorate_testkit::net::{Observer, Sight};
use tokio::time::Instant;

/// Lines kept. The oldest half is dropped beyond it; what a failure needs is at the end. In detail all of it is wanted.
const LINES_MAX: usize = 20_000;
const DETAILED_LINES_MAX: usize = 2_000_000;

/// Cloneable; all clones write one transcript.
#[derive(Clone)]
pub struct Transcript {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    began: Instant,
    is_detailed: bool,
    lines: Vec<String>,
    dropped: u64,
    hash: blake3::Hasher,
    noted: u64,
}

impl Transcript {
    pub fn new(is_detailed: bool) -> Self {
        let inner = Inner {
            began: Instant::now(),
            is_detailed,
            lines: Vec::new(),
            dropped: 0,
            hash: blake3::Hasher::new(),
            noted: 0,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// A line of its own. `node` counts from 1; 0 is the world.
    pub fn line(&self, node: usize, what: impl std::fmt::Display) {
        self.lock().push(node, &what.to_string());
    }

    /// Something small that happens often: hashed, and a line only in detail.
    pub fn record_line(&self, node: usize, what: impl FnOnce() -> String) {
        let mut inner = self.lock();
        let what = what();
        let at = inner.began.elapsed().as_micros() as u64;
        inner.hash.update(&at.to_le_bytes());
        inner.hash.update(&[node as u8]);
        inner.hash.update(what.as_bytes());
        inner.noted += 1;
        if inner.is_detailed {
            inner.push(node, &what);
        }
    }

    /// Everything kept, and a last line with the hash over all that was noted.
    pub fn text(&self) -> String {
        let inner = self.lock();
        let mut text = String::new();
        if inner.dropped > 0 {
            let _ = writeln!(text, "({} earlier lines were dropped)", inner.dropped);
        }
        for line in &inner.lines {
            text.push_str(line);
            text.push('\n');
        }
        let _ = writeln!(text, "{} events, hash {}", inner.noted, inner.hash.clone().finalize().to_hex());
        text
    }

    /// The last `count` lines.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let inner = self.lock();
        inner.lines[inner.lines.len().saturating_sub(count)..].to_vec()
    }

    /// The last `count` lines about any of `words` or about faults, or the last lines of all when none is about a word.
    pub fn tail_about(&self, words: &[String], count: usize) -> Vec<String> {
        let inner = self.lock();
        let about = |line: &str| words.iter().any(|word| line.contains(word.as_str()));
        let told = |line: &&String| about(line) || line.contains(" n0 ");
        let mut lines: Vec<_> = inner.lines.iter().rev().filter(told).take(count).cloned().collect();
        if !lines.iter().any(|line| about(line)) {
            lines = inner.lines.iter().rev().take(count).cloned().collect();
        }
        lines.reverse();
        lines
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

/// The network's part of it.
impl Observer for Transcript {
    fn observe(&self, node: usize, sight: &Sight<'_>) {
        match sight {
            Sight::Request { from, protocol, frame } => self.record_line(node, || {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&frame.head).update(&frame.payload);
                let hash = hasher.finalize().to_hex();
                format!("<- n{from} {protocol:?} {} bytes {}", frame.len(), &hash[..8])
            }),
            // It is part of what its asker does next.
            Sight::Answer { .. } => (),
            Sight::Gossip { topic, bytes } => {
                self.record_line(node, || format!("<- gossip {topic:?} {}", blake3::hash(bytes)))
            }
            Sight::Event(event) => self.record_line(node, || format!("<- {event:?}")),
            Sight::Penalty { peer, reason } => self.line(node, format_args!("penalises {peer:?}: {reason}")),
        }
    }
}

impl Inner {
    fn push(&mut self, node: usize, what: &str) {
        let most = if self.is_detailed { DETAILED_LINES_MAX } else { LINES_MAX };
        if self.lines.len() >= most {
            self.lines.drain(..most / 2);
            self.dropped += most as u64 / 2;
        }
        let at = self.began.elapsed();
        let hash = u64::from_le_bytes(self.hash.clone().finalize().as_bytes()[..8].try_into().expect("eight bytes"));
        let line = format!("{:>6}.{:06} {hash:016x} n{node} {what}", at.as_secs(), at.subsec_micros());
        self.hash.update(line.as_bytes());
        self.lines.push(line);
    }
}
