//! The decisions of quorate, and none of its doing.
//!
//! Every message, id, limit and state machine of the network lives here as plain data and pure functions: time and
//! randomness are arguments, effects are return values. The manifest names no runtime, no libp2p, no sled, no clock
//! and no source of randomness, so the compiler keeps the boundary honest. The crate `quorate-node` performs what
//! is decided here: it persists, then sends, then reports.

pub mod admission;
pub mod approval;
pub mod backoff;
pub mod budget;
pub mod capacity;
pub mod certificate;
pub mod directory;
pub mod engine;
pub mod fault;
pub mod ids;
pub mod incarnation;
pub mod job;
pub mod liveness;
pub mod membership;
pub mod mux;
pub mod object;
pub mod piece;
pub mod quorum;
pub mod resources;
pub mod run_state;
pub mod shared_map;
pub mod task;
pub mod text;
pub mod trigger;
pub mod units;
pub mod upload;
pub mod wire;
