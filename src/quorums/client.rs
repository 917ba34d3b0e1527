//! Reaching a quorum from any node.
//!
//! A [`QuorumClient`] commits commands and asks questions as this node. When this node is a member and leads, that is
//! a call in process. Otherwise it asks the members one after the other, best guess first: the primary that answered
//! last, the one that the local member follows, the directory's members, and, when none of these answers, the peers
//! that Kademlia names as providers. Nobody is asked who has not shown that it is a voter ([`crate::certificates`]).
//!
//! What it promises: until the deadline it keeps trying across failovers, with short jittered pauses; a dead peer
//! costs one refused dial or one short try, never the whole deadline; a command is sent again after an unknown outcome,
//! which is right because every command is idempotent: it is known again, or acts on what its sender has seen alone
//! ([`super::control`]). [`ClientError::Unknown`] is returned only when some try may
//! have been carried out. A try ends as soon as the quorum has announced a later term, however long it was to be
//! waited for: its peer led the quorum at most until then. What it does not promise: order between two commands that
//! are in flight together.
//!
//! A quorum is *unknown* when nobody who could be asked knows of it, and *unreachable* when there are such members, or
//! when this node hears nobody who could tell.
//!
//! Who misbehaves: an answer that cannot be read is penalised and the next member is asked.

use parking_lot::Mutex;
use parking_lot::MutexGuard;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use quorate_protocols::backoff::Backoff;
use quorate_protocols::directory::QuorumAdvert;
use quorate_protocols::ids::{MemberId, PeerId, QuorumId, Term};
use quorate_protocols::job::limits::DEADLINE;
use quorate_protocols::liveness::DelayEstimate;
use quorate_protocols::liveness::limits::DELAY_MAX;
use quorate_protocols::liveness::patience::{TRY_MIN, election_wait, try_patience};
use quorate_protocols::quorum::request::{JobAnswer, JobMessage, Query, QueryAnswer};
use quorate_protocols::quorum::watch::WatchAnswer;
use quorate_protocols::quorum::{Command, CommandReply, Rejection};
use quorate_protocols::task::message::{TaskAnswer, TaskMessage};
use quorate_protocols::trigger::event::DeliveryAck;
use quorate_protocols::wire;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout};

use super::ClientError;
use super::port::{Report, ReportAnswer, Speaker};
use super::ports::{Knowledge, LocalQuorum, LocalQuorums};
use super::request::{Request, RequestServer};
use super::slots::PeerSlots;
use super::watches::{PARKED_PER_PEER_MAX, Watches};
use crate::certificates::{Standing, Standings};
use crate::seams::{Entropy, Frame, Net, NetError, Protocol, TaskGroup};

/// Pause between two rounds over the members, with up to half of it as jitter. It stays at its minimum for as long as
/// an election usually takes, so that a new primary is found when it begins to lead; then it doubles up to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(15);
const PAUSES: Backoff = Backoff::new(PAUSE_MIN, Duration::from_millis(250));
const ELECTION_USUAL: Duration = Duration::from_millis(600);

/// While a try is waited for, how often this node looks whether it is in vain: its quorum has announced a later term,
/// or, from [`TRY_MIN`] on, its peer is known to be absent.
const REVIEW_INTERVAL: Duration = Duration::from_millis(250);

/// Members asked in one round. More than the widest quorum with all its standbys; redirections count.
const ASKED_PER_ROUND_MAX: usize = 16;

/// Kademlia is asked again no sooner than this by one call, and given up after so many empty answers.
const PROVIDERS_INTERVAL: Duration = Duration::from_secs(1);
const PROVIDERS_EMPTY_MAX: usize = 2;

/// Providers of one answer that are asked to prove themselves.
const PROVIDERS_ASKED_MAX: usize = 8;

/// Quorums whose last primary and members are remembered; beyond that the one used longest ago is forgotten.
const ROUTES_MAX: usize = 4_096;

/// Members remembered of one quorum, whatever an answer claims.
const MEMBERS_MAX: usize = 16;

/// Reaches any quorum from this node: in process when it is a member, over the job protocol otherwise.
#[derive(Clone)]
pub struct QuorumClient(Arc<Inner>);

/// What a client is built from.
pub struct ClientParts {
    pub net: Arc<dyn Net>,
    pub quorums: Arc<dyn LocalQuorums>,
    pub knowledge: Arc<dyn Knowledge>,
    /// Who is believed to speak for a quorum.
    pub standings: Arc<dyn Standings>,
    pub entropy: Arc<dyn Entropy>,
    /// Answers for the quorums that this node is a member of.
    pub requests: RequestServer,
    /// Where watches run that several callers share.
    pub tasks: TaskGroup,
}

struct Inner {
    parts: ClientParts,
    routes: Mutex<Routes>,
    watches: Mutex<Watches>,
    /// Requests of watches that peers have parked for this node.
    parked: PeerSlots,
}

#[derive(Default)]
struct Routes {
    /// Counts uses; a route remembers the count of its last.
    clock: u64,
    known: BTreeMap<QuorumId, Route>,
}

#[derive(Clone, Default)]
struct Route {
    used: u64,
    primary: Option<PeerId>,
    members: Vec<PeerId>,
    /// What commands took that a primary answered.
    commits: DelayEstimate,
}

impl Routes {
    fn read(&mut self, quorum: QuorumId) -> Route {
        self.clock += 1;
        let clock = self.clock;
        match self.known.get_mut(&quorum) {
            Some(route) => {
                route.used = clock;
                route.clone()
            }
            None => Route::default(),
        }
    }
    fn change(&mut self, quorum: QuorumId, change: impl FnOnce(&mut Route)) {
        self.clock += 1;
        let route = self.known.entry(quorum).or_default();
        route.used = self.clock;
        change(route);
        route.members.truncate(MEMBERS_MAX);
        if self.known.len() > ROUTES_MAX
            && let Some(oldest) = self.known.iter().min_by_key(|(_, route)| route.used).map(|(quorum, _)| *quorum)
        {
            self.known.remove(&oldest);
        }
    }
}

/// What is asked of the quorum.
#[derive(Clone)]
pub(super) enum Ask {
    Job(Request),
    /// What a worker says to a primary.
    Task(TaskMessage),
}

impl Ask {
    /// Whether it may have changed the quorum's record though nothing was heard of it.
    fn changes(&self) -> bool {
        match self {
            Self::Job(request) => request.changes(),
            Self::Task(_) => true,
        }
    }
    /// Whether its answer follows a commit. Heartbeats are noted in memory.
    fn commits(&self) -> bool {
        self.changes() && !matches!(self, Self::Task(TaskMessage::Heartbeat { .. }))
    }
    /// What silence means: a question changes nothing, so nothing is left unknown.
    fn silence(&self, reason: Option<String>) -> Tried {
        if self.changes() { Tried::Unknown(reason) } else { Tried::Nothing }
    }
}

/// The answer of a quorum, after all tries.
pub(super) enum FinalAnswer {
    Reply(Result<(CommandReply, Speaker), Rejection>),
    Answer(QueryAnswer),
    Acknowledged,
    Task(TaskAnswer),
    DeliveryAck(Result<DeliveryAck, Rejection>),
    Watched(WatchAnswer),
}

/// What one try told us.
enum Tried {
    Done(FinalAnswer),
    Failed(ClientError),
    /// Ask these next, the first of them first.
    Redirected(Vec<PeerId>),
    /// Nothing was done there.
    Nothing,
    /// It may have been done there; with what came in between, if that is known.
    Unknown(Option<String>),
    Paused(String),
    Busy,
    /// This peer does not belong to the quorum.
    Stranger,
}

/// What a call remembers between its tries, to say at the end what is known.
#[derive(Default)]
struct Account {
    may_have_acted: bool,
    unknown_because: Option<String>,
    /// A member answered, whatever it said.
    reached: bool,
    paused: Option<String>,
    busy: bool,
    /// Some peer was asked that may be a member.
    knew_member: bool,
    silent_tries: u32,
    strangers: BTreeSet<PeerId>,
    /// Peers that failed to answer in this call: asked after the others, who know sooner whether one of them is back.
    failed: BTreeSet<PeerId>,
    /// Whether a member answered in this round.
    heard: bool,
    providers_asked_at: Option<Instant>,
    providers_empty: usize,
}

/// Why a question has no answer.
enum NoAnswer {
    Net(NetError),
    /// The quorum announced a later term while it was waited for: the next primary is to be asked.
    LaterTerm,
}

impl QuorumClient {
    pub fn new(parts: ClientParts) -> Self {
        let parked = PeerSlots::new(PARKED_PER_PEER_MAX, usize::MAX);
        Self(Arc::new(Inner { parts, routes: Mutex::default(), watches: Mutex::default(), parked }))
    }

    /// Commits a command as this node: the reply, and the member that gave it. Retries across failovers until the
    /// deadline; commands are idempotent.
    pub async fn propose(
        &self,
        quorum: QuorumId,
        command: Command,
        deadline: Duration,
    ) -> Result<(CommandReply, Speaker), ClientError> {
        match self.ask(quorum, Ask::Job(Request::Propose(command)), deadline).await? {
            FinalAnswer::Reply(reply) => Ok(reply?),
            _ => Err(mixed_up(quorum)),
        }
    }

    /// Tells whoever leads the quorum. Tried again like a command; any report may be said twice.
    pub async fn report(
        &self,
        quorum: QuorumId,
        report: Report,
        deadline: Duration,
    ) -> Result<ReportAnswer, ClientError> {
        let ask = match report {
            Report::Task(message) => Ask::Task(message),
            Report::Suspect { manifest, column } => Ask::Job(Request::Suspect { manifest, column }),
            Report::Events(dispatch) => Ask::Job(Request::Dispatch(dispatch)),
        };
        match self.ask(quorum, ask, deadline).await? {
            FinalAnswer::Task(answer) => Ok(ReportAnswer::Task(answer)),
            FinalAnswer::Acknowledged => Ok(ReportAnswer::Acknowledged),
            FinalAnswer::DeliveryAck(heard) => Ok(ReportAnswer::Events(heard?)),
            FinalAnswer::Reply(_) | FinalAnswer::Answer(_) | FinalAnswer::Watched(_) => Err(mixed_up(quorum)),
        }
    }

    /// Asks the primary after a linearizable read, or any member at once when `stale` will do.
    pub async fn query(
        &self,
        quorum: QuorumId,
        query: Query,
        stale: bool,
        deadline: Duration,
    ) -> Result<QueryAnswer, ClientError> {
        match self.ask(quorum, Ask::Job(Request::Query { query, stale }), deadline).await? {
            FinalAnswer::Answer(answer) => Ok(answer),
            _ => Err(mixed_up(quorum)),
        }
    }

    /// Asks this peer and no other, once, for its own view.
    pub async fn query_peer(
        &self,
        peer: PeerId,
        quorum: QuorumId,
        query: Query,
        deadline: Duration,
    ) -> Result<QueryAnswer, ClientError> {
        // There is nobody else to turn to, so it gets all the patience at once.
        let mut account = Account { silent_tries: u32::MAX - 1, ..Account::default() };
        let end = Instant::now() + deadline;
        let ask = Ask::Job(Request::Query { query, stale: true });
        // For itself alone: of the others nothing is asked.
        let speaker = Speaker { peer, voters: vec![peer] };
        let tried = self.ask_member(quorum, speaker, &ask, end, &mut account).await;
        match account.record_try(tried, |_| ()) {
            Some(Ok(FinalAnswer::Answer(answer))) => Ok(answer),
            Some(Ok(_)) => Err(mixed_up(quorum)),
            Some(Err(error)) => Err(error),
            None => Err(self.verdict(account, quorum, deadline)),
        }
    }

    /// Whether the peer answers at all, within this time: a connection may look open for long after the last word.
    pub async fn hears(&self, peer: PeerId, deadline: Duration) -> bool {
        // Of a quorum that there is not: any peer says at once that it knows none.
        let nothing = JobMessage::Membership { quorum: QuorumId([0; 16]) };
        self.send_job(peer, &nothing, deadline, Instant::now() + deadline).await.is_ok()
    }

    pub(super) async fn ask(&self, quorum: QuorumId, ask: Ask, deadline: Duration) -> Result<FinalAnswer, ClientError> {
        let began = Instant::now();
        let end = began + deadline;
        let mut account = Account::default();
        let mut pause = PAUSE_MIN;
        loop {
            if let Some(result) = self.round(quorum, &ask, end, &mut account).await {
                let superseded =
                    |reply: &Result<_, Rejection>| matches!(reply, Err(Rejection::Superseded { controlled: true, .. }));
                let is_unsure = matches!(&result, Ok(FinalAnswer::Reply(reply)) if superseded(reply));
                if is_unsure && account.may_have_acted {
                    // A try that was not answered may have been applied before the control that came in between.
                    account.unknown_because = Some("somebody else commanded the job meanwhile".to_owned());
                    return Err(self.verdict(account, quorum, began.elapsed()));
                }
                return result;
            }
            if account.providers_empty >= PROVIDERS_EMPTY_MAX && !account.reached && !account.may_have_acted {
                return Err(self.verdict(account, quorum, began.elapsed()));
            }
            let jitter = Duration::from_millis(self.0.parts.entropy.below(pause.as_millis() as u64 / 2 + 1));
            let next = Instant::now() + pause + jitter;
            if next >= end {
                return Err(self.verdict(account, quorum, deadline));
            }
            sleep_until(next).await;
            if began.elapsed() > ELECTION_USUAL {
                pause = PAUSES.next(pause);
            }
        }
    }

    /// Asks every member that is known, once. `None`: nobody could act, try again after a pause.
    async fn round(
        &self,
        quorum: QuorumId,
        ask: &Ask,
        end: Instant,
        account: &mut Account,
    ) -> Option<Result<FinalAnswer, ClientError>> {
        if let Some(local) = self.0.parts.quorums.quorum(quorum) {
            let tried = self.ask_local(quorum, &*local, ask, end, account).await;
            if let Some(result) = account.record_try(tried, |_| ()) {
                return Some(result);
            }
        }
        account.heard = false;
        let mut queue = self.targets(quorum, account);
        let mut asked = BTreeSet::from([self.0.parts.net.local_peer()]);
        loop {
            while let Some(peer) = queue.pop_front() {
                if asked.len() > ASKED_PER_ROUND_MAX || Instant::now() >= end {
                    return None;
                }
                if !asked.insert(peer) {
                    continue;
                }
                let tried = self.ask_peer(quorum, peer, ask, end, account).await;
                match tried {
                    Tried::Stranger => drop(account.strangers.insert(peer)),
                    _ => account.knew_member = true,
                }
                if let Some(result) = account.record_try(tried, |next| {
                    for peer in next.into_iter().rev().filter(|peer| !asked.contains(peer)) {
                        queue.push_front(peer);
                    }
                }) {
                    return Some(result);
                }
            }
            let found = self.providers(quorum, end, account).await;
            if found.iter().all(|peer| asked.contains(peer)) {
                return None;
            }
            queue.extend(found);
        }
    }

    /// The quorum's primary, as far as this node knows without asking.
    pub fn primary_known(&self, quorum: QuorumId) -> Option<PeerId> {
        let local = self.0.parts.quorums.quorum(quorum).and_then(|local| local.view().primary);
        local.map(|primary| primary.peer).or_else(|| self.routes().read(quorum).primary)
    }

    /// The voters of an announced quorum by the certificate that one of the members that it names has shown; `None` if
    /// none of them has.
    pub fn voters_shown(&self, advert: &QuorumAdvert) -> Option<Vec<PeerId>> {
        advert.members.iter().find_map(|member| self.0.parts.standings.voters_with(advert.quorum, member.peer))
    }

    /// Members in the order in which they are worth asking.
    fn targets(&self, quorum: QuorumId, account: &Account) -> VecDeque<PeerId> {
        let parts = &self.0.parts;
        let route = self.routes().read(quorum);
        let mut order: Vec<PeerId> = Vec::new();
        // The local member hears of an election before anyone else can tell us of it.
        let view = parts.quorums.quorum(quorum).map(|local| local.view());
        order.extend(view.as_ref().and_then(|view| view.primary).map(|primary| primary.peer));
        order.extend(route.primary);
        let mut members = route.members;
        members.extend(view.into_iter().flat_map(|view| view.voters).map(|member| member.peer));
        members.extend(parts.knowledge.quorum(quorum).into_iter().flat_map(|a| a.members).map(|member| member.peer));
        let (near, far): (Vec<_>, Vec<_>) = members.into_iter().partition(|peer| parts.net.is_connected(*peer));
        order.extend(near);
        order.extend(far);
        let local = parts.net.local_peer();
        let mut seen = BTreeSet::new();
        order.retain(|peer| *peer != local && !account.strangers.contains(peer) && seen.insert(*peer));
        order.sort_by_key(|peer| (account.failed.contains(peer), parts.net.is_absent(*peer)));
        order.into()
    }

    /// Peers that say, by a signed membership, that they know the quorum, and the members that they name. Each proves
    /// itself before it is asked anything.
    async fn providers(&self, quorum: QuorumId, end: Instant, account: &mut Account) -> Vec<PeerId> {
        let now = Instant::now();
        let due = account.providers_asked_at.is_none_or(|at| now >= at + PROVIDERS_INTERVAL);
        // Kademlia is for who knows no living member: a member that answers knows better than any record.
        if !due || account.heard {
            return Vec::new();
        }
        account.providers_asked_at = Some(now);
        let parts = &self.0.parts;
        // A lookup that finds nobody takes long. Who knows members that may come back does not wait for that.
        let known = account.reached || account.may_have_acted;
        let until = if known { end.min(now + TRY_MIN) } else { end };
        let Ok(mut providers) = tokio::time::timeout_at(until, parts.net.find_providers(quorum)).await else {
            return Vec::new();
        };
        let local = parts.net.local_peer();
        providers.retain(|peer| *peer != local);
        let questions = providers.into_iter().take(PROVIDERS_ASKED_MAX).map(|peer| async move {
            let patience = self.patience(quorum, peer);
            let answer = self.send_job(peer, &JobMessage::Membership { quorum }, patience, end).await;
            match answer {
                Ok(JobAnswer::Membership(signed)) => {
                    let statement = &signed.statement;
                    if statement.quorum != quorum || statement.by.peer != peer || !signed.is_genuine() {
                        self.0.parts.net.penalise(peer, "a membership that is not the one asked for, or not signed");
                        return Vec::new();
                    }
                    let voters = statement.voters.iter().take(MEMBERS_MAX).map(|member| member.peer);
                    statement.primary.map(|primary| primary.peer).into_iter().chain([peer]).chain(voters).collect()
                }
                Ok(JobAnswer::Moved { voters }) => voters.iter().take(MEMBERS_MAX).map(|member| member.peer).collect(),
                _ => Vec::new(),
            }
        });
        let found: Vec<PeerId> = futures::future::join_all(questions).await.into_iter().flatten().collect();
        if found.is_empty() {
            account.providers_empty += 1;
        }
        found
    }

    /// Asks this node's own member. One that does not lead says at once whom else to ask, or holds the question during
    /// an election, as it does for peers: the first news of an election is what is waited for.
    async fn ask_local(
        &self,
        quorum: QuorumId,
        local: &dyn LocalQuorum,
        ask: &Ask,
        end: Instant,
        account: &mut Account,
    ) -> Tried {
        let parts = &self.0.parts;
        let by = parts.net.local_peer();
        let left = end.saturating_duration_since(Instant::now());
        let tried = match ask {
            Ask::Job(request) => {
                let answer = parts.requests.answer(local, by, request.clone(), left.min(DEADLINE)).await;
                // One that has left meanwhile still answers for what was committed under it.
                let voters = parts.standings.voters_with(quorum, by).unwrap_or_default();
                self.judge_answer(quorum, &Speaker { peer: by, voters }, answer, ask)
            }
            Ask::Task(message) => {
                let wait = election_wait(local.latency()).min(left);
                let _ = timeout(wait, local.primary_settled()).await;
                if local.leading().is_none() {
                    let paused = local.view().paused;
                    return paused.map_or(Tried::Nothing, Tried::Paused);
                }
                let left = end.saturating_duration_since(Instant::now());
                match timeout(left, parts.requests.primary.answer_worker(by, message.clone())).await {
                    Ok(answer) => self.judge_task_answer(quorum, answer),
                    Err(_) => Tried::Unknown(None),
                }
            }
        };
        // A member without a primary has answered nothing yet: others may.
        account.reached |= local.leading().is_some();
        tried
    }

    /// What to tell the caller once nothing more is tried. An outcome that may have happened comes first: it is the
    /// only thing that the caller cannot find out by trying again later.
    fn verdict(&self, account: Account, quorum: QuorumId, after: Duration) -> ClientError {
        if account.may_have_acted {
            return ClientError::Unknown { quorum, after, reason: account.unknown_because };
        }
        if let Some(reason) = account.paused {
            return ClientError::Paused { quorum, reason };
        }
        if account.busy {
            return ClientError::Busy { quorum };
        }
        if account.reached {
            return ClientError::NoPrimary { quorum, after };
        }
        let parts = &self.0.parts;
        let is_known = account.knew_member || parts.quorums.quorum(quorum).is_some();
        // A lookup among no peers finds nobody, whatever there is.
        let was_looked_up = account.providers_empty > 0 && parts.net.peers().iter().any(|peer| peer.connected);
        match was_looked_up && !is_known {
            true => ClientError::QuorumUnknown { quorum },
            false => ClientError::Unreachable { quorum },
        }
    }

    /// Asks one peer, once it has shown that it is a voter of the quorum: whoever is none speaks for nobody.
    async fn ask_peer(&self, quorum: QuorumId, peer: PeerId, ask: &Ask, end: Instant, account: &mut Account) -> Tried {
        let standings = &self.0.parts.standings;
        if let Some(voters) = standings.voters_with(quorum, peer) {
            return self.ask_member(quorum, Speaker { peer, voters }, ask, end, account).await;
        }
        let patience = self.patience(quorum, peer).saturating_mul(1 << account.silent_tries.min(3));
        let patience = patience.min(end.saturating_duration_since(Instant::now()));
        let standing = timeout(patience, standings.standing(quorum, peer)).await;
        match standing.unwrap_or(Standing::Silent) {
            Standing::Voter => {
                // It has just answered, whatever becomes of the question itself.
                (account.reached, account.heard) = (true, true);
                // None: another took its place in this moment, and is asked in the next round.
                let Some(voters) = standings.voters_with(quorum, peer) else { return Tried::Nothing };
                self.ask_member(quorum, Speaker { peer, voters }, ask, end, account).await
            }
            Standing::Moved { voters } => {
                Tried::Redirected(voters.iter().take(MEMBERS_MAX).map(|member| member.peer).collect())
            }
            Standing::Stranger => {
                self.forget_member(quorum, peer);
                Tried::Stranger
            }
            Standing::Silent => {
                account.silent_tries += 1;
                account.failed.insert(peer);
                self.forget_primary(quorum, peer);
                Tried::Nothing
            }
        }
    }

    async fn ask_member(
        &self,
        quorum: QuorumId,
        speaker: Speaker,
        ask: &Ask,
        end: Instant,
        account: &mut Account,
    ) -> Tried {
        let (began, peer) = (Instant::now(), speaker.peer);
        let patience = self.patience(quorum, peer).saturating_mul(1 << account.silent_tries.min(3));
        // Held for as long as the answer is waited for. Without it the request is not to be parked there.
        let slot = match ask {
            Ask::Job(Request::Watch(_)) => self.0.parked.reserve(peer),
            _ => None,
        };
        let (tried, committed) = match ask {
            Ask::Job(request) => {
                let request = match request.clone() {
                    Request::Watch(watch) => {
                        let left = end.saturating_duration_since(began);
                        Request::Watch(watch.within(if slot.is_some() { left } else { Duration::ZERO }))
                    }
                    request => request,
                };
                let patience = patience + request.wait();
                let answer = self.send_job(peer, &request.into_message(quorum), patience, end).await;
                let committed = matches!(answer, Ok(JobAnswer::Reply(_) | JobAnswer::DeliveryAck(_)));
                let misplaced = matches!(answer, Ok(JobAnswer::NotMember | JobAnswer::Malformed { .. }));
                (answer.map(|answer| (self.judge_answer(quorum, &speaker, answer, ask), misplaced)), committed)
            }
            Ask::Task(message) => {
                let answer = self.send(quorum, peer, Protocol::Task, message, patience, end).await;
                let committed = matches!(answer, Ok(TaskAnswer::Recorded(_)));
                let judged = answer.map(|answer| {
                    let tried = self.judge_task_answer(quorum, answer);
                    if matches!(tried, Tried::Done(_)) {
                        self.remember_primary(quorum, peer);
                    }
                    let misplaced = matches!(tried, Tried::Stranger);
                    (tried, misplaced)
                });
                (judged, committed)
            }
        };
        if committed && ask.commits() {
            self.routes().change(quorum, |route| route.commits.record(began.elapsed()));
        }
        match tried {
            Ok((tried, misplaced)) => {
                account.failed.remove(&peer);
                if !misplaced {
                    (account.reached, account.heard) = (true, true);
                }
                tried
            }
            Err(NoAnswer::Net(NetError::Timeout { .. } | NetError::Broken { .. })) => {
                account.silent_tries += 1;
                account.failed.insert(peer);
                self.forget_primary(quorum, peer);
                ask.silence(None)
            }
            // Not counted as silence: the next primary is asked with the patience of a first try.
            Err(NoAnswer::LaterTerm) => {
                account.failed.insert(peer);
                self.forget_primary(quorum, peer);
                ask.silence(None)
            }
            Err(NoAnswer::Net(error @ NetError::TooLarge { .. })) => {
                Tried::Failed(ClientError::Protocol { quorum, reason: error.to_string() })
            }
            Err(NoAnswer::Net(NetError::Unreachable { .. } | NetError::Unsupported { .. } | NetError::Closed)) => {
                account.failed.insert(peer);
                self.forget_primary(quorum, peer);
                Tried::Nothing
            }
            Err(NoAnswer::Net(NetError::Busy { .. })) => Tried::Busy,
        }
    }

    /// What an answer of the job protocol means for the try that it answers; the speaker may be this node.
    fn judge_answer(&self, quorum: QuorumId, speaker: &Speaker, answer: JobAnswer, ask: &Ask) -> Tried {
        let Ask::Job(request) = ask else { return Tried::Nothing };
        let peer = speaker.peer;
        match (answer, request) {
            (JobAnswer::Reply(reply), Request::Propose(_)) => {
                self.remember_primary(quorum, peer);
                Tried::Done(FinalAnswer::Reply(reply.map(|reply| (reply, speaker.clone()))))
            }
            (JobAnswer::Answer(answer), Request::Query { stale, .. }) => {
                if !stale {
                    self.remember_primary(quorum, peer);
                }
                Tried::Done(FinalAnswer::Answer(answer))
            }
            (JobAnswer::DeliveryAck(heard), Request::Dispatch(_)) => {
                self.remember_primary(quorum, peer);
                Tried::Done(FinalAnswer::DeliveryAck(Ok(heard)))
            }
            (JobAnswer::Reply(Err(rejection)), Request::Dispatch(_)) => {
                Tried::Done(FinalAnswer::DeliveryAck(Err(rejection)))
            }
            (JobAnswer::Acknowledged, Request::Suspect { .. }) => Tried::Done(FinalAnswer::Acknowledged),
            (JobAnswer::Watched(answer), Request::Watch(_)) if self.may_believe(quorum, &answer) => {
                self.remember_primary(quorum, peer);
                Tried::Done(FinalAnswer::Watched(answer))
            }
            (JobAnswer::NotPrimary { primary, voters }, _) => {
                self.learn(quorum, primary, &voters);
                let voters = voters.iter().take(MEMBERS_MAX).map(|member| member.peer);
                Tried::Redirected(primary.map(|primary| primary.peer).into_iter().chain(voters).collect())
            }
            (JobAnswer::Moved { voters }, _) => {
                self.learn(quorum, None, &voters);
                Tried::Redirected(voters.iter().take(MEMBERS_MAX).map(|member| member.peer).collect())
            }
            (JobAnswer::NotMember, _) => {
                self.forget_member(quorum, peer);
                Tried::Stranger
            }
            (JobAnswer::Paused { reason }, _) => Tried::Paused(reason),
            (JobAnswer::Busy, _) => Tried::Busy,
            (JobAnswer::Unknown { reason }, _) => ask.silence(reason),
            (JobAnswer::Forbidden { reason }, _) => Tried::Failed(ClientError::Forbidden { reason }),
            (JobAnswer::Malformed { reason }, _) => Tried::Failed(ClientError::Protocol { quorum, reason }),
            (
                JobAnswer::Membership(_)
                | JobAnswer::Certificate(_)
                | JobAnswer::Reply(_)
                | JobAnswer::Answer(_)
                | JobAnswer::Acknowledged
                | JobAnswer::DeliveryAck(_)
                | JobAnswer::ConditionProbed(_)
                | JobAnswer::Watched(_),
                _,
            ) => {
                self.0.parts.net.penalise(peer, "an answer to another question");
                ask.silence(None)
            }
        }
    }

    /// What an answer of the task protocol means for the try that it answers.
    fn judge_task_answer(&self, quorum: QuorumId, answer: TaskAnswer) -> Tried {
        match answer {
            TaskAnswer::NotPrimary { primary: None, voters } if voters.is_empty() => Tried::Stranger,
            TaskAnswer::NotPrimary { primary, voters } => {
                self.learn(quorum, primary, &voters);
                let voters = voters.iter().take(MEMBERS_MAX).map(|member| member.peer);
                Tried::Redirected(primary.map(|primary| primary.peer).into_iter().chain(voters).collect())
            }
            TaskAnswer::Busy => Tried::Busy,
            TaskAnswer::Unknown => Tried::Unknown(None),
            TaskAnswer::Malformed { reason } => Tried::Failed(ClientError::Protocol { quorum, reason }),
            answer => Tried::Done(FinalAnswer::Task(answer)),
        }
    }

    /// How long one try may take at first: as long as this peer and commits of this quorum usually do, with room.
    fn patience(&self, quorum: QuorumId, peer: PeerId) -> Duration {
        let parts = &self.0.parts;
        let round_trip = parts.net.round_trip(peer).unwrap_or_default().min(DELAY_MAX);
        let learnt = self.routes().read(quorum).commits.bound().unwrap_or_default();
        // A member knows it before the first answer.
        let measured = parts.quorums.quorum(quorum).map(|local| local.latency().commit()).unwrap_or_default();
        try_patience(round_trip, learnt.max(measured))
    }

    /// Waits for an answer, no longer than until its quorum announces a later term, and from `TRY_MIN` on no longer
    /// than its peer is there.
    async fn answer_or_absence(
        &self,
        quorum: QuorumId,
        peer: PeerId,
        mut asked: BoxFuture<'static, Result<Frame, NetError>>,
    ) -> Result<Frame, NoAnswer> {
        let (began, term) = (Instant::now(), self.term_known(quorum));
        loop {
            if let Ok(answer) = timeout(REVIEW_INTERVAL, &mut asked).await {
                return answer.map_err(NoAnswer::Net);
            }
            if self.term_known(quorum) > term {
                return Err(NoAnswer::LaterTerm);
            }
            if began.elapsed() >= TRY_MIN && self.0.parts.net.is_absent(peer) {
                return Err(NoAnswer::Net(NetError::Timeout { peer, after: began.elapsed() }));
            }
        }
    }

    /// The newest term of which this node knows that it has a primary.
    fn term_known(&self, quorum: QuorumId) -> Option<Term> {
        let parts = &self.0.parts;
        let announced = parts.knowledge.quorum(quorum).map(|advert| advert.term);
        let view = parts.quorums.quorum(quorum).map(|local| local.view());
        announced.max(view.filter(|view| view.primary.is_some()).map(|view| view.term))
    }

    async fn send_job(
        &self,
        peer: PeerId,
        message: &JobMessage,
        patience: Duration,
        end: Instant,
    ) -> Result<JobAnswer, NoAnswer> {
        let quorum = message.quorum();
        self.send(quorum, peer, Protocol::Job, message, patience, end).await
    }

    /// One question to one peer, for at most `patience` and never past `end`.
    async fn send<M: Serialize, A: DeserializeOwned>(
        &self,
        quorum: QuorumId,
        peer: PeerId,
        protocol: Protocol,
        message: &M,
        patience: Duration,
        end: Instant,
    ) -> Result<A, NoAnswer> {
        let net = &self.0.parts.net;
        let patience = patience.min(end.saturating_duration_since(Instant::now()));
        let asked = net.request(peer, protocol, Frame::head(wire::encode(message)), patience);
        let frame = self.answer_or_absence(quorum, peer, asked).await?;
        wire::decode(&frame.head, protocol.head_bytes_max()).map_err(|_| {
            net.penalise(peer, "an answer that cannot be read");
            NoAnswer::Net(NetError::Broken { peer })
        })
    }

    /// Notes who the members are, as one of them or their founder says.
    pub(super) fn learn(&self, quorum: QuorumId, primary: Option<MemberId>, voters: &[MemberId]) {
        self.routes().change(quorum, |route| {
            if let Some(primary) = primary {
                route.primary = Some(primary.peer);
            }
            if !voters.is_empty() {
                route.members = voters.iter().take(MEMBERS_MAX).map(|member| member.peer).collect();
            }
        });
        if !voters.is_empty() {
            let voters = voters.iter().take(MEMBERS_MAX).copied().collect();
            self.0.parts.knowledge.learn_members(quorum, primary, voters);
        }
    }

    /// The peer has just spoken or answered as the quorum's primary: it is asked first.
    pub fn remember_primary(&self, quorum: QuorumId, primary: PeerId) {
        self.routes().change(quorum, |route| route.primary = Some(primary));
    }

    fn forget_member(&self, quorum: QuorumId, peer: PeerId) {
        self.routes().change(quorum, |route| {
            route.members.retain(|member| *member != peer);
            route.primary = route.primary.filter(|primary| *primary != peer);
        });
    }

    fn forget_primary(&self, quorum: QuorumId, peer: PeerId) {
        self.routes().change(quorum, |route| route.primary = route.primary.filter(|primary| *primary != peer));
    }

    pub(super) fn parts(&self) -> &ClientParts {
        &self.0.parts
    }

    pub(super) fn watches(&self) -> MutexGuard<'_, Watches> {
        self.0.watches.lock()
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.0.routes.lock()
    }
}

impl Account {
    /// Takes one try into account; `Some` when it settles the call.
    fn record_try(
        &mut self,
        tried: Tried,
        redirect: impl FnOnce(Vec<PeerId>),
    ) -> Option<Result<FinalAnswer, ClientError>> {
        match tried {
            Tried::Done(answer) => return Some(Ok(answer)),
            Tried::Failed(error) => return Some(Err(error)),
            Tried::Redirected(next) => redirect(next),
            Tried::Nothing | Tried::Stranger => (),
            Tried::Unknown(reason) => {
                self.may_have_acted = true;
                self.unknown_because = reason.or(self.unknown_because.take());
            }
            Tried::Paused(reason) => self.paused = Some(reason),
            Tried::Busy => self.busy = true,
        }
        None
    }
}

pub(super) fn mixed_up(quorum: QuorumId) -> ClientError {
    ClientError::Protocol { quorum, reason: "an answer of another kind than the question".to_owned() }
}

#[cfg(test)]
mod tests;
