//! Whole holders in one process: real piece services and the real state machine of a quorum, over a network and disks
//! in memory that fail on demand. Time is virtual; blocking work runs inline.

use parking_lot::Mutex;
use quorate_protocols::job::JobRecord;
use quorate_protocols::job::limits::UPLOAD_SILENT_MAX;
use quorate_protocols::quorum::Rejection;
use quorate_protocols::quorum::watch::Until;
use quorate_protocols::quorum::watch::Watched;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_protocols::approval::{Grant, Writer};
use quorate_protocols::ids::{
    BootId, Incarnation, JobId, LeaseId, LogIndex, MemberId, Millis, ObjectId, PeerId, PieceIndex, QuorumId,
};
use quorate_protocols::object::limits::SEGMENT_BYTES;
use quorate_protocols::object::{Layout, Reachable};
use quorate_protocols::piece::limits::HEAD_BYTES_MAX;
use quorate_protocols::piece::{PieceAnswer, PieceMessage, PieceRefusal, Slot};
use quorate_protocols::quorum::request::{ObjectView, Query, QueryAnswer};
use quorate_protocols::quorum::{Batch, Command, CommandReply, Duty, ObjectCommand, QuorumState, StoreCommand};
use quorate_protocols::wire;
use quorate_testkit::net::{Faults, Gate, Observer, Passage, Sight};
use quorate_testkit::{ClockOffset, MemoryDisk, Network, VirtualClock};

use crate::identity::Identity;
use crate::objects::{HolderLeases, HoldersKnown, ObjectPlacement, Objects, ObjectsContext};
use crate::quorums::{ClientError, PlacementError, QuorumPort, Report, ReportAnswer, Speaker};
use crate::seams::entropy::SeededEntropy;
use crate::seams::{Clock, Frame, Protocol, Seams, TaskGroup};
use crate::storage::Storage;
use crate::testing::standings::Believed;

pub const QUORUM: QuorumId = QuorumId([1; 16]);

/// A message takes a moment, so that things happen side by side.
const ONE_WAY: Duration = Duration::from_millis(1);

/// How a holder treats those who ask it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    #[default]
    Good,
    Refusing,
    /// Never answers.
    Stalling,
    /// Nothing listens.
    Dead,
    /// Stores this many pieces, then is dead.
    DiesAfter(u32),
    /// Answers every `Get` with bytes of its own.
    Lying,
    /// Good, but the next seal is lost on its way there.
    LosesSeal,
}

#[derive(Default)]
pub struct Traffic {
    /// Pieces stored over the network, by holder.
    pub puts: BTreeMap<PeerId, u32>,
    pub gets: BTreeMap<PeerId, u32>,
}

/// A lease as its holder keeps it.
#[derive(Clone, Copy, Debug)]
pub struct HeldLease {
    pub writer: Writer,
    pub bytes: u64,
}

/// What all nodes share.
pub struct World {
    pub services: Mutex<BTreeMap<PeerId, Objects>>,
    pub manners: Mutex<BTreeMap<PeerId, Manner>>,
    pub traffic: Mutex<Traffic>,
    pub state: Mutex<(QuorumState, u64)>,
    pub leases: Mutex<BTreeMap<(PeerId, LeaseId), HeldLease>>,
    /// Peers that may be won as holders, in the order in which they are won.
    pub willing: Mutex<Vec<PeerId>>,
    /// Until when the quorum has no primary.
    pub paused_until: Mutex<Option<tokio::time::Instant>>,
    /// Quorums that are chosen before [`QUORUM`], and have no room.
    pub full: Mutex<BTreeSet<QuorumId>>,
    pub commands: Mutex<u64>,
    /// Queries and watches.
    pub questions: Mutex<u64>,
    /// What the steward was told.
    pub suspected: Mutex<Vec<(ObjectId, PieceIndex)>>,
}

impl World {
    fn manner(&self, peer: PeerId) -> Manner {
        self.manners.lock().get(&peer).copied().unwrap_or_default()
    }

    pub fn propose(&self, by: PeerId, command: Command) -> Result<CommandReply, ClientError> {
        let mut state = self.state.lock();
        *self.commands.lock() += 1;
        let reply = apply(&mut state, by, command);
        self.win_holders(&mut state);
        Ok(reply?)
    }

    /// The holder sets this much aside for a column that the writer fills.
    pub fn lend(&self, holder: PeerId, lease: LeaseId, writer: Writer, bytes: u64) {
        self.leases.lock().insert((holder, lease), HeldLease { writer, bytes });
    }

    /// Another peer may be won as a holder, and is if a column is open.
    pub fn welcome(&self, peer: PeerId) {
        self.willing.lock().push(peer);
        self.win_holders(&mut self.state.lock());
    }

    /// No uploader gave a sign for so long that another node may take over.
    pub fn fall_silent(&self) {
        self.state.lock().1 += UPLOAD_SILENT_MAX.as_millis() as u64;
    }

    /// What the primary's driver does about open columns, at once. What else it does is `settle`.
    fn win_holders(&self, state: &mut (QuorumState, u64)) {
        while let Some((job, wanted)) = state.0.duties().into_iter().find_map(|duty| match duty {
            Duty::FindHolders { job, open, spares } => Some((job, open + spares)),
            _ => None,
        }) {
            let (spec, run) = state.0.jobs()[&job].store().unwrap();
            let known: BTreeSet<PeerId> = run.known_holders().collect();
            let held = match spec.size {
                Some(size) => HeldLease {
                    writer: Writer::Uploader(run.uploader),
                    bytes: Layout::new(size, spec.profile).column_bytes(),
                },
                None => HeldLease { writer: Writer::Streamer(run.uploader), bytes: SEGMENT_BYTES as u64 },
            };
            let willing = self.willing.lock().clone();
            let grants: Vec<Grant> = willing
                .into_iter()
                .filter(|peer| !known.contains(peer))
                .take(wanted)
                .map(|peer| {
                    let mut leases = self.leases.lock();
                    let lease = LeaseId((leases.len() as u128 + 1).to_le_bytes());
                    leases.insert((peer, lease), held);
                    Grant { holder: MemberId { peer, incarnation: Incarnation(1) }, lease }
                })
                .collect();
            let exhausted = grants.len() < wanted;
            if grants.is_empty() && state.0.jobs()[&job].store().unwrap().1.exhausted {
                break;
            }
            apply(state, peer(0), Command::store(job, StoreCommand::AddHolders { grants, exhausted }))
                .expect("the state machine takes holders");
        }
    }
}

fn apply(
    (state, index): &mut (QuorumState, u64),
    by: PeerId,
    command: Command,
) -> Result<CommandReply, quorate_protocols::quorum::Rejection> {
    *index += 1;
    let batch = Batch::at(Millis(*index), vec![(by, command)]);
    state.apply(LogIndex(*index), &batch).0.replies.remove(0)
}

/// What each holder makes of a question.
impl Gate for World {
    fn pass(&self, to: PeerId, protocol: Protocol, frame: &Frame) -> Passage {
        assert_eq!(protocol, Protocol::Piece);
        let message: PieceMessage = wire::decode(&frame.head, HEAD_BYTES_MAX).unwrap();
        match self.manner(to) {
            Manner::Dead | Manner::DiesAfter(0) => Passage::Refused,
            Manner::Stalling => Passage::Silence,
            Manner::Refusing => {
                let refusal = PieceRefusal::Failed { reason: "I would rather not".into() };
                Passage::Answered(Frame::head(wire::encode(&PieceAnswer::Refused(refusal))))
            }
            Manner::Lying if matches!(message, PieceMessage::Get { .. }) => {
                let answer = wire::encode(&PieceAnswer::Piece { total: 3 });
                Passage::Answered(Frame::new(answer, Bytes::from_static(b"lie")))
            }
            Manner::LosesSeal if matches!(message, PieceMessage::Seal { .. }) => {
                self.manners.lock().insert(to, Manner::Good);
                Passage::Silence
            }
            Manner::DiesAfter(pieces) if matches!(message, PieceMessage::Put { .. }) => {
                self.manners.lock().insert(to, Manner::DiesAfter(pieces - 1));
                Passage::Free
            }
            Manner::Good | Manner::Lying | Manner::LosesSeal | Manner::DiesAfter(_) => Passage::Free,
        }
    }
}

/// Counts what holders answered.
impl Observer for World {
    fn observe(&self, _: usize, sight: &Sight<'_>) {
        let Sight::Answer { from, frame, .. } = sight else { return };
        let mut traffic = self.traffic.lock();
        match wire::decode(&frame.head, HEAD_BYTES_MAX).unwrap() {
            PieceAnswer::Stored => *traffic.puts.entry(*from).or_default() += 1,
            PieceAnswer::Piece { .. } => *traffic.gets.entry(*from).or_default() += 1,
            _ => (),
        }
    }
}

struct FakeQuorums {
    here: PeerId,
    world: Arc<World>,
}

impl FakeQuorums {
    /// Fails as a quorum without a primary does: after the deadline, with nothing known.
    fn ready(&self, deadline: Duration) -> impl Future<Output = Result<(), ClientError>> + use<> {
        let until = *self.world.paused_until.lock();
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let Some(left) = until.map(|until| until.saturating_duration_since(tokio::time::Instant::now())) else {
                return Ok(());
            };
            if left > deadline {
                tokio::time::sleep(deadline).await;
                return Err(ClientError::Unknown { quorum: QUORUM, after: deadline, reason: None });
            }
            tokio::time::sleep(left).await;
            Ok(())
        }
    }
}

impl ObjectPlacement for FakeQuorums {
    fn place(&self) -> BoxFuture<'static, Result<QuorumId, PlacementError>> {
        let full = self.world.full.lock().first().copied();
        Box::pin(async move { Ok(full.unwrap_or(QUORUM)) })
    }
    fn record_full(&self, quorum: QuorumId) {
        self.world.full.lock().remove(&quorum);
    }
    fn holders_known(&self, _column_bytes: u64) -> HoldersKnown {
        let near = self.world.willing.lock().len();
        HoldersKnown { reachable: Reachable { near, ..Reachable::default() }, ..HoldersKnown::default() }
    }
}

impl QuorumPort for FakeQuorums {
    fn propose(
        &self,
        quorum: QuorumId,
        command: Command,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<(CommandReply, Speaker), ClientError>> {
        let (ready, world, here) = (self.ready(deadline), self.world.clone(), self.here);
        Box::pin(async move {
            ready.await?;
            if quorum != QUORUM {
                return Err(ClientError::Rejected(Rejection::Full { what: "objects".to_owned(), limit: 0 }));
            }
            Ok((world.propose(here, command)?, Speaker { peer: peer(0), voters: vec![peer(0)] }))
        })
    }
    fn query(
        &self,
        _quorum: QuorumId,
        query: Query,
        _stale: bool,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<QueryAnswer, ClientError>> {
        let (ready, world) = (self.ready(deadline), self.world.clone());
        *world.questions.lock() += 1;
        Box::pin(async move {
            ready.await?;
            let state = &world.state.lock().0;
            Ok(match query {
                Query::Job { job } => state
                    .jobs()
                    .get(&job)
                    .map_or(QueryAnswer::Unknown, |record| QueryAnswer::Job(Box::new(record.clone()))),
                Query::Object { manifest } => state.objects().get(&manifest).map_or(QueryAnswer::Unknown, |record| {
                    QueryAnswer::Object(Box::new(ObjectView {
                        hash: manifest,
                        manifest: state.objects().manifest(&manifest).unwrap().to_vec(),
                        record: record.clone(),
                    }))
                }),
                Query::Objects { .. } => QueryAnswer::Objects(
                    state
                        .objects()
                        .iter()
                        .map(|(hash, record)| ObjectView { hash: *hash, manifest: Vec::new(), record: record.clone() })
                        .collect(),
                ),
                _ => QueryAnswer::Unknown,
            })
        })
    }
    fn watch(
        &self,
        job: JobId,
        until: Until,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Option<Box<JobRecord>>, ClientError>> {
        let (ready, world) = (self.ready(patience), self.world.clone());
        *world.questions.lock() += 1;
        let watching = async move {
            loop {
                match until.judge(&world.state.lock().0, job) {
                    Some(Watched::Met(met)) => return Ok(met.record),
                    Some(Watched::Unknown) => return Err(Rejection::UnknownJob { job }.into()),
                    None => (),
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        Box::pin(async move {
            ready.await?;
            tokio::time::timeout(patience, watching).await.ok().transpose()
        })
    }
    fn report(
        &self,
        quorum: QuorumId,
        report: Report,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<ReportAnswer, ClientError>> {
        let Report::Suspect { manifest, column } = report else { panic!("no report of an object: {report:?}") };
        self.world.suspected.lock().push((ObjectId { quorum, manifest }, column));
        Box::pin(async { Ok(ReportAnswer::Acknowledged) })
    }
    fn members(&self, _quorum: QuorumId) -> Vec<PeerId> {
        vec![peer(0)]
    }
    fn known(&self) -> Vec<QuorumId> {
        vec![QUORUM]
    }
    fn remember_primary(&self, _quorum: QuorumId, _primary: PeerId) {}
}

struct FakeLeases {
    here: PeerId,
    world: Arc<World>,
}

impl HolderLeases for FakeLeases {
    fn writer(&self, lease: LeaseId, _job: JobId) -> Option<Writer> {
        Some(self.world.leases.lock().get(&(self.here, lease))?.writer)
    }
    fn set_writer(&self, lease: LeaseId, _job: JobId, peer: PeerId) {
        if let Some(held) = self.world.leases.lock().get_mut(&(self.here, lease)) {
            held.writer = held.writer.with_peer(peer);
        }
    }
    fn touch(&self, _lease: LeaseId) {}
    fn reserve(&self, lease: LeaseId, bytes: u64) -> bool {
        let mut leases = self.world.leases.lock();
        let Some(held) = leases.get_mut(&(self.here, lease)) else { return false };
        if matches!(held.writer, Writer::Streamer(_)) {
            held.bytes = held.bytes.max(bytes);
        }
        bytes <= held.bytes
    }
    fn is_alive(&self, lease: LeaseId) -> bool {
        self.world.leases.lock().contains_key(&(self.here, lease))
    }
    fn settle(&self, _lease: LeaseId, _bytes: u64) {}
    fn release(&self, lease: LeaseId) {
        self.world.leases.lock().remove(&(self.here, lease));
    }
}

pub fn identity(index: u8) -> Identity {
    Identity::new([index + 1; 32], Incarnation(1), BootId([index; 16]))
}

/// The peer id of the node with this index. Node 0 is the quorum's primary.
pub fn peer(index: u8) -> PeerId {
    identity(index).peer()
}

pub struct Cluster {
    pub world: Arc<World>,
    network: Network,
    began: tokio::time::Instant,
    pub disks: Vec<MemoryDisk>,
    pub nodes: Vec<Objects>,
    pub tasks: TaskGroup,
}

impl Cluster {
    /// Nodes with working holders, in one task group.
    pub async fn start(nodes: u8) -> Self {
        let world = Arc::new(World {
            services: Mutex::default(),
            manners: Mutex::default(),
            traffic: Mutex::default(),
            state: Mutex::new((QuorumState::new(QUORUM), 0)),
            leases: Mutex::default(),
            willing: Mutex::new((0..nodes).map(peer).collect()),
            paused_until: Mutex::default(),
            full: Mutex::default(),
            commands: Mutex::default(),
            questions: Mutex::default(),
            suspected: Mutex::default(),
        });
        let disks = (0..nodes).map(|_| MemoryDisk::default()).collect();
        let network = Network::new(1).observed_by(world.clone()).gated_by(world.clone());
        network.set_usual(Faults { latency: (ONE_WAY, ONE_WAY), ..Faults::NONE });
        let began = tokio::time::Instant::now();
        let mut cluster = Self { world, network, began, disks, nodes: Vec::new(), tasks: TaskGroup::inline() };
        for index in 0..nodes {
            let node = cluster.node(index).await;
            cluster.nodes.push(node);
        }
        // Until all are connected.
        tokio::time::sleep(4 * ONE_WAY).await;
        cluster
    }

    async fn node(&self, index: u8) -> Objects {
        let (world, disk, here) = (self.world.clone(), self.disks[index as usize].disk(), peer(index));
        let clock: Arc<dyn Clock> = Arc::new(VirtualClock::boot(self.began, &ClockOffset::default()));
        let (net, inbound) = self.network.attach(index.into(), here, clock.clone());
        let tasks = self.tasks.clone();
        let node = self
            .tasks
            .scope(async move {
                let context = ObjectsContext {
                    seams: Seams {
                        clock,
                        entropy: Arc::new(SeededEntropy::new(index as u64)),
                        disk: disk.clone(),
                        tasks,
                    },
                    identity: identity(index),
                    net: Arc::new(net),
                    storage: Storage::start(disk),
                    quorums: Arc::new(FakeQuorums { here, world: world.clone() }),
                    placement: Arc::new(FakeQuorums { here, world: world.clone() }),
                    leases: Arc::new(FakeLeases { here, world: world.clone() }),
                    standings: Believed::all_but((1..16).map(peer)),
                };
                Objects::start(context, inbound.piece)
            })
            .await;
        self.world.services.lock().insert(here, node.clone());
        node
    }

    /// A crash and a start from what was synced, the leases among it.
    pub async fn restart(&mut self, index: u8) {
        self.disks[index as usize].lose_unsynced();
        self.nodes[index as usize] = self.node(index).await;
    }

    pub fn set_manner(&self, index: u8, manner: Manner) {
        self.world.manners.lock().insert(peer(index), manner);
    }

    /// What the primary's driver does about committed objects and given-up columns.
    pub async fn settle(&self) {
        let duties = self.world.state.lock().0.duties();
        for duty in duties {
            match duty {
                Duty::Confirm { manifest, job, column, grant, attempt } => {
                    let slot = Slot { job, column, attempt };
                    let message = PieceMessage::Confirm { slot, lease: grant.lease, manifest };
                    assert_eq!(self.ask(0, grant.holder.peer, message).await, PieceAnswer::Acknowledged);
                    let command = Command::Object(manifest, ObjectCommand::Confirmed { column, attempt });
                    self.world.propose(peer(0), command).unwrap();
                }
                Duty::Release { job, column, grant, attempt }
                    if self.world.manner(grant.holder.peer) == Manner::Good =>
                {
                    let slot = Slot { job, column, attempt };
                    let message = PieceMessage::Release { slot };
                    assert_eq!(self.ask(0, grant.holder.peer, message).await, PieceAnswer::Acknowledged);
                    let command = Command::store(job, StoreCommand::Released { column, grant, attempt });
                    self.world.propose(peer(0), command).unwrap();
                }
                _ => (),
            }
        }
    }

    pub async fn ask(&self, from: u8, to: PeerId, message: PieceMessage) -> PieceAnswer {
        let service = self.world.services.lock()[&to].service().clone();
        self.tasks.scope(async move { service.handle(peer(from), message, Bytes::new()).await.0 }).await
    }

    pub fn puts(&self) -> u32 {
        self.world.traffic.lock().puts.values().sum()
    }

    pub fn disk_of(&self, holder: PeerId) -> &MemoryDisk {
        let index = (0..self.disks.len()).find(|index| peer(*index as u8) == holder);
        &self.disks[index.expect("a node of this cluster")]
    }
}

/// Bytes that differ from segment to segment and piece to piece.
pub fn content(bytes: usize) -> Bytes {
    let mut content = Vec::with_capacity(bytes + 8);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(bytes);
    content.into()
}

/// The column that a peer holds in an outcome.
pub fn column_of(columns: &[(PieceIndex, PeerId)], holder: PeerId) -> Option<PieceIndex> {
    columns.iter().find(|(_, peer)| *peer == holder).map(|(column, _)| *column)
}
