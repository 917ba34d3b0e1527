//! Worker sessions: send each worker its assignments, stops and reveals as soon as the state has them, and renew its
//! lease.
//!
//! One task per led quorum, with one session per worker that holds a lease. A session compares what the state has for
//! its worker with what the worker was told: attempts to run, attempts to end, verdicts to show. What is missing
//! travels in one message. A worker may answer only once the attempts are safe with it, which takes a moment, so a few
//! messages may be in flight at a time; then the next one gathers, and many small tasks cost few messages. Nothing is
//! asked again and again: the driver wakes a session when an applied entry names its worker, and the end of a message,
//! or of a pause after a failure, looks once more.
//!
//! A session also renews its worker's lease. A worker whose lease is gone, or that neither renews nor says anything for
//! too long, is lost: that is committed, and its attempts go to others under new numbers. What it reports afterwards is
//! refused as stale. The same becomes of a worker that this node does not trust any more ([`TrustWatch`]), whose lease
//! is given back besides: it is sent nothing from then on, and its attempts end there.
//!
//! All of it is in memory and derived anew by the next primary: a worker that is told twice takes the attempt once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::{Mutex, MutexGuard};
use quorate_protocols::admission::TrustWatch;
use quorate_protocols::approval::standby::Renewed;
use quorate_protocols::backoff::Backoff;
use quorate_protocols::ids::{LeaseId, PeerId, QuorumId, Term};
use quorate_protocols::liveness::patience::{self, Renewal};
use quorate_protocols::quorum::{Command, QuorumState, TaskCommand, WorkerInstructions};
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::limits::{BATCH_MAX, DEADLINE, MESSAGE_BYTES_MAX};
use quorate_protocols::task::message::{Report, TaskAnswer, TaskMessage, TaskResult};
use quorate_protocols::task::record::TaskAttempt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::context::Context;

/// A message that failed is sent again after this, doubled by each failure up to the maximum.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), BACKOFF_MAX);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Messages to one worker on their way at once. A worker answers an assignment when its attempts are on disk or over,
/// and what those that are over made room for should not wait for the others.
const IN_FLIGHT_MAX: usize = 4;

/// Room in a message for all but the assignments.
const ASSIGN_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64 * 1024;

/// Handle to the sessions of one led quorum, for whoever has news for them.
#[derive(Clone, Default)]
pub(super) struct WorkerSessions(Arc<Shared>);

#[derive(Default)]
struct Shared {
    touched: Mutex<Touched>,
    news: Notify,
}

#[derive(Default)]
struct Touched {
    workers: BTreeSet<PeerId>,
    /// Events may have been lost: look at every worker.
    all: bool,
    /// When each worker was last given something. As many as there are sessions.
    assigned_at: BTreeMap<PeerId, Instant>,
}

impl WorkerSessions {
    /// The state has something for this worker, or the worker is new.
    pub fn touch(&self, worker: PeerId) {
        self.lock().workers.insert(worker);
        self.0.news.notify_one();
    }
    pub fn touch_all(&self) {
        self.lock().all = true;
        self.0.news.notify_one();
    }
    /// When the worker was last given something by this primary.
    pub fn assigned_at(&self, worker: PeerId) -> Option<Instant> {
        self.lock().assigned_at.get(&worker).copied()
    }
    fn lock(&self) -> MutexGuard<'_, Touched> {
        self.0.touched.lock()
    }
}

/// What this primary knows of one worker beside the state.
struct WorkerSession {
    number: u64,
    lease: LeaseId,
    /// Attempts that it has, as far as they are still its to run.
    told: BTreeSet<TaskAttempt>,
    /// Attempts in messages that are on their way.
    telling: BTreeSet<TaskAttempt>,
    /// Attempts that it was asked to end or to show, and when it is asked again.
    asked: BTreeMap<TaskAttempt, Instant>,
    /// Messages on their way.
    in_flight: usize,
    /// Its lease is being renewed, or it is being declared lost.
    is_renewing: bool,
    /// The last renewal came to nothing.
    is_unsure: bool,
    failures: u32,
    /// After a failure: not before then.
    send_at: Option<Instant>,
    renew_at: Instant,
    /// When it was last known to be there.
    stood_at: Instant,
}

/// The end of something that a session had begun for its worker.
struct Ended {
    worker: PeerId,
    /// A worker that was lost and won again has another session: what the old one began says nothing to it.
    session: u64,
    what: What,
}

enum What {
    Sent {
        tasks: Vec<TaskAttempt>,
        outcome: SendOutcome,
    },
    Renewed {
        lease: LeaseId,
        renewed: Renewed,
    },
    /// That its worker is lost was proposed; whether it was committed shows in the state.
    Dropped,
}

/// What came of a message.
enum SendOutcome {
    /// It knows of these attempts now.
    Told(Vec<TaskAttempt>),
    /// It was asked to end or to show what the message was about.
    Asked,
    /// Not heard, or not now.
    Failed(String),
    /// It knows of no lease that this node may use.
    NoLease,
}

enum Event {
    Ended(Ended),
    News,
    Due,
}

struct SessionsTask {
    context: Context,
    quorum: QuorumId,
    term: Term,
    worker_sessions: WorkerSessions,
    sessions: BTreeMap<PeerId, WorkerSession>,
    /// Workers that this node does not trust. To end a lease costs little, so what is proven is not waited for.
    trust: TrustWatch,
    /// Sessions that there have been.
    numbered: u64,
    /// Whether the workers that an earlier primary had have their sessions.
    began: bool,
    /// At most `IN_FLIGHT_MAX` messages and one renewal or loss per session.
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
}

/// Runs until it is dropped, when this node stops leading in this term.
pub(super) async fn run(context: Context, term: Term, worker_sessions: WorkerSessions) {
    let quorum = context.quorum.id();
    let mut serving = SessionsTask {
        context,
        quorum,
        term,
        worker_sessions,
        sessions: BTreeMap::new(),
        trust: TrustWatch::new(Duration::ZERO),
        numbered: 0,
        began: false,
        running: FuturesUnordered::new(),
    };
    serving.worker_sessions.touch_all();
    loop {
        match serving.next_event().await {
            Event::Ended(ended) => serving.note_end(ended),
            Event::News => serving.note_news(),
            Event::Due => serving.note_due(),
        }
    }
}

impl SessionsTask {
    async fn next_event(&mut self) -> Event {
        let due = self.sessions.values().map(WorkerSession::due).min();
        // What has ended frees a session for what the news ask of it.
        tokio::select! {
            biased;
            Some(ended) = self.running.next(), if !self.running.is_empty() => Event::Ended(ended),
            () = self.worker_sessions.0.news.notified() => Event::News,
            () = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            } => Event::Due,
        }
    }

    fn note_news(&mut self) {
        let (mut workers, all) = {
            let mut touched = self.worker_sessions.lock();
            (std::mem::take(&mut touched.workers), std::mem::take(&mut touched.all))
        };
        if all {
            self.context.quorum.with_state(&mut |state| workers.extend(state.tasks().workers().keys()));
            workers.extend(self.sessions.keys());
        }
        workers.into_iter().for_each(|worker| self.serve(worker));
        // The first news are of all workers: this primary has won none yet.
        self.began = true;
    }

    fn note_due(&mut self) {
        let now = Instant::now();
        let due = self.sessions.iter().filter(|(_, session)| session.due() <= now).map(|(worker, _)| *worker);
        due.collect::<Vec<_>>().into_iter().for_each(|worker| self.serve(worker));
    }

    fn note_end(&mut self, ended: Ended) {
        let now = Instant::now();
        let Ended { worker, session: number, what } = ended;
        let Some(session) = self.sessions.get_mut(&worker).filter(|session| session.number == number) else { return };
        match what {
            What::Sent { tasks, outcome } => {
                session.in_flight -= 1;
                for task in &tasks {
                    session.telling.remove(task);
                }
                match outcome {
                    SendOutcome::Told(tasks) => session.told.extend(tasks),
                    SendOutcome::Asked => {
                        let (quorum, trip) = (self.context.quorum.latency(), self.context.round_trip(worker));
                        let again = now + patience::ask_again(quorum, trip);
                        session.asked.extend(tasks.into_iter().map(|task| (task, again)));
                    }
                    // Ended, or it does not know yet that this node may speak for the quorum: the renewal tells which.
                    SendOutcome::NoLease => {
                        session.send_at = Some(now + BACKOFF_MAX);
                        session.renew_at = now;
                        return self.serve(worker);
                    }
                    SendOutcome::Failed(reason) => {
                        let pause = BACKOFF.pause(session.failures);
                        session.failures = session.failures.saturating_add(1);
                        session.send_at = Some(now + pause);
                        tracing::debug!(quorum = %self.quorum, %worker, %reason, "a worker could not be told");
                        return;
                    }
                }
                session.failures = 0;
                // Heard from: an answer is a sign of life like any other.
                session.stood_at = now;
                // More may have come meanwhile, or not have fitted.
                self.serve(worker);
            }
            What::Renewed { lease, renewed } => {
                session.is_renewing = false;
                let lease_time = self.context.env.settings.worker_lease;
                let renewal = Renewal::of(lease_time);
                session.renew_at = now + renewal.after;
                if session.lease != lease {
                    return;
                }
                session.is_unsure = renewed == Renewed::Unsure;
                match renewed {
                    Renewed::Stands => session.stood_at = now,
                    Renewed::Gone => self.lose(worker, "its lease has ended there".to_owned(), false),
                    Renewed::Unsure => {
                        let lost_at =
                            session.heard_at(&self.context, self.quorum, worker) + patience::trusted(lease_time);
                        session.renew_at = (now + renewal.pause).min(lost_at.max(now));
                        self.serve(worker);
                    }
                }
            }
            What::Dropped => {
                session.is_renewing = false;
                self.serve(worker);
            }
        }
    }

    /// Does for a worker what is due: its lease, then whatever it was not told.
    fn serve(&mut self, worker: PeerId) {
        let now = Instant::now();
        let lease_time = self.context.env.settings.worker_lease;
        let (clock, trust) = (self.context.env.seams.clock.monotonic(), self.context.env.knowledge.check_trust(worker));
        self.trust.observe(clock, worker, trust);
        let distrust = self.trust.due(clock, worker);
        let Self { context, quorum, term, sessions, numbered, running, worker_sessions, began, .. } = self;
        // What an earlier primary won may not have been renewed for as long as it was dying and another was elected.
        let renew_at = if *began { now + Renewal::of(lease_time).after } else { now };
        let mut message = None;
        let mut lease = None;
        context.quorum.with_state(&mut |state| {
            let Some(record) = state.tasks().workers().get(&worker) else { return };
            lease = Some(record.grant.lease);
            let session = sessions.entry(worker).or_insert_with(|| {
                *numbered += 1;
                WorkerSession::new(*numbered, record.grant.lease, now, renew_at)
            });
            session.follow(record.grant.lease, now);
            if distrust.is_some() {
                // Nothing is sent any more, and nothing is waited for but its end.
                session.send_at = None;
                session.asked.clear();
            } else if session.may_send(now) {
                message = session.next_message(state, worker, (*quorum, *term), now);
            }
        });
        let (Some(lease), Some(session)) = (lease, sessions.get_mut(&worker)) else { return self.forget(worker) };
        let number = session.number;
        if let Some((message, tasks)) = message {
            session.in_flight += 1;
            session.telling.extend(&tasks);
            if matches!(message, TaskMessage::Assign { .. }) {
                worker_sessions.lock().assigned_at.insert(worker, now);
                context.env.metrics.attempts_given.inc_by(tasks.len() as u64);
            }
            let context = context.clone();
            running.push(
                async move {
                    let outcome = send_message(&context, worker, message, &tasks).await;
                    Ended { worker, session: number, what: What::Sent { tasks, outcome } }
                }
                .boxed(),
            );
        }
        if !session.is_renewing && session.renew_at <= now {
            if let Some(distrust) = distrust {
                return self.lose(worker, format!("it is not trusted any more: {distrust}"), true);
            }
            let heard_at = session.heard_at(context, *quorum, worker);
            let left = (heard_at + patience::trusted(lease_time)).saturating_duration_since(now);
            if session.is_unsure && left.is_zero() {
                let reason = format!("nothing was heard from it for {} s", (now - heard_at).as_secs());
                return self.lose(worker, reason, false);
            }
            session.is_renewing = true;
            // No further try outlasts the moment at which its worker is given up.
            let try_max = Renewal::of(lease_time).try_max;
            let try_max = if session.is_unsure { try_max.min(left) } else { try_max };
            let approvals = context.env.approvals.clone();
            running.push(
                async move {
                    let renewed = timeout(try_max, approvals.renew(worker, lease, lease_time));
                    let renewed = renewed.await.unwrap_or(Renewed::Unsure);
                    Ended { worker, session: number, what: What::Renewed { lease, renewed } }
                }
                .boxed(),
            );
        }
    }

    /// Commits that the worker is lost. Its attempts go to others. `gives_back`: it is there, and is told that its
    /// lease has ended.
    fn lose(&mut self, worker: PeerId, reason: String, gives_back: bool) {
        let Some(session) = self.sessions.get_mut(&worker) else { return };
        session.is_renewing = true;
        session.renew_at = Instant::now() + Renewal::of(self.context.env.settings.worker_lease).pause;
        let (number, lease, context) = (session.number, session.lease, self.context.clone());
        tracing::info!(quorum = %self.quorum, %worker, reason, "a worker is lost");
        self.running.push(
            async move {
                if context.propose(Command::Task(TaskCommand::LoseWorker { peer: worker, lease, reason })).await.is_ok()
                {
                    context.env.metrics.workers_lost.inc();
                    // Otherwise its lease ends by itself: to give it back now could take it from whoever wins the
                    // worker again.
                    if gives_back {
                        context.env.approvals.give_back(worker, lease).await;
                    }
                }
                Ended { worker, session: number, what: What::Dropped }
            }
            .boxed(),
        );
    }

    /// The worker has no lease of this quorum any more.
    fn forget(&mut self, worker: PeerId) {
        self.sessions.remove(&worker);
        let sessions = &self.sessions;
        self.trust.retain(|peer| sessions.contains_key(&peer));
        self.worker_sessions.lock().assigned_at.remove(&worker);
        self.context.env.wait_reasons.heartbeats().forget(self.quorum, worker);
    }
}

impl WorkerSession {
    fn new(number: u64, lease: LeaseId, now: Instant, renew_at: Instant) -> Self {
        Self {
            number,
            lease,
            told: BTreeSet::new(),
            asked: BTreeMap::new(),
            telling: BTreeSet::new(),
            in_flight: 0,
            is_renewing: false,
            is_unsure: false,
            failures: 0,
            send_at: None,
            renew_at,
            stood_at: now,
        }
    }

    /// Another lease is another promise: what was told under the old one does not count.
    fn follow(&mut self, lease: LeaseId, now: Instant) {
        if self.lease != lease {
            (self.lease, self.stood_at, self.send_at, self.is_unsure) = (lease, now, None, false);
            self.told.clear();
            self.asked.clear();
        }
    }

    /// When anything was last heard of its worker.
    fn heard_at(&self, context: &Context, quorum: QuorumId, worker: PeerId) -> Instant {
        let heartbeat = context.env.wait_reasons.heartbeats().heard_at(quorum, worker);
        self.stood_at.max(heartbeat.unwrap_or(self.stood_at))
    }

    /// When something is to be done without news.
    fn due(&self) -> Instant {
        // After a failure everything waits; else only what was asked and may have to be asked again.
        let asked = || self.asked.values().min().copied();
        let outcome = self.send_at.or_else(asked).filter(|_| self.in_flight < IN_FLIGHT_MAX);
        let renew = (!self.is_renewing).then_some(self.renew_at);
        outcome.into_iter().chain(renew).min().unwrap_or_else(far)
    }

    fn may_send(&mut self, now: Instant) -> bool {
        let may = self.in_flight < IN_FLIGHT_MAX && self.send_at.is_none_or(|at| at <= now);
        if may {
            self.send_at = None;
        }
        may
    }

    /// The next thing that the worker is to know, and the attempts that it is about: what is to end comes first.
    fn next_message(
        &mut self,
        state: &QuorumState,
        worker: PeerId,
        (quorum, term): (QuorumId, Term),
        now: Instant,
    ) -> Option<(TaskMessage, Vec<TaskAttempt>)> {
        let WorkerInstructions { run, stop, reveal } = state.instructions_of(worker);
        if !self.asked.is_empty() {
            let wanted: BTreeSet<_> = stop.iter().map(|(task, _)| task).chain(&reveal).collect();
            self.asked.retain(|task, at| wanted.contains(task) && *at > now);
        }
        // What is still being told is ended after that, or the one message could overtake the other.
        let unasked = |task: &TaskAttempt| !self.asked.contains_key(task) && !self.telling.contains(task);
        let first = stop.iter().find(|(task, _)| unasked(task)).map(|(_, keep_checkpoint)| *keep_checkpoint);
        if let Some(keep_checkpoint) = first {
            let alike =
                stop.iter().filter(|(task, other)| *other == keep_checkpoint && unasked(task)).map(|(task, _)| *task);
            let tasks: Vec<_> = alike.take(BATCH_MAX).collect();
            return Some((
                TaskMessage::Stop { quorum, term, lease: self.lease, tasks: tasks.clone(), keep_checkpoint },
                tasks,
            ));
        }
        let tasks: Vec<_> = reveal.into_iter().filter(unasked).take(BATCH_MAX).collect();
        if !tasks.is_empty() {
            return Some((TaskMessage::Reveal { quorum, term, lease: self.lease, tasks: tasks.clone() }, tasks));
        }
        let untold = run.iter().filter(|task| !self.told.contains(task) && !self.telling.contains(task));
        let untold: Vec<_> = untold.take(BATCH_MAX).copied().collect();
        if self.told.len() > run.len() {
            let live: BTreeSet<_> = run.into_iter().collect();
            self.told.retain(|task| live.contains(task));
        }
        let (steps, assignments) = state.assignments(untold, ASSIGN_BYTES_MAX);
        let tasks: Vec<_> = assignments.iter().map(|assignment| assignment.task).collect();
        let assign = TaskMessage::Assign { quorum, term, lease: self.lease, steps, assignments };
        (!tasks.is_empty()).then_some((assign, tasks))
    }
}

/// Tells a worker, and has what it refuses recorded.
async fn send_message(context: &Context, worker: PeerId, message: TaskMessage, tasks: &[TaskAttempt]) -> SendOutcome {
    let assigns = matches!(message, TaskMessage::Assign { .. });
    let answer = match context.ask_worker(worker, message).await {
        Ok(answer) => answer,
        Err(error) => return SendOutcome::Failed(error.to_string()),
    };
    match answer {
        TaskAnswer::Accepted { accepted, refused } if assigns => {
            let about = |task: &TaskAttempt| tasks.contains(task);
            let accepted: Vec<_> = accepted.into_iter().filter(about).collect();
            let reports: Vec<_> = refused
                .into_iter()
                .filter(|(task, _)| about(task) && !accepted.contains(task))
                .map(|(task, reason)| Report {
                    task,
                    result: TaskResult::Failed { class: ErrorClass::Refused, reason },
                })
                .collect();
            if accepted.is_empty() && reports.is_empty() {
                return SendOutcome::Failed("it neither took nor refused any of its tasks".to_owned());
            }
            // As its own word: the state machine takes such a report from nobody else.
            if !reports.is_empty() {
                let told =
                    context.quorum.propose(worker, Command::Task(TaskCommand::Report { reports }), DEADLINE).await;
                if let Err(error) = told {
                    return SendOutcome::Failed(format!("what it refused was not recorded: {error}"));
                }
            }
            SendOutcome::Told(accepted)
        }
        TaskAnswer::Acknowledged if !assigns => SendOutcome::Asked,
        TaskAnswer::UnknownLease => SendOutcome::NoLease,
        TaskAnswer::StaleTerm { seen } => SendOutcome::Failed(format!("it has heard of term {seen}")),
        TaskAnswer::Busy | TaskAnswer::Unknown => SendOutcome::Failed("it is busy".to_owned()),
        TaskAnswer::Malformed { reason } => SendOutcome::Failed(format!("it does not understand: {reason}")),
        _ => {
            if worker != context.env.net.local_peer() {
                context.env.net.penalise(worker, "an answer to another question");
            }
            SendOutcome::Failed("it answered something else".to_owned())
        }
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
