//! The formation of a quorum: which of those that agreed become its first members. A pure choice, the same wherever it
//! is made. Standbys are sought by the primary, once there is a quorum that they can promise to join.
//!
//! Approvals come best first (by rank and by speed of answer). Members are drawn from different *zones* as far as there
//! are any (the value of the approver's `zone` label: a room, a site, a power strip), so that one event takes as few of
//! them as possible; within a zone the better one goes first. Peers without the label each count as a zone of their
//! own: nothing is known to bind them together.

use std::collections::{BTreeMap, BTreeSet};

use super::message::Approval;
use crate::ids::PeerId;

/// The label that names what fails together.
pub const ZONE_LABEL: &str = "zone";

/// An approval, and what the directory knows of where its approver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volunteer {
    pub approval: Approval,
    pub zone: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formation {
    pub members: Vec<Approval>,
    /// Approvals of no use: a second one of the same peer, or more than was asked for. To be released.
    pub unused: Vec<Approval>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{distinct} distinct peers approved and {needed} are needed")]
pub struct TooFewApprovals {
    pub distinct: usize,
    pub needed: usize,
}

/// Chooses `voters` members from approvals that come best first.
pub fn choose(volunteers: Vec<Volunteer>, voters: usize) -> Result<Formation, TooFewApprovals> {
    let mut seen = BTreeSet::new();
    let (mut open, repeated): (Vec<_>, Vec<_>) =
        volunteers.into_iter().partition(|volunteer| seen.insert(volunteer.approval.statement.approver));
    if open.len() < voters {
        return Err(TooFewApprovals { distinct: open.len(), needed: voters });
    }
    let mut used: BTreeMap<Zone, usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    while chosen.len() < voters {
        let next = (0..open.len())
            .min_by_key(|&index| (used.get(&zone(&open[index])).copied().unwrap_or(0), index))
            .expect("the list is not empty");
        let volunteer = open.remove(next);
        *used.entry(zone(&volunteer)).or_default() += 1;
        chosen.push(volunteer.approval);
    }
    let unused = open.into_iter().chain(repeated).map(|volunteer| volunteer.approval).collect();
    Ok(Formation { members: chosen, unused })
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Zone {
    Named(String),
    Alone(PeerId),
}

fn zone(volunteer: &Volunteer) -> Zone {
    match &volunteer.zone {
        Some(name) => Zone::Named(name.clone()),
        None => Zone::Alone(volunteer.approval.statement.approver),
    }
}
