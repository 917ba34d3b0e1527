//! The network as a node needs it: ask a peer, answer a peer, announce to all, know who is connected.
//!
//! The swarm actor in [`crate::network`] implements this over libp2p, the simulator over a seeded model. A request
//! that fails with [`NetError::Timeout`] or [`NetError::Broken`] may have been carried out: *unknown*, not *did not
//! happen*. Identity (`from`) is the transport's authenticated peer id.

mod again;

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_protocols::ids::{Millis, PeerId, QuorumId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::Reservation;

pub use again::{REQUEST_TRIES_MAX, request_again};

/// The protocols of questions and answers, each with its own versioned name, size cap, deadline and quota of questions
/// under way (`quorate_protocols::*::limits`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    Approval,
    Raft,
    Liveness,
    Job,
    Piece,
    Task,
}

impl Protocol {
    pub const ALL: [Self; 6] = [Self::Approval, Self::Raft, Self::Liveness, Self::Job, Self::Piece, Self::Task];

    /// The name negotiated on the wire.
    pub const fn name(self) -> &'static str {
        use quorate_protocols as p;
        match self {
            Self::Approval => p::approval::limits::PROTOCOL,
            Self::Raft => p::quorum::limits::RAFT_PROTOCOL,
            Self::Liveness => p::liveness::limits::PROTOCOL,
            Self::Job => p::job::limits::PROTOCOL,
            Self::Piece => p::piece::limits::PROTOCOL,
            Self::Task => p::task::limits::PROTOCOL,
        }
    }
    /// Largest head of a request or an answer, in bytes.
    pub const fn head_bytes_max(self) -> usize {
        use quorate_protocols as p;
        match self {
            Self::Approval => p::approval::limits::MESSAGE_BYTES_MAX,
            Self::Raft => p::quorum::limits::RAFT_HEAD_BYTES_MAX,
            Self::Liveness => p::liveness::limits::MESSAGE_BYTES_MAX,
            Self::Job => p::job::limits::MESSAGE_BYTES_MAX,
            Self::Piece => p::piece::limits::HEAD_BYTES_MAX,
            Self::Task => p::task::limits::MESSAGE_BYTES_MAX,
        }
    }
    /// Largest payload behind the head, in bytes.
    pub const fn payload_bytes_max(self) -> usize {
        use quorate_protocols as p;
        match self {
            Self::Raft => p::quorum::limits::RAFT_PAYLOAD_BYTES_MAX,
            Self::Piece => p::piece::limits::PIECE_BYTES_MAX,
            Self::Approval | Self::Liveness | Self::Job | Self::Task => 0,
        }
    }
    /// How long an answer may take before the asker gives up, unless it says less.
    pub const fn deadline_max(self) -> Duration {
        use quorate_protocols as p;
        match self {
            Self::Approval => p::approval::limits::DEADLINE_MAX,
            Self::Raft => p::quorum::limits::RAFT_DEADLINE_MAX,
            Self::Liveness => p::liveness::limits::DEADLINE,
            Self::Job => p::job::limits::DEADLINE,
            Self::Piece => p::piece::limits::DEADLINE,
            Self::Task => p::task::limits::DEADLINE,
        }
    }
    /// Questions of this protocol that one peer may have under way at another: the first quota against a greedy peer.
    /// Further ones wait for their turn. Each question for a piece, and each for an approval, takes a stream.
    pub const fn in_flight_max(self) -> usize {
        match self {
            Self::Piece => 4,
            Self::Approval | Self::Liveness => 8,
            Self::Raft => 16,
            // Those beside the questions for logs that are held for seconds.
            Self::Task => 8 + quorate_protocols::task::limits::LOG_WAITS_PER_PEER_MAX,
            Self::Job => quorate_protocols::job::limits::IN_FLIGHT_PER_PEER_MAX,
        }
    }
}

/// One request or answer: a head that is decoded, and bulk bytes that are not (a piece, a snapshot chunk).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub head: Bytes,
    pub payload: Bytes,
}

impl Frame {
    pub fn head(head: impl Into<Bytes>) -> Self {
        Self { head: head.into(), payload: Bytes::new() }
    }
    pub fn new(head: impl Into<Bytes>, payload: Bytes) -> Self {
        Self { head: head.into(), payload }
    }
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.payload.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    #[error("no answer from {peer} within {after:?}; whether it acted is unknown")]
    Timeout { peer: PeerId, after: Duration },
    #[error("cannot reach {peer}: {reason}")]
    Unreachable { peer: PeerId, reason: String },
    #[error("the connection to {peer} broke; whether it acted is unknown")]
    Broken { peer: PeerId },
    #[error("{peer} does not speak {protocol}: it runs another version of quorate; run one version on all nodes")]
    Unsupported { peer: PeerId, protocol: &'static str },
    #[error("{peer} is busy and took no request")]
    Busy { peer: PeerId },
    #[error("message of {bytes} bytes is larger than the {limit} that {protocol} carries")]
    TooLarge { bytes: usize, limit: usize, protocol: &'static str },
    #[error("this node is shutting down")]
    Closed,
}

/// The way back to the asker. Dropping it unanswered tells the asker that the node took no request.
#[derive(Debug)]
pub struct Reply(pub oneshot::Sender<Frame>);

impl Reply {
    pub fn send(self, frame: Frame) {
        // An asker that gave up needs no answer.
        let _ = self.0.send(frame);
    }
}

/// A request that a peer made of this node.
#[derive(Debug)]
pub struct InboundRequest {
    pub from: PeerId,
    pub frame: Frame,
    pub reply: Reply,
    /// The memory that the frame takes up, released when the request has been dealt with.
    pub memory: Reservation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Topic {
    Peers,
    Quorums,
    Jobs,
}

impl Topic {
    pub const ALL: [Self; 3] = [Self::Peers, Self::Quorums, Self::Jobs];
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peers => "quorate/peers/1",
            Self::Quorums => "quorate/quorums/1",
            Self::Jobs => "quorate/jobs/1",
        }
    }
}

/// An announcement, signed by its author and checked by the network layer before it gets here.
#[derive(Clone, Debug)]
pub struct GossipMessage {
    pub author: PeerId,
    pub topic: Topic,
    pub bytes: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    Connected {
        peer: PeerId,
    },
    /// The last connection to this peer closed.
    Disconnected {
        peer: PeerId,
    },
    /// A dial was answered with a refusal: at its address, nothing listens. With a fresh `Disconnected` this is
    /// positive evidence that the peer's process is gone.
    Refused {
        peer: PeerId,
    },
}

/// What the network knows of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    pub peer: PeerId,
    pub addresses: Vec<String>,
    pub connected: bool,
    pub rtt: Option<Duration>,
    /// Wall-clock time of the last sign of life.
    pub last_seen: Option<Millis>,
}

/// The receiving half of a network, taken once by the node when it starts. Each channel is bounded by
/// the node's `network::config`; when one is full the network drops the newest and counts it.
pub struct Inbound {
    pub approval: mpsc::Receiver<InboundRequest>,
    pub raft: mpsc::Receiver<InboundRequest>,
    pub liveness: mpsc::Receiver<InboundRequest>,
    pub job: mpsc::Receiver<InboundRequest>,
    pub piece: mpsc::Receiver<InboundRequest>,
    pub task: mpsc::Receiver<InboundRequest>,
    pub gossip: mpsc::Receiver<GossipMessage>,
    pub events: mpsc::Receiver<NetEvent>,
}

pub trait Net: Send + Sync + 'static {
    fn local_peer(&self) -> PeerId;
    /// Asks `peer` and waits for its answer, dialling it first if need be. `deadline` is capped by the protocol's own.
    fn request(
        &self,
        peer: PeerId,
        protocol: Protocol,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>>;
    /// Announces to the network. Nothing may depend on its delivery.
    fn publish(&self, topic: Topic, bytes: Bytes);
    /// Every peer known to the transport, connected or not, in order of peer id. This node is not among them.
    fn peers(&self) -> Vec<PeerView>;
    fn is_connected(&self, peer: PeerId) -> bool;
    /// Whether the peer is known to be absent just now: it is asked last, and not waited for. A network that keeps no
    /// such record (the node's `presence` does) knows nobody to be absent.
    fn is_absent(&self, _peer: PeerId) -> bool {
        false
    }
    /// What a question to the peer and its answer took lately, when they cost the peer little: a ping, a heartbeat, an
    /// approval. The last may wait for the peer's disk: one with a slow disk counts as one that is far. `None` while
    /// nothing was measured.
    fn round_trip(&self, _peer: PeerId) -> Option<Duration> {
        None
    }
    /// Tries to connect now, without waiting. The outcome comes as a `NetEvent`.
    fn dial(&self, peer: PeerId);
    /// Addresses at which this node listens, in the form a peer can dial.
    fn listen_addresses(&self) -> Vec<String>;
    /// Says in the distributed hash table that this node can answer for `quorum`.
    fn provide(&self, quorum: QuorumId);
    fn stop_providing(&self, quorum: QuorumId);
    /// Peers that say they can answer for `quorum`. Costs at most a few seconds; a wrong answer costs one question.
    fn find_providers(&self, quorum: QuorumId) -> BoxFuture<'static, Vec<PeerId>>;
    /// Notes a peer's misbehaviour; enough of it disconnects the peer.
    fn penalise(&self, peer: PeerId, reason: &'static str);
}
