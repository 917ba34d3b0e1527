//! What a task wrote for people, read from the worker that has it.
//!
//! Logs are kept by whoever ran the attempt, within bounds of its own, and nowhere else: a worker that is gone takes
//! them along. It shows them to the job's owner, to operators and to members of the job's quorum. The quorum knows who
//! runs an attempt, not who ran it: of one that has ended every worker of the quorum is asked.

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
    #[error("none of the {asked} workers has anything that attempt {} of task {}.{} wrote{silent}", task.attempt, task.id.step, task.id.task)]
    None { task: TaskAttempt, asked: usize, silent: Silent },
    #[error("{worker} shows the logs of job {} to its owner, to operators and to members of its quorum alone", task.id.job)]
    Forbidden { task: TaskAttempt, worker: PeerId },
}

/// How many gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silent(pub usize);

impl std::fmt::Display for Silent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            silent => write!(f, "; {silent} of them gave no answer"),
        }
    }
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
        let (mut forbidden, mut silent) = (None, 0);
        while let Some((worker, answer)) = answers.next().await {
            match answer {
                Some(TaskAnswer::Logs { at, bytes, ended }) => return Ok(LogPage { worker, at, bytes, ended }),
                Some(TaskAnswer::Forbidden) => forbidden = Some(worker),
                Some(_) => (),
                None => silent += 1,
            }
        }
        Err(match forbidden {
            Some(worker) => LogError::Forbidden { task, worker },
            None => LogError::None { task, asked, silent: Silent(silent) },
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
