//! Crashes, cuts, and disks that are lost or full.

use quorate_protocols::quorum::limits::LOG_BYTES_MAX;
use quorate_testkit::disk::Backup;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_killed_primary_is_replaced_within_a_second_and_nothing_acknowledged_is_lost() {
    let mut net = TestNet::founded(3, 3).await;
    for number in 0..50 {
        net.commit(submit(number)).await.unwrap();
    }
    let killed_at = Instant::now();
    net.crash(0);
    net.commit(submit(50)).await.unwrap();
    let took = killed_at.elapsed();
    assert!(took < Duration::from_millis(300), "{took:?}");
    net.converged(&[1, 2]).await;
    assert_eq!(jobs(&net.nodes[1]), 51);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_member_catches_up_from_its_disk() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    net.crash(2);
    for number in 1..10 {
        net.commit(submit(number)).await.unwrap();
    }
    net.start(2).await;
    net.converged(&[0, 1, 2]).await;
    assert_eq!(jobs(&net.nodes[2]), 10);
    // And when all of them fall at once, the disks remember.
    (0..3).for_each(|index| net.crash(index));
    for index in 0..3 {
        net.start(index).await;
    }
    net.commit(submit(10)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    assert_eq!(jobs(&net.nodes[0]), 11);
}

/// Goal: what was remembered for a time of being led is remembered through an outage, however long.
#[tokio::test(start_paused = true)]
async fn time_without_a_majority_does_not_count_as_led() {
    const MINUTES: Duration = Duration::from_secs(600);
    let mut net = TestNet::founded(3, 3).await;
    let led = |net: &TestNet| net.nodes[0].group().machine.read(|applied| applied.state.led_time());
    net.commit(submit(0)).await.unwrap();
    let before = led(&net);
    tokio::time::sleep(MINUTES).await;
    net.commit(submit(1)).await.unwrap();
    let quiet = led(&net).since(before);
    assert!(quiet >= MINUTES && quiet < MINUTES + Duration::from_secs(1), "{quiet:?} led in quiet {MINUTES:?}");

    let (before, terms) = (led(&net), net.terms());
    net.crash(1);
    net.crash(2);
    tokio::time::sleep(MINUTES).await;
    net.start(1).await;
    net.start(2).await;
    net.commit(submit(2)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    assert_eq!(net.terms(), terms, "one lead, from before the outage until after it");
    let alone = led(&net).since(before);
    assert!(alone < Duration::from_secs(5), "{alone:?} led without a majority");
}

#[tokio::test(start_paused = true)]
async fn a_primary_restarted_before_anyone_noticed_must_be_elected_again() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let term = net.terms()[0];
    net.crash(0);
    net.start(0).await;
    net.commit(submit(1)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    assert!(net.terms().iter().all(|now| *now > term), "{:?} after {term:?}", net.terms());
    assert_eq!(jobs(&net.nodes[0]), 2);
}

/// Goal: synced entries that a primary's disk forgets within the mark's second are not forgotten by the quorum.
/// Method: bring the store back as it was just after a mark, and start the node before anyone missed it.
#[tokio::test(start_paused = true)]
async fn a_primary_whose_disk_forgot_less_than_the_mark_tells_does_not_lead_with_what_is_left() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    tokio::time::sleep(2 * crate::raft::rollback_guard::INDEX_INTERVAL).await;
    net.commit(submit(1)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let marked = net.nodes[0].disk.back_up();
    for number in 2..6 {
        net.commit(submit(number)).await.unwrap();
    }
    net.converged(&[0, 1, 2]).await;
    net.crash(0);
    net.nodes[0].disk.restore(marked);
    assert_eq!(lost(&net, 0).await, vec![], "the loss is younger than the mark");
    net.start(0).await;
    net.commit(submit(6)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    assert_eq!(net.nodes.iter().map(jobs).collect::<Vec<_>>(), vec![7; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_primary_without_its_majority_pauses_and_steps_down_when_it_hears_the_others() {
    let net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let old = net.nodes[0].quorum();
    let mut events = net.nodes[0].host().events();
    net.world.cut_off([net.nodes[0].member().peer]);
    let orphan = old.propose(owner(), submit(1), Duration::from_secs(3)).await;
    assert!(matches!(orphan, Err(QuorumError::Unknown { .. })), "{orphan:?}");
    let paused = old.propose(owner(), submit(2), Duration::from_secs(3)).await;
    assert!(matches!(paused, Err(QuorumError::Paused { .. })), "{paused:?}");
    assert!(old.leading().is_none() && old.duties().is_empty() && old.view().paused.is_some());
    // The others go on without it.
    net.commit(submit(3)).await.unwrap();
    assert_ne!(net.led().await, 0);
    net.world.heal();
    net.converged(&[0, 1, 2]).await;
    net.until("the first is heard again", |net| net.nodes[0].quorum().view().paused.is_none().then_some(())).await;
    assert!(net.nodes[0].quorum().leading().is_none());
    let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    assert!(told.iter().any(|event| matches!(event, HostEvent::NotLeading { .. })));
    assert!(told.iter().any(|event| matches!(event, HostEvent::Paused { .. })));
    assert!(told.iter().any(|event| matches!(event, HostEvent::Unpaused { .. })));
    assert!(net.commit(submit(4)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_was_cut_off_raises_no_term_and_disturbs_nobody() {
    let net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let before = net.terms();
    net.world.cut_off([net.nodes[2].member().peer]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    net.commit(submit(1)).await.unwrap();
    net.world.heal();
    net.converged(&[0, 1, 2]).await;
    assert_eq!(net.terms(), before);
}

/// Goal: a member that lags behind the log gets a snapshot, and fetches only the chunks that it has not.
#[tokio::test(start_paused = true)]
async fn a_member_far_behind_fetches_only_the_chunks_it_lacks() {
    let mut net = TestNet::founded(3, 3).await;
    for number in 0..400 {
        net.commit(submit(number)).await.unwrap();
    }
    net.converged(&[0, 1, 2]).await;
    compact(&net, 0).await;
    compact(&net, 2).await;
    net.crash(2);
    net.commit(submit(400)).await.unwrap();
    let chunks = compact(&net, 0).await;
    net.start(2).await;
    net.converged(&[0, 1, 2]).await;
    let asked = net.world.chunks_asked();
    assert!(chunks >= 4, "{chunks} chunks");
    // The head and the chunk with the new job.
    assert!((1..=3).contains(&asked), "{asked} of {chunks} chunks were fetched");
    // Without anything of its own, all of them are needed.
    assert_eq!(jobs(&net.nodes[2]), 401);
}

/// Snapshots a node's group and drops the log behind it; the number of chunks.
async fn compact(net: &TestNet, index: usize) -> usize {
    let group = net.nodes[index].group();
    let end = group.raft.metrics().borrow().last_applied;
    group.raft.trigger().snapshot().await.unwrap();
    let taken = group.raft.wait(Some(PATIENCE)).metrics(|metrics| metrics.snapshot >= end, "a snapshot").await;
    taken.unwrap();
    let end = end.expect("entries were applied");
    group.raft.trigger().purge_log(end.index).await.unwrap();
    group.raft.wait(Some(PATIENCE)).metrics(|metrics| metrics.purged >= Some(end), "a purge").await.unwrap();
    group.snapshots.current().unwrap().expect("a snapshot").1.chunks.len()
}

/// Goal: a few large entries are cut like many small ones, by each member on its own. Method: the last entry is noted
/// as large as a log may become.
#[tokio::test(start_paused = true)]
async fn a_log_is_cut_by_its_bytes() {
    let net = TestNet::founded(3, 3).await;
    for number in 0..20 {
        net.commit(submit(number)).await.unwrap();
    }
    net.converged(&[0, 1, 2]).await;
    for node in &net.nodes {
        let group = node.group();
        let (sizes, heavy) = &*group.log.sizes;
        let (bytes, last) = (sizes.lock().bytes(), group.last_log().index.0);
        assert!(bytes > 20 * 32 && bytes < LOG_BYTES_MAX, "{bytes} bytes");
        sizes.lock().record_entry(last, LOG_BYTES_MAX as usize);
        heavy.notify_one();
        net.until("a log that was cut", |_| {
            let metrics = group.raft.metrics();
            let purged = metrics.borrow().purged;
            purged.is_some_and(|purged| purged.index >= last).then_some(())
        })
        .await;
        assert!(sizes.lock().bytes() < bytes);
    }
    net.commit(submit(20)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
}

/// Goal: what a restart finds in the log counts like what is written after it.
#[tokio::test(start_paused = true)]
async fn a_log_weighs_after_a_restart_what_it_weighed_before() {
    let mut net = TestNet::founded(3, 3).await;
    for number in 0..20 {
        net.commit(submit(number)).await.unwrap();
    }
    net.converged(&[0, 1, 2]).await;
    let bytes = |net: &TestNet| net.nodes[2].group().log.sizes.0.lock().bytes();
    let before = bytes(&net);
    net.crash(2);
    net.start(2).await;
    net.converged(&[0, 1, 2]).await;
    assert!(bytes(&net) >= before / 2, "{} of {before} bytes", bytes(&net));
}

/// Goal: a member whose record store was lost, or restored from a backup, is kept from voting as who it was.
#[tokio::test(start_paused = true)]
async fn a_disk_that_forgot_its_promises_is_noticed() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let backup = net.nodes[2].disk.back_up();
    for number in 1..20 {
        net.commit(submit(number)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    net.crash(2);
    assert_eq!(lost(&net, 2).await, vec![], "an ordinary crash loses no promise");
    net.nodes[2].disk.restore(backup);
    assert_eq!(lost(&net, 2).await, vec![quorum_id()]);
    // Started all the same, in the same incarnation: it takes no part.
    net.start(2).await;
    assert!(net.nodes[2].host().quorum(quorum_id()).is_none());
    net.crash(2);
    net.nodes[2].disk.wipe_records();
    assert_eq!(lost(&net, 2).await, vec![quorum_id()]);
}

/// Goal: of the log and the record store, each that comes back older than the other is noticed.
#[tokio::test(start_paused = true)]
async fn a_log_or_a_record_store_that_came_back_alone_is_noticed() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let before = net.nodes[2].disk.back_up();
    for number in 1..20 {
        net.commit(submit(number)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    net.converged(&[0, 1, 2]).await;
    compact(&net, 2).await;
    net.commit(submit(20)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    net.crash(2);
    assert_eq!(lost(&net, 2).await, vec![], "an ordinary crash loses no promise");
    let after = net.nodes[2].disk.back_up();
    let (disk, none) = (net.nodes[2].disk.clone(), Backup::default());
    for (trees, logs) in [
        (&after.trees, &before.logs),
        (&before.trees, &after.logs),
        (&after.trees, &none.logs),
        (&none.trees, &after.logs),
    ] {
        disk.restore(Backup { trees: trees.clone(), logs: logs.clone() });
        assert_eq!(lost(&net, 2).await, vec![quorum_id()], "{trees:?}, {logs:?}");
    }
    // A snapshot is what a purged log begins with.
    let mut trees = after.trees.clone();
    trees.retain(|tree, _| !tree.ends_with(".meta"));
    disk.restore(Backup { trees, logs: after.logs.clone() });
    assert_eq!(lost(&net, 2).await, vec![quorum_id()]);
    disk.restore(after);
    assert_eq!(lost(&net, 2).await, vec![]);
}

/// Goal: the folder of a build that kept logs among the records is refused, and not taken for one that forgot.
#[tokio::test(start_paused = true)]
async fn the_folder_of_an_older_build_is_refused() {
    let disk = MemoryDisk::default();
    let mut batch = crate::seams::KvBatch::new();
    batch.put("raft.07.meta", "vote", "as it was written then");
    disk.disk().kv.apply(batch).unwrap();
    let tasks = TaskGroup::inline();
    let storage = tasks.scope(async { Storage::start(disk.disk()) }).await;
    let refused = lost_quorums(&storage, MemberId::default()).unwrap_err();
    assert!(refused.to_string().contains("an older build"), "{refused}");
}

/// Goal: what a group left in the log when the process ended in the middle of leaving is gone after a start.
#[tokio::test(start_paused = true)]
async fn the_log_of_a_group_without_a_record_goes_at_the_start() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    net.crash(2);
    let other = QuorumId([9; 16]);
    let log = net.nodes[2].disk.disk().log;
    let mut batch = crate::seams::LogBatch::of(other);
    batch.append(1, vec![b"left over".to_vec()]);
    log.apply(batch).unwrap();
    net.start(2).await;
    assert_eq!(net.nodes[2].disk.disk().log.groups().unwrap(), [quorum_id()]);
    net.commit(submit(1)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
}

async fn lost(net: &TestNet, index: usize) -> Vec<QuorumId> {
    let tasks = TaskGroup::inline();
    let storage = tasks.scope(async { Storage::start(net.nodes[index].disk.disk()) }).await;
    lost_quorums(&storage, net.nodes[index].member()).unwrap()
}

/// Goal: a backup whose disk fills up takes no part while it is full, disturbs nobody, and comes back by itself.
#[tokio::test(start_paused = true)]
async fn a_backup_whose_disk_was_full_catches_up_without_a_restart() {
    let net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let before = net.terms();
    let mut events = net.nodes[2].host().events();
    net.nodes[2].disk.set_full(true);
    for number in 1..10 {
        net.commit(submit(number)).await.unwrap();
    }
    net.until("the member stops", |net| net.nodes[2].group().is_stopped().then_some(())).await;
    // Long enough for many tries: none of them opens a group that could only end again.
    tokio::time::sleep(Duration::from_secs(60)).await;
    net.commit(submit(10)).await.unwrap();
    let member = net.nodes[2].quorum();
    assert!(member.view().paused.is_some_and(|reason| reason.contains("full")) && member.leading().is_none());
    assert!(matches!(noop(&member).await, Err(QuorumError::DiskFull { .. })));
    assert_eq!(net.nodes[2].host().metrics().reopened.get(), 0);
    let refused = net.nodes[2].disk.counts().refused_full;
    assert!((5..=15).contains(&refused), "{refused} writes in a minute: the pause between tries does not grow");
    net.nodes[2].disk.set_full(false);
    net.converged(&[0, 1, 2]).await;
    assert_eq!(jobs(&net.nodes[2]), 11);
    assert_eq!(net.nodes[2].host().metrics().reopened.get(), 1);
    assert_eq!(net.terms(), before);
    assert!(net.nodes[2].quorum().view().paused.is_none());
    // Each change is told once, and so is each entry, although the log was applied anew.
    let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    let count = |wanted: fn(&HostEvent) -> bool| told.iter().filter(|event| wanted(event)).count();
    assert_eq!(count(|event| matches!(event, HostEvent::Paused { .. })), 1);
    assert_eq!(count(|event| matches!(event, HostEvent::Unpaused { .. })), 1);
    let applied = told.iter().filter_map(|event| match event {
        HostEvent::Applied { events, .. } => Some(events.len()),
        _ => None,
    });
    let submitted = net.nodes[0].group().machine.read(|applied| applied.state.jobs().len());
    assert!(applied.sum::<usize>() <= submitted, "events were told twice");
}

/// Goal: a primary whose disk fills up lets another lead soon, tells what is in flight why it is unknown, and leads
/// nothing when it comes back unless it is elected.
#[tokio::test(start_paused = true)]
async fn a_primary_whose_disk_is_full_is_replaced_and_comes_back_as_a_backup() {
    let net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let term = net.terms()[0];
    net.nodes[0].disk.set_full(true);
    let filled_at = Instant::now();
    let old = net.nodes[0].quorum();
    let lost = old.propose(owner(), submit(1), Duration::from_secs(20)).await;
    assert!(
        matches!(&lost, Err(QuorumError::Unknown { reason: Some(reason), .. }) if reason.contains("full")),
        "{lost:?}"
    );
    assert!(filled_at.elapsed() < Duration::from_secs(1), "it hears at once, not at its deadline");
    net.until("it stops", |net| net.nodes[0].group().is_stopped().then_some(())).await;
    assert!(matches!(noop(&old).await, Err(QuorumError::DiskFull { .. })), "what was not proposed did not happen");
    net.commit(submit(2)).await.unwrap();
    let took = filled_at.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_ne!(net.led().await, 0);
    net.nodes[0].disk.set_full(false);
    net.commit(submit(3)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    assert!(jobs(&net.nodes[0]) >= 3);
    let now = net.terms()[0];
    assert!(now.0 <= term.0 + 4, "terms ran from {term} to {now}");
    // And settled.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(net.terms(), vec![now; 3]);
}

/// Goal: when every disk is full nothing is served and nothing is lost; with room again the quorum goes on by itself.
#[tokio::test(start_paused = true)]
async fn a_quorum_whose_disks_were_all_full_goes_on_when_there_is_room() {
    let net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    net.nodes.iter().for_each(|node| node.disk.set_full(true));
    let lost = net.nodes[0].quorum().propose(owner(), submit(1), Duration::from_secs(5)).await;
    assert!(lost.is_err(), "{lost:?}");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(net.nodes.iter().all(|node| node.quorum().leading().is_none()));
    net.nodes.iter().for_each(|node| node.disk.set_full(false));
    net.commit(submit(2)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    assert!(jobs(&net.nodes[1]) >= 2);
}

/// Goal: a primary does not count a member that refuses, although its node answers: when the third one is gone too it
/// says that it is paused, and with room again all goes on.
#[tokio::test(start_paused = true)]
async fn a_member_with_a_full_disk_is_no_part_of_a_majority() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let primary = net.led().await;
    let (full, gone) = ((primary + 1) % 3, (primary + 2) % 3);
    net.nodes[full].disk.set_full(true);
    net.commit(submit(1)).await.unwrap();
    net.until("the member stops", |net| net.nodes[full].group().is_stopped().then_some(())).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(net.led().await, primary, "one refusal disturbs nobody");
    net.crash(gone);
    let quorum = net.nodes[primary].quorum();
    net.until("the primary pauses", |_| quorum.leading().is_none().then_some(())).await;
    assert!(quorum.view().paused.is_some_and(|reason| reason.contains("1 of 3")), "{:?}", quorum.view().paused);
    assert!(matches!(noop(&quorum).await, Err(QuorumError::Paused { .. })));
    net.nodes[full].disk.set_full(false);
    net.commit(submit(2)).await.unwrap();
    net.converged(&[primary, full]).await;
}

/// Goal: a disk that stays full does not leave its quorum one loss short for ever: a standby takes the member's place.
#[tokio::test(start_paused = true)]
async fn a_standby_takes_the_place_of_a_member_whose_disk_stays_full() {
    let mut net = TestNet::founded(4, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let (lost, standby) = (net.nodes[2].member(), net.nodes[3].member());
    net.nodes[2].disk.set_full(true);
    net.commit(submit(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(net.nodes[0].quorum().view().voters.contains(&lost), "a disk may have room again soon");
    net.until("the standby votes", |net| {
        let view = net.nodes[0].quorum().view();
        (view.voters.contains(&standby) && !view.voters.contains(&lost) && view.voters.len() == 3).then_some(())
    })
    .await;
    net.crash(1);
    net.commit(submit(2)).await.unwrap();
    net.converged(&[0, 3]).await;
    // With room again it finds out that it is a member no more.
    net.nodes[2].disk.set_full(false);
    net.start(1).await;
    net.until("the old member leaves", |net| net.nodes[2].host().quorums().is_empty().then_some(())).await;
}

/// Goal: a node that closes while one of its groups waits for room ends at once.
#[tokio::test(start_paused = true)]
async fn a_node_closes_while_its_disk_is_full() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.nodes[2].disk.set_full(true);
    net.commit(submit(1)).await.unwrap();
    net.until("the member stops", |net| net.nodes[2].group().is_stopped().then_some(())).await;
    let (_host, tasks) = net.nodes[2].running.take().unwrap();
    tokio::time::timeout(Duration::from_secs(5), tasks.close()).await.expect("every task ends");
    net.world.unplug(net.nodes[2].member().peer);
    net.nodes[2].disk.set_full(false);
    net.start(2).await;
    net.converged(&[0, 1, 2]).await;
}

#[tokio::test(start_paused = true)]
async fn closing_ends_every_task_and_a_closed_node_starts_again() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    for index in 0..3 {
        let peer = net.nodes[index].member().peer;
        let (host, tasks) = net.nodes[index].running.take().unwrap();
        let refused = async {
            tasks.close().await;
            noop(&host.quorum(quorum_id()).unwrap()).await
        };
        let refused = tokio::time::timeout(Duration::from_secs(10), refused).await.expect("every task ends");
        assert!(refused.is_err(), "{refused:?}");
        net.world.unplug(peer);
    }
    for index in 0..3 {
        net.start(index).await;
    }
    net.commit(submit(1)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    assert_eq!(jobs(&net.nodes[1]), 2);
}
