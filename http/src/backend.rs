//! The port of the API to its node. A trait, so that the edge (parsing, guards, errors, streams) is tested without one.

use quorate_protocols::capacity::Requirement;
use quorate_protocols::quorum::watch::Until;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use quorate_api::{
    ContactInfo, EmitInfo, EmitRequest, JobInfo, Kind, Listing, MemberView, NodeFaults, NodeInfo, ObjectInfo, PeerInfo,
    PlanPeer, QuorumDetail, QuorumInfo, RemovalInfo, ResourcesInfo, RunState, SubmitInfo,
};
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{JobId, Millis, Nonce, ObjectId, PeerId, QuorumId};
use quorate_protocols::job::JobSpec;
use quorate_protocols::object::ByteRange;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{CommandReply, Control};
use quorate_protocols::task::message::LogStream;
use quorate_protocols::task::record::TaskAttempt;
use tokio::sync::{broadcast, watch};

use quorate_node::compose::NodeEvent;
use quorate_node::objects::{GetStream, ObjectEvent, PutOutcome, PutProgress, PutRequest};
use quorate_node::quorums::logs::LogPage;
use quorate_node::quorums::submit::Wanted;
use quorate_node::raft::HostEvent;
use quorate_node::seams::TaskGroup;

use super::error::ApiError;
use super::modules::ModuleChecks;
use super::page::{Age, ById, Page};
use super::removal::Removal;

/// By what the rows of lists are in order.
pub type JobKey = Age<JobId>;
pub type ObjectKey = Age<ObjectId>;
pub type QuorumKey = ById<QuorumId>;

/// The node, as handlers share it.
pub type Shared = Arc<dyn Backend>;

pub type Answer<'a, T> = BoxFuture<'a, Result<T, ApiError>>;

pub trait Backend: Send + Sync + 'static {
    /// The node's wall clock.
    fn now(&self) -> Millis;
    /// The group in which requests run.
    fn tasks(&self) -> &TaskGroup;
    fn node(&self) -> NodeInfo;
    /// Peers known to the transport or by announcement, this node excluded, in order of peer id.
    fn peers(&self) -> Vec<PeerInfo>;
    /// What its operator calls a peer, as far as this node heard.
    fn peer_name(&self, peer: PeerId) -> Option<String>;
    /// Asks them whether they hear this node.
    fn contact(&self) -> BoxFuture<'_, ContactInfo>;
    /// Every quorum known here, asked for its own view where it answers in time.
    fn quorums(&self, page: Page<QuorumKey>) -> BoxFuture<'_, Listing<QuorumInfo>>;
    fn quorum(&self, quorum: QuorumId) -> Answer<'_, QuorumDetail>;
    /// Its members, each asked for its own view.
    fn members(&self, quorum: QuorumId) -> Answer<'_, Vec<MemberView>>;
    /// What this node has reserved.
    fn resources(&self) -> ResourcesInfo;
    fn jobs(&self, filter: JobFilter, page: Page<JobKey>) -> BoxFuture<'_, Listing<JobInfo>>;
    /// One job, with its outcome when it has one.
    fn job(&self, job: JobId) -> Answer<'_, JobInfo>;
    /// The job once it has ended; `None` when it has not within `patience`.
    fn watch(&self, job: JobId, until: Until, patience: Duration) -> Answer<'_, Option<JobInfo>>;
    /// Asks the owning quorum about a job. What it does not know is *not found*.
    fn ask(&self, job: JobId, query: Query) -> Answer<'_, QueryAnswer>;
    /// Has the job do something else, as this node.
    fn control(&self, job: JobId, control: Control) -> Answer<'_, ()>;
    /// Has the trigger fire now, once for each nonce that is repeated within an hour.
    fn fire(&self, job: JobId, nonce: Nonce, respect_overlap: bool) -> Answer<'_, CommandReply>;
    /// Random bytes for an id.
    fn random(&self) -> [u8; 16];
    /// An id to submit under.
    fn job_id(&self, wanted: Wanted) -> Answer<'_, JobId>;
    fn submit(&self, job: JobId, spec: JobSpec) -> Answer<'_, SubmitInfo>;
    /// Part of a task's log. `holder` is the worker that has the attempt, if it is known.
    /// Waits for so long until there is more, if it is known who has it.
    fn logs(
        &self,
        task: TaskAttempt,
        holder: Option<PeerId>,
        stream: LogStream,
        from: u64,
        wait: Duration,
    ) -> Answer<'_, LogPage>;
    /// Who could run tasks with this engine that need this much, and so much memory to compile their module, as far as
    /// this node knows, in order of peer id.
    fn candidates(&self, engine: Engine, requirement: Requirement, compile_memory_bytes: u64) -> Vec<PlanPeer>;
    /// What is known of modules that jobs name.
    fn modules(&self) -> &ModuleChecks;
    fn objects(&self, page: Page<ObjectKey>) -> BoxFuture<'_, Listing<ObjectInfo>>;
    fn object(&self, object: ObjectId) -> Answer<'_, ObjectInfo>;
    /// Gives up claims on an object.
    fn remove(&self, object: ObjectId, removal: Removal) -> Answer<'_, RemovalInfo>;
    fn put(
        &self,
        request: PutRequest,
        body: BoxStream<'static, Result<Bytes, std::io::Error>>,
        progress: watch::Sender<PutProgress>,
    ) -> BoxFuture<'static, Result<PutOutcome, ApiError>>;
    fn get(&self, object: ObjectId, range: Option<ByteRange>) -> Answer<'_, GetStream>;
    /// Emits an event through this node's outbox.
    fn emit(&self, request: EmitRequest) -> Answer<'_, EmitInfo>;
    /// What happens in this node's quorums.
    fn quorum_events(&self) -> broadcast::Receiver<HostEvent>;
    /// What happens to objects on this node: its puts and gets, and the pieces that it holds.
    fn object_events(&self) -> broadcast::Receiver<ObjectEvent>;
    /// Whether this node is a member of the quorum, and so hears of everything in it.
    fn is_member(&self, quorum: QuorumId) -> bool;
    /// What happens on this node otherwise.
    fn node_events(&self) -> broadcast::Receiver<NodeEvent>;
    /// OpenMetrics text.
    fn metrics(&self) -> String;
    /// Commits a command that changes nothing, for measuring.
    fn commit_noop(&self, quorum: QuorumId, deadline: Duration) -> Answer<'_, ()>;
    /// Forms a quorum whatever there is already, for measuring.
    fn form(&self, voters: usize) -> Answer<'_, QuorumId>;
    /// The fault hooks of a node started with `--testing`.
    fn testing(&self) -> Option<&dyn TestingHooks>;
}

/// Which jobs a listing has. What is empty or `None` lets all through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub states: Vec<RunState>,
    pub kind: Option<Kind>,
    pub owner: Option<PeerId>,
    /// Part of the name.
    pub name: Option<String>,
}

impl JobFilter {
    pub fn admits(&self, job: &JobInfo) -> bool {
        let named = |part: &String| job.name.as_ref().is_some_and(|name| name.contains(part.as_str()));
        (self.states.is_empty() || self.states.contains(&job.state))
            && self.kind.is_none_or(|kind| kind == job.kind)
            && self.owner.is_none_or(|owner| owner == job.owner)
            && self.name.as_ref().is_none_or(named)
    }
}

/// Faults that a test may inject into a running node.
pub trait TestingHooks: Send + Sync + 'static {
    fn faults(&self) -> NodeFaults;
    /// Replaces all faults by these.
    fn set_faults(&self, faults: NodeFaults);
}
