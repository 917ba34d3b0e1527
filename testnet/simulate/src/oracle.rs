//! What clients were promised, apart from the nodes that promised it.
//!
//! An acknowledged put must read back identical from then on. A put that failed, timed out or whose node crashed is
//! *unknown*: it may exist or not, and nothing is asked of it. A read that fails under faults says nothing; a read that
//! succeeds must be right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate::objects::{GetError, PutError, PutOutcome};
use quorate_protocols::ids::ObjectId;
use quorate_testnet::checkers::g1_acknowledged::{self, Promises};
use quorate_testnet::checkers::g6_readable::{self, Content};
use quorate_testnet::checkers::{Guarantee, Violation};
use tokio::task::JoinHandle;
use tokio::time::Instant;

type Put = JoinHandle<Option<Result<PutOutcome, PutError>>>;
type Get = JoinHandle<Option<Result<Vec<u8>, GetError>>>;

#[derive(Default)]
pub struct Oracle {
    promises: Promises<ObjectId>,
    stored: BTreeMap<ObjectId, Content>,
    puts: Vec<(String, Content, Put)>,
    gets: Vec<(ObjectId, Get)>,
    /// Puts that ended without an answer or with an error, by name.
    unknown: BTreeSet<String>,
    pub counts: Operations,
}

/// Operations by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    pub puts_acknowledged: u64,
    pub puts_degraded: u64,
    pub puts_unknown: u64,
    pub reads_checked: u64,
    pub reads_failed: u64,
}

impl Oracle {
    pub fn putting(&mut self, name: String, bytes: &[u8], put: Put) {
        self.puts.push((name, fingerprint(bytes), put));
    }
    pub fn getting(&mut self, object: ObjectId, get: Get) {
        self.gets.push((object, get));
    }
    /// A put that may have got somewhere, to be tried again.
    pub fn take_unknown(&mut self) -> Option<String> {
        self.unknown.pop_last()
    }
    /// Acknowledged objects, in order.
    pub fn objects(&self) -> Vec<ObjectId> {
        self.stored.keys().copied().collect()
    }
    pub fn open(&self) -> usize {
        self.puts.len() + self.gets.len()
    }

    /// Takes in every operation that has ended, and says what is wrong with it.
    pub async fn collect(&mut self) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (name, content, put) in take_finished(&mut self.puts, |(_, _, put)| put.is_finished()) {
            match put.await {
                Ok(Some(Ok(outcome))) => {
                    self.counts.puts_acknowledged += 1;
                    self.counts.puts_degraded += u64::from(outcome.degraded);
                    if outcome.bytes != content.bytes {
                        let what = format!("{name} was acknowledged with {} of {} bytes", outcome.bytes, content.bytes);
                        violations.push(Violation::new(Guarantee::G1, what));
                    }
                    self.promises.acknowledged.insert(outcome.object);
                    self.stored.insert(outcome.object, content);
                }
                Ok(_) => {
                    self.counts.puts_unknown += 1;
                    self.unknown.insert(name);
                }
                Err(error) => violations.push(Violation::new(Guarantee::G7, format!("putting {name}: {error}"))),
            }
        }
        for (object, get) in take_finished(&mut self.gets, |(_, get)| get.is_finished()) {
            match get.await {
                Ok(Some(result)) => violations.extend(self.read(object, &result)),
                Ok(None) => self.counts.reads_failed += 1,
                Err(error) => violations.push(Violation::new(Guarantee::G7, format!("reading {object:?}: {error}"))),
            }
        }
        violations
    }

    /// Judges the result of one read.
    pub fn read(&mut self, object: ObjectId, result: &Result<Vec<u8>, GetError>) -> Vec<Violation> {
        match result {
            Ok(bytes) => {
                self.counts.reads_checked += 1;
                let stored = self.stored.get(&object).copied();
                stored.and_then(|stored| g6_readable::check(object, stored, fingerprint(bytes))).into_iter().collect()
            }
            // The quorum answered that there is no such object: that is a lost promise, not a failed read.
            Err(GetError::Unknown { .. }) => {
                self.counts.reads_failed += 1;
                g1_acknowledged::check(&self.promises, &[object].into())
            }
            Err(_) => {
                self.counts.reads_failed += 1;
                Vec::new()
            }
        }
    }

    /// Waits until every open operation has ended, at most until `end`. Says how many have not.
    pub async fn drain(&mut self, end: Instant) -> (Vec<Violation>, usize) {
        let mut violations = Vec::new();
        loop {
            violations.extend(self.collect().await);
            if self.open() == 0 || Instant::now() >= end {
                return (violations, self.open());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn fingerprint(bytes: &[u8]) -> Content {
    Content { bytes: bytes.len() as u64, blake3: *blake3::hash(bytes).as_bytes() }
}

fn take_finished<T>(open: &mut Vec<T>, is_finished: impl Fn(&T) -> bool) -> Vec<T> {
    let (finished, still) = std::mem::take(open).into_iter().partition(is_finished);
    *open = still;
    finished
}
