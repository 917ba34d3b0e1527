//! The contract of the raft log, over every disk: what openraft relies on, and what a restart must find. Whoever
//! replaces the log store changes [`open`].

use std::future::Future;

use openraft::entry::FromAppData;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, RaftLogReader};
use quorate_protocols::ids::Millis;
use quorate_protocols::quorum::Batch;
use quorate_testkit::MemoryDisk;
use quorate_testkit::conformance::Machine;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::raft::log_store::{LastFault, LogStore};
use crate::raft::own_sync::OwnSync;
use crate::raft::rollback_guard::{self, RollbackGuard};
use crate::raft::types::{Entry, LogId, Membership, SnapshotList, SnapshotMeta, Vote};
use crate::seams::Disk;
use crate::storage::test_machine::FolderMachine;

/// The store that the suite is for.
fn open(disk: Disk) -> LogStore {
    let guard = RollbackGuard::new(disk.files.clone(), quorum_id(), member(1), None);
    LogStore::new(Storage::start(disk), quorum_id(), guard, OwnSync::new(Some(member(1))), LastFault::default())
}

fn member(number: u8) -> MemberId {
    MemberId { peer: PeerId([number; 32]), incarnation: Incarnation(1) }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, member(1)), index)
}

fn entry(term: u64, index: u64) -> Entry {
    let command = Command::Quorum(QuorumCommand::Noop);
    let mut entry = Entry::from_app_data(Batch::at(Millis(index), vec![(PeerId([1; 32]), command)]));
    entry.log_id = log_id(term, index);
    entry
}

/// Makes a snapshot that ends here the current one, synced.
async fn keep_snapshot(log: &LogStore, last: LogId) {
    let meta = SnapshotMeta { last_log_id: Some(last), ..SnapshotMeta::default() };
    log.snapshots.make_current(&meta, &SnapshotList::default()).await.expect("synced");
}

/// The terms and indices of the entries in a range.
async fn read(log: &mut LogStore, range: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    let entries = log.try_get_log_entries(range).await.expect("readable");
    entries.iter().map(|entry| (entry.log_id.leader_id.term, entry.log_id.index)).collect()
}

/// One life of a node with the log open, which ends as a crash ends it.
async fn life<F: Future>(machine: &mut dyn Machine, work: impl FnOnce(LogStore) -> F) -> F::Output {
    let tasks = TaskGroup::inline();
    let disk = machine.open();
    let output = tasks.scope(async { work(open(disk)).await }).await;
    machine.lose_power();
    tasks.crash();
    tasks.close().await;
    output
}

async fn appended_entries_are_there_in_order_after_a_crash(machine: &mut dyn Machine) {
    life(machine, |mut log| async move {
        let state = log.get_log_state().await.expect("readable");
        assert_eq!((state.last_purged_log_id, state.last_log_id), (None, None));
        log.blocking_append((0..5).map(|index| entry(1, index))).await.expect("synced");
        log.blocking_append((5..300).map(|index| entry(2, index))).await.expect("synced");
    })
    .await;
    life(machine, |mut log| async move {
        assert_eq!(read(&mut log, 3..7).await, [(1, 3), (1, 4), (2, 5), (2, 6)]);
        assert_eq!(read(&mut log, 298..900).await, [(2, 298), (2, 299)], "a range may go past the end");
        assert_eq!(read(&mut log, 7..7).await, []);
        assert_eq!(read(&mut log, 0..300).await.len(), 300);
        assert_eq!(log.get_log_state().await.expect("readable").last_log_id, Some(log_id(2, 299)));
        let some = log.limited_get_log_entries(10, 200).await.expect("readable");
        let indices: Vec<_> = some.iter().map(|entry| entry.log_id.index).collect();
        assert!(!indices.is_empty() && indices == (10..10 + indices.len() as u64).collect::<Vec<_>>());
    })
    .await;
}

async fn what_was_cut_off_does_not_come_back(machine: &mut dyn Machine) {
    life(machine, |mut log| async move {
        log.blocking_append((0..20).map(|index| entry(1, index))).await.expect("synced");
        log.truncate(log_id(1, 10)).await.expect("synced");
    })
    .await;
    life(machine, |mut log| async move {
        assert_eq!(log.get_log_state().await.expect("readable").last_log_id, Some(log_id(1, 9)));
        log.blocking_append([entry(2, 10)]).await.expect("synced");
    })
    .await;
    life(machine, |mut log| async move {
        assert_eq!(read(&mut log, 8..99).await, [(1, 8), (1, 9), (2, 10)]);
    })
    .await;
}

/// Goal: a log that was purged says up to where, also when nothing is left of it. What a purge removed may be there
/// again after a crash; then the log still begins no later than it says.
async fn a_purged_log_says_up_to_where(machine: &mut dyn Machine) {
    life(machine, |mut log| async move {
        log.blocking_append((0..10).map(|index| entry(1, index))).await.expect("synced");
        keep_snapshot(&log, log_id(1, 10)).await;
        log.purge(log_id(1, 3)).await.expect("applied");
        assert_eq!(read(&mut log, 0..6).await, [(1, 4), (1, 5)]);
        // A write that follows makes it durable.
        log.blocking_append([entry(1, 10)]).await.expect("synced");
    })
    .await;
    life(machine, |mut log| async move {
        let state = log.get_log_state().await.expect("readable");
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 3)), Some(log_id(1, 10))));
        log.begin_behind_snapshot().await.expect("nothing to do");
        log.purge(log_id(1, 10)).await.expect("applied");
        let state = log.get_log_state().await.expect("readable");
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 10)), Some(log_id(1, 10))));
        assert_eq!(read(&mut log, 0..99).await, []);
    })
    .await;
}

/// Goal: a log never begins behind a snapshot that is not there, although openraft purges while one is being installed.
async fn a_log_begins_behind_no_snapshot_before_it_is_there(machine: &mut dyn Machine) {
    life(machine, |mut log| async move {
        log.blocking_append((0..10).map(|index| entry(1, index))).await.expect("synced");
        log.purge(log_id(2, 20)).await.expect("left to whoever installs it");
        log.check_writable().await.expect("synced");
    })
    .await;
    life(machine, |mut log| async move {
        let state = log.get_log_state().await.expect("readable");
        assert_eq!((state.last_purged_log_id, state.last_log_id), (None, Some(log_id(1, 9))));
        assert_eq!(read(&mut log, 0..99).await.len(), 10);
        keep_snapshot(&log, log_id(2, 20)).await;
        log.purge_installed(log_id(2, 20)).await.expect("synced");
    })
    .await;
    life(machine, |mut log| async move {
        let state = log.get_log_state().await.expect("readable");
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(2, 20)), Some(log_id(2, 20))));
        assert_eq!(read(&mut log, 0..99).await, []);
    })
    .await;
}

/// Goal: a snapshot whose log was not cut in time is followed by no entry of another history, whatever its term, and
/// leaves the log that leads up to it alone.
async fn a_log_that_does_not_lead_up_to_the_snapshot_goes_at_the_start(machine: &mut dyn Machine) {
    life(machine, |mut log| async move {
        log.blocking_append((0..10).map(|index| entry(1, index))).await.expect("synced");
        keep_snapshot(&log, log_id(1, 5)).await;
        log.begin_behind_snapshot().await.expect("nothing to do");
        assert_eq!(read(&mut log, 0..99).await.len(), 10, "it goes on behind the snapshot");
        // Of a primary that was elected and committed nothing.
        log.blocking_append([entry(5, 10)]).await.expect("synced");
        keep_snapshot(&log, log_id(4, 20)).await;
    })
    .await;
    for _ in 0..2 {
        life(machine, |mut log| async move {
            log.begin_behind_snapshot().await.expect("synced");
            let state = log.get_log_state().await.expect("readable");
            assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(4, 20)), Some(log_id(4, 20))));
            assert_eq!(read(&mut log, 0..99).await, []);
        })
        .await;
    }
    life(machine, |mut log| async move {
        log.blocking_append([entry(6, 21)]).await.expect("synced");
        log.begin_behind_snapshot().await.expect("nothing to do");
        assert_eq!(read(&mut log, 0..99).await, [(6, 21)]);
    })
    .await;
}

async fn a_vote_is_never_forgotten(machine: &mut dyn Machine) {
    let votes = [Vote::new(1, member(1)), Vote::new(1, member(2)), Vote::new(7, member(1))];
    for vote in votes {
        life(machine, |mut log| async move { log.save_vote(&vote).await.expect("synced") }).await;
        let kept = life(machine, |mut log| async move { log.read_vote().await.expect("readable") }).await;
        assert_eq!(kept, Some(vote));
    }
}

/// Goal: the pointer to what is committed may be old, or lost, and never points past the log.
async fn the_committed_pointer_stays_inside_the_log(machine: &mut dyn Machine) {
    life(machine, |mut log| async move {
        assert_eq!(log.read_committed().await.expect("readable"), None);
        log.blocking_append((0..10).map(|index| entry(1, index))).await.expect("synced");
        log.save_committed(Some(log_id(1, 8))).await.expect("applied");
        assert_eq!(log.read_committed().await.expect("readable"), Some(log_id(1, 8)));
        log.truncate(log_id(1, 5)).await.expect("synced");
    })
    .await;
    life(machine, |mut log| async move {
        let committed = log.read_committed().await.expect("readable");
        assert!(committed <= Some(log_id(1, 4)), "{committed:?}");
    })
    .await;
}

/// Goal: a snapshot that can be read already, and is not synced yet, purges nothing.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_being_synced_purges_nothing() {
    let disk = MemoryDisk::default();
    let tasks = TaskGroup::inline();
    let work = async {
        let mut log = open(disk.disk());
        log.blocking_append((0..10).map(|index| entry(1, index))).await.expect("synced");
        disk.set_sync_delay(Duration::from_secs(1));
        let keeping = log.clone();
        let kept = crate::seams::spawn(async move { keep_snapshot(&keeping, log_id(1, 8)).await });
        while log.snapshots.current().expect("readable").is_none() {
            tokio::task::yield_now().await;
        }
        log.purge(log_id(1, 8)).await.expect("left to whoever installs it");
        assert_eq!(read(&mut log, 0..99).await.len(), 10);
        kept.await.expect("no panic");
        log.purge(log_id(1, 8)).await.expect("applied");
        assert_eq!(read(&mut log, 0..99).await, [(1, 9)]);
    };
    tasks.scope(work).await;
    tasks.close().await;
}

/// Goal: the mark never tells of entries that were cut off, whatever was being synced or marked when they were. Method:
/// a disk whose syncs take long, so that each is under way when the next thing happens.
#[tokio::test(start_paused = true)]
async fn a_cut_log_is_never_marked_beyond_its_end() {
    const SYNC: Duration = Duration::from_millis(100);
    let disk = MemoryDisk::default();
    let tasks = TaskGroup::inline();
    let files = disk.disk().files;
    let marked = || rollback_guard::read(&*files, quorum_id()).expect("readable").map_or(0, |mark| mark.last.0);
    tasks
        .scope(async {
            let mut log = open(disk.disk());
            log.save_vote(&Vote::new_committed(1, member(1))).await.expect("synced");
            log.blocking_append((0..16).map(|index| entry(1, index))).await.expect("synced");
            disk.set_sync_delay(SYNC);
            // The mark has read how far the log goes, and waits for the record store.
            let stop = CancellationToken::new();
            let marking = crate::seams::spawn(log.clone().keep_marked(stop.clone()));
            tokio::time::sleep(SYNC / 2).await;
            log.truncate(log_id(1, 10)).await.expect("synced");
            tokio::time::sleep(SYNC).await;
            assert_eq!(marked(), 9);
            // A primary's entries are cut off while they are still being synced.
            log.own_sync.set_membership(&Membership::new(vec![(1..=3).map(member).collect()], None));
            let appended_at = tokio::time::Instant::now();
            log.blocking_append((10..16).map(|index| entry(1, index))).await.expect("applied");
            assert!(appended_at.elapsed() < SYNC, "it is answered before it is synced");
            log.truncate(log_id(1, 12)).await.expect("synced");
            tokio::time::sleep(3 * rollback_guard::INDEX_INTERVAL).await;
            assert!(marked() <= 11, "{} entries are marked", marked());
            log.blocking_append([entry(1, 12), entry(1, 13)]).await.expect("synced");
            tokio::time::sleep(3 * rollback_guard::INDEX_INTERVAL).await;
            assert_eq!(marked(), 13, "what is appended later is marked again");
            stop.cancel();
            marking.await.expect("no panic");
        })
        .await;
    tasks.close().await;
}

macro_rules! log_suite {
    ($machine:expr) => {
        log_suite! { $machine =>
            appended_entries_are_there_in_order_after_a_crash,
            what_was_cut_off_does_not_come_back,
            a_purged_log_says_up_to_where,
            a_log_begins_behind_no_snapshot_before_it_is_there,
            a_log_that_does_not_lead_up_to_the_snapshot_goes_at_the_start,
            a_vote_is_never_forgotten,
            the_committed_pointer_stays_inside_the_log,
        }
    };
    ($machine:expr => $($name:ident,)+) => { $(
        #[tokio::test]
        async fn $name() {
            super::$name(&mut $machine).await;
        }
    )+ };
}

mod over_memory {
    log_suite!(super::MemoryDisk::default());
}

mod over_segments {
    log_suite!(super::FolderMachine::new());
}
