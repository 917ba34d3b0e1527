//! One node of a quorate network, and the command line that talks to it.
//!
//! `quorate_protocols` decides; this crate does: sockets, disk, timers, HTTP. A [`node::Node`] is a set of actors, each
//! owning one state, that reach the world only through [`seams`]. The map of the modules is in
//! docs/architecture.md.

// Whatever reaches a terminal goes through `cli::output`, where text of others is escaped.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod api;
pub mod bench;
pub mod buffers;
pub mod cli;
pub mod config;
pub mod directory;
pub mod events;
pub mod executors;
pub mod identity;
pub mod incarnation;
pub mod jobs;
pub mod network;
pub mod node;
pub mod objects;
pub mod presence;
pub mod quorum;
pub mod resources;
pub mod seams;
pub mod sources;
pub mod storage;
pub mod streams;
mod utf8;
pub mod workers;
