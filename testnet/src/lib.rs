//! Starts real quorate nodes on loopback and breaks them.
//!
//! A testnet is a folder: one data folder per node (`node-1`, `node-2`, …) and a `testnet.json` that names them. Nodes
//! are ordinary processes of the `quorate` binary, found again by the process id and start time in their folder, so
//! that any later command (`status`, `kill`, `down`) can act on them. This crate knows the binary's path and the HTTP
//! API, and nothing of what is inside a node; its checkers are pure.
//!
//! What it promises: it signals only processes that it started (process id *and* start time must match); `up` returns
//! when every node sees every other; a [`Testnet`] opened with `owned` ends its processes when dropped.

pub mod chaos;
pub mod checkers;
pub mod client;
pub mod faults;
pub mod layout;
pub mod measure;
pub mod mutate;
pub mod process;
mod report;
pub mod reservations;
pub mod rng;
pub mod testnet;

pub use client::{Client, ClientError};
pub use layout::{Layout, LayoutError, default_dir, resolve_dir};
pub use report::{TestnetInfo, TestnetNode, TestnetNodeState, TestnetUp};
pub use testnet::{Testnet, TestnetError, UpOptions, free_ports};
