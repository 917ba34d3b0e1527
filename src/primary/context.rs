//! The context of every duty: its quorum, the holders, and how to give up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::ids::{JobId, ManifestHash, MemberId, PeerId};
use quorate_protocols::job::JobRecord;
use quorate_protocols::job::limits::DEADLINE;
use quorate_protocols::liveness::limits::DELAY_MAX;
use quorate_protocols::object::Manifest;
use quorate_protocols::piece::limits::HEAD_BYTES_MAX;
use quorate_protocols::piece::{PieceAnswer, PieceMessage, PieceRefusal};
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{Command, CommandReply, ObjectRecord};
use quorate_protocols::task::message::{TaskAnswer, TaskMessage};
use quorate_protocols::{task, wire};

use super::audit_hints::AuditHints;
use super::wait_reasons::WaitReasons;
use super::{DriverMetrics, DriverSettings};
use crate::quorums::approvals::Approvals;
use crate::quorums::ports::{Knowledge, LocalPieces, LocalQuorum, LocalTasks, Sources};
use crate::raft::QuorumError;
use crate::seams::{Frame, Net, NetError, Protocol, Seams, request_again};

/// Why a duty was not done this time. Every one of them is tried again for as long as the state asks for it.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum DutyError {
    #[error("this node does not lead the quorum any more")]
    NotLeading,
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    #[error(transparent)]
    Rejected(#[from] quorate_protocols::quorum::Rejection),
    #[error(transparent)]
    Holder(#[from] HolderError),
    #[error("{0}")]
    Other(String),
}

/// Why a holder did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum HolderError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("holder {holder}: {refusal}")]
    Refused { holder: PeerId, refusal: PieceRefusal },
    #[error("holder {holder} answered something else")]
    Confused { holder: PeerId },
}

/// How often this duty has failed under this primary, and for how long.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tries {
    pub failures: u32,
    pub failing_for: Duration,
}

/// Shared by all duties of the node.
pub struct DriverEnv {
    pub seams: Seams,
    pub net: Arc<dyn Net>,
    pub knowledge: Arc<dyn Knowledge>,
    pub approvals: Approvals,
    pub pieces: Arc<dyn LocalPieces>,
    /// This node's own worker, if it runs tasks.
    pub worker: Option<Arc<dyn LocalTasks>>,
    pub wait_reasons: WaitReasons,
    pub audit_hints: AuditHints,
    pub sources: Arc<dyn Sources>,
    pub metrics: DriverMetrics,
    pub settings: DriverSettings,
}

/// One duty's view: the surroundings, and the quorum that it is for.
#[derive(Clone)]
pub(super) struct Context {
    pub env: Arc<DriverEnv>,
    pub quorum: Arc<dyn LocalQuorum>,
}

impl Context {
    /// Commits as this node, as long as it leads.
    pub async fn propose(&self, command: Command) -> Result<CommandReply, DutyError> {
        if self.quorum.leading().is_none() {
            return Err(DutyError::NotLeading);
        }
        match self.quorum.propose(self.env.net.local_peer(), command, DEADLINE).await {
            Ok(reply) => Ok(reply?),
            Err(QuorumError::NotPrimary { .. }) => Err(DutyError::NotLeading),
            Err(error) => Err(error.into()),
        }
    }

    /// The job as this primary has applied it. It may lag behind what is committed: whatever is proposed from it is
    /// checked again by the state machine.
    pub async fn job(&self, job: JobId) -> Result<Option<Box<JobRecord>>, DutyError> {
        match self.quorum.query(Query::Job { job }, true).await? {
            QueryAnswer::Job(record) => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    /// The object as this primary has applied it, with its manifest.
    pub async fn object(&self, manifest: ManifestHash) -> Result<Option<(ObjectRecord, Manifest)>, DutyError> {
        match self.quorum.query(Query::Object { manifest }, true).await? {
            QueryAnswer::Object(view) => {
                let decoded = Manifest::decode_named(&view.manifest, manifest)
                    .map_err(|error| DutyError::Other(format!("the manifest kept for {manifest}: {error}")))?;
                Ok(Some((view.record, decoded)))
            }
            _ => Ok(None),
        }
    }

    /// What a question to a peer and its answer take, as far as that was measured.
    pub fn round_trip(&self, peer: PeerId) -> Duration {
        self.env.net.round_trip(peer).unwrap_or_default().min(DELAY_MAX)
    }

    /// Asks a holder; in process when it is this node. One that is known to be absent is not waited for: the duty is
    /// tried again, and leaves its place to others meanwhile.
    pub async fn ask_holder(
        &self,
        holder: PeerId,
        message: PieceMessage,
        deadline: Duration,
    ) -> Result<(PieceAnswer, Bytes), HolderError> {
        let net = &self.env.net;
        if net.is_absent(holder) {
            return Err(NetError::Unreachable { peer: holder, reason: "its node does not answer".to_owned() }.into());
        }
        let (answer, payload) = if holder == net.local_peer() {
            let answer = self.env.pieces.answer(holder, message, Bytes::new());
            tokio::time::timeout(deadline, answer)
                .await
                .map_err(|_| NetError::Timeout { peer: holder, after: deadline })?
        } else {
            let frame = Frame::head(wire::encode(&message));
            let frame = net.request(holder, Protocol::Piece, frame, deadline).await?;
            let answer = wire::decode(&frame.head, HEAD_BYTES_MAX).map_err(|_| {
                net.penalise(holder, "a piece answer that cannot be read");
                HolderError::Confused { holder }
            })?;
            (answer, frame.payload)
        };
        match answer {
            PieceAnswer::Refused(refusal) => Err(HolderError::Refused { holder, refusal }),
            answer => Ok((answer, payload)),
        }
    }

    /// Tells a worker; in process when it is this node. A message that is lost is sent again soon: a worker that is
    /// told twice does it once.
    pub async fn ask_worker(&self, worker: PeerId, message: TaskMessage) -> Result<TaskAnswer, NetError> {
        let net = &self.env.net;
        if worker == net.local_peer() {
            let Some(local) = &self.env.worker else { return Ok(TaskAnswer::UnknownLease) };
            let answer = tokio::time::timeout(task::limits::DEADLINE, local.answer(worker, message)).await;
            return answer.map_err(|_| NetError::Timeout { peer: worker, after: task::limits::DEADLINE });
        }
        let frame = Frame::head(wire::encode(&message));
        let frame = request_again(&**net, worker, Protocol::Task, frame, task::limits::DEADLINE).await?;
        wire::decode(&frame.head, task::limits::MESSAGE_BYTES_MAX).map_err(|_| {
            net.penalise(worker, "a task answer that cannot be read");
            NetError::Broken { peer: worker }
        })
    }

    /// An answer that does not belong to the question.
    pub fn confused(&self, holder: PeerId) -> HolderError {
        if holder != self.env.net.local_peer() {
            self.env.net.penalise(holder, "an answer to another question");
        }
        HolderError::Confused { holder }
    }

    /// Whether the holder is in another life of its disk, as it announced, than the one that made the promise.
    pub fn has_lost_its_disk(&self, holder: MemberId) -> bool {
        let announced = self.env.knowledge.peers().into_iter().find(|known| known.peer == holder.peer);
        announced.is_some_and(|known| holder.is_over(known.advert.incarnation))
    }
}
