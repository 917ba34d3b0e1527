//! The host of a running attempt: takes its progress, its checkpoints and its logs.

use parking_lot::Mutex;
use parking_lot::MutexGuard;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::task::limits::{CHECKPOINT_BYTES_MAX, DEADLINE};
use quorate_protocols::task::message::{LogStream, Progress, TaskAnswer, TaskMessage};
use quorate_protocols::task::record::TaskAttempt;
use quorate_protocols::text::REASON_BYTES_MAX;
use quorate_protocols::text::truncate;

use super::logs::LogWriter;
use super::outputs::{self, Stores};
use crate::executors::{Host, Stream};
use crate::quorums::QuorumPort;
use crate::seams::TaskGroup;

/// Of one attempt. Its task's own thread calls it, and the worker's actor reads it.
pub(super) struct AttemptHost {
    pub task: TaskAttempt,
    pub tasks: TaskGroup,
    pub quorum_port: Arc<dyn QuorumPort>,
    pub stores: Stores,
    pub log: LogWriter,
    /// Copies that are compared must not lean on what one of them made.
    pub verified: bool,
    progress: Mutex<(u16, String)>,
    /// It is being stopped for good: where it could go on from is of no use.
    discard: AtomicBool,
}

impl AttemptHost {
    pub fn new(
        task: TaskAttempt,
        tasks: TaskGroup,
        quorum_port: Arc<dyn QuorumPort>,
        stores: Stores,
        log: LogWriter,
        verified: bool,
    ) -> Self {
        let (progress, discard) = (Mutex::default(), AtomicBool::new(false));
        Self { task, tasks, quorum_port, stores, log, verified, progress, discard }
    }
    pub fn progress_now(&self) -> Progress {
        let (permille, note) = self.lock().clone();
        Progress { task: self.task, permille, note }
    }
    /// No checkpoint is taken from here on.
    pub fn discard(&self) {
        self.discard.store(true, Ordering::Relaxed);
    }
    fn lock(&self) -> MutexGuard<'_, (u16, String)> {
        self.progress.lock()
    }
}

impl Host for AttemptHost {
    fn progress(&self, permille: u16, note: &str) {
        *self.lock() = (permille, truncate(note, REASON_BYTES_MAX).to_owned());
    }
    fn checkpoint(&self, bytes: Bytes) -> BoxFuture<'static, Result<(), String>> {
        if self.verified {
            return futures::future::ready(Err("verified copies start from nothing".to_owned())).boxed();
        }
        if self.discard.load(Ordering::Relaxed) {
            return futures::future::ready(Err("the task is being stopped".to_owned())).boxed();
        }
        let (task, quorum_port, stores) = (self.task, self.quorum_port.clone(), self.stores.clone());
        let saving = self.tasks.spawn(async move {
            let (output, bytes) = outputs::keep_bytes(&stores, task, "checkpoint", bytes, CHECKPOINT_BYTES_MAX).await?;
            let quorum = task.id.job.quorum;
            let message = TaskMessage::Checkpoint { quorum, task, checkpoint: output, bytes };
            match quorum_port.report_task(quorum, message, DEADLINE).await {
                Ok(TaskAnswer::Recorded(answers)) => match answers.into_iter().next() {
                    Some(Ok(())) => Ok(()),
                    Some(Err(refusal)) => Err(refusal.to_string()),
                    None => Err("the quorum did not say whether it has the checkpoint".to_owned()),
                },
                Ok(_) => Err("the quorum did not take the checkpoint".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
        async move { saving.await.ok().flatten().unwrap_or_else(|| Err("the node is closing".to_owned())) }.boxed()
    }
    fn log(&self, stream: Stream, bytes: &[u8]) {
        let stream = match stream {
            Stream::Stdout => LogStream::Stdout,
            Stream::Stderr => LogStream::Stderr,
        };
        self.log.push(stream, bytes);
    }
}
