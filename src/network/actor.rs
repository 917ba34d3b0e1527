//! The task that owns the swarm: wait, apply, and wait again. What the swarm reports is dealt with in
//! [`super::events`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::transport::TransportError;
use libp2p::gossipsub::IdentTopic;
use libp2p::identity::Keypair;
use libp2p::kad::QueryId;
use libp2p::multiaddr::Protocol as Part;
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, Swarm};
use quorate_protocols::directory::AnnouncementBudgets;
use quorate_protocols::directory::limits::ADVERT_BYTES_MAX;
use quorate_protocols::ids::{Millis, PeerId, QuorumId};
use tokio::sync::{mpsc, oneshot};

use super::address_book::{self, AddressBook};
use super::behaviour::{self, Behaviour, BehaviourEvent};
use super::codec::{Admission, Question};
use super::config::*;
use super::dialler::Dialler;
use super::error_text::{self, DialFault, plain};
use super::faults::Link;
use super::handle::{Ask, Command, Permits, Shared};
use super::providers::key_of;
use super::reach::{Reach, Strangers};
use super::{NetworkError, mux, transport};
use crate::buffers;
use crate::config::address::{from_libp2p, quic_listen, tcp_listen, to_libp2p};
use crate::identity::Identity;
use crate::seams::{Frame, GossipMessage, InboundRequest, NetError, NetEvent, PeerView, Protocol, Seams, run_blocking};

/// How long `start` waits for the first address that it listens on.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Bookkeeping that no one waits for: expiry, idle windows, forgiving.
const HOUSEKEEPING: Duration = Duration::from_secs(30);

/// The sending halves of [`Inbound`](crate::seams::Inbound).
#[derive(Clone)]
pub(super) struct Outlets {
    pub approval: mpsc::Sender<InboundRequest>,
    pub raft: mpsc::Sender<InboundRequest>,
    pub liveness: mpsc::Sender<InboundRequest>,
    pub job: mpsc::Sender<InboundRequest>,
    pub piece: mpsc::Sender<InboundRequest>,
    pub task: mpsc::Sender<InboundRequest>,
    pub gossip: mpsc::Sender<GossipMessage>,
    pub events: mpsc::Sender<NetEvent>,
}

impl Outlets {
    pub fn requests(&self, protocol: Protocol) -> &mpsc::Sender<InboundRequest> {
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

/// A question under way on a stream of its own.
pub(super) struct Pending {
    pub peer: PeerId,
    pub after: Duration,
    pub reply: oneshot::Sender<Result<Frame, NetError>>,
    pub _permits: Permits,
}

/// A peer with at least one connection.
#[derive(Default)]
pub(super) struct Connected {
    /// Where this node dialled it, or where it came from; and pings lost in a row.
    pub connections: BTreeMap<ConnectionId, Connection>,
    pub rtt: Option<Duration>,
    pub since: Millis,
    /// What came of its introduction; `None` until it has said what it is.
    pub introduced: Option<Result<(), DialFault>>,
}

pub(super) struct Connection {
    pub remote: Multiaddr,
    /// Whether `remote` is an address that can be dialled again.
    pub dialled: bool,
    pub pings_lost: u32,
}

pub(super) struct Lookup {
    pub found: BTreeSet<PeerId>,
    pub reply: oneshot::Sender<Vec<PeerId>>,
}

/// What is held against a peer.
pub(super) struct Record {
    pub penalties: u32,
    pub shut_out_until: Option<Millis>,
}

pub(super) struct Actor {
    pub seams: Seams,
    pub swarm: Swarm<Behaviour>,
    pub shared: Arc<Shared>,
    pub reach: Arc<Reach>,
    commands: mpsc::Receiver<Command>,
    pub outlets: Outlets,
    pub book: AddressBook,
    pub dialler: Dialler,
    pub connected: BTreeMap<PeerId, Connected>,
    pub pending: BTreeMap<(Protocol, OutboundRequestId), Pending>,
    /// Dials to bootstrap addresses, whose peer is not known yet.
    pub bootstrap_dials: BTreeMap<ConnectionId, usize>,
    // Keyed by libp2p's query ids, which have no order; never iterated.
    pub lookups: HashMap<QueryId, Lookup>,
    /// The one look around that is under way.
    pub lookup: Option<QueryId>,
    lookup_due: Millis,
    lookup_wait: Duration,
    provided: BTreeSet<QuorumId>,
    pub records: BTreeMap<PeerId, Record>,
    /// What others may still announce.
    pub announcements: AnnouncementBudgets,
    save_due: Millis,
    housekeeping_due: Millis,
    forgive_due: Millis,
}

// One lives at a time, on the stack; a box per event would be the only allocation of the loop.
#[allow(clippy::large_enum_variant)]
enum Event {
    Shutdown,
    Tick,
    ProvidedChanged,
    Command(Command),
    Swarm(SwarmEvent<BehaviourEvent>),
}

impl Actor {
    pub async fn start(
        seams: &Seams,
        identity: &Identity,
        config: NetworkConfig,
        admission: Admission,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        outlets: Outlets,
    ) -> Result<Self, NetworkError> {
        let crypto = |reason: String| NetworkError::Crypto { reason };
        let keypair =
            Keypair::ed25519_from_bytes(identity.secret_bytes()).map_err(|error| crypto(error.to_string()))?;
        let reach = Arc::new(Reach::new(&config.section.bootstrap));
        let transport = transport::build(&keypair, &config.secret, config.section.quic, reach.clone())?;
        let strangers = Strangers::new(shared.clone(), reach.clone());
        let env = mux::Env { shared: shared.clone(), admission, outlets: outlets.clone(), tasks: seams.tasks.clone() };
        let behaviour = behaviour::build(&keypair, &config, env, strangers)?;
        let tasks = seams.tasks.clone();
        let settings = libp2p::swarm::Config::with_executor(move |future| {
            tasks.spawn(future);
        })
        .with_idle_connection_timeout(IDLE_CONNECTION_MAX)
        // One round trip per question instead of two: every stream offers exactly one protocol.
        .with_substream_upgrade_protocol_override(libp2p::core::upgrade::Version::V1Lazy)
        .with_max_negotiating_inbound_streams(NEGOTIATING_STREAMS_MAX);
        let mut swarm = Swarm::new(transport, behaviour, keypair.public().to_peer_id(), settings);
        let mut listens = vec![tcp_listen(config.section.listen)];
        if config.section.quic {
            listens.push(quic_listen(config.section.listen));
        }
        let address = config.section.listen.to_string();
        let fault = |reason: String| NetworkError::Listen { address: address.clone(), reason };
        if config.section.listen.port() != 0 {
            // libp2p lets several sockets share one port. Two nodes that each get half of the callers would be a riddle
            // to both, so the port is tried without sharing first.
            tokio::net::TcpListener::bind(config.section.listen)
                .await
                .map_err(|error| fault(error_text::listen_fault(&TransportError::Other(error))))?;
        }
        for listen in listens {
            swarm.listen_on(listen).map_err(|error| fault(error_text::listen_fault(&error)))?;
        }
        for announce in &config.section.announce {
            swarm.add_external_address(announce.to_multiaddr());
        }
        let now = seams.clock.monotonic();
        let mut actor = Self {
            book: load_book(seams).await,
            dialler: Dialler::new(config.section.bootstrap, now),
            seams: seams.clone(),
            swarm,
            shared,
            reach,
            commands,
            outlets,
            connected: BTreeMap::new(),
            pending: BTreeMap::new(),
            bootstrap_dials: BTreeMap::new(),
            lookups: HashMap::new(),
            lookup: None,
            lookup_due: now,
            lookup_wait: DISCOVERY_MIN,
            provided: BTreeSet::new(),
            records: BTreeMap::new(),
            announcements: AnnouncementBudgets::default(),
            save_due: now.plus(BOOK_SAVE_INTERVAL),
            housekeeping_due: now.plus(HOUSEKEEPING),
            forgive_due: now.plus(PENALTY_DECAY),
        };
        let listening = async {
            loop {
                match actor.swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { .. } => return Ok(()),
                    SwarmEvent::ListenerClosed { reason: Err(error), .. } => return Err(error.to_string()),
                    SwarmEvent::ListenerError { error, .. } => return Err(error.to_string()),
                    // Nobody was dialled and nothing was announced yet: an early caller's connection is kept.
                    event => actor.on_swarm_event(event),
                }
            }
        };
        match tokio::time::timeout(LISTEN_TIMEOUT, listening).await {
            Ok(result) => result.map_err(fault)?,
            Err(_) => return Err(fault("the machine reports no such address".to_owned())),
        }
        actor.publish_listen_addresses();
        for peer in actor.book.iter().map(|(peer, _)| peer).collect::<Vec<_>>() {
            actor.publish_view(peer);
        }
        Ok(actor)
    }

    pub async fn run(mut self) {
        let shutdown = self.seams.tasks.shutdown_token();
        let shared = self.shared.clone();
        let mut tick = tokio::time::interval(DIAL_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                biased;
                () = shutdown.cancelled() => Event::Shutdown,
                _ = tick.tick() => Event::Tick,
                () = shared.provided_changed.notified() => Event::ProvidedChanged,
                // Before the network: a command is one bounded step, and the swarm's own work never ends.
                Some(command) = self.commands.recv() => Event::Command(command),
                event = self.swarm.select_next_some() => Event::Swarm(event),
            };
            match event {
                Event::Shutdown => break,
                Event::Tick => self.on_tick(),
                Event::ProvidedChanged => self.on_provided_changed(),
                Event::Command(command) => self.on_command(command),
                Event::Swarm(event) => self.on_swarm_event(event),
            }
        }
        // Dropping the swarm closes every connection and ends its tasks; questions under way fail as closed.
        let bytes = self.book.encode();
        let files = self.seams.disk.files.clone();
        drop(self);
        if let Err(error) = run_blocking(move || files.write_small(address_book::FILE, &bytes)).await {
            tracing::warn!(%error, "the address book could not be written");
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Ask(ask) => self.on_ask(*ask),
            Command::Connect(question) => self.on_connect(*question),
            Command::Publish { topic, bytes } => {
                if bytes.len() > ADVERT_BYTES_MAX {
                    tracing::warn!(bytes = bytes.len(), ?topic, "an announcement is too large and was not sent");
                    return;
                }
                let published =
                    self.swarm.behaviour_mut().gossip.publish(IdentTopic::new(topic.name()), bytes.to_vec());
                if let Err(error) = published {
                    tracing::debug!(?topic, %error, "an announcement reached nobody");
                }
            }
            Command::Dial(peer) => {
                self.dialler.hurry(peer, self.now());
                self.dial(peer);
            }
            Command::FindProviders { quorum, reply } => {
                if self.lookups.len() >= LOOKUPS_MAX {
                    return self.shared.metrics.dropped("lookups");
                }
                let query = self.swarm.behaviour_mut().kad.get_providers(key_of(quorum));
                self.lookups.insert(query, Lookup { found: BTreeSet::new(), reply });
            }
            Command::Penalise { peer, reason } => self.penalise(peer, reason),
        }
    }

    fn on_ask(&mut self, ask: Ask) {
        let Ask { peer, protocol, frame, deadline, after, reply, permits } = ask;
        if reply.is_closed() {
            return;
        }
        let Some(target) = to_libp2p(peer) else {
            let _ = reply.send(Err(NetError::Unreachable { peer, reason: "not a peer id".to_owned() }));
            return;
        };
        if self.is_misfit(peer) {
            let _ = reply.send(Err(NetError::Unsupported { peer, protocol: protocol.name() }));
            return;
        }
        self.dial(peer);
        let question = Question::Asked { frame, deadline };
        let Some(lane) = self.swarm.behaviour_mut().lanes.lane(protocol) else { return };
        let id = lane.ask.send_request(&target, question);
        self.pending.insert((protocol, id), Pending { peer, after, reply, _permits: permits });
    }

    fn on_connect(&mut self, question: mux::Question) {
        let (peer, protocol) = (question.peer, question.protocol);
        if question.reply.is_closed() {
            return;
        }
        if self.is_misfit(peer) {
            let _ = question.reply.send(Err(NetError::Unsupported { peer, protocol: protocol.name() }));
            return;
        }
        self.dial(peer);
        self.swarm.behaviour_mut().mux.ask(question);
    }

    /// Whether it is not connected, and known since a moment ago to speak something else.
    fn is_misfit(&self, peer: PeerId) -> bool {
        !self.connected.contains_key(&peer) && self.dialler.is_misfit(peer, self.now())
    }

    /// Dials a peer at the addresses of the book and the bootstrap list, unless that goes on already. For questions it
    /// is the dial that counts: it tries these addresses and no others.
    pub fn dial(&mut self, peer: PeerId) {
        if self.connected.contains_key(&peer) || self.shared.faults.link(peer).to == Link::Cut {
            return;
        }
        let mut addresses = self.book.addresses(peer);
        for address in self.dialler.bootstrap_addresses(peer) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let Some(target) = to_libp2p(peer).filter(|_| peer != self.shared.local) else { return };
        if addresses.is_empty() {
            // The hash table may know more; what it finds is dialled.
            if self.lookup.is_none() {
                self.lookup = Some(self.swarm.behaviour_mut().kad.get_closest_peers(target));
            }
            return;
        }
        self.dialler.started(peer, self.now());
        self.dial_at(target, addresses);
    }

    pub fn dial_at(&mut self, target: libp2p::PeerId, addresses: Vec<Multiaddr>) {
        let options =
            DialOpts::peer_id(target).condition(PeerCondition::DisconnectedAndNotDialing).addresses(addresses).build();
        // Fails at once only when there is nothing to do; other failures come as events.
        if let Err(error) = self.swarm.dial(options) {
            tracing::trace!(%target, %error, "not dialled");
        }
    }

    fn on_tick(&mut self) {
        let now = self.now();
        for index in self.dialler.bootstrap_due(now, |peer| self.connected.contains_key(&peer)) {
            let bootstrap = &self.dialler.bootstrap[index].bootstrap;
            let address = bootstrap.to_multiaddr();
            let options = match bootstrap.peer().and_then(to_libp2p) {
                Some(peer) => DialOpts::peer_id(peer).addresses(vec![address]).build(),
                None => DialOpts::unknown_peer_id().address(address).build(),
            };
            let connection = options.connection_id();
            match self.swarm.dial(options) {
                Ok(()) => {
                    self.bootstrap_dials.insert(connection, index);
                }
                Err(error) => self.on_bootstrap_failed(index, error_text::dial_fault(&error)),
            }
        }
        self.dial_known_peers(now);
        if now >= self.lookup_due && self.lookup.is_none() && !self.connected.is_empty() {
            let target = self.lookup_target();
            self.lookup = Some(self.swarm.behaviour_mut().kad.get_closest_peers(target));
            self.lookup_due = now.plus(self.lookup_wait.mul_f64(0.75 + self.jitter() / 2.0));
            self.lookup_wait = DISCOVERY.next(self.lookup_wait);
        }
        if now >= self.save_due {
            self.save_due = now.plus(BOOK_SAVE_INTERVAL);
            self.save_book();
        }
        if now >= self.housekeeping_due {
            self.housekeeping_due = now.plus(HOUSEKEEPING);
            buffers::trim();
            self.keep_house(now);
        }
    }

    fn dial_known_peers(&mut self, now: Millis) {
        let known = self.book.len();
        let enough = if known <= MESH_PEERS_MAX { known } else { MESH_PEERS_TARGET };
        if self.connected.len() >= enough {
            return;
        }
        let missing = enough - self.connected.len();
        let due: Vec<PeerId> = self
            .book
            .iter()
            .map(|(peer, _)| peer)
            .filter(|peer| !self.connected.contains_key(peer) && self.dialler.is_due(*peer, now))
            .take(missing)
            .collect();
        for peer in due {
            self.dial(peer);
        }
    }

    /// Something new appeared: where it came from there may be more.
    pub fn lookup_soon(&mut self) {
        self.lookup_wait = DISCOVERY_MIN;
        self.lookup_due = self.lookup_due.min(self.now().plus(DISCOVERY_MIN));
    }

    /// Ourselves every other time, which fills the neighbourhood; else a random place.
    fn lookup_target(&self) -> libp2p::PeerId {
        match self.seams.entropy.below(2) {
            0 => *self.swarm.local_peer_id(),
            _ => to_libp2p(PeerId(self.seams.entropy.bytes())).unwrap_or(*self.swarm.local_peer_id()),
        }
    }

    fn on_provided_changed(&mut self) {
        let wanted = self.shared.provided();
        let kad = &mut self.swarm.behaviour_mut().kad;
        for quorum in self.provided.difference(&wanted) {
            kad.stop_providing(&key_of(*quorum));
        }
        for quorum in wanted.difference(&self.provided) {
            if let Err(error) = kad.start_providing(key_of(*quorum)) {
                tracing::warn!(?quorum, %error, "this node cannot be found as a provider of the quorum");
            }
        }
        self.provided = wanted;
    }

    pub fn publish_provider_records(&mut self) {
        let records = self.swarm.behaviour_mut().kad.store_mut().len();
        self.shared.metrics.provider_records.set(records as i64);
    }

    fn save_book(&mut self) {
        let Some(bytes) = self.book.take_changes() else { return };
        let files = self.seams.disk.files.clone();
        self.seams.tasks.spawn(async move {
            if let Err(error) = run_blocking(move || files.write_small(address_book::FILE, &bytes)).await {
                tracing::warn!(%error, "the address book could not be written");
            }
        });
    }

    fn keep_house(&mut self, now: Millis) {
        self.shared.forget_idle_windows();
        self.swarm.behaviour_mut().kad.store_mut().forget_expired(Instant::now());
        self.publish_provider_records();
        let before: Vec<PeerId> = self.book.iter().map(|(peer, _)| peer).collect();
        let wall = self.seams.clock.wall();
        for (peer, connected) in &self.connected {
            self.book.touch(*peer, wall);
            if now.since(connected.since) >= REACHED_AFTER {
                self.book.note_reached(*peer);
            }
        }
        self.book.expire(wall);
        for peer in before {
            if self.book.get(peer).is_none() && !self.connected.contains_key(&peer) {
                self.shared.remove_peer(peer);
            }
        }
        let book = &self.book;
        self.dialler.retain(|peer| book.get(peer).is_some());
        let forgive = now >= self.forgive_due;
        if forgive {
            self.forgive_due = now.plus(PENALTY_DECAY);
        }
        let mut pardoned = Vec::new();
        self.records.retain(|peer, record| {
            if record.shut_out_until.is_some_and(|until| until <= now) {
                record.shut_out_until = None;
                record.penalties = 0;
                pardoned.push(*peer);
            }
            record.penalties = record.penalties.saturating_sub(u32::from(forgive));
            record.penalties > 0 || record.shut_out_until.is_some()
        });
        for peer in pardoned.into_iter().filter_map(to_libp2p) {
            self.swarm.behaviour_mut().blocked.unblock_peer(peer);
        }
    }

    pub fn penalise(&mut self, peer: PeerId, reason: &'static str) {
        self.shared.metrics.penalised();
        if self.records.len() >= PENALISED_MAX && !self.records.contains_key(&peer) {
            // Those shut out stay; of the others, the one that did least goes.
            let least = self.records.iter().filter(|(_, record)| record.shut_out_until.is_none());
            match least.min_by_key(|(peer, record)| (record.penalties, **peer)).map(|(peer, _)| *peer) {
                Some(least) => self.records.remove(&least),
                None => return,
            };
        }
        let until = self.now().plus(SHUT_OUT);
        let record = self.records.entry(peer).or_insert(Record { penalties: 0, shut_out_until: None });
        record.penalties += 1;
        tracing::debug!(%peer, reason, penalties = record.penalties, "a peer misbehaved");
        if record.penalties >= PENALTIES_MAX && record.shut_out_until.is_none() {
            record.shut_out_until = Some(until);
            tracing::warn!(%peer, reason, "a peer misbehaved too often and is shut out for ten minutes");
            if let Some(target) = to_libp2p(peer) {
                self.swarm.behaviour_mut().blocked.block_peer(target);
            }
        }
    }

    pub fn now(&self) -> Millis {
        self.seams.clock.monotonic()
    }
    /// A number in `0.0..1.0`.
    pub fn jitter(&self) -> f64 {
        self.seams.entropy.below(1024) as f64 / 1024.0
    }

    pub fn send_event(&self, event: NetEvent) {
        if self.outlets.events.try_send(event).is_err() {
            self.shared.metrics.dropped("events");
        }
    }

    /// Brings what handles see of a peer up to date.
    pub fn publish_view(&self, peer: PeerId) {
        let connected = self.connected.get(&peer);
        let entry = self.book.get(peer);
        self.shared.metrics.peers_connected.set(self.connected.len() as i64);
        if connected.is_none() && entry.is_none() {
            return self.shared.remove_peer(peer);
        }
        self.shared.set_peer(PeerView {
            peer,
            addresses: entry.map(|entry| entry.addresses.iter().map(plain).collect()).unwrap_or_default(),
            connected: connected.is_some(),
            rtt: connected.and_then(|connected| connected.rtt),
            last_seen: entry.map(|entry| entry.last_seen).or_else(|| connected.map(|_| self.seams.clock.wall())),
        });
    }

    pub fn publish_listen_addresses(&self) {
        self.reach.set_own(self.swarm.external_addresses().chain(self.swarm.listeners()));
        let mut addresses: Vec<String> =
            self.swarm.external_addresses().chain(self.swarm.listeners()).map(plain).collect();
        let mut seen = BTreeSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        self.shared.set_listen(addresses);
    }
}

/// The address without the peer id that libp2p may have put behind it.
pub(super) fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Part::P2p(_))).collect()
}

/// Whether an address means only this machine.
pub(super) fn is_local(address: &Multiaddr) -> bool {
    address.iter().next().is_some_and(|part| match part {
        Part::Ip4(ip) => ip.is_loopback(),
        Part::Ip6(ip) => ip.is_loopback(),
        _ => false,
    })
}

pub(super) fn ours(peer: &libp2p::PeerId) -> Option<PeerId> {
    // A key of another kind cannot take part: approvals and receipts are ed25519.
    from_libp2p(peer)
}

async fn load_book(seams: &Seams) -> AddressBook {
    let files = seams.disk.files.clone();
    let wall = seams.clock.wall();
    let read = seams.tasks.scope(run_blocking(move || files.read_small(address_book::FILE))).await;
    let book = match read {
        Ok(None) => return AddressBook::default(),
        Ok(Some(bytes)) => AddressBook::decode(&bytes, wall).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    book.unwrap_or_else(|error| {
        tracing::warn!(error, "the address book is damaged; starting with an empty one");
        AddressBook::default()
    })
}
