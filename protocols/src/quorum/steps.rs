//! Invariants between a state and the next, whatever the command: the other half of `invariants`. Tests check them
//! after every command.

use std::collections::BTreeSet;

use crate::approval::Grant;
use crate::ids::JobId;
use crate::job::record::JobRecord;
use crate::quorum::check::{Checked, ensure};
use crate::quorum::entry::Command;
use crate::quorum::reply::{CommandReply, Rejection};
use crate::quorum::state::QuorumState;
use crate::task::record::TaskState;
use crate::trigger::record::{Due, Fired, TriggerRun};

/// No instant is recorded twice, and what became of a fire is not taken back.
/// But for instants that clocks which are set back give back: those get another row.
fn check_trigger_step(job: JobId, set_back: bool, old: &TriggerRun, new: &TriggerRun) -> Checked {
    let (before, after) = (&old.clock, &new.clock);
    let from = before.from.is_none() || before.from == after.from;
    ensure(from || set_back, || format!("job {job}: it counts from elsewhere"))?;
    let rows = (set_back || after.done >= before.done) && new.rows >= old.rows;
    ensure(rows, || format!("job {job}: records are taken back"))?;
    let instant = |due: &Due| due.instant;
    match (before.next.as_ref().map(instant), after.next.as_ref().map(instant)) {
        _ if set_back => (),
        (Some(old), Some(new)) => {
            ensure(new >= old, || format!("job {job}: its clock ran back from {old:?} to {new:?}"))?
        }
        (None, Some(new)) => {
            ensure(before.from.is_none(), || format!("job {job}: it was over and goes on at {new:?}"))?;
        }
        _ => (),
    }
    for old in &old.fires {
        let Some(new) = new.row(old.number) else { continue };
        ensure(old.cause == new.cause, || format!("job {job}: row {} has another cause", old.number))?;
        let same = match (old.what, new.what) {
            (Fired::Run { run, end }, Fired::Run { run: now, end: then }) => {
                run == now && (end.is_none() || end == then)
            }
            (Fired::Skipped { count, .. }, Fired::Skipped { count: now, .. }) => now >= count,
            (Fired::Skipped { .. }, Fired::Withdrawn { .. }) => set_back,
            (Fired::Withdrawn { last, count }, Fired::Withdrawn { last: now, count: then }) => {
                (last, count) == (now, then)
            }
            (Fired::Waiting, _) => true,
            _ => false,
        };
        ensure(same, || format!("job {job}: row {} was {:?} and is {:?}", old.number, old.what, new.what))?;
    }
    Ok(())
}

/// Whether a record is what it was. Ids of events that may fire again are forgotten as time goes on.
fn alike(old: &JobRecord, new: &JobRecord) -> bool {
    let mut expected = old.clone();
    if let (Some((_, run)), Some((_, new))) = (expected.trigger_mut(), new.trigger()) {
        run.seen.retain(|id, _| new.seen.contains_key(id));
    }
    expected == *new
}

impl QuorumState {
    /// Attempts only grow, and a task has one result.
    fn check_tasks_step(&self, after: &Self, job: JobId) -> Checked {
        let (Some(old), Some(new)) = (self.tasks.table(&job), after.tasks.table(&job)) else { return Ok(()) };
        for (step, task, old) in old.all() {
            let Some(new) = new.get(step, task) else { continue };
            ensure(new.newest >= old.newest, || format!("job {job}, task {task}: attempts ran backwards"))?;
            let same = new.state == TaskState::Done && new.won == old.won;
            ensure(old.state != TaskState::Done || same, || format!("job {job}, task {task} has a second result"))?;
        }
        Ok(())
    }

    /// The first thing that `command`, answered with `reply`, must not have done on the way from this state to `after`,
    /// in words.
    pub fn check_step(&self, after: &Self, command: &Command, reply: &Result<CommandReply, Rejection>) -> Checked {
        ensure(after.time >= self.time && after.led_time >= self.led_time, || "time ran backwards".to_owned())?;
        // Clocks that are set back change stamps and open instants again, whatever becomes of the command.
        let set_back = after.clock_offset_ms < self.clock_offset_ms;
        if let Err(rejection) = reply
            && !set_back
        {
            // A refusal changes nothing; only time goes on, and with it what is remembered of ended jobs.
            let same = self.objects == after.objects && self.standbys == after.standbys && self.level == after.level;
            let same = same && self.tasks.workers() == after.tasks.workers();
            let same = same && self.tasks.stopping().eq(after.tasks.stopping());
            let same = same && self.triggers.emitters() == after.triggers.emitters();
            let same =
                same && after.jobs.iter().all(|(job, record)| self.jobs.get(job).is_some_and(|old| alike(old, record)));
            ensure(same, || format!("refused ({rejection}), and something changed"))?;
        }
        for (job, old) in self.jobs.iter() {
            let Some(new) = after.jobs.get(job) else { continue };
            let has_tasks = old.tasks().is_some();
            if let (Some((_, old)), Some((_, new))) = (old.trigger(), new.trigger()) {
                check_trigger_step(*job, set_back, old, new)?;
            }
            // Tasks, timers and other jobs move these, beside the command.
            let moves_by_itself = has_tasks || old.timer().is_some() || old.trigger().is_some();
            if old.state != new.state && moves_by_itself {
                ensure(!old.state.is_final(), || format!("job {job} was {} and is {}", old.state, new.state))?;
            } else if old.state != new.state {
                let allowed = command.run_command().and_then(|by| old.targets(by)).unwrap_or_default();
                ensure(allowed.contains(&new.state), || format!("job {job} went from {} to {}", old.state, new.state))?;
            }
            if has_tasks {
                self.check_tasks_step(after, *job)?;
            }
            let (Some((_, old)), Some((_, new))) = (old.store(), new.store()) else { continue };
            let older = new.upload_attempt < old.upload_attempt || new.upload_seq < old.upload_seq;
            ensure(!older, || format!("job {job}: the worker's attempt or its signs of life went back"))?;
            for (old, new) in old.columns.iter().zip(&new.columns) {
                let changed = new.grant.is_some() && new.grant != old.grant;
                let fenced = new.attempt > old.attempt || (new.attempt == old.attempt && !changed);
                ensure(fenced, || format!("job {job}: {old:?} became {new:?}"))?;
            }
        }
        for (hash, old) in self.objects.iter() {
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
        let stored = self.jobs.iter().filter_map(|(job, record)| Some((job, record.store()?.1)));
        let runs = stored.flat_map(|(job, run)| {
            let columns = run.columns.iter().filter_map(|column| column.grant);
            columns.chain(run.spares.iter().copied()).map(|grant| (*job, grant))
        });
        let objects = self.objects.values().flat_map(|object| {
            let columns = object.columns.iter().filter_map(|column| column.grant);
            columns.chain(object.repairs.values().map(|repair| repair.grant)).map(|grant| (object.job, grant))
        });
        runs.chain(objects).collect()
    }

    fn grants_waiting(&self) -> BTreeSet<(JobId, Grant)> {
        let jobs = self.jobs.iter();
        let stored = jobs.filter_map(|(job, record)| Some((job, record.store()?.1)));
        stored.flat_map(|(job, run)| run.releasing.iter().map(|releasing| (*job, releasing.grant))).collect()
    }
}
