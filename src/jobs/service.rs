//! The job protocol's server: what peers ask of the quorums that this node is a member of.
//!
//! One actor takes requests and starts a bounded number of handlers, so that one greedy peer delays only itself: past
//! its share it is told *busy*, before its message is decoded. A message that cannot be read is answered with what is
//! wrong and penalised. Who may propose what is decided in [`super::authority`]; what is committed is decided by the
//! quorum.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::ids::PeerId;
use quorate_protocols::job::limits::{DEADLINE, MESSAGE_BYTES_MAX};
use quorate_protocols::job::message::{JobAnswer, JobMessage, QueryAnswer};
use quorate_protocols::wire;
use tokio::sync::mpsc;

use super::authority::{self, Authority};
use super::driver::{Notes, Suspects};
use super::ports::{LocalQuorum, LocalQuorums};
use crate::quorum::QuorumError;
use crate::seams::{Frame, InboundRequest, Net, TaskGroup};

/// Requests handled at once, in all and for one peer. A handler mostly waits for a commit, so it costs little more
/// than its message (at most 1 MiB, reserved by the network).
const HANDLERS_MAX: usize = 512;
const HANDLERS_PER_PEER_MAX: usize = 64;

/// How long a member that misses its primary holds a question for the next one: a few elections. Less than any asker
/// waits for an answer, and short enough that one who is cut off from the others costs its asker little.
pub const ELECTION_WAIT: Duration = Duration::from_millis(300);

/// Handlers that have ended and were not noted yet.
const ENDED_QUEUE: usize = HANDLERS_MAX;

pub struct JobService {
    pub net: Arc<dyn Net>,
    pub quorums: Arc<dyn LocalQuorums>,
    pub authority: Authority,
    pub notes: Notes,
    pub suspects: Suspects,
}

impl JobService {
    /// Serves until the group closes.
    pub fn start(self, tasks: &TaskGroup, requests: mpsc::Receiver<InboundRequest>) {
        let service = Arc::new(self);
        let actor = Actor { service, tasks: tasks.clone(), running: BTreeMap::new(), running_total: 0 };
        tasks.spawn(actor.run(requests));
    }

    async fn handle(&self, from: PeerId, frame: &Frame) -> JobAnswer {
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
            | JobMessage::Suspect { quorum, .. } => *quorum,
        };
        let Some(local) = self.quorums.quorum(quorum) else { return JobAnswer::NotMember };
        if let Some(moved) = moved(&*local, self.net.local_peer()) {
            return moved;
        }
        if matches!(message, JobMessage::Propose { .. } | JobMessage::Query { stale: false, .. }) {
            // While a primary is being elected the question is held: to answer that there is none would only have it
            // asked again, and the winner would be found by chance. Nothing was done yet when the time is up.
            let _ = tokio::time::timeout(ELECTION_WAIT, local.primary_settled()).await;
        }
        match message {
            JobMessage::Membership { .. } => JobAnswer::Membership(local.membership()),
            JobMessage::Propose { command, .. } => {
                if local.leading().is_none() {
                    return not_leading(&*local);
                }
                let this_node = self.net.local_peer();
                if let Err(reason) = authority::check(&self.authority, this_node, from, &command, &*local).await {
                    return JobAnswer::Forbidden { reason };
                }
                match local.propose(from, command, DEADLINE).await {
                    Ok(reply) => JobAnswer::Reply(reply),
                    Err(error) => answer_to(error),
                }
            }
            JobMessage::Query { query, stale, .. } => {
                match tokio::time::timeout(DEADLINE, local.query(query, stale)).await {
                    Ok(Ok(answer)) => self.answer(answer),
                    Ok(Err(error)) => answer_to(error),
                    Err(_) => JobAnswer::Unknown,
                }
            }
            JobMessage::Suspect { .. } if local.leading().is_none() => not_leading(&*local),
            JobMessage::Suspect { manifest, column, .. } => {
                self.suspects.note(quorum, manifest, column);
                JobAnswer::Noted
            }
        }
    }

    fn answer(&self, answer: QueryAnswer) -> JobAnswer {
        JobAnswer::Answer(self.notes.add_to(answer))
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

struct Actor {
    service: Arc<JobService>,
    tasks: TaskGroup,
    running: BTreeMap<PeerId, usize>,
    running_total: usize,
}

impl Actor {
    async fn run(mut self, mut requests: mpsc::Receiver<InboundRequest>) {
        let shutdown = self.tasks.shutdown_token();
        let (ended, mut ends) = mpsc::channel::<PeerId>(ENDED_QUEUE);
        loop {
            // Ends before requests: a peer's share must be free again before its next request is judged.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(peer) = ends.recv() => self.note_end(peer),
                request = requests.recv() => match request {
                    Some(request) => self.take(request, ended.clone()),
                    None => return,
                },
            }
        }
    }

    fn take(&mut self, request: InboundRequest, ended: mpsc::Sender<PeerId>) {
        let InboundRequest { from, frame, reply, memory } = request;
        let running = self.running.entry(from).or_default();
        if *running >= HANDLERS_PER_PEER_MAX || self.running_total >= HANDLERS_MAX {
            if *running == 0 {
                self.running.remove(&from);
            }
            return reply.send(Frame::head(wire::encode(&JobAnswer::Busy)));
        }
        *running += 1;
        self.running_total += 1;
        let (service, shutdown) = (self.service.clone(), self.tasks.shutdown_token());
        self.tasks.spawn(async move {
            // Dropping the reply at shutdown tells the asker to go elsewhere.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => (),
                answer = service.handle(from, &frame) => reply.send(Frame::head(wire::encode(&answer))),
            }
            drop(memory);
            // Fails only when the actor has stopped, and then nobody counts.
            let _ = ended.send(from).await;
        });
    }

    fn note_end(&mut self, peer: PeerId) {
        self.running_total -= 1;
        if let Some(running) = self.running.get_mut(&peer) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests;
