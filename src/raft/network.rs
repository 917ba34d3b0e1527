//! openraft's messages over the node's network.
//!
//! A peer that the network says is not connected is unreachable at once, without waiting for a deadline, and is
//! dialled beside; openraft then backs off for [`BACKOFF_FIRST`], doubling up to [`BACKOFF_MAX`]. Every failure is
//! reported as unreachable, because openraft retries anything else without a pause. An append that did not arrive
//! before its deadline is followed by smaller ones, down to a single entry: openraft would send the same again for
//! ever.
//!
//! Three things are learnt on the way and kept in [`Links`] for others to act on: members that missed a message (a
//! commit notice is not repeated by openraft: the liveness layer sends a heartbeat when the member is back), peers
//! that answer in another incarnation than the member that was meant (their disk was lost: the membership driver
//! replaces the member), and members that refuse, although their node answers: one whose disk is full, say. A member
//! that refuses is no part of a majority, and away for as long as it does.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{
    Fatal, NetworkError, PayloadTooLarge, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{EmptyNode, OptionalSend};
use parking_lot::Mutex;
use quorate_protocols::ids::{Digest, Incarnation, LogIndex, MemberId, PeerId, QuorumId, Term};
use quorate_protocols::quorum::limits::{
    APPEND_DEADLINE_MAX, QUORUMS_PER_NODE_MAX, RAFT_DEADLINE, RAFT_DEADLINE_MAX, RAFT_HEAD_BYTES_MAX, VOTE_DEADLINE,
    VOTERS_MAX,
};
use quorate_protocols::quorum::{RaftAnswer, RaftMessage, Refusal};
use quorate_protocols::wire;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::door::{check_answer, check_voted};
use super::latencies::Latencies;
use super::log_store::KnownVote;
use super::own_sync::OwnSync;
use super::read_index::ReadIndex;
use super::resend::{RESEND_MIN, ask_again};
use super::state_machine::Machine;
use super::types::{Snapshot, SnapshotList, SnapshotMeta, TypeConfig, Vote};
use crate::seams::{Failpoint, Frame, Net, NetError, Protocol, failpoint};

/// First pause before openraft tries an unreachable member again. Short: the first retry after a blip is the one that
/// a waiting command needs.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// A member that stays away costs two tries a second and group.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// The largest append, and the size to which one that came late is cut at the least: 180 kbit/s carry that within the
/// deadline. One entry is sent whatever its size; a full batch of commands needs 6 Mbit/s.
const APPEND_BYTES_MAX: usize = RAFT_HEAD_BYTES_MAX - 1024;
const APPEND_BYTES_MIN: usize = 32 * 1024;

/// A peer is dialled at most this often from here, however many groups miss it.
const DIAL_INTERVAL: Duration = Duration::from_millis(250);

/// A refusal is believed this long. The liveness layer has a member that refuses asked again several times in between.
const REFUSAL_TTL: Duration = Duration::from_secs(3);

/// Remembered members and peers: no more than there can be members.
const REMEMBERED_MAX: usize = QUORUMS_PER_NODE_MAX * VOTERS_MAX;

/// An append as it travels: openraft's request, and the sender's last state digest for comparison.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct AppendBody {
    pub request: AppendEntriesRequest<TypeConfig>,
    pub digest: (LogIndex, Digest),
}

#[derive(Serialize, Deserialize)]
pub struct SnapshotBody {
    pub vote: Vote,
    pub meta: SnapshotMeta,
    pub list: SnapshotList,
}

/// Why a member gave no answer that openraft can use.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("not connected to {0}")]
    NotConnected(PeerId),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("{member} is no member there; the peer's incarnation is {found}")]
    NotMember { member: MemberId, found: Incarnation },
    #[error("{member} refused: {reason}")]
    Failed { member: MemberId, reason: String },
    #[error("{member} answered something else")]
    Answer { member: MemberId },
    #[error("the answer of {member}")]
    Malformed {
        member: MemberId,
        #[source]
        source: wire::DecodeError,
    },
    #[error("the vote in the answer of {member}")]
    Vote {
        member: MemberId,
        #[source]
        source: Refusal,
    },
}

/// What all groups of a node share on their way to other members.
pub struct Links {
    pub latencies: Latencies,
    net: Arc<dyn Net>,
    dialled: Mutex<BTreeMap<PeerId, Instant>>,
    missed: Mutex<BTreeSet<(QuorumId, MemberId)>>,
    reborn: Mutex<BTreeMap<(QuorumId, PeerId), Incarnation>>,
    refusals: Mutex<BTreeMap<(QuorumId, MemberId), Refusals>>,
}

/// One refusal after the other, with no other answer between them.
#[derive(Clone, Copy, Debug)]
struct Refusals {
    since: Instant,
    last: Instant,
}

impl Links {
    pub fn new(net: Arc<dyn Net>, latencies: Latencies) -> Self {
        Self {
            latencies,
            net,
            dialled: Mutex::default(),
            missed: Mutex::default(),
            reborn: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    /// Tries to connect, unless that was tried just now.
    pub fn dial(&self, peer: PeerId) {
        let now = Instant::now();
        let mut dialled = self.dialled.lock();
        if dialled.get(&peer).is_some_and(|at| now.duration_since(*at) < DIAL_INTERVAL) {
            return;
        }
        if dialled.len() >= REMEMBERED_MAX {
            dialled.clear();
        }
        dialled.insert(peer, now);
        drop(dialled);
        self.net.dial(peer);
    }

    /// Takes those members of this quorum that missed a message and that `wanted` picks.
    pub fn take_missed(&self, quorum: QuorumId, wanted: impl Fn(&MemberId) -> bool) -> Vec<MemberId> {
        let mut missed = self.missed.lock();
        let taken: Vec<_> = missed.iter().filter(|(of, member)| *of == quorum && wanted(member)).copied().collect();
        missed.retain(|key| !taken.contains(key));
        taken.into_iter().map(|(_, member)| member).collect()
    }

    pub fn has_missed(&self) -> bool {
        !self.missed.lock().is_empty()
    }

    fn note_missed(&self, quorum: QuorumId, member: MemberId) {
        let mut missed = self.missed.lock();
        if missed.len() < REMEMBERED_MAX {
            missed.insert((quorum, member));
        }
    }

    /// The incarnation in which the peer said it is no member of the quorum, if it is not `member`'s own: that
    /// member's disk is gone.
    pub fn reborn(&self, quorum: QuorumId, member: MemberId) -> Option<Incarnation> {
        let reborn = self.reborn.lock();
        reborn.get(&(quorum, member.peer)).copied().filter(|found| *found != member.incarnation)
    }

    fn note_reborn(&self, quorum: QuorumId, peer: PeerId, incarnation: Incarnation) {
        let mut reborn = self.reborn.lock();
        if reborn.len() < REMEMBERED_MAX {
            reborn.insert((quorum, peer), incarnation);
        }
    }

    /// For how long the member has refused this node's messages, if it still does.
    pub fn refuses(&self, quorum: QuorumId, member: MemberId) -> Option<Duration> {
        let refusals = self.refusals.lock();
        let refusals = refusals.get(&(quorum, member)).filter(|refusals| refusals.last.elapsed() < REFUSAL_TTL)?;
        Some(refusals.since.elapsed())
    }

    fn note_refusal(&self, quorum: QuorumId, member: MemberId) {
        let now = Instant::now();
        let mut refusals = self.refusals.lock();
        if refusals.len() >= REMEMBERED_MAX {
            refusals.retain(|_, refusals| refusals.last.elapsed() < REFUSAL_TTL);
        }
        let known = refusals.entry((quorum, member)).or_insert(Refusals { since: now, last: now });
        if known.last.elapsed() >= REFUSAL_TTL {
            known.since = now;
        }
        known.last = now;
    }

    fn note_taken(&self, quorum: QuorumId, member: MemberId) {
        self.refusals.lock().remove(&(quorum, member));
    }

    pub async fn ask(
        &self,
        peer: PeerId,
        message: &RaftMessage,
        deadline: Duration,
    ) -> Result<(RaftAnswer, Bytes), NetError> {
        let frame = Frame::head(wire::encode(message));
        let answer = self.net.request(peer, Protocol::Raft, frame, deadline).await?;
        let decoded = wire::decode(&answer.head, RAFT_HEAD_BYTES_MAX);
        decoded.map(|head| (head, answer.payload)).map_err(|_| {
            self.net.penalise(peer, "malformed raft answer");
            NetError::Broken { peer }
        })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        quorum: QuorumId,
        member: MemberId,
        message: RaftMessage,
        deadline: Duration,
    ) -> Result<T, LinkError> {
        if !self.net.is_connected(member.peer) {
            self.dial(member.peer);
            return Err(LinkError::NotConnected(member.peer));
        }
        match self.ask(member.peer, &message, deadline).await?.0 {
            RaftAnswer::Ok { body } => {
                self.note_taken(quorum, member);
                wire::decode(&body, RAFT_HEAD_BYTES_MAX).map_err(|source| {
                    self.net.penalise(member.peer, "malformed raft answer");
                    LinkError::Malformed { member, source }
                })
            }
            RaftAnswer::NotMember { incarnation } => {
                if incarnation == member.incarnation {
                    // It left, or has no part in it yet.
                    self.note_refusal(quorum, member);
                }
                self.note_reborn(quorum, member.peer, incarnation);
                Err(LinkError::NotMember { member, found: incarnation })
            }
            RaftAnswer::Failed { reason } => {
                self.note_refusal(quorum, member);
                Err(LinkError::Failed { member, reason })
            }
            RaftAnswer::Chunk | RaftAnswer::Founded | RaftAnswer::Signed(_) | RaftAnswer::Attested(_) => {
                Err(LinkError::Answer { member })
            }
        }
    }
}

/// Makes the links of one group.
#[derive(Clone)]
pub struct Connector {
    pub quorum: QuorumId,
    pub me: MemberId,
    pub links: Arc<Links>,
    pub machine: Arc<Machine>,
    pub read_index: ReadIndex,
    pub known_vote: KnownVote,
    pub own_sync: OwnSync,
}

impl RaftNetworkFactory<TypeConfig> for Connector {
    type Network = Link;
    async fn new_client(&mut self, target: MemberId, _node: &EmptyNode) -> Link {
        Link { group: self.clone(), target, is_used: false, append_bytes: APPEND_BYTES_MAX }
    }
}

impl Connector {
    async fn call<T: DeserializeOwned>(
        &self,
        target: MemberId,
        message: RaftMessage,
        deadline: Duration,
    ) -> Result<T, LinkError> {
        self.links.call(self.quorum, target, message, deadline).await
    }

    /// Sends an append. A higher vote in the answer is one that may be believed.
    async fn call_append(
        &self,
        to: MemberId,
        message: RaftMessage,
        deadline: Duration,
    ) -> Result<AppendEntriesResponse<MemberId>, LinkError> {
        match self.call(to, message, deadline).await? {
            AppendEntriesResponse::HigherVote(vote) => {
                let checked = check_answer(self.me, &self.known_vote, vote);
                let vote = checked.map_err(|source| self.disbelieve(to, source))?;
                match vote > self.known_vote.get() {
                    true => Ok(AppendEntriesResponse::HigherVote(vote)),
                    // openraft would send this member nothing any more.
                    false => Err(self.disbelieve(to, Refusal::SecondPrimary { term: Term(vote.leader_id.term) })),
                }
            }
            answer => Ok(answer),
        }
    }

    fn disbelieve(&self, member: MemberId, source: Refusal) -> LinkError {
        tracing::warn!(quorum = %self.quorum, %member, error = %source, "the vote in a member's answer is not believed");
        LinkError::Vote { member, source }
    }

    fn append(&self, to: MemberId, request: AppendEntriesRequest<TypeConfig>) -> RaftMessage {
        let digest = self.machine.read(|applied| applied.digest());
        RaftMessage::Append { quorum: self.quorum, to, body: wire::encode(&AppendBody { request, digest }) }
    }

    /// An empty append, shared with whoever wants the same.
    async fn confirm(&self, to: MemberId, request: AppendEntriesRequest<TypeConfig>) -> Appended {
        let (group, deadline) = (self.clone(), self.append_deadline(to));
        let call = move |request| {
            let group = group.clone();
            async move {
                let message = group.append(to, request);
                group.call_append(to, message, deadline).await.map_err(|error| Unreachable::new(&error))
            }
        };
        self.read_index.ask(to, request, deadline, call).await
    }

    fn append_deadline(&self, to: MemberId) -> Duration {
        self.links.latencies.append_deadline(to.peer)
    }
}

/// From one group's member to another. openraft makes one for what a member is sent in the course of a lead, and one
/// for each vote, each snapshot and each question whether this member still leads.
pub struct Link {
    group: Connector,
    target: MemberId,
    /// An append was sent over it, so it is not there for one question.
    is_used: bool,
    /// What an append may weigh now.
    append_bytes: usize,
}

impl Link {
    async fn call<T: DeserializeOwned>(&self, message: RaftMessage, deadline: Duration) -> Result<T, Unreachable> {
        let called = self.group.call(self.target, message, deadline).await;
        called.map_err(|error| Unreachable::new(&error))
    }
}

type CallError = RPCError<MemberId, EmptyNode, RaftError<MemberId>>;

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<MemberId>, CallError> {
        let (entries, target) = (request.entries.len() as u64, self.target);
        let reach = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        let own_sync = self.group.own_sync.clone();
        let missed =
            |group: &Connector| Missed { links: group.links.clone(), quorum: group.quorum, target, armed: true };
        // The first empty append of a link is a question, or a commit notice, which may be shared as well. A link of a
        // lead sends its later ones by itself: one after the other, and no entries wait for a question.
        if entries == 0 && !std::mem::replace(&mut self.is_used, true) {
            let missed = missed(&self.group);
            let answer = self.group.confirm(target, request).await;
            missed.settle(answer.is_ok());
            own_sync.reaches(reach).await;
            return counted(answer).map_err(CallError::Unreachable);
        }
        self.is_used = true;
        let message = self.group.append(target, request);
        let RaftMessage::Append { body, .. } = &message else { unreachable!("made just now") };
        let bytes = body.len();
        if bytes > self.append_bytes && entries > 1 {
            let fitting = entries * self.append_bytes as u64 / bytes as u64;
            return Err(PayloadTooLarge::new_entries_hint(fitting.clamp(1, entries - 1)).into());
        }
        // openraft drops this future when the lead ends; one that is dropped has missed its message too.
        let mut late = Late { limit: &mut self.append_bytes, bytes, armed: true };
        let missed = missed(&self.group);
        let deadline = self.group.append_deadline(target);
        let call = || self.group.call_append(target, message.clone(), deadline);
        // A large one that is late is on its way, and sent twice it would be later still.
        let answer = match bytes <= APPEND_BYTES_MIN {
            true => ask_again(self.group.links.latencies.append_late(target.peer), call).await,
            false => call().await,
        };
        late.armed = matches!(answer, Err(LinkError::Net(NetError::Timeout { .. })));
        // A small one that arrives says nothing of large ones.
        if answer.is_ok() && bytes > *late.limit / 2 {
            *late.limit = (*late.limit * 2).min(APPEND_BYTES_MAX);
        }
        drop(late);
        missed.settle(answer.is_ok());
        if matches!(answer, Ok(AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_))) {
            own_sync.reaches(reach).await;
        }
        counted(answer.map_err(|error| Unreachable::new(&error))).map_err(CallError::Unreachable)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<MemberId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<MemberId>, CallError> {
        let (quorum, to, body) = (self.group.quorum, self.target, wire::encode(&request));
        // A lost vote would cost a whole election, and a voter that hears it twice gives the same answer.
        let latency = self.group.links.latencies.of(to.peer);
        let late = RESEND_MIN.max(latency.round_trip + latency.sync);
        let ask = || self.call(RaftMessage::Vote { quorum, to, body: body.clone() }, VOTE_DEADLINE);
        let answer: VoteResponse<MemberId> = ask_again(late, ask).await.map_err(CallError::Unreachable)?;
        let checked = check_voted(self.group.me, &self.group.known_vote, request.vote, answer);
        checked.map_err(|source| CallError::Unreachable(Unreachable::new(&self.group.disbelieve(to, source))))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<MemberId>, StreamingError<TypeConfig, Fatal<MemberId>>> {
        let (quorum, to) = (self.group.quorum, self.target);
        let body = wire::encode(&SnapshotBody { vote, meta: snapshot.meta, list: *snapshot.snapshot });
        if body.len() > RAFT_HEAD_BYTES_MAX - 1024 {
            // 1 MiB chunks: the list of a state of some 90 GiB. Its limits keep a state far below that.
            let error = std::io::Error::other("the list of snapshot chunks is too long");
            return Err(StreamingError::Network(NetworkError::new(&error)));
        }
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = self.call::<SnapshotResponse<MemberId>>(RaftMessage::Snapshot { quorum, to, body }, RAFT_DEADLINE) => {
                let answer = answer.map_err(StreamingError::Unreachable)?;
                let vote = match answer.vote == vote {
                    true => Ok(vote),
                    false => check_answer(self.group.me, &self.group.known_vote, answer.vote),
                };
                let disbelieve = |source| Unreachable::new(&self.group.disbelieve(to, source));
                vote.map(|vote| SnapshotResponse { vote }).map_err(|source| StreamingError::Unreachable(disbelieve(source)))
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(quorate_protocols::backoff::Backoff::new(BACKOFF_FIRST, BACKOFF_MAX).pauses())
    }
}

/// What became of an append.
pub type Appended = Result<AppendEntriesResponse<MemberId>, Unreachable>;

/// The answer as the primary counts it.
fn counted(mut answer: Appended) -> Appended {
    failpoint(Failpoint::AppendAnswered, &mut answer);
    answer
}

/// Makes the next append smaller unless told otherwise: this one did not arrive in time.
struct Late<'a> {
    limit: &'a mut usize,
    bytes: usize,
    armed: bool,
}

impl Drop for Late<'_> {
    fn drop(&mut self) {
        if self.armed && self.bytes > APPEND_BYTES_MIN {
            *self.limit = (self.bytes / 2).clamp(APPEND_BYTES_MIN, *self.limit);
        }
    }
}

/// Notes that the target missed a message unless told otherwise.
struct Missed {
    links: Arc<Links>,
    quorum: QuorumId,
    target: MemberId,
    armed: bool,
}

impl Missed {
    fn settle(mut self, answered: bool) {
        self.armed = !answered;
    }
}

impl Drop for Missed {
    fn drop(&mut self) {
        if self.armed {
            self.links.note_missed(self.quorum, self.target);
        }
    }
}

const _: () = assert!(APPEND_DEADLINE_MAX.as_millis() <= RAFT_DEADLINE_MAX.as_millis());
const _: () = assert!(VOTE_DEADLINE.as_millis() <= RAFT_DEADLINE_MAX.as_millis());
