//! One object as its steward remembers it: beside the manifest, who holds what.

use serde::{Deserialize, Serialize};

use std::collections::BTreeMap;

use crate::approval::Grant;
use crate::ids::{Attempt, JobId, Millis, PeerId, PieceIndex};
use crate::job::store::ColumnRecord;
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
    /// Peers that hold or rebuild a column other than `except`: none of them may get another.
    pub fn holders_except(&self, except: PieceIndex) -> impl Iterator<Item = PeerId> + '_ {
        let held = self.columns.iter().enumerate().filter(move |(index, _)| *index != except.0 as usize);
        let held = held.filter_map(|(_, column)| column.grant);
        let rebuilding =
            self.repairs.iter().filter(move |(index, _)| **index != except).map(|(_, repair)| repair.grant);
        held.chain(rebuilding).map(|grant| grant.holder.peer)
    }
}
