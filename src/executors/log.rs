//! The log of a task: kept from both ends, because the beginning says what it was and the end why it
//! stopped.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Host, Stream};
use crate::utf8;
use parking_lot::Mutex;

/// One stream, cut in the middle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    pub head: Vec<u8>,
    pub tail: Vec<u8>,
    /// Bytes between them that were not kept.
    pub dropped: u64,
}

impl Captured {
    /// The text with a note where it was cut, between two characters. Bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> String {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if self.dropped == 0 {
            return lossy(&[self.head.as_slice(), &self.tail].concat());
        }
        let (before, after) = (utf8::unfinished(&self.head), utf8::continued(&self.tail));
        let (head, tail) = (&self.head[..self.head.len() - before], &self.tail[after..]);
        let left_out = self.dropped + (before + after) as u64;
        format!("{}\n[{left_out} bytes left out]\n{}", lossy(head), lossy(tail))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    pub stdout: Captured,
    pub stderr: Captured,
}

struct Ring {
    half_bytes_max: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: u64,
}

impl Ring {
    fn new(bytes_max: usize) -> Self {
        Self { half_bytes_max: bytes_max / 2, head: Vec::new(), tail: VecDeque::new(), dropped: 0 }
    }
    fn push(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(self.half_bytes_max - self.head.len()));
        self.head.extend_from_slice(head);
        let skipped = rest.len().saturating_sub(self.half_bytes_max);
        let rest = &rest[skipped..];
        let pushed_out = (self.tail.len() + rest.len()).saturating_sub(self.half_bytes_max);
        self.tail.drain(..pushed_out);
        self.tail.extend(rest);
        self.dropped += (skipped + pushed_out) as u64;
    }
    fn take_captured(&mut self) -> Captured {
        Captured {
            head: std::mem::take(&mut self.head),
            tail: std::mem::take(&mut self.tail).into(),
            dropped: std::mem::take(&mut self.dropped),
        }
    }
}

/// Both streams of one attempt, while it runs. Cloning shares them.
#[derive(Clone)]
pub(super) struct LogBook {
    host: Arc<dyn Host>,
    rings: Arc<Mutex<(Ring, Ring)>>,
}

impl LogBook {
    pub(super) fn new(host: Arc<dyn Host>, bytes_max: usize) -> Self {
        Self { host, rings: Arc::new(Mutex::new((Ring::new(bytes_max), Ring::new(bytes_max)))) }
    }
    pub(super) fn push(&self, stream: Stream, bytes: &[u8]) {
        self.host.log(stream, bytes);
        let mut rings = self.rings.lock();
        match stream {
            Stream::Stdout => rings.0.push(bytes),
            Stream::Stderr => rings.1.push(bytes),
        }
    }
    /// Standard output that is the task's output, as it comes. It is told and not kept: it is in the task's hands.
    pub(super) fn show_output(&self, bytes: &[u8]) {
        self.host.log(Stream::Stdout, bytes);
    }
    /// What was kept, leaving nothing behind.
    pub(super) fn take_logs(&self) -> Logs {
        let mut rings = self.rings.lock();
        Logs { stdout: rings.0.take_captured(), stderr: rings.1.take_captured() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Goal: characters on the borders of what was kept come out whole, be anything between left out or not.
        #[test]
        fn no_character_is_broken(text in "[aé€😀]{0,40}", max in 8usize..64) {
            let mut ring = Ring::new(max);
            ring.push(text.as_bytes());
            let kept = ring.take_captured();
            let shown = kept.text();
            prop_assert!(!shown.contains(char::REPLACEMENT_CHARACTER), "{shown}");
            match shown.split_once("\n[") {
                None => prop_assert_eq!(shown, text),
                Some((head, rest)) => {
                    let (left_out, tail) = rest.split_once(" bytes left out]\n").unwrap();
                    prop_assert!(text.starts_with(head) && text.ends_with(tail));
                    prop_assert_eq!(left_out.parse::<usize>().unwrap(), text.len() - head.len() - tail.len());
                }
            }
        }

        /// Goal: however a stream is cut into writes, its two ends are kept and what lies between is counted.
        #[test]
        fn both_ends_are_kept_and_the_middle_is_counted(
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20), max in 0usize..64,
        ) {
            let whole: Vec<u8> = writes.concat();
            let mut ring = Ring::new(max);
            for write in &writes {
                ring.push(write);
            }
            let kept = ring.take_captured();
            prop_assert!(whole.starts_with(&kept.head) && whole.ends_with(&kept.tail));
            prop_assert_eq!((kept.head.len() + kept.tail.len()) as u64 + kept.dropped, whole.len() as u64);
            prop_assert!(kept.head.len() <= max / 2 && kept.tail.len() <= max / 2);
            prop_assert!(kept.dropped == 0 || kept.tail.len() == max / 2);
        }
    }
}
