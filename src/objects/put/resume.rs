//! The record of which run was storing which file: written before the run is submitted, so that putting the same file
//! again after a crash finds the pieces that are already out there.

use std::time::Duration;

use quorate_protocols::ids::{JobId, Millis};
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};

use crate::seams::{Clock, DiskError, KvBatch};
use crate::storage::Storage;

const RUNS: &str = "objects.runs";

/// Files remembered; beyond that the one recorded longest ago is forgotten.
const RUNS_MAX: usize = 1_024;

/// A run that old has long been abandoned by its quorum.
const RUN_KEPT: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RunRow {
    job: JobId,
    at: Millis,
}

impl Record for RunRow {
    /// 1: first.
    const VERSION: u8 = 1;
}

fn key(fingerprint: &str) -> [u8; 32] {
    *blake3::hash(fingerprint.as_bytes()).as_bytes()
}

/// The run that was storing this file. A record that cannot be read is no record: the file is stored anew.
pub(super) fn find(storage: &Storage, fingerprint: &str) -> Result<Option<JobId>, DiskError> {
    let row = storage.kv().get(RUNS, &key(fingerprint))?;
    Ok(row.and_then(|bytes| wire::decode_record::<RunRow>(&bytes).ok()).map(|row| row.job))
}

/// Durable on return.
pub(super) async fn remember(
    storage: &Storage,
    clock: &dyn Clock,
    fingerprint: &str,
    job: JobId,
) -> Result<(), DiskError> {
    let now = clock.wall();
    let mut batch = KvBatch::new();
    let rows = storage.kv().range(RUNS, &[], &[0xff; 33], RUNS_MAX + 1, usize::MAX)?;
    let aged: Vec<_> = rows
        .into_iter()
        .map(|(key, value)| (wire::decode_record::<RunRow>(&value).map(|row| row.at).unwrap_or_default(), key))
        .collect();
    for (at, key) in &aged {
        if now.since(*at) >= RUN_KEPT {
            batch.delete(RUNS, key.clone());
        }
    }
    if aged.len() >= RUNS_MAX
        && let Some((_, oldest)) = aged.iter().min()
    {
        batch.delete(RUNS, oldest.clone());
    }
    batch.put(RUNS, key(fingerprint), wire::encode_record(&RunRow { job, at: now }));
    storage.write(batch).await
}

pub(super) async fn forget(storage: &Storage, fingerprint: &str) -> Result<(), DiskError> {
    let mut batch = KvBatch::new();
    batch.delete(RUNS, key(fingerprint));
    storage.write(batch).await
}
