//! The job book: the records of a quorum's jobs, and what is known of them without looking at all.
//!
//! [`JobBook`] has the records, of every kind, with an index beside them: which run, which store, which have holders to
//! release, which ended and may be forgotten. Others read records through it and change them through
//! [`JobBook::get_mut`]; whoever does calls [`QuorumState::reindex_job`] afterwards. `submit` makes jobs, `store` is
//! the life of runs that store.

mod invariants;
mod store;
mod submit;

use std::collections::BTreeSet;
use std::ops::{Bound, Index};

use super::apply::{Applied, short};
use super::command::{JobCommand, Rejection, StoreCommand};
use super::state::{Duty, Event, QuorumState};
use crate::ids::{Attempt, JobId, Millis, PeerId, PieceHash, PieceIndex};
use crate::job::limits::{HISTORY_MAX, JOBS_ENDED_MAX, JOBS_ENDED_RETENTION, SPARES_WANTED};
use crate::job::record::{HistoryEntry, JobRecord, Run, RunState};
use crate::job::spec::JobSpec;
use crate::job::store::{Grant, Releasing, StoreRun};
use crate::job::transition::{RunCommand, targets};
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
    /// Those of them that store: the primary has duties for each.
    storing: BTreeSet<JobId>,
    /// Jobs, live or ended, with holders to be told to let go.
    releasing: BTreeSet<JobId>,
    /// Ended jobs that nothing depends on any more, by their end: the first to be forgotten.
    ended: BTreeSet<(Millis, JobId)>,
    /// Bytes of piece hashes in live runs.
    hash_bytes: usize,
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

    /// For a snapshot: shared, not copied.
    pub(super) fn records(&self) -> &SharedMap<JobId, JobRecord> {
        &self.records
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

    /// Holders that the run has yet to see let go.
    pub(super) fn releasing_of(&self, job: &JobId) -> usize {
        self.get(job).and_then(JobRecord::store).map_or(0, |(_, run)| run.releasing.len())
    }

    /// Has these holders told to let go. Returns nothing: a run that is gone has nobody to tell.
    pub(super) fn release(&mut self, job: &JobId, leaving: impl IntoIterator<Item = Releasing>) {
        if let Some((_, run)) = self.get_mut(job).and_then(JobRecord::store_mut) {
            run.releasing.extend(leaving);
        }
    }

    /// The run, if the transition table allows the command where it stands.
    pub(super) fn run_for(&mut self, job: JobId, command: RunCommand) -> Result<&mut JobRecord, Rejection> {
        let record = self.records.get_mut(&job).ok_or(Rejection::UnknownJob { job })?;
        let kind = record.spec.kind();
        if !command.is_for(kind) {
            return Err(Rejection::WrongKind { kind, command: command.name().to_owned() });
        }
        let name = || command.name().to_owned();
        match record.trigger().is_some() {
            true if !command.is_for_triggers() => return Err(Rejection::HasTrigger { job, command: name() }),
            false if command.is_for_triggers() && command != RunCommand::Cancel => {
                return Err(Rejection::NoTrigger { job, command: name() });
            }
            _ => (),
        }
        if targets(record.state, command).is_none() {
            return Err(record.refuses(command));
        }
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
            if record.compute().is_none() || record.state.is_final() {
                record.created_at = record.created_at.min(at);
            }
            self.index.by_age.insert((record.created_at, *job));
            record.changed_at = record.changed_at.min(at);
            record.finished_at = record.finished_at.map(|finished| finished.min(at));
            record.history.iter_mut().for_each(|entry| entry.at = entry.at.min(at));
            if let Some((_, run)) = record.trigger_mut() {
                run.fires.iter_mut().for_each(|row| row.at = row.at.min(at));
                run.ended.values_mut().for_each(|ended| ended.at = ended.at.min(at));
            }
            if let Some((_, run)) = record.store_mut() {
                run.upload_seen_at = run.upload_seen_at.min(at);
            }
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
            index.storing.remove(&job);
            index.releasing.remove(&job);
            return;
        };
        let live = !record.state.is_final();
        let store = record.store().map(|(_, run)| run);
        let releasing = store.is_some_and(|run| !run.releasing.is_empty());
        let ended = record.finished_at.unwrap_or_default();
        set_member(&mut index.live, job, live && record.trigger().is_none());
        set_member(&mut index.storing, job, live && store.is_some());
        set_member(&mut index.releasing, job, releasing);
        set_member(&mut index.ended, (ended, job), !live && !releasing && !holds_object);
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
        match command {
            JobCommand::Submit { spec } => self.submit(by, job, spec, events),
            JobCommand::Cancel => self.cancel(by, job, events),
            JobCommand::Pause => self.pause(by, job, events),
            JobCommand::Resume => self.resume(by, job, events),
            JobCommand::Retry => self.retry(by, job, events),
            JobCommand::Resolve { resolution } => self.resolve(by, job, *resolution, events),
            JobCommand::Update { priority, parallelism, resources } => {
                self.update(job, *priority, *parallelism, resources.as_ref())
            }
        }
    }

    pub(super) fn apply_store(
        &mut self,
        by: PeerId,
        job: JobId,
        command: &StoreCommand,
        events: &mut Vec<Event>,
    ) -> Applied {
        match command {
            StoreCommand::AddHolders { grants, exhausted } => self.add_holders(job, grants, *exhausted, events),
            StoreCommand::Attach => self.attach(by, job),
            StoreCommand::Progress { upload_attempt, segments } => {
                self.progress(by, job, *upload_attempt, segments, events)
            }
            StoreCommand::ColumnFailed { upload_attempt, column, attempt, reason } => {
                self.column_failed((by, *upload_attempt), job, *column, *attempt, reason, events)
            }
            StoreCommand::Commit { upload_attempt, manifest, receipts, degraded } => {
                self.commit_object((by, *upload_attempt), job, manifest, receipts, *degraded, events)
            }
            StoreCommand::Fail { upload_attempt, reason } => {
                self.fail_run(upload_attempt.map(|attempt| (by, attempt)), job, reason, events)
            }
            StoreCommand::Abandon { upload_seq } => self.abandon(job, *upload_seq, events),
            StoreCommand::Released { column, grant, attempt } => {
                self.released(job, Releasing { column: *column, grant: *grant, attempt: *attempt })
            }
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
        let runs = self.jobs.values().filter_map(JobRecord::store);
        self.jobs.index.hash_bytes = runs.map(|(_, run)| hash_bytes(&run.segments)).sum();
    }

    /// Forgets ended jobs past their number or their time. A job stays while its object lives, because slots of the
    /// object's columns carry its id, and while it has holders to release.
    pub(super) fn forget_ended(&mut self) {
        while let Some(job) = self.jobs.forget_first(self.wall(), self.tasks.has_too_much_ended()) {
            self.tasks.forget_table(job);
            self.reindex_work(job);
        }
    }

    /// Holders to win for runs that wait.
    pub(super) fn holder_duties(&self, duties: &mut Vec<Duty>) {
        for record in self.storing() {
            let Some((_, run)) = record.store() else { continue };
            let open = run.open_columns();
            let spares = SPARES_WANTED.saturating_sub(run.spares.len());
            if open > 0 || spares > 0 {
                duties.push(Duty::FindHolders { job: record.job, open, spares });
            }
        }
    }

    /// Holders to release, and the watch over idle runs.
    pub(super) fn store_duties(&self, duties: &mut Vec<Duty>) {
        for record in self.jobs.index.releasing.iter().filter_map(|job| self.jobs.get(job)) {
            let run = record.store().map(|(_, run)| run);
            duties.extend(run.into_iter().flat_map(|run| &run.releasing).map(
                |Releasing { column, grant, attempt }| Duty::Release {
                    job: record.job,
                    column: *column,
                    grant: *grant,
                    attempt: *attempt,
                },
            ));
        }
        duties.extend(self.storing().filter_map(|record| {
            let (_, run) = record.store()?;
            let empty = run.segments.is_empty();
            Some(Duty::WatchIdle { job: record.job, upload_seq: run.upload_seq, since: run.upload_seen_at, empty })
        }));
    }

    fn storing(&self) -> impl Iterator<Item = &JobRecord> {
        self.jobs.index.storing.iter().filter_map(|job| self.jobs.get(job))
    }
}

impl JobRecord {
    /// A job that was just made, in its first state.
    pub(super) fn begin((job, owner): (JobId, PeerId), now: Millis, spec: JobSpec, run: Run, what: String) -> Self {
        let state = match run {
            Run::Trigger(_) => RunState::Running,
            Run::Store(_) | Run::Compute(_) => RunState::Pending,
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
            run,
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

    /// The run of a job that stores. The transition table admits a store command for no other; should one slip through,
    /// it is refused, on every member alike.
    pub(super) fn stored(&self) -> Result<&StoreRun, Rejection> {
        self.store().map(|(_, run)| run).ok_or_else(|| self.stores_nothing())
    }

    pub(super) fn stored_mut(&mut self) -> Result<&mut StoreRun, Rejection> {
        let refusal = self.stores_nothing();
        self.store_mut().map(|(_, run)| run).ok_or(refusal)
    }

    fn stores_nothing(&self) -> Rejection {
        Rejection::WrongKind { kind: self.spec.kind(), command: "store".to_owned() }
    }

    /// That the command is not allowed where the job stands.
    pub(super) fn refuses(&self, command: RunCommand) -> Rejection {
        Rejection::IllegalState { job: self.job, state: self.state, command: command.name().to_owned() }
    }
}

/// A grant that never got a column.
fn unused(grant: Grant) -> Releasing {
    Releasing { column: PieceIndex(0), grant, attempt: Attempt(0) }
}

fn hash_bytes(segments: &[Vec<PieceHash>]) -> usize {
    segments.iter().map(|pieces| pieces.len() * PieceHash::LEN).sum()
}

/// Puts an item into a set or takes it out.
pub(super) fn set_member<T: Ord>(set: &mut BTreeSet<T>, item: T, member: bool) {
    if member {
        set.insert(item);
    } else {
        set.remove(&item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::QuorumId;
    use crate::job::compute::{Call, ComputeSpec, Program};
    use crate::job::spec::Kind;
    use crate::task::record::ComputeRun;

    /// Goal: no entry of a log stops the members that apply it, whatever a handler forgets to ask first.
    #[test]
    fn a_store_command_on_another_kind_of_run_is_refused() {
        let job = JobId { quorum: QuorumId([1; 16]), local: [2; 16] };
        let spec = ComputeSpec::new(Call::new(Program::Command { name: "work".to_owned() }));
        let run = Run::Compute(Box::new(ComputeRun::new(&spec, Millis(1))));
        let spec = JobSpec::Compute(Box::new(spec));
        let mut record = JobRecord::begin((job, PeerId([9; 32])), Millis(1), spec, run, "submitted".to_owned());
        let refusal = Rejection::WrongKind { kind: Kind::Command, command: "store".to_owned() };
        assert_eq!(record.stored().unwrap_err(), refusal);
        assert_eq!(record.stored_mut().unwrap_err(), refusal);
        assert_eq!(record.check_uploader((PeerId([9; 32]), Attempt(1))).unwrap_err(), refusal);
    }
}
