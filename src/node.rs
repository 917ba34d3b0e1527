//! One node: its actors, started in order and closed in reverse.
//!
//! A [`Node`] is given its seams, its identity, a network and what arrives from it; it opens no socket itself. The
//! binary starts libp2p and the HTTP API around it, the simulator starts it with simulated seams: both run exactly
//! this code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quorate_protocols::ids::PeerId;
use quorate_protocols::quorum::limits::VOTERS_DEFAULT;
use serde::Serialize;
use tokio::sync::broadcast;

use crate::directory::Directory;
use crate::identity::Identity;
use crate::jobs::{Approvals, Placement, QuorumClient};
use crate::objects::Objects;
use crate::quorum::QuorumHost;
use crate::seams::{Inbound, Net, Seams};

/// Events kept for a follower that lags; the oldest are lost first.
pub const EVENTS_MAX: usize = 1024;

/// What a node is built from.
pub struct NodeParts {
    pub seams: Seams,
    pub identity: Identity,
    pub settings: NodeSettings,
    pub net: Arc<dyn Net>,
    pub inbound: Inbound,
}

/// What a node's operator chose. `config` makes one from the configuration file.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Peers that may cancel and remove what is not theirs.
    pub operators: BTreeSet<PeerId>,
    pub labels: BTreeMap<String, String>,
    /// Size of the quorums that this node forms.
    pub voters: usize,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self { operators: BTreeSet::new(), labels: BTreeMap::new(), voters: VOTERS_DEFAULT }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("opening the node's own state")]
    Disk(#[from] crate::seams::DiskError),
}

/// What happens on this node, for those who follow it.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum NodeEvent {
    PeerConnected { peer: PeerId },
    PeerDisconnected { peer: PeerId },
}

/// Handle to a running node. Cloneable; the node runs until [`Node::close`].
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    seams: Seams,
    identity: Identity,
    net: Arc<dyn Net>,
    directory: Directory,
    quorums: QuorumHost,
    client: QuorumClient,
    approvals: Approvals,
    placement: Placement,
    objects: Objects,
    events: broadcast::Sender<NodeEvent>,
}

impl Node {
    pub async fn start(_parts: NodeParts) -> Result<Self, StartError> {
        unimplemented!()
    }
    pub fn seams(&self) -> &Seams {
        &self.inner.seams
    }
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }
    pub fn net(&self) -> &Arc<dyn Net> {
        &self.inner.net
    }
    pub fn directory(&self) -> &Directory {
        &self.inner.directory
    }
    /// The quorums of which this node is a member.
    pub fn quorums(&self) -> &QuorumHost {
        &self.inner.quorums
    }
    /// Any quorum of the network.
    pub fn jobs(&self) -> &QuorumClient {
        &self.inner.client
    }
    pub fn approvals(&self) -> &Approvals {
        &self.inner.approvals
    }
    pub fn placement(&self) -> &Placement {
        &self.inner.placement
    }
    pub fn objects(&self) -> &Objects {
        &self.inner.objects
    }
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.inner.events.subscribe()
    }
    /// Asks every actor to finish what it owes and waits until all have ended.
    pub async fn close(&self) {
        self.inner.seams.tasks.close().await;
    }
}
