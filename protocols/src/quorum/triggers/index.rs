//! The index of triggers: which are due, which wait for what. Derived from the records and rebuilt with them.
//!
//! A trigger stands in one ordered set, by when its next instant is due, or under the name of its event; so whatever is
//! asked of thousands of triggers costs what there is to do. One that is not due costs nothing but its record.

use std::collections::{BTreeMap, BTreeSet};

use super::Triggers;
use crate::ids::{JobId, Millis};
use crate::job::record::JobRecord;
use crate::job::spec::TriggeredSpec;
use crate::quorum::jobs::set_member;
use crate::quorum::shares::Shares;
use crate::trigger::record::{SeenId, TriggerRun};
use crate::trigger::spec::{AfterJob, When};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TriggerIndex {
    /// Jobs with a trigger that have not ended.
    pub(super) live: BTreeSet<JobId>,
    /// The same by their owners, and the fires of each in a thousand seconds.
    pub(super) live_of: Shares<JobId>,
    pub(super) fires_of: Shares<JobId>,
    /// By when the next instant is due: on wall clocks, and as time passes.
    wall: BTreeSet<(Millis, JobId)>,
    steady: BTreeSet<(Millis, JobId)>,
    due_of: BTreeMap<JobId, (bool, Millis)>,
    /// Event triggers by the name they listen to.
    pub(super) names: BTreeMap<String, BTreeSet<JobId>>,
    /// Conditions that are looked at.
    pub(super) conditions: BTreeSet<JobId>,
    /// Who waits for a job's end.
    pub(super) after: BTreeMap<JobId, BTreeSet<JobId>>,
    /// Ids that must not fire again, by when they may be forgotten.
    pub(super) seen: BTreeSet<(Millis, JobId, SeenId)>,
    /// Jobs that ended in this entry: whoever waits for them is told at its end.
    pub(super) finished: BTreeSet<JobId>,
}

impl TriggerIndex {
    fn set_due(&mut self, job: JobId, due: Option<(bool, Millis)>) {
        if self.due_of.get(&job) == due.as_ref() {
            return;
        }
        if let Some((steady, at)) = self.due_of.remove(&job) {
            self.by_clock(steady).remove(&(at, job));
        }
        if let Some((steady, at)) = due {
            self.by_clock(steady).insert((at, job));
            self.due_of.insert(job, (steady, at));
        }
    }

    fn by_clock(&mut self, steady: bool) -> &mut BTreeSet<(Millis, JobId)> {
        if steady { &mut self.steady } else { &mut self.wall }
    }

    /// When the next trigger is due: on wall clocks, and as time passes.
    pub(super) fn next_due(&self) -> (Option<Millis>, Option<Millis>) {
        let first = |set: &BTreeSet<(Millis, JobId)>| set.first().map(|(due, _)| *due);
        (first(&self.wall), first(&self.steady))
    }

    /// Whether something will move the trigger, if it is not for a person to.
    pub(super) fn moves(&self, job: JobId, spec: &TriggeredSpec) -> bool {
        match &spec.trigger.when {
            When::At(_) | When::Every { .. } | When::Cron { .. } => self.due_of.contains_key(&job),
            When::Event(event) => self.names.get(&event.name).is_some_and(|jobs| jobs.contains(&job)),
            When::Condition(_) => self.conditions.contains(&job),
            When::After(jobs) => {
                let waits = |after: &AfterJob| self.after.get(&after.job).is_some_and(|jobs| jobs.contains(&job));
                jobs.iter().all(waits)
            }
        }
    }

    /// Timed triggers that are due by either clock, the earliest first.
    pub(super) fn due(&self, wall: Millis, steady: Millis, limit: usize) -> Vec<JobId> {
        let due = |set: &BTreeSet<(Millis, JobId)>, now: Millis| {
            set.iter().take_while(|(due, _)| *due <= now).take(limit).copied().collect::<Vec<_>>()
        };
        let mut jobs = due(&self.wall, wall);
        jobs.extend(due(&self.steady, steady));
        jobs.sort_unstable();
        jobs.into_iter().take(limit).map(|(_, job)| job).collect()
    }
}

impl Triggers {
    /// Called after every change to a job that has a trigger.
    pub(in crate::quorum) fn reindex(&mut self, job: JobId, record: Option<&JobRecord>) {
        let live = record.is_some_and(|record| !record.state.is_final());
        let index = &mut self.index;
        let Some((spec, run)) = record.and_then(|record| record.trigger()) else {
            index.live.remove(&job);
            index.live_of.set(job, None);
            index.fires_of.set(job, None);
            index.set_due(job, None);
            return;
        };
        set_member(&mut index.live, job, live);
        let owner = record.map(|record| record.owner).filter(|_| live);
        index.live_of.set(job, owner.map(|owner| (owner, 1)));
        index.fires_of.set(job, owner.map(|owner| (owner, spec.trigger.fires_per_kilosecond())));
        let due = live && !run.suspended && spec.trigger.is_timed();
        let due = due.then(|| next_look(run)).flatten();
        index.set_due(job, due.map(|due| (spec.trigger.is_steady(), due)));
        match &spec.trigger.when {
            // One that is suspended still hears: what it is told of is recorded as skipped.
            When::Event(event) => keep_under(&mut index.names, event.name.clone(), job, live),
            When::Condition(_) => set_member(&mut index.conditions, job, live && !run.suspended),
            When::After(jobs) => {
                for after in jobs {
                    keep_under(&mut index.after, after.job, job, live);
                }
            }
            When::At(_) | When::Every { .. } | When::Cron { .. } => {}
        }
    }
}

/// When the primary must look at a timed trigger: at once, when it never did or there is something to make up for.
fn next_look(run: &TriggerRun) -> Option<Millis> {
    let due = match (run.clock.from, run.clock.next) {
        (None, _) => Millis(0),
        (Some(_), Some(_)) if run.resuming => Millis(0),
        (Some(_), next) => next?.due,
    };
    Some(run.clock.rest_until.map_or(due, |rest| rest.max(due)))
}

fn keep_under<K: Ord>(map: &mut BTreeMap<K, BTreeSet<JobId>>, key: K, job: JobId, member: bool) {
    if member {
        map.entry(key).or_default().insert(job);
    } else if let Some(jobs) = map.get_mut(&key) {
        jobs.remove(&job);
        if jobs.is_empty() {
            map.remove(&key);
        }
    }
}
