//! Quorum arithmetic, said once.

use std::collections::BTreeSet;

use crate::ids::MemberId;

/// Voters of a quorum.
pub const VOTERS_MIN: usize = 3;
pub const VOTERS_MAX: usize = 7;
pub const VOTERS_DEFAULT: usize = 3;

/// The voters of one configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voters(BTreeSet<MemberId>);

impl Voters {
    pub fn new(members: impl IntoIterator<Item = MemberId>) -> Self {
        Self(members.into_iter().collect())
    }
    pub fn contains(&self, member: MemberId) -> bool {
        self.0.contains(&member)
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn iter(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.0.iter().copied()
    }
    /// Smallest number of voters that any other such number shares a voter with.
    pub fn majority(&self) -> usize {
        Self::majority_of(self.0.len())
    }
    /// The same of so many voters.
    pub const fn majority_of(voters: usize) -> usize {
        voters / 2 + 1
    }
    /// Whether the voters among `voices` are a majority. A repeat is not a second voice.
    pub fn is_majority(&self, voices: &BTreeSet<MemberId>) -> bool {
        !self.0.is_empty() && self.0.intersection(voices).count() >= self.majority()
    }
}
