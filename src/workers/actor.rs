//! The worker's actor: takes what primaries say and what attempts come to, lets the ledger decide, and does it.
//!
//! One write to disk is under way at a time; what else is to be written gathers meanwhile and shares the next. To each
//! quorum one batch of reports and one of starts are on their way at a time; the next gather meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::ids::{JobId, LeaseId, PeerId, QuorumId, StepIndex};
use quorate_protocols::task::limits::{BATCH_MAX, DEADLINE};
use quorate_protocols::task::message::{Progress, ReportRefusal, StepContext, TaskAnswer, TaskMessage};
use quorate_protocols::task::record::{Output, TaskAttempt};
use quorate_protocols::task::spec::OutputPlace;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::host::AttemptHost;
use super::inputs::Inputs;
use super::ledger::{AssignRequest, Effect, Ledger, PendingReply, Sent};
use super::limits::{CLOSE_PATIENCE, ENDED_QUEUE, HEARTBEAT_INTERVAL};
use super::logs::{Audience, Logs};
use super::metrics::WorkerMetrics;
use super::outputs::{self, Stores};
use super::pending_result::PendingResult;
use super::ports::WorkerLeases;
use super::runner::Runner;
use super::{WorkerParts, rows};
use crate::approver::EndedLease;
use crate::quorums::QuorumPort;
use crate::seams::{DiskError, Entropy, KvBatch, TaskGroup};
use crate::storage::Storage;

/// Something that a primary says, with the way back.
pub(super) struct Request {
    pub from: PeerId,
    pub message: TaskMessage,
    pub reply: oneshot::Sender<TaskAnswer>,
}

type Answers = Option<Vec<Result<(), ReportRefusal>>>;

/// What was started here and has come to something.
enum Ended {
    Attempt { task: TaskAttempt, held: Option<PendingResult>, took: Duration },
    Started { quorum: QuorumId, tasks: Vec<TaskAttempt>, answers: Answers },
    Reported { quorum: QuorumId, sent: Sent, answers: Answers },
    Moved { task: TaskAttempt, moved: Result<Output, String> },
    Heartbeat { quorum: QuorumId },
}

/// What is being written, and whom to tell.
#[derive(Default)]
struct Rows {
    batch: KvBatch,
    assignments: Vec<TaskAttempt>,
    results: Vec<TaskAttempt>,
}

struct Writing {
    assignments: Vec<TaskAttempt>,
    results: Vec<TaskAttempt>,
    done: oneshot::Receiver<Result<(), DiskError>>,
}

struct Running {
    stop: CancellationToken,
    host: Arc<AttemptHost>,
}

pub(super) struct Actor {
    tasks: TaskGroup,
    entropy: Arc<dyn Entropy>,
    storage: Storage,
    quorum_port: Arc<dyn QuorumPort>,
    leases: Arc<dyn WorkerLeases>,
    stores: Stores,
    runner: Arc<Runner>,
    logs: Logs,
    metrics: WorkerMetrics,
    requests: mpsc::Receiver<Request>,
    ended: mpsc::Receiver<Ended>,
    end: mpsc::Sender<Ended>,
    lease_ends: broadcast::Receiver<EndedLease>,
    ledger: Ledger,
    replies: BTreeMap<PendingReply, oneshot::Sender<TaskAnswer>>,
    running: BTreeMap<TaskAttempt, Running>,
    /// Steps whose work has a row.
    steps_on_disk: BTreeSet<(JobId, StepIndex)>,
    rows: Rows,
    writing: Option<Writing>,
    heartbeat_at: Instant,
    /// Quorums to which a heartbeat is on its way. Each is heard of within the protocol's deadline.
    heartbeats_under_way: BTreeSet<QuorumId>,
    /// Leases that things here are under, to be looked at when news of leases was missed.
    leases_used: BTreeSet<LeaseId>,
    /// The node closes: nothing begins any more, and what was cancelled is not the quorum's to hear.
    closing: bool,
}

enum Event {
    Shutdown,
    Ended(Ended),
    Written(Result<(), DiskError>),
    LeaseEnded(LeaseId),
    LeasesMissed,
    Timer,
    Heartbeat,
    Request(Request),
}

impl Actor {
    pub(super) fn load(
        parts: WorkerParts,
        logs: Logs,
        metrics: WorkerMetrics,
        requests: mpsc::Receiver<Request>,
    ) -> Result<Self, DiskError> {
        let WorkerParts { seams, identity, storage, quorum_port, leases, objects, executors, folder, faults, .. } =
            parts;
        let (end, ended) = mpsc::channel(ENDED_QUEUE);
        let folder = folder.map(|folder| folder.join("inputs"));
        let inputs = Inputs::new(seams.tasks.clone(), quorum_port.clone(), objects.clone(), folder);
        let entropy = seams.entropy.clone();
        let runner = Runner { executors, inputs, stores: objects.clone(), identity, entropy: entropy.clone(), faults };
        let mut actor = Self {
            tasks: seams.tasks.clone(),
            entropy,
            lease_ends: leases.ended(),
            storage,
            quorum_port,
            leases,
            stores: objects,
            runner: Arc::new(runner),
            logs,
            metrics,
            requests,
            ended,
            end,
            ledger: Ledger::default(),
            replies: BTreeMap::new(),
            running: BTreeMap::new(),
            steps_on_disk: BTreeSet::new(),
            rows: Rows::default(),
            writing: None,
            heartbeat_at: Instant::now() + HEARTBEAT_INTERVAL,
            heartbeats_under_way: BTreeSet::new(),
            leases_used: BTreeSet::new(),
            closing: false,
        };
        actor.restore()?;
        Ok(actor)
    }

    fn restore(&mut self) -> Result<(), DiskError> {
        let loaded = rows::load(self.storage.kv())?;
        self.steps_on_disk = loaded.steps.keys().copied().collect();
        for found in loaded.found {
            let task = found.assignment.task;
            let Some(context) = loaded.steps.get(&(task.id.job, task.id.step)) else {
                tracing::warn!(job = %task.id.job, "an assignment was kept without its program, and is forgotten; its quorum assigns the task again");
                rows::erase(&mut self.rows.batch, task);
                continue;
            };
            self.leases_used.insert(found.lease);
            let room = self.leases.room(found.lease);
            self.ledger.restore(found.assignment, found.lease, room, context.clone(), found.held);
        }
        let used: BTreeSet<_> = self.ledger.steps().collect();
        for (job, step) in loaded.steps.into_keys().filter(|key| !used.contains(key)) {
            self.steps_on_disk.remove(&(job, step));
            rows::erase_work(&mut self.rows.batch, job, step);
        }
        if self.ledger.len() > 0 {
            tracing::info!(attempts = self.ledger.len(), "going on with what an earlier run of this worker had");
        }
        Ok(())
    }

    pub(super) async fn run(mut self) {
        let shutdown = self.tasks.shutdown_token();
        self.perform();
        loop {
            match self.next_event(&shutdown).await {
                Event::Shutdown => return self.close().await,
                event => self.apply(event),
            }
            self.perform();
        }
    }

    /// The only place this actor waits for work. What was begun comes before what is new, so that room is made first.
    async fn next_event(&mut self, shutdown: &CancellationToken) -> Event {
        let now = Instant::now();
        let save = self.ledger.save_due(now);
        let (_, pause) = self.ledger.busy_outboxes(now);
        // Writing down what was due is an effect; it is performed before anything is waited for.
        if !self.ledger.effects.is_empty() {
            return Event::Timer;
        }
        let timer = [save, pause].into_iter().flatten().min();
        let timer = async {
            match timer {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let written = async {
            match &mut self.writing {
                // The storage answers every write, or is gone with the node.
                Some(writing) => (&mut writing.done).await.unwrap_or_else(|_| Err(stopped())),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Event::Shutdown,
            Some(ended) = self.ended.recv() => Event::Ended(ended),
            written = written => Event::Written(written),
            lease = self.lease_ends.recv() => match lease {
                Ok(ended) => Event::LeaseEnded(ended.lease),
                Err(broadcast::error::RecvError::Lagged(_)) => Event::LeasesMissed,
                // The approver closes with the node.
                Err(broadcast::error::RecvError::Closed) => {
                    shutdown.cancelled().await;
                    Event::Shutdown
                }
            },
            () = timer => Event::Timer,
            () = tokio::time::sleep_until(self.heartbeat_at) => Event::Heartbeat,
            Some(request) = self.requests.recv() => Event::Request(request),
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Shutdown | Event::Timer => (),
            Event::Ended(ended) => self.take_end(ended),
            Event::Written(result) => self.take_written(result),
            Event::LeaseEnded(lease) => self.lease_ended(lease),
            Event::LeasesMissed => {
                let gone: Vec<_> =
                    self.leases_used.iter().filter(|lease| self.leases.room(**lease).is_none()).copied().collect();
                gone.into_iter().for_each(|lease| self.lease_ended(lease));
            }
            Event::Heartbeat => self.send_heartbeats(),
            Event::Request(request) => self.take_request(request),
        }
    }

    fn lease_ended(&mut self, lease: LeaseId) {
        if self.leases_used.remove(&lease) {
            self.ledger.lease_ended(lease);
        }
    }

    fn take_request(&mut self, request: Request) {
        let Request { from, message, reply } = request;
        let (quorum, lease) = match &message {
            TaskMessage::Assign { quorum, lease, .. }
            | TaskMessage::Stop { quorum, lease, .. }
            | TaskMessage::Reveal { quorum, lease, .. } => (*quorum, *lease),
            _ => return,
        };
        let Some(room) = self.leases.room_for(lease, quorum) else {
            let _ = reply.send(TaskAnswer::UnknownLease);
            return;
        };
        let answer = match message {
            TaskMessage::Assign { quorum, term, lease, steps, assignments } => {
                let accepted = assignments.len() as u64;
                let request = AssignRequest { quorum, term, lease, room, steps, assignments };
                let executors = &self.runner.executors;
                let refusal = |context: &StepContext| {
                    let engine = context.call.program.engine();
                    (!executors.contains_key(&engine)).then(|| format!("this worker has no engine for {engine}"))
                };
                match self.ledger.assign(Instant::now(), request, refusal) {
                    Ok(pending_reply) => {
                        self.quorum_port.remember_primary(quorum, from);
                        self.leases_used.insert(lease);
                        self.metrics.accepted.inc_by(accepted);
                        self.replies.insert(pending_reply, reply);
                        return;
                    }
                    Err(answer) => answer,
                }
            }
            TaskMessage::Stop { quorum, term, lease, tasks, keep_checkpoint } => {
                self.ledger.stop(quorum, term, lease, tasks, keep_checkpoint)
            }
            TaskMessage::Reveal { quorum, term, lease, tasks } => self.ledger.reveal(quorum, term, lease, tasks),
            _ => return,
        };
        if answer == TaskAnswer::Acknowledged {
            self.quorum_port.remember_primary(quorum, from);
        }
        // An asker that gave up needs no answer.
        let _ = reply.send(answer);
    }

    fn take_end(&mut self, ended: Ended) {
        let (now, jitter) = (Instant::now(), self.entropy.u64());
        match ended {
            Ended::Attempt { task, held, took } => {
                self.running.remove(&task);
                self.metrics.ended.inc();
                // Cancelled with the node: it goes on after the restart.
                if !(self.closing && held.is_none()) {
                    self.ledger.finished(task, held, took);
                }
            }
            Ended::Started { quorum, tasks, answers } => {
                self.ledger.started(now, quorum, &tasks, answers, jitter);
            }
            Ended::Reported { quorum, sent, answers } => {
                let told = self.ledger.reported(now, quorum, sent, answers, jitter);
                self.metrics.recorded.inc_by(told.recorded);
                self.metrics.stale.inc_by(told.stale);
                for (task, why) in told.refused {
                    let (job, attempt) = (task.id.job, task.attempt);
                    tracing::debug!(%job, step = %task.id.step, task = %task.id.task, %attempt, %why, "a report was refused");
                }
            }
            Ended::Moved { task, moved } => self.ledger.moved(task, moved),
            Ended::Heartbeat { quorum } => drop(self.heartbeats_under_way.remove(&quorum)),
        }
    }

    fn take_written(&mut self, result: Result<(), DiskError>) {
        let Some(Writing { assignments, results, .. }) = self.writing.take() else { return };
        let error = result.err().map(|error| error.to_string());
        if let Some(error) = &error {
            let rows = assignments.len() + results.len();
            tracing::warn!(%error, rows, "assignments and results could not be written to disk; they are refused or tried again");
        }
        self.ledger.saved(&assignments, &results, error.as_deref());
    }

    // ---- doing what was decided ----

    fn perform(&mut self) {
        while let Some(effect) = self.ledger.effects.pop_front() {
            self.perform_one(effect);
        }
        self.write();
        self.send();
        self.metrics.held.set(self.ledger.len() as i64);
        self.metrics.running.set(self.running.len() as i64);
    }

    fn perform_one(&mut self, effect: Effect) {
        match effect {
            Effect::Begin(task) => self.begin(task),
            Effect::Cancel { task, keep_checkpoint } => {
                if let Some(running) = self.running.get(&task) {
                    if !keep_checkpoint {
                        running.host.discard();
                    }
                    running.stop.cancel();
                }
            }
            Effect::SaveAssignment(task) => {
                let Some(entry) = self.ledger.get(task) else { return };
                if self.steps_on_disk.insert((task.id.job, task.id.step)) {
                    rows::put_step(&mut self.rows.batch, &entry.context);
                }
                rows::put_assignment(&mut self.rows.batch, entry.lease, &entry.assignment);
                self.rows.assignments.push(task);
                self.metrics.orders_saved.inc();
            }
            Effect::SaveResult(task) => {
                let (Some(entry), Some(held)) = (self.ledger.get(task), self.ledger.held(task)) else { return };
                if self.steps_on_disk.insert((task.id.job, task.id.step)) {
                    rows::put_step(&mut self.rows.batch, &entry.context);
                }
                rows::put_result(&mut self.rows.batch, entry.lease, &entry.assignment, held);
                self.rows.results.push(task);
                self.metrics.results_saved.inc();
            }
            Effect::Erase(task) => rows::erase(&mut self.rows.batch, task),
            Effect::EraseWork(job, step) => {
                if self.steps_on_disk.remove(&(job, step)) {
                    rows::erase_work(&mut self.rows.batch, job, step);
                }
            }
            Effect::MoveOut(task) => self.move_out(task),
            Effect::Answer(pending_reply, answer) => {
                if let Some(reply) = self.replies.remove(&pending_reply) {
                    // An asker that gave up asks again.
                    let _ = reply.send(answer);
                }
            }
        }
    }

    fn begin(&mut self, task: TaskAttempt) {
        let Some(entry) = self.ledger.get(task).filter(|_| !self.closing) else { return };
        let (context, assignment) = (entry.context.clone(), entry.assignment.clone());
        let audience = Audience { owner: context.owner, readers: context.readers.clone() };
        let log = self.logs.begin(task, audience);
        let (quorum_port, stores) = (self.quorum_port.clone(), self.stores.clone());
        let host = AttemptHost::new(task, self.tasks.clone(), quorum_port, stores, log, context.verified);
        let running = Running { stop: CancellationToken::new(), host: Arc::new(host) };
        let (stop, host) = (running.stop.clone(), running.host.clone());
        let (runner, logs, end) = (self.runner.clone(), self.logs.clone(), self.end.clone());
        self.running.insert(task, running);
        self.metrics.begun.inc();
        self.tasks.spawn(async move {
            let began = Instant::now();
            let held = runner.run(&context, &assignment, host, stop).await;
            let took = began.elapsed();
            logs.end(task).await;
            // Nobody listens any more once the actor has closed.
            let _ = end.send(Ended::Attempt { task, held, took }).await;
        });
    }

    fn move_out(&mut self, task: TaskAttempt) {
        let Some(held) = self.ledger.held(task) else { return };
        let bytes = held.clone().inline().and_then(|(_, bytes)| bytes.clone());
        let allowed = self.ledger.context(task).is_some_and(|context| context.output == OutputPlace::Object);
        let (stores, end) = (self.stores.clone(), self.end.clone());
        self.tasks.spawn(async move {
            let moved = match bytes {
                Some(bytes) if allowed => outputs::store(&stores, task, "output", bytes).await,
                _ => Err("the quorum's record is full, and the job wants its outputs there".to_owned()),
            };
            let _ = end.send(Ended::Moved { task, moved }).await;
        });
    }

    /// Writes what has gathered, unless a write is under way.
    fn write(&mut self) {
        if self.writing.is_some() || self.rows.batch.is_empty() {
            return;
        }
        let Rows { batch, assignments, results } = std::mem::take(&mut self.rows);
        if assignments.is_empty() && results.is_empty() {
            // Rows that come back after a crash are found out: what they are about has been recorded. So what is only
            // removed waits for nobody's sync.
            if let Err(error) = self.storage.kv().apply(batch) {
                tracing::debug!(%error, "rows of recorded attempts were not removed; they are after a restart");
            }
            return;
        }
        let (send, done) = oneshot::channel();
        let writing = Writing { assignments, results, done };
        match self.storage.write_then(batch, move |result| drop(send.send(result))) {
            Ok(()) => self.writing = Some(writing),
            Err(error) => {
                let (send, done) = oneshot::channel();
                drop(send.send(Err(error)));
                self.writing = Some(Writing { done, ..writing });
            }
        }
    }

    /// Sends to each quorum what is due.
    fn send(&mut self) {
        if self.closing {
            return;
        }
        let now = Instant::now();
        let (due, _) = self.ledger.busy_outboxes(now);
        for quorum in due {
            let tasks = self.ledger.next_starts(now, quorum);
            if !tasks.is_empty() {
                let message = TaskMessage::Start { quorum, tasks: tasks.clone() };
                self.send_to_primary(quorum, message, move |answers| Ended::Started { quorum, tasks, answers });
            }
            let (sent, reports) = self.ledger.next_reports(now, quorum);
            if !reports.is_empty() {
                let message = TaskMessage::Report { quorum, reports };
                self.send_to_primary(quorum, message, move |answers| Ended::Reported { quorum, sent, answers });
            }
        }
    }

    fn send_to_primary(
        &self,
        quorum: QuorumId,
        message: TaskMessage,
        ended: impl FnOnce(Answers) -> Ended + Send + 'static,
    ) {
        let (told, end) = (self.quorum_port.report_task(quorum, message, DEADLINE), self.end.clone());
        self.tasks.spawn(async move {
            let answers = match told.await {
                Ok(TaskAnswer::Recorded(answers)) => Some(answers),
                Ok(answer) => {
                    tracing::debug!(%quorum, ?answer, "the quorum recorded nothing; it is told again");
                    None
                }
                Err(error) => {
                    tracing::debug!(%quorum, %error, "the quorum is told again");
                    None
                }
            };
            let _ = end.send(ended(answers)).await;
        });
    }

    /// Tells each quorum what runs here for it. A heartbeat that has not arrived yet is not overtaken: it is tried
    /// until it is heard, or until the protocol's deadline.
    fn send_heartbeats(&mut self) {
        self.heartbeat_at = Instant::now() + HEARTBEAT_INTERVAL;
        for (quorum, (lease, tasks)) in self.ledger.heartbeats() {
            if !self.heartbeats_under_way.insert(quorum) {
                continue;
            }
            let now = |task: &TaskAttempt| match self.running.get(task) {
                Some(running) => running.host.progress_now(),
                None => Progress { task: *task, permille: 0, note: String::new() },
            };
            let mut pages: VecDeque<_> = tasks.chunks(BATCH_MAX).collect();
            let first = pages.pop_front().unwrap_or_default();
            let told = std::iter::once(first).chain(pages).map(|page| {
                let message = TaskMessage::Heartbeat { quorum, lease, running: page.iter().map(now).collect() };
                self.quorum_port.report_task(quorum, message, DEADLINE)
            });
            let (told, end) = (futures::future::join_all(told), self.end.clone());
            self.tasks.spawn(async move {
                for error in told.await.into_iter().filter_map(Result::err) {
                    tracing::debug!(%quorum, %error, "a heartbeat was not heard");
                }
                let _ = end.send(Ended::Heartbeat { quorum }).await;
            });
        }
    }

    /// Stops what runs and writes down what is on no disk.
    async fn close(mut self) {
        self.closing = true;
        self.requests.close();
        self.running.values().for_each(|running| running.stop.cancel());
        let patience = tokio::time::sleep(CLOSE_PATIENCE);
        tokio::pin!(patience);
        while !self.running.is_empty() {
            tokio::select! {
                biased;
                () = &mut patience => break,
                Some(ended) = self.ended.recv() => self.take_end(ended),
            }
        }
        self.ledger.save_all();
        self.perform();
        while let Some(writing) = &mut self.writing {
            let result = (&mut writing.done).await.unwrap_or_else(|_| Err(stopped()));
            self.take_written(result);
            self.perform();
        }
    }
}

fn stopped() -> DiskError {
    DiskError::Io { what: "sync", place: "store".into(), reason: "the storage actor stopped".into() }
}
