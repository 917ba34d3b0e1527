//! The network over libp2p.

pub mod address;
pub mod config;

use std::sync::Arc;

use crate::identity::Identity;
use crate::resources::Reservation;
use crate::seams::{Inbound, Net, Protocol, Seams};
use quorate_protocols::ids::PeerId;

pub use config::NetworkConfig;

/// Asks for the memory of an inbound frame before it is read: `None` refuses, and the asker is told "busy".
pub type Admission = Arc<dyn Fn(Protocol, PeerId, usize) -> Option<Reservation> + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: String, reason: String },
    #[error("the network's encryption could not be set up: {reason}")]
    Crypto { reason: String },
    #[error("QUIC needs a list of allowed peers: it has no place for the network's secret")]
    QuicWithoutAllowList,
}

/// Starts the network of a node. Returns once it listens.
pub async fn start(
    seams: &Seams,
    identity: &Identity,
    config: NetworkConfig,
    admission: Admission,
    registry: &mut prometheus_client::registry::Registry,
) -> Result<(Arc<dyn Net>, Inbound), NetworkError> {
    let _ = (seams, identity, config, admission, registry);
    unimplemented!("the swarm actor")
}
