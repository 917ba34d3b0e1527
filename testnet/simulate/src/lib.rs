//! Whole quorate nodes in one process under virtual time, replayable by seed.
//!
//! A [`world::World`] starts ordinary [`quorate_node::compose::Node`]s on the doubles of the test kit
//! ([`quorate_testkit`]): clock, disk, net, and a seeded generator each. It runs on one thread with tokio's clock
//! paused and tokio's own choices seeded ([`runtime`]), so that **one seed is one history**: the [`transcript`] of two
//! runs is the same, byte for byte. What is not simulated: libp2p's sockets, sled, and the threads that blocking work
//! runs on in a real node.

pub mod campaign;
pub mod coverage;
pub mod event_workload;
pub mod executor;
pub mod faults;
pub mod history;
pub mod links;
pub mod minimise;
pub mod oracle;
pub mod panics;
pub mod planted;
pub mod run;
pub mod runtime;
pub mod transcript;
pub mod triggers;
pub mod world;
