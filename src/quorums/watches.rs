//! The watches of this node: waiting for jobs of any quorum, without asking their primaries again and again.
//!
//! This node has at most one session with a quorum, however many callers wait for its jobs, and of each session one
//! request is parked at the primary. [`WatchAsker`] decides what is asked; a task per session asks it through the
//! client, which finds the primary and goes on to the next after a failover. An answer wakes exactly the callers whose
//! watch it answers. Callers that wait for the same job to end share an entry, because its end is final; otherwise each
//! has its own, so that no answer is older than its question. An entry that nobody waits for any more is dropped with
//! the session's next request; a session without entries ends after [`LINGER`].
//!
//! Each request that is parked is one of those under way to its primary. This node parks as many at one peer as its
//! sessions may take there; those beyond are answered at once, and asked again with a pause that doubles.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_protocols::ids::{JobId, QuorumId};
use quorate_protocols::job::limits::{DEADLINE, WATCH_REQUESTS_MAX, WATCH_SESSIONS_PER_PEER_MAX, WATCH_WAIT_MAX};
use quorate_protocols::quorum::Rejection;
use quorate_protocols::quorum::watch::{EntryId, WatchAsker};
use quorate_protocols::quorum::watch::{Met, Until, WatchAnswer, WatchRequest, Watched};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::ClientError;
use super::client::{Ask, FinalAnswer, QuorumClient, mixed_up};
use super::request::Request;

/// A request ends after this, whoever was asked: a failover in the middle of the longest wait fits in it.
const REQUEST_DEADLINE: Duration = WATCH_WAIT_MAX.saturating_add(DEADLINE);

/// The last request of a session, which ends it before it is idle, is tried for so long.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// A session outlives its last entry for so long: who waits for one job after the other opens one.
const LINGER: Duration = Duration::from_secs(1);

/// Requests that one peer may have parked for this node.
pub(super) const PARKED_PER_PEER_MAX: usize = WATCH_REQUESTS_MAX * WATCH_SESSIONS_PER_PEER_MAX;

type Outcome = Result<Watched, ClientError>;

/// The sessions of this node.
#[derive(Default)]
pub(super) struct Watches {
    sessions: BTreeMap<QuorumId, Session>,
}

struct Session {
    started: Instant,
    asker: WatchAsker,
    callers: BTreeMap<EntryId, Callers>,
    /// The entries of conditions that hold for ever, which callers share.
    shared: BTreeMap<(JobId, Until), EntryId>,
    last_caller: u64,
    /// Since when nobody waits.
    unused_since: Option<Instant>,
    changed: Arc<Notify>,
}

struct Callers {
    condition: (JobId, Until),
    waiting: BTreeMap<u64, oneshot::Sender<Outcome>>,
}

/// One caller that waits, who is gone from its session when this is dropped.
struct Waiting {
    client: QuorumClient,
    quorum: QuorumId,
    entry: EntryId,
    caller: u64,
    /// Others asked before.
    is_late: bool,
    outcome: oneshot::Receiver<Outcome>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut watches = self.client.watches();
        if let Some(session) = watches.sessions.get_mut(&self.quorum) {
            session.remove_caller(self.entry, self.caller);
        }
    }
}

impl Session {
    fn new(quorum: QuorumId, random: u64) -> Self {
        Self {
            started: Instant::now(),
            asker: WatchAsker::new(quorum, random),
            callers: BTreeMap::new(),
            shared: BTreeMap::new(),
            last_caller: 0,
            unused_since: None,
            changed: Arc::default(),
        }
    }

    fn add_caller(&mut self, job: JobId, until: Until) -> (EntryId, u64, bool, oneshot::Receiver<Outcome>) {
        let known = self.shared.get(&(job, until)).copied();
        let entry = known.unwrap_or_else(|| {
            self.unused_since = None;
            self.changed.notify_one();
            self.asker.add(job, until)
        });
        if until.is_lasting() {
            self.shared.insert((job, until), entry);
        }
        self.last_caller += 1;
        let (caller, (send, outcome)) = (self.last_caller, oneshot::channel());
        let callers = Callers { condition: (job, until), waiting: BTreeMap::new() };
        self.callers.entry(entry).or_insert(callers).waiting.insert(caller, send);
        (entry, caller, known.is_some(), outcome)
    }

    fn remove_caller(&mut self, entry: EntryId, caller: u64) {
        let Some(callers) = self.callers.get_mut(&entry) else { return };
        callers.waiting.remove(&caller);
        if callers.waiting.is_empty() {
            self.asker.cancel(entry);
            self.forget(entry);
        }
    }

    /// Tells those who wait for the entry, which the asker has not any more.
    fn notify_callers(&mut self, entry: EntryId, outcome: &Outcome) {
        for caller in self.forget(entry).into_iter().flat_map(|callers| callers.waiting.into_values()) {
            // A caller that has just left needs no answer.
            let _ = caller.send(outcome.clone());
        }
    }

    fn forget(&mut self, entry: EntryId) -> Option<Callers> {
        let callers = self.callers.remove(&entry)?;
        if self.shared.get(&callers.condition) == Some(&entry) {
            self.shared.remove(&callers.condition);
        }
        if self.callers.is_empty() {
            self.unused_since = Some(Instant::now());
            self.changed.notify_one();
        }
        Some(callers)
    }
}

/// What a session's task does next.
enum Step {
    Ask(WatchRequest),
    /// Nothing before this instant, if at all.
    Rest(Option<Instant>),
    /// The session has ended here; at the primary it does with this request.
    End(Option<WatchRequest>),
}

impl QuorumClient {
    /// The job as soon as the condition holds, linearizable as a query, with its outputs if they are short; `None` when
    /// it does not within `patience`.
    pub async fn watch(&self, job: JobId, until: Until, patience: Duration) -> Result<Option<Met>, ClientError> {
        let end = Instant::now() + patience;
        loop {
            let mut waiting = self.join_session(job, until);
            let Ok(outcome) = timeout_at(end, &mut waiting.outcome).await else {
                return Ok(None);
            };
            match outcome.unwrap_or_else(|_| Err(given_up(job)))? {
                Watched::Met(met) => return Ok(Some(met)),
                // It may have been submitted between the question of whoever asked first, and this one.
                Watched::Unknown if waiting.is_late => (),
                Watched::Unknown => return Err(Rejection::UnknownJob { job }.into()),
            }
        }
    }

    /// Sessions of this node, and its callers that wait in them.
    pub fn watches_open(&self) -> (usize, usize) {
        let watches = self.watches();
        let callers = watches.sessions.values().flat_map(|session| session.callers.values());
        (watches.sessions.len(), callers.map(|callers| callers.waiting.len()).sum())
    }

    fn join_session(&self, job: JobId, until: Until) -> Waiting {
        let mut watches = self.watches();
        let session = watches.sessions.entry(job.quorum).or_insert_with(|| {
            let (client, quorum) = (self.clone(), job.quorum);
            self.parts().tasks.spawn(async move { client.run_session(quorum).await });
            Session::new(quorum, self.parts().entropy.below(u64::MAX))
        });
        let (entry, caller, is_late, outcome) = session.add_caller(job, until);
        Waiting { client: self.clone(), quorum: job.quorum, entry, caller, is_late, outcome }
    }

    /// Asks what is due until nobody waits, and tells the callers what was answered.
    async fn run_session(self, quorum: QuorumId) {
        let Some(changed) = self.watches().sessions.get(&quorum).map(|session| session.changed.clone()) else { return };
        let shutdown = self.parts().tasks.shutdown_token();
        let mut asked = FuturesUnordered::new();
        loop {
            let rest_until = match self.next_step(quorum) {
                Step::Ask(request) => {
                    asked.push(self.ask_for_watches(request));
                    continue;
                }
                Step::Rest(until) => until.unwrap_or_else(|| Instant::now() + REQUEST_DEADLINE),
                Step::End(None) => return,
                Step::End(Some(last)) => {
                    // Its loss costs the primary the entries until the session is idle.
                    let _ = self.ask(quorum, Ask::Job(Request::Watch(last)), CLOSE_DEADLINE).await;
                    return;
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    // Whoever waits is told that nothing is known.
                    self.watches().sessions.remove(&quorum);
                    return;
                }
                Some((session, number, answer)) = asked.next() => {
                    if self.take_answer(quorum, session, number, answer) {
                        // Its requests are of a session that is no more.
                        asked.clear();
                    }
                }
                () = changed.notified() => (),
                () = sleep_until(rest_until) => (),
            }
        }
    }

    async fn ask_for_watches(&self, request: WatchRequest) -> (u64, u64, Result<WatchAnswer, ClientError>) {
        let (quorum, session, number) = (request.quorum, request.session, request.number);
        let answer = match self.ask(quorum, Ask::Job(Request::Watch(request)), REQUEST_DEADLINE).await {
            Ok(FinalAnswer::Watched(answer)) => Ok(answer),
            Ok(_) => Err(mixed_up(quorum)),
            Err(error) => Err(error),
        };
        (session, number, answer)
    }

    fn next_step(&self, quorum: QuorumId) -> Step {
        let mut watches = self.watches();
        let Some(session) = watches.sessions.get_mut(&quorum) else { return Step::End(None) };
        if let Some(request) = session.asker.next_request(session.started.elapsed()) {
            return Step::Ask(request);
        }
        let ends_at = session.unused_since.map(|since| since + LINGER);
        if ends_at.is_some_and(|at| at <= Instant::now()) {
            let last = session.asker.close();
            watches.sessions.remove(&quorum);
            return Step::End(last);
        }
        let next_at = session.asker.next_at().map(|at| session.started + at);
        Step::Rest([next_at, ends_at].into_iter().flatten().min())
    }

    /// Returns whether another session has to be opened.
    fn take_answer(
        &self,
        quorum: QuorumId,
        session: u64,
        number: u64,
        answer: Result<WatchAnswer, ClientError>,
    ) -> bool {
        let random = self.parts().entropy.below(u64::MAX);
        let mut watches = self.watches();
        let Some(open) = watches.sessions.get_mut(&quorum) else { return false };
        match answer {
            Ok(answer) => {
                let now = open.started.elapsed();
                for (entry, watched) in open.asker.take_answer(session, number, answer, now, random) {
                    open.notify_callers(entry, &Ok(watched));
                }
            }
            Err(error) => {
                for entry in open.asker.give_up(session, number) {
                    open.notify_callers(entry, &Err(error.clone()));
                }
            }
        }
        !open.asker.is_current(session)
    }

    /// Whether the answer to a request of this node's session can be true.
    pub(super) fn may_believe(&self, quorum: QuorumId, answer: &WatchAnswer) -> bool {
        self.watches().sessions.get(&quorum).is_none_or(|session| session.asker.may_believe(answer))
    }
}

/// The node is shutting down: nothing is known of the job.
fn given_up(job: JobId) -> ClientError {
    ClientError::NoPrimary { quorum: job.quorum, after: Duration::ZERO }
}

#[cfg(test)]
mod tests;
