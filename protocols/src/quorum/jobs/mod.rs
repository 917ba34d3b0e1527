//! The job book: the records of a quorum's jobs, and what is known of them without looking at all.
//!
//! [`JobBook`] has the records, of every kind, with an index beside them: which run, which the primary has duties for,
//! which ended and may be forgotten. Everybody reads records through it. Only the operations below change them, and the
//! frame brings every index up to date afterwards. What a run does is its kind's ([`super::kinds`]).

mod invariants;
pub(super) mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Index};

use super::command::Control;
use super::duty::Duty;
use super::reply::{CommandReply, Rejection, short};
use super::shares::Shares;
use crate::ids::{Digest, JobId, LogIndex, Millis, PeerId};
use crate::job::limits::{HISTORY_MAX, JOBS_ENDED_MAX, JOBS_ENDED_RETENTION, JOBS_LIVE_MAX, OWNER_JOBS_MAX};
use crate::job::record::{Controlled, HistoryEntry, JobRecord, Run, RunState};
use crate::job::signed::OwnerSignature;
use crate::job::spec::{JobSpec, TriggeredSpec};
use crate::job::transition::RunCommand;
use crate::shared_map::SharedMap;
use crate::task::record::RunTasks;
use crate::trigger::record::TriggerRun;
use crate::wire;

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
    /// The same by their owners.
    live_of: Shares<JobId>,
    /// Jobs, live or ended, that the primary has duties for by their kind.
    with_duties: BTreeSet<JobId>,
    /// Ended jobs that nothing depends on any more, by their end: the first to be forgotten.
    ended: BTreeSet<(Millis, JobId)>,
    /// Bytes of piece hashes, in all and of each run that has any.
    hash_bytes: usize,
    hash_bytes_of: BTreeMap<JobId, usize>,
    /// The same by their owners.
    hash_bytes_owned: Shares<JobId>,
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

    /// Room for one more job of this owner that runs.
    pub(super) fn check_live_room(&self, owner: PeerId) -> Result<(), Rejection> {
        check_room("live jobs", self.live_len() + 1, JOBS_LIVE_MAX)?;
        check_room("live jobs of one owner", self.index.live_of.of(&owner) as usize + 1, OWNER_JOBS_MAX)
    }

    /// Bytes of piece hashes in live runs of this owner.
    pub(super) fn hash_bytes_of_owner(&self, owner: PeerId) -> usize {
        self.index.hash_bytes_owned.of(&owner) as usize
    }

    /// The record, if its table of transitions allows the command where it stands.
    pub(super) fn run_for(&self, job: JobId, command: RunCommand) -> Result<&JobRecord, Rejection> {
        let record = self.records.get(&job).ok_or(Rejection::UnknownJob { job })?;
        record.admit(command)?;
        Ok(record)
    }

    /// The reply to a control that was applied already and comes again; or why it changes nothing.
    pub(super) fn check_control(&self, asked: Asked<'_>, job: JobId) -> Result<Option<CommandReply>, Rejection> {
        let (_, seen, control) = asked;
        let record = self.records.get(&job).ok_or(Rejection::UnknownJob { job })?;
        // Before all else: what it did itself must not make its copy look late.
        if record.controlled.as_ref().is_some_and(|last| last.at > seen && last.digest == digest(asked)) {
            return Ok(Some(CommandReply::Done));
        }
        if seen < record.since {
            let controlled = record.controlled.as_ref().is_some_and(|last| last.at > seen);
            return Err(Rejection::Superseded { job, controlled });
        }
        record.admit(control.run_command())?;
        Ok(None)
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
    pub(super) fn forget_first(&mut self, wall: Millis, too_heavy: bool) -> Option<JobId> {
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
    pub(super) fn reindex(&mut self, job: JobId, holds_object: bool) {
        let index = &mut self.index;
        let Some(record) = self.records.get(&job) else {
            index.live.remove(&job);
            index.live_of.set(job, None);
            index.with_duties.remove(&job);
            index.hash_bytes -= index.hash_bytes_of.remove(&job).unwrap_or(0);
            index.hash_bytes_owned.set(job, None);
            return;
        };
        let live = !record.state.is_final();
        let with_duties = record.has_duties();
        let hash_bytes = record.run.hash_bytes();
        let ended = record.finished_at.unwrap_or_default();
        let runs = live && record.trigger().is_none();
        set_member(&mut index.live, job, runs);
        index.live_of.set(job, runs.then_some((record.owner, 1)));
        index.hash_bytes_owned.set(job, Some((record.owner, hash_bytes as u64)));
        set_member(&mut index.with_duties, job, with_duties);
        set_member(&mut index.ended, (ended, job), !live && !with_duties && !holds_object);
        let before = match hash_bytes {
            0 => index.hash_bytes_of.remove(&job),
            bytes => index.hash_bytes_of.insert(job, bytes),
        };
        index.hash_bytes = index.hash_bytes + hash_bytes - before.unwrap_or(0);
    }
}

impl JobRecord {
    /// A job that was just made, in its first state.
    pub(super) fn begin(
        (job, owner, signed): (JobId, PeerId, OwnerSignature),
        now: Millis,
        spec: JobSpec,
        run: Run,
        what: String,
    ) -> Self {
        let state = match run {
            Run::Trigger(_) => RunState::Running,
            _ => RunState::Pending,
        };
        let mut record = Self {
            job,
            spec,
            owner,
            signed,
            state,
            before_pause: None,
            reason: None,
            created_at: now,
            changed_at: now,
            finished_at: None,
            revision: LogIndex(0),
            since: LogIndex(0),
            controlled: None,
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

// ---- changes of one record; the frame's `reindex_job` is due after each ----

impl JobBook {
    /// What only its kind knows of the run.
    pub(super) fn run_mut(&mut self, job: &JobId) -> Option<&mut Run> {
        self.records.get_mut(job).map(|record| &mut record.run)
    }

    /// What the pool keeps of the run, if it has tasks.
    pub(super) fn tasks_mut(&mut self, job: &JobId) -> Option<&mut RunTasks> {
        self.records.get_mut(job)?.tasks_mut()
    }

    /// The state of a trigger, with its specification.
    pub(super) fn trigger_mut(&mut self, job: &JobId) -> Option<(&TriggeredSpec, &mut TriggerRun)> {
        self.records.get_mut(job)?.trigger_mut()
    }

    /// The last failure, refusal or wait, for people.
    pub(super) fn set_reason(&mut self, job: &JobId, reason: Option<&str>) {
        if let Some(record) = self.records.get_mut(job) {
            record.reason = reason.map(short);
        }
    }

    /// The state to return to after a pause.
    pub(super) fn set_before_pause(&mut self, job: &JobId, state: Option<RunState>) {
        if let Some(record) = self.records.get_mut(job) {
            record.before_pause = state;
        }
    }

    /// Enters a state, or stays in it, with a line of history.
    pub(super) fn enter(&mut self, job: &JobId, now: Millis, state: RunState, what: String) {
        if let Some(record) = self.records.get_mut(job) {
            record.move_to(now, state, what);
        }
    }

    /// Nothing more will move the job. It enters its last state besides.
    pub(super) fn end(&mut self, job: &JobId, now: Millis, reason: Option<&str>) {
        if let Some(record) = self.records.get_mut(job) {
            record.reason = reason.map(short);
            record.before_pause = None;
            record.finished_at = Some(now);
        }
    }

    /// The run has changed, and nothing worth a line of history happened.
    pub(super) fn touch(&mut self, job: &JobId, now: Millis) {
        if let Some(record) = self.records.get_mut(job) {
            record.changed_at = now;
        }
    }

    /// The entry changed what is told of the job.
    pub(super) fn set_revision(&mut self, job: &JobId, index: LogIndex) {
        if let Some(record) = self.records.get_mut(job) {
            record.revision = index;
        }
    }

    /// The job stands as it does since this entry.
    pub(super) fn set_since(&mut self, job: &JobId, entry: LogIndex) {
        if let Some(record) = self.records.get_mut(job) {
            record.since = entry;
        }
    }

    /// The control was applied by this entry.
    pub(super) fn set_controlled(&mut self, job: &JobId, asked: Asked<'_>, entry: LogIndex) {
        if let Some(record) = self.records.get_mut(job) {
            record.since = entry;
            record.controlled = Some(Box::new(Controlled { at: entry, digest: digest(asked) }));
        }
    }

    /// Builds what of the index follows from the records' stamps; the rest is reindexed job by job.
    pub(super) fn reset_index(&mut self) {
        let by_age = self.values().map(|record| (record.created_at, record.job)).collect();
        self.index = JobIndex { by_age, ..JobIndex::default() };
    }

    /// What the primary owes to runs, by their kinds.
    pub(super) fn duties(&self, duties: &mut Vec<Duty>) {
        let jobs = self.index.with_duties.iter().filter_map(|job| self.get(job));
        jobs.for_each(|record| record.duties(duties));
    }
}

impl JobRecord {
    /// A job as its own page shows it: the rows of a trigger have pages of their own.
    pub(super) fn without_rows(&self) -> Self {
        match &self.run {
            Run::Trigger(run) => {
                let run = Run::Trigger(Box::new(run.outline()));
                let (spec, history, reason) = (self.spec.clone(), self.history.clone(), self.reason.clone());
                Self { spec, run, history, reason, controlled: self.controlled.clone(), ..*self }
            }
            _ => self.clone(),
        }
    }
}

/// A control, with its sender and what the sender had seen.
pub(super) type Asked<'c> = (PeerId, LogIndex, &'c Control);

/// Equal for copies of one control alone: who has seen what it did, and asks for the same again, has seen more.
fn digest(asked: Asked<'_>) -> Digest {
    Digest(*blake3::hash(&wire::encode(&asked)).as_bytes())
}

/// Refuses what makes more than a quorum takes.
pub(super) fn check_room(what: &str, then: usize, limit: usize) -> Result<(), Rejection> {
    match then > limit {
        true => Err(Rejection::Full { what: what.to_owned(), limit }),
        false => Ok(()),
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
