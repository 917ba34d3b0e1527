//! Requests to a quorum, and how a member of it answers them: in one way for this node and for its peers.
//!
//! [`QuorumClient`](super::QuorumClient) calls [`RequestServer::answer`] in process when this node is a member;
//! [`JobService`](super::server::JobService) calls it for whoever asks over the network. So authority, reasons, the
//! patience for an election and the translation of errors exist once.

use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::ids::{ManifestHash, MemberId, PeerId, PieceIndex, QuorumId};
use quorate_protocols::job::limits::WATCH_WAIT_MAX;
use quorate_protocols::liveness::patience::election_wait;
use quorate_protocols::quorum::request::{JobAnswer, JobMessage, Query, QueryAnswer};
use quorate_protocols::quorum::watch::WatchRequest;
use quorate_protocols::quorum::{Command, Forbidden};
use quorate_protocols::trigger::event::Dispatch;
use tokio::time::timeout;

use super::authority::{self, Authority};
use super::ports::{LocalQuorum, PrimaryPort};
use crate::raft::QuorumError;

/// What is asked of a quorum.
#[derive(Clone, Debug)]
pub enum Request {
    Propose(Command),
    /// Linearizable unless `stale`.
    Query {
        query: Query,
        stale: bool,
    },
    /// A reader got no good piece of this column.
    Suspect {
        manifest: ManifestHash,
        column: PieceIndex,
    },
    /// Events that the asker has emitted.
    Dispatch(Dispatch),
    Watch(WatchRequest),
}

impl Request {
    pub fn into_message(self, quorum: QuorumId) -> JobMessage {
        match self {
            Self::Propose(command) => JobMessage::Propose { quorum, command },
            Self::Query { query, stale } => JobMessage::Query { quorum, query, stale },
            Self::Suspect { manifest, column } => JobMessage::Suspect { quorum, manifest, column },
            Self::Dispatch(dispatch) => JobMessage::Dispatch { quorum, dispatch },
            Self::Watch(request) => JobMessage::Watch(request),
        }
    }

    /// How long its answer is held back for at most.
    pub fn wait(&self) -> Duration {
        match self {
            Self::Watch(request) => Duration::from_millis(request.wait_ms.into()),
            _ => Duration::ZERO,
        }
    }

    /// Whether it may have changed the quorum's record though no answer arrived.
    pub fn changes(&self) -> bool {
        matches!(self, Self::Propose(_) | Self::Dispatch(_))
    }

    /// Whether it is held while a primary is being elected. A suspicion is not: it is made again by the next reader.
    fn waits_for_primary(&self) -> bool {
        match self {
            Self::Propose(_) | Self::Dispatch(_) | Self::Watch(_) => true,
            Self::Query { stale, .. } => !stale,
            Self::Suspect { .. } => false,
        }
    }
}

/// Answers requests to the quorums of this node. Cloneable.
#[derive(Clone)]
pub struct RequestServer {
    pub this_node: PeerId,
    pub authority: Authority,
    /// The quorums that this node leads itself.
    pub primary: Arc<dyn PrimaryPort>,
}

impl RequestServer {
    /// Answers `by`, which the transport vouches for, as this node's member of the quorum, within `deadline`: with what
    /// it may read. Every answer passes here, once.
    pub async fn answer(&self, local: &dyn LocalQuorum, by: PeerId, request: Request, deadline: Duration) -> JobAnswer {
        let mut answer = self.answer_in_full(local, by, request, deadline).await;
        authority::asker(&self.authority, self.this_node, by, local).redact(&mut answer);
        answer
    }

    async fn answer_in_full(
        &self,
        local: &dyn LocalQuorum,
        by: PeerId,
        request: Request,
        deadline: Duration,
    ) -> JobAnswer {
        if let Some(moved) = moved(local, self.this_node) {
            return moved;
        }
        if request.waits_for_primary() {
            // To answer that there is no primary would only have it asked again, and the winner would be found by
            // chance. Nothing was done yet when the time is up.
            let wait = election_wait(local.latency()).min(deadline);
            let _ = timeout(wait, local.primary_settled()).await;
        }
        // A query has its lead confirmed when it is read, or is for any member.
        if !matches!(request, Request::Query { .. }) && local.leading().is_none() {
            return answer_error(not_leading(local));
        }
        match request {
            Request::Propose(command) => {
                if let Err(reason) = authority::check(&self.authority, self.this_node, by, &command, local) {
                    return JobAnswer::Forbidden { reason };
                }
                match local.propose(by, command, deadline).await {
                    Ok(reply) => JobAnswer::Reply(reply),
                    Err(error) => answer_error(error),
                }
            }
            Request::Query { query, stale } => match timeout(deadline, local.query(query.clone(), stale)).await {
                Ok(Ok(answer)) => self.show(local, by, &query, answer),
                Ok(Err(error)) => answer_error(error),
                Err(_) => JobAnswer::Unknown { reason: None },
            },
            Request::Suspect { manifest, column } => {
                self.primary.suspect_column(local.id(), manifest, column);
                JobAnswer::Acknowledged
            }
            Request::Dispatch(dispatch) => {
                if let Err(fault) = dispatch.check() {
                    return JobAnswer::Malformed { reason: fault.to_string() };
                }
                match timeout(deadline, self.primary.deliver_events(local, self.this_node, by, dispatch)).await {
                    Ok(Ok(Ok(heard))) => JobAnswer::DeliveryAck(heard),
                    Ok(Ok(Err(rejection))) => JobAnswer::Reply(Err(rejection)),
                    Ok(Err(error)) => answer_error(error),
                    Err(_) => JobAnswer::Unknown { reason: None },
                }
            }
            Request::Watch(request) => {
                if let Err(fault) = request.check() {
                    return JobAnswer::Malformed { reason: fault.to_string() };
                }
                let request = request.within(WATCH_WAIT_MAX.min(deadline));
                match self.primary.watch(local, self.this_node, by, request).await {
                    Ok(answer) => JobAnswer::Watched(answer),
                    Err(error) => answer_error(error),
                }
            }
        }
    }
}

impl RequestServer {
    /// The answer, if `by` may have one to this query. The state is at least as new as the answer, so it knows the job.
    fn show(&self, local: &dyn LocalQuorum, by: PeerId, query: &Query, answer: QueryAnswer) -> JobAnswer {
        let asker = authority::asker(&self.authority, self.this_node, by, local);
        let mut checked = Ok(());
        local.with_state(&mut |state| checked = state.check_asker(asker, query));
        match checked {
            Ok(()) => JobAnswer::Answer(self.primary.add_reasons(local, query, answer)),
            Err(Forbidden::UnknownJob { .. }) => JobAnswer::Answer(QueryAnswer::Unknown),
            Err(forbidden) => JobAnswer::Forbidden { reason: forbidden.to_string() },
        }
    }
}

/// A member that is no longer among the voters or learners says who took its place.
pub fn moved(local: &dyn LocalQuorum, this_node: PeerId) -> Option<JobAnswer> {
    let view = local.view();
    let here = |members: &[MemberId]| members.iter().any(|member| member.peer == this_node);
    // A member that has seen no configuration yet has not left either.
    let left = !view.voters.is_empty() && !here(&view.voters) && !here(&view.learners);
    left.then_some(JobAnswer::Moved { voters: view.voters })
}

/// Why a member that does not lead can do nothing for its asker.
pub(crate) fn not_leading(local: &dyn LocalQuorum) -> QuorumError {
    let (quorum, view) = (local.id(), local.view());
    match view.paused {
        Some(reason) => QuorumError::Paused { quorum, reason },
        None => QuorumError::NotPrimary { quorum, primary: view.primary, voters: view.voters },
    }
}

fn answer_error(error: QuorumError) -> JobAnswer {
    match error {
        QuorumError::NotPrimary { primary, voters, .. } => JobAnswer::NotPrimary { primary, voters },
        QuorumError::Paused { reason, .. } => JobAnswer::Paused { reason },
        QuorumError::DiskFull { .. } => JobAnswer::Paused { reason: error.to_string() },
        QuorumError::Busy { .. } | QuorumError::TooFast { .. } => JobAnswer::Busy,
        QuorumError::Unknown { reason, .. } => JobAnswer::Unknown { reason },
        QuorumError::NotMember { .. } => JobAnswer::NotMember,
        QuorumError::TooLarge { .. } => JobAnswer::Malformed { reason: error.to_string() },
        // Another member may still answer: this one only says that it cannot.
        QuorumError::Stopped { .. } => JobAnswer::NotPrimary { primary: None, voters: Vec::new() },
    }
}
