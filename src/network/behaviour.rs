//! The protocols a node speaks, composed, with the settings of each.

use std::collections::HashSet;
use std::time::Duration;

use libp2p::allow_block_list::{self, AllowedPeers, BlockedPeers};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity};
use libp2p::identity::Keypair;
use libp2p::kad;
use libp2p::request_response::{self as ask, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{StreamProtocol, identify, mdns, ping};

use super::NetworkError;
use super::codec::{Admission, Codec};
use super::config::*;
use super::mux;
use super::providers::ProviderStore;
use super::reach::Strangers;
use super::serving::Serving;
use crate::config::address;
use crate::seams::{Protocol, TaskGroup, Topic};

pub(super) type AskBehaviour = ask::Behaviour<Codec>;
type Gossip = gossipsub::Behaviour<gossipsub::IdentityTransform, gossipsub::WhitelistSubscriptionFilter>;

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub blocked: allow_block_list::Behaviour<BlockedPeers>,
    allowed: Toggle<allow_block_list::Behaviour<AllowedPeers>>,
    strangers: Strangers,
    pub lanes: Lanes,
    pub mux: mux::Behaviour,
    pub gossip: Gossip,
    pub kad: kad::Behaviour<ProviderStore>,
    pub identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

/// One lane per protocol whose questions have a stream each.
#[derive(NetworkBehaviour)]
pub(super) struct Lanes {
    approval: Lane,
    piece: Lane,
}

/// Serving and asking are two behaviours of one protocol, because one behaviour counts both directions against one
/// stream limit: a peer with many questions would keep this node from asking any.
#[derive(NetworkBehaviour)]
pub(super) struct Lane {
    pub serve: Serving,
    pub ask: AskBehaviour,
}

impl Lanes {
    /// `None` for a protocol whose questions share a stream.
    pub fn lane(&mut self, protocol: Protocol) -> Option<&mut Lane> {
        match protocol {
            Protocol::Approval => Some(&mut self.approval),
            Protocol::Piece => Some(&mut self.piece),
            Protocol::Raft | Protocol::Liveness | Protocol::Job | Protocol::Task => None,
        }
    }
}

impl LanesEvent {
    pub fn split(self) -> (Protocol, LaneEvent) {
        match self {
            Self::Approval(event) => (Protocol::Approval, event),
            Self::Piece(event) => (Protocol::Piece, event),
        }
    }
}

fn lane(protocol: Protocol, admission: &Admission, tasks: &TaskGroup) -> Lane {
    let codec = Codec::new(protocol, admission.clone(), tasks.clone());
    let behaviour = |support, streams| {
        let config =
            ask::Config::default().with_request_timeout(protocol.deadline_max()).with_max_concurrent_streams(streams);
        let name = StreamProtocol::new(protocol.name());
        AskBehaviour::with_codec(codec.clone(), [(name, support)], config)
    };
    // An asker keeps to `in_flight_max`, but may use a stream again before this side has noticed that it is done with
    // the old one; twice as many are served, so that nobody honest is turned away.
    Lane {
        serve: Serving::new(behaviour(ProtocolSupport::Inbound, 2 * protocol.in_flight_max()), codec.caller()),
        ask: behaviour(ProtocolSupport::Outbound, protocol.in_flight_max()),
    }
}

pub(super) fn build(
    keypair: &Keypair,
    config: &NetworkConfig,
    env: mux::Env,
    strangers: Strangers,
) -> Result<Behaviour, NetworkError> {
    let local = keypair.public().to_peer_id();
    let allowed = (!config.section.allow_peers.is_empty()).then(|| {
        let mut list = allow_block_list::Behaviour::<AllowedPeers>::default();
        for peer in config.section.allow_peers.iter().filter_map(|peer| address::to_libp2p(*peer)) {
            list.allow_peer(peer);
        }
        list
    });
    let mdns = match config.section.mdns {
        // A machine without multicast can still be told where its peers are.
        true => mdns::tokio::Behaviour::new(mdns::Config::default(), local)
            .inspect_err(|error| tracing::warn!(%error, "looking for nodes on the local network is not possible"))
            .ok(),
        false => None,
    };
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits(config.section.connections_max)),
        blocked: allow_block_list::Behaviour::default(),
        allowed: allowed.into(),
        strangers,
        lanes: Lanes {
            approval: lane(Protocol::Approval, &env.admission, &env.tasks),
            piece: lane(Protocol::Piece, &env.admission, &env.tasks),
        },
        mux: mux::Behaviour::new(env),
        gossip: gossip(keypair)?,
        kad: kademlia(local, config.section.connections_max),
        identify: identify::Behaviour::new(
            identify::Config::new(IDENTIFY_VERSION.to_owned(), keypair.public())
                .with_agent_version(concat!("quorate/", env!("CARGO_PKG_VERSION")).to_owned())
                .with_push_listen_addr_updates(true)
                // The address book is the one memory of addresses.
                .with_cache_size(0),
        ),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT)),
        mdns: mdns.into(),
    })
}

fn limits(connections_max: u32) -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_CONNECTIONS_MAX))
        .with_max_pending_outgoing(Some(PENDING_CONNECTIONS_MAX))
        .with_max_established(Some(connections_max))
        // A quarter stays for connections this node makes, so that strangers cannot take all of them.
        .with_max_established_incoming(Some(connections_max - connections_max / 4))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX))
}

fn gossip(keypair: &Keypair) -> Result<Gossip, NetworkError> {
    let fault = |reason: String| NetworkError::Gossip { reason };
    let config = gossipsub::ConfigBuilder::default()
        // How large an announcement may be is for the actor to look at.
        .max_transmit_size(GOSSIP_UNREAD_BYTES_MAX)
        .max_control_messages_sent(GOSSIP_NAMED_MAX)
        .validation_mode(gossipsub::ValidationMode::Strict)
        // Forwarded only once the actor has looked at topic and size.
        .validate_messages()
        .flood_publish(true)
        .build()
        .map_err(|error| fault(error.to_string()))?;
    let names: HashSet<_> = Topic::ALL.iter().map(|topic| IdentTopic::new(topic.name()).hash()).collect();
    let filter = gossipsub::WhitelistSubscriptionFilter(names);
    let mut gossip = Gossip::new_with_subscription_filter(MessageAuthenticity::Signed(keypair.clone()), config, filter)
        .map_err(|error| fault(error.to_owned()))?;
    let (score, thresholds) = gossip_score();
    gossip.with_peer_score(score, thresholds).map_err(fault)?;
    for topic in Topic::ALL {
        gossip.subscribe(&IdentTopic::new(topic.name())).map_err(|error| fault(error.to_string()))?;
    }
    Ok(gossip)
}

/// Only faults are scored: invalid messages and broken protocol. Announcements are rare, so the parts of the score that
/// expect a steady flow would punish quiet networks; and nodes of one household or testnet share an address.
fn gossip_score() -> (gossipsub::PeerScoreParams, gossipsub::PeerScoreThresholds) {
    let topic = gossipsub::TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: 0.9,
        ..Default::default()
    };
    let score = gossipsub::PeerScoreParams {
        topics: Topic::ALL.iter().map(|name| (IdentTopic::new(name.name()).hash(), topic.clone())).collect(),
        ip_colocation_factor_weight: 0.0,
        ..Default::default()
    };
    (score, gossipsub::PeerScoreThresholds::default())
}

fn kademlia(local: libp2p::PeerId, connections_max: u32) -> kad::Behaviour<ProviderStore> {
    let mut config = kad::Config::new(KAD_PROTOCOL);
    config
        .set_query_timeout(KAD_QUERY_TIMEOUT)
        // Only peers that said over an authenticated connection where they listen come in, and the actor puts them
        // there.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        // What a peer announces comes to the actor, which knows who is connected and where each peer listens.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_provider_record_ttl(Some(PROVIDER_TTL))
        .set_provider_publication_interval(Some(PROVIDER_TTL / 4))
        // The actor looks around by itself, at a pace that follows the size of the network.
        .set_periodic_bootstrap_interval(None)
        .set_substreams_timeout(Duration::from_secs(5));
    let store = ProviderStore::new(local, connections_max as usize * PROVIDED_PER_PEER_MAX);
    let mut kad = kad::Behaviour::with_config(local, store, config);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}
