//! The checker of linearizability: whether what clients saw of one thing could have come from a single copy of it,
//! where each operation happens at one moment between its call and its return.
//!
//! The search is that of Wing and Gong (Testing and verifying concurrent objects, 1993): place, one after the other, an
//! operation that nothing unplaced had to come before, go back where the thing could not have answered so. As Lowe
//! (Testing for linearizability, 2017) adds, a set of placed operations that led to a state once is not tried again.
//! The question is hard in general; histories are kept short by asking it of one job or one object at a time.
//!
//! A call without a return may have happened at any moment after its call, or never; it happens at most once.

use std::collections::BTreeSet;
use std::fmt::Debug;

/// Configurations looked at before the search gives up: a second or two of work.
const CONFIGURATIONS_MAX: usize = 100_000;

/// Calls of one thing that a history should have at most, and those of them that may stay unanswered: the search grows
/// with both.
pub const CALLS_MAX: usize = 40;
pub const UNANSWERED_MAX: usize = 6;

/// What a thing does, as a relation: nondeterminism is more than one next state.
pub trait Model {
    type State: Clone + Ord;
    type Operation: Debug;
    type Answer: Debug;
    fn initial(&self) -> Self::State;
    /// The states after `operation` in `state`. With an answer, only those in which it may give this one; without, any.
    fn next(&self, state: &Self::State, operation: &Self::Operation, answer: Option<&Self::Answer>)
    -> Vec<Self::State>;
}

/// One operation of a client. Moments are numbers that grow; no two are the same.
#[derive(Clone, Debug)]
pub struct Call<O, A> {
    pub called: u64,
    pub operation: O,
    /// When it returned, and what. `None`: it never did, or with an answer that leaves open whether it happened.
    pub returned: Option<(u64, A)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// No order explains the answers. Most of them could be explained up to the named call.
    Impossible {
        explained: usize,
        stuck_at: String,
    },
    /// The search was given up: nothing is known.
    Undecided,
}

/// Judges the history of one thing. `calls` in any order.
pub fn check<M: Model>(model: &M, calls: &[Call<M::Operation, M::Answer>]) -> Verdict {
    let mut search = Search { model, calls, seen: BTreeSet::new(), best: (0, None) };
    let placed = vec![false; calls.len()];
    match search.explain(&mut placed.clone(), model.initial()) {
        Some(true) => Verdict::Linearizable,
        Some(false) => {
            let (explained, stuck) = search.best;
            let stuck_at = stuck.map_or_else(String::new, |at| format!("{:?}", calls[at]));
            Verdict::Impossible { explained, stuck_at }
        }
        None => Verdict::Undecided,
    }
}

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Operation, M::Answer>],
    seen: BTreeSet<(Vec<bool>, M::State)>,
    /// Most returned calls ever placed, and the one that had to follow and could not.
    best: (usize, Option<usize>),
}

impl<M: Model> Search<'_, M> {
    /// Whether the calls not yet placed can follow from `state`; `None` when it takes too long to tell.
    fn explain(&mut self, placed: &mut Vec<bool>, state: M::State) -> Option<bool> {
        let open = || (0..self.calls.len()).filter(|at| !placed[*at]);
        let returns = |at: usize| self.calls[at].returned.as_ref().map(|(moment, _)| *moment);
        let Some(next) = open().filter(|at| returns(*at).is_some()).min_by_key(|at| returns(*at)) else {
            // Whatever has not returned need not have happened.
            return Some(true);
        };
        let explained =
            placed.iter().zip(self.calls).filter(|(placed, call)| **placed && call.returned.is_some()).count();
        if explained >= self.best.0 {
            self.best = (explained, Some(next));
        }
        if !self.seen.insert((placed.clone(), state.clone())) {
            return Some(false);
        }
        if self.seen.len() > CONFIGURATIONS_MAX {
            return None;
        }
        // A call made after some unplaced one returned comes after it.
        let first_return = returns(next).unwrap_or(u64::MAX);
        let candidates: Vec<usize> = open().filter(|at| self.calls[*at].called < first_return).collect();
        for at in candidates {
            let call = &self.calls[at];
            let answer = call.returned.as_ref().map(|(_, answer)| answer);
            for after in self.model.next(&state, &call.operation, answer) {
                placed[at] = true;
                let found = self.explain(placed, after);
                placed[at] = false;
                if found != Some(false) {
                    return found;
                }
            }
        }
        Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is written and read.
    struct Register;

    #[derive(Clone, Debug)]
    enum Operation {
        Write(u8),
        Read,
    }

    impl Model for Register {
        type State = u8;
        type Operation = Operation;
        type Answer = u8;
        fn initial(&self) -> u8 {
            0
        }
        fn next(&self, state: &u8, operation: &Operation, answer: Option<&u8>) -> Vec<u8> {
            match operation {
                Operation::Write(value) => vec![*value],
                Operation::Read if answer.is_none_or(|answer| answer == state) => vec![*state],
                Operation::Read => Vec::new(),
            }
        }
    }

    fn write(called: u64, value: u8, returned: Option<u64>) -> Call<Operation, u8> {
        Call { called, operation: Operation::Write(value), returned: returned.map(|at| (at, value)) }
    }
    fn read(called: u64, value: u8, returned: u64) -> Call<Operation, u8> {
        Call { called, operation: Operation::Read, returned: Some((returned, value)) }
    }
    fn is_good(calls: &[Call<Operation, u8>]) -> bool {
        match check(&Register, calls) {
            Verdict::Linearizable => true,
            Verdict::Impossible { .. } => false,
            Verdict::Undecided => panic!("too long for {calls:?}"),
        }
    }

    #[test]
    fn what_one_copy_could_have_answered_is_accepted() {
        assert!(is_good(&[]));
        assert!(is_good(&[write(1, 7, Some(2)), read(3, 7, 4)]));
        assert!(is_good(&[write(1, 7, Some(5)), read(2, 0, 3)]), "a read during a write may come before it");
        assert!(is_good(&[write(1, 7, Some(5)), read(2, 7, 3)]), "or after it");
        assert!(is_good(&[write(1, 1, Some(6)), write(2, 2, Some(7)), read(3, 2, 4), read(8, 1, 9)]));
    }

    #[test]
    fn what_no_single_copy_could_have_answered_is_refused() {
        assert!(!is_good(&[write(1, 7, Some(2)), read(3, 0, 4)]), "a stale read");
        assert!(!is_good(&[write(1, 7, Some(8)), read(2, 7, 3), read(4, 0, 5)]), "seen and unseen again");
        assert!(!is_good(&[read(1, 7, 2)]), "a value that nobody wrote");
        assert!(!is_good(&[write(1, 1, Some(2)), write(3, 2, Some(4)), read(5, 1, 6)]), "a lost write");
        let crossed = [write(1, 1, Some(10)), write(2, 2, Some(9)), read(3, 1, 4), read(5, 2, 6), read(7, 1, 8)];
        assert!(!is_good(&crossed), "each write happens once");
    }

    #[test]
    fn a_call_without_a_return_happens_once_at_any_time_or_never() {
        assert!(is_good(&[write(1, 7, None), read(2, 0, 3)]));
        assert!(is_good(&[write(1, 7, None), read(2, 0, 3), read(4, 7, 5)]), "late");
        assert!(!is_good(&[write(1, 7, None), read(2, 7, 3), read(4, 0, 5)]), "it is not undone");
        assert!(!is_good(&[read(1, 7, 2), write(3, 7, None)]), "not before it was asked for");
        let twice = [write(1, 7, None), read(2, 7, 3), write(4, 1, Some(5)), read(6, 7, 7)];
        assert!(!is_good(&twice), "nor a second time");
    }

    /// Goal: the search ends on a history as long as a run makes. Method: many readers and unknown writers at once.
    #[test]
    fn a_long_history_with_unknown_writes_is_judged() {
        let mut calls: Vec<_> = (0..6).map(|at| write(at, at as u8, None)).collect();
        calls.extend((0..30).map(|at| read(100 + 2 * at, (at / 5) as u8, 101 + 2 * at)));
        assert!(is_good(&calls));
        calls.push(read(1000, 1, 1001));
        assert!(matches!(check(&Register, &calls), Verdict::Impossible { explained: 30, .. }));
    }
}
