//! The network of the tests: every message takes a millisecond, and what arrives is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_protocols::ids::PeerId;
use quorate_protocols::quorum::RaftMessage;
use quorate_protocols::quorum::limits::RAFT_HEAD_BYTES_MAX;
use quorate_protocols::wire;
use quorate_testkit::Network;
use quorate_testkit::net::{Faults, Observer, Sight};

use crate::seams::{Net, Protocol};

/// One way over the network. Well below the heartbeat interval, as on any network that people use.
const LATENCY: Duration = Duration::from_millis(1);

/// Raft messages that arrived, by the number of the node; how many of all asked for a chunk of a snapshot.
#[derive(Default)]
struct Arrived(Mutex<(BTreeMap<usize, usize>, usize)>);

impl Observer for Arrived {
    fn observe(&self, node: usize, sight: &Sight<'_>) {
        match sight {
            Sight::Request { protocol: Protocol::Raft, frame, .. } => {
                let mut arrived = self.0.lock();
                *arrived.0.entry(node).or_default() += 1;
                let message = wire::decode(&frame.head, RAFT_HEAD_BYTES_MAX);
                arrived.1 += usize::from(matches!(message, Ok(RaftMessage::Chunk { .. })));
            }
            Sight::Penalty { peer, reason } => panic!("no test sends nonsense, yet {peer} is penalised: {reason}"),
            _ => (),
        }
    }
}

/// All nodes' network.
pub struct World {
    pub network: Network,
    arrived: Arc<Arrived>,
}

impl World {
    pub fn new() -> Self {
        let arrived = Arc::new(Arrived::default());
        let network = Network::new(1).observed_by(arrived.clone());
        network.set_usual(Faults { latency: (LATENCY, LATENCY), ..Faults::NONE });
        Self { network, arrived }
    }
    /// From now on these nodes and the rest hear nothing of each other, and no connection closes.
    pub fn cut_off(&self, peers: impl IntoIterator<Item = PeerId>) {
        self.network.isolate(&peers.into_iter().collect::<Vec<_>>());
    }
    pub fn heal(&self) {
        self.network.heal();
    }
    /// The process is gone: its connections close at once, and its address refuses.
    pub fn unplug(&self, peer: PeerId) {
        self.network.detach(peer);
    }
    /// Raft messages that reached this node.
    pub fn raft_asked(&self, number: u8) -> usize {
        self.arrived.0.lock().0.get(&number.into()).copied().unwrap_or(0)
    }
    pub fn chunks_asked(&self) -> usize {
        self.arrived.0.lock().1
    }
    pub fn net(&self, me: PeerId) -> Arc<dyn Net> {
        Arc::new(self.network.handle(me))
    }
}
