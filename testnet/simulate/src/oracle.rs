//! The oracle: what clients were promised, apart from the nodes that promised it.
//!
//! An acknowledged put must read back identical from then on. A put that failed, timed out or whose node crashed is
//! *unknown*: it may exist or not, and nothing is asked of it. A read that fails under faults says nothing; a read that
//! succeeds must be right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_node::objects::{GetError, PutError, PutOutcome};
use quorate_protocols::ids::ObjectId;
use quorate_testnet::checkers::g1_acknowledged::{self, Promises};
use quorate_testnet::checkers::g6_readable::{self, Content};
use quorate_testnet::checkers::{Guarantee, Violation};
use tokio::task::JoinHandle;
use tokio::time::Instant;

type Put = JoinHandle<Option<Result<PutOutcome, PutError>>>;
type Get = JoinHandle<Option<Result<Vec<u8>, GetError>>>;

/// A put that has not ended.
struct Putting {
    name: String,
    /// The node at which it was asked for, and when.
    node: usize,
    called: u64,
    content: Content,
    put: Put,
}

#[derive(Default)]
pub struct Oracle {
    promises: Promises<ObjectId>,
    stored: BTreeMap<ObjectId, Content>,
    /// Where each object was put.
    owners: BTreeMap<ObjectId, usize>,
    /// Objects of which some put ended unknown.
    doubtful: BTreeSet<ObjectId>,
    doubtful_names: BTreeSet<String>,
    /// Acknowledged since the last look: the object, and when it was asked for.
    fresh: Vec<(ObjectId, u64)>,
    puts: Vec<Putting>,
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
    /// Commands and questions about jobs and objects.
    pub calls_answered: u64,
    pub calls_unknown: u64,
    pub histories_undecided: u64,
}

impl std::ops::AddAssign for Operations {
    fn add_assign(&mut self, other: Self) {
        self.puts_acknowledged += other.puts_acknowledged;
        self.puts_degraded += other.puts_degraded;
        self.puts_unknown += other.puts_unknown;
        self.reads_checked += other.reads_checked;
        self.reads_failed += other.reads_failed;
        self.calls_answered += other.calls_answered;
        self.calls_unknown += other.calls_unknown;
        self.histories_undecided += other.histories_undecided;
    }
}

impl std::fmt::Display for Operations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { puts_acknowledged, puts_degraded, puts_unknown, reads_checked, reads_failed, .. } = self;
        let Self { calls_answered, calls_unknown, histories_undecided, .. } = self;
        write!(
            f,
            "{puts_acknowledged} puts acknowledged ({puts_degraded} degraded), {puts_unknown} unknown; \
             {reads_checked} reads checked, {reads_failed} failed; {calls_answered} calls answered, \
             {calls_unknown} unknown, {histories_undecided} histories undecided"
        )
    }
}

impl Oracle {
    /// A client of `node` puts these bytes; `called` is when, on the clock of the histories.
    pub fn putting(&mut self, name: String, node: usize, called: u64, bytes: &[u8], put: Put) {
        self.puts.push(Putting { name, node, called, content: fingerprint(bytes), put });
    }
    /// A client asks for the removal: from now on nothing is promised.
    pub fn removing(&mut self, object: ObjectId) {
        self.promises.removal_asked.insert(object);
    }
    /// Where the object was put.
    pub fn owner(&self, object: ObjectId) -> Option<usize> {
        self.owners.get(&object).copied()
    }
    /// Whether no put of this content ended unknown: such a one could store it again at any time.
    pub fn was_stored_once(&self, object: ObjectId) -> bool {
        !self.doubtful.contains(&object)
    }
    /// Objects acknowledged since the last call, each with when its put was asked for.
    pub fn take_new(&mut self) -> Vec<(ObjectId, u64)> {
        std::mem::take(&mut self.fresh)
    }
    /// Whether some operation has ended that was not collected yet.
    pub fn has_finished(&self) -> bool {
        self.puts.iter().any(|putting| putting.put.is_finished()) || self.gets.iter().any(|(_, get)| get.is_finished())
    }
    pub fn getting(&mut self, object: ObjectId, get: Get) {
        self.gets.push((object, get));
    }
    /// A put that may have got somewhere, to be tried again.
    pub fn take_unknown(&mut self) -> Option<String> {
        self.unknown.pop_last()
    }
    /// Acknowledged objects whose removal nobody asked for, in order.
    pub fn objects(&self) -> Vec<ObjectId> {
        let promised = |object: &&ObjectId| !self.promises.removal_asked.contains(object);
        self.stored.keys().filter(promised).copied().collect()
    }
    pub fn open(&self) -> usize {
        self.puts.len() + self.gets.len()
    }

    /// Takes in every operation that has ended, and says what is wrong with it.
    pub async fn collect(&mut self) -> Vec<Violation> {
        let mut violations = Vec::new();
        for Putting { name, node, called, content, put } in take_finished(&mut self.puts, |open| open.put.is_finished())
        {
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
                    self.owners.insert(outcome.object, node);
                    if self.doubtful_names.contains(&name) {
                        self.doubtful.insert(outcome.object);
                    }
                    self.fresh.push((outcome.object, called));
                }
                Ok(_) => {
                    self.counts.puts_unknown += 1;
                    self.doubtful_names.insert(name.clone());
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
