//! Invariants of the job book.

use super::JobBook;
use crate::ids::JobId;
use crate::job::limits::{HISTORY_MAX, JOBS_LIVE_MAX};
use crate::job::record::JobRecord;
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
        ensure(record.history.len() <= HISTORY_MAX, || format!("{} lines of history", record.history.len()))?;
        ensure(record.state.is_final() == record.finished_at.is_some(), || "ended without an end".to_owned())?;
        if record.trigger().is_some() {
            return self.check_trigger(job, record);
        }
        self.check_run(record)?;
        self.check_run_tasks(record)
    }
}
