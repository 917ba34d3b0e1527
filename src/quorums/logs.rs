//! Reader of task logs: asks the worker that has the log of an attempt.
//!
//! The worker that ran an attempt keeps its log, within bounds of its own, and no other node does: a worker that is
//! gone takes its logs along. It shows them to the job's owner, to those whom it names, to operators and to members of
//! the job's quorum. The quorum knows which worker runs an attempt, not which one ran it: for an attempt that has
//! ended, every worker of the quorum is asked.

use quorate_protocols::task::limits::LOG_WAIT_MAX;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_protocols::ids::PeerId;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::task::limits::{MESSAGE_BYTES_MAX, WORKERS_MAX};
use quorate_protocols::task::message::{LogStream, TaskAnswer, TaskMessage};
use quorate_protocols::task::record::TaskAttempt;
use quorate_protocols::wire;

use super::ClientError;
use super::client::QuorumClient;
use super::ports::LocalTasks;
use super::slots::PeerSlots;
use crate::seams::{Frame, Net, Protocol};

/// How long one worker may take to answer. It reads a file at most.
const PATIENCE: Duration = Duration::from_secs(3);

/// Part of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPage {
    pub worker: PeerId,
    /// Where `bytes` begin: later than asked for when what lay between was not kept.
    pub at: u64,
    pub bytes: Bytes,
    /// Nothing comes after them.
    pub ended: bool,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(
        "attempt {} of task {}.{} left no log that {}{}",
        task.attempt, task.id.step, task.id.task, still_has(*asked), no_answer(silent)
    )]
    None { task: TaskAttempt, asked: usize, silent: Vec<PeerId> },
    #[error(
        "worker {worker} shows the logs of job {} only to its owner, to the peers that it names in `readers`, to \
         operators and to members of its quorum",
        task.id.job
    )]
    Forbidden { task: TaskAttempt, worker: PeerId },
}

fn still_has(asked: usize) -> String {
    match asked {
        0 => "is still kept: no worker has a lease from its quorum".to_owned(),
        1 => "the worker asked still has".to_owned(),
        asked => format!("any of the {asked} workers asked still has"),
    }
}

/// Workers that gave no answer, by name: one of them may have it.
fn no_answer(silent: &[PeerId]) -> String {
    /// Names in one message.
    const NAMED_MAX: usize = 8;
    if silent.is_empty() {
        return String::new();
    }
    let named: Vec<String> = silent.iter().take(NAMED_MAX).map(PeerId::to_string).collect();
    let more = match silent.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("; no answer came from {}{more}", named.join(", "))
}

/// Reads logs from any worker. Cloneable.
#[derive(Clone)]
pub struct LogReader {
    pub net: Arc<dyn Net>,
    /// This node's own worker.
    pub worker: Arc<dyn LocalTasks>,
    pub client: QuorumClient,
    /// Questions that workers hold until there is more.
    pub waits: PeerSlots,
}

impl LogReader {
    /// Reads from byte `from` of the stream on. `holder` is who has the attempt, if that is known: who is known waits
    /// for so long until there is more, unless too many do.
    pub async fn read(
        &self,
        task: TaskAttempt,
        holder: Option<PeerId>,
        stream: LogStream,
        from: u64,
        wait: Duration,
    ) -> Result<LogPage, LogError> {
        let wait = if holder.is_some() { wait.min(LOG_WAIT_MAX) } else { Duration::ZERO };
        let workers = match holder {
            Some(holder) => BTreeSet::from([holder]),
            None => self.workers(task).await?,
        };
        let asked = workers.len();
        let mut answers: FuturesUnordered<_> =
            workers.into_iter().map(|worker| self.ask(worker, task, stream, from, wait)).collect();
        let (mut forbidden, mut silent) = (None, Vec::new());
        while let Some((worker, answer)) = answers.next().await {
            match answer {
                Some(TaskAnswer::Logs { at, bytes, ended }) => return Ok(LogPage { worker, at, bytes, ended }),
                Some(TaskAnswer::Forbidden) => forbidden = Some(worker),
                Some(_) => (),
                None => silent.push(worker),
            }
        }
        Err(match forbidden {
            Some(worker) => LogError::Forbidden { task, worker },
            None => LogError::None { task, asked, silent },
        })
    }

    async fn workers(&self, task: TaskAttempt) -> Result<BTreeSet<PeerId>, ClientError> {
        let quorum = task.id.job.quorum;
        match self.client.query(quorum, Query::Workers, false, PATIENCE).await? {
            QueryAnswer::Workers(workers) => {
                Ok(workers.iter().map(|worker| worker.grant.holder.peer).take(WORKERS_MAX).collect())
            }
            other => {
                let reason = format!("asked for workers it answered with {other:?}");
                Err(ClientError::Protocol { quorum, reason })
            }
        }
    }

    async fn ask(
        &self,
        worker: PeerId,
        task: TaskAttempt,
        stream: LogStream,
        from: u64,
        wait: Duration,
    ) -> (PeerId, Option<TaskAnswer>) {
        let this_node = self.net.local_peer();
        // Held for as long as the answer is waited for. A worker counts those of its own node as well.
        let slot = if wait.is_zero() { None } else { self.waits.reserve(worker) };
        let wait = if slot.is_some() { wait } else { Duration::ZERO };
        let message = TaskMessage::Logs { task, stream, from, wait_ms: wait.as_millis() as u32 };
        if worker == this_node {
            return (worker, Some(self.worker.answer(this_node, message).await));
        }
        let frame = Frame::head(wire::encode(&message));
        let Ok(frame) = self.net.request(worker, Protocol::Task, frame, PATIENCE + wait).await else {
            return (worker, None);
        };
        let answer = wire::decode(&frame.head, MESSAGE_BYTES_MAX);
        if answer.is_err() {
            self.net.penalise(worker, "an answer that cannot be read");
        }
        (worker, answer.ok())
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocols::ids::{Attempt, JobId, QuorumId, StepIndex, TaskIndex};
    use quorate_protocols::task::record::TaskId;

    use super::*;

    #[test]
    fn a_log_that_is_not_there_says_who_was_asked_and_who_gave_no_answer() {
        let job = JobId { quorum: QuorumId([1; 16]), local: [2; 16] };
        let id = TaskId { job, step: StepIndex(0), task: TaskIndex(3) };
        let none = |asked, silent: Vec<PeerId>| {
            LogError::None { task: TaskAttempt { id, attempt: Attempt(1) }, asked, silent }.to_string()
        };
        assert_eq!(none(1, Vec::new()), "attempt 1 of task 0.3 left no log that the worker asked still has");
        let peer = PeerId([7; 32]);
        assert_eq!(
            none(3, vec![peer]),
            format!(
                "attempt 1 of task 0.3 left no log that any of the 3 workers asked still has; no answer came from {peer}"
            )
        );
    }
}
