//! Placement of new jobs: which quorum each belongs to.
//!
//! A job goes to an announced quorum with room: two are drawn and the less loaded is asked whether it lives (the power
//! of two choices: near the balance of asking all, for two questions). When there is none, one is formed from signed
//! approvals. Callers that arrive while a quorum is being formed share it.
//!
//! Every command of a job makes a round trip to its quorum's primary, so quorums that are led from afar are passed over
//! while a nearer one has room, or can be formed. The question whether a quorum lives is such a trip too: one that took
//! work a moment ago, and whose primary is connected, is not asked again. Whoever founds a quorum chooses its voters,
//! and may choose itself alone: a quorum whose certificate names too few voters, or others than this node relies on, is
//! given no work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, join_all};
use parking_lot::Mutex;
use quorate_protocols::approval::formation::{self, Volunteer, ZONE_LABEL};
use quorate_protocols::approval::limits::STANDBYS;
use quorate_protocols::approval::limits::{MEMBER_DISK_BYTES, MEMBER_MEMORY_BYTES};
use quorate_protocols::approval::{Approval, Subject};
use quorate_protocols::capacity::{Capacity, Requirement};
use quorate_protocols::certificate::Founding;
use quorate_protocols::directory::QuorumAdvert;
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{JobId, MemberId, Nonce, PeerId, QuorumId};
use quorate_protocols::liveness::LivenessMessage;
use quorate_protocols::liveness::distant_peers;
use quorate_protocols::liveness::limits::DELAY_MAX;
use quorate_protocols::membership::Voters;
use quorate_protocols::quorum::limits::{VOTERS_MAX, VOTERS_MIN};
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::wire;

use tokio::time::Instant;

use super::approvals::Approvals;
use super::client::QuorumClient;
use super::ports::Knowledge;
use super::{ClientError, PlacementError, RoundError};
use crate::raft::QuorumHost;
use crate::seams::{Entropy, Frame, Net, Protocol, TaskGroup};

/// A promise to be a member is used within seconds, and lasts so long from then. The approver makes it last for as long
/// as its node is a member, and the primary prolongs those of the standbys.
pub const MEMBER_LEASE: Duration = Duration::from_secs(120);

/// Drawn quorums that are asked before a new one is formed.
const CHOICES_TRIED_MAX: usize = 3;

/// Peers whose round trips are measured beside that of a primary that seems to be far: enough for a middle one.
const NEARER_MEASURED: usize = 4;

/// A quorum that was found near after all is taken as near for so long.
const NEAR_FOR: Duration = Duration::from_secs(10);

/// How long a peer may take for a measured round trip. Whoever takes longer is far, whatever others take.
const MEASURE_PATIENCE: Duration = Duration::from_secs(1);

/// A quorum that does not answer within this, and some round trips, is not given new work.
const CHOICE_DEADLINE: Duration = Duration::from_secs(2);

/// A quorum whose members answer and elect is given this long: another is not founded for want of patience. Over slow
/// links and on slow disks an election takes seconds.
const ELECTION_PATIENCE: Duration = Duration::from_secs(15);

/// What a member must have room for.
pub fn member_requirement() -> Requirement {
    Capacity { disk_bytes: MEMBER_DISK_BYTES, memory_bytes: MEMBER_MEMORY_BYTES, slots: 0 }.into()
}

/// Picks an eligible quorum with room, or forms one.
#[derive(Clone)]
pub struct Placement(Arc<Inner>);

/// What a placement is built from. `voters` is the size of the quorums that it forms.
pub struct PlacementParts {
    pub tasks: TaskGroup,
    pub entropy: Arc<dyn Entropy>,
    pub knowledge: Arc<dyn Knowledge>,
    pub client: QuorumClient,
    pub net: Arc<dyn Net>,
    pub approvals: Approvals,
    pub host: QuorumHost,
    pub voters: usize,
}

/// A quorum that refused work for want of room, be it in its owner's share, is passed over for this long.
pub(super) const FULL_REST: Duration = Duration::from_secs(60);

/// A quorum that took work, or said that it would, is given more for this long without being asked. About as long as a
/// node takes to see that a peer is absent: the answer to a question would be as old.
const OPEN_FOR: Duration = Duration::from_secs(1);

/// Quorums that are remembered for either; beyond that the one remembered first is forgotten.
const REMEMBERED_MAX: usize = 1_024;

/// Quorums that gave the same answer to this node's work a moment ago.
struct Answered {
    holds_for: Duration,
    at: BTreeMap<QuorumId, Instant>,
}

impl Answered {
    fn new(holds_for: Duration) -> Self {
        Self { holds_for, at: BTreeMap::new() }
    }

    fn record(&mut self, quorum: QuorumId) {
        self.at.insert(quorum, Instant::now());
        if self.at.len() > REMEMBERED_MAX
            && let Some(first) = self.at.iter().min_by_key(|(_, at)| **at).map(|(quorum, _)| *quorum)
        {
            self.at.remove(&first);
        }
    }

    fn forget(&mut self, quorum: QuorumId) {
        self.at.remove(&quorum);
    }

    fn has(&self, quorum: QuorumId) -> bool {
        self.at.get(&quorum).is_some_and(|at| at.elapsed() < self.holds_for)
    }

    fn all(&mut self) -> BTreeSet<QuorumId> {
        self.at.retain(|_, at| at.elapsed() < self.holds_for);
        self.at.keys().copied().collect()
    }
}

type Formation = Shared<BoxFuture<'static, Result<QuorumId, PlacementError>>>;

struct Inner {
    parts: PlacementParts,
    /// The formation under way, which every caller that needs a quorum waits for.
    forming: Mutex<Option<Formation>>,
    /// They had no room for this node's work.
    full: Mutex<Answered>,
    /// They took work, or would have.
    open: Mutex<Answered>,
    /// They seemed to be led from afar, and are not.
    near: Mutex<Answered>,
}

impl Placement {
    pub fn new(parts: PlacementParts) -> Self {
        let (full, open) = (Mutex::new(Answered::new(FULL_REST)), Mutex::new(Answered::new(OPEN_FOR)));
        let near = Mutex::new(Answered::new(NEAR_FOR));
        Self(Arc::new(Inner { parts, forming: Mutex::new(None), full, open, near }))
    }

    /// The quorum has no room for this node's work: others are chosen for a while.
    pub fn record_full(&self, quorum: QuorumId) {
        self.record_silent(quorum);
        self.0.full.lock().record(quorum);
    }

    /// The quorum has just taken work of this node.
    pub fn record_open(&self, quorum: QuorumId) {
        self.0.open.lock().record(quorum);
    }

    /// The quorum did not take work of this node: it is asked before it is given more.
    pub fn record_silent(&self, quorum: QuorumId) {
        self.0.open.lock().forget(quorum);
    }

    /// A new id for a job of this quorum.
    pub fn job_id(&self, quorum: QuorumId) -> JobId {
        JobId { quorum, local: self.0.parts.entropy.bytes() }
    }

    pub async fn quorum_for_job(&self) -> Result<QuorumId, PlacementError> {
        let mut refused = self.0.full.lock().all();
        for _ in 0..CHOICES_TRIED_MAX {
            let parts = &self.0.parts;
            let may_take = |quorum: &QuorumAdvert| {
                quorum.room > 0 && !refused.contains(&quorum.quorum) && self.is_relied_on(quorum)
            };
            let eligible: Vec<QuorumAdvert> = parts.knowledge.quorums().into_iter().filter(may_take).collect();
            let Some(eligible) = self.nearest(eligible).await else {
                tracing::info!("every quorum that takes work is led from afar: another is formed");
                break;
            };
            let Some(choice) = choose(&eligible, &*parts.entropy) else { break };
            if self.has_just_taken_work(choice) || self.is_open(choice).await {
                return Ok(choice);
            }
            refused.insert(choice);
        }
        self.form_shared().await
    }

    /// The quorums among these that are not led from afar. All of them if each is and the nearer peers are too few to
    /// form another; `None` if they are enough.
    async fn nearest(&self, quorums: Vec<QuorumAdvert>) -> Option<Vec<QuorumAdvert>> {
        let parts = &self.0.parts;
        let connected = parts.net.peers().into_iter().filter(|view| view.connected);
        let measured = connected.filter_map(|view| Some((view.peer, parts.net.round_trip(view.peer)?)));
        let distant = distant_peers(&measured.collect());
        let known = self.0.near.lock().all();
        let is_near = |quorum: &QuorumAdvert| {
            known.contains(&quorum.quorum)
                || parts.client.primary_known(quorum.quorum).is_none_or(|primary| !distant.contains(&primary))
        };
        let (near, far): (Vec<_>, Vec<_>) = quorums.into_iter().partition(is_near);
        if !near.is_empty() || far.is_empty() {
            return Some(near);
        }
        let candidates = parts.knowledge.candidates(NodeRole::Store, &member_requirement());
        let can_serve = |peer: &PeerId| !distant.contains(peer) && !parts.net.is_absent(*peer);
        let nearer: Vec<PeerId> = candidates.into_iter().filter(can_serve).collect();
        if nearer.len() < parts.voters {
            return Some(far);
        }
        let near = self.near_after_all(far, &nearer).await;
        near.iter().for_each(|quorum| self.0.near.lock().record(quorum.quorum));
        (!near.is_empty()).then_some(near)
    }

    /// Those of the distant quorums whose primaries are found near when they are asked now, beside some of the peers
    /// that would form another. What was measured before may be one ping, from a moment in which the machine at either
    /// end was busy, and a quorum is not founded for that.
    async fn near_after_all(&self, far: Vec<QuorumAdvert>, nearer: &[PeerId]) -> Vec<QuorumAdvert> {
        let parts = &self.0.parts;
        let far = far.into_iter().take(CHOICES_TRIED_MAX);
        let led: Vec<_> = far.filter_map(|quorum| Some((parts.client.primary_known(quorum.quorum)?, quorum))).collect();
        let local = parts.net.local_peer();
        let can_answer = |peer: &PeerId| *peer != local && parts.net.is_connected(*peer);
        let others = nearer.iter().copied().filter(can_answer).take(NEARER_MEASURED);
        let peers: BTreeSet<PeerId> = led.iter().map(|(primary, _)| *primary).chain(others).collect();
        let measured = join_all(peers.into_iter().map(|peer| async move { Some((peer, self.measure(peer).await?)) }));
        let measured: BTreeMap<PeerId, Duration> = measured.await.into_iter().flatten().collect();
        let distant = distant_peers(&measured);
        let is_near = |primary: &PeerId| measured.contains_key(primary) && !distant.contains(primary);
        led.into_iter().filter(|(primary, _)| is_near(primary)).map(|(_, quorum)| quorum).collect()
    }

    /// The shorter of two round trips to the peer now; `None` if it does not answer.
    async fn measure(&self, peer: PeerId) -> Option<Duration> {
        let question = Frame::head(wire::encode(&LivenessMessage::Leading));
        let mut shortest: Option<Duration> = None;
        for _ in 0..2 {
            let began = Instant::now();
            let asked = self.0.parts.net.request(peer, Protocol::Liveness, question.clone(), MEASURE_PATIENCE);
            if asked.await.is_ok() {
                let took = began.elapsed();
                shortest = Some(shortest.map_or(took, |before| before.min(took)));
            }
        }
        shortest
    }

    /// Whether the quorum took work a moment ago, under a primary that this node hears.
    fn has_just_taken_work(&self, quorum: QuorumId) -> bool {
        let (net, client) = (&self.0.parts.net, &self.0.parts.client);
        let is_open = self.0.open.lock().has(quorum);
        let is_heard = |peer: PeerId| peer == net.local_peer() || (net.is_connected(peer) && !net.is_absent(peer));
        is_open && client.primary_known(quorum).is_some_and(is_heard)
    }

    /// Whether the quorum takes work now, or after the election that it is in.
    async fn is_open(&self, quorum: QuorumId) -> bool {
        let (began, slowest) = (Instant::now(), self.slowest_round_trip());
        loop {
            match self.0.parts.client.query(quorum, Query::Quorum, false, CHOICE_DEADLINE + 8 * slowest).await {
                // What it announced may be old.
                Ok(QueryAnswer::Quorum(view)) => {
                    let is_open = view.paused.is_none() && view.room > 0;
                    if is_open {
                        self.record_open(quorum);
                    }
                    return is_open;
                }
                Err(ClientError::NoPrimary { .. }) if began.elapsed() < ELECTION_PATIENCE => (),
                // Members hold the question until they have elected, and may be asked for a proof first.
                Err(ClientError::Unreachable { .. })
                    if began.elapsed() < ELECTION_PATIENCE && self.has_live_member(quorum) => {}
                // A member that has just lost its primary may hear no majority either, and over slow links the members
                // hold the question for longer than it may take.
                Err(ClientError::Paused { .. } | ClientError::Unknown { .. } | ClientError::Unreachable { .. })
                    if began.elapsed() < 16 * slowest => {}
                other => {
                    tracing::info!(%quorum, ?other, "a quorum is passed over for new work");
                    return false;
                }
            }
        }
    }

    /// Whether the quorum is one to rely on, by its voters and not by the members that it names.
    fn is_relied_on(&self, advert: &QuorumAdvert) -> bool {
        let parts = &self.0.parts;
        let voters = parts.client.voters_shown(advert).unwrap_or_default();
        may_own_work(&voters, |peer| parts.knowledge.check_trust(peer).is_ok())
    }

    /// Whether a member that is known here is connected, and not known to be away.
    fn has_live_member(&self, quorum: QuorumId) -> bool {
        let (net, knowledge) = (&self.0.parts.net, &self.0.parts.knowledge);
        let members = knowledge.quorum(quorum).map(|advert| advert.members).unwrap_or_default();
        members.iter().any(|member| net.is_connected(member.peer) && !net.is_absent(member.peer))
    }

    /// Of all connected peers. A question takes several: a member answers, names the primary, and that one asks the
    /// others.
    fn slowest_round_trip(&self) -> Duration {
        let round_trips = self.0.parts.net.peers().into_iter().filter(|peer| peer.connected);
        round_trips.filter_map(|peer| peer.rtt).max().unwrap_or_default().min(DELAY_MAX)
    }

    /// One formation for all callers that come while it runs.
    async fn form_shared(&self) -> Result<QuorumId, PlacementError> {
        let formation = {
            let mut forming = self.0.forming.lock();
            match forming.as_ref().filter(|formation| formation.peek().is_none()) {
                Some(formation) => formation.clone(),
                None => {
                    let placement = self.clone();
                    let formation = async move { placement.form_one().await };
                    let formation = formation.boxed().shared();
                    *forming = Some(formation.clone());
                    formation
                }
            }
        };
        formation.await
    }

    /// Forms a new quorum of the size that this node's quorums have. It forms in a task of the node: a caller who goes
    /// away leaves a quorum behind, not half of one.
    pub async fn form_one(&self) -> Result<QuorumId, PlacementError> {
        let placement = self.clone();
        let voters = self.0.parts.voters;
        match self.0.parts.tasks.spawn(async move { placement.form(voters).await }).await {
            Ok(Some(result)) => result,
            // The node stops, and its callers with it.
            Ok(None) => std::future::pending().await,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Forms a new quorum whatever the directory holds.
    pub async fn form(&self, voters: usize) -> Result<QuorumId, PlacementError> {
        let parts = &self.0.parts;
        let voters = voters.clamp(VOTERS_MIN, VOTERS_MAX);
        let nonce = Nonce(parts.entropy.bytes());
        let requirement = member_requirement();
        let subject = Subject::Founding { nonce };
        let approvals = parts
            .approvals
            .gather(subject, requirement, voters, voters + STANDBYS, Vec::new(), MEMBER_LEASE)
            .await
            .map_err(|source| PlacementError::Form { needed: voters, source })?;
        let known = parts.knowledge.peers();
        let zone_of = |peer: PeerId| {
            let labels = known.iter().find(|known| known.peer == peer).map(|known| &known.advert.labels);
            labels.and_then(|labels| labels.get(ZONE_LABEL)).cloned()
        };
        let volunteers = approvals
            .into_iter()
            .map(|approval| Volunteer { zone: zone_of(approval.statement.approver), approval })
            .collect();
        let formation = formation::choose(volunteers, voters).map_err(|few| PlacementError::Form {
            needed: voters,
            source: RoundError::TooFew {
                needed: few.needed,
                granted: few.distinct,
                refusals: Vec::new(),
                silent: Vec::new(),
                exhausted: false,
            },
        })?;
        for unused in formation.unused {
            let (approvals, statement) = (parts.approvals.clone(), unused.statement);
            // Best effort: a lease ends by itself.
            parts.tasks.spawn(async move { approvals.give_back(statement.approver, statement.lease).await });
        }
        let members: Vec<MemberId> = formation.members.iter().map(Approval::member).collect();
        let founding = Founding::new(parts.net.local_peer(), nonce, members.iter().copied());
        let quorum = founding.quorum();
        let primary = parts.host.found(founding, formation.members, Vec::new()).await?;
        // Who only knows the primary has nobody to ask when it dies before the first announcement.
        parts.client.learn(quorum, Some(primary), &members);
        Ok(quorum)
    }
}

/// The less loaded of two drawn at random.
fn choose(eligible: &[QuorumAdvert], entropy: &dyn Entropy) -> Option<QuorumId> {
    let draw = || eligible.get(entropy.below(eligible.len() as u64) as usize);
    let (one, other) = (draw()?, draw()?);
    let load = |advert: &QuorumAdvert| (advert.jobs, advert.objects, advert.quorum);
    Some(if load(one) <= load(other) { one.quorum } else { other.quorum })
}

/// Whether a quorum of these voters may be given work: they are as many as quorums have, and a majority is trusted.
fn may_own_work(voters: &[PeerId], is_trusted: impl Fn(PeerId) -> bool) -> bool {
    let trusted = voters.iter().filter(|peer| is_trusted(**peer)).count();
    voters.len() >= VOTERS_MIN && trusted >= Voters::majority_of(voters.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a quorum that a stranger founded with itself, or with others that nobody here relies on, is given no work.
    #[test]
    fn work_goes_to_quorums_of_voters_that_are_relied_on() {
        let peers = |numbers: &[u8]| -> Vec<PeerId> { numbers.iter().map(|number| PeerId([*number; 32])).collect() };
        let may = |voters: &[u8]| may_own_work(&peers(voters), |peer| peer.0[0] < 10);
        assert!(may(&[1, 2, 3]) && may(&[1, 2, 11]) && may(&[1, 2, 3, 11, 12]));
        assert!(!may(&[]) && !may(&[1]) && !may(&[11]) && !may(&[1, 2]));
        assert!(!may(&[1, 11, 12]) && !may(&[11, 12, 13]) && !may(&[1, 2, 11, 12]));
    }

    /// Goal: who was refused for want of room chooses another quorum, and comes back later.
    #[tokio::test(start_paused = true)]
    async fn a_full_quorum_is_passed_over_for_a_while() {
        let mut full = Answered::new(FULL_REST);
        let quorum = |number: u16| {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&number.to_le_bytes());
            QuorumId(id)
        };
        full.record(quorum(1));
        tokio::time::advance(FULL_REST / 2).await;
        full.record(quorum(2));
        assert_eq!(full.all(), [quorum(1), quorum(2)].into());
        tokio::time::advance(FULL_REST / 2).await;
        assert_eq!(full.all(), [quorum(2)].into());
        for number in 0..=REMEMBERED_MAX as u16 {
            tokio::time::advance(Duration::from_millis(1)).await;
            full.record(quorum(number + 10));
        }
        assert!(full.all().len() == REMEMBERED_MAX && !full.all().contains(&quorum(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_quorum_that_took_work_is_open_for_a_moment_and_no_more_once_it_did_not() {
        let mut open = Answered::new(OPEN_FOR);
        let quorum = QuorumId([1; 16]);
        open.record(quorum);
        tokio::time::advance(OPEN_FOR - Duration::from_millis(1)).await;
        assert!(open.has(quorum) && !open.has(QuorumId([2; 16])));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!open.has(quorum));
        open.record(quorum);
        open.forget(quorum);
        assert!(!open.has(quorum));
    }
}
