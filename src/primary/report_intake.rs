//! The intake of workers' reports at a primary: what begins, what was done, who is alive.
//!
//! Begins, reports and checkpoints are committed as the worker's own commands before they are answered; the state
//! machine compares their author with the worker that each attempt was given to. Heartbeats are kept in memory. A
//! worker on this very node comes the same way, without the network ([`ReportIntake::answer`]).

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::ids::{LeaseId, PeerId, QuorumId};
use quorate_protocols::liveness::patience::election_wait;
use quorate_protocols::quorum::{Command, CommandReply, TaskCommand};
use quorate_protocols::task::limits::DEADLINE;
use quorate_protocols::task::message::{Progress, ReportRefusal, TaskAnswer, TaskMessage};

use super::{DriverMetrics, WorkerHeartbeats};
use crate::quorums::ports::{LocalQuorum, LocalQuorums};
use crate::raft::QuorumError;

/// Cloneable handle; it owns no task.
#[derive(Clone)]
pub struct ReportIntake {
    pub quorums: Arc<dyn LocalQuorums>,
    pub heartbeats: WorkerHeartbeats,
    pub metrics: DriverMetrics,
}

impl ReportIntake {
    /// Answers a worker. Messages that only a worker can answer are malformed here.
    pub fn answer(&self, from: PeerId, message: TaskMessage) -> BoxFuture<'static, TaskAnswer> {
        let report_intake = self.clone();
        async move {
            match message {
                TaskMessage::Start { quorum, tasks } => {
                    report_intake.commit(quorum, from, Command::Task(TaskCommand::Start { tasks })).await
                }
                TaskMessage::Report { quorum, reports } => {
                    report_intake.commit(quorum, from, Command::Task(TaskCommand::Report { reports })).await
                }
                TaskMessage::Checkpoint { quorum, task, checkpoint, bytes } => {
                    report_intake
                        .commit(quorum, from, Command::Task(TaskCommand::SaveCheckpoint { task, checkpoint, bytes }))
                        .await
                }
                TaskMessage::Heartbeat { quorum, lease, running } => {
                    report_intake.take_heartbeat(quorum, from, lease, running).await
                }
                _ => TaskAnswer::Malformed { reason: "this is for a worker, not for a primary".to_owned() },
            }
        }
        .boxed()
    }

    /// The quorum, if this node leads it. While a primary is being elected the answer is held: to say that there is
    /// none would only have the worker ask again.
    async fn led(&self, quorum: QuorumId) -> Result<Arc<dyn LocalQuorum>, TaskAnswer> {
        let nobody = || TaskAnswer::NotPrimary { primary: None, voters: Vec::new() };
        let local = self.quorums.quorum(quorum).ok_or_else(nobody)?;
        if local.leading().is_none() {
            let _ = tokio::time::timeout(election_wait(local.latency()), local.primary_settled()).await;
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
                self.heartbeats.record_contact(quorum, from);
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
            Err(
                QuorumError::Paused { .. }
                | QuorumError::Busy { .. }
                | QuorumError::TooFast { .. }
                | QuorumError::DiskFull { .. },
            ) => TaskAnswer::Busy,
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

    async fn take_heartbeat(
        &self,
        quorum: QuorumId,
        from: PeerId,
        lease: LeaseId,
        running: Vec<Progress>,
    ) -> TaskAnswer {
        let local = match self.led(quorum).await {
            Ok(local) => local,
            Err(elsewhere) => return elsewhere,
        };
        let mut is_worker = false;
        local.with_state(&mut |state| {
            is_worker = state.tasks().workers().get(&from).is_some_and(|worker| worker.grant.lease == lease);
        });
        if !is_worker {
            return TaskAnswer::UnknownLease;
        }
        self.heartbeats.record_heartbeat(quorum, from, running);
        TaskAnswer::Acknowledged
    }
}
