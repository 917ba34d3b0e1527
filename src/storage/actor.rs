//! Group commit of one store: one sync for all writes that wait for one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Permit};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::Counters;
use super::{Done, TICKETS_MAX};
use crate::seams::{DiskError, Failpoint, Kv, LogEngine, TaskGroup, failpoint, run_blocking};

/// Most tickets that one sync serves. More than a node's callers have open at once; it bounds one turn of the loop.
const TICKETS_PER_SYNC_MAX: usize = 4096;

/// After a compaction that failed: what it met may be purged one day, and until then each try would meet it again.
pub(super) const COMPACTION_PAUSE: Duration = Duration::from_secs(60);

/// What is synced.
#[derive(Clone)]
pub(super) enum Store {
    Records(Arc<dyn Kv>),
    Log(Arc<dyn LogEngine>),
}

impl Store {
    fn name(&self) -> &'static str {
        match self {
            Self::Records(_) => "record store",
            Self::Log(_) => "log",
        }
    }
    fn sync(&self) -> Result<(), DiskError> {
        match self {
            Self::Records(kv) => kv.sync(),
            Self::Log(log) => log.sync(),
        }
    }
    fn sync_delay(&self) -> Duration {
        match self {
            Self::Records(kv) => kv.sync_delay(),
            Self::Log(log) => log.sync_delay(),
        }
    }
}

/// A write that was applied and waits for a sync.
struct Ticket {
    done: Done,
}

/// The writers' side. Cloneable; all clones share one sync.
#[derive(Clone)]
pub(super) struct GroupCommit {
    store: Store,
    tickets: mpsc::Sender<Ticket>,
    fatal: watch::Receiver<Option<DiskError>>,
    pub(super) counters: Arc<Counters>,
}

impl GroupCommit {
    /// Starts the syncing actor in the caller's task group. A sync that fails is told through `fatal`, and nothing is
    /// written once anybody has told one there.
    pub(super) fn start(store: Store, fatal: watch::Sender<Option<DiskError>>) -> Self {
        let tasks = TaskGroup::current();
        let (tickets, receiver) = mpsc::channel(TICKETS_MAX);
        let counters = Arc::new(Counters::default());
        let told = fatal.subscribe();
        let actor = Actor {
            store: store.clone(),
            tickets: receiver,
            fatal,
            counters: counters.clone(),
            shutdown: tasks.shutdown_token(),
            compacts_from: Instant::now(),
        };
        drop(tasks.spawn(actor.run()));
        Self { store, tickets, fatal: told, counters }
    }

    /// Applies a write and returns when it would survive a power loss.
    pub(super) async fn write(&self, apply: impl FnOnce() -> Result<(), DiskError>) -> Result<(), DiskError> {
        let (send, receive) = tokio::sync::oneshot::channel();
        let permit = match self.tickets.try_reserve() {
            Ok(permit) => Some(permit),
            Err(TrySendError::Full(())) => self.tickets.reserve().await.ok(),
            Err(TrySendError::Closed(())) => None,
        };
        self.apply(apply, permit, Box::new(move |result| drop(send.send(result))))?;
        receive.await.unwrap_or_else(|_| {
            Err(DiskError::Io { what: "sync", place: "store".into(), reason: "the storage actor stopped".into() })
        })
    }

    /// Applies a write and calls `done` when it would survive a power loss or never will; or refuses, and does neither.
    pub(super) fn write_then(
        &self,
        apply: impl FnOnce() -> Result<(), DiskError>,
        done: Done,
    ) -> Result<(), DiskError> {
        let permit = match self.tickets.try_reserve() {
            Ok(permit) => Some(permit),
            Err(TrySendError::Full(())) => {
                let reason = format!("{TICKETS_MAX} writes wait for a sync already");
                return Err(DiskError::Io { what: "queueing a write", place: self.store.name().into(), reason });
            }
            Err(TrySendError::Closed(())) => None,
        };
        self.apply(apply, permit, done)
    }

    /// Applies a write that waits for no sync: a later one makes it durable.
    pub(super) fn write_unsynced(&self, apply: impl FnOnce() -> Result<(), DiskError>) -> Result<(), DiskError> {
        self.require_no_failure()?;
        // Without a permit a sync comes in any case, or there is no actor any more.
        apply().inspect_err(|error| self.check_after(error, self.tickets.try_reserve().ok()))
    }

    fn require_no_failure(&self) -> Result<(), DiskError> {
        match &*self.fatal.borrow() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Has the store synced after a write that failed: if it has no future, the sync says so, and the node stops.
    fn check_after(&self, error: &DiskError, permit: Option<Permit<'_, Ticket>>) {
        if let Some(permit) = permit.filter(|_| !matches!(error, DiskError::Full { .. })) {
            self.counters.metrics.waiting.inc();
            permit.send(Ticket { done: Box::new(|_| ()) });
        }
    }

    /// Applies the write and queues its ticket. Without a place in the queue the actor has closed with the node: those
    /// who close after it sync for themselves.
    fn apply(
        &self,
        apply: impl FnOnce() -> Result<(), DiskError>,
        permit: Option<Permit<'_, Ticket>>,
        mut done: Done,
    ) -> Result<(), DiskError> {
        self.require_no_failure()?;
        if let Err(error) = apply() {
            self.check_after(&error, permit);
            return Err(error);
        }
        self.counters.wrote();
        failpoint(Failpoint::WriteApplied, &mut done);
        match permit {
            Some(permit) => permit.send(Ticket { done }),
            None => {
                let began = Instant::now();
                let result = self.store.sync();
                self.counters.synced(1, began.elapsed(), result.is_ok());
                done(result);
            }
        }
        Ok(())
    }
}

struct Actor {
    store: Store,
    tickets: mpsc::Receiver<Ticket>,
    fatal: watch::Sender<Option<DiskError>>,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
    /// Later than now once a compaction failed.
    compacts_from: Instant,
}

impl Actor {
    async fn run(mut self) {
        let mut waiting = Vec::new();
        while self.next_tickets(&mut waiting).await {
            self.sync(std::mem::take(&mut waiting)).await;
            self.compact().await;
        }
    }

    /// The only place this actor waits for work. False when there will be no more.
    async fn next_tickets(&mut self, waiting: &mut Vec<Ticket>) -> bool {
        tokio::select! {
            biased;
            // From here on writers sync for themselves; what is queued already is still served.
            () = self.shutdown.cancelled(), if !self.tickets.is_closed() => self.tickets.close(),
            taken = self.tickets.recv_many(waiting, TICKETS_PER_SYNC_MAX) => return taken > 0,
        }
        self.tickets.recv_many(waiting, TICKETS_PER_SYNC_MAX).await > 0
    }

    async fn sync(&self, waiting: Vec<Ticket>) {
        let started = Instant::now();
        self.counters.sync_began();
        let failed = self.fatal.borrow().clone();
        let result = match failed {
            Some(error) => Err(error),
            None => {
                let delay = self.store.sync_delay();
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let store = self.store.clone();
                run_blocking(move || store.sync()).await
            }
        };
        self.counters.synced(waiting.len() as u64, started.elapsed(), result.is_ok());
        if let Err(error) = &result {
            let store = self.store.name();
            tracing::error!(%error, "the {store} cannot be synced: nothing more is acknowledged");
            self.fatal.send_if_modified(|fatal| fatal.is_none().then(|| *fatal = Some(error.clone())).is_some());
        }
        for ticket in waiting {
            (ticket.done)(result.clone());
        }
    }

    /// Gives room back while nobody waits, and some of it in any case: who waited has been answered.
    async fn compact(&mut self) {
        let Store::Log(log) = &self.store else { return };
        while self.compacts_from <= Instant::now() && log.wants_compaction() {
            let step = log.clone();
            match run_blocking(move || step.compact()).await {
                Ok(true) if self.tickets.is_empty() => (),
                // What it writes anew needs room, too: there is some once something else was deleted.
                Ok(_) | Err(DiskError::Full { .. }) => return,
                Err(error) => {
                    tracing::error!(%error, "the log cannot be compacted: it grows until what was met is purged");
                    self.compacts_from = Instant::now() + COMPACTION_PAUSE;
                }
            }
        }
    }
}
