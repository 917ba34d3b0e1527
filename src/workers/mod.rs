//! This node as a worker: attempts that quorums give it, run, and told about until the quorum has recorded them.
//!
//! Who takes part: the primary of a quorum assigns, stops and asks to reveal ([`Workers::answer`], over the task
//! protocol or in process); an executor runs ([`crate::executors`]); the worker's one actor owns everything between.
//! [`ledger`] decides what to do, [`runner`] runs one attempt, [`rows`] is the disk.
//!
//! **What is promised.** An assignment is answered `Accepted` when all its attempts are *safe*: their assignment or
//! result is durable here, or the quorum has recorded how they ended. A result is reported until the quorum has
//! answered. After a restart results are delivered, attempts that may run again do, and those that must not (not
//! idempotent, perhaps begun) are reported as lost, so that the quorum parks them for a person.
//!
//! **What is not paid for.** For idempotent tasks the quorum's record is the durable one: it names the attempt and its
//! worker before anything is sent here. So such an attempt begins at once, and if it ends and is recorded within
//! `SAVE_AFTER` it never touches this disk: a crash before that leaves the assignment unanswered, and the primary's to
//! send again. A result that took less than `WORTH_KEEPING` is reported without a sync of its own: lost with its node,
//! the assignment (by then durable, or unanswered) is run again, and a second result of one attempt changes nothing.
//! Not so for attempts that must not begin twice (assignment durable and start recorded before they begin, result
//! durable before it is reported), for copies that are compared (their nonce is drawn once), for results that took long
//! or are objects.
//!
//! **Fencing.** Orders need a live lease of their quorum that the sender may use, and a term that is not older than
//! one heard. The rest is the quorum's: a report under an attempt that was replaced is refused, told and forgotten.
//! When a lease ends, what runs under it is stopped.
//!
//! **Bounds** are in [`limits`]; what is too much is answered *busy* before it is kept. Attempts run within their
//! lease's slots, memory and disk; an attempt that reuses the slot of one still ending waits until that one has ended.
//!
//! | failure | what follows |
//! |---|---|
//! | an assignment that makes no sense | *malformed*, nothing of the message is taken |
//! | older term, unknown lease | told so; nothing is taken |
//! | the program, its input or its output fails | a report of that class; the quorum's policy decides |
//! | running it panics | the attempt fails with class *host*; others go on |
//! | the quorum cannot be reached | reports wait, tried again with growing pauses |
//! | the disk is full | assignments are answered *busy*; results are reported without having been kept |

mod actor;
pub mod faults;
mod host;
mod inputs;
mod ledger;
pub mod limits;
mod logs;
mod metrics;
mod outputs;
mod pending_result;
pub mod ports;
mod rows;
mod runner;
mod split;
#[cfg(test)]
mod tests;

use quorate_protocols::task::limits::LOG_WAIT_MAX;
use quorate_protocols::task::limits::LOG_WAITS_MAX;
use quorate_protocols::task::limits::LOG_WAITS_PER_PEER_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::PeerId;
use quorate_protocols::quorum::{Party, Verb};
use quorate_protocols::task::message::{TaskAnswer, TaskMessage};
use tokio::sync::{mpsc, oneshot};

use self::actor::{Actor, Request};
use self::faults::WorkerFaults;
use self::limits::REQUESTS_QUEUE;
use self::logs::Logs;
use self::ports::{TaskObjects, WorkerLeases};
use crate::executors::Executor;
use crate::gauges;
use crate::identity::Identity;
use crate::quorums::QuorumPort;
use crate::quorums::ports::LocalTasks;
use crate::quorums::slots::PeerSlots;
use crate::seams::{DiskError, Seams};
use crate::storage::Storage;

pub use metrics::WorkerMetrics;

/// What a worker is built from.
pub struct WorkerParts {
    pub seams: Seams,
    pub identity: Identity,
    pub storage: Storage,
    pub quorum_port: Arc<dyn QuorumPort>,
    pub leases: Arc<dyn WorkerLeases>,
    pub objects: Arc<dyn TaskObjects>,
    /// What this node runs.
    pub executors: BTreeMap<Engine, Arc<dyn Executor>>,
    /// Who may read every log.
    pub operators: BTreeSet<PeerId>,
    /// Where logs and large inputs are files; without it they are in memory.
    pub folder: Option<PathBuf>,
    pub faults: WorkerFaults,
}

/// Handle to this node's worker. Cloneable; it works until its task group closes.
#[derive(Clone)]
pub struct Workers {
    requests: mpsc::Sender<Request>,
    logs: Logs,
    /// Questions for more of a log that are held.
    log_waits: PeerSlots,
    quorum_port: Arc<dyn QuorumPort>,
    operators: Arc<BTreeSet<PeerId>>,
    metrics: WorkerMetrics,
}

impl Workers {
    /// Loads what was left by an earlier run and goes on with it, in the caller's task group.
    pub async fn start(parts: WorkerParts) -> Result<Self, DiskError> {
        let (requests, receiver) = mpsc::channel(REQUESTS_QUEUE);
        let (clock, folder) = (parts.seams.clock.clone(), parts.folder.clone());
        let logs = Logs::open(clock, folder.map(|folder| folder.join("logs")));
        let (quorum_port, metrics) = (parts.quorum_port.clone(), WorkerMetrics::default());
        let operators = Arc::new(parts.operators.clone());
        let tasks = parts.seams.tasks.clone();
        let actor = Actor::load(parts, logs.clone(), metrics.clone(), receiver)?;
        tasks.spawn(actor.run());
        let log_waits = PeerSlots::new(LOG_WAITS_PER_PEER_MAX, LOG_WAITS_MAX);
        Ok(Self { requests, logs, log_waits, quorum_port, operators, metrics })
    }

    pub fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }
    /// Registers what it counts, and how many requests wait for it.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
        let requests = self.requests.downgrade();
        let registry = registry.sub_registry_with_prefix("quorate_worker");
        gauges::register(registry, "requests_queued", "Requests that wait for the worker", move || {
            gauges::depth(&requests)
        });
    }

    async fn log_page(&self, from: PeerId, message: TaskMessage) -> TaskAnswer {
        let TaskMessage::Logs { task, stream, from: at, wait_ms } = message else {
            return TaskAnswer::Malformed { reason: "this is for a primary, not for a worker".to_owned() };
        };
        let is_allowed = |page: &logs::LogPage| {
            Verb::ReadLogs.allows(&[
                (Party::Owner, page.audience.owner == from),
                (Party::Reader, page.audience.readers.contains(&from)),
                (Party::Operator, self.operators.contains(&from)),
                (Party::Member, self.quorum_port.members(task.id.job.quorum).contains(&from)),
            ])
        };
        let mut page = self.logs.read(task, stream, at).await;
        if page.as_ref().is_none_or(|page| is_allowed(page) && !page.has_news(at)) && wait_ms > 0 {
            // Without a place it is answered as it is.
            let slot = self.log_waits.reserve(from);
            if slot.is_some() {
                let wait = Duration::from_millis(wait_ms.into()).min(LOG_WAIT_MAX);
                page = self.logs.read_on(task, stream, at, wait).await;
            }
        }
        match page {
            None => TaskAnswer::NoLogs,
            Some(page) if !is_allowed(&page) => TaskAnswer::Forbidden,
            Some(page) => TaskAnswer::Logs { at: page.at, bytes: page.bytes, ended: page.ended },
        }
    }
}

impl LocalTasks for Workers {
    fn answer(&self, from: PeerId, message: TaskMessage) -> BoxFuture<'static, TaskAnswer> {
        let workers = self.clone();
        async move {
            match message {
                TaskMessage::Assign { .. } | TaskMessage::Stop { .. } | TaskMessage::Reveal { .. } => {
                    let (reply, answer) = oneshot::channel();
                    if workers.requests.send(Request { from, message, reply }).await.is_err() {
                        return TaskAnswer::Busy;
                    }
                    // Gone without an answer: the worker is closing.
                    answer.await.unwrap_or(TaskAnswer::Busy)
                }
                message => workers.log_page(from, message).await,
            }
        }
        .boxed()
    }
}
