//! Encoding and hashing one segment, the pure hot path of a put, and decoding one, the worst case of a get.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quorate_node::buffers::Buffer;
use quorate_node::objects::coding::Coder;
use quorate_protocols::object::limits::SEGMENT_BYTES;
use quorate_protocols::object::{CheckedPiece, Profile};

fn segment() -> Vec<u8> {
    let mut bytes = vec![0; SEGMENT_BYTES];
    let mut state = 1u64;
    for chunk in bytes.chunks_exact_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn coding(criterion: &mut Criterion) {
    let segment = segment();
    let mut group = criterion.benchmark_group("segment");
    group.throughput(Throughput::Bytes(SEGMENT_BYTES as u64)).sample_size(20);
    for profile in [Profile::DEFAULT, Profile { data: 2, parity: 1 }] {
        let coder = Coder::new(profile).expect("a possible profile");
        group.bench_function(format!("encode and hash {profile}"), |bencher| {
            bencher.iter_batched(|| Buffer::from(&segment[..]), |segment| coder.encode(segment), BatchSize::LargeInput);
        });
        let pieces: Vec<Bytes> =
            coder.encode(Buffer::from(&segment[..])).into_iter().map(CheckedPiece::into_bytes).collect();
        let piece_bytes = pieces[0].len();
        let without_first: Vec<Option<Bytes>> =
            pieces.iter().enumerate().map(|(index, piece)| (index > 0).then(|| piece.clone())).collect();
        group.bench_function(format!("decode {profile} without its first piece"), |bencher| {
            bencher.iter(|| coder.data(without_first.clone(), piece_bytes).expect("enough pieces"));
        });
    }
    group.finish();
}

criterion_group!(benches, coding);
criterion_main!(benches);
