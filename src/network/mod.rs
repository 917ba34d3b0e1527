//! The network over libp2p: one swarm, owned by one actor, behind [`Net`].
//!
//! **Who is let in.** A connection is TCP, then Noise with a value derived from the network's secret in its prologue,
//! then Yamux: without the secret the handshake fails. QUIC has no such place, so it listens only when an allow list
//! of peer ids is set, which then holds on every transport. Identity is the transport's authenticated peer id.
//!
//! **What travels.** Requests and answers over six protocols, each with its own caps, places and deadline: four of them
//! on long-lived streams that questions share ([`mux`]), approvals and pieces on a stream each ([`codec`]);
//! announcements over gossip, signed, at most 4 KiB, looked at before they are forwarded; provider records of quorums
//! in a Kademlia table ([`providers`]). Nothing is decoded here: heads and payloads go to those who own the protocols.
//!
//! **What is bounded.** Everything a remote can fill has its bound in [`config`]: connections in all and per peer,
//! questions under way per protocol and peer, what streams hold unread ([`yamux`]), memory per frame through the
//! [`Admission`] hook as its bytes arrive, of each protocol and of each peer in it ([`serving`]), one queue for each
//! protocol towards the node. A full queue answers *busy* at once. Questions of this node wait, within their deadlines,
//! for one of the places that its peer grants; a deadline gives the place back at both ends, so that a silent peer
//! holds nothing.
//!
//! **How failures show.** A lost connection is reported at once and dialled again at once; when every known address
//! refuses, that is reported too ([`NetEvent::Refused`](crate::seams::NetEvent)): together, evidence that the process
//! is gone. Other failed dials are logged once per cause, in words ([`explain`]).
//!
//! | what a peer does | what follows |
//! |---|---|
//! | frame larger than its cap, unknown status, a part that means nothing | penalise |
//! | announcement too large or on no topic of ours | penalise |
//! | announcements beyond the budget of their author or sender | ignore; penalise an author that is the sender |
//! | a penalty too many | disconnect, shut out for ten minutes |
//! | another identify version | disconnect, retry slowly; questions fail with *unsupported* |
//! | a connection closed before it said what it is | retry slowly |
//! | no answer | the question fails with *timeout*; three lost pings disconnect |
//! | wrong secret, garbage on the port | the handshake fails, nothing else |
//!
//! Addresses that others name are dialled only where a peer of this node's kind can be, and strangers within a budget
//! ([`reach`]).
//!
//! What it does not do: relay, pierce NATs, guarantee delivery of announcements, or keep what peers say of others.

mod actor;
mod address_book;
mod behaviour;
mod coalesce;
pub mod codec;
pub mod config;
mod dialler;
mod error_text;
mod events;
pub mod faults;
mod handle;
mod metrics;
mod mux;
mod providers;
mod reach;
mod serving;
mod transport;
mod window;
mod yamux;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use quorate_protocols::resources::{Amounts, Scope};
use tokio::sync::mpsc;

use crate::identity::Identity;
use crate::resources::Resources;
use crate::seams::{Inbound, Net, Protocol, Seams};

pub use codec::Admission;
pub use config::NetworkConfig;
pub use faults::{Link, LinkFault, NetFaults};

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: String, reason: String },
    #[error("the network's encryption could not be set up: {reason}")]
    Crypto { reason: String },
    #[error("announcements could not be set up: {reason}")]
    Gossip { reason: String },
    #[error("the machine's name resolution could not be read: {reason}")]
    Resolver { reason: String },
    #[error("QUIC needs a list of allowed peers: it has no place for the network's secret")]
    QuicWithoutAllowList,
}

/// Frames are reserved in their protocol's scope, so that pieces leave room for consensus, and there in their sender's,
/// so that one peer leaves room for others. Strangers leave room for members there.
pub fn admission(resources: Resources) -> Admission {
    Arc::new(move |protocol, from, bytes| {
        let protocol = protocol.name();
        let scope = from.map_or(Scope::Protocol(protocol), |from| Scope::Peer(protocol, from));
        resources.reserve(scope, Amounts::memory(bytes as u64)).ok()
    })
}

/// A network that listens, and what arrives from it; or why there is none.
pub type Started = Result<(Arc<dyn Net>, Inbound), NetworkError>;

/// Starts the network of a node; returns once it listens. Must run inside a tokio runtime with I/O and time.
///
/// Boxed, so that libp2p's code is compiled here and not in each crate that starts a network.
pub fn start<'a>(
    seams: &'a Seams,
    identity: &'a Identity,
    config: NetworkConfig,
    admission: Admission,
    registry: &'a mut Registry,
) -> BoxFuture<'a, Started> {
    start_swarm(seams, identity, config, admission, registry).boxed()
}

async fn start_swarm(
    seams: &Seams,
    identity: &Identity,
    config: NetworkConfig,
    admission: Admission,
    registry: &mut Registry,
) -> Started {
    if config.section.quic && config.section.allow_peers.is_empty() {
        return Err(NetworkError::QuicWithoutAllowList);
    }
    let metrics = metrics::Metrics::register(registry);
    let (commands_in, commands_out) = mpsc::channel(config::COMMANDS_MAX);
    let shared = Arc::new(handle::Shared::new(identity.peer(), config.faults.clone(), metrics));
    let queue = |protocol| mpsc::channel(config::inbound_max(protocol));
    let (approval_in, approval) = queue(Protocol::Approval);
    let (raft_in, raft) = queue(Protocol::Raft);
    let (liveness_in, liveness) = queue(Protocol::Liveness);
    let (job_in, job) = queue(Protocol::Job);
    let (piece_in, piece) = queue(Protocol::Piece);
    let (task_in, task) = queue(Protocol::Task);
    let (gossip_in, gossip) = mpsc::channel(config::GOSSIP_QUEUE_MAX);
    let (events_in, events) = mpsc::channel(config::EVENT_QUEUE_MAX);
    let outlets = actor::Outlets {
        approval: approval_in,
        raft: raft_in,
        liveness: liveness_in,
        job: job_in,
        piece: piece_in,
        task: task_in,
        gossip: gossip_in,
        events: events_in,
    };
    metrics::register_queues(registry, &outlets, &commands_in);
    let actor = actor::Actor::start(seams, identity, config, admission, shared.clone(), commands_out, outlets).await?;
    seams.tasks.spawn(actor.run());
    let net = Arc::new(handle::Handle::new(shared, commands_in));
    Ok((net, Inbound { approval, raft, liveness, job, piece, task, gossip, events }))
}
