//! The hostile peer: a client that speaks the real wire from outside the node's code, and what a network must bear of
//! it.
//!
//! [`client`] is one identity with a libp2p stack of its own: it can do what an honest peer does, and anything else.
//! [`arena`] is a testnet of real nodes with an honest load, and the bounds that hold whatever the attack:
//!
//! - no task of a node panics;
//! - the resident memory of each node ends within [`arena::RSS_GROWTH_MAX`] of where it began;
//! - an honest submit is acknowledged within a second once the attack is over;
//! - each job that was acknowledged ends well, and each object reads back identical through each node.
//!
//! [`scenarios`] has the attacks by name, each with what must hold beside these. A scenario is *held* when the defence
//! is there: `tests/hostile.rs` runs it. It is *open* when it is not: the program runs it and reports how it fails, and
//! docs/testing.md lists it. [`mutate`] sends changed samples of every message for as long as asked.

pub mod arena;
pub mod client;
pub mod mutate;
pub mod scenarios;
