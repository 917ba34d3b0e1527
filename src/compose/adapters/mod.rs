//! Adapters: what each part of a node needs of its neighbours, over the handles of this very node.
//!
//! Every part names its needs as traits of its own and knows no neighbour; here they are brought together.

mod approver;
mod network_events;
mod objects;
mod workers;

pub use network_events::NetworkEvents;
pub use objects::NodePlacement;
