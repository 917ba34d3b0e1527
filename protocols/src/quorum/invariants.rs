//! Invariants: true of every state, whatever commands made it. Tests check them after every command, and a snapshot is
//! held to them when it is read, so that the rest of the core may rely on them. Each sub-state has its own in its
//! folder.

use super::check::{Checked, ensure};
use super::limits::STANDBYS_MAX;
use super::state::QuorumState;
use crate::ids::JobId;
use crate::job::limits::{HISTORY_MAX, JOBS_LIVE_MAX};
use crate::job::record::JobRecord;

impl QuorumState {
    /// The first invariant that does not hold, in words. Looks at everything: not for every entry.
    pub fn check_invariants(&self) -> Checked {
        let mut rebuilt = self.clone();
        rebuilt.rebuild_index();
        self.jobs.check_index(&rebuilt.jobs)?;
        self.objects.check_index(&rebuilt.objects)?;
        self.tasks.check_index(&rebuilt.tasks)?;
        self.triggers.check_index(&rebuilt.triggers)?;
        ensure(self.standbys.len() <= STANDBYS_MAX, || format!("{} standbys", self.standbys.len()))?;
        let founding = self.chain.founding();
        ensure(founding.is_none_or(|founding| founding.quorum() == self.quorum), || "founded as another".to_owned())?;
        self.check_jobs()?;
        self.objects.check(&self.jobs)?;
        self.pool().check()?;
        self.triggers.check()
    }

    fn check_jobs(&self) -> Checked {
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
            return self.triggers.check_record(&self.jobs, job, record);
        }
        self.check_run(record)?;
        self.pool().check_run_tasks(record)
    }
}
