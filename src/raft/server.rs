//! The raft protocol's server: what other members ask of this node's groups.
//!
//! Each request is answered in a task of its own, so that one slow group holds up no other; beyond a bound requests are
//! dropped, which their senders take as busy. A group hears its members alone, and a message that names another leader
//! or candidate than its sender is refused.

use std::sync::Arc;

use bytes::Bytes;
use openraft::raft::VoteRequest;
use quorate_protocols::ids::{Digest, MemberId, PeerId, QuorumId};
use quorate_protocols::quorum::limits::{RAFT_DEADLINE, RAFT_HEAD_BYTES_MAX};
use quorate_protocols::quorum::{RaftAnswer, RaftMessage};
use quorate_protocols::wire;
use tokio::sync::{Semaphore, mpsc};

use super::group::{Group, Stop};
use super::host::Inner;
use super::network::{AppendBody, SnapshotBody};
use super::snapshot::name_of;
use super::types::Snapshot;
use crate::seams::{Frame, InboundRequest, Reply};

/// Raft requests dealt with at once; the network bounds them per peer before. The next is dropped, which its sender
/// takes as busy.
const REQUESTS_MAX: usize = 512;

/// Chunks of one snapshot that a member is ready to fetch: far above what the limits on a state allow.
const SNAPSHOT_CHUNKS_MAX: usize = 4096;
const CHUNKS_AT_ONCE: usize = 4;

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
        let answer = match message {
            RaftMessage::Found { founding, members, standbys, initialize } => {
                match self.create(from, founding, members, standbys).await {
                    Ok(group) if initialize => self.initialize(&group).await.map(|()| RaftAnswer::Founded),
                    Ok(_) => Ok(RaftAnswer::Founded),
                    Err(reason) => Err(reason),
                }
            }
            RaftMessage::Chunk { quorum, hash } => match self.chunk(from, quorum, hash) {
                Ok(bytes) => return (RaftAnswer::Chunk, bytes),
                Err(reason) => Err(reason),
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
        };
        (answer.unwrap_or_else(|reason| RaftAnswer::Failed { reason }), Bytes::new())
    }

    /// The group that the message is for, if it is for this member, and from one.
    fn addressed(&self, from: PeerId, quorum: QuorumId, to: MemberId) -> Result<Arc<Group>, RaftAnswer> {
        let me = self.identity.member();
        let not_member = RaftAnswer::NotMember { incarnation: me.incarnation };
        let group = self.group(quorum).filter(|_| to == me).ok_or(not_member)?;
        let failed = |reason: &str| RaftAnswer::Failed { reason: reason.to_owned() };
        if group.is_stopped() {
            return Err(failed("this member has stopped"));
        }
        if !group.accepts(from) {
            return Err(failed("the sender is no member here"));
        }
        Ok(group)
    }

    fn malformed(&self, from: PeerId) -> String {
        self.net.penalise(from, "malformed raft body");
        "the body cannot be read".to_owned()
    }

    async fn append(&self, from: PeerId, group: &Group, body: &[u8]) -> Result<RaftAnswer, String> {
        let AppendBody { request, digest } =
            wire::decode(body, RAFT_HEAD_BYTES_MAX).map_err(|_| self.malformed(from))?;
        if request.vote.leader_id.voted_for.map(|leader| leader.peer) != Some(from) {
            return Err("the sender is not the leader that it names".to_owned());
        }
        if !group.compare(digest) {
            self.metrics.diverged.inc();
            group.halt(Stop::ForGood(format!("its state differs from the primary's at log index {}", digest.0)));
            return Err("states differ".to_owned());
        }
        let answer = group.raft.append_entries(request).await.map_err(|error| error.to_string())?;
        Ok(RaftAnswer::Ok { body: wire::encode(&answer) })
    }

    async fn vote(&self, from: PeerId, group: &Group, body: &[u8]) -> Result<RaftAnswer, String> {
        let request: VoteRequest<MemberId> =
            wire::decode(body, RAFT_HEAD_BYTES_MAX).map_err(|_| self.malformed(from))?;
        if request.vote.leader_id.voted_for.map(|candidate| candidate.peer) != Some(from) {
            return Err("the sender is not the candidate that it names".to_owned());
        }
        let answer = group.raft.vote(request).await.map_err(|error| error.to_string())?;
        Ok(RaftAnswer::Ok { body: wire::encode(&answer) })
    }

    /// Signs what the log has decided, and nothing else.
    fn sign_link(&self, group: &Group, base: u64, number: u64) -> RaftAnswer {
        let statement = group.machine.read(|applied| applied.state.chain().statement(group.id, base));
        match statement.filter(|statement| statement.number == number) {
            Some(statement) => RaftAnswer::Signed(statement.sign(self.identity.signing_key())),
            None => RaftAnswer::Failed { reason: format!("configuration {number} is not decided here") },
        }
    }

    fn chunk(&self, from: PeerId, quorum: QuorumId, hash: Digest) -> Result<Bytes, String> {
        let group = self.group(quorum).filter(|group| group.accepts(from)).ok_or("no member here")?;
        match group.snapshots.chunk(hash) {
            Ok(Some(bytes)) => Ok(bytes.into()),
            Ok(None) => Err("no such chunk".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Fetches what is missing of a snapshot and installs it. What was fetched before a deadline is kept, so that the
    /// sender's next try goes on from there.
    async fn snapshot(self: &Arc<Self>, from: PeerId, group: &Group, body: &[u8]) -> Result<RaftAnswer, String> {
        let SnapshotBody { vote, meta, list } =
            wire::decode(body, RAFT_HEAD_BYTES_MAX).map_err(|_| self.malformed(from))?;
        if vote.leader_id.voted_for.map(|leader| leader.peer) != Some(from) {
            return Err("the sender is not the leader that it names".to_owned());
        }
        let chunks = list.chunks.len();
        if chunks > SNAPSHOT_CHUNKS_MAX {
            return Err(format!("{chunks} chunks are more than {SNAPSHOT_CHUNKS_MAX}"));
        }
        let Ok(_one_at_a_time) = group.receiving.try_lock() else {
            return Err("already receiving a snapshot".to_owned());
        };
        let missing = group.snapshots.missing(&list).map_err(|error| error.to_string())?;
        let fetch = async {
            for names in missing.chunks(CHUNKS_AT_ONCE) {
                futures::future::try_join_all(names.iter().map(|name| self.fetch(from, group, *name))).await?;
            }
            Ok::<(), String>(())
        };
        // Less than the sender waits, so that it hears why.
        match tokio::time::timeout(RAFT_DEADLINE * 4 / 5, fetch).await {
            Err(_) => return Err("the chunks are still on their way".to_owned()),
            Ok(fetched) => fetched?,
        };
        let snapshot = Snapshot { meta, snapshot: Box::new(list) };
        let answer = group.raft.install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())?;
        Ok(RaftAnswer::Ok { body: wire::encode(&answer) })
    }

    async fn fetch(&self, from: PeerId, group: &Group, name: Digest) -> Result<(), String> {
        let message = RaftMessage::Chunk { quorum: group.id, hash: name };
        let (answer, bytes) = self.links.ask(from, &message, RAFT_DEADLINE).await.map_err(|error| error.to_string())?;
        if !matches!(answer, RaftAnswer::Chunk) {
            return Err(format!("chunk {name}: {answer:?}"));
        }
        if name_of(&bytes) != name {
            self.net.penalise(from, "a snapshot chunk with other bytes than its name");
            return Err(format!("chunk {name} has other bytes"));
        }
        group.snapshots.keep_chunk(name, &bytes).map_err(|error| error.to_string())
    }
}
