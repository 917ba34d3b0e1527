//! The guard against rollback: what a member promised, marked outside the log and the record store.
//!
//! A member that forgets a vote or an entry it acknowledged can make its quorum lose an acknowledged command. If the
//! log or the record store comes back older than it was (a wiped or restored disk), only something outside it can tell.
//! So each group keeps a small synced file with its vote and, at most every [`INDEX_INTERVAL`], the end of its log,
//! which the record store has been told before; and one file lists the groups. A store that recovers *behind* a mark
//! has lost its disk: the node must not act as the member it was. It takes a new incarnation, and the primary takes the
//! new member in as a learner.
//!
//! A mark is written after the record it tells of is synced, so an ordinary crash leaves the store at or ahead of its
//! mark; before a log is truncated the mark is lowered first, for the same reason. Loss younger than the mark (under
//! a second of log) goes unseen here: such a member must at least be elected anew before it leads, which takes a log as
//! long as the others'. What remains is the vote of a member that forgot, together with the loss of another one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::ids::{LogIndex, MemberId, QuorumId, Term};
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::seams::{DiskError, Files, run_blocking};

/// How often the end of the log is marked, at most.
pub const INDEX_INTERVAL: Duration = Duration::from_secs(1);

/// Names the groups that this data folder takes part in.
const LIST_FILE: &str = "quorum-list";

/// What one member promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackMark {
    pub member: MemberId,
    pub term: Term,
    pub voted_for: Option<MemberId>,
    /// A log index that is known to be synced.
    pub last: LogIndex,
}

impl Record for RollbackMark {
    const VERSION: u8 = 1;
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct RollbackMarkList(BTreeSet<QuorumId>);

impl Record for RollbackMarkList {
    const VERSION: u8 = 1;
}

fn mark_file(quorum: QuorumId) -> String {
    format!("mark-{quorum}")
}

fn damaged(place: &str, reason: impl ToString) -> DiskError {
    DiskError::Damaged { place: place.to_owned(), reason: reason.to_string() }
}

/// Reads one group's mark; `None` when there is none (an empty file is a mark that was taken back).
pub fn read(files: &dyn Files, quorum: QuorumId) -> Result<Option<RollbackMark>, DiskError> {
    let name = mark_file(quorum);
    match files.read_small(&name)? {
        None => Ok(None),
        Some(bytes) if bytes.is_empty() => Ok(None),
        Some(bytes) => wire::decode_record(&bytes).map(Some).map_err(|error| damaged(&name, error)),
    }
}

/// Marks what a member promised that takes part no more.
pub fn write(files: &dyn Files, quorum: QuorumId, mark: &RollbackMark) -> Result<(), DiskError> {
    files.write_small(&mark_file(quorum), &wire::encode_record(mark))
}

/// The groups that have marks here.
pub fn list(files: &dyn Files) -> Result<BTreeSet<QuorumId>, DiskError> {
    match files.read_small(LIST_FILE)? {
        None => Ok(BTreeSet::new()),
        Some(bytes) => wire::decode_record::<RollbackMarkList>(&bytes)
            .map(|list| list.0)
            .map_err(|error| damaged(LIST_FILE, error)),
    }
}

pub fn write_list(files: &dyn Files, quorums: BTreeSet<QuorumId>) -> Result<(), DiskError> {
    files.write_small(LIST_FILE, &wire::encode_record(&RollbackMarkList(quorums)))
}

/// Forgets a group's mark: the group left in good order, or lives on under another incarnation.
pub fn clear(files: &dyn Files, quorum: QuorumId) -> Result<(), DiskError> {
    files.write_small(&mark_file(quorum), &[])
}

/// The mark of a running group. Writes are serialized, so that an older mark never replaces a newer one.
#[derive(Clone)]
pub struct RollbackGuard {
    quorum: QuorumId,
    files: Arc<dyn Files>,
    mark: Arc<Mutex<RollbackMark>>,
}

impl RollbackGuard {
    pub fn new(files: Arc<dyn Files>, quorum: QuorumId, member: MemberId, kept: Option<RollbackMark>) -> Self {
        let fresh = RollbackMark { member, term: Term(0), voted_for: None, last: LogIndex(0) };
        let mark = kept.filter(|mark| mark.member == member).unwrap_or(fresh);
        Self { quorum, files, mark: Arc::new(Mutex::new(mark)) }
    }
    /// Changes the mark and returns once it is on disk. Does nothing when the change changes nothing.
    async fn update(&self, change: impl FnOnce(&mut RollbackMark)) -> Result<(), DiskError> {
        let mut mark = self.mark.lock().await;
        let mut next = *mark;
        change(&mut next);
        if next == *mark {
            return Ok(());
        }
        let (files, name) = (self.files.clone(), mark_file(self.quorum));
        run_blocking(move || files.write_small(&name, &wire::encode_record(&next))).await?;
        *mark = next;
        Ok(())
    }
    /// After the vote was synced in the store.
    pub async fn voted(&self, term: Term, voted_for: Option<MemberId>) -> Result<(), DiskError> {
        self.update(|mark| (mark.term, mark.voted_for) = (term, voted_for)).await
    }
    /// After the log up to `last` was synced in the store. It is asked when no other write of the mark is under way: a
    /// log that is cut has a lower end before its mark is lowered.
    pub async fn synced(&self, last: impl FnOnce() -> LogIndex) -> Result<(), DiskError> {
        self.update(|mark| mark.last = mark.last.max(last())).await
    }
    /// Before the log is cut behind `last`.
    pub async fn truncating(&self, last: LogIndex) -> Result<(), DiskError> {
        self.update(|mark| mark.last = mark.last.min(last)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_a_torn_one_is_damage() {
        let mark = RollbackMark { member: MemberId::default(), term: Term(3), voted_for: None, last: LogIndex(9) };
        let bytes = wire::encode_record(&mark);
        assert_eq!(wire::decode_record::<RollbackMark>(&bytes).unwrap(), mark);
        assert!(wire::decode_record::<RollbackMark>(&bytes[..bytes.len() - 1]).is_err());
    }
}
