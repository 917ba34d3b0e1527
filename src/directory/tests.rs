//! Directories of several nodes over gossip in memory, on a paused clock.

use std::time::Duration;

use quorate_protocols::admission::Trust;
use quorate_protocols::approval::{ApprovalMessage, Writer};
use quorate_protocols::capacity::{Capacity, Requirement};
use quorate_protocols::ids::{JobId, Term};
use quorate_protocols::resources::{Amounts, Limits, Scope, Service};
use quorate_protocols::wire;
use quorate_testkit::{MemoryDisk, Network, seams};

use super::*;
use crate::seams::Topic;
use crate::testing::metrics::value;
use crate::testing::standings::Believed;
use crate::testing::{Penalties, identity};

/// Votes in no quorum.
const STRANGER: u8 = 9;

struct TestNode {
    directory: Directory,
    resources: Resources,
    net: Arc<dyn Net>,
    peer: PeerId,
}

fn node(network: &Network, n: u8, disk_bytes: u64) -> TestNode {
    let disk = MemoryDisk::default();
    disk.set_space(disk_bytes, 0);
    let seams = seams(u64::from(n), disk.disk());
    let identity = identity(n);
    let (net, inbound) = network.attach(n.into(), identity.peer(), seams.clock.clone());
    let net: Arc<dyn Net> = Arc::new(net);
    let mut limits = Limits::unlimited();
    limits.system.disk_bytes = disk_bytes;
    let resources = Resources::new(limits);
    let directory = Directory::start(DirectoryParts {
        standings: Believed::all_but([crate::testing::identity(STRANGER).peer()]),
        seams: seams.clone(),
        identity: identity.clone(),
        net: net.clone(),
        resources: resources.clone(),
        gossip: inbound.gossip,
        roles: vec![NodeRole::Store],
        name: String::new(),
        labels: BTreeMap::new(),
        trust: Trust::default(),
        admission: None,
    });
    // What an approver does with an offer.
    let (mut approval, offered) = (inbound.approval, directory.clone());
    seams.tasks.spawn(async move {
        while let Some(request) = approval.recv().await {
            if let Ok(ApprovalMessage::Offer { subject }) = wire::decode(&request.frame.head, 4096) {
                offered.offered(request.from, subject);
            }
        }
    });
    TestNode { directory, resources, net, peer: identity.peer() }
}

async fn settle(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn seven_fresh_nodes_know_each_other_within_two_seconds_of_connecting() {
    let network = Network::new(1);
    let mut nodes = Vec::new();
    for n in 1..=7 {
        nodes.push(node(&network, n, 1000));
        // The first announcement of each reaches only those that came before.
        settle(10).await;
    }
    for node in &nodes {
        node.directory.connected(nodes[0].peer);
    }
    settle(2_000).await;
    for node in &nodes {
        assert_eq!(node.directory.peers().len(), 7);
        assert_eq!(node.directory.candidates(NodeRole::Store, &Requirement::default()).len(), 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_fills_up_says_so_and_is_not_chosen() {
    let network = Network::new(1);
    let (one, other) = (node(&network, 1, 1000), node(&network, 2, 1000));
    settle(1_000).await;
    let need = Requirement::from(Capacity::disk(500));
    assert_eq!(one.directory.candidates(NodeRole::Store, &need).len(), 2);
    let held = other.resources.reserve(Scope::Service(Service::Pieces), Amounts::disk(800)).unwrap();
    settle(4_500).await;
    assert_eq!(one.directory.candidates(NodeRole::Store, &need), [one.peer]);
    drop(held);
    settle(4_500).await;
    assert_eq!(one.directory.candidates(NodeRole::Store, &need).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_search_finds_those_that_could_serve_each_once() {
    let network = Network::new(1);
    let nodes: Vec<_> = (1..=5).map(|n| node(&network, n, if n == 3 { 10 } else { 1000 })).collect();
    nodes[4].directory.set_draining(true);
    settle(100).await;
    let subject = Subject::Holder { job: JobId::default(), writer: Writer::Quorum };
    let need = Requirement::from(Capacity::disk(500));
    let mut volunteers = nodes[0].directory.ask_for_volunteers(subject, NodeRole::Store, need);
    settle(5_000).await;
    let mut found = Vec::new();
    while let Ok(peer) = volunteers.try_recv() {
        found.push(peer);
    }
    found.sort();
    let mut expected = [nodes[1].peer, nodes[3].peer];
    expected.sort();
    assert_eq!(found, expected, "the full, the draining and the searcher itself do not offer");
}

#[tokio::test(start_paused = true)]
async fn a_led_quorum_becomes_known_and_its_members_are_found() {
    let network = Network::new(1);
    let (leader, other) = (node(&network, 1, 1000), node(&network, 2, 1000));
    let mut registry = Registry::default();
    other.directory.register_metrics(&mut registry);
    let known = |of: &str| value(&registry, &format!("quorate_directory_adverts_known{{of=\"{of}\"}}"));
    assert_eq!(known("quorums"), 0.0);
    let quorum = QuorumId([3; 16]);
    let members = vec![identity(1).member()];
    let advert = QuorumAdvert { quorum, term: Term(1), members, standbys: 0, jobs: 0, objects: 0, room: 9 };
    leader.directory.update_quorum(advert.clone());
    settle(50).await;
    assert_eq!(other.directory.quorum(quorum), Some(advert));
    assert_eq!(other.directory.pick_quorum(|_| true), Some(quorum));
    assert_eq!((known("peers"), known("quorums")), (2.0, 1.0));
    assert!(value(&registry, "quorate_directory_adverts_received_total") >= 2.0, "a peer's and a quorum's");
    // A later joiner hears of it when it connects.
    let late = node(&network, 3, 1000);
    leader.directory.connected(late.peer);
    settle(2_000).await;
    assert_eq!(late.directory.quorums().len(), 1);
}

/// Goal: whoever cannot show that it is a voter announces no quorum, and takes over none that is known.
#[tokio::test(start_paused = true)]
async fn announcements_of_a_quorum_are_those_of_its_voters() {
    let network = Network::new(1);
    let (leader, other, stranger) = (node(&network, 1, 1000), node(&network, 2, 1000), node(&network, STRANGER, 1000));
    let advert = |quorum: u8, term: u64, n: u8| QuorumAdvert {
        quorum: QuorumId([quorum; 16]),
        term: Term(term),
        members: vec![identity(n).member()],
        standbys: 0,
        jobs: 0,
        objects: 0,
        room: 9,
    };
    leader.directory.update_quorum(advert(3, 1, 1));
    settle(50).await;
    stranger.directory.update_quorum(advert(3, u64::MAX, STRANGER));
    stranger.directory.update_quorum(advert(4, u64::MAX, STRANGER));
    settle(1_000).await;
    assert_eq!(other.directory.quorums(), [advert(3, 1, 1)]);
    assert!(other.directory.metrics().adverts_refused.get() >= 2);
}

#[tokio::test(start_paused = true)]
async fn garbage_is_counted_and_penalised() {
    let penalties = Arc::new(Penalties::default());
    let network = Network::new(1).observed_by(penalties.clone());
    let (one, other) = (node(&network, 1, 1000), node(&network, 2, 1000));
    other.net.publish(Topic::Peers, [vec![1], vec![255; 100]].concat().into());
    other.net.publish(Topic::Quorums, vec![1].into());
    settle(100).await;
    assert_eq!(one.directory.metrics().adverts_refused.get(), 2);
    assert_eq!(*penalties.0.lock(), [other.peer, other.peer]);
}

/// Goal: in a rolling upgrade the nodes that are still old do not shut out those that are new. Method: announcements
/// whose version is the next one, whatever follows.
#[tokio::test(start_paused = true)]
async fn an_announcement_of_another_version_is_passed_over() {
    let penalties = Arc::new(Penalties::default());
    let network = Network::new(1).observed_by(penalties.clone());
    let (one, other) = (node(&network, 1, 1000), node(&network, 2, 1000));
    for topic in Topic::ALL {
        for version in [2, 3, 255] {
            other.net.publish(topic, vec![version; 100].into());
        }
    }
    settle(100).await;
    assert_eq!((one.directory.metrics().adverts_unknown.get(), one.directory.metrics().adverts_refused.get()), (9, 0));
    assert_eq!(*penalties.0.lock(), []);
}
