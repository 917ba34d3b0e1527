//! The HTTP API: the only way in for people, scripts, the command line and the testnet.
//!
//! Handlers parse, ask a [`Backend`], render; what a node does behind that trait is the business of its actors
//! ([`live::NodeBackend`]). The JSON is `quorate_api`; the description at `/openapi.json` is made from the
//! handlers themselves.
//!
//! What it promises: it listens on loopback only; every request, to whatever path, needs a bearer token (the
//! operator's, in a file that only this node's user can read, or one minted from it for what the route does), a Host
//! that names this machine (so that a web page cannot reach it by rebinding a name) and no foreign Origin. Every answer
//! that is not a success has an `ErrorBody` with one status per code ([`error::status`]). A download whose bytes cannot
//! all be given breaks the connection and never ends as if it were whole. Connections, their patience, JSON bodies,
//! event queues and listings are bounded ([`limits`], [`door`]).
//!
//! What it does not: it is no gateway for other machines and speaks no TLS. It shares the node's runtime: everything
//! long (hashing, coding, files) runs on blocking threads anyway, and a runtime of its own would cost seven nodes on
//! two cores more in memory and wake-ups than the isolation is worth.

mod audit;
mod backend;
mod bench;
mod bench_triggers;
mod body;
mod door;
pub mod error;
mod events;
mod extract;
mod guard;
mod jobs;
pub mod limits;
mod lines;
mod listing;
mod live;
mod metrics;
mod modules;
mod node;
mod objects;
mod page;
mod quorums;
mod removal;
mod router;
mod server;
mod submit;
mod submit_many;
mod tasks;
mod testing;
mod token;
mod tokens;
mod triggers;
mod views;
mod wait;

pub use backend::{Backend, JobFilter, TestingHooks};
pub use error::ApiError;
pub use guard::Guard;
pub use limits::DoorLimits;
pub use live::NodeBackend;
pub use router::{description, router};
pub use server::{ListenSettings, ServeError, Server};
pub use tokens::TokensError;

#[cfg(test)]
mod tests;
