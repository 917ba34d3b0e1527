//! Batches, limits and reads.

use std::pin::pin;

use futures::future::join_all;
use prometheus_client::registry::Registry;
use quorate_protocols::ids::{Attempt, LogIndex};
use quorate_protocols::quorum::StoreCommand;
use quorate_protocols::quorum::limits::{BATCH_COMMANDS_MAX, COMMAND_BYTES_MAX, PROPOSALS_MAX, PROPOSER_RATES};
use quorate_protocols::quorum::request::{Query, QueryAnswer};

use super::*;
use crate::testing::metrics::value;

#[tokio::test(start_paused = true)]
async fn commands_that_wait_share_an_entry() {
    let net = TestNet::founded(3, 3).await;
    let quorum = net.nodes[net.led().await].quorum();
    let before = quorum.view().applied.0;
    let replies = join_all((0..BATCH_COMMANDS_MAX).map(|_| noop(&quorum))).await;
    assert!(replies.iter().all(|reply| matches!(reply, Ok(Ok(CommandReply::Done)))));
    let entries = quorum.view().applied.0 - before;
    assert!(entries <= 2, "{entries} entries for {BATCH_COMMANDS_MAX} commands");
}

#[tokio::test(start_paused = true)]
async fn replies_belong_to_their_commands() {
    let net = TestNet::founded(3, 3).await;
    let quorum = net.nodes[net.led().await].quorum();
    let proposals = (0..100).map(|number| quorum.propose(owner(), submit(number % 50), Duration::from_secs(5)));
    let replies = join_all(proposals).await;
    for (number, reply) in replies.into_iter().enumerate() {
        let Ok(Ok(CommandReply::Submitted { existed, .. })) = reply else { panic!("{reply:?}") };
        assert_eq!(existed, number >= 50, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_a_large_command_is_never_proposed() {
    let net = TestNet::founded(3, 3).await;
    let quorum = net.nodes[net.led().await].quorum();
    let mut registry = Registry::default();
    net.nodes[net.led().await].host().register_metrics(&mut registry);
    let queued = || value(&registry, "quorate_quorum_proposals_queued");
    assert_eq!(queued(), 0.0);
    let mut proposals = pin!(join_all((0..PROPOSALS_MAX + BATCH_COMMANDS_MAX).map(|_| noop(&quorum))));
    assert!(futures::poll!(proposals.as_mut()).is_pending());
    assert!(queued() > 0.0, "nobody has taken any yet");
    let replies = proposals.await;
    assert_eq!(queued(), 0.0);
    let busy = replies.iter().filter(|reply| matches!(reply, Err(QuorumError::Busy { .. }))).count();
    let done = replies.iter().filter(|reply| matches!(reply, Ok(Ok(_)))).count();
    assert!(busy > 0 && done >= PROPOSALS_MAX && busy + done == replies.len(), "{busy} busy, {done} done");
    let spec =
        StoreSpec { name: Some("x".repeat(COMMAND_BYTES_MAX)), size: None, profile: Profile { data: 2, parity: 1 } };
    let command = Command::submit(&owner_key(), JobId { quorum: quorum_id(), local: [0; 16] }, JobSpec::store(spec));
    let refused = quorum.propose(owner(), command, Duration::from_secs(5)).await;
    assert!(matches!(refused, Err(QuorumError::TooLarge { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn reads_see_what_was_acknowledged_and_backups_send_them_on() {
    let net = TestNet::founded(3, 3).await;
    net.commit(submit(1)).await.unwrap();
    let Command::Job(job, JobCommand::Submit { .. }) = submit(1) else { unreachable!() };
    let answer = net.nodes[0].quorum().query(Query::Job { job }, false).await;
    assert!(matches!(answer, Ok(QueryAnswer::Job(_))), "{answer:?}");
    let refused = net.nodes[1].quorum().query(Query::Job { job }, false).await;
    let primary = Some(net.nodes[0].member());
    assert!(matches!(refused, Err(QuorumError::NotPrimary { primary: to, .. }) if to == primary));
    net.converged(&[0, 1, 2]).await;
    let stale = net.nodes[1].quorum().query(Query::Job { job }, true).await;
    assert!(matches!(stale, Ok(QueryAnswer::Job(_))), "{stale:?}");
}

fn end_of_log(quorum: &Quorum) -> LogIndex {
    quorum.progress().expect("a member").last_log
}

fn fail(job: JobId, reason: String) -> Command {
    Command::store(job, StoreCommand::Fail { upload_attempt: Some(Attempt(1)), reason })
}

/// Goal: a command that is refused, or known already, costs no log on any disk; and only a primary that is one says so.
#[tokio::test(start_paused = true)]
async fn commands_that_change_nothing_are_answered_without_an_entry() {
    let net = TestNet::founded(3, 3).await;
    net.commit(submit(1)).await.unwrap();
    let node = &net.nodes[net.led().await];
    let stranger = SigningKey::from_bytes(&[99; 32]);
    let Command::Job(job, JobCommand::Submit { spec, .. }) = submit(1) else { unreachable!() };
    let theirs = Command::submit(&stranger, job, spec);
    let (quorum, owner, stranger) = (node.quorum(), owner(), PeerId(stranger.verifying_key().to_bytes()));
    let unknown = JobId { local: [250; 16], ..job };
    let propose = |by, command| quorum.propose(by, command, Duration::from_secs(5));
    let before = end_of_log(&quorum);
    let again = propose(owner, submit(1)).await;
    assert!(matches!(again, Ok(Ok(CommandReply::Submitted { existed: true, .. }))), "{again:?}");
    assert_eq!(propose(stranger, theirs).await, Ok(Err(Rejection::Conflict { job })));
    let refused = propose(stranger, fail(unknown, String::new())).await;
    assert_eq!(refused, Ok(Err(Rejection::UnknownJob { job: unknown })));
    let refused = propose(stranger, fail(job, String::new())).await;
    assert_eq!(refused, Ok(Err(Rejection::NotUploader { job, by: stranger })));
    assert_eq!(end_of_log(&quorum), before);
    assert_eq!(node.host().metrics().foretold.get(), 4);
    // Whoever leads without knowing that it does not any more says nothing for certain.
    net.world.cut_off([node.member().peer]);
    let answer = propose(stranger, fail(unknown, String::new())).await;
    assert!(answer.is_err(), "{answer:?}");
}

/// Goal: who sends more than its share waits; others, and the node's own duties, do not.
#[tokio::test(start_paused = true)]
async fn a_peer_that_proposes_without_end_is_told_to_wait_and_no_other_is() {
    let net = TestNet::founded(3, 3).await;
    let node = &net.nodes[net.led().await];
    let (quorum, own) = (node.quorum(), node.member().peer);
    let unknown = JobId { quorum: quorum_id(), local: [250; 16] };
    let flood = |by| quorum.propose(by, fail(unknown, "x".repeat(COMMAND_BYTES_MAX / 2)), Duration::from_secs(5));
    let (greedy, other) = (PeerId([98; 32]), PeerId([99; 32]));
    let mut taken = 0;
    let refused = loop {
        match flood(greedy).await {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, QuorumError::TooFast { by, .. } if by == greedy), "{refused:?}");
    assert!(taken as u64 * (COMMAND_BYTES_MAX as u64 / 2) >= PROPOSER_RATES.bytes_burst / 2, "{taken} were taken");
    assert!(flood(other).await.is_ok() && flood(own).await.is_ok());
    assert_eq!(node.host().metrics().refused_fast.get(), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(flood(greedy).await.is_ok());
}
