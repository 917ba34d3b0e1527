//! One command at a time: what it requires, what it changes, what it answers.
//!
//! Every function here checks everything before it changes anything, so that a refused command leaves no trace. None
//! looks at a clock, and none fails for a reason that could differ between members.

mod commit;
mod compute;
mod control;
mod object;
mod report;
mod run;
mod trigger;

use std::collections::BTreeSet;

use super::command::{
    Command, CommandReply, JobCommand, ObjectCommand, QuorumCommand, Rejection, StoreCommand, TaskCommand,
    TriggerCommand,
};
use super::limits::{LEVEL, STANDBYS_MAX};
use super::state::{Event, QuorumState, hash_bytes};
use crate::approval::{Approval, Subject};
use crate::ids::{Attempt, JobId, ManifestHash, Millis, PeerId};
use crate::job::limits::{HISTORY_MAX, REASON_BYTES_MAX};
use crate::job::record::{HistoryEntry, JobRecord, RunState};
use crate::job::store::{ColumnRecord, ColumnState, Grant, Releasing, StoreRun};
use crate::job::transition::{RunCommand, targets};
use crate::text::truncate;

type Applied = Result<CommandReply, Rejection>;

impl QuorumState {
    pub(super) fn apply_command(&mut self, by: PeerId, command: &Command, events: &mut Vec<Event>) -> Applied {
        let needed = command.level();
        if needed > self.level {
            return Err(Rejection::Level { needed, level: self.level });
        }
        match command {
            Command::Quorum(command) => self.apply_quorum(command, events),
            Command::Job(job, command) => self.apply_job(by, *job, command, events),
            Command::Store(job, command) => self.apply_store(by, *job, command, events),
            Command::Task(command) => self.apply_task(by, command, events),
            Command::Object(manifest, command) => self.apply_object(*manifest, command, events),
            Command::Trigger(command) => self.apply_trigger(by, command, events),
        }
    }

    fn apply_quorum(&mut self, command: &QuorumCommand, events: &mut Vec<Event>) -> Applied {
        match command {
            QuorumCommand::Noop => Ok(CommandReply::Done),
            QuorumCommand::Elapsed { until } => Ok(self.elapsed(*until, events)),
            QuorumCommand::SetStandbys { standbys } => self.set_standbys(standbys),
            QuorumCommand::RaiseLevel { level } => self.raise_level(*level),
        }
    }

    fn set_standbys(&mut self, standbys: &[Approval]) -> Applied {
        if standbys.len() > STANDBYS_MAX {
            return Err(Rejection::Full { what: "standbys".to_owned(), limit: STANDBYS_MAX });
        }
        let peers: BTreeSet<_> = standbys.iter().map(|standby| standby.statement.approver).collect();
        let subject = Subject::Member { quorum: self.quorum };
        if peers.len() < standbys.len() || standbys.iter().any(|standby| standby.statement.subject != subject) {
            return Err(invalid("a standby is named twice, or promised something else"));
        }
        self.standbys = standbys.to_vec();
        Ok(CommandReply::Done)
    }

    fn raise_level(&mut self, level: u16) -> Applied {
        // Proposed only when every member advertises the level, so a build that cannot apply it never sees it.
        if level > LEVEL {
            return Err(invalid(format!("level {level} is above {LEVEL}, the newest that this build applies")));
        }
        self.level = self.level.max(level);
        Ok(CommandReply::Done)
    }

    fn apply_job(&mut self, by: PeerId, job: JobId, command: &JobCommand, events: &mut Vec<Event>) -> Applied {
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

    fn apply_store(&mut self, by: PeerId, job: JobId, command: &StoreCommand, events: &mut Vec<Event>) -> Applied {
        match command {
            StoreCommand::AddHolders { grants, exhausted } => self.add_holders(job, grants, *exhausted, events),
            StoreCommand::Attach => self.attach(by, job),
            StoreCommand::Progress { worker_attempt, segments } => {
                self.progress(by, job, *worker_attempt, segments, events)
            }
            StoreCommand::ColumnFailed { worker_attempt, column, attempt, reason } => {
                self.column_failed((by, *worker_attempt), job, *column, *attempt, reason, events)
            }
            StoreCommand::Commit { worker_attempt, manifest, receipts, degraded } => {
                self.commit_object((by, *worker_attempt), job, manifest, receipts, *degraded, events)
            }
            StoreCommand::Fail { worker_attempt, reason } => {
                self.fail_run(worker_attempt.map(|attempt| (by, attempt)), job, reason, events)
            }
            StoreCommand::Abandon { fed } => self.abandon(job, *fed, events),
            StoreCommand::Released { column, grant, attempt } => {
                self.released(job, Releasing { column: *column, grant: *grant, attempt: *attempt })
            }
        }
    }

    fn apply_task(&mut self, by: PeerId, command: &TaskCommand, events: &mut Vec<Event>) -> Applied {
        match command {
            TaskCommand::SetWorker { worker } => self.set_worker(worker, events),
            TaskCommand::LoseWorker { peer, lease, reason } => self.lose_worker(*peer, *lease, reason, events),
            TaskCommand::ReleaseWorker { peer, lease } => self.release_worker(*peer, *lease),
            TaskCommand::Start { tasks } => self.start(by, tasks),
            TaskCommand::Report { reports } => self.report(by, reports, events),
            TaskCommand::SaveCheckpoint { task, checkpoint, bytes } => {
                self.save_checkpoint(by, *task, checkpoint, bytes.as_ref())
            }
        }
    }

    fn apply_object(&mut self, manifest: ManifestHash, command: &ObjectCommand, events: &mut Vec<Event>) -> Applied {
        match command {
            ObjectCommand::Confirmed { column, attempt } => self.confirmed(manifest, *column, *attempt),
            ObjectCommand::Remove { claims, force } => self.remove_object(manifest, claims, *force, events),
            ObjectCommand::OweRepair { column, attempt, reason } => {
                self.owe_repair(manifest, *column, *attempt, reason, events)
            }
            ObjectCommand::StartRepair { column, attempt, grant, reason } => {
                self.start_repair(manifest, *column, *attempt, *grant, reason, events)
            }
            ObjectCommand::FinishRepair { column, receipt } => self.finish_repair(manifest, *column, receipt, events),
            ObjectCommand::FailRepair { column, attempt, reason } => {
                self.fail_repair(manifest, *column, *attempt, reason)
            }
        }
    }

    fn apply_trigger(&mut self, by: PeerId, command: &TriggerCommand, events: &mut Vec<Event>) -> Applied {
        match command {
            TriggerCommand::Due { spans } => self.due(spans, events),
            TriggerCommand::Fire { job, nonce, respect_overlap } => {
                self.fire_now(by, *job, *nonce, *respect_overlap, events)
            }
            TriggerCommand::Suspend { job } => self.suspend(by, *job, events),
            TriggerCommand::Unsuspend { job } => self.unsuspend(by, *job, events),
            TriggerCommand::Deliver { emitter, follows, reaches, lost, deliveries } => {
                self.deliver(*emitter, (*follows, *reaches, *lost), deliveries, events)
            }
            TriggerCommand::Observe { job, observation } => self.observe(*job, observation, events),
        }
    }

    /// The run, if the transition table allows the command where it stands.
    fn run_for(&mut self, job: JobId, command: RunCommand) -> Result<&mut JobRecord, Rejection> {
        let record = self.jobs.get_mut(&job).ok_or(Rejection::UnknownJob { job })?;
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
            return Err(illegal(record, command));
        }
        Ok(record)
    }

    /// Ends a run that stores: its holders are to let go, its hashes are forgotten.
    fn end_run(&mut self, job: JobId, state: RunState, reason: Option<String>, what: String, events: &mut Vec<Event>) {
        let now = self.wall();
        let Some(record) = self.jobs.get_mut(&job) else { return };
        let Some((_, run)) = record.store_mut() else { return };
        for (index, column) in run.columns.iter_mut().enumerate() {
            if let Some(grant) = column.grant.take() {
                run.releasing.push(releasing(index, grant, column.attempt));
            }
            column.state = ColumnState::Open;
        }
        self.index.hash_bytes -= hash_bytes(&run.segments);
        run.segments = Vec::new();
        run.columns.iter_mut().for_each(|column| column.stored = Vec::new());
        let spares = std::mem::take(&mut run.spares);
        run.releasing.extend(spares.into_iter().map(unused));
        record.reason = reason;
        record.finished_at = Some(now);
        record.move_to(now, state, what);
        events.push(Event::JobChanged { job, state });
        self.job_finished(job);
        self.reindex_job(job);
    }
}

impl QuorumState {
    /// Everything that a worker is busy with.
    fn attempts_at(&self, worker: PeerId) -> Vec<crate::task::record::TaskAttempt> {
        let used = self.index.work.used.get(&worker);
        used.into_iter().flat_map(|used| used.tasks.iter().copied()).collect()
    }
}

impl JobRecord {
    /// Enters a state (or stays in it) and writes a line of history.
    fn move_to(&mut self, now: Millis, state: RunState, what: String) {
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
    fn stored(&self) -> Result<&StoreRun, Rejection> {
        self.store().map(|(_, run)| run).ok_or_else(|| self.stores_nothing())
    }

    fn stored_mut(&mut self) -> Result<&mut StoreRun, Rejection> {
        let refusal = self.stores_nothing();
        self.store_mut().map(|(_, run)| run).ok_or(refusal)
    }

    fn stores_nothing(&self) -> Rejection {
        Rejection::WrongKind { kind: self.spec.kind(), command: "store".to_owned() }
    }

    fn check_worker(&self, (by, attempt): (PeerId, Attempt)) -> Result<(), Rejection> {
        let run = self.stored()?;
        if by != run.worker {
            return Err(Rejection::NotWorker { job: self.job, by });
        }
        if attempt != run.worker_attempt {
            return Err(Rejection::StaleAttempt { given: attempt, current: run.worker_attempt });
        }
        Ok(())
    }

    /// The columns as replies carry them: without their stored bits.
    fn column_summary(&self) -> Applied {
        let columns = self.stored()?.columns.iter().map(|column| ColumnRecord { stored: Vec::new(), ..*column });
        Ok(CommandReply::Columns(columns.collect()))
    }
}

fn releasing(column: usize, grant: Grant, attempt: Attempt) -> Releasing {
    Releasing { column: crate::ids::PieceIndex(column as u8), grant, attempt }
}

/// A grant that never got a column.
fn unused(grant: Grant) -> Releasing {
    releasing(0, grant, Attempt(0))
}

fn invalid(reason: impl Into<String>) -> Rejection {
    Rejection::Invalid { reason: reason.into() }
}

fn illegal(record: &JobRecord, command: RunCommand) -> Rejection {
    Rejection::IllegalState { job: record.job, state: record.state, command: command.name().to_owned() }
}

fn unknown(manifest: ManifestHash) -> Rejection {
    Rejection::UnknownObject { manifest }
}

/// Cuts a text that came from elsewhere to what a record may keep.
fn short(text: &str) -> String {
    truncate(text, REASON_BYTES_MAX).to_owned()
}
