//! A promise as it is kept on disk, so that it outlives the process that made it.

use std::time::Duration;

use quorate_protocols::approval::Subject;
use quorate_protocols::capacity::Requirement;
use quorate_protocols::ids::{LeaseId, Nonce, PeerId};
use quorate_protocols::resources::Lease;
use quorate_protocols::wire::{self, DecodeError, Record};
use serde::{Deserialize, Serialize};

use crate::seams::{DiskError, Kv, KvBatch};

pub(super) const TREE: &str = "leases";

/// Records read at once when loading.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 1024 * 1024;

/// Version 1: first. 2: the writer of a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaseRecord {
    pub asker: PeerId,
    pub subject: Subject,
    pub requirement: Requirement,
    pub nonce: Nonce,
    pub duration: Duration,
    /// One that was not used does not outlive a restart.
    pub used: bool,
    /// `Some` once the lease became a lasting hold: the bytes of disk that it holds.
    pub lasting: Option<u64>,
}

impl Record for LeaseRecord {
    const VERSION: u8 = 2;
}

impl LeaseRecord {
    pub fn of(lease: &Lease, lasting: Option<u64>) -> Self {
        Self {
            asker: lease.asker,
            subject: lease.subject,
            requirement: lease.requirement.clone(),
            nonce: lease.nonce,
            duration: lease.duration,
            used: lease.used,
            lasting,
        }
    }
    pub fn into_lease(self) -> Lease {
        let Self { asker, subject, requirement, nonce, duration, used, .. } = self;
        // The end is set when the lease is restored.
        Lease { asker, subject, requirement, nonce, duration, used, expires: None }
    }
}

pub(super) fn put(id: LeaseId, record: &LeaseRecord) -> KvBatch {
    let mut batch = KvBatch::new();
    batch.put(TREE, id.as_bytes().to_vec(), wire::encode_record(record));
    batch
}

pub(super) fn delete(ids: impl IntoIterator<Item = LeaseId>) -> KvBatch {
    let mut batch = KvBatch::new();
    for id in ids {
        batch.delete(TREE, id.as_bytes().to_vec());
    }
    batch
}

/// Every promise on disk, in order of id. A record that cannot be read is an error: to forget a promise silently
/// would let this node promise the same room twice.
pub(super) fn load(kv: &dyn Kv) -> Result<Vec<(LeaseId, LeaseRecord)>, DiskError> {
    let mut records = Vec::new();
    let mut from = Vec::new();
    // Keys are 16 bytes: nothing is beyond 17 times 0xff.
    let end = [0xff; LeaseId::LEN + 1];
    loop {
        let page = kv.range(TREE, &from, &end, PAGE, PAGE_BYTES)?;
        let Some((last, _)) = page.last() else { return Ok(records) };
        // The first key after the last one read.
        from = [last.as_slice(), &[0]].concat();
        for (key, value) in page {
            let damaged =
                |reason: String| DiskError::Damaged { place: format!("{TREE}/{}", hex::encode(&key)), reason };
            let id = key.as_slice().try_into().map_err(|_| damaged("the key is not a lease id".into()))?;
            let record = wire::decode_record(&value).map_err(|error: DecodeError| damaged(error.to_string()))?;
            records.push((LeaseId(id), record));
        }
    }
}
