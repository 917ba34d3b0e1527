//! The job protocol's server: what peers ask of the quorums that this node is a member of.
//!
//! Requests are taken with bounds ([`super::serve`]). A message that cannot be read is answered with what is wrong and
//! penalised. Who may propose what is decided in [`super::authority`]; what is committed is decided by the
//! quorum.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use quorate_protocols::ids::{JobId, PeerId};
use quorate_protocols::job::limits::{DEADLINE, MESSAGE_BYTES_MAX};
use quorate_protocols::liveness::patience::election_wait;
use quorate_protocols::quorum::request::{JobAnswer, JobMessage};
use quorate_protocols::trigger::When;
use quorate_protocols::wire;
use tokio::sync::mpsc;

use super::authority::{self, Authority};
use super::ports::{LocalQuorum, LocalQuorums, PrimaryPort, Sources};
use super::serve;
use crate::raft::QuorumError;
use crate::seams::{Frame, InboundRequest, Net, TaskGroup};

pub struct JobService {
    pub net: Arc<dyn Net>,
    pub quorums: Arc<dyn LocalQuorums>,
    pub authority: Authority,
    pub primary: Arc<dyn PrimaryPort>,
    pub sources: Arc<dyn Sources>,
}

impl serve::Service for JobService {
    async fn handle(&self, from: PeerId, frame: &Frame) -> Vec<u8> {
        wire::encode(&self.answer_frame(from, frame).await)
    }
    fn busy(&self) -> Vec<u8> {
        wire::encode(&JobAnswer::Busy)
    }
}

impl JobService {
    /// Serves until the group closes. Returns how many requests are being answered now.
    pub fn start(self, tasks: &TaskGroup, requests: mpsc::Receiver<InboundRequest>) -> Gauge {
        serve::start(Arc::new(self), tasks, requests)
    }

    async fn answer_frame(&self, from: PeerId, frame: &Frame) -> JobAnswer {
        let message = match wire::decode::<JobMessage>(&frame.head, MESSAGE_BYTES_MAX) {
            Ok(message) => message,
            Err(error) => {
                self.net.penalise(from, "a job message that cannot be read");
                return JobAnswer::Malformed { reason: error.to_string() };
            }
        };
        let quorum = match &message {
            JobMessage::Membership { quorum }
            | JobMessage::Propose { quorum, .. }
            | JobMessage::Query { quorum, .. }
            | JobMessage::Suspect { quorum, .. }
            | JobMessage::Dispatch { quorum, .. }
            | JobMessage::Look { quorum, .. } => *quorum,
        };
        let Some(local) = self.quorums.quorum(quorum) else { return JobAnswer::NotMember };
        if let Some(moved) = moved(&*local, self.net.local_peer()) {
            return moved;
        }
        if matches!(
            message,
            JobMessage::Propose { .. } | JobMessage::Query { stale: false, .. } | JobMessage::Dispatch { .. }
        ) {
            // While a primary is being elected the question is held: to answer that there is none would only have it
            // asked again, and the winner would be found by chance. Nothing was done yet when the time is up.
            let _ = tokio::time::timeout(election_wait(local.latency()), local.primary_settled()).await;
        }
        match message {
            JobMessage::Membership { .. } => JobAnswer::Membership(local.membership()),
            JobMessage::Propose { command, .. } => {
                if local.leading().is_none() {
                    return not_leading(&*local);
                }
                let this_node = self.net.local_peer();
                if let Err(reason) = authority::check(&self.authority, this_node, from, &command, &*local) {
                    return JobAnswer::Forbidden { reason };
                }
                match local.propose(from, command, DEADLINE).await {
                    Ok(reply) => JobAnswer::Reply(reply),
                    Err(error) => answer_to(error),
                }
            }
            JobMessage::Query { query, stale, .. } => {
                match tokio::time::timeout(DEADLINE, local.query(query.clone(), stale)).await {
                    Ok(Ok(answer)) => JobAnswer::Answer(self.primary.add_reasons(&*local, &query, answer)),
                    Ok(Err(error)) => answer_to(error),
                    Err(_) => JobAnswer::Unknown,
                }
            }
            JobMessage::Dispatch { .. } if local.leading().is_none() => not_leading(&*local),
            JobMessage::Dispatch { dispatch, .. } => {
                if let Err(reason) = dispatch.check() {
                    self.net.penalise(from, "events that nobody may emit");
                    return JobAnswer::Malformed { reason };
                }
                match self.primary.deliver_events(&*local, self.net.local_peer(), from, dispatch).await {
                    Ok(Ok(heard)) => JobAnswer::DeliveryAck(heard),
                    Ok(Err(rejection)) => JobAnswer::Reply(Err(rejection)),
                    Err(error) => answer_to(error),
                }
            }
            JobMessage::Look { job, .. } => self.probe_condition(from, &*local, job).await,
            JobMessage::Suspect { .. } if local.leading().is_none() => not_leading(&*local),
            JobMessage::Suspect { manifest, column, .. } => {
                self.primary.suspect_column(quorum, manifest, column);
                JobAnswer::Noted
            }
        }
    }
}

impl JobService {
    /// Only for members of the quorum, and only at what the job's specification names: nobody sends this node anywhere.
    async fn probe_condition(&self, from: PeerId, local: &dyn LocalQuorum, job: JobId) -> JobAnswer {
        if !local.view().voters.iter().any(|voter| voter.peer == from) {
            return JobAnswer::Forbidden { reason: "only members of the quorum may ask for a look".to_owned() };
        }
        let mut source = None;
        local.with_state(&mut |state| {
            source = state.trigger(job).and_then(|(spec, _)| match &spec.trigger.when {
                When::Condition(condition) => Some(condition.source.clone()),
                _ => None,
            });
        });
        match source {
            Some(source) => JobAnswer::Looked(self.sources.fetch(source).await),
            None => JobAnswer::Looked(Err("this member knows no such condition yet".to_owned())),
        }
    }
}

/// A member that is no longer among the voters or learners says who took its place.
fn moved(local: &dyn LocalQuorum, this_node: PeerId) -> Option<JobAnswer> {
    let view = local.view();
    let here = |members: &[quorate_protocols::ids::MemberId]| members.iter().any(|member| member.peer == this_node);
    // A member that has seen no configuration yet has not left either.
    let left = !view.voters.is_empty() && !here(&view.voters) && !here(&view.learners);
    left.then_some(JobAnswer::Moved { voters: view.voters })
}

fn not_leading(local: &dyn LocalQuorum) -> JobAnswer {
    let view = local.view();
    match view.paused {
        Some(reason) => JobAnswer::Paused { reason },
        None => JobAnswer::NotPrimary { primary: view.primary, voters: view.voters },
    }
}

fn answer_to(error: QuorumError) -> JobAnswer {
    match error {
        QuorumError::NotPrimary { primary, voters, .. } => JobAnswer::NotPrimary { primary, voters },
        QuorumError::Paused { reason, .. } => JobAnswer::Paused { reason },
        error @ QuorumError::DiskFull { .. } => JobAnswer::Paused { reason: error.to_string() },
        QuorumError::Busy { .. } => JobAnswer::Busy,
        QuorumError::Unknown { .. } => JobAnswer::Unknown,
        QuorumError::NotMember { .. } => JobAnswer::NotMember,
        error @ (QuorumError::TooLarge { .. } | QuorumError::Stopped { .. }) => match error {
            QuorumError::TooLarge { .. } => JobAnswer::Malformed { reason: error.to_string() },
            // Another member may still answer: this one only says that it cannot.
            _ => JobAnswer::NotPrimary { primary: None, voters: Vec::new() },
        },
    }
}

#[cfg(test)]
mod tests;
