//! Snapshots of a quorum at its limits: what applying waits for while one is taken.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ed25519_dalek::SigningKey;

use crate::approval::{Grant, Signature};
use crate::ids::*;
use crate::job::batch::{BatchSpec, Map};
use crate::job::limits::JOBS_LIVE_MAX;
use crate::job::record::{JobRecord, Run, RunState};
use crate::job::signed::OwnerSignature;
use crate::job::spec::{JobSpec, StoreSpec};
use crate::job::store::{ColumnRecord, ColumnState, StoreRun};
use crate::object::layout::Profile;
use crate::quorum::claims::{Claim, Claims};
use crate::quorum::command::{Control, ObjectCommand};
use crate::quorum::entry::{Batch, Command};
use crate::quorum::limits::OBJECTS_MAX;
use crate::quorum::object::{ObjectRecord, ObjectState};
use crate::quorum::objects::Catalog;
use crate::quorum::state::QuorumState;
use crate::shared_map::SharedMap;
use crate::task::spec::{Call, Program};

const QUORUM: QuorumId = QuorumId([1; 16]);
/// The peer whose key is made of 9s: it signs what it submits.
const OWNER: PeerId = PeerId([
    0xfd, 0x17, 0x24, 0x38, 0x5a, 0xa0, 0xc7, 0x5b, 0x64, 0xfb, 0x78, 0xcd, 0x60, 0x2f, 0xa1, 0xd9, 0x91, 0xfd, 0xeb,
    0xf7, 0x6b, 0x13, 0xc5, 0x8e, 0xd7, 0x02, 0xea, 0xc8, 0x35, 0xe9, 0xf6, 0x18,
]);

fn owner_key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}
const PROFILE: Profile = Profile { data: 4, parity: 2 };
const NOW: Millis = Millis(1_000);

/// Ids are random, and come in no order.
fn job(number: usize) -> JobId {
    let mut local = [0; 16];
    local.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..16]);
    JobId { quorum: QUORUM, local }
}

fn manifest(number: usize) -> Bytes {
    let pieces = (0..7u8).flat_map(|piece| *blake3::hash(&[&number.to_le_bytes()[..], &[piece]].concat()).as_bytes());
    Bytes::from(pieces.collect::<Vec<_>>())
}

fn hash(number: usize) -> ManifestHash {
    ManifestHash(*blake3::hash(&manifest(number)).as_bytes())
}

fn store_spec() -> StoreSpec {
    StoreSpec { name: Some("a file of some name.txt".to_owned()), size: Some(60_000), profile: PROFILE }
}

fn stored(number: usize) -> (JobRecord, ObjectRecord) {
    let grant = |column: usize| Grant {
        holder: MemberId { peer: PeerId([column as u8; 32]), incarnation: Incarnation::default() },
        lease: LeaseId([number as u8; 16]),
    };
    let columns = (0..PROFILE.columns()).map(|column| ColumnRecord {
        grant: Some(grant(column)),
        attempt: Attempt(1),
        state: ColumnState::Confirmed,
        stored: Vec::new(),
    });
    let claim = Claim { owner: OWNER, name: store_spec().name, job: job(number), at: NOW, since: LogIndex(1) };
    let object = ObjectRecord {
        state: ObjectState::Live,
        size: 60_000,
        profile: PROFILE,
        claims: Claims::from(vec![claim]),
        job: job(number),
        created_at: NOW,
        columns: columns.collect(),
        owed: BTreeMap::new(),
        repairs: BTreeMap::new(),
        newest: vec![Attempt(1); PROFILE.columns()],
    };
    let run = StoreRun { manifest: Some(hash(number)), ..StoreRun::new(OWNER, PROFILE.columns(), NOW) };
    let (spec, run) = (JobSpec::store(store_spec()), Run::Store(Box::new(run)));
    // As large as any, and not looked at.
    let signed = OwnerSignature { signature: Signature([1; 32], [2; 32]), trigger: None };
    let mut record =
        JobRecord::begin((job(number), OWNER, signed), NOW, spec, run, format!("submitted through {OWNER}"));
    record.move_to(NOW, RunState::Running, "6 columns have a holder, 2 peers are spare".to_owned());
    record.move_to(NOW, RunState::Succeeded, format!("stored as {}", hash(number)));
    record.finished_at = Some(NOW);
    (record, object)
}

/// As many objects and live jobs as a quorum may have; half of the jobs store, half compute.
fn full() -> QuorumState {
    let mut state = QuorumState::new(QUORUM);
    let submit = |number: usize| {
        let call = Call::new(Program::Command { name: "work".to_owned() });
        let spec = match number % 2 {
            0 => JobSpec::store(store_spec()),
            _ => JobSpec::batch(BatchSpec { map: Map::Count(20), ..BatchSpec::new(call) }),
        };
        // Each of two owners has a half, of either kind.
        let key = if number % 4 < 2 { owner_key() } else { SigningKey::from_bytes(&[10; 32]) };
        (PeerId(key.verifying_key().to_bytes()), Command::submit(&key, job(OBJECTS_MAX + number), spec))
    };
    let numbers: Vec<usize> = (0..JOBS_LIVE_MAX).collect();
    for (entry, numbers) in numbers.chunks(500).enumerate() {
        let commands = numbers.iter().map(|number| submit(*number)).collect();
        let (replies, _) = state.apply(LogIndex(entry as u64), &Batch::at(NOW, commands));
        assert!(replies.replies.iter().all(Result::is_ok));
    }
    // The objects come after the jobs: beside so many no store would be taken.
    let (mut objects, mut manifests) = (SharedMap::new(), SharedMap::new());
    for number in 0..OBJECTS_MAX {
        let (record, object) = stored(number);
        state.jobs.insert(record.job, record);
        objects.insert(hash(number), object);
        manifests.insert(hash(number), manifest(number));
    }
    state.objects = Catalog::from_rows(objects, manifests);
    state.rebuild_index();
    assert_eq!(state.counts(), (JOBS_LIVE_MAX as u32, OBJECTS_MAX as u32, OBJECTS_MAX as u32));
    state
}

/// Changes a live job and an object somewhere.
fn entry(number: usize) -> Batch {
    let paused = job(OBJECTS_MAX + ((number.wrapping_mul(7_919) % JOBS_LIVE_MAX) | 1));
    let pause = if number.is_multiple_of(2) { Control::Pause } else { Control::Resume };
    let owe = ObjectCommand::OweRepair { column: PieceIndex(0), attempt: Attempt(1), reason: String::new() };
    let commands = vec![
        (OWNER, Command::control(paused, LogIndex(u64::MAX), pause)),
        (OWNER, Command::Object(hash(number.wrapping_mul(104_729) % OBJECTS_MAX), owe)),
    ];
    Batch::at(NOW, commands)
}

/// The longest that an entry had to wait and took, while `snapshot` was taken and encoded beside it.
fn longest_entry<T>(
    state: &Mutex<QuorumState>,
    snapshot: impl FnOnce(&QuorumState) -> T,
    encode: impl FnOnce(&T),
) -> Duration {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let applying = scope.spawn(|| {
            let (mut longest, mut number) = (Duration::ZERO, 0);
            while !over.load(Ordering::Relaxed) {
                number += 1;
                let batch = entry(number);
                let began = Instant::now();
                state.lock().unwrap().apply(LogIndex(1_000 + number as u64), &batch);
                longest = longest.max(began.elapsed());
                std::thread::sleep(Duration::from_micros(200));
            }
            longest
        });
        let taken = snapshot(&state.lock().unwrap());
        encode(&taken);
        over.store(true, Ordering::Relaxed);
        applying.join().unwrap()
    })
}

/// Goal: a snapshot of a full quorum holds up no entry for long. The time is the machine's, so it is held against what
/// it takes to encode the whole state on the same machine while entries wait. It prints the figures of
/// docs/testing.md, which `scripts/bench` gathers.
#[test]
fn a_snapshot_of_a_full_quorum_does_not_hold_up_applying() {
    let state = Mutex::new(full());
    let held = longest_entry(&state, QuorumState::encode_snapshot, |_| ());
    let views = (0..5).map(|_| longest_entry(&state, QuorumState::snapshot_view, |view| drop(view.encode())));
    let views: Vec<Duration> = views.collect();
    let ms = |of: &Duration| (of.as_secs_f64() * 1e5).round() / 100.0;
    let figures = serde_json::json!({
        "bench": "snapshot", "live_jobs": JOBS_LIVE_MAX, "objects": OBJECTS_MAX,
        "longest_entry_ms": views.iter().map(ms).collect::<Vec<_>>(), "longest_entry_encoded_at_once_ms": ms(&held),
    });
    println!("{figures}");
    // The best of a few: other work on the machine only ever adds.
    let viewed = views.into_iter().min().unwrap_or_default();
    assert!(viewed * 2 < held, "{viewed:?} is not much less than {held:?}");
}

/// Goal: a snapshot is the state at its entry, whatever is applied before it is encoded.
#[test]
fn what_is_applied_later_is_not_in_a_snapshot() {
    let mut state = QuorumState::new(QUORUM);
    let call = Call::new(Program::Command { name: "work".to_owned() });
    let spec = JobSpec::batch(BatchSpec { map: Map::Count(100), ..BatchSpec::new(call) });
    for number in 0..200 {
        let submit = Command::submit(&owner_key(), job(number), spec.clone());
        state.apply(LogIndex(number as u64), &Batch::at(NOW, vec![(OWNER, submit)])).0.replies[0].as_ref().unwrap();
    }
    let (view, before) = (state.snapshot_view(), state.encode_snapshot());
    for number in 0..200 {
        let cancel = Command::control(job(number), LogIndex(u64::MAX), Control::Cancel);
        state.apply(LogIndex(200 + number as u64), &Batch::at(NOW, vec![(OWNER, cancel)]));
    }
    assert_eq!(view.encode(), before);
    assert_ne!(state.encode_snapshot(), before);
}
