use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::storage::test_machine::copy_folder;

const ALL: usize = usize::MAX;

fn group(number: u8) -> QuorumId {
    QuorumId([number; 16])
}

/// Entry `at` of group 1, with a value that says the same.
fn batch(at: u64, bytes: usize) -> LogBatch {
    let mut batch = LogBatch::of(group(1));
    batch.append(at, vec![entry(at, bytes)]).put("last", at.to_le_bytes());
    batch
}

fn entry(at: u64, bytes: usize) -> Vec<u8> {
    at.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

fn write(log: &SegmentLog, range: std::ops::Range<u64>, bytes: usize) {
    for at in range {
        log.apply(batch(at, bytes)).expect("applied");
    }
    log.sync().expect("synced");
}

/// How many of the entries from 0 on are there, each with the bytes that were written.
fn count(log: &SegmentLog, bytes: usize) -> u64 {
    let entries = log.entries(group(1), 0, u64::MAX, ALL).expect("readable");
    let count = entries.len() as u64;
    assert!(entries.into_iter().eq((0..count).map(|at| (at, entry(at, bytes)))), "not a prefix");
    let last = log.get(group(1), b"last").expect("readable");
    assert_eq!(last, count.checked_sub(1).map(|last| last.to_le_bytes().to_vec()), "a batch came back in part");
    count
}

/// The segments in a folder, in order.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).expect("listed").map(|entry| entry.expect("listed").path()).collect();
    found.sort();
    found
}

/// Where the records of the newest segment end.
fn end(log: &SegmentLog) -> u64 {
    log.state.lock().newest.end
}

/// Goal: wherever a write was torn, the log opens with what was written before it, goes on, and opens again.
#[test]
fn a_torn_write_is_not_there_and_nothing_before_it_is_lost() {
    const BYTES: usize = 40;
    let folder = TempDir::new().expect("a folder");
    let whole = folder.path().join("whole");
    let log = SegmentLog::open(&whole).expect("opens");
    write(&log, 0..5, BYTES);
    let synced = end(&log);
    write(&log, 5..7, BYTES);
    let length = end(&log);
    drop(log);
    for at in (synced..=length).step_by(3) {
        for is_cut in [true, false] {
            let copy = folder.path().join(format!("{at}-{is_cut}"));
            copy_folder(&whole, &copy);
            let file = OpenOptions::new().write(true).open(&segments(&copy)[0]).expect("opens");
            match is_cut {
                true => file.set_len(at).expect("cut"),
                false => file.write_all_at(&[0xa5], at).expect("written"),
            }
            let log = SegmentLog::open(&copy).expect("opens");
            let kept = count(&log, BYTES);
            assert!((5..=7).contains(&kept), "{kept} at {at}");
            write(&log, kept..kept + 3, BYTES);
            drop(log);
            assert_eq!(count(&SegmentLog::open(&copy).expect("opens again"), BYTES), kept + 3);
        }
    }
}

/// Goal: what reached the disk behind a write that did not is never there again, however much like it is what is
/// written in its place.
#[test]
fn what_lies_behind_a_torn_write_does_not_come_back() {
    const BYTES: usize = 40;
    let folder = TempDir::new().expect("a folder");
    let log = SegmentLog::open(folder.path()).expect("opens");
    write(&log, 0..3, BYTES);
    let torn = end(&log);
    write(&log, 3..9, BYTES);
    drop(log);
    let file = OpenOptions::new().write(true).open(&segments(folder.path())[0]).expect("opens");
    file.write_all_at(&[0; 8], torn).expect("torn");
    let log = SegmentLog::open(folder.path()).expect("opens");
    assert_eq!(count(&log, BYTES), 3);
    // The very record that was torn: the next one was written behind it.
    write(&log, 3..4, BYTES);
    drop(log);
    assert_eq!(count(&SegmentLog::open(folder.path()).expect("opens again"), BYTES), 4);
}

/// Goal: opening writes what it found, so that it is on the disk also after a sync that failed, and cuts off the rest.
#[test]
fn opening_leaves_the_records_of_the_newest_segment_and_nothing_else() {
    const BYTES: usize = 40;
    let folder = TempDir::new().expect("a folder");
    let log = SegmentLog::open(folder.path()).expect("opens");
    write(&log, 0..3, BYTES);
    let end = end(&log);
    drop(log);
    let path = segments(folder.path()).pop().expect("there is one");
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    OpenOptions::new().write(true).open(&path).and_then(|file| file.set_modified(long_ago)).expect("set");
    assert!(fs::metadata(&path).expect("there").len() > end, "it was filled ahead");
    let log = SegmentLog::open(folder.path()).expect("opens");
    let found = fs::metadata(&path).expect("there");
    assert_eq!(found.len(), end);
    assert_ne!(found.modified().expect("known"), long_ago, "nothing was written");
    assert_eq!(count(&log, BYTES), 3);
    write(&log, 3..400, BYTES);
    drop(log);
    assert_eq!(count(&SegmentLog::open(folder.path()).expect("opens again"), BYTES), 400);
}

/// A log of three segments and more, whose entries are all in use.
fn long(folder: &Path) -> (u64, usize) {
    const BYTES: usize = 100_000;
    let log = SegmentLog::open(folder).expect("opens");
    let entries = 3 * SEGMENT_BYTES / BYTES as u64 + 5;
    write(&log, 0..entries, BYTES);
    (entries, BYTES)
}

/// Goal: a log opens with all that is in its segments, or not at all when one but the last is missing, cut or changed.
#[test]
fn a_damaged_segment_is_an_error_that_names_it() {
    let folder = TempDir::new().expect("a folder");
    let whole = folder.path().join("whole");
    let (entries, bytes) = long(&whole);
    assert_eq!(count(&SegmentLog::open(&whole).expect("opens"), bytes), entries);
    assert!(segments(&whole).len() > 3);
    let damage: [fn(&Path); 5] = [
        |path| fs::remove_file(path).expect("removed"),
        |path| fs::write(path, []).expect("emptied"),
        |path| OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(1_000_000)).expect("cut"),
        |path| OpenOptions::new().write(true).open(path).and_then(|file| file.write_all_at(&[1], 9)).expect("changed"),
        |path| {
            let file = OpenOptions::new().write(true).open(path).expect("opens");
            file.write_all_at(b"other", 2_000_000).expect("changed");
        },
    ];
    for (number, damage) in damage.into_iter().enumerate() {
        let copy = folder.path().join(number.to_string());
        copy_folder(&whole, &copy);
        let second = segments(&copy)[1].clone();
        damage(&second);
        let error = SegmentLog::open(&copy).err().unwrap_or_else(|| panic!("damage {number} is not noticed"));
        let DiskError::Damaged { place, .. } = &error else { panic!("{error}") };
        assert_eq!(Path::new(place), second, "{error}");
    }
}

/// Goal: a process may end at any step from a full segment to the next one.
#[test]
fn a_log_without_the_segment_behind_a_full_one_goes_on() {
    let folder = TempDir::new().expect("a folder");
    let (_, bytes) = long(folder.path());
    let last = segments(folder.path()).pop().expect("there are some");
    fs::rename(&last, folder.path().join(UNFINISHED)).expect("renamed");
    let log = SegmentLog::open(folder.path()).expect("opens");
    assert!(!folder.path().join(UNFINISHED).exists());
    let kept = count(&log, bytes);
    write(&log, kept..kept + 60, bytes);
    drop(log);
    assert_eq!(count(&SegmentLog::open(folder.path()).expect("opens again"), bytes), kept + 60);
}

/// Goal: a log that could not begin its next segment takes nothing more, and opens again with what it had: nothing is
/// written over its seal. Method: a folder lies where a file is to be created, or where it is to get its name.
#[test]
fn a_log_that_cannot_go_on_in_another_segment_takes_nothing_more() {
    const BYTES: usize = 100_000;
    let folder = TempDir::new().expect("a folder");
    for (number, is_named) in [false, true].into_iter().enumerate() {
        let place = folder.path().join(number.to_string());
        let log = SegmentLog::open(&place).expect("opens");
        let obstacle = if is_named { path_of(&place, 2) } else { place.join(UNFINISHED) };
        fs::create_dir_all(obstacle.join("in the way")).expect("created");
        let mut written = 0;
        while log.apply(batch(written, BYTES)).is_ok() {
            written += 1;
        }
        assert!(written * BYTES as u64 > SEGMENT_BYTES - 2 * BYTES as u64, "{written} entries");
        let mut small = LogBatch::of(group(1));
        small.put("small", "fits into the first segment");
        assert!(log.apply(small).is_err() && log.sync().is_err(), "{written} entries");
        drop(log);
        fs::remove_dir_all(&obstacle).expect("removed");
        let log = SegmentLog::open(&place).expect("opens again");
        assert_eq!(count(&log, BYTES), written);
        write(&log, written..written + 60, BYTES);
        drop(log);
        assert_eq!(count(&SegmentLog::open(&place).expect("opens again"), BYTES), written + 60);
    }
}

/// Goal: no writer waits for more than a few removals, however much was deleted at once.
#[test]
fn a_step_of_a_compaction_removes_few_segments() {
    const BYTES: usize = 2 * 1024 * 1024;
    let folder = TempDir::new().expect("a folder");
    let log = SegmentLog::open(folder.path()).expect("opens");
    write(&log, 0..30, BYTES);
    let mut purge = LogBatch::of(group(1));
    purge.purge(29);
    log.apply(purge).expect("applied");
    let mut left = segments(folder.path()).len();
    assert!(left > 3 * REMOVED_PER_STEP_MAX, "{left} segments");
    while log.compact().expect("compacted") {
        let now = segments(folder.path()).len();
        assert!(left - now <= REMOVED_PER_STEP_MAX, "{} segments in one step", left - now);
        left = now;
    }
    assert!(left <= 2, "{left} segments are left");
}

/// Goal: once a sync failed, no other one that was asked for meanwhile says that all is well.
#[test]
fn a_sync_that_waits_for_one_that_fails_fails_as_well() {
    let folder = TempDir::new().expect("a folder");
    let log = SegmentLog::open(folder.path()).expect("opens");
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (fail, may_fail) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let log = &log;
        let first = scope.spawn(move || {
            log.sync_with(|| {
                begun.send(()).expect("awaited");
                may_fail.recv().expect("told");
                Err(io::Error::other("told to fail"))
            })
        });
        has_begun.recv().expect("it begins");
        let second = scope.spawn(move || log.sync());
        // It would have succeeded by then, were it not held up.
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!second.is_finished());
        fail.send(()).expect("awaited");
        assert!(first.join().expect("no panic").is_err());
        assert!(second.join().expect("no panic").is_err());
    });
}

/// Goal: a log that is written for long stays about as large as what is in use, beside a group that wrote once.
#[test]
fn a_log_that_is_purged_stays_small() {
    const BYTES: usize = 50_000;
    const KEPT: u64 = 60;
    const ENTRIES: u64 = 1200;
    let folder = TempDir::new().expect("a folder");
    let log = SegmentLog::open(folder.path()).expect("opens");
    let mut idle = LogBatch::of(group(2));
    idle.append(1, vec![vec![2; 10]; 1000]).put("vote", "two");
    log.apply(idle).expect("applied");
    let size = || segments(folder.path()).iter().map(|path| fs::metadata(path).expect("there").len()).sum::<u64>();
    let mut most = 0;
    for at in 0..ENTRIES {
        let mut batch = batch(at, BYTES);
        batch.purge(at.saturating_sub(KEPT));
        log.apply(batch).expect("applied");
        log.sync().expect("synced");
        while log.compact().expect("compacted") {}
        most = most.max(size());
    }
    let bound = 2 * KEPT * BYTES as u64 + SLACK_BYTES + 3 * SEGMENT_BYTES;
    assert!(most <= bound, "{most} bytes are more than {bound}");
    drop(log);
    let log = SegmentLog::open(folder.path()).expect("opens");
    assert_eq!(log.entries(group(2), 0, 2000, ALL).expect("readable").len(), 1000);
    assert_eq!(log.get(group(2), b"vote").expect("readable").as_deref(), Some(&b"two"[..]));
    let kept = log.entries(group(1), 0, u64::MAX, ALL).expect("readable");
    assert!(kept.into_iter().eq((ENTRIES - KEPT..ENTRIES).map(|at| (at, entry(at, BYTES)))));
}

/// Goal: readers, a writer and compaction do not get into each other's way.
#[test]
fn what_is_read_while_segments_go_is_whole() {
    const BYTES: usize = 60_000;
    let folder = TempDir::new().expect("a folder");
    let log = SegmentLog::open(folder.path()).expect("opens");
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for at in 0..600u64 {
                let mut batch = batch(at, BYTES);
                batch.purge(at.saturating_sub(20));
                log.apply(batch).expect("applied");
                log.compact().expect("compacted");
            }
            is_done.store(true, Ordering::Release);
        });
        while !is_done.load(Ordering::Acquire) {
            for (at, bytes) in log.entries(group(1), 0, u64::MAX, ALL).expect("readable") {
                assert_eq!(bytes, entry(at, BYTES));
            }
        }
    });
}
