//! Events of the swarm, and what the actor makes of them.

use libp2p::gossipsub::{self, MessageAcceptance};
use libp2p::kad::{self, GetClosestPeersError, GetProvidersOk, ProviderRecord, QueryResult};
use libp2p::request_response::{Event as AskEvent, InboundFailure, Message, OutboundFailure};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, identify, mdns, ping};
use quorate_protocols::directory::Excess;
use quorate_protocols::directory::limits::ADVERT_BYTES_MAX;
use quorate_protocols::ids::PeerId;
use std::io;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

use super::actor::{Actor, Connected, Connection, is_local, ours, without_peer};
use super::behaviour::{BehaviourEvent, LaneEvent};
use super::codec::{Answer, Question};
use super::config::*;
use super::error_text::{self, DialFault, plain};
use super::faults::Link;
use super::mux;
use super::providers::RecordOutcome;
use crate::config::address::{is_dialable, to_libp2p};
use crate::seams::{GossipMessage, InboundRequest, NetError, NetEvent, Protocol, Reply, Topic};

type ServeEvent = AskEvent<Question, Answer>;

impl Actor {
    pub(super) fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let dialled = endpoint.is_dialer();
                self.on_connected(peer_id, connection_id, without_peer(endpoint.get_remote_address()), dialled);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                if let Some(peer) = ours(&peer_id) {
                    tracing::debug!(%peer, ?cause, "a connection closed");
                    self.on_connection_closed(peer, connection_id, num_established);
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                self.on_dial_failed(peer_id.as_ref().and_then(ours), connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                // Anyone can knock: this is for whoever wonders why a peer does not get in, not for every log.
                tracing::debug!(from = %plain(&send_back_addr), %error, "a caller was not let in");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(address = %plain(&address), "listening");
                self.publish_listen_addresses();
            }
            SwarmEvent::ExpiredListenAddr { .. } | SwarmEvent::ExternalAddrConfirmed { .. } => {
                self.publish_listen_addresses();
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(
                    ?addresses,
                    ?reason,
                    "no longer listening: other nodes cannot connect to this one until it is restarted"
                );
                self.publish_listen_addresses();
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "accepting connections failed"),
            _ => (),
        }
    }

    fn on_connected(&mut self, peer_id: libp2p::PeerId, id: ConnectionId, remote: Multiaddr, dialled: bool) {
        let Some(peer) = ours(&peer_id) else {
            let _ = self.swarm.disconnect_peer_id(peer_id);
            return;
        };
        if let Some(index) = self.bootstrap_dials.remove(&id) {
            self.dialler.bootstrap_found(index, peer);
        }
        if dialled {
            self.book.found_at(peer, remote.clone(), self.seams.clock.wall());
        }
        let since = self.now();
        let connected = self.connected.entry(peer).or_insert_with(|| Connected { since, ..Connected::default() });
        let first = connected.connections.is_empty();
        connected.connections.insert(id, Connection { remote, dialled, pings_lost: 0 });
        self.publish_view(peer);
        if first {
            self.send_event(NetEvent::Connected { peer });
        }
    }

    fn on_connection_closed(&mut self, peer: PeerId, id: ConnectionId, left: u32) {
        let Some(connected) = self.connected.get_mut(&peer) else { return };
        connected.connections.remove(&id);
        if left > 0 {
            return;
        }
        let introduced = connected.introduced.take();
        self.connected.remove(&peer);
        self.book.touch(peer, self.seams.clock.wall());
        self.publish_view(peer);
        self.send_event(NetEvent::Disconnected { peer });
        let (now, jitter) = (self.now(), self.jitter());
        let fault = match introduced {
            Some(Ok(())) => {
                self.dialler.settled(peer, now);
                // At once: whether its address refuses now is what tells a dead process from a broken link.
                return self.dial(peer);
            }
            Some(Err(fault)) => fault,
            None => DialFault::ClosedAtOnce,
        };
        let reason = fault.to_string();
        if self.dialler.turned_away(peer, fault, now, jitter) {
            tracing::warn!(%peer, reason, "a peer was reached and the connection did not last; trying again slowly");
        }
    }

    fn on_dial_failed(&mut self, peer: Option<PeerId>, id: ConnectionId, error: &DialError) {
        let fault = error_text::dial_fault(error);
        if let Some(index) = self.bootstrap_dials.remove(&id) {
            // Denied as one connection too many to a peer that is connected: it is the one that was looked for.
            let surplus_to = peer.filter(|_| matches!(error, DialError::Denied { .. }));
            return match surplus_to.filter(|peer| self.connected.contains_key(peer)) {
                Some(peer) => self.dialler.bootstrap_found(index, peer),
                None => self.on_bootstrap_failed(index, fault),
            };
        }
        let Some(peer) = peer.filter(|_| fault != DialFault::Superseded) else { return };
        if self.connected.contains_key(&peer) {
            // It dialled this node meanwhile: whatever came of this dial is of no interest.
            return;
        }
        if fault == DialFault::Refused {
            self.send_event(NetEvent::Refused { peer });
        }
        let (now, jitter) = (self.now(), self.jitter());
        let reason = fault.to_string();
        match self.dialler.failed(peer, fault, now, jitter) {
            true => tracing::info!(%peer, reason, "cannot reach a peer"),
            false => tracing::trace!(%peer, reason, "still cannot reach a peer"),
        }
    }

    pub(super) fn on_bootstrap_failed(&mut self, index: usize, fault: DialFault) {
        let (now, jitter) = (self.now(), self.jitter());
        let reason = fault.to_string();
        let peer = self.dialler.bootstrap.get(index).and_then(|entry| entry.peer);
        if let Some(peer) = peer.filter(|peer| fault == DialFault::Refused && !self.connected.contains_key(peer)) {
            self.send_event(NetEvent::Refused { peer });
        }
        let quiet = matches!(fault, DialFault::Own | DialFault::Superseded);
        if self.dialler.bootstrap_failed(index, fault, now, jitter) && !quiet {
            let address = self.dialler.bootstrap[index].bootstrap.to_string();
            tracing::warn!(address, reason, "a bootstrap address does not work; trying again");
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Lanes(event) => match event.split() {
                (protocol, LaneEvent::Serve(event)) => self.on_serve_event(protocol, event),
                (protocol, LaneEvent::Ask(event)) => self.on_ask_event(protocol, event),
            },
            BehaviourEvent::Mux(mux::Event::Misdeed(peer, misdeed)) => self.penalise(peer, misdeed.reason()),
            BehaviourEvent::Mux(mux::Event::NotConnected(question)) => {
                let error = self.not_connected(question.peer);
                let _ = question.reply.send(Err(error));
            }
            BehaviourEvent::Gossip(event) => self.on_gossip_event(event),
            BehaviourEvent::Kad(event) => self.on_kad_event(event),
            BehaviourEvent::Identify(identify::Event::Received { connection_id, peer_id, info }) => {
                if let Some(peer) = ours(&peer_id) {
                    self.on_identified(peer, connection_id, info);
                }
            }
            BehaviourEvent::Ping(event) => self.on_ping(event),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    let unknown = ours(&peer).is_some_and(|peer| self.book.get(peer).is_none());
                    let address = without_peer(&address);
                    if unknown && is_dialable(&address) {
                        self.dial_at(peer, vec![address]);
                    }
                }
            }
            _ => (),
        }
    }

    fn on_serve_event(&mut self, protocol: Protocol, event: ServeEvent) {
        match event {
            AskEvent::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                let Some(from) = ours(&peer) else { return };
                let answer = match request {
                    Question::Received { frame, memory } => self.take_in(from, protocol, frame, memory),
                    Question::Refused => {
                        self.shared.metrics.dropped("memory");
                        Answer::Busy
                    }
                    Question::Asked { .. } => return,
                };
                if let Some(lane) = self.swarm.behaviour_mut().lanes.lane(protocol) {
                    // The asker may have gone meanwhile: nothing is owed to it then.
                    let _ = lane.serve.send_response(channel, answer);
                }
            }
            AskEvent::InboundFailure { peer, error: InboundFailure::Io(error), .. }
                if error.kind() == io::ErrorKind::InvalidData =>
            {
                if let Some(peer) = ours(&peer) {
                    self.penalise(peer, "a malformed question");
                }
            }
            _ => (),
        }
    }

    /// Hands a question to whoever deals with its protocol, and says how its answer will come.
    fn take_in(
        &mut self,
        from: PeerId,
        protocol: Protocol,
        frame: crate::seams::Frame,
        memory: crate::seams::Reservation,
    ) -> Answer {
        let link = self.shared.faults.link(from);
        if link.from == Link::Cut {
            return Answer::Never;
        }
        let (reply, answer) = oneshot::channel();
        let request = InboundRequest { from, frame, reply: Reply(reply), memory };
        let outlet = self.outlets.requests(protocol).clone();
        let delay = link.round_trip_delay();
        if delay > Duration::ZERO {
            self.seams.tasks.spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = outlet.try_send(request);
            });
        } else if outlet.try_send(request).is_err() {
            // The request is dropped with its reply, which answers busy.
            self.shared.metrics.dropped(protocol.name());
        }
        match link.to {
            Link::Cut => Answer::Never,
            Link::Open | Link::Slow(_) => Answer::Later(answer),
        }
    }

    fn on_ask_event(&mut self, protocol: Protocol, event: ServeEvent) {
        let (id, result) = match event {
            AskEvent::Message { message: Message::Response { request_id, response }, .. } => (request_id, Ok(response)),
            AskEvent::OutboundFailure { request_id, error, .. } => (request_id, Err(error)),
            _ => return,
        };
        let Some(pending) = self.pending.remove(&(protocol, id)) else { return };
        let peer = pending.peer;
        let timeout = NetError::Timeout { peer, after: pending.after };
        let result = match result {
            Ok(Answer::Received(frame)) if self.shared.faults.link(peer).from == Link::Cut => {
                // Cut while the answer was on its way: it never arrived.
                drop(frame);
                Err(timeout)
            }
            Ok(Answer::Received(frame)) => Ok(frame),
            Ok(_) => Err(NetError::Busy { peer }),
            Err(OutboundFailure::Timeout) => Err(timeout),
            Err(OutboundFailure::ConnectionClosed) => Err(NetError::Broken { peer }),
            Err(OutboundFailure::UnsupportedProtocols) => {
                Err(NetError::Unsupported { peer, protocol: protocol.name() })
            }
            Err(OutboundFailure::DialFailure) => Err(self.not_connected(peer)),
            Err(OutboundFailure::Io(error)) => match error.kind() {
                io::ErrorKind::TimedOut => Err(timeout),
                io::ErrorKind::InvalidData => {
                    self.penalise(peer, "a malformed answer");
                    Err(NetError::Broken { peer })
                }
                _ if error_text::is_unsupported(&error) => {
                    Err(NetError::Unsupported { peer, protocol: protocol.name() })
                }
                _ => Err(NetError::Broken { peer }),
            },
        };
        let _ = pending.reply.send(result);
    }

    fn not_connected(&self, peer: PeerId) -> NetError {
        let reason = self.dialler.last_fault(peer).unwrap_or(&DialFault::NoAddress).to_string();
        NetError::Unreachable { peer, reason }
    }

    fn on_gossip_event(&mut self, event: gossipsub::Event) {
        let gossipsub::Event::Message { propagation_source, message_id, message } = event else { return };
        let topic = Topic::ALL.into_iter().find(|topic| message.topic.as_str() == topic.name());
        let source = ours(&propagation_source);
        let author = message.source.as_ref().and_then(ours);
        let cut = source.is_some_and(|source| self.shared.faults.link(source).from == Link::Cut);
        let acceptance = match (topic, author, source) {
            _ if cut => MessageAcceptance::Ignore,
            (Some(topic), Some(author), Some(source)) if message.data.len() <= ADVERT_BYTES_MAX => {
                self.take_announcement(source, GossipMessage { author, topic, bytes: message.data.into() })
            }
            _ => {
                if let Some(source) = source {
                    self.penalise(source, "a malformed announcement");
                }
                MessageAcceptance::Reject
            }
        };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        gossip.report_message_validation_result(&message_id, &propagation_source, acceptance);
    }

    /// Hands an announcement that `source` sent here to the directory, within the budgets of both its author and
    /// `source`; whether it is passed on.
    fn take_announcement(&mut self, source: PeerId, announcement: GossipMessage) -> MessageAcceptance {
        let (now, author) = (self.now(), announcement.author);
        if let Err(excess) = self.announcements.charge(now, author, source, announcement.bytes.len()) {
            self.shared.metrics.announcement_ignored(excess);
            // Of what others pass on nobody but its author is to blame, and that may be a key without a node.
            if excess == Excess::Author && author == source {
                self.penalise(source, "announcements beyond its budget");
            }
            return MessageAcceptance::Ignore;
        }
        if self.outlets.gossip.try_send(announcement).is_err() {
            self.shared.metrics.dropped("gossip");
        }
        MessageAcceptance::Accept
    }

    fn on_kad_event(&mut self, event: kad::Event) {
        let (id, result, step) = match event {
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => (id, result, step),
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(record) } } => {
                return self.on_provider_announced(&record);
            }
            _ => return,
        };
        match result {
            QueryResult::GetClosestPeers(found) if self.lookup == Some(id) => {
                let peers = match found {
                    Ok(found) => found.peers,
                    Err(GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                for found in peers {
                    let unknown = ours(&found.peer_id)
                        .is_some_and(|peer| peer != self.shared.local && self.book.get(peer).is_none());
                    let room = self.book.len() < MESH_PEERS_MAX || self.connected.len() < MESH_PEERS_TARGET;
                    let addresses: Vec<_> = found.addrs.iter().map(without_peer).filter(is_dialable).collect();
                    if unknown && room && !addresses.is_empty() {
                        self.dial_at(found.peer_id, addresses.into_iter().take(BOOK_ADDRESSES_MAX).collect());
                    }
                }
                if step.last {
                    self.lookup = None;
                }
            }
            QueryResult::GetProviders(found) => {
                if let (Ok(GetProvidersOk::FoundProviders { providers, .. }), Some(lookup)) =
                    (&found, self.lookups.get_mut(&id))
                {
                    let room = PROVIDERS_PER_QUORUM_MAX.saturating_sub(lookup.found.len());
                    let providers = providers.iter().filter_map(ours).filter(|peer| *peer != self.shared.local);
                    let fresh: Vec<PeerId> = providers.take(room).collect();
                    lookup.found.extend(fresh.iter().copied());
                    for peer in fresh {
                        self.dial_through_query(peer);
                    }
                }
                if step.last
                    && let Some(lookup) = self.lookups.remove(&id)
                {
                    let _ = lookup.reply.send(lookup.found.into_iter().collect());
                }
            }
            _ => (),
        }
    }

    /// The hash table has checked that the peer spoke for itself.
    fn on_provider_announced(&mut self, record: &ProviderRecord) {
        let Some(peer) = ours(&record.provider) else { return };
        let (addresses, connected) = (self.book.addresses(peer), &self.connected);
        let store = self.swarm.behaviour_mut().kad.store_mut();
        match store.note_record(record, addresses, Instant::now(), |peer| connected.contains_key(&peer)) {
            RecordOutcome::Kept => self.publish_provider_records(),
            RecordOutcome::Malformed => self.penalise(peer, "a provider record of no quorum"),
            // An honest member of many quorums comes here as well: nothing is held against it.
            RecordOutcome::TooMany | RecordOutcome::Full => self.shared.metrics.dropped("provider records"),
        }
    }

    /// While a query lives, the hash table's behaviour knows the addresses of the providers it found.
    fn dial_through_query(&mut self, peer: PeerId) {
        use libp2p::swarm::dial_opts::DialOpts;
        let Some(target) = to_libp2p(peer).filter(|_| !self.connected.contains_key(&peer)) else { return };
        let addresses = self.book.addresses(peer);
        let options = DialOpts::peer_id(target).addresses(addresses).extend_addresses_through_behaviour().build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::trace!(%peer, %error, "a provider was not dialled");
        }
    }

    fn on_identified(&mut self, peer: PeerId, connection: ConnectionId, info: identify::Info) {
        let Some(target) = to_libp2p(peer) else { return };
        if info.protocol_version != IDENTIFY_VERSION {
            let theirs: String = info.protocol_version.chars().take(40).collect();
            if let Some(connected) = self.connected.get_mut(&peer) {
                connected.introduced = Some(Err(DialFault::Version { theirs }));
            }
            let _ = self.swarm.disconnect_peer_id(target);
            return;
        }
        self.dialler.settled(peer, self.now());
        let Some(connected) = self.connected.get_mut(&peer) else { return };
        connected.introduced = Some(Ok(()));
        let Some(via) = connected.connections.get(&connection) else { return };
        // "127.0.0.1" from a peer elsewhere names this machine, not the peer's.
        let near = is_local(&via.remote);
        let dialled = connected.connections.values().filter(|connection| connection.dialled);
        let mut addresses: Vec<Multiaddr> = dialled.map(|connection| connection.remote.clone()).collect();
        let claimed = info.listen_addrs.iter().take(2 * BOOK_ADDRESSES_MAX).map(without_peer);
        let reach = self.reach.clone();
        addresses.extend(
            claimed.filter(|address| is_dialable(address) && reach.allows(address) && (near || !is_local(address))),
        );
        let known = self.book.get(peer).is_some_and(|entry| entry.addresses.len() > usize::from(via.dialled));
        self.book.confirm(peer, addresses, self.seams.clock.wall());
        for address in self.book.addresses(peer) {
            self.swarm.behaviour_mut().kad.add_address(&target, address);
        }
        let book = &self.book;
        self.swarm.behaviour_mut().kad.store_mut().set_addresses(peer, || book.addresses(peer));
        self.publish_view(peer);
        if !known {
            self.lookup_soon();
        }
    }

    fn on_ping(&mut self, event: ping::Event) {
        let Some(peer) = ours(&event.peer) else { return };
        let Some(connected) = self.connected.get_mut(&peer) else { return };
        let Some(connection) = connected.connections.get_mut(&event.connection) else { return };
        match event.result {
            Ok(rtt) => {
                connection.pings_lost = 0;
                connected.rtt = Some(rtt);
                self.book.touch(peer, self.seams.clock.wall());
                self.publish_view(peer);
            }
            Err(error) => {
                connection.pings_lost += 1;
                if connection.pings_lost >= PINGS_LOST_MAX {
                    tracing::info!(%peer, %error, "a peer went silent; closing its connection");
                    self.swarm.close_connection(event.connection);
                }
            }
        }
    }
}
