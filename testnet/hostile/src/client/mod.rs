//! The hostile client: one identity on a network, with a libp2p stack of its own.
//!
//! It knows the wire (Noise with a value derived from the network's secret, Yamux, identify, gossipsub, frames) and the
//! message types of `quorate-protocols`, and nothing of a node's code, so that a check which only the node's own sender
//! makes shows as missing. It can do what an honest peer does ([`Client::ask`] and its typed forms), and what none
//! does: open any stream and write any bytes ([`Client::open`]), publish any bytes, leave questions unanswered or
//! answer them with lies ([`Answerer`]).
//!
//! Many identities run in one process; each has a task that owns its swarm.

pub mod frame;
pub mod gossip;
pub mod join;
pub mod kad;
mod line;
pub mod parts;
mod protobuf;
pub mod raft;
mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use futures::future::BoxFuture;
use futures::{AsyncWriteExt, StreamExt};
use libp2p::core::upgrade::Version;
use libp2p::core::{Transport, muxing::StreamMuxerBox};
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity};
use libp2p::identity::Keypair;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Stream, StreamProtocol, Swarm, identify, noise, tcp, yamux};
use parking_lot::Mutex;
use quorate_protocols::approval::{ApprovalAnswer, ApprovalMessage};
use quorate_protocols::ids::PeerId;
use quorate_protocols::liveness::message::{LivenessAnswer, LivenessMessage};
use quorate_protocols::piece::message::{PieceAnswer, PieceMessage};
use quorate_protocols::quorum::request::{JobAnswer, JobMessage};
use quorate_protocols::quorum::{RaftAnswer, RaftMessage};
use quorate_protocols::task::message::{TaskAnswer, TaskMessage};
use quorate_protocols::wire::{self, Record};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use frame::{Answer, Frame, Question};
use join::JoinLine;
use line::Line;

pub use frame::Lane;

/// Commands that wait for the swarm's task. A scenario that sends more waits.
const COMMANDS_MAX: usize = 1024;

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The secret enters a handshake under this name alone.
const PROLOGUE_CONTEXT: &str = "quorate 1 noise prologue of a network secret";
const IDENTIFY_VERSION: &str = "quorate/1";

/// Largest announcement with its envelope. Above what nodes take, so that larger ones can be sent.
const GOSSIP_BYTES_MAX: usize = 64 * 1024;

pub const TOPIC_PEERS: &str = "quorate/peers/1";
pub const TOPIC_QUORUMS: &str = "quorate/quorums/1";
pub const TOPIC_JOBS: &str = "quorate/jobs/1";

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the client could not be set up: {0}")]
    Setup(String),
    #[error("no connection to {0}")]
    Connect(String),
    #[error("the stream was not opened: {0}")]
    Open(String),
    #[error("the stream broke: {0}")]
    Broken(#[from] std::io::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the peer is busy and took no request")]
    Busy,
    #[error("the answer cannot be read: {0}")]
    Answer(#[from] wire::DecodeError),
    #[error("the client has ended")]
    Ended,
}

/// What this peer says when a node asks it something: a frame, or nothing for ever.
pub type Answerer = Arc<dyn Fn(PeerId, Lane, Frame) -> BoxFuture<'static, Option<Frame>> + Send + Sync>;

/// Answers nothing, and ends the stream: what a peer does that does not speak the protocol.
pub fn no_answers() -> Answerer {
    Arc::new(|_, _, _| Box::pin(async { None }))
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: streams::Behaviour,
    gossip: Toggle<gossipsub::Behaviour>,
    identify: identify::Behaviour,
}

enum Command {
    Dial { address: Multiaddr, reply: oneshot::Sender<Result<PeerId, String>> },
    Open { peer: libp2p::PeerId, protocol: StreamProtocol, reply: streams::Reply },
    Publish { topic: String, bytes: Vec<u8>, reply: oneshot::Sender<Result<(), String>> },
    Disconnect { peer: libp2p::PeerId },
}

/// Handle to one identity. Dropping it ends the identity and its connections.
pub struct Client {
    key: SigningKey,
    commands: mpsc::Sender<Command>,
    connected: Arc<Mutex<BTreeMap<PeerId, u32>>>,
    /// Streams that questions share.
    lines: tokio::sync::Mutex<BTreeMap<(PeerId, Lane), Arc<Line>>>,
    task: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// A new identity with this key. It connects to nobody yet.
    pub fn start(join: &JoinLine, key: [u8; 32], answerer: Answerer) -> Result<Self, ClientError> {
        Self::start_with(join, key, answerer, gossip_of)
    }

    /// A new identity whose gossip is what is written with [`gossip::RawGossip`], and that answers nothing.
    pub fn start_without_gossip(join: &JoinLine, key: [u8; 32]) -> Result<Self, ClientError> {
        Self::start_with(join, key, no_answers(), |_| Ok(None))
    }

    fn start_with(
        join: &JoinLine,
        key: [u8; 32],
        answerer: Answerer,
        gossip: impl FnOnce(&Keypair) -> Result<Option<gossipsub::Behaviour>, String>,
    ) -> Result<Self, ClientError> {
        let signing = SigningKey::from_bytes(&key);
        let keypair = Keypair::ed25519_from_bytes(key).map_err(|error| ClientError::Setup(error.to_string()))?;
        let swarm = gossip(&keypair).and_then(|gossip| build(join, &keypair, gossip)).map_err(ClientError::Setup)?;
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let connected = Arc::new(Mutex::default());
        let actor = Actor { swarm, queue, connected: Arc::clone(&connected), dials: BTreeMap::new(), answerer };
        Ok(Self {
            key: signing,
            commands,
            connected,
            lines: tokio::sync::Mutex::default(),
            task: tokio::spawn(actor.run()),
        })
    }

    pub fn peer(&self) -> PeerId {
        PeerId(self.key.verifying_key().to_bytes())
    }

    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    pub fn is_connected(&self, peer: PeerId) -> bool {
        self.connected.lock().contains_key(&peer)
    }

    async fn command<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ClientError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).await.map_err(|_| ClientError::Ended)?;
        answer.await.map_err(|_| ClientError::Ended)
    }

    /// Connects to the node that listens there, and says who it is.
    pub async fn connect(&self, address: &str) -> Result<PeerId, ClientError> {
        let failed = |reason: String| ClientError::Connect(format!("{address}: {reason}"));
        let multiaddr = join::multiaddr(address).map_err(failed)?;
        let dial = self.command(|reply| Command::Dial { address: multiaddr, reply });
        let dialled = tokio::time::timeout(CONNECT_DEADLINE, dial).await;
        dialled.map_err(|_| ClientError::Timeout(CONNECT_DEADLINE))??.map_err(failed)
    }

    pub async fn disconnect(&self, peer: PeerId) {
        if let Some(peer) = to_libp2p(peer) {
            let _ = self.commands.send(Command::Disconnect { peer }).await;
        }
    }

    /// A stream of any protocol, to write whatever bytes.
    pub async fn open(&self, peer: PeerId, protocol: &str) -> Result<Stream, ClientError> {
        let target = to_libp2p(peer).ok_or_else(|| ClientError::Open("not a peer id".to_owned()))?;
        let protocol = StreamProtocol::try_from_owned(protocol.to_owned())
            .map_err(|error| ClientError::Open(error.to_string()))?;
        self.command(|reply| Command::Open { peer: target, protocol, reply }).await?.map_err(ClientError::Open)
    }

    /// Announces these bytes, signed with this identity.
    pub async fn publish(&self, topic: &str, bytes: Vec<u8>) -> Result<(), ClientError> {
        let published = self.command(|reply| Command::Publish { topic: topic.to_owned(), bytes, reply }).await?;
        published.map_err(ClientError::Open)
    }

    /// An announcement as an honest peer makes it, whatever it says.
    pub async fn announce<T: Record>(&self, topic: &str, advert: &T) -> Result<(), ClientError> {
        self.publish(topic, wire::encode_record(advert)).await
    }

    /// One question as an honest peer asks it, whatever its bytes.
    pub async fn ask(&self, peer: PeerId, lane: Lane, frame: Frame, patience: Duration) -> Result<Frame, ClientError> {
        let asked = async {
            if lane.is_shared() {
                return self.line(peer, lane).await?.ask(&frame, patience).await;
            }
            let mut stream = self.open(peer, lane.name()).await?;
            Question { patience, frame }.write(&mut stream).await?;
            match Answer::read(&mut stream, lane).await? {
                Answer::Frame(frame) => Ok(frame),
                Answer::Busy => Err(ClientError::Busy),
            }
        };
        // The node counts from when it has the question, so it never gives up first.
        tokio::time::timeout(patience, asked).await.map_err(|_| ClientError::Timeout(patience))?
    }

    /// The stream that questions of this lane to this peer share.
    async fn line(&self, peer: PeerId, lane: Lane) -> Result<Arc<Line>, ClientError> {
        let mut lines = self.lines.lock().await;
        match lines.get(&(peer, lane)).filter(|line| !line.has_ended()) {
            Some(line) => Ok(Arc::clone(line)),
            None => {
                let line = Arc::new(Line::new(self.open(peer, lane.name()).await?, lane));
                lines.insert((peer, lane), Arc::clone(&line));
                Ok(line)
            }
        }
    }

    async fn ask_typed<Q: Serialize, A: DeserializeOwned>(
        &self,
        peer: PeerId,
        lane: Lane,
        message: &Q,
        payload: Bytes,
    ) -> Result<(A, Bytes), ClientError> {
        let frame = Frame { head: wire::encode(message).into(), payload };
        let answer = self.ask(peer, lane, frame, lane.patience()).await?;
        Ok((wire::decode(&answer.head, lane.head_bytes_max())?, answer.payload))
    }

    pub async fn approval(&self, peer: PeerId, message: &ApprovalMessage) -> Result<ApprovalAnswer, ClientError> {
        Ok(self.ask_typed(peer, Lane::Approval, message, Bytes::new()).await?.0)
    }
    pub async fn raft(&self, peer: PeerId, message: &RaftMessage) -> Result<RaftAnswer, ClientError> {
        Ok(self.ask_typed(peer, Lane::Raft, message, Bytes::new()).await?.0)
    }
    pub async fn liveness(&self, peer: PeerId, message: &LivenessMessage) -> Result<LivenessAnswer, ClientError> {
        Ok(self.ask_typed(peer, Lane::Liveness, message, Bytes::new()).await?.0)
    }
    pub async fn job(&self, peer: PeerId, message: &JobMessage) -> Result<JobAnswer, ClientError> {
        Ok(self.ask_typed(peer, Lane::Job, message, Bytes::new()).await?.0)
    }
    pub async fn task(&self, peer: PeerId, message: &TaskMessage) -> Result<TaskAnswer, ClientError> {
        Ok(self.ask_typed(peer, Lane::Task, message, Bytes::new()).await?.0)
    }
    pub async fn piece(
        &self,
        peer: PeerId,
        message: &PieceMessage,
        payload: Bytes,
    ) -> Result<PieceAnswer, ClientError> {
        Ok(self.ask_typed(peer, Lane::Piece, message, payload).await?.0)
    }

    /// Writes these bytes on a stream of the hash table's protocol, which takes one message after the other. Half of
    /// the bytes may arrive when the node breaks the stream; that is no error of the attack.
    pub async fn write_kad(&self, peer: PeerId, bytes: &[u8]) -> Result<(), ClientError> {
        let mut stream = self.open(peer, kad::PROTOCOL).await?;
        stream.write_all(bytes).await?;
        Ok(stream.close().await?)
    }
}

/// Gossip as an honest peer has it.
fn gossip_of(keypair: &Keypair) -> Result<Option<gossipsub::Behaviour>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let config = gossipsub::ConfigBuilder::default()
        .max_transmit_size(GOSSIP_BYTES_MAX)
        .validation_mode(gossipsub::ValidationMode::Strict)
        .flood_publish(true)
        .build()
        .map_err(|error| text(&error))?;
    let mut gossip =
        gossipsub::Behaviour::new(MessageAuthenticity::Signed(keypair.clone()), config).map_err(str::to_owned)?;
    for topic in [TOPIC_PEERS, TOPIC_QUORUMS, TOPIC_JOBS] {
        gossip.subscribe(&IdentTopic::new(topic)).map_err(|error| text(&error))?;
    }
    Ok(Some(gossip))
}

/// Without gossip of its own, it takes in what nodes gossip: they have none for a peer that does not.
fn build(join: &JoinLine, keypair: &Keypair, gossip: Option<gossipsub::Behaviour>) -> Result<Swarm<Behaviour>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let prologue = blake3::derive_key(PROLOGUE_CONTEXT, &join.secret).to_vec();
    let noise = noise::Config::new(keypair).map_err(|error| text(&error))?.with_prologue(prologue);
    let transport = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .timeout(CONNECT_DEADLINE)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    let by_hand = gossip.is_none().then_some(gossip::PROTOCOL);
    let behaviour = Behaviour {
        streams: streams::Behaviour::new(Lane::ALL.map(Lane::name).into_iter().chain(by_hand)),
        gossip: gossip.into(),
        identify: identify::Behaviour::new(identify::Config::new(IDENTIFY_VERSION.to_owned(), keypair.public())),
    };
    let settings = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(3600));
    Ok(Swarm::new(transport, behaviour, keypair.public().to_peer_id(), settings))
}

struct Actor {
    swarm: Swarm<Behaviour>,
    queue: mpsc::Receiver<Command>,
    connected: Arc<Mutex<BTreeMap<PeerId, u32>>>,
    dials: BTreeMap<ConnectionId, oneshot::Sender<Result<PeerId, String>>>,
    answerer: Answerer,
}

impl Actor {
    async fn run(mut self) {
        loop {
            tokio::select! {
                command = self.queue.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.on_event(event),
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial { address, reply } => {
                let options = DialOpts::unknown_peer_id().address(address).build();
                let id = options.connection_id();
                match self.swarm.dial(options) {
                    Ok(()) => drop(self.dials.insert(id, reply)),
                    Err(error) => drop(reply.send(Err(error.to_string()))),
                }
            }
            Command::Open { peer, protocol, reply } => match self.swarm.is_connected(&peer) {
                true => self.swarm.behaviour_mut().streams.open(peer, protocol, reply),
                false => drop(reply.send(Err("not connected".to_owned()))),
            },
            Command::Publish { topic, bytes, reply } => {
                let published = match self.swarm.behaviour_mut().gossip.as_mut() {
                    Some(gossip) => gossip.publish(IdentTopic::new(topic), bytes).map_err(|error| error.to_string()),
                    None => Err("this identity has no gossip".to_owned()),
                };
                let _ = reply.send(published.map(drop));
            }
            Command::Disconnect { peer } => drop(self.swarm.disconnect_peer_id(peer)),
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                let Some(peer) = from_libp2p(&peer_id) else { return };
                *self.connected.lock().entry(peer).or_default() += 1;
                if let Some(reply) = self.dials.remove(&connection_id) {
                    let _ = reply.send(Ok(peer));
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                if let Some(peer) = from_libp2p(&peer_id) {
                    self.connected.lock().remove(&peer);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(reply) = self.dials.remove(&connection_id) {
                    let _ = reply.send(Err(error.to_string()));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Streams(arrived)) => self.serve(arrived),
            _ => (),
        }
    }

    /// A question of a node, answered in a task of its own.
    fn serve(&self, arrived: streams::Arrived) {
        let streams::Arrived { peer, protocol, mut stream } = arrived;
        let name: &str = protocol.as_ref();
        if name == gossip::PROTOCOL {
            // Read, and left at that: a node that cannot write takes this peer for one without gossip.
            tokio::spawn(async move { futures::io::copy(stream, &mut futures::io::sink()).await });
            return;
        }
        let lane = Lane::ALL.into_iter().find(|lane| lane.name() == protocol.as_ref());
        let (Some(lane), Some(from)) = (lane, from_libp2p(&peer)) else { return };
        let answerer = Arc::clone(&self.answerer);
        if lane.is_shared() {
            tokio::spawn(line::serve(stream, lane, from, answerer));
            return;
        }
        tokio::spawn(async move {
            let Ok(question) = Question::read(&mut stream, lane).await else { return };
            if let Some(frame) = answerer(from, lane, question.frame).await {
                // A node that gave up needs no answer.
                let _ = Answer::Frame(frame).write(&mut stream).await;
            }
        });
    }
}

pub fn to_libp2p(peer: PeerId) -> Option<libp2p::PeerId> {
    libp2p::PeerId::from_bytes(&peer.to_multihash_bytes()).ok()
}

pub fn from_libp2p(peer: &libp2p::PeerId) -> Option<PeerId> {
    PeerId::from_multihash_bytes(&peer.to_bytes())
}
