//! One object as its steward remembers it: beside the manifest, who holds what.

use serde::{Deserialize, Serialize};

use std::collections::BTreeMap;

use crate::approval::Grant;
use crate::ids::{Attempt, JobId, Millis, PeerId, PieceIndex};
use crate::job::store::{ColumnRecord, ColumnState};
use crate::object::layout::Profile;
use crate::quorum::claims::Claims;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectState {
    Live,
    /// Removed: its columns are being released.
    Removing,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    pub state: ObjectState,
    pub size: u64,
    pub profile: Profile,
    /// Who keeps it, and under which names. None when it is removed.
    pub claims: Claims,
    /// The run that stored it; slots of its columns carry this id for as long as the object lives.
    pub job: JobId,
    pub created_at: Millis,
    /// `stored` is empty here: a sealed column is whole.
    pub columns: Vec<ColumnRecord>,
    /// Columns owed a repair, with the reason.
    pub owed: BTreeMap<PieceIndex, String>,
    /// Rebuilds under way. The column itself changes only when one finishes, so that reads go on meanwhile.
    pub repairs: BTreeMap<PieceIndex, Repair>,
    /// Newest attempt handed out per column, rebuilds that failed included.
    pub newest: Vec<Attempt>,
}

/// A rebuild under way: who makes the column anew, and under which attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    pub grant: Grant,
    pub attempt: Attempt,
}

impl ObjectRecord {
    /// Whether this peer keeps the object: it stored it, or stored the same content again.
    pub fn owned_by(&self, peer: PeerId) -> bool {
        self.claims.of(peer).next().is_some()
    }
    /// Whether any column is owed a repair.
    pub fn degraded(&self) -> bool {
        !self.owed.is_empty()
    }
    /// The column that is to be rebuilt elsewhere next because its holder, which has it, is to leave. One column at a
    /// time, while no other is owed or rebuilt, and only if the others are enough to make it anew: what a holder has is
    /// let go when another has it, and an object without parity stays where it is.
    pub fn column_to_move(&self, leaves: impl Fn(PeerId) -> bool) -> Option<PieceIndex> {
        if self.state != ObjectState::Live || self.degraded() || !self.repairs.is_empty() {
            return None;
        }
        let whole = |column: &&ColumnRecord| matches!(column.state, ColumnState::Sealed | ColumnState::Confirmed);
        if self.columns.iter().filter(whole).count() <= usize::from(self.profile.data) {
            return None;
        }
        let leaving = |column: &ColumnRecord| column.grant.is_some_and(|grant| leaves(grant.holder.peer));
        let found = self.columns.iter().position(|column| whole(&column) && leaving(column))?;
        Some(PieceIndex(found as u8))
    }
    /// Peers that hold or rebuild a column other than `except`: none of them may get another.
    pub fn holders_except(&self, except: PieceIndex) -> impl Iterator<Item = PeerId> + '_ {
        let held = self.columns.iter().enumerate().filter(move |(index, _)| *index != except.0 as usize);
        let held = held.filter_map(|(_, column)| column.grant);
        let rebuilding =
            self.repairs.iter().filter(move |(index, _)| **index != except).map(|(_, repair)| repair.grant);
        held.chain(rebuilding).map(|grant| grant.holder.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, LeaseId, MemberId, QuorumId};

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn grant(n: u8) -> Grant {
        Grant { holder: MemberId { peer: peer(n), incarnation: Incarnation(1) }, lease: LeaseId([n; 16]) }
    }

    /// Column `n` is held by peer `n`.
    fn object(data: u8, parity: u8) -> ObjectRecord {
        let column = |n| ColumnRecord {
            grant: Some(grant(n)),
            attempt: Attempt(1),
            state: ColumnState::Confirmed,
            stored: Vec::new(),
        };
        ObjectRecord {
            state: ObjectState::Live,
            size: 1,
            profile: Profile { data, parity },
            claims: Claims::default(),
            job: JobId { quorum: QuorumId([7; 16]), local: [1; 16] },
            created_at: Millis(0),
            columns: (0..data + parity).map(column).collect(),
            owed: BTreeMap::new(),
            repairs: BTreeMap::new(),
            newest: vec![Attempt(1); usize::from(data + parity)],
        }
    }

    #[test]
    fn columns_of_holders_that_leave_are_moved_one_at_a_time() {
        let mut object = object(2, 2);
        let leaves = |holder| [peer(1), peer(3)].contains(&holder);
        assert_eq!(object.column_to_move(leaves), Some(PieceIndex(1)));
        assert_eq!(object.column_to_move(|_| false), None);
        object.repairs.insert(PieceIndex(1), Repair { grant: grant(9), attempt: Attempt(2) });
        assert_eq!(object.column_to_move(leaves), None, "one is being rebuilt");
        object.repairs.clear();
        object.owed.insert(PieceIndex(0), "its holder is gone".to_owned());
        assert_eq!(object.column_to_move(leaves), None, "one is owed");
        object.owed.clear();
        object.columns[1].grant = Some(grant(9));
        assert_eq!(object.column_to_move(leaves), Some(PieceIndex(3)));
        object.state = ObjectState::Removing;
        assert_eq!(object.column_to_move(leaves), None);
    }

    #[test]
    fn a_column_that_the_others_cannot_make_stays_where_it_is() {
        assert_eq!(object(3, 0).column_to_move(|_| true), None);
        let mut object = object(2, 1);
        assert_eq!(object.column_to_move(|_| true), Some(PieceIndex(0)));
        object.columns[2].state = ColumnState::Open;
        assert_eq!(object.column_to_move(|_| true), None);
    }
}
