//! The network in memory: connections, requests, gossip and the provider table of all nodes of one world.
//!
//! [`Network`] is what is between the nodes and knows every fault; [`MemoryNet`] is one node's handle, the
//! [`quorate_seams::Net`] that it is started with. A message in flight belongs to the network: it arrives although its
//! sender crashed. Latency is drawn per message, so messages overtake each other. A lost message, or one into a
//! partition, is silence: the asker learns nothing before its deadline. A dead process answers a dial with a refusal
//! at once, and its connections close; behind a partition neither shows.
//!
//! [`ScriptedNet`] is the handle of a node that is alone: what its peers answer is written down by the test.

mod handle;
mod network;
mod scripted;

use bytes::Bytes;
pub use handle::MemoryNet;
pub use network::{Faults, INBOUND_MAX, NetCounts, Network};
use quorate_protocols::ids::PeerId;
use quorate_seams::{Frame, NetEvent, Protocol, Topic};
pub use scripted::{Reaction, ScriptedNet};

/// Something that happens at a node.
pub enum Sight<'a> {
    /// A request of the node with this index arrives.
    Request {
        from: usize,
        protocol: Protocol,
        frame: &'a Frame,
    },
    /// An answer of a peer arrives.
    Answer {
        from: PeerId,
        protocol: Protocol,
        frame: &'a Frame,
    },
    Gossip {
        topic: Topic,
        bytes: &'a Bytes,
    },
    Event(&'a NetEvent),
    /// The node complains about a peer.
    Penalty {
        peer: PeerId,
        reason: &'a str,
    },
}

/// What becomes of a question before it is under way.
pub enum Passage {
    Free,
    /// Nothing listens there.
    Refused,
    /// It is never answered.
    Silence,
    /// Somebody else answers, in the peer's name.
    Answered(Frame),
}

/// Stands before every question of a network: peers that misbehave on purpose.
pub trait Gate: Send + Sync + 'static {
    fn pass(&self, to: PeerId, protocol: Protocol, frame: &Frame) -> Passage;
}

/// Sees what happens on a network, in order.
pub trait Observer: Send + Sync + 'static {
    /// At the node with this index.
    fn observe(&self, node: usize, sight: &Sight<'_>);
}
