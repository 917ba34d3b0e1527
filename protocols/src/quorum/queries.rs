//! Reading the state.

use super::object::ObjectRecord;
use super::state::QuorumState;
use crate::ids::ManifestHash;
use crate::job::limits::{PAGE_BYTES_MAX, PAGE_MAX};
use crate::job::message::{ObjectView, Query, QueryAnswer};
use crate::job::record::JobRecord;
use crate::wire;
use std::ops::Bound;

impl QuorumState {
    /// Answers every query but `Query::Quorum`, which asks about Raft as well: `None` for that one.
    ///
    /// Pages hold at most `PAGE_MAX` rows and end early past `PAGE_BYTES_MAX`; a page is the last when it is empty.
    /// Listed jobs come without history, piece hashes and stored bits, listed objects without their manifest.
    pub fn answer(&self, query: &Query) -> Option<QueryAnswer> {
        let known = |answer: Option<QueryAnswer>| answer.unwrap_or(QueryAnswer::Unknown);
        Some(match query {
            Query::Quorum => return None,
            Query::Job { job } => known(self.jobs.get(job).map(|record| QueryAnswer::Job(Box::new(record.clone())))),
            Query::History { job } => known(self.jobs.get(job).map(|job| QueryAnswer::History(job.history.clone()))),
            Query::Jobs { after, limit } => {
                let rows = self.jobs.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
                QueryAnswer::Jobs(page(rows.map(|(_, record)| listed(record)), *limit))
            }
            Query::Object { manifest } => known(self.objects.get(manifest).map(|record| {
                let bytes = self.manifests.get(manifest).map(|bytes| bytes.to_vec()).unwrap_or_default();
                QueryAnswer::Object(Box::new(view(*manifest, record, bytes)))
            })),
            Query::Objects { after, limit } => {
                let rows = self.objects.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
                QueryAnswer::Objects(page(rows.map(|(hash, record)| view(*hash, record, Vec::new())), *limit))
            }
        })
    }
}

fn view(hash: ManifestHash, record: &ObjectRecord, manifest: Vec<u8>) -> ObjectView {
    ObjectView { hash, manifest, record: record.clone() }
}

/// A job without what only its own page shows.
fn listed(record: &JobRecord) -> JobRecord {
    let mut run = crate::job::store::StoreRun::new(record.run.worker, 0, record.run.fed_at);
    run.worker_attempt = record.run.worker_attempt;
    run.columns = record
        .run
        .columns
        .iter()
        .map(|column| crate::job::store::ColumnRecord { stored: Vec::new(), ..*column })
        .collect();
    run.spares.clone_from(&record.run.spares);
    run.failed.clone_from(&record.run.failed);
    run.releasing.clone_from(&record.run.releasing);
    (run.manifest, run.degraded, run.fed) = (record.run.manifest, record.run.degraded, record.run.fed);
    JobRecord {
        job: record.job,
        spec: record.spec.clone(),
        owner: record.owner,
        state: record.state,
        before_pause: record.before_pause,
        reason: record.reason.clone(),
        created_at: record.created_at,
        changed_at: record.changed_at,
        finished_at: record.finished_at,
        run,
        history: Vec::new(),
    }
}

fn page<T: serde::Serialize>(rows: impl Iterator<Item = T>, limit: u32) -> Vec<T> {
    let mut bytes = 0;
    let mut page = Vec::new();
    for row in rows.take(PAGE_MAX.min(limit as usize)) {
        bytes += wire::encode(&row).len();
        page.push(row);
        if bytes > PAGE_BYTES_MAX {
            break;
        }
    }
    page
}
