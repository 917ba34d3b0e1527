//! The trail of an input: what it made a target do, as a set of marks. Two inputs with the same trail are of the same
//! use.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Marks of one input; beyond this many the rest says little.
const MARKS_MAX: usize = 512;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trail(BTreeSet<u64>);

impl Trail {
    /// Marks that this happened.
    pub fn mark(&mut self, what: impl Hash) {
        if self.0.len() < MARKS_MAX {
            // `DefaultHasher::new` has fixed keys: one input has one trail, in every process.
            let mut hasher = DefaultHasher::new();
            what.hash(&mut hasher);
            self.0.insert(hasher.finish());
        }
    }

    /// Marks the variant of an enum, and not what is in it.
    pub fn mark_variant(&mut self, topic: &str, value: &impl Debug) {
        let text = format!("{value:?}");
        let name: String = text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
        self.mark((topic, name));
    }

    /// Marks a message for people: its words, and not the numbers, names or bytes in it.
    pub fn mark_words(&mut self, topic: &str, message: &str) {
        let words: String =
            message.chars().filter(|letter| letter.is_alphabetic() || *letter == ' ').take(80).collect();
        self.mark((topic, words));
    }

    pub fn marks(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().copied()
    }
}
