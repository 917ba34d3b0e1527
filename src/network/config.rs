//! Settings of the swarm, and the bounds of everything that a remote can fill.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use quorate_protocols::ids::PeerId;

use super::address::{Bootstrap, PublicAddress};
use crate::config::NetworkSection;
use crate::identity::NetworkSecret;

/// What the network needs to know to start.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    pub secret: NetworkSecret,
    pub listen: SocketAddr,
    pub announce: Vec<PublicAddress>,
    pub bootstrap: Vec<Bootstrap>,
    pub mdns: bool,
    pub quic: bool,
    pub allow_peers: BTreeSet<PeerId>,
    pub connections_max: u32,
    /// Whether faults may be injected into this node's links. From the command line only.
    pub testing: bool,
}

impl NetworkConfig {
    pub fn new(section: &NetworkSection, secret: NetworkSecret, testing: bool) -> Self {
        Self {
            secret,
            listen: section.listen,
            announce: section.announce.clone(),
            bootstrap: section.bootstrap.clone(),
            mdns: section.mdns,
            quic: section.quic,
            allow_peers: section.allow_peers.clone(),
            connections_max: section.connections_max,
            testing,
        }
    }
}
