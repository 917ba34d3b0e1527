//! Services that the primaries on this node share: reasons, audit hints, and the intakes of events and
//! of workers' reports.

use quorate_protocols::quorum::watch::EntryId;
use quorate_protocols::quorum::watch::Met;
use quorate_protocols::quorum::watch::WatchAnswer;
use quorate_protocols::quorum::watch::WatchRequest;
use quorate_protocols::quorum::watch::Watched;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::ids::{ManifestHash, PeerId, PieceIndex, QuorumId};
use quorate_protocols::quorum::Rejection;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::task::message::{TaskAnswer, TaskMessage};
use quorate_protocols::trigger::event::{DeliveryAck, Dispatch};
use tokio::sync::broadcast;

use super::{AuditHints, DriverMetrics, EventIntake, ReportIntake, WaitReasons, Watches};
use crate::quorums::ports::{Knowledge, LocalQuorum, LocalQuorums, PrimaryPort};
use crate::raft::{HostEvent, QuorumError};
use crate::seams::TaskGroup;

/// Cloneable; clones share all.
#[derive(Clone)]
pub struct PrimaryServices {
    pub wait_reasons: WaitReasons,
    pub audit_hints: AuditHints,
    pub metrics: DriverMetrics,
    pub report_intake: ReportIntake,
    event_intake: EventIntake,
    watches: Watches,
}

impl PrimaryServices {
    pub fn new(quorums: Arc<dyn LocalQuorums>, knowledge: Arc<dyn Knowledge>) -> Self {
        let (wait_reasons, metrics) = (WaitReasons::default(), DriverMetrics::default());
        let report_intake = ReportIntake {
            quorums: quorums.clone(),
            heartbeats: wait_reasons.heartbeats().clone(),
            metrics: metrics.clone(),
        };
        Self {
            wait_reasons,
            audit_hints: AuditHints::default(),
            metrics,
            report_intake,
            event_intake: EventIntake::new(quorums, knowledge),
            watches: Watches::default(),
        }
    }

    fn add_reasons_to_watched(&self, local: &dyn LocalQuorum, (id, watched): (EntryId, Watched)) -> (EntryId, Watched) {
        let Watched::Met(Met { record, outputs }) = watched else { return (id, watched) };
        let query = Query::Job { job: record.job };
        match self.add_reasons(local, &query, QueryAnswer::Job(record)) {
            QueryAnswer::Job(record) => (id, Watched::Met(Met { record, outputs })),
            _ => (id, Watched::Unknown),
        }
    }

    /// The sessions of watches that are held here, and their entries.
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Wakes the watches that are held here by what happens in this node's quorums.
    pub fn start_watches(&self, tasks: &TaskGroup, events: broadcast::Receiver<HostEvent>) {
        self.watches.start(tasks, events);
    }
}

impl PrimaryPort for PrimaryServices {
    fn add_reasons(&self, local: &dyn LocalQuorum, query: &Query, answer: QueryAnswer) -> QueryAnswer {
        self.wait_reasons.add_to(local, query, answer)
    }
    fn suspect_column(&self, quorum: QuorumId, manifest: ManifestHash, column: PieceIndex) {
        self.audit_hints.add_hint(quorum, manifest, column);
    }
    fn deliver_events<'a>(
        &'a self,
        local: &'a dyn LocalQuorum,
        this_node: PeerId,
        from: PeerId,
        dispatch: Dispatch,
    ) -> BoxFuture<'a, Result<Result<DeliveryAck, Rejection>, QuorumError>> {
        self.event_intake.deliver_events(local, this_node, from, dispatch).boxed()
    }
    fn watch<'a>(
        &'a self,
        local: &'a dyn LocalQuorum,
        this_node: PeerId,
        by: PeerId,
        request: WatchRequest,
    ) -> BoxFuture<'a, Result<WatchAnswer, QuorumError>> {
        async move {
            let answer = self.watches.answer(local, this_node, by, &request).await?;
            Ok(match answer {
                WatchAnswer::Update { met, refused } => {
                    self.metrics.watches_met.inc_by(met.len() as u64);
                    self.metrics.watches_refused.inc_by(refused.len() as u64);
                    let met = met.into_iter().map(|entry| self.add_reasons_to_watched(local, entry)).collect();
                    WatchAnswer::Update { met, refused }
                }
                WatchAnswer::Reopen => WatchAnswer::Reopen,
            })
        }
        .boxed()
    }
    fn answer_worker(&self, from: PeerId, message: TaskMessage) -> BoxFuture<'static, TaskAnswer> {
        self.report_intake.answer(from, message)
    }
}
