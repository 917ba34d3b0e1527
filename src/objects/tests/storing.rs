//! Puts.

use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_protocols::ids::QuorumId;
use quorate_protocols::liveness::patience::REPEAT_MIN;
use quorate_protocols::object::{HolderShortage, Profile};
use quorate_protocols::piece::limits::SEGMENTS_IN_MEMORY_MAX;
use quorate_protocols::quorum::Rejection;

use super::*;
use crate::objects::PutPhase;
use crate::quorums::ClientError;

fn known(content: &Bytes) -> PutRequest {
    PutRequest { size: Some(content.len() as u64), ..PutRequest::default() }
}

#[tokio::test(start_paused = true)]
async fn what_is_put_on_one_node_reads_back_on_another() {
    let cluster = Cluster::start(7).await;
    let content = content(SEGMENT_BYTES + 70_001);
    let outcome = put(&cluster, &cluster.nodes[3], known(&content), &content).await.unwrap();
    assert_eq!((outcome.profile, outcome.degraded, outcome.bytes), (Profile::DEFAULT, false, content.len() as u64));
    assert_eq!(outcome.progress.phase, PutPhase::Done);
    let holders: std::collections::BTreeSet<_> = outcome.columns.iter().map(|(_, holder)| *holder).collect();
    assert_eq!(holders.len(), 6);
    cluster.settle().await;
    assert_eq!(get(&cluster, &cluster.nodes[6], outcome.object, None).await.unwrap(), content);
}

/// Goal: a quorum that has no room, be it in its owner's share, costs a put nothing but a question, unless the user
/// named that quorum.
#[tokio::test(start_paused = true)]
async fn a_quorum_without_room_is_passed_over_for_another() {
    let cluster = Cluster::start(7).await;
    let full = [QuorumId([8; 16]), QuorumId([9; 16])];
    cluster.world.full.lock().extend(full);
    let content = content(5_000);
    let outcome = put(&cluster, &cluster.nodes[0], known(&content), &content).await.unwrap();
    assert_eq!(outcome.object.quorum, cluster::QUORUM);
    assert!(cluster.world.full.lock().is_empty(), "those that refused are not chosen again");
    let named = PutRequest { quorum: Some(full[0]), ..known(&content) };
    let refused = put(&cluster, &cluster.nodes[0], named, &content).await.unwrap_err();
    assert!(matches!(refused, PutError::Client(ClientError::Rejected(Rejection::Full { .. }))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn small_and_empty_objects_and_unknown_sizes_are_stored() {
    let cluster = Cluster::start(7).await;
    for size in [0, 1, 5_000, 100_000] {
        let content = content(size);
        let outcome = put(&cluster, &cluster.nodes[0], PutRequest::default(), &content).await.unwrap();
        assert_eq!(get(&cluster, &cluster.nodes[1], outcome.object, None).await.unwrap(), content);
    }
    let tiny = content(100);
    let outcome = put(&cluster, &cluster.nodes[0], known(&tiny), &tiny).await.unwrap();
    assert_eq!(outcome.profile, Profile { data: 1, parity: 2 });
    assert_eq!(get(&cluster, &cluster.nodes[5], outcome.object, None).await.unwrap(), tiny);
}

/// Goal: a holder that fails in any way costs its own column only. Method: one holder of the seven misbehaves; the put
/// must end whole on the others, and the object must read back.
#[tokio::test(start_paused = true)]
async fn a_bad_holder_costs_only_its_own_column() {
    for manner in [Manner::Refusing, Manner::Stalling, Manner::Dead, Manner::DiesAfter(1)] {
        let cluster = Cluster::start(7).await;
        cluster.set_manner(2, manner);
        let content = content(2 * SEGMENT_BYTES + 12);
        let outcome = put(&cluster, &cluster.nodes[6], known(&content), &content).await.unwrap();
        assert!(!outcome.degraded, "{manner:?}");
        assert_eq!(cluster::column_of(&outcome.columns, peer(2)), None, "{manner:?}");
        assert_eq!(outcome.progress.columns_replaced, 1, "{manner:?}");
        assert_eq!(get(&cluster, &cluster.nodes[1], outcome.object, None).await.unwrap(), content, "{manner:?}");
    }
}

/// Goal: a seal that is lost costs the put neither its holder nor more than a moment.
#[tokio::test(start_paused = true)]
async fn a_seal_that_is_lost_is_sent_again_soon() {
    let cluster = Cluster::start(7).await;
    let content = content(100_000);
    for holder in 0..6 {
        cluster.set_manner(holder, Manner::LosesSeal);
    }
    let began = tokio::time::Instant::now();
    let outcome = put(&cluster, &cluster.nodes[6], known(&content), &content).await.unwrap();
    assert!(began.elapsed() < 2 * REPEAT_MIN, "{:?}", began.elapsed());
    assert_eq!((outcome.degraded, outcome.progress.columns_replaced), (false, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_sends_its_column_elsewhere() {
    let cluster = Cluster::start(7).await;
    cluster.disks[4].set_full(true);
    let content = content(300_000);
    let outcome = put(&cluster, &cluster.nodes[0], known(&content), &content).await.unwrap();
    assert!(!outcome.degraded);
    assert_eq!(cluster::column_of(&outcome.columns, peer(4)), None);
}

/// Goal: what a backup missed is rebuilt from the other columns, not read again. Method: a holder dies after the first
/// segments have left memory; its successor must still end up with the whole column.
#[tokio::test(start_paused = true)]
async fn a_late_backup_catches_up_by_rebuilding() {
    let cluster = Cluster::start(7).await;
    cluster.set_manner(1, Manner::DiesAfter(4));
    let content = content(6 * SEGMENT_BYTES);
    let outcome = put(&cluster, &cluster.nodes[6], known(&content), &content).await.unwrap();
    assert!(!outcome.degraded);
    let rebuilt: u64 = cluster.nodes.iter().map(|node| node.metrics().pieces_rebuilt.get()).sum();
    assert!(rebuilt >= 1, "nothing was rebuilt");
    // Any four columns read back, the successor's among them.
    cluster.set_manner(0, Manner::Dead);
    assert_eq!(get(&cluster, &cluster.nodes[4], outcome.object, None).await.unwrap(), content);
}

#[tokio::test(start_paused = true)]
async fn without_enough_holders_the_object_is_degraded_but_stored() {
    let cluster = Cluster::start(6).await;
    cluster.set_manner(5, Manner::Dead);
    let content = content(100_000);
    let started = tokio::time::Instant::now();
    let outcome = put(&cluster, &cluster.nodes[0], known(&content), &content).await.unwrap();
    assert!(outcome.degraded);
    assert_eq!(outcome.columns.len(), 5);
    assert!(started.elapsed() < Duration::from_secs(1), "nobody else was to come: {:?}", started.elapsed());
    assert_eq!(get(&cluster, &cluster.nodes[1], outcome.object, None).await.unwrap(), content);
}

/// Goal: an upload with an open column hears of its holder at once, and asks nothing in between. Method: a body that
/// stops after its first segment; questions are counted over ten quiet seconds, then a sixth peer comes.
#[tokio::test(start_paused = true)]
async fn an_open_column_is_watched_for_and_not_asked_after() {
    let cluster = Cluster::start(7).await;
    let (content, late) = (content(SEGMENT_BYTES + 1), peer(5));
    // Neither is the uploader's own node a holder, whose pieces travel no network.
    *cluster.world.willing.lock() = (0..5).map(peer).collect();
    let (go_on, gone_on) = tokio::sync::oneshot::channel::<()>();
    let (first, rest) = (content.slice(..SEGMENT_BYTES), content.slice(SEGMENT_BYTES..));
    let rest = futures::stream::once(async move {
        gone_on.await.expect("the test goes on");
        Ok(rest)
    });
    let body = futures::stream::once(async move { Ok(first) }).chain(rest).boxed();
    let request = PutRequest { profile: Some(Profile::DEFAULT), ..known(&content) };
    let putting = cluster.tasks.scope(cluster.nodes[6].put(request, body, watch::Sender::new(PutProgress::default())));
    let watching = async {
        let began = tokio::time::Instant::now();
        while cluster.puts() < 5 {
            assert!(began.elapsed() < Duration::from_secs(60), "{} pieces were stored", cluster.puts());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // What was stored is recorded, which is news of the run.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let asked = *cluster.world.questions.lock();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(*cluster.world.questions.lock(), asked, "nothing happened meanwhile");

        let came = tokio::time::Instant::now();
        cluster.world.welcome(late);
        // The segment has left the uploader's memory: the newcomer rebuilds its piece from those of the others.
        while cluster.world.traffic.lock().gets.is_empty() {
            assert!(came.elapsed() < Duration::from_millis(100), "the put does not know of its holder");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        go_on.send(()).expect("the body waits");
    };
    let (outcome, ()) = tokio::join!(putting, watching);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.degraded, outcome.columns.len()), (false, 6));
    assert_eq!(get(&cluster, &cluster.nodes[0], outcome.object, None).await.unwrap(), content);
}

#[tokio::test(start_paused = true)]
async fn too_few_peers_are_counted_and_told_what_fits() {
    let cluster = Cluster::start(4).await;
    let content = content(100_000);
    let request = PutRequest { profile: Some(Profile::DEFAULT), ..known(&content) };
    let Err(PutError::TooFewHolders(HolderShortage { holders, profile, fitting, .. })) =
        put(&cluster, &cluster.nodes[0], request, &content).await
    else {
        panic!("a put with four holders at 4+2 must be refused");
    };
    assert_eq!((holders, profile, fitting), (4, Profile::DEFAULT, Profile::new(2, 2)));
    // Left alone, it steps down.
    assert_eq!(
        put(&cluster, &cluster.nodes[0], known(&content), &content).await.unwrap().profile,
        Profile { data: 2, parity: 2 }
    );
}

/// Goal: memory is bounded whatever the object's size. Method: ten segments; the gauge of segments in memory, which
/// counts from the first byte read to the drop, must never exceed the bound.
#[tokio::test(start_paused = true)]
async fn segments_in_memory_stay_within_their_bound() {
    let cluster = Cluster::start(7).await;
    let content = content(10 * SEGMENT_BYTES);
    let node = &cluster.nodes[0];
    put(&cluster, node, known(&content), &content).await.unwrap();
    let metrics = node.metrics();
    let peak = metrics.segments_in_memory_peak.load(Ordering::Relaxed);
    assert!((1..=SEGMENTS_IN_MEMORY_MAX as u64).contains(&peak), "{peak} segments");
    assert_eq!(metrics.segments_in_memory.load(Ordering::Relaxed), 0);
}

/// Goal: killing the quorum's primary does not disturb the pieces. Method: the quorum answers nothing for three
/// seconds in the middle of a put; the put must not lose a column, and commit when the quorum is back.
#[tokio::test(start_paused = true)]
async fn a_failover_during_a_put_disturbs_no_column() {
    let cluster = Cluster::start(7).await;
    let content = content(4 * SEGMENT_BYTES);
    let progress = watch::Sender::new(PutProgress::default());
    let mut seen = progress.subscribe();
    let node = &cluster.nodes[0];
    let putting = cluster.tasks.scope(node.put(known(&content), body(&content), progress));
    let pausing = async {
        seen.wait_for(|progress| progress.pieces_sent >= 3).await.unwrap();
        let until = tokio::time::Instant::now() + Duration::from_secs(3);
        *cluster.world.paused_until.lock() = Some(until);
        until
    };
    let (outcome, until) = tokio::join!(putting, pausing);
    let outcome = outcome.unwrap();
    assert!(tokio::time::Instant::now() >= until, "committed by a quorum that was not there");
    assert_eq!((outcome.degraded, outcome.progress.columns_replaced), (false, 0));
    assert_eq!(get(&cluster, &cluster.nodes[1], outcome.object, None).await.unwrap(), content);
}

/// Drops a put once it has sent this many pieces, as a crash of its node or a client that went away does.
async fn interrupted(cluster: &Cluster, node: &Objects, request: PutRequest, content: &Bytes, pieces: u64) {
    let progress = watch::Sender::new(PutProgress::default());
    let mut seen = progress.subscribe();
    let putting = cluster.tasks.scope(node.put(request, body(content), progress));
    tokio::select! {
        outcome = putting => panic!("ended before it was interrupted: {outcome:?}"),
        reached = seen.wait_for(|progress| progress.pieces_sent >= pieces) => drop(reached.unwrap()),
    }
}

/// Goal: after a crash, putting the same file again sends only what is missing. Method: interrupt, restart the node
/// from its synced state, put again, and count every piece that was ever stored.
#[tokio::test(start_paused = true)]
async fn putting_the_same_file_again_sends_only_what_is_missing() {
    let mut cluster = Cluster::start(7).await;
    let content = content(4 * SEGMENT_BYTES);
    let request = PutRequest { fingerprint: Some("/home/file 67108864 7".into()), ..known(&content) };
    interrupted(&cluster, &cluster.nodes[0], request.clone(), &content, 9).await;
    cluster.restart(0).await;
    // What the interrupted put had sent arrives all the same.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stored_before: usize = cluster.disks.iter().map(|disk| disk.pieces().len()).sum();
    assert!(stored_before >= 9);
    let sent_before = cluster.puts();
    let outcome = put(&cluster, &cluster.nodes[0], request, &content).await.unwrap();
    let total = 4 * 6;
    assert_eq!(cluster.world.state.lock().0.jobs().len(), 1, "a second run was made");
    assert_eq!(outcome.progress.pieces_sent + outcome.progress.pieces_skipped, total);
    assert!(outcome.progress.pieces_skipped >= 9, "{:?}", outcome.progress);
    assert!((cluster.puts() - sent_before) as u64 <= outcome.progress.pieces_sent);
    assert_eq!(outcome.progress.columns_replaced, 0);
    assert_eq!(get(&cluster, &cluster.nodes[1], outcome.object, None).await.unwrap(), content);
}

#[tokio::test(start_paused = true)]
async fn another_node_resumes_a_run_by_its_id() {
    let cluster = Cluster::start(7).await;
    let content = content(3 * SEGMENT_BYTES);
    interrupted(&cluster, &cluster.nodes[0], known(&content), &content, 8).await;
    let job = *cluster.world.state.lock().0.jobs().keys().next().unwrap();
    let request = PutRequest { resume: Some(job), ..PutRequest::default() };
    let refused = put(&cluster, &cluster.nodes[5], request.clone(), &content).await;
    assert!(matches!(refused, Err(PutError::Client(ClientError::Rejected(_)))), "while it goes on: {refused:?}");
    cluster.world.fall_silent();
    let outcome = put(&cluster, &cluster.nodes[5], request, &content).await.unwrap();
    assert_eq!(outcome.job, job);
    assert!(outcome.progress.pieces_skipped >= 8, "{:?}", outcome.progress);
    assert_eq!(outcome.progress.pieces_sent + outcome.progress.pieces_skipped, 3 * 6);
    assert_eq!(get(&cluster, &cluster.nodes[1], outcome.object, None).await.unwrap(), content);
}

/// A file that changed under its fingerprint is stored all the same, under a run of its own.
#[tokio::test(start_paused = true)]
async fn other_content_under_a_known_fingerprint_gets_a_run_of_its_own() {
    let cluster = Cluster::start(7).await;
    let old = content(2 * SEGMENT_BYTES);
    let request = PutRequest { fingerprint: Some("same".into()), ..known(&old) };
    // Twelve pieces sent: the first segment has been recorded by then, or is by the record that follows.
    interrupted(&cluster, &cluster.nodes[0], request.clone(), &old, 6).await;
    let mut new = old.to_vec();
    new[0] ^= 1;
    let new = Bytes::from(new);
    let outcome = put(&cluster, &cluster.nodes[0], request, &new).await.unwrap();
    assert_eq!(get(&cluster, &cluster.nodes[1], outcome.object, None).await.unwrap(), new);
}

#[tokio::test(start_paused = true)]
async fn resuming_with_another_file_is_refused_and_the_run_lives_on() {
    let cluster = Cluster::start(7).await;
    let old = content(3 * SEGMENT_BYTES);
    interrupted(&cluster, &cluster.nodes[0], known(&old), &old, 14).await;
    let (job, recorded) = {
        let state = &cluster.world.state.lock().0;
        let (job, record) = state.jobs().iter().next().unwrap();
        (*job, record.store().unwrap().1.segments.first().is_some_and(|hashes| !hashes.is_empty()))
    };
    assert!(recorded, "nothing was recorded before the interruption: the test shows nothing");
    let mut new = old.to_vec();
    new[5] ^= 1;
    let request = PutRequest { resume: Some(job), ..PutRequest::default() };
    cluster.world.fall_silent();
    let refused = put(&cluster, &cluster.nodes[1], request.clone(), &new.into()).await;
    assert!(matches!(refused, Err(PutError::DifferentContent { segment: 0, .. })), "{refused:?}");
    let outcome = put(&cluster, &cluster.nodes[1], request, &old).await.unwrap();
    assert_eq!(get(&cluster, &cluster.nodes[2], outcome.object, None).await.unwrap(), old);
}

#[tokio::test(start_paused = true)]
async fn a_body_of_another_length_than_announced_is_refused() {
    let cluster = Cluster::start(7).await;
    let content = content(1000);
    for announced in [999, 1001] {
        let request = PutRequest { size: Some(announced), ..PutRequest::default() };
        let refused = put(&cluster, &cluster.nodes[0], request, &content).await;
        assert!(matches!(refused, Err(PutError::Length { .. })), "{refused:?}");
    }
}

/// Goal: a put that ended leaves no live run behind, even if its quorum could not record the end at the time, and its
/// user does not wait for that. Method: the quorum stops for half a minute just when the body turns out to be too long.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_failed_put_is_recorded_when_its_quorum_can_commit_again() {
    let cluster = Cluster::start(7).await;
    let (content, world) = (content(1000), cluster.world.clone());
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    let too_long = content.clone();
    let body = futures::stream::once(async move {
        *world.paused_until.lock() = Some(until);
        Ok(too_long)
    });
    let request = PutRequest { size: Some(999), ..PutRequest::default() };
    let progress = watch::Sender::new(PutProgress::default());
    let failed = cluster.tasks.scope(cluster.nodes[0].put(request, body.boxed(), progress)).await;
    assert!(matches!(failed, Err(PutError::Length { .. })), "{failed:?}");
    assert!(tokio::time::Instant::now() < until, "the user waited for the quorum");
    let is_over = || cluster.world.state.lock().0.jobs().values().all(|record| record.state.is_final());
    assert!(!is_over());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(is_over());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_leaves_the_run_to_be_resumed() {
    let cluster = Cluster::start(7).await;
    let content = content(50_000);
    let broken = futures::stream::iter([Ok(content.slice(..100)), Err(std::io::Error::other("cable pulled"))]).boxed();
    let progress = watch::Sender::new(PutProgress::default());
    let failed = cluster.tasks.scope(cluster.nodes[0].put(known(&content), broken, progress)).await;
    assert!(matches!(&failed, Err(PutError::Body { reason }) if reason.contains("cable")), "{failed:?}");
    let job = *cluster.world.state.lock().0.jobs().keys().next().unwrap();
    let request = PutRequest { resume: Some(job), ..PutRequest::default() };
    put(&cluster, &cluster.nodes[0], request, &content).await.unwrap();
}

/// The same content stored twice is one object; the second outcome names the holders that the quorum kept.
#[tokio::test(start_paused = true)]
async fn equal_content_is_stored_once() {
    let cluster = Cluster::start(7).await;
    let content = content(100_000);
    let first = put(&cluster, &cluster.nodes[0], known(&content), &content).await.unwrap();
    cluster.settle().await;
    // Others are won first now, so that the second run's holders differ from the first's.
    cluster.world.willing.lock().reverse();
    let second = put(&cluster, &cluster.nodes[3], known(&content), &content).await.unwrap();
    assert_eq!((second.object, &second.columns), (first.object, &first.columns));
    cluster.settle().await;
    assert_eq!(get(&cluster, &cluster.nodes[6], first.object, None).await.unwrap(), content);
}
