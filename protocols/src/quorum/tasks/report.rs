//! Reports of workers: starts, results, checkpoints, votes of verified copies, and the loss of a worker.
//!
//! Every attempt is checked against the task's live ones. What comes under another is refused and counted, and changes
//! nothing. A report that was recorded before is recorded: workers repeat until they hear so.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{FollowUp, Handled, PoolCx, PoolView};
use crate::engine::Engine;
use crate::ids::{Attempt, Digest, JobId, LeaseId, Millis, Nonce, PeerId, StepIndex};
use crate::job::record::{JobRecord, RunState};
use crate::quorum::command::TaskCommand;
use crate::quorum::event::Event;
use crate::quorum::reply::{Applied, invalid, short};
use crate::quorum::reply::{CommandReply, Rejection};
use crate::task::error_class::ErrorClass;
use crate::task::limits::{
    AVOIDED_MAX, BATCH_MAX, CHECKPOINT_BYTES_MAX, OUTPUT_BYTES_MAX, REVEAL_WAIT, ROUNDS_MAX, WORKER_SLOTS_MAX,
    WORKERS_MAX,
};
use crate::task::message::{Report, ReportRefusal, TaskResult};
use crate::task::record::{
    AttemptRecord, Failure, Output, Phase, Place, RunTasks, TaskAttempt, TaskRecord, TaskState, Won, WorkerRecord,
};
use crate::task::retry::{self, Past};
use crate::task::spec::OutputPlace;
use crate::task::table::Blob;
use crate::task::terms::TaskTerms;
use crate::task::vote::{ResultReceipt, Verdict, Vote, commitment, tally};

type Recorded = Result<(), ReportRefusal>;

fn refuse(reason: impl Into<String>) -> Recorded {
    Err(ReportRefusal::Invalid { reason: reason.into() })
}

impl PoolCx<'_> {
    pub(super) fn set_worker(&mut self, worker: &WorkerRecord, events: &mut Vec<Event>) -> Handled {
        let (peer, slots) = (worker.grant.holder.peer, worker.capacity.slots);
        if !(1..=WORKER_SLOTS_MAX).contains(&slots) {
            return Err(invalid(format!("{slots} slots are not between 1 and {WORKER_SLOTS_MAX}")));
        }
        if worker.labels.len() > 64
            || worker.engines.len() > Engine::ALL.len()
            || crate::wire::encode(worker).len() > 16 * 1024
        {
            return Err(invalid("a worker's record is too long"));
        }
        let before = self.tasks.workers.get(&peer).map(|before| before.grant);
        if before.is_none() && self.tasks.workers.len() >= WORKERS_MAX {
            return Err(Rejection::Full { what: "workers".to_owned(), limit: WORKERS_MAX });
        }
        // Another incarnation has another disk: its outbox and its work are gone.
        let settle = match before.is_some_and(|before| before.holder.incarnation != worker.grant.holder.incarnation) {
            true => self.lose_attempts(peer, "the worker lost its disk", events),
            false => BTreeSet::new(),
        };
        self.tasks.workers.insert(peer, worker.clone());
        Ok((CommandReply::Done, FollowUp { settle, ..FollowUp::default() }))
    }

    pub(super) fn lose_worker(
        &mut self,
        peer: PeerId,
        lease: LeaseId,
        reason: &str,
        events: &mut Vec<Event>,
    ) -> Handled {
        if self.tasks.workers.get(&peer).is_none_or(|worker| worker.grant.lease != lease) {
            return Err(Rejection::UnknownWorker { peer });
        }
        self.tasks.workers.remove(&peer);
        self.tasks.prefetch_windows.forget(peer);
        let settle = self.lose_attempts(peer, reason, events);
        Ok((CommandReply::Done, FollowUp { settle, forgive: Some(peer), ..FollowUp::default() }))
    }

    /// A worker that was lost comes back as another run of its node, maybe with other settings: runs that wait for
    /// workers need not wait for it any longer.
    pub(in crate::quorum) fn forgive_refusals(&mut self, peer: PeerId) {
        let waiting = self.tasks.index.queue.values().flatten().map(|(_, job)| *job);
        let avoids = |job: &JobId| self.jobs.get(job).and_then(JobRecord::tasks).is_some_and(|run| run.avoids(&peer));
        let avoiding: Vec<_> = waiting.filter(avoids).collect();
        for job in avoiding {
            self.with_tasks(job, |run| run.avoided.get_mut(&peer).into_iter().for_each(|refusal| refusal.until = None));
            self.reindex(job);
        }
    }

    /// Lets go of a worker that has nothing to do.
    pub(super) fn release_worker(&mut self, peer: PeerId, lease: LeaseId) -> Handled {
        if self.tasks.workers.get(&peer).is_none_or(|worker| worker.grant.lease != lease) {
            return Err(Rejection::UnknownWorker { peer });
        }
        if self.tasks.index.used.contains_key(&peer) {
            return Err(invalid(format!("{peer} has work of this quorum")));
        }
        self.tasks.workers.remove(&peer);
        self.tasks.prefetch_windows.forget(peer);
        Ok((CommandReply::Done, FollowUp::default()))
    }

    /// The runs that had an attempt there.
    fn lose_attempts(&mut self, peer: PeerId, reason: &str, events: &mut Vec<Event>) -> BTreeSet<JobId> {
        let mut touched = BTreeSet::new();
        let attempts = self.tasks.attempts_at(peer);
        if !attempts.is_empty() {
            events.push(Event::WorkerLost { worker: peer, attempts: attempts.len() as u32 });
        }
        for task in attempts {
            touched.insert(task.id.job);
            if self.tasks.stopping.contains_key(&task) {
                self.stop_ended(task);
            } else {
                self.attempt_failed(task, ErrorClass::Lost, reason);
            }
        }
        touched
    }

    pub(super) fn start(&mut self, by: PeerId, tasks: &[TaskAttempt]) -> Handled {
        check_batch(tasks.len())?;
        let mut reindex = BTreeSet::new();
        let mut start = |task: &TaskAttempt| {
            reindex.insert(task.id.job);
            self.live_attempt(by, *task)?;
            // A run that is stopping begins nothing more.
            let stopping = self.jobs.get(&task.id.job).is_none_or(|record| record.state == RunState::Pausing);
            if stopping {
                return Err(ReportRefusal::Stale { newest: task.attempt });
            }
            self.change_attempt(*task, |live| {
                if live.phase == Phase::Assigned {
                    live.phase = Phase::Started;
                }
            });
            Ok(())
        };
        let answers = tasks.iter().map(&mut start).collect();
        Ok((CommandReply::Recorded(answers), FollowUp { reindex, ..FollowUp::default() }))
    }

    pub(super) fn report(&mut self, by: PeerId, reports: &[Report], events: &mut Vec<Event>) -> Handled {
        check_batch(reports.len())?;
        if self.tasks.workers.contains_key(&by) {
            self.tasks.prefetch_windows.record_report(by, self.time);
        }
        let mut settle = BTreeSet::new();
        let mut answers = Vec::with_capacity(reports.len());
        for report in reports {
            settle.insert(report.task.id.job);
            answers.push(self.report_one(by, report, events));
        }
        Ok((CommandReply::Recorded(answers), FollowUp { settle, tells_progress: true, ..FollowUp::default() }))
    }

    /// The attempt, if it may still report and is this worker's.
    fn live_attempt(&mut self, by: PeerId, task: TaskAttempt) -> Result<AttemptRecord, ReportRefusal> {
        let live = self.view().live_attempt(by, task).cloned();
        if matches!(live, Err(ReportRefusal::Unknown | ReportRefusal::Stale { .. })) {
            self.with_tasks(task.id.job, |run| run.stale_reports = run.stale_reports.saturating_add(1));
        }
        live
    }

    fn report_one(&mut self, by: PeerId, report: &Report, events: &mut Vec<Event>) -> Recorded {
        let task = report.task;
        if let Some(stopping) = self.tasks.stopping.get(&task) {
            if stopping.worker != by {
                return Err(ReportRefusal::NotAssigned);
            }
            // Whatever it came to, it has ended.
            self.stop_ended(task);
            if matches!(report.result, TaskResult::Stopped) {
                return Ok(());
            }
        }
        if self.view().is_repeated(report) {
            return Ok(());
        }
        let live = self.live_attempt(by, task)?;
        let verified = self.view().is_verified(task);
        match &report.result {
            TaskResult::Done { .. } if verified => refuse("copies commit to their result before they show it"),
            TaskResult::Commitment(_) | TaskResult::Reveal { .. } if !verified => refuse("the task is not verified"),
            TaskResult::Failed { class, .. } if verified && class.is_vote() => {
                refuse(format!("{class} is a verdict: commit to it"))
            }
            TaskResult::Done { output, bytes } => {
                self.take_bytes(task, output, bytes.as_ref(), Blob::Output)?;
                self.task_done(task, *output, Vec::new());
                Ok(())
            }
            TaskResult::Failed { class, reason } => {
                self.attempt_failed(task, *class, reason);
                Ok(())
            }
            TaskResult::Stopped => {
                self.attempt_stopped(task, &live);
                Ok(())
            }
            TaskResult::Commitment(digest) => self.committed(task, &live, *digest, events),
            TaskResult::Reveal { nonce, output, bytes, receipt } => {
                self.revealed(task, &live, *nonce, *output, bytes.as_ref(), receipt)
            }
        }
    }

    pub(in crate::quorum) fn change_attempt(&mut self, task: TaskAttempt, change: impl FnOnce(&mut AttemptRecord)) {
        self.change_task(task.id, |record| {
            if let Some(live) = record.live.iter_mut().find(|live| live.attempt == task.attempt) {
                change(live);
            }
        });
    }

    /// Checks an output or checkpoint, and keeps its bytes when their place is the record.
    fn take_bytes(&mut self, task: TaskAttempt, output: &Output, bytes: Option<&Bytes>, blob: Blob) -> Recorded {
        let limit = if blob == Blob::Checkpoint { CHECKPOINT_BYTES_MAX } else { OUTPUT_BYTES_MAX };
        let key = (task.id.step, task.id.task, blob);
        let bytes = match (output.place, bytes) {
            (Place::Record, Some(bytes)) => bytes,
            (Place::Record, None) => return refuse("the bytes are missing"),
            (Place::Object { .. }, Some(_)) => return refuse("bytes of an object do not belong here"),
            (Place::Object { .. }, None) => {
                let terms = self.view().terms_of(task);
                if blob != Blob::Checkpoint && terms.is_some_and(|terms| terms.output == OutputPlace::Inline) {
                    return refuse("the job wants its outputs in the record");
                }
                if let Some(table) = self.tasks.tables.get_mut(&task.id.job) {
                    table.drop_blob(key);
                }
                return Ok(());
            }
        };
        if bytes.len() > limit {
            return refuse(format!("{} bytes, more than the {limit} allowed in the record", bytes.len()));
        }
        if output.bytes != bytes.len() as u64 || output.digest.0 != *blake3::hash(bytes).as_bytes() {
            return refuse("the bytes are not those of the digest");
        }
        let owner = self.jobs.get(&task.id.job).map(|record| record.owner).unwrap_or_default();
        if self.tasks.check_bytes(owner, bytes.len()).is_err() {
            return Err(ReportRefusal::RecordFull);
        }
        if let Some(table) = self.tasks.tables.get_mut(&task.id.job) {
            table.keep_blob(key, bytes.clone());
        }
        // The next output in this entry must see what this one took.
        self.reindex(task.id.job);
        Ok(())
    }

    fn task_done(&mut self, task: TaskAttempt, output: Output, votes: Vec<Vote>) {
        let now = self.time;
        let rest = self.change_task(task.id, |record| {
            let live = std::mem::take(&mut record.live);
            let (won, rest): (Vec<_>, Vec<_>) = live.into_iter().partition(|live| live.attempt == task.attempt);
            record.state = TaskState::Done;
            let winner = won.first().map(|won| Won { attempt: won.attempt, worker: won.worker, output });
            record.won = winner.map(Box::new);
            record.extras = None;
            if !votes.is_empty() {
                record.extras_mut().votes = votes;
            }
            (won.first().map(|won| won.since), won.first().map(|won| won.worker), rest)
        });
        let Some((assigned_at, worker, rest)) = rest else { return };
        for live in rest.into_iter().filter(|live| !matches!(live.phase, Phase::Revealed(_))) {
            self.stop_attempt(TaskAttempt { id: task.id, attempt: live.attempt }, live);
        }
        if let Some(table) = self.tasks.tables.get_mut(&task.id.job) {
            table.drop_blob((task.id.step, task.id.task, Blob::Checkpoint));
        }
        if let Some(assigned_at) = assigned_at {
            let took = now.since(assigned_at);
            let program = self.with_tasks(task.id.job, |run| {
                let bucket = (128 - took.as_millis().leading_zeros()).min(63) as usize;
                if run.durations.len() <= bucket {
                    run.durations.resize(bucket + 1, 0);
                }
                run.durations[bucket] = run.durations[bucket].saturating_add(1);
                // It refuses no more.
                worker.and_then(|worker| run.avoided.remove(&worker));
                run.program
            });
            program.into_iter().for_each(|program| self.tasks.prefetch_windows.record_done(program, assigned_at, now));
        }
    }

    /// An attempt ended without a result.
    pub(in crate::quorum) fn attempt_failed(&mut self, task: TaskAttempt, class: ErrorClass, reason: &str) {
        let now = self.time;
        let Some(terms) = self.view().terms_of(task) else { return };
        let (policy, idempotent) = (terms.retry.clone(), terms.idempotent);
        // A peer too many that refuses counts like any failure, or the task would go round for ever.
        let class = match class {
            ErrorClass::Refused if self.view().is_refused_too_often(task) => ErrorClass::Host,
            class => class,
        };
        let ended = self.change_task(task.id, |record| {
            let at = record.live.iter().position(|live| live.attempt == task.attempt)?;
            let live = record.live.remove(at);
            let parked = class == ErrorClass::Lost && !idempotent && live.phase == Phase::Started;
            match class {
                ErrorClass::Lost => record.losses = record.losses.saturating_add(1),
                ErrorClass::Refused => (),
                _ => record.failures = record.failures.saturating_add(1),
            }
            record.extras_mut().last =
                Some(Failure { attempt: live.attempt, worker: live.worker, class, reason: short(reason) });
            if parked {
                record.state = TaskState::Parked;
            }
            let past = Past { failures: record.failures, losses: record.losses, first_at: record.first_at };
            Some((live, past, parked, record.live.is_empty(), record.is_revealing()))
        });
        let Some(Some((live, past, parked, alone, revealing))) = ended else { return };
        self.drop_copy(task);
        if class == ErrorClass::Refused {
            self.with_tasks(task.id.job, |run| run.record_refusal(live.worker, short(reason), now));
        }
        if parked {
            return;
        }
        if revealing && !alone {
            self.count_votes(task);
            return;
        }
        self.change_task(task.id, |record| {
            if let Some(extras) = &mut record.extras {
                extras.revealing = false;
            }
        });
        match retry::decide(&policy, task.id, past, class, now) {
            retry::Verdict::At(until) => {
                // While other copies are on their way, a replacement is sought at once or not at all.
                let verified = self.view().is_verified(task);
                self.change_task(task.id, |record| {
                    record.state = match (alone, verified) {
                        (false, false) => TaskState::Running,
                        (false, true) => TaskState::Ready,
                        (true, _) if until > now => TaskState::Delayed { until },
                        (true, _) => TaskState::Ready,
                    };
                });
            }
            retry::Verdict::Never(_) if !alone && !self.view().is_verified(task) => {
                self.change_task(task.id, |record| record.state = TaskState::Running);
            }
            retry::Verdict::Never(why) => {
                let reason = format!("{class} at {}: {}; {why}", live.worker, short(reason));
                self.move_to_dead_letters(task.id, &reason);
            }
        }
    }

    /// An attempt was stopped before its end: by a pause, or because its worker shuts down.
    fn attempt_stopped(&mut self, task: TaskAttempt, live: &AttemptRecord) {
        let record = self.jobs.get(&task.id.job);
        let pausing = record.is_some_and(|record| record.state == RunState::Pausing);
        if !pausing || live.phase == Phase::Started {
            self.attempt_failed(task, ErrorClass::Lost, "the worker stopped it");
            return;
        }
        let alone = self.change_task(task.id, |record| {
            record.live.retain(|live| live.attempt != task.attempt);
            let alone = record.live.is_empty();
            if let Some(extras) = record.extras.as_mut().filter(|_| alone) {
                extras.revealing = false;
            }
            if !record.is_revealing() {
                record.state = TaskState::Ready;
            }
            alone
        });
        if self.view().is_revealing(task) && alone == Some(false) {
            self.count_votes(task);
        }
    }

    pub(super) fn save_checkpoint(
        &mut self,
        by: PeerId,
        task: TaskAttempt,
        checkpoint: &Output,
        bytes: Option<&Bytes>,
    ) -> Handled {
        let mut save = || {
            self.live_attempt(by, task)?;
            if self.view().is_verified(task) {
                return refuse("verified copies start from nothing");
            }
            self.take_bytes(task, checkpoint, bytes, Blob::Checkpoint)?;
            self.change_task(task.id, |record| record.extras_mut().checkpoint = Some(*checkpoint));
            Ok(())
        };
        let saved = save();
        let follow_up = FollowUp { reindex: [task.id.job].into(), ..FollowUp::default() };
        Ok((CommandReply::Recorded(vec![saved]), follow_up))
    }

    // ---- verified tasks ----

    fn committed(
        &mut self,
        task: TaskAttempt,
        live: &AttemptRecord,
        digest: Digest,
        events: &mut Vec<Event>,
    ) -> Recorded {
        match live.phase {
            Phase::Committed(before) if before == digest => return Ok(()),
            Phase::Assigned | Phase::Started => (),
            _ => return refuse("this attempt has committed to something else"),
        }
        let Some((spec, _)) = self.jobs.get(&task.id.job).and_then(JobRecord::batch) else { return Ok(()) };
        let copies = spec.verify.map_or(1, |verify| verify.copies as usize);
        let until = self.time.plus(REVEAL_WAIT);
        let revealing = self.change_task(task.id, |record| {
            if let Some(live) = record.live.iter_mut().find(|live| live.attempt == task.attempt) {
                (live.phase, live.until) = (Phase::Committed(digest), None);
            }
            let all = record.live.iter().all(|live| matches!(live.phase, Phase::Committed(_)));
            if record.live.len() < copies || !all {
                return Vec::new();
            }
            record.extras_mut().revealing = true;
            record.live.iter_mut().for_each(|live| live.until = Some(until));
            record.live.iter().map(|live| live.worker).collect()
        });
        events.extend(revealing.unwrap_or_default().into_iter().map(|worker| Event::RevealWanted { worker }));
        Ok(())
    }

    fn revealed(
        &mut self,
        task: TaskAttempt,
        live: &AttemptRecord,
        nonce: Nonce,
        output: Option<Output>,
        bytes: Option<&Bytes>,
        receipt: &ResultReceipt,
    ) -> Recorded {
        let bound = match live.phase {
            Phase::Committed(bound) if self.view().is_revealing(task) => bound,
            Phase::Revealed(_) => return Ok(()),
            _ => return refuse("not every copy has committed yet"),
        };
        let statement = receipt.statement;
        let fits = match statement.verdict {
            Verdict::Output(digest) => output.is_some_and(|output| output.digest == digest),
            Verdict::Failed(class) => output.is_none() && bytes.is_none() && class.is_vote(),
        };
        let mine = statement.task == task && statement.worker == live.worker;
        let inputs = self.view().inputs_digest(task.id) == Some(statement.inputs);
        if !fits || !mine || !inputs || commitment(task, live.worker, statement.verdict, nonce) != bound {
            return refuse("the verdict is not the one committed to, or is about something else");
        }
        if !receipt.is_genuine() {
            return refuse("the receipt is not signed by its worker");
        }
        if let Some(output) = &output {
            self.take_bytes(task, output, bytes, Blob::Copy(task.attempt))?;
        }
        let vote = Vote { output, receipt: *receipt };
        self.change_attempt(task, |live| (live.phase, live.until) = (Phase::Revealed(vote), None));
        self.count_votes(task);
        Ok(())
    }

    /// Settles a verified task once every copy that can has shown its verdict.
    fn count_votes(&mut self, task: TaskAttempt) {
        let Some(terms) = self.view().terms_of(task) else { return };
        let agree = terms.verify.map_or(1, |verify| verify.agree as usize);
        let policy = terms.retry.clone();
        let table = self.tasks.tables.get(&task.id.job);
        let Some(record) = table.and_then(|table| table.get(task.id.step, task.id.task)) else { return };
        let votes: Vec<Vote> = record
            .live
            .iter()
            .filter_map(|live| match live.phase {
                Phase::Revealed(vote) => Some(vote),
                _ => None,
            })
            .collect();
        if votes.len() < record.live.len() {
            return;
        }
        let agreement = tally(votes.iter().map(|vote| &vote.receipt.statement), agree);
        let winner =
            agreement.as_ref().and_then(|agreement| votes.iter().find(|vote| vote.verdict() == agreement.verdict));
        let winner = winner.and_then(|vote| Some((vote.receipt.statement.task, vote.output?)));
        match (agreement.as_ref().map(|agreement| agreement.verdict), winner) {
            (Some(Verdict::Output(_)), Some((won, output))) => {
                if let Some(table) = self.tasks.tables.get_mut(&task.id.job) {
                    table.rename_blob((task.id.step, task.id.task, Blob::Copy(won.attempt)), Blob::Output);
                }
                self.drop_copies(&votes);
                self.task_done(won, output, votes);
            }
            (Some(Verdict::Failed(class)), _) => {
                let now = self.time;
                let past = self.round_over(task, votes, |record| {
                    record.failures = record.failures.saturating_add(1);
                });
                match retry::decide(&policy, task.id, past, class, now) {
                    retry::Verdict::At(until) => {
                        self.change_task(task.id, |record| record.state = TaskState::Delayed { until });
                    }
                    retry::Verdict::Never(why) => {
                        self.move_to_dead_letters(task.id, &format!("the copies agree on {class}; {why}"))
                    }
                }
            }
            _ => {
                let heard = votes.len();
                self.round_over(task, votes, |record| {
                    let extras = record.extras_mut();
                    extras.rounds = extras.rounds.saturating_add(1);
                });
                let table = self.tasks.tables.get(&task.id.job);
                let record = table.and_then(|table| table.get(task.id.step, task.id.task));
                let rounds = record.and_then(|record| record.extras.as_ref()).map_or(0, |extras| extras.rounds);
                if rounds >= ROUNDS_MAX {
                    let reason =
                        format!("{rounds} rounds of copies ended without {agree} that agree ({heard} in the last)");
                    self.move_to_dead_letters(task.id, &reason);
                }
            }
        }
    }

    /// Ends a round of copies; the task is ready for another.
    fn round_over(&mut self, task: TaskAttempt, votes: Vec<Vote>, note: impl FnOnce(&mut TaskRecord)) -> Past {
        self.drop_copies(&votes);
        let past = self.change_task(task.id, |record| {
            record.live.clear();
            record.state = TaskState::Ready;
            record.extras_mut().revealing = false;
            record.extras_mut().votes = votes;
            note(record);
            Past { failures: record.failures, losses: record.losses, first_at: record.first_at }
        });
        past.unwrap_or(Past { failures: 0, losses: 0, first_at: Millis(0) })
    }

    fn drop_copies(&mut self, votes: &[Vote]) {
        votes.iter().for_each(|vote| self.drop_copy(vote.receipt.statement.task));
    }
}

impl<'s> PoolView<'s> {
    /// Tasks of the run's step that are done, and all of them.
    pub(in crate::quorum) fn done_of(&self, job: JobId) -> Option<(StepIndex, u32, u32)> {
        let run = self.jobs.get(&job)?.tasks()?;
        Some((run.step, run.tally.done, run.tally.total))
    }

    fn is_verified(&self, task: TaskAttempt) -> bool {
        self.terms_of(task).is_some_and(|terms| terms.verify.is_some())
    }

    fn terms_of(&self, task: TaskAttempt) -> Option<TaskTerms<'s>> {
        self.jobs.get(&task.id.job)?.terms(task.id.step)
    }

    /// Whether the attempt's worker would be one too many to remember the refusal of.
    fn is_refused_too_often(&self, task: TaskAttempt) -> bool {
        let run = self.jobs.get(&task.id.job).and_then(JobRecord::tasks);
        let live = self.tasks.tables.get(&task.id.job).and_then(|table| table.get(task.id.step, task.id.task));
        let worker = live.and_then(|record| record.attempt(task.attempt)).map(|live| live.worker);
        let known = |run: &&RunTasks| worker.is_some_and(|worker| run.avoided.contains_key(&worker));
        run.is_some_and(|run| run.avoided.len() >= AVOIDED_MAX && !known(&run))
    }

    fn is_revealing(&self, task: TaskAttempt) -> bool {
        let table = self.tasks.tables.get(&task.id.job);
        table.and_then(|table| table.get(task.id.step, task.id.task)).is_some_and(TaskRecord::is_revealing)
    }
}

impl PoolView<'_> {
    /// The attempt, if it may still report and is this worker's.
    fn live_attempt(&self, by: PeerId, task: TaskAttempt) -> Result<&AttemptRecord, ReportRefusal> {
        let table = self.tasks.tables.get(&task.id.job);
        // The step is over, or the run is forgotten; its workers were told to stop.
        let record = table.and_then(|table| table.get(task.id.step, task.id.task)).ok_or(ReportRefusal::Unknown)?;
        let newest = record.newest;
        match record.attempt(task.attempt) {
            Some(live) if live.worker == by => Ok(live),
            Some(_) => Err(ReportRefusal::NotAssigned),
            None if task.attempt > newest || task.attempt == Attempt(0) => {
                Err(ReportRefusal::Invalid { reason: format!("attempt {} was never handed out", task.attempt) })
            }
            None => Err(ReportRefusal::Stale { newest }),
        }
    }

    /// Whether the report is of an attempt that is known to have done its task.
    fn is_repeated(&self, report: &Report) -> bool {
        let id = report.task.id;
        let record = self.tasks.tables.get(&id.job).and_then(|table| table.get(id.step, id.task));
        let has_won =
            record.and_then(|record| record.won.as_ref()).is_some_and(|won| won.attempt == report.task.attempt);
        has_won && matches!(report.result, TaskResult::Done { .. } | TaskResult::Reveal { .. })
    }

    /// The reply to a peer that works for nobody here. Of one that does it is left to apply.
    pub(in crate::quorum) fn foretell_reply(&self, by: PeerId, command: &TaskCommand) -> Option<Applied> {
        if self.tasks.workers.contains_key(&by) || self.tasks.index.used.contains_key(&by) {
            return None;
        }
        let judge_report = |report: &Report| {
            if self.tasks.stopping.contains_key(&report.task) {
                return Err(ReportRefusal::NotAssigned);
            }
            match self.is_repeated(report) {
                true => Ok(()),
                false => self.live_attempt(by, report.task).map(drop),
            }
        };
        let (len, answers): (usize, Vec<Recorded>) = match command {
            TaskCommand::Start { tasks } => {
                (tasks.len(), tasks.iter().map(|task| self.live_attempt(by, *task).map(drop)).collect())
            }
            TaskCommand::Report { reports } => (reports.len(), reports.iter().map(judge_report).collect()),
            TaskCommand::SaveCheckpoint { task, .. } => (1, vec![self.live_attempt(by, *task).map(drop)]),
            TaskCommand::SetWorker { .. } | TaskCommand::LoseWorker { .. } | TaskCommand::ReleaseWorker { .. } => {
                return None;
            }
        };
        Some(check_batch(len).map(|()| CommandReply::Recorded(answers)))
    }
}

fn check_batch(len: usize) -> Result<(), Rejection> {
    if len > BATCH_MAX {
        return Err(Rejection::TooLarge { what: "batch".to_owned(), bytes: len, limit: BATCH_MAX });
    }
    Ok(())
}
