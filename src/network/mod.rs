//! The network over libp2p.
