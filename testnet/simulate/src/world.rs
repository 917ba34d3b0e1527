//! Machines, the nodes that run on them, and what can be done to both.
//!
//! A machine keeps what outlives a process: its disk, its identity, how wrong its clock is. Starting a node on it
//! boots an ordinary [`Node`]; crashing it drops every task of that node where it waits, closes its connections and
//! takes from the disk what was not synced.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use quorate_node::compose::{Node, NodeExecutors, NodeParts, NodeSettings, StartError};
use quorate_node::identity::Identity;
use quorate_node::objects::{GetError, PutError, PutOutcome, PutProgress, PutRequest};
use quorate_node::quorums::ClientError;
use quorate_node::raft::HostEvent;
use quorate_node::resources::Resources;
use quorate_node::seams::entropy::SeededEntropy;
use quorate_node::seams::{Entropy, Seams, TaskGroup};
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{BootId, Incarnation, JobId, LogIndex, MemberId, Nonce, ObjectId, PeerId, QuorumId, Term};
use quorate_protocols::job::JobSpec;
use quorate_protocols::job::record::JobRecord;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::watch::Until;
use quorate_protocols::quorum::{ClaimSelector, Command, CommandReply, Control, Event, ObjectCommand, Rejection};
use quorate_protocols::resources::limits::{Limits, Machine as Hardware, Overrides};
use quorate_protocols::text::chain;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::planted::Planted;
use crate::transcript::Transcript;
use quorate_testkit::{ClockOffset, MemoryDisk, Network, VirtualClock};
use quorate_testnet::checkers::{Guarantee, Violation};
use quorate_testnet::rng::{Rng, derive, derive_u64};

/// What every simulated machine has. Modest, so that limits are met now and then.
const HARDWARE: Hardware = Hardware {
    memory_bytes: 4 * 1024 * 1024 * 1024,
    cpus: 4,
    disk_free_bytes: 64 * 1024 * 1024 * 1024,
    disk_bytes: 64 * 1024 * 1024 * 1024,
    descriptors: 65_536,
};

/// What a sync takes: from a good solid-state disk to a busy spinning one. Each machine has its own.
const SYNC_MIN: Duration = Duration::from_micros(200);
const SYNC_MAX: Duration = Duration::from_millis(10);

/// How long a client waits for a command or a question.
const CALL_PATIENCE: Duration = Duration::from_secs(15);

/// How a client's bytes come in, one buffer at a time.
const BODY_CHUNK_BYTES: usize = 16 * 1024;

pub struct World {
    seed: u64,
    began: Instant,
    pub transcript: Transcript,
    pub network: Network,
    rng: Rng,
    machines: Vec<Machine>,
    /// The deliberate bug of every node that starts from now on.
    pub planted: Option<Planted>,
    /// What every node that starts from now on runs tasks with; nothing at first.
    pub work: NodeExecutors,
    pub seen: Arc<Seen>,
}

/// What the nodes said of themselves, counted.
#[derive(Default)]
pub struct Seen {
    /// Columns of a run that went from a failed holder to a spare one.
    pub backups_used: AtomicU64,
    pub columns_repaired: AtomicU64,
    /// Puts that found pieces of an earlier try in place.
    pub puts_resumed: AtomicU64,
    /// As above, for workers that were given up with attempts on them.
    pub workers_lost: AtomicU64,
    applied: Mutex<BTreeMap<(QuorumId, LogIndex), (Term, usize)>>,
    /// Logs that went two ways, since this was last looked at.
    pub forks: Mutex<Vec<Violation>>,
}

impl Seen {
    /// An index is applied with one term, by whichever member.
    fn note_applied(&self, node: usize, quorum: QuorumId, last: LogIndex, term: Term) {
        let (known, first) = *self.applied.lock().entry((quorum, last)).or_insert((term, node));
        if known != term {
            let what = format!(
                "entry {last} of {quorum:?} was applied with term {known} by node {first}, and with {term} by node {node}"
            );
            self.forks.lock().push(Violation::new(Guarantee::G1, what));
        }
    }
}

struct Machine {
    secret: [u8; 32],
    incarnation: Incarnation,
    disk: MemoryDisk,
    clock: ClockOffset,
    boots: u64,
    wipes: u64,
    running: Option<Running>,
}

struct Running {
    node: Node,
    tasks: TaskGroup,
    is_paused: bool,
}

/// A member that says it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lead {
    pub quorum: QuorumId,
    pub term: Term,
    pub node: usize,
    pub member: MemberId,
}

impl World {
    /// A world of machines that are switched off. Nodes count from 1. Call inside [`crate::runtime::run`].
    pub fn new(seed: u64, nodes: usize, transcript: Transcript) -> Self {
        let mut rng = Rng::new(seed, "world");
        let mut machine = |index: usize| Machine {
            secret: derive(seed, &format!("identity {index}")),
            incarnation: Incarnation(derive_u64(seed, &format!("incarnation {index}"))),
            disk: {
                let disk = MemoryDisk::default();
                disk.set_sync_usual(rng.duration(SYNC_MIN, SYNC_MAX));
                disk
            },
            clock: ClockOffset::default(),
            boots: 0,
            wipes: 0,
            running: None,
        };
        let machines = (1..=nodes).map(&mut machine).collect();
        Self {
            seed,
            began: Instant::now(),
            network: Network::new(seed).observed_by(Arc::new(transcript.clone())),
            transcript,
            rng,
            machines,
            planted: None,
            work: NodeExecutors::default(),
            seen: Arc::default(),
        }
    }

    pub fn nodes(&self) -> usize {
        self.machines.len()
    }
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
    /// Nodes that run now, in order.
    pub fn up(&self) -> Vec<usize> {
        (1..=self.nodes()).filter(|index| self.machine(*index).running.is_some()).collect()
    }
    pub fn down(&self) -> Vec<usize> {
        (1..=self.nodes()).filter(|index| self.machine(*index).running.is_none()).collect()
    }
    /// The node, if it runs.
    pub fn node(&self, index: usize) -> Option<&Node> {
        self.machine(index).running.as_ref().map(|running| &running.node)
    }
    pub fn disk(&self, index: usize) -> &MemoryDisk {
        &self.machine(index).disk
    }
    pub fn clock(&self, index: usize) -> &ClockOffset {
        &self.machine(index).clock
    }
    pub fn peer(&self, index: usize) -> PeerId {
        self.identity(index).peer()
    }
    /// Whom the machine's node is when it starts next, or is now.
    pub fn member(&self, index: usize) -> MemberId {
        self.identity(index).member()
    }
    /// The submit of a job by this machine.
    pub fn submit(&self, index: usize, job: JobId, spec: JobSpec) -> Command {
        Command::submit(self.identity(index).signing_key(), job, spec)
    }
    fn identity(&self, index: usize) -> Identity {
        let machine = self.machine(index);
        Identity::new(machine.secret, machine.incarnation, BootId::default())
    }

    /// Boots a node on its machine. Does nothing when it runs already.
    pub async fn start(&mut self, index: usize) -> Result<(), StartError> {
        let (seed, began) = (self.seed, self.began);
        let machine = &mut self.machines[index - 1];
        if machine.running.is_some() {
            return Ok(());
        }
        machine.boots += 1;
        let boots = machine.boots;
        self.transcript.line(index, format_args!("starts, boot {boots}"));
        let entropy: Arc<dyn Entropy> =
            Arc::new(SeededEntropy::new(derive_u64(seed, &format!("node {index} boot {boots}"))));
        let mut identity = Identity::new(machine.secret, machine.incarnation, BootId(entropy.bytes()));
        identity.boot_number = boots;
        let clock = Arc::new(VirtualClock::boot(began, &machine.clock));
        let tasks = match self.planted {
            Some(bug) => TaskGroup::inline_with(Arc::new(bug)),
            None => TaskGroup::inline(),
        };
        let seams = Seams { clock: clock.clone(), entropy, disk: machine.disk.mount(), tasks: tasks.clone() };
        let (net, inbound) = self.network.attach(index, identity.peer(), clock);
        let mut settings = NodeSettings::default();
        // Whoever is asked may answer with everything: what is checked is what the record says.
        settings.operators.extend((1..=self.machines.len()).map(|index| self.peer(index)));
        settings.roles.extend(self.work.executors.keys().map(|engine| NodeRole::from(*engine)));
        let parts = NodeParts {
            seams,
            identity,
            settings,
            resources: Resources::new(Limits::for_machine(HARDWARE, Overrides::default())),
            net: Arc::new(net),
            inbound,
            work: self.work.clone(),
        };
        let node = match Node::start(parts).await {
            Ok(node) => node,
            Err(error) => {
                // Its process ends, with whatever it had begun.
                let peer = self.peer(index);
                tasks.crash();
                self.network.detach(peer);
                return Err(error);
            }
        };
        let machine = &mut self.machines[index - 1];
        drop(tasks.spawn(record(index, node.quorums().events(), self.transcript.clone(), self.seen.clone())));
        machine.running = Some(Running { node, tasks, is_paused: false });
        Ok(())
    }

    /// Power loss: every task stops where it waits, unsynced batches are lost or kept up to one, connections close.
    pub fn crash(&mut self, index: usize) {
        let peer = self.peer(index);
        let machine = &mut self.machines[index - 1];
        let Some(running) = machine.running.take() else { return };
        running.tasks.crash();
        machine.disk.crash(&mut self.rng);
        self.network.detach(peer);
        self.transcript.line(index, "crashes");
    }

    /// The node's process stands still from now on. Its connections stay.
    pub fn pause(&mut self, index: usize) {
        if let Some(running) = &mut self.machines[index - 1].running {
            running.is_paused = true;
            running.tasks.pause();
            self.transcript.line(index, "stands still");
        }
    }

    /// The node's process goes on, if it stood still.
    pub fn resume(&mut self, index: usize) {
        if let Some(running) = self.machines[index - 1].running.as_mut().filter(|running| running.is_paused) {
            running.is_paused = false;
            running.tasks.resume();
            self.transcript.line(index, "goes on");
        }
    }
    pub fn is_paused(&self, index: usize) -> bool {
        self.machine(index).running.as_ref().is_some_and(|running| running.is_paused)
    }

    /// The machine loses power and its disk is replaced by an empty one. What boots there next is a new member.
    pub fn wipe(&mut self, index: usize) {
        self.crash(index);
        let seed = self.seed;
        let machine = &mut self.machines[index - 1];
        machine.disk.wipe();
        machine.wipes += 1;
        machine.incarnation = Incarnation(derive_u64(seed, &format!("incarnation {index} wipe {}", machine.wipes)));
        self.transcript.line(index, "has an empty disk");
    }

    /// Everybody who says that it leads now, in order of node and quorum.
    pub fn leads(&self) -> Vec<Lead> {
        let mut leads = Vec::new();
        for index in self.up() {
            let Some(node) = self.node(index) else { continue };
            for quorum in node.quorums().quorums() {
                if let Some(term) = quorum.leading() {
                    leads.push(Lead { quorum: quorum.id(), term, node: index, member: node.identity().member() });
                }
            }
        }
        leads
    }

    /// A client of this node stores these bytes. The handle yields `None` when the node crashed first, or is down.
    pub fn put(
        &self,
        index: usize,
        name: String,
        content: Vec<u8>,
    ) -> JoinHandle<Option<Result<PutOutcome, PutError>>> {
        let Some(running) = &self.machine(index).running else { return tokio::spawn(std::future::ready(None)) };
        let (node, transcript, seen) = (running.node.clone(), self.transcript.clone(), self.seen.clone());
        self.transcript.line(index, format_args!("put {name} of {} bytes", content.len()));
        running.tasks.spawn(async move {
            let content = Bytes::from(content);
            let request = PutRequest {
                name: Some(name.clone()),
                size: Some(content.len() as u64),
                fingerprint: Some(name.clone()),
                ..PutRequest::default()
            };
            let chunks: Vec<_> = (0..content.len())
                .step_by(BODY_CHUNK_BYTES)
                .map(|at| Ok(content.slice(at..content.len().min(at + BODY_CHUNK_BYTES))))
                .collect();
            let (progress, _) = watch::channel(PutProgress::default());
            let outcome = node.objects().put(request, futures::stream::iter(chunks).boxed(), progress).await;
            if outcome.as_ref().is_ok_and(|stored| stored.progress.pieces_skipped > 0) {
                seen.puts_resumed.fetch_add(1, Ordering::Relaxed);
            }
            match &outcome {
                Ok(stored) => transcript.line(
                    index,
                    format_args!(
                        "stored {name} as {:?}, {} degraded {}",
                        stored.object, stored.profile, stored.degraded
                    ),
                ),
                Err(error) => transcript.line(index, format_args!("did not store {name}: {}", chain(error))),
            }
            outcome
        })
    }

    /// A client of this node reads an object. `None` as for [`Self::put`].
    pub fn get(&self, index: usize, object: ObjectId) -> JoinHandle<Option<Result<Vec<u8>, GetError>>> {
        let Some(running) = &self.machine(index).running else { return tokio::spawn(std::future::ready(None)) };
        let (node, transcript) = (running.node.clone(), self.transcript.clone());
        self.transcript.line(index, format_args!("get {object:?}"));
        running.tasks.spawn(async move {
            let read = async {
                let stream = node.objects().get(object, None).await?;
                stream
                    .bytes
                    .try_fold(Vec::new(), |mut all, chunk| async move {
                        all.extend_from_slice(&chunk);
                        Ok(all)
                    })
                    .await
            };
            let outcome = read.await;
            match &outcome {
                Ok(bytes) => transcript.line(
                    index,
                    format_args!("read {object:?}: {} bytes, {}", bytes.len(), &blake3::hash(bytes).to_hex()[..16]),
                ),
                Err(error) => transcript.line(index, format_args!("did not read {object:?}: {}", chain(error))),
            }
            outcome
        })
    }

    /// A client of this node has a command committed. The handle yields `None` when the node crashed first, or is down;
    /// else what came of it, judged by `judge` at the moment it came.
    pub fn command<A: Send + 'static>(
        &self,
        index: usize,
        quorum: QuorumId,
        command: Command,
        judge: impl FnOnce(Result<CommandReply, ClientError>) -> A + Send + 'static,
    ) -> JoinHandle<Option<A>> {
        let name = format!("{command:?}");
        self.ask_for(index, name, judge, move |node| async move {
            node.jobs().propose(quorum, command, CALL_PATIENCE).await.map(|(reply, _)| reply)
        })
    }

    fn ask_for<A: Send + 'static, F: Future<Output = Result<CommandReply, ClientError>> + Send + 'static>(
        &self,
        index: usize,
        name: String,
        judge: impl FnOnce(Result<CommandReply, ClientError>) -> A + Send + 'static,
        ask: impl FnOnce(Node) -> F + Send + 'static,
    ) -> JoinHandle<Option<A>> {
        let Some(running) = &self.machine(index).running else { return tokio::spawn(std::future::ready(None)) };
        let (node, transcript) = (running.node.clone(), self.transcript.clone());
        self.transcript.line(index, format_args!("asks for {name}"));
        running.tasks.spawn(async move {
            let result = ask(node).await;
            transcript.line(index, format_args!("{name}: {result:?}"));
            judge(result)
        })
    }

    /// A client of this node has a job do something else. As [`Self::command`].
    pub fn control<A: Send + 'static>(
        &self,
        index: usize,
        job: JobId,
        control: Control,
        judge: impl FnOnce(Result<CommandReply, ClientError>) -> A + Send + 'static,
    ) -> JoinHandle<Option<A>> {
        let name = format!("{control:?} of {job:?}");
        self.ask_for(index, name, judge, move |node| async move {
            node.jobs().control(job, control, CALL_PATIENCE).await.map(|()| CommandReply::Done)
        })
    }

    /// A client of this node has a trigger fire. As [`Self::command`].
    pub fn fire<A: Send + 'static>(
        &self,
        index: usize,
        job: JobId,
        (nonce, respect_overlap): (Nonce, bool),
        judge: impl FnOnce(Result<CommandReply, ClientError>) -> A + Send + 'static,
    ) -> JoinHandle<Option<A>> {
        let name = format!("a fire of {job:?}");
        self.ask_for(index, name, judge, move |node| async move {
            node.jobs().fire(job, nonce, respect_overlap, CALL_PATIENCE).await
        })
    }

    /// A client of this node gives up all its claims on an object, as it finds them. As [`Self::command`].
    pub fn remove<A: Send + 'static>(
        &self,
        index: usize,
        object: ObjectId,
        judge: impl FnOnce(Result<CommandReply, ClientError>) -> A + Send + 'static,
    ) -> JoinHandle<Option<A>> {
        let (ObjectId { quorum, manifest }, claims) = (object, ClaimSelector::OwnedBy(self.peer(index)));
        let name = format!("the removal of {object:?}");
        self.ask_for(index, name, judge, move |node| async move {
            let seen = match node.jobs().query(quorum, Query::Object { manifest }, false, CALL_PATIENCE).await? {
                QueryAnswer::Object(view) => view.record.claims.seen(),
                _ => return Err(ClientError::from(Rejection::UnknownObject { manifest })),
            };
            let command = Command::Object(manifest, ObjectCommand::Remove { claims, seen, force: true });
            node.jobs().propose(quorum, command, CALL_PATIENCE).await.map(|(reply, _)| reply)
        })
    }

    /// A client of this node looks something up, and will not have a stale answer. As [`Self::command`].
    pub fn spawn_query<A: std::fmt::Debug + Send + 'static>(
        &self,
        index: usize,
        quorum: QuorumId,
        query: Query,
        judge: impl FnOnce(&Result<QueryAnswer, ClientError>) -> A + Send + 'static,
    ) -> JoinHandle<Option<A>> {
        let Some(running) = &self.machine(index).running else { return tokio::spawn(std::future::ready(None)) };
        let (node, transcript) = (running.node.clone(), self.transcript.clone());
        let name = format!("{query:?}");
        running.tasks.spawn(async move {
            let result = node.jobs().query(quorum, query, false, CALL_PATIENCE).await;
            let judged = judge(&result);
            transcript.line(index, format_args!("{name}: {judged:?}"));
            judged
        })
    }

    /// A client of this node waits for a job, as the API does. As [`Self::command`].
    pub fn watch<A: std::fmt::Debug + Send + 'static>(
        &self,
        index: usize,
        job: JobId,
        until: Until,
        patience: Duration,
        judge: impl FnOnce(&Result<Option<Box<JobRecord>>, ClientError>) -> A + Send + 'static,
    ) -> JoinHandle<Option<A>> {
        let Some(running) = &self.machine(index).running else { return tokio::spawn(std::future::ready(None)) };
        let (node, transcript) = (running.node.clone(), self.transcript.clone());
        running.tasks.spawn(async move {
            let result = node.jobs().watch(job, until, patience).await.map(|met| met.map(|met| met.record));
            let judged = judge(&result);
            transcript.line(index, format_args!("{job:?} {until:?}: {judged:?}"));
            judged
        })
    }

    /// Lets virtual time pass until `is_true`, looking every 50 ms. False when it never was within `patience`.
    pub async fn wait_until(&self, patience: Duration, mut is_true: impl FnMut(&Self) -> bool) -> bool {
        let end = Instant::now() + patience;
        loop {
            if is_true(self) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets virtual time pass until every running node is connected to every other and has heard its advert.
    pub async fn settle(&self, patience: Duration) -> bool {
        self.wait_until(patience, |world| {
            let up = world.up();
            up.iter().filter_map(|index| world.node(*index)).all(|node| {
                let heard =
                    node.directory().peers().into_iter().map(|known| (known.peer, ())).collect::<BTreeMap<_, _>>();
                let is_seen = |peer: PeerId| heard.contains_key(&peer) && node.net().is_connected(peer);
                let others = up.iter().map(|other| world.peer(*other));
                others.filter(|peer| *peer != node.identity().peer()).all(is_seen)
            })
        })
        .await
    }

    fn machine(&self, index: usize) -> &Machine {
        &self.machines[index - 1]
    }
}

/// Writes what happens in a node's quorums into the transcript.
async fn record(index: usize, mut events: broadcast::Receiver<HostEvent>, transcript: Transcript, seen: Arc<Seen>) {
    loop {
        match events.recv().await {
            Ok(event) => {
                if let HostEvent::Applied { events, quorum, last, term } = &event {
                    seen.note_applied(index, *quorum, *last, *term);
                    for event in events.iter() {
                        let counter = match event {
                            Event::ColumnReassigned { from: Some(_), to: Some(_), .. } => &seen.backups_used,
                            Event::ColumnRepaired { .. } => &seen.columns_repaired,
                            Event::WorkerLost { .. } => &seen.workers_lost,
                            _ => continue,
                        };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                }
                transcript.line(index, format_args!("{event:?}"));
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                transcript.line(index, format_args!("{missed} events were missed"));
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Content that belongs to this name and seed, so that it need not be remembered.
pub fn content(seed: u64, name: &str, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    Rng::new(seed, &format!("content {name}")).fill(&mut content);
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_is_applied_with_two_terms_is_a_fork() {
        let (seen, quorum) = (Seen::default(), QuorumId([1; 16]));
        for node in 1..=3 {
            seen.note_applied(node, quorum, LogIndex(7), Term(2));
        }
        seen.note_applied(1, quorum, LogIndex(8), Term(3));
        seen.note_applied(1, QuorumId([2; 16]), LogIndex(7), Term(9));
        assert!(seen.forks.lock().is_empty());
        seen.note_applied(2, quorum, LogIndex(8), Term(4));
        assert_eq!(seen.forks.lock().len(), 1);
    }
}
