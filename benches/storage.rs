//! Acknowledged writes per second, one at a time and 64 at once sharing syncs: of the record store, and of the log of
//! raft groups, where the 64 are of as many groups.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_node::seams::{KvBatch, LogBatch, TaskGroup};
use quorate_node::storage::{self, Storage};
use quorate_protocols::ids::QuorumId;

/// A small raft entry.
const VALUE: [u8; 256] = [7; 256];

fn record(key: u64) -> KvBatch {
    let mut batch = KvBatch::new();
    batch.put("log", key.to_be_bytes(), VALUE);
    batch
}

fn entry(key: u64) -> LogBatch {
    let mut batch = LogBatch::of(QuorumId([(key % 64) as u8; 16]));
    batch.append(key, vec![VALUE.to_vec()]).purge(key.saturating_sub(64_000));
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
        group.bench_function(format!("{at_once} records at once"), |bencher| {
            bencher.iter(|| {
                let writes = (next..next + at_once).map(|key| storage.write(record(key)));
                next += at_once;
                black_box(runtime.block_on(futures::future::try_join_all(writes))).expect("written");
            });
        });
        group.bench_function(format!("{at_once} entries at once"), |bencher| {
            bencher.iter(|| {
                let writes = (next..next + at_once).map(|key| storage.append(entry(key)));
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
