//! The job book: the records of a quorum's jobs, and what is known of them without looking at all.
//!
//! [`JobBook`] has the records, of every kind, with an index beside them: which run, which the primary has duties for,
//! which ended and may be forgotten. Others read records through it and change them through [`JobBook::get_mut`];
//! whoever does calls [`QuorumState::reindex_job`] afterwards. `submit` makes jobs; what a run does is its kind's
//! ([`super::kinds`]).

mod invariants;
pub(super) mod snapshot;
mod submit;

use crate::ids::LogIndex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Index};

use super::apply::{Applied, short};
use super::command::{JobCommand, Rejection};
use super::state::{Duty, Event, QuorumState};
use crate::ids::{JobId, Millis, PeerId};
use crate::job::limits::{HISTORY_MAX, JOBS_ENDED_MAX, JOBS_ENDED_RETENTION};
use crate::job::record::{HistoryEntry, JobRecord, Run, RunState};
use crate::job::spec::JobSpec;
use crate::job::transition::RunCommand;
use crate::shared_map::SharedMap;

/// The records of jobs, live and ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobBook {
    records: SharedMap<JobId, JobRecord>,
    index: JobIndex,
}

/// What follows from the records, kept so that nobody has to look at all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct JobIndex {
    /// All jobs, by their age: lists have the newest first.
    by_age: BTreeSet<(Millis, JobId)>,
    /// Jobs that run. Those that only wait to fire are in the index of triggers.
    live: BTreeSet<JobId>,
    /// Jobs, live or ended, that the primary has duties for by their kind.
    with_duties: BTreeSet<JobId>,
    /// Ended jobs that nothing depends on any more, by their end: the first to be forgotten.
    ended: BTreeSet<(Millis, JobId)>,
    /// Bytes of piece hashes, in all and of each run that has any.
    hash_bytes: usize,
    hash_bytes_of: BTreeMap<JobId, usize>,
}

// ---- reading, for everybody ----

impl JobBook {
    pub fn get(&self, job: &JobId) -> Option<&JobRecord> {
        self.records.get(job)
    }
    pub fn contains_key(&self, job: &JobId) -> bool {
        self.records.contains_key(job)
    }
    pub fn len(&self) -> usize {
        self.records.len()
    }
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
    pub fn iter(&self) -> impl Iterator<Item = (&JobId, &JobRecord)> + Clone {
        self.records.iter()
    }
    pub fn keys(&self) -> impl Iterator<Item = &JobId> {
        self.records.keys()
    }
    pub fn values(&self) -> impl Iterator<Item = &JobRecord> {
        self.records.values()
    }
    /// Records behind this one, the newest first; of one instant the greater id.
    pub fn newest(&self, after: Option<(Millis, JobId)>) -> impl Iterator<Item = &JobRecord> {
        let end = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.index.by_age.range((Bound::Unbounded, end)).rev();
        rows.filter_map(|(_, job)| self.records.get(job))
    }
}

impl Index<&JobId> for JobBook {
    type Output = JobRecord;
    fn index(&self, job: &JobId) -> &JobRecord {
        &self.records[job]
    }
}

// ---- for the other sub-states ----

impl JobBook {
    /// As a snapshot keeps them: without an index.
    pub(super) fn from_records(records: SharedMap<JobId, JobRecord>) -> Self {
        Self { records, index: JobIndex::default() }
    }

    /// To change a record; [`QuorumState::reindex_job`] is due afterwards.
    pub(super) fn get_mut(&mut self, job: &JobId) -> Option<&mut JobRecord> {
        self.records.get_mut(job)
    }

    pub(super) fn insert(&mut self, job: JobId, record: JobRecord) {
        self.index.by_age.insert((record.created_at, job));
        self.records.insert(job, record);
    }

    /// Jobs that run.
    pub(super) fn live(&self) -> impl Iterator<Item = &JobId> {
        self.index.live.iter()
    }

    pub(super) fn live_len(&self) -> usize {
        self.index.live.len()
    }

    /// Bytes of piece hashes in live runs.
    pub(super) fn hash_bytes(&self) -> usize {
        self.index.hash_bytes
    }

    /// The record, if its table of transitions allows the command where it stands.
    pub(super) fn run_for(&mut self, job: JobId, command: RunCommand) -> Result<&mut JobRecord, Rejection> {
        let record = self.records.get_mut(&job).ok_or(Rejection::UnknownJob { job })?;
        record.admit(command)?;
        Ok(record)
    }

    /// Stamps of a future that did not come become the moment of the correction. The jobs that had one.
    pub(super) fn withdraw_stamps(&mut self, at: Millis) -> Vec<JobId> {
        let ahead = |record: &JobRecord| record.changed_at > at || record.finished_at.is_some_and(|end| end > at);
        let jobs: Vec<JobId> = self.iter().filter(|(_, record)| ahead(record)).map(|(job, _)| *job).collect();
        for job in &jobs {
            let Some(record) = self.records.get_mut(job) else { continue };
            // It is found by these stamps.
            self.index.ended.remove(&(record.finished_at.unwrap_or_default(), *job));
            self.index.by_age.remove(&(record.created_at, *job));
            // The clock that deterministic copies of a task are shown must not change between them.
            if record.tasks().is_none() || record.state.is_final() {
                record.created_at = record.created_at.min(at);
            }
            self.index.by_age.insert((record.created_at, *job));
            record.changed_at = record.changed_at.min(at);
            record.finished_at = record.finished_at.map(|finished| finished.min(at));
            record.history.iter_mut().for_each(|entry| entry.at = entry.at.min(at));
            record.run.withdraw_stamps(at);
        }
        jobs
    }

    /// Forgets the ended job that goes first, if there are too many of them or its time is over.
    fn forget_first(&mut self, wall: Millis, too_heavy: bool) -> Option<JobId> {
        let &(ended, job) = self.index.ended.first()?;
        let too_many = self.index.ended.len() > JOBS_ENDED_MAX || too_heavy;
        if !too_many && wall.since(ended) < JOBS_ENDED_RETENTION {
            return None;
        }
        self.index.ended.pop_first();
        if let Some(record) = self.records.remove(&job) {
            self.index.by_age.remove(&(record.created_at, job));
        }
        Some(job)
    }

    /// `holds_object`: an object lives whose columns carry the job's id.
    fn reindex(&mut self, job: JobId, holds_object: bool) {
        let index = &mut self.index;
        let Some(record) = self.records.get(&job) else {
            index.live.remove(&job);
            index.with_duties.remove(&job);
            index.hash_bytes -= index.hash_bytes_of.remove(&job).unwrap_or(0);
            return;
        };
        let live = !record.state.is_final();
        let with_duties = record.has_duties();
        let hash_bytes = record.run.hash_bytes();
        let ended = record.finished_at.unwrap_or_default();
        set_member(&mut index.live, job, live && record.trigger().is_none());
        set_member(&mut index.with_duties, job, with_duties);
        set_member(&mut index.ended, (ended, job), !live && !with_duties && !holds_object);
        let before = match hash_bytes {
            0 => index.hash_bytes_of.remove(&job),
            bytes => index.hash_bytes_of.insert(job, bytes),
        };
        index.hash_bytes = index.hash_bytes + hash_bytes - before.unwrap_or(0);
    }
}

impl QuorumState {
    pub(super) fn apply_job(
        &mut self,
        by: PeerId,
        job: JobId,
        command: &JobCommand,
        events: &mut Vec<Event>,
    ) -> Applied {
        if let JobCommand::Submit { spec } = command {
            return self.submit(by, job, spec, events);
        }
        let Some(control) = command.run_command() else { return Err(Rejection::UnknownJob { job }) };
        let is_trigger = self.jobs.run_for(job, control)?.trigger().is_some();
        match is_trigger {
            // All that the table of triggers has of these.
            true => self.cancel_trigger(by, job, events),
            false => self.control_run(by, job, command, events),
        }
    }

    /// Called after every change to a job.
    pub(super) fn reindex_job(&mut self, job: JobId) {
        let record = self.jobs.get(&job);
        let stored = record.and_then(JobRecord::store).and_then(|(_, run)| run.manifest);
        let holds_object = stored.and_then(|hash| self.objects.get(&hash)).is_some_and(|object| object.job == job);
        let defined = record.is_none_or(|record| record.trigger().is_some());
        self.jobs.reindex(job, holds_object);
        if defined {
            self.reindex_trigger(job);
        }
        self.reindex_work(job);
    }

    /// Builds the index from the records alone. Those of the other sub-states come first.
    pub(super) fn rebuild_job_index(&mut self) {
        let by_age = self.jobs.values().map(|record| (record.created_at, record.job)).collect();
        self.jobs.index = JobIndex { by_age, ..JobIndex::default() };
        for job in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.reindex_job(job);
        }
    }

    /// Forgets ended jobs past their number or their time. A job stays while its object lives, because slots of the
    /// object's columns carry its id, and while it has holders to release.
    pub(super) fn forget_ended(&mut self) {
        while let Some(job) = self.jobs.forget_first(self.wall(), self.tasks.has_too_much_ended()) {
            self.tasks.forget_table(job);
            self.reindex_work(job);
        }
    }

    /// What the primary owes to runs, by their kinds.
    pub(super) fn kind_duties(&self, duties: &mut Vec<Duty>) {
        let jobs = self.jobs.index.with_duties.iter().filter_map(|job| self.jobs.get(job));
        jobs.for_each(|record| record.duties(duties));
    }
}

impl JobRecord {
    /// A job that was just made, in its first state.
    pub(super) fn begin((job, owner): (JobId, PeerId), now: Millis, spec: JobSpec, run: Run, what: String) -> Self {
        let state = match run {
            Run::Trigger(_) => RunState::Running,
            _ => RunState::Pending,
        };
        let mut record = Self {
            job,
            spec,
            owner,
            state,
            before_pause: None,
            reason: None,
            created_at: now,
            changed_at: now,
            finished_at: None,
            revision: LogIndex(0),
            run,
            fired_by: None,
            // Many have one line for most of their life.
            history: Vec::with_capacity(1),
        };
        record.move_to(now, state, what);
        record
    }

    /// Enters a state (or stays in it) and writes a line of history.
    pub(super) fn move_to(&mut self, now: Millis, state: RunState, what: String) {
        self.state = state;
        self.changed_at = now;
        if self.history.len() >= HISTORY_MAX {
            // The first line says where the job came from; it stays.
            self.history.remove(1);
        }
        self.history.push(HistoryEntry { at: now, state, what: short(&what) });
    }
}

/// Puts an item into a set or takes it out.
pub(super) fn set_member<T: Ord>(set: &mut BTreeSet<T>, item: T, member: bool) {
    if member {
        set.insert(item);
    } else {
        set.remove(&item);
    }
}
