//! `quorate doctor`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What was looked at and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    pub healthy: bool,
    pub findings: Vec<DoctorFinding>,
    /// How many of what was looked at.
    pub checked: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorFinding {
    /// The sort of trouble, for programs; the set may grow.
    pub kind: DoctorKind,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoctorKind {
    /// A node does not answer.
    NodeDown,
    /// A peer that others rely on is not connected.
    PeerUnreachable,
    /// Faults are injected on purpose.
    Faults,
    Versions,
    Clock,
    DiskFull,
    /// A quorum cannot commit.
    QuorumPaused,
    /// A quorum has no room for new work.
    QuorumFull,
    /// A quorum bears fewer losses than it should.
    QuorumShort,
    /// Two primaries in one term.
    TwoPrimaries,
    /// Members that applied the same differ.
    Diverged,
    /// A member is far behind.
    MemberBehind,
    /// Fewer good columns than the profile has.
    Degraded,
    /// Fewer columns in reach than a read needs, or a read failed.
    Unreadable,
    /// More reserved than the limit.
    OverLimit,
    /// Leases and reservations differ.
    Leases,
    /// Something could not be looked at.
    NotChecked,
    #[serde(other)]
    Other,
}
