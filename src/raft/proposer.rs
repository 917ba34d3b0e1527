//! Commands become log entries here: one actor per group.
//!
//! openraft appends one entry per write and waits for its flush, so the batch is ours: while one entry is in flight
//! the queue fills, and the next entry carries all of it, up to `BATCH_COMMANDS_MAX` commands or `BATCH_BYTES_MAX`
//! bytes. The queue holds `PROPOSALS_MAX` commands; the next is refused as busy. Each command gets its own reply.
//!
//! What a caller may conclude: a reply is committed and applied; `NotPrimary` means that the command is not and never
//! will be committed by this call, and so does `DiskFull`; a passed deadline, or a group that ended meanwhile, means
//! *unknown*. A command whose caller has given up while it was still queued is dropped: proposing it later could only
//! surprise.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::ServerState;
use openraft::error::ClientWriteError;
use openraft::raft::ClientWriteResponse;
use quorate_protocols::ids::{Millis, PeerId};
use quorate_protocols::quorum::limits::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, MAJORITY_SILENCE_MAX};
use quorate_protocols::quorum::{Batch, Command, CommandReply, Rejection};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::QuorumError;
use super::group::Group;
use super::metrics::QuorumMetrics;
use super::types::TypeConfig;
use crate::seams::Clock;

/// Entries that were in flight when the lead was lost and may still be applied. Beyond this their callers learn at
/// their deadlines.
const ABANDONED_MAX: usize = 16;

pub type Answer = Result<Result<CommandReply, Rejection>, QuorumError>;

/// One command on its way into the log.
pub struct Proposal {
    pub by: PeerId,
    pub command: Command,
    /// Encoded size, counted against the batch.
    pub bytes: usize,
    pub answer: oneshot::Sender<Answer>,
}

type Written = Result<ClientWriteResponse<TypeConfig>, WriteError>;

enum WriteError {
    /// Refused or cut from the log: not committed, now or later.
    NotPrimary,
    /// openraft stopped; whether the entry is committed is unknown.
    Stopped,
}

pub struct Proposer {
    pub group: Arc<Group>,
    pub queue: mpsc::Receiver<Proposal>,
    pub clock: Arc<dyn Clock>,
    pub metrics: QuorumMetrics,
    /// When this member wrote its entry before, or was first seen to lead, on its monotonic clock; and for how long it
    /// had heard no majority by then.
    pub wrote_at: Option<(Millis, Duration)>,
    /// Whether that was an entry.
    pub wrote: bool,
}

/// The first command of a new quorum waits this long for the clocks of a majority, which the first heartbeats tell, and
/// looks this often: its record begins with a right time, or it would begin with a step.
const CLOCKS_WAIT: Duration = MAJORITY_SILENCE_MAX;
const CLOCKS_CHECK: Duration = Duration::from_millis(5);

impl Proposer {
    pub async fn run(mut self) {
        let stop = self.group.stop_token();
        let mut server = self.group.raft.server_metrics();
        // The entry in flight, and after a lost lead the ones before it.
        let mut in_flight: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut current = 0usize;
        let mut carried: Option<Proposal> = None;
        loop {
            let leads = {
                let server = server.borrow_and_update();
                let leads = matches!(server.state, ServerState::Leader);
                if leads {
                    self.group.log.own_sync.set_membership(server.membership_config.membership());
                }
                leads
            };
            if leads {
                self.wrote_at = self.wrote_at.or_else(|| Some(self.now()));
            } else {
                (self.wrote_at, self.wrote) = (None, false);
                current = 0;
                if let Some(proposal) = carried.take() {
                    let _ = proposal.answer.send(Err(self.group.not_primary()));
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.close(carried, in_flight).await,
                Some(()) = in_flight.next() => {
                    // After a change of lead the oldest answer may be an abandoned one: only an empty set says for
                    // sure that the current entry has ended.
                    if in_flight.is_empty() { current = 0 }
                }
                changed = server.changed() => if changed.is_err() { return self.close(carried, in_flight).await },
                proposal = self.queue.recv(), if current == 0 && carried.is_none() => match proposal {
                    None => return,
                    Some(proposal) if !leads => drop(proposal.answer.send(Err(self.group.not_primary()))),
                    Some(proposal) => carried = Some(proposal),
                },
            }
            if current == 0
                && in_flight.len() <= ABANDONED_MAX
                && let Some(first) = carried.take()
            {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return self.close(Some(first), in_flight).await,
                    () = self.wait_for_clocks() => (),
                }
                let (proposals, left) = self.gather(first);
                carried = left;
                if !proposals.is_empty() {
                    in_flight.push(self.write(proposals));
                    current = 1;
                }
            }
        }
    }

    fn now(&self) -> (Millis, Duration) {
        let now = self.clock.monotonic();
        (now, self.group.unheard_for(now))
    }

    /// Returns at once, but for the first command of a record that knows no time.
    async fn wait_for_clocks(&self) {
        let is_blank = || self.group.machine.read(|applied| applied.state.time() == Millis(0));
        let end = Instant::now() + CLOCKS_WAIT;
        while self.group.judge_clock().is_none() && is_blank() && Instant::now() < end {
            tokio::time::sleep(CLOCKS_CHECK).await;
        }
    }

    /// The time by the clocks of a majority. While they are not known, time goes on as it passes.
    fn time(&self, since: Option<Duration>) -> Millis {
        self.group.judge_clock().map(|judged| judged.time).unwrap_or_else(|| {
            let (time, wall) = self.group.machine.read(|applied| (applied.state.time(), applied.state.wall()));
            if time == Millis(0) { self.group.own_clock() } else { wall.plus(since.unwrap_or_default()) }
        })
    }

    /// What waits, up to the size of a batch; and the command that no longer fitted.
    fn gather(&mut self, first: Proposal) -> (Vec<Proposal>, Option<Proposal>) {
        let (mut proposals, mut bytes, mut next) = (Vec::new(), 0, Some(first));
        while let Some(proposal) = next.take() {
            if proposal.answer.is_closed() {
                next = self.queue.try_recv().ok();
                continue;
            }
            if !proposals.is_empty() && bytes + proposal.bytes > BATCH_BYTES_MAX {
                return (proposals, Some(proposal));
            }
            bytes += proposal.bytes;
            proposals.push(proposal);
            if proposals.len() < BATCH_COMMANDS_MAX {
                next = self.queue.try_recv().ok();
            }
        }
        (proposals, None)
    }

    fn write(&mut self, proposals: Vec<Proposal>) -> BoxFuture<'static, ()> {
        let mut commands = Vec::with_capacity(proposals.len());
        let mut answers = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            commands.push((proposal.by, proposal.command));
            answers.push(proposal.answer);
        }
        let (now, unheard) = self.now();
        let (before, unheard_before) = self.wrote_at.replace((now, unheard)).unwrap_or((now, unheard));
        let elapsed = now.since(before);
        let passed = elapsed.saturating_sub(unheard.saturating_sub(unheard_before));
        let since = std::mem::replace(&mut self.wrote, true).then_some(elapsed);
        let batch = Batch { now: self.time(since), since, passed, commands };
        let (group, metrics, started) = (self.group.clone(), self.metrics.clone(), Instant::now());
        Box::pin(async move {
            let written: Written = match group.raft.client_write_ff(batch).await {
                Err(_) => Err(WriteError::Stopped),
                Ok(receiver) => match receiver.await {
                    Ok(Ok(response)) => Ok(response),
                    Ok(Err(ClientWriteError::ForwardToLeader(_) | ClientWriteError::ChangeMembershipError(_))) => {
                        Err(WriteError::NotPrimary)
                    }
                    Err(_) => Err(WriteError::Stopped),
                },
            };
            match written {
                Ok(response) => {
                    metrics.committed(answers.len(), started.elapsed());
                    let mut replies = response.data.replies.into_iter();
                    for answer in answers {
                        let reply = replies.next().ok_or_else(|| group.stopped("an entry had too few replies"));
                        let _ = answer.send(reply);
                    }
                }
                Err(WriteError::NotPrimary) => {
                    answers.into_iter().for_each(|answer| drop(answer.send(Err(group.not_primary()))));
                }
                Err(WriteError::Stopped) => {
                    let interrupted = group.interrupted(started.elapsed());
                    answers.into_iter().for_each(|answer| drop(answer.send(Err(interrupted.clone()))));
                }
            }
        })
    }

    /// Nothing that is still queued was proposed. What was in flight ends with openraft.
    async fn close(mut self, carried: Option<Proposal>, mut in_flight: FuturesUnordered<BoxFuture<'static, ()>>) {
        self.queue.close();
        let mut next = carried.or_else(|| self.queue.try_recv().ok());
        while let Some(proposal) = next {
            let _ = proposal.answer.send(Err(self.group.closed()));
            next = self.queue.try_recv().ok();
        }
        while in_flight.next().await.is_some() {}
    }
}
