//! The smallest world in which groups can live and die: a disk that forgets what was not synced, a network with a
//! latency, cuts and refusals, a clock that is tokio's. Virtual time makes every run of a test the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::ids::{Millis, PeerId, PieceHash, QuorumId};
use quorate_protocols::quorum::RaftMessage;
use quorate_protocols::quorum::limits::RAFT_HEAD_BYTES_MAX;
use quorate_protocols::wire;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::seams::Reservation;
use crate::seams::disk::KvOp;
use crate::seams::{
    Clock, Disk, DiskError, Files, Frame, InboundRequest, Kv, KvBatch, Net, NetError, NetEvent, PeerView, Protocol,
    Reply, Topic,
};

/// One way over the network. Well below the beat interval, as on any network that people use.
const LATENCY: Duration = Duration::from_millis(1);

// ---- disk ----

type Trees = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

#[derive(Default)]
struct Records {
    visible: Trees,
    synced: Trees,
    unsynced: Vec<KvBatch>,
}

fn change(trees: &mut Trees, batch: &KvBatch) {
    for op in &batch.ops {
        match op {
            KvOp::Put { tree, key, value } => {
                trees.entry(tree.clone()).or_default().insert(key.clone(), value.clone());
            }
            KvOp::Delete { tree, key } => drop(trees.entry(tree.clone()).or_default().remove(key)),
            KvOp::DeleteRange { tree, from, to } => {
                trees.entry(tree.clone()).or_default().retain(|key, _| key < from || key >= to);
            }
            KvOp::DropTree { tree } => drop(trees.remove(tree)),
        }
    }
}

/// What survives a crash of the node above it.
#[derive(Default)]
pub struct MemoryDisk {
    records: Mutex<Records>,
    small: Mutex<BTreeMap<String, Vec<u8>>>,
    is_full: AtomicBool,
    refused: AtomicU64,
    sync_delay_ms: AtomicU64,
    appends_unsynced_most: AtomicU64,
}

impl MemoryDisk {
    pub fn disk(self: &Arc<Self>) -> Disk {
        Disk { kv: self.clone(), files: self.clone() }
    }
    /// Takes nothing that adds bytes.
    pub fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }
    /// Every sync takes this long from now on.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.sync_delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }
    /// Most appends to logs that ever waited for one sync.
    pub fn appends_unsynced_most(&self) -> u64 {
        self.appends_unsynced_most.load(Ordering::Relaxed)
    }
    /// Writes that found the disk full.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
    fn require_room(&self, needed: usize) -> Result<(), DiskError> {
        if needed == 0 || !self.is_full.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(DiskError::Full { place: "memory".to_owned(), needed: needed as u64 })
    }
    /// What a power loss leaves.
    pub fn lose_unsynced(&self) {
        let mut records = self.records.lock().unwrap();
        records.unsynced.clear();
        records.visible = records.synced.clone();
    }
    /// The record store comes back empty; the small files beside it are still there.
    pub fn wipe_records(&self) {
        *self.records.lock().unwrap() = Records::default();
    }
    pub fn copy_records(&self) -> Trees {
        self.records.lock().unwrap().synced.clone()
    }
    /// The record store comes back as it once was: a restored backup.
    pub fn restore_records(&self, trees: Trees) {
        *self.records.lock().unwrap() = Records { visible: trees.clone(), synced: trees, unsynced: Vec::new() };
    }
}

impl Kv for MemoryDisk {
    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.records.lock().unwrap().visible.get(tree).and_then(|tree| tree.get(key)).cloned())
    }
    fn range(
        &self,
        tree: &str,
        from: &[u8],
        to: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, DiskError> {
        let records = self.records.lock().unwrap();
        let Some(tree) = records.visible.get(tree) else { return Ok(Vec::new()) };
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for (key, value) in tree.range(from.to_vec()..to.to_vec()).take(limit) {
            bytes += value.len();
            rows.push((key.clone(), value.clone()));
            if bytes > bytes_max {
                break;
            }
        }
        Ok(rows)
    }
    fn last(&self, tree: &str) -> Result<Option<(Vec<u8>, Vec<u8>)>, DiskError> {
        let records = self.records.lock().unwrap();
        let last = records.visible.get(tree).and_then(BTreeMap::last_key_value);
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }
    fn trees(&self) -> Result<Vec<String>, DiskError> {
        Ok(self.records.lock().unwrap().visible.keys().cloned().collect())
    }
    fn apply(&self, batch: KvBatch) -> Result<(), DiskError> {
        self.require_room(batch.bytes_added())?;
        let mut records = self.records.lock().unwrap();
        change(&mut records.visible, &batch);
        records.unsynced.push(batch);
        let is_append = |op: &KvOp| matches!(op, KvOp::Put { tree, .. } if tree.ends_with(".log"));
        let appends = records.unsynced.iter().filter(|batch| batch.ops.iter().any(is_append)).count();
        self.appends_unsynced_most.fetch_max(appends as u64, Ordering::Relaxed);
        Ok(())
    }
    fn sync(&self) -> Result<(), DiskError> {
        let mut records = self.records.lock().unwrap();
        for batch in std::mem::take(&mut records.unsynced) {
            change(&mut records.synced, &batch);
        }
        Ok(())
    }
    fn sync_delay(&self) -> Duration {
        Duration::from_millis(self.sync_delay_ms.load(Ordering::Relaxed))
    }
}

impl Files for MemoryDisk {
    fn write_piece(&self, _hash: PieceHash, _bytes: &[u8]) -> Result<(), DiskError> {
        unreachable!("quorums keep no pieces")
    }
    fn read_piece(&self, _hash: PieceHash) -> Result<Option<Bytes>, DiskError> {
        unreachable!("quorums keep no pieces")
    }
    fn remove_piece(&self, _hash: PieceHash) -> Result<(), DiskError> {
        unreachable!("quorums keep no pieces")
    }
    fn list_pieces(&self, _after: Option<PieceHash>, _limit: usize) -> Result<Vec<PieceHash>, DiskError> {
        unreachable!("quorums keep no pieces")
    }
    fn write_small(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.require_room(bytes.len())?;
        self.small.lock().unwrap().insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }
    fn read_small(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.small.lock().unwrap().get(name).cloned())
    }
    fn free_space(&self) -> Result<(u64, u64), DiskError> {
        Ok((1 << 40, 1 << 40))
    }
}

// ---- clock ----

/// tokio's clock, as wall and as monotonic time; the wall clock may be off by some milliseconds.
pub struct TestClock {
    pub began: tokio::time::Instant,
    pub wrong_ms: Arc<AtomicI64>,
}

impl TestClock {
    pub fn right(began: tokio::time::Instant) -> Self {
        Self { began, wrong_ms: Arc::default() }
    }
}

/// What a wall clock says that is right.
pub fn wall_of(began: tokio::time::Instant) -> Millis {
    Millis(1_700_000_000_000 + began.elapsed().as_millis() as u64)
}

impl Clock for TestClock {
    fn wall(&self) -> Millis {
        Millis(wall_of(self.began).0.saturating_add_signed(self.wrong_ms.load(Ordering::Relaxed)))
    }
    fn monotonic(&self) -> Millis {
        Millis(1_000 + self.began.elapsed().as_millis() as u64)
    }
}

// ---- network ----

/// Where a node takes what arrives for it.
#[derive(Clone)]
pub struct Port {
    pub raft: mpsc::Sender<InboundRequest>,
    pub liveness: mpsc::Sender<InboundRequest>,
    pub job: mpsc::Sender<InboundRequest>,
    pub events: mpsc::Sender<NetEvent>,
}

#[derive(Default)]
struct Wires {
    ports: BTreeMap<PeerId, Port>,
    connected: BTreeSet<(PeerId, PeerId)>,
    cut: BTreeSet<PeerId>,
    slow: BTreeMap<PeerId, Pace>,
    chunks_asked: usize,
    raft_asked: BTreeMap<PeerId, usize>,
}

/// How the link to and from a peer is: each message takes this long, however many others are on their way.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub latency: Duration,
    pub bytes_per_second: usize,
}

const FAST: Pace = Pace { latency: LATENCY, bytes_per_second: usize::MAX };

impl Pace {
    fn takes(self, frame: &Frame) -> Duration {
        let bytes = frame.head.len() + frame.payload.len();
        self.latency + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64)
    }
}

/// All nodes' network.
#[derive(Clone, Default)]
pub struct World(Arc<Mutex<Wires>>);

fn pair(one: PeerId, other: PeerId) -> (PeerId, PeerId) {
    (one.min(other), one.max(other))
}

impl Wires {
    fn tell(&self, peer: PeerId, event: NetEvent) {
        if let Some(port) = self.ports.get(&peer) {
            // One that has closed, and is not unplugged yet, reads none.
            let is_told = port.events.try_send(event);
            assert!(!matches!(is_told, Err(TrySendError::Full(_))), "a node reads its events");
        }
    }
    fn is_cut(&self, one: PeerId, other: PeerId) -> bool {
        self.cut.contains(&one) != self.cut.contains(&other)
    }
    fn pace(&self, one: PeerId, other: PeerId) -> Pace {
        self.slow.get(&one).or(self.slow.get(&other)).copied().unwrap_or(FAST)
    }
    fn connect(&mut self, one: PeerId, other: PeerId) {
        if one != other && self.connected.insert(pair(one, other)) {
            self.tell(one, NetEvent::Connected { peer: other });
            self.tell(other, NetEvent::Connected { peer: one });
        }
    }
}

impl World {
    pub fn plug_in(&self, peer: PeerId, port: Port) {
        let mut wires = self.0.lock().unwrap();
        wires.ports.insert(peer, port);
        for other in wires.ports.keys().copied().collect::<Vec<_>>() {
            if !wires.is_cut(peer, other) {
                wires.connect(peer, other);
            }
        }
    }
    /// The process is gone: its connections close at once, and its address refuses.
    pub fn unplug(&self, peer: PeerId) {
        let mut wires = self.0.lock().unwrap();
        wires.ports.remove(&peer);
        let (gone, left) = wires.connected.iter().partition(|(one, other)| *one == peer || *other == peer);
        wires.connected = left;
        let gone: BTreeSet<(PeerId, PeerId)> = gone;
        for (one, other) in gone {
            wires.tell(if one == peer { other } else { one }, NetEvent::Disconnected { peer });
        }
    }
    /// From now on these nodes and the rest hear nothing of each other, and no connection closes.
    pub fn cut_off(&self, peers: impl IntoIterator<Item = PeerId>) {
        self.0.lock().unwrap().cut = peers.into_iter().collect();
    }
    pub fn heal(&self) {
        self.cut_off([]);
    }
    /// All that goes to this node and comes from it takes longer from now on.
    pub fn slow_down(&self, peer: PeerId, pace: Pace) {
        self.0.lock().unwrap().slow.insert(peer, pace);
    }
    /// Raft messages that were sent to this node.
    pub fn raft_asked(&self, peer: PeerId) -> usize {
        self.0.lock().unwrap().raft_asked.get(&peer).copied().unwrap_or(0)
    }
    pub fn chunks_asked(&self) -> usize {
        self.0.lock().unwrap().chunks_asked
    }
    pub fn net(&self, me: PeerId) -> Arc<dyn Net> {
        Arc::new(MemoryNet { me, world: self.clone() })
    }
}

struct MemoryNet {
    me: PeerId,
    world: World,
}

impl Net for MemoryNet {
    fn local_peer(&self) -> PeerId {
        self.me
    }
    fn request(
        &self,
        peer: PeerId,
        protocol: Protocol,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        let (me, world) = (self.me, self.world.clone());
        if protocol == Protocol::Raft {
            *world.0.lock().unwrap().raft_asked.entry(peer).or_default() += 1;
        }
        let pace = world.0.lock().unwrap().pace(me, peer);
        if protocol == Protocol::Raft
            && matches!(wire::decode(&frame.head, RAFT_HEAD_BYTES_MAX), Ok(RaftMessage::Chunk { .. }))
        {
            world.0.lock().unwrap().chunks_asked += 1;
        }
        let exchange = async move {
            tokio::time::sleep(pace.takes(&frame)).await;
            let (reply, answered) = oneshot::channel();
            let port = {
                let wires = world.0.lock().unwrap();
                if wires.is_cut(me, peer) { None } else { Some(wires.ports.get(&peer).cloned()) }
            };
            // Over a cut nothing comes back, not even a refusal.
            let Some(port) = port else { return std::future::pending().await };
            let Some(port) = port else {
                return Err(NetError::Unreachable { peer, reason: "nothing listens".to_owned() });
            };
            let inbox = match protocol {
                Protocol::Raft => port.raft,
                Protocol::Liveness => port.liveness,
                Protocol::Job => port.job,
                other => return Err(NetError::Unsupported { peer, protocol: other.name() }),
            };
            let request = InboundRequest { from: me, frame, reply: Reply(reply), memory: Reservation::none() };
            inbox.try_send(request).map_err(|_| NetError::Busy { peer })?;
            let answer = answered.await.map_err(|_| NetError::Busy { peer })?;
            tokio::time::sleep(pace.takes(&answer)).await;
            if world.0.lock().unwrap().is_cut(me, peer) {
                return std::future::pending().await;
            }
            Ok(answer)
        };
        async move {
            tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(NetError::Timeout { peer, after: deadline }))
        }
        .boxed()
    }
    fn publish(&self, _topic: Topic, _bytes: Bytes) {}
    fn peers(&self) -> Vec<PeerView> {
        Vec::new()
    }
    fn is_connected(&self, peer: PeerId) -> bool {
        self.world.0.lock().unwrap().connected.contains(&pair(self.me, peer))
    }
    fn dial(&self, peer: PeerId) {
        let (me, world) = (self.me, self.world.clone());
        crate::seams::spawn(async move {
            tokio::time::sleep(LATENCY).await;
            let mut wires = world.0.lock().unwrap();
            if wires.is_cut(me, peer) {
                return;
            }
            if wires.ports.contains_key(&peer) {
                wires.connect(me, peer);
            } else {
                wires.tell(me, NetEvent::Refused { peer });
            }
        });
    }
    fn listen_addresses(&self) -> Vec<String> {
        Vec::new()
    }
    fn provide(&self, _quorum: QuorumId) {}
    fn stop_providing(&self, _quorum: QuorumId) {}
    fn find_providers(&self, _quorum: QuorumId) -> BoxFuture<'static, Vec<PeerId>> {
        async { Vec::new() }.boxed()
    }
    fn penalise(&self, peer: PeerId, reason: &'static str) {
        panic!("no test sends nonsense, yet {peer} is penalised: {reason}");
    }
}
