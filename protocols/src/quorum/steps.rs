//! What must hold between a state and the next, whatever the command: the other half of `invariants`. Checked by tests
//! after every command.

use std::collections::BTreeSet;

use super::command::{Command, CommandReply, Rejection};
use super::invariants::{Checked, ensure};
use super::state::QuorumState;
use crate::ids::JobId;
use crate::job::store::Grant;
use crate::job::transition::{RunCommand, targets};

impl QuorumState {
    /// The first thing that `command`, answered with `reply`, must not have done on the way from this state to `after`, in
    /// words.
    pub fn check_step(&self, after: &Self, command: &Command, reply: &Result<CommandReply, Rejection>) -> Checked {
        ensure(after.time >= self.time, || "time ran backwards".to_owned())?;
        if let Err(rejection) = reply {
            // A refusal changes nothing; only time goes on, and with it what is remembered of ended jobs.
            let same = self.objects == after.objects && self.manifests == after.manifests;
            let same = same && self.standbys == after.standbys && self.level == after.level;
            let same = same && after.jobs.iter().all(|(job, record)| self.jobs.get(job) == Some(record));
            ensure(same, || format!("refused ({rejection}), and something changed"))?;
        }
        for (job, old) in &self.jobs {
            let Some(new) = after.jobs.get(job) else { continue };
            if old.state != new.state {
                let allowed = RunCommand::of(command).and_then(|by| targets(old.state, by)).unwrap_or_default();
                ensure(allowed.contains(&new.state), || format!("job {job} went from {} to {}", old.state, new.state))?;
            }
            let older = new.run.worker_attempt < old.run.worker_attempt || new.run.fed < old.run.fed;
            ensure(!older, || format!("job {job}: the worker's attempt or its signs of life went back"))?;
            for (old, new) in old.run.columns.iter().zip(&new.run.columns) {
                let changed = new.grant.is_some() && new.grant != old.grant;
                let fenced = new.attempt > old.attempt || (new.attempt == old.attempt && !changed);
                ensure(fenced, || format!("job {job}: {old:?} became {new:?}"))?;
            }
        }
        for (hash, old) in &self.objects {
            let Some(new) = after.objects.get(hash).filter(|new| new.job == old.job) else { continue };
            let newest = old.newest.iter().zip(&new.newest).all(|(old, new)| new >= old);
            let columns = old.columns.iter().zip(&new.columns).all(|(old, new)| new.attempt >= old.attempt);
            ensure(newest && columns, || format!("object {hash}: an attempt went back"))?;
        }
        // A grant in use that left the records is on its way to being released: nothing stays reserved unseen.
        let (used, waiting) = (after.grants_in_use(), after.grants_waiting());
        let forgotten =
            self.grants_in_use().into_iter().find(|grant| !used.contains(grant) && !waiting.contains(grant));
        ensure(forgotten.is_none(), || format!("{forgotten:?} was forgotten"))
    }

    fn grants_in_use(&self) -> BTreeSet<(JobId, Grant)> {
        let runs = self.jobs.iter().flat_map(|(job, record)| {
            let columns = record.run.columns.iter().filter_map(|column| column.grant);
            columns.chain(record.run.spares.iter().copied()).map(|grant| (*job, grant))
        });
        let objects = self.objects.values().flat_map(|object| {
            let columns = object.columns.iter().filter_map(|column| column.grant);
            columns.chain(object.repairs.values().map(|repair| repair.grant)).map(|grant| (object.job, grant))
        });
        runs.chain(objects).collect()
    }

    fn grants_waiting(&self) -> BTreeSet<(JobId, Grant)> {
        let jobs = self.jobs.iter();
        jobs.flat_map(|(job, record)| record.run.releasing.iter().map(|releasing| (*job, releasing.grant))).collect()
    }
}
