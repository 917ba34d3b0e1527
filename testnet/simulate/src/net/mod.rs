//! A simulated network: connections, requests, gossip and the provider table of all nodes of one world.
//!
//! [`Fabric`] is the world between the nodes and knows every fault; [`SimNet`] is one node's handle, the
//! [`quorate_node::seams::Net`] that it is started with. A message in flight belongs to the fabric: it arrives although
//! its sender crashed. Latency is drawn per message, so messages overtake each other. A lost message, or one into a
//! partition, is silence: the asker learns nothing before its deadline. A dead process answers a dial with a refusal
//! at once, and its connections close; behind a partition neither shows.

mod fabric;
mod handle;

pub use fabric::{Fabric, Faults, INBOUND_MAX, NetCounts};
pub use handle::SimNet;
