//! Whole nodes over real sockets on loopback, in one process.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use prometheus_client::registry::Registry;
use quorate_protocols::ids::{BootId, Incarnation, JobId, ObjectId, PeerId, QuorumId};
use quorate_protocols::job::spec::{JobSpec, StoreSpec};
use quorate_protocols::object::layout::Profile;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{Command, CommandReply, QuorumCommand};
use quorate_protocols::resources::{Limits, Scope};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::*;
use crate::config::NetworkSection;
use crate::identity::NetworkSecret;
use crate::network::{self, NetworkConfig};
use crate::objects::{PutOutcome, PutRequest};
use crate::seams::TaskGroup;
use crate::seams::clock::SystemClock;
use crate::seams::entropy::OsEntropy;

/// Far above what anything here takes, even on a busy machine: a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

async fn start(n: u8, folder: &Path, bootstrap: &[String]) -> Node {
    let identity = Identity::new([n; 32], Incarnation(1), BootId([n; 16]));
    let tasks = TaskGroup::threaded();
    let seams = Seams {
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(OsEntropy),
        disk: crate::storage::open(folder).unwrap(),
        tasks: tasks.clone(),
    };
    let section = NetworkSection {
        listen: "127.0.0.1:0".parse().unwrap(),
        bootstrap: bootstrap.iter().map(|address| address.parse().unwrap()).collect(),
        mdns: false,
        ..NetworkSection::default()
    };
    let config = NetworkConfig::new(&section, NetworkSecret::from_bytes([1; 32]), true);
    let admission: network::Admission = Arc::new(|_, _, _| Some(crate::seams::Reservation::none()));
    let mut registry = Registry::default();
    let (net, inbound) =
        tasks.scope(network::start(&seams, &identity, config, admission, &mut registry)).await.unwrap();
    let limits = Limits { members_memory_percent: 25, ..Limits::unlimited() };
    let (resources, settings) = (Resources::new(limits), NodeSettings::default());
    let work = NodeExecutors::default();
    Node::start(NodeParts { seams, identity, settings, resources, net, inbound, work }).await.unwrap()
}

/// Nodes that all know each other, by connection and by announcement.
async fn network_of(count: u8, folder: &Path) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for n in 1..=count {
        let bootstrap = nodes.first().map(|first| first.net().listen_addresses()).unwrap_or_default();
        let folder = folder.join(n.to_string());
        std::fs::create_dir(&folder).unwrap();
        nodes.push(start(n, &folder, &bootstrap).await);
    }
    wait_until("every node has heard of every other", || {
        nodes.iter().all(|node| node.directory().peers().len() == usize::from(count))
    })
    .await;
    nodes
}

async fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn put(node: &Node, bytes: &Bytes) -> PutOutcome {
    let body =
        futures::stream::iter(bytes.chunks(64 * 1024).map(|part| Ok(Bytes::copy_from_slice(part))).collect::<Vec<_>>());
    let request = PutRequest { size: Some(bytes.len() as u64), ..PutRequest::default() };
    let (progress, _) = watch::channel(Default::default());
    let (objects, body) = (node.objects().clone(), body.boxed());
    let putting = node.seams().tasks.scope(async move { objects.put(request, body, progress).await });
    timeout(PATIENCE, putting).await.expect("a put ends").unwrap()
}

async fn get(node: &Node, object: ObjectId) -> Vec<u8> {
    let objects = node.objects().clone();
    let reading = node.seams().tasks.scope(async move {
        let stream = objects.get(object, None).await.unwrap();
        stream
            .bytes
            .try_fold(Vec::new(), |mut all, part| async move {
                all.extend_from_slice(&part);
                Ok(all)
            })
            .await
            .unwrap()
    });
    timeout(PATIENCE, reading).await.expect("a get ends")
}

/// The node that leads the quorum.
async fn primary(nodes: &[Node], quorum: QuorumId) -> usize {
    let leads = |node: &Node| node.quorums().quorum(quorum).is_some_and(|quorum| quorum.leading().is_some());
    wait_until("somebody leads", || nodes.iter().any(leads)).await;
    nodes.iter().position(leads).expect("somebody was seen to lead")
}

/// Goal: a node keeps memory for messages of those who are in a quorum with it, from when they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_have_room_that_strangers_leave_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = network_of(5, folder.path()).await;
    let free = |node: &Node, peer| node.resources().free_in(Scope::Peer(Protocol::Raft.name(), peer)).memory_bytes;
    let stranger = PeerId([9; 32]);
    let quorum = put(&nodes[0], &Bytes::from_static(b"bytes")).await.object.quorum;
    let primary = primary(&nodes, quorum).await;
    let voters = nodes[primary].quorums().quorum(quorum).expect("it leads").voters();
    for node in nodes.iter().filter(|node| voters.contains(&node.identity().peer())) {
        wait_until("members are known", || voters.iter().all(|voter| free(node, *voter) > free(node, stranger))).await;
    }
}

/// Goal: the main promise in small. A file put on one node is read from another, also after the quorum's primary has
/// crashed; the quorum goes on under another primary and takes commands from a node that is no member of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_outlives_the_crash_of_its_quorums_primary() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network_of(5, folder.path()).await;
    let bytes: Bytes = (0..1_500_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    let outcome = put(&nodes[0], &bytes).await;
    assert!(!outcome.degraded);
    assert_eq!(get(&nodes[1], outcome.object).await, bytes, "read from a node that did not take it in");

    let quorum = outcome.object.quorum;
    let primary_at = primary(&nodes, quorum).await;
    let crashed = nodes.remove(primary_at);
    crashed.seams().tasks.crash();
    let outsider = nodes.iter().find(|node| node.quorums().quorum(quorum).is_none()).expect("5 nodes, 3 members");
    let (job, profile) = (JobId { quorum, local: [7; 16] }, Profile { data: 1, parity: 2 });
    let spec = JobSpec::store(StoreSpec { name: None, size: Some(1), profile });
    let submit = Command::submit(outsider.identity().signing_key(), job, spec);
    let committed = outsider.jobs().propose(quorum, submit, PATIENCE).await.unwrap();
    let (reply, speaker) = committed;
    assert!(matches!(reply, CommandReply::Submitted { .. }));
    assert_eq!(speaker.voters.len(), 3, "{speaker:?}");
    assert!(speaker.voters.contains(&speaker.peer), "{speaker:?}");
    assert_ne!(speaker.peer, outsider.identity().peer());
    let noop = outsider.jobs().propose(quorum, Command::Quorum(QuorumCommand::Noop), PATIENCE).await;
    assert!(noop.is_err(), "a stranger has a primary commit nothing at all");
    for node in &nodes {
        assert_eq!(get(node, outcome.object).await, bytes);
    }
    let asked = outsider.jobs().query(quorum, Query::Job { job: outcome.job }, false, PATIENCE).await.unwrap();
    assert!(matches!(asked, QueryAnswer::Job(record) if record.state.is_final()));
    close(nodes).await;
}

async fn close(nodes: Vec<Node>) {
    let closing = nodes.iter().map(Node::close);
    timeout(PATIENCE, futures::future::join_all(closing)).await.expect("every actor ends when asked to");
}
