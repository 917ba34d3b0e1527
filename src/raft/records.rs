//! Records of groups: which quorums this node is a member of, as its disk has it, and whether the disk still has all
//! that the member promised.

use openraft::LogIdOptionExt;
use quorate_protocols::approval::Approval;
use quorate_protocols::certificate::Founding;
use quorate_protocols::ids::{MemberId, PeerId, QuorumId};
use quorate_protocols::quorum::limits::QUORUMS_PER_NODE_MAX;
use quorate_protocols::quorum::{Invitation, Voters};
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};

use super::log_store::{LastFault, LogStore, Trees};
use super::own_sync::OwnSync;
use super::rollback_guard::{self, RollbackGuard};
use crate::seams::{DiskError, KvBatch};
use crate::storage::Storage;

/// The tree that says which groups there are: quorum id → [`GroupRecord`].
const RECORDS: &str = "quorums";

/// What a member keeps about its group from the founding on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    pub member: MemberId,
    /// What the quorum's id is the digest of.
    pub founding: Founding,
    /// The promises on which the group was founded, or on which this member was invited.
    pub members: Vec<Approval>,
    pub standbys: Vec<Approval>,
    /// Who asked: the founder, or the primary that took this member in.
    pub asked_by: PeerId,
}

impl Record for GroupRecord {
    /// 2: with the founding.
    const VERSION: u8 = 2;
}

impl GroupRecord {
    pub fn approvals(&self) -> impl Iterator<Item = &Approval> {
        self.members.iter().chain(&self.standbys)
    }
    /// On which this member takes part while no configuration has named it.
    pub(super) fn invitation(&self, is_blank: bool) -> Invitation {
        let promised = self.approvals().map(|approval| approval.statement.approver);
        Invitation {
            founders: Voters::new(self.members.iter().map(Approval::member)),
            peers: promised.chain([self.asked_by]).collect(),
            is_blank,
        }
    }
}

/// Every group on this disk, in order of id.
pub fn read_records(storage: &Storage) -> Result<Vec<(QuorumId, GroupRecord)>, DiskError> {
    let damaged = |reason: String| DiskError::Damaged { place: RECORDS.to_owned(), reason };
    // No id is longer than the end of the range, and there are at most `QUORUMS_PER_NODE_MAX` of them.
    let rows = storage.kv().range(RECORDS, &[], &[0xff; 17], QUORUMS_PER_NODE_MAX, usize::MAX)?;
    let read = |(key, value): (Vec<u8>, Vec<u8>)| {
        let id = <[u8; 16]>::try_from(key).map_err(|key| damaged(format!("a key of {} bytes", key.len())))?;
        let record = wire::decode_record(&value).map_err(|error| damaged(error.to_string()))?;
        Ok((QuorumId(id), record))
    };
    rows.into_iter().map(read).collect()
}

pub async fn write_record(storage: &Storage, quorum: QuorumId, record: &GroupRecord) -> Result<(), DiskError> {
    let mut batch = KvBatch::new();
    batch.put(RECORDS, quorum.0, wire::encode_record(record));
    storage.write(batch).await
}

/// Deletes everything that a group keeps in the record store.
pub async fn erase(storage: &Storage, quorum: QuorumId) -> Result<(), DiskError> {
    let mut batch = Trees::of(quorum).drop_all();
    batch.delete(RECORDS, quorum.0);
    storage.write(batch).await
}

/// Whether the store came back older than what the member had promised.
pub fn is_behind_mark(storage: &Storage, quorum: QuorumId, member: MemberId) -> Result<bool, DiskError> {
    let files = storage.files();
    let Some(kept) = rollback_guard::read(&*files, quorum)?.filter(|mark| mark.member == member) else {
        return Ok(false);
    };
    let keeper = RollbackGuard::new(files, quorum, member, Some(kept));
    let store = LogStore::new(storage.clone(), Trees::of(quorum), keeper, OwnSync::new(None), LastFault::default());
    let (term, voted_for) = store.vote()?.map_or((0, None), |vote| (vote.leader_id.term, vote.leader_id.voted_for));
    let forgot_vote = kept.term.0 > term || (kept.term.0 == term && kept.voted_for.is_some() && voted_for.is_none());
    Ok(forgot_vote || kept.last.0 > store.last()?.index().unwrap_or(0))
}
