//! Reservations with an end: what an approver has promised, to whom, until when.
//!
//! Time is the approver's monotonic clock, so a wall clock that jumps ends nothing. A lease that nobody uses ends soon
//! ([`UNUSED_LEASE_MAX`]), however long it was asked for. The first use gives it its whole duration; from then on it
//! ends by itself unless it is renewed or *converted* into a lasting hold (a column that became part of an object).
//! What one asker may have here is bounded: leases, those of them that it does not use, and their disk. The core counts
//! nothing else: whoever grants a lease has reserved what it needs, and gives that back when [`Leases`] hands the lease
//! out again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::amounts::Amounts;
use crate::approval::limits::{
    ASKER_DISK_PERCENT, LEASE_DURATION_MAX, LEASES_PER_ASKER_MAX, MEMBER_DISK_BYTES, MEMBER_MEMORY_BYTES,
    UNUSED_LEASE_MAX, UNUSED_MAX, UNUSED_PER_ASKER_MAX,
};
use crate::approval::{Refusal, Subject};
use crate::capacity::{Requirement, Resource};
use crate::ids::{LeaseId, Millis, Nonce, PeerId};

/// One promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub asker: PeerId,
    pub subject: Subject,
    pub requirement: Requirement,
    pub nonce: Nonce,
    /// From its first use on.
    pub duration: Duration,
    /// Something was done under it, or who may speak for it renewed it.
    pub used: bool,
    /// On the approver's monotonic clock; `None` once converted: it lasts until it is ended by name.
    pub expires: Option<Millis>,
}

impl Lease {
    pub fn is_lasting(&self) -> bool {
        self.expires.is_none()
    }

    /// What is set aside for it. The approver knows what a member takes; of a column and of work only the asker does.
    pub fn need(&self) -> Amounts {
        match self.subject {
            Subject::Founding { .. } | Subject::Member { .. } => {
                Amounts { memory_bytes: MEMBER_MEMORY_BYTES, disk_bytes: MEMBER_DISK_BYTES, ..Amounts::ZERO }
            }
            Subject::Holder { .. } | Subject::Worker { .. } => Amounts::from(self.requirement.capacity),
        }
    }

    fn time_at_first(&self) -> Duration {
        if self.used { self.duration } else { self.duration.min(UNUSED_LEASE_MAX) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("the asker already holds {held} leases here")]
    TooMany { held: usize },
    #[error("{unused} leases here are not used yet, the most allowed: they end within {UNUSED_LEASE_MAX:?}")]
    Crowded { unused: usize },
    /// The same question again: the promise stands, and its answer may be repeated.
    #[error("the same question was granted as lease {lease}")]
    Repeated { lease: LeaseId },
    #[error("already promised for this subject, as lease {lease}")]
    Promised { lease: LeaseId },
}

impl From<GrantError> for Refusal {
    fn from(error: GrantError) -> Self {
        match error {
            GrantError::TooMany { held } => Self::TooManyLeases { held },
            GrantError::Crowded { .. } => Self::Unfit { reason: error.to_string() },
            GrantError::Repeated { .. } | GrantError::Promised { .. } => Self::AlreadyPromised,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    leases: BTreeMap<LeaseId, Lease>,
    by_end: BTreeSet<(Millis, LeaseId)>,
    by_asker: BTreeMap<PeerId, Held>,
    unused: usize,
    by_nonce: BTreeMap<(PeerId, Nonce), LeaseId>,
    /// A node is a member of a quorum once, and one worker of it, so a second promise for one is refused (a worker's
    /// may be changed instead: [`Leases::regrant`]). A run may have several columns in one place only if nobody else
    /// has room, and asks for each with a nonce of its own; those are not unique.
    unique: BTreeMap<Subject, LeaseId>,
}

/// Of one asker: its leases that can still end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    leases: usize,
    unused: usize,
    disk_bytes: u64,
}

impl Leases {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a grant would be refused, asked before anything is reserved.
    pub fn check(&self, asker: PeerId, subject: Subject, nonce: Nonce) -> Result<(), GrantError> {
        if let Some(&lease) = self.by_nonce.get(&(asker, nonce)) {
            return Err(if self.leases[&lease].subject == subject {
                GrantError::Repeated { lease }
            } else {
                GrantError::Promised { lease }
            });
        }
        if let Some(&lease) = self.unique.get(&subject) {
            return Err(GrantError::Promised { lease });
        }
        let held = self.by_asker.get(&asker).copied().unwrap_or_default();
        if held.leases >= LEASES_PER_ASKER_MAX || held.unused >= UNUSED_PER_ASKER_MAX {
            return Err(GrantError::TooMany { held: held.leases });
        }
        if self.unused >= UNUSED_MAX {
            return Err(GrantError::Crowded { unused: self.unused });
        }
        Ok(())
    }

    /// Whether the lease leaves its asker within its share of the disk that the node may promise. `replaced`: a lease
    /// that it takes the place of.
    pub fn check_disk(&self, lease: &Lease, replaced: Option<LeaseId>, promisable_bytes: u64) -> Result<(), Refusal> {
        let limit = promisable_bytes / 100 * ASKER_DISK_PERCENT;
        let held = self.by_asker.get(&lease.asker).map_or(0, |held| held.disk_bytes);
        let before = replaced.and_then(|id| self.get(id)).filter(|before| before.asker == lease.asker);
        let used = held.saturating_sub(before.map_or(0, |before| before.need().disk_bytes));
        let (needed, available) = (lease.need().disk_bytes, limit.saturating_sub(used));
        match needed <= available || needed == 0 {
            true => Ok(()),
            false => {
                let scope = format!("the share of peer {}", lease.asker);
                Err(Refusal::Resources { scope, resource: Resource::DiskBytes, needed, available, limit })
            }
        }
    }

    /// Quorums that the asker has this node be a member of, or promise to be.
    pub fn memberships_of(&self, asker: PeerId) -> usize {
        let is_membership = |subject| matches!(subject, Subject::Founding { .. } | Subject::Member { .. });
        self.leases.values().filter(|lease| lease.asker == asker && is_membership(lease.subject)).count()
    }

    /// Notes a promise under a fresh id. The duration is cut to the longest allowed.
    pub fn grant(&mut self, now: Millis, id: LeaseId, mut lease: Lease) -> Result<(), GrantError> {
        self.check(lease.asker, lease.subject, lease.nonce)?;
        lease.duration = lease.duration.min(LEASE_DURATION_MAX);
        lease.expires = Some(now.plus(lease.time_at_first()));
        self.insert(id, lease);
        Ok(())
    }

    /// Takes back a promise from before a restart, with its whole duration ahead: time in which the node was down is
    /// not held against the asker. A `lasting` one is a hold.
    pub fn restore(&mut self, now: Millis, id: LeaseId, mut lease: Lease, lasting: bool) {
        if !self.leases.contains_key(&id) {
            lease.expires = (!lasting).then(|| now.plus(lease.duration));
            self.insert(id, lease);
        }
    }

    /// Makes a standing lease what `lease` says, under its old id; it never ends earlier than before. False when there
    /// is none that ends.
    pub fn regrant(&mut self, now: Millis, id: LeaseId, mut lease: Lease) -> bool {
        let Some(before) = self.leases.get(&id).and_then(|lease| lease.expires) else { return false };
        self.end(id);
        lease.duration = lease.duration.min(LEASE_DURATION_MAX);
        lease.expires = Some(before.max(now.plus(lease.time_at_first())));
        self.insert(id, lease);
        true
    }

    fn insert(&mut self, id: LeaseId, lease: Lease) {
        if let Some(expires) = lease.expires {
            self.by_end.insert((expires, id));
            let held = self.by_asker.entry(lease.asker).or_default();
            held.leases += 1;
            held.disk_bytes = held.disk_bytes.saturating_add(lease.need().disk_bytes);
            held.unused += usize::from(!lease.used);
            self.unused += usize::from(!lease.used);
        }
        self.by_nonce.insert((lease.asker, lease.nonce), id);
        if matches!(lease.subject, Subject::Founding { .. } | Subject::Member { .. } | Subject::Worker { .. }) {
            self.unique.insert(lease.subject, id);
        }
        self.leases.insert(id, lease);
    }

    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// Moves the end to `duration` from now, never nearer than it was; the lease is used from now on. False when there
    /// is no such lease.
    pub fn renew(&mut self, now: Millis, id: LeaseId, duration: Duration) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        if let Some(before) = lease.expires {
            let after = before.max(now.plus(duration.min(LEASE_DURATION_MAX)));
            lease.expires = Some(after);
            self.by_end.remove(&(before, id));
            self.by_end.insert((after, id));
            if !std::mem::replace(&mut lease.used, true) {
                self.unused -= 1;
                let held = self.by_asker.get_mut(&lease.asker);
                held.into_iter().for_each(|held| held.unused -= 1);
            }
        }
        true
    }

    /// Moves the end to the lease's own duration from now: traffic under a lease renews it.
    pub fn touch(&mut self, now: Millis, id: LeaseId) -> bool {
        let Some(duration) = self.leases.get(&id).map(|lease| lease.duration) else { return false };
        self.renew(now, id, duration)
    }

    /// Turns a lease into a lasting hold. It no longer counts against its asker. False when there is no such lease.
    pub fn convert(&mut self, id: LeaseId) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        if let Some(expires) = lease.expires.take() {
            self.by_end.remove(&(expires, id));
            let lease = lease.clone();
            self.discount(&lease);
        }
        true
    }

    /// Ends a lease or a hold; the caller gives back what it had reserved.
    pub fn end(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        if let Some(expires) = lease.expires {
            self.by_end.remove(&(expires, id));
            self.discount(&lease);
        }
        if self.by_nonce.get(&(lease.asker, lease.nonce)) == Some(&id) {
            self.by_nonce.remove(&(lease.asker, lease.nonce));
        }
        if self.unique.get(&lease.subject) == Some(&id) {
            self.unique.remove(&lease.subject);
        }
        Some(lease)
    }

    /// Ends and hands out every lease whose time has come, earliest first.
    pub fn expire(&mut self, now: Millis) -> Vec<(LeaseId, Lease)> {
        let mut ended = Vec::new();
        while let Some(&(expires, id)) = self.by_end.first()
            && expires <= now
        {
            let lease = self.end(id).expect("every end belongs to a lease");
            ended.push((id, lease));
        }
        ended
    }

    pub fn next_end(&self) -> Option<Millis> {
        self.by_end.first().map(|(expires, _)| *expires)
    }
    pub fn held_by(&self, asker: PeerId) -> usize {
        self.by_asker.get(&asker).map_or(0, |held| held.leases)
    }
    pub fn len(&self) -> usize {
        self.leases.len()
    }
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }
    /// In order of id.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// The lease no longer counts against its asker.
    fn discount(&mut self, lease: &Lease) {
        self.unused -= usize::from(!lease.used);
        if let Some(held) = self.by_asker.get_mut(&lease.asker) {
            held.leases -= 1;
            held.unused -= usize::from(!lease.used);
            held.disk_bytes = held.disk_bytes.saturating_sub(lease.need().disk_bytes);
            if held.leases == 0 {
                self.by_asker.remove(&lease.asker);
            }
        }
    }
}
