//! Records of groups: which quorums this node is a member of, as its disk has it, and whether the disk still has all
//! that the member promised.
//!
//! A group is there while its record is. The record is written before anything of its log, and deleted before its log
//! is: a log without a record is left over, and goes at the next start ([`drop_leftovers`]).
//!
//! What a member promised in a group that it left goes into the note that it keeps of it, and from there into the
//! record of the group when it is taken in again ([`Promise`]).

use openraft::LogIdOptionExt;
use quorate_protocols::approval::Approval;
use quorate_protocols::certificate::Founding;
use quorate_protocols::ids::{LogIndex, MemberId, PeerId, QuorumId};
use quorate_protocols::quorum::limits::QUORUMS_PER_NODE_MAX;
use quorate_protocols::quorum::{Invitation, Voters};
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};

use super::log_store::{LastFault, LogStore};
use super::own_sync::OwnSync;
use super::rollback_guard::{self, RollbackGuard};
use super::snapshot::Trees;
use super::types::{LogId, Vote};
use crate::seams::{DiskError, KvBatch, LogBatch};
use crate::storage::Storage;

/// The tree that says which groups there are: quorum id → [`GroupRecord`].
const RECORDS: &str = "quorums";

/// The tree that says up to where each log is marked: quorum id → index, big-endian. The mark is a file, and the log is
/// not in the record store: this is how a record store that came back older is told from one that did not.
const MARKED: &str = "quorums.marked";

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
    /// Of a member that was one before, and left.
    pub promise: Option<Promise>,
}

impl Record for GroupRecord {
    /// 2: with the founding. 3: with the promise.
    const VERSION: u8 = 3;
}

/// What a member that left its group had promised there: its vote, and every entry of its log, which is gone.
///
/// It comes back as the same member, and a voter that was away all the while may still count it as one of its own
/// configuration. With its log forgotten it would elect that voter, which leads without what was committed since. So
/// it keeps the vote, and takes no part in elections until its log is as long again: to the others it is then a voter
/// that was slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub member: MemberId,
    pub vote: Vote,
    /// The end of its log.
    pub last: Option<LogId>,
}

impl Promise {
    /// Of a group that is closed.
    pub(super) fn of(member: MemberId, log: &LogStore) -> Result<Self, DiskError> {
        let mut vote = log.vote()?.unwrap_or_default();
        // Who won the vote is no promise.
        vote.committed = false;
        Ok(Self { member, vote, last: log.last()? })
    }

    /// Both: no promise is taken back, also when the log that it was made with is gone.
    pub(super) fn join(self, earlier: Self) -> Self {
        let vote = if earlier.vote > self.vote { earlier.vote } else { self.vote };
        Self { vote, last: self.last.max(earlier.last), ..self }
    }
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

pub fn has_record(storage: &Storage, quorum: QuorumId) -> Result<bool, DiskError> {
    Ok(storage.kv().get(RECORDS, &quorum.0)?.is_some())
}

pub async fn write_record(storage: &Storage, quorum: QuorumId, record: &GroupRecord) -> Result<(), DiskError> {
    let mut batch = KvBatch::new();
    batch.put(RECORDS, quorum.0, wire::encode_record(record));
    storage.write(batch).await
}

/// Before the mark of a group's log moves up to `last`. It never goes back: a log that is being cut has a lower end
/// than its mark for a moment.
pub async fn write_marked(storage: &Storage, quorum: QuorumId, last: LogIndex) -> Result<(), DiskError> {
    let last = last.max(read_marked(storage, quorum)?);
    let mut batch = KvBatch::new();
    batch.put(MARKED, quorum.0, last.0.to_be_bytes());
    storage.write(batch).await
}

fn read_marked(storage: &Storage, quorum: QuorumId) -> Result<LogIndex, DiskError> {
    let Some(row) = storage.kv().get(MARKED, &quorum.0)? else { return Ok(LogIndex(0)) };
    let index = <[u8; 8]>::try_from(row).map_err(|row| DiskError::Damaged {
        place: MARKED.to_owned(),
        reason: format!("a value of {} bytes", row.len()),
    })?;
    Ok(LogIndex(u64::from_be_bytes(index)))
}

/// Deletes everything that a group keeps.
pub async fn erase(storage: &Storage, quorum: QuorumId) -> Result<(), DiskError> {
    let mut batch = Trees::of(quorum).drop_all();
    batch.delete(RECORDS, quorum.0).delete(MARKED, quorum.0);
    storage.write(batch).await?;
    drop_log(storage, quorum).await
}

async fn drop_log(storage: &Storage, quorum: QuorumId) -> Result<(), DiskError> {
    let mut batch = LogBatch::of(quorum);
    batch.drop_group();
    storage.append(batch).await
}

/// Deletes the logs of groups that were left, or never came to be: the process ended in between.
pub async fn drop_leftovers(storage: &Storage, records: &[(QuorumId, GroupRecord)]) -> Result<(), DiskError> {
    for quorum in storage.log().groups()? {
        if !records.iter().any(|(known, _)| *known == quorum) {
            drop_log(storage, quorum).await?;
        }
    }
    Ok(())
}

/// Refuses the folder of a build that kept logs in the record store: taken for a disk that forgot, its members would
/// leave their quorums.
pub fn check_format(storage: &Storage) -> Result<(), DiskError> {
    let is_old = |tree: &String| -> Result<bool, DiskError> {
        let of_group = tree.starts_with("raft.") && tree.ends_with(".meta");
        Ok(of_group && storage.kv().get(tree, b"vote")?.is_some())
    };
    for tree in storage.kv().trees()? {
        if is_old(&tree)? {
            return Err(DiskError::Io {
                what: "opening the quorums",
                place: "the record store".to_owned(),
                reason:
                    "an older build of quorate wrote this data folder, with the logs of quorums among its records; \
                         go on with that build, or give this one an empty folder"
                        .to_owned(),
            });
        }
    }
    Ok(())
}

/// Whether one of the stores came back older than what the member had promised, or than the other.
pub fn is_behind_mark(storage: &Storage, quorum: QuorumId, member: MemberId) -> Result<bool, DiskError> {
    let files = storage.files();
    let Some(kept) = rollback_guard::read(&*files, quorum)?.filter(|mark| mark.member == member) else {
        return Ok(false);
    };
    let keeper = RollbackGuard::new(files, quorum, member, Some(kept));
    let store = LogStore::new(storage.clone(), quorum, keeper, OwnSync::new(None), LastFault::default());
    let (term, voted_for) = store.vote()?.map_or((0, None), |vote| (vote.leader_id.term, vote.leader_id.voted_for));
    let forgot_vote = kept.term.0 > term || (kept.term.0 == term && kept.voted_for.is_some() && voted_for.is_none());
    let forgot_log = kept.last.0 > store.last()?.index().unwrap_or(0);
    // The log begins behind a snapshot, which is in the other store.
    let snapshot = store.snapshots.current()?.and_then(|(meta, _)| meta.last_log_id);
    let forgot_snapshot = store.purged()? > snapshot;
    let forgot_records = kept.last > read_marked(storage, quorum)?;
    Ok(forgot_vote || forgot_log || forgot_snapshot || forgot_records)
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, LeaderId};

    use super::*;

    #[test]
    fn a_promise_is_never_less_than_an_earlier_one() {
        let member = MemberId::default();
        let promise = |term, last: Option<u64>| Promise {
            member,
            vote: Vote { leader_id: LeaderId { term, voted_for: Some(member) }, committed: false },
            last: last.map(|index| LogId::new(CommittedLeaderId::new(term, member), index)),
        };
        let (before, after) = (promise(3, Some(9)), promise(2, Some(40)));
        assert_eq!(after.join(before), before, "a log of a later term is further");
        assert_eq!(before.join(after), before);
        assert_eq!(promise(0, None).join(before), before, "the log is gone");
        let voted = Promise { vote: promise(4, None).vote, ..before };
        assert_eq!(voted.join(before), voted);
    }
}
