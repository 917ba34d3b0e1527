//! What the primaries on this node share with those who ask here: reasons, audit hints, and the intakes of events and
//! of workers' reports.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::ids::{ManifestHash, PeerId, PieceIndex, QuorumId};
use quorate_protocols::job::message::{Query, QueryAnswer};
use quorate_protocols::quorum::Rejection;
use quorate_protocols::task::message::{TaskAnswer, TaskMessage};
use quorate_protocols::trigger::event::{Dispatch, Heard};

use super::{DriverMetrics, Hearing, Notes, Steward, Suspects};
use crate::quorums::ports::{LocalQuorum, LocalQuorums, PrimaryPort};
use crate::raft::QuorumError;

/// Cloneable; clones share all.
#[derive(Clone)]
pub struct PrimaryServices {
    pub notes: Notes,
    pub suspects: Suspects,
    pub metrics: DriverMetrics,
    pub steward: Steward,
    hearing: Hearing,
}

impl PrimaryServices {
    pub fn new(quorums: Arc<dyn LocalQuorums>) -> Self {
        let (notes, metrics) = (Notes::default(), DriverMetrics::default());
        let steward = Steward { quorums: quorums.clone(), pulses: notes.pulses().clone(), metrics: metrics.clone() };
        Self { notes, suspects: Suspects::default(), metrics, steward, hearing: Hearing::new(quorums) }
    }
}

impl PrimaryPort for PrimaryServices {
    fn add_reasons(&self, local: &dyn LocalQuorum, query: &Query, answer: QueryAnswer) -> QueryAnswer {
        self.notes.add_to(local, query, answer)
    }
    fn suspect_column(&self, quorum: QuorumId, manifest: ManifestHash, column: PieceIndex) {
        self.suspects.note(quorum, manifest, column);
    }
    fn deliver_events<'a>(
        &'a self,
        local: &'a dyn LocalQuorum,
        this_node: PeerId,
        from: PeerId,
        dispatch: Dispatch,
    ) -> BoxFuture<'a, Result<Result<Heard, Rejection>, QuorumError>> {
        self.hearing.hear(local, this_node, from, dispatch).boxed()
    }
    fn answer_worker(&self, from: PeerId, message: TaskMessage) -> BoxFuture<'static, TaskAnswer> {
        self.steward.answer(from, message)
    }
}
