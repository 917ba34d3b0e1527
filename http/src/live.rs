//! The API's view of a running [`Node`].

use quorate_protocols::capacity::Requirement;
use quorate_protocols::quorum::watch::{Met, Until};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use prometheus_client::registry::Registry;
use quorate_api::{
    ContactInfo, EmitInfo, EmitRequest, JobInfo, LeasesInfo, Listing, MemberView, NodeInfo, ObjectInfo, OutcomeInfo,
    OwnState, PeerInfo, PlanPeer, QuorumDetail, QuorumInfo, RemovalInfo, ResourcesInfo, ScopeInfo, SubmitInfo,
    Unreachable,
};
use quorate_node::approver::ScopeLeases;
use quorate_node::compose::{Node, NodeEvent};
use quorate_node::objects::{GetStream, ObjectEvent, PutOutcome, PutProgress, PutRequest};
use quorate_node::quorums::logs::LogPage;
use quorate_node::quorums::submit::{Submitted, Wanted};
use quorate_node::quorums::{ClientError, QuorumClient};
use quorate_node::raft::{HostEvent, Unheard};
use quorate_node::resources::ScopeUsage;
use quorate_node::seams::TaskGroup;
use quorate_protocols::directory::QuorumAdvert;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{JobId, Millis, Nonce, ObjectId, PeerId, QuorumId, TaskIndex};
use quorate_protocols::job::plan::Plan;
use quorate_protocols::job::{JobRecord, JobSpec, RunState};
use quorate_protocols::object::ByteRange;
use quorate_protocols::quorum::request::{ObjectView, QuorumView};
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{
    Claim, Command, CommandReply, Control, ObjectCommand, ObjectState, QuorumCommand, Rejection, Uses,
};
use quorate_protocols::task::message::{LogStream, OutputRef};
use quorate_protocols::task::record::TaskAttempt;
use tokio::sync::{broadcast, watch};

use super::backend::{Answer, Backend, JobFilter, JobKey, ObjectKey, QuorumKey, TestingHooks};
use super::error::ApiError;
use super::limits::{
    CONTACT_DEADLINE, CONTACT_PEERS_MAX, LISTING_DEADLINE, LISTING_FAN_OUT, OUTCOME_OUTPUTS_MAX, QUESTION_DEADLINE,
    listing_deadline_short,
};
use super::listing::{self, Gathering};
use super::metrics::QuorumGauges;
use super::modules::ModuleChecks;
use super::page::{ById, Gathered, Page};
use super::removal::{self, Removal};
use super::views;

pub struct NodeBackend {
    node: Node,
    tasks: TaskGroup,
    started: tokio::time::Instant,
    /// What the network and the actors registered.
    registry: Registry,
    modules: ModuleChecks,
    testing: Option<Arc<dyn TestingHooks>>,
}

impl NodeBackend {
    pub fn new(node: Node, mut registry: Registry, testing: Option<Arc<dyn TestingHooks>>) -> Self {
        let tasks = node.seams().tasks.clone();
        node.register_metrics(&mut registry);
        let modules = ModuleChecks::default();
        Self { node, tasks, started: tokio::time::Instant::now(), registry, modules, testing }
    }

    async fn ask_primary(&self, quorum: QuorumId, query: Query) -> Result<QueryAnswer, ClientError> {
        self.node.jobs().query(quorum, query, false, QUESTION_DEADLINE).await
    }

    /// A question of a listing: any member's view will do, and soon.
    async fn ask_any(&self, quorum: QuorumId, query: Query) -> Result<QueryAnswer, ClientError> {
        self.node.jobs().query(quorum, query, true, LISTING_DEADLINE).await
    }

    async fn view(&self, quorum: QuorumId) -> Result<QuorumView, ClientError> {
        // A member knows without asking.
        if let Some(quorum) = self.node.quorums().quorum(quorum) {
            return Ok(quorum.view());
        }
        match self.ask_any(quorum, Query::Quorum).await? {
            QueryAnswer::Quorum(view) => Ok(view),
            other => Err(unexpected(quorum, "the quorum", &other)),
        }
    }

    /// Announced quorums and those of this node, in order of id.
    pub(super) fn known_quorums(&self) -> BTreeMap<QuorumId, Option<QuorumAdvert>> {
        let mut known: BTreeMap<_, _> =
            self.node.quorums().quorums().iter().map(|quorum| (quorum.id(), None)).collect();
        known.extend(self.node.directory().quorums().into_iter().map(|advert| (advert.quorum, Some(advert))));
        known
    }

    fn primary_of(&self, quorum: QuorumId) -> Option<PeerId> {
        self.node.quorums().quorum(quorum).and_then(|quorum| quorum.view().primary).map(|primary| primary.peer)
    }

    pub(super) async fn primary(&self, quorum: QuorumId) -> Option<PeerId> {
        match self.primary_of(quorum) {
            Some(primary) => Some(primary),
            None => self.view(quorum).await.ok()?.primary.map(|primary| primary.peer),
        }
    }

    async fn record(&self, job: JobId) -> Result<JobRecord, ApiError> {
        match self.ask_primary(job.quorum, Query::Job { job }).await? {
            QueryAnswer::Job(record) => Ok(*record),
            QueryAnswer::Unknown => Err(no_job(job)),
            other => Err(unexpected(job.quorum, "a job", &other).into()),
        }
    }

    /// `outputs`: those that came with the record, if any did.
    async fn job_info(&self, record: &JobRecord, outputs: Option<Vec<OutputRef>>) -> Result<JobInfo, ApiError> {
        let (outcome, outcome_hidden) = match self.outcome(record, outputs).await {
            Ok(outcome) => (outcome, None),
            // The state is for everybody.
            Err(ClientError::Forbidden { reason }) => (None, Some(reason)),
            Err(error) => return Err(error.into()),
        };
        let quorum = record.job.quorum;
        // Whoever has just answered led it: no question about that is needed.
        let primary = match self.node.jobs().primary_known(quorum) {
            Some(primary) => Some(primary),
            None => self.primary(quorum).await,
        };
        let mut info = views::job_info(record, primary);
        if let Some(batch) = &mut info.batch {
            batch.outcome = outcome;
            batch.outcome_hidden = outcome_hidden;
        }
        Ok(info)
    }

    /// The outputs of a run that succeeded; `None` when there is none, or none is remembered.
    async fn outcome(
        &self,
        record: &JobRecord,
        outputs: Option<Vec<OutputRef>>,
    ) -> Result<Option<OutcomeInfo>, ClientError> {
        let Some((spec, _)) = record.batch().filter(|_| record.state == RunState::Succeeded) else {
            return Ok(None);
        };
        let plan = Plan::of(spec);
        let step = plan.last();
        let outputs = match outputs {
            Some(outputs) => outputs,
            None => {
                let query = Query::Outputs { job: record.job, step, from: TaskIndex(0), limit: OUTCOME_OUTPUTS_MAX };
                match self.ask_primary(record.job.quorum, query).await? {
                    QueryAnswer::Outputs(outputs) => outputs,
                    QueryAnswer::Unknown => return Ok(None),
                    other => return Err(unexpected(record.job.quorum, "outputs", &other)),
                }
            }
        };
        Ok(Some(OutcomeInfo {
            outputs: outputs.iter().map(views::output_info).collect(),
            tasks: plan.step(step).map_or(0, |step| step.tasks),
        }))
    }

    pub(super) fn jobs_client(&self) -> &QuorumClient {
        self.node.jobs()
    }

    /// The short deadline of a listing, by the slowest of the peers that are connected.
    pub(super) fn listing_deadline_short(&self) -> Duration {
        let net = self.node.net();
        let connected = net.peers().into_iter().filter(|peer| peer.connected);
        let slowest = connected.filter_map(|view| net.round_trip(view.peer)).max();
        listing_deadline_short(slowest.unwrap_or_default())
    }

    /// Says, of a quorum of which this node is a member, that it hears no majority of it.
    pub(super) fn unheard(&self, quorum: QuorumId) -> Option<Unreachable> {
        let Unheard { reason, since } = self.node.quorums().quorum(quorum)?.unheard()?;
        let age_ms = since.map(|since| since.as_millis() as u64);
        Some(Unreachable { quorum, reason, stale: true, age_ms })
    }

    /// The peers that count when it is asked who is heard: the address book remembers others for long.
    fn peers_lately(&self) -> Vec<PeerInfo> {
        let peers = Backend::peers(self);
        let is_known = |peer: &&PeerInfo| peer.connected || self.node.directory().peer(peer.peer).is_some();
        let lately: Vec<_> = peers.iter().filter(is_known).cloned().collect();
        if lately.is_empty() { peers } else { lately }
    }

    /// Asks the quorums that this node knows, but for the object's own, whose live jobs need it; that one checks its
    /// own jobs when it commits. A job that is submitted elsewhere in the same moment goes unseen.
    async fn check_unused(&self, object: ObjectId) -> Result<(), ApiError> {
        let others = self.known_quorums().into_keys().filter(|quorum| *quorum != object.quorum);
        let mut answers = stream::iter(others)
            .map(|quorum| async move { (quorum, self.uses_in(quorum, object).await) })
            .buffer_unordered(LISTING_FAN_OUT);
        let mut uses = Uses::default();
        while let Some((quorum, found)) = answers.next().await {
            match found {
                Ok(found) => uses.extend(found),
                Err(error) => return Err(removal::uncertain(object, quorum, &error)),
            }
        }
        match uses.total {
            0 => Ok(()),
            _ => Err(ClientError::Rejected(Rejection::InUse { manifest: object.manifest, uses }).into()),
        }
    }

    async fn uses_in(&self, quorum: QuorumId, object: ObjectId) -> Result<Uses, ClientError> {
        let query = Query::Uses { object };
        // The primary knows of every job that was acknowledged; without one, a member that may lag is better than none.
        let answer = match self.node.jobs().query(quorum, query.clone(), false, LISTING_DEADLINE).await {
            Ok(answer) => answer,
            Err(_) => self.ask_any(quorum, query).await?,
        };
        match answer {
            QueryAnswer::Uses(uses) => Ok(uses),
            other => Err(unexpected(quorum, "who uses an object", &other)),
        }
    }

    async fn object_view(&self, object: ObjectId) -> Result<ObjectView, ApiError> {
        match self.ask_primary(object.quorum, Query::Object { manifest: object.manifest }).await? {
            QueryAnswer::Object(view) if view.record.state == ObjectState::Live => Ok(*view),
            QueryAnswer::Object(_) | QueryAnswer::Unknown => {
                Err(quorate_node::objects::GetError::Unknown { object }.into())
            }
            other => Err(unexpected(object.quorum, "an object", &other).into()),
        }
    }
}

fn no_job(job: JobId) -> ApiError {
    ApiError::not_found(format!("quorum {} knows no job {job}", job.quorum))
        .hint("`quorate job ls` lists jobs; ended ones are kept for a week")
}

pub(super) fn unexpected(quorum: QuorumId, asked: &str, answer: &QueryAnswer) -> ClientError {
    let kind = match answer {
        QueryAnswer::Quorum(_) => "a quorum",
        QueryAnswer::Job(_) => "a job",
        QueryAnswer::Jobs(_) => "jobs",
        QueryAnswer::Object(_) => "an object",
        QueryAnswer::Objects(_) => "objects",
        QueryAnswer::History(_) => "a history",
        QueryAnswer::Why(_) => "a reason",
        QueryAnswer::Tasks(_) => "tasks",
        QueryAnswer::Outputs(_) => "outputs",
        QueryAnswer::Workers(_) => "workers",
        QueryAnswer::Fires(_) => "fires",
        QueryAnswer::Subscription { .. } => "names of events",
        QueryAnswer::Uses(_) => "who uses an object",
        QueryAnswer::Unknown => "nothing",
    };
    ClientError::Protocol { quorum, reason: format!("asked for {asked} it answered with {kind}") }
}

impl Backend for NodeBackend {
    fn now(&self) -> Millis {
        self.node.seams().clock.wall()
    }
    fn tasks(&self) -> &TaskGroup {
        &self.tasks
    }

    fn node(&self) -> NodeInfo {
        let identity = self.node.identity();
        let peers = self.node.net().peers();
        let quorums = self.node.quorums().quorums();
        NodeInfo {
            peer: identity.peer(),
            name: self.peer_name(identity.peer()),
            incarnation: identity.incarnation,
            boot: identity.boot,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: self.node.net().listen_addresses(),
            pid: std::process::id(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            answered_at: self.node.seams().clock.wall(),
            peers_known: peers.len() as u32,
            peers_connected: peers.iter().filter(|peer| peer.connected).count() as u32,
            quorums: quorums.len() as u32,
            leading: quorums.iter().filter(|quorum| quorum.leading().is_some()).count() as u32,
            testing: self.testing.is_some(),
        }
    }

    fn peers(&self) -> Vec<PeerInfo> {
        let own = self.node.identity().peer();
        let mut rows: BTreeMap<PeerId, (Option<_>, Option<_>)> = BTreeMap::new();
        for seen in self.node.net().peers() {
            let peer = seen.peer;
            rows.entry(peer).or_default().0 = Some(seen);
        }
        for known in self.node.directory().peers() {
            let peer = known.peer;
            rows.entry(peer).or_default().1 = Some(known);
        }
        rows.iter()
            .filter(|(peer, _)| **peer != own)
            .map(|(peer, (seen, known))| PeerInfo {
                suspected: self.node.quorums().suspects(*peer),
                ..views::peer_info(*peer, seen.as_ref(), known.as_ref())
            })
            .collect()
    }

    fn peer_name(&self, peer: PeerId) -> Option<String> {
        let directory = self.node.directory();
        let name = match peer == self.node.identity().peer() {
            true => directory.name().to_owned(),
            false => directory.peer(peer)?.advert.name,
        };
        Some(name).filter(|name| !name.is_empty())
    }

    fn contact(&self) -> BoxFuture<'_, ContactInfo> {
        Box::pin(async move {
            let peers = self.peers_lately();
            let jobs = self.node.jobs();
            let asked = peers.iter().take(CONTACT_PEERS_MAX).map(|peer| async move {
                peer.connected && !peer.suspected && jobs.hears(peer.peer, CONTACT_DEADLINE).await
            });
            let heard = futures::future::join_all(asked).await.into_iter().filter(|heard| *heard).count();
            listing::contact(heard, peers.len().min(CONTACT_PEERS_MAX))
        })
    }

    fn quorums(&self, page: Page<QuorumKey>) -> BoxFuture<'_, Listing<QuorumInfo>> {
        Box::pin(async move {
            let known = self.known_quorums();
            let mut wanted = Gathered::new(page);
            known.keys().for_each(|quorum| wanted.add(ById(Reverse(*quorum)), || *quorum));
            let Listing { items: wanted, cursor, .. } = wanted.into_listing();
            let items: Vec<QuorumInfo> = stream::iter(wanted)
                .map(|quorum| (quorum, known.get(&quorum).cloned().flatten()))
                .map(|(quorum, advert)| async move {
                    match (self.view(quorum).await, advert) {
                        (Ok(view), _) => {
                            Some(QuorumInfo { unreachable: self.unheard(quorum), ..views::quorum_info(&view) })
                        }
                        (Err(error), Some(advert)) => {
                            Some(views::announced(&advert, quorate_protocols::text::chain(&error)))
                        }
                        // It was this node's own a moment ago and is no more.
                        (Err(_), None) => None,
                    }
                })
                .buffered(LISTING_FAN_OUT)
                .filter_map(std::future::ready)
                .collect()
                .await;
            let unreachable: Vec<_> = items.iter().filter_map(|quorum| quorum.unreachable.clone()).collect();
            let isolated = match known.is_empty() || !unreachable.is_empty() {
                true => self.contact().await.isolated,
                false => None,
            };
            Listing { items, cursor, unreachable, isolated }
        })
    }

    fn quorum(&self, quorum: QuorumId) -> Answer<'_, QuorumDetail> {
        Box::pin(async move {
            let own = self.node.quorums().quorum(quorum).and_then(|quorum| {
                let progress = quorum.progress()?;
                Some(OwnState {
                    term: quorum.term(),
                    leading: quorum.leading(),
                    applied: progress.applied,
                    digest: progress.digest,
                })
            });
            let mut detail = QuorumDetail { own, ..views::quorum_detail(&self.view(quorum).await?) };
            detail.info.unreachable = self.unheard(quorum);
            Ok(detail)
        })
    }

    fn members(&self, quorum: QuorumId) -> Answer<'_, Vec<MemberView>> {
        Box::pin(async move {
            let own = self.node.identity().peer();
            let known = views::quorum_info(&self.view(quorum).await?).members;
            let asked = known.into_iter().map(|member| async move {
                let answer = match member == own {
                    true => self.view(quorum).await,
                    false => match self.node.jobs().query_peer(member, quorum, Query::Quorum, LISTING_DEADLINE).await {
                        Ok(QueryAnswer::Quorum(view)) => Ok(view),
                        Ok(other) => Err(unexpected(quorum, "the quorum", &other)),
                        Err(error) => Err(error),
                    },
                };
                match answer {
                    Ok(view) => MemberView { member, view: Some(views::quorum_detail(&view)), error: None },
                    Err(error) if error.is_out_of_reach() => {
                        let error = format!("no answer within {LISTING_DEADLINE:?}");
                        MemberView { member, view: None, error: Some(error) }
                    }
                    Err(error) => {
                        MemberView { member, view: None, error: Some(quorate_protocols::text::chain(&error)) }
                    }
                }
            });
            Ok(futures::future::join_all(asked).await)
        })
    }

    fn resources(&self) -> ResourcesInfo {
        let resources = self.node.resources();
        let scope = |row: ScopeUsage| ScopeInfo { scope: row.scope, used: row.used.into(), limit: row.limit.into() };
        let leases =
            |row: ScopeLeases| LeasesInfo { scope: row.scope, leases: row.leases, reserved: row.reserved.into() };
        let disk = self.node.storage().files().free_space().ok();
        ResourcesInfo {
            scopes: resources.usage().into_iter().map(scope).collect(),
            leases: self.node.approver().reserved().into_iter().map(leases).collect(),
            disk_free_bytes: disk.map(|(free, _)| free),
            disk_bytes: disk.map(|(_, size)| size),
        }
    }

    fn jobs(&self, filter: JobFilter, page: Page<JobKey>) -> BoxFuture<'_, Listing<JobInfo>> {
        Box::pin(async move { Gathering::new(self).jobs(&filter, page).await })
    }

    fn job(&self, job: JobId) -> Answer<'_, JobInfo> {
        Box::pin(async move {
            let record = self.record(job).await?;
            self.job_info(&record, None).await
        })
    }

    fn watch(&self, job: JobId, until: Until, patience: Duration) -> Answer<'_, Option<JobInfo>> {
        Box::pin(async move {
            match self.node.jobs().watch(job, until, patience).await {
                Ok(Some(Met { record, outputs })) => Ok(Some(self.job_info(&record, outputs).await?)),
                Ok(None) => Ok(None),
                Err(ClientError::Rejected(Rejection::UnknownJob { .. })) => Err(no_job(job)),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn ask(&self, job: JobId, query: Query) -> Answer<'_, QueryAnswer> {
        Box::pin(async move {
            match self.ask_primary(job.quorum, query).await? {
                QueryAnswer::Unknown => Err(no_job(job)),
                answer => Ok(answer),
            }
        })
    }

    fn control(&self, job: JobId, control: Control) -> Answer<'_, ()> {
        Box::pin(async move { Ok(self.node.jobs().control(job, control, QUESTION_DEADLINE).await?) })
    }

    fn fire(&self, job: JobId, nonce: Nonce, respect_overlap: bool) -> Answer<'_, CommandReply> {
        Box::pin(async move { Ok(self.node.jobs().fire(job, nonce, respect_overlap, QUESTION_DEADLINE).await?) })
    }

    fn random(&self) -> [u8; 16] {
        self.node.seams().entropy.bytes()
    }

    fn job_id(&self, wanted: Wanted) -> Answer<'_, JobId> {
        Box::pin(async move { Ok(self.node.submits().id(&wanted).await?) })
    }

    fn submit(&self, job: JobId, spec: JobSpec) -> Answer<'_, SubmitInfo> {
        Box::pin(async move {
            let Submitted { state, existed, by } = self.node.submits().submit(job, spec, QUESTION_DEADLINE).await?;
            let name = self.peer_name(by.peer);
            Ok(SubmitInfo { job, state: state.into(), existed, acknowledged_by: views::speaker_info(by, name) })
        })
    }

    fn logs(
        &self,
        task: TaskAttempt,
        holder: Option<PeerId>,
        stream: LogStream,
        from: u64,
        wait: Duration,
    ) -> Answer<'_, LogPage> {
        Box::pin(async move { Ok(self.node.logs().read(task, holder, stream, from, wait).await?) })
    }

    fn candidates(&self, engine: Engine, requirement: Requirement, compile_memory_bytes: u64) -> Vec<PlanPeer> {
        let peers = self.node.directory().peers();
        peers.iter().map(|known| views::plan_peer(known, engine, &requirement, compile_memory_bytes)).collect()
    }

    fn modules(&self) -> &ModuleChecks {
        &self.modules
    }

    fn objects(&self, page: Page<ObjectKey>) -> BoxFuture<'_, Listing<ObjectInfo>> {
        Box::pin(async move { Gathering::new(self).objects(page).await })
    }

    fn object(&self, object: ObjectId) -> Answer<'_, ObjectInfo> {
        Box::pin(async move { Ok(views::object_info(object.quorum, &self.object_view(object).await?)) })
    }

    fn remove(&self, object: ObjectId, removal: Removal) -> Answer<'_, RemovalInfo> {
        Box::pin(async move {
            let claims = self.object_view(object).await?.record.claims;
            let selector = removal.select(object, self.node.identity().peer(), &claims)?;
            let seen = claims.seen();
            let (removed, kept) = claims.part(&selector, seen);
            if kept.is_empty() && !removal.force {
                self.check_unused(object).await?;
            }
            let force = removal.force;
            let command = Command::Object(object.manifest, ObjectCommand::Remove { claims: selector, seen, force });
            match self.node.jobs().propose(object.quorum, command, QUESTION_DEADLINE).await {
                // What a try before this one gave up is not in its reply.
                Ok((CommandReply::Removed { removed: now, kept }, _)) => {
                    let is_kept =
                        |gone: &Claim| kept.iter().any(|kept| (kept.owner, &kept.name) == (gone.owner, &gone.name));
                    // Nor are claims gone that were renewed since they were read.
                    let before = removed.into_iter().filter(|gone| !is_kept(gone)).collect();
                    let removed = if now.is_empty() { before } else { now };
                    Ok(views::removal_info(object, removed, kept))
                }
                Err(ClientError::Rejected(Rejection::UnknownObject { .. })) => {
                    Ok(views::removal_info(object, removed, Vec::new()))
                }
                Ok((other, _)) => Err(ApiError::internal(format!("a removal was answered with {other:?}"))),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn put(
        &self,
        request: PutRequest,
        body: BoxStream<'static, Result<Bytes, std::io::Error>>,
        progress: watch::Sender<PutProgress>,
    ) -> BoxFuture<'static, Result<PutOutcome, ApiError>> {
        let objects = self.node.objects().clone();
        Box::pin(async move { Ok(objects.put(request, body, progress).await?) })
    }

    fn get(&self, object: ObjectId, range: Option<ByteRange>) -> Answer<'_, GetStream> {
        Box::pin(async move { Ok(self.node.objects().get(object, range).await?) })
    }

    fn emit(&self, request: EmitRequest) -> Answer<'_, EmitInfo> {
        Box::pin(async move {
            let EmitRequest { name, id, data } = request;
            let taken = self.node.emitter().emit(name, id, data.to_string().into()).await?;
            Ok(EmitInfo { sequence: taken.sequence, existed: taken.existed })
        })
    }

    fn quorum_events(&self) -> broadcast::Receiver<HostEvent> {
        self.node.quorums().events()
    }

    fn object_events(&self) -> broadcast::Receiver<ObjectEvent> {
        self.node.objects().events()
    }

    fn is_member(&self, quorum: QuorumId) -> bool {
        self.node.quorums().quorum(quorum).is_some()
    }

    fn node_events(&self) -> broadcast::Receiver<NodeEvent> {
        self.node.events()
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        let views = self.node.quorums().quorums().into_iter().map(|quorum| (quorum.leading().is_some(), quorum.view()));
        let gauges = QuorumGauges::of(views);
        let encoded = prometheus_client::encoding::text::encode_registry(&mut text, &self.registry)
            .and_then(|()| prometheus_client::encoding::text::encode(&mut text, &gauges));
        if let Err(error) = encoded {
            tracing::error!(%error, "metrics cannot be written");
        }
        text
    }

    fn commit_noop(&self, quorum: QuorumId, deadline: Duration) -> Answer<'_, ()> {
        Box::pin(async move {
            self.node.jobs().propose(quorum, Command::Quorum(QuorumCommand::Noop), deadline).await?;
            Ok(())
        })
    }

    fn form(&self, voters: usize) -> Answer<'_, QuorumId> {
        Box::pin(async move { Ok(self.node.placement().form(voters).await?) })
    }

    fn testing(&self) -> Option<&dyn TestingHooks> {
        self.testing.as_deref()
    }
}
