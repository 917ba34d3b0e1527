//! Submits: keys that stand for ids, and quorums that have no room.

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex as Lock;
use quorate_protocols::approval::limits::REPLACE_GRACE;
use quorate_protocols::directory::QuorumAdvert;
use quorate_protocols::ids::PeerId;
use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::job::limits::MESSAGE_BYTES_MAX;
use quorate_protocols::quorum::request::{JobAnswer, JobMessage, Query, QueryAnswer, QuorumView};
use quorate_protocols::task::spec::{Call, Program};
use quorate_testkit::{MemoryDisk, VirtualClock};
use tokio::sync::mpsc;

use super::*;
use crate::certificates::{Standing, Standings};
use crate::primary::PrimaryServices;
use crate::quorums::approvals::{Approvals, ApprovalsParts};
use crate::quorums::authority::Authority;
use crate::quorums::client::ClientParts;
use crate::quorums::placement::{FULL_REST, PlacementParts};
use crate::quorums::request::RequestServer;
use crate::raft::{QuorumContext, QuorumHost, QuorumInbound};
use crate::seams::{InboundRequest, NetEvent, TaskGroup};
use crate::testing::quorums::{Approver, Known, Quorums, Reaction, ScriptedNet, advert, member, peer, seams};

fn quorum(n: u8) -> QuorumId {
    QuorumId([n; 16])
}

/// Runs on a node's storage, of which the second argument makes another life.
async fn on_storage<F: Future>(test: impl FnOnce(Arc<VirtualClock>, Box<dyn Fn() -> Keys>) -> F) -> F::Output {
    let (disk, clock) = (MemoryDisk::default(), Arc::new(VirtualClock::right()));
    let tasks = TaskGroup::inline();
    let clocks = clock.clone();
    let keys = move || Keys::new(Storage::start(disk.disk()), clocks.clone());
    tasks.scope(test(clock, Box::new(keys))).await
}

/// Goal: whoever records a key first decides for all, also after a restart.
#[tokio::test(start_paused = true)]
async fn the_first_quorum_of_a_key_stays() {
    on_storage(|_, open| async move {
        let keys = open();
        assert_eq!(keys.find(&digest("a")).unwrap(), None);
        let (one, other) = tokio::join!(keys.record("a", quorum(1)), keys.record("a", quorum(2)));
        assert_eq!((one.unwrap(), other.unwrap()), (quorum(1), quorum(1)));
        assert_eq!(keys.record("b", quorum(2)).await.unwrap(), quorum(2));
        let again = open();
        assert_eq!(again.record("a", quorum(3)).await.unwrap(), quorum(1));
        assert_eq!(again.find(&digest("b")).unwrap(), Some(quorum(2)));
    })
    .await;
}

/// Goal: many keys at once take a few syncs, not one each, and one that is named twice is one.
#[tokio::test(start_paused = true)]
async fn keys_that_come_together_share_their_writes() {
    let (disk, clock) = (MemoryDisk::default(), Arc::new(VirtualClock::right()));
    let tasks = TaskGroup::inline();
    let keys = tasks.scope(async { Keys::new(Storage::start(disk.disk()), clock) }).await;
    let before = disk.counts().syncs;
    let names: Vec<String> = (0..200u8).map(|n| (n % 100).to_string()).collect();
    let recording = names.iter().zip(0..200u8).map(|(name, n)| keys.record(name, quorum(n)));
    let recorded = tasks.scope(futures::future::join_all(recording)).await;
    for (n, recorded) in recorded.into_iter().enumerate() {
        assert_eq!(recorded.unwrap(), quorum(n as u8 % 100), "{n}");
    }
    assert!(disk.counts().syncs - before <= 3, "{} syncs", disk.counts().syncs - before);
    assert_eq!((keys.count_rows().unwrap(), *keys.count.lock().await), (100, Some(100)));
}

#[tokio::test(start_paused = true)]
async fn an_old_key_is_forgotten_and_no_other() {
    on_storage(|clock, open| async move {
        let keys = open();
        keys.record("old", quorum(1)).await.unwrap();
        clock.offset().step(KEY_KEPT.as_millis() as i64 - 1);
        keys.record("young", quorum(2)).await.unwrap();
        assert_eq!(keys.find(&digest("old")).unwrap(), Some(quorum(1)));
        clock.offset().step(1);
        keys.record("new", quorum(3)).await.unwrap();
        assert_eq!(keys.find(&digest("old")).unwrap(), None);
        assert_eq!(keys.find(&digest("young")).unwrap(), Some(quorum(2)));
        assert_eq!((keys.count_rows().unwrap(), *keys.count.lock().await), (2, Some(2)));
    })
    .await;
}

/// Every quorum has these voters.
struct Together(Vec<PeerId>);

impl Standings for Together {
    fn voters_with(&self, _: QuorumId, peer: PeerId) -> Option<Vec<PeerId>> {
        self.0.contains(&peer).then(|| self.0.clone())
    }
    fn standing(&self, quorum: QuorumId, peer: PeerId) -> BoxFuture<'static, Standing> {
        let standing = if self.has_voter(quorum, peer) { Standing::Voter } else { Standing::Stranger };
        futures::future::ready(standing).boxed()
    }
}

/// Node 9, which submits into two quorums of node 2.
struct Submitter {
    submits: Submits,
    /// Quorums that were asked to take a job, in order.
    asked: Arc<Lock<Vec<QuorumId>>>,
    /// Nothing comes in, and nothing ends.
    _inbound: (mpsc::Sender<InboundRequest>, mpsc::Sender<InboundRequest>, mpsc::Sender<NetEvent>),
}

/// One quorum refuses for want of room, and the other takes all.
async fn between(full: QuorumId, open: QuorumId) -> Submitter {
    let asked: Arc<Lock<Vec<QuorumId>>> = Arc::default();
    let noted = asked.clone();
    let net = ScriptedNet::new(peer(9), move |_, _, frame| {
        let message = wire::decode::<JobMessage>(&frame.head, MESSAGE_BYTES_MAX).unwrap();
        match message {
            // It says that it has room: for others' work it has.
            JobMessage::Query { quorum, query: Query::Quorum, .. } => {
                Reaction::answer(&JobAnswer::Answer(QueryAnswer::Quorum(view(quorum))))
            }
            JobMessage::Propose { quorum, .. } => {
                noted.lock().push(quorum);
                let refused = Rejection::Full { what: "live jobs of one owner".to_owned(), limit: 5_000 };
                let taken = CommandReply::Submitted { existed: false, state: RunState::Pending };
                Reaction::answer(&JobAnswer::Reply(if quorum == full { Err(refused) } else { Ok(taken) }))
            }
            other => panic!("{other:?}"),
        }
    });
    let seams = seams(1);
    let storage = seams.tasks.scope(async { Storage::start(seams.disk.clone()) }).await;
    let identity = crate::testing::identity(9);
    let knowledge = Arc::new(Known::default());
    // The full one is the less loaded, so that it is the one that is chosen while it may be.
    let voters = [member(2), member(3), member(4)];
    for (quorum, jobs) in [(full, 0), (open, 5)] {
        knowledge.quorums.lock().insert(quorum, QuorumAdvert { quorum, jobs, ..advert(&voters) });
    }
    let quorums = Arc::new(Quorums::default());
    let requests = RequestServer {
        this_node: peer(9),
        authority: Authority::default(),
        primary: Arc::new(PrimaryServices::new(quorums.clone(), Arc::new(Known::default()))),
    };
    let client = QuorumClient::new(ClientParts {
        net: net.clone(),
        quorums,
        knowledge: knowledge.clone(),
        standings: Arc::new(Together(voters.map(|voter| voter.peer).to_vec())),
        entropy: seams.entropy.clone(),
        requests,
        tasks: seams.tasks.clone(),
    });
    let context = QuorumContext {
        seams: seams.clone(),
        identity: identity.clone(),
        net: net.clone(),
        storage: storage.clone(),
        replace_grace: REPLACE_GRACE,
    };
    let ((raft_in, raft), (liveness_in, liveness), (events_in, events)) =
        (mpsc::channel(1), mpsc::channel(1), mpsc::channel(1));
    let inbound = QuorumInbound { raft, liveness, events };
    let placement = Placement::new(PlacementParts {
        tasks: seams.tasks.clone(),
        entropy: seams.entropy.clone(),
        knowledge: knowledge.clone(),
        client: client.clone(),
        net: net.clone(),
        approvals: Approvals::new(ApprovalsParts {
            seams: seams.clone(),
            net,
            knowledge,
            local: Arc::new(Approver(9)),
        }),
        host: QuorumHost::start(context, inbound).await.unwrap(),
        voters: 3,
    });
    let submits = Submits::new(&seams, identity, storage, placement, client);
    Submitter { submits, asked, _inbound: (raft_in, liveness_in, events_in) }
}

fn view(quorum: QuorumId) -> QuorumView {
    QuorumView {
        quorum,
        term: Default::default(),
        primary: Some(member(2)),
        voters: vec![member(2)],
        learners: Vec::new(),
        standbys: Vec::new(),
        committed: Default::default(),
        applied: Default::default(),
        digest: Default::default(),
        jobs_live: 0,
        jobs_ended: 0,
        objects: 0,
        room: 100,
        level: 1,
        time: Millis(0),
        clock_apart_ms: None,
        clock_step: None,
        paused: None,
    }
}

fn spec() -> JobSpec {
    JobSpec::batch(BatchSpec::new(Call::new(Program::Command { name: "work".to_owned() })))
}

/// Goal: a submit that a quorum refuses for want of room goes to another when it is repeated, and the full one is not
/// asked again for a while. Method: the full quorum is the less loaded of two.
#[tokio::test(start_paused = true)]
async fn a_submit_that_a_full_quorum_refuses_goes_to_another() {
    let Submitter { submits, asked, _inbound } = between(quorum(1), quorum(2)).await;
    let submit_one = || async {
        let job = submits.id(&Wanted::default()).await.unwrap();
        (job.quorum, submits.submit(job, spec(), Duration::from_secs(10)).await)
    };
    let mut refused = 0;
    let until_refused = async {
        loop {
            match submit_one().await {
                (_, Ok(_)) => (),
                (at, Err(SubmitError::Client(ClientError::Rejected(Rejection::Full { .. })))) => return at,
                (at, Err(error)) => panic!("{at}: {error}"),
            }
        }
    };
    assert_eq!(until_refused.await, quorum(1));
    let before = asked.lock().len();
    for _ in 0..50 {
        let (at, submitted) = submit_one().await;
        refused += usize::from(submitted.is_err());
        assert_eq!(at, quorum(2));
    }
    assert_eq!((refused, asked.lock()[before..].contains(&quorum(1))), (0, false));
    // Later it may have room again, and is asked.
    tokio::time::sleep(FULL_REST).await;
    while submit_one().await.0 != quorum(1) {}
}
