//! Types for openraft: those of its log, its answers, its members and its snapshots, and the one
//! configuration every group runs with.

use std::sync::Arc;

use openraft::{Config, EmptyNode, SnapshotPolicy};
use quorate_protocols::ids::{Digest, LogIndex, MemberId};
use quorate_protocols::quorum::limits;
use quorate_protocols::quorum::{Batch, BatchReply};
use serde::{Deserialize, Serialize};

use super::runtime::GroupRuntime;

openraft::declare_raft_types!(
    /// One raft entry is a batch of commands; its answer has one reply per command.
    pub TypeConfig:
        D = Batch,
        R = BatchReply,
        NodeId = MemberId,
        Node = EmptyNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotList,
        AsyncRuntime = GroupRuntime,
);

pub type Raft = openraft::Raft<TypeConfig>;
pub type Entry = openraft::Entry<TypeConfig>;
pub type LogId = openraft::LogId<MemberId>;
pub type Vote = openraft::Vote<MemberId>;
pub type StorageError = openraft::StorageError<MemberId>;
pub type StorageIoError = openraft::StorageIOError<MemberId>;
pub type Membership = openraft::Membership<MemberId, EmptyNode>;
pub type StoredMembership = openraft::StoredMembership<MemberId, EmptyNode>;
pub type SnapshotMeta = openraft::SnapshotMeta<MemberId, EmptyNode>;
pub type Snapshot = openraft::Snapshot<TypeConfig>;

/// A snapshot as it travels: names of chunks, not their bytes. A receiver fetches those that it lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotList {
    /// In the order in which they are read; each named by its BLAKE3.
    pub chunks: Vec<Digest>,
    /// The rolling digest at the last multiple of `DIGEST_INTERVAL`, which the state alone does not tell.
    pub digest: (LogIndex, Digest),
}

/// The configuration of a member's groups. A literal on purpose: `Config::validate` wants an election timeout above the
/// heartbeat interval, which makes sense only where openraft's own timers run. Here they are off. A test pins the
/// version of openraft that this was read from.
#[allow(deprecated)] // `send_snapshot_timeout` has to be named in a literal.
pub fn config(member: MemberId) -> Arc<Config> {
    let spread = limits::SNAPSHOT_SPREAD * u64::from(member.peer.0[31]) / 256;
    Arc::new(Config {
        cluster_name: "quorum".to_owned(),
        // The upper end is the lease in which a voter that heard a primary refuses other candidates. The range must not
        // be empty, and openraft draws from it once per group: it always draws the lower end, the deadline of a vote,
        // which `runtime` stretches for `network` to end a vote by what was measured.
        election_timeout_min: limits::VOTER_LEASE.as_millis() as u64 - 1,
        election_timeout_max: limits::VOTER_LEASE.as_millis() as u64,
        // One and a half of it is the tick. The deadline of appends and of reads' confirmations is stretched, too.
        heartbeat_interval: limits::APPEND_DEADLINE.as_millis() as u64,
        install_snapshot_timeout: limits::RAFT_DEADLINE.as_millis() as u64,
        send_snapshot_timeout: 0,
        // The bytes of one append are bounded by the log store, which cuts reads at `LOG_READ_BYTES_MAX`.
        max_payload_entries: 256,
        replication_lag_threshold: limits::SNAPSHOT_INTERVAL + limits::SNAPSHOT_SPREAD + limits::LOG_KEPT,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(limits::SNAPSHOT_INTERVAL + spread),
        snapshot_max_chunk_size: limits::SNAPSHOT_CHUNK_BYTES as u64,
        max_in_snapshot_log_to_keep: limits::LOG_KEPT,
        purge_batch_size: 64,
        // A tick does one thing here that nothing else does: a primary that was removed from the membership steps
        // down at the next one. It neither elects nor sends heartbeats.
        enable_tick: true,
        enable_heartbeat: false,
        enable_elect: false,
    })
}

/// The voters and learners of a membership, in order.
pub fn members_of(membership: &Membership) -> (Vec<MemberId>, Vec<MemberId>) {
    let voters: std::collections::BTreeSet<_> = membership.voter_ids().collect();
    let learners: std::collections::BTreeSet<_> = membership.learner_ids().collect();
    (voters.into_iter().collect(), learners.into_iter().collect())
}
