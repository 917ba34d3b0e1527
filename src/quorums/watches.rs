//! The watches of this node: waiting for a job of any quorum, without asking its primary again and again.
//!
//! At most one watch is in flight per job and condition, however many callers wait for it: they share *rounds*, each of
//! which asks whoever leads the quorum once and ends with its answer. A caller that joins a round late is given its
//! answer only if that stays true for ever; otherwise it asks again, so that no answer is older than its question.
//! A round goes on when its callers have left, until its answer; who comes back meanwhile finds it.
//!
//! Each watch that is held takes a stream to its primary. This node holds
//! [`WATCHES_PER_PEER_MAX`](quorate_protocols::job::limits::WATCHES_PER_PEER_MAX) at one peer; those beyond, and those
//! that the primary does not hold, are asked again with a pause that doubles.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_protocols::ids::{JobId, PeerId};
use quorate_protocols::job::limits::{
    DEADLINE, WATCH_PAUSE_MAX, WATCH_PAUSE_MIN, WATCH_WAIT_MAX, WATCHES_PER_PEER_MAX,
};
use quorate_protocols::job::{JobRecord, Until, Watched};
use quorate_protocols::quorum::Rejection;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::ClientError;
use super::client::{Ask, QuorumClient, Said, mixed_up};
use super::ports::Watch;
use super::request::Request;

/// A round ends after this, whoever was asked: a failover in the middle of the longest wait fits in it.
const ROUND_DEADLINE: Duration = WATCH_WAIT_MAX.saturating_add(DEADLINE);

type Outcome = Result<Watched, ClientError>;

/// The rounds that are in flight.
#[derive(Default)]
pub(super) struct Watches {
    rounds: BTreeMap<(JobId, Until), Round>,
    /// Watches held for this node, by who holds them.
    held: BTreeMap<PeerId, usize>,
}

#[derive(Clone)]
struct Round {
    began: Instant,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// One of the watches that a peer may hold for this node.
pub(super) struct WatchSlot {
    client: QuorumClient,
    peer: PeerId,
}

impl Drop for WatchSlot {
    fn drop(&mut self) {
        let held = &mut self.client.watches().held;
        if let Some(count) = held.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.peer);
            }
        }
    }
}

impl QuorumClient {
    /// The job as soon as the condition holds, linearizable as a query; `None` when it does not within `patience`.
    pub async fn watch(
        &self,
        job: JobId,
        until: Until,
        patience: Duration,
    ) -> Result<Option<Box<JobRecord>>, ClientError> {
        let asked = Instant::now();
        let end = asked + patience;
        loop {
            let Round { began, mut outcome } = self.join_round(job, until);
            let Ok(ended) = timeout_at(end, outcome.wait_for(Option::is_some)).await else {
                return Ok(None);
            };
            let outcome = match ended {
                Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(given_up(job))),
                Err(_) => Err(given_up(job)),
            };
            match outcome? {
                Watched::Met(record) if began >= asked || until.is_lasting() => {
                    return Ok(Some(record));
                }
                Watched::Unknown if began >= asked => {
                    return Err(Rejection::UnknownJob { job }.into());
                }
                // Asked before this caller came, or not met yet.
                Watched::Met(_) | Watched::Unknown | Watched::NotYet { .. } => (),
            }
        }
    }

    /// The round in flight for this condition, or a new one.
    fn join_round(&self, job: JobId, until: Until) -> Round {
        let mut watches = self.watches();
        if let Some(round) = watches.rounds.get(&(job, until)) {
            return round.clone();
        }
        let (send, outcome) = watch::channel(None);
        let round = Round { began: Instant::now(), outcome };
        watches.rounds.insert((job, until), round.clone());
        drop(watches);
        let client = self.clone();
        self.parts().tasks.spawn(async move {
            let outcome = client.run_round(job, until, &send).await;
            // Gone from the table first: whoever is told asks in a new round, if at all.
            client.watches().rounds.remove(&(job, until));
            send.send_replace(Some(outcome));
        });
        round
    }

    async fn run_round(&self, job: JobId, until: Until, callers: &watch::Sender<Option<Outcome>>) -> Outcome {
        let mut pause = WATCH_PAUSE_MIN;
        loop {
            let began = Instant::now();
            let request = Request::Watch(Watch { job, until, wait: WATCH_WAIT_MAX });
            let watched = match self.ask(job.quorum, Ask::Job(request), ROUND_DEADLINE).await? {
                Said::Watched(watched) => watched,
                _ => return Err(mixed_up(job.quorum)),
            };
            // The table itself is one of those who hear of the outcome.
            let is_wanted = callers.receiver_count() > 1;
            match watched {
                // Whoever says that it held a watch for no time is treated as if it had not.
                Watched::NotYet { held, .. } if is_wanted && !(held && began.elapsed() > WATCH_PAUSE_MAX) => {
                    let jitter = self.parts().entropy.below(pause.as_millis() as u64 / 2 + 1);
                    sleep(pause + Duration::from_millis(jitter)).await;
                    pause = (pause * 2).min(WATCH_PAUSE_MAX);
                }
                watched => return Ok(watched),
            }
        }
    }

    /// Whether the peer may hold another watch for this node.
    pub(super) fn watch_slot(&self, peer: PeerId) -> Option<WatchSlot> {
        let mut watches = self.watches();
        let held = watches.held.entry(peer).or_default();
        if *held >= WATCHES_PER_PEER_MAX {
            return None;
        }
        *held += 1;
        Some(WatchSlot { client: self.clone(), peer })
    }
}

/// The node is shutting down: nothing is known of the job.
fn given_up(job: JobId) -> ClientError {
    ClientError::NoPrimary { quorum: job.quorum, after: Duration::ZERO }
}

#[cfg(test)]
mod tests;
