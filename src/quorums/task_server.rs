//! The task protocol's server: assignments go to this node's worker, what workers say to the quorums that it leads.
//!
//! Requests are taken with bounds ([`super::serve`]). A message that cannot be read is answered with what is wrong and
//! penalised. Whoever gives orders to this node's worker must be a voter of the quorum in whose name it speaks. Whether
//! the lease is for that quorum is for the worker to judge, whether an attempt is the sender's for the quorum's state
//! machine.

use std::sync::Arc;

use futures::future::BoxFuture;
use prometheus_client::metrics::gauge::Gauge;
use quorate_protocols::ids::PeerId;
use quorate_protocols::task::limits::{BATCH_MAX, MESSAGE_BYTES_MAX};
use quorate_protocols::task::message::{TaskAnswer, TaskMessage};
use quorate_protocols::wire;
use tokio::sync::mpsc;

use super::ports::{LocalTasks, PrimaryPort};
use super::serve;
use crate::certificates::{Standing, Standings};
use crate::seams::{Frame, InboundRequest, Net, TaskGroup};

pub struct TaskService {
    pub net: Arc<dyn Net>,
    pub primary: Arc<dyn PrimaryPort>,
    pub standings: Arc<dyn Standings>,
    /// `None` on a node that runs no tasks: it has no lease to take any under.
    pub worker: Option<Arc<dyn LocalTasks>>,
}

impl TaskService {
    /// Serves until the group closes. Returns how many requests are being answered now.
    pub fn start(self, tasks: &TaskGroup, requests: mpsc::Receiver<InboundRequest>) -> Gauge {
        serve::start(Arc::new(self), tasks, requests)
    }

    fn answer(&self, from: PeerId, message: TaskMessage) -> BoxFuture<'static, TaskAnswer> {
        match message {
            TaskMessage::Start { .. }
            | TaskMessage::Report { .. }
            | TaskMessage::Checkpoint { .. }
            | TaskMessage::Heartbeat { .. } => self.primary.answer_worker(from, message),
            TaskMessage::Logs { .. } => match &self.worker {
                Some(worker) => worker.answer(from, message),
                None => Box::pin(std::future::ready(no_worker(&message))),
            },
            TaskMessage::Assign { quorum, .. }
            | TaskMessage::Stop { quorum, .. }
            | TaskMessage::Reveal { quorum, .. } => match &self.worker {
                Some(worker) => {
                    let (worker, proof) = (worker.clone(), self.standings.standing(quorum, from));
                    Box::pin(async move {
                        match proof.await {
                            Standing::Voter => worker.answer(from, message).await,
                            // Not known is not "no": a primary says it again.
                            Standing::Silent => TaskAnswer::Busy,
                            Standing::Moved { .. } | Standing::Stranger => no_worker(&message),
                        }
                    })
                }
                None => Box::pin(std::future::ready(no_worker(&message))),
            },
        }
    }
}

impl serve::Service for TaskService {
    async fn handle(&self, from: PeerId, frame: &Frame) -> Vec<u8> {
        let message = match wire::decode::<TaskMessage>(&frame.head, MESSAGE_BYTES_MAX) {
            Ok(message) => message,
            Err(error) => {
                self.net.penalise(from, "a task message that cannot be read");
                return wire::encode(&TaskAnswer::Malformed { reason: error.to_string() });
            }
        };
        if items(&message) > BATCH_MAX {
            self.net.penalise(from, "a task message with too many tasks");
            return wire::encode(&TaskAnswer::Malformed { reason: format!("more than {BATCH_MAX} tasks") });
        }
        wire::encode(&self.answer(from, message).await)
    }
    fn busy(&self) -> Vec<u8> {
        wire::encode(&TaskAnswer::Busy)
    }
}

/// What a node that runs no tasks says.
fn no_worker(message: &TaskMessage) -> TaskAnswer {
    match message {
        TaskMessage::Logs { .. } => TaskAnswer::NoLogs,
        _ => TaskAnswer::UnknownLease,
    }
}

/// How many tasks the message is about.
fn items(message: &TaskMessage) -> usize {
    match message {
        TaskMessage::Assign { steps, assignments, .. } => assignments.len().max(steps.len()),
        TaskMessage::Stop { tasks, .. } | TaskMessage::Reveal { tasks, .. } | TaskMessage::Start { tasks, .. } => {
            tasks.len()
        }
        TaskMessage::Heartbeat { running, .. } => running.len(),
        TaskMessage::Report { reports, .. } => reports.len(),
        TaskMessage::Checkpoint { .. } | TaskMessage::Logs { .. } => 1,
    }
}

#[cfg(test)]
mod tests;
