//! The composition of a node: its actors, started in order and closed together, and nothing that any of them decides.
//!
//! [`node`] starts and holds them; [`adapters`] implements what each of them needs of its neighbours; [`event_bridge`]
//! carries news between them; [`membership_leases`] deals in promises of membership for this node's quorums.

mod adapters;
mod event_bridge;
mod membership_leases;
mod node;

pub use node::{EVENTS_MAX, Node, NodeEvent, NodeExecutors, NodeParts, NodeSettings, StartError};
