//! The actor: which duties there are, which run, and which wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use quorate_protocols::backoff::Backoff;
use quorate_protocols::ids::{
    Attempt, Digest, JobId, LeaseId, ManifestHash, Millis, PeerId, PieceIndex, QuorumId, Term,
};
use quorate_protocols::piece::Slot;
use quorate_protocols::quorum::{Command, Duty, Event as Applied, QuorumCommand, StoreCommand};
use quorate_protocols::wire;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::auditor::Auditor;
use super::conditions::{self, POLLS_MAX, POLLS_PER_QUORUM_MAX};
use super::context::{Context, DriverEnv, DutyError, Tries};
use super::recruiter::{self, Wanted};
use super::triggers::{self, Wakeup};
use super::worker_sessions::{self, WorkerSessions};
use super::{DriverParts, columns, holders, leases, levels, repair};
use crate::quorums::ports::LocalQuorums;
use crate::raft::HostEvent;
use crate::seams::Entropy;

/// Duties performed at once by this node, and for one quorum. Most wait for a peer; the bound keeps a quorum with
/// thousands of owed columns from asking everyone at once.
pub const DUTIES_MAX: usize = 64;
const DUTIES_PER_QUORUM_MAX: usize = 16;

/// Of these, kept for duties that somebody waits for: repairs and releases may all be waiting for nodes that are away.
const DUTIES_URGENT: usize = 4;

/// How often it is looked whether a peer came, or came back, at most.
const ARRIVALS_INTERVAL: Duration = Duration::from_secs(1);

/// A failed duty is tried again after this, doubled by each failure up to the maximum, with up to half as jitter.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF: Backoff = Backoff::new(BACKOFF_MIN, Duration::from_secs(30));

/// Finding holders or workers has a person waiting for it.
const FIND_BACKOFF: Backoff = Backoff::new(BACKOFF_MIN, Duration::from_secs(3));

/// A duty that was done and is still there (a run that needs yet more holders) waits this long.
const AGAIN: Duration = Duration::from_millis(100);

/// A look at a condition that found no room is tried again after this.
const POLL_AGAIN: Duration = Duration::from_millis(250);

/// Duties are derived at most this often per quorum: deriving walks the whole state, and a put applies entries much
/// more often than it needs anything done.
const DERIVE_INTERVAL: Duration = Duration::from_millis(20);

/// Duties are derived at least this often, whatever was heard: the net under a lost event.
const DERIVE_ANYWAY: Duration = Duration::from_secs(10);

/// What makes two duties the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// For columns without a holder, or only for spares: the one must not wait for the patience of the other.
    FindHolders(JobId, bool),
    Confirm(ManifestHash, PieceIndex, Attempt),
    Release(JobId, PieceIndex, LeaseId, Attempt),
    Repair(ManifestHash, PieceIndex),
    Rebuild(ManifestHash, PieceIndex, Attempt),
    WatchIdle(JobId),
    /// Workers for tasks of one sort: a digest of what such a task needs.
    FindWorkers(Digest),
    ReleaseWorker(PeerId, LeaseId),
    Wake(Millis),
    /// With the time between two looks.
    Poll(JobId, Duration),
}

impl Key {
    /// `None` for worker sessions and the firing of triggers, which are never done: each has a task of its own.
    fn of(duty: &Duty) -> Option<Self> {
        Some(match duty {
            Duty::FindHolders { job, open, .. } => Self::FindHolders(*job, *open > 0),
            Duty::Confirm { manifest, column, attempt, .. } => Self::Confirm(*manifest, *column, *attempt),
            Duty::Release { job, column, grant, attempt } => Self::Release(*job, *column, grant.lease, *attempt),
            Duty::Repair { manifest, column } => Self::Repair(*manifest, *column),
            Duty::Rebuild { manifest, column, attempt, .. } => Self::Rebuild(*manifest, *column, *attempt),
            Duty::WatchIdle { job, .. } => Self::WatchIdle(*job),
            Duty::FindWorkers { engine, resources, .. } => {
                Self::FindWorkers(Digest(*blake3::hash(&wire::encode(&(engine, resources))).as_bytes()))
            }
            Duty::ReleaseWorker { worker, lease } => Self::ReleaseWorker(*worker, *lease),
            Duty::Wake { due, .. } => Self::Wake(*due),
            Duty::HoldSession { .. } | Duty::FireAt { .. } | Duty::FireAfter { .. } => return None,
            Duty::Poll { job, every } => Self::Poll(*job, *every),
        })
    }
}

impl Key {
    /// Whether a user, or a task, waits for it.
    fn is_urgent(&self) -> bool {
        !matches!(self, Self::Release(..) | Self::Repair(..) | Self::Rebuild(..) | Self::FindHolders(_, false))
    }
    /// Whether it may have failed for want of peers.
    fn wants_peers(&self) -> bool {
        matches!(self, Self::FindHolders(..) | Self::Repair(..))
    }
}

/// A duty that was tried.
#[derive(Clone, Copy)]
struct Retry {
    failures: u32,
    failing_since: Option<Instant>,
    not_before: Instant,
}

/// A quorum that this node leads.
struct LedQuorum {
    term: Term,
    stop: CancellationToken,
    running: BTreeSet<Key>,
    retries: BTreeMap<Key, Retry>,
    /// Runs that nobody feeds: the count when last looked at, and since when it stands still.
    idle: BTreeMap<JobId, (u64, Instant)>,
    worker_sessions: WorkerSessions,
    /// Wakes the task that fires triggers.
    wakeup: Wakeup,
    /// Since when workers are idle, as this primary has seen it.
    idle_workers: BTreeMap<(PeerId, LeaseId), Instant>,
    /// The state's earliest timer, and when it runs out.
    wake: Option<(Millis, Instant)>,
    derived_at: Option<Instant>,
    /// When to derive again.
    derive_at: Instant,
}

struct Ended {
    quorum: QuorumId,
    term: Term,
    key: Key,
    /// `None`: stopped with the lead, or crashed.
    result: Option<Result<(), DutyError>>,
}

enum Event {
    Shutdown,
    Ended(Ended),
    Host(HostEvent),
    /// Events were lost: look at everything.
    Lagged,
    Due,
}

struct Actor {
    env: Arc<DriverEnv>,
    quorums: Arc<dyn LocalQuorums>,
    events: broadcast::Receiver<HostEvent>,
    led: BTreeMap<QuorumId, LedQuorum>,
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// Peers that were there when last looked for, and when that was.
    present: BTreeSet<PeerId>,
    arrivals_at: Option<Instant>,
}

pub(super) fn start(parts: DriverParts) {
    let DriverParts { env, quorums, events } = parts;
    let tasks = env.seams.tasks.clone();
    let env = Arc::new(env);
    let actor = Actor {
        env,
        quorums,
        events,
        led: BTreeMap::new(),
        running: FuturesUnordered::new(),
        present: BTreeSet::new(),
        arrivals_at: None,
    };
    tasks.spawn(actor.run());
}

impl Actor {
    async fn run(mut self) {
        // Quorums may have been led before anyone listened.
        self.check_all();
        loop {
            match self.next_event().await {
                Event::Shutdown => return self.stop_all(),
                Event::Ended(ended) => self.note_end(ended),
                Event::Host(event) => self.note_host_event(event),
                Event::Lagged => self.check_all(),
                Event::Due => (),
            }
            self.derive_due();
        }
    }

    async fn next_event(&mut self) -> Event {
        let shutdown = self.env.seams.tasks.shutdown_token();
        let due = self.led.values().map(|led| led.derive_at).min();
        // Ended duties before host events: they free room for what the events ask for.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Event::Shutdown,
            Some(ended) = self.running.next(), if !self.running.is_empty() => Event::Ended(ended),
            event = self.events.recv() => match event {
                Ok(event) => Event::Host(event),
                Err(RecvError::Lagged(_)) => Event::Lagged,
                // The quorum host has gone: nothing is led any more.
                Err(RecvError::Closed) => Event::Shutdown,
            },
            () = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            } => Event::Due,
        }
    }

    fn note_host_event(&mut self, event: HostEvent) {
        match event {
            HostEvent::Leading { quorum, term } => self.lead(quorum, term),
            HostEvent::NotLeading { quorum } | HostEvent::Left { quorum } => self.stop(quorum),
            HostEvent::Applied { quorum, events, .. } => {
                if let Some(led) = self.led.get_mut(&quorum) {
                    led.touch(&events);
                    led.wakeup.wake_up();
                    led.derive_soon();
                }
            }
            HostEvent::Primary { .. }
            | HostEvent::Joined { .. }
            | HostEvent::Paused { .. }
            | HostEvent::Unpaused { .. } => (),
        }
    }

    fn check_all(&mut self) {
        let leading: BTreeMap<QuorumId, Term> =
            self.quorums.all().iter().filter_map(|quorum| Some((quorum.id(), quorum.leading()?))).collect();
        let lost: Vec<QuorumId> = self.led.keys().copied().filter(|quorum| !leading.contains_key(quorum)).collect();
        for quorum in lost {
            self.stop(quorum);
        }
        for (quorum, term) in leading {
            self.lead(quorum, term);
        }
    }

    /// Starts (again) on a quorum. The same term again is a lead regained after a pause: duties are derived anew.
    fn lead(&mut self, quorum: QuorumId, term: Term) {
        if let Some(led) = self.led.get_mut(&quorum)
            && led.term == term
        {
            led.worker_sessions.touch_all();
            led.wakeup.wake_up();
            return led.derive_soon();
        }
        self.stop(quorum);
        let Some(local) = self.quorums.quorum(quorum) else { return };
        let stop = CancellationToken::new();
        let context = Context { env: self.env.clone(), quorum: local };
        let renewing = leases::renew_leases(context.clone());
        self.env.seams.tasks.spawn(until(stop.clone(), self.env.clone(), renewing).map(drop));
        let raising = levels::raise_level(context.clone());
        self.env.seams.tasks.spawn(until(stop.clone(), self.env.clone(), raising).map(drop));
        let worker_sessions = WorkerSessions::default();
        let serving = worker_sessions::run(context.clone(), term, worker_sessions.clone());
        self.env.seams.tasks.spawn(until(stop.clone(), self.env.clone(), serving).map(drop));
        let wakeup = Wakeup::default();
        let firing = triggers::run(context.clone(), wakeup.clone());
        self.env.seams.tasks.spawn(until(stop.clone(), self.env.clone(), firing).map(drop));
        let auditor = Auditor::new(context);
        self.env.seams.tasks.spawn(until(stop.clone(), self.env.clone(), auditor.run()).map(drop));
        let led = LedQuorum {
            term,
            stop,
            running: BTreeSet::new(),
            retries: BTreeMap::new(),
            idle: BTreeMap::new(),
            worker_sessions,
            wakeup,
            idle_workers: BTreeMap::new(),
            wake: None,
            derived_at: None,
            derive_at: Instant::now(),
        };
        self.led.insert(quorum, led);
    }

    fn stop(&mut self, quorum: QuorumId) {
        if let Some(led) = self.led.remove(&quorum) {
            led.stop.cancel();
            self.env.wait_reasons.clear_quorum(quorum);
        }
    }

    fn stop_all(&mut self) {
        for led in std::mem::take(&mut self.led).into_values() {
            led.stop.cancel();
        }
    }

    fn note_end(&mut self, ended: Ended) {
        let Ended { quorum, term, key, result } = ended;
        // Of an earlier lead: the task has ended, and nothing of it counts here.
        let Some(led) = self.led.get_mut(&quorum).filter(|led| led.term == term) else { return };
        led.running.remove(&key);
        let now = Instant::now();
        match result {
            Some(Ok(())) => {
                self.env.metrics.duties_done.inc();
                let again = if let Key::Poll(_, every) = key { every } else { AGAIN };
                led.retries.insert(key, Retry { failures: 0, failing_since: None, not_before: now + again });
            }
            Some(Err(DutyError::NotLeading)) | None => (),
            Some(Err(error)) => {
                self.env.metrics.duties_failed.inc();
                let before = led.retries.get(&key);
                let failures = before.map_or(0, |retry| retry.failures).saturating_add(1);
                let failing_since = before.and_then(|retry| retry.failing_since).or(Some(now));
                let pause = backoff(&key, failures, &*self.env.seams.entropy);
                led.retries.insert(key, Retry { failures, failing_since, not_before: now + pause });
                tracing::debug!(?quorum, ?key, failures, %error, "duty failed");
            }
        }
        // Every quorum may have waited for the room that this leaves.
        let was_full = self.running.len() + 1 >= DUTIES_MAX;
        for (id, led) in &mut self.led {
            if was_full || *id == quorum {
                led.derive_soon();
            }
        }
    }

    /// A peer that came, or came back, may be what duties have failed for: these are tried at once.
    fn notice_arrivals(&mut self, now: Instant) {
        if self.led.is_empty() || self.arrivals_at.is_some_and(|at| now - at < ARRIVALS_INTERVAL) {
            return;
        }
        self.arrivals_at = Some(now);
        let known = self.env.knowledge.peers().into_iter().map(|known| known.peer);
        let present: BTreeSet<PeerId> = known.filter(|peer| !self.env.net.is_absent(*peer)).collect();
        if present.iter().any(|peer| !self.present.contains(peer)) {
            for led in self.led.values_mut() {
                led.retries
                    .iter_mut()
                    .filter(|(key, _)| key.wants_peers())
                    .for_each(|(_, retry)| retry.not_before = now);
                led.derive_soon();
            }
        }
        self.present = present;
    }

    fn derive_due(&mut self) {
        let now = Instant::now();
        self.notice_arrivals(now);
        let due: Vec<QuorumId> =
            self.led.iter().filter(|(_, led)| led.derive_at <= now).map(|(quorum, _)| *quorum).collect();
        for quorum in due {
            self.derive(quorum, now);
        }
    }

    /// Derives a quorum's duties and starts those that neither run nor wait.
    fn derive(&mut self, quorum: QuorumId, now: Instant) {
        let local = self.quorums.quorum(quorum);
        let mut polls: usize = self.led.values().map(LedQuorum::polls).sum();
        let Some(led) = self.led.get_mut(&quorum) else { return };
        let Some(local) = local.filter(|local| local.leading() == Some(led.term)) else {
            // The host will say so, or has said so already; until then nothing is started.
            led.derived_at = Some(now);
            led.derive_at = now + DERIVE_ANYWAY.min(Duration::from_secs(1));
            return;
        };
        let duties = local.duties();
        let keys: BTreeSet<Key> = duties.iter().filter_map(Key::of).collect();
        led.retries.retain(|key, _| keys.contains(key));
        led.idle.retain(|job, _| keys.contains(&Key::WatchIdle(*job)));
        led.idle_workers.retain(|(worker, lease), _| keys.contains(&Key::ReleaseWorker(*worker, *lease)));
        if led.derived_at.is_none_or(|at| now - at >= DERIVE_ANYWAY) {
            led.worker_sessions.touch_all();
        }
        led.derived_at = Some(now);
        led.derive_at = now + DERIVE_ANYWAY;
        let context = Context { env: self.env.clone(), quorum: local };
        for duty in duties {
            let Some(key) = Key::of(&duty) else { continue };
            if led.running.contains(&key) {
                continue;
            }
            let retry = led.retries.get(&key).copied();
            if let Some(retry) = retry.filter(|retry| retry.not_before > now) {
                led.derive_at = led.derive_at.min(retry.not_before);
                continue;
            }
            let due = match duty {
                Duty::WatchIdle { job, upload_seq, empty, .. } => {
                    let settings = &self.env.settings;
                    let patience =
                        if empty { settings.store_empty.min(settings.store_idle) } else { settings.store_idle };
                    led.idle_since(job, upload_seq, now) + patience
                }
                Duty::ReleaseWorker { worker, lease } => {
                    led.worker_idle_since(worker, lease, now) + self.env.settings.worker_idle
                }
                Duty::Wake { due, after } => led.wakes_at(due, after, now),
                _ => now,
            };
            if due > now {
                led.derive_at = led.derive_at.min(due);
                continue;
            }
            if matches!(key, Key::Poll(..)) && (polls >= POLLS_MAX || led.polls() >= POLLS_PER_QUORUM_MAX) {
                // The end of a look derives its own quorum again, and may be another's.
                led.derive_at = led.derive_at.min(now + POLL_AGAIN);
                continue;
            }
            let kept = if key.is_urgent() { 0 } else { DUTIES_URGENT };
            if led.running.len() + kept >= DUTIES_PER_QUORUM_MAX || self.running.len() + kept >= DUTIES_MAX {
                // The end of any of them derives again.
                continue;
            }
            let tries = Tries {
                failures: retry.map_or(0, |retry| retry.failures),
                failing_for: retry.and_then(|retry| retry.failing_since).map_or(Duration::ZERO, |since| now - since),
            };
            polls += usize::from(matches!(key, Key::Poll(..)));
            led.running.insert(key);
            let (term, stop) = (led.term, led.stop.clone());
            let duty = perform(context.clone(), led.worker_sessions.clone(), duty, tries);
            let task = self.env.seams.tasks.spawn(until(stop, self.env.clone(), duty));
            self.running.push(
                async move {
                    let result = match task.await {
                        Ok(result) => result.flatten(),
                        // A bug of ours in one duty: logged by the panic hook, tried again with backoff.
                        Err(_) => Some(Err(DutyError::Other("the duty's task panicked".to_owned()))),
                    };
                    Ended { quorum, term, key, result }
                }
                .boxed(),
            );
        }
    }
}

impl LedQuorum {
    /// Has the workers looked at that the applied entries have something for.
    fn touch(&self, events: &[Applied]) {
        for event in events {
            if let Applied::Assigned { worker, .. }
            | Applied::StopWanted { worker }
            | Applied::RevealWanted { worker } = event
            {
                self.worker_sessions.touch(*worker);
            }
        }
    }
    /// Looks at conditions that are under way.
    fn polls(&self) -> usize {
        self.running.iter().filter(|key| matches!(key, Key::Poll(..))).count()
    }
    fn derive_soon(&mut self) {
        let soonest = self.derived_at.map_or_else(Instant::now, |at| at + DERIVE_INTERVAL);
        self.derive_at = self.derive_at.min(soonest);
    }
    /// Since when this run's count of signs of life stands still, as this primary has seen it.
    fn idle_since(&mut self, job: JobId, upload_seq: u64, now: Instant) -> Instant {
        let entry = self.idle.entry(job).or_insert((upload_seq, now));
        if entry.0 != upload_seq {
            *entry = (upload_seq, now);
        }
        entry.1
    }
    /// Since when the worker has had nothing to do; at least since it was last given something.
    fn worker_idle_since(&mut self, worker: PeerId, lease: LeaseId, now: Instant) -> Instant {
        let seen = *self.idle_workers.entry((worker, lease)).or_insert(now);
        self.worker_sessions.assigned_at(worker).map_or(seen, |given| given.max(seen))
    }
    /// When the timer runs out by this node's monotonic clock, counted from when it was first seen to be the earliest.
    fn wakes_at(&mut self, due: Millis, after: Duration, now: Instant) -> Instant {
        match self.wake {
            Some((seen, at)) if seen == due => at,
            _ => {
                let at = now + after;
                self.wake = Some((due, at));
                at
            }
        }
    }
}

fn backoff(key: &Key, failures: u32, entropy: &dyn Entropy) -> Duration {
    if let Key::Poll(_, every) = key {
        return conditions::pause(*every, failures);
    }
    let backoff = match key {
        Key::FindHolders(_, true) | Key::FindWorkers(_) | Key::Wake(_) => FIND_BACKOFF,
        _ => BACKOFF,
    };
    let pause = backoff.pause(failures.saturating_sub(1));
    pause + Duration::from_millis(entropy.below(pause.as_millis() as u64 / 2 + 1))
}

/// Runs the future for as long as this node leads and is not closing. `None`: stopped before it was done.
async fn until<F: Future>(stop: CancellationToken, env: Arc<DriverEnv>, future: F) -> Option<F::Output> {
    let shutdown = env.seams.tasks.shutdown_token();
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        () = shutdown.cancelled() => None,
        output = future => Some(output),
    }
}

async fn perform(context: Context, worker_sessions: WorkerSessions, duty: Duty, tries: Tries) -> Result<(), DutyError> {
    match duty {
        Duty::FindHolders { job, open, spares } => holders::find(&context, job, open, spares, tries).await,
        Duty::Confirm { manifest, job, column, grant, attempt } => {
            columns::confirm(&context, manifest, Slot { job, column, attempt }, grant).await
        }
        Duty::Release { job, column, grant, attempt } => {
            columns::release(&context, job, column, attempt, grant, tries).await
        }
        Duty::Repair { manifest, column } => repair::start(&context, manifest, column, tries).await,
        Duty::Rebuild { manifest, column, grant, attempt } => {
            repair::rebuild(&context, manifest, column, grant, attempt, tries).await
        }
        Duty::WatchIdle { job, upload_seq, .. } => {
            context.propose(Command::store(job, StoreCommand::Abandon { upload_seq })).await.map(drop)
        }
        Duty::FindWorkers { job, engine, resources, slots } => {
            recruiter::find(&context, &worker_sessions, Wanted { job, engine, resources, slots }).await
        }
        Duty::ReleaseWorker { worker, lease } => recruiter::release(&context, worker, lease).await,
        Duty::Wake { due, .. } => {
            context.propose(Command::Quorum(QuorumCommand::Elapsed { until: due })).await.map(drop)
        }
        // See `worker_sessions`, `triggers` and `Key::of`.
        Duty::HoldSession { .. } | Duty::FireAt { .. } | Duty::FireAfter { .. } => Ok(()),
        Duty::Poll { job, .. } => conditions::probe(&context, job).await,
    }
}
