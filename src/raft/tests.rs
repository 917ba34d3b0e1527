//! Whole groups over an in-memory network and disk, under virtual time.

mod agreement;
mod changes;
mod clocks;
mod door;
mod faults;
mod links;
mod log_suite;
mod proposing;
mod replication;
mod returning;
mod world;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_protocols::admission::Distrust;
use quorate_protocols::approval::limits::REPLACE_GRACE;
use quorate_protocols::approval::standby::Renewed;
use quorate_protocols::approval::{Approval, Statement, Subject};
use quorate_protocols::capacity::Requirement;
use quorate_protocols::certificate::Founding;
use quorate_protocols::ids::{BootId, Incarnation, JobId, LeaseId, MemberId, Nonce, PeerId, QuorumId, Term};
use quorate_protocols::job::spec::{JobSpec, StoreSpec};
use quorate_protocols::object::layout::Profile;
use quorate_protocols::quorum::request::JobAnswer;
use quorate_protocols::quorum::{Command, CommandReply, JobCommand, QuorumCommand, RaftAnswer, RaftMessage, Rejection};
use quorate_protocols::wire;
use quorate_testkit::{ClockOffset, MemoryDisk, VirtualClock};
use tokio::sync::mpsc;

use self::world::World;
use super::group::Group;
use super::host::FOUNDINGS_MAX;
use super::{HostEvent, MembershipLeases, Quorum, QuorumContext, QuorumError, QuorumHost, QuorumInbound, lost_quorums};
use crate::identity::Identity;
use crate::seams::entropy::SeededEntropy;
use crate::seams::{Frame, InboundRequest, Net, Protocol, Seams, TaskGroup};
use crate::storage::Storage;

thread_local! {
    static FOUNDED: Cell<QuorumId> = const { Cell::new(QuorumId([7; 16])) };
}

/// The quorum that the test of this thread founded last.
fn quorum_id() -> QuorumId {
    FOUNDED.get()
}

/// The founding that these approvals are for.
fn founding(members: &[Approval]) -> Founding {
    let asker = members[0].statement.asker;
    let founding = Founding::new(asker, Nonce([1; 16]), members.iter().map(Approval::member));
    FOUNDED.set(founding.quorum());
    founding
}

/// Far beyond every deadline of the code under test: a wait that takes this long has failed.
const PATIENCE: Duration = Duration::from_secs(300);

/// One node's quorums, and what a crash leaves of them.
struct TestNode {
    number: u8,
    incarnation: Incarnation,
    boots: u8,
    /// How far its wall clock is off.
    offset: ClockOffset,
    disk: MemoryDisk,
    running: Option<(QuorumHost, TaskGroup)>,
}

struct TestNet {
    world: World,
    clock: tokio::time::Instant,
    nodes: Vec<TestNode>,
}

impl TestNode {
    fn identity(&self) -> Identity {
        Identity::new([self.number; 32], self.incarnation, BootId([self.boots; 16]))
    }
    fn member(&self) -> MemberId {
        self.identity().member()
    }
    fn host(&self) -> &QuorumHost {
        &self.running.as_ref().expect("the node runs").0
    }
    fn quorum(&self) -> Quorum {
        self.host().quorum(quorum_id()).expect("a member")
    }
    fn group(&self) -> Arc<Group> {
        self.host().0.group(quorum_id()).expect("a member")
    }
    /// Has a command proposed here, whatever comes of it.
    async fn propose_here(&self, by: PeerId, command: Command) -> Result<(), QuorumError> {
        self.quorum().propose(by, command, Duration::from_secs(10)).await.map(drop)
    }
    /// This node's promise to be one of the first voters, asked for by `asker`.
    fn approve(&self, asker: PeerId) -> Approval {
        self.promise(asker, Subject::Founding { nonce: Nonce([1; 16]) })
    }
    /// This node's promise to join the quorum that was founded last.
    fn stand_by(&self, asker: PeerId) -> Approval {
        self.promise(asker, Subject::Member { quorum: quorum_id() })
    }
    fn promise(&self, asker: PeerId, subject: Subject) -> Approval {
        let identity = self.identity();
        let statement = Statement {
            asker,
            approver: identity.peer(),
            incarnation: identity.incarnation,
            boot: identity.boot,
            subject,
            requirement: Requirement::default().digest(),
            nonce: Nonce([1; 16]),
            duration: Duration::from_secs(60),
            lease: LeaseId([1; 16]),
        };
        Approval::sign(identity.signing_key(), statement)
    }
}

impl TestNet {
    /// Nodes that run and hold no quorum.
    async fn new(nodes: u8) -> Self {
        let mut net = Self { world: World::new(), clock: tokio::time::Instant::now(), nodes: Vec::new() };
        for number in 1..=nodes {
            let (disk, offset) = (MemoryDisk::default(), ClockOffset::default());
            let incarnation = Incarnation(u64::from(number) << 32);
            net.nodes.push(TestNode { number, incarnation, boots: 0, offset, disk, running: None });
            net.start(usize::from(number) - 1).await;
        }
        net
    }

    /// Nodes of which the first `voters` founded the quorum, and the rest are its standbys.
    async fn founded(nodes: u8, voters: usize) -> Self {
        let net = Self::new(nodes).await;
        let asker = net.nodes[0].member().peer;
        let members: Vec<_> = net.nodes[..voters].iter().map(|node| node.approve(asker)).collect();
        let founding = founding(&members);
        let standbys = net.nodes[voters..].iter().map(|node| node.stand_by(asker)).collect();
        let primary = net.nodes[0].host().found(founding, members, standbys).await.expect("founded");
        assert_eq!(primary, net.nodes[0].member());
        net
    }

    /// The same, and the rest have promised nothing.
    async fn founded_without_standbys(nodes: u8, voters: usize) -> Self {
        let net = Self::new(nodes).await;
        let asker = net.nodes[0].member().peer;
        let members: Vec<_> = net.nodes[..voters].iter().map(|node| node.approve(asker)).collect();
        net.nodes[0].host().found(founding(&members), members, vec![]).await.expect("founded");
        net
    }

    async fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.boots += 1;
        let tasks = TaskGroup::inline();
        let peer = node.member().peer;
        let clock = Arc::new(VirtualClock::boot(self.clock, &node.offset));
        let (net, inbound) = self.world.network.attach(node.number.into(), peer, clock.clone());
        let context = QuorumContext {
            seams: Seams {
                clock,
                entropy: Arc::new(SeededEntropy::new(u64::from(node.number) * 1000 + u64::from(node.boots))),
                disk: node.disk.disk(),
                tasks: tasks.clone(),
            },
            identity: node.identity(),
            net: Arc::new(net),
            storage: tasks.scope(async { Storage::start(node.disk.disk()) }).await,
            replace_grace: REPLACE_GRACE,
        };
        let taken = QuorumInbound { raft: inbound.raft, liveness: inbound.liveness, events: inbound.events };
        let host = QuorumHost::start(context, taken).await.expect("starts");
        tasks.spawn(answer_membership(host.clone(), inbound.job));
        node.running = Some((host, tasks));
    }

    /// kill -9 and a power loss in one.
    fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let (host, tasks) = node.running.take().expect("the node runs");
        tasks.crash();
        drop(host);
        self.world.unplug(node.member().peer);
        node.disk.lose_unsynced();
    }

    fn running(&self) -> impl Iterator<Item = &TestNode> {
        self.nodes.iter().filter(|node| node.running.is_some())
    }

    async fn until<T>(&self, what: &str, mut read: impl FnMut(&Self) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(found) = read(self) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(found) => found,
            Err(_) => {
                let views: Vec<_> =
                    self.running().map(|node| node.host().quorum(quorum_id()).map(|q| q.view())).collect();
                panic!("never: {what}; {views:#?}")
            }
        }
    }

    /// Waits until some node leads; its index.
    async fn led(&self) -> usize {
        self.until("a primary", |net| {
            net.nodes.iter().position(|node| {
                let host = node.running.as_ref().map(|(host, _)| host);
                host.and_then(|host| host.quorum(quorum_id())).is_some_and(|quorum| quorum.leading().is_some())
            })
        })
        .await
    }

    /// Commits through whoever leads, trying again as a client would; commands here may be repeated.
    async fn commit(&self, command: Command) -> Result<CommandReply, Rejection> {
        loop {
            let primary = self.led().await;
            match self.nodes[primary].quorum().propose(owner(), command.clone(), Duration::from_secs(2)).await {
                Ok(reply) => return reply,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Waits until the members among `indices` have applied the same entries.
    async fn converged(&self, indices: &[usize]) {
        self.until("members agree", |net| {
            let mut states = indices.iter().map(|index| {
                let quorum = net.nodes[*index].host().quorum(quorum_id())?;
                let group = quorum.group().ok()?;
                Some(group.machine.read(|applied| (applied.last, applied.state.clone())))
            });
            let first = states.next()??;
            states.all(|state| state.as_ref() == Some(&first)).then_some(())
        })
        .await;
    }

    /// Of those that run and are members.
    fn terms(&self) -> Vec<Term> {
        self.running().filter_map(|node| Some(node.host().quorum(quorum_id())?.view().term)).collect()
    }
}

/// Promises made in advance; whoever can be reached keeps its own.
struct Volunteers(Arc<dyn Net>, Vec<Approval>, Distrusted);

/// Whom the nodes of a test do not trust any more.
type Distrusted = Arc<Mutex<BTreeSet<PeerId>>>;

impl MembershipLeases for Volunteers {
    fn check_trust(&self, peer: PeerId) -> Result<(), Distrust> {
        if self.2.lock().contains(&peer) { Err(Distrust::Ended) } else { Ok(()) }
    }
    fn stands(&self, _: LeaseId, _: QuorumId) -> bool {
        true
    }
    fn bind(&self, _: LeaseId, _: Nonce, _: QuorumId) -> bool {
        true
    }
    fn win_member(&self, _: QuorumId, exclude: Vec<PeerId>, _: u16) -> BoxFuture<'static, Result<Approval, String>> {
        let fit = |peer: PeerId| !exclude.contains(&peer) && self.0.is_connected(peer);
        let willing = self.1.iter().find(|approval| fit(approval.statement.approver)).cloned();
        let willing = willing.ok_or_else(|| "nobody is left".to_owned());
        Box::pin(async { willing })
    }
    fn renew_standby(&self, peer: PeerId, _: LeaseId) -> BoxFuture<'static, Renewed> {
        let renewed = if self.0.is_connected(peer) { Renewed::Stands } else { Renewed::Unsure };
        Box::pin(async move { renewed })
    }
    fn give_back(&self, _: PeerId, _: LeaseId) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

/// A node whose promises have all run out.
struct Bankrupt;

impl MembershipLeases for Bankrupt {
    fn check_trust(&self, _: PeerId) -> Result<(), Distrust> {
        Ok(())
    }
    fn stands(&self, _: LeaseId, _: QuorumId) -> bool {
        false
    }
    fn bind(&self, _: LeaseId, _: Nonce, _: QuorumId) -> bool {
        false
    }
    fn win_member(&self, _: QuorumId, _: Vec<PeerId>, _: u16) -> BoxFuture<'static, Result<Approval, String>> {
        Box::pin(async { Err("nobody".to_owned()) })
    }
    fn renew_standby(&self, _: PeerId, _: LeaseId) -> BoxFuture<'static, Renewed> {
        Box::pin(async { Renewed::Gone })
    }
    fn give_back(&self, _: PeerId, _: LeaseId) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

/// The one question of the job protocol that members ask each other; the job service answers it in a whole node.
async fn answer_membership(host: QuorumHost, mut questions: mpsc::Receiver<InboundRequest>) {
    let shutdown = host.0.seams.tasks.shutdown_token();
    while let Some(Some(question)) = shutdown.run_until_cancelled(questions.recv()).await {
        let answer = host.quorum(quorum_id()).map_or(JobAnswer::NotMember, |q| JobAnswer::Membership(q.membership()));
        question.reply.send(Frame::head(wire::encode(&answer)));
    }
}

/// Whoever leads, jobs are another's: it signs them.
fn owner_key() -> SigningKey {
    SigningKey::from_bytes(&[77; 32])
}

fn owner() -> PeerId {
    PeerId(owner_key().verifying_key().to_bytes())
}

/// A job that changes the state, one per number.
fn submit(number: u16) -> Command {
    let hash = blake3::hash(&number.to_le_bytes());
    let mut local = [0; 16];
    local.copy_from_slice(&hash.as_bytes()[..16]);
    let spec = StoreSpec { name: Some("x".repeat(200)), size: None, profile: Profile { data: 2, parity: 1 } };
    Command::submit(&owner_key(), JobId { quorum: quorum_id(), local }, JobSpec::store(spec))
}

fn jobs(node: &TestNode) -> usize {
    node.group().machine.read(|applied| applied.state.jobs().len())
}

async fn noop(quorum: &Quorum) -> Result<Result<CommandReply, Rejection>, QuorumError> {
    quorum.propose(PeerId::default(), Command::Quorum(QuorumCommand::Noop), Duration::from_secs(5)).await
}

#[test]
fn openraft_is_the_version_whose_config_was_read() {
    // `types::config` relies on what each number is used for in exactly this version.
    let manifest = include_str!("../../Cargo.toml");
    assert!(manifest.contains("openraft = { version = \"=0.9.25\""), "read openraft's config again, then change this");
}

#[tokio::test(start_paused = true)]
async fn members_of_a_new_quorum_apply_the_same_entries() {
    let net = TestNet::founded(3, 3).await;
    for number in 0..20 {
        assert!(net.commit(submit(number)).await.is_ok());
    }
    net.converged(&[0, 1, 2]).await;
    assert_eq!(jobs(&net.nodes[2]), 20);
    let views: Vec<_> = net.nodes.iter().map(|node| node.quorum().view()).collect();
    assert!(views.iter().all(|view| view.primary == Some(net.nodes[0].member()) && view.paused.is_none()));
    assert!(net.nodes[1].quorum().membership().is_genuine());
}

/// Goal: a quorum is led without a break from its founding on, although its members have not heard each other yet.
#[tokio::test(start_paused = true)]
async fn a_new_quorum_is_led_without_a_break() {
    let net = TestNet::new(3).await;
    let mut events: Vec<_> = net.nodes.iter().map(|node| node.host().events()).collect();
    let asker = net.nodes[0].member().peer;
    let members: Vec<_> = net.nodes.iter().map(|node| node.approve(asker)).collect();
    net.nodes[0].host().found(founding(&members), members, vec![]).await.unwrap();
    net.commit(submit(0)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let told: Vec<_> = events
        .iter_mut()
        .flat_map(|events| std::iter::from_fn(|| events.try_recv().ok()).collect::<Vec<_>>())
        .collect();
    assert_eq!(told.iter().filter(|event| matches!(event, HostEvent::Leading { .. })).count(), 1);
    let broken = |event: &&HostEvent| matches!(event, HostEvent::NotLeading { .. } | HostEvent::Paused { .. });
    assert!(told.iter().find(broken).is_none(), "{:?}", told.iter().find(broken));
}

/// Goal: the grace of a new quorum ends: a founder whose members never speak is paused.
#[tokio::test(start_paused = true)]
async fn a_new_quorum_whose_members_fall_silent_is_paused() {
    let net = TestNet::founded(3, 3).await;
    let primary = net.nodes[0].member().peer;
    net.world.cut_off([primary]);
    net.until("a pause", |net| net.nodes[0].quorum().view().paused).await;
    assert!(net.nodes[0].quorum().leading().is_none());
}

#[tokio::test(start_paused = true)]
async fn founding_twice_is_founding_once() {
    let net = TestNet::founded(3, 3).await;
    net.commit(submit(1)).await.unwrap();
    let asker = net.nodes[0].member().peer;
    let members: Vec<_> = net.nodes.iter().map(|node| node.approve(asker)).collect();
    assert_eq!(net.nodes[0].host().found(founding(&members), members, vec![]).await.unwrap(), net.nodes[0].member());
    assert_eq!(jobs(&net.nodes[0]), 1);
}

/// Goal: a founding whose first vote is lost is not stuck: whoever holds the first entry is elected later. Method: the
/// members that gave their voice, or were never asked, have no entry and so no configuration of their own.
#[tokio::test(start_paused = true)]
async fn a_founding_whose_first_vote_was_lost_is_elected_later() {
    let net = TestNet::new(3).await;
    let first = net.nodes[0].member().peer;
    let members: Vec<_> = net.nodes.iter().map(|node| node.approve(first)).collect();
    let founding = founding(&members);
    let found = |initialize| RaftMessage::Found {
        founding: founding.clone(),
        members: members.clone(),
        standbys: vec![],
        initialize,
    };
    let (host, tasks) = net.nodes[0].running.as_ref().unwrap();
    for node in &net.nodes {
        tasks.scope(host.0.ask_to_found(node.member().peer, found(false))).await.unwrap();
    }
    net.world.cut_off([first]);
    tasks.scope(host.0.ask_to_found(first, found(true))).await.unwrap_err();
    assert!(net.nodes[1].group().is_blank() && net.nodes[2].group().is_blank());
    net.world.heal();
    net.commit(submit(1)).await.unwrap();
    assert_eq!(net.nodes[0].quorum().view().primary, Some(net.nodes[0].member()));
}

#[tokio::test(start_paused = true)]
async fn nobody_becomes_a_member_without_having_approved() {
    let net = TestNet::new(3).await;
    let asker = net.nodes[0].member().peer;
    let mut members: Vec<_> = net.nodes.iter().map(|node| node.approve(asker)).collect();
    // The third approval is forged: the statement says more than was signed.
    members[2].statement.duration = Duration::from_secs(3600);
    let refused = net.nodes[0].host().found(founding(&members), members, vec![]).await;
    assert!(matches!(refused, Err(super::FoundError::TooFew { founded: 0, needed: 3, .. })), "{refused:?}");
    // A founding whose voters have not all approved.
    let members: Vec<_> = net.nodes[..2].iter().map(|node| node.approve(asker)).collect();
    let voters = net.nodes.iter().map(TestNode::member);
    let refused = net.nodes[0].host().found(Founding::new(asker, Nonce([1; 16]), voters), members, vec![]).await;
    assert!(matches!(refused, Err(super::FoundError::TooFew { founded: 0, needed: 2, .. })), "{refused:?}");
    // A promise of another life of the node binds this one to nothing.
    let mut earlier = Vec::from([net.nodes[0].approve(asker), net.nodes[1].approve(asker)]);
    let past = TestNode {
        number: 3,
        incarnation: Incarnation(99),
        boots: 1,
        offset: ClockOffset::default(),
        disk: net.nodes[2].disk.clone(),
        running: None,
    };
    earlier.push(past.approve(asker));
    let refused = net.nodes[0].host().found(founding(&earlier), earlier, vec![]).await;
    assert!(matches!(refused, Err(super::FoundError::TooFew { founded: 2, needed: 3, .. })), "{refused:?}");
    assert!(net.nodes[2].host().quorum(quorum_id()).is_none());
}

/// Goal: foundings that hang hold up nothing else: a member answers its primary meanwhile, the founding after them is
/// told to ask again, and their places come back. Method: a quorum whose other member is down commits nothing without
/// the answers of the member that is asked for a quorum of which nobody else is there to elect it.
#[tokio::test(start_paused = true)]
async fn foundings_that_hang_hold_up_no_other_message() {
    let mut net = TestNet::new(5).await;
    let (asker, asked) = (net.nodes[0].member().peer, net.nodes[1].member().peer);
    let members: Vec<_> = [1, 3, 4].map(|at| net.nodes[at].approve(asker)).into();
    let message = RaftMessage::Found { founding: founding(&members), members, standbys: vec![], initialize: true };
    let members: Vec<_> = net.nodes[..3].iter().map(|node| node.approve(asker)).collect();
    net.nodes[0].host().found(founding(&members), members, vec![]).await.unwrap();
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    [2, 3, 4].into_iter().for_each(|at| net.crash(at));
    let asking = net.world.net(asker);
    let found = || {
        let answer =
            asking.request(asked, Protocol::Raft, Frame::head(wire::encode(&message)), Duration::from_secs(10));
        async move { wire::decode::<RaftAnswer>(&answer.await.unwrap().head, 1 << 20).unwrap() }
    };
    let is_refused =
        |answer: &RaftAnswer, why: &str| matches!(answer, RaftAnswer::Failed { reason } if reason.contains(why));
    let hanging = futures::future::join_all((0..FOUNDINGS_MAX).map(|_| found()));
    let meanwhile = async {
        let full = |net: &TestNet| (net.nodes[1].host().0.foundings.available_permits() == 0).then_some(());
        net.until("every place of foundings is taken", full).await;
        net.commit(submit(1)).await.unwrap();
        let answer = found().await;
        assert!(is_refused(&answer, "busy with other foundings"), "{answer:?}");
        assert_eq!((jobs(&net.nodes[0]), full(&net)), (2, Some(())), "they hang still");
    };
    let (answers, ()) = tokio::join!(hanging, meanwhile);
    for answer in answers.into_iter().chain([found().await]) {
        assert!(is_refused(&answer, "not elected"), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_minute_raises_no_term() {
    let net = TestNet::founded(3, 3).await;
    net.commit(Command::Quorum(QuorumCommand::Noop)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let before = net.terms();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(net.terms(), before);
    assert!(net.nodes.iter().all(|node| node.host().metrics().elections.get() == 0));
}
