//! The job protocol's server: what peers ask of the quorums that this node is a member of.
//!
//! Requests are taken with bounds ([`super::serve`]). A message that cannot be read is answered with what is wrong and
//! penalised. The rest is answered as this node's own requests are ([`super::request`]).

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use quorate_protocols::ids::{JobId, PeerId};
use quorate_protocols::job::limits::{DEADLINE, MESSAGE_BYTES_MAX};
use quorate_protocols::quorum::request::{JobAnswer, JobMessage};
use quorate_protocols::trigger::When;
use quorate_protocols::wire;
use tokio::sync::mpsc;

use super::ports::{LocalQuorum, LocalQuorums, Sources};
use super::request::{self, Request, RequestServer};
use super::serve;
use crate::seams::{Frame, InboundRequest, Net, TaskGroup};

pub struct JobService {
    pub net: Arc<dyn Net>,
    pub quorums: Arc<dyn LocalQuorums>,
    pub requests: RequestServer,
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
        let (quorum, request) = match message {
            JobMessage::Membership { quorum } => {
                let Some(local) = self.quorums.quorum(quorum) else { return JobAnswer::NotMember };
                let moved = request::moved(&*local, self.net.local_peer());
                return moved.unwrap_or_else(|| JobAnswer::Membership(local.membership()));
            }
            JobMessage::Certificate { quorum, since } => {
                let Some(local) = self.quorums.quorum(quorum) else { return JobAnswer::NotMember };
                let moved = request::moved(&*local, self.net.local_peer());
                let shown = || local.certificate(since).map_or(JobAnswer::NotMember, JobAnswer::Certificate);
                return moved.unwrap_or_else(shown);
            }
            JobMessage::ProbeCondition { quorum, job } => {
                let Some(local) = self.quorums.quorum(quorum) else { return JobAnswer::NotMember };
                return match request::moved(&*local, self.net.local_peer()) {
                    Some(moved) => moved,
                    None => self.probe_condition(from, &*local, job).await,
                };
            }
            JobMessage::Propose { quorum, command } => (quorum, Request::Propose(command)),
            JobMessage::Query { quorum, query, stale } => (quorum, Request::Query { query, stale }),
            JobMessage::Suspect { quorum, manifest, column } => (quorum, Request::Suspect { manifest, column }),
            JobMessage::Dispatch { quorum, dispatch } => (quorum, Request::Dispatch(dispatch)),
            JobMessage::Watch(request) => (request.quorum, Request::Watch(request)),
        };
        let Some(local) = self.quorums.quorum(quorum) else { return JobAnswer::NotMember };
        let is_dispatch = matches!(request, Request::Dispatch(_));
        let answer = self.requests.answer(&*local, from, request, DEADLINE).await;
        if is_dispatch && matches!(answer, JobAnswer::Malformed { .. }) {
            self.net.penalise(from, "events that nobody may emit");
        }
        answer
    }
}

impl JobService {
    /// Only for members of the quorum, and only at what the job's specification names: nobody sends this node anywhere.
    async fn probe_condition(&self, from: PeerId, local: &dyn LocalQuorum, job: JobId) -> JobAnswer {
        if !local.view().voters.iter().any(|voter| voter.peer == from) {
            return JobAnswer::Forbidden { reason: "only members of the quorum may ask for a probe".to_owned() };
        }
        let mut source = None;
        local.with_state(&mut |state| {
            source = state.trigger(job).and_then(|(spec, _)| match &spec.trigger.when {
                When::Condition(condition) => Some(condition.source.clone()),
                _ => None,
            });
        });
        match source {
            Some(source) => JobAnswer::ConditionProbed(self.sources.fetch(source).await),
            None => JobAnswer::ConditionProbed(Err("this member knows no such condition yet".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
