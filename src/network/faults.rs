//! Faults of links, for tests: a peer that cannot be heard, cannot be spoken to, or is slow.
//!
//! A cut link stays silent, as a real one does: questions run into their deadlines rather than fail, and connections
//! that exist are left as they are. Cut are questions and answers, announcements that arrive over the link, and new
//! connections; pings and the hash table's own traffic pass, which shows in round-trip times and in nothing else.
//! Without `--testing` on the command line a node's faults are [`NetFaults::off`], and setting one is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_protocols::ids::PeerId;

use crate::error::FaultsAreOff;

/// One direction of a link. A slow one delays questions and answers; announcements come as they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    #[default]
    Open,
    Slow(Duration),
    Cut,
}

/// Both directions of the link to one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkFault {
    /// From this node to the peer.
    pub to: Link,
    /// From the peer to this node.
    pub from: Link,
}

impl LinkFault {
    /// By how much a question and its answer take longer together.
    pub fn round_trip_delay(&self) -> Duration {
        let slow = |link| if let Link::Slow(delay) = link { delay } else { Duration::ZERO };
        slow(self.to) + slow(self.from)
    }
}

#[derive(Clone, Debug, Default)]
pub struct NetFaults(Option<Arc<Mutex<BTreeMap<PeerId, LinkFault>>>>);

impl NetFaults {
    pub fn off() -> Self {
        Self(None)
    }
    pub fn for_testing() -> Self {
        Self(Some(Arc::default()))
    }
    pub fn set(&self, peer: PeerId, fault: LinkFault) -> Result<(), FaultsAreOff> {
        let mut links = self.0.as_ref().ok_or(FaultsAreOff)?.lock();
        match fault == LinkFault::default() {
            true => links.remove(&peer),
            false => links.insert(peer, fault),
        };
        Ok(())
    }
    pub fn clear(&self) {
        if let Some(links) = &self.0 {
            links.lock().clear();
        }
    }
    /// Exactly these links are broken from now on.
    pub fn replace(&self, faults: BTreeMap<PeerId, LinkFault>) -> Result<(), FaultsAreOff> {
        *self.0.as_ref().ok_or(FaultsAreOff)?.lock() = faults;
        Ok(())
    }
    /// The link to `peer`; whole when nothing was set.
    pub fn link(&self, peer: PeerId) -> LinkFault {
        match &self.0 {
            None => LinkFault::default(),
            Some(links) => links.lock().get(&peer).copied().unwrap_or_default(),
        }
    }
}
