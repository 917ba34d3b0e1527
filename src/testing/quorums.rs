//! Scripted peers, members and quorums.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_protocols::admission::Distrust;
use quorate_protocols::approval::{Approval, ApprovalAnswer, ApprovalMessage, ApprovalRequest, Statement, Subject};
use quorate_protocols::capacity::Requirement;
use quorate_protocols::certificate::CertificatePart;
use quorate_protocols::directory::QuorumAdvert;
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{
    BootId, Digest, Incarnation, LeaseId, LogIndex, MemberId, Millis, PeerId, QuorumId, Term,
};
use quorate_protocols::liveness::{Judgement, Latency};
use quorate_protocols::quorum::request::{MembershipStatement, Query, QueryAnswer, QuorumView, SignedMembership};
use quorate_protocols::quorum::{Batch, Command, CommandReply, Duty, QuorumState, Rejection};
pub use quorate_testkit::{MemoryDisk, Reaction, ScriptedNet};
use tokio::sync::{broadcast, mpsc, watch};

use crate::directory::KnownPeer;
use crate::quorums::ports::{Knowledge, LocalApprover, LocalQuorum, LocalQuorums};
use crate::raft::{HostEvent, QuorumError};
use crate::seams::{Clock, Seams};

/// The key of test node `n`, and its peer id.
pub fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}
pub fn peer(n: u8) -> PeerId {
    PeerId(key(n).verifying_key().to_bytes())
}
pub fn member(n: u8) -> MemberId {
    MemberId { peer: peer(n), incarnation: Incarnation(1) }
}
pub const QUORUM: QuorumId = QuorumId([7; 16]);

/// The seams of a node whose disk nobody looks at.
pub fn seams(seed: u64) -> Seams {
    quorate_testkit::seams(seed, MemoryDisk::default().disk())
}

/// A directory that knows what a test tells it.
#[derive(Default)]
pub struct Known {
    pub quorums: Mutex<BTreeMap<QuorumId, QuorumAdvert>>,
    pub candidates: Mutex<Vec<PeerId>>,
    pub volunteers: Mutex<Vec<PeerId>>,
    pub learnt: Mutex<Vec<(Option<MemberId>, Vec<MemberId>)>>,
    pub peers: Mutex<Vec<KnownPeer>>,
    /// Peers whose admission has ended.
    pub distrusted: Mutex<BTreeSet<PeerId>>,
    /// Peers that may have an admission, of which nothing was heard.
    pub unheard: Mutex<BTreeSet<PeerId>>,
}

impl Known {
    pub fn with_members(members: &[MemberId]) -> Arc<Self> {
        let known = Self::default();
        known.quorums.lock().insert(QUORUM, advert(members));
        Arc::new(known)
    }
}

pub fn advert(members: &[MemberId]) -> QuorumAdvert {
    QuorumAdvert {
        quorum: QUORUM,
        term: Term(1),
        members: members.to_vec(),
        standbys: 0,
        jobs: 0,
        objects: 0,
        room: 100,
    }
}

impl Knowledge for Known {
    fn peers(&self) -> Vec<KnownPeer> {
        self.peers.lock().clone()
    }
    fn quorums(&self) -> Vec<QuorumAdvert> {
        self.quorums.lock().values().cloned().collect()
    }
    fn quorum(&self, quorum: QuorumId) -> Option<QuorumAdvert> {
        self.quorums.lock().get(&quorum).cloned()
    }
    fn learn_members(&self, _quorum: QuorumId, primary: Option<MemberId>, voters: Vec<MemberId>) {
        self.learnt.lock().push((primary, voters));
    }
    fn candidates(&self, _role: NodeRole, _requirement: &Requirement) -> Vec<PeerId> {
        let mut candidates = self.candidates.lock().clone();
        candidates.retain(|peer| self.check_trust(*peer).is_ok());
        candidates
    }
    fn check_trust(&self, peer: PeerId) -> Result<(), Distrust> {
        match self.distrusted.lock().contains(&peer) {
            true => Err(Distrust::Ended),
            false if self.unheard.lock().contains(&peer) => Err(Distrust::Unheard),
            false => Ok(()),
        }
    }
    fn distrusted(&self) -> Vec<(PeerId, Distrust)> {
        self.distrusted.lock().iter().map(|peer| (*peer, Distrust::Ended)).collect()
    }
    fn ask_for_volunteers(&self, _: Subject, _: NodeRole, _: Requirement) -> mpsc::Receiver<PeerId> {
        let (send, receive) = mpsc::channel(16);
        for peer in self.volunteers.lock().iter() {
            send.try_send(*peer).expect("a test has few volunteers");
        }
        receive
    }
}

/// Signs what is asked for, as node `n` would.
pub fn approve(n: u8, asker: PeerId, request: &ApprovalRequest) -> ApprovalAnswer {
    let statement = Statement {
        asker,
        approver: peer(n),
        incarnation: Incarnation(1),
        boot: BootId([n; 16]),
        subject: request.subject,
        requirement: request.requirement.digest(),
        nonce: request.nonce,
        duration: request.duration,
        lease: LeaseId([n; 16]),
    };
    ApprovalAnswer::Granted(Approval::sign(&key(n), statement))
}

/// Node `n` approves whatever it is asked.
pub struct Approver(pub u8);

impl LocalApprover for Approver {
    fn answer(&self, from: PeerId, message: ApprovalMessage) -> BoxFuture<'static, ApprovalAnswer> {
        let answer = match message {
            ApprovalMessage::Ask(request) => approve(self.0, from, &request),
            _ => ApprovalAnswer::Acknowledged,
        };
        async move { answer }.boxed()
    }
}

type Commit = dyn Fn(PeerId, &Command) -> Result<Result<CommandReply, Rejection>, QuorumError> + Send + Sync;
type Answering = dyn Fn(&Query) -> QueryAnswer + Send + Sync;

/// A quorum of one scripted member: commits and answers as told.
pub struct ScriptedQuorum {
    pub this: u8,
    pub term: Mutex<Option<Term>>,
    pub duties: Mutex<Vec<Duty>>,
    pub voters: Vec<MemberId>,
    pub level: u16,
    pub proposed: Mutex<Vec<(PeerId, Command)>>,
    pub commit: Box<Commit>,
    pub answering: Box<Answering>,
}

impl ScriptedQuorum {
    /// Led by node `this`; commits everything, knows nothing.
    pub fn leading(this: u8) -> Self {
        Self {
            this,
            term: Mutex::new(Some(Term(1))),
            duties: Mutex::default(),
            voters: vec![member(this)],
            level: 1,
            proposed: Mutex::default(),
            commit: Box::new(|_, _| Ok(Ok(CommandReply::Done))),
            answering: Box::new(|_| QueryAnswer::Unknown),
        }
    }
}

/// The quorums of one node: one or none.
#[derive(Default)]
pub struct Quorums(pub Mutex<Option<Arc<ScriptedQuorum>>>);

impl Quorums {
    pub fn of(quorum: Arc<ScriptedQuorum>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(quorum))))
    }
}

struct Handle(Arc<ScriptedQuorum>);

impl LocalQuorums for Quorums {
    fn quorum(&self, quorum: QuorumId) -> Option<Arc<dyn LocalQuorum>> {
        let held = self.0.lock().clone().filter(|_| quorum == QUORUM)?;
        Some(Arc::new(Handle(held)))
    }
    fn all(&self) -> Vec<Arc<dyn LocalQuorum>> {
        self.quorum(QUORUM).into_iter().collect()
    }
}

impl LocalQuorum for Handle {
    fn id(&self) -> QuorumId {
        QUORUM
    }
    fn view(&self) -> QuorumView {
        let primary = self.leading().map(|_| member(self.0.this));
        QuorumView {
            quorum: QUORUM,
            term: Term(1),
            primary,
            voters: self.0.voters.clone(),
            learners: Vec::new(),
            standbys: Vec::new(),
            committed: LogIndex(1),
            applied: LogIndex(1),
            digest: (LogIndex(0), Digest::default()),
            jobs_live: 0,
            jobs_ended: 0,
            objects: 1,
            room: 100,
            level: self.0.level,
            time: Millis(0),
            clock_apart_ms: None,
            clock_step: None,
            paused: None,
        }
    }
    fn membership(&self) -> SignedMembership {
        membership(self.0.this, QUORUM, vec![member(self.0.this)])
    }
    fn certificate(&self, _since: Option<u64>) -> Option<CertificatePart> {
        None
    }
    fn leading(&self) -> Option<Term> {
        *self.0.term.lock()
    }
    fn primary_settled(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
    fn latency(&self) -> Latency {
        Latency::default()
    }
    fn duties(&self) -> Vec<Duty> {
        self.0.duties.lock().clone()
    }
    fn propose(
        &self,
        by: PeerId,
        command: Command,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Result<CommandReply, Rejection>, QuorumError>> {
        let result = (self.0.commit)(by, &command);
        self.0.proposed.lock().push((by, command));
        async move { result }.boxed()
    }
    fn query(&self, query: Query, _stale: bool) -> BoxFuture<'static, Result<QueryAnswer, QuorumError>> {
        let answer = (self.0.answering)(&query);
        async move { Ok(answer) }.boxed()
    }
    fn confirm_lead(&self) -> BoxFuture<'static, Result<(), QuorumError>> {
        async { Ok(()) }.boxed()
    }
    fn clock(&self) -> Option<Judgement> {
        None
    }
    fn with_state(&self, read: &mut dyn FnMut(&QuorumState)) {
        read(&QuorumState::new(QUORUM));
    }
}

/// A quorum of one member with the real state machine: what is proposed is committed at once.
pub struct StateQuorum {
    this: u8,
    /// What entries carry; none: the first millisecond of 1970.
    clock: Option<Arc<dyn Clock>>,
    term: Mutex<Option<Term>>,
    /// Whether this member, when it does not lead, knows no primary either.
    pub electing: AtomicBool,
    /// What it measured of its voters.
    pub latency: Mutex<Latency>,
    /// Whose budgets were charged, with how many bytes; and whether they are at their end.
    pub charged: Mutex<Vec<(PeerId, usize)>>,
    pub budgets_spent: AtomicBool,
    state: Mutex<(LogIndex, QuorumState)>,
    changes: watch::Sender<u64>,
    events: broadcast::Sender<HostEvent>,
}

impl StateQuorum {
    pub fn new(this: u8) -> Arc<Self> {
        Self::of(this, None)
    }
    pub fn with_clock(this: u8, clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::of(this, Some(clock))
    }
    fn of(this: u8, clock: Option<Arc<dyn Clock>>) -> Arc<Self> {
        Arc::new(Self {
            this,
            clock,
            term: Mutex::new(Some(Term(1))),
            electing: AtomicBool::new(false),
            latency: Mutex::default(),
            charged: Mutex::default(),
            budgets_spent: AtomicBool::new(false),
            state: Mutex::new((LogIndex(0), QuorumState::new(QUORUM))),
            changes: watch::channel(0).0,
            events: broadcast::channel(1024).0,
        })
    }
    pub fn events(&self) -> broadcast::Receiver<HostEvent> {
        self.events.subscribe()
    }
    pub fn set_term(&self, term: Option<Term>) {
        *self.term.lock() = term;
        let _ = self.events.send(match term {
            Some(term) => HostEvent::Leading { quorum: QUORUM, term },
            None => HostEvent::NotLeading { quorum: QUORUM },
        });
    }
    pub fn commit(&self, by: PeerId, command: Command) -> Result<CommandReply, Rejection> {
        let mut held = self.state.lock();
        held.0 = LogIndex(held.0.0 + 1);
        let (index, state) = &mut *held;
        let now = self.clock.as_ref().map_or(Millis(1), |clock| clock.wall());
        let (reply, events) = state.apply(*index, &Batch::at(now, vec![(by, command)]));
        drop(held);
        // As the state machine of a real member: what has no events is not told.
        if !events.is_empty() {
            let _ = self.events.send(HostEvent::Applied {
                quorum: QUORUM,
                last: LogIndex::default(),
                term: Term::default(),
                events: Arc::new(events),
            });
        }
        self.changes.send_modify(|changes| *changes += 1);
        reply.replies.into_iter().next().expect("one command has one reply")
    }
    pub fn read<T>(&self, read: impl FnOnce(&QuorumState) -> T) -> T {
        read(&self.state.lock().1)
    }
    /// Waits until the state is as wished for, for at most an hour of virtual time.
    pub async fn reaches(&self, what: &str, wish: impl Fn(&QuorumState) -> bool) {
        let mut changes = self.changes.subscribe();
        let reached = async {
            while !self.read(&wish) {
                changes.changed().await.expect("the sender is this quorum");
            }
        };
        if tokio::time::timeout(Duration::from_secs(3600), reached).await.is_err() {
            panic!("not reached: {what}; the state is {:#?}", self.read(|state| state.clone()));
        }
    }
}

/// The node whose only quorum this is.
pub struct StateQuorums(pub Arc<StateQuorum>);

struct StateHandle(Arc<StateQuorum>);

impl LocalQuorums for StateQuorums {
    fn quorum(&self, quorum: QuorumId) -> Option<Arc<dyn LocalQuorum>> {
        (quorum == QUORUM).then(|| Arc::new(StateHandle(self.0.clone())) as Arc<dyn LocalQuorum>)
    }
    fn all(&self) -> Vec<Arc<dyn LocalQuorum>> {
        self.quorum(QUORUM).into_iter().collect()
    }
}

impl LocalQuorum for StateHandle {
    fn id(&self) -> QuorumId {
        QUORUM
    }
    fn view(&self) -> QuorumView {
        let mut view = Handle(Arc::new(ScriptedQuorum::leading(self.0.this))).view();
        view.objects = self.0.read(|state| state.objects().len() as u32);
        view
    }
    fn membership(&self) -> SignedMembership {
        membership(self.0.this, QUORUM, vec![member(self.0.this)])
    }
    fn certificate(&self, _since: Option<u64>) -> Option<CertificatePart> {
        None
    }
    fn leading(&self) -> Option<Term> {
        *self.0.term.lock()
    }
    fn primary_settled(&self) -> BoxFuture<'static, ()> {
        let (quorum, mut events) = (self.0.clone(), self.0.events());
        async move {
            while quorum.electing.load(Ordering::Relaxed) && quorum.term.lock().is_none() {
                events.recv().await.expect("the sender is this quorum");
            }
        }
        .boxed()
    }
    fn latency(&self) -> Latency {
        *self.0.latency.lock()
    }
    fn duties(&self) -> Vec<Duty> {
        self.0.read(QuorumState::duties)
    }
    fn propose(
        &self,
        by: PeerId,
        command: Command,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Result<CommandReply, Rejection>, QuorumError>> {
        let quorum = self.0.clone();
        async move { Ok(quorum.commit(by, command)) }.boxed()
    }
    fn charge(&self, for_peer: PeerId, bytes: usize) -> Result<(), QuorumError> {
        self.0.charged.lock().push((for_peer, bytes));
        match self.0.budgets_spent.load(Ordering::Relaxed) {
            true => Err(QuorumError::TooFast { by: for_peer, wait: Duration::from_secs(1) }),
            false => Ok(()),
        }
    }
    fn query(&self, query: Query, _stale: bool) -> BoxFuture<'static, Result<QueryAnswer, QuorumError>> {
        let answer = self.0.read(|state| state.answer(&query)).unwrap_or(QueryAnswer::Unknown);
        async move { Ok(answer) }.boxed()
    }
    fn confirm_lead(&self) -> BoxFuture<'static, Result<(), QuorumError>> {
        async { Ok(()) }.boxed()
    }
    fn clock(&self) -> Option<Judgement> {
        Some(Judgement { time: self.0.clock.as_ref().map_or(Millis(1), |clock| clock.wall()), apart_ms: 0 })
    }
    fn with_state(&self, read: &mut dyn FnMut(&QuorumState)) {
        self.0.read(|state| read(state));
    }
}

/// A node that cannot look at anything.
pub struct NoSources;

impl crate::quorums::ports::Sources for NoSources {
    fn fetch(&self, _: quorate_protocols::trigger::spec::Source) -> BoxFuture<'static, Result<String, String>> {
        async { Err("nothing is to be seen here".to_owned()) }.boxed()
    }
}

/// A membership signed by node `n`.
pub fn membership(n: u8, quorum: QuorumId, voters: Vec<MemberId>) -> SignedMembership {
    let statement =
        MembershipStatement { quorum, by: member(n), term: Term(1), primary: voters.first().copied(), voters };
    SignedMembership::sign(&key(n), statement)
}
