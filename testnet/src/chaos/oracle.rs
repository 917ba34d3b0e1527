//! The oracle: what clients were told, apart from the nodes that told it.
//!
//! An acknowledged put must be there and read back identical until somebody asks for its removal; an acknowledged
//! removal must stay. An operation that failed or timed out is *unknown*: it may have happened or not, but once. An
//! object of an unknown put that was seen is a promise from then on.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocols::ids::ObjectId;

use crate::checkers::g1_acknowledged::{self, Promises};
use crate::checkers::g6_readable::{self, Content};
use crate::checkers::{Guarantee, Violation};

pub fn content_of(bytes: &[u8]) -> Content {
    Content { bytes: bytes.len() as u64, blake3: *blake3::hash(bytes).as_bytes() }
}

/// A put that was tried: what went in, and how often.
#[derive(Clone, Copy, Debug)]
struct Tried {
    content: Content,
    tries: u32,
}

#[derive(Debug, Default)]
pub struct Oracle {
    puts: BTreeMap<String, Tried>,
    objects: Promises<ObjectId>,
    removals: Promises<ObjectId>,
    stored: BTreeMap<ObjectId, Content>,
}

impl Oracle {
    pub fn putting(&mut self, name: &str, content: Content) {
        self.puts.entry(name.to_owned()).or_insert(Tried { content, tries: 0 }).tries += 1;
    }
    /// Whether the put of this name was asked for once.
    pub fn was_tried_once(&self, name: &str) -> bool {
        self.puts.get(name).is_some_and(|tried| tried.tries == 1)
    }
    pub fn stored(&mut self, object: ObjectId, content: Content) {
        self.objects.acknowledged.insert(object);
        self.stored.insert(object, content);
    }
    pub fn removing(&mut self, object: ObjectId) {
        self.objects.removal_asked.insert(object);
    }
    pub fn removed(&mut self, object: ObjectId) {
        self.removals.acknowledged.insert(object);
    }
    /// Acknowledged objects whose removal nobody asked for.
    pub fn live(&self) -> Vec<ObjectId> {
        self.objects.acknowledged.difference(&self.objects.removal_asked).copied().collect()
    }
    pub fn gone(&self) -> Vec<ObjectId> {
        self.removals.acknowledged.iter().copied().collect()
    }
    /// Whether its removal may have been acted on.
    pub fn may_be_gone(&self, object: ObjectId) -> bool {
        self.objects.removal_asked.contains(&object)
    }
    pub fn acknowledged(&self) -> usize {
        self.objects.acknowledged.len() + self.removals.acknowledged.len()
    }

    /// A read that succeeded.
    pub fn check_read(&self, object: ObjectId, read: Content) -> Option<Violation> {
        g6_readable::check(object, *self.stored.get(&object)?, read)
    }
    /// An object that the network, asked in earnest, did not know.
    pub fn check_missing(&self, object: ObjectId) -> Vec<Violation> {
        g1_acknowledged::check(&self.objects, &BTreeSet::from([object]))
    }
    /// An object that the network still has.
    pub fn check_present(&self, object: ObjectId) -> Option<Violation> {
        let broken = self.removals.acknowledged.contains(&object);
        broken
            .then(|| Violation::new(Guarantee::G1, format!("the removal of {object} was acknowledged and it is there")))
    }
    /// All objects of the network by name, once nothing is in flight any more: those of unknown puts become promises,
    /// and none may be there that nobody put, or twice. Answers how many unknown puts turned out to have happened.
    pub fn settle(&mut self, listed: &[(String, ObjectId)]) -> (u64, Vec<Violation>) {
        let mut found = Vec::new();
        let mut happened = 0;
        let mut by_name: BTreeMap<&str, BTreeSet<ObjectId>> = BTreeMap::new();
        for (name, object) in listed {
            by_name.entry(name).or_default().insert(*object);
        }
        for (name, objects) in by_name {
            let Some(tried) = self.puts.get(name).copied() else {
                found.push(Violation::new(Guarantee::G1, format!("{name} is stored and nobody put it")));
                continue;
            };
            if objects.len() > tried.tries as usize {
                let what = format!("{name} was put {} times and is there as {objects:?}", tried.tries);
                found.push(Violation::new(Guarantee::G1, what));
            }
            for object in objects {
                if !self.stored.contains_key(&object) {
                    happened += 1;
                    self.stored(object, tried.content);
                }
            }
        }
        (happened, found)
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocols::ids::{ManifestHash, QuorumId};

    use super::*;

    fn object(number: u8) -> ObjectId {
        ObjectId { quorum: QuorumId([1; 16]), manifest: ManifestHash([number; 32]) }
    }

    #[test]
    fn what_was_acknowledged_is_asked_for_and_what_was_not_may_go_either_way_once() {
        let mut oracle = Oracle::default();
        let content = content_of(b"a");
        oracle.putting("a", content);
        oracle.putting("b", content);
        oracle.stored(object(1), content);
        assert_eq!(oracle.check_missing(object(1)).len(), 1);
        assert_eq!(oracle.check_missing(object(2)), [], "nobody was told that it is stored");
        assert!(oracle.check_read(object(1), content_of(b"b")).is_some());
        // The put that nobody heard of happened: from now on it is a promise.
        let listed = vec![("a".to_owned(), object(1)), ("b".to_owned(), object(2))];
        assert_eq!(oracle.settle(&listed), (1, vec![]));
        assert_eq!(oracle.check_missing(object(2)).len(), 1);
        // Twice, or out of nowhere.
        assert_eq!(oracle.settle(&[("a".into(), object(1)), ("a".into(), object(3))]).1.len(), 1);
        assert_eq!(oracle.settle(&[("c".into(), object(4))]).1.len(), 1);
        oracle.removing(object(1));
        assert_eq!(oracle.check_missing(object(1)), []);
        assert_eq!(oracle.check_present(object(1)), None, "asked for, not acknowledged");
        oracle.removed(object(1));
        assert!(oracle.check_present(object(1)).is_some());
    }
}
