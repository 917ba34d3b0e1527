//! The client against scripted members, under virtual time.

use std::sync::atomic::{AtomicU32, Ordering};

use quorate_protocols::ids::{JobId, LogIndex};
use quorate_protocols::job::limits::MESSAGE_BYTES_MAX;
use quorate_protocols::job::{JobSpec, StoreSpec};
use quorate_protocols::object::Profile;
use quorate_protocols::quorum::{Control, QuorumCommand};

use super::*;
use crate::primary::PrimaryServices;
use crate::quorums::authority::Authority;
use crate::seams::Seams;
use crate::testing::quorums::{
    Known, QUORUM, Quorums, Reaction, ScriptedNet, ScriptedQuorum, StateQuorum, StateQuorums, key, member, membership,
    peer, seams,
};
use crate::testing::standings::Believed;

fn client(net: Arc<ScriptedNet>, knowledge: Arc<Known>, quorums: Arc<dyn LocalQuorums>) -> QuorumClient {
    client_believing(Believed::all_but([]), net, knowledge, quorums)
}

fn client_believing(
    standings: Arc<Believed>,
    net: Arc<ScriptedNet>,
    knowledge: Arc<Known>,
    quorums: Arc<dyn LocalQuorums>,
) -> QuorumClient {
    let primary = Arc::new(PrimaryServices::new(quorums.clone(), Arc::new(Known::default())));
    let requests = RequestServer { this_node: net.local_peer(), authority: Authority::default(), primary };
    let Seams { entropy, tasks, .. } = seams(1);
    QuorumClient::new(ClientParts { net, quorums, knowledge, standings, entropy, requests, tasks })
}

fn no_quorums() -> Arc<dyn LocalQuorums> {
    Arc::new(Quorums::default())
}

fn done() -> Reaction {
    Reaction::answer(&JobAnswer::Reply(Ok(CommandReply::Done)))
}

fn not_primary(primary: u8) -> Reaction {
    let voters = vec![member(1), member(2), member(3)];
    Reaction::answer(&JobAnswer::NotPrimary { primary: Some(member(primary)), voters })
}

const DEADLINE_10: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_backup_redirects_to_the_primary_and_the_next_call_starts_there() {
    let net = ScriptedNet::new(peer(9), |to, _, _| if to == peer(3) { done() } else { not_primary(3) });
    let known = Known::with_members(&[member(1), member(2), member(3)]);
    let client = client(net.clone(), known.clone(), no_quorums());
    let speaker = Speaker { peer: peer(3), voters: vec![peer(3)] };
    assert_eq!(
        client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap(),
        (CommandReply::Done, speaker),
        "the word is the primary's, and not that of the backup that named it"
    );
    assert_eq!(net.asked(), [peer(1), peer(3)]);
    assert_eq!(known.learnt.lock().len(), 1, "the directory learns what the backup said");
    client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    assert_eq!(net.asked(), [peer(1), peer(3), peer(3)]);
}

/// Goal: whoever cannot show that it is a voter is asked nothing, whatever it would answer.
#[tokio::test(start_paused = true)]
async fn a_stranger_that_says_it_leads_is_asked_nothing() {
    let net = ScriptedNet::new(peer(9), |_, _, _| done());
    let knowledge = Known::with_members(&[member(1), member(2)]);
    let client = client_believing(Believed::all_but([peer(1)]), net.clone(), knowledge, no_quorums());
    client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    assert_eq!(net.asked(), [peer(2)]);
}

#[tokio::test(start_paused = true)]
async fn refused_dials_and_one_silent_peer_do_not_cost_the_deadline() {
    let net = ScriptedNet::new(peer(9), |to, _, _| match to {
        to if to == peer(1) => Reaction::Unreachable,
        to if to == peer(2) => Reaction::Silent,
        _ => done(),
    });
    let client = client(net, Known::with_members(&[member(1), member(2), member(3)]), no_quorums());
    let started = Instant::now();
    client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    assert!(started.elapsed() < TRY_MIN + Duration::from_millis(10), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_member_far_away_is_asked_once_and_given_the_time_that_its_link_takes() {
    let net = ScriptedNet::new(peer(9), |_, _, _| done());
    *net.round_trip.lock() = Some(Duration::from_millis(400));
    *net.answers_after.lock() = Duration::from_millis(2_000);
    let client = client(net.clone(), Known::with_members(&[member(1), member(2)]), no_quorums());
    client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    assert_eq!(net.asked().len(), 1);
}

/// Goal: a quorum on slow disks is not asked for the same commit again and again, once it is known.
#[tokio::test(start_paused = true)]
async fn a_quorum_whose_commits_take_long_is_known_after_the_first() {
    let net = ScriptedNet::new(peer(9), |_, _, _| done());
    *net.answers_after.lock() = Duration::from_millis(4_400);
    let client = client(net.clone(), Known::with_members(&[member(1)]), no_quorums());
    client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    let before = net.asked().len();
    assert!(before > 1, "nothing was known of it");
    client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    assert_eq!(net.asked().len(), before + 1);
}

/// Goal: the patience that a slow quorum has earned is not spent on a member that died.
#[tokio::test(start_paused = true)]
async fn a_long_wait_for_a_member_ends_when_it_is_known_to_be_absent() {
    let dead = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let script = dead.clone();
    let net = ScriptedNet::new(peer(9), move |to, _, _| match to == peer(1) && script.load(Ordering::Relaxed) {
        true => Reaction::Silent,
        false => done(),
    });
    *net.answers_after.lock() = Duration::from_millis(4_400);
    let client = client(net.clone(), Known::with_members(&[member(1), member(2)]), no_quorums());
    client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    client.remember_primary(QUORUM, peer(1));
    dead.store(true, Ordering::Relaxed);
    let started = Instant::now();
    let noticed = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        net.absent.lock().insert(peer(1));
    };
    let (done, ()) = tokio::join!(client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10), noticed);
    done.unwrap();
    assert!(started.elapsed() < Duration::from_millis(2_300 + 4_400), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_failover_is_bridged_with_short_pauses() {
    // Nobody leads for the first twelve questions.
    let asked = AtomicU32::new(0);
    let net = ScriptedNet::new(peer(9), move |_, _, _| {
        if asked.fetch_add(1, Ordering::Relaxed) < 12 {
            let voters = vec![member(1), member(2), member(3)];
            return Reaction::answer(&JobAnswer::NotPrimary { primary: None, voters });
        }
        done()
    });
    let client = client(net, Known::with_members(&[member(1), member(2), member(3)]), no_quorums());
    let started = Instant::now();
    client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    // Four rounds over three members, and the pauses 25, 50, 100, 200 ms with up to half as jitter.
    assert!(started.elapsed() < Duration::from_millis(600), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn silence_leaves_a_command_unknown_and_a_question_unanswered() {
    let net = ScriptedNet::new(peer(9), |_, _, _| Reaction::Silent);
    let client = client(net, Known::with_members(&[member(1)]), no_quorums());
    let started = Instant::now();
    let error = client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
    assert!(started.elapsed() <= DEADLINE_10);
    let error = client.query(QUORUM, Query::Quorum, false, DEADLINE_10).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_quorum_is_reported_as_paused_with_its_reason() {
    let net = ScriptedNet::new(peer(9), |_, _, _| {
        Reaction::answer(&JobAnswer::Paused { reason: "two of three members are silent".into() })
    });
    let client = client(net, Known::with_members(&[member(1)]), no_quorums());
    let error = client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Paused { reason, .. } if reason.contains("silent")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_quorum_is_found_through_a_provider_that_proves_itself() {
    let net = ScriptedNet::new(peer(9), |to, _, frame| {
        match wire::decode::<JobMessage>(&frame.head, MESSAGE_BYTES_MAX).unwrap() {
            // Node 5 signs in the name of node 1: a forgery that must lead nowhere.
            JobMessage::Membership { .. } if to == peer(5) => {
                Reaction::answer(&JobAnswer::Membership(membership(1, QUORUM, vec![member(5)])))
            }
            JobMessage::Membership { .. } => {
                Reaction::answer(&JobAnswer::Membership(membership(4, QUORUM, vec![member(1), member(4)])))
            }
            _ if to == peer(1) => done(),
            _ if to == peer(5) => panic!("a forger is not asked to commit"),
            _ => not_primary(1),
        }
    });
    *net.providers.lock() = vec![peer(5), peer(4)];
    let client = client(net.clone(), Arc::default(), no_quorums());
    client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    assert_eq!(net.penalised.lock().iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [peer(5)]);
}

/// Goal: who knew nobody but the primary finds the others when it dies, although its last command may have acted.
#[tokio::test(start_paused = true)]
async fn the_loss_of_the_only_member_known_sends_the_client_to_the_providers() {
    let dead = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let script = dead.clone();
    let net = ScriptedNet::new(peer(9), move |to, _, frame| match wire::decode::<JobMessage>(&frame.head, 4096) {
        Ok(JobMessage::Membership { .. }) => {
            Reaction::answer(&JobAnswer::Membership(membership(2, QUORUM, vec![member(2), member(1), member(3)])))
        }
        _ if to == peer(1) && script.load(Ordering::Relaxed) => Reaction::Silent,
        _ => done(),
    });
    let client = client(net.clone(), Known::with_members(&[member(1)]), no_quorums());
    client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    dead.store(true, Ordering::Relaxed);
    net.providers.lock().push(peer(2));
    let started = Instant::now();
    client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    assert!(started.elapsed() < TRY_MIN + Duration::from_millis(50), "{:?}", started.elapsed());
}

/// Goal: a quorum is unknown only when those who were asked know nothing of it. Method: nobody provides it, before this
/// node hears anybody, then beside a peer, then with members that are down, then with a peer that has left it.
#[tokio::test(start_paused = true)]
async fn a_quorum_is_unknown_when_nobody_heard_knows_it_and_unreachable_when_nobody_answers() {
    let ask = async |net: Arc<ScriptedNet>, known: Arc<Known>| {
        let (client, started) = (client(net, known, no_quorums()), Instant::now());
        let error = client.query(QUORUM, Query::Quorum, false, Duration::from_secs(60)).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        error
    };
    let net = ScriptedNet::new(peer(9), |_, _, _| Reaction::Unreachable);
    let error = ask(net.clone(), Arc::default()).await;
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    net.connected.lock().insert(peer(1));
    let error = ask(net.clone(), Arc::default()).await;
    assert!(matches!(error, ClientError::QuorumUnknown { .. }), "{error}");
    let error = ask(net, Known::with_members(&[member(2)])).await;
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    let net = ScriptedNet::new(peer(9), |_, _, _| Reaction::answer(&JobAnswer::NotMember));
    net.connected.lock().insert(peer(1));
    let error = ask(net, Known::with_members(&[member(1)])).await;
    assert!(matches!(error, ClientError::QuorumUnknown { .. }), "{error}");
}

/// Goal: whoever waits for a primary that stands still goes to the next as soon as that is announced. Method: member 1
/// says nothing; after half a second the directory hears of a later term.
#[tokio::test(start_paused = true)]
async fn a_question_to_a_silent_primary_ends_when_a_later_term_is_announced() {
    let net = ScriptedNet::new(peer(9), |to, _, _| match to {
        to if to == peer(1) => Reaction::Silent,
        to if to == peer(2) => not_primary(3),
        _ => done(),
    });
    *net.round_trip.lock() = Some(Duration::from_secs(1));
    let known = Known::with_members(&[member(1), member(2), member(3)]);
    let client = client(net.clone(), known.clone(), no_quorums());
    client.remember_primary(QUORUM, peer(1));
    let announced = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        known.quorums.lock().get_mut(&QUORUM).unwrap().term = Term(2);
    };
    let started = Instant::now();
    let (done, ()) = tokio::join!(client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10), announced);
    done.unwrap();
    assert!(started.elapsed() < Duration::from_millis(800), "{:?}", started.elapsed());
    assert_eq!(net.asked(), [peer(1), peer(2), peer(3)]);
}

#[tokio::test(start_paused = true)]
async fn the_state_machines_refusal_is_final() {
    let refusal = Rejection::Invalid { reason: "no".into() };
    let answer = JobAnswer::Reply(Err(refusal.clone()));
    let net = ScriptedNet::new(peer(9), move |_, _, _| Reaction::answer(&answer));
    let client = client(net.clone(), Known::with_members(&[member(1), member(2)]), no_quorums());
    let error = client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap_err();
    assert!(matches!(error, ClientError::Rejected(found) if found == refusal));
    assert_eq!(net.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_leading_member_is_asked_in_process() {
    let net = ScriptedNet::new(peer(9), |_, _, _| panic!("no need for the network"));
    let quorum = Arc::new(ScriptedQuorum::leading(9));
    let client = client(net, Arc::default(), Quorums::of(quorum.clone()));
    let (_, speaker) = client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    assert_eq!(*quorum.proposed.lock(), [(peer(9), Command::Quorum(QuorumCommand::Noop))]);
    assert_eq!(speaker.peer, peer(9));
}

/// Goal: what a member refuses a peer, it refuses its own node, in the same words.
#[tokio::test(start_paused = true)]
async fn a_node_that_leads_is_held_to_the_same_rules_as_its_peers() {
    let quorum = StateQuorum::new(9);
    let job = JobId { quorum: QUORUM, local: [1; 16] };
    let spec = StoreSpec { name: None, size: None, profile: Profile { data: 2, parity: 1 } };
    quorum.commit(peer(2), Command::submit(&key(2), job, JobSpec::store(spec))).unwrap();
    let net = ScriptedNet::new(peer(9), |_, _, _| panic!("no need for the network"));
    let client = client(net, Arc::default(), Arc::new(StateQuorums(quorum.clone())));
    let error = client
        .propose(QUORUM, Command::control(job, LogIndex(u64::MAX), Control::Cancel), DEADLINE_10)
        .await
        .unwrap_err();
    assert!(matches!(&error, ClientError::Forbidden { reason } if reason.contains("belongs to")), "{error}");
    assert!(quorum.read(|state| !state.jobs().get(&job).unwrap().state.is_final()));
}

/// Goal: a control is of the job as its sender found it; of a job that is not there, none is sent.
#[tokio::test(start_paused = true)]
async fn a_control_is_of_the_job_as_it_was_found() {
    let quorum = StateQuorum::new(9);
    let job = JobId { quorum: QUORUM, local: [1; 16] };
    let net = ScriptedNet::new(peer(9), |_, _, _| panic!("no need for the network"));
    let client = client(net, Arc::default(), Arc::new(StateQuorums(quorum.clone())));
    let error = client.control(job, Control::Cancel, DEADLINE_10).await.unwrap_err();
    assert!(matches!(&error, ClientError::Rejected(Rejection::UnknownJob { .. })), "{error}");
    let spec = StoreSpec { name: None, size: None, profile: Profile { data: 2, parity: 1 } };
    quorum.commit(peer(9), Command::submit(&key(9), job, JobSpec::store(spec))).unwrap();
    client.control(job, Control::Cancel, DEADLINE_10).await.unwrap();
    assert!(quorum.read(|state| state.jobs().get(&job).unwrap().state.is_final()));
}

/// Goal: a client whose try was not answered, and that finds another's control in its place, does not say that nothing
/// happened, and does not do it again.
#[tokio::test(start_paused = true)]
async fn who_cannot_know_whether_its_control_was_applied_says_so() {
    let job = JobId { quorum: QUORUM, local: [1; 16] };
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let net = ScriptedNet::new(peer(9), move |_, _, _| {
        let answer = match count.fetch_add(1, Ordering::Relaxed) {
            0 => JobAnswer::Unknown { reason: None },
            _ => JobAnswer::Reply(Err(Rejection::Superseded { job, controlled: true })),
        };
        Reaction::answer(&answer)
    });
    let client = client(net, Known::with_members(&[member(1)]), no_quorums());
    let cancel = || Command::control(job, LogIndex(1), Control::Cancel);
    let error = client.propose(QUORUM, cancel(), DEADLINE_10).await.unwrap_err();
    assert!(matches!(&error, ClientError::Unknown { reason: Some(_), .. }), "{error}");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let error = client.propose(QUORUM, cancel(), DEADLINE_10).await.unwrap_err();
    assert!(matches!(&error, ClientError::Rejected(Rejection::Superseded { .. })), "{error}: its only try was refused");
}

#[tokio::test(start_paused = true)]
async fn why_an_outcome_is_unknown_is_told_by_peers_too() {
    let reason = "the primary stepped down".to_owned();
    let answer = JobAnswer::Unknown { reason: Some(reason.clone()) };
    let net = ScriptedNet::new(peer(9), move |_, _, _| Reaction::answer(&answer));
    let client = client(net, Known::with_members(&[member(1)]), no_quorums());
    let error = client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Unknown { reason: Some(told), .. } if *told == reason), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_is_penalised_and_the_next_member_asked() {
    let net =
        ScriptedNet::new(
            peer(9),
            |to, _, _| {
                if to == peer(1) { Reaction::Answer(Frame::head(vec![255, 255])) } else { done() }
            },
        );
    let client = client(net.clone(), Known::with_members(&[member(1), member(2)]), no_quorums());
    client.propose(QUORUM, Command::Quorum(QuorumCommand::Noop), DEADLINE_10).await.unwrap();
    assert_eq!(net.penalised.lock().len(), 1);
}

#[test]
fn routes_stay_bounded_and_forget_the_one_used_longest_ago() {
    let mut routes = Routes::default();
    let id = |n: usize| QuorumId((n as u128).to_le_bytes());
    for n in 0..ROUTES_MAX {
        routes.change(id(n), |route| route.primary = Some(peer(1)));
    }
    routes.read(id(0));
    routes.change(id(ROUTES_MAX), |route| route.members = vec![peer(2); 1000]);
    assert_eq!(routes.known.len(), ROUTES_MAX);
    assert!(routes.known.contains_key(&id(0)) && !routes.known.contains_key(&id(1)));
    assert_eq!(routes.known[&id(ROUTES_MAX)].members.len(), MEMBERS_MAX);
}
