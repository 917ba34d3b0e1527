//! The four seams between a node and its machine: clock, entropy, net, disk; and one way to run blocking work.
//!
//! A node reaches the world through a [`Seams`] value and through nothing else. The binary hands it the operating
//! system, libp2p and sled ([`crate::network`], [`crate::storage`]); the simulator hands it virtual time, a seeded
//! generator, a simulated network and a simulated disk, and runs many whole nodes in one process. Timers and spawned
//! tasks go through tokio in both: under simulation tokio's clock is paused and its choices are seeded.
//!
//! Every task that a node starts is started with [`spawn`], inside the scope of that node, so that a simulated crash
//! can abort exactly that node's tasks.

pub mod clock;
pub mod disk;
pub mod entropy;
pub mod failpoints;
pub mod log_engine;
pub mod net;
pub mod reservation;
pub mod tasks;

use std::sync::Arc;

pub use clock::Clock;
pub use disk::{Disk, DiskError, Files, Kv, KvBatch};
pub use entropy::Entropy;
pub use failpoints::{Failpoint, Failpoints, failpoint};
pub use log_engine::{LogBatch, LogEngine, LogOp};
pub use net::{
    Frame, GossipMessage, Inbound, InboundRequest, Net, NetError, NetEvent, PeerView, Protocol, Reply, Topic,
    request_again,
};
pub use reservation::{Place, Places, Reservation};
pub use tasks::{TaskGroup, run_blocking, spawn};

/// Everything a node touches outside its own memory.
#[derive(Clone)]
pub struct Seams {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub disk: Disk,
    pub tasks: TaskGroup,
}
