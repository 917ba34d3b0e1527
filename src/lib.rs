//! One node of a quorate network.
//!
//! `quorate_protocols` decides; this crate does: sockets, disk, timers. A [`compose::Node`] is a set of actors, each
//! owning one state, that reach the world only through [`seams`]. The map of the modules is in
//! docs/architecture.md.

// Whatever reaches a terminal goes through the command line's `output`, where text of others is escaped.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod approver;
pub mod buffers;
pub mod certificates;
pub mod compose;
pub mod config;
pub mod directory;
mod error;
pub mod events;
pub mod executors;
pub mod folder;
mod gauges;
pub mod hosts;
pub mod identity;
pub mod incarnation;
pub mod network;
pub mod objects;
pub mod presence;
pub mod primary;
pub mod quorums;
pub mod raft;
pub mod resources;
pub mod signatures;
pub mod sources;
pub mod storage;
pub mod streams;
#[cfg(test)]
mod testing;
pub mod utf8;
pub mod workers;

pub use quorate_seams as seams;
