//! The incarnation of a node: which life of its disk it is in.
//!
//! An *incarnation* is a number that tells the lives of one node's disk apart: members, holders and announcements are
//! named with it, so that nobody waits for what an earlier life promised. It is written in two places, the data folder
//! (beside the key) and the record store, because a disk may lose the one without the other: somebody who replaces a
//! disk brings the key back and not the records. A node that starts compares the two here, before it talks to anyone.

use crate::ids::{Incarnation, MemberId};

/// What a node that starts finds on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Of the data folder.
    pub folder: Incarnation,
    /// Of the record store, if it has one.
    pub store: Option<Incarnation>,
    /// The store has neither columns of pieces nor members of quorums.
    pub store_is_empty: bool,
    /// Members of quorums have forgotten what they promised.
    pub forgot: bool,
}

/// What a node that starts is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The one that it was.
    Same,
    /// The one that it was, though its record store does not say so yet.
    Unrecorded,
    /// Another, for this reason: it takes a new incarnation.
    New(Loss),
}

/// Why an earlier life of a disk is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The record store is new: nobody was promised anything under its incarnation, or the store is lost.
    EmptyStore,
    /// The record store was written in another life than the folder's.
    OtherStore(Incarnation),
    ForgottenPromises,
}

impl Found {
    /// A life goes on only when both places name it and nothing is forgotten. A new incarnation costs a node that kept
    /// its disk a rebuild of its columns; going on under the old one costs the network pieces that it believes in.
    pub fn life(self) -> Life {
        match self.store {
            _ if self.forgot => Life::New(Loss::ForgottenPromises),
            Some(store) if store == self.folder => Life::Same,
            Some(store) => Life::New(Loss::OtherStore(store)),
            None if self.store_is_empty => Life::New(Loss::EmptyStore),
            None => Life::Unrecorded,
        }
    }
}

impl MemberId {
    /// Whether what this life of the peer promised is gone, now that the peer names `present` as its incarnation.
    pub fn is_over(self, present: Incarnation) -> bool {
        self.incarnation != present
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_goes_on_only_with_the_store_that_it_began_with() {
        let (one, two) = (Incarnation(1), Incarnation(2));
        let found = |store, store_is_empty, forgot| Found { folder: one, store, store_is_empty, forgot }.life();
        assert_eq!(found(Some(one), false, false), Life::Same);
        assert_eq!(found(Some(one), true, false), Life::Same, "nothing was promised yet, or all of it was given back");
        assert_eq!(found(None, true, false), Life::New(Loss::EmptyStore), "a key that outlived its records");
        assert_eq!(found(None, false, false), Life::Unrecorded);
        assert_eq!(found(Some(two), false, false), Life::New(Loss::OtherStore(two)), "records of somebody else");
        for store in [None, Some(one), Some(two)] {
            assert_eq!(found(store, false, true), Life::New(Loss::ForgottenPromises));
        }
    }
}
