//! Group commit: one sync for all writes that wait for one.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Done;
use super::metrics::Counters;
use crate::seams::{DiskError, Kv, run_blocking};

/// Most tickets that one sync serves. More than a node's callers have open at once; it bounds one turn of the loop.
const TICKETS_PER_SYNC_MAX: usize = 4096;

/// A write that was applied and waits for a sync.
pub(super) struct Ticket {
    pub(super) done: Done,
}

pub(super) struct Actor {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) tickets: mpsc::Receiver<Ticket>,
    pub(super) fatal: watch::Sender<Option<DiskError>>,
    pub(super) counters: Arc<Counters>,
    pub(super) shutdown: CancellationToken,
}

impl Actor {
    pub(super) async fn run(mut self) {
        let mut waiting = Vec::new();
        while self.next_tickets(&mut waiting).await {
            self.sync(std::mem::take(&mut waiting)).await;
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
                let delay = self.kv.sync_delay();
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let kv = self.kv.clone();
                run_blocking(move || kv.sync()).await
            }
        };
        self.counters.synced(waiting.len() as u64, started.elapsed(), result.is_ok());
        if let Err(error) = &result {
            tracing::error!(%error, "the record store cannot be synced: nothing more is acknowledged");
            self.fatal.send_if_modified(|fatal| fatal.is_none().then(|| *fatal = Some(error.clone())).is_some());
        }
        for ticket in waiting {
            (ticket.done)(result.clone());
        }
    }
}
