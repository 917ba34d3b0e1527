//! The network itself: what is between the nodes, and every fault of it.

use parking_lot::Mutex;
use parking_lot::MutexGuard;
use quorate_testnet::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_seams::{
    Clock, Frame, GossipMessage, Inbound, InboundRequest, NetError, NetEvent, Protocol, Reply, Reservation, Topic,
};
use tokio::sync::{mpsc, oneshot};

use super::{Gate, MemoryNet, Observer, Passage, Sight};

/// Requests, announcements and events that wait for a node. As in the real network, the newest is dropped when full.
pub const INBOUND_MAX: usize = 1024;

/// What the network does to everybody's messages.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// One way, drawn per message from this range.
    pub latency: (Duration, Duration),
    /// Messages of a thousand that vanish.
    pub loss_per_mille: u32,
    /// Requests of a thousand that arrive twice.
    pub duplicates_per_mille: u32,
    /// How much later the second copy may arrive.
    pub straggle_max: Duration,
}

impl Faults {
    /// A healthy local network.
    pub const NONE: Self = Self {
        latency: (Duration::from_micros(300), Duration::from_millis(2)),
        loss_per_mille: 0,
        duplicates_per_mille: 0,
        straggle_max: Duration::ZERO,
    };
}

/// Bytes per second of every path, for the time that bulk takes.
const BANDWIDTH: u64 = 100 * 1024 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounts {
    pub requests: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub blocked: u64,
    pub refused: u64,
    pub gossip: u64,
    pub penalties: u64,
    /// Most requests that ever waited in one inbound queue of a node, in the order of [`Protocol::ALL`].
    pub waiting_most: [u64; Protocol::ALL.len()],
}

/// Cloneable; all clones are one network.
#[derive(Clone)]
pub struct Network {
    state: Arc<Mutex<State>>,
    observer: Option<Arc<dyn Observer>>,
    gate: Option<Arc<dyn Gate>>,
}

struct State {
    rng: Rng,
    faults: Faults,
    /// What is left when faults end.
    usual: Faults,
    /// Every machine that was ever attached, in the order of its id.
    ports: BTreeMap<PeerId, Port>,
    /// Pairs that hold a connection, lower id first.
    connected: BTreeSet<(PeerId, PeerId)>,
    /// Paths (from, to) on which nothing arrives.
    cut: BTreeSet<(PeerId, PeerId)>,
    /// Machines whose messages, in and out, take this much longer.
    slow: BTreeMap<PeerId, Duration>,
    /// The same, of machines that are far away whatever the faults.
    distant: BTreeMap<PeerId, Duration>,
    /// Machines that let questions wait this long, and answer pings at once.
    hesitant: BTreeMap<PeerId, Duration>,
    /// Bytes per second of machines behind a narrow link.
    narrow: BTreeMap<PeerId, u64>,
    providers: BTreeMap<QuorumId, BTreeSet<PeerId>>,
    counts: NetCounts,
}

struct Port {
    index: usize,
    /// Which life of the node has the port; a message for an earlier one is not delivered.
    life: u64,
    /// `None` while the process is down.
    inbound: Option<Outlets>,
    clock: Arc<dyn Clock>,
}

/// The sending halves of a node's [`Inbound`].
struct Outlets {
    approval: mpsc::Sender<InboundRequest>,
    raft: mpsc::Sender<InboundRequest>,
    liveness: mpsc::Sender<InboundRequest>,
    job: mpsc::Sender<InboundRequest>,
    piece: mpsc::Sender<InboundRequest>,
    task: mpsc::Sender<InboundRequest>,
    gossip: mpsc::Sender<GossipMessage>,
    events: mpsc::Sender<NetEvent>,
}

impl Outlets {
    fn of(&self, protocol: Protocol) -> &mpsc::Sender<InboundRequest> {
        match protocol {
            Protocol::Approval => &self.approval,
            Protocol::Raft => &self.raft,
            Protocol::Liveness => &self.liveness,
            Protocol::Job => &self.job,
            Protocol::Piece => &self.piece,
            Protocol::Task => &self.task,
        }
    }
}

/// Where a message goes, decided when it is sent.
pub(super) enum Path {
    /// Arrives after this long, and a second time after that.
    Arrives { after: Duration, again: Option<Duration> },
    /// Silence.
    Nowhere,
}

/// A delivered request, waiting for its answer.
pub(super) struct Delivered {
    pub(super) answer: oneshot::Receiver<Frame>,
    pub(super) life: u64,
}

impl Network {
    /// A network whose luck is the seed's.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: Rng::new(seed, "network"),
            faults: Faults::NONE,
            usual: Faults::NONE,
            ports: BTreeMap::new(),
            connected: BTreeSet::new(),
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            distant: BTreeMap::new(),
            hesitant: BTreeMap::new(),
            narrow: BTreeMap::new(),
            providers: BTreeMap::new(),
            counts: NetCounts::default(),
        };
        Self { state: Arc::new(Mutex::new(state)), observer: None, gate: None }
    }
    /// The same network, seen by somebody.
    pub fn observed_by(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }
    /// The same network, where somebody stands before every question.
    pub fn gated_by(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gate = Some(gate);
        self
    }
    pub(super) fn gate(&self, to: PeerId, protocol: Protocol, frame: &Frame) -> Passage {
        self.gate.as_ref().map_or(Passage::Free, |gate| gate.pass(to, protocol, frame))
    }
    /// An answer has come back to its asker.
    pub(super) fn answered(&self, from: PeerId, to: PeerId, protocol: Protocol, frame: &Frame) {
        let index = self.lock().ports.get(&to).map_or(0, |port| port.index);
        self.observe(index, &Sight::Answer { from, protocol, frame });
    }
    fn observe(&self, node: usize, sight: &Sight<'_>) {
        if let Some(observer) = &self.observer {
            observer.observe(node, sight);
        }
    }

    /// The network of a node that starts now. It connects to everybody within reach, as bootstrap would.
    pub fn attach(&self, index: usize, peer: PeerId, clock: Arc<dyn Clock>) -> (MemoryNet, Inbound) {
        let (approval, approval_in) = mpsc::channel(INBOUND_MAX);
        let (raft, raft_in) = mpsc::channel(INBOUND_MAX);
        let (liveness, liveness_in) = mpsc::channel(INBOUND_MAX);
        let (job, job_in) = mpsc::channel(INBOUND_MAX);
        let (piece, piece_in) = mpsc::channel(INBOUND_MAX);
        let (task, task_in) = mpsc::channel(INBOUND_MAX);
        let (gossip, gossip_in) = mpsc::channel(INBOUND_MAX);
        let (events, events_in) = mpsc::channel(INBOUND_MAX);
        let outlets = Outlets { approval, raft, liveness, job, piece, task, gossip, events };
        let others = {
            let mut state = self.lock();
            let life = state.ports.get(&peer).map_or(1, |port| port.life + 1);
            state.ports.insert(peer, Port { index, life, inbound: Some(outlets), clock });
            state.ports.keys().copied().filter(|other| *other != peer).collect::<Vec<_>>()
        };
        let net = MemoryNet::new(self.clone(), peer);
        for other in others {
            self.dial(peer, other);
        }
        let inbound = Inbound {
            approval: approval_in,
            raft: raft_in,
            liveness: liveness_in,
            job: job_in,
            piece: piece_in,
            task: task_in,
            gossip: gossip_in,
            events: events_in,
        };
        (net, inbound)
    }

    /// The handle of a node that is attached.
    pub fn handle(&self, peer: PeerId) -> MemoryNet {
        MemoryNet::new(self.clone(), peer)
    }

    /// The process behind the port is gone. Its connections close, where a closing can be seen.
    pub fn detach(&self, peer: PeerId) {
        let told = {
            let mut state = self.lock();
            if let Some(port) = state.ports.get_mut(&peer) {
                port.inbound = None;
            }
            let pairs: Vec<_> = state.connected.iter().copied().filter(|(a, b)| *a == peer || *b == peer).collect();
            let mut told = Vec::new();
            for pair in pairs {
                let other = if pair.0 == peer { pair.1 } else { pair.0 };
                // Behind a cut the close never arrives, and the other side goes on believing in its connection.
                if !state.cut.contains(&(peer, other)) {
                    state.connected.remove(&pair);
                    told.push((other, state.delay(peer, other, 0)));
                }
            }
            told
        };
        for (other, after) in told {
            self.tell_later(other, NetEvent::Disconnected { peer }, after);
        }
    }

    /// How the network is from now on, and again whenever faults end.
    pub fn set_usual(&self, usual: Faults) {
        let mut state = self.lock();
        (state.usual, state.faults) = (usual, usual);
    }
    /// The machine is this much farther from the others, one way, also when faults end.
    pub fn set_distance(&self, peer: PeerId, by: Duration) {
        self.lock().distant.insert(peer, by);
    }
    pub fn change_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }
    /// Nothing that `from` sends reaches `to`.
    pub fn cut(&self, from: PeerId, to: PeerId) {
        self.lock().cut.insert((from, to));
    }
    /// Everything that `peer` sends and gets takes this much longer.
    pub fn slow(&self, peer: PeerId, by: Duration) {
        self.lock().slow.insert(peer, by);
    }
    /// The machine takes this long for every question beside what the way takes, and nothing for pings: what is
    /// measured of the link says nothing of it.
    pub fn set_hesitation(&self, peer: PeerId, by: Duration) {
        self.lock().hesitant.insert(peer, by);
    }
    /// What goes to the machine and comes from it has this many bytes per second.
    pub fn set_bandwidth(&self, peer: PeerId, bytes_per_second: u64) {
        self.lock().narrow.insert(peer, bytes_per_second);
    }
    /// Nothing passes between these machines and the others, and no connection closes.
    pub fn isolate(&self, peers: &[PeerId]) {
        let mut state = self.lock();
        let others: Vec<_> = state.ports.keys().copied().filter(|peer| !peers.contains(peer)).collect();
        for (one, other) in peers.iter().flat_map(|one| others.iter().map(move |other| (*one, *other))) {
            state.cut.extend([(one, other), (other, one)]);
        }
    }
    /// Ends every fault. Connections whose other end died behind a cut are now seen to be closed; everybody dials.
    pub fn heal(&self) {
        let (gone, pairs) = {
            let mut state = self.lock();
            state.cut.clear();
            state.slow.clear();
            state.faults = state.usual;
            let is_up = |state: &State, peer: &PeerId| state.ports[peer].inbound.is_some();
            let gone: Vec<_> =
                state.connected.iter().copied().filter(|(a, b)| !is_up(&state, a) || !is_up(&state, b)).collect();
            for pair in &gone {
                state.connected.remove(pair);
            }
            let up: Vec<_> = state.ports.keys().copied().filter(|peer| is_up(&state, peer)).collect();
            let mut pairs = Vec::new();
            for (at, a) in up.iter().enumerate() {
                pairs.extend(up[at + 1..].iter().map(|b| (*a, *b)).filter(|pair| !state.connected.contains(pair)));
            }
            (gone, pairs)
        };
        for (a, b) in gone {
            self.send_event(a, NetEvent::Disconnected { peer: b });
            self.send_event(b, NetEvent::Disconnected { peer: a });
        }
        for (a, b) in pairs {
            self.dial(a, b);
        }
    }
    pub fn counts(&self) -> NetCounts {
        self.lock().counts
    }

    /// Starts to connect; what comes of it is told as an event.
    pub(super) fn dial(&self, from: PeerId, to: PeerId) {
        let network = self.clone();
        tokio::spawn(async move { drop(network.connect(from, to).await) });
    }

    /// Makes sure that there is a connection, or says why there is none. Into a cut it never returns.
    pub(super) async fn connect(&self, from: PeerId, to: PeerId) -> Result<(), NetError> {
        let (there, is_open) = {
            let mut state = self.lock();
            if state.connected.contains(&pair(from, to)) {
                return Ok(());
            }
            let is_open = !state.cut.contains(&(from, to)) && !state.cut.contains(&(to, from));
            (state.delay(from, to, 0) + state.delay(to, from, 0), is_open)
        };
        if !is_open {
            return std::future::pending().await;
        }
        tokio::time::sleep(there).await;
        let is_up = self.lock().ports.get(&to).is_some_and(|port| port.inbound.is_some());
        if !is_up {
            self.lock().counts.refused += 1;
            self.send_event(from, NetEvent::Refused { peer: to });
            return Err(NetError::Unreachable { peer: to, reason: "connection refused".into() });
        }
        let is_new = {
            let mut state = self.lock();
            let caller_is_up = state.ports.get(&from).is_some_and(|port| port.inbound.is_some());
            caller_is_up && state.connected.insert(pair(from, to))
        };
        if is_new {
            self.send_event(from, NetEvent::Connected { peer: to });
            self.send_event(to, NetEvent::Connected { peer: from });
        }
        Ok(())
    }

    pub(super) fn is_connected(&self, a: PeerId, b: PeerId) -> bool {
        self.lock().connected.contains(&pair(a, b))
    }

    /// How long the machine lets a question wait.
    pub(super) fn hesitation(&self, peer: PeerId) -> Duration {
        self.lock().hesitant.get(&peer).copied().unwrap_or_default()
    }

    /// What a ping takes, there and back, without the jitter of this moment.
    pub(super) fn round_trip(&self, one: PeerId, other: PeerId) -> Duration {
        let state = self.lock();
        let (least, most) = state.faults.latency;
        least + most + 2 * (state.extra(one) + state.extra(other))
    }

    /// Decides the fate of one message of this many bytes.
    pub(super) fn path(&self, from: PeerId, to: PeerId, bytes: usize, may_repeat: bool) -> Path {
        let mut state = self.lock();
        let faults = state.faults;
        // Drawn whatever happens, so that a cut does not shift the draws of other messages.
        let (is_lost, is_repeated) =
            (state.rng.chance(faults.loss_per_mille), state.rng.chance(faults.duplicates_per_mille));
        let after = state.delay(from, to, bytes);
        if state.cut.contains(&(from, to)) {
            state.counts.blocked += 1;
            return Path::Nowhere;
        }
        if is_lost {
            state.counts.lost += 1;
            return Path::Nowhere;
        }
        let again = (may_repeat && is_repeated)
            .then(|| state.delay(from, to, bytes) + state.rng.duration(Duration::ZERO, faults.straggle_max));
        state.counts.duplicated += u64::from(again.is_some());
        Path::Arrives { after, again }
    }

    /// Hands a request to a node, now.
    pub(super) fn deliver(
        &self,
        from: PeerId,
        to: PeerId,
        protocol: Protocol,
        frame: Frame,
    ) -> Result<Delivered, NetError> {
        let mut state = self.lock();
        state.counts.requests += 1;
        let Some(port) = state.ports.get(&to) else {
            return Err(NetError::Unreachable { peer: to, reason: "no address is known".into() });
        };
        let (index, sender) = (port.index, state.ports.get(&from).map_or(0, |port| port.index));
        self.observe(index, &Sight::Request { from: sender, protocol, frame: &frame });
        let Some(outlets) = &port.inbound else { return Err(NetError::Broken { peer: to }) };
        let (reply, answer) = oneshot::channel();
        let request = InboundRequest { from, frame, reply: Reply(reply), memory: Reservation::none() };
        match outlets.of(protocol).try_send(request) {
            Ok(()) => {
                let (queue, life) = (outlets.of(protocol), port.life);
                let waiting = (queue.max_capacity() - queue.capacity()) as u64;
                let most = &mut state.counts.waiting_most[protocol as usize];
                *most = waiting.max(*most);
                Ok(Delivered { answer, life })
            }
            Err(_) => Err(NetError::Busy { peer: to }),
        }
    }

    /// Why an answer never came: the node died, or it took no request.
    pub(super) fn unanswered(&self, to: PeerId, life: u64) -> NetError {
        match self.lock().ports.get(&to) {
            Some(port) if port.life == life && port.inbound.is_some() => NetError::Busy { peer: to },
            _ => NetError::Broken { peer: to },
        }
    }

    /// Announces to everybody within reach.
    pub(super) fn publish(&self, author: PeerId, topic: Topic, bytes: Bytes) {
        let others: Vec<_> = self.lock().ports.keys().copied().filter(|peer| *peer != author).collect();
        for other in others {
            let Path::Arrives { after, .. } = self.path(author, other, bytes.len(), false) else { continue };
            let (network, message) = (self.clone(), GossipMessage { author, topic, bytes: bytes.clone() });
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                let mut state = network.lock();
                state.counts.gossip += 1;
                if let Some(Port { inbound: Some(outlets), index, .. }) = state.ports.get(&other) {
                    network.observe(*index, &Sight::Gossip { topic, bytes: &message.bytes });
                    // A full queue loses gossip, as it may.
                    let _ = outlets.gossip.try_send(message);
                }
            });
        }
    }

    fn tell_later(&self, to: PeerId, event: NetEvent, after: Duration) {
        let network = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            network.send_event(to, event);
        });
    }

    fn send_event(&self, to: PeerId, event: NetEvent) {
        if let Some(Port { inbound: Some(outlets), index, .. }) = self.lock().ports.get(&to) {
            self.observe(*index, &Sight::Event(&event));
            let _ = outlets.events.try_send(event);
        }
    }

    pub(super) fn everybody_but(&self, peer: PeerId) -> Vec<(PeerId, usize)> {
        self.lock()
            .ports
            .iter()
            .filter(|(other, _)| **other != peer)
            .map(|(other, port)| (*other, port.index))
            .collect()
    }
    pub(super) fn clock_of(&self, peer: PeerId) -> Option<Arc<dyn Clock>> {
        self.lock().ports.get(&peer).map(|port| port.clock.clone())
    }
    pub(super) fn provide(&self, peer: PeerId, quorum: QuorumId) {
        self.lock().providers.entry(quorum).or_default().insert(peer);
    }
    pub(super) fn stop_providing(&self, peer: PeerId, quorum: QuorumId) {
        if let Some(providers) = self.lock().providers.get_mut(&quorum) {
            providers.remove(&peer);
        }
    }
    pub(super) fn providers(&self, quorum: QuorumId) -> Vec<PeerId> {
        self.lock().providers.get(&quorum).map(|peers| peers.iter().copied().collect()).unwrap_or_default()
    }
    pub(super) fn penalise(&self, by: PeerId, peer: PeerId, reason: &str) {
        let mut state = self.lock();
        state.counts.penalties += 1;
        let index = state.ports.get(&by).map_or(0, |port| port.index);
        self.observe(index, &Sight::Penalty { peer, reason });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// What messages of this machine take beside what all take.
    fn extra(&self, peer: PeerId) -> Duration {
        let of = |machines: &BTreeMap<PeerId, Duration>| machines.get(&peer).copied().unwrap_or_default();
        of(&self.slow) + of(&self.distant)
    }
    fn delay(&mut self, from: PeerId, to: PeerId, bytes: usize) -> Duration {
        let (least, most) = self.faults.latency;
        let narrow = |peer: PeerId| self.narrow.get(&peer).copied().unwrap_or(BANDWIDTH);
        let bandwidth = narrow(from).min(narrow(to));
        let extra = self.extra(from) + self.extra(to) + Duration::from_micros(bytes as u64 * 1_000_000 / bandwidth);
        self.rng.duration(least, most) + extra
    }
}

fn pair(a: PeerId, b: PeerId) -> (PeerId, PeerId) {
    if a < b { (a, b) } else { (b, a) }
}
