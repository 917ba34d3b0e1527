use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use prometheus_client::registry::Registry;
use quorate_protocols::ids::{PieceHash, QuorumId};
use tempfile::TempDir;

use super::faults::DiskFaults;
use super::test_machine::copy_folder;
use super::*;
use crate::seams::TaskGroup;
use crate::seams::log_engine::LogEntry;
use crate::testing::metrics::value;

fn put(tree: &str, key: &[u8], value: &[u8]) -> KvBatch {
    let mut batch = KvBatch::new();
    batch.put(tree, key, value);
    batch
}

/// The real disk keeps the contracts that every disk keeps.
mod suites {
    mod records {
        quorate_testkit::kv_suite!(crate::storage::test_machine::FolderMachine::new());
    }
    mod files {
        quorate_testkit::files_suite!(crate::storage::test_machine::FolderMachine::new());
    }
    mod log {
        quorate_testkit::log_suite!(crate::storage::test_machine::FolderMachine::new());
    }
}

fn hash(bytes: &[u8]) -> PieceHash {
    PieceHash(*blake3::hash(bytes).as_bytes())
}

#[test]
fn a_second_node_on_the_folder_is_told_so() {
    let folder = TempDir::new().expect("folder");
    let _disk = open(folder.path()).expect("opens");
    let refused = open(folder.path()).err().expect("the folder is taken");
    let named = format!("another node (process {}) is running on this folder", std::process::id());
    assert!(refused.to_string().contains(&named), "{refused}");
}

/// Goal: wherever the log is cut or damaged, opening gives an error or a store with a prefix of what was written, and
/// never a panic. Method: batches of two records in two trees, so that a torn batch would show.
#[test]
fn a_cut_or_damaged_log_is_an_error_or_a_prefix() {
    let folder = TempDir::new().expect("folder");
    {
        let kv = SledKv::open(&folder.path().join("whole")).expect("opens");
        for index in 0..200u8 {
            let mut batch = KvBatch::new();
            batch.put("left", [index], vec![index; 3000]).put("right", [index], [index]);
            kv.apply(batch).expect("applied");
            kv.sync().expect("synced");
        }
    }
    let length = fs::metadata(folder.path().join("whole/db")).expect("there").len();
    let (mut opened, mut refused) = (0, 0);
    for attempt in 0..16u64 {
        let copy = folder.path().join(format!("copy-{attempt}"));
        copy_folder(&folder.path().join("whole"), &copy);
        let db = copy.join("db");
        if attempt % 2 == 0 {
            let file = fs::OpenOptions::new().write(true).open(&db).expect("opens");
            file.set_len(length * attempt / 16 + 13).expect("cut");
        } else {
            let mut bytes = fs::read(&db).expect("read");
            let at = bytes.len() * attempt as usize / 16;
            let end = (at + 64).min(bytes.len());
            bytes[at..end].fill(0xa5);
            fs::write(&db, bytes).expect("written");
        }
        let read = SledKv::open(&copy).and_then(|kv| {
            Ok([
                kv.range("left", &[], &[255; 2], 999, usize::MAX)?,
                kv.range("right", &[], &[255; 2], 999, usize::MAX)?,
            ])
        });
        match read {
            Ok([left, right]) => {
                opened += 1;
                let keys = |rows: &[(Vec<u8>, Vec<u8>)]| rows.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
                assert_eq!(keys(&left), (0..left.len() as u8).map(|key| vec![key]).collect::<Vec<_>>());
                assert_eq!(keys(&left), keys(&right), "a batch came back in part");
            }
            Err(DiskError::Damaged { place, .. } | DiskError::Io { place, .. }) => {
                refused += 1;
                assert!(place.contains("copy-"), "the error names the store: {place}");
            }
            Err(error) => panic!("unexpected: {error}"),
        }
    }
    assert_eq!(opened + refused, 16);
}

#[test]
fn opening_removes_what_was_left_unfinished() {
    let folder = TempDir::new().expect("folder");
    drop(DirFiles::open(folder.path()).expect("opens"));
    let left = folder.path().join("unfinished/0");
    fs::write(&left, b"half a piece").expect("written");
    let files = DirFiles::open(folder.path()).expect("opens again");
    assert!(!left.exists());
    assert_eq!(files.list_pieces(None, 10).expect("listed"), []);
}

#[tokio::test]
async fn injected_faults_come_and_go() {
    let folder = TempDir::new().expect("folder");
    let (disk, faults) = DiskFaults::wrap(open(folder.path()).expect("opens"));
    let tasks = TaskGroup::threaded();
    let storage = tasks.scope(async { Storage::start(disk) }).await;
    let piece = hash(b"piece");
    storage.write(put("t", b"k", b"1")).await.expect("written");
    storage.files().write_piece(piece, b"piece").expect("written");

    faults.set_full(true);
    assert!(matches!(storage.write(put("t", b"k", b"2")).await, Err(DiskError::Full { .. })));
    assert!(matches!(storage.files().write_piece(hash(b"x"), b"x"), Err(DiskError::Full { .. })));
    assert_eq!(storage.files().free_space().expect("known").0, 0);
    assert_eq!(storage.kv().get("t", b"k").expect("read"), Some(b"1".to_vec()), "a refused batch was applied");
    let mut room = KvBatch::new();
    room.delete("t", "k");
    storage.write(room).await.expect("a full disk still deletes");

    let mut purge = LogBatch::of(QuorumId([1; 16]));
    purge.put("purged", "9").purge(9);
    storage.append(purge).await.expect("a purge makes room");
    let mut vote = LogBatch::of(QuorumId([1; 16]));
    vote.put("vote", "1");
    assert!(matches!(storage.append(vote).await, Err(DiskError::Full { .. })));

    faults.set_full(false);
    storage.write(put("t", b"k", b"3")).await.expect("there is room again");
    faults.set_flip_bits(true);
    assert_ne!(storage.files().read_piece(piece).expect("read").as_deref(), Some(&b"piece"[..]));
    faults.set_flip_bits(false);
    assert_eq!(storage.files().read_piece(piece).expect("read").as_deref(), Some(&b"piece"[..]));
    tasks.close().await;
    assert_eq!(*storage.fatal().borrow(), None, "a full disk is no reason to stop");
}

/// A store whose syncs wait for a permit, and can be made to fail.
#[derive(Default)]
struct GatedKv {
    permits: Mutex<u64>,
    granted: Condvar,
    started: AtomicU64,
    fails: AtomicBool,
    applied: AtomicU64,
}

impl GatedKv {
    fn permit(&self, syncs: u64) {
        *self.permits.lock().expect("not poisoned") += syncs;
        self.granted.notify_all();
    }
}

impl Kv for GatedKv {
    fn get(&self, _: &str, _: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(None)
    }
    fn range(&self, _: &str, _: &[u8], _: &[u8], _: usize, _: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, DiskError> {
        Ok(Vec::new())
    }
    fn last(&self, _: &str) -> Result<Option<(Vec<u8>, Vec<u8>)>, DiskError> {
        Ok(None)
    }
    fn trees(&self) -> Result<Vec<String>, DiskError> {
        Ok(Vec::new())
    }
    fn apply(&self, _: KvBatch) -> Result<(), DiskError> {
        self.applied.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn sync(&self) -> Result<(), DiskError> {
        self.started.fetch_add(1, Ordering::SeqCst);
        let permits = self.permits.lock().expect("not poisoned");
        let mut permits = self.granted.wait_while(permits, |permits| *permits == 0).expect("not poisoned");
        *permits -= 1;
        match self.fails.load(Ordering::SeqCst) {
            true => Err(DiskError::Io { what: "sync", place: "test".into(), reason: "told to fail".into() }),
            false => Ok(()),
        }
    }
}

async fn gated(tasks: &TaskGroup) -> (TempDir, Arc<GatedKv>, Storage) {
    let folder = TempDir::new().expect("folder");
    let kv = Arc::new(GatedKv::default());
    let files = Arc::new(DirFiles::open(folder.path()).expect("opens"));
    let log = Arc::new(SegmentLog::open(&folder.path().join("log")).expect("opens"));
    let storage = tasks.scope(async { Storage::start(Disk { kv: kv.clone(), log, files }) }).await;
    (folder, kv, storage)
}

/// Goal: writes that arrive while a sync runs share the next one, and none is acknowledged before its sync.
#[tokio::test]
async fn waiting_writes_share_one_sync() {
    let tasks = TaskGroup::threaded();
    let (_folder, kv, storage) = gated(&tasks).await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let write = |storage: &Storage| {
        let acknowledged = acknowledged.clone();
        let (send, receive) = tokio::sync::oneshot::channel();
        let done = move |result: Result<(), DiskError>| {
            acknowledged.fetch_add(1, Ordering::SeqCst);
            drop(send.send(result));
        };
        storage.write_then(put("t", b"k", b"v"), done).expect("applied");
        receive
    };
    let first = write(&storage);
    while kv.started.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let held_since = tokio::time::Instant::now();
    let others: Vec<_> = (0..50).map(|_| write(&storage)).collect();
    assert_eq!(kv.applied.load(Ordering::SeqCst), 51, "applied at once");
    assert_eq!(acknowledged.load(Ordering::SeqCst), 0, "acknowledged before any sync");
    let mut registry = Registry::default();
    storage.register_metrics(&mut registry);
    assert_eq!(value(&registry, "quorate_storage_writes_waiting"), 51.0);
    let held = held_since.elapsed();
    kv.permit(1);
    first.await.expect("answered").expect("synced");
    assert_eq!(acknowledged.load(Ordering::SeqCst), 1, "a sync acknowledged writes that came after it began");
    kv.permit(1);
    for other in others {
        other.await.expect("answered").expect("synced");
    }
    let measured = |name| value(&registry, &format!("quorate_storage_{name}"));
    assert_eq!((measured("writes_total"), measured("writes_waiting")), (51.0, 0.0));
    assert_eq!((measured("sync_seconds_count"), measured("writes_per_sync_sum")), (2.0, 51.0));
    assert!(measured("sync_seconds_sum") >= held.as_secs_f64(), "the first sync was held up for as long");
    tasks.close().await;
}

/// Goal: no more writes wait than are bounded, none of those refused was applied, and one that waits for room gets it.
#[tokio::test]
async fn writes_beyond_the_bound_are_refused_or_wait() {
    let tasks = TaskGroup::threaded();
    let (_folder, kv, storage) = gated(&tasks).await;
    let mut taken = 0;
    let refused = loop {
        match storage.write_then(put("t", b"k", b"v"), |_| ()) {
            Ok(()) => taken += 1,
            // The first sync has begun, so that the actor takes no more.
            Err(error) if kv.started.load(Ordering::SeqCst) == 1 => break error,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert!(refused.to_string().contains(&TICKETS_MAX.to_string()), "{refused}");
    assert_eq!(kv.applied.load(Ordering::SeqCst), taken, "a refused write was applied");
    let waits = tokio::spawn({
        let storage = storage.clone();
        async move { storage.write(put("t", b"k", b"v")).await }
    });
    kv.permit(64);
    waits.await.expect("no panic").expect("room came");
    assert_eq!(kv.applied.load(Ordering::SeqCst), taken + 1);
    tasks.close().await;
}

#[tokio::test]
async fn a_failed_sync_is_final() {
    let tasks = TaskGroup::threaded();
    let (_folder, kv, storage) = gated(&tasks).await;
    kv.fails.store(true, Ordering::SeqCst);
    kv.permit(1);
    let failed = storage.write(put("t", b"k", b"v")).await.expect_err("the sync failed");
    assert_eq!(storage.fatal().borrow().clone(), Some(failed.clone()));
    let mut registry = Registry::default();
    storage.register_metrics(&mut registry);
    let measured = |name| value(&registry, &format!("quorate_storage_{name}"));
    assert_eq!((measured("syncs_failed_total"), measured("writes_waiting")), (1.0, 0.0));
    kv.fails.store(false, Ordering::SeqCst);
    kv.permit(10);
    assert_eq!(storage.write(put("t", b"k", b"v")).await, Err(failed));
    assert_eq!(kv.applied.load(Ordering::SeqCst), 1, "a write after the failure was applied");
    assert_eq!(kv.started.load(Ordering::SeqCst), 1, "the sync was tried again");
    tasks.close().await;
}

/// Goal: an entry of a log waits for no record, however long the record store takes; and once either of the two could
/// not be synced, neither takes anything more.
#[tokio::test]
async fn the_log_and_the_records_are_synced_apart_and_end_together() {
    let tasks = TaskGroup::threaded();
    let (_folder, kv, storage) = gated(&tasks).await;
    let group = QuorumId([1; 16]);
    let entry = |index: u64| {
        let mut batch = LogBatch::of(group);
        batch.append(index, vec![b"entry".to_vec()]);
        batch
    };
    let record = tokio::spawn({
        let storage = storage.clone();
        async move { storage.write(put("t", b"k", b"v")).await }
    });
    while kv.started.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    storage.append(entry(1)).await.expect("synced");
    assert!(!record.is_finished());
    kv.fails.store(true, Ordering::SeqCst);
    kv.permit(1);
    let failed = record.await.expect("no panic").expect_err("the sync failed");
    assert_eq!(storage.append(entry(2)).await, Err(failed));
    let indices = storage.log().entries(group, 0, 9, usize::MAX).expect("readable");
    assert_eq!(indices, [(1, b"entry".to_vec())], "an entry after the failure was applied");
    tasks.close().await;
}

/// Goal: a log that has no future stops the node, whoever met the write that failed. Method: a folder lies where the
/// next segment is to be created.
#[tokio::test]
async fn a_failed_write_to_the_log_stops_the_node() {
    for is_synced in [true, false] {
        let tasks = TaskGroup::threaded();
        let (folder, _kv, storage) = gated(&tasks).await;
        let mut fatal = storage.fatal();
        fs::create_dir_all(folder.path().join("log/unfinished/in the way")).expect("created");
        let failed = loop {
            let mut batch = LogBatch::of(QuorumId([1; 16]));
            batch.append(1, vec![vec![7; 1024 * 1024]]);
            let written = match is_synced {
                true => storage.append(batch).await,
                false => storage.append_unsynced(batch),
            };
            if let Err(error) = written {
                break error;
            }
            assert_eq!(*fatal.borrow(), None);
        };
        assert!(failed.to_string().contains("creating a segment"), "{failed}");
        let told = tokio::time::timeout(Duration::from_secs(30), fatal.wait_for(Option::is_some)).await;
        assert!(told.is_ok_and(|told| told.is_ok()), "the node goes on");
        tasks.close().await;
    }
}

/// A log whose first compaction fails, and that wants to be compacted until one has not.
struct CompactedLog {
    below: SegmentLog,
    asked: AtomicU64,
}

impl LogEngine for CompactedLog {
    fn entries(&self, group: QuorumId, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, DiskError> {
        self.below.entries(group, from, to, bytes_max)
    }
    fn last(&self, group: QuorumId) -> Result<Option<LogEntry>, DiskError> {
        self.below.last(group)
    }
    fn get(&self, group: QuorumId, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.below.get(group, key)
    }
    fn groups(&self) -> Result<Vec<QuorumId>, DiskError> {
        self.below.groups()
    }
    fn apply(&self, batch: LogBatch) -> Result<(), DiskError> {
        self.below.apply(batch)
    }
    fn sync(&self) -> Result<(), DiskError> {
        self.below.sync()
    }
    fn wants_compaction(&self) -> bool {
        self.asked.load(Ordering::SeqCst) < 2
    }
    fn compact(&self) -> Result<bool, DiskError> {
        match self.asked.fetch_add(1, Ordering::SeqCst) {
            0 => Err(DiskError::Damaged { place: "an entry".into(), reason: "told so".into() }),
            _ => Ok(true),
        }
    }
}

/// Goal: an entry that cannot be read ends no compaction for good, and is not asked for at every sync.
#[tokio::test(start_paused = true)]
async fn a_compaction_that_failed_is_tried_again_after_a_pause() {
    let folder = TempDir::new().expect("folder");
    let below = SegmentLog::open(&folder.path().join("log")).expect("opens");
    let log = Arc::new(CompactedLog { below, asked: AtomicU64::new(0) });
    let files = Arc::new(DirFiles::open(folder.path()).expect("opens"));
    let tasks = TaskGroup::inline();
    let kv = Arc::new(GatedKv::default());
    let storage = tasks.scope(async { Storage::start(Disk { kv, log: log.clone(), files }) }).await;
    let append = |index| {
        let mut batch = LogBatch::of(QuorumId([1; 16]));
        batch.append(index, vec![vec![1]]);
        storage.append(batch)
    };
    for index in 0..5 {
        append(index).await.expect("synced");
    }
    assert_eq!(log.asked.load(Ordering::SeqCst), 1);
    tokio::time::sleep(super::actor::COMPACTION_PAUSE).await;
    append(5).await.expect("synced");
    // What comes after a sync is done before the next one.
    append(6).await.expect("synced");
    assert_eq!(log.asked.load(Ordering::SeqCst), 2);
    tasks.close().await;
}

#[tokio::test]
async fn writes_after_closing_are_still_synced() {
    let tasks = TaskGroup::threaded();
    let (_folder, kv, storage) = gated(&tasks).await;
    kv.permit(2);
    storage.write(put("t", b"k", b"v")).await.expect("synced");
    tasks.close().await;
    storage.write(put("t", b"k", b"v")).await.expect("synced by the writer itself");
    assert_eq!(kv.started.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_disk_delays_the_acknowledgement() {
    let folder = TempDir::new().expect("folder");
    let (disk, faults) = DiskFaults::wrap(open(folder.path()).expect("opens"));
    faults.set_sync_delay(Duration::from_secs(5));
    let tasks = TaskGroup::inline();
    let storage = tasks.scope(async { Storage::start(disk) }).await;
    let started = tokio::time::Instant::now();
    storage.write(put("t", b"k", b"v")).await.expect("synced");
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    tasks.close().await;
}
