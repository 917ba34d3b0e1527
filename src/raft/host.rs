//! All groups of one node: loading, founding, leaving. What other members ask of them is answered in [`super::server`].

use parking_lot::Mutex;
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::{EmptyNode, LogIdOptionExt};
use quorate_protocols::admission::Distrust;
use quorate_protocols::approval::limits::STANDBYS;
use quorate_protocols::approval::{Approval, Subject};
use quorate_protocols::budget::Budgets;
use quorate_protocols::certificate::{Founding, Tip};
use quorate_protocols::ids::{LogIndex, MemberId, Millis, PeerId, QuorumId, Term};
use quorate_protocols::liveness::Latency;
use quorate_protocols::quorum::limits::{
    PROPOSER_RATES, PROPOSERS_MAX, QUORUMS_PER_NODE_MAX, RAFT_DEADLINE, RAFT_DEADLINE_MAX, VOTERS_MAX,
};
use quorate_protocols::quorum::request::{MembershipStatement, SignedMembership};
use quorate_protocols::quorum::{RaftAnswer, RaftMessage};
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore, broadcast};

use super::clocks::NodeClocks;
use super::door::INQUIRIES_MAX;
use super::group::{Group, GroupParts, Stop};
use super::latencies::Latencies;
use super::metrics::QuorumMetrics;
use super::network::Links;
use super::records::{self, GroupRecord, Promise};
use super::reopen;
use super::rollback_guard::{self, RollbackMark};
use super::types::Vote;
use super::{FoundError, HostEvent, MembershipLeases, QuorumContext};
use crate::identity::Identity;
use crate::seams::{DiskError, KvBatch, Net, NetError, Seams, run_blocking};
use crate::storage::Storage;

/// Events kept for a follower that lags.
const EVENTS_MAX: usize = 1024;

/// How long a founder tries to have a quorum created, and then to get a primary out of it.
const FOUND_DEADLINE: Duration = Duration::from_secs(20);

/// Times that a member is asked to create a quorum. It syncs several times for that: a slow disk has it done when it is
/// asked again, and a member that stands still does not hold up its founder for long.
const FOUND_TRIES: usize = 2;

/// Between its rounds of asking.
const FOUND_PAUSE: Duration = Duration::from_millis(50);

/// How long a member that was asked to initialize waits for its own election, at least. It syncs the first entry and
/// its vote before, and the others theirs.
const ELECTED_DEADLINE: Duration = Duration::from_millis(1500);

/// Foundings that are answered at once. Each syncs several times and may wait for an election: the places of other
/// members' messages are not for them. The next is told so.
pub(super) const FOUNDINGS_MAX: usize = 64;

/// A member that left says who took its place for this long.
const DEPARTED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
pub(super) const DEPARTED_MAX: usize = 4 * QUORUMS_PER_NODE_MAX;
pub(super) const DEPARTED_TREE: &str = "quorums.departed";
/// Of these notes are read at once when the node starts.
const DEPARTED_PAGE: usize = 256;

/// Why a peer did not create a quorum, or is not its primary.
#[derive(Debug, thiserror::Error)]
pub enum FoundRefusal {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("{0}")]
    Refused(String),
}

/// Where a member went: its last word on the membership, signed when it left. And what it had promised there: it may be
/// taken in again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Departed {
    pub membership: SignedMembership,
    /// By this node's wall clock.
    pub left_at: Millis,
    pub promise: Promise,
}

impl Record for Departed {
    /// 2: with the promise.
    const VERSION: u8 = 2;
}

pub struct Inner {
    pub seams: Seams,
    pub identity: Identity,
    pub net: Arc<dyn Net>,
    pub storage: Storage,
    pub replace_grace: Duration,
    pub links: Arc<Links>,
    pub events: broadcast::Sender<HostEvent>,
    pub metrics: QuorumMetrics,
    pub clocks: Arc<NodeClocks>,
    /// What other peers may still propose here.
    pub budgets: Mutex<Budgets>,
    /// Peers that liveness suspects, and since when on the monotonic clock.
    pub suspected: Mutex<BTreeMap<PeerId, Millis>>,
    /// Members of groups here that this node has not trusted for the whole grace.
    pub distrusted: Mutex<BTreeSet<PeerId>>,
    /// Quorums whose primary, as far as this node knows, says that it does not lead this node there.
    pub denied: Mutex<BTreeSet<QuorumId>>,
    /// Set once the node's approver runs.
    pub membership_leases: OnceLock<Arc<dyn MembershipLeases>>,
    /// Wakes the liveness layer: the set of groups changed.
    pub kick: Notify,
    groups: RwLock<BTreeMap<QuorumId, Arc<Group>>>,
    departed: RwLock<BTreeMap<QuorumId, Departed>>,
    /// What this node promised in a quorum that it left is forgotten.
    has_forgotten: AtomicBool,
    /// Quorums whose member on this disk was an earlier life of this node: it may come back without a new promise.
    rejoining: Mutex<BTreeSet<QuorumId>>,
    /// Founding and leaving change several things on disk and happen one at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Inquiries about strangers that are under way.
    pub(super) inquiries: Arc<Semaphore>,
    /// Foundings that this node is asked for just now.
    pub(super) foundings: Semaphore,
}

/// Quorums of which this disk forgot what `member` promised. When there are any, the node must take a new incarnation
/// before it starts its quorum host.
pub fn lost_quorums(storage: &Storage, member: MemberId) -> Result<Vec<QuorumId>, DiskError> {
    records::check_format(storage)?;
    let records: BTreeMap<_, _> = records::read_records(storage)?.into_iter().collect();
    let files = storage.files();
    let mut lost = Vec::new();
    for quorum in rollback_guard::list(&*files)? {
        let ours = rollback_guard::read(&*files, quorum)?.is_some_and(|mark| mark.member == member);
        if ours && (!records.contains_key(&quorum) || records::is_behind_mark(storage, quorum, member)?) {
            lost.push(quorum);
        }
    }
    Ok(lost)
}

/// Whether this disk knows of any quorum that it has a member of.
pub fn has_members(storage: &Storage) -> Result<bool, DiskError> {
    Ok(!records::read_records(storage)?.is_empty())
}

impl Inner {
    pub async fn load(context: QuorumContext) -> Result<Arc<Self>, DiskError> {
        let QuorumContext { seams, identity, net, storage, replace_grace } = context;
        let clocks = Arc::new(NodeClocks::new(seams.clock.clone()));
        let host = Arc::new(Self {
            seams,
            identity,
            links: Arc::new(Links::new(net.clone(), Latencies::new(storage.clone()))),
            net,
            storage,
            replace_grace,
            events: broadcast::Sender::new(EVENTS_MAX),
            metrics: QuorumMetrics::default(),
            clocks,
            budgets: Mutex::new(Budgets::new(PROPOSER_RATES, PROPOSERS_MAX)),
            suspected: Mutex::default(),
            distrusted: Mutex::default(),
            denied: Mutex::default(),
            membership_leases: OnceLock::new(),
            kick: Notify::new(),
            groups: RwLock::default(),
            departed: RwLock::default(),
            has_forgotten: AtomicBool::new(false),
            rejoining: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            inquiries: Arc::new(Semaphore::new(INQUIRIES_MAX)),
            foundings: Semaphore::new(FOUNDINGS_MAX),
        });
        host.load_departed().await?;
        let me = host.identity.member();
        let lost: BTreeSet<_> = lost_quorums(&host.storage, me)?.into_iter().collect();
        let mut rejoining = rollback_guard::list(&*host.storage.files())?;
        let kept = records::read_records(&host.storage)?;
        records::drop_leftovers(&host.storage, &kept).await?;
        for (quorum, record) in kept {
            if record.member != me {
                // An earlier life of this node made the promises in here; only the primary can take it in again.
                records::erase(&host.storage, quorum).await?;
                rejoining.insert(quorum);
            } else if lost.contains(&quorum) {
                tracing::error!(%quorum, "the disk forgot what this member promised: it does not take part");
            } else {
                rejoining.remove(&quorum);
                host.open(quorum, record, None).await?;
            }
        }
        *host.rejoining.lock() = rejoining;
        Ok(host)
    }

    async fn open(
        self: &Arc<Self>,
        quorum: QuorumId,
        record: GroupRecord,
        created_at: Option<Millis>,
    ) -> Result<Arc<Group>, DiskError> {
        let group = self.install(quorum, record, created_at, LogIndex(0)).await?;
        crate::seams::spawn(reopen::keep_open(self.clone(), group.clone()));
        Ok(group)
    }

    /// Opens a group again that its store had ended, by the rules of a restart. `None` when it is not to be opened any
    /// more. An error leaves it closed.
    pub async fn reopen(self: &Arc<Self>, ended: &Arc<Group>) -> Result<Option<Arc<Group>>, DiskError> {
        let _one_at_a_time = self.changing.lock().await;
        if !self.is_current(ended) || self.seams.tasks.is_ending() {
            return Ok(None);
        }
        ended.close().await;
        // Shows that both stores take writes. And whatever the group had written without a sync is synced with it: what
        // openraft finds in a log that it opens, it takes for durable.
        records::write_record(&self.storage, ended.id, &ended.record()).await?;
        ended.log.check_writable().await?;
        if records::is_behind_mark(&self.storage, ended.id, ended.me)? {
            ended.halt(Stop::ForGood("the disk forgot what this member promised".to_owned()));
            return Ok(None);
        }
        let told = ended.machine.read(|applied| LogIndex(applied.last.index().unwrap_or(0)));
        let group = self.install(ended.id, ended.record(), None, told).await?;
        self.metrics.reopened.inc();
        tracing::info!(quorum = %group.id, "this member of a quorum takes part again");
        let _ = self.events.send(HostEvent::Unpaused { quorum: group.id });
        Ok(Some(group))
    }

    async fn install(
        self: &Arc<Self>,
        quorum: QuorumId,
        record: GroupRecord,
        created_at: Option<Millis>,
        told: LogIndex,
    ) -> Result<Arc<Group>, DiskError> {
        let parts = GroupParts {
            quorum,
            member: self.identity.member(),
            record,
            seams: self.seams.clone(),
            storage: self.storage.clone(),
            links: self.links.clone(),
            events: self.events.clone(),
            metrics: self.metrics.clone(),
            clocks: self.clocks.clone(),
            signatures: self.identity.signatures.clone(),
            created_at,
            told,
        };
        let group = Group::open(parts).await?;
        self.groups.write().insert(quorum, group.clone());
        self.net.provide(quorum);
        self.kick.notify_one();
        Ok(group)
    }

    pub fn group(&self, quorum: QuorumId) -> Option<Arc<Group>> {
        self.groups.read().get(&quorum).cloned()
    }

    /// Whether no other group, and not none, has taken the place of this one.
    pub fn is_current(&self, group: &Arc<Group>) -> bool {
        self.group(group.id).is_some_and(|current| Arc::ptr_eq(&current, group))
    }

    /// In order of id.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.groups.read().values().cloned().collect()
    }

    pub fn suspects(&self, peer: PeerId) -> bool {
        self.suspected.lock().contains_key(&peer)
    }

    /// Whether this node relies on the peer as a member now.
    pub fn check_trust(&self, peer: PeerId) -> Result<(), Distrust> {
        self.membership_leases.get().map_or(Ok(()), |leases| leases.check_trust(peer))
    }

    /// Ends every group, in order.
    pub async fn close(&self) {
        // A group that is just being opened again is among them.
        let _one_at_a_time = self.changing.lock().await;
        for group in self.groups() {
            group.close().await;
        }
    }

    pub fn sign_membership(&self, group: &Group) -> SignedMembership {
        let view = group.view();
        let statement = MembershipStatement {
            quorum: group.id,
            by: self.identity.member(),
            term: view.term,
            voters: view.voters,
            primary: view.primary,
        };
        SignedMembership::sign(self.identity.signing_key(), statement)
    }

    // --- members that left ---

    /// Also those that are too old to route: what was promised there still holds. Of too many the oldest go.
    async fn load_departed(&self) -> Result<(), DiskError> {
        let (me, mut batch) = (self.identity.member(), KvBatch::new());
        let (mut notes, mut from) = (BTreeMap::new(), Vec::<u8>::new());
        loop {
            let rows = self.storage.kv().range(DEPARTED_TREE, &from, &[0xff; 17], DEPARTED_PAGE, usize::MAX)?;
            let Some((last, _)) = rows.last() else { break };
            from = [&last[..], &[0]].concat();
            for (key, value) in rows {
                let Ok(quorum) = <[u8; 16]>::try_from(key).map(QuorumId) else { continue };
                match wire::decode_record::<Departed>(&value) {
                    Ok(note) => drop(notes.insert(quorum, note)),
                    Err(error) => {
                        tracing::error!(%quorum, %error, "the note on a quorum that this node left cannot be read");
                        self.mark_forgotten(quorum, Promise { member: me, vote: Vote::default(), last: None }).await?;
                        batch.delete(DEPARTED_TREE, quorum.0);
                    }
                }
            }
        }
        let mut by_age: Vec<(Millis, QuorumId)> = notes.iter().map(|(id, note)| (note.left_at, *id)).collect();
        by_age.sort_unstable();
        by_age.truncate(notes.len().saturating_sub(DEPARTED_MAX));
        for (_, id) in &by_age {
            let promise = notes.remove(id).map(|note| note.promise);
            if let Some(promise) = promise.filter(|promise| promise.member == me) {
                self.mark_forgotten(*id, promise).await?;
            }
            batch.delete(DEPARTED_TREE, id.0);
        }
        *self.departed.write() = notes;
        match batch.is_empty() {
            true => Ok(()),
            false => self.storage.write(batch).await,
        }
    }

    pub fn departed(&self, quorum: QuorumId) -> Option<Departed> {
        let departed = self.departed.read();
        let now = self.seams.clock.wall();
        departed.get(&quorum).filter(|note| now.since(note.left_at) < DEPARTED_KEPT).cloned()
    }

    /// Leaves a quorum whose members no longer count this node among them; keeps a note on where they are.
    pub async fn leave(self: &Arc<Self>, quorum: QuorumId) -> Result<(), DiskError> {
        let _one_at_a_time = self.changing.lock().await;
        let Some(group) = self.group(quorum) else { return Ok(()) };
        let (membership, left_at) = (self.sign_membership(&group), self.seams.clock.wall());
        group.close().await;
        // What it had promised when it left an earlier time, or when this was tried before and the log is gone by now.
        let noted = self.departed.read().get(&quorum).map(|note| note.promise);
        let earlier = [group.record().promise, noted].into_iter().flatten();
        let earlier = earlier.filter(|promise| promise.member == group.me);
        let promise = earlier.fold(Promise::of(group.me, &group.log)?, Promise::join);
        let note = Departed { membership, left_at, promise };
        let mut batch = KvBatch::new();
        batch.put(DEPARTED_TREE, quorum.0, wire::encode_record(&note));
        let overflow = {
            let mut departed = self.departed.write();
            departed.insert(quorum, note);
            let is_over = departed.len() > DEPARTED_MAX;
            let others = departed.iter().filter(|(id, _)| **id != quorum);
            let oldest = others.min_by_key(|(id, note)| (note.left_at, **id));
            let overflow = oldest.map(|(id, _)| *id).filter(|_| is_over);
            overflow.and_then(|id| Some((id, departed.remove(&id)?)))
        };
        if let Some((id, note)) = overflow {
            if note.promise.member == group.me {
                self.mark_forgotten(id, note.promise).await?;
            }
            batch.delete(DEPARTED_TREE, id.0);
        }
        self.storage.write(batch).await?;
        // The mark first: a store without the group, and a mark that tells of it, would be taken for a disk that
        // forgot.
        self.forget(quorum).await?;
        records::erase(&self.storage, quorum).await?;
        self.groups.write().remove(&quorum);
        self.net.stop_providing(quorum);
        self.kick.notify_one();
        let _ = self.events.send(HostEvent::Left { quorum });
        Ok(())
    }

    /// Gives a promise up, for there are too many. The next start finds a mark without a group, and takes a new
    /// incarnation, which has promised nothing; until then this node joins no quorum. The record of a quorum that it is
    /// in again has its promise.
    async fn mark_forgotten(&self, quorum: QuorumId, promise: Promise) -> Result<(), DiskError> {
        if records::has_record(&self.storage, quorum)? {
            return Ok(());
        }
        tracing::warn!(%quorum, "this node left too many quorums to know what it promised in each: restart it");
        let (files, leader) = (self.storage.files(), promise.vote.leader_id);
        let (term, voted_for) = (Term(leader.term), leader.voted_for);
        let last = LogIndex(promise.last.map_or(0, |last| last.index));
        run_blocking(move || {
            let mut list = rollback_guard::list(&*files)?;
            list.insert(quorum);
            rollback_guard::write_list(&*files, list)?;
            rollback_guard::write(&*files, quorum, &RollbackMark { member: promise.member, term, voted_for, last })
        })
        .await?;
        self.has_forgotten.store(true, Ordering::Release);
        Ok(())
    }

    async fn forget(&self, quorum: QuorumId) -> Result<(), DiskError> {
        let files = self.storage.files();
        run_blocking(move || {
            rollback_guard::clear(&*files, quorum)?;
            let mut list = rollback_guard::list(&*files)?;
            list.remove(&quorum);
            rollback_guard::write_list(&*files, list)
        })
        .await
    }

    // --- founding ---

    /// Creates the quorum here, if this node promised to be a member of it. Repeating it changes nothing.
    pub async fn create(
        self: &Arc<Self>,
        from: PeerId,
        founding: Founding,
        members: Vec<Approval>,
        standbys: Vec<Approval>,
    ) -> Result<Arc<Group>, String> {
        let quorum = founding.quorum();
        self.check_founding(from, &founding, &members, &standbys)?;
        let me = self.identity.member();
        let mut record = GroupRecord { member: me, founding, members, standbys, asked_by: from, promise: None };
        let _one_at_a_time = self.changing.lock().await;
        if let Some(group) = self.group(quorum) {
            if group.is_stopped() {
                return Err("this member has stopped".to_owned());
            }
            // A newcomer that nobody has taken in yet is invited again by the primary of today. A founding is over
            // soon, and is not interfered with before.
            let is_new = group.is_new(self.seams.clock.monotonic());
            record.promise = group.record().promise;
            if !group.is_named() && !is_new && group.record() != record {
                let written = records::write_record(&self.storage, quorum, &record).await;
                written.map_err(|error| error.to_string())?;
                group.set_record(record);
            }
            return Ok(group);
        }
        if self.has_forgotten.load(Ordering::Acquire) {
            return Err(format!(
                "this node left more than {DEPARTED_MAX} quorums and joins no other until it restarts"
            ));
        }
        // Of however long ago.
        let promise = self.departed.read().get(&quorum).map(|note| note.promise);
        record.promise = promise.filter(|promise| promise.member == me);
        // Asked only now: a founding that is repeated may outlive the lease, and one that rejoins has lost it.
        let own = record.approvals().find(|approval| approval.statement.approver == me.peer);
        let own = own.map(|approval| approval.statement.clone());
        let rejoins = self.rejoining.lock().contains(&quorum);
        if let (Some(membership_leases), Some(own), false) = (self.membership_leases.get(), own, rejoins) {
            let stands = match own.subject {
                Subject::Founding { nonce } => membership_leases.bind(own.lease, nonce, quorum),
                _ => membership_leases.stands(own.lease, quorum),
            };
            if !stands {
                return Err("the promise of this node has run out".to_owned());
            }
        }
        if self.groups().len() >= QUORUMS_PER_NODE_MAX {
            return Err(format!("this node is a member of {QUORUMS_PER_NODE_MAX} quorums already"));
        }
        let peers: Vec<_> = record.approvals().map(|approval| approval.statement.approver).collect();
        let created = async {
            records::write_record(&self.storage, quorum, &record).await?;
            let files = self.storage.files();
            run_blocking(move || {
                let mut list = rollback_guard::list(&*files)?;
                list.insert(quorum);
                rollback_guard::clear(&*files, quorum)?;
                rollback_guard::write_list(&*files, list)
            })
            .await?;
            self.open(quorum, record, Some(self.seams.clock.monotonic())).await
        };
        let group = created.await.map_err(|error| error.to_string())?;
        self.rejoining.lock().remove(&quorum);
        peers.into_iter().filter(|peer| *peer != me.peer && !self.net.is_connected(*peer)).for_each(|peer| {
            self.links.dial(peer);
        });
        let _ = self.events.send(HostEvent::Joined { quorum });
        Ok(group)
    }

    fn check_founding(
        &self,
        from: PeerId,
        founding: &Founding,
        members: &[Approval],
        standbys: &[Approval],
    ) -> Result<(), String> {
        let quorum = founding.quorum();
        Tip::of_founding(quorum, founding).map_err(|fault| fault.to_string())?;
        if members.is_empty() || members.len() > VOTERS_MAX || standbys.len() > VOTERS_MAX + STANDBYS {
            return Err(format!("{} members and {} standbys", members.len(), standbys.len()));
        }
        let mut approvers = BTreeSet::new();
        let me = self.identity.member();
        let mut own = None;
        for approval in members.iter().chain(standbys) {
            let statement = &approval.statement;
            let is_ours = match statement.subject {
                Subject::Founding { nonce } => {
                    (nonce, statement.asker) == (founding.nonce, founding.founder)
                        && founding.voters.contains(&approval.member())
                }
                subject => subject == Subject::Member { quorum },
            };
            if !is_ours || !approval.is_genuine() {
                return Err(format!("the approval of {} is not for this", statement.approver));
            }
            if !approvers.insert(statement.approver) {
                return Err(format!("{} approved twice", statement.approver));
            }
            if statement.approver == me.peer {
                own = Some(statement);
            }
        }
        let own = own.ok_or("this node has not approved")?;
        if let Some(voter) = founding.voters.iter().find(|voter| !approvers.contains(&voter.peer)) {
            return Err(format!("{} is to be a first voter and has not approved", voter.peer));
        }
        let rejoins = self.rejoining.lock().contains(&quorum);
        if own.incarnation != me.incarnation && !rejoins {
            return Err("an earlier incarnation of this node approved".to_owned());
        }
        if from != own.asker && from != me.peer && !approvers.contains(&from) {
            return Err("neither the asker nor a member".to_owned());
        }
        Ok(())
    }

    /// As a member: makes the first entry and waits to be elected by it.
    pub(super) async fn initialize(&self, group: &Group) -> Result<(), String> {
        let members: BTreeMap<MemberId, EmptyNode> =
            group.record().founding.voters.into_iter().map(|voter| (voter, EmptyNode {})).collect();
        // An error says that the group has a first entry already, which is as good.
        if let Err(error) = group.raft.initialize(members).await {
            tracing::debug!(quorum = ?group.id, %error, "initializing");
        }
        let mut server = group.raft.server_metrics();
        let elected = async { while !group.is_raft_leader() && server.changed().await.is_ok() {} };
        let founders = group.founders();
        let latencies = founders.iter().map(|member| self.links.latencies.of_member(member, group.me));
        let slowest = latencies.fold(Latency::default(), Latency::max);
        match tokio::time::timeout(ELECTED_DEADLINE.max(2 * slowest.commit()), elected).await {
            Ok(()) if group.is_raft_leader() => Ok(()),
            _ => Err("not elected".to_owned()),
        }
    }

    /// As the founder.
    pub async fn found(
        self: &Arc<Self>,
        founding: Founding,
        members: Vec<Approval>,
        standbys: Vec<Approval>,
    ) -> Result<MemberId, FoundError> {
        let quorum = founding.quorum();
        let ids: Vec<MemberId> = members.iter().map(Approval::member).collect();
        let message = |initialize| RaftMessage::Found {
            founding: founding.clone(),
            members: members.clone(),
            standbys: standbys.clone(),
            initialize,
        };
        let asked = ids.iter().map(|member| self.ask_to_create(member.peer, message(false)));
        let answers = futures::future::join_all(asked).await;
        let founded = answers.iter().filter(|answer| answer.is_ok()).count();
        if founded < ids.len() || ids.is_empty() {
            let reasons = ids.iter().zip(&answers).filter_map(|(member, answer)| {
                answer.as_ref().err().map(|reason| format!("{}: {reason}", member.peer))
            });
            let reason = reasons.collect::<Vec<_>>().join("; ");
            return Err(FoundError::TooFew { quorum, founded, needed: ids.len(), reason });
        }
        // Ourselves first: then the primary is where the first commands come from.
        let mut order = ids;
        order.sort_by_key(|member| member.peer != self.identity.peer());
        let elected = async {
            loop {
                for member in &order {
                    match self.ask_to_found(member.peer, message(true)).await {
                        Ok(()) => return *member,
                        Err(reason) => tracing::debug!(?quorum, ?member, %reason, "asked to be the first primary"),
                    }
                }
                tokio::time::sleep(FOUND_PAUSE).await;
            }
        };
        tokio::time::timeout(FOUND_DEADLINE, elected)
            .await
            .map_err(|_| FoundError::NoPrimary { quorum, after: FOUND_DEADLINE })
    }

    /// Asks one peer to create a quorum, again when its answer is late: creating it twice changes nothing.
    async fn ask_to_create(self: &Arc<Self>, peer: PeerId, message: RaftMessage) -> Result<(), String> {
        let mut tries = 1;
        loop {
            match self.ask_to_found(peer, message.clone()).await {
                Err(FoundRefusal::Net(NetError::Timeout { .. })) if tries < FOUND_TRIES => tries += 1,
                answered => return answered.map_err(|refusal| refusal.to_string()),
            }
        }
    }

    /// Asks one peer, or this node itself, to create a quorum.
    pub async fn ask_to_found(self: &Arc<Self>, peer: PeerId, message: RaftMessage) -> Result<(), FoundRefusal> {
        let answer = if peer == self.identity.peer() {
            self.answer(peer, message).await.0
        } else {
            let initializes = matches!(message, RaftMessage::Found { initialize: true, .. });
            // To be elected takes what its syncs take; nothing else is tried meanwhile.
            let deadline = if initializes { RAFT_DEADLINE_MAX } else { RAFT_DEADLINE };
            self.links.ask(peer, &message, deadline).await?.0
        };
        match answer {
            RaftAnswer::Founded => Ok(()),
            RaftAnswer::Failed { reason } => Err(FoundRefusal::Refused(reason)),
            other => Err(FoundRefusal::Refused(format!("answered {other:?}"))),
        }
    }
}
