//! The approver's task: answers requests, ends what has run out, follows the disk.

use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::approval::limits::MESSAGE_BYTES_MAX;
use quorate_protocols::approval::{ApprovalMessage, Subject};
use quorate_protocols::ids::{LeaseId, QuorumId};
use quorate_protocols::resources::Lease;
use quorate_protocols::wire;
use tokio::sync::{Semaphore, mpsc};

use super::record::{self, LeaseRecord};
use super::{Approver, State};
use crate::seams::{Frame, InboundRequest, run_blocking};

/// Requests answered at once, most of them waiting for one shared sync; the next waits in the channel.
const REQUESTS_MAX: usize = 64;

/// How often the free disk and the memberships are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

pub(super) async fn run(approver: Approver, mut requests: mpsc::Receiver<InboundRequest>) {
    let shutdown = approver.inner.seams.tasks.shutdown_token();
    let slots = Arc::new(Semaphore::new(REQUESTS_MAX));
    let mut listening = true;
    let mut check_at = approver.inner.seams.clock.monotonic().plus(CHECK_INTERVAL);
    loop {
        approver.expire();
        let now = approver.inner.seams.clock.monotonic();
        if now >= check_at {
            approver.review_holds().await;
            check_at = now.plus(CHECK_INTERVAL);
        }
        let next = approver.lock().leases.next_end().unwrap_or(check_at).min(check_at);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            // What has ended makes room for what is asked.
            () = tokio::time::sleep(next.since(now).max(Duration::from_millis(1))) => {}
            () = approver.inner.wake.notified() => {}
            request = next_request(&mut requests, &slots), if listening => match request {
                Some((request, slot)) => {
                    let approver = approver.clone();
                    let tasks = approver.inner.seams.tasks.clone();
                    tasks.spawn(async move {
                        approver.serve(request).await;
                        drop(slot);
                    });
                }
                None => listening = false,
            },
        }
    }
}

/// The next request, taken from the channel only when it can be worked on.
async fn next_request(
    requests: &mut mpsc::Receiver<InboundRequest>,
    slots: &Arc<Semaphore>,
) -> Option<(InboundRequest, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    Some((requests.recv().await?, slot))
}

impl Approver {
    async fn serve(&self, request: InboundRequest) {
        let InboundRequest { from, frame, reply, memory } = request;
        match wire::decode::<ApprovalMessage>(&frame.head, MESSAGE_BYTES_MAX) {
            Ok(message) => {
                let answer = self.answer(from, message).await;
                reply.send(Frame::head(wire::encode(&answer)));
            }
            Err(error) => {
                // Unanswered: there is nothing to say to who does not speak the protocol.
                tracing::debug!(%from, %error, "malformed approval message");
                self.inner.metrics.malformed.inc();
                self.inner.net.penalise(from, "approval: malformed message");
            }
        }
        drop(memory);
    }

    /// Ends what has run out, except promises of membership that came true.
    fn expire(&self) {
        let now = self.inner.seams.clock.monotonic();
        let due = |state: &State| state.leases.next_end().is_some_and(|end| end <= now);
        if !due(&self.lock()) {
            return;
        }
        let over = |lease: &Lease| lease.expires.is_some_and(|expires| expires <= now);
        let came_true = self.members_where(over, true);
        came_true.into_iter().for_each(|id| self.keep_member(id));
        let ended = {
            let mut state = self.lock();
            let ended = state.leases.expire(now);
            ended.iter().for_each(|(id, _)| drop(state.reserved.remove(id)));
            self.inner.metrics.expired.inc_by(ended.len() as u64);
            ended
        };
        if !ended.is_empty() {
            self.forget(ended);
        }
    }

    /// Leases of membership of this sort whose quorum this node has joined, or not.
    fn members_where(&self, sort: impl Fn(&Lease) -> bool, joined: bool) -> Vec<LeaseId> {
        let of_sort: Vec<(LeaseId, QuorumId)> = {
            let state = self.lock();
            let member = |(id, lease): (LeaseId, &Lease)| match lease.subject {
                Subject::Member { quorum } if sort(lease) => Some((id, quorum)),
                _ => None,
            };
            state.leases.iter().filter_map(member).collect()
        };
        // Asked without our lock: the quorum host has locks of its own.
        let memberships = &self.inner.memberships;
        of_sort.into_iter().filter(|(_, quorum)| memberships.is_member(*quorum) == joined).map(|(id, _)| id).collect()
    }

    /// Turns a promise of membership into a lasting reservation.
    fn keep_member(&self, id: LeaseId) {
        let record = {
            let mut state = self.lock();
            let Some(lease) = state.leases.get(id).cloned() else { return };
            state.leases.convert(id);
            LeaseRecord::of(&lease, Some(lease.requirement.capacity.disk_bytes))
        };
        self.write_behind(record::put(id, &record));
    }

    /// Follows the disk, and lets go of memberships that ended.
    async fn review_holds(&self) {
        let left = self.members_where(Lease::is_lasting, false);
        left.into_iter().for_each(|id| self.end(id));
        let held = self.lock().held_disk_bytes();
        let approver = self.clone();
        run_blocking(move || approver.follow_disk(held)).await;
    }
}
