//! The quorums that this node leads, as their workers reach them: what begins, what was done, who is alive.
//!
//! Begins, reports and checkpoints are committed as the worker's own commands before they are answered; the state
//! machine compares their author with the worker that each attempt was given to. Beats are noted in memory. A worker
//! on this very node comes the same way, without the network ([`Steward::answer`]).

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::ids::{LeaseId, PeerId, QuorumId};
use quorate_protocols::quorum::{Command, CommandReply, TaskCommand};
use quorate_protocols::task::limits::DEADLINE;
use quorate_protocols::task::message::{Progress, ReportRefusal, TaskAnswer, TaskMessage};

use super::driver::{DriverMetrics, Pulses};
use super::ports::{LocalQuorum, LocalQuorums};
use super::service::ELECTION_WAIT;
use crate::quorum::QuorumError;

/// Cloneable handle; it owns no task.
#[derive(Clone)]
pub struct Steward {
    pub quorums: Arc<dyn LocalQuorums>,
    pub pulses: Pulses,
    pub metrics: DriverMetrics,
}

impl Steward {
    /// Answers a worker. Messages that only a worker can answer are malformed here.
    pub fn answer(&self, from: PeerId, message: TaskMessage) -> BoxFuture<'static, TaskAnswer> {
        let steward = self.clone();
        async move {
            match message {
                TaskMessage::Start { quorum, tasks } => {
                    steward.commit(quorum, from, Command::Task(TaskCommand::Start { tasks })).await
                }
                TaskMessage::Report { quorum, reports } => {
                    steward.commit(quorum, from, Command::Task(TaskCommand::Report { reports })).await
                }
                TaskMessage::Checkpoint { quorum, task, checkpoint, bytes } => {
                    steward
                        .commit(quorum, from, Command::Task(TaskCommand::SaveCheckpoint { task, checkpoint, bytes }))
                        .await
                }
                TaskMessage::Heartbeat { quorum, lease, running } => steward.beat(quorum, from, lease, running).await,
                _ => TaskAnswer::Malformed { reason: "this is for a worker, not for a primary".to_owned() },
            }
        }
        .boxed()
    }

    /// The quorum, if this node leads it. While a primary is being elected the answer is held: to say that there is none
    /// would only have the worker ask again.
    async fn led(&self, quorum: QuorumId) -> Result<Arc<dyn LocalQuorum>, TaskAnswer> {
        let nobody = || TaskAnswer::NotPrimary { primary: None, voters: Vec::new() };
        let local = self.quorums.quorum(quorum).ok_or_else(nobody)?;
        if local.leading().is_none() {
            let _ = tokio::time::timeout(ELECTION_WAIT, local.primary_settled()).await;
        }
        if local.leading().is_some() {
            return Ok(local);
        }
        let view = local.view();
        Err(TaskAnswer::NotPrimary { primary: view.primary, voters: view.voters })
    }

    async fn commit(&self, quorum: QuorumId, from: PeerId, command: Command) -> TaskAnswer {
        let local = match self.led(quorum).await {
            Ok(local) => local,
            Err(elsewhere) => return elsewhere,
        };
        let is_report = matches!(command, Command::Task(TaskCommand::Report { .. }));
        match local.propose(from, command, DEADLINE).await {
            Ok(Ok(CommandReply::Recorded(answers))) => {
                self.pulses.note(quorum, from);
                if is_report {
                    self.count(&answers);
                }
                TaskAnswer::Recorded(answers)
            }
            // The state machine answers these commands with `Recorded` or refuses them.
            Ok(Ok(_)) => TaskAnswer::Unknown,
            Ok(Err(rejection)) => TaskAnswer::Malformed { reason: rejection.to_string() },
            Err(QuorumError::NotPrimary { primary, voters, .. }) => TaskAnswer::NotPrimary { primary, voters },
            Err(error @ QuorumError::TooLarge { .. }) => TaskAnswer::Malformed { reason: error.to_string() },
            Err(QuorumError::Paused { .. } | QuorumError::Busy { .. } | QuorumError::DiskFull { .. }) => {
                TaskAnswer::Busy
            }
            Err(QuorumError::Unknown { .. }) => TaskAnswer::Unknown,
            Err(QuorumError::NotMember { .. } | QuorumError::Stopped { .. }) => {
                TaskAnswer::NotPrimary { primary: None, voters: Vec::new() }
            }
        }
    }

    fn count(&self, answers: &[Result<(), ReportRefusal>]) {
        for answer in answers {
            match answer {
                Ok(()) => self.metrics.reports_recorded.inc(),
                Err(ReportRefusal::Stale { .. } | ReportRefusal::Unknown) => self.metrics.reports_stale.inc(),
                Err(_) => self.metrics.reports_refused.inc(),
            };
        }
    }

    async fn beat(&self, quorum: QuorumId, from: PeerId, lease: LeaseId, running: Vec<Progress>) -> TaskAnswer {
        let local = match self.led(quorum).await {
            Ok(local) => local,
            Err(elsewhere) => return elsewhere,
        };
        let mut is_worker = false;
        local.look(&mut |state| {
            is_worker = state.tasks.workers().get(&from).is_some_and(|worker| worker.grant.lease == lease);
        });
        if !is_worker {
            return TaskAnswer::UnknownLease;
        }
        self.pulses.note_beat(quorum, from, running);
        TaskAnswer::Noted
    }
}
