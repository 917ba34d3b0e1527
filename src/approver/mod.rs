//! The approver: promises parts of this node to other nodes, and keeps the promises.
//!
//! Asked to take something on, it looks whether this node is fit, reserves everything that is needed, writes the
//! promise down, and only when that is on disk signs and answers: a node whose disk takes nothing promises nothing. The
//! same question asked again (same asker, same nonce) gets the same promise.
//!
//! A lease that is not used ends within half a minute and with the process. It is used by the first piece of a column,
//! the first task of a worker, the founding or the taking in of a member, and by a renewal; from then on it lasts as
//! long as it was asked for, also after a crash: such leases and lasting holds are loaded and reserved again before
//! anything new is promised. A lease ends by its time, by the asker's release, or by conversion: into the hold of a
//! column that was confirmed, or into membership once the quorum exists. Whoever keeps something under a lease hears of
//! its end through [`Approver::ended`]. Deleting pieces is the piece store's business; this service only gives the room
//! back.
//!
//! The lease of a column says who fills it ([`Writer`]), so that its id gives no right to whoever else learns it; the
//! holder asks for that, and for the room, with each piece.
//!
//! An asker does not choose how much of this node it fills. What a member takes is known here; a column takes disk and
//! nothing else; work takes what the scope of jobs has. Of the disk, each peer has a share in leases that can end; of
//! the quorums that this node may be a member of, a share as their founder. This node's own asking has no share.
//!
//! Locks are held for arithmetic only, never across an await; every map is bounded by what is reserved for its entries,
//! by `LEASES_PER_ASKER_MAX` and by `UNUSED_MAX`.

mod actor;
mod metrics;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::registry::Registry;
use quorate_protocols::approval::{
    Approval, ApprovalAnswer, ApprovalMessage, ApprovalRequest, Refusal, Statement, Subject, Writer,
};
use quorate_protocols::capacity::{Capacity, Supply};
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{JobId, LeaseId, Millis, Nonce, PeerId, QuorumId};
use quorate_protocols::piece;
use quorate_protocols::quorum::limits::{QUORUMS_PER_ASKER_MAX, QUORUMS_PER_NODE_MAX};
use quorate_protocols::resources::{Amounts, GrantError, Lease, Leases, Machine, Scope, Service};
use tokio::sync::{Notify, broadcast, mpsc};

use crate::certificates::{Standing, Standings};
use crate::directory::Directory;
use crate::gauges;
use crate::identity::Identity;
use crate::resources::Resources;
use crate::seams::{DiskError, InboundRequest, Net, Reservation, Seams};
use crate::storage::Storage;
use record::LeaseRecord;

pub use metrics::ApproverMetrics;

/// Ended leases kept for a follower that lags; one that loses some looks at what is left instead.
const ENDED_MAX: usize = 1024;

/// The quorums that this node is a member of, as the approver needs to know them.
pub trait Memberships: Send + Sync + 'static {
    fn is_member(&self, quorum: QuorumId) -> bool;
    fn count(&self) -> usize;
}

/// What the leases of one scope set aside, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeLeases {
    pub scope: String,
    pub leases: u32,
    pub reserved: Amounts,
}

/// What the approver is built from.
pub struct ApproverParts {
    pub seams: Seams,
    pub identity: Identity,
    pub net: Arc<dyn Net>,
    pub storage: Storage,
    pub resources: Resources,
    pub directory: Directory,
    pub memberships: Arc<dyn Memberships>,
    /// Who speaks for a quorum.
    pub standings: Arc<dyn Standings>,
    pub labels: BTreeMap<String, String>,
    /// What this node works on. A worker of a quorum must run tasks of some kind.
    pub roles: BTreeSet<NodeRole>,
    /// Disk that the operator allows to be promised; `None` leaves what the machine has.
    pub disk_bytes_max: Option<u64>,
    pub requests: mpsc::Receiver<InboundRequest>,
}

/// A lease that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedLease {
    pub lease: LeaseId,
    pub subject: Subject,
}

/// A living lease, as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    pub asker: PeerId,
    pub subject: Subject,
    /// What is set aside under it.
    pub reserved: Amounts,
    /// On this node's monotonic clock; `None` for a lasting hold.
    pub expires: Option<Millis>,
}

/// Handle to the approver.
#[derive(Clone)]
pub struct Approver {
    inner: Arc<Inner>,
}

struct Inner {
    seams: Seams,
    identity: Identity,
    net: Arc<dyn Net>,
    storage: Storage,
    resources: Resources,
    directory: Directory,
    memberships: Arc<dyn Memberships>,
    standings: Arc<dyn Standings>,
    labels: BTreeMap<String, String>,
    roles: BTreeSet<NodeRole>,
    disk_bytes_max: Option<u64>,
    state: Mutex<State>,
    metrics: ApproverMetrics,
    ended: broadcast::Sender<EndedLease>,
    /// A lease was granted that may end earlier than the actor thinks.
    wake: Notify,
}

#[derive(Default)]
struct State {
    leases: Leases,
    /// One per lease and per hold.
    reserved: BTreeMap<LeaseId, Reservation>,
}

impl State {
    /// Changes a standing lease, and what it sets aside, to what `lease` asks for; or nothing at all.
    fn regrant(&mut self, now: Millis, id: LeaseId, lease: Lease) -> Result<(LeaseId, LeaseRecord), Refusal> {
        let need = lease.need();
        let reservation = self.reserved.get_mut(&id).ok_or(Refusal::UnknownLease)?;
        // Grown first, for that can be refused; what is not needed any more is let go afterwards.
        let held = reservation.amounts();
        reservation.resize(held.saturating_add(need.saturating_sub(held)))?;
        reservation.resize(need)?;
        self.leases.regrant(now, id, lease);
        let lease = self.leases.get(id).ok_or(Refusal::UnknownLease)?;
        Ok((id, LeaseRecord::of(lease, None)))
    }
    /// Disk that lasting holds of columns take up: written, and no longer free on the disk itself.
    fn held_disk_bytes(&self) -> u64 {
        let held = |(id, reservation): (&LeaseId, &Reservation)| match self.leases.get(*id) {
            Some(lease) if !lease.is_lasting() || matches!(lease.subject, Subject::Member { .. }) => 0,
            _ => reservation.amounts().disk_bytes,
        };
        self.reserved.iter().map(held).sum()
    }
}

impl Approver {
    /// Loads and reserves what was promised before, then answers requests in the caller's task group.
    pub async fn start(parts: ApproverParts) -> Result<Self, DiskError> {
        let inner = Arc::new(Inner {
            seams: parts.seams.clone(),
            identity: parts.identity,
            net: parts.net,
            storage: parts.storage,
            resources: parts.resources,
            directory: parts.directory,
            memberships: parts.memberships,
            standings: parts.standings,
            labels: parts.labels,
            roles: parts.roles,
            disk_bytes_max: parts.disk_bytes_max,
            state: Mutex::new(State::default()),
            metrics: ApproverMetrics::default(),
            ended: broadcast::channel(ENDED_MAX).0,
            wake: Notify::new(),
        });
        let approver = Self { inner };
        approver.load().await?;
        parts.seams.tasks.spawn(actor::run(approver.clone(), parts.requests));
        Ok(approver)
    }

    async fn load(&self) -> Result<(), DiskError> {
        let inner = &self.inner;
        let records = record::load(inner.storage.kv())?;
        // What is held is no longer free, so it comes on top of what the disk has left.
        let held: u64 = records.iter().filter_map(|(_, record)| column_hold(record)).sum();
        self.follow_disk(held);
        let now = inner.seams.clock.monotonic();
        let mut lost = Vec::new();
        // Whoever was promised what it did not use asks again, and others may come first.
        let (kept, unused): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|(_, record)| record.used || record.lasting.is_some());
        if !unused.is_empty() {
            inner.storage.write(record::delete(unused.iter().map(|(id, _)| *id))).await?;
        }
        // Holds first: they are written already, leases are only promised.
        let (lasting, leased): (Vec<_>, Vec<_>) = kept.into_iter().partition(|(_, record)| record.lasting.is_some());
        for (id, record) in lasting.into_iter().chain(leased) {
            let is_lasting = record.lasting.is_some();
            let held = column_hold(&record);
            let lease = record.into_lease();
            let need = held.map_or_else(|| lease.need(), Amounts::disk);
            match inner.resources.reserve(scope_of(&lease), need) {
                Ok(reservation) => {
                    let mut state = self.lock();
                    state.leases.restore(now, id, lease, is_lasting);
                    state.reserved.insert(id, reservation);
                }
                Err(refused) => {
                    tracing::warn!(lease = %id, %refused, "a promise from before the restart no longer fits and is ended");
                    lost.push((id, lease.subject));
                }
            }
        }
        if !lost.is_empty() {
            inner.storage.write(record::delete(lost.iter().map(|(id, _)| *id))).await?;
            for (lease, subject) in lost {
                let _ = inner.ended.send(EndedLease { lease, subject });
            }
        }
        Ok(())
    }

    /// Sets the disk limit from what the disk has left.
    fn follow_disk(&self, held_bytes: u64) {
        let machine = match self.inner.storage.files().free_space() {
            Ok((disk_free_bytes, disk_bytes)) => Machine { disk_free_bytes, disk_bytes, ..Machine::default() },
            Err(error) => {
                tracing::warn!(%error, "the free space of the disk is unknown; no more of it is promised");
                Machine::default()
            }
        };
        let promisable = held_bytes.saturating_add(machine.disk_promisable_bytes());
        self.inner.resources.set_disk_limit(promisable.min(self.inner.disk_bytes_max.unwrap_or(u64::MAX)));
    }

    /// Answers one message as `from`, an authenticated peer; also this node itself.
    pub async fn answer(&self, from: PeerId, message: ApprovalMessage) -> ApprovalAnswer {
        let answer = match message {
            ApprovalMessage::Ask(request) => self.grant(from, request).await.map(ApprovalAnswer::Granted),
            ApprovalMessage::Renew { lease, duration } => self.renew(from, lease, duration).await,
            ApprovalMessage::Release { lease } => self.release_for(from, lease).await,
            ApprovalMessage::Offer { subject } => {
                self.inner.directory.offered(from, subject);
                Ok(ApprovalAnswer::Acknowledged)
            }
        };
        answer.unwrap_or_else(|refusal| {
            self.inner.metrics.refused.inc();
            ApprovalAnswer::Refused(refusal)
        })
    }

    async fn grant(&self, from: PeerId, request: ApprovalRequest) -> Result<Approval, Refusal> {
        let inner = &self.inner;
        if inner.directory.is_draining() {
            return Err(Refusal::Draining);
        }
        if let Err(distrust) = inner.directory.check_trust(from) {
            return Err(Refusal::Untrusted { reason: format!("the asker is none, for {distrust}") });
        }
        let role = match request.subject {
            Subject::Founding { .. } | Subject::Member { .. } => NodeRole::Store,
            Subject::Holder { .. } => {
                let Capacity { memory_bytes, slots, .. } = request.requirement.capacity;
                if (memory_bytes, slots) != (0, 0) {
                    return Err(Refusal::Unfit { reason: "a column takes disk and nothing else".into() });
                }
                NodeRole::Store
            }
            Subject::Worker { .. } if request.requirement.capacity.slots == 0 => {
                return Err(Refusal::Unfit { reason: "a worker without a slot runs nothing".into() });
            }
            // A lease serves tasks of every engine that the node has.
            Subject::Worker { .. } => {
                let engines = inner.roles.iter().find(|role| role.engine().is_some());
                *engines.ok_or_else(|| Refusal::Unfit { reason: "the node runs no tasks".into() })?
            }
        };
        // The tree of scopes knows best what is free, and says so in the one step in which it reserves.
        let supply = Supply { roles: inner.roles.iter().copied(), labels: &inner.labels, free: Capacity::UNLIMITED };
        if let Some(unmet) = request.requirement.unmet(role, supply) {
            return Err(unmet.into());
        }
        if let Some(quorum) = quorum_of(request.subject) {
            let reason = "the asker has not shown that it votes in the quorum in whose name it asks".to_owned();
            self.check_voter(from, quorum).await.map_err(|_| Refusal::Unfit { reason })?;
        }
        self.check_membership(from, request.subject)?;
        let (id, record) = self.reserve(from, request)?;
        // The promise must be on disk before it is given. If it is not certain to be there, it was not given.
        if let Err(error) = inner.storage.write(record::put(id, &record)).await {
            tracing::error!(%error, lease = %id, "a promise could not be written down and is refused");
            self.end(id);
            return Err(Refusal::Unfit { reason: "the node cannot write to its disk".into() });
        }
        inner.wake.notify_one();
        let statement = Statement {
            asker: from,
            approver: inner.identity.peer(),
            incarnation: inner.identity.incarnation,
            boot: inner.identity.boot,
            subject: record.subject,
            requirement: record.requirement.digest(),
            nonce: record.nonce,
            duration: record.duration,
            lease: id,
        };
        Ok(Approval::sign(inner.identity.signing_key(), statement))
    }

    fn check_membership(&self, from: PeerId, subject: Subject) -> Result<(), Refusal> {
        match subject {
            Subject::Member { quorum } if self.inner.memberships.is_member(quorum) => {
                return Err(Refusal::AlreadyPromised);
            }
            Subject::Member { .. } | Subject::Founding { .. } => (),
            Subject::Holder { .. } | Subject::Worker { .. } => return Ok(()),
        }
        if from != self.inner.identity.peer() && self.lock().leases.memberships_of(from) >= QUORUMS_PER_ASKER_MAX {
            let reason = format!(
                "the node is a member of {QUORUMS_PER_ASKER_MAX} quorums for the asking peer, the most allowed: use those"
            );
            return Err(Refusal::Unfit { reason });
        }
        let promised = {
            let state = self.lock();
            let member = |(_, lease): &(LeaseId, &Lease)| {
                let is_membership = matches!(lease.subject, Subject::Founding { .. } | Subject::Member { .. });
                !lease.is_lasting() && is_membership && lease.subject != subject
            };
            state.leases.iter().filter(member).count()
        };
        if self.inner.memberships.count() + promised >= QUORUMS_PER_NODE_MAX {
            let reason = format!("the node is a member of {QUORUMS_PER_NODE_MAX} quorums, the most allowed");
            return Err(Refusal::Unfit { reason });
        }
        Ok(())
    }

    /// Reserves and notes a promise, or finds the one that the same question got before.
    fn reserve(&self, from: PeerId, request: ApprovalRequest) -> Result<(LeaseId, LeaseRecord), Refusal> {
        let ApprovalRequest { subject, requirement, nonce, duration } = request;
        let now = self.inner.seams.clock.monotonic();
        let mut state = self.lock();
        match state.leases.check(from, subject, nonce) {
            Ok(()) => {}
            Err(GrantError::Repeated { lease: id }) => {
                let lease =
                    state.leases.get(id).filter(|lease| lease.requirement == requirement && !lease.is_lasting());
                let record = lease.map(|lease| LeaseRecord::of(lease, None)).ok_or(Refusal::AlreadyPromised)?;
                self.inner.metrics.repeated.inc();
                return Ok((id, record));
            }
            Err(GrantError::Promised { lease: id }) => {
                let is_same = state.leases.get(id).is_some_and(|lease| lease.subject == subject);
                if !matches!(subject, Subject::Worker { .. }) || !is_same {
                    return Err(Refusal::AlreadyPromised);
                }
                let used = state.leases.get(id).is_some_and(|lease| lease.used);
                let lease = Lease { asker: from, subject, requirement, nonce, duration, used, expires: None };
                self.check_share(&state, &lease, Some(id))?;
                return state.regrant(now, id, lease).inspect(|_| {
                    self.inner.metrics.granted.inc();
                });
            }
            Err(error) => return Err(error.into()),
        }
        let lease = Lease { asker: from, subject, requirement, nonce, duration, used: false, expires: None };
        self.check_share(&state, &lease, None)?;
        let reservation = self.inner.resources.reserve(scope_of(&lease), lease.need())?;
        let id = LeaseId(self.inner.seams.entropy.bytes());
        state.leases.grant(now, id, lease)?;
        state.reserved.insert(id, reservation);
        self.inner.metrics.granted.inc();
        let lease = state.leases.get(id).expect("the lease was just granted");
        Ok((id, LeaseRecord::of(lease, None)))
    }

    /// Whether the asker stays within its share of the disk. This node's own asking takes room from nobody else's node.
    fn check_share(&self, state: &State, lease: &Lease, replaced: Option<LeaseId>) -> Result<(), Refusal> {
        match lease.asker == self.inner.identity.peer() {
            true => Ok(()),
            false => {
                let promisable = self.inner.resources.limit(Scope::System).disk_bytes;
                state.leases.check_disk(lease, replaced, promisable)
            }
        }
    }

    /// Prolongs the lease, which is used from now on. Only what is used outlives a restart, so the first use is written
    /// down, before whatever its user writes next. False when there is no such lease.
    fn use_lease(&self, id: LeaseId, duration: Duration) -> bool {
        let now = self.inner.seams.clock.monotonic();
        let mut state = self.lock();
        let was_used = state.leases.get(id).is_none_or(|lease| lease.used || lease.is_lasting());
        let stands = state.leases.renew(now, id, duration);
        let record = state.leases.get(id).filter(|_| !was_used).map(|lease| LeaseRecord::of(lease, None));
        drop(state);
        if let Some(record) = record {
            self.inner.wake.notify_one();
            self.write_behind(record::put(id, &record));
        }
        stands
    }

    /// Whether the peer votes in the quorum, as it can show: nobody else asks in the name of one.
    async fn check_voter(&self, from: PeerId, quorum: QuorumId) -> Result<(), Refusal> {
        match self.inner.standings.standing(quorum, from).await {
            Standing::Voter => Ok(()),
            Standing::Moved { .. } | Standing::Stranger | Standing::Silent => Err(Refusal::NotAllowed),
        }
    }

    /// The lease, if `from` may speak for it: the asker, or a voter of the quorum that the lease serves, because the
    /// asker may have been a primary that is gone.
    async fn managed(&self, from: PeerId, id: LeaseId) -> Result<Lease, Refusal> {
        let lease = self.lock().leases.get(id).cloned().ok_or(Refusal::UnknownLease)?;
        match quorum_of(lease.subject) {
            _ if from == lease.asker => Ok(lease),
            Some(quorum) => self.check_voter(from, quorum).await.map(|()| lease),
            None => Err(Refusal::NotAllowed),
        }
    }

    async fn renew(&self, from: PeerId, id: LeaseId, duration: Duration) -> Result<ApprovalAnswer, Refusal> {
        // A founding is begun or not; there is nothing to wait for.
        if matches!(self.managed(from, id).await?.subject, Subject::Founding { .. }) {
            return Err(Refusal::NotAllowed);
        }
        match self.use_lease(id, duration) {
            true => Ok(ApprovalAnswer::Acknowledged),
            false => Err(Refusal::UnknownLease),
        }
    }

    async fn release_for(&self, from: PeerId, id: LeaseId) -> Result<ApprovalAnswer, Refusal> {
        match self.managed(from, id).await {
            // A confirmed column is let go over the piece protocol, where the steward's word is checked.
            Ok(lease) if lease.is_lasting() => Err(Refusal::NotAllowed),
            // A standby that was taken in meanwhile keeps what a member needs, for as long as it is one.
            Ok(Lease { subject: Subject::Member { quorum }, .. }) if self.inner.memberships.is_member(quorum) => {
                Err(Refusal::NotAllowed)
            }
            Ok(_) => {
                self.inner.metrics.released.inc();
                self.end(id);
                Ok(ApprovalAnswer::Acknowledged)
            }
            // Released before, or ended by itself: what the asker wants is the case.
            Err(Refusal::UnknownLease) => Ok(ApprovalAnswer::Acknowledged),
            Err(refusal) => Err(refusal),
        }
    }

    /// A living lease for a column of `job`, or for membership of `quorum`.
    pub fn lease(&self, lease: LeaseId) -> Option<LeaseInfo> {
        let state = self.lock();
        let found = state.leases.get(lease)?;
        let reserved = state.reserved.get(&lease).map(Reservation::amounts).unwrap_or_default();
        Some(LeaseInfo { asker: found.asker, subject: found.subject, reserved, expires: found.expires })
    }
    /// Uses the promise to be a member of this quorum, as it is founded or joined here. False when there is none that
    /// stands.
    pub fn use_member_lease(&self, lease: LeaseId, quorum: QuorumId) -> bool {
        let found = self.lock().leases.get(lease).map(|found| (found.subject, found.duration));
        found
            .is_some_and(|(subject, duration)| subject == Subject::Member { quorum } && self.use_lease(lease, duration))
    }
    /// Makes the promise to found a quorum one to be a member of the quorum that was founded; durable no later than
    /// what is written next. Once more is the same. False when there is no such promise any more.
    pub fn bind_founding_lease(&self, lease: LeaseId, nonce: Nonce, quorum: QuorumId) -> bool {
        let now = self.inner.seams.clock.monotonic();
        let record = {
            let mut state = self.lock();
            let Some(found) = state.leases.get(lease).cloned() else { return false };
            match found.subject {
                Subject::Member { quorum: bound } => return bound == quorum,
                Subject::Founding { nonce: promised } if promised == nonce => (),
                _ => return false,
            }
            let bound = Lease { subject: Subject::Member { quorum }, used: true, ..found };
            if !state.leases.regrant(now, lease, bound) {
                return false;
            }
            state.leases.get(lease).map(|bound| LeaseRecord::of(bound, None))
        };
        let Some(record) = record else { return false };
        // The store keeps the order of what is written: this is on disk once the record of the quorum is.
        self.inner.storage.write_then(record::put(lease, &record), report_write).inspect_err(report_error).is_ok()
    }
    /// The lease to run tasks of this quorum, if it is alive. It reserves all that those tasks may use at a time. The
    /// first task uses it; after that only its primary prolongs it.
    pub fn use_worker_lease(&self, lease: LeaseId, quorum: QuorumId) -> Option<LeaseInfo> {
        let (used, duration) = self.lock().leases.get(lease).map(|found| (found.used, found.duration))?;
        let info = self.lease(lease).filter(|info| info.subject == Subject::Worker { quorum })?;
        (used || self.use_lease(lease, duration)).then_some(info)
    }
    /// Leases that ended from now on, for whatever reason.
    pub fn ended(&self) -> broadcast::Receiver<EndedLease> {
        self.inner.ended.subscribe()
    }
    /// Ends a lease or a hold, here and on disk. What is kept under it is for its user to let go.
    pub fn end(&self, lease: LeaseId) {
        let ended = {
            let mut state = self.lock();
            state.reserved.remove(&lease);
            state.leases.end(lease)
        };
        if let Some(ended) = ended {
            self.forget(vec![(lease, ended)]);
        }
    }
    pub fn leases_held(&self) -> usize {
        self.lock().leases.len()
    }
    pub fn metrics(&self) -> &ApproverMetrics {
        &self.inner.metrics
    }
    /// Registers what it counts, and how many leases it holds.
    pub fn register_metrics(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("quorate_leases");
        self.metrics().register(registry);
        let approver = self.clone();
        gauges::register(registry, "held", "Leases that this node has granted and that go on", move || {
            approver.leases_held() as u64
        });
    }

    /// What all leases set aside, by the scope in which it is accounted.
    pub fn reserved(&self) -> Vec<ScopeLeases> {
        let state = self.lock();
        let mut scopes: BTreeMap<Scope, ScopeLeases> = BTreeMap::new();
        for (id, reservation) in &state.reserved {
            let Some(lease) = state.leases.get(*id) else { continue };
            let scope = scope_of(lease);
            let row = scopes.entry(scope).or_insert_with(|| ScopeLeases {
                scope: scope.to_string(),
                leases: 0,
                reserved: Amounts::ZERO,
            });
            row.leases += 1;
            row.reserved = row.reserved.saturating_add(reservation.amounts());
        }
        scopes.into_values().collect()
    }

    /// Deletes ended leases from disk and tells their users. A crash before the deletion is synced only makes them end
    /// once more: by their time, by the quorum that has no such member, or by the collector that finds their column let
    /// go.
    fn forget(&self, ended: Vec<(LeaseId, Lease)>) {
        let batch = record::delete(ended.iter().map(|(id, _)| *id));
        self.write_behind(batch);
        for (lease, ended) in ended {
            // Nobody listening is fine: the collector compares the store with the leases as well.
            let _ = self.inner.ended.send(EndedLease { lease, subject: ended.subject });
        }
    }

    /// Writes what need not be durable before anything else happens.
    fn write_behind(&self, batch: crate::seams::KvBatch) {
        report_write(self.inner.storage.write_then(batch, report_write));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock()
    }
}

/// What a holder asks of the leases that it was granted.
impl Approver {
    /// Who fills the column of `job` under this lease, if it is alive.
    pub fn column_writer(&self, lease: LeaseId, job: JobId) -> Option<Writer> {
        let subject = self.lock().leases.get(lease)?.subject;
        match subject {
            Subject::Holder { job: of, writer } if of == job => Some(writer),
            _ => None,
        }
    }
    /// Has another peer send the pieces under the lease; a lasting hold takes none.
    pub fn set_column_writer(&self, lease: LeaseId, job: JobId, peer: PeerId) {
        let now = self.inner.seams.clock.monotonic();
        let record = {
            let mut state = self.lock();
            let Some(found) = state.leases.get(lease).cloned() else { return };
            let Subject::Holder { job: of, writer } = found.subject else { return };
            let subject = Subject::Holder { job, writer: writer.with_peer(peer) };
            if of != job || !state.leases.regrant(now, lease, Lease { subject, ..found }) {
                return;
            }
            state.leases.get(lease).map(|lease| LeaseRecord::of(lease, None))
        };
        // One that is lost is asked for once more.
        if let Some(record) = record {
            self.write_behind(record::put(lease, &record));
        }
    }
    /// Pieces come under the lease: it lives on.
    pub fn touch_column_lease(&self, lease: LeaseId) {
        self.use_lease(lease, piece::limits::LEASE);
    }
    /// Whether the lease sets aside `bytes` of disk for its column. That of a stream is grown to twice what it is, or
    /// to what is asked for where there is no room for that.
    pub fn reserve_column(&self, lease: LeaseId, bytes: u64) -> bool {
        let mut state = self.lock();
        let Some(found) = state.leases.get(lease) else { return false };
        let grows = matches!(found.subject, Subject::Holder { writer: Writer::Streamer(_), .. }) && !found.is_lasting();
        let Some(reservation) = state.reserved.get_mut(&lease) else { return false };
        let held = reservation.amounts();
        if bytes <= held.disk_bytes {
            return true;
        }
        let mut grow_to = |disk_bytes| reservation.resize(Amounts { disk_bytes, ..held }).is_ok();
        grows && (grow_to(bytes.max(held.disk_bytes.saturating_mul(2))) || grow_to(bytes))
    }
    /// Whether this lease is alive, without prolonging it.
    pub fn is_alive(&self, lease: LeaseId) -> bool {
        self.lock().leases.get(lease).is_some()
    }
    /// The column is permanent: `bytes` of disk stay accounted for without an end.
    pub fn settle_column(&self, lease: LeaseId, bytes: u64) {
        let mut state = self.lock();
        let Some(found) = state.leases.get(lease).cloned() else {
            // A hold whose lease is not known here, after its record was lost: the room is taken all the same.
            if !state.reserved.contains_key(&lease)
                && let Ok(reservation) =
                    self.inner.resources.reserve(Scope::Service(Service::Pieces), Amounts::disk(bytes))
            {
                state.reserved.insert(lease, reservation);
            }
            return;
        };
        state.leases.convert(lease);
        if let Some(reservation) = state.reserved.get_mut(&lease) {
            // The object may have turned out larger than was asked for; its pieces are on the disk whether it fits or
            // not.
            if let Err(refused) = reservation.resize(Amounts::disk(bytes)) {
                tracing::warn!(%lease, %refused, "a confirmed column takes more room than may be promised");
            }
        }
        let batch = record::put(lease, &LeaseRecord::of(&found, Some(bytes)));
        drop(state);
        self.write_behind(batch);
    }
    /// Gives back what the lease, or the settled hold, had reserved.
    pub fn release_column(&self, lease: LeaseId) {
        self.end(lease);
    }
}

fn report_write(written: Result<(), DiskError>) {
    if let Err(error) = written {
        report_error(&error);
    }
}

fn report_error(error: &DiskError) {
    tracing::error!(%error, "a change of leases could not be written down");
}

/// The quorum in whose name the subject is asked for; a founding has none yet.
fn quorum_of(subject: Subject) -> Option<QuorumId> {
    match subject {
        Subject::Founding { .. } => None,
        Subject::Member { quorum } | Subject::Worker { quorum } => Some(quorum),
        Subject::Holder { job, .. } => Some(job.quorum),
    }
}

/// Where a promise is accounted.
fn scope_of(lease: &Lease) -> Scope {
    match lease.subject {
        Subject::Founding { .. } | Subject::Member { .. } => Scope::Service(Service::Quorums),
        Subject::Holder { .. } => Scope::Lender(lease.asker),
        Subject::Worker { .. } => Scope::Service(Service::Jobs),
    }
}

fn column_hold(record: &LeaseRecord) -> Option<u64> {
    record.lasting.filter(|_| matches!(record.subject, Subject::Holder { .. }))
}
