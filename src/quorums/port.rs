//! Port to quorums: what the rest of the node asks of any quorum, wherever its members are.
//!
//! Objects, workers and the emitter of events see quorums through this trait alone, so that each can be tested beside a
//! scripted quorum. [`QuorumClient`] is the one implementation that is no test's.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::ids::{JobId, ManifestHash, PeerId, PieceIndex, QuorumId};
use quorate_protocols::job::JobRecord;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::watch::Until;
use quorate_protocols::quorum::{Command, CommandReply};
use quorate_protocols::task::message::{TaskAnswer, TaskMessage};
use quorate_protocols::trigger::event::{DeliveryAck, Dispatch};

use super::client::mixed_up;
use super::{ClientError, QuorumClient};

/// What a node tells the primary of a quorum. Each may be said twice.
#[derive(Clone, Debug)]
pub enum Report {
    /// As a worker: `Start`, `Heartbeat`, `Report` or `Checkpoint`.
    Task(TaskMessage),
    /// As a reader or a holder: a column of an object gave no good piece.
    Suspect { manifest: ManifestHash, column: PieceIndex },
    /// As an emitter: events, which the answer acknowledges after their commit.
    Events(Dispatch),
}

/// What the primary makes of a report of the same sort.
#[derive(Clone, Debug)]
pub enum ReportAnswer {
    Task(TaskAnswer),
    /// Nobody waits for what comes of it.
    Acknowledged,
    Events(DeliveryAck),
}

/// A member that spoke for its quorum, and why it was believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    pub peer: PeerId,
    /// The voters by the certificate that it was checked against; of a quorum of this node's own, as its member here
    /// has them. In order.
    pub voters: Vec<PeerId>,
}

/// See the module. Whatever waits for a primary looks for it, across failovers, until its deadline.
pub trait QuorumPort: Send + Sync + 'static {
    /// Commits a command as this node: the reply, and on whose word. Commands are idempotent.
    fn propose(
        &self,
        quorum: QuorumId,
        command: Command,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<(CommandReply, Speaker), ClientError>>;
    /// Linearizable unless `stale`; then any member answers.
    fn query(
        &self,
        quorum: QuorumId,
        query: Query,
        stale: bool,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<QueryAnswer, ClientError>>;
    /// The job as soon as the condition holds; `None` when it does not within `patience`.
    fn watch(
        &self,
        job: JobId,
        until: Until,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Option<Box<JobRecord>>, ClientError>>;
    /// Tells the primary, which answers in kind.
    fn report(
        &self,
        quorum: QuorumId,
        report: Report,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<ReportAnswer, ClientError>>;
    /// Voters of the quorum, as far as this node knows without asking; empty when it knows none.
    fn members(&self, quorum: QuorumId) -> Vec<PeerId>;
    /// Quorums that this node knows of without asking, in no order; one may be there twice.
    fn known(&self) -> Vec<QuorumId>;
    /// The peer has just spoken for the quorum: it is asked first.
    fn remember_primary(&self, quorum: QuorumId, primary: PeerId);
}

impl dyn QuorumPort {
    /// Tells the primary of a quorum what this node's worker did.
    pub fn report_task(
        &self,
        quorum: QuorumId,
        message: TaskMessage,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<TaskAnswer, ClientError>> {
        let reporting = self.report(quorum, Report::Task(message), deadline);
        async move {
            match reporting.await? {
                ReportAnswer::Task(answer) => Ok(answer),
                ReportAnswer::Acknowledged | ReportAnswer::Events(_) => Err(mixed_up(quorum)),
            }
        }
        .boxed()
    }

    /// Hands events that this node has emitted to the primary of a quorum.
    pub fn report_events(
        &self,
        quorum: QuorumId,
        dispatch: Dispatch,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<DeliveryAck, ClientError>> {
        let reporting = self.report(quorum, Report::Events(dispatch), deadline);
        async move {
            match reporting.await? {
                ReportAnswer::Events(ack) => Ok(ack),
                ReportAnswer::Acknowledged | ReportAnswer::Task(_) => Err(mixed_up(quorum)),
            }
        }
        .boxed()
    }
}

impl QuorumPort for QuorumClient {
    fn propose(
        &self,
        quorum: QuorumId,
        command: Command,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<(CommandReply, Speaker), ClientError>> {
        let client = self.clone();
        async move { Self::propose(&client, quorum, command, deadline).await }.boxed()
    }
    fn query(
        &self,
        quorum: QuorumId,
        query: Query,
        stale: bool,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<QueryAnswer, ClientError>> {
        let client = self.clone();
        async move { Self::query(&client, quorum, query, stale, deadline).await }.boxed()
    }
    fn watch(
        &self,
        job: JobId,
        until: Until,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Option<Box<JobRecord>>, ClientError>> {
        let client = self.clone();
        async move { Ok(Self::watch(&client, job, until, patience).await?.map(|met| met.record)) }.boxed()
    }
    fn report(
        &self,
        quorum: QuorumId,
        report: Report,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<ReportAnswer, ClientError>> {
        let client = self.clone();
        async move { Self::report(&client, quorum, report, deadline).await }.boxed()
    }
    fn members(&self, quorum: QuorumId) -> Vec<PeerId> {
        let parts = self.parts();
        let announced = parts.knowledge.quorum(quorum).map(|advert| advert.members).unwrap_or_default();
        let here = parts.quorums.quorum(quorum).map(|quorum| quorum.view().voters).unwrap_or_default();
        announced.iter().chain(&here).map(|member| member.peer).collect()
    }
    fn known(&self) -> Vec<QuorumId> {
        let parts = self.parts();
        let announced = parts.knowledge.quorums().into_iter().map(|advert| advert.quorum);
        announced.chain(parts.quorums.all().iter().map(|quorum| quorum.id())).collect()
    }
    fn remember_primary(&self, quorum: QuorumId, primary: PeerId) {
        Self::remember_primary(self, quorum, primary);
    }
}
