//! The cost of a committed entry to a member: decoding left out, digest included.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ed25519_dalek::SigningKey;
use quorate_protocols::approval::Grant;
use quorate_protocols::ids::*;
use quorate_protocols::job::spec::{JobSpec, StoreSpec};
use quorate_protocols::job::store::SegmentProgress;
use quorate_protocols::object::Profile;
use quorate_protocols::quorum::limits::BATCH_COMMANDS_MAX;
use quorate_protocols::quorum::{Batch, Command, QuorumCommand, QuorumState, StoreCommand};
use std::hint::black_box;

const QUORUM: QuorumId = QuorumId([1; 16]);
/// The peer whose key is made of 9s: it signs what it submits.
const WORKER: PeerId = PeerId([
    0xfd, 0x17, 0x24, 0x38, 0x5a, 0xa0, 0xc7, 0x5b, 0x64, 0xfb, 0x78, 0xcd, 0x60, 0x2f, 0xa1, 0xd9, 0x91, 0xfd, 0xeb,
    0xf7, 0x6b, 0x13, 0xc5, 0x8e, 0xd7, 0x02, 0xea, 0xc8, 0x35, 0xe9, 0xf6, 0x18,
]);

fn job(number: u32) -> JobId {
    let mut local = [0; 16];
    local.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..16]);
    JobId { quorum: QUORUM, local }
}

/// A quorum with this many running puts.
fn running(jobs: u32) -> QuorumState {
    let mut state = QuorumState::new(QUORUM);
    let grants: Vec<_> = (0..6)
        .map(|holder| Grant {
            holder: MemberId { peer: PeerId([holder; 32]), incarnation: Incarnation(1) },
            lease: LeaseId([holder; 16]),
        })
        .collect();
    let spec = JobSpec::store(StoreSpec { name: None, size: None, profile: Profile::DEFAULT });
    let key = SigningKey::from_bytes(&[9; 32]);
    let commands = (0..jobs).flat_map(|number| {
        let job = job(number);
        let submit = Command::submit(&key, job, spec.clone());
        [
            (WORKER, submit),
            (WORKER, Command::store(job, StoreCommand::AddHolders { grants: grants.clone(), exhausted: false })),
        ]
    });
    state.apply(LogIndex(1), &Batch::at(Millis(1), commands.collect()));
    state
}

fn progress(number: u32, segment: u32) -> Command {
    let progress = SegmentProgress {
        segment: SegmentIndex(segment),
        pieces: (0..6).map(|column| PieceHash([column; 32])).collect(),
        stored: (0..6).map(|column| (PieceIndex(column), Attempt(1))).collect(),
    };
    Command::store(job(number), StoreCommand::Progress { upload_attempt: Attempt(1), segments: vec![progress] })
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(BATCH_COMMANDS_MAX as u64));
    let noops = Batch::at(Millis(2), vec![(WORKER, Command::Quorum(QuorumCommand::Noop)); BATCH_COMMANDS_MAX]);
    let mut state = running(1_000);
    group.bench_function("512 no-ops", |bencher| bencher.iter(|| black_box(state.apply(LogIndex(2), &noops))));
    let commands = (0..BATCH_COMMANDS_MAX as u32).map(|number| (WORKER, progress(number, 0))).collect();
    let reports = Batch::at(Millis(2), commands);
    group.bench_function("512 progress reports of as many puts", |bencher| {
        bencher.iter_batched_ref(
            || running(1_000),
            |state| black_box(state.apply(LogIndex(2), &reports)),
            BatchSize::LargeInput,
        )
    });
    group.finish();
    let state = running(1_000);
    criterion.bench_function("duties of 1,000 running puts", |bencher| bencher.iter(|| black_box(state.duties())));
    criterion.bench_function("snapshot of 1,000 running puts", |bencher| {
        bencher.iter(|| black_box(state.encode_snapshot()))
    });
}

criterion_group!(apply, benches);
criterion_main!(apply);
