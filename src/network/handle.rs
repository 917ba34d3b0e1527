//! The handle to the network for the rest of the node: cheap to clone, never blocking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_protocols::ids::{PeerId, QuorumId};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::config::{KAD_QUERY_TIMEOUT, OUTBOUND_MAX};
use super::faults::{Link, NetFaults};
use super::metrics::Metrics;
use super::mux;
use super::window::Window;
use crate::seams::{Frame, Net, NetError, PeerView, Protocol, Topic};

pub(super) enum Command {
    /// On a stream of its own.
    Ask(Box<Ask>),
    /// On a stream that it shares, to a peer that is not connected.
    Connect(Box<mux::Question>),
    Publish {
        topic: Topic,
        bytes: Bytes,
    },
    Dial(PeerId),
    FindProviders {
        quorum: QuorumId,
        reply: oneshot::Sender<Vec<PeerId>>,
    },
    Penalise {
        peer: PeerId,
        reason: &'static str,
    },
}

pub(super) struct Ask {
    pub peer: PeerId,
    pub protocol: Protocol,
    pub frame: Frame,
    pub deadline: Instant,
    /// For the error: how long the caller was willing to wait.
    pub after: Duration,
    pub reply: oneshot::Sender<Result<Frame, NetError>>,
    /// Places among the questions to this peer and among all questions, given back when the exchange is over.
    pub permits: Permits,
}

pub(super) type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// What the actor keeps up to date and handles read, without a round trip.
pub(super) struct Shared {
    pub local: PeerId,
    pub faults: NetFaults,
    pub metrics: Metrics,
    peers: Mutex<BTreeMap<PeerId, PeerView>>,
    listen: Mutex<Vec<String>>,
    /// The quorums this node answers for, as the node wishes it; the actor brings the hash table in line.
    provided: Mutex<BTreeSet<QuorumId>>,
    pub provided_changed: Notify,
    /// The connections whose streams questions share.
    pub routes: mux::Routes,
    /// The id of the next question on a shared stream.
    next_question: AtomicU64,
    /// Questions that may still be asked of each peer.
    windows: Mutex<BTreeMap<(PeerId, Protocol), Arc<Semaphore>>>,
    questions: Arc<Semaphore>,
    /// How much of its window a piece takes up, by what liveness traffic says of each peer. Forgotten with the
    /// peer.
    piece_windows: Mutex<BTreeMap<PeerId, Window>>,
}

impl Shared {
    pub fn new(local: PeerId, faults: NetFaults, metrics: Metrics) -> Self {
        Self {
            local,
            faults,
            metrics,
            peers: Mutex::default(),
            listen: Mutex::default(),
            provided: Mutex::default(),
            provided_changed: Notify::new(),
            routes: mux::Routes::default(),
            next_question: AtomicU64::new(0),
            windows: Mutex::default(),
            questions: Arc::new(Semaphore::new(OUTBOUND_MAX)),
            piece_windows: Mutex::default(),
        }
    }
    pub fn set_peer(&self, view: PeerView) {
        self.peers.lock().insert(view.peer, view);
    }
    /// Whether the peer is connected or in the address book.
    pub fn knows(&self, peer: PeerId) -> bool {
        self.peers.lock().contains_key(&peer)
    }
    pub fn remove_peer(&self, peer: PeerId) {
        self.peers.lock().remove(&peer);
        self.piece_windows.lock().remove(&peer);
    }
    pub fn set_listen(&self, addresses: Vec<String>) {
        *self.listen.lock() = addresses;
    }
    pub fn provided(&self) -> BTreeSet<QuorumId> {
        self.provided.lock().clone()
    }
    fn window(&self, peer: PeerId, protocol: Protocol) -> Arc<Semaphore> {
        let fresh = || Arc::new(Semaphore::new(protocol.in_flight_max()));
        self.windows.lock().entry((peer, protocol)).or_insert_with(fresh).clone()
    }
    /// Places of the window that one question takes up.
    fn weight(&self, peer: PeerId, protocol: Protocol) -> u32 {
        match protocol {
            Protocol::Piece => self.piece_windows.lock().get(&peer).map_or(1, Window::weight),
            _ => 1,
        }
    }
    /// A liveness question was answered after this time, its wait for its turn included.
    fn observe_liveness(&self, peer: PeerId, rtt: Duration) {
        self.piece_windows.lock().entry(peer).or_default().observe(rtt, Protocol::Piece.in_flight_max());
    }
    /// Forgets windows that nobody holds a place of.
    pub fn forget_idle_windows(&self) {
        self.windows.lock().retain(|_, window| Arc::strong_count(window) > 1);
    }
}

pub(super) struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl Handle {
    pub fn new(shared: Arc<Shared>, commands: mpsc::Sender<Command>) -> Self {
        Self { shared, commands }
    }
    fn send_command(&self, command: Command) {
        // Full only in a storm of the node's own making: what is dropped here is repeated by whoever needs it.
        if self.commands.try_send(command).is_err() {
            self.shared.metrics.dropped("commands");
        }
    }
}

async fn ask(
    shared: &Shared,
    commands: &mpsc::Sender<Command>,
    (peer, protocol, frame): (PeerId, Protocol, Frame),
    (deadline, after): (Instant, Duration),
) -> Result<Frame, NetError> {
    let question = shared.questions.clone().try_acquire_owned().map_err(|_| NetError::Busy { peer })?;
    let link = shared.faults.link(peer);
    match link.to {
        Link::Cut => std::future::pending().await,
        // The answer's delay is waited for beforehand: for the asker it is the same.
        Link::Open | Link::Slow(_) if link.round_trip_delay() > Duration::ZERO => {
            tokio::time::sleep(link.round_trip_delay()).await;
        }
        Link::Open | Link::Slow(_) => (),
    }
    let (window, weight) = (shared.window(peer, protocol), shared.weight(peer, protocol));
    let place = window.acquire_many_owned(weight).await.map_err(|_| NetError::Closed)?;
    let permits = (place, question);
    match mux::carries(protocol) {
        true => ask_on_shared(shared, commands, (peer, protocol, frame), deadline, permits).await,
        false => {
            let (reply, answer) = oneshot::channel();
            send(
                commands,
                peer,
                Command::Ask(Box::new(Ask { peer, protocol, frame, deadline, after, reply, permits })),
            )?;
            answer.await.unwrap_or(Err(NetError::Closed))
        }
    }
}

async fn ask_on_shared(
    shared: &Shared,
    commands: &mpsc::Sender<Command>,
    (peer, protocol, frame): (PeerId, Protocol, Frame),
    deadline: Instant,
    permits: Permits,
) -> Result<Frame, NetError> {
    let id = shared.next_question.fetch_add(1, Ordering::Relaxed);
    let (reply, answer) = oneshot::channel();
    let mut asked = Asked { shared, peer, protocol, id, answer, ended: false, _permits: permits };
    if let Some(question) = shared.routes.ask(mux::Question { id, peer, protocol, frame, deadline, reply }) {
        send(commands, peer, Command::Connect(Box::new(question)))?;
    }
    let answer = (&mut asked.answer).await;
    asked.ended = true;
    if matches!(answer, Ok(Ok(_))) && shared.faults.link(peer).from == Link::Cut {
        // Cut while the answer was on its way: it never arrived.
        std::future::pending().await
    }
    answer.unwrap_or_else(|_| match commands.is_closed() {
        true => Err(NetError::Closed),
        // Its connection ended, and with it whatever was under way.
        false => Err(NetError::Broken { peer }),
    })
}

/// A question on a shared stream, cancelled when its caller gives up.
struct Asked<'a> {
    shared: &'a Shared,
    peer: PeerId,
    protocol: Protocol,
    id: u64,
    answer: oneshot::Receiver<Result<Frame, NetError>>,
    ended: bool,
    /// Given back after the cancellation: the next question then comes after it, and the peer never has too many.
    _permits: Permits,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.answer.close();
            self.shared.routes.cancel(self.peer, self.protocol, self.id);
        }
    }
}

fn send(commands: &mpsc::Sender<Command>, peer: PeerId, command: Command) -> Result<(), NetError> {
    commands.try_send(command).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => NetError::Busy { peer },
        mpsc::error::TrySendError::Closed(_) => NetError::Closed,
    })
}

impl Net for Handle {
    fn local_peer(&self) -> PeerId {
        self.shared.local
    }

    fn request(
        &self,
        peer: PeerId,
        protocol: Protocol,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        let (shared, commands) = (self.shared.clone(), self.commands.clone());
        async move {
            let after = deadline.min(protocol.deadline_max());
            let began = Instant::now();
            let deadline = began + after;
            let result = match check(shared.local, peer, protocol, &frame) {
                Err(error) => Err(error),
                Ok(()) => {
                    let asking = ask(&shared, &commands, (peer, protocol, frame), (deadline, after));
                    match tokio::time::timeout_at(deadline, asking).await {
                        // The peer gives up an instant later than this node. When its end of that is seen before the
                        // timer is, it is still the deadline that passed: unknown, and no fault of the connection.
                        Ok(Err(NetError::Broken { .. } | NetError::Busy { .. })) if Instant::now() >= deadline => {
                            Err(NetError::Timeout { peer, after })
                        }
                        Ok(result) => result,
                        Err(_) => Err(NetError::Timeout { peer, after }),
                    }
                }
            };
            if protocol == Protocol::Liveness && matches!(result, Ok(_) | Err(NetError::Timeout { .. })) {
                // A question that was not answered in time took at least as long.
                shared.observe_liveness(peer, began.elapsed());
            }
            shared.metrics.asked(protocol, &result);
            result
        }
        .boxed()
    }

    fn publish(&self, topic: Topic, bytes: Bytes) {
        self.send_command(Command::Publish { topic, bytes });
    }

    fn peers(&self) -> Vec<PeerView> {
        self.shared.peers.lock().values().cloned().collect()
    }

    fn is_connected(&self, peer: PeerId) -> bool {
        self.shared.peers.lock().get(&peer).is_some_and(|view| view.connected)
    }

    fn round_trip(&self, peer: PeerId) -> Option<Duration> {
        self.shared.peers.lock().get(&peer).filter(|view| view.connected).and_then(|view| view.rtt)
    }

    fn dial(&self, peer: PeerId) {
        self.send_command(Command::Dial(peer));
    }

    fn listen_addresses(&self) -> Vec<String> {
        self.shared.listen.lock().clone()
    }

    fn provide(&self, quorum: QuorumId) {
        self.shared.provided.lock().insert(quorum);
        self.shared.provided_changed.notify_one();
    }

    fn stop_providing(&self, quorum: QuorumId) {
        self.shared.provided.lock().remove(&quorum);
        self.shared.provided_changed.notify_one();
    }

    fn find_providers(&self, quorum: QuorumId) -> BoxFuture<'static, Vec<PeerId>> {
        let commands = self.commands.clone();
        async move {
            let (reply, answer) = oneshot::channel();
            if commands.try_send(Command::FindProviders { quorum, reply }).is_err() {
                return Vec::new();
            }
            match tokio::time::timeout(KAD_QUERY_TIMEOUT + Duration::from_secs(1), answer).await {
                Ok(Ok(providers)) => providers,
                Ok(Err(_)) | Err(_) => Vec::new(),
            }
        }
        .boxed()
    }

    fn penalise(&self, peer: PeerId, reason: &'static str) {
        self.send_command(Command::Penalise { peer, reason });
    }
}

fn check(local: PeerId, peer: PeerId, protocol: Protocol, frame: &Frame) -> Result<(), NetError> {
    if peer == local {
        return Err(NetError::Unreachable { peer, reason: "a node does not ask itself over the network".to_owned() });
    }
    let too_large = |bytes, limit| NetError::TooLarge { bytes, limit, protocol: protocol.name() };
    if frame.head.len() > protocol.head_bytes_max() {
        return Err(too_large(frame.head.len(), protocol.head_bytes_max()));
    }
    if frame.payload.len() > protocol.payload_bytes_max() {
        return Err(too_large(frame.payload.len(), protocol.payload_bytes_max()));
    }
    Ok(())
}
