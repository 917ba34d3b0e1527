//! The history of one run: what clients saw of each job and each object, judged for linearizability.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_testnet::checkers::linearizable::{CALLS_MAX, Call, Model, UNANSWERED_MAX, Verdict, check};
use quorate_testnet::checkers::{Guarantee, Violation};
use tokio::task::JoinHandle;

/// Gives out the moments of calls and answers. Cloneable; all clones are one clock.
#[derive(Clone, Default)]
pub struct HistoryClock(Arc<AtomicU64>);

impl HistoryClock {
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// What came back: when, and the answer if it was one. Nothing when the client's node crashed.
pub type Returned<A> = Option<(u64, Option<A>)>;

struct Open<K, A> {
    key: K,
    at: usize,
    handle: JoinHandle<Returned<A>>,
}

type Calls<M> = Vec<Call<<M as Model>::Operation, <M as Model>::Answer>>;

pub struct Histories<K, M: Model> {
    model: M,
    calls: BTreeMap<K, Calls<M>>,
    open: Vec<Open<K, M::Answer>>,
    pub answered: u64,
    pub unanswered: u64,
    /// Histories that were too long to judge.
    pub undecided: u64,
}

impl<K: Ord + Copy + Debug, M: Model> Histories<K, M> {
    pub fn new(model: M) -> Self {
        Self { model, calls: BTreeMap::new(), open: Vec::new(), answered: 0, unanswered: 0, undecided: 0 }
    }
    /// A call that has returned already.
    pub fn record_call(&mut self, key: K, called: u64, operation: M::Operation, returned: (u64, M::Answer)) {
        self.calls.entry(key).or_default().push(Call { called, operation, returned: Some(returned) });
    }
    /// A call that was just made.
    pub fn call(&mut self, key: K, called: u64, operation: M::Operation, handle: JoinHandle<Returned<M::Answer>>) {
        let calls = self.calls.entry(key).or_default();
        self.open.push(Open { key, at: calls.len(), handle });
        calls.push(Call { called, operation, returned: None });
    }
    /// Whether one more call of this thing can still be judged.
    pub fn has_room(&self, key: K) -> bool {
        let Some(calls) = self.calls.get(&key) else { return true };
        calls.len() < CALLS_MAX && calls.iter().filter(|call| call.returned.is_none()).count() < UNANSWERED_MAX
    }
    pub fn open(&self) -> usize {
        self.open.len()
    }
    pub fn has_finished(&self) -> bool {
        self.open.iter().any(|open| open.handle.is_finished())
    }

    /// Takes in what has returned, and judges the histories that grew.
    pub async fn collect(&mut self) -> Vec<Violation> {
        let mut found = Vec::new();
        let (finished, open) = std::mem::take(&mut self.open).into_iter().partition(|open| open.handle.is_finished());
        self.open = open;
        let finished: Vec<Open<K, M::Answer>> = finished;
        let mut grown = std::collections::BTreeSet::new();
        for Open { key, at, handle } in finished {
            match handle.await {
                Ok(Some((moment, Some(answer)))) => {
                    self.answered += 1;
                    if let Some(call) = self.calls.get_mut(&key).and_then(|calls| calls.get_mut(at)) {
                        call.returned = Some((moment, answer));
                        grown.insert(key);
                    }
                }
                Ok(_) => self.unanswered += 1,
                Err(error) => found.push(Violation::new(Guarantee::G7, format!("a client's call: {error}"))),
            }
        }
        for key in grown {
            match check(&self.model, &self.calls[&key]) {
                Verdict::Linearizable => {}
                Verdict::Undecided => self.undecided += 1,
                Verdict::Impossible { explained, stuck_at } => {
                    let what = format!(
                        "what clients saw of {key:?} fits no order of its commands: after {explained} calls not {stuck_at}"
                    );
                    found.push(Violation::new(Guarantee::G1, what));
                }
            }
        }
        found
    }
}
