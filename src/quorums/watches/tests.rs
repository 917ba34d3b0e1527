//! Watches of a node that is no member, against primaries over a scripted network, under virtual time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use quorate_protocols::ids::{LogIndex, MemberId};
use quorate_protocols::job::limits::MESSAGE_BYTES_MAX;
use quorate_protocols::job::message::{JobAnswer, JobMessage};
use quorate_protocols::job::{JobSpec, RunState, StoreSpec};
use quorate_protocols::object::Profile;
use quorate_protocols::quorum::{Command, JobCommand};
use quorate_protocols::wire;

use super::*;
use crate::primary::PrimaryServices;
use crate::quorums::authority::Authority;
use crate::quorums::client::ClientParts;
use crate::quorums::ports::LocalQuorums;
use crate::quorums::request::RequestServer;
use crate::seams::{Frame, Seams};
use crate::testing::quorums::{
    Known, QUORUM, Quorums, Reaction, ScriptedNet, StateQuorum, StateQuorums, member, peer, seams,
};

const JOB: JobId = JobId { quorum: QUORUM, local: [1; 16] };
const PATIENCE: Duration = Duration::from_secs(60);

/// Node 1, which leads the quorum, and answers as the job protocol's server does.
#[derive(Clone)]
struct Primary {
    quorum: Arc<StateQuorum>,
    requests: RequestServer,
    _seams: Arc<Seams>,
}

impl Primary {
    fn new() -> Self {
        let (quorum, seams) = (StateQuorum::new(1), seams(1));
        let spec = StoreSpec { name: None, size: None, profile: Profile { data: 2, parity: 1 } };
        quorum.commit(peer(1), Command::Job(JOB, JobCommand::Submit { spec: JobSpec::Store(spec) })).unwrap();
        let services = PrimaryServices::new(Arc::new(StateQuorums(quorum.clone())));
        services.start_watches(&seams.tasks, quorum.events());
        let requests =
            RequestServer { this_node: peer(1), authority: Authority::default(), primary: Arc::new(services) };
        Self { quorum, requests, _seams: Arc::new(seams) }
    }
    fn answer(&self, frame: &Frame) -> Reaction {
        let watch = watch_in(frame);
        let (requests, quorums) = (self.requests.clone(), StateQuorums(self.quorum.clone()));
        Reaction::Later(Box::pin(async move {
            let local = quorums.quorum(QUORUM).unwrap();
            Frame::head(wire::encode(&requests.answer(&*local, peer(9), Request::Watch(watch), DEADLINE).await))
        }))
    }
    fn cancel(&self) {
        self.quorum.commit(peer(1), Command::Job(JOB, JobCommand::Cancel)).unwrap();
    }
}

fn watch_in(frame: &Frame) -> Watch {
    match wire::decode(&frame.head, MESSAGE_BYTES_MAX).unwrap() {
        JobMessage::Watch { job, until, wait_ms } => Watch { job, until, wait: Duration::from_millis(wait_ms.into()) },
        other => panic!("nothing else is asked: {other:?}"),
    }
}

fn client(net: Arc<ScriptedNet>, members: &[MemberId]) -> QuorumClient {
    let Seams { entropy, tasks, .. } = seams(9);
    let (quorums, knowledge) = (Arc::new(Quorums::default()), Known::with_members(members));
    let primary = Arc::new(PrimaryServices::new(quorums.clone()));
    let requests = RequestServer { this_node: peer(9), authority: Authority::default(), primary };
    QuorumClient::new(ClientParts { net, quorums, knowledge, entropy, requests, tasks })
}

fn not_yet(held: bool) -> Reaction {
    Reaction::answer(&JobAnswer::Watched(Watched::NotYet { revision: LogIndex(1), held }))
}

fn met(state: &StateQuorum) -> Reaction {
    let record = state.read(|state| state.jobs.get(&JOB).unwrap().clone());
    Reaction::answer(&JobAnswer::Watched(Watched::Met(Box::new(record))))
}

#[tokio::test(start_paused = true)]
async fn however_many_wait_for_a_job_its_primary_is_asked_once_and_all_hear_of_the_end() {
    let primary = Primary::new();
    let answering = primary.clone();
    let net = ScriptedNet::new(peer(9), move |_, _, frame| answering.answer(frame));
    let client = client(net.clone(), &[member(1)]);
    let started = Instant::now();
    let waiting = (0..50).map(|_| client.watch(JOB, Until::Ended, PATIENCE));
    let ending = async {
        sleep(Duration::from_secs(2)).await;
        primary.cancel();
    };
    let (ended, ()) = tokio::join!(futures::future::join_all(waiting), ending);
    for record in ended {
        assert_eq!(record.unwrap().expect("it ended in time").state, RunState::Cancelled);
    }
    assert!(started.elapsed() < Duration::from_millis(2_010), "the end is heard of when it happens");
    assert_eq!(net.asked(), [peer(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_asks_again_only_when_the_primary_lets_go_and_gives_up_after_its_patience() {
    let primary = Primary::new();
    let net = ScriptedNet::new(peer(9), move |_, _, frame| primary.answer(frame));
    let client = client(net.clone(), &[member(1)]);
    let started = Instant::now();
    assert!(client.watch(JOB, Until::Ended, PATIENCE).await.unwrap().is_none());
    assert_eq!(started.elapsed().as_secs(), PATIENCE.as_secs());
    let longest = PATIENCE.as_secs() / WATCH_WAIT_MAX.as_secs();
    assert!(net.asked().len() as u64 <= longest + 1, "{} questions", net.asked().len());
    let unknown = JobId { local: [9; 16], ..JOB };
    let error = client.watch(unknown, Until::Ended, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ClientError::Rejected(Rejection::UnknownJob { .. })), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_primary_steps_down_goes_on_at_the_next() {
    let primary = Primary::new();
    let (answering, next) = (primary.clone(), primary.quorum.clone());
    let net = ScriptedNet::new(peer(9), move |to, _, frame| match to == peer(1) {
        true => answering.answer(frame),
        false => met(&next),
    });
    let client = client(net.clone(), &[member(1), member(2)]);
    client.remember_primary(QUORUM, peer(1));
    let started = Instant::now();
    let stepping_down = async {
        sleep(Duration::from_secs(1)).await;
        primary.quorum.set_term(None);
        primary.cancel();
    };
    let (ended, ()) = tokio::join!(client.watch(JOB, Until::Ended, PATIENCE), stepping_down);
    assert!(ended.unwrap().is_some());
    assert!(started.elapsed() < Duration::from_millis(1_500), "{:?}", started.elapsed());
    assert_eq!(net.asked().last(), Some(&peer(2)));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_not_held_is_asked_again_with_a_growing_pause() {
    let (primary, asked) = (Primary::new(), AtomicUsize::new(0));
    primary.cancel();
    let quorum = primary.quorum.clone();
    let net = ScriptedNet::new(peer(9), move |_, _, _| match asked.fetch_add(1, Ordering::Relaxed) < 3 {
        true => not_yet(false),
        false => met(&quorum),
    });
    let client = client(net.clone(), &[member(1)]);
    let started = Instant::now();
    assert!(client.watch(JOB, Until::Ended, PATIENCE).await.unwrap().is_some());
    assert_eq!(net.asked().len(), 4);
    let pauses = (1 + 2 + 4) * WATCH_PAUSE_MIN;
    assert!(started.elapsed() >= pauses && started.elapsed() < 2 * pauses, "{:?}", started.elapsed());
}

/// Goal: an answer is never older than the question, though the question before it is still on its way.
#[tokio::test(start_paused = true)]
async fn who_comes_late_is_given_an_answer_of_before_only_if_that_holds_for_ever() {
    let primary = Primary::new();
    primary.cancel();
    let quorum = primary.quorum.clone();
    let net = ScriptedNet::new(peer(9), move |_, _, _| met(&quorum));
    *net.answers_after.lock().unwrap() = Duration::from_millis(100);
    let client = client(net.clone(), &[member(1)]);
    for (until, questions) in [(Until::Ended, 1), (Until::Holders { columns: 1 }, 2)] {
        net.asked.lock().unwrap().clear();
        let late = async {
            sleep(Duration::from_millis(50)).await;
            client.watch(JOB, until, PATIENCE).await
        };
        let (first, late) = tokio::join!(client.watch(JOB, until, PATIENCE), late);
        assert!(first.unwrap().is_some() && late.unwrap().is_some());
        assert_eq!(net.asked().len(), questions, "{until:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_holds_so_many_watches_for_this_node_and_commands_keep_their_streams() {
    let waits = Arc::new(Mutex::new(Vec::new()));
    let seen = waits.clone();
    let net = ScriptedNet::new(peer(9), move |_, _, frame| {
        let wait = watch_in(frame).wait;
        seen.lock().unwrap().push(wait);
        match wait.is_zero() {
            true => not_yet(false),
            false => Reaction::Silent,
        }
    });
    let client = client(net.clone(), &[member(1)]);
    let many = 2 * WATCHES_PER_PEER_MAX;
    let jobs = (0..many).map(|n| JobId { local: (n as u128).to_le_bytes(), ..JOB });
    let watching: Vec<_> = jobs.map(|job| client.watch(job, Until::Ended, Duration::from_millis(20))).collect();
    for ended in futures::future::join_all(watching).await {
        assert!(ended.unwrap().is_none());
    }
    let waits = waits.lock().unwrap();
    assert_eq!(waits.len(), many);
    assert_eq!(waits.iter().filter(|wait| !wait.is_zero()).count(), WATCHES_PER_PEER_MAX);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_none_is_not_believed_and_the_next_member_is_asked() {
    let primary = Primary::new();
    let (living, other) = (primary.quorum.clone(), StateQuorum::new(2));
    let spec = StoreSpec { name: None, size: None, profile: Profile { data: 2, parity: 1 } };
    other.commit(peer(1), Command::Job(JOB, JobCommand::Submit { spec: JobSpec::Store(spec) })).unwrap();
    other.commit(peer(1), Command::Job(JOB, JobCommand::Cancel)).unwrap();
    let net = ScriptedNet::new(peer(9), move |to, _, _| met(if to == peer(1) { &living } else { &other }));
    let client = client(net.clone(), &[member(1), member(2)]);
    client.remember_primary(QUORUM, peer(1));
    let ended = client.watch(JOB, Until::Ended, PATIENCE).await.unwrap().expect("member 2 tells the truth");
    assert_eq!(ended.state, RunState::Cancelled);
    assert_eq!(net.penalised.lock().unwrap().len(), 1);
}
