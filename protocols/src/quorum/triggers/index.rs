//! The index of triggers: which are due, which wait for what. Derived from the records and rebuilt with them.
//!
//! A trigger stands in one ordered set, by when its next instant is due, or under the name of its event; so whatever is
//! asked of thousands of triggers costs what there is to do. One that is not due costs nothing but its record.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{JobId, Millis};
use crate::job::spec::TriggeredSpec;
use crate::quorum::jobs::set_member;
use crate::quorum::state::QuorumState;
use crate::trigger::planner::{Listener, TriggerBook};
use crate::trigger::record::{SeenId, TriggerRun};
use crate::trigger::spec::{AfterJob, TriggerSpec, When};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TriggerIndex {
    /// Jobs with a trigger that have not ended.
    pub(super) live: BTreeSet<JobId>,
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
}

impl TriggerBook for QuorumState {
    fn trigger(&self, job: JobId) -> Option<(&TriggerSpec, &TriggerRun)> {
        self.trigger(job).map(|(spec, run)| (&spec.trigger, run))
    }

    fn due_triggers(&self, wall: Millis, steady: Millis, limit: usize) -> Vec<JobId> {
        let index = &self.triggers.index;
        let due = |set: &BTreeSet<(Millis, JobId)>, now: Millis| {
            set.iter().take_while(|(due, _)| *due <= now).take(limit).copied().collect::<Vec<_>>()
        };
        let mut jobs = due(&index.wall, wall);
        jobs.extend(due(&index.steady, steady));
        jobs.sort_unstable();
        jobs.into_iter().take(limit).map(|(_, job)| job).collect()
    }
}

impl QuorumState {
    /// The trigger of a job that has one, and where it stands.
    pub fn trigger(&self, job: JobId) -> Option<(&TriggeredSpec, &TriggerRun)> {
        self.jobs.get(&job)?.trigger()
    }

    /// When the next timed trigger is due: on wall clocks, and by quorum time as it passes.
    pub fn next_trigger_due(&self) -> (Option<Millis>, Option<Millis>) {
        self.triggers.index.next_due()
    }

    /// Triggers that listen to events of this name.
    pub fn listeners(&self, name: &str) -> Vec<Listener> {
        let jobs = self.triggers.index.names.get(name).into_iter().flatten();
        let listener = |job: &JobId| {
            let record = self.jobs.get(job)?;
            let When::Event(event) = &record.trigger()?.0.trigger.when else { return None };
            Some(Listener { job: *job, since: record.created_at, filter: event.filter.clone() })
        };
        jobs.filter_map(listener).collect()
    }

    /// Names of the events that this quorum wants to hear of.
    pub fn event_names(&self) -> impl Iterator<Item = &str> + '_ {
        self.triggers.index.names.keys().map(String::as_str)
    }

    /// Called after every change to a job that has a trigger.
    pub(in crate::quorum) fn reindex_trigger(&mut self, job: JobId) {
        let record = self.jobs.get(&job);
        let live = record.is_some_and(|record| !record.state.is_final());
        let index = &mut self.triggers.index;
        let Some((spec, run)) = record.and_then(|record| record.trigger()) else {
            index.live.remove(&job);
            index.set_due(job, None);
            return;
        };
        set_member(&mut index.live, job, live);
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

    /// Takes what an ended trigger remembered of events out of the index, and what is forgotten out of the record.
    pub(super) fn forget_seen(&mut self, job: JobId) {
        let Some((_, run)) = self.jobs.get_mut(&job).and_then(|record| record.trigger_mut()) else { return };
        for (id, until) in std::mem::take(&mut run.seen) {
            self.triggers.index.seen.remove(&(until, job, id));
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
