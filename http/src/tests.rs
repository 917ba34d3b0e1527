//! The edge over a node that is not there: a real socket, a real client, a made-up backend.

mod description;
mod door;
mod jobs;
mod submits;
mod tokens;
mod triggers;

use parking_lot::Mutex;
use quorate_protocols::capacity::Requirement;
use quorate_protocols::quorum::watch::Until;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use quorate_api::{
    ContactInfo, EmitInfo, EmitRequest, ErrorBody, ErrorCode, EventKind, JobInfo, Kind, Listing, MemberView,
    NodeFaults, NodeInfo, ObjectInfo, PeerInfo, PlanPeer, PutInfo, PutPhaseInfo, PutUpdate, QuorumDetail, QuorumInfo,
    RemovalInfo, ResourcesInfo, SubmitInfo,
};
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{
    BootId, Incarnation, JobId, LogIndex, ManifestHash, Millis, Nonce, ObjectId, PeerId, PieceIndex, QuorumId, Term,
};
use quorate_protocols::job::plan::keyed_job;
use quorate_protocols::job::{JobRecord, JobSpec};
use quorate_protocols::object::ByteRange;
use quorate_protocols::object::Profile;
use quorate_protocols::quorum::limits::LEVEL;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{
    Batch, Claim, ClaimSelector, Claims, Command, CommandReply, Control, QuorumState, Rejection, TriggerCommand,
};
use quorate_protocols::task::message::LogStream;
use quorate_protocols::task::record::TaskAttempt;
use quorate_testnet::Client;
use reqwest::{Method, StatusCode};
use tokio::sync::{broadcast, watch};

use quorate_node::compose::NodeEvent;
use quorate_node::identity::Identity;
use quorate_node::objects::{
    GetError, GetStream, ObjectEvent, PutError, PutOutcome, PutPhase, PutProgress, PutRequest,
};
use quorate_node::quorums::logs::{LogError, LogPage};
use quorate_node::quorums::submit::{SubmitError, Wanted};
use quorate_node::quorums::{ClientError, Speaker};
use quorate_node::raft::HostEvent;
use quorate_node::seams::TaskGroup;
use quorate_node::seams::entropy::OsEntropy;

use super::backend::{Answer, JobKey, ObjectKey, QuorumKey};
use super::limits::JSON_BYTES_MAX;
use super::modules::ModuleChecks;
use super::page::{Age, Gathered, Page};
use super::removal::Removal;
use super::*;

const QUORUM: QuorumId = QuorumId([1; 16]);
const OBJECT: ObjectId = ObjectId { quorum: QUORUM, manifest: ManifestHash([2; 32]) };
const JOB: JobId = JobId { quorum: QUORUM, local: [3; 16] };
const CONTENT: &[u8] = b"0123456789";
const EMPTY: ObjectId = ObjectId { quorum: QUORUM, manifest: ManifestHash([5; 32]) };
/// Its first bytes cannot be read.
const UNREADABLE: ObjectId = ObjectId { quorum: QUORUM, manifest: ManifestHash([6; 32]) };
/// Its bytes never end.
const ENDLESS: ObjectId = ObjectId { quorum: QUORUM, manifest: ManifestHash([7; 32]) };
/// Its last bytes cannot be read.
const DAMAGED: ObjectId = ObjectId { quorum: QUORUM, manifest: ManifestHash([4; 32]) };

/// The fault hooks of a node in which nothing breaks.
struct NoFaults;

impl TestingHooks for NoFaults {
    fn faults(&self) -> NodeFaults {
        NodeFaults::default()
    }
    fn set_faults(&self, _: NodeFaults) {}
}

/// A node made of constants.
struct Fake {
    tasks: TaskGroup,
    hosts: broadcast::Sender<HostEvent>,
    objects: broadcast::Sender<ObjectEvent>,
    nodes: broadcast::Sender<NodeEvent>,
    /// The quorum, without anything that replicates it.
    state: Mutex<QuorumState>,
    /// What the last listing was asked for.
    filter: Mutex<Option<JobFilter>>,
    /// What the last put was asked for, and what it read.
    put: Mutex<Option<(PutRequest, u64)>>,
    put_fails: bool,
    /// Nobody knows the quorum.
    is_unknown: AtomicBool,
    commits: AtomicU64,
    now: AtomicU64,
    randoms: AtomicU64,
    /// Of a node started with `--testing`.
    faults: Option<NoFaults>,
    modules: ModuleChecks,
}

impl Fake {
    fn new(put_fails: bool) -> Self {
        let state = QuorumState::at_level(QUORUM, LEVEL);
        Self {
            tasks: TaskGroup::threaded(),
            hosts: broadcast::channel(4).0,
            objects: broadcast::channel(4).0,
            nodes: broadcast::channel(4).0,
            state: Mutex::new(state),
            filter: Mutex::default(),
            put: Mutex::default(),
            put_fails,
            is_unknown: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            now: AtomicU64::new(5),
            randoms: AtomicU64::new(0),
            faults: Some(NoFaults),
            modules: ModuleChecks::default(),
        }
    }
}

/// The peer that owns what is submitted through the double.
fn owner() -> Identity {
    Identity::new([9; 32], Incarnation(1), BootId::default())
}

impl Fake {
    fn commit(&self, command: Command) -> Result<CommandReply, ApiError> {
        self.commit_by(PeerId([9; 32]), command)
    }
    fn seen(&self, job: JobId) -> LogIndex {
        self.state.lock().jobs().get(&job).map(JobRecord::seen).unwrap_or_default()
    }
    fn commit_by(&self, by: PeerId, command: Command) -> Result<CommandReply, ApiError> {
        let batch = Batch::at(Millis(1_000), vec![(by, command)]);
        let index = LogIndex(self.commits.fetch_add(1, Ordering::Relaxed) + 1);
        let (mut replies, _) = self.state.lock().apply(index, &batch);
        let reply = replies.replies.pop().expect("one command, one reply");
        reply.map_err(|rejection| SubmitError::Client(ClientError::Rejected(rejection)).into())
    }
}

/// The member of every quorum that answers for it.
fn speaker() -> Speaker {
    Speaker { peer: PeerId([9; 32]), voters: [7, 8, 9].map(|n| PeerId([n; 32])).to_vec() }
}

fn unknown<T>(job: JobId) -> Result<T, ApiError> {
    Err(ClientError::Rejected(Rejection::UnknownJob { job }).into())
}

impl Backend for Fake {
    fn now(&self) -> Millis {
        Millis(self.now.load(Ordering::Relaxed))
    }
    fn tasks(&self) -> &TaskGroup {
        &self.tasks
    }
    fn node(&self) -> NodeInfo {
        NodeInfo {
            peer: PeerId([9; 32]),
            name: Some("test".to_owned()),
            incarnation: Incarnation(7),
            boot: BootId([0; 16]),
            version: "test".into(),
            addresses: vec![],
            pid: 1,
            uptime_ms: 0,
            answered_at: Millis(5),
            peers_known: 0,
            peers_connected: 0,
            quorums: 0,
            leading: 0,
            testing: false,
        }
    }
    fn peers(&self) -> Vec<PeerInfo> {
        Vec::new()
    }
    fn peer_name(&self, peer: PeerId) -> Option<String> {
        (peer == speaker().peer).then(|| "attic".to_owned())
    }
    fn contact(&self) -> BoxFuture<'_, ContactInfo> {
        Box::pin(async { ContactInfo::default() })
    }
    fn quorums(&self, _: Page<QuorumKey>) -> BoxFuture<'_, Listing<QuorumInfo>> {
        Box::pin(async { Listing::default() })
    }
    fn quorum(&self, quorum: QuorumId) -> Answer<'_, QuorumDetail> {
        Box::pin(async move { Err(ClientError::QuorumUnknown { quorum }.into()) })
    }
    fn members(&self, quorum: QuorumId) -> Answer<'_, Vec<MemberView>> {
        Box::pin(async move { Err(ClientError::QuorumUnknown { quorum }.into()) })
    }
    fn resources(&self) -> ResourcesInfo {
        ResourcesInfo { scopes: Vec::new(), leases: Vec::new(), disk_free_bytes: None, disk_bytes: None }
    }
    fn jobs(&self, filter: JobFilter, page: Page<JobKey>) -> BoxFuture<'_, Listing<JobInfo>> {
        let mut rows = Gathered::new(page);
        if let Some(QueryAnswer::Jobs(found)) = self.state.lock().answer(&Query::Jobs { after: None, limit: u32::MAX })
        {
            let admitted = found.iter().map(|record| views::job_info(record, None)).filter(|job| filter.admits(job));
            admitted.for_each(|job| rows.add(Age { created_at: job.created_at, id: job.job }, || job));
        }
        *self.filter.lock() = Some(filter);
        Box::pin(async { rows.into_listing() })
    }
    fn job(&self, job: JobId) -> Answer<'_, JobInfo> {
        Box::pin(async move {
            match self.state.lock().answer(&Query::Job { job }) {
                Some(QueryAnswer::Job(record)) => Ok(views::job_info(&record, None)),
                _ => unknown(job),
            }
        })
    }
    fn watch(&self, job: JobId, until: Until, patience: Duration) -> Answer<'_, Option<JobInfo>> {
        Box::pin(async move {
            let end = tokio::time::Instant::now() + patience;
            loop {
                if self.is_unknown.load(Ordering::Relaxed) {
                    return Err(ClientError::QuorumUnknown { quorum: job.quorum }.into());
                }
                let info = match self.job(job).await {
                    Err(_) if until == Until::EndedOnceSubmitted => None,
                    info => Some(info?),
                };
                let holds = |info: &JobInfo| match until {
                    Until::Changed { since } => info.revision > since.0,
                    Until::Ended | Until::EndedOnceSubmitted | Until::Holders { .. } => info.state.is_final(),
                };
                if info.as_ref().is_some_and(holds) || tokio::time::Instant::now() >= end {
                    return Ok(info.filter(holds));
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    }
    fn ask(&self, job: JobId, query: Query) -> Answer<'_, QueryAnswer> {
        Box::pin(async move {
            let state = self.state.lock();
            match state.answer(&query) {
                Some(QueryAnswer::Unknown) | None => unknown(job),
                Some(answer) => Ok(answer),
            }
        })
    }
    fn control(&self, job: JobId, control: Control) -> Answer<'_, ()> {
        Box::pin(async move {
            let seen = self.seen(job);
            self.commit(Command::control(job, seen, control)).map(drop)
        })
    }
    fn fire(&self, job: JobId, nonce: Nonce, respect_overlap: bool) -> Answer<'_, CommandReply> {
        Box::pin(async move {
            let seen = self.seen(job);
            self.commit(Command::Trigger(TriggerCommand::Fire { job, seen, nonce, respect_overlap }))
        })
    }
    fn random(&self) -> [u8; 16] {
        self.randoms.fetch_add(1, Ordering::Relaxed).to_le_bytes().repeat(2).try_into().expect("twice eight bytes")
    }
    fn job_id(&self, wanted: Wanted) -> Answer<'_, JobId> {
        Box::pin(async move {
            let key = wanted.key.unwrap_or_else(|| "any".to_owned());
            Ok(keyed_job(wanted.quorum.unwrap_or(QUORUM), &key))
        })
    }
    fn submit(&self, job: JobId, spec: JobSpec) -> Answer<'_, SubmitInfo> {
        Box::pin(async move {
            match self.commit_by(owner().peer(), Command::submit(owner().signing_key(), job, spec))? {
                CommandReply::Submitted { existed, state } => {
                    let acknowledged_by = views::speaker_info(speaker(), self.peer_name(speaker().peer));
                    Ok(SubmitInfo { job, state: state.into(), existed, acknowledged_by })
                }
                other => panic!("{other:?}"),
            }
        })
    }
    fn logs(
        &self,
        task: TaskAttempt,
        holder: Option<PeerId>,
        stream: LogStream,
        from: u64,
        _: Duration,
    ) -> Answer<'_, LogPage> {
        Box::pin(async move {
            let log: &[u8] = if stream == LogStream::Stdout { b"" } else { b"first\nsecond\xff\n" };
            match holder {
                Some(worker) => Ok(LogPage {
                    worker,
                    at: from,
                    bytes: Bytes::copy_from_slice(log.get(from as usize..).unwrap_or_default()),
                    ended: true,
                }),
                None => Err(LogError::None { task, asked: 1, silent: vec![PeerId([9; 32])] }.into()),
            }
        })
    }
    fn candidates(&self, engine: Engine, requirement: Requirement, _: u64) -> Vec<PlanPeer> {
        let refusal = (engine != Engine::Wasm).then(|| "it does not take the role command".to_owned());
        vec![PlanPeer { peer: PeerId([9; 32]), tasks: requirement.capacity.slots, refusal }]
    }
    fn modules(&self) -> &ModuleChecks {
        &self.modules
    }
    fn objects(&self, _: Page<ObjectKey>) -> BoxFuture<'_, Listing<ObjectInfo>> {
        Box::pin(async { Listing::default() })
    }
    fn object(&self, object: ObjectId) -> Answer<'_, ObjectInfo> {
        Box::pin(async move { Err(GetError::Unknown { object }.into()) })
    }
    fn remove(&self, object: ObjectId, removal: Removal) -> Answer<'_, RemovalInfo> {
        Box::pin(async move {
            let claim = |owner, name: &str| Claim {
                owner: PeerId([owner; 32]),
                name: Some(name.to_owned()),
                job: JOB,
                at: Millis(5),
                since: LogIndex(1),
            };
            let claims = Claims::from(vec![claim(9, "a.txt"), claim(9, "b.txt"), claim(8, "a.txt")]);
            let selector = removal.select(object, PeerId([9; 32]), &claims)?;
            if selector == ClaimSelector::All {
                return Err(ClientError::Forbidden { reason: "not yours".into() }.into());
            }
            let (removed, kept) = claims.part(&selector, claims.seen());
            Ok(views::removal_info(object, removed, kept.into_vec()))
        })
    }
    fn put(
        &self,
        request: PutRequest,
        mut body: BoxStream<'static, Result<Bytes, std::io::Error>>,
        progress: watch::Sender<PutProgress>,
    ) -> BoxFuture<'static, Result<PutOutcome, ApiError>> {
        *self.put.lock() = Some((request.clone(), request.size.unwrap_or(0)));
        let fails = self.put_fails;
        Box::pin(async move {
            let mut read = 0;
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map_err(|error| PutError::Body { reason: error.to_string() })?;
                read += chunk.len() as u64;
                progress.send_modify(|progress| {
                    // Two phases in one breath, of which a watcher sees one.
                    progress.enter(PutPhase::Approval);
                    progress.enter(PutPhase::Sending);
                    (progress.job, progress.bytes_read) = (Some(JOB), read);
                });
                if fails {
                    return Err(PutError::Ended { job: JOB, reason: "cancelled".into() }.into());
                }
            }
            assert!(body.next().await.is_none(), "a body that has ended may be asked again");
            for phase in [PutPhase::Receipts, PutPhase::Commit, PutPhase::Done] {
                progress.send_modify(|progress| progress.enter(phase));
            }
            Ok(PutOutcome {
                object: OBJECT,
                job: JOB,
                bytes: read,
                profile: Profile::DEFAULT,
                degraded: false,
                columns: vec![(PieceIndex(0), PeerId([9; 32]))],
                existed: Vec::new(),
                by: speaker(),
                progress: progress.borrow().clone(),
            })
        })
    }
    fn get(&self, object: ObjectId, range: Option<ByteRange>) -> Answer<'_, GetStream> {
        Box::pin(async move {
            let content: &[u8] = if object == EMPTY { b"" } else { CONTENT };
            let size = content.len() as u64;
            let wanted = range.map_or(Ok(0..size), |range| range.of_size(size)).map_err(GetError::from)?;
            let (start, length) = (wanted.start, wanted.end - wanted.start);
            let part = Bytes::from_static(&content[start as usize..wanted.end as usize]);
            let lost = |segment| {
                let faults = "column 1: its holder is gone".to_owned();
                GetError::Unreadable { object, segment, found: 3, needed: 4, faults }
            };
            let bytes = match object {
                ENDLESS => {
                    let chunk = Ok(Bytes::from(vec![7; 1 << 16]));
                    let bytes = stream::repeat_with(move || chunk.clone()).boxed();
                    return Ok(GetStream { size: 1 << 60, start: 0, length: 1 << 60, bytes });
                }
                UNREADABLE => return Err(lost(0).into()),
                // Half of it, and then no more: the rest of this object is lost.
                DAMAGED => stream::iter(vec![Ok(part.slice(..5)), Err(lost(1))]).boxed(),
                _ => stream::iter(vec![Ok(part)]).boxed(),
            };
            Ok(GetStream { size, start, length, bytes })
        })
    }
    fn emit(&self, request: EmitRequest) -> Answer<'_, EmitInfo> {
        let event = quorate_protocols::trigger::event::Event {
            name: request.name,
            id: request.id,
            data: request.data.to_string().into(),
            at: Millis(5),
        };
        let taken = quorate_protocols::trigger::Outbox::new(PeerId([9; 32])).emit(Millis(5), event);
        Box::pin(async move {
            let taken = taken.map_err(quorate_node::events::EventError::from)?;
            Ok(EmitInfo { sequence: taken.sequence, existed: taken.existed })
        })
    }
    fn quorum_events(&self) -> broadcast::Receiver<HostEvent> {
        self.hosts.subscribe()
    }
    fn object_events(&self) -> broadcast::Receiver<ObjectEvent> {
        self.objects.subscribe()
    }
    fn is_member(&self, quorum: QuorumId) -> bool {
        quorum == QUORUM
    }
    fn node_events(&self) -> broadcast::Receiver<NodeEvent> {
        self.nodes.subscribe()
    }
    fn metrics(&self) -> String {
        "# EOF\n".into()
    }
    fn commit_noop(&self, _: QuorumId, _: Duration) -> Answer<'_, ()> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    }
    fn form(&self, _: usize) -> Answer<'_, QuorumId> {
        Box::pin(async { Ok(QUORUM) })
    }
    fn testing(&self) -> Option<&dyn TestingHooks> {
        self.faults.as_ref().map(|faults| faults as &dyn TestingHooks)
    }
}

/// On a free port of this machine.
fn listening(limits: DoorLimits) -> ListenSettings {
    ListenSettings { address: "127.0.0.1:0".parse().unwrap(), allow_remote: false, limits }
}

/// A served fake and a client that knows its token.
struct Edge {
    fake: std::sync::Arc<Fake>,
    client: Client,
    dir: tempfile::TempDir,
    /// The metrics of its door.
    metrics: prometheus_client::registry::Registry,
}

impl Edge {
    async fn start() -> Self {
        Self::with(Fake::new(false)).await
    }
    async fn with(fake: Fake) -> Self {
        Self::limited(fake, DoorLimits::default()).await
    }
    async fn limited(fake: Fake, limits: DoorLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::bind(dir.path(), listening(limits), &OsEntropy).await.unwrap();
        let mut metrics = prometheus_client::registry::Registry::default();
        server.register_metrics(&mut metrics);
        let url = format!("http://{}", server.address());
        let fake = std::sync::Arc::new(fake);
        fake.tasks.spawn(server.serve(fake.clone()));
        let token = std::fs::read_to_string(dir.path().join("api.token")).unwrap();
        Self { fake, client: Client::new(url, Some(token.trim().to_owned())), dir, metrics }
    }
    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.request(Method::GET, path)
    }
    async fn status(&self, request: reqwest::RequestBuilder) -> (StatusCode, ErrorCode) {
        let response = request.send().await.unwrap();
        let status = response.status();
        let body: ErrorBody = response.json().await.expect("every refusal has an error body");
        assert!(!body.message.is_empty());
        (status, body.error)
    }
    fn stranger(&self, path: &str) -> reqwest::RequestBuilder {
        reqwest::Client::builder().tls_certs_only([]).build().unwrap().get(self.client.url(path))
    }
}

#[tokio::test]
async fn nobody_is_answered_without_token_host_and_origin() {
    let edge = Edge::start().await;
    for path in ["/v1/node", "/v1/nothing", "/metrics", "/openapi.json"] {
        let refused = (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized);
        assert_eq!(edge.status(edge.stranger(path)).await, refused, "{path}");
        assert_eq!(edge.status(edge.stranger(path).bearer_auth("guess")).await, refused, "{path}");
        assert_eq!(edge.status(edge.stranger(path).basic_auth("a", Some("b"))).await, refused, "{path}");
    }
    let forbidden = (StatusCode::FORBIDDEN, ErrorCode::Forbidden);
    assert_eq!(edge.status(edge.get("/v1/node").header("host", "evil.example")).await, forbidden);
    assert_eq!(edge.status(edge.get("/v1/node").header("origin", "http://evil.example")).await, forbidden);
    assert_eq!(edge.status(edge.get("/v1/node").header("origin", "null")).await, forbidden);
    let friendly = edge.get("/v1/node").header("origin", "http://localhost:3000");
    assert_eq!(friendly.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn every_failure_has_its_status_and_a_body() {
    let edge = Edge::start().await;
    let get = |path: String| edge.status(edge.get(&path));
    assert_eq!(get("/v1/nothing".into()).await, (StatusCode::NOT_FOUND, ErrorCode::NotFound));
    assert_eq!(get("/v1/jobs/zz".into()).await, (StatusCode::BAD_REQUEST, ErrorCode::BadRequest));
    assert_eq!(get(format!("/v1/jobs/{JOB}")).await, (StatusCode::NOT_FOUND, ErrorCode::NotFound));
    assert_eq!(get(format!("/v1/quorums/{QUORUM}")).await, (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::UnknownQuorum));
    assert_eq!(get(format!("/v1/objects/{OBJECT}")).await, (StatusCode::NOT_FOUND, ErrorCode::NotFound));
    assert_eq!(get(format!("/v1/jobs/{JOB}/wait?timeout_ms=x")).await.1, ErrorCode::BadRequest);
    let request = |method, path: &str| edge.client.request(method, path);
    let delete = request(Method::DELETE, &format!("/v1/objects/{OBJECT}?everyone=true"));
    assert_eq!(edge.status(delete).await, (StatusCode::FORBIDDEN, ErrorCode::Forbidden));
    let wrong_method = request(Method::DELETE, "/v1/node");
    assert_eq!(edge.status(wrong_method).await, (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::MethodNotAllowed));
    let noop =
        |body: Vec<u8>| request(Method::POST, "/v1/bench/noop").header("content-type", "application/json").body(body);
    assert_eq!(edge.status(noop(b"{".to_vec())).await, (StatusCode::BAD_REQUEST, ErrorCode::BadRequest));
    let large = edge.status(noop(vec![b' '; JSON_BYTES_MAX + 1])).await;
    assert_eq!(large, (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge));
    let none = serde_json::json!({ "quorum": QUORUM, "count": 0, "outstanding": 1 });
    assert_eq!(edge.status(noop(none.to_string().into_bytes())).await.1, ErrorCode::BadRequest);
    let ten = serde_json::json!({ "quorum": QUORUM, "count": 10, "outstanding": 4 });
    let answer = noop(ten.to_string().into_bytes()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(edge.fake.commits.load(Ordering::Relaxed), 10);
}

#[tokio::test]
async fn a_download_has_ranges_and_breaks_rather_than_lies() {
    let edge = Edge::start().await;
    let content = format!("/v1/objects/{OBJECT}/content");
    let whole = edge.get(&content).send().await.unwrap();
    assert_eq!(whole.status(), StatusCode::OK);
    assert_eq!(whole.bytes().await.unwrap(), CONTENT);
    let part = edge.get(&content).header("range", "bytes=2-4").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], "bytes 2-4/10");
    assert_eq!(part.bytes().await.unwrap(), "234");
    let beyond = edge.get(&content).header("range", "bytes=10-").send().await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.headers()["content-range"], "bytes */10");
    assert_eq!(edge.status(edge.get(&content).header("range", "bytes=9-2")).await.1, ErrorCode::BadRequest);
    let broken = edge.get(&format!("/v1/objects/{DAMAGED}/content")).send().await.unwrap();
    assert!(broken.bytes().await.is_err(), "half an object must not look like a whole one");
}

/// Goal: a removal says whose claims it took and whose keep the object; it takes one of several only when it is told
/// which.
#[tokio::test]
async fn a_removal_names_what_it_took_and_what_is_kept() {
    let edge = Edge::start().await;
    let delete = async |query: &str| {
        let path = format!("/v1/objects/{OBJECT}{query}");
        edge.client.delete::<RemovalInfo>(&path).await
    };
    let names =
        |claims: &[quorate_api::Claim]| claims.iter().filter_map(|claim| claim.name.clone()).collect::<Vec<_>>();
    let one = delete("?name=b.txt").await.unwrap();
    assert_eq!(
        (names(&one.removed), names(&one.kept), one.gone),
        (vec!["b.txt".into()], vec!["a.txt".into(); 2], false)
    );
    let all = delete("?all=true").await.unwrap();
    assert_eq!((names(&all.removed).len(), all.kept[0].owner, all.gone), (2, PeerId([8; 32]), false));
    let plain = edge.client.request(Method::DELETE, &format!("/v1/objects/{OBJECT}"));
    assert_eq!(edge.status(plain).await, (StatusCode::CONFLICT, ErrorCode::Conflict));
    let other = format!("/v1/objects/{OBJECT}?owner={}&all=true", PeerId([7; 32]));
    let other = edge.client.request(Method::DELETE, &other);
    assert_eq!(edge.status(other).await, (StatusCode::NOT_FOUND, ErrorCode::NotFound));
    for wrong in ["?owner=me", "?everyone=perhaps"] {
        let wrong = edge.client.request(Method::DELETE, &format!("/v1/objects/{OBJECT}{wrong}"));
        assert_eq!(edge.status(wrong).await, (StatusCode::BAD_REQUEST, ErrorCode::BadRequest));
    }
}

/// Goal: what is known before the first byte is an error with its reason, never a 200 that breaks off.
#[tokio::test]
async fn a_download_that_cannot_begin_is_refused_with_the_reason() {
    let edge = Edge::start().await;
    for range in [None, Some("bytes=2-4"), Some("bytes=-1")] {
        let mut request = edge.get(&format!("/v1/objects/{UNREADABLE}/content"));
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let refused = request.send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "{range:?}");
        let body: ErrorBody = refused.json().await.unwrap();
        assert!(body.message.starts_with("3 of 4 needed holders answer"), "{}", body.message);
        assert!(body.message.contains("column 1: its holder is gone"), "{}", body.message);
    }
}

/// Goal: each Range header, odd ones too, has the status, the `Content-Range` and the bytes of RFC 9110.
#[tokio::test]
async fn ranges_are_answered_as_http_has_them() {
    let edge = Edge::start().await;
    let etag = format!("\"{}\"", OBJECT.manifest);
    let (etag, other) = (Some(etag.as_str()), Some("\"another\""));
    let cases = [
        (EMPTY, "bytes=0-0", None, 416, Some("bytes */0"), ""),
        (EMPTY, "bytes=0-", None, 416, Some("bytes */0"), ""),
        (EMPTY, "bytes=-0", None, 416, Some("bytes */0"), ""),
        (EMPTY, "bytes=0-18446744073709551615", None, 416, Some("bytes */0"), ""),
        (EMPTY, "bytes=-5", None, 200, None, ""),
        (EMPTY, "bytes=-18446744073709551615", None, 200, None, ""),
        (OBJECT, "bytes=0-18446744073709551615", None, 206, Some("bytes 0-9/10"), "0123456789"),
        (OBJECT, "bytes=8-99999999999999999999999", None, 206, Some("bytes 8-9/10"), "89"),
        (OBJECT, "bytes=-18446744073709551615", None, 206, Some("bytes 0-9/10"), "0123456789"),
        (OBJECT, "bytes=-3", None, 206, Some("bytes 7-9/10"), "789"),
        (OBJECT, "bytes=-0", None, 416, Some("bytes */10"), ""),
        (OBJECT, "bytes=9-9", None, 206, Some("bytes 9-9/10"), "9"),
        (OBJECT, "bytes=10-10", None, 416, Some("bytes */10"), ""),
        (OBJECT, "bytes=18446744073709551615-", None, 416, Some("bytes */10"), ""),
        (OBJECT, "BYTES=1-2", None, 206, Some("bytes 1-2/10"), "12"),
        (OBJECT, "bytes=0-1,4-5", None, 200, None, "0123456789"),
        (OBJECT, "lines=0-1", None, 200, None, "0123456789"),
        (OBJECT, "bytes=1-2", etag, 206, Some("bytes 1-2/10"), "12"),
        (OBJECT, "bytes=1-2", other, 200, None, "0123456789"),
        (OBJECT, "bytes=99-", other, 200, None, "0123456789"),
        (OBJECT, "bytes=+1-2", None, 400, None, ""),
        (OBJECT, "0-1", None, 400, None, ""),
    ];
    for (object, range, known, status, part, bytes) in cases {
        let mut request = edge.get(&format!("/v1/objects/{object}/content")).header("range", range);
        if let Some(known) = known {
            request = request.header("if-range", known);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{range}");
        assert_eq!(answer.headers().get("content-range").map(|value| value.to_str().unwrap()), part, "{range}");
        if status < 300 {
            assert_eq!(answer.bytes().await.unwrap(), bytes, "{range}");
        }
    }
}

/// Goal: progress comes while the body is still on its way, and no phase is left out, however short. Method: the body's
/// second half waits for a progress line; phases follow each other at once.
#[tokio::test]
async fn a_put_reports_every_phase_and_its_progress_before_its_body_has_ended() {
    let edge = Edge::start().await;
    let (go, gate) = watch::channel(false);
    let body = quorate_node::streams::unfold((0, gate), |(part, mut gate)| async move {
        if part == 1 {
            gate.wait_for(|open| *open).await.unwrap();
        }
        (part < 2).then(|| (Ok::<_, std::io::Error>(Bytes::from_static(b"12345")), (part + 1, gate)))
    });
    let request = edge
        .client
        .request(Method::POST, "/v1/objects")
        .query(&[("name", "n"), ("bytes", "10"), ("profile", "4+2"), ("fingerprint", "f")])
        .header("accept", "application/x-ndjson")
        .body(reqwest::Body::wrap_stream(body));
    let mut lines = Box::pin(edge.client.lines(request).await.unwrap());
    let (mut read, mut phases) = (0, Vec::new());
    while let Some(line) = lines.next().await {
        match serde_json::from_value(line.unwrap()).unwrap() {
            PutUpdate::Progress(progress) => {
                read = progress.bytes_read;
                phases.push(progress.phase);
                if read == 5 {
                    go.send_replace(true);
                }
            }
            PutUpdate::Done(info) => {
                let info: PutInfo = info;
                assert_eq!((info.object, info.bytes), (OBJECT, 10));
                assert_eq!(info.acknowledged_by, views::speaker_info(speaker(), Some("attic".to_owned())));
                assert!(read >= 5);
                phases.dedup();
                use PutPhaseInfo::{Approval, Commit, Done, Placing, Receipts, Sending};
                assert_eq!(phases, [Placing, Approval, Sending, Receipts, Commit, Done]);
                let put = edge.fake.put.lock().clone();
                let (request, size) = put.unwrap();
                assert_eq!(request.profile, Some(Profile::DEFAULT));
                assert_eq!((request.fingerprint.as_deref(), size), (Some("f"), 10));
                return;
            }
            PutUpdate::Error(error) => panic!("{error}"),
        }
    }
    panic!("the stream ended without a result");
}

/// Goal: a put that fails early tells its client why, though the client is still sending.
#[tokio::test]
async fn a_failed_put_is_told_to_a_client_in_the_middle_of_sending() {
    let edge = Edge::with(Fake::new(true)).await;
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let body = stream::iter((0..64).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let request = edge.client.request(Method::POST, "/v1/objects").body(reqwest::Body::wrap_stream(body));
    assert_eq!(edge.status(request).await, (StatusCode::CONFLICT, ErrorCode::Conflict));
    let bad = edge.client.request(Method::POST, "/v1/objects?profile=9");
    assert_eq!(edge.status(bad).await, (StatusCode::BAD_REQUEST, ErrorCode::BadRequest));
}

/// Goal: a node that is no member tells of its own puts, and a member tells of each once.
#[test]
fn a_stored_object_is_told_by_the_entry_node_or_by_the_quorum() {
    let stored = ObjectEvent::Stored { object: OBJECT, job: JOB, bytes: 1, degraded: true };
    let told = views::object_event(&stored, |_| false).expect("nobody else here tells of it");
    assert_eq!((told.event, told.object, told.job), (EventKind::ObjectStored, Some(OBJECT), Some(JOB)));
    assert!(told.message.ends_with("is stored, degraded"), "{}", told.message);
    assert!(views::object_event(&stored, |quorum| quorum == JOB.quorum).is_none());
    let reason = "gone".to_owned();
    let failed = ObjectEvent::ColumnFailed { job: JOB, column: PieceIndex(1), holder: PeerId([9; 32]), reason };
    assert!(views::object_event(&failed, |_| true).is_some());
}

#[tokio::test]
async fn a_slow_follower_is_told_that_it_missed_events() {
    let edge = Edge::start().await;
    let response = edge.client.send(edge.get("/v1/events")).await.unwrap();
    let mut chunks = response.bytes_stream();
    let first = String::from_utf8(chunks.next().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(first.contains("listening"), "{first}");
    // More than the channel holds, before the follower's task has a turn.
    for term in 0..9 {
        edge.fake
            .hosts
            .send(HostEvent::Primary { quorum: QUORUM, term: Term(term), primary: Default::default() })
            .unwrap();
    }
    let mut seen = String::new();
    while !seen.contains("\"term\":8") {
        seen.push_str(&String::from_utf8_lossy(&chunks.next().await.unwrap().unwrap()));
    }
    assert!(seen.contains("lagged"), "{seen}");
    assert!(seen.contains("primary-elected"), "{seen}");
    // A closing node ends the stream and takes its address away.
    edge.fake.tasks.close().await;
    assert!(!edge.dir.path().join("api.addr").exists());
}

/// Goal: the description and the routes are one. Method: every described route answers something other than
/// "no such route", and every route of the contract is described.
#[tokio::test]
async fn the_description_lists_every_route() {
    let described = serde_json::to_value(description(true)).unwrap();
    let paths: Vec<String> = described["paths"].as_object().unwrap().keys().cloned().collect();
    for path in [
        "/v1/node",
        "/v1/peers",
        "/v1/contact",
        "/v1/quorums",
        "/v1/quorums/{quorum}",
        "/v1/jobs",
        "/v1/jobs/{job}",
        "/v1/jobs/{job}/history",
        "/v1/jobs/{job}/wait",
        "/v1/jobs/ids",
        "/v1/jobs/plan",
        "/v1/jobs:batch",
        "/v1/jobs/{job}/why",
        "/v1/jobs/{job}/cancel",
        "/v1/jobs/{job}/pause",
        "/v1/jobs/{job}/resume",
        "/v1/jobs/{job}/retry",
        "/v1/jobs/{job}/resolve",
        "/v1/jobs/{job}/update",
        "/v1/jobs/{job}/fires",
        "/v1/jobs/{job}/next",
        "/v1/jobs/{job}/fire",
        "/v1/jobs/{job}/suspend",
        "/v1/jobs/{job}/unsuspend",
        "/v1/jobs/{job}/tasks",
        "/v1/jobs/{job}/outputs",
        "/v1/jobs/{job}/receipts",
        "/v1/jobs/{job}/logs",
        "/v1/objects",
        "/v1/objects/{object}",
        "/v1/objects/{object}/content",
        "/v1/events",
        "/metrics",
        "/v1/bench/noop",
        "/v1/bench/form",
        "/v1/bench/triggers",
        "/v1/quorums/{quorum}/members",
        "/v1/resources",
        "/v1/contact",
        "/v1/testing/faults",
        "/v1/tokens",
        "/v1/tokens/{token}",
    ] {
        assert!(paths.iter().any(|found| found == path), "{path} is not described");
    }
    assert_eq!(paths.len(), 41, "a new route belongs in this list: {paths:?}");
    let edge = Edge::start().await;
    let served: serde_json::Value = edge.client.get("/openapi.json").await.unwrap();
    assert!(served["paths"]["/v1/testing/faults"].is_object() && served["paths"]["/v1/bench/noop"].is_object());
    assert!(served["components"]["schemas"]["JobInfo"].is_object());
}

/// Goal: what measures and breaks a node is not there on a node that others rely on. Method: the routes of the two
/// descriptions are compared, and each that is missing is asked for, well formed.
#[tokio::test]
async fn only_a_testing_node_can_be_measured_and_broken() {
    let paths = |testing| {
        let described = serde_json::to_value(description(testing)).unwrap();
        described["paths"].as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>()
    };
    let missing: Vec<String> = paths(true).difference(&paths(false)).cloned().collect();
    let expected = ["/v1/bench/form", "/v1/bench/noop", "/v1/bench/triggers", "/v1/testing/faults"];
    assert_eq!(missing, expected);

    let edge = Edge::with(Fake { faults: None, ..Fake::new(false) }).await;
    let served: serde_json::Value = edge.client.get("/openapi.json").await.unwrap();
    let commit = serde_json::json!({ "quorum": QUORUM, "count": 1, "outstanding": 1 });
    for path in &missing {
        assert!(served["paths"][path].is_null(), "{path} is described");
        let response = edge.client.request(Method::POST, path).json(&commit).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        let body: ErrorBody = response.json().await.unwrap();
        assert!(body.message.contains("--testing") && body.hint.unwrap().contains("testnet up"), "{}", body.message);
    }
    assert_eq!(edge.fake.commits.load(Ordering::Relaxed), 0);
}

/// Goal: the bounds that the description names are those by which a request is refused.
#[test]
fn the_bounds_of_measurements_are_described_as_they_are() {
    use quorate_api::bench_limits::*;
    use quorate_protocols::quorum::limits::{VOTERS_MAX, VOTERS_MIN};
    let described = serde_json::to_value(description(true)).unwrap();
    let schemas = &described["components"]["schemas"];
    for (schema, field, least, most) in [
        ("BenchCommit", "count", 1, Some(BENCH_COMMITS_MAX)),
        ("BenchCommit", "outstanding", 1, Some(BENCH_OUTSTANDING_MAX)),
        ("BenchTriggers", "count", 1, Some(BENCH_TRIGGERS_MAX)),
        ("BenchTriggers", "fires", 1, Some(BENCH_FIRES_MAX)),
        ("BenchTriggers", "period_ms", BENCH_PERIOD_MS_MIN, None),
        ("BenchForm", "voters", VOTERS_MIN as u64, Some(VOTERS_MAX as u32)),
    ] {
        let field_schema = &schemas[schema]["properties"][field];
        assert_eq!(field_schema["minimum"].as_u64(), Some(least), "{schema}.{field}");
        assert_eq!(field_schema["maximum"].as_u64(), most.map(u64::from), "{schema}.{field}");
    }
}

#[tokio::test]
async fn a_token_that_others_can_read_is_refused_and_a_good_one_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let bind = || Server::bind(dir.path(), listening(DoorLimits::default()), &OsEntropy);
    drop(bind().await.unwrap());
    let path = dir.path().join("api.token");
    let token = std::fs::read_to_string(&path).unwrap();
    assert_eq!(token.trim().len(), 64);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(bind().await.unwrap());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), token);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = bind().await.err().expect("an exposed token is refused").to_string();
    assert!(error.contains("chmod 600"), "{error}");
}
