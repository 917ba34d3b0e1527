//! The service over a scripted quorum.

use quorate_protocols::approval::Grant;
use quorate_protocols::ids::{JobId, LeaseId, LogIndex, ManifestHash, StepIndex, TaskIndex, Term};
use std::collections::BTreeSet;
use std::time::Duration;

use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::job::{JobSpec, StoreSpec};
use quorate_protocols::liveness::Latency;
use quorate_protocols::liveness::patience::{ELECTION_WAIT_MIN, election_wait};
use quorate_protocols::object::Profile;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::watch::{EntryId, Until, WatchEntry, WatchRequest};
use quorate_protocols::quorum::{
    ClaimSelector, Command, CommandReply, Control, ObjectCommand, QuorumCommand, StoreCommand,
};
use quorate_protocols::task::spec::{Call, Program};
use tokio::sync::oneshot;

use super::*;
use crate::primary::PrimaryServices;
use crate::quorums::authority::Authority;
use crate::seams::Reply;
use crate::seams::Reservation;
use crate::testing::quorums::{
    Known, NoSources, QUORUM, Quorums, Reaction, ScriptedNet, StateQuorum, StateQuorums, key, member, peer, seams,
};

const JOB: JobId = JobId { quorum: QUORUM, local: [1; 16] };

struct World {
    requests: mpsc::Sender<InboundRequest>,
    net: Arc<ScriptedNet>,
    handling: Gauge,
}

fn world(quorums: Arc<dyn LocalQuorums>) -> World {
    let net = ScriptedNet::new(peer(1), |_, _, _| Reaction::Unreachable);
    let (requests, receiver) = mpsc::channel(16);
    let authority = Authority::new([peer(8)]);
    let primary = Arc::new(PrimaryServices::new(quorums.clone(), Arc::new(Known::default())));
    let requests_server = RequestServer { this_node: peer(1), authority, primary };
    let service = JobService { net: net.clone(), quorums, requests: requests_server, sources: Arc::new(NoSources) };
    let handling = service.start(&seams(1).tasks, receiver);
    World { requests, net, handling }
}

impl World {
    async fn ask_raw(&self, from: u8, head: Vec<u8>) -> JobAnswer {
        let (reply, answer) = oneshot::channel();
        let request = InboundRequest {
            from: peer(from),
            frame: Frame::head(head),
            reply: Reply(reply),
            memory: Reservation::none(),
        };
        self.requests.send(request).await.expect("the service runs");
        wire::decode(&answer.await.expect("every request is answered").head, MESSAGE_BYTES_MAX).unwrap()
    }
    async fn propose(&self, from: u8, command: Command) -> JobAnswer {
        self.ask_raw(from, wire::encode(&JobMessage::Propose { quorum: QUORUM, command })).await
    }
}

fn submit(by: u8) -> Command {
    let profile = Profile { data: 1, parity: 2 };
    Command::submit(&key(by), JOB, JobSpec::store(StoreSpec { name: None, size: Some(1), profile }))
}

#[tokio::test(start_paused = true)]
async fn only_owner_and_operators_cancel_and_only_the_primary_does_its_duties() {
    let world = world(Arc::new(StateQuorums(StateQuorum::new(1))));
    assert!(matches!(world.propose(2, submit(2)).await, JobAnswer::Reply(Ok(CommandReply::Submitted { .. }))));
    let cancel = || Command::control(JOB, LogIndex(u64::MAX), Control::Cancel);
    assert!(matches!(world.propose(3, cancel()).await, JobAnswer::Forbidden { .. }));
    for command in [
        Command::store(JOB, StoreCommand::Abandon { upload_seq: 0 }),
        Command::store(JOB, StoreCommand::AddHolders { grants: Vec::new(), exhausted: false }),
        Command::store(JOB, StoreCommand::Fail { upload_attempt: None, reason: String::new() }),
        Command::Quorum(QuorumCommand::RaiseLevel { level: 1 }),
        Command::Quorum(QuorumCommand::Noop),
        Command::Object(
            ManifestHash([1; 32]),
            ObjectCommand::Remove { claims: ClaimSelector::All, seen: LogIndex(u64::MAX), force: true },
        ),
        Command::Object(
            ManifestHash([1; 32]),
            ObjectCommand::Remove { claims: ClaimSelector::OwnedBy(peer(3)), seen: LogIndex(u64::MAX), force: false },
        ),
    ] {
        // Not even the owner.
        let answer = world.propose(2, command).await;
        assert!(matches!(answer, JobAnswer::Forbidden { .. }), "{answer:?}");
    }
    assert!(matches!(world.propose(8, cancel()).await, JobAnswer::Reply(Ok(_))), "an operator may");
}

/// Goal: a lease's id leaves the quorum for its holder and its uploader alone.
#[tokio::test(start_paused = true)]
async fn a_query_names_leases_to_those_alone_whom_they_concern() {
    let world = world(Arc::new(StateQuorums(StateQuorum::new(1))));
    assert!(matches!(world.propose(2, submit(2)).await, JobAnswer::Reply(Ok(_))));
    let grants = vec![Grant { holder: member(4), lease: LeaseId([7; 16]) }];
    let add = Command::store(JOB, StoreCommand::AddHolders { grants, exhausted: false });
    assert!(matches!(world.propose(1, add).await, JobAnswer::Reply(Ok(_))));
    let query = JobMessage::Query { quorum: QUORUM, query: Query::Job { job: JOB }, stale: true };
    for (reader, lease) in [(1, 7), (2, 7), (3, 0), (4, 7), (8, 0)] {
        let answer = world.ask_raw(reader, wire::encode(&query)).await;
        let JobAnswer::Answer(QueryAnswer::Job(record)) = answer else { panic!("{answer:?}") };
        let columns = &record.store().unwrap().1.columns;
        assert_eq!(columns[0].grant.unwrap().lease, LeaseId([lease; 16]), "peer {reader}");
    }
}

/// Goal: a job is followed from everywhere, and what it is given and comes to is for whom the table of rights names.
#[tokio::test(start_paused = true)]
async fn a_stranger_sees_where_a_job_stands_and_neither_its_secrets_nor_its_results() {
    const OWNER: u8 = 2;
    const READER: u8 = 3;
    const STRANGER: u8 = 9;
    let world = world(Arc::new(StateQuorums(StateQuorum::new(1))));
    let mut call = Call::new(Program::Command { name: "work".to_owned() });
    call.env.insert("TOKEN".to_owned(), "secret".to_owned());
    let spec = JobSpec::batch(BatchSpec { readers: BTreeSet::from([peer(READER)]), ..BatchSpec::new(call) });
    let submitted = world.propose(OWNER, Command::submit(&key(OWNER), JOB, spec)).await;
    assert!(matches!(submitted, JobAnswer::Reply(Ok(_))), "{submitted:?}");
    for (asker, may) in [(OWNER, true), (READER, true), (8, true), (STRANGER, false)] {
        let ask =
            |query| world.ask_raw(asker, wire::encode(&JobMessage::Query { quorum: QUORUM, query, stale: false }));
        let shown = ask(Query::Job { job: JOB }).await;
        assert!(matches!(&shown, JobAnswer::Answer(QueryAnswer::Job(_))), "{shown:?}");
        assert_eq!(format!("{shown:?}").contains("secret"), may, "peer {asker}: {shown:?}");
        let results = ask(Query::Outputs { job: JOB, step: StepIndex(0), from: TaskIndex(0), limit: 1 }).await;
        match may {
            true => assert!(matches!(results, JobAnswer::Answer(QueryAnswer::Outputs(_))), "{results:?}"),
            false => assert!(matches!(&results, JobAnswer::Forbidden { reason } if reason.contains("readers"))),
        }
        let entry = WatchEntry { id: EntryId(1), local: JOB.local, until: Until::Changed { since: LogIndex(0) } };
        let (added, dropped) = (vec![entry], Vec::new());
        let watch = WatchRequest { quorum: QUORUM, session: 1, number: 1, base: 0, added, dropped, wait_ms: 1 };
        let watched = world.ask_raw(asker, wire::encode(&JobMessage::Watch(watch))).await;
        assert!(matches!(&watched, JobAnswer::Watched(_)), "{watched:?}");
        assert_eq!(format!("{watched:?}").contains("secret"), may, "peer {asker}: {watched:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_submits_without_end_is_told_to_wait() {
    let world = world(Arc::new(StateQuorums(StateQuorum::new(1))));
    let (mut refused, again) = (0, submit(2));
    for _ in 0..1_100 {
        refused += usize::from(matches!(world.propose(2, again.clone()).await, JobAnswer::Forbidden { .. }));
    }
    assert!(refused > 0, "the quota never ran out");
    assert!(matches!(world.propose(3, submit(3)).await, JobAnswer::Reply(_)), "others are not held to it");
}

#[tokio::test(start_paused = true)]
async fn malformed_requests_are_answered_and_penalised_and_strangers_told_so() {
    let world = world(Arc::new(Quorums::default()));
    assert!(matches!(world.ask_raw(2, vec![0xff; 40]).await, JobAnswer::Malformed { .. }));
    assert_eq!(world.net.penalised.lock().len(), 1);
    assert_eq!(world.propose(2, Command::Quorum(QuorumCommand::Noop)).await, JobAnswer::NotMember);
}

#[tokio::test(start_paused = true)]
async fn a_backup_names_the_primary_instead_of_acting() {
    let quorum = StateQuorum::new(1);
    quorum.set_term(None);
    let world = world(Arc::new(StateQuorums(quorum.clone())));
    assert!(matches!(world.propose(2, submit(2)).await, JobAnswer::NotPrimary { .. }));
    assert!(quorum.read(|state| state.jobs().is_empty()));
}

/// Goal: who asks while a primary is being elected hears of the winner when there is one, and not that there is none.
#[tokio::test(start_paused = true)]
async fn a_backup_that_misses_its_primary_holds_a_question_until_there_is_one() {
    let quorum = StateQuorum::new(1);
    // As long as an election takes over links like these.
    let latency = Latency { round_trip: Duration::from_millis(150), sync: Duration::ZERO };
    *quorum.latency.lock() = latency;
    let wait = election_wait(latency);
    assert!(wait > ELECTION_WAIT_MIN);
    quorum.electing.store(true, std::sync::atomic::Ordering::Relaxed);
    quorum.set_term(None);
    let world = world(Arc::new(StateQuorums(quorum.clone())));
    let started = tokio::time::Instant::now();
    let electing = async {
        tokio::time::sleep(wait / 3).await;
        assert_eq!(world.handling.get(), 1, "the question is held");
        quorum.set_term(Some(Term(2)));
    };
    let (answer, ()) = tokio::join!(world.propose(2, submit(2)), electing);
    assert!(matches!(answer, JobAnswer::Reply(Ok(_))), "{answer:?}");
    assert_eq!(started.elapsed().as_millis(), wait.as_millis() / 3);
    tokio::task::yield_now().await;
    assert_eq!(world.handling.get(), 0);
    // Not for longer than it takes to elect one: another member may know more.
    quorum.set_term(None);
    let started = tokio::time::Instant::now();
    assert!(matches!(world.propose(2, submit(2)).await, JobAnswer::NotPrimary { .. }));
    assert_eq!(started.elapsed().as_millis(), wait.as_millis());
}
