//! Submitting a job that computes, at once or each time its trigger fires: first an id, which says whose it is, then
//! the job under that id.
//!
//! An id can be asked for again and again as long as nobody knows whether the submit under it was heard; the quorum
//! takes the same specification under the same id as the same job, and another one as a conflict.
//!
//! A *key* stands for an id: which quorum it went to is on this node's disk before anything is submitted, and the rest
//! of the id follows from quorum and key. So submits that race with one key through this node are one job, and through
//! several nodes too when they name the quorum. Through several nodes without naming it, each chooses for itself and
//! two jobs may come of it. Keys are forgotten after [`KEY_KEPT`], or when there are more than [`KEYS_MAX`], the oldest
//! first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::ids::{JobId, Millis, QuorumId};
use quorate_protocols::job::plan::keyed_job;
use quorate_protocols::job::{JobSpec, RunState};
use quorate_protocols::quorum::{CommandReply, Rejection};
use quorate_protocols::wire::{self, Record};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep};

use super::{ClientError, Placement, PlacementError, QuorumClient, Speaker};
use crate::identity::Identity;
use crate::seams::{Clock, DiskError, KvBatch, Seams};
use crate::storage::Storage;

/// Key digest to [`KeyRow`], and (time, key digest) to nothing: the order in which keys are forgotten.
const KEYS: &str = "jobs.keys";
const KEYS_BY_AGE: &str = "jobs.keys-by-age";

/// Keys remembered; some 200 bytes each.
pub const KEYS_MAX: usize = 65_536;

/// Longer than any ended job is remembered by its quorum, so that a key is not forgotten before its job.
pub const KEY_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bytes of a key. Room for two digests and a name.
pub const KEY_BYTES_MAX: usize = 256;

/// Forgotten with each new key, so that the expired ones go without anybody waiting for it.
const FORGOTTEN_AT_ONCE: usize = 4;

const PAGE: usize = 4_096;

/// A submit that needs a state level to which its quorum is not raised yet is tried again after this.
const LEVEL_PAUSE: Duration = Duration::from_millis(100);

const _: () = assert!(KEY_KEPT.as_secs() > quorate_protocols::job::limits::JOBS_ENDED_RETENTION.as_secs());

/// Where a job is wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub key: Option<String>,
    pub quorum: Option<QuorumId>,
    /// Form a quorum for it.
    pub dedicated: bool,
}

/// A submit that is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    pub state: RunState,
    /// It had been submitted before.
    pub existed: bool,
    /// On whose word.
    pub by: Speaker,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("no quorum for the job")]
    Placement(#[from] PlacementError),
    #[error("the key cannot be recorded")]
    Disk(#[from] DiskError),
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes, not {bytes}")]
    Key { bytes: usize },
    #[error("through this node the key {key:?} stands for a job of quorum {recorded}, not of {given}")]
    KeyElsewhere { key: String, recorded: QuorumId, given: QuorumId },
    #[error("a job either gets a quorum formed for it or goes to quorum {quorum}")]
    Contradiction { quorum: QuorumId },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeyRow {
    quorum: QuorumId,
    at: Millis,
}

impl Record for KeyRow {
    /// 1: first.
    const VERSION: u8 = 1;
}

/// Cloneable; all clones share the keys.
#[derive(Clone)]
pub struct Submits(Arc<Inner>);

struct Inner {
    placement: Placement,
    client: QuorumClient,
    /// The owner of what is submitted here.
    identity: Identity,
    keys: Keys,
}

impl Submits {
    pub fn new(
        seams: &Seams,
        identity: Identity,
        storage: Storage,
        placement: Placement,
        client: QuorumClient,
    ) -> Self {
        Self(Arc::new(Inner { placement, client, identity, keys: Keys::new(storage, seams.clock.clone()) }))
    }

    /// An id to submit under. With a key it is on disk, as far as this node is concerned, when this returns.
    pub async fn id(&self, wanted: &Wanted) -> Result<JobId, SubmitError> {
        let inner = &*self.0;
        if let Some(quorum) = wanted.quorum.filter(|_| wanted.dedicated) {
            return Err(SubmitError::Contradiction { quorum });
        }
        let Some(key) = &wanted.key else { return Ok(inner.placement.job_id(self.place(wanted).await?)) };
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(SubmitError::Key { bytes: key.len() });
        }
        let recorded = match inner.keys.find(&digest(key))? {
            Some(recorded) => recorded,
            // Two that race may both look for a quorum; one of them is recorded, for both.
            None => inner.keys.record(key, self.place(wanted).await?).await?,
        };
        match wanted.quorum {
            Some(given) if given != recorded => Err(SubmitError::KeyElsewhere { key: key.clone(), recorded, given }),
            _ => Ok(keyed_job(recorded, key)),
        }
    }

    async fn place(&self, wanted: &Wanted) -> Result<QuorumId, SubmitError> {
        let placement = &self.0.placement;
        Ok(match wanted.quorum {
            Some(quorum) => quorum,
            None if wanted.dedicated => placement.form_one().await?,
            None => placement.quorum_for_job().await?,
        })
    }

    /// Submits under the id. Committed when it returns `Ok`.
    pub async fn submit(&self, job: JobId, spec: JobSpec, deadline: Duration) -> Result<Submitted, SubmitError> {
        let end = Instant::now() + deadline;
        let command = self.0.identity.sign_submit(job, spec);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.0.client.propose(job.quorum, command.clone(), left).await {
                Ok((CommandReply::Submitted { existed, state }, by)) => {
                    self.0.placement.record_open(job.quorum);
                    return Ok(Submitted { state, existed, by });
                }
                Ok((other, _)) => {
                    let reason = format!("a submit was answered with {other:?}");
                    return Err(ClientError::Protocol { quorum: job.quorum, reason }.into());
                }
                // A quorum that was just formed learns in a moment what its members can apply.
                Err(ClientError::Rejected(Rejection::Level { .. })) if left > LEVEL_PAUSE => {
                    sleep(LEVEL_PAUSE).await;
                }
                Err(error) => {
                    match &error {
                        // Whoever submits again gets another quorum.
                        ClientError::Rejected(Rejection::Full { .. }) => self.0.placement.record_full(job.quorum),
                        // It answers, whatever is wrong with the job.
                        ClientError::Rejected(_) | ClientError::Forbidden { .. } => (),
                        ClientError::QuorumUnknown { .. }
                        | ClientError::Unreachable { .. }
                        | ClientError::Paused { .. }
                        | ClientError::NoPrimary { .. }
                        | ClientError::Busy { .. }
                        | ClientError::Unknown { .. }
                        | ClientError::Protocol { .. } => self.0.placement.record_silent(job.quorum),
                    }
                    return Err(error.into());
                }
            }
        }
    }
}

/// Which quorum each key went to.
struct Keys {
    storage: Storage,
    clock: Arc<dyn Clock>,
    /// Rows there are, once they were counted. Held while keys are recorded: the first of two that race wins.
    count: Mutex<Option<usize>>,
    /// To be recorded by whoever holds the count next; one for each caller that waits.
    waiting: parking_lot::Mutex<Vec<Waiting>>,
}

/// A key that is to be recorded.
struct Waiting {
    digest: [u8; 32],
    quorum: QuorumId,
    recorded: oneshot::Sender<Result<QuorumId, DiskError>>,
}

impl Keys {
    fn new(storage: Storage, clock: Arc<dyn Clock>) -> Self {
        Self { storage, clock, count: Mutex::new(None), waiting: parking_lot::Mutex::default() }
    }

    fn find(&self, digest: &[u8; 32]) -> Result<Option<QuorumId>, DiskError> {
        let Some(bytes) = self.storage.kv().get(KEYS, digest)? else { return Ok(None) };
        // To choose anew would make a second job of it.
        let damaged =
            |error: wire::DecodeError| DiskError::Damaged { place: KEYS.to_owned(), reason: error.to_string() };
        Ok(Some(wire::decode_record::<KeyRow>(&bytes).map_err(damaged)?.quorum))
    }

    /// Records the key unless it is recorded already; the quorum that it stands for now. Durable on return. Keys that
    /// come while others are written share the next write.
    async fn record(&self, key: &str, quorum: QuorumId) -> Result<QuorumId, DiskError> {
        loop {
            let (recorded, mut outcome) = oneshot::channel();
            self.waiting.lock().push(Waiting { digest: digest(key), quorum, recorded });
            let mut count = self.count.lock().await;
            match outcome.try_recv() {
                // Whoever wrote before has written this one too.
                Ok(outcome) => return outcome,
                // It went away in the middle of it: whether this one was written is to be looked up.
                Err(TryRecvError::Closed) => continue,
                Err(TryRecvError::Empty) => (),
            }
            let waiting = std::mem::take(&mut *self.waiting.lock());
            let outcomes = self.record_all(&mut count, &waiting).await;
            for (at, Waiting { recorded, .. }) in waiting.into_iter().enumerate() {
                // Who has gone away needs no answer.
                let _ = recorded.send(outcomes.as_ref().map(|quorums| quorums[at]).map_err(Clone::clone));
            }
            if let Ok(outcome) = outcome.try_recv() {
                return outcome;
            }
        }
    }

    /// The quorum that each of them stands for now. The first of two with one key wins.
    async fn record_all(&self, count: &mut Option<usize>, waiting: &[Waiting]) -> Result<Vec<QuorumId>, DiskError> {
        let mut new = BTreeMap::new();
        for one in waiting {
            if self.find(&one.digest)?.is_none() {
                new.entry(one.digest).or_insert(one.quorum);
            }
        }
        if !new.is_empty() {
            let rows = match *count {
                Some(rows) => rows,
                None => self.count_rows()?,
            };
            let now = self.clock.wall();
            let mut batch = KvBatch::new();
            let oldest_max = FORGOTTEN_AT_ONCE * new.len();
            let oldest = self.storage.kv().range(KEYS_BY_AGE, &[], &[0xff; 41], oldest_max, usize::MAX)?;
            let mut left = rows;
            for (age, _) in oldest {
                let Some((at, digest)) = age.split_at_checked(8) else { continue };
                let at = Millis(at.try_into().map_or(0, u64::from_be_bytes));
                if left + new.len() > KEYS_MAX || now.since(at) >= KEY_KEPT {
                    batch.delete(KEYS, digest).delete(KEYS_BY_AGE, age.clone());
                    left -= 1;
                }
            }
            for (digest, quorum) in &new {
                let age = [&now.0.to_be_bytes()[..], digest].concat();
                let row = wire::encode_record(&KeyRow { quorum: *quorum, at: now });
                batch.put(KEYS, *digest, row).put(KEYS_BY_AGE, age, []);
            }
            // They are counted anew if this ends in the middle.
            *count = None;
            self.storage.write(batch).await?;
            *count = Some(left + new.len());
        }
        let recorded = |one: &Waiting| Ok(self.find(&one.digest)?.unwrap_or(one.quorum));
        waiting.iter().map(recorded).collect()
    }

    fn count_rows(&self) -> Result<usize, DiskError> {
        let (mut rows, mut from) = (0, Vec::new());
        loop {
            let page = self.storage.kv().range(KEYS_BY_AGE, &from, &[0xff; 41], PAGE, usize::MAX)?;
            rows += page.len();
            match page.into_iter().next_back() {
                Some((last, _)) => from = [&last[..], &[0]].concat(),
                None => return Ok(rows),
            }
        }
    }
}

fn digest(key: &str) -> [u8; 32] {
    *blake3::hash(key.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests;
