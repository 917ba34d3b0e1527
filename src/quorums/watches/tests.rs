//! Watches of a node that is no member, against primaries over a scripted network, under virtual time.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use quorate_protocols::ids::{LogIndex, MemberId};
use quorate_protocols::job::limits::{MESSAGE_BYTES_MAX, WATCH_PAUSE_MIN};
use quorate_protocols::job::{JobSpec, RunState, StoreSpec};
use quorate_protocols::object::Profile;
use quorate_protocols::quorum::request::{JobAnswer, JobMessage};
use quorate_protocols::quorum::{Command, Control};
use quorate_protocols::wire;
use tokio::time::sleep;

use super::*;
use crate::primary::PrimaryServices;
use crate::quorums::authority::Authority;
use crate::quorums::client::ClientParts;
use crate::quorums::ports::LocalQuorums;
use crate::quorums::request::RequestServer;
use crate::seams::{Frame, Seams};
use crate::testing::quorums::{
    Known, QUORUM, Quorums, Reaction, ScriptedNet, StateQuorum, StateQuorums, key, member, peer, seams,
};
use crate::testing::standings::Believed;

const JOB: JobId = JobId { quorum: QUORUM, local: [1; 16] };
const PATIENCE: Duration = Duration::from_secs(60);

fn job(n: u8) -> JobId {
    JobId { local: [n; 16], ..JOB }
}

/// A node that leads the quorum, and answers as the job protocol's server does.
#[derive(Clone)]
struct Primary {
    quorum: Arc<StateQuorum>,
    services: PrimaryServices,
    requests: RequestServer,
    _seams: Arc<Seams>,
}

impl Primary {
    /// Node 1, in whose quorum these jobs live.
    fn new(jobs: impl IntoIterator<Item = JobId>) -> Self {
        let (quorum, seams) = (StateQuorum::new(1), seams(1));
        for job in jobs {
            let spec = StoreSpec { name: None, size: None, profile: Profile { data: 2, parity: 1 } };
            quorum.commit(peer(1), Command::submit(&key(1), job, JobSpec::store(spec))).unwrap();
        }
        Self::of(quorum, seams)
    }
    fn of(quorum: Arc<StateQuorum>, seams: Seams) -> Self {
        let services = PrimaryServices::new(Arc::new(StateQuorums(quorum.clone())), Arc::new(Known::default()));
        services.start_watches(&seams.tasks, quorum.events());
        let primary = Arc::new(services.clone());
        let requests = RequestServer { this_node: peer(1), authority: Authority::default(), primary };
        Self { quorum, services, requests, _seams: Arc::new(seams) }
    }
    fn answer(&self, frame: &Frame) -> Reaction {
        let request = request_in(frame);
        let (requests, quorums) = (self.requests.clone(), StateQuorums(self.quorum.clone()));
        Reaction::Later(Box::pin(async move {
            let local = quorums.quorum(QUORUM).unwrap();
            Frame::head(wire::encode(&requests.answer(&*local, peer(9), Request::Watch(request), DEADLINE).await))
        }))
    }
    fn cancel(&self, job: JobId) {
        self.quorum.commit(peer(1), Command::control(job, LogIndex(u64::MAX), Control::Cancel)).unwrap();
    }
}

fn request_in(frame: &Frame) -> WatchRequest {
    match wire::decode(&frame.head, MESSAGE_BYTES_MAX).unwrap() {
        JobMessage::Watch(request) => request,
        other => panic!("nothing else is asked: {other:?}"),
    }
}

fn client(net: Arc<ScriptedNet>, members: &[MemberId]) -> QuorumClient {
    let Seams { entropy, tasks, .. } = seams(9);
    let (quorums, knowledge) = (Arc::new(Quorums::default()), Known::with_members(members));
    let primary = Arc::new(PrimaryServices::new(quorums.clone(), Arc::new(Known::default())));
    let requests = RequestServer { this_node: peer(9), authority: Authority::default(), primary };
    let standings = Believed::all_but([]);
    QuorumClient::new(ClientParts { net, quorums, knowledge, standings, entropy, requests, tasks })
}

fn answer_watch(met: Vec<(EntryId, Watched)>, refused: Vec<EntryId>) -> Reaction {
    Reaction::answer(&JobAnswer::Watched(WatchAnswer::Update { met, refused }))
}

/// All entries of the request are met, as this state has their job.
fn met(state: &StateQuorum, request: &WatchRequest) -> Reaction {
    let record = |job: JobId| state.read(|state| state.jobs().get(&job).unwrap().clone());
    let answer = |entry| Watched::Met(Met { record: Box::new(record(request.job(entry))), outputs: None });
    answer_watch(request.added.iter().map(|entry| (entry.id, answer(entry))).collect(), Vec::new())
}

#[tokio::test(start_paused = true)]
async fn however_many_wait_for_however_many_jobs_one_request_is_parked_and_each_hears_of_its_own_end() {
    let jobs: Vec<_> = (1..=200).map(job).collect();
    let primary = Primary::new(jobs.clone());
    let answering = primary.clone();
    let net = ScriptedNet::new(peer(9), move |_, _, frame| answering.answer(frame));
    let client = client(net.clone(), &[member(1)]);
    let started = Instant::now();
    let waiting = jobs.iter().chain(&jobs).map(|job| async {
        let ended = client.watch(*job, Until::Ended, PATIENCE).await.unwrap().expect("it ended in time");
        (ended.record.job, ended.record.state, started.elapsed())
    });
    let ending = async {
        for (n, job) in jobs.iter().enumerate() {
            sleep(Duration::from_millis(20)).await;
            if n == 0 {
                assert_eq!(client.watches_open(), (1, 400));
                assert_eq!(primary.services.watches().held(), (1, 200), "one session, and callers share entries");
                assert!(net.asked().len() <= 2, "{} requests", net.asked().len());
            }
            primary.cancel(*job);
        }
    };
    let (ended, ()) = tokio::join!(futures::future::join_all(waiting), ending);
    for ((job, state, after), n) in ended.into_iter().zip((0..200).chain(0..200)) {
        assert_eq!((job, state), (jobs[n as usize], RunState::Cancelled));
        let at = Duration::from_millis(20 * (n + 1));
        assert!(after >= at && after < at + Duration::from_millis(5), "{after:?} for {at:?}");
    }
    sleep(2 * LINGER).await;
    assert_eq!((client.watches_open(), primary.services.watches().held()), ((0, 0), (0, 0)));
}

/// Goal: whoever submits a job and waits for its end waits for one round trip and for the job. Method: each way takes
/// 50 ms and the commit 40 ms, so that the watch comes before the job is there; then the job ends at once.
#[tokio::test(start_paused = true)]
async fn a_watch_beside_its_submit_costs_no_round_trip_of_its_own() {
    const WAY: Duration = Duration::from_millis(50);
    const COMMIT: Duration = Duration::from_millis(40);
    let primary = Primary::new([]);
    let answering = primary.clone();
    let net = ScriptedNet::new(peer(9), move |_, _, frame| {
        let answer: BoxFuture<'static, Frame> = match wire::decode(&frame.head, MESSAGE_BYTES_MAX).unwrap() {
            JobMessage::Propose { command, .. } => {
                let primary = answering.clone();
                Box::pin(async move {
                    sleep(COMMIT).await;
                    let reply = primary.quorum.commit(peer(9), command);
                    primary.quorum.commit(peer(9), Command::control(JOB, LogIndex(u64::MAX), Control::Cancel)).unwrap();
                    Frame::head(wire::encode(&JobAnswer::Reply(reply)))
                })
            }
            _ => match answering.answer(frame) {
                Reaction::Later(answer) => answer,
                Reaction::Answer(_) | Reaction::Unreachable | Reaction::Silent => panic!("it answers in its time"),
            },
        };
        Reaction::Later(Box::pin(async move {
            sleep(WAY).await;
            let answer = answer.await;
            sleep(WAY).await;
            answer
        }))
    });
    let client = client(net.clone(), &[member(1)]);
    let spec = JobSpec::store(StoreSpec { name: None, size: None, profile: Profile { data: 2, parity: 1 } });
    let (submit, started) = (Command::submit(&key(9), JOB, spec), Instant::now());
    let (ended, submitted) =
        tokio::join!(client.watch(JOB, Until::EndedOnceSubmitted, PATIENCE), client.propose(QUORUM, submit, DEADLINE),);
    submitted.unwrap();
    assert_eq!(ended.unwrap().expect("it ended in time").record.state, RunState::Cancelled);
    let least = WAY + COMMIT + WAY;
    assert!(started.elapsed() < least + WAY, "{:?}", started.elapsed());
    assert_eq!(net.asked().len(), 2, "one submit and one watch");
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_asks_again_only_when_the_primary_lets_go_and_gives_up_after_its_patience() {
    let primary = Primary::new([JOB]);
    let net = ScriptedNet::new(peer(9), move |_, _, frame| primary.answer(frame));
    let client = client(net.clone(), &[member(1)]);
    let started = Instant::now();
    assert!(client.watch(JOB, Until::Ended, PATIENCE).await.unwrap().is_none());
    assert_eq!(started.elapsed().as_secs(), PATIENCE.as_secs());
    let longest = PATIENCE.as_secs() / WATCH_WAIT_MAX.as_secs();
    // The first few waits double up to the longest.
    assert!(net.asked().len() as u64 <= longest + 5, "{} questions", net.asked().len());
    let error = client.watch(job(77), Until::Ended, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ClientError::Rejected(Rejection::UnknownJob { .. })), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_frees_its_watch_while_others_wait_and_when_it_was_the_last() {
    let primary = Primary::new([JOB, job(2)]);
    let answering = primary.clone();
    let net = ScriptedNet::new(peer(9), move |_, _, frame| answering.answer(frame));
    let client = client(net.clone(), &[member(1)]);
    let (short, long) = (Duration::from_secs(1), 2 * WATCH_WAIT_MAX);
    let (one, other, ()) =
        tokio::join!(client.watch(JOB, Until::Ended, short), client.watch(job(2), Until::Ended, long), async {
            sleep(short / 2).await;
            assert_eq!(primary.services.watches().held(), (1, 2));
            sleep(WATCH_WAIT_MAX).await;
            assert_eq!(primary.services.watches().held(), (1, 1));
        });
    assert!(one.unwrap().is_none() && other.unwrap().is_none());
    sleep(LINGER + short).await;
    assert_eq!((client.watches_open(), primary.services.watches().held()), ((0, 0), (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn watches_whose_primary_steps_down_go_on_at_the_next() {
    let primary = Primary::new([JOB, job(2)]);
    let next = Primary::of(primary.quorum.clone(), seams(2));
    let (answering, next_answering) = (primary.clone(), next.clone());
    let net = ScriptedNet::new(peer(9), move |to, _, frame| match to == peer(1) {
        true => answering.answer(frame),
        false => next_answering.answer(frame),
    });
    let client = client(net.clone(), &[member(1), member(2)]);
    client.remember_primary(QUORUM, peer(1));
    let started = Instant::now();
    let stepping_down = async {
        sleep(Duration::from_secs(1)).await;
        primary.quorum.set_term(None);
        sleep(Duration::from_secs(1)).await;
        primary.quorum.set_term(Some(quorate_protocols::ids::Term(2)));
        sleep(Duration::from_secs(1)).await;
        primary.cancel(JOB);
        sleep(Duration::from_secs(1)).await;
        primary.cancel(job(2));
    };
    let wait = |job| {
        let client = &client;
        async move {
            assert!(client.watch(job, Until::Ended, PATIENCE).await.unwrap().is_some());
            started.elapsed().as_millis()
        }
    };
    let (one, two, ()) = tokio::join!(wait(JOB), wait(job(2)), stepping_down);
    assert_eq!((one, two), (3_000, 4_000));
    assert_eq!(next.services.watches().held().0 + primary.services.watches().held().0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_refused_is_asked_again_with_a_growing_pause() {
    let (primary, asked) = (Primary::new([JOB]), AtomicUsize::new(0));
    primary.cancel(JOB);
    let quorum = primary.quorum.clone();
    let net = ScriptedNet::new(peer(9), move |_, _, frame| match asked.fetch_add(1, Ordering::Relaxed) < 3 {
        true => answer_watch(Vec::new(), request_in(frame).added.iter().map(|entry| entry.id).collect()),
        false => met(&quorum, &request_in(frame)),
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
    let primary = Primary::new([JOB]);
    primary.cancel(JOB);
    let quorum = primary.quorum.clone();
    let added = Arc::new(Mutex::new(BTreeMap::new()));
    let seen = added.clone();
    let net = ScriptedNet::new(peer(9), move |_, _, frame| {
        let request = request_in(frame);
        seen.lock().extend(request.added.iter().map(|entry| (entry.id, entry.until)));
        met(&quorum, &request)
    });
    *net.answers_after.lock() = Duration::from_millis(100);
    let client = client(net.clone(), &[member(1)]);
    let changed = Until::Changed { since: LogIndex(0) };
    for (until, entries) in [(Until::Ended, 1), (Until::Holders { columns: 1 }, 2), (changed, 2)] {
        added.lock().clear();
        let late = async {
            sleep(Duration::from_millis(50)).await;
            client.watch(JOB, until, PATIENCE).await
        };
        let (first, late) = tokio::join!(client.watch(JOB, until, PATIENCE), late);
        assert!(first.unwrap().is_some() && late.unwrap().is_some());
        assert_eq!(added.lock().len(), entries, "{until:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_parks_so_many_requests_for_this_node_and_commands_keep_their_streams() {
    let waits = Arc::new(Mutex::new(Vec::new()));
    let seen = waits.clone();
    let net = ScriptedNet::new(peer(9), move |_, _, frame| {
        let wait = request_in(frame).wait_ms;
        seen.lock().push(wait);
        match wait {
            0 => answer_watch(Vec::new(), Vec::new()),
            _ => Reaction::Silent,
        }
    });
    let client = client(net.clone(), &[member(1)]);
    let many = 2 * PARKED_PER_PEER_MAX;
    let quorums = (0..many).map(|n| QuorumId((n as u128).to_le_bytes()));
    let jobs: Vec<_> = quorums.map(|quorum| JobId { quorum, ..JOB }).collect();
    jobs.iter().for_each(|job| client.remember_primary(job.quorum, peer(1)));
    let watching = jobs.into_iter().map(|job| client.watch(job, Until::Ended, Duration::from_millis(20)));
    for ended in futures::future::join_all(watching).await {
        assert!(ended.unwrap().is_none());
    }
    let waits = waits.lock();
    assert_eq!(waits.iter().filter(|wait| **wait > 0).count(), PARKED_PER_PEER_MAX);
    assert!(waits.iter().filter(|wait| **wait == 0).count() >= many - PARKED_PER_PEER_MAX);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_none_is_not_believed_and_the_next_member_is_asked() {
    let primary = Primary::new([JOB]);
    let (living, other) = (primary.quorum.clone(), StateQuorum::new(2));
    let spec = StoreSpec { name: None, size: None, profile: Profile { data: 2, parity: 1 } };
    other.commit(peer(1), Command::submit(&key(1), JOB, JobSpec::store(spec))).unwrap();
    other.commit(peer(1), Command::control(JOB, LogIndex(u64::MAX), Control::Cancel)).unwrap();
    let net = ScriptedNet::new(peer(9), move |to, _, frame| {
        met(if to == peer(1) { &living } else { &other }, &request_in(frame))
    });
    let client = client(net.clone(), &[member(1), member(2)]);
    client.remember_primary(QUORUM, peer(1));
    let ended = client.watch(JOB, Until::Ended, PATIENCE).await.unwrap().expect("member 2 tells the truth");
    assert_eq!(ended.record.state, RunState::Cancelled);
    assert_eq!(net.penalised.lock().len(), 1);
}
