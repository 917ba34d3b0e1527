//! Objects at the edge: the piece store and its holder service, put, get, rebuild, scrub and collection.

pub mod coding;
pub mod context;
pub mod events;
mod get;
pub mod holder;
mod put;
pub mod store;

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use prometheus_client::registry::Registry;
use quorate_protocols::ids::{JobId, ObjectId, PeerId, PieceIndex, QuorumId};
use quorate_protocols::object::{ByteRange, HolderShortage, Profile, RangeFault};
use quorate_protocols::quorum::Claim;
use quorate_protocols::units::ByteSize;
use tokio::sync::{Semaphore, watch};

use crate::certificates::Standings;
use crate::identity::Identity;
use crate::quorums::{ClientError, QuorumPort, Speaker};
use crate::seams::{InboundRequest, Net, Seams};
use crate::storage::Storage;

pub use context::{HolderLeases, HoldersKnown, ObjectPlacement};
pub use events::{Events, Metrics, ObjectEvent};
pub use holder::{PieceCallError, PieceClient, PieceService};

/// What a put was asked to do.
#[derive(Clone, Debug, Default)]
pub struct PutRequest {
    pub name: Option<String>,
    /// Bytes, when the caller knows.
    pub size: Option<u64>,
    pub profile: Option<Profile>,
    pub quorum: Option<QuorumId>,
    /// Go on with this run.
    pub resume: Option<JobId>,
    /// Recognises the same file put again on this node after a crash (path, size, time of change).
    pub fingerprint: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutProgress {
    pub phase: PutPhase,
    /// Phases left behind, each once, in the order in which they were first left: a watcher sees only the last value,
    /// and a phase may be over before it looks.
    pub passed: Vec<PutPhase>,
    pub job: Option<JobId>,
    /// Bytes of the object whose pieces are all stored.
    pub bytes_stored: u64,
    pub bytes_read: u64,
    /// Pieces sent now, and pieces that an earlier attempt had already stored.
    pub pieces_sent: u64,
    pub pieces_skipped: u64,
    pub columns_replaced: u32,
    /// What the put waits for, while it waits for peers with room.
    pub waiting: Option<String>,
}

impl PutProgress {
    pub fn enter(&mut self, phase: PutPhase) {
        if self.phase != phase && !self.passed.contains(&self.phase) {
            self.passed.push(self.phase);
        }
        if self.phase != phase {
            self.waiting = None;
        }
        self.phase = phase;
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PutPhase {
    #[default]
    Placing,
    Approval,
    Sending,
    Receipts,
    Commit,
    Done,
}

#[derive(Clone, Debug)]
pub struct PutOutcome {
    pub object: ObjectId,
    pub job: JobId,
    pub bytes: u64,
    pub profile: Profile,
    pub degraded: bool,
    pub columns: Vec<(PieceIndex, PeerId)>,
    /// Claims on the object that were there before this put.
    pub existed: Vec<Claim>,
    /// On whose word it is committed.
    pub by: Speaker,
    pub progress: PutProgress,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum PutError {
    #[error(transparent)]
    Placement(#[from] crate::quorums::PlacementError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0}")]
    TooFewHolders(HolderShortage),
    /// As the quorum says it, after peers with room were waited for.
    #[error("no room was found for the object: {reason}")]
    NoRoom { reason: String },
    #[error("reading the file failed: {reason}")]
    Body { reason: String },
    #[error("the file ended after {found} bytes; {expected} were announced")]
    Length { expected: u64, found: u64 },
    #[error("an object of this profile may have at most {}", ByteSize(*limit).rounded_down())]
    TooLarge { limit: u64 },
    #[error("this is not the file that job {job} was storing: segment {segment} differs")]
    DifferentContent { job: JobId, segment: u32 },
    #[error("the run was ended: {reason}")]
    Ended { job: JobId, reason: String },
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum GetError {
    #[error("no object {object} (it was removed, or never stored)")]
    Unknown { object: ObjectId },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(
        "{found} of {needed} needed holders answer with a good piece of segment {segment} of {object}; the others: {faults}"
    )]
    Unreadable { object: ObjectId, segment: u32, found: usize, needed: usize, faults: String },
    #[error("the read of {object} was cut short after {read} of {length} bytes: this node is stopping")]
    Interrupted { object: ObjectId, read: u64, length: u64 },
    #[error(transparent)]
    Range(#[from] RangeFault),
}

/// A started read: what will come, and the bytes, each checked: all `length` of them, or an error as the last.
pub struct GetStream {
    pub size: u64,
    pub start: u64,
    pub length: u64,
    pub bytes: BoxStream<'static, Result<Bytes, GetError>>,
}

/// What the objects of a node are built from.
#[derive(Clone)]
pub struct ObjectsContext {
    pub seams: Seams,
    pub identity: Identity,
    pub net: Arc<dyn Net>,
    pub storage: Storage,
    pub quorums: Arc<dyn QuorumPort>,
    pub placement: Arc<dyn ObjectPlacement>,
    pub leases: Arc<dyn HolderLeases>,
    /// Who speaks for a quorum.
    pub standings: Arc<dyn Standings>,
}

/// Handle to the node's objects.
#[derive(Clone)]
pub struct Objects {
    context: Arc<ObjectsContext>,
    service: PieceService,
    pieces: PieceClient,
    coders: coding::Coders,
    events: Events,
    metrics: Arc<Metrics>,
    /// Runs of failed puts that wait to be ended.
    endings: Arc<Semaphore>,
}

impl Objects {
    /// Starts the holder service and its background work in the caller's task group.
    pub fn start(context: ObjectsContext, inbound: tokio::sync::mpsc::Receiver<InboundRequest>) -> Self {
        let (events, metrics) = (Events::new(), Arc::new(Metrics::default()));
        let context = Arc::new(context);
        let service = PieceService::new(context.clone(), events.clone(), metrics.clone());
        let pieces = PieceClient::new(context.net.clone(), service.clone());
        holder::actor::start(service.clone(), inbound);
        let (coders, endings) = (coding::Coders::default(), Arc::new(Semaphore::new(put::ENDINGS_MAX)));
        Self { context, service, pieces, coders, events, metrics, endings }
    }
    /// Asks any holder, this node included, over the piece protocol.
    pub fn pieces(&self) -> &PieceClient {
        &self.pieces
    }
    /// This node as a holder.
    pub fn service(&self) -> &PieceService {
        &self.service
    }
    pub fn events(&self) -> tokio::sync::broadcast::Receiver<ObjectEvent> {
        self.events.subscribe()
    }
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }
    /// Streams a file into the network. Returns when the object is committed; memory is bounded whatever its size.
    pub async fn put(
        &self,
        request: PutRequest,
        body: BoxStream<'static, Result<Bytes, std::io::Error>>,
        progress: watch::Sender<PutProgress>,
    ) -> Result<PutOutcome, PutError> {
        self.put_object(request, body, progress).await
    }
    /// Reads an object, or a part of it. Returns once its first bytes are at hand, so that what cannot be read is an
    /// error here and not in the middle of an answer.
    pub async fn get(&self, object: ObjectId, range: Option<ByteRange>) -> Result<GetStream, GetError> {
        self.get_object(object, range).await
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod error_texts {
    use quorate_protocols::text::chain;

    use super::*;
    use quorate_protocols::object::Reachable;

    use crate::error::assert_reads_well;
    use crate::quorums::{PlacementError, RoundError};
    use crate::raft::FoundError;

    /// Goal: each error of a put and a get, with all that caused it, reads as one sentence that says nothing twice.
    #[test]
    fn errors_of_puts_and_gets_say_each_thing_once() {
        let (quorum, peer) = (QuorumId([1; 16]), PeerId([2; 32]));
        let (job, profile) = (JobId { quorum, local: [3; 16] }, Profile { data: 4, parity: 2 });
        let object = ObjectId { quorum, manifest: quorate_protocols::ids::ManifestHash([4; 32]) };
        let after = std::time::Duration::from_secs(10);
        let known = Reachable { full: 2, absent: 1, ..Reachable::default() };
        let shortage = |holders| HolderShortage::new(Some(1 << 30), 1 << 28, profile, holders, known);
        let source =
            RoundError::TooFew { needed: 3, granted: 2, refusals: Vec::new(), silent: vec![peer], exhausted: true };
        let puts: Vec<PutError> = vec![
            PlacementError::Form { needed: 3, source }.into(),
            PlacementError::Found(FoundError::NoPrimary { quorum, after }).into(),
            ClientError::QuorumUnknown { quorum }.into(),
            ClientError::Unreachable { quorum }.into(),
            ClientError::Paused { quorum, reason: "1 of 3 members answer, and 2 are needed".into() }.into(),
            ClientError::Busy { quorum }.into(),
            ClientError::Unknown { quorum, after, reason: None }.into(),
            ClientError::Unknown { quorum, after, reason: Some("the disk of this member's node is full".into()) }
                .into(),
            ClientError::Forbidden { reason: "the owner may cancel it".into() }.into(),
            ClientError::Protocol { quorum, reason: "a commit was answered with something else".into() }.into(),
            ClientError::Rejected(quorate_protocols::quorum::Rejection::UnknownJob { job }).into(),
            PutError::TooFewHolders(shortage(4)),
            PutError::TooFewHolders(shortage(2)),
            PutError::NoRoom { reason: shortage(0).to_string() },
            PutError::Body { reason: "the client went away".into() },
            PutError::Length { expected: 2, found: 1 },
            PutError::TooLarge { limit: profile.bytes_max() },
            PutError::DifferentContent { job, segment: 1 },
            PutError::Ended { job, reason: "nobody fed it".into() },
        ];
        let gets: Vec<GetError> = vec![
            GetError::Unknown { object },
            ClientError::Busy { quorum }.into(),
            GetError::Unreadable { object, segment: 0, found: 1, needed: 4, faults: "column 2: gone".into() },
            GetError::Interrupted { object, read: 3, length: 9 },
            RangeFault::PastEnd { start: 9, size: 3 }.into(),
            RangeFault::NoBytes { size: 3 }.into(),
        ];
        puts.iter().for_each(|error| assert_reads_well(&chain(error)));
        gets.iter().for_each(|error| assert_reads_well(&chain(error)));
    }
}
