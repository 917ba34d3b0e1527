//! Acknowledged writes per second of the record store: one at a time, and 64 at once sharing syncs.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_node::seams::{KvBatch, TaskGroup};
use quorate_node::storage::{self, Storage};

/// A small raft entry.
const VALUE: [u8; 256] = [7; 256];

fn batch(key: u64) -> KvBatch {
    let mut batch = KvBatch::new();
    batch.put("log", key.to_be_bytes(), VALUE);
    batch
}

fn acknowledged_writes(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let tasks = TaskGroup::threaded();
    let disk = storage::open(folder.path()).expect("an empty folder opens");
    let storage = runtime.block_on(tasks.scope(async { Storage::start(disk) }));
    let mut next = 0;
    let mut group = criterion.benchmark_group("acknowledged writes");
    for at_once in [1u64, 64] {
        group.throughput(Throughput::Elements(at_once));
        group.bench_function(format!("{at_once} at once"), |bencher| {
            bencher.iter(|| {
                let writes = (next..next + at_once).map(|key| storage.write(batch(key)));
                next += at_once;
                black_box(runtime.block_on(futures::future::try_join_all(writes))).expect("written");
            });
        });
    }
    group.finish();
    runtime.block_on(tasks.close());
}

criterion_group!(benches, acknowledged_writes);
criterion_main!(benches);
