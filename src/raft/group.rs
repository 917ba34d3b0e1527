//! One quorum that this node is a member of: openraft, its stores, its proposer and what the node knows of its state.
//!
//! A group is opened from disk ([`Group::open`]) and runs until it is closed or stops by itself. Its *supervisor*
//! follows openraft's own account of who leads and turns it into [`HostEvent`]s. To be *leading* is more than to be
//! raft's leader: everything that was in the log when the lead was gained must be applied, and a majority must have
//! been heard lately (openraft 0.9 has no check-quorum). Only then does the node propose, read or derive duties here. A
//! member that is restarted leads again only when it is elected again ([`LogStore::end_own_lead`]).
//!
//! openraft ends for good at the first error of a store, a full disk among them. A group that ended so has *stopped*:
//! it leads nothing, grants nothing and says why, and `reopen` opens it again from its store as a restart would.

mod status;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::error::{CheckIsLeaderError, Fatal, RaftError};
use openraft::{LogIdOptionExt, ServerState};
use parking_lot::Mutex;
use quorate_protocols::approval::Approval;
use quorate_protocols::ids::{LogIndex, MemberId, Millis, PeerId, QuorumId, Term};
use quorate_protocols::liveness::{Judgement, LogPosition};
use quorate_protocols::quorum::Voters;
use quorate_protocols::quorum::limits::{
    APPEND_DEADLINE, LOG_BYTES_KEPT, LOG_BYTES_MAX, MAJORITY_SILENCE_MAX, PROPOSALS_MAX,
};
use quorate_protocols::quorum::request::QuorumView;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::clocks::NodeClocks;
use super::door::{Deposed, Vouched};
use super::log_store::{LastFault, LogStore};
use super::metrics::QuorumMetrics;
use super::network::{Connector, Links};
use super::own_sync::OwnSync;
use super::proposer::{Proposal, Proposer};
use super::read_index::ReadIndex;
use super::records::GroupRecord;
use super::rollback_guard::{self, RollbackGuard};
use super::shared_reads::SharedReads;
use super::snapshot::SnapshotStore;
use super::state_machine::{Machine, StateMachine};
use super::types::{Membership, Raft, config, members_of};
use super::{HostEvent, QuorumError};
use crate::seams::{DiskError, Seams};
use crate::signatures::SubmitSignatures;
use crate::storage::Storage;
use status::Status;

pub use status::Stop;

/// Between two snapshots that are taken for the bytes of the log: each encodes the state.
const COMPACT_PAUSE: Duration = Duration::from_secs(1);

/// How long a snapshot is waited for. One that was being built already is older than the one wanted.
const COMPACT_WAIT: Duration = Duration::from_secs(10);

/// What a group is opened with.
pub struct GroupParts {
    pub quorum: QuorumId,
    pub member: MemberId,
    pub record: GroupRecord,
    pub seams: Seams,
    pub storage: Storage,
    pub links: Arc<Links>,
    pub events: broadcast::Sender<HostEvent>,
    pub metrics: QuorumMetrics,
    pub clocks: Arc<NodeClocks>,
    pub signatures: SubmitSignatures,
    /// When the group was created, on the monotonic clock; `None` when it was loaded from disk.
    pub created_at: Option<Millis>,
    /// What the group had applied, and told as events, when it was open before in this process.
    pub told: LogIndex,
}

pub struct Group {
    pub id: QuorumId,
    pub me: MemberId,
    pub raft: Raft,
    pub machine: Arc<Machine>,
    pub snapshots: SnapshotStore,
    pub proposals: mpsc::Sender<Proposal>,
    /// Held while a snapshot is fetched: one at a time.
    pub receiving: tokio::sync::Mutex<()>,
    /// Held by whoever changes the members, from the decision to the end: what one begins nobody else undoes.
    pub changing: Arc<tokio::sync::Mutex<()>>,
    clocks: Arc<NodeClocks>,
    created_at: Option<Millis>,
    record: Mutex<GroupRecord>,
    status: Mutex<Status>,
    /// What openraft's metrics do not tell, or too late: its log store is told of a vote before it is used, and of what
    /// is committed before it is applied.
    pub log: LogStore,
    /// See [`Self::is_named`].
    pub(super) named: AtomicBool,
    pub(super) vouched: Mutex<Option<Vouched>>,
    /// When the voters were last asked about a stranger, and for their digests, on the monotonic clock.
    pub(super) inquired_at: Mutex<Option<Millis>>,
    pub(super) polled_at: Mutex<Option<Millis>>,
    pub(super) deposed: Mutex<Option<Deposed>>,
    reads: SharedReads,
    links: Arc<Links>,
    events: broadcast::Sender<HostEvent>,
    metrics: QuorumMetrics,
    fault: LastFault,
    stop: CancellationToken,
    /// Ends once nothing writes the group's mark any more.
    marking: tokio::sync::Mutex<Option<tokio::task::JoinHandle<Option<()>>>>,
}

impl Group {
    /// Starts the group from what is on disk, and its actors in the caller's task group.
    pub async fn open(parts: GroupParts) -> Result<Arc<Self>, DiskError> {
        let GroupParts {
            quorum,
            member,
            record,
            seams,
            storage,
            links,
            events,
            metrics,
            clocks,
            signatures,
            created_at,
            told,
        } = parts;
        let files = storage.files();
        let kept = rollback_guard::read(&*files, quorum)?;
        let keeper = RollbackGuard::new(files, quorum, member, kept);
        let fault = LastFault::default();
        let own_sync = OwnSync::new(Some(member));
        let mut log = LogStore::new(storage.clone(), quorum, keeper, own_sync.clone(), fault.clone());
        let opening = |error: &dyn std::fmt::Display| {
            let damaged =
                || DiskError::Damaged { place: format!("the log of quorum {quorum}"), reason: error.to_string() };
            fault.get().unwrap_or_else(damaged)
        };
        log.begin_behind_snapshot().await?;
        if let Some(promise) = record.promise {
            log.keep_promised_vote(promise.vote).await.map_err(|error| opening(&error))?;
        }
        log.end_own_lead(member).await.map_err(|error| opening(&error))?;
        let snapshots = log.snapshots.clone();
        let (state_machine, machine) =
            StateMachine::open(quorum, log.clone(), events.clone(), (told, signatures), fault.clone())?;
        let connector = Connector {
            quorum,
            me: member,
            links: links.clone(),
            machine: machine.clone(),
            read_index: ReadIndex::default(),
            known_vote: log.known_vote.clone(),
            own_sync,
        };
        let raft = Raft::new(member, config(member), connector, log.clone(), state_machine)
            .await
            .map_err(|error| opening(&error))?;
        // openraft's metrics start blank and tell what is on disk only once its task has run. Before that the group
        // would seem to be in term 0, without members. Fails when that task ended at once, which the supervisor tells.
        let _ = raft.server_metrics().wait_for(|told| told.id == member).await;
        let (proposals, queue) = mpsc::channel(PROPOSALS_MAX);
        let stop = CancellationToken::new();
        let named = log.is_named()?;
        let marking = crate::seams::spawn(log.clone().keep_marked(stop.clone()));
        let group = Arc::new(Self {
            id: quorum,
            me: member,
            raft,
            machine,
            snapshots,
            proposals,
            receiving: tokio::sync::Mutex::default(),
            changing: Arc::default(),
            clocks,
            created_at,
            record: Mutex::new(record),
            status: Mutex::default(),
            log,
            named: AtomicBool::new(named),
            vouched: Mutex::default(),
            inquired_at: Mutex::default(),
            polled_at: Mutex::default(),
            deposed: Mutex::default(),
            reads: SharedReads::new(quorum, seams.tasks.clone()),
            links,
            events,
            metrics: metrics.clone(),
            fault,
            stop,
            marking: tokio::sync::Mutex::new(Some(marking)),
        });
        let proposer =
            Proposer { group: group.clone(), queue, clock: seams.clock.clone(), metrics, wrote_at: None, wrote: false };
        crate::seams::spawn(proposer.run());
        crate::seams::spawn(Self::supervise(group.clone()));
        crate::seams::spawn(Self::compact_by_bytes(group.clone()));
        Ok(group)
    }

    /// Ends the group's actors and openraft. Once this has returned, nothing of the group changes what is on disk.
    pub async fn close(&self) {
        self.stop.cancel();
        // Fails only when openraft's task panicked, which it has logged.
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(quorum = ?self.id, %error, "openraft did not end in order");
        }
        if let Some(marking) = self.marking.lock().await.take() {
            // Fails only when marking panicked.
            let _ = marking.await;
        }
    }

    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    pub fn record(&self) -> GroupRecord {
        self.record.lock().clone()
    }

    pub fn set_record(&self, record: GroupRecord) {
        *self.record.lock() = record;
    }

    fn status<T>(&self, read: impl FnOnce(&mut Status) -> T) -> T {
        read(&mut self.status.lock())
    }

    // --- what openraft says ---

    /// The configuration in force: every voter set of it, so two while a change is under way.
    pub fn membership(&self) -> Membership {
        self.raft.server_metrics().borrow().membership_config.membership().clone()
    }

    pub fn configurations(&self) -> Vec<Voters> {
        self.membership().get_joint_config().iter().map(|voters| Voters::new(voters.iter().copied())).collect()
    }

    pub fn members(&self) -> BTreeSet<MemberId> {
        self.membership().nodes().map(|(member, _)| *member).collect()
    }

    pub fn has_member(&self, peer: PeerId) -> bool {
        self.raft.server_metrics().borrow().membership_config.nodes().any(|(member, _)| member.peer == peer)
    }

    /// Of the configuration in force, each once; the founders while there is none.
    pub fn voters(&self) -> Vec<PeerId> {
        let metrics = self.raft.server_metrics();
        let mut voters: BTreeSet<PeerId> =
            metrics.borrow().membership_config.membership().voter_ids().map(|voter| voter.peer).collect();
        if self.is_blank() {
            voters.extend(self.founders().iter().map(|voter| voter.peer));
        }
        voters.into_iter().collect()
    }

    pub fn term(&self) -> Term {
        Term(self.raft.server_metrics().borrow().vote.leader_id.term)
    }

    /// The primary as openraft believes, whether or not it is reachable. What openraft last said of itself outlives it:
    /// a member that has stopped leads nothing. And openraft follows also one that is no voter: it leads nobody.
    pub fn primary(&self) -> Option<MemberId> {
        let (is_named, server) = (self.is_named(), self.raft.server_metrics());
        let server = server.borrow();
        let joint = server.membership_config.membership().get_joint_config();
        let may_lead = |primary: &MemberId| !is_named || joint.iter().any(|voters| voters.contains(primary));
        server.current_leader.filter(|primary| (*primary != self.me || !self.is_stopped()) && may_lead(primary))
    }

    /// Raft's leader here, ready or not.
    pub fn is_raft_leader(&self) -> bool {
        matches!(self.raft.server_metrics().borrow().state, ServerState::Leader) && !self.is_stopped()
    }

    pub fn last_log(&self) -> LogPosition {
        let metrics = self.raft.data_metrics();
        let last = metrics.borrow().last_log;
        last.map_or(LogPosition::default(), |last| LogPosition {
            term: Term(last.leader_id.term),
            index: LogIndex(last.index),
        })
    }

    /// Whether this member left and was taken in again, and its log is not yet as long as the one that it had.
    pub fn is_behind_promise(&self) -> bool {
        let promised = self.record.lock().promise.and_then(|promise| promise.last);
        self.raft.data_metrics().borrow().last_log < promised
    }

    /// Nothing was ever agreed on here: the founding did not get this far.
    pub fn is_blank(&self) -> bool {
        self.membership().nodes().next().is_none()
    }

    /// The voters with which the group was founded, or into which this member was invited.
    pub fn founders(&self) -> Voters {
        Voters::new(self.record().members.iter().map(Approval::member))
    }

    /// Whether the group is so new that the first heartbeats of its members may still be on their way. A group that
    /// comes from disk has no such grace: a primary that restarted must hear its majority before it acts.
    pub fn is_new(&self, now: Millis) -> bool {
        self.created_at.is_some_and(|at| now.since(at) <= MAJORITY_SILENCE_MAX)
    }

    // --- what callers may do ---

    pub fn leading(&self) -> Option<Term> {
        self.status(|status| status.leading())
    }

    pub fn not_primary(&self) -> QuorumError {
        let (voters, _) = members_of(&self.membership());
        QuorumError::NotPrimary {
            quorum: self.id,
            primary: self.primary().filter(|primary| *primary != self.me),
            voters,
        }
    }

    pub fn stopped(&self, reason: &str) -> QuorumError {
        QuorumError::Stopped { quorum: self.id, reason: reason.to_owned() }
    }

    fn refusal(&self, stop: &Stop) -> QuorumError {
        match stop {
            Stop::Full => QuorumError::DiskFull { quorum: self.id },
            other => self.stopped(&other.to_string()),
        }
    }

    /// What a command hears that was not proposed because the group has ended.
    pub fn closed(&self) -> QuorumError {
        let stop = self.status(|status| status.stopped.clone());
        self.refusal(&stop.unwrap_or_else(|| self.ended_by()))
    }

    /// What a command hears that was in flight, for `after`, when the group ended.
    pub fn interrupted(&self, after: Duration) -> QuorumError {
        QuorumError::Unknown { after, reason: Some(self.ended_by().to_string()) }
    }

    /// The term in which this node may act as primary, or why it may not.
    pub fn check_leading(&self) -> Result<Term, QuorumError> {
        let status = self.status(|status| status.clone());
        match status {
            Status { stopped: Some(stop), .. } => Err(self.refusal(&stop)),
            Status { led: Some(term), unheard: None, .. } => Ok(term),
            Status { unheard: Some(reason), .. } => Err(QuorumError::Paused { quorum: self.id, reason }),
            _ => Err(self.not_primary()),
        }
    }

    /// Waits until everything committed before this call is applied here, and a majority has confirmed the lead.
    pub async fn confirm_lead(self: &Arc<Self>) -> Result<(), QuorumError> {
        self.check_leading()?;
        // openraft's own deadline ends the asking; waiting for the state machine has none of its own.
        let (group, timed) = (self.clone(), self.clone());
        let deadline = move || 2 * timed.append_deadline();
        let confirm = move |deadline| {
            let group = group.clone();
            async move { group.confirm_lead_within(deadline).await }
        };
        self.reads.confirm(deadline, confirm).await
    }

    async fn confirm_lead_within(&self, deadline: Duration) -> Result<(), QuorumError> {
        match tokio::time::timeout(deadline, self.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_)))) => Err(self.not_primary()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(missing)))) => Err(QuorumError::Paused {
                quorum: self.id,
                reason: format!("only {} voters confirmed the primary", missing.got.len()),
            }),
            Ok(Err(RaftError::Fatal(_))) => Err(self.closed()),
            Err(_) => Err(QuorumError::Unknown { after: deadline, reason: None }),
        }
    }

    /// How long an append to the slowest voter may take.
    fn append_deadline(&self) -> Duration {
        let voters = self.membership().voter_ids().collect::<Vec<_>>();
        let others = voters.into_iter().filter(|voter| *voter != self.me);
        others.map(|voter| self.links.latencies.append_deadline(voter.peer)).max().unwrap_or(APPEND_DEADLINE)
    }

    /// The time by the clocks of a majority; `None` while too few of them are known.
    pub fn judge_clock(&self) -> Option<Judgement> {
        self.clocks.judge(self.me, &self.configurations())
    }

    /// This node's own wall clock, for a record that knows no time yet.
    pub fn own_clock(&self) -> Millis {
        self.clocks.own()
    }

    pub fn view(&self) -> QuorumView {
        let (mut voters, learners) = members_of(&self.membership());
        if voters.is_empty() {
            voters = self.record().members.iter().map(Approval::member).collect();
        }
        let status = self.status(|status| status.clone());
        let applied = self.machine.read(|applied| {
            let (jobs_live, jobs_ended, objects) = applied.state.counts();
            QuorumView {
                quorum: self.id,
                term: self.term(),
                primary: self.primary(),
                voters,
                learners,
                standbys: applied.state.standbys().iter().map(Approval::member).collect(),
                // A snapshot brings in what was applied elsewhere, and a restart begins with what is on disk.
                committed: LogIndex(self.log.committed.load(Ordering::Acquire).max(applied.last.index().unwrap_or(0))),
                applied: LogIndex(applied.last.index().unwrap_or(0)),
                digest: applied.digest(),
                jobs_live,
                jobs_ended,
                objects,
                room: applied.state.room(),
                level: applied.state.level(),
                time: applied.state.wall(),
                clock_apart_ms: None,
                clock_step: applied.state.clock_step(),
                paused: None,
            }
        });
        let stopped = status.stopped.map(|stop| stop.to_string());
        let clock_apart_ms = self.judge_clock().map(|judged| judged.apart_ms);
        QuorumView { paused: stopped.or(status.unheard), clock_apart_ms, ..applied }
    }

    /// What ended openraft, by its own account.
    fn ended_by(&self) -> Stop {
        let state = self.raft.metrics().borrow().running_state.clone();
        match state {
            Err(Fatal::StorageError(error)) => match self.fault.get() {
                Some(fault) => fault.into(),
                // Not the disk's doing: trying again would end the same.
                None => Stop::ForGood(error.to_string()),
            },
            _ if self.stop.is_cancelled() => Stop::ForGood("the group closed".to_owned()),
            Err(Fatal::Stopped | Fatal::Panicked) | Ok(()) => Stop::ForGood("openraft ended".to_owned()),
        }
    }

    /// openraft's task is gone.
    fn ended(&self) {
        if !self.stop.is_cancelled() {
            self.halt(self.ended_by());
        }
    }

    fn emit(&self, event: HostEvent) {
        // Fails only when nobody listens.
        let _ = self.events.send(event);
    }

    // --- the supervisor ---

    async fn supervise(group: Arc<Self>) {
        let mut server = group.raft.server_metrics();
        let mut primary_seen = None;
        loop {
            let now = server.borrow_and_update().clone();
            let term = Term(now.vote.leader_id.term);
            if let Some(primary) = now.current_leader
                && primary_seen.replace((term, primary)) != Some((term, primary))
            {
                group.emit(HostEvent::Primary { quorum: group.id, term, primary });
            }
            match now.state {
                ServerState::Shutdown => return group.ended(),
                ServerState::Leader => {
                    if group.status(|status| status.led) != Some(term) {
                        group.lost_lead();
                        // Whatever is in the log now may have been acknowledged by the primary before.
                        let end = group.raft.metrics().borrow().last_log_index;
                        let caught_up = group.raft.wait(None);
                        tokio::select! {
                            biased;
                            () = group.stop.cancelled() => return,
                            changed = server.changed() => {
                                if changed.is_err() { return group.ended() }
                                continue;
                            }
                            applied = caught_up.applied_index_at_least(end, "gaining the lead") => {
                                if applied.is_err() { continue }
                            }
                        }
                        group.metrics.leads.inc();
                        let leading = group.status(|status| {
                            status.led = Some(term);
                            status.leading()
                        });
                        tracing::debug!(quorum = %group.id, %term, heard = leading.is_some(), "leading");
                        if let Some(term) = leading {
                            group.emit(HostEvent::Leading { quorum: group.id, term });
                        }
                    }
                }
                _ => group.lost_lead(),
            }
            tokio::select! {
                biased;
                () = group.stop.cancelled() => return,
                // These metrics never tell of openraft's end: their sender goes with it.
                changed = server.changed() => if changed.is_err() { return group.ended() },
            }
        }
    }

    // --- the log ---

    /// Takes a snapshot, and lets go of the log before it, whenever the log has become heavy: openraft counts entries.
    async fn compact_by_bytes(group: Arc<Self>) {
        let (sizes, heavy) = &*group.log.sizes;
        loop {
            let is_heavy = sizes.lock().bytes() >= LOG_BYTES_MAX;
            tokio::select! {
                biased;
                () = group.stop.cancelled() => return,
                () = heavy.notified(), if !is_heavy => continue,
                () = tokio::time::sleep(COMPACT_PAUSE), if is_heavy => (),
            }
            let (surplus, applied) = (sizes.lock().end_of_surplus(LOG_BYTES_KEPT), group.applied());
            let taken = group.raft.wait(None);
            let taken = taken.metrics(|metrics| metrics.snapshot.index() >= applied, "a snapshot of a heavy log");
            let compacted = async {
                group.raft.trigger().snapshot().await?;
                // Late or not: what is not in a snapshot stays.
                let _ = tokio::time::timeout(COMPACT_WAIT, taken).await;
                match surplus {
                    Some(surplus) => group.raft.trigger().purge_log(surplus).await,
                    None => Ok(()),
                }
            };
            tokio::select! {
                biased;
                () = group.stop.cancelled() => return,
                // Fails only when openraft has ended, which the supervisor tells.
                compacted = compacted => if compacted.is_err() { return },
            }
        }
    }

    fn applied(&self) -> Option<u64> {
        self.machine.read(|applied| applied.last.index())
    }

    fn lost_lead(&self) {
        let led = self.status(|status| {
            let led = status.leading().is_some();
            status.led = None;
            led
        });
        if led {
            self.emit(HostEvent::NotLeading { quorum: self.id });
        }
    }
}
