//! Invariants of the job book.

use std::collections::BTreeSet;

use super::JobBook;
use crate::ids::{JobId, PeerId};
use crate::job::limits::{HISTORY_MAX, HOLDERS_FAILED_MAX, JOBS_LIVE_MAX, SPARES_MAX};
use crate::job::record::JobRecord;
use crate::job::store::ColumnState;
use crate::object::layout::Profile;
use crate::quorum::invariants::{Checked, ensure};
use crate::quorum::state::QuorumState;

impl JobBook {
    pub(in crate::quorum) fn check_index(&self, rebuilt: &Self) -> Checked {
        let (index, right) = (&self.index, &rebuilt.index);
        ensure(index == right, || format!("index {index:?} should be {right:?}"))
    }
}

impl QuorumState {
    pub(in crate::quorum) fn check_jobs(&self) -> Checked {
        let live = self.jobs.live_len();
        ensure(live <= JOBS_LIVE_MAX, || format!("{live} live jobs"))?;
        for (job, record) in self.jobs.iter() {
            self.check_job(*job, record).map_err(|what| format!("job {job}: {what}"))?;
        }
        Ok(())
    }

    fn check_job(&self, job: JobId, record: &JobRecord) -> Checked {
        ensure(record.job == job && job.quorum == self.quorum, || "kept under another id".to_owned())?;
        if record.trigger().is_some() {
            return self.check_trigger(job, record);
        }
        let Some((spec, run)) = record.store() else { return self.check_compute(job, record) };
        let columns = run.columns.len();
        let Profile { data, parity } = spec.profile;
        ensure(Profile::new(data, parity).is_some(), || "impossible profile".to_owned())?;
        ensure(columns == spec.profile.columns(), || format!("{columns} columns"))?;
        ensure(run.failed.len() <= HOLDERS_FAILED_MAX, || format!("{} failed holders", run.failed.len()))?;
        ensure(run.spares.len() <= SPARES_MAX, || format!("{} spares", run.spares.len()))?;
        ensure(record.history.len() <= HISTORY_MAX, || format!("{} lines of history", record.history.len()))?;
        ensure(record.state.is_final() == record.finished_at.is_some(), || "ended without an end".to_owned())?;
        for column in &run.columns {
            let assigned = column.state == ColumnState::Filling;
            ensure(column.grant.is_some() == assigned, || format!("{column:?} is assigned and is not"))?;
            ensure(matches!(column.state, ColumnState::Open | ColumnState::Filling), || "sealed in a run".to_owned())?;
        }
        if record.state.is_final() {
            let left = run.columns.iter().any(|column| column.grant.is_some() || !column.stored.is_empty());
            ensure(!left && run.spares.is_empty() && run.segments.is_empty(), || "ended and holds on".to_owned())?;
            return Ok(());
        }
        let failed: BTreeSet<PeerId> = run.failed.iter().map(|(grant, _)| grant.holder.peer).collect();
        let mut peers = BTreeSet::new();
        for grant in run.columns.iter().filter_map(|column| column.grant).chain(run.spares.iter().copied()) {
            let peer = grant.holder.peer;
            ensure(peers.insert(peer), || format!("{peer} was given two columns"))?;
            ensure(!failed.contains(&peer), || format!("{peer} failed and was given a column again"))?;
        }
        for column in &run.columns {
            ensure(column.stored.len() == run.segments.len(), || "stored bits do not match the segments".to_owned())?;
        }
        ensure(run.segments.len() <= spec.profile.segments_max(), || "too many segments".to_owned())?;
        let whole = run.segments.iter().all(|pieces| pieces.is_empty() || pieces.len() == columns);
        ensure(whole, || "a segment has too few pieces".to_owned())?;
        ensure(run.manifest.is_none(), || "committed and not ended".to_owned())
    }
}
