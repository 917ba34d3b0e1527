//! Copies of a state: snapshots that a primary sends to a member that lags, and those that a member asks for because
//! its own state is wrong.
//!
//! Both are lists of chunks, which the receiver fetches one by one. What was fetched before a deadline is kept, so that
//! the next try goes on from there. The bytes of one snapshot are bounded; those of a snapshot that its sender gave up
//! are deleted before another one is fetched. So a sender that lies costs its receiver no more than one snapshot.
//!
//! A member whose state differs from a majority's keeps its vote and its log: what it promised with them is true,
//! whatever it made of the entries. It drops the applied state and its own snapshot, and takes a snapshot of one of
//! those that agree. Entries behind that one are applied anew from its own log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::LogIdOptionExt;
use quorate_protocols::ids::{Digest, LogIndex, MemberId, PeerId, QuorumId, Term};
use quorate_protocols::quorum::door::check_term;
use quorate_protocols::quorum::limits::{
    RAFT_DEADLINE, RAFT_HEAD_BYTES_MAX, SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNKS_MAX,
};
use quorate_protocols::quorum::{RaftAnswer, RaftMessage, Refusal};
use quorate_protocols::wire;
use serde::{Deserialize, Serialize};

use super::group::Group;
use super::host::Inner;
use super::server::ServeError;
use super::snapshot::name_of;
use super::types::{SnapshotList, SnapshotMeta};
use crate::seams::{DiskError, NetError, run_blocking};

const CHUNKS_AT_ONCE: usize = 4;

/// Tests fill a smaller one.
pub const BYTES_MAX: usize = if cfg!(test) { 16 * SNAPSHOT_CHUNK_BYTES } else { SNAPSHOT_BYTES_MAX };

/// Less than the asker waits, so that it hears why.
pub const ANSWERED_WITHIN: Duration = RAFT_DEADLINE.checked_mul(4).expect("seconds").checked_div(5).expect("not zero");

/// A snapshot as it is answered to a member that asked for one.
#[derive(Serialize, Deserialize)]
struct SnapshotCopy {
    meta: SnapshotMeta,
    list: SnapshotList,
}

/// Why a snapshot was not received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("{chunks} chunks are more than {SNAPSHOT_CHUNKS_MAX}")]
    TooMany { chunks: usize },
    #[error("the snapshot has more than {BYTES_MAX} bytes")]
    TooLarge,
    #[error("the chunks are still on their way")]
    Late,
    #[error("a snapshot is received or built here")]
    Busy,
    #[error("chunk {name}: {answer}")]
    Refused { name: Digest, answer: String },
    #[error("chunk {name} has other bytes")]
    OtherBytes { name: Digest },
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why a member could not take the state of another one.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{member} gave no snapshot")]
    NotGiven { member: MemberId },
    #[error("the snapshot of {member} is of log index {index}, and {least} is needed")]
    Old { member: MemberId, index: LogIndex, least: LogIndex },
    #[error("the snapshot of {member}")]
    Term {
        member: MemberId,
        #[source]
        source: Refusal,
    },
    #[error("fetching the snapshot of {member}")]
    Receive {
        member: MemberId,
        #[source]
        source: ReceiveError,
    },
    #[error("the group is gone")]
    Gone,
    #[error("nobody is there to ask")]
    Nobody,
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Inner {
    /// Fetches what is missing of a snapshot, within the time that its sender waits.
    pub(super) async fn receive(&self, from: PeerId, group: &Group, list: &SnapshotList) -> Result<(), ReceiveError> {
        let Ok(_one_at_a_time) = group.receiving.try_lock() else { return Err(ReceiveError::Busy) };
        match tokio::time::timeout(ANSWERED_WITHIN, self.fetch_missing(from, group, list)).await {
            Ok(received) => received,
            Err(_) => Err(ReceiveError::Late),
        }
    }

    async fn fetch_missing(&self, from: PeerId, group: &Group, list: &SnapshotList) -> Result<(), ReceiveError> {
        if list.chunks.len() > SNAPSHOT_CHUNKS_MAX {
            return Err(ReceiveError::TooMany { chunks: list.chunks.len() });
        }
        let (missing, mut bytes) = group.snapshots.missing(list)?;
        if !missing.is_empty() && !group.snapshots.delete_others(list)? {
            return Err(ReceiveError::Busy);
        }
        for names in missing.chunks(CHUNKS_AT_ONCE) {
            // Each of those under way may bring a whole chunk.
            if bytes > BYTES_MAX {
                return Err(ReceiveError::TooLarge);
            }
            let fetched = names.iter().map(|name| self.fetch(from, group, *name));
            bytes += futures::future::try_join_all(fetched).await?.into_iter().sum::<usize>();
        }
        if bytes > BYTES_MAX { Err(ReceiveError::TooLarge) } else { Ok(()) }
    }

    /// The bytes of the chunk, once it is kept.
    async fn fetch(&self, from: PeerId, group: &Group, name: Digest) -> Result<usize, ReceiveError> {
        let message = RaftMessage::Chunk { quorum: group.id, hash: name };
        let (answer, bytes) = self.links.ask(from, &message, RAFT_DEADLINE).await?;
        if !matches!(answer, RaftAnswer::Chunk) {
            return Err(ReceiveError::Refused { name, answer: format!("{answer:?}") });
        }
        if name_of(&bytes) != name {
            self.net.penalise(from, "a snapshot chunk with other bytes than its name");
            return Err(ReceiveError::OtherBytes { name });
        }
        group.snapshots.keep_chunk(name, &bytes)?;
        Ok(bytes.len())
    }

    /// Gives a snapshot that is not older than `least`, and takes one first if need be.
    pub(super) async fn serve_copy(
        &self,
        from: PeerId,
        quorum: QuorumId,
        least: LogIndex,
    ) -> Result<RaftAnswer, ServeError> {
        let group = self.serving(from, quorum)?;
        let current = || Ok::<_, DiskError>(group.snapshots.current()?.filter(|(meta, _)| covers(meta, least)));
        let mut found = current()?;
        if found.is_none() {
            if group.machine.read(|applied| applied.last.index() < Some(least.0)) {
                return Err(ServeError::Behind);
            }
            group.raft.trigger().snapshot().await?;
            let taken = group.raft.wait(Some(ANSWERED_WITHIN));
            let taken = taken.metrics(|metrics| metrics.snapshot.index() >= Some(least.0), "a snapshot to give").await;
            found = taken.ok().and_then(|_| current().transpose()).transpose()?;
        }
        let (meta, list) = found.ok_or(ServeError::Behind)?;
        Ok(RaftAnswer::Ok { body: wire::encode(&SnapshotCopy { meta, list }) })
    }

    /// Puts the state of one of `agreeing` in the place of that of a group that has stopped. The group is opened with
    /// it next.
    pub(super) async fn take_copy(
        self: &Arc<Self>,
        ended: &Arc<Group>,
        agreeing: &BTreeSet<MemberId>,
    ) -> Result<(), CopyError> {
        ended.close().await;
        // The log behind it must still be here: a snapshot that is older than where this log begins leaves a gap.
        let own = ended.snapshots.current()?.and_then(|(meta, _)| meta.last_log_id);
        let least = LogIndex(own.max(ended.log.purged()?).index().unwrap_or(0));
        let primary = ended.primary();
        let (first, others): (Vec<MemberId>, Vec<_>) = agreeing.iter().partition(|member| Some(**member) == primary);
        let mut failed = CopyError::Nobody;
        for member in first.into_iter().chain(others) {
            match self.take_copy_of(ended, member, least).await {
                Err(error @ (CopyError::Gone | CopyError::Disk(_))) => return Err(error),
                Err(error) => failed = error,
                Ok(()) => return Ok(()),
            }
        }
        Err(failed)
    }

    async fn take_copy_of(
        self: &Arc<Self>,
        ended: &Arc<Group>,
        member: MemberId,
        least: LogIndex,
    ) -> Result<(), CopyError> {
        let message = RaftMessage::Copy { quorum: ended.id, least };
        let answered = self.links.ask(member.peer, &message, RAFT_DEADLINE).await;
        let Ok((RaftAnswer::Ok { body }, _)) = answered else { return Err(CopyError::NotGiven { member }) };
        let Ok(SnapshotCopy { meta, list }) = wire::decode(&body, RAFT_HEAD_BYTES_MAX) else {
            self.net.penalise(member.peer, "malformed raft answer");
            return Err(CopyError::NotGiven { member });
        };
        if !covers(&meta, least) {
            let index = LogIndex(meta.last_log_id.index().unwrap_or(0));
            return Err(CopyError::Old { member, index, least });
        }
        let newest = Term(meta.last_log_id.map_or(0, |last| last.leader_id.term));
        let known = Some(ended.log.known_vote.term());
        check_term(known, newest).map_err(|source| CopyError::Term { member, source })?;
        let received = self.receive(member.peer, ended, &list).await;
        received.map_err(|source| CopyError::Receive { member, source })?;
        check_makes_state(ended, member.peer, &list).await.map_err(|_| CopyError::NotGiven { member })?;
        // Leaving and founding wait meanwhile: what is written here must not outlive the group.
        let _one_at_a_time = self.changing.lock().await;
        if !self.is_current(ended) {
            return Err(CopyError::Gone);
        }
        ended.snapshots.make_current(&meta, &list).await?;
        tracing::info!(quorum = %ended.id, of = %member, at = ?meta.last_log_id, "took the state of another member");
        Ok(())
    }
}

/// Refuses chunks that make no state: they must not take the place of those that do. They are what their names say, so
/// it is their sender's doing.
pub(super) async fn check_makes_state(group: &Group, from: PeerId, list: &SnapshotList) -> Result<(), DiskError> {
    let (snapshots, names) = (group.snapshots.clone(), list.clone());
    let read = run_blocking(move || snapshots.load(&names).map(drop)).await;
    read.inspect_err(|error| tracing::warn!(quorum = %group.id, %from, %error, "a snapshot makes no state"))
}

fn covers(meta: &SnapshotMeta, least: LogIndex) -> bool {
    meta.last_log_id.is_some_and(|last| last.index >= least.0)
}
