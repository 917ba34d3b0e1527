//! Every attempt that this worker has, from its assignment to the quorum's last word about it.
//!
//! Decides and does nothing: each input leaves [`Effect`]s that the actor performs in their order. An attempt is an
//! [`Entry`]; what there is to say to one quorum waits at its [`QuorumOutbox`]; what a lease has room for is in a
//! [`LeaseUsage`].
//!
//! ```text
//!   Assign -> Waiting -> Running -> Ended -> (recorded) gone
//!              |  not idempotent: begins once its row is durable and the quorum has recorded the start
//!              |  idempotent: begins at once
//!   Ended: said to the quorum at once, or once it is durable (`must_keep`)
//!          a copy's verdict is committed to, waits for Reveal, and is then shown
//! ```
//!
//! What is on disk, and when an assignment is confirmed, follows from one rule: **an attempt is *safe* when its
//! assignment or its result is durable here, or when it is gone because the quorum has recorded it.** `Accepted` is
//! answered when all attempts of an assignment are safe. Whatever is not safe after `SAVE_AFTER` is written down, in
//! one batch.

mod outboxes;
mod pending_replies;
mod room;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::capacity::Capacity;
use quorate_protocols::ids::{JobId, LeaseId, QuorumId, StepIndex, Term};
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::limits::BATCH_MAX;
use quorate_protocols::task::message::{Assignment, OwnerProof, StepContext, TaskAnswer, TaskResult};
use quorate_protocols::task::record::TaskAttempt;
use tokio::time::Instant;

use super::limits::{ATTEMPTS_MAX, HELD_BYTES_MAX, ORPHANS_MAX, OUTBOXES_MAX, SAVE_AFTER, WORTH_KEEPING};
use super::pending_result::PendingResult;
use outboxes::QuorumOutbox;
pub(super) use outboxes::Sent;
use pending_replies::PendingAssign;
use room::{LeaseUsage, too_large};

/// Names one assignment whose sender waits for its answer.
pub(super) type PendingReply = u64;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Begin(TaskAttempt),
    /// End what runs. `keep_checkpoint`: its last checkpoint is welcome.
    Cancel {
        task: TaskAttempt,
        keep_checkpoint: bool,
    },
    /// To be made durable; the ledger hears of it by [`Ledger::saved`].
    SaveAssignment(TaskAttempt),
    SaveResult(TaskAttempt),
    /// What is on disk of the attempt is not needed any more.
    Erase(TaskAttempt),
    /// The last attempt of a step is gone.
    EraseWork(JobId, StepIndex),
    /// The quorum's record is full: store this output as an object; then [`Ledger::moved`].
    MoveOut(TaskAttempt),
    Answer(PendingReply, TaskAnswer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnDisk {
    No,
    Writing,
    Yes,
}

pub(super) struct Entry {
    pub lease: LeaseId,
    pub context: Arc<StepContext>,
    pub assignment: Arc<Assignment>,
    stage: Stage,
    assignment_on: OnDisk,
    result_on: OnDisk,
    /// Assignments that wait for it to be safe.
    pending_replies: Vec<PendingReply>,
    /// The quorum wants it to end. `Some(true)`: its task goes on later.
    stop: Option<bool>,
    /// Its lease ended under it.
    evicted: bool,
    weight: usize,
}

enum Stage {
    /// `may_begin`: the start is recorded, or need not be.
    Waiting {
        may_begin: bool,
    },
    Running,
    Ended {
        held: PendingResult,
        /// In the queue of its outbox, on its way to the quorum, or being moved out.
        under_way: bool,
    },
}

struct StepUse {
    context: Arc<StepContext>,
    entries: usize,
    weight: usize,
}

/// An assignment as it came.
pub(super) struct AssignRequest {
    pub quorum: QuorumId,
    pub term: Term,
    pub lease: LeaseId,
    pub room: Capacity,
    pub steps: Vec<StepContext>,
    pub assignments: Vec<Assignment>,
}

#[derive(Default)]
pub(super) struct Ledger {
    entries: BTreeMap<TaskAttempt, Entry>,
    steps: BTreeMap<(JobId, StepIndex), StepUse>,
    outboxes: BTreeMap<QuorumId, QuorumOutbox>,
    lease_usages: BTreeMap<LeaseId, LeaseUsage>,
    pending_assigns: BTreeMap<PendingReply, PendingAssign>,
    pending_replies: PendingReply,
    /// Attempts by when they must be on disk, in that order.
    unsafe_since: VecDeque<(Instant, TaskAttempt)>,
    weight: usize,
    clock: u64,
    /// In their order; the actor takes them after each input.
    pub effects: VecDeque<Effect>,
}

impl Ledger {
    pub fn get(&self, task: TaskAttempt) -> Option<&Entry> {
        self.entries.get(&task)
    }
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    pub fn held(&self, task: TaskAttempt) -> Option<&PendingResult> {
        match &self.entries.get(&task)?.stage {
            Stage::Ended { held, .. } => Some(held),
            _ => None,
        }
    }
    /// Steps that something here is of.
    pub fn steps(&self) -> impl Iterator<Item = (JobId, StepIndex)> + '_ {
        self.steps.keys().copied()
    }
    pub fn context(&self, task: TaskAttempt) -> Option<&Arc<StepContext>> {
        Some(&self.entries.get(&task)?.context)
    }

    // ---- what a primary says ----

    /// Checks that a primary of this term may speak. Old ones are told of the newer.
    fn open_outbox(&mut self, quorum: QuorumId, term: Term, lease: LeaseId) -> Result<&mut QuorumOutbox, TaskAnswer> {
        self.clock += 1;
        let clock = self.clock;
        self.forget_idle_outboxes();
        let outbox = self.outboxes.entry(quorum).or_default();
        if term < outbox.term {
            return Err(TaskAnswer::StaleTerm { seen: outbox.term });
        }
        (outbox.term, outbox.lease, outbox.used) = (term, lease, clock);
        Ok(outbox)
    }

    fn forget_idle_outboxes(&mut self) {
        while self.outboxes.len() >= OUTBOXES_MAX {
            let idle = self.outboxes.iter().filter(|(_, outbox)| outbox.entries == 0 && outbox.orphans.is_empty());
            let Some(oldest) = idle.min_by_key(|(_, outbox)| outbox.used).map(|(quorum, _)| *quorum) else { return };
            self.outboxes.remove(&oldest);
        }
    }

    /// Takes an assignment in. The answer comes as an [`Effect::Answer`] under the pending reply's number.
    pub fn assign(
        &mut self,
        now: Instant,
        request: AssignRequest,
        refusal: impl Fn(&StepContext) -> Option<String>,
    ) -> Result<PendingReply, TaskAnswer> {
        let AssignRequest { quorum, term, lease, room, steps, assignments } = request;
        self.open_outbox(quorum, term, lease)?;
        let steps: BTreeMap<_, _> = steps.into_iter().map(|context| ((context.job, context.step), context)).collect();
        for assignment in &assignments {
            let id = assignment.task.id;
            if id.job.quorum != quorum || !steps.contains_key(&(id.job, id.step)) {
                let reason = "an assignment is of another quorum, or without what its step runs".to_owned();
                return Err(TaskAnswer::Malformed { reason });
            }
        }
        let added: usize = assignments.iter().map(assignment_weight).chain(steps.values().map(step_weight)).sum();
        if self.entries.len() + assignments.len() > ATTEMPTS_MAX || self.weight + added > HELD_BYTES_MAX {
            return Err(TaskAnswer::Busy);
        }
        self.usage(lease, room);
        self.pending_replies += 1;
        let pending_reply = self.pending_replies;
        let mut pending_assign =
            PendingAssign { left: 0, accepted: Vec::with_capacity(assignments.len()), refused: Vec::new() };
        let steps: BTreeMap<_, Arc<StepContext>> =
            steps.into_iter().map(|(key, context)| (key, self.share(context))).collect();
        for assignment in assignments {
            let task = assignment.task;
            let context = &steps[&(task.id.job, task.id.step)];
            if let Some(entry) = self.entries.get_mut(&task) {
                // Said twice: the primary does not know that it was heard, or that it came to something.
                if !entry.is_safe() {
                    entry.pending_replies.push(pending_reply);
                    pending_assign.left += 1;
                    if !entry.is_safe_soon() {
                        self.unsafe_since.push_back((now + SAVE_AFTER, task));
                    }
                }
                pending_assign.accepted.push(task);
                continue;
            }
            if let Some(why) = refusal(context).or_else(|| too_large(context, &room)) {
                pending_assign.refused.push((task, why));
                continue;
            }
            pending_assign.left += 1;
            pending_assign.accepted.push(task);
            self.insert(now, assignment, lease, context.clone(), pending_reply);
        }
        self.drop_unused_steps(steps.into_keys());
        self.pending_assigns.insert(pending_reply, pending_assign);
        self.answer_if_safe(pending_reply);
        Ok(pending_reply)
    }

    fn insert(
        &mut self,
        now: Instant,
        assignment: Assignment,
        lease: LeaseId,
        context: Arc<StepContext>,
        pending_reply: PendingReply,
    ) {
        let (task, weight) = (assignment.task, assignment_weight(&assignment));
        let idempotent = context.idempotent;
        let entry = Entry {
            lease,
            context,
            assignment: Arc::new(assignment),
            stage: Stage::Waiting { may_begin: idempotent },
            assignment_on: OnDisk::No,
            result_on: OnDisk::No,
            pending_replies: vec![pending_reply],
            stop: None,
            evicted: false,
            weight,
        };
        self.count_in(task, entry);
        if idempotent {
            self.unsafe_since.push_back((now + SAVE_AFTER, task));
            self.wait_for_room(task);
        } else {
            // Both at once; it begins when both are done.
            self.save_assignment(task);
            self.outbox_of(task).starts.push_back(task);
        }
    }

    /// Adds an attempt as the disk had it. One that must not begin twice and may have begun is lost.
    pub fn restore(
        &mut self,
        assignment: Assignment,
        lease: LeaseId,
        room: Option<Capacity>,
        context: StepContext,
        held: Option<PendingResult>,
    ) {
        let (task, weight) = (assignment.task, assignment_weight(&assignment));
        let (assignment_on, result_on) = match held {
            Some(_) => (OnDisk::No, OnDisk::Yes),
            None => (OnDisk::Yes, OnDisk::No),
        };
        let held = held.or_else(|| match room {
            _ if !context.idempotent => {
                Some(PendingResult::failed(ErrorClass::Lost, "the worker was restarted when it may have begun"))
            }
            None => Some(PendingResult::failed(ErrorClass::Lost, "the worker was restarted, and its lease had ended")),
            Some(_) => None,
        });
        if let Some(room) = room {
            self.usage(lease, room);
        }
        let context = self.share(context);
        let stage = match held {
            Some(held) => Stage::Ended { held, under_way: false },
            None => Stage::Waiting { may_begin: true },
        };
        let ended = matches!(stage, Stage::Ended { .. });
        let assignment = Arc::new(assignment);
        let pending_replies = Vec::new();
        let entry = Entry {
            lease,
            context,
            assignment,
            stage,
            assignment_on,
            result_on,
            pending_replies,
            stop: None,
            evicted: false,
            weight,
        };
        self.count_in(task, entry);
        self.outbox_of(task).lease = lease;
        match ended {
            true => self.queue_report(task),
            false => self.wait_for_room(task),
        }
    }

    /// Ends attempts, known or not; each is confirmed by a report.
    pub fn stop(
        &mut self,
        quorum: QuorumId,
        term: Term,
        lease: LeaseId,
        tasks: Vec<TaskAttempt>,
        keep_checkpoint: bool,
    ) -> TaskAnswer {
        let outbox = match self.open_outbox(quorum, term, lease) {
            Ok(outbox) => outbox,
            Err(answer) => return answer,
        };
        if tasks.len() > BATCH_MAX || outbox.orphans.len() + tasks.len() > ORPHANS_MAX {
            return TaskAnswer::Busy;
        }
        for task in tasks {
            if task.id.job.quorum != quorum {
                continue;
            }
            let Some(entry) = self.entries.get_mut(&task) else {
                self.outbox(quorum).orphans.insert(task);
                continue;
            };
            match &mut entry.stage {
                Stage::Waiting { .. } => self.end(task, PendingResult::Plain(TaskResult::Stopped)),
                Stage::Running => {
                    entry.stop = Some(keep_checkpoint);
                    self.effects.push_back(Effect::Cancel { task, keep_checkpoint });
                }
                // A verdict that nobody will ask for.
                Stage::Ended { held: held @ PendingResult::Sealed(_), .. } => {
                    *held = PendingResult::Plain(TaskResult::Stopped);
                    self.queue_report(task);
                }
                // Whatever it came to will be told.
                Stage::Ended { .. } => self.queue_report(task),
            }
        }
        TaskAnswer::Acknowledged
    }

    /// Shows verdicts. One that is not here has been shown and recorded, or is gone with a disk; either way the
    /// quorum's own timer is the better judge: to say now that it is lost could undo what was recorded a moment ago.
    pub fn reveal(&mut self, quorum: QuorumId, term: Term, lease: LeaseId, tasks: Vec<TaskAttempt>) -> TaskAnswer {
        if let Err(answer) = self.open_outbox(quorum, term, lease) {
            return answer;
        }
        for task in tasks.into_iter().filter(|task| task.id.job.quorum == quorum) {
            if let Some(Stage::Ended { held: PendingResult::Sealed(sealed), .. }) =
                self.entries.get_mut(&task).map(|entry| &mut entry.stage)
            {
                sealed.shown = true;
                self.queue_report(task);
            }
        }
        TaskAnswer::Acknowledged
    }

    /// The lease is no more: what runs under it must end.
    pub fn lease_ended(&mut self, lease: LeaseId) {
        if self.lease_usages.remove(&lease).is_none() {
            return;
        }
        let under: Vec<_> =
            self.entries.iter().filter(|(_, entry)| entry.lease == lease).map(|(task, _)| *task).collect();
        for task in under {
            let Some(entry) = self.entries.get_mut(&task) else { continue };
            match entry.stage {
                Stage::Waiting { .. } => self.end(task, PendingResult::failed(ErrorClass::Lost, LEASE_ENDED)),
                Stage::Running => {
                    entry.evicted = true;
                    self.effects.push_back(Effect::Cancel { task, keep_checkpoint: false });
                }
                Stage::Ended { .. } => (),
            }
        }
    }

    // ---- what happens here ----

    /// An attempt that was begun came to something, after `took`. `None`: it was cancelled.
    pub fn finished(&mut self, task: TaskAttempt, held: Option<PendingResult>, took: Duration) {
        let Some(entry) = self.entries.get_mut(&task) else { return };
        if !matches!(entry.stage, Stage::Running) {
            return;
        }
        let (lease, context) = (entry.lease, entry.context.clone());
        let held = match held {
            Some(held) if !entry.evicted => held,
            None if entry.stop.is_some() => PendingResult::Plain(TaskResult::Stopped),
            Some(_) | None => PendingResult::failed(ErrorClass::Lost, LEASE_ENDED),
        };
        let must_keep = must_keep(&context, &held, took);
        entry.stage = Stage::Ended { held, under_way: false };
        self.reweigh(task);
        if let Some(usage) = self.lease_usages.get_mut(&lease) {
            usage.taken = usage.taken.minus(&context.resources.capacity);
            self.begin_waiting(lease);
        }
        match must_keep {
            true => self.save_result(task),
            false => self.queue_report(task),
        }
    }

    /// Rows that were to be made durable are, or will not be.
    pub fn saved(&mut self, assignments: &[TaskAttempt], results: &[TaskAttempt], error: Option<&str>) {
        let state = if error.is_none() { OnDisk::Yes } else { OnDisk::No };
        for task in assignments {
            let Some(entry) = self.entries.get_mut(task) else { continue };
            entry.assignment_on = state;
            let waits = matches!(entry.stage, Stage::Waiting { .. });
            match error {
                Some(error) if waits && !entry.context.idempotent => {
                    self.end(
                        *task,
                        PendingResult::failed(ErrorClass::Host, format!("its assignment could not be kept: {error}")),
                    );
                }
                Some(_) => self.refuse_replies(*task),
                None => self.wait_for_room(*task),
            }
            self.settle_replies(*task);
        }
        for task in results {
            let Some(entry) = self.entries.get_mut(task) else { continue };
            entry.result_on = state;
            if error.is_none() {
                entry.assignment_on = OnDisk::No;
            }
            // Not durable, it is reported all the same: if this node dies first, the attempt counts as lost.
            self.queue_report(*task);
            self.settle_replies(*task);
        }
    }

    /// Writes down what has been on no disk for too long. Says when to come again.
    pub fn save_due(&mut self, now: Instant) -> Option<Instant> {
        while let Some((due, task)) = self.unsafe_since.front().copied() {
            let done = self.entries.get(&task).is_none_or(Entry::is_safe_soon);
            if !done && due > now {
                return Some(due);
            }
            self.unsafe_since.pop_front();
            if !done {
                self.save(task);
            }
        }
        None
    }

    /// Everything that is on no disk yet, because the node closes.
    pub fn save_all(&mut self) {
        let all: Vec<_> =
            self.entries.iter().filter(|(_, entry)| !entry.is_safe_soon()).map(|(task, _)| *task).collect();
        all.into_iter().for_each(|task| self.save(task));
    }

    fn save(&mut self, task: TaskAttempt) {
        match self.entries.get(&task).map(|entry| &entry.stage) {
            Some(Stage::Ended { .. }) => self.save_result(task),
            Some(_) => self.save_assignment(task),
            None => (),
        }
    }

    // ---- the small moves ----

    /// One copy of what all tasks of a step have in common, not counted as used yet.
    fn share(&mut self, context: StepContext) -> Arc<StepContext> {
        let key = (context.job, context.step);
        if let Some(known) = self.steps.get(&key)
            && *known.context == context
        {
            return known.context.clone();
        }
        let weight = step_weight(&context);
        let context = Arc::new(context);
        let entries = self.steps.get(&key).map_or(0, |known| known.entries);
        self.weight += weight;
        if let Some(before) = self.steps.insert(key, StepUse { context: context.clone(), entries, weight }) {
            self.weight -= before.weight;
        }
        context
    }

    fn drop_unused_steps(&mut self, keys: impl Iterator<Item = (JobId, StepIndex)>) {
        for key in keys {
            if self.steps.get(&key).is_some_and(|known| known.entries == 0)
                && let Some(unused) = self.steps.remove(&key)
            {
                self.weight -= unused.weight;
            }
        }
    }

    fn count_in(&mut self, task: TaskAttempt, entry: Entry) {
        self.weight += entry.weight;
        if let Some(known) = self.steps.get_mut(&(task.id.job, task.id.step)) {
            known.entries += 1;
        }
        self.outbox_of(task).entries += 1;
        self.entries.insert(task, entry);
    }

    fn reweigh(&mut self, task: TaskAttempt) {
        let Some(entry) = self.entries.get_mut(&task) else { return };
        let Stage::Ended { held, .. } = &entry.stage else { return };
        let weight = assignment_weight(&entry.assignment) + held.weight();
        self.weight = self.weight + weight - entry.weight;
        entry.weight = weight;
    }

    /// Everything about the attempt has been said.
    fn forget(&mut self, task: TaskAttempt) {
        let Some(entry) = self.entries.remove(&task) else { return };
        self.weight -= entry.weight;
        if entry.assignment_on != OnDisk::No || entry.result_on != OnDisk::No {
            self.effects.push_back(Effect::Erase(task));
        }
        for pending_reply in entry.pending_replies {
            self.one_safe(pending_reply);
        }
        self.outbox_of(task).entries -= 1;
        let key = (task.id.job, task.id.step);
        if let Some(known) = self.steps.get_mut(&key) {
            known.entries -= 1;
            if known.entries == 0 {
                self.weight -= known.weight;
                self.steps.remove(&key);
                self.effects.push_back(Effect::EraseWork(key.0, key.1));
            }
        }
    }

    /// Ends an attempt that did not begin.
    fn end(&mut self, task: TaskAttempt, held: PendingResult) {
        let Some(entry) = self.entries.get_mut(&task) else { return };
        entry.stage = Stage::Ended { held, under_way: false };
        self.queue_report(task);
    }

    fn queue_report(&mut self, task: TaskAttempt) {
        let Some(entry) = self.entries.get_mut(&task) else { return };
        let Stage::Ended { held, under_way } = &mut entry.stage else { return };
        // What is being written down is told when that is done.
        if *under_way || entry.result_on == OnDisk::Writing || held.next().is_none() {
            return;
        }
        *under_way = true;
        self.outbox_of(task).reports.push_back(task);
    }

    fn save_assignment(&mut self, task: TaskAttempt) {
        if let Some(entry) = self.entries.get_mut(&task)
            && entry.assignment_on == OnDisk::No
        {
            entry.assignment_on = OnDisk::Writing;
            self.effects.push_back(Effect::SaveAssignment(task));
        }
    }

    fn save_result(&mut self, task: TaskAttempt) {
        if let Some(entry) = self.entries.get_mut(&task) {
            entry.result_on = OnDisk::Writing;
            self.effects.push_back(Effect::SaveResult(task));
        }
    }
}

const LEASE_ENDED: &str = "the worker's lease ended";

impl Entry {
    pub(super) fn is_safe(&self) -> bool {
        self.assignment_on == OnDisk::Yes || self.result_on == OnDisk::Yes
    }
    fn is_safe_soon(&self) -> bool {
        self.assignment_on != OnDisk::No || self.result_on != OnDisk::No
    }
}

/// Whether a result must be durable before it is reported. An idempotent attempt that took less than a few syncs is
/// cheaper to run again, and its assignment is still safe, or still the primary's to send. A copy's verdict is kept
/// because its nonce is drawn once: another would not fit what was committed to.
fn must_keep(context: &StepContext, held: &PendingResult, took: Duration) -> bool {
    let result = match held {
        PendingResult::Plain(TaskResult::Failed { .. } | TaskResult::Stopped) => !context.idempotent,
        held => !context.idempotent || context.verified || held.is_object(),
    };
    result || took >= WORTH_KEEPING
}

fn assignment_weight(assignment: &Assignment) -> usize {
    use quorate_protocols::task::spec::Content;
    use quorate_protocols::task::spec::TaskInput;
    const FRAME: usize = 512;
    let given: usize = assignment
        .outputs
        .iter()
        .chain(&assignment.checkpoint)
        .filter_map(|given| given.bytes.as_ref())
        .map(|bytes| bytes.len())
        .sum();
    let item = if let TaskInput::Item(Content::Inline(bytes)) = &assignment.input { bytes.len() } else { 0 };
    FRAME + given + assignment.outputs.len() * 128 + item
}

fn step_weight(context: &StepContext) -> usize {
    use quorate_protocols::task::spec::{Content, Program};
    const FRAME: usize = 1024;
    let content = |content: &Content| if let Content::Inline(bytes) = content { bytes.len() } else { 0 };
    let call = &context.call;
    let module = if let Program::Wasm { module, .. } = &call.program { content(module) } else { 0 };
    let texts = call.args.iter().chain(call.env.keys()).chain(call.env.values()).map(String::len).sum::<usize>();
    let fired = |proof: &OwnerProof| proof.fire.as_ref().map_or(0, |fire| fire.input.len());
    let proof = context.proof.as_ref().map_or(0, |proof| proof.work.len() + fired(proof));
    FRAME + module + texts + call.inputs.values().map(content).sum::<usize>() + proof
}
