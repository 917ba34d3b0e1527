//! Tending workers: what the state gives to each is told to it at once, and what it keeps promising is kept alive.
//!
//! One task per led quorum, with one *hand* per worker that holds a lease. A hand compares what the state has for its
//! worker with what the worker was told: attempts to run, attempts to end, verdicts to show. What is missing travels in
//! one message. A worker may answer only once the attempts are safe with it, which takes a moment, so a few messages may
//! be on their way at a time; then the next one gathers, and many small tasks cost few messages. Nothing is asked
//! again and again: the driver touches a hand when an applied entry names its worker, and the end of a message, or of a
//! pause after a failure, looks once more.
//!
//! A hand also renews its worker's lease. A worker whose lease is gone, or that neither renews nor says anything for
//! too long, is lost: that is committed, and its attempts go to others under new numbers. What it reports afterwards is
//! refused as stale.
//!
//! All of it is in memory and derived anew by the next primary: a worker that is told twice takes the attempt once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use quorate_protocols::approval::limits::LEASE_TRUST_PERCENT;
use quorate_protocols::approval::standby::Renewed;
use quorate_protocols::ids::{LeaseId, PeerId, QuorumId, Term};
use quorate_protocols::quorum::{Command, QuorumState, TaskCommand, WorkerInstructions};
use quorate_protocols::task::limits::{BATCH_MAX, DEADLINE, MESSAGE_BYTES_MAX};
use quorate_protocols::task::message::{Report, TaskAnswer, TaskMessage, TaskResult};
use quorate_protocols::task::record::{ErrorClass, TaskAttempt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::context::Context;

/// A message that failed is sent again after this, doubled by each failure up to the maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What is to end or to be shown, and still is this long after its worker was asked, is asked for again: the worker may
/// have restarted.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Messages to one worker on their way at once. A worker answers an assignment when its attempts are on disk or over, and
/// what those that are over made room for should not wait for the others.
const TALKS_MAX: usize = 4;

/// Room in an assignment for what is not orders.
const ASSIGN_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64 * 1024;

/// Renewals per lease, and how soon one is tried again.
const RENEWALS_PER_LEASE: u32 = 4;
const RENEW_AGAIN: Duration = Duration::from_secs(1);

/// A hand on the tending task of one led quorum.
#[derive(Clone, Default)]
pub(super) struct Tender(Arc<Shared>);

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
    /// When each worker was last given something. As many as there are hands.
    given_at: BTreeMap<PeerId, Instant>,
}

impl Tender {
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
    pub fn given_at(&self, worker: PeerId) -> Option<Instant> {
        self.lock().given_at.get(&worker).copied()
    }
    fn lock(&self) -> MutexGuard<'_, Touched> {
        // Changed one entry at a time: a panic elsewhere left nothing half done.
        self.0.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this primary knows of one worker beside the state.
struct Hand {
    number: u64,
    lease: LeaseId,
    /// Attempts that it has, as far as they are still its to run.
    told: BTreeSet<TaskAttempt>,
    /// Attempts in messages that are on their way.
    telling: BTreeSet<TaskAttempt>,
    /// Attempts that it was asked to end or to show, and when.
    asked: BTreeMap<TaskAttempt, Instant>,
    /// Messages on their way.
    talks: usize,
    /// Its lease is being renewed, or it is being declared lost.
    is_renewing: bool,
    failures: u32,
    /// After a failure: not before then.
    talk_at: Option<Instant>,
    renew_at: Instant,
    /// When it was last known to be there.
    stood_at: Instant,
}

/// The end of something that a hand had begun for its worker.
struct Ended {
    worker: PeerId,
    /// A worker that was lost and won again has another hand: what the old one began says nothing to it.
    hand: u64,
    what: What,
}

enum What {
    Talked {
        tasks: Vec<TaskAttempt>,
        talk: Talk,
    },
    Renewed {
        lease: LeaseId,
        renewed: Renewed,
    },
    /// That its worker is lost was proposed; whether it was committed shows in the state.
    Dropped,
}

/// What came of a message.
enum Talk {
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

struct Tending {
    context: Context,
    quorum: QuorumId,
    term: Term,
    tender: Tender,
    hands: BTreeMap<PeerId, Hand>,
    /// Hands that there have been.
    numbered: u64,
    /// At most `TALKS_MAX` messages and one renewal or loss per hand.
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
}

/// Runs until it is dropped, when this node stops leading in this term.
pub(super) async fn run(context: Context, term: Term, tender: Tender) {
    let quorum = context.quorum.id();
    let mut tending = Tending {
        context,
        quorum,
        term,
        tender,
        hands: BTreeMap::new(),
        numbered: 0,
        running: FuturesUnordered::new(),
    };
    tending.tender.touch_all();
    loop {
        match tending.next_event().await {
            Event::Ended(ended) => tending.note_end(ended),
            Event::News => tending.note_news(),
            Event::Due => tending.note_due(),
        }
    }
}

impl Tending {
    async fn next_event(&mut self) -> Event {
        let due = self.hands.values().map(Hand::due).min();
        // What has ended frees a hand for what the news ask of it.
        tokio::select! {
            biased;
            Some(ended) = self.running.next(), if !self.running.is_empty() => Event::Ended(ended),
            () = self.tender.0.news.notified() => Event::News,
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
            let mut touched = self.tender.lock();
            (std::mem::take(&mut touched.workers), std::mem::take(&mut touched.all))
        };
        if all {
            self.context.quorum.look(&mut |state| workers.extend(state.tasks.workers().keys()));
            workers.extend(self.hands.keys());
        }
        workers.into_iter().for_each(|worker| self.serve(worker));
    }

    fn note_due(&mut self) {
        let now = Instant::now();
        let due = self.hands.iter().filter(|(_, hand)| hand.due() <= now).map(|(worker, _)| *worker);
        due.collect::<Vec<_>>().into_iter().for_each(|worker| self.serve(worker));
    }

    fn note_end(&mut self, ended: Ended) {
        let now = Instant::now();
        let Ended { worker, hand: number, what } = ended;
        let Some(hand) = self.hands.get_mut(&worker).filter(|hand| hand.number == number) else { return };
        match what {
            What::Talked { tasks, talk } => {
                hand.talks -= 1;
                for task in &tasks {
                    hand.telling.remove(task);
                }
                match talk {
                    Talk::Told(tasks) => hand.told.extend(tasks),
                    Talk::Asked => hand.asked.extend(tasks.into_iter().map(|task| (task, now))),
                    // Ended, or it does not know yet that this node may speak for the quorum: the renewal tells which.
                    Talk::NoLease => {
                        hand.talk_at = Some(now + BACKOFF_MAX);
                        hand.renew_at = now;
                        return self.serve(worker);
                    }
                    Talk::Failed(reason) => {
                        let pause = BACKOFF_MIN.saturating_mul(1 << hand.failures.min(16)).min(BACKOFF_MAX);
                        hand.failures = hand.failures.saturating_add(1);
                        hand.talk_at = Some(now + pause);
                        tracing::debug!(quorum = %self.quorum, %worker, %reason, "a worker could not be told");
                        return;
                    }
                }
                hand.failures = 0;
                // Heard from: an answer is a sign of life like any other.
                hand.stood_at = now;
                // More may have come meanwhile, or not have fitted.
                self.serve(worker);
            }
            What::Renewed { lease, renewed } => {
                hand.is_renewing = false;
                let lease_time = self.context.around.settings.worker_lease;
                hand.renew_at = now + lease_time / RENEWALS_PER_LEASE;
                if hand.lease != lease {
                    return;
                }
                match renewed {
                    Renewed::Stands => hand.stood_at = now,
                    Renewed::Gone => self.lose(worker, "its lease has ended there".to_owned()),
                    Renewed::Unsure => {
                        hand.renew_at = now + RENEW_AGAIN.min(lease_time / RENEWALS_PER_LEASE);
                        let heard = self.context.around.notes.pulses().heard_at(self.quorum, worker);
                        let silent = now - hand.stood_at.max(heard.unwrap_or(hand.stood_at));
                        if silent >= lease_time * LEASE_TRUST_PERCENT as u32 / 100 {
                            self.lose(worker, format!("nothing was heard from it for {} s", silent.as_secs()));
                        }
                    }
                }
            }
            What::Dropped => {
                hand.is_renewing = false;
                self.serve(worker);
            }
        }
    }

    /// Does for a worker what is due: its lease, then whatever it was not told.
    fn serve(&mut self, worker: PeerId) {
        let now = Instant::now();
        let lease_time = self.context.around.settings.worker_lease;
        let Self { context, quorum, term, hands, numbered, running, tender } = self;
        let mut message = None;
        let mut lease = None;
        context.quorum.look(&mut |state| {
            let Some(record) = state.tasks.workers().get(&worker) else { return };
            lease = Some(record.grant.lease);
            let hand = hands.entry(worker).or_insert_with(|| {
                *numbered += 1;
                Hand::new(*numbered, record.grant.lease, now, lease_time)
            });
            hand.follow(record.grant.lease, now);
            if hand.may_talk(now) {
                message = hand.next_message(state, worker, (*quorum, *term), now);
            }
        });
        let (Some(lease), Some(hand)) = (lease, hands.get_mut(&worker)) else { return self.forget(worker) };
        let number = hand.number;
        if let Some((message, tasks)) = message {
            hand.talks += 1;
            hand.telling.extend(&tasks);
            if matches!(message, TaskMessage::Assign { .. }) {
                tender.lock().given_at.insert(worker, now);
                context.around.metrics.attempts_given.inc_by(tasks.len() as u64);
            }
            let context = context.clone();
            running.push(
                async move {
                    let talk = talk(&context, worker, message, &tasks).await;
                    Ended { worker, hand: number, what: What::Talked { tasks, talk } }
                }
                .boxed(),
            );
        }
        if !hand.is_renewing && hand.renew_at <= now {
            hand.is_renewing = true;
            let approvals = context.around.approvals.clone();
            running.push(
                async move {
                    let renewed = approvals.renew(worker, lease, lease_time).await;
                    Ended { worker, hand: number, what: What::Renewed { lease, renewed } }
                }
                .boxed(),
            );
        }
    }

    /// Commits that the worker is lost. Its attempts go to others.
    fn lose(&mut self, worker: PeerId, reason: String) {
        let Some(hand) = self.hands.get_mut(&worker) else { return };
        hand.is_renewing = true;
        hand.renew_at = Instant::now() + RENEW_AGAIN;
        let (number, lease, context) = (hand.number, hand.lease, self.context.clone());
        tracing::info!(quorum = %self.quorum, %worker, reason, "a worker is lost");
        self.running.push(
            async move {
                if context.propose(Command::Task(TaskCommand::LoseWorker { peer: worker, lease, reason })).await.is_ok()
                {
                    // Its lease ends by itself: to give it back now could take it from whoever wins the worker again.
                    context.around.metrics.workers_lost.inc();
                }
                Ended { worker, hand: number, what: What::Dropped }
            }
            .boxed(),
        );
    }

    /// The worker has no lease of this quorum any more.
    fn forget(&mut self, worker: PeerId) {
        self.hands.remove(&worker);
        self.tender.lock().given_at.remove(&worker);
        self.context.around.notes.pulses().forget(self.quorum, worker);
    }
}

impl Hand {
    fn new(number: u64, lease: LeaseId, now: Instant, lease_time: Duration) -> Self {
        Self {
            number,
            lease,
            told: BTreeSet::new(),
            asked: BTreeMap::new(),
            telling: BTreeSet::new(),
            talks: 0,
            is_renewing: false,
            failures: 0,
            talk_at: None,
            renew_at: now + lease_time / RENEWALS_PER_LEASE,
            stood_at: now,
        }
    }

    /// Another lease is another promise: what was told under the old one does not count.
    fn follow(&mut self, lease: LeaseId, now: Instant) {
        if self.lease != lease {
            (self.lease, self.stood_at, self.talk_at) = (lease, now, None);
            self.told.clear();
            self.asked.clear();
        }
    }

    /// When something is to be done without news.
    fn due(&self) -> Instant {
        // After a failure everything waits; else only what was asked and may have to be asked again.
        let asked = || self.asked.values().min().map(|at| *at + ASK_AGAIN);
        let talk = self.talk_at.or_else(asked).filter(|_| self.talks < TALKS_MAX);
        let renew = (!self.is_renewing).then_some(self.renew_at);
        talk.into_iter().chain(renew).min().unwrap_or_else(far)
    }

    fn may_talk(&mut self, now: Instant) -> bool {
        let may = self.talks < TALKS_MAX && self.talk_at.is_none_or(|at| at <= now);
        if may {
            self.talk_at = None;
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
            self.asked.retain(|task, at| wanted.contains(task) && *at + ASK_AGAIN > now);
        }
        // What is still being told is ended after that, or the one message could overtake the other.
        let unasked = |task: &TaskAttempt| !self.asked.contains_key(task) && !self.telling.contains(task);
        let first = stop.iter().find(|(task, _)| unasked(task)).map(|(_, keep)| *keep);
        if let Some(keep) = first {
            let alike = stop.iter().filter(|(task, other)| *other == keep && unasked(task)).map(|(task, _)| *task);
            let tasks: Vec<_> = alike.take(BATCH_MAX).collect();
            return Some((TaskMessage::Stop { quorum, term, lease: self.lease, tasks: tasks.clone(), keep }, tasks));
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
        let (works, orders) = state.assignment(untold, ASSIGN_BYTES_MAX);
        let tasks: Vec<_> = orders.iter().map(|order| order.task).collect();
        let assign = TaskMessage::Assign { quorum, term, lease: self.lease, works, orders };
        (!tasks.is_empty()).then_some((assign, tasks))
    }
}

/// Tells a worker, and has what it refuses recorded.
async fn talk(context: &Context, worker: PeerId, message: TaskMessage, tasks: &[TaskAttempt]) -> Talk {
    let assigns = matches!(message, TaskMessage::Assign { .. });
    let answer = match context.ask_worker(worker, message).await {
        Ok(answer) => answer,
        Err(error) => return Talk::Failed(error.to_string()),
    };
    match answer {
        TaskAnswer::Accepted { taken, refused } if assigns => {
            let about = |task: &TaskAttempt| tasks.contains(task);
            let taken: Vec<_> = taken.into_iter().filter(about).collect();
            let reports: Vec<_> = refused
                .into_iter()
                .filter(|(task, _)| about(task) && !taken.contains(task))
                .map(|(task, reason)| Report {
                    task,
                    result: TaskResult::Failed { class: ErrorClass::Refused, reason },
                })
                .collect();
            if taken.is_empty() && reports.is_empty() {
                return Talk::Failed("it neither took nor refused any of its tasks".to_owned());
            }
            // As its own word: the state machine takes such a report from nobody else.
            if !reports.is_empty() {
                let told =
                    context.quorum.propose(worker, Command::Task(TaskCommand::Report { reports }), DEADLINE).await;
                if let Err(error) = told {
                    return Talk::Failed(format!("what it refused was not recorded: {error}"));
                }
            }
            Talk::Told(taken)
        }
        TaskAnswer::Noted if !assigns => Talk::Asked,
        TaskAnswer::UnknownLease => Talk::NoLease,
        TaskAnswer::StaleTerm { seen } => Talk::Failed(format!("it has heard of term {seen}")),
        TaskAnswer::Busy | TaskAnswer::Unknown => Talk::Failed("it is busy".to_owned()),
        TaskAnswer::Malformed { reason } => Talk::Failed(format!("it does not understand: {reason}")),
        _ => {
            if worker != context.around.net.local_peer() {
                context.around.net.penalise(worker, "an answer to another question");
            }
            Talk::Failed("it answered something else".to_owned())
        }
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
