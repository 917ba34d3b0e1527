//! The watches that this node holds for whoever waits for jobs of a quorum that it leads.
//!
//! What a session holds, whom an event concerns and what there is room for is decided by [`WatchTable`]. Here is when:
//! entries come into the table before the lead is confirmed, and are judged by the state after that; applied entries
//! wake exactly the sessions with a watch that they concern; the end of a lead ends the sessions of its quorum, whose
//! askers go on at the next primary. When this node lost events, all of them look at the state again.
//!
//! A request costs its asker one handler while it is parked, and returns when a newer one of its session
//! has come. A slow asker costs its entries, until its session is idle for `WATCH_SESSION_IDLE_MAX`.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::ids::PeerId;
use quorate_protocols::job::limits::WATCH_SESSION_IDLE_MAX;
use quorate_protocols::quorum::watch::{Due, Entered, Judged, Seat, WatchKey, WatchTable, judge};
use quorate_protocols::quorum::watch::{WatchAnswer, WatchRequest};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until};

use crate::quorums::ports::LocalQuorum;
use crate::quorums::request::not_leading;
use crate::raft::{HostEvent, QuorumError};
use crate::seams::TaskGroup;

/// Cloneable; clones share the table.
#[derive(Clone)]
pub struct Watches(Arc<Inner>);

struct Inner {
    started: Instant,
    table: Mutex<WatchTable<watch::Sender<()>>>,
}

impl Default for Watches {
    fn default() -> Self {
        Self(Arc::new(Inner { started: Instant::now(), table: Mutex::default() }))
    }
}

/// A request that is served, which leaves the table when it is dropped.
struct Served {
    watches: Watches,
    seat: Seat,
    woken: watch::Receiver<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        let now = self.watches.0.started.elapsed();
        self.watches.table().leave(&self.seat, now);
    }
}

impl Watches {
    /// Follows what happens in this node's quorums until the group closes.
    pub fn start(&self, tasks: &TaskGroup, mut events: broadcast::Receiver<HostEvent>) {
        let (watches, shutdown) = (self.clone(), tasks.shutdown_token());
        tasks.spawn(async move {
            let mut sweep = Instant::now() + WATCH_SESSION_IDLE_MAX;
            loop {
                let event = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    event = events.recv() => event,
                    () = sleep_until(sweep) => {
                        watches.table().end_idle(watches.0.started.elapsed());
                        sweep = Instant::now() + WATCH_SESSION_IDLE_MAX / 2;
                        continue;
                    }
                };
                let mut table = watches.table();
                match event {
                    Ok(HostEvent::Applied { events, .. }) => {
                        let woken = table.touch(&events);
                        wake(&table, woken);
                    }
                    Ok(HostEvent::NotLeading { quorum } | HostEvent::Left { quorum }) => table.end_quorum(quorum),
                    Ok(_) => (),
                    Err(RecvError::Lagged(_)) => {
                        let woken = table.touch_all();
                        wake(&table, woken);
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    /// Answers a request of `by`. Fails when this node does not lead, or leads no more.
    pub async fn answer(
        &self,
        local: &dyn LocalQuorum,
        this_node: PeerId,
        by: PeerId,
        request: &WatchRequest,
    ) -> Result<WatchAnswer, QuorumError> {
        let end = Instant::now() + Duration::from_millis(request.wait_ms.into());
        let mut served = match self.enter(this_node, by, request) {
            Entry::Served(served) => served,
            Entry::Refused(entries) => {
                local.confirm_lead().await?;
                let judged = judge_by(local, &entries)?;
                return Ok(answer_with(judged, &entries));
            }
            Entry::Answered(answer) => return Ok(answer),
        };
        local.confirm_lead().await?;
        self.table().confirm(&served.seat);
        loop {
            served.woken.borrow_and_update();
            // The table is not held while the state is looked at: applying an entry may take its time.
            let due = self.table().take_due(&served.seat);
            let mut judged = judge_by(local, &due)?;
            let is_newest = {
                let mut table = self.table();
                table.settle(&served.seat, &judged.still_due);
                if !table.is_open(&served.seat) {
                    return Ok(WatchAnswer::Reopen);
                }
                table.is_newest(&served.seat)
            };
            let refused = &served.seat.refused;
            if !refused.is_empty() {
                judged.met.extend(judge_by(local, refused)?.met);
            }
            if !judged.met.is_empty() || !refused.is_empty() || !is_newest || Instant::now() >= end {
                return Ok(answer_with(judged, refused));
            }
            tokio::select! {
                biased;
                // Its sender ends with the session.
                _ = served.woken.changed() => (),
                () = sleep_until(end) => (),
            }
            // Of the first look the confirmation above speaks; of a later one, that this member leads still.
            if local.leading().is_none() {
                return Err(not_leading(local));
            }
        }
    }

    fn enter(&self, this_node: PeerId, by: PeerId, request: &WatchRequest) -> Entry {
        let mut table = self.table();
        match table.enter(by, by == this_node, request) {
            Entered::Served(seat) => {
                let Some(waker) = table.waker(seat.key) else { return Entry::Answered(WatchAnswer::Reopen) };
                // The one that was parked returns.
                waker.send_replace(());
                let woken = waker.subscribe();
                Entry::Served(Served { watches: self.clone(), seat, woken })
            }
            Entered::Refused(entries) => Entry::Refused(entries),
            Entered::Nothing => Entry::Answered(WatchAnswer::Update { met: Vec::new(), refused: Vec::new() }),
            Entered::Unknown => Entry::Answered(WatchAnswer::Reopen),
        }
    }

    /// Sessions and entries that are held now.
    pub fn held(&self) -> (usize, usize) {
        let table = self.table();
        (table.sessions(), table.entries())
    }

    fn table(&self) -> MutexGuard<'_, WatchTable<watch::Sender<()>>> {
        self.0.table.lock()
    }
}

enum Entry {
    Served(Served),
    Refused(Vec<Due>),
    Answered(WatchAnswer),
}

fn wake(table: &WatchTable<watch::Sender<()>>, woken: impl IntoIterator<Item = WatchKey>) {
    for waker in woken.into_iter().filter_map(|key| table.waker(key)) {
        waker.send_replace(());
    }
}

fn judge_by(local: &dyn LocalQuorum, due: &[Due]) -> Result<Judged, QuorumError> {
    if due.is_empty() {
        return Ok(Judged::default());
    }
    let mut judged = None;
    local.with_state(&mut |state| judged = Some(judge(state, due)));
    // No state: this member has left.
    judged.ok_or_else(|| not_leading(local))
}

/// Those of the refused that do not hold are told as such.
fn answer_with(judged: Judged, refused: &[Due]) -> WatchAnswer {
    let is_met = |due: &&Due| judged.met.iter().any(|(id, _)| *id == due.id);
    let refused = refused.iter().filter(|due| !is_met(due)).map(|due| due.id).collect();
    WatchAnswer::Update { met: judged.met, refused }
}

#[cfg(test)]
mod tests;
