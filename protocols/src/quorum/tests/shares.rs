//! Limits of a quorum, and the share of each owner in them: one owner reaches its share, and another has room still.

use super::*;
use crate::object::limits::MANIFEST_BYTES_MAX;
use crate::quorum::limits::{OWNER_HASH_BYTES_MAX, OWNER_OBJECTS_MAX};
use crate::quorum::objects::Catalog;
use crate::shared_map::SharedMap;

/// Goal: one owner fills half of a quorum, and another finds the rest. What ends makes room again.
#[test]
fn live_jobs_of_one_owner_are_a_half() {
    let mut state = QuorumState::new(QUORUM);
    let id = |number: u32| {
        let mut local = [0; 16];
        local[..4].copy_from_slice(&number.to_be_bytes());
        JobId { quorum: QUORUM, local }
    };
    let submit = |by, number| (peer(by), Command::submit(&key(by), id(number), spec()));
    let mut apply = |commands| state.apply(LogIndex(1), &Batch::at(Millis(1), commands)).0.replies;
    let replies = apply((0..OWNER_JOBS_MAX as u32).map(|number| submit(0, number)).collect());
    assert!(replies.iter().all(Result::is_ok));
    let next = OWNER_JOBS_MAX as u32;
    let replies = apply(vec![
        submit(0, next),
        submit(1, next),
        (peer(0), Command::control(id(0), LogIndex(u64::MAX), Control::Cancel)),
        submit(0, next + 1),
    ]);
    let full = Rejection::Full { what: "live jobs of one owner".to_owned(), limit: OWNER_JOBS_MAX };
    assert_eq!(replies[0], Err(full));
    assert!(replies[1..].iter().all(Result::is_ok), "{replies:?}");
    state.check_invariants().unwrap();
}

#[test]
fn live_jobs_are_limited() {
    let mut state = QuorumState::new(QUORUM);
    let commands = (0..=JOBS_LIVE_MAX as u32).map(|number| {
        let mut local = [0; 16];
        local[..4].copy_from_slice(&number.to_be_bytes());
        let owner = (number % 2) as u8;
        (peer(owner), Command::submit(&key(owner), JobId { quorum: QUORUM, local }, spec()))
    });
    assert!(state.room() > 0);
    let (reply, _) = state.apply(LogIndex(1), &Batch::at(Millis(1), commands.collect()));
    let full = Rejection::Full { what: "live jobs".to_owned(), limit: JOBS_LIVE_MAX };
    assert_eq!((reply.replies.last(), state.room()), (Some(&Err(full)), 0));
    // Pages are capped, follow on each other and end.
    let (mut after, mut seen) = (None, 0);
    loop {
        let Some(QueryAnswer::Jobs(page)) = state.answer(&Query::Jobs { after, limit: u32::MAX }) else { panic!() };
        let Some(last) = page.last() else { break };
        let age = (last.created_at, last.job);
        assert!(page.len() <= PAGE_MAX && after.is_none_or(|after| age < after));
        (after, seen) = (Some(age), seen + page.len());
    }
    assert_eq!(seen, JOBS_LIVE_MAX);
}

/// Applies a command without the checks of every entry: what the tests here make up has no history.
fn apply(state: &mut QuorumState, by: u8, command: Command) -> Result<CommandReply, Rejection> {
    state.apply(LogIndex(1_000), &Batch::at(Millis(1_000), vec![(peer(by), command)])).0.replies.remove(0)
}

/// So many objects beside those that are there, all of them the owner's, with a manifest of so many bytes.
fn fill(quorum: &mut Quorum, objects: usize, manifest: Bytes) {
    let (mut records, mut manifests) = (SharedMap::new(), SharedMap::new());
    let template = quorum.state.objects.values().next().expect("one object is there").clone();
    for number in 0..objects as u64 {
        let mut hash = [0xee; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        records.insert(ManifestHash(hash), template.clone());
        manifests.insert(ManifestHash(hash), manifest.clone());
    }
    quorum.state.objects = Catalog::from_rows(records, manifests);
    quorum.state.objects.rebuild_index();
}

/// A run of the owner that has its holders, in a quorum where job 1 of peer 0 stored an object.
fn begin(quorum: &mut Quorum, owner: u8, index: u8) {
    quorum.apply(peer(owner), Command::submit(&key(owner), job(index), spec())).unwrap();
    quorum.add(index, &[4, 5, 6]).unwrap();
}

/// The commit of that run, of an object of `segments` segments of which none was reported before.
fn committing(quorum: &Quorum, index: u8, segments: u32) -> Command {
    let pieces = (0..segments * PROFILE.columns() as u32).map(|piece| PieceHash([piece as u8 ^ index; 32])).collect();
    let manifest = Manifest { size: u64::from(segments) * SEGMENT_BYTES as u64, profile: PROFILE, pieces };
    let columns = quorum.state.jobs[&job(index)].store().unwrap().1.columns.iter().enumerate();
    let receipts = columns.map(|(column, record)| {
        let (column, grant) = (PieceIndex(column as u8), record.grant.unwrap());
        let slot = Slot { job: job(index), column, attempt: record.attempt };
        let holder = (0..PEERS).find(|index| peer(*index) == grant.holder.peer).unwrap();
        let statement = ReceiptStatement {
            slot,
            holder: grant.holder.peer,
            lease: grant.lease,
            column: manifest.column_digest(column),
            segments,
        };
        Receipt::sign(&key(holder), statement)
    });
    let receipts = receipts.collect();
    let manifest = Bytes::from(manifest.encode());
    Command::store(job(index), StoreCommand::Commit { upload_attempt: Attempt(1), manifest, receipts, degraded: false })
}

/// Goal: one owner keeps half of the objects that a quorum has, which is said before it uploads another, and another
/// owner finds the rest.
#[test]
fn objects_of_one_owner_are_a_half() {
    let mut quorum = Quorum::stored(&[1, 2, 3]);
    begin(&mut quorum, 0, 2);
    begin(&mut quorum, 8, 3);
    fill(&mut quorum, OWNER_OBJECTS_MAX, encoded(1));
    let (own, others) = (committing(&quorum, 2, 1), committing(&quorum, 3, 1));
    let state = &mut quorum.state;
    let full = Rejection::Full { what: "objects of one owner".to_owned(), limit: OWNER_OBJECTS_MAX };
    assert_eq!(apply(state, 0, own), Err(full.clone()));
    assert_eq!(apply(state, 0, Command::submit(&key(0), job(4), spec())), Err(full));
    assert!(matches!(apply(state, 8, others), Ok(CommandReply::Committed { .. })));
    assert!(apply(state, 8, Command::submit(&key(8), job(4), spec())).is_ok());
    assert!(state.room() > 0, "room is what the quorum has, whoever submits");
}

/// Goal: piece hashes of one owner, of its runs and of its objects, take half of their bytes: at a submit, while an
/// upload goes on, and at a commit of what was not reported before. Another owner finds the rest.
#[test]
fn piece_hashes_of_one_owner_are_a_half() {
    let mut quorum = Quorum::stored(&[1, 2, 3]);
    begin(&mut quorum, 0, 2);
    begin(&mut quorum, 8, 3);
    begin(&mut quorum, 8, 6);
    // What is left to the owner is less than a thousand segments take.
    let left = 50_000;
    let objects = (OWNER_HASH_BYTES_MAX - left).div_ceil(MANIFEST_BYTES_MAX);
    let bytes = (OWNER_HASH_BYTES_MAX - left) / objects;
    fill(&mut quorum, objects, Bytes::from(vec![0; bytes]));
    let segments = 1_000;
    assert!(segments as usize * PROFILE.columns() * PieceHash::LEN > left + objects);
    let (own, others) = (committing(&quorum, 2, segments), committing(&quorum, 6, segments));
    let sized = |owner: u8, index: u8| {
        let size = Some(u64::from(segments) * SEGMENT_BYTES as u64);
        let spec = JobSpec::store(StoreSpec { name: None, size, profile: PROFILE });
        Command::submit(&key(owner), job(index), spec)
    };
    let reported = |index: u8| {
        let pieces = vec![PieceHash([index; 32]); PROFILE.columns()];
        let segments = (0..segments)
            .map(|number| SegmentProgress { segment: SegmentIndex(number), pieces: pieces.clone(), stored: Vec::new() })
            .collect();
        Command::store(job(index), StoreCommand::Progress { upload_attempt: Attempt(1), segments })
    };
    let full = Rejection::Full { what: "bytes of piece hashes of one owner".to_owned(), limit: OWNER_HASH_BYTES_MAX };
    let state = &mut quorum.state;
    assert_eq!(apply(state, 0, sized(0, 4)), Err(full.clone()));
    assert_eq!(apply(state, 0, reported(2)), Err(full.clone()));
    assert_eq!(apply(state, 0, own), Err(full));
    assert!(apply(state, 8, sized(8, 4)).is_ok());
    assert!(apply(state, 8, reported(3)).is_ok());
    assert!(matches!(apply(state, 8, others), Ok(CommandReply::Committed { .. })));
    // Less than is left has room.
    assert!(apply(state, 0, Command::submit(&key(0), job(5), spec())).is_ok());
}

/// Goal: what was taken in while it came is committed, though there is room for nothing more.
#[test]
fn a_commit_of_what_was_reported_needs_no_room() {
    let mut quorum = Quorum::stored(&[1, 2, 3]);
    begin(&mut quorum, 0, 2);
    let segments = (0..SEGMENTS).map(|segment| progress(segment, 2, &[])).collect();
    quorum
        .apply(peer(0), Command::store(job(2), StoreCommand::Progress { upload_attempt: Attempt(1), segments }))
        .unwrap();
    let receipts = quorum.receipts(2, 2);
    // As full as it can be: the hashes of the run are in it.
    let objects = OWNER_HASH_BYTES_MAX.div_ceil(MANIFEST_BYTES_MAX);
    fill(&mut quorum, objects, Bytes::from(vec![0; OWNER_HASH_BYTES_MAX / objects]));
    assert!(quorum.state.check_hash_room(peer(0), PieceHash::LEN).is_err());
    let manifest = encoded(2);
    let commit = StoreCommand::Commit { upload_attempt: Attempt(1), manifest, receipts, degraded: false };
    let reply = apply(&mut quorum.state, 0, Command::store(job(2), commit));
    assert!(matches!(reply, Ok(CommandReply::Committed { .. })), "{reply:?}");
}
