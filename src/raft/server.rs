//! The raft protocol's server: what other members ask of this node's groups.
//!
//! Each request is answered in a task of its own, so that one slow group holds up no other; beyond a bound requests are
//! dropped, which their senders take as busy. What is raft's own passes the door first (`door`): a group hears those
//! that may lead it alone, each for itself. Chunks, copies and attestations are for members.

use std::sync::Arc;

use bytes::Bytes;
use openraft::error::{Fatal, RaftError};
use openraft::raft::{AppendEntriesResponse, VoteRequest};
use quorate_protocols::ids::{Digest, LogIndex, MemberId, PeerId, QuorumId, Term};
use quorate_protocols::quorum::limits::RAFT_HEAD_BYTES_MAX;
use quorate_protocols::quorum::{RaftAnswer, RaftMessage, Refusal};
use quorate_protocols::wire;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc};

use super::copies::{ReceiveError, check_makes_state};
use super::door::{claim_of, is_in_order, is_of_term};
use super::group::Group;
use super::host::Inner;
use super::network::{AppendBody, SnapshotBody};
use super::types::Snapshot;
use crate::seams::{DiskError, Frame, InboundRequest, Reply};

/// Raft requests dealt with at once; the network bounds them per peer before. The next is dropped, which its sender
/// takes as busy.
const REQUESTS_MAX: usize = 512;

/// Why a request is not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("this member has stopped")]
    Stopped,
    #[error("the body cannot be read")]
    Malformed,
    #[error("no such chunk")]
    NoChunk,
    #[error("this member has not come so far")]
    Behind,
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// openraft's errors are large, and are only told.
    #[error("{0}")]
    Raft(String),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl From<RaftError<MemberId>> for ServeError {
    fn from(error: RaftError<MemberId>) -> Self {
        Self::Raft(error.to_string())
    }
}

impl From<Fatal<MemberId>> for ServeError {
    fn from(error: Fatal<MemberId>) -> Self {
        Self::Raft(error.to_string())
    }
}

impl Inner {
    /// Answers raft requests, each in a task of its own: one slow group holds up no other.
    pub async fn serve(self: Arc<Self>, mut requests: mpsc::Receiver<InboundRequest>) {
        let shutdown = self.seams.tasks.shutdown_token();
        let room = Arc::new(Semaphore::new(REQUESTS_MAX));
        loop {
            let request = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                request = requests.recv() => match request {
                    Some(request) => request,
                    None => return,
                },
            };
            let Ok(permit) = room.clone().try_acquire_owned() else { continue };
            let (host, shutdown) = (self.clone(), shutdown.clone());
            crate::seams::spawn(async move {
                let InboundRequest { from, frame, reply, memory } = request;
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => (),
                    () = host.handle(from, frame, reply) => (),
                }
                drop((memory, permit));
            });
        }
    }

    async fn handle(self: &Arc<Self>, from: PeerId, frame: Frame, reply: Reply) {
        match wire::decode(&frame.head, RAFT_HEAD_BYTES_MAX) {
            Ok(message) => {
                let (answer, payload) = self.answer(from, message).await;
                reply.send(Frame::new(wire::encode(&answer), payload));
            }
            Err(error) => {
                tracing::debug!(%from, %error, "a raft message");
                self.net.penalise(from, "malformed raft message");
            }
        }
    }

    pub(super) async fn answer(self: &Arc<Self>, from: PeerId, message: RaftMessage) -> (RaftAnswer, Bytes) {
        let failed = |error: ServeError| RaftAnswer::Failed { reason: error.to_string() };
        let answer = match message {
            RaftMessage::Found { founding, members, standbys, initialize } => {
                let Ok(_place) = self.foundings.try_acquire() else {
                    let reason = "this node is busy with other foundings: ask again".to_owned();
                    return (RaftAnswer::Failed { reason }, Bytes::new());
                };
                let founded = match self.create(from, founding, members, standbys).await {
                    Ok(group) if initialize => self.initialize(&group).await,
                    created => created.map(drop),
                };
                return match founded {
                    Ok(()) => (RaftAnswer::Founded, Bytes::new()),
                    Err(reason) => (RaftAnswer::Failed { reason }, Bytes::new()),
                };
            }
            RaftMessage::Chunk { quorum, hash } => match self.chunk(from, quorum, hash) {
                Ok(bytes) => return (RaftAnswer::Chunk, bytes),
                Err(error) => Err(error),
            },
            RaftMessage::Append { quorum, to, body } => match self.addressed(from, quorum, to) {
                Ok(group) => self.append(from, &group, &body).await,
                Err(answer) => Ok(answer),
            },
            RaftMessage::Vote { quorum, to, body } => match self.addressed(from, quorum, to) {
                Ok(group) => self.vote(from, &group, &body).await,
                Err(answer) => Ok(answer),
            },
            RaftMessage::SignLink { quorum, to, base, number } => match self.addressed(from, quorum, to) {
                Ok(group) => Ok(self.sign_link(&group, base, number)),
                Err(answer) => Ok(answer),
            },
            RaftMessage::Snapshot { quorum, to, body } => match self.addressed(from, quorum, to) {
                Ok(group) => self.snapshot(from, &group, &body).await,
                Err(answer) => Ok(answer),
            },
            RaftMessage::Attest { quorum, index } => self.attest(from, quorum, index),
            RaftMessage::Copy { quorum, least } => self.serve_copy(from, quorum, least).await,
        };
        (answer.unwrap_or_else(failed), Bytes::new())
    }

    /// The group that the message is for, if it is for this member, and from one that may speak raft to it. The body is
    /// read only then.
    fn addressed(self: &Arc<Self>, from: PeerId, quorum: QuorumId, to: MemberId) -> Result<Arc<Group>, RaftAnswer> {
        let me = self.identity.member();
        let not_member = RaftAnswer::NotMember { incarnation: me.incarnation };
        let group = self.group(quorum).filter(|_| to == me).ok_or(not_member)?;
        let failed = |error: ServeError| RaftAnswer::Failed { reason: error.to_string() };
        if group.is_stopped() {
            return Err(failed(ServeError::Stopped));
        }
        if !group.knows(from) {
            self.inquire(&group);
            return Err(failed(Refusal::NotMember.into()));
        }
        Ok(group)
    }

    /// The group, for a peer that is a member of it.
    pub(super) fn serving(&self, from: PeerId, quorum: QuorumId) -> Result<Arc<Group>, ServeError> {
        let group = self.group(quorum).filter(|group| group.serves(from)).ok_or(Refusal::NotMember)?;
        match group.is_stopped() {
            true => Err(ServeError::Stopped),
            false => Ok(group),
        }
    }

    fn read<T: DeserializeOwned>(&self, from: PeerId, body: &[u8]) -> Result<T, ServeError> {
        wire::decode(body, RAFT_HEAD_BYTES_MAX).map_err(|_| self.malformed(from))
    }

    fn malformed(&self, from: PeerId) -> ServeError {
        self.net.penalise(from, "malformed raft body");
        ServeError::Malformed
    }

    async fn append(self: &Arc<Self>, from: PeerId, group: &Arc<Group>, body: &[u8]) -> Result<RaftAnswer, ServeError> {
        let AppendBody { request, digest } = self.read(from, body)?;
        let vote = request.vote;
        self.admit(from, group, claim_of(&vote, true))?;
        if !vote.committed {
            return Err(Refusal::NotElected.into());
        }
        if !is_in_order(&request) {
            return Err(self.malformed(from));
        }
        let answer = group.raft.append_entries(request).await?;
        // Only now it is known that the digest is that of the primary of this term.
        if let (AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_), Some(primary)) =
            (&answer, vote.leader_id.voted_for)
        {
            self.compare_digest(group, primary, Term(vote.leader_id.term), digest);
        }
        Ok(RaftAnswer::Ok { body: wire::encode(&answer) })
    }

    async fn vote(self: &Arc<Self>, from: PeerId, group: &Arc<Group>, body: &[u8]) -> Result<RaftAnswer, ServeError> {
        let request: VoteRequest<MemberId> = self.read(from, body)?;
        self.admit(from, group, claim_of(&request.vote, false))?;
        if group.is_behind_promise() {
            return Err(ServeError::Behind);
        }
        // A vote that says that it was given already would be a primary's, and a log of a later term none that there
        // is.
        if request.vote.committed || !is_of_term(request.last_log_id, request.vote.leader_id.term) {
            return Err(self.malformed(from));
        }
        let answer = group.raft.vote(request).await?;
        Ok(RaftAnswer::Ok { body: wire::encode(&answer) })
    }

    /// Signs what the log has decided, if this node trusts whoever it makes a voter, and nothing else.
    fn sign_link(&self, group: &Group, base: u64, number: u64) -> RaftAnswer {
        let (statement, newcomers) = group.machine.read(|applied| {
            let chain = applied.state.chain();
            (chain.statement(group.id, base), chain.newcomers())
        });
        let Some(statement) = statement.filter(|statement| statement.number == number) else {
            return RaftAnswer::Failed { reason: format!("configuration {number} is not decided here") };
        };
        for newcomer in newcomers {
            if let Err(distrust) = self.check_trust(newcomer.peer) {
                let reason = format!("{} is not trusted here as a member: {distrust}", newcomer.peer);
                return RaftAnswer::Failed { reason };
            }
        }
        RaftAnswer::Signed(statement.sign(self.identity.signing_key()))
    }

    fn chunk(&self, from: PeerId, quorum: QuorumId, hash: Digest) -> Result<Bytes, ServeError> {
        let group = self.serving(from, quorum)?;
        group.snapshots.chunk(hash)?.map(Bytes::from).ok_or(ServeError::NoChunk)
    }

    /// Fetches what is missing of a snapshot and installs it.
    async fn snapshot(
        self: &Arc<Self>,
        from: PeerId,
        group: &Arc<Group>,
        body: &[u8],
    ) -> Result<RaftAnswer, ServeError> {
        let SnapshotBody { vote, meta, list } = self.read(from, body)?;
        let claim = claim_of(&vote, true);
        self.admit(from, group, claim)?;
        if !vote.committed {
            return Err(Refusal::NotElected.into());
        }
        let term = vote.leader_id.term;
        if !is_of_term(meta.last_log_id, term) || !is_of_term(*meta.last_membership.log_id(), term) {
            return Err(self.malformed(from));
        }
        self.receive(from, group, &list).await?;
        // openraft ends at a snapshot that it cannot install.
        check_makes_state(group, from, &list).await?;
        // The sender may have been replaced while its chunks were fetched.
        self.admit(from, group, claim)?;
        let snapshot = Snapshot { meta, snapshot: Box::new(list) };
        let answer = group.raft.install_full_snapshot(vote, snapshot).await?;
        Ok(RaftAnswer::Ok { body: wire::encode(&answer) })
    }

    fn attest(&self, from: PeerId, quorum: QuorumId, index: LogIndex) -> Result<RaftAnswer, ServeError> {
        Ok(RaftAnswer::Attested(self.serving(from, quorum)?.attest(index)))
    }
}
