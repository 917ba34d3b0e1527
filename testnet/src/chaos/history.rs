//! The history of each object's commands, as clients saw it through whichever nodes, judged as the history of a single
//! copy.
//!
//! An object is followed when its put was tried once and acknowledged: then it was stored once, and content belongs to
//! one name. A question without an answer says nothing and is forgotten; a removal without an answer may have happened.

use std::collections::BTreeMap;

use quorate_protocols::ids::ObjectId;

use crate::checkers::commands::{Object, ObjectAnswer, ObjectOperation};
use crate::checkers::linearizable::{CALLS_MAX, Call, UNANSWERED_MAX, Verdict, check};
use crate::checkers::{Guarantee, Violation};

type Calls = BTreeMap<u64, Call<ObjectOperation, ObjectAnswer>>;

/// Moments are the order in which calls and answers are noted here.
#[derive(Debug, Default)]
pub struct Histories {
    moment: u64,
    /// By object, and by the moment of the call.
    calls: BTreeMap<ObjectId, Calls>,
    undecided: u64,
}

impl Histories {
    pub fn now(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }
    /// An acknowledged put that was asked for at `called`.
    pub fn stored(&mut self, object: ObjectId, called: u64) {
        let returned = Some((self.now(), ObjectAnswer::Done));
        let call = Call { called, operation: ObjectOperation::Store, returned };
        self.calls.entry(object).or_default().insert(called, call);
    }
    /// Objects of which one more call can be judged.
    pub fn followed(&self) -> Vec<ObjectId> {
        let has_room = |calls: &&Calls| {
            calls.len() < CALLS_MAX && calls.values().filter(|call| call.returned.is_none()).count() < UNANSWERED_MAX
        };
        self.calls.iter().filter(|(_, calls)| has_room(calls)).map(|(object, _)| *object).collect()
    }
    /// A call is made now. Answers the moment, by which its answer is noted.
    pub fn call(&mut self, object: ObjectId, operation: ObjectOperation) -> u64 {
        let called = self.now();
        if let Some(calls) = self.calls.get_mut(&object) {
            calls.insert(called, Call { called, operation, returned: None });
        }
        called
    }
    /// The answer to the call of that moment; `None` when it leaves open whether it was carried out.
    pub fn answer(&mut self, object: ObjectId, called: u64, answer: Option<ObjectAnswer>) {
        let returned = answer.map(|answer| (self.now(), answer));
        let Some(calls) = self.calls.get_mut(&object) else { return };
        if returned.is_none() && calls.get(&called).is_some_and(|call| call.operation == ObjectOperation::Read) {
            calls.remove(&called);
        } else if let Some(call) = calls.get_mut(&called) {
            call.returned = returned;
        }
    }
    /// Whether what was seen of the object so far fits one order.
    pub fn judge(&mut self, object: ObjectId) -> Option<Violation> {
        let calls: Vec<_> = self.calls.get(&object)?.values().cloned().collect();
        match check(&Object, &calls) {
            Verdict::Linearizable => None,
            Verdict::Undecided => {
                self.undecided += 1;
                None
            }
            Verdict::Impossible { explained, stuck_at } => {
                let what = format!(
                    "what clients saw of {object} fits no order of its commands: after {explained} calls not {stuck_at}"
                );
                Some(Violation::new(Guarantee::G1, what))
            }
        }
    }
    /// Objects followed, calls noted, and histories that were too hard to judge.
    pub fn counts(&self) -> (usize, usize, u64) {
        (self.calls.len(), self.calls.values().map(Calls::len).sum(), self.undecided)
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocols::ids::{ManifestHash, QuorumId};

    use super::*;

    #[test]
    fn answers_that_fit_no_order_are_found_and_silence_is_not_held_against_anyone() {
        let object = ObjectId { quorum: QuorumId([1; 16]), manifest: ManifestHash([1; 32]) };
        let mut histories = Histories::default();
        let look = histories.call(object, ObjectOperation::Read);
        histories.answer(object, look, Some(ObjectAnswer::Seen(true)));
        assert_eq!(histories.counts(), (0, 0, 0), "nobody follows it yet");
        let called = histories.now();
        histories.stored(object, called);
        assert_eq!(histories.followed(), [object]);
        let silent = histories.call(object, ObjectOperation::Read);
        histories.answer(object, silent, None);
        let open = histories.call(object, ObjectOperation::Remove);
        histories.answer(object, open, None);
        assert_eq!(histories.counts(), (1, 2, 0), "a question without an answer is forgotten");
        for is_there in [true, false, false] {
            let look = histories.call(object, ObjectOperation::Read);
            histories.answer(object, look, Some(ObjectAnswer::Seen(is_there)));
            assert_eq!(histories.judge(object), None);
        }
        let back = histories.call(object, ObjectOperation::Read);
        histories.answer(object, back, Some(ObjectAnswer::Seen(true)));
        assert!(histories.judge(object).is_some());
    }
}
