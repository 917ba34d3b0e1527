//! Reservations with an end: what an approver has promised, to whom, until when.
//!
//! Time is the approver's monotonic clock, so a wall clock that jumps ends nothing. A lease ends by itself unless it
//! is renewed or *converted* into a lasting hold (a column that became part of an object). The core counts nothing:
//! whoever grants a lease has reserved what it needs, and gives that back when [`Leases`] hands the lease out again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::approval::limits::{LEASE_DURATION_MAX, LEASES_PER_ASKER_MAX};
use crate::approval::{Refusal, Subject};
use crate::capacity::Requirement;
use crate::ids::{LeaseId, Millis, Nonce, PeerId};

/// One promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub asker: PeerId,
    pub subject: Subject,
    pub requirement: Requirement,
    pub nonce: Nonce,
    pub duration: Duration,
    /// On the approver's monotonic clock; `None` once converted: it lasts until it is ended by name.
    pub expires: Option<Millis>,
}

impl Lease {
    pub fn is_lasting(&self) -> bool {
        self.expires.is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("the asker already holds {held} leases here")]
    TooMany { held: usize },
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
            GrantError::Repeated { .. } | GrantError::Promised { .. } => Self::AlreadyPromised,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    leases: BTreeMap<LeaseId, Lease>,
    by_end: BTreeSet<(Millis, LeaseId)>,
    by_asker: BTreeMap<PeerId, usize>,
    by_nonce: BTreeMap<(PeerId, Nonce), LeaseId>,
    /// A node is a member of a quorum once, and one worker of it, so a second promise for one is refused (a worker's
    /// may be changed instead: [`Leases::regrant`]). A run may have several columns in one place only if nobody else
    /// has room, and asks for each with a nonce of its own; those are not unique.
    unique: BTreeMap<Subject, LeaseId>,
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
        let held = self.held_by(asker);
        if held >= LEASES_PER_ASKER_MAX {
            return Err(GrantError::TooMany { held });
        }
        Ok(())
    }

    /// Notes a promise under a fresh id. The duration is cut to the longest allowed.
    pub fn grant(&mut self, now: Millis, id: LeaseId, mut lease: Lease) -> Result<(), GrantError> {
        self.check(lease.asker, lease.subject, lease.nonce)?;
        lease.duration = lease.duration.min(LEASE_DURATION_MAX);
        lease.expires = Some(now.plus(lease.duration));
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
        lease.expires = Some(before.max(now.plus(lease.duration)));
        self.insert(id, lease);
        true
    }

    fn insert(&mut self, id: LeaseId, lease: Lease) {
        if let Some(expires) = lease.expires {
            self.by_end.insert((expires, id));
            *self.by_asker.entry(lease.asker).or_default() += 1;
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

    /// Moves the end to `duration` from now, never nearer than it was. False when there is no such lease.
    pub fn renew(&mut self, now: Millis, id: LeaseId, duration: Duration) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        if let Some(before) = lease.expires {
            let after = before.max(now.plus(duration.min(LEASE_DURATION_MAX)));
            lease.expires = Some(after);
            self.by_end.remove(&(before, id));
            self.by_end.insert((after, id));
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
            discount(&mut self.by_asker, lease.asker);
        }
        true
    }

    /// Ends a lease or a hold; the caller gives back what it had reserved.
    pub fn end(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        if let Some(expires) = lease.expires {
            self.by_end.remove(&(expires, id));
            discount(&mut self.by_asker, lease.asker);
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
        self.by_asker.get(&asker).copied().unwrap_or(0)
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
}

fn discount(counts: &mut BTreeMap<PeerId, usize>, asker: PeerId) {
    if let Some(count) = counts.get_mut(&asker) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&asker);
        }
    }
}
