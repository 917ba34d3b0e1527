//! A disk in memory and a network of hand-delivered messages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_protocols::ids::{BootId, Incarnation, PeerId, PieceHash, QuorumId};
use tokio::sync::{mpsc, oneshot};

use crate::identity::Identity;
use crate::seams::Reservation;
use crate::seams::clock::SystemClock;
use crate::seams::disk::KvOp;
use crate::seams::entropy::SeededEntropy;
use crate::seams::{
    Disk, DiskError, Files, Frame, GossipMessage, InboundRequest, Kv, KvBatch, Net, NetError, PeerView, Protocol,
    Reply, Seams, TaskGroup, Topic,
};

type Trees = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Keeps everything that was applied; refuses writes on demand.
pub(crate) struct MemoryDisk {
    trees: Mutex<Trees>,
    pub broken: AtomicBool,
    pub free_bytes: AtomicU64,
}

impl MemoryDisk {
    pub fn new(free_bytes: u64) -> Arc<Self> {
        let (trees, broken) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { trees, broken, free_bytes: AtomicU64::new(free_bytes) })
    }
    pub fn disk(self: &Arc<Self>) -> Disk {
        Disk { kv: self.clone(), files: self.clone() }
    }
}

impl Kv for MemoryDisk {
    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.trees.lock().unwrap().get(tree).and_then(|tree| tree.get(key).cloned()))
    }
    fn range(
        &self,
        tree: &str,
        from: &[u8],
        to: &[u8],
        limit: usize,
        _bytes_max: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, DiskError> {
        let trees = self.trees.lock().unwrap();
        let Some(tree) = trees.get(tree) else { return Ok(Vec::new()) };
        let rows = tree.range(from.to_vec()..to.to_vec()).take(limit);
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
    fn last(&self, tree: &str) -> Result<Option<(Vec<u8>, Vec<u8>)>, DiskError> {
        let trees = self.trees.lock().unwrap();
        Ok(trees.get(tree).and_then(|tree| tree.iter().next_back().map(|(k, v)| (k.clone(), v.clone()))))
    }
    fn trees(&self) -> Result<Vec<String>, DiskError> {
        Ok(self.trees.lock().unwrap().keys().cloned().collect())
    }
    fn apply(&self, batch: KvBatch) -> Result<(), DiskError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(DiskError::Full { place: "memory".into(), needed: 1 });
        }
        let mut trees = self.trees.lock().unwrap();
        for op in batch.ops {
            match op {
                KvOp::Put { tree, key, value } => drop(trees.entry(tree).or_default().insert(key, value)),
                KvOp::Delete { tree, key } => drop(trees.entry(tree).or_default().remove(&key)),
                KvOp::DeleteRange { tree, from, to } => {
                    trees.entry(tree).or_default().retain(|key, _| *key < from || *key >= to);
                }
                KvOp::DropTree { tree } => drop(trees.remove(&tree)),
            }
        }
        Ok(())
    }
    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }
}

impl Files for MemoryDisk {
    fn write_piece(&self, _hash: PieceHash, _bytes: &[u8]) -> Result<(), DiskError> {
        Ok(())
    }
    fn read_piece(&self, _hash: PieceHash) -> Result<Option<Bytes>, DiskError> {
        Ok(None)
    }
    fn remove_piece(&self, _hash: PieceHash) -> Result<(), DiskError> {
        Ok(())
    }
    fn list_pieces(&self, _after: Option<PieceHash>, _limit: usize) -> Result<Vec<PieceHash>, DiskError> {
        Ok(Vec::new())
    }
    fn write_small(&self, _name: &str, _bytes: &[u8]) -> Result<(), DiskError> {
        Ok(())
    }
    fn read_small(&self, _name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(None)
    }
    fn free_space(&self) -> Result<(u64, u64), DiskError> {
        // A disk of size zero has no margin, so tests reckon with round numbers.
        Ok((self.free_bytes.load(Ordering::Relaxed), 0))
    }
}

struct Port {
    gossip: mpsc::Sender<GossipMessage>,
    approval: mpsc::Sender<InboundRequest>,
}

/// All nodes of a test. Gossip reaches every other node at once; questions reach the node that is asked.
#[derive(Clone, Default)]
pub(crate) struct Hub {
    ports: Arc<Mutex<BTreeMap<PeerId, Port>>>,
    pub penalised: Arc<Mutex<Vec<PeerId>>>,
}

pub(crate) struct HubNet {
    me: PeerId,
    hub: Hub,
}

pub(crate) struct Joined {
    pub net: Arc<HubNet>,
    pub gossip: mpsc::Receiver<GossipMessage>,
    pub approval: mpsc::Receiver<InboundRequest>,
}

impl Hub {
    pub fn join(&self, me: PeerId) -> Joined {
        let (gossip, gossip_in) = mpsc::channel(1024);
        let (approval, approval_in) = mpsc::channel(64);
        self.ports.lock().unwrap().insert(me, Port { gossip, approval });
        Joined { net: Arc::new(HubNet { me, hub: self.clone() }), gossip: gossip_in, approval: approval_in }
    }
}

impl Net for HubNet {
    fn local_peer(&self) -> PeerId {
        self.me
    }
    fn request(
        &self,
        peer: PeerId,
        _protocol: Protocol,
        frame: Frame,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        let port = self.hub.ports.lock().unwrap().get(&peer).map(|port| port.approval.clone());
        let from = self.me;
        Box::pin(async move {
            let unreachable = || NetError::Unreachable { peer, reason: "no such node".into() };
            let (reply, answer) = oneshot::channel();
            let request = InboundRequest { from, frame, reply: Reply(reply), memory: Reservation::none() };
            port.ok_or_else(unreachable)?.send(request).await.map_err(|_| unreachable())?;
            answer.await.map_err(|_| NetError::Busy { peer })
        })
    }
    fn publish(&self, topic: Topic, bytes: Bytes) {
        for (_, port) in self.hub.ports.lock().unwrap().iter().filter(|(peer, _)| **peer != self.me) {
            let _ = port.gossip.try_send(GossipMessage { author: self.me, topic, bytes: bytes.clone() });
        }
    }
    fn peers(&self) -> Vec<PeerView> {
        Vec::new()
    }
    fn is_connected(&self, peer: PeerId) -> bool {
        self.hub.ports.lock().unwrap().contains_key(&peer)
    }
    fn dial(&self, _peer: PeerId) {}
    fn listen_addresses(&self) -> Vec<String> {
        Vec::new()
    }
    fn provide(&self, _quorum: QuorumId) {}
    fn stop_providing(&self, _quorum: QuorumId) {}
    fn find_providers(&self, _quorum: QuorumId) -> BoxFuture<'static, Vec<PeerId>> {
        Box::pin(async { Vec::new() })
    }
    fn penalise(&self, peer: PeerId, _reason: &'static str) {
        self.hub.penalised.lock().unwrap().push(peer);
    }
}

pub(crate) fn identity(n: u8) -> Identity {
    Identity::new([n; 32], Incarnation(1), BootId([n; 16]))
}

pub(crate) fn seams(seed: u64, disk: Disk) -> Seams {
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SeededEntropy::new(seed)));
    Seams { clock, entropy, disk, tasks: TaskGroup::inline() }
}
