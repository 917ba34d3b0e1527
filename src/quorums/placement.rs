//! Placement of new jobs: which quorum each belongs to.
//!
//! A job goes to an announced quorum with room: two are drawn and the less loaded is asked whether it lives (the power
//! of two choices: near the balance of asking all, for two questions). One that has just said so is not asked again
//! ([`OPEN_TRUSTED`]): a flow of jobs costs a question now and then, not a trip each. When there is none, one is formed
//! from signed approvals. Callers that arrive while a quorum is being formed share it.
//!
//! Every command of a job makes a round trip to its quorum's primary, so quorums that are led from afar are passed over
//! while a nearer one has room, or can be formed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
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
use quorate_protocols::liveness::distant_peers;
use quorate_protocols::liveness::limits::DELAY_MAX;
use quorate_protocols::quorum::limits::{VOTERS_MAX, VOTERS_MIN};
use quorate_protocols::quorum::request::{Query, QueryAnswer};

use tokio::time::Instant;

use super::approvals::Approvals;
use super::client::QuorumClient;
use super::ports::Knowledge;
use super::{ClientError, PlacementError, RoundError};
use crate::raft::QuorumHost;
use crate::seams::{Entropy, Net, TaskGroup};

/// A promise to be a member is used within seconds, and lasts so long from then. The approver makes it last for as long
/// as its node is a member, and the primary prolongs those of the standbys.
pub const MEMBER_LEASE: Duration = Duration::from_secs(120);

/// Drawn quorums that are asked before a new one is formed.
const CHOICES_TRIED_MAX: usize = 3;

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
const FULL_REST: Duration = Duration::from_secs(60);

/// Such quorums that are remembered; beyond that the one that refused first is tried again.
const FULL_MAX: usize = 1_024;

/// A quorum that took work so long ago is believed to take more. Short: whoever submits to one that has lost its
/// majority meanwhile waits for it, as if that had happened a moment later, and is not placed elsewhere.
const OPEN_TRUSTED: Duration = Duration::from_millis(250);

/// Such quorums that are remembered; beyond that the one that was asked first is asked again.
const OPEN_MAX: usize = 1_024;

/// Quorums that took work a moment ago.
#[derive(Default)]
struct OpenQuorums(BTreeMap<QuorumId, Instant>);

impl OpenQuorums {
    /// The quorum said at `asked` or later that it takes work.
    fn record(&mut self, quorum: QuorumId, asked: Instant) {
        self.0.insert(quorum, asked);
        if self.0.len() > OPEN_MAX
            && let Some(first) = self.0.iter().min_by_key(|(_, at)| **at).map(|(quorum, _)| *quorum)
        {
            self.0.remove(&first);
        }
    }

    fn is_trusted(&self, quorum: QuorumId) -> bool {
        self.0.get(&quorum).is_some_and(|asked| asked.elapsed() < OPEN_TRUSTED)
    }
}

/// Quorums that had no room for this node's work a moment ago.
#[derive(Default)]
struct FullQuorums(BTreeMap<QuorumId, Instant>);

impl FullQuorums {
    fn record_refusal(&mut self, quorum: QuorumId) {
        self.0.insert(quorum, Instant::now());
        if self.0.len() > FULL_MAX
            && let Some(first) = self.0.iter().min_by_key(|(_, at)| **at).map(|(quorum, _)| *quorum)
        {
            self.0.remove(&first);
        }
    }

    fn at_rest(&mut self) -> BTreeSet<QuorumId> {
        self.0.retain(|_, at| at.elapsed() < FULL_REST);
        self.0.keys().copied().collect()
    }
}

type Formation = Shared<BoxFuture<'static, Result<QuorumId, PlacementError>>>;

struct Inner {
    parts: PlacementParts,
    /// The formation under way, which every caller that needs a quorum waits for.
    forming: Mutex<Option<Formation>>,
    full: Mutex<FullQuorums>,
    open: Mutex<OpenQuorums>,
}

impl Placement {
    pub fn new(parts: PlacementParts) -> Self {
        Self(Arc::new(Inner { parts, forming: Mutex::new(None), full: Mutex::default(), open: Mutex::default() }))
    }

    /// The quorum has no room for this node's work: others are chosen for a while.
    pub fn record_full(&self, quorum: QuorumId) {
        self.0.full.lock().record_refusal(quorum);
        self.0.open.lock().0.remove(&quorum);
    }

    /// A new id for a job of this quorum.
    pub fn job_id(&self, quorum: QuorumId) -> JobId {
        JobId { quorum, local: self.0.parts.entropy.bytes() }
    }

    pub async fn quorum_for_job(&self) -> Result<QuorumId, PlacementError> {
        let mut refused = self.0.full.lock().at_rest();
        for _ in 0..CHOICES_TRIED_MAX {
            let parts = &self.0.parts;
            let eligible: Vec<QuorumAdvert> =
                parts.knowledge.quorums().into_iter().filter(|q| q.room > 0 && !refused.contains(&q.quorum)).collect();
            let Some(eligible) = self.nearest(eligible) else { break };
            let Some(choice) = choose(&eligible, &*parts.entropy) else { break };
            if self.0.open.lock().is_trusted(choice) {
                return Ok(choice);
            }
            let asked = Instant::now();
            if self.is_open(choice).await {
                self.0.open.lock().record(choice, asked);
                return Ok(choice);
            }
            refused.insert(choice);
        }
        self.form_shared().await
    }

    /// The quorums among these that are not led from afar. All of them if each is and the nearer peers are too few to
    /// form another; `None` if they are enough.
    fn nearest(&self, quorums: Vec<QuorumAdvert>) -> Option<Vec<QuorumAdvert>> {
        let parts = &self.0.parts;
        let connected = parts.net.peers().into_iter().filter(|view| view.connected);
        let measured = connected.filter_map(|view| Some((view.peer, parts.net.round_trip(view.peer)?)));
        let distant = distant_peers(&measured.collect());
        let is_near = |quorum: &QuorumAdvert| {
            parts.client.primary_known(quorum.quorum).is_none_or(|primary| !distant.contains(&primary))
        };
        let (near, far): (Vec<_>, Vec<_>) = quorums.into_iter().partition(is_near);
        if !near.is_empty() || far.is_empty() {
            return Some(near);
        }
        let candidates = parts.knowledge.candidates(NodeRole::Store, &member_requirement());
        let can_serve = |peer: &&PeerId| !distant.contains(peer) && !parts.net.is_absent(**peer);
        let is_enough = candidates.iter().filter(can_serve).count() >= parts.voters;
        (!is_enough).then_some(far)
    }

    /// Whether the quorum takes work now, or after the election that it is in.
    async fn is_open(&self, quorum: QuorumId) -> bool {
        let (began, slowest) = (Instant::now(), self.slowest_round_trip());
        loop {
            match self.0.parts.client.query(quorum, Query::Quorum, false, CHOICE_DEADLINE + 8 * slowest).await {
                // What it announced may be old.
                Ok(QueryAnswer::Quorum(view)) => return view.paused.is_none() && view.room > 0,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a quorum said is believed for a moment, and no more is remembered than so many.
    #[tokio::test(start_paused = true)]
    async fn a_quorum_that_took_work_is_asked_again_after_a_moment() {
        let mut open = OpenQuorums::default();
        let quorum = |number: u16| {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&number.to_le_bytes());
            QuorumId(id)
        };
        open.record(quorum(1), Instant::now());
        assert!(open.is_trusted(quorum(1)) && !open.is_trusted(quorum(2)));
        tokio::time::advance(OPEN_TRUSTED - Duration::from_millis(1)).await;
        assert!(open.is_trusted(quorum(1)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!open.is_trusted(quorum(1)));
        for number in 0..=OPEN_MAX as u16 {
            open.record(quorum(number + 10), Instant::now());
            tokio::time::advance(Duration::from_micros(1)).await;
        }
        assert!(open.0.len() == OPEN_MAX && !open.0.contains_key(&quorum(1)));
    }

    /// Goal: who was refused for want of room chooses another quorum, and comes back later.
    #[tokio::test(start_paused = true)]
    async fn a_full_quorum_is_passed_over_for_a_while() {
        let mut full = FullQuorums::default();
        let quorum = |number: u16| {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&number.to_le_bytes());
            QuorumId(id)
        };
        full.record_refusal(quorum(1));
        tokio::time::advance(FULL_REST / 2).await;
        full.record_refusal(quorum(2));
        assert_eq!(full.at_rest(), [quorum(1), quorum(2)].into());
        tokio::time::advance(FULL_REST / 2).await;
        assert_eq!(full.at_rest(), [quorum(2)].into());
        for number in 0..=FULL_MAX as u16 {
            tokio::time::advance(Duration::from_millis(1)).await;
            full.record_refusal(quorum(number + 10));
        }
        assert!(full.at_rest().len() == FULL_MAX && !full.at_rest().contains(&quorum(2)));
    }
}
